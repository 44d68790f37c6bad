"""sessions.jsonl: any text, a bounded size, and the same after kills and resumes as without."""

from __future__ import annotations

import json
import random

import pytest

from ccpo.run import json_file
from ccpo.run.folder import Moved
from ccpo.run.run_log import RunLog
from ccpo.run.session_log import SessionLog, as_json, may_be_kept, place_in_line, read_sessions

ODD = [
    "\ud800 alone",
    "\0",
    "\u2028\u2029\x85\x0b\x0c",
    "</script><img src=x onerror=alert(1)>",
    "\r\n\\\"'",
    "\U0001f600",
    "",
]


def session(index=0, number=0, text="1+1=2", source="toy", **others):
    return {
        **{"source": source, "index": index, "session": number, "question": "Q?", "truth": "2", "value": 1.0},
        **{"answer": "2", "turns": [{"role": "think", "text": text}], "ballots": None},
        "replays": [{"how": "remove", "role": "think", "name": "solo", "value": 0.0, "turns": []}],
        **{"credit": None, "advantage": None},
        **others,
    }


def log_in(folder, most=10**6):
    return SessionLog(folder / "sessions.jsonl", most, RunLog(folder / "metrics.jsonl").check_place)


@pytest.fixture
def log(tmp_path):
    return log_in(tmp_path)


def blocks(log):
    return list(dict.fromkeys((entry["step"], entry["kind"]) for entry in read_sessions(log.path)))


@pytest.mark.parametrize("text", ODD)
def test_a_text_may_hold_anything(log, text):
    log.write(1, "train", [session(text=text), session(1)])
    assert log.path.read_bytes().isascii() and log.path.read_bytes().count(b"\n") == 2
    assert read_sessions(log.path)[0]["turns"][0]["text"] == text


def test_numbers_that_are_not_finite_and_values_that_are_no_json_become_some():
    facts = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {1}, 3: None, "d": True}
    assert json.loads(as_json(facts)) == {"a": None, "b": [None, 1.5], "c": "{1}", "3": None, "d": True}


def test_sessions_come_in_one_order(log):
    log.write(2, "val", [session(1), session(0, 1), session(0, 0)])
    log.write(2, "train", [session(7)])
    log.write(1, "train", [session(9), session(3, source="other")])
    found = [(e["step"], e["kind"], e["source"], e["index"], e["session"]) for e in read_sessions(log.path)]
    assert found == [
        (1, "train", "other", 3, 0), (1, "train", "toy", 9, 0), (2, "train", "toy", 7, 0),
        (2, "val", "toy", 0, 0), (2, "val", "toy", 0, 1), (2, "val", "toy", 1, 0),
    ]  # fmt: skip


def test_no_file_and_no_session_is_nothing(log):
    assert read_sessions(log.path) == []
    log.write(1, "train", [])
    log.rewind(0, set())
    assert not log.path.exists()


def test_what_is_no_session_is_passed_over(log):
    log.write(1, "train", [session()])
    whole = json.loads(log.path.read_text())
    wrong = [
        *(
            b"3",
            b"[]",
            b"null",
            b"\xff",
            b"\0",
            b"[" * 100_000,
            b'{"every": 4, "x": 1}',
            b'{"every": "4"}',
            b'{"every": 3}',
        ),
        *(json.dumps({k: v for k, v in whole.items() if k != name}).encode() for name in whole if name in NEEDED),
        *(json.dumps(whole | {name: {"a": [1]}}).encode() for name in whole if name in NEEDED),
        *(json.dumps(whole | change).encode() for change in WRONG),
    ]
    with log.path.open("ab") as stream:
        stream.write(b"\n".join(wrong) + b"\n")
    assert len(read_sessions(log.path)) == 1
    log_in(log.path.parent).rewind(1, set())
    assert [json.loads(line) for line in log.path.read_text().splitlines()] == [whole]


NEEDED = {"step", "kind", "source", "index", "session", "question", "value", "turns", "replays"}
WRONG = [
    *({"step": -1}, {"step": True}, {"kind": "other"}, {"value": None}, {"turns": [3]}, {"turns": [{"role": "a"}]}),
    {"turns": [{"role": "a", "text": "b", "reward": "c"}]},
    *({"replays": [{}]}, {"credit": 3}, {"credit": {"a": "b"}}, {"advantage": [1]}),
    *({"likelihood": one} for one in (0.5, {}, {"before": [None]}, {"before": [0.5], "behind": "a"})),
    {"replays": [{"how": "remove", "role": "a", "name": "b", "value": 0.0, "turns": [{"role": "a", "text": 3}]}]},
]


def test_rewind_forgets_what_came_after_and_heals_the_file(log):
    for step in (1, 2, 3):
        log.write(step, "train", [session()])
        log.write(step, "val", [session()])
    with log.path.open("ab") as stream:
        stream.write(b'{"step": 4, "ki')
    anew = log_in(log.path.parent)
    anew.rewind(2, {1})
    assert blocks(anew) == [(1, "train"), (1, "val"), (2, "train")], "the validation of step 2 was not over"
    anew.write(3, "train", [session(text="new")])
    assert blocks(anew)[-1] == (3, "train") and log.path.read_bytes().count(b"\n") == 4


def test_a_validation_that_is_made_again_replaces_the_first(log):
    log.write(0, "val", [session(), session(1)])
    log.write(0, "val", [session(text="again")])
    assert [entry["turns"][0]["text"] for entry in read_sessions(log.path)] == ["again"]


def test_sessions_after_a_line_that_a_full_disk_cut_are_whole(log):
    log.write(1, "train", [session()])
    with log.path.open("ab") as stream:
        stream.write(b'{"step": 2, "kind": "tr')
    log.write(3, "train", [session()])
    assert blocks(log) == [(1, "train"), (3, "train")]


SIZE = len(as_json({"step": 1, "kind": "train", **session(text="x" * 900)})) + 20


def filled(folder, steps, most, every_validation=5):
    log = log_in(folder, most)
    for step in steps:
        if step % every_validation == 0:
            log.write(step, "val", [session(i, text="x" * 900) for i in range(2)])
        if step:
            log.write(step, "train", [session(i, text="x" * 900) for i in range(2)])
        assert log.path.stat().st_size <= most
    return log


def test_the_file_stays_below_its_bound_and_keeps_its_ends(tmp_path):
    most = 30 * SIZE
    log = filled(tmp_path, range(0, 84), most)
    kept = blocks(log)
    assert (0, "val") in kept and (80, "val") in kept
    training = [step for step, kind in kept if kind == "train"]
    gaps = {later - step for step, later in zip(training, training[1:], strict=False)}
    assert len(gaps) == 1 and len(training) > 2, "what stays is spread evenly over the run"
    assert log.path.stat().st_size > most / 4


def test_one_validation_that_is_too_large_keeps_the_same_questions_each_time(tmp_path):
    log = log_in(tmp_path, 40 * SIZE)
    for step in (0, 10, 20):
        log.write(step, "val", [session(i, text="x" * 900) for i in range(100)])
    kept = {step: {e["index"] for e in read_sessions(log.path) if e["step"] == step} for step in (0, 10, 20)}
    assert kept[0] == kept[20] and 5 <= len(kept[0]) <= 11


def test_a_session_that_is_larger_than_the_file_is_left_out(tmp_path):
    log = log_in(tmp_path, 4 * SIZE)
    log.write(1, "train", [session(text="x" * 9000), session(1)])
    assert [entry["index"] for entry in read_sessions(log.path)] == [1]


@pytest.mark.parametrize("seed", range(20))
def test_a_job_that_was_killed_keeps_what_an_uninterrupted_one_keeps(tmp_path, seed):
    """It is killed at random steps, before or after what they write, and goes on from a multiple of 4."""
    dice = random.Random(seed)
    (tmp_path / "straight").mkdir()
    (tmp_path / "killed").mkdir()
    steps, most = 60, dice.choice([12, 20, 40, 1000]) * SIZE
    straight = filled(tmp_path / "straight", range(0, steps + 1), most)
    start = 0
    while start <= steps:
        killed = dice.randint(start, steps + 20)
        log = log_in(tmp_path / "killed", most)
        log.rewind(max(start - 1, 0), {step for step in range(max(start, 1)) if step % 5 == 0})
        filled(tmp_path / "killed", range(start, min(killed, steps) + 1), most)
        if killed > steps:
            break
        start = killed // 4 * 4 + 1 if killed >= 4 else 0
        if dice.random() < 0.5:
            with log.path.open("ab") as stream:
                stream.write(b'{"step": 4, "ki')
    assert read_sessions(tmp_path / "killed" / "sessions.jsonl") == read_sessions(straight.path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_is_full_costs_nothing_that_was_written(log, monkeypatch, call):
    log.write(1, "train", [session()])
    log.write(2, "train", [session()])
    before = log.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((json_file.os, "fsync") if call == "fsync" else (json_file.Path, "replace")), full)
    with pytest.raises(OSError, match="No space"):
        log.rewind(1, set())
    assert log.path.read_bytes() == before


def test_a_folder_that_was_moved_away_is_not_made_again(tmp_path):
    (tmp_path / "run").mkdir()
    log = log_in(tmp_path / "run")
    log.write(1, "train", [session()])
    log.path.parent.rename(tmp_path / "elsewhere")
    for act in (lambda: log.write(2, "train", [session()]), lambda: log.rewind(1, set())):
        with pytest.raises(Moved):
            act()


@pytest.mark.parametrize("keep, prompts, n", [(8, 16, 4), (8, 1024, 8), (8, 4, 4), (1, 3, 1), (100, 8, 4)])
def test_enough_sessions_say_that_they_could_be_kept_and_few_more(keep, prompts, n):
    few = 0
    for step in range(50):
        found = [(i, s) for i in range(prompts) for s in range(n) if may_be_kept(keep, prompts, 0, ("toy", i), s, step)]
        few += len(found) < min(keep, prompts * n)
        assert len(found) <= max(4 * keep + 20, prompts)
        first = sorted(found, key=lambda one: place_in_line(0, ("toy", one[0]), one[1], step))
        assert all(s == 0 for _, s in first[: min(keep, len({i for i, _ in found}))])
    assert few <= 1
