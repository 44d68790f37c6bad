"""scripts/check_env.py: each problem is found and says what to do; needs no package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_env.py"
_spec = importlib.util.spec_from_file_location("check_env", SCRIPT)
check_env = sys.modules["check_env"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_env)

GOOD = check_env.Facts(
    python=(3, 11),
    versions={name: "1.0" for name in check_env.BOTH + check_env.GPU_ONLY},
    pins={"verl": "1.0", "TransferQueue": "1.0"},
    gpus=["a GPU"],
    memory=64.0,
    shm=16.0,
    disk=100.0,
)


def without(*names: str) -> dict[str, str]:
    return {name: version for name, version in GOOD.versions.items() if name not in names}


def test_a_good_machine_has_neither_problems_nor_notes():
    assert check_env.problems_of(GOOD) == ([], [])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"python": (3, 13)}, ["3.13", "3.11", "PYTHON="]),
        ({"versions": without("torch", "ray")}, ["torch, ray not installed", "scripts/setup.sh"]),
        ({"versions": GOOD.versions | {"verl": "0.8.0"}}, ["verl 0.8.0", "1.0 is required", "scripts/setup.sh"]),
    ],
)
def test_what_makes_training_impossible(change, words):
    fatal, _ = check_env.problems_of(replace(GOOD, **change))
    assert len(fatal) == 1
    assert all(word in fatal[0] for word in words)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"gpus": []}, ["profile=cpu"]),
        ({"versions": without("vllm")}, ["vllm", "setup.sh gpu"]),
        ({"memory": 3.0}, ["3.0 GB of memory", "8 GB"]),
        ({"shm": 0.06}, ["0.1 GB of /dev/shm", "--shm-size"]),
        ({"disk": 1.0}, ["1.0 GB of disk"]),
    ],
)
def test_what_is_only_worth_knowing(change, words):
    fatal, notes = check_env.problems_of(replace(GOOD, **change))
    assert fatal == [] and len(notes) == 1
    assert all(word in notes[0] for word in words)


def test_what_is_unknown_is_no_problem():
    assert check_env.problems_of(replace(GOOD, memory=None, shm=None, disk=None)) == ([], [])


def test_pins_are_read_with_extras_and_comments_and_without_markers(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text('# a==1\nverl==0.9.1  # why\nmpmath[x]==0.9.0\nnumpy==2.2.6; python_version < "3.11"\nray>=2\n')
    assert check_env.read_pins(path) == {"verl": "0.9.1", "mpmath": "0.9.0"}


def test_this_repository_pins_what_the_check_compares():
    assert {"verl", "TransferQueue"} <= check_env.read_pins(SCRIPT.parents[1] / "requirements-cpu.txt").keys()


def test_runs_without_any_package():
    done = subprocess.run([sys.executable, "-I", "-S", str(SCRIPT)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "verl" in done.stdout and "not installed" in done.stdout and "scripts/setup.sh" in done.stdout
