"""What must be importable without verl, Ray, vLLM and torch: the method itself, and the dataset commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("verl", "ray", "vllm", "torch", "tensordict", "transfer_queue")


def modules_of(package: str) -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / package).glob("*.py")
        if path.stem != "__init__"
    ]


def loaded_by(modules: list[str]) -> list[str]:
    code = f"import {', '.join(modules)}, sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_method_is_pure():
    modules = [module for package in ("ccpo", "ccpo/credit", "ccpo/topology") for module in modules_of(package)]
    assert {"ccpo.config", "ccpo.credit.advantage", "ccpo.topology.dyad"} <= set(modules)
    assert loaded_by(modules) == []


def test_what_reports_read_is_pure():
    assert loaded_by(modules_of("ccpo/run")) == []


@pytest.mark.parametrize("module", ["math", "gsm8k", "benchmarks", "toy"])
def test_dataset_commands_start_light(module):
    assert loaded_by([f"data_preprocess.{module}"]) == []


def test_the_probe_notices_a_heavy_module():
    assert "torch" in loaded_by(["torch"])
