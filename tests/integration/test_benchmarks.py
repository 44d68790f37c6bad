"""Benchmarks that need no GPU run and say what they should; the numbers of this machine are shown at the end of the tests."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ccpo.credit.rules import RULES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(tmp_path, in_cpu_fork):
    def run(name: str, *words: str, result: str) -> dict:
        done = in_cpu_fork([f"benchmarks/{name}.py", *words, result, tmp_path / "result.json"], ROOT)
        assert (tmp_path / "result.json").exists(), done.stdout + done.stderr
        return json.loads((tmp_path / "result.json").read_text())

    return run


@pytest.fixture
def load_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.mark.parametrize(
    "says, gpus",
    [
        ("echo 'NVIDIA H200, 580.1'; echo 'NVIDIA L4, 580.1'", ["NVIDIA H200, 580.1", "NVIDIA L4, 580.1"]),
        ("echo no driver; exit 9", []),
        (None, []),
    ],
)
def test_a_result_names_the_gpus(load_benchmark, monkeypatch, tmp_path, says, gpus):
    if says is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(ROOT / "benchmarks" / "credit.py")])
    evidence = load_benchmark("evidence")
    monkeypatch.setattr(evidence, "_git", lambda *words: "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert evidence.Evidence({}).about["hardware"]["gpus"] == gpus


def test_credit(benchmark, record_property):
    sizes = ("--rows", "4000", "--vote-rows", "1500", "--voters", "3", "--repeat", "1")
    found = benchmark("credit", *sizes, result="--out")
    assert {case["team"] for case in found["credit"]} == {"dyad", "3 voters"}
    assert all(case["process_seconds"] > 0 for case in found["credit"])
    assert {case["rule"].split()[0] for case in found["credit"]} == set(RULES), "a rule that is not timed may be slow"
    slowest = min(found["credit"], key=lambda case: case["rows_per_second"])
    name = f"credit, slowest rule ({slowest['team']}, {slowest['rule']}), rows/s"
    record_property(name, f"{slowest['rows_per_second']:,}")


def test_the_actor_beside_a_plain_loop(benchmark, record_property):
    pytest.importorskip("verl")
    found = benchmark("actor", "--cpu", "--rows", "16", "--repeat", "1", "--plain", result="--result")
    ours, plain = found["cases"]
    assert ours["what"] == "update_actor" and plain["what"] == "plain loop"
    assert 0 < ours["seconds"] and 0 < plain["seconds"]
    record_property("actor's update over a plain loop's, CPU, 16 rows", f"{ours['seconds'] / plain['seconds']:.2f}")


def test_all_are_listed_with_a_command_that_is_theirs():
    listed = subprocess.run([sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=True)
    for path in (ROOT / "benchmarks").glob("*.py"):
        if 'if __name__ == "__main__"' in path.read_text():
            assert f"{path.stem}: " in listed.stdout and f"benchmarks/{path.name}" in listed.stdout, path


def test_what_two_rounds_of_answers_have_in_common(load_benchmark):
    compared = load_benchmark("invariance").compared
    first = {0: ((1, 2), (-0.5, -1.0)), 1: ((1, 2), (-0.5, -1.0)), 2: ((3,), (-2.0,))}
    found = {0: ((1, 2), (-0.5, -1.0)), 1: ((1, 2), (-0.5, -1.00002)), 2: ((4,), (-2.0,))}
    told = compared("again", first, found)
    assert (told["requests"], told["equal"], told["bits"]) == (3, 2, 1) and told["apart"] == pytest.approx(2e-5)


def test_no_key_of_an_interface_is_kept_with_a_result(load_benchmark, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "s3cret")
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    monkeypatch.setattr("sys.argv", [str(ROOT / "benchmarks" / "x.py")])
    kept = load_benchmark("evidence").Evidence({}).about["environment"]
    assert kept["VLLM_BATCH_INVARIANT"] == "1" and "s3cret" not in json.dumps(kept)
