"""metrics.jsonl across kills and resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ccpo.run import json_file
from ccpo.run.folder import Moved
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


def test_what_is_no_file_of_a_disk_is_not_replaced(tmp_path, monkeypatch):
    os.mkfifo(pipe := tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    for place, says in (
        (pipe, "no file of a disk"),
        (tmp_path, "directory"),
        (Path(), "directory"),
        (Path("/"), "directory"),
    ):
        with pytest.raises(OSError, match=says):
            json_file.write_atomic(place, "{}")
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


NO_ENTRIES = [
    *(
        b"3",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b"NaN",
        b"true",
        b"\xff\xfe",
        b"\x00",
        b"",
        b"   ",
        b"[" * 100_000,
        b"9" * 10_000,
    ),
    *(b'{"kind": "train", "metrics": {}}', b'{"step": 1, "metrics": {}}', b'{"step": 1, "kind": "train"}'),
    *(
        b'{"step": %s, "kind": "train", "metrics": {}}' % step
        for step in (b'"1"', b"1.5", b"null", b"[]", b"true", b"-1", b"NaN")
    ),
    *(b'{"step": 1, "kind": %s, "metrics": {}}' % kind for kind in (b"1", b"null", b"[]", b"{}", b'"other"')),
    *(b'{"step": 1, "kind": "train", "metrics": %s}' % metrics for metrics in (b"1", b"null", b"[]", b'"x"')),
    '{"step": 1, "kind": "tra\u2028in", "metrics": {}}'.encode(),
]


def test_what_is_no_entry_is_passed_over(log):
    log.write(1, "train", {"a": 1})
    with log.path.open("ab") as stream:
        stream.write(b"\n".join(NO_ENTRIES) + b"\r\n")
    log.write(2, "train", {"a": 2})
    assert [(entry["step"], entry["metrics"]) for entry in read_run_log(log.path)] == [(1, {"a": 1}), (2, {"a": 2})]
    log.rewind(1)
    assert len(log.path.read_bytes().splitlines()) == 1


def test_what_is_no_finite_number_is_no_metric(log):
    log.path.parent.mkdir()
    metrics = '{"a": NaN, "b": Infinity, "c": "1", "d": null, "e": [1], "f": {}, "g": 1e999, "h": %s, "i": 0.5}' % (
        "9" * 400
    )
    log.path.write_text(f'{{"step": 1, "kind": "train", "metrics": {metrics}}}')
    assert read_run_log(log.path)[0]["metrics"] == {"i": 0.5}


def test_a_huge_line_is_read(log):
    many = {f"metric/{number}": number for number in range(100_000)}
    log.write(1, "train", many)
    assert read_run_log(log.path)[0]["metrics"] == many


def test_an_entry_after_one_that_a_full_disk_cut_is_whole(log):
    log.write(1, "train", {})
    with log.path.open("ab") as stream:
        stream.write(b'{"step": 2, "kind": "tr')
    log.write(3, "train", {})
    assert steps(log) == [(1, "train"), (3, "train")]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_disk_that_is_full_while_the_log_is_rewound_costs_nothing(log, monkeypatch, call):
    for step in (1, 2):
        log.write(step, "train", {})
    before = log.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    if call == "write":
        monkeypatch.setattr(json_file.json, "dumps", lambda *_: "\ud800")  # what cannot be written
        with pytest.raises(UnicodeEncodeError):
            log.rewind(1)
    else:
        monkeypatch.setattr(*((json_file.os, "fsync") if call == "fsync" else (json_file.Path, "replace")), full)
        with pytest.raises(OSError, match="No space"):
            log.rewind(1)
    assert log.path.read_bytes() == before
    assert [path.name for path in log.path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_log_says_what_it_has(log):
    assert not log.has(1, "train")
    log.write(1, "train", {})
    assert log.has(1, "train") and not log.has(1, "val") and not log.has(2, "train")


@pytest.mark.parametrize("anew", [True, False])
def test_a_folder_that_was_moved_away_is_not_made_again(log, tmp_path, anew):
    """Another job may have its name by now; lines of two jobs in one log tell about neither."""
    log.write(1, "train", {})
    log.path.parent.rename(tmp_path / "elsewhere")
    if anew:
        log.path.parent.mkdir()
    for act in (log.check_place, lambda: log.write(2, "train", {}), lambda: log.rewind(1)):
        with pytest.raises(Moved, match="is not the folder any more in which this job began"):
            act()
    assert log.path.parent.exists() == anew and not log.path.exists()
