"""sessions.jsonl: any text, a bounded size, and the same after kills and resumes as without."""

from __future__ import annotations

import json
import random

import pytest

from ccpo.run import json_file
from ccpo.run.folder import Moved
from ccpo.run.run_log import RunLog
from ccpo.run.session_log import SessionLog, as_json, may_be_kept, place_in_line, read_sessions
from ccpo.run.texts import LONGEST, digest_of, has_texts, shortened, without_texts

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
            json.dumps(whole).encode().replace(b"Q?", b"\xed\xa0\x80"),  # half a pair
        ),
        *(json.dumps({k: v for k, v in whole.items() if k != name}).encode() for name in whole if name in NEEDED),
        *(json.dumps(whole | {name: {"a": [1]}}).encode() for name in whole if name in NEEDED),
        *(json.dumps(whole | change).encode() for change in WRONG),
        *(json.dumps(without_texts(whole) | change).encode() for change in BARE_WRONG),
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
    *({"value": 10**400}, {"credit": {"a": 10**400}}),
    *({"replays": [{}]}, {"credit": 3}, {"credit": {"a": "b"}}, {"advantage": [1]}),
    *({"likelihood": one} for one in (0.5, {}, {"before": [None]}, {"before": [0.5], "behind": "a"})),
    {"replays": [{"how": "remove", "role": "a", "name": "b", "value": 0.0, "turns": [{"role": "a", "text": 3}]}]},
]
BARE_WRONG = [
    *({"digest": 3}, {"turns": [{}]}, {"turns": [{"role": "a", "reward": "c"}]}, {"turns": None}),
    *({"replays": [{}]}, {"replays": [{"how": "remove", "role": "a", "name": "b", "value": None}]}),
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


def test_a_job_that_goes_on_with_a_smaller_file_shrinks_it(tmp_path):
    filled(tmp_path, range(0, 11), 100 * SIZE)
    filled(tmp_path, [11], 6 * SIZE)  # two sessions are more than a quarter of it
    found = read_sessions(tmp_path / "sessions.jsonl")
    ends = [one for one in found if (one["step"], one["kind"]) in ((0, "val"), (10, "val"))]
    assert len(ends) == 4 and not all(map(has_texts, ends)) and (11, "train") not in blocks(log_in(tmp_path))


def played(index, number, long=0, **others):
    """A dyad's session as training leaves it, with 2 kB of texts and more."""
    told = {"number": 0, "truncated": False, "cut": False, "leaked": False} | dict.fromkeys(
        ("answer", "parsed", "reward")
    )
    think = {"role": "think", "text": "t" * (700 + long), **told}
    reason = {"role": "reason", "text": "r" * 500, **told, "answer": "2", "parsed": True, "reward": float(number % 2)}
    replays = [("remove", "think", [reason]), ("remove", "reason", []), ("replace", "think", [reason])]
    found = {
        **{"question": f"{index}" * 300, "turns": [think, reason], "value": float(number % 2), "source": "gsm8k/main"},
        "replays": [
            {"how": how, "role": role, "name": f"{how}_{role}", "value": 0.0, "shared": True, "turns": turns}
            for how, role, turns in replays
        ],
    }
    return session(index, number, **{**found, **others})


def test_a_validation_that_is_too_large_loses_texts_and_no_value(tmp_path):
    """1,319 questions with 8 sessions and 64 MB, in twentieths of both."""
    log, part = log_in(tmp_path, 3_200_000), 800_000
    for step in (0, 10):
        said = [played(index, number, long=step) for index in range(66) for number in range(8)]
        assert sum(len(as_json(one)) for one in said) > 1.3 * part
        log.write(step, "val", said)
    names = ("source", "index", "session", "value", "answer", "truth", "ballots", "credit")
    kept = {step: [one for one in read_sessions(log.path) if one["step"] == step] for step in (0, 10)}
    for step, found in kept.items():
        whole = [one for one in found if has_texts(one)]
        assert [[one[name] for name in names] for one in found] == [[one[name] for name in names] for one in said]
        assert 0.95 * part < sum(len(as_json(one)) + 1 for one in found) <= part, "as many texts as fit"
        assert 100 < len(whole) < 400 and whole[0]["turns"][0]["text"] == "t" * (700 + step)
        assert [digest_of(one) for one in found] == [digest_of(one) for one in said]
    bare = next(one for one in kept[10] if not has_texts(one))
    judged = {"role": "reason", "number": 0, "answer": "2", "parsed": True, "reward": bare["value"]}
    assert bare["turns"] == [{"role": "think", "number": 0}, judged]
    emptied = {"how": "replace", "role": "think", "name": "replace_think", "value": 0.0, "shared": True}
    assert bare["replays"][2] == emptied
    first, last = ({(one["index"], one["session"]) for one in found if has_texts(one)} for found in kept.values())
    assert last <= first or first <= last, "the same sessions each time"


def test_where_not_even_the_values_fit_the_same_sessions_are_kept_each_time(tmp_path):
    log = log_in(tmp_path, 40 * SIZE)
    for step in (0, 10, 20):
        log.write(step, "val", [session(i, text="x" * 900) for i in range(100)])
    kept = {step: {e["index"] for e in read_sessions(log.path) if e["step"] == step} for step in (0, 10, 20)}
    assert kept[0] == kept[20] and 20 < len(kept[0]) < 60
    assert not any(map(has_texts, read_sessions(log.path))), "texts go before values"


def test_texts_that_are_larger_than_the_file_are_left_out(tmp_path):
    log = log_in(tmp_path, 8 * SIZE)
    log.write(1, "train", [session(text="x" * 9000, credit={"think": 0.5}), session(1)])
    found = read_sessions(log.path)
    assert [(one["index"], has_texts(one)) for one in found] == [(0, False), (1, True)]
    assert found[0]["credit"] == {"think": 0.5} and found[0]["turns"] == [{"role": "think"}]


def test_what_is_long_is_a_text_and_equal_values_stay_equal():
    long = ["7" * LONGEST, "7" * (LONGEST + 1), "7" * LONGEST + "8"]
    facts = session(0, truth=long[1], answer=long[2], ballots={"a": long[1], "b": None, "c": "2"}, question="\ud800?")
    bare = without_texts(facts)
    assert len(as_json(bare)) < 700 and bare["digest"] == digest_of(facts) == digest_of(bare)
    assert bare["ballots"] == {"a": bare["truth"], "b": None, "c": "2"} and bare["answer"] != bare["truth"]
    assert shortened(long[0]) == long[0] and shortened(bare["truth"]) == bare["truth"]
    assert shortened([1] * 999) == shortened((1,) * 999) != shortened([1] * 998) and shortened([1]) == [1]


@pytest.mark.parametrize("seed", range(20))
def test_a_job_that_was_killed_keeps_what_an_uninterrupted_one_keeps(tmp_path, seed):
    """It is killed at random steps, before or after what they write, and goes on from a multiple of 4."""
    dice = random.Random(seed)
    (tmp_path / "straight").mkdir()
    (tmp_path / "killed").mkdir()
    steps, most = 60, dice.choice([6, 12, 20, 40, 1000]) * SIZE
    straight = filled(tmp_path / "straight", range(0, steps + 1), most)
    assert all(map(has_texts, read_sessions(straight.path))) == (most > 6 * SIZE), "some lose texts, and some none"
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
