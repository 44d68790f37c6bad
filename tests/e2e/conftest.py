"""Fixtures of the end-to-end tests: a small dataset, and jobs of which nothing is left afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from jobs import ROOT, STEPS, kill_session, start_job
from neighbour import Doors


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    command = [sys.executable, "-m", "data_preprocess.toy", "--out", str(folder)]
    sizes = ["--train-size", "32", "--test-size", "128"]
    subprocess.run([*command, *sizes], cwd=ROOT, check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def chain_model(tmp_path_factory) -> Path:
    """The embedded model, taught to draft, to review and to refine."""
    folder = tmp_path_factory.mktemp("models") / "chain"
    subprocess.run(
        [sys.executable, "-m", "data_preprocess.toy_chain", "--out", str(folder)], cwd=ROOT, check=True, timeout=400
    )
    return folder


@pytest.fixture(scope="session")
def doors() -> Doors:
    return Doors()


@pytest.fixture
def start(data):
    """Start a job in its own session; whatever the test does, nothing of it is left."""
    sessions = []

    def run(out: Path, team: str = "dyad", *overrides: str, steps: int = STEPS) -> subprocess.Popen:
        saving = ("trainer.save_freq=2", f"trainer.test_freq={steps}")
        job = start_job(out, team, data, *saving, *overrides, steps=steps)
        sessions.append(job.pid)
        return job

    yield run
    for session in sessions:
        kill_session(session)
