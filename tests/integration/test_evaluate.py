"""scripts/evaluate.py against a real HTTP server: the embedded model behind ccpo.verl_cpu.serve."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from processes import words_of

pytest.importorskip("openai")
pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "data_preprocess" / "last_digit_model"
sys.path.insert(0, str(ROOT / "scripts"))

import evaluate  # noqa: E402

from ccpo.evaluate import guard  # noqa: E402
from ccpo.evaluate.servers import CPU, Serving, command_of, environment_of, served  # noqa: E402
from ccpo.evaluate.store import RESULT, SESSIONS  # noqa: E402
from data_preprocess import pass_rate  # noqa: E402
from data_preprocess.schema import make_row, write_dataset  # noqa: E402
from data_preprocess.toy import dataset_rows  # noqa: E402

QUESTIONS, K = 8, 3


@pytest.fixture(scope="module")
def model():
    """An endpoint with the embedded model."""
    with served([str(MODEL)], Serving(CPU), {}) as endpoints:
        yield endpoints[str(MODEL)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "toy"
    write_dataset(folder, {"test": dataset_rows("test", QUESTIONS, 0)}, name="toy", command=["made", "here"])
    return folder


@pytest.fixture(scope="module")
def words(model, data):
    """words(out, *more) -> a command line that evaluates the dyad at the endpoint."""

    def build(out: Path, *more: object, team: str = "dyad") -> list[str]:
        fixed = ["--endpoint", model.url, "--model", model.model, "--data", data, "--team", team, "--prompts", "toy"]
        return [*map(str, fixed), "--k", str(K), "--max-tokens", "16", "--out", str(out), *map(str, more)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", model.key)
        yield build


@pytest.fixture(scope="module")
def plain(words, tmp_path_factory):
    """(folder, result) of an evaluation that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("plain") / "out"
    evaluate.main(words(folder))
    return folder, result_of(folder)


def result_of(folder: Path) -> dict:
    return json.loads((folder / RESULT).read_text())


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / SESSIONS).read_text().splitlines()]


def failed(words: list[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        evaluate.main(words)
    return str(ended.value.code)


def test_a_team_at_an_endpoint(words, tmp_path, capsys, model):
    folder = tmp_path / "out"
    evaluate.main(words(folder))
    result = result_of(folder)
    questions = result["questions"]
    assert len(questions) == QUESTIONS and all(len(entry["values"]) == K for entry in questions)
    sessions = [line for line in lines_of(folder) if line["kind"] == "session"]
    assert len(sessions) == QUESTIONS * K and {turn["role"] for turn in sessions[0]["turns"]} == {"think", "reason"}
    mean = sum(session["value"] for session in sessions) / len(sessions)
    assert result["measures"]["team"]["avg"]["value"] == pytest.approx(mean) and 0 < mean < 1
    roles = result["measures"]["roles"]
    assert set(roles["think"]) == {"remove", "replace", "shuffle"} and set(roles["reason"]) == {"remove"}
    assert roles["reason"]["remove"]["contribution"]["value"] == pytest.approx(mean)
    m = result["measures"]["controls"]["self_consistency"]["samples"]
    assert result["ledger"]["controls"]["single"]["turns"] == QUESTIONS * int(K * m) and m > 1
    counted = sum(turn["completion_tokens"] for session in sessions for turn in session["turns"])
    assert sum(role["completion_tokens"] for role in result["ledger"]["sessions"].values()) == counted
    assert result["bad"]["session"]["dropped"] == {} and result["reported"] == {
        f"endpoint {model.url}, model {model.model}": model.model
    }
    shuffles = [line for line in lines_of(folder) if line["kind"] == "shuffle"]
    assert len(shuffles) == QUESTIONS * K
    assert all(line["donors"]["think"][:2] != [line["source"], line["index"]] for line in shuffles)
    out = capsys.readouterr()
    assert (
        "think from another question" in out.out
        and "team, pass@3" in out.out
        and "without it there is no answer" in out.out
    )
    for text in (out.out, out.err, (folder / SESSIONS).read_text(), (folder / RESULT).read_text()):
        assert model.key not in text


def test_replays_reuse_what_did_not_hear_the_role(plain):
    """The shuffled replay says the donor's thought, and Reason hears it; nothing of the session is decoded again."""
    lines = lines_of(plain[0])
    thought = {
        (line["source"], line["index"], line["session"]): line["turns"][0]
        for line in lines
        if line["kind"] == "session"
    }
    for line in (line for line in lines if line["kind"] == "shuffle"):
        [replay] = line["replays"]
        [decoded] = replay["turns"]
        assert decoded["role"] == "reason" and decoded["prompt_tokens"] > 0
        assert tuple(line["donors"]["think"]) in thought


def test_killed_and_resumed_is_the_same_result(words, plain, tmp_path, model):
    out = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), *words(out, "--concurrency", 1)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until and not ((out / SESSIONS).exists() and len((out / SESSIONS).read_bytes()) > 4000):
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = (out / SESSIONS).read_bytes()
    assert not (out / RESULT).exists() and len(before.splitlines()) < QUESTIONS * K
    (out / SESSIONS).write_bytes(before[:-7])  # as if the last line were half on the disk
    evaluate.main(words(out))
    assert (out / SESSIONS).read_bytes().startswith(before[: before[:-7].rfind(b"\n") + 1])
    assert (out / RESULT).read_text() == (plain[0] / RESULT).read_text()
    size = (out / SESSIONS).stat().st_size
    evaluate.main(words(out))  # complete: nothing is asked again
    assert (out / SESSIONS).stat().st_size == size


def test_an_evaluation_of_training_rows_chooses_those_that_are_trained_on(words, tmp_path, capsys, cpu_config):
    """As docs/teach.md has it: evaluate, choose, train."""
    dataset = pytest.importorskip("ccpo.verl_plugin.dataset")
    rows = {"train": dataset_rows("train", QUESTIONS, 0), "test": dataset_rows("test", 2, 0)}
    write_dataset(tmp_path / "data", rows, name="toy", command=["made", "here"])
    train = tmp_path / "data" / "train.parquet"
    evaluate.main(words(tmp_path / "taught", "--data", train, "--replays", "--controls", "none"))
    pass_rate.main(
        [f"--data={tmp_path / 'data'}", f"--evaluated={tmp_path / 'taught'}", f"--out={tmp_path / 'chosen'}"]
    )
    counted = [sum(entry["values"]) for entry in result_of(tmp_path / "taught")["questions"]]
    kept = [row for row, count in zip(rows["train"], counted, strict=True) if 0 < count < K]
    assert 0 < len(kept) < QUESTIONS and f"{len(kept)} of {QUESTIONS} rows" in capsys.readouterr().out
    cpu_config.data.train_files, cpu_config.data.val_files = (
        str(tmp_path / "chosen" / f"{name}.parquet") for name in ("train", "test")
    )
    cpu_config.data.train_batch_size = 1
    questions, problems = dataset.problems(cpu_config, ())
    assert not problems and questions[: len(kept)] == [row["prompt"][0]["content"] for row in kept]


@pytest.mark.parametrize("kind", ["shuffle", "single"])
def test_an_end_in_any_part_is_the_same_result(words, plain, tmp_path, kind):
    """What a process that was killed leaves is the beginning of the file."""
    lines = (plain[0] / SESSIONS).read_bytes().splitlines(keepends=True)
    cut = [json.loads(line)["kind"] for line in lines].index(kind) + 5
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / SESSIONS).write_bytes(b"".join(lines[:cut]) + lines[cut][:40])
    evaluate.main(words(tmp_path / "cut"))
    assert (tmp_path / "cut" / RESULT).read_text() == (plain[0] / RESULT).read_text()


def test_another_configuration_is_refused_with_the_difference(words, plain):
    assert "k is 3 there, 2 here" in failed(words(plain[0], "--k", 2))
    assert "persona" in failed(words(plain[0], "ccpo.roles.think.persona=Hurry."))


@pytest.fixture
def local(data):
    """local(out) -> a command line that evaluates the embedded model behind a server of the command's own."""
    fixed = ["--model", MODEL, "--data", data, "--team", "dyad", "--prompts", "toy", "--k", K, "--max-tokens", 16]
    return lambda out: [str(word) for word in (*fixed, "--backend", "cpu", "--out", out)]


def test_a_model_in_a_folder_is_served_and_gives_the_same_answers(local, plain, tmp_path):
    evaluate.main(local(tmp_path / "local"))
    mine, theirs = result_of(tmp_path / "local"), plain[1]
    assert mine["questions"] == theirs["questions"] and mine["measures"] == theirs["measures"]
    assert mine["settings"]["roles"]["think"]["model"] == str(MODEL) and mine["reported"] == {}
    mine = psutil.Process().children(recursive=True)
    assert sum(words_of(child)[1:3] == ["-m", "ccpo.verl_cpu.serve"] for child in mine) == 1  # the module's own


def begun(words: list[str], out: Path) -> subprocess.Popen:
    """The command in a process of its own, with its first session on the disk."""
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), *words, "--concurrency", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None and not (out / SESSIONS).exists():
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_ended_says_that_it_can_go_on(words, tmp_path, number):
    process = begun(words(tmp_path / "out"), tmp_path / "out")
    process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    assert "Traceback" not in said and process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 1}[number]
    assert number != signal.SIGINT or f"what was played is kept in {tmp_path / 'out'}" in said
    assert not (tmp_path / "out" / RESULT).exists() and len(lines_of(tmp_path / "out")) > 1


def test_a_model_that_cannot_be_served_says_why_and_where_its_log_is(local, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    command = local(tmp_path / "out")
    command[command.index("--model") + 1] = str(tmp_path / "model")
    said = failed(command)
    [log] = tmp_path.glob("ccpo-server-*.log")
    assert "ended while it started" in said and str(log) in said and log.read_text()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_server_is_left(local, tmp_path, number):
    process = begun(local(tmp_path / "out"), tmp_path / "out")
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("ccpo.verl_cpu.serve" in words_of(child) for child in family)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert not psutil.wait_procs(family, timeout=20)[1]


def test_a_guarded_command_ends_with_its_parent(tmp_path):
    """With all that it has started, even what ignores SIGTERM for a while."""
    parent = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, sys.argv[1], 'sh', '-c', 'sleep 300 & echo $! > pid; wait'], stdin=subprocess.PIPE)\n"
        "time.sleep(300)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent, guard.__file__], cwd=tmp_path)
    until = time.monotonic() + 30
    while time.monotonic() < until and not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    assert int((tmp_path / "pid").read_text()) in {child.pid for child in family}
    process.kill()
    process.wait()
    assert not psutil.wait_procs(family, timeout=20)[1]


def test_an_endpoint_needs_no_stack_of_ours(words, tmp_path):
    """Who asks an API needs neither torch nor verl."""
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import evaluate; evaluate.main(sys.argv[1:]);"
        "print([name for name in ('torch', 'transformers', 'verl', 'ray', 'omegaconf') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, *words(tmp_path / "out", "--limit", 2, "--k", 1)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr


def test_each_role_its_own_model(words, scripted_endpoint, tmp_path, monkeypatch, model):
    """Think speaks at another address, with another key, and says hostile things; Reason is the embedded model."""
    texts = [
        "\\boxed{1}\\boxed{2}",
        "\0\ud800",
        "<script>alert(1)</script>",
        "{question} {thought} %s",
        "x" * 300,
        None,
        "",
    ]
    said = iter(range(10**6))

    def answer(body):
        text = texts[next(said) % len(texts)]
        message = {"role": "assistant", "content": text, "reasoning_content": "hm"}
        return {
            "model": "thinker",
            "choices": [
                {"index": 0, "message": message, "finish_reason": "length" if text and "x" in text else "stop"}
            ],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }

    scripted_endpoint.script[:] = [(200, answer)]
    monkeypatch.setenv("OTHER", scripted_endpoint.key)
    more = ["--endpoint", f"th*={scripted_endpoint.url}", "--model", "think=m2", "--key-env", "think=OTHER"]
    evaluate.main(words(tmp_path / "out", *more, "--concurrency", 4))
    result = result_of(tmp_path / "out")
    assert {bearer for _, bearer in scripted_endpoint.seen} == {f"Bearer {scripted_endpoint.key}"}
    assert all(body["messages"][0]["content"] == "Think." for body, _ in scripted_endpoint.seen[1:])
    assert result["ledger"]["sessions"]["think"]["prompt_tokens"] == 7 * result["ledger"]["sessions"]["think"]["turns"]
    assert (
        result["settings"]["roles"]["think"]["model"] == "m2"
        and result["settings"]["roles"]["reason"]["model"] == model.model
    )
    odd = result["bad"]["roles"]["think"]
    assert odd["empty"] and odd["truncated"]
    assert set(result["bad"]["session"]["dropped"]) <= {
        "context too long"
    }  # 300 x are more than the model's 256 tokens
    assert (
        scripted_endpoint.key not in (tmp_path / "out" / SESSIONS).read_text() + (tmp_path / "out" / RESULT).read_text()
    )


def test_a_wrong_key_a_wrong_model_and_nobody_there_leave_nothing(words, tmp_path, monkeypatch, model):
    out = tmp_path / "out"
    assert "no such model" in failed(words(out, "--model", "think=other"))
    assert "context" in failed(words(out, "--max-tokens", 9999)) and "256" in failed(words(out, "--max-tokens", 9999))
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    assert "not accepted (401)" in failed(words(out))
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "missing or wrong (401)" in failed(words(out))
    assert not out.exists()


def test_an_endpoint_that_breaks_keeps_what_was_played(words, scripted_endpoint, tmp_path):
    """20 failures in a row, or a key that is withdrawn, end it; the same command goes on and fills the holes."""
    out, good = (
        tmp_path / "out",
        {"message": {"role": "assistant", "content": "\\boxed{1}"}, "index": 0, "finish_reason": "stop"},
    )
    answer = {"model": "m", "choices": [good], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
    command = words(out, "--retries", 0, "--controls", "none", "--replays", "remove", "--concurrency", 1)
    command[command.index("--endpoint") + 1] = scripted_endpoint.url
    scripted_endpoint.script[:] = [(200, answer)] * 6 + [(500, {})]
    assert "failed one after another, the last with: server error (500)" in failed(command)
    kinds = [line["kind"] for line in lines_of(out)]
    assert kinds.count("session") == 1 and kinds.count("dropped") == 20
    scripted_endpoint.script[:] = [(200, answer)] * 9 + [(401, {"error": {"message": "no"}})]
    assert "the same command goes on" in failed(command)
    scripted_endpoint.script[:] = [(200, answer)]
    evaluate.main(command)
    assert result_of(out)["bad"]["session"] == {"wanted": QUESTIONS * K, "played": QUESTIONS * K, "dropped": {}}


def test_a_few_failures_are_counted_and_told(words, scripted_endpoint, tmp_path, capsys):
    good = {"message": {"role": "assistant", "content": "\\boxed{1}"}, "index": 0, "finish_reason": "stop"}
    answer = {"model": "m", "choices": [good]}  # counts no tokens
    command = words(tmp_path / "out", "--retries", 0, "--replays", "remove", "--concurrency", 1)
    command[command.index("--endpoint") + 1] = scripted_endpoint.url
    scripted_endpoint.script[:] = [(200, answer)]
    assert "does not count tokens" in failed(command)
    scripted_endpoint.script[:] = [(200, answer)] * 7 + [(429, {}), (200, answer)]
    evaluate.main([*command, "--controls", "single"])
    out = capsys.readouterr().out
    assert "1 of 24 sessions are missing (too many requests (429): 1)" in out and "have no token counts" in out
    assert result_of(tmp_path / "out")["measures"]["controls"].keys() == {"single"}


def test_a_single_agent_is_a_team_that_is_worth_its_control(words, scripted_endpoint, tmp_path, capsys):
    good = {"message": {"role": "assistant", "content": "\\boxed{1}"}, "index": 0, "finish_reason": "stop"}
    usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    command = words(tmp_path / "out", team=f"{ROOT}/examples/single.py:Single")
    command[command.index("--endpoint") + 1] = scripted_endpoint.url
    scripted_endpoint.script[:] = [(200, {"model": "m", "choices": [good], "usage": usage})]
    evaluate.main(command)
    said = {
        json.dumps(body["messages"]) for body, _ in scripted_endpoint.seen if body["messages"][0]["role"] == "system"
    }
    assert len(said) == QUESTIONS, "the control is asked the same"
    result = result_of(tmp_path / "out")["measures"]
    assert result["controls"]["single"]["team_minus"]["value"] == 0 and list(result["roles"]) == ["solver"]
    assert result["controls"]["self_consistency"]["samples"] == 1
    assert "solver: without it there is no answer" in capsys.readouterr().out


@pytest.mark.parametrize("said", ["your prompt was filtered", "maximum context length is 8 tokens"])
def test_questions_that_are_refused_cost_their_own_sessions_alone(words, scripted_endpoint, tmp_path, data, said):
    """However many sessions each has; questions that are too long may stand beside each other, as in a set that is sorted."""
    refused = {
        row["prompt"][-1]["content"] for row in dataset_rows("test", QUESTIONS, 0)[: 1 if "filter" in said else 6]
    }
    good = {"message": {"role": "assistant", "content": "\\boxed{1}"}, "index": 0, "finish_reason": "stop"}
    scripted_endpoint.script[:] = [
        (
            lambda body: 400 if body["messages"][-1]["content"] in refused else 200,
            lambda body: (
                {"error": {"message": said}} if body["messages"][-1]["content"] in refused else {"choices": [good]}
            ),
        )
    ]
    team = tmp_path / "one.py"
    team.write_text(
        "from ccpo.team import Team\n"
        "class One(Team):\n"
        "    roles = ('only',)\n"
        "    prompts = {'toy': {'only': {'user': '{question}'}}}\n"
        "    async def play(self, s):\n"
        "        return s.answer(await s.say('only', question=s.question))\n"
    )
    command = words(tmp_path / "out", "--controls", "none", "--k", 25, "--concurrency", 1, team=f"{team}:One")
    command[command.index("--endpoint") + 1] = scripted_endpoint.url
    evaluate.main(command)
    bad = result_of(tmp_path / "out")["bad"]["session"]
    assert sum(bad["dropped"].values()) == 25 * len(refused) and bad["played"] == 25 * (QUESTIONS - len(refused))


def test_a_vote_and_its_comparison(words, plain, tmp_path, capsys):
    evaluate.main(words(tmp_path / "vote", "ccpo.team_kwargs.n_voters=2", team="vote"))
    measures = result_of(tmp_path / "vote")["measures"]
    assert set(measures["roles"]) == {"voter_0", "voter_1"} and "maj" in measures["team"]
    assert 0.5 in {value for entry in result_of(tmp_path / "vote")["questions"] for value in entry["values"]}
    capsys.readouterr()
    evaluate.main(["--compare", str(plain[0]), str(tmp_path / "vote" / RESULT)])
    out = capsys.readouterr().out
    assert f"{QUESTIONS} questions pair" in out and "team, avg" in out and "one agent, voting" in out


def test_a_reward_of_ones_own(words, tmp_path, capsys, caplog, data):
    """Partial credit has means and contributions; answers that have names have pass@k, and votes."""
    own = tmp_path / "own.py"
    own.write_text(
        "from ccpo.reward import Reward\n"
        "def half(text, truth, row):\n"
        "    return 1.0 if truth in text else 0.5\n"
        "half.partial = True\n"
        "async def named(text, truth, row):\n"
        "    return Reward(float(truth in text), text)\n"
        "named.label = str.strip\n"
        "def apart(text, truth, row):\n"
        "    return Reward(float(truth in text), text)\n"
        "def same(a, b):\n"
        "    raise KeyError(a)\n"
        "apart.same = same\n"
        "def broken(text, truth, row):\n"
        "    raise KeyError(truth)\n"
    )
    few = ["--limit", 3, "--k", 2]
    evaluate.main(words(tmp_path / "half", *few, f"ccpo.reward={own}:half"))
    half = result_of(tmp_path / "half")["measures"]
    assert 0.5 <= half["team"]["avg"]["value"] <= 1 and "pass" not in half["team"]
    assert "avg" not in half["controls"]["self_consistency"] and "contribution" in half["roles"]["think"]["remove"]
    assert "told apart" in capsys.readouterr().out
    evaluate.main(words(tmp_path / "named", *few, f"ccpo.reward={own}:named"))
    assert {"pass", "maj"} <= result_of(tmp_path / "named")["measures"]["team"].keys()
    capsys.readouterr()
    evaluate.main(words(tmp_path / "apart", *few, f"ccpo.reward={own}:apart"))
    apart = result_of(tmp_path / "apart")["measures"]
    assert apart["team"]["avg"]["value"] is not None and "pass" not in apart["team"]
    assert (
        "or these failed" in capsys.readouterr().out
        and "same of the reward" in caplog.text
        and "KeyError" in caplog.text
    )
    assert "the reward" in failed(words(tmp_path / "broken", *few, f"ccpo.reward={own}:broken"))
    assert "ccpo.reward" in failed(words(tmp_path / "none", *few, f"ccpo.reward={own}:nothing"))
    own.write_text(own.read_text().replace("else 0.5", "else 0.25"))
    assert "reward.program" in failed(words(tmp_path / "half", *few, f"ccpo.reward={own}:half"))


@pytest.mark.parametrize("field", ["seed", "temperature", "n", "messages"])
def test_a_field_that_options_decide_is_no_body(words, tmp_path, capsys, field):
    """With one seed for all requests, k sessions would be one."""
    assert failed([*words(tmp_path / "out"), "--body", json.dumps({field: 1})]) == "2"
    assert f"{field}: options and the team decide" in capsys.readouterr().err


def test_more_sessions_than_a_float_can_count_choices_of_are_refused_before_they_are_played(words, tmp_path):
    assert "--k is 1100: set at most 1000" in failed([*words(tmp_path / "out"), "--k", "1100"])


def test_a_question_alone_has_no_turns_of_another(words, tmp_path, capsys):
    evaluate.main(words(tmp_path / "one", "--limit", 1, "--controls", "none"))
    result = result_of(tmp_path / "one")
    assert "shuffle" not in result["measures"]["roles"]["think"] and result["measures"]["team"]["avg"]["low"] is None
    assert result["bad"]["shuffle"]["wanted"] == 0


def test_data_that_cannot_be_asked_is_named(words, tmp_path):
    assert "does not exist" in failed([*words(tmp_path / "out"), "--data", str(tmp_path)])
    (tmp_path / "bad.parquet").write_text("no parquet")
    assert "no readable parquet" in failed([*words(tmp_path / "out"), "--data", str(tmp_path / "bad.parquet")])
    row = make_row("toy", "1+1?", "2", "boxed", "test", 0)
    write_dataset(tmp_path / "edited", {"test": [row]}, name="toy", command=["made"])
    with (tmp_path / "edited" / "test.parquet").open("ab") as stream:
        stream.write(b"x")
    assert "SHA-256" in failed([*words(tmp_path / "out"), "--data", str(tmp_path / "edited")])


# --- the server itself ------------------------------------------------------------------------------------------------


def post(endpoint, **fields) -> tuple[int, dict]:
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": "What is the last digit of 3+4?"}],
    } | fields
    request = urllib.request.Request(f"{endpoint.url}/chat/completions", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    request.add_header("Authorization", f"Bearer {endpoint.key}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_servers_answers_follow_the_seed(model):
    def texts(seeds):
        found = [post(model, seed=seed, max_tokens=12)[1]["choices"][0]["message"]["content"] for seed in seeds]
        return found

    assert texts(range(6)) == texts(range(6)) and len(set(texts(range(6)))) > 1
    greedy = {
        post(model, seed=seed, max_completion_tokens=12, temperature=0)[1]["choices"][0]["message"]["content"]
        for seed in (1, 2)
    }
    assert len(greedy) == 1


def test_the_server_ends_at_a_stop(model):
    whole = post(model, seed=1, max_tokens=12, temperature=0)[1]["choices"][0]["message"]["content"]
    cut = post(model, seed=1, max_tokens=12, temperature=0, stop=whole[2:4])[1]["choices"][0]
    kept = post(model, seed=1, max_tokens=12, temperature=0, stop=[whole[2:4]], include_stop_str_in_output=True)[1][
        "choices"
    ][0]
    assert cut["message"]["content"] == whole[:2] and cut["finish_reason"] == "stop"
    assert kept["message"]["content"].startswith(whole[:4])
    short = post(model, max_tokens=1, temperature=0)[1]
    assert short["choices"][0]["finish_reason"] == "length" and short["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"n": 2}, "n=2"),
        ({"stream": True}, "stream"),
        ({"tools": [{}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"min_p": 0.1}, "min_p"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e-310}, "temperature"),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 9999}, "context"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        (
            {"chat_template_kwargs": {"chat_template": "{{ raise_exception('System role not supported') }}"}},
            "System role",
        ),
        ({"chat_template_kwargs": {"chat_template": ""}}, "empty prompt"),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
    ],
    ids=str,
)
def test_the_server_refuses_what_it_cannot_do(model, fields, said):
    status, answer = post(model, **fields)
    assert status == 400 and said in answer["error"]["message"]


def test_neutral_fields_and_parts_of_text_are_fine(model):
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is the last digit of 3+4?"}]}]
    neutral = {"n": 1, "stream": False, "logprobs": False, "presence_penalty": 0, "user": "me", "tools": []}
    assert post(model, messages=parts, seed=3, max_tokens=4, **neutral)[0] == 200


def test_vllm_is_started_with_what_evaluation_needs():
    """Not run here; the flags are those of vLLM 0.24."""
    command = command_of(Serving("vllm", 4096, 7, gpus=2), "org/model", 1234, share=2)
    for flag, value in (
        ("--host", "127.0.0.1"), ("--port", "1234"), ("--served-model-name", "org/model"), ("--max-model-len", "4096"),
        ("--dtype", "auto"), ("--generation-config", "vllm"), ("--gpu-memory-utilization", "0.450"), ("--seed", "7"),
    ):  # fmt: skip
        assert command[command.index(flag) + 1] == value
    assert "--no-enable-log-requests" in command and not any("secret" in word for word in command)
    assert environment_of(Serving("vllm", gpus=2), "secret", 1, 1)["VLLM_API_KEY"] == "secret"
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        assert environment_of(Serving("vllm", gpus=2), "secret", 3, 2)["CUDA_VISIBLE_DEVICES"] == "1"


def with_vllm(options):
    return evaluate.arguments_of([*"--model m --data d --out o".split(), f"--vllm={options}"])


def test_options_of_vllm_come_before_what_evaluation_decides(monkeypatch):
    given = with_vllm("--gpu-memory-utilization 0.2 --quantization=fp8 --cpu-offload-gb -1")
    monkeypatch.setattr(evaluate.servers, "gpus_here", lambda: 1)
    given.backend = evaluate.servers.CPU
    with pytest.raises(evaluate.EvaluationError, match="no vLLM serves here"):
        evaluate.serving_of(given)
    given.backend = evaluate.servers.VLLM
    command = command_of(evaluate.serving_of(given), "org/model", 1234, share=1)
    ours, theirs = command.index("--gpu-memory-utilization"), command.index("0.2")
    assert command[ours + 1] == "0.900" and ours < theirs, "vLLM takes the last"
    assert command[theirs + 1 : theirs + 4] == ["--quantization=fp8", "--cpu-offload-gb", "-1"]
    assert theirs < command.index("--host")


@pytest.mark.parametrize(
    "text, says",
    [
        *((text, "in one word") for text in ("", "  ", "0.3", "-1")),
        ("--dtype 'x", "no command line"),
        *((f"--dtype half {text}", "serve the model yourself") for text in (
            "--host 0.0.0.0", "--hos=::", "--host.x y", "--uds.x=y", "--api-key x", "--api_key=x", "--ssl-keyfile k", "--seed 1", "-tp 2", "-O3", "--grpc",
            "--kv-events-config {}", "--hf-token x", "--trust-remote-code", "--dtype.x y", "--gpu-memory", "--", "-",
        )),
    ],
)  # fmt: skip
def test_options_of_vllm_that_are_none_or_open_a_door_are_refused(text, says, capsys):
    with pytest.raises(SystemExit):
        with_vllm(text)
    error = capsys.readouterr().err
    assert "argument --vllm: " in error and says in error


def test_options_of_vllm_where_it_does_not_serve_are_refused_before_anything_is_written(words, local, tmp_path):
    option = "--vllm=--dtype half"
    assert "only endpoints speak here" in failed(words(tmp_path / "out", option))
    assert "no vLLM serves here" in failed([*local(tmp_path / "out"), option])
    assert not (tmp_path / "out").exists()


def test_only_options_of_vllm_that_change_texts_belong_to_the_results(data):
    """An evaluation that ran out of memory goes on with less of it."""
    settings = {}
    for options in ("--max-num-seqs 8", "--gpu-memory-utilization 0.2", "--quantization fp8", "--quantization=fp8"):
        given = evaluate.arguments_of(
            [*"--model m --team dyad --prompts toy --data d --out o".split(), f"--vllm={options}"]
        )
        config = evaluate.team_of(given, None)
        voices = {role: evaluate.Voice({"model": "m"}, "m") for role in config.plan.roles}
        sampling = evaluate.sampling_of(given, config, None)
        rows = evaluate.read_rows(data, None, 0, config.members.columns, False)
        settings[options] = evaluate.settings_of(given, config, rows, voices, sampling, {})
    first, second, third, fourth = settings.values()
    assert first == second and "vllm" not in first
    assert third["vllm"] == [["--quantization", "fp8"]] and fourth["vllm"] == [["--quantization=fp8"]]


def test_vllm_servers_of_ours_are_asked_more_at_a_time(monkeypatch):
    given = evaluate.arguments_of(["--model", "m", "--data", "d", "--out", "o"])
    ours, theirs = (evaluate.Endpoint("http://127.0.0.1:1/v1", "m", local=local) for local in (True, False))
    for backend, endpoints, many in (
        (evaluate.servers.VLLM, [ours, ours], evaluate.AT_ONCE_VLLM),
        (evaluate.servers.VLLM, [ours, theirs], evaluate.AT_ONCE),
        (evaluate.servers.CPU, [ours], evaluate.AT_ONCE),
    ):
        given.backend = backend
        monkeypatch.setattr(evaluate.servers, "gpus_here", lambda: 0)
        assert evaluate.at_once(given, endpoints, evaluate.serving_of(given)) == evaluate.AT_ONCE
        monkeypatch.setattr(evaluate.servers, "gpus_here", lambda: 2)
        assert evaluate.at_once(given, endpoints, evaluate.serving_of(given)) == many
    assert evaluate.at_once(given, [theirs], None) == evaluate.AT_ONCE
    given.concurrency = 3
    assert evaluate.at_once(given, [ours], evaluate.serving_of(given)) == 3


def test_servers_on_the_cpu_share_its_cores(monkeypatch):
    def threads(share):
        return environment_of(Serving(CPU), "secret", 0, share)["OMP_NUM_THREADS"]

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads(share) for share in (1, 3, 9)] == ["8", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads(1) == "4", "what the user says"
