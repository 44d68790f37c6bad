"""metrics.jsonl across kills and resumes."""

from __future__ import annotations

import json

import pytest

from ccpo.run.run_log import RunLog, read_run_log


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path / "run" / "metrics.jsonl")


def steps(log):
    return [(entry["step"], entry["kind"]) for entry in read_run_log(log.path)]


def test_a_line_per_entry(log):
    log.write(0, "val", {"acc": 0.5})
    log.write(1, "train", {"reward": 1})
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [
        {"step": 0, "kind": "val", "metrics": {"acc": 0.5}},
        {"step": 1, "kind": "train", "metrics": {"reward": 1.0}},
    ]


def test_only_finite_numbers_are_written(log):
    numpy = pytest.importorskip("numpy")
    log.write(
        1,
        "train",
        {"a": float("nan"), "b": float("inf"), "c": "text", "d": None, "e": numpy.float32(0.5), "f": numpy.int64(2)},
    )
    assert read_run_log(log.path)[0]["metrics"] == {"e": 0.5, "f": 2.0}


def test_validation_comes_after_the_training_of_its_step(log):
    log.write(2, "val", {})
    log.write(2, "train", {})
    log.write(1, "train", {})
    assert steps(log) == [(1, "train"), (2, "train"), (2, "val")]


def test_of_double_entries_the_last_one_counts(log):
    log.write(1, "train", {"reward": 0.1})
    log.write(1, "train", {"reward": 0.2})
    assert [entry["metrics"] for entry in read_run_log(log.path)] == [{"reward": 0.2}]


def test_a_half_written_line_is_no_entry(log):
    log.write(1, "train", {})
    with log.path.open("a") as stream:
        stream.write('{"step": 2, "kind": "tr')
    assert steps(log) == [(1, "train")]


def test_rewind_forgets_what_came_after_and_heals_the_file(log):
    for step in (1, 2, 3):
        log.write(step, "train", {"reward": step})
    log.write(2, "val", {})
    with log.path.open("a") as stream:
        stream.write('{"step": 4, "ki')
    log.rewind(2)
    assert steps(log) == [(1, "train"), (2, "train"), (2, "val")]
    log.write(3, "train", {"reward": 30})
    assert steps(log)[-1] == (3, "train"), "an entry after a half-written line must not be lost with it"
    assert [path.name for path in log.path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_new_run_rewinds_nothing(log):
    log.rewind(0)
    assert not log.path.exists()
