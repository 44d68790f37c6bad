"""The shell scripts and the quickstart, the latter around a stand-in for the trainer (the real one: tests/e2e)."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ccpo.run.lock import run_lock

ROOT = Path(__file__).parents[2]

TRAINER = '''
"""Logs like the trainer and takes the same overrides. Leaves a daemon in a process group of its own, as Ray does."""
import json, os, subprocess, sys, time
from pathlib import Path
options = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
out = Path(options["trainer.default_local_dir"].strip("'"))
mode, delay = options.get("mode", "fine"), float(options.get("delay", 0.01))
hold = int(options.get("hold", 0))  # a step that a job hangs in, unless it was resumed
(out / "arguments.json").write_text(json.dumps(sys.argv[1:]))
daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], preexec_fn=os.setpgrp)
(out / "daemon").write_text(str(daemon.pid))
(out / "trainer").write_text(str(os.getpid()))
if mode == "config":
    sys.exit("error: the configuration has 1 problem(s); nothing was started:\\n  1. ccpo.roles is wrong; set it")
if mode == "crash":
    print("before", flush=True)
    raise RuntimeError("the rollout worker died")
def write(step, kind, metrics):
    with (out / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": step, "kind": kind, "metrics": metrics}) + "\\n")
votes = "ccpo_vote" in sys.argv
def validate(step):
    scores = {"val-core/toy/team_accuracy": 0.5 + step / 100}
    voters = {f"val-aux/toy/voter_{i}/accuracy": 0.6 - i / 10 + step / 100 for i in range(3)}
    ballots = {"val-aux/toy/ballot_accuracy": 0.4, "val-aux/toy/oracle_accuracy": 0.9}
    write(step, "val", scores | (ballots | voters if votes else {"val-aux/toy/solo_accuracy": 0.4}))
from ccpo.run.run_log import RunLog
steps = sorted(int(p.parent.name.split("_")[-1]) for p in out.glob("global_step_*/ccpo_state.json"))
first = steps[-1] if steps else 0
RunLog(out / "metrics.jsonl").rewind(first)
validate(first)
try:
    for step in range(first + 1, int(options["trainer.total_training_steps"]) + 1):
        time.sleep(600 if step == hold and first == 0 else delay)
        voters = {f"ccpo/voter_{i}/accuracy": 0.6 - i / 10 for i in range(3)} if votes else {}
        write(step, "train", {"ccpo/sessions/team_accuracy": 0.5, "timing_s/step": delay} | voters)
        if step % 5 == 0:
            (out / f"global_step_{step}").mkdir(exist_ok=True)
            (out / f"global_step_{step}" / "ccpo_state.json").write_text("{}")
            validate(step)
except KeyboardInterrupt:
    if mode != "deaf":
        sys.exit(1)
    time.sleep(600)
'''


@pytest.fixture
def quickstart(tmp_path):
    """start(*arguments) -> Popen of the command around the stand-in, with OUT = tmp_path/'run of mine'."""
    trainer = tmp_path / "trainer.py"
    trainer.write_text(TRAINER)
    code = (
        "import sys; sys.path[:0] = ['scripts', '.']; import quickstart; "
        "quickstart.GRACE, quickstart.PATIENCE, quickstart.POLL = 2.0, 0.3, 0.05; "
        "from ccpo.report import page; page._library = str; "  # the page's curves are tests/unit/test_report_page.py's, and take over a second
        f"sys.exit(quickstart.main(sys.argv[1:], trainer=[sys.executable, {str(trainer)!r}]))"
    )
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-c", code, "--out", str(tmp_path / "run of mine"), *arguments]
        started.append(subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        return started[-1]

    start.out = tmp_path / "run of mine"
    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        process.stdout.close()


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """refused(*arguments) -> (status, text) of a quickstart that must end before it starts a trainer; run in this process."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.chdir(ROOT)
    import quickstart

    def run(*arguments: str) -> tuple[int, str]:
        words = ["--out", str(run.out), *arguments]
        try:
            status = quickstart.main(words, trainer=[sys.executable, "-c", "raise SystemExit('it was started')"])
        except SystemExit as ended:
            status = ended.code
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    run.out = tmp_path / "run of mine"
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield run
    for number, handler in handlers.items():  # the command sets its own
        signal.signal(number, handler)


def finish(process: subprocess.Popen) -> tuple[int, str]:
    text, _ = process.communicate(timeout=60)
    return process.returncode, text


def wait_for_step(out: Path, step: int) -> None:
    deadline = time.monotonic() + 30
    while (
        not (out / "metrics.jsonl").exists()
        or f'{{"step": {step}, "kind": "train"' not in (out / "metrics.jsonl").read_text()
    ):
        assert time.monotonic() < deadline, f"no step {step}"
        time.sleep(0.05)


def alive(out: Path) -> bool:
    try:
        return psutil.Process(int((out / "daemon").read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_quickstart_trains_shows_progress_and_reports(quickstart):
    status, text = finish(quickstart("--steps", "10", "--seed", "3", "--rule", "shared", "--", "delay=0.02"))
    assert status == 0, text
    assert "step 10/10  validation at 10: team 0.600 solo 0.400 | train: team 0.500" in text
    assert "steps: 10" in text and (quickstart.out / "report.html").exists()
    assert "no sessions of two validations were kept" in text
    given = json.loads((quickstart.out / "arguments.json").read_text())
    assert given[:4] == ["--config-name", "ccpo_dyad", "profile=cpu", "task=last_digit"]
    assert {
        "seed=3",
        "ccpo.credit.rule=shared",
        "trainer.total_training_steps=10",
        "delay=0.02",
    } <= set(given)
    assert not alive(quickstart.out)


def test_quickstart_trains_voters(quickstart):
    status, text = finish(quickstart("--team", "vote", "--steps", "5"))
    assert status == 0, text
    assert "step 5/5  validation at 5: team 0.550 | train: team 0.500" in text
    assert "ballots (mean of all)" in text and "voter_2: accuracy" in text and "solo" not in text
    given = json.loads((quickstart.out / "arguments.json").read_text())
    assert given[:4] == ["--config-name", "ccpo_vote", "profile=cpu", "task=last_digit"]
    assert not any(word.startswith(("ccpo.credit.rule", "ccpo.team=")) for word in given), "the configuration has them"
    status, text = finish(quickstart("--rule", "shared", "--steps", "5"))
    assert status == 1 and "team 'vote', not 'dyad'" in text


def test_quickstart_trains_a_team_from_a_file(quickstart, tmp_path):
    status, text = finish(quickstart("--team", "examples/panel.py:Panel", "--steps", "5"))
    assert status == 0, text
    given = json.loads((quickstart.out / "arguments.json").read_text())
    assert given[:2] == ["--config-name", "ccpo"] and "ccpo.team='examples/panel.py:Panel'" in given
    settings = json.loads((quickstart.out / "quickstart.json").read_text())
    assert settings == {
        "task": "last_digit",
        "team": "examples/panel.py:Panel",
        "rule": "removal",
        "seed": 0,
        "overrides": [],
    }


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "the team's file {file} does not exist"),
        ("raise ValueError('no such\\nmodel')", "ValueError: no such model (line 1)"),
        ("class Mine: pass", "Mine is no subclass of ccpo.team.Team"),
        (
            "from ccpo.team import Team\nclass Mine(Team):\n    roles = ('a',)\n    async def play(self, s):\n        return 1\n",
            "returned int, which is no outcome",
        ),
    ],
)
def test_a_mistake_in_a_teams_file_is_one_line_before_anything_starts(refused, tmp_path, text, words):
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    status, shown = refused("--team", f"{file}:Mine")
    assert status == 1 and shown.startswith("error: --team ") and words.format(file=file) in shown
    assert shown.count("\n") == 1 and not refused.out.exists()


def compared(out: Path, rule: str) -> Path:
    return out / f"last_digit-compare-{rule}-seed2"


COMPARE = ("--team", "vote", "--compare", "--seed", "2", "--steps", "5")


def test_rules_on_silence_are_compared_on_seeds(refused, monkeypatch, tmp_path):
    import quickstart as script

    asked = []
    monkeypatch.setattr(script, "DATA", tmp_path / "data")
    monkeypatch.setattr(script.compare_credit, "main", asked.extend)
    words = [
        "--team",
        "vote",
        "--task",
        "silence",
        "--compare",
        "--seed",
        "3",
        "--steps",
        "7",
        "--out",
        str(tmp_path / "new"),
    ]
    assert script.main([*words, "--", "data.train_batch_size=4"]) == 0
    assert (tmp_path / "data" / "silence" / "train.parquet").exists()
    known = script.compare_credit.arguments(asked)
    assert known.seeds == [3, 4, 5, 6, 7] and known.rules == list(script.SILENCE_RULES)
    assert known.overrides[-2:] == ["trainer.total_training_steps=7", "data.train_batch_size=4"]


def test_compare_trains_every_rule_alike_and_shows_them_together(quickstart):
    status, text = finish(quickstart(*COMPARE, "--", "delay=0.02"))
    assert status == 0, text
    rules = ("shared", "leave_one_out", "resampled", "shapley", "own_correctness")
    arguments = [json.loads((compared(quickstart.out, rule) / "arguments.json").read_text()) for rule in rules]
    alike = [
        [a for a in given if not a.startswith(("ccpo.credit.rule=", "trainer.default_local_dir="))]
        for given in arguments
    ]
    assert alike[1:] == alike[:-1]
    assert {
        "ccpo.policies=per_role",
        "ccpo.roles.voter_0.model=data/last_digit_voters/strong",
        "ccpo.roles.voter_2.model=data/last_digit_voters/weak",
        "delay=0.02",
    } <= set(alike[0])
    assert [f"ccpo.credit.rule={rule}" in given for rule, given in zip(rules, arguments, strict=True)] == [True] * 5
    for rule in rules:
        assert text.count(f"\n  {rule} (step 5)") == 4, "the team and three voters"
        assert not alive(compared(quickstart.out, rule))
    assert "voter 2, weak" in text and "One seed proves nothing" in text
    assert (quickstart.out / "last_digit-compare-seed2.png").stat().st_size > 10_000


def test_an_interrupted_comparison_goes_on_where_it_stopped(quickstart):
    first = quickstart(*COMPARE, "--", "delay=0.15")
    wait_for_step(compared(quickstart.out, "leave_one_out"), 2)
    first.send_signal(signal.SIGINT)
    assert finish(first)[0] == 130
    (compared(quickstart.out, "shared") / "arguments.json").unlink()
    status, text = finish(quickstart(*COMPARE, "--", "delay=0.15"))
    assert status == 0 and "--- shared (1 of 5): finished" in text, text
    assert not (compared(quickstart.out, "shared") / "arguments.json").exists()
    assert "  own_correctness (step 5)" in text


def test_a_comparison_that_must_fail_does_so_before_training(refused):
    last = compared(refused.out, "own_correctness")
    last.mkdir(parents=True)
    (last / "thesis.tex").write_text("precious")
    status, text = refused(*COMPARE)
    assert status == 1 and "choose another --out" in text
    assert not (compared(refused.out, "shared") / "arguments.json").exists()


def test_a_comparison_ends_with_the_first_failure(quickstart):
    status, text = finish(quickstart(*COMPARE, "--", "mode=crash"))
    assert status == 1 and text.count("the rollout worker died") == 1
    assert not (compared(quickstart.out, "leave_one_out") / "arguments.json").exists()


@pytest.mark.parametrize("old", [{}, {"topology": "dyad"}])
def test_a_run_of_an_earlier_version_is_refused(quickstart, old):
    quickstart.out.mkdir()
    settings = {**old, "rule": "counterfactual", "seed": 0, "overrides": []}
    (quickstart.out / "quickstart.json").write_text(json.dumps(settings) + "\n")
    status, text = finish(quickstart("--steps", "5"))
    assert status == 1 and "begun by an earlier version" in text and "--fresh" in text
    assert json.loads((quickstart.out / "quickstart.json").read_text()) == settings
    assert finish(quickstart("--steps", "5", "--fresh"))[0] == 0


@pytest.mark.parametrize(
    "arguments, folder, rule",
    [
        ((), "last_digit-counterfactual-seed0", "counterfactual"),
        (("--team", "vote"), "last_digit-vote-leave_one_out-seed0", "leave_one_out"),
        (("--team", "vote", "--rule", "shared", "--seed", "2"), "last_digit-vote-shared-seed2", "shared"),
        (("--team", "examples/panel.py:Panel"), "last_digit-panel-removal-seed0", "removal"),
        (
            ("--team", f"{ROOT}/examples/chain.py:Chain", "--rule", "resampling"),
            "last_digit-chain-resampling-seed0",
            "resampling",
        ),
        (
            ("--team", "ccpo.team.vote:Vote", "--", "ccpo.team_kwargs.rounds=2"),
            "last_digit-vote-removal-seed0",
            "removal",
        ),
    ],
)
def test_default_folders_and_rules(monkeypatch, arguments, folder, rule):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.chdir(ROOT)
    import quickstart

    options = quickstart._options(list(arguments))
    assert (options.out, options.rule) == (ROOT / "outputs" / folder, rule)
    assert str(ROOT) not in options.team, "seen from where the trainer starts"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--team", "vote", "--rule", "shapley"),
        ("--team", "examples/panel.py:Panel"),
        ("--team", "vote", "--compare"),
        ("--team", "vote", "--task", "silence"),
    ],
)
def test_the_command_makes_a_configuration_without_mistakes(monkeypatch, compose, arguments):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.chdir(ROOT)
    import quickstart
    from omegaconf import OmegaConf

    from ccpo.config import CcpoConfig

    options = quickstart._options(list(arguments))
    _, _, name, *overrides = quickstart._command(options, ["trainer"])
    job = compose(*(f"++{word}" if word.startswith("ccpo.") else word for word in overrides), name=name)
    config = CcpoConfig.from_dict(OmegaConf.to_container(job.ccpo, resolve=True), job.actor_rollout_ref.rollout.n)
    assert (config.team, config.credit.rule, config.seed) == (options.team, options.rule, 0)


def test_a_configuration_has_the_rule_that_the_folder_is_called_after(monkeypatch, compose):
    """The rule is read without verl; hydra composes the same one."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import quickstart

    for name in ("ccpo", "ccpo_dyad", "ccpo_vote"):
        assert (
            compose("profile=cpu", "task=last_digit", name=name).ccpo.credit.rule
            == quickstart._settings(name).credit.rule
        )


@pytest.mark.parametrize(
    "team, own", [("vote", ["ccpo.team_kwargs.n_voters=7", "ccpo.team_kwargs.copies=copies"]), ("dyad", [])]
)
def test_a_task_has_steps_and_settings_of_its_own(monkeypatch, team, own):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import quickstart

    options = quickstart._options(["--task", "silence", "--team", team, "--", "data.train_batch_size=4"])
    assert options.overrides == [*own, "data.train_batch_size=4"] and options.steps == 40
    assert options.out.name.startswith("silence-") and "task=silence" in quickstart._overrides(options)


def test_no_team_is_known_by_name():
    """Of teams the quickstart knows what ccpo says of them; the comparison is another script."""
    code = re.sub(r'""".*?"""', "", (ROOT / "scripts" / "quickstart.py").read_text(), flags=re.DOTALL)
    assert not re.search(r"\b(dyad|vote|think|reason|solo|emptied)\b|voter_\d", code)


def test_a_finished_run_is_only_reported_and_can_be_extended_or_begun_anew(quickstart):
    assert finish(quickstart("--steps", "5"))[0] == 0
    (quickstart.out / "arguments.json").unlink()
    status, text = finish(quickstart("--steps", "5"))
    assert status == 0 and "finished" in text and "--fresh" in text and "steps: 5" in text
    assert not (quickstart.out / "arguments.json").exists()
    status, text = finish(quickstart("--steps", "10"))
    assert status == 0 and "checkpoint of step 5" in text and "steps: 10" in text
    status, text = finish(quickstart("--steps", "5", "--fresh"))
    assert status == 0 and "checkpoint of step" not in text and "steps: 5" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind_and_resumes_from_its_checkpoint(quickstart, number):
    first = quickstart("--steps", "10", "--", "hold=8")
    wait_for_step(quickstart.out, 7)
    assert alive(quickstart.out)
    first.send_signal(number)
    status, text = finish(first)
    assert status == 130, text
    assert "run the same command to resume from the checkpoint of step 5" in text
    assert not alive(quickstart.out)
    status, text = finish(quickstart("--steps", "10", "--", "hold=8"))
    assert status == 0 and "going on from the checkpoint of step 5" in text, text
    steps = [
        json.loads(line)["step"]
        for line in (quickstart.out / "metrics.jsonl").read_text().splitlines()
        if '"train"' in line
    ]
    assert steps == list(range(1, 11))


def test_a_trainer_that_does_not_listen_is_killed(quickstart):
    process = quickstart("--steps", "99", "--", "mode=deaf", "delay=0.1")
    wait_for_step(quickstart.out, 1)
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 130
    assert not alive(quickstart.out)


@pytest.mark.parametrize(
    "mode, words", [("crash", "RuntimeError: the rollout worker died"), ("config", "1. ccpo.roles is wrong; set it")]
)
def test_a_failure_shows_its_cause_and_the_log(quickstart, mode, words):
    status, text = finish(quickstart("--", f"mode={mode}"))
    assert status == 1
    assert words in text and "train.log" in text and "Traceback" not in text
    assert not alive(quickstart.out)


def contents(out: Path) -> dict[str, bytes]:
    """Of what nobody appends to."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and "metrics" not in path.name}


def test_a_trainer_that_outlives_its_quickstart_keeps_the_folder(quickstart):
    first = quickstart("--steps", "99", "--", "delay=0.1")
    wait_for_step(quickstart.out, 1)
    first.kill()
    first.wait(30)
    try:
        status, text = finish(quickstart("--steps", "99", "--fresh", "--", "delay=0.1"))
        assert status == 1 and "two jobs in one folder" in text
    finally:
        for name in ("trainer", "daemon"):
            os.kill(int((quickstart.out / name).read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00", b"[]", b"3", b"{}", b'{"team": "dyad"}', b'{"team": 1}', b"[" * 99_999]
)
def test_a_folder_of_which_it_is_not_known_how_it_was_started_is_explained(refused, content):
    refused.out.mkdir()
    (refused.out / "quickstart.json").write_bytes(content)
    before = contents(refused.out)
    status, text = refused("--steps", "5")
    assert status == 1 and "quickstart.json is not readable" in text and "--fresh" in text and "Traceback" not in text
    assert contents(refused.out) == before


def test_a_folder_that_is_damaged_can_be_begun_anew(quickstart):
    quickstart.out.mkdir()
    (quickstart.out / "quickstart.json").write_bytes(b"\xff")
    (quickstart.out / "global_step_5").mkdir()
    assert finish(quickstart("--steps", "5", "--fresh"))[0] == 0
    assert json.loads((quickstart.out / "quickstart.json").read_text())["seed"] == 0
    assert not (quickstart.out / "run.lock").exists()


def test_a_run_that_was_ended_before_its_last_validation_is_not_finished(quickstart):
    """The trainer saves, validates, and then logs a step; one that goes on from its last checkpoint logs it first."""
    assert finish(quickstart("--steps", "5"))[0] == 0
    log = quickstart.out / "metrics.jsonl"
    whole = log.read_text().splitlines()
    for kind in ("train", "val"):
        log.write_text("\n".join(line for line in whole if f'"step": 5, "kind": "{kind}"' not in line) + "\n")
        status, text = finish(quickstart("--steps", "5"))
        assert status == 0 and "going on from the checkpoint of step 5" in text and "steps: " in text


def test_one_folder_belongs_to_one_run_at_a_time_and_to_one_setting(quickstart):
    first = quickstart("--steps", "99", "--", "delay=0.1")
    wait_for_step(quickstart.out, 1)
    before = contents(quickstart.out)
    for more in ((), ("--fresh",), ("--seed", "1")):
        status, text = finish(quickstart("--steps", "99", *more, "--", "delay=0.1"))
        assert status == 1 and f"process {first.pid} (" in text and "two jobs in one folder" in text
    assert before.items() <= contents(quickstart.out).items()
    first.send_signal(signal.SIGINT)
    finish(first)
    status, text = finish(quickstart("--seed", "1", "--", "delay=0.1"))
    assert status == 1 and "seed 0, not 1" in text and "--fresh" in text


@pytest.mark.parametrize("arguments", [(), ("--fresh",)])
def test_a_folder_that_is_no_run_is_left_alone(refused, arguments):
    refused.out.mkdir()
    (refused.out / "thesis.tex").write_text("precious")
    status, text = refused(*arguments)
    assert status == 1 and "choose another --out" in text
    assert contents(refused.out) == {"thesis.tex": b"precious"}


def test_a_file_is_no_folder(refused):
    refused.out.write_text("precious")
    status, text = refused("--fresh")
    assert status == 1 and "cannot be written" in text and "Traceback" not in text
    assert refused.out.read_text() == "precious"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--rule", "best"), "no rule 'best'. Rules that fit: counterfactual"),
        (("--rule", "resampled"), "resampled does not fit this team: it reads the ballots of a plurality"),
        (("--team", "vote", "--rule", "counterfactual"), "Rules that fit: removal, leave_one_out"),
        (
            ("--team", "vote", "--rule", "resampled", "--", "ccpo.team_kwargs.rounds=2"),
            "which needs roles that answer independently",
        ),
        (("--topology", "vote"), "--team vote"),
        (("--", "ccpo.team=vote"), "--team"),
        (("--compare",), "needs --team vote"),
        (("--team", "vote", "--compare", "--rule", "shared"), "takes no --rule"),
        (("--team", "vote", "--compare", "--task", "silence", "--fresh"), "delete the folder"),
        (("--steps", "0"), "at least 1"),
        (("--", "trainer.total_training_steps=3"), "--steps"),
        (("--", "oops"), "name=value"),
    ],
)
def test_wrong_options_are_explained(refused, arguments, words):
    status, text = refused(*arguments)
    assert status == 2 and words in text
    assert not refused.out.exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--team", "debate"), "'debate' names no team"),
        (("--team", "vote", "--", "ccpo.team_kwargs.n_voters=1"), "one voter is no vote"),
        (("--team", "vote", "--", "ccpo.team_kwargs.voters=5"), "did you mean ccpo.team_kwargs.n_voters?"),
        (("--", "ccpo.team_kwargs.x=[1"), "cannot be read"),
    ],
)
def test_a_team_that_cannot_be_made_is_explained(refused, arguments, words):
    status, text = refused(*arguments)
    assert status == 1 and words in text and "Traceback" not in text
    assert not refused.out.exists()


def test_a_second_job_in_a_folder_is_refused_by_the_trainer_itself_and_changes_nothing(tmp_path, in_fork):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    command = ["recipe/main_ccpo.py", "profile=cpu", "task=last_digit"]
    with run_lock(tmp_path / "run"):
        before = contents(tmp_path / "run")
        done = in_fork(
            [*command, f"trainer.default_local_dir={tmp_path}/link", "data.train_files=nowhere.parquet"], ROOT
        )
        assert contents(tmp_path / "run") == before
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"is in use: process {os.getpid()} (" in done.stderr and "nowhere" not in done.stderr


# --- shell scripts --------------------------------------------------------------------------------------------------


def bash(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", *arguments], cwd=folder, env={**os.environ, **environment}, text=True, capture_output=True, timeout=120
    )


@pytest.fixture
def clone(tmp_path):
    """A repository whose CPU stack is empty, so that setting it up needs no network."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    (tmp_path / "requirements-cpu.txt").write_text("# nothing\n")
    return tmp_path


def setup(clone: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return bash(clone, "scripts/setup.sh", *arguments, **{"PYTHON": sys.executable, **environment})


@pytest.fixture(scope="module")
def copying(tmp_path_factory):
    """An interpreter whose environments are copies of one: making them is most of what setting up nothing takes."""
    folder = tmp_path_factory.mktemp("python")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=120)
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "-m venv" ] && exec cp -a {folder}/venv/. "$3"\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return {"PYTHON": str(python)}


def children_seconds() -> float:
    """Of a processor, however busy the machine is."""
    return os.times().children_user + os.times().children_system


def test_setup_installs_once_then_does_nothing(clone):
    first = setup(clone)
    assert first.returncode == 0, first.stdout + first.stderr
    assert [line.split(" ...")[0].split()[0] for line in first.stdout.splitlines()] == ["making", "installing"]
    before = children_seconds()
    again = setup(clone)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert children_seconds() - before < 0.5
    (clone / "requirements-cpu.txt").write_text("# something new\n")
    assert setup(clone).stdout.startswith("installing")


def test_setup_repairs_an_interrupted_install_and_shows_what_failed(clone, copying):
    (clone / "requirements-cpu.txt").write_text("./no-such-package\n")
    failed = setup(clone, **copying)
    assert failed.returncode == 1
    assert "no-such-package" in failed.stderr and "install.log" in failed.stderr
    (clone / ".venv" / "half-installed").touch()
    (clone / "requirements-cpu.txt").write_text("# nothing\n")
    assert setup(clone, **copying).returncode == 0
    assert not (clone / ".venv" / "half-installed").exists()


def test_setup_leaves_a_foreign_venv_alone(clone):
    (clone / ".venv").mkdir()
    (clone / ".venv" / "mine").touch()
    refused = setup(clone)
    assert refused.returncode == 1 and "didn't make it" in refused.stderr
    assert (clone / ".venv" / "mine").exists()


def test_setup_keeps_a_gpu_environment_when_asked_for_the_cpu_one(clone, copying):
    (clone / "requirements.txt").write_text("# nothing\n")
    assert setup(clone, "gpu", **copying).returncode == 0
    assert (setup(clone, "cpu", **copying).stdout, (clone / ".venv" / "ccpo-setup").read_text()[:3]) == ("", "gpu")


@pytest.mark.parametrize(
    "arguments, environment, words",
    [
        (("tpu",), {}, "choose cpu or gpu"),
        ((), {"PYTHON": "/bin/false"}, "3.10, 3.11 or 3.12"),
        ((), {"PYTHON": "/no/python"}, "no Python that starts"),
        (("gpu",), {}, "requirements.txt"),
    ],
)
def test_setup_explains_mistakes_and_makes_nothing(clone, arguments, environment, words):
    refused = setup(clone, *arguments, **environment)
    assert refused.returncode == 1 and words in refused.stderr
    assert not (clone / ".venv").exists()


def called(version: str, python: str, at: Path) -> str:
    """An interpreter ``at`` that is ``python``, and says that it is of this version."""
    major, minor = version.split(".")
    at.unlink(missing_ok=True)
    at.write_text(f"""#!/bin/sh
case $1 in
--version) echo Python {version}.0 ;;
-c) code=$2; shift 2; exec {python} -c "import sys; sys.version_info = ({major}, {minor}, 0)
$code" "$@" ;;
*) exec {python} "$@" ;;
esac
""")
    at.chmod(0o755)
    return str(at)


@pytest.mark.parametrize("kind, fit", [("cpu", ["3.10", "3.11", "3.12"]), ("gpu", ["3.11", "3.12"])])
def test_setup_takes_the_pythons_that_the_stack_has_builds_for(clone, copying, kind, fit):
    (clone / "requirements.txt").write_text("# nothing\n")
    for version in ("3.9", "3.10", "3.11", "3.12", "3.13"):
        done = setup(clone, kind, PYTHON=called(version, copying["PYTHON"], clone / "python"))
        if version in fit:
            assert done.returncode == 0 and f"making .venv with Python {version}" in done.stdout, done.stderr
            shutil.rmtree(clone / ".venv")
        else:
            assert done.returncode == 1 and f"is Python {version}.0, and" in done.stderr
            assert f"needs Python {', '.join(fit[:-1])} or {fit[-1]}" in done.stderr
            assert not (clone / ".venv").exists()


def test_setup_looks_for_a_python_that_fits(clone, copying):
    """On a machine whose plain python3 is too old for the GPU stack, or too new."""
    (clone / "requirements.txt").write_text("# nothing\n")
    (clone / "bin").mkdir()
    for name, version in (("python3", "3.13"), ("python3.10", "3.10"), ("python3.12", "3.12")):
        called(version, copying["PYTHON"], clone / "bin" / name)
    path = f"{clone / 'bin'}{os.pathsep}{os.environ['PATH']}"
    assert "with Python 3.12" in setup(clone, "gpu", PYTHON="", PATH=path).stdout


def test_setup_makes_an_environment_of_another_python_anew(clone, copying):
    (clone / "requirements.txt").write_text("# nothing\n")
    assert setup(clone, "gpu", **copying).returncode == 0
    called("3.10", sys.executable, clone / ".venv" / "bin" / "python")
    (clone / "requirements.txt").write_text("# something new\n")
    assert "making .venv" in setup(clone, "gpu", **copying).stdout


def recipe(script: str, *arguments: str, **environment: str) -> list[str]:
    """The words of the command that a recipe would run."""
    done = bash(ROOT, f"recipe/{script}", *arguments, DRY_RUN="1", **environment)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[1:3] == ["recipe/main_ccpo.py", "--config-name"]  # hydra wants it before the overrides
    return words[3:]


@pytest.mark.parametrize("script", ["run_ccpo.sh", "run_ccpo_dyad.sh", "run_ccpo_vote.sh"])
def test_a_recipe_prints_a_command_whose_last_words_are_the_users(script):
    command = recipe(script, "data.train_batch_size=32", "x=[1, 2]", SEED="7", N_GPUS="2", TASK="gsm8k")
    assert command[-2:] == ["data.train_batch_size=32", "x=[1, 2]"]
    assert {"seed=7", "trainer.n_gpus_per_node=2", "data.train_files='data/gsm8k/train.parquet'"} <= set(command)


@pytest.mark.parametrize(
    "script, environment, config, words",
    [
        ("run_ccpo.sh", {}, "ccpo_dyad", {"task=math"}),
        ("run_ccpo_dyad.sh", {"TEAM": "vote"}, "ccpo_dyad", {"task=math"}),
        (
            "run_ccpo_vote.sh",
            {"N_VOTERS": "5"},
            "ccpo_vote",
            {
                "task=logiqa",
                "ccpo.team_kwargs.n_voters=5",
            },
        ),
        ("run_ccpo.sh", {"TEAM": "vote"}, "ccpo_vote", {"ccpo.team_kwargs.n_voters=3", "task=math"}),
        (
            "run_ccpo.sh",
            {"TEAM": "my teams/team.py:My_Team"},
            "ccpo",
            {"ccpo.team='my teams/team.py:My_Team'"},
        ),
        (
            "run_ccpo.sh",
            {"TEAM": "package.module:Relay", "SEED": "3", "DATA": "tables/x", "OUT": "my runs/a"},
            "ccpo",
            {"ccpo.team='package.module:Relay'", "seed=3", "trainer.default_local_dir='my runs/a'"},
        ),
    ],
)
def test_a_recipe_names_the_team_in_its_command_and_the_folder_if_it_is_given(script, environment, config, words):
    command = recipe(script, MODEL="org/m", **environment)
    assert command[0] == config
    assert words <= set(command)
    assert any("default_local_dir" in word for word in command) == ("OUT" in environment), "else called by its settings"
    if config != "ccpo_vote":
        assert not any("n_voters" in word for word in command)


@pytest.mark.parametrize("script, task", [("run_ccpo_dyad.sh", "math"), ("run_ccpo_vote.sh", "logiqa")])
def test_a_recipe_without_data_says_how_to_make_it(script, task, tmp_path):
    done = bash(ROOT, f"recipe/{script}", DATA=str(tmp_path))
    assert done.returncode == 1 and f"-m data_preprocess.{task} --out {tmp_path}" in done.stderr


@pytest.mark.parametrize("task", sorted(path.stem for path in (ROOT / "recipe/config/task").glob("*.yaml")))
def test_the_data_command_of_every_task_is_one(task, tmp_path, run_module):
    done = bash(ROOT, "recipe/run_ccpo.sh", TASK=task, DATA=f"{tmp_path}/a b")
    words = shlex.split(done.stderr.rpartition("make it with: ")[2])
    assert "your own data come from" in done.stderr, "the folder may be theirs"
    assert words[1] == "-m" and words[3:5] == ["--out", f"{tmp_path}/a b"]
    options = run_module(words[2], "--help").stdout
    assert all(word in options for word in words[3:] if word.startswith("--"))
    named = (ROOT / f"recipe/config/task/{task}.yaml").read_text()
    (whole,) = re.findall(rf"-m {re.escape(words[2])} --out \S+?((?: --?\S+| [a-z0-9.]+)*?)(?:\. |$|\n)", named)
    assert words[5:] == whole.split(), "with all that the task's file gives it"


@pytest.mark.parametrize("task", ["math500", "aime", "toy", "no such/../math"])
def test_a_task_that_there_is_not_gets_the_list(task, tmp_path):
    done = bash(ROOT, "recipe/run_ccpo.sh", TASK=task, DATA=str(tmp_path))
    assert done.returncode == 1 and f"TASK={task}: there is no such task" in done.stderr
    assert (
        "set one of gsm8k gsm8k_taught last_digit logiqa math partial_gsm8k silence" in done.stderr
        and "data_preprocess.benchmarks" in done.stderr
    )


@pytest.mark.parametrize(
    "script",
    sorted([*(ROOT / "scripts").glob("*.sh"), *(ROOT / "recipe").glob("*.sh"), ROOT / ".ci" / "run"]),
    ids=lambda path: path.name,
)
def test_every_script_parses(script):
    done = bash(ROOT, "-n", str(script))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "override, says",
    [
        ("trainer={total_training_steps: 3}", "trainer holds trainer.total_training_steps, for which there is --steps"),
        ("++trainer={default_local_dir: x}", "trainer holds trainer.total_training_steps"),
        ("ccpo={team: vote}", "ccpo holds ccpo.team, for which there is --team"),
        ("ccpo.credit={rule: shared}", "ccpo.credit holds ccpo.credit.rule, for which there is --rule"),
        ("+seed=3", "use --seed instead"),
        ("profile=gpu", "trains an embedded task on the CPU"),
        ("task@x=math", "use --task instead"),
        ("=3", "is no override"),
        ("+=3", "is no override"),
        ("seed.x=3", "seed has no parts; use --seed"),
    ],
)
def test_an_override_of_what_the_quickstart_must_know_is_refused(monkeypatch, capsys, override, says):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import quickstart

    with pytest.raises(SystemExit) as ended:
        quickstart._options(["--", override])
    assert ended.value.code == 2 and says in capsys.readouterr().err


def test_a_run_is_not_held_where_its_dataset_is_made(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import quickstart

    with pytest.raises(SystemExit):
        quickstart._options(["--out", str(ROOT / "data")])
    assert "is where the dataset is made" in capsys.readouterr().err
