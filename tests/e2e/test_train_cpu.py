"""The real trainer on the CPU: it learns, and a run that is killed and resumed equals an uninterrupted one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ccpo.verl_plugin.run_log import read_run_log

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6
LIMIT = 600  # seconds for one job; it takes about 100 on two idle cores


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    command = [
        sys.executable,
        "-m",
        "data_preprocess.toy",
        "--out",
        str(folder),
        "--train-size",
        "32",
        "--test-size",
        "128",
    ]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    return folder


@pytest.fixture
def start(data):
    """Start a job in its own session; whatever the test does, nothing of it is left."""
    sessions = []

    def run(out: Path, topology: str = "dyad", steps: int = STEPS) -> subprocess.Popen:
        command = [
            *(
                sys.executable,
                "recipe/main_ccpo.py",
                "--config-name",
                f"ccpo_{topology}",
                "profile=cpu",
                "task=last_digit",
            ),
            *(f"data.train_files={data}/train.parquet", f"data.val_files={data}/test.parquet"),
            *(f"trainer.default_local_dir={out}", f"trainer.total_training_steps={steps}"),
            *("trainer.save_freq=2", f"trainer.test_freq={steps}"),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
        log = (out.parent / f"{out.name}.log").open("ab")
        job = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        sessions.append(job.pid)
        return job

    yield run
    for session in sessions:
        kill_session(session)


def kill_session(session: int) -> None:
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                os.kill(process.pid, signal.SIGKILL)
        except OSError:
            continue


def finish(job: subprocess.Popen, out: Path) -> None:
    status = job.wait(LIMIT)
    assert status == 0, (out.parent / f"{out.name}.log").read_text(errors="replace")[-3000:]


def numbers(out: Path) -> dict:
    """Everything that was logged, except clocks and memory."""
    return {
        (entry["step"], entry["kind"]): {
            name: value
            for name, value in entry["metrics"].items()
            if not name.startswith(("timing", "perf", "actor/perf"))
        }
        for entry in read_run_log(out / "metrics.jsonl")
    }


TEAM = "val-core/toy/last_digit/team_accuracy"


@pytest.mark.parametrize("topology", ["dyad", pytest.param("vote", marks=pytest.mark.slow)])
def test_kill_and_resume_equals_uninterrupted_and_the_team_learns(start, tmp_path, topology):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(start(straight, topology), straight)

    job = start(killed, topology)
    deadline = time.monotonic() + LIMIT
    while not (killed / "global_step_2" / "ccpo_state.json").exists():
        assert job.poll() is None and time.monotonic() < deadline, "the job ended before its first checkpoint"
        time.sleep(0.1)
    kill_session(job.pid)
    job.wait(30)
    assert max(step for step, _ in numbers(killed)) < STEPS
    finish(start(killed, topology), killed)

    one, two = numbers(straight), numbers(killed)
    # The resumed job first validates where it stands; a kill between a save and the end of its step leaves that step's line
    # unwritten. Every line that both have is equal.
    assert {kind for _, kind in set(two) - set(one)} <= {"val"}
    assert {(step, "train") for step in range(3, STEPS + 1)} | {(STEPS, "val")} <= set(two)
    for key in set(one) & set(two):
        assert two[key] == one[key], key

    assert one[STEPS, "val"][TEAM] >= one[0, "val"][TEAM] + 0.10  # 6 of the 20 steps of a quickstart
    assert (killed / f"global_step_{STEPS}" / "actor").is_dir()


def test_voters_learn(start, tmp_path):
    finish(start(tmp_path / "vote", "vote", steps=4), tmp_path / "vote")
    logged = numbers(tmp_path / "vote")
    assert logged[4, "val"][TEAM] >= logged[0, "val"][TEAM] + 0.10
    assert (
        logged[4, "val"]["val-aux/toy/last_digit/voter_accuracy"]
        > logged[0, "val"]["val-aux/toy/last_digit/voter_accuracy"]
    )
    for step in range(1, 5):
        metrics = logged[step, "train"]
        assert metrics["ccpo/vote/credit_right"] > 0 > metrics["ccpo/vote/credit_wrong"]
        assert metrics["ccpo/vote/oracle_accuracy"] >= metrics["ccpo/vote/team_accuracy"]
