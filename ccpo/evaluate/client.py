"""One OpenAI-compatible endpoint: what is sent, how often it is tried, and what came back.

The `openai` package sends, waits and retries (connection lost, 408, 409, 429, 5xx; it waits as long as the server asks). Here stands what
it leaves open: answers that are none, refusals that no retry mends, and that no key is ever shown.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ccpo.evaluate import EvaluationError
from ccpo.prompts import Messages
from ccpo.team.session import Decoded

KEY = "OPENAI_API_KEY"
LONGEST_ANSWER = 1_000_000  # characters; more is a server out of control, and would be sent to the next role
LONGEST_REASON = 300
SHORTEST_SECRET = 12  # characters; a shorter key is a word such as EMPTY or x, which servers that ask for none are given, and models say
LONGEST_WAIT_S = 120.0  # between two tries: the package waits no longer, whatever a server asks
PROBE = [{"role": "user", "content": "Say yes."}]
PROBE_RETRIES = 2  # whether somebody is there is soon known


@dataclass(frozen=True)
class Endpoint:
    """Where a model is. ``key`` and ``local`` are no part of what is written down.

    url: up to and with /v1. model: its name there. local: a server of ours, which takes vLLM's fields, too, and is reached past any proxy.
    body: more fields of every request.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    local: bool = False
    body: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, url: str, model: str, key_env: str | None = None, body: Mapping[str, Any] | None = None) -> Endpoint:
        """As the user names it. Raises EvaluationError for a URL that holds a secret or is none, or a key that is not there."""
        check_url(url)
        key = os.environ.get(key_env or KEY, "").strip()
        if key_env and not key:
            raise EvaluationError(f"--key-env {key_env}: there is no such environment variable, or it is empty; set it")
        if not (key.isascii() and key.isprintable()):
            raise EvaluationError(f"the key in {key_env or KEY} has a character that no key has: copy it again")
        return cls(url.rstrip("/"), model, key, body=body or {})


def check_url(url: str) -> None:
    """Raise EvaluationError unless it is a plain http address: it is written into results and messages, so it must not hold a key."""
    try:
        parts = urlsplit(url)
        plain = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
    except ValueError:
        raise EvaluationError("--endpoint is no address: set it to something like https://host/v1") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EvaluationError("--endpoint is no address: set it to something like https://host/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EvaluationError(
            f"--endpoint {plain} comes with a user, a password or a query, and the address is written into the results: leave these out and "
            f"put the key into the environment variable {KEY}, or into one that --key-env names"
        )


OVERFLOW = "context too long"
HINTS = {
    OVERFLOW: ". Set --max-tokens or --single-max-tokens lower (one agent alone may write what the whole team may)",
    "bad request (400)": ". --body, --temperature, --top-p and --no-request-seeds decide what is sent",
}


@dataclass(frozen=True)
class Usage:
    """What a request cost and how it ended. Token counts as the server says them; None: it does not. ``finish``: its word for why the
    answer ended."""

    prompt_tokens: int | None
    completion_tokens: int | None
    finish: str | None = None


class RequestFailed(RuntimeError):
    """A request without an answer. ``kind``: which of a few, for counting."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Refused(RequestFailed):
    """No other request will be answered either: wrong key, no such model, nobody there."""


@dataclass(frozen=True)
class Probed:
    """What an endpoint said of itself. ``model``: the name it reports. ``usage``: whether it counts tokens."""

    model: str | None
    usage: bool


class Client:
    """Asks one endpoint.

    Args:
        endpoint: where. gate: how many requests may be on their way, over all clients. retries: after the first try.
        timeout: seconds of one try.
    """

    def __init__(self, endpoint: Endpoint, gate: asyncio.Semaphore, retries: int = 5, timeout: float = 600.0) -> None:
        import openai

        self.endpoint, self.retries = endpoint, retries
        self._timeout = timeout
        self._gate = gate
        self._limit_field = "max_tokens"
        self._openai = openai.AsyncOpenAI(
            api_key=endpoint.key or "none",
            base_url=endpoint.url,
            timeout=timeout,
            max_retries=retries,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if endpoint.local else None,
        )

    async def close(self) -> None:
        await self._openai.close()

    async def probe(self, sampling: Mapping[str, Any], seed: int | None) -> Probed:
        """One short question, sampled as later ones will be. Raises EvaluationError where the endpoint cannot be used so."""
        try:
            async with self._gate:
                answer = await self._asked(PROBE, sampling, seed, PROBE_RETRIES)
        except RequestFailed as error:
            raise EvaluationError(f"{self.name}: {error}{HINTS.get(error.kind, '')}") from None
        counts = _usage(answer)
        known = None not in (counts.prompt_tokens, counts.completion_tokens)
        return Probed(self._clean(str(answer.model)) if answer.model else None, known)

    async def ask(self, messages: Messages, sampling: Mapping[str, Any], seed: int | None) -> Decoded:
        """One answer.

        Args:
            sampling: max_tokens, temperature and top_p, and top_k and stop where they are set.
            seed: of this request; None: the endpoint gets none.

        Returns:
            Its text, "" where it said nothing, with `Usage` as the payload.

        Raises:
            RequestFailed: after the retries. Refused: no other request will do better.
        """
        async with self._gate:
            answer = await self._asked(messages, sampling, seed, self.retries)
        choice = answer.choices[0]
        text = choice.message.content or ""  # None: it only reasoned, or said nothing
        text = text.encode("utf-8", "replace").decode()  # half a character can neither be judged nor sent on
        if len(self.endpoint.key) >= SHORTEST_SECRET:
            text = self._without_key(text)
        finish = str(choice.finish_reason) if choice.finish_reason else None
        cut = len(text) > LONGEST_ANSWER
        usage = _usage(answer, finish and self._clean(finish))
        return Decoded(text[:LONGEST_ANSWER], cut or finish == "length", usage)

    async def _asked(self, messages: Messages, sampling: Mapping[str, Any], seed: int | None, retries: int) -> Any:
        """A chat completion that has an answer in it."""
        fields: dict[str, Any] = {self._limit_field: sampling["max_tokens"]}
        fields |= {name: sampling[name] for name in ("temperature", "top_p", "stop") if sampling.get(name) is not None}
        extra = dict(self.endpoint.body)
        if sampling.get("top_k") is not None:
            extra["top_k"] = sampling["top_k"]
        if self.endpoint.local and sampling.get("stop"):
            extra["include_stop_str_in_output"] = True  # as in training: a stop such as } closes what is read
        if seed is not None:
            fields["seed"] = seed
        for tried in range(retries + 1):
            answer = await self._sent(messages, fields, extra, retries)
            if _is_answer(answer):
                return answer
            await asyncio.sleep(min(8.0, 0.5 * 2**tried) if tried < retries else 0)
        problem = getattr(answer, "error", None)  # some say what is wrong under status 200
        said = self._clean(str(problem)) if problem else "is the address that of an OpenAI-compatible API?"
        raise RequestFailed("unreadable answer", f"what came back is no chat completion: {said}")

    async def _sent(self, messages: Messages, fields: dict[str, Any], extra: dict[str, Any], retries: int) -> Any:
        """What came back, None where that is not JSON."""
        import openai

        try:
            sender = self._openai if retries == self.retries else self._openai.with_options(max_retries=retries)
            asked = sender.chat.completions.create(
                model=self.endpoint.model, messages=messages, extra_body=extra or None, **fields
            )
            # The package's own limit is for silence: an answer that comes in drops would never be over.
            return await asyncio.wait_for(asked, (retries + 1) * (self._timeout + LONGEST_WAIT_S))
        except openai.BadRequestError as error:
            # Models that reason know the limit under the other name alone.
            if "max_completion_tokens" in str(error) and "max_tokens" in fields:
                self._limit_field = "max_completion_tokens"
                fields[self._limit_field] = fields.pop("max_tokens")
                return await self._sent(messages, fields, extra, retries)
            kind = OVERFLOW if _is_overflow(f"{error} {error.code}") else "bad request (400)"
            raise RequestFailed(kind, self._clean(_message(error))) from None
        except openai.AuthenticationError as error:
            what = "the key is not accepted (401)" if self.endpoint.key else "the key is missing or wrong (401)"
            raise Refused(what, self._clean(_message(error))) from None
        except openai.NotFoundError as error:
            text = self._clean(_message(error))
            raise Refused(
                "there is no such model or address (404)", f"{text}; the model is {self.endpoint.model!r}"
            ) from None
        except (openai.APITimeoutError, asyncio.TimeoutError):
            raise RequestFailed("no answer in time", "raise --timeout, or lower --concurrency") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise RequestFailed("cannot be reached", self._clean(f"{cause}")) from None
        except openai.RateLimitError as error:
            raise RequestFailed("too many requests (429)", self._clean(_message(error))) from None
        except openai.APIStatusError as error:
            kind = (
                f"server error ({error.status_code})" if error.status_code >= 500 else f"refused ({error.status_code})"
            )
            raise RequestFailed(kind, self._clean(_message(error))) from None
        except (
            openai.OpenAIError,
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ):  # the package read no answer
            return None

    @property
    def name(self) -> str:
        """For messages."""
        model = f"model {self.endpoint.model}"
        return model if self.endpoint.local else f"endpoint {self.endpoint.url}, {model}"

    def _clean(self, text: str) -> str:
        """A server's words for a message."""
        return one_line(self._without_key(text))

    def _without_key(self, text: str) -> str:
        """What a server says is written down, and it may say what it was sent."""
        return text.replace(self.endpoint.key, "***") if self.endpoint.key else text


def one_line(text: str) -> str:
    """Somebody else's words for a message: short, and nothing that a terminal obeys."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:LONGEST_REASON]


def _is_answer(answer: Any) -> bool:
    choices = getattr(answer, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    content = getattr(message, "content", None)
    return message is not None and (content is None or isinstance(content, str))


def _usage(answer: Any, finish: str | None = None) -> Usage:
    usage = getattr(answer, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    return Usage(*(count if type(count) is int and count >= 0 else None for count in counts), finish)


def _is_overflow(text: str) -> bool:
    text = text.lower()
    return (
        "context_length_exceeded" in text
        or "max_model_len" in text
        or ("context" in text and ("length" in text or "token" in text))
    )


def _message(error: Any) -> str:
    """What the server said, without the rest of its answer."""
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, Mapping) else None
    return said if isinstance(said, str) and said else str(error)
