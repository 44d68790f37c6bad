"""What an endpoint may answer: a scripted HTTP server says it, and the client makes an answer, a counted failure or a stop of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest

pytest.importorskip("openai")

from ccpo.evaluate import EvaluationError  # noqa: E402
from ccpo.evaluate.client import LONGEST_ANSWER, Client, Endpoint, Refused, RequestFailed, check_url  # noqa: E402

ASK = [{"role": "user", "content": "2+2?"}]
SAMPLING = {"max_tokens": 8, "temperature": 0.5, "top_p": None, "top_k": None, "stop": None}


def completion(content="4", finish="stop", **more):
    message = {"role": "assistant", "content": content, **more}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "said-so",
        "choices": choices,
        "usage": usage,
    }


def problem(text: str, code: str | None = None):
    return {"error": {"message": text, "type": "error", "param": None, "code": code}}


def ask(endpoint: Endpoint, sampling=SAMPLING, seed=1, retries=2, timeout=5.0, probe=False):
    async def run():
        client = Client(endpoint, asyncio.Semaphore(4), retries, timeout)
        try:
            return await (client.probe(sampling, seed) if probe else client.ask(ASK, sampling, seed))
        finally:
            await client.close()

    return asyncio.run(run())


@pytest.fixture
def server(scripted_endpoint):
    scripted_endpoint.script.append((200, completion()))
    return scripted_endpoint


def endpoint_of(server) -> Endpoint:
    return Endpoint(server.url, "m", server.key)


def test_an_answer_with_its_tokens(server):
    said = ask(endpoint_of(server))
    assert (said.text, said.truncated) == ("4", False)
    assert (said.payload.prompt_tokens, said.payload.completion_tokens, said.payload.finish) == (5, 2, "stop")
    body, bearer = server.seen[0]
    assert body == {"model": "m", "messages": ASK, "max_tokens": 8, "temperature": 0.5, "seed": 1}
    assert bearer == f"Bearer {server.key}"


def test_only_what_is_set_is_sent_and_vllms_fields_only_to_our_own_servers(server):
    endpoint = Endpoint(server.url, "m", server.key, body={"extra": 1})
    ask(endpoint, {**SAMPLING, "stop": ["}"], "top_p": 0.9, "top_k": 5}, seed=None)
    assert server.seen[0][0] == {
        "model": "m", "messages": ASK, "max_tokens": 8, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "stop": ["}"], "extra": 1,
    }  # fmt: skip
    ask(Endpoint(server.url, "m", server.key, local=True), {**SAMPLING, "stop": ["}"]})
    assert server.seen[1][0]["include_stop_str_in_output"] is True


@pytest.mark.parametrize(
    "status, answer", [(500, "{}"), (503, problem("busy")), (429, problem("slow down")), (200, "<html>")]
)
def test_what_may_pass_is_tried_again(server, status, answer):
    server.script[:] = [(status, answer), (200, completion("at last"))]
    assert ask(endpoint_of(server)).text == "at last" and len(server.seen) == 2


@pytest.mark.parametrize(
    "status, answer, kind",
    [
        (500, problem("oh no"), "server error (500)"),
        (429, problem("slow down"), "too many requests (429)"),
        (400, problem("too long", "context_length_exceeded"), "context too long"),
        (400, problem("This model's maximum context length is 5 tokens"), "context too long"),
        (400, problem("max_tokens=1024 cannot be greater than max_model_len=256"), "context too long"),  # vLLM
        (400, problem("what is that field"), "bad request (400)"),
        (422, problem("extra fields"), "refused (422)"),
        (403, problem("this prompt looks like an attack"), "refused (403)"),  # others may pass
        (200, "not json", "unreadable answer"),
        (200, {"choices": []}, "unreadable answer"),
        (200, [1, 2], "unreadable answer"),
        (200, "null", "unreadable answer"),
        (200, completion(content=[1]), "unreadable answer"),
        (200, {"choices": [{"message": None}]}, "unreadable answer"),
        (200, "[" * 100_000, "unreadable answer"),
    ],
)
def test_a_failure_has_a_kind(server, status, answer, kind):
    server.script[:] = [(status, answer)]
    with pytest.raises(RequestFailed) as failed:
        ask(endpoint_of(server), retries=1)
    assert failed.value.kind == kind and not isinstance(failed.value, Refused)


@pytest.mark.parametrize("status", [401, 404])
def test_what_no_retry_mends_is_asked_once_and_never_shows_the_key(server, status):
    server.script[:] = [(status, problem(f"Incorrect API key provided: {server.key}. \n Bearer {server.key}"))]
    with pytest.raises(Refused) as refused:
        ask(endpoint_of(server))
    assert str(status) in str(refused.value) and "***" in str(refused.value) and server.key not in str(refused.value)
    assert refused.value.__cause__ is None and len(server.seen) == 1
    with pytest.raises(EvaluationError, match=str(status)) as error:
        ask(endpoint_of(server), probe=True)
    assert server.key not in str(error.value) and server.url in str(error.value)


def test_nobody_there_and_too_slow(server):
    with pytest.raises(EvaluationError, match="cannot be reached"):
        ask(Endpoint("http://127.0.0.1:9/v1", "m"), probe=True)
    server.script[:] = [(200, lambda body: time.sleep(1) or completion())]
    with pytest.raises(RequestFailed, match="no answer in time"):
        ask(endpoint_of(server), retries=0, timeout=0.1)


def test_an_answer_that_comes_in_drops_is_given_up(server, monkeypatch):
    monkeypatch.setattr("ccpo.evaluate.client.LONGEST_WAIT_S", 0.1)
    drops = socket.create_server(("127.0.0.1", 0))

    def drip():
        with drops.accept()[0] as client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
            with contextlib.suppress(OSError):
                for _ in range(200):
                    client.sendall(b" ")
                    time.sleep(0.05)

    threading.Thread(target=drip, daemon=True).start()
    with drops, pytest.raises(RequestFailed, match="no answer in time"):
        ask(Endpoint(f"http://127.0.0.1:{drops.getsockname()[1]}/v1", "m"), retries=0, timeout=0.4)


def test_models_that_know_the_limit_under_another_name(server):
    unknown = problem("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    server.script[:] = [(400, unknown), (200, completion())]
    assert ask(endpoint_of(server)).text == "4"
    assert "max_completion_tokens" in server.seen[1][0] and "max_tokens" not in server.seen[1][0]


@pytest.mark.parametrize(
    "answer, text, truncated",
    [
        (completion(None), "", False),
        (completion(None, reasoning_content="I think"), "", False),
        (completion("so far", "length"), "so far", True),
        (completion("x" * (LONGEST_ANSWER + 1)), "x" * LONGEST_ANSWER, True),
        (completion("a\ud800b\0c"), "a?b\0c", False),
        (completion("\\boxed{4}", None), "\\boxed{4}", False),
    ],
    ids=["None", "only reasoning", "cut", "huge", "half characters", "no reason"],
)
def test_odd_answers_are_answers(server, answer, text, truncated):
    server.script[:] = [(200, answer)]
    said = ask(endpoint_of(server))
    assert (said.text, said.truncated) == (text, truncated)
    said.text.encode()


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1, "completion_tokens": "many"}])
def test_tokens_that_are_not_counted_are_not_known(server, usage):
    server.script[:] = [(200, {**completion(), "usage": usage})]
    said = ask(endpoint_of(server))
    assert said.payload.completion_tokens is None and said.text == "4"
    assert not ask(endpoint_of(server), probe=True).usage


def test_an_endpoint_that_says_the_key_or_commands_a_terminal(server):
    server.script[:] = [(200, completion(f"it is {server.key}"))]
    assert ask(endpoint_of(server)).text == "it is ***"
    server.script[:] = [(200, completion("4", f"Bearer {server.key} \x1b[2J"))]
    assert ask(endpoint_of(server)).payload.finish == "Bearer *** [2J"
    server.script[:] = [(400, problem("\x1b[2J\x1b]0;owned\x07 \ud800 \u202e no\n\n"))]
    with pytest.raises(RequestFailed) as failed:
        ask(endpoint_of(server))
    assert str(failed.value).isprintable() and "no" in str(failed.value)


@pytest.mark.parametrize("key", ["x", "EMPTY", "none"])
def test_a_key_that_is_no_secret_changes_no_answer(server, key):
    """Servers that ask for no key are given such a word, since the field must hold something."""
    server.script[:] = [(200, completion(f"\\boxed{{{key}+1}}", "length"))]
    said = ask(Endpoint(server.url, "m", key))
    assert said.text == f"\\boxed{{{key}+1}}" and said.truncated


def test_a_problem_under_status_200_is_told(server):
    server.script[:] = [(200, problem(f"upstream is overloaded {server.key}"))]
    with pytest.raises(RequestFailed, match="upstream is overloaded [*]{3}") as failed:
        ask(endpoint_of(server), retries=0)
    assert failed.value.kind == "unreadable answer"


def test_what_an_endpoint_says_of_itself(server):
    assert ask(endpoint_of(server), probe=True).model == "said-so"


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hush@host/v1",
        "https://hush@host/v1",
        "https://host/v1?key=hush",
        "https://host/v1#hush",
        "hush",
        "ftp://host/hush",
        "http://[hush",
    ],
)
def test_an_address_with_a_secret_in_it_is_refused_without_showing_it(url):
    with pytest.raises(EvaluationError) as error:
        check_url(url)
    assert "hush" not in str(error.value)


def test_the_key_comes_from_the_environment_and_is_in_no_text(monkeypatch):
    key = "sk-very-secret"
    monkeypatch.setenv("OTHER_KEY", key)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    endpoint = Endpoint.of("http://host/v1/", "m", "OTHER_KEY")
    assert endpoint.key == key and key not in repr(endpoint) and endpoint.url == "http://host/v1"
    assert Endpoint.of("http://host/v1", "m").key == ""
    with pytest.raises(EvaluationError, match="MISSING_KEY"):
        Endpoint.of("http://host/v1", "m", "MISSING_KEY")
    for bad in ("two\nlines", "k\u00e9y"):  # else it would stand in the error of whoever sends it
        monkeypatch.setenv("OTHER_KEY", bad)
        with pytest.raises(EvaluationError, match="OTHER_KEY") as error:
            Endpoint.of("http://host/v1", "m", "OTHER_KEY")
        assert bad not in str(error.value)
    monkeypatch.setenv("OTHER_KEY", f" {key}\n")
    assert Endpoint.of("http://host/v1", "m", "OTHER_KEY").key == key
