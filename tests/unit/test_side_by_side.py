"""What the quickstart ends with: sessions before and after training, chosen by rule, in any terminal."""

from __future__ import annotations

import pytest

from ccpo.report.side_by_side import CHANGED, OTHER, before_and_after, chosen
from ccpo.run.texts import without_texts


def session(step, index, value, text="1+1=2", kind="val", replays=(), **others):
    turns = [{"role": "a", "text": text}, {"role": "b", "text": "\\boxed{2}"}]
    return {
        **{"step": step, "kind": kind, "source": "toy", "index": index, "session": 0, "question": f"Question {index}?"},
        **{"truth": "2", "value": value, "turns": turns, "replays": list(replays), "ballots": None},
        **others,
    }


def picked(*values):
    """(why, index) of the chosen questions, given what each was worth before and after."""
    said = [session(step, i, pair[step > 0]) for step in (0, 9) for i, pair in enumerate(values)]
    return [(why, before["index"]) for why, before, after in chosen(said)]


def test_questions_are_chosen_by_rule():
    assert picked((1.0, 1.0), (0.5, 1.0), (0.0, 1.0), (0.0, 1.0)) == [(CHANGED, 2), (OTHER, 0)]
    assert picked((0.0, 1.0), (0.0, 1.0), (1.0, 0.0)) == [(CHANGED, 0), (OTHER, 1)]
    assert picked((1.0, 0.0), (1.0, 1.0)) == [(OTHER, 0)]
    assert picked((0.0, 1.0)) == [(CHANGED, 0)]


def test_only_questions_of_both_ends_are_compared():
    said = [
        session(0, 0, 0.0),
        session(5, 0, 1.0),
        session(9, 1, 1.0),
        session(9, 0, 0.5),
        session(11, 0, 1.0, kind="train"),
    ]
    assert [(before["step"], after["step"], after["value"]) for _, before, after in chosen(said)] == [(0, 9, 0.5)]


@pytest.mark.parametrize("said", [[], [session(0, 0, 1.0)], [session(3, 0, 1.0, kind="train")]])
def test_without_two_validations_there_is_one_line(said):
    assert before_and_after(said, 80).count("\n") == 0 and "ccpo.keep_sessions" in before_and_after(said, 80)


def test_sessions_whose_texts_were_kept_come_first():
    said = [session(step, i, float(step > 0 or i > 1)) for step in (0, 9) for i in range(3)]
    some = [without_texts(one) if one["index"] == 0 and one["step"] == 9 else one for one in said]
    assert [(why, before["index"]) for why, before, _ in chosen(some)] == [(CHANGED, 1), (OTHER, 2)]
    text = before_and_after([without_texts(one | {"replays": REPLAYS}) for one in said], 80)
    assert "text not kept  (truth: 2)" in text and "| a: text not kept" in text
    assert "without a: wrong  " in text and "team: right" in text


REPLAYS = [
    {"how": "remove", "role": "a", "name": "alone", "value": 0.0, "turns": [{"role": "b", "text": "\\boxed{7}"}]},
    {"how": "remove", "role": "b", "name": "without_b", "value": 0.0, "turns": []},
    {"how": "replace", "role": "a", "name": "a_emptied", "value": 0.25, "turns": [{"role": "b", "text": "\\boxed{8}"}]},
]


@pytest.mark.parametrize("width", [40, 80, 200, None])
def test_both_stand_beside_each_other_within_the_width(width):
    said = [session(0, 0, 0.0, "word " * 100), session(9, 0, 1.0, "y" * 200, replays=REPLAYS)]
    text = before_and_after(said, width)
    assert max(map(len, text.splitlines())) <= min(width or 80, 110)
    if width == 80:
        assert "| step 0                                | step 9 " in text and " ..." in text
        assert "team: wrong                           | team: right" in text
        assert "without a: wrong, \\boxed{7}" in text and "a emptied: worth 0.25, \\boxed{8}" in text
        assert "without b" not in text, "without the last speaker there is nothing to show"


def test_votes_that_are_taken_again_are_shown_and_many_are_counted():
    replays = [{"how": "remove", "role": f"voter_{i}", "name": "x", "value": 1.0, "turns": []} for i in range(9)]
    said = [session(step, 0, 1.0, replays=replays, ballots={"voter_0": "2"}) for step in (0, 9)]
    text = before_and_after(said, 80)
    assert "without voter_3: right" in text and "voter_4" not in text and "and 5 more replays" in text
    assert "(none went from wrong to right)" in text


def test_a_terminal_obeys_nothing_that_a_model_said():
    evil = "\x1b[2J\x1b]0;title\x07 [bold red]no markup[/] :smile: \r\b\u202e\u2028\ud800"
    said = [session(step, 0, float(step > 0), evil, question=evil, truth=evil) for step in (0, 9)]
    text = before_and_after(said, 80)
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    assert "[bold red]no markup[/]" in text and ":smile:" in text and "\\x1b[2J" in text and "\\ud800" in text
    text.encode("utf-8")
    assert "\x1b[" in before_and_after(said, 80, colour=True)
