"""What must be importable without verl, Ray, vLLM and torch: the method itself, which needs numpy and mpmath alone, and the dataset commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("verl", "ray", "vllm", "torch", "tensordict", "transfer_queue")
BRIDGES = ("compact", "verl_plugin", "verl_cpu", "verl_gpu")
NUMPY_ALONE = """
import sys

class NotInstalled:
    allowed = {*sys.stdlib_module_names, "numpy", "ccpo"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in self.allowed:
            raise ModuleNotFoundError(f"No module named {name!r}: numpy alone", name=name)

sys.meta_path.insert(0, NotInstalled())
"""
"""An environment in which nothing but numpy is installed."""
STEP = """
import asyncio
from types import SimpleNamespace
import ccpo
from ccpo.team.dyad import Dyad
from ccpo.team.plan import plan
from ccpo.team.replay import Intervention, play
from ccpo.team.session import Decoded, Scene

async def decode(role, heard, label):
    return Decoded("so 2 + 2 = 4" if role == "think" else "4" if "thought" in heard else "5")

async def verify(text):
    return SimpleNamespace(answer=text, reward=float(text == "4"), parsed=True)

team = Dyad()
judge = SimpleNamespace(truth="4", verify=verify, label=str)
scene = Scene("2 + 2", decode, lambda role, fields: fields, judge)
played = asyncio.run(play(team, scene, plan(team), [Intervention("remove", role) for role in team.roles]))
sessions = ccpo.Sessions.from_records([played.record("q", 0)], team.roles)
settings = ccpo.StepSettings(ccpo.CreditConfig("removal", "none", coefficient=1.0), first="think")
print(ccpo.compute_advantages(sessions, settings).advantage_SV.tolist())
"""


def modules_of(package: str) -> list[str]:
    """Every module below a package, the bridges to verl excepted."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not set(BRIDGES) & set(parts):
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def loaded_by(modules: list[str]) -> list[str]:
    done = run(f"import {', '.join(modules)}, sys; print(*[name for name in {HEAVY} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_method_needs_numpy_alone():
    modules = modules_of("ccpo")
    for name in ("step", "config", "credit.rules", "team.replay", "team.load", "verifier", "run.run_log"):
        assert f"ccpo.{name}" in modules
    done = run(f"{NUMPY_ALONE}\nimport {', '.join(modules)}")
    assert done.returncode == 0, done.stderr


def test_a_team_plays_and_gets_its_credit_with_numpy_alone():
    done = run(NUMPY_ALONE + STEP)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "[[1.0, 1.0]]"


@pytest.mark.parametrize("module", ["yaml", "torch"])
def test_the_probe_notices_anything_else(module):
    done = run(f"{NUMPY_ALONE}\nimport {module}")
    assert done.returncode != 0 and "numpy alone" in done.stderr


@pytest.mark.parametrize("module", ["math", "gsm8k", "benchmarks", "toy", "silence", "partial_gsm8k"])
def test_dataset_commands_start_light(module):
    assert loaded_by([f"data_preprocess.{module}"]) == []


def test_the_probe_notices_a_heavy_module():
    assert "torch" in loaded_by(["torch"])


def test_a_file_of_rows_is_read_as_a_file():
    """pyarrow's read_table takes it for a data set: threads of that aborted 14 of 180 processes at their end (pyarrow 26), and name=value in the
    path became a column. ParquetFile: none of 180."""
    folders = ("ccpo", "data_preprocess", "scripts", "recipe", "benchmarks")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if "read_table(" in path.read_text()]
    assert not found
