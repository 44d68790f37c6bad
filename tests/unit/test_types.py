"""Sessions: columns from records and from tables, records from columns, and what is refused."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from ccpo.types import (
    ABSTAINED,
    NO_BALLOT,
    REMOVE,
    REPLACE,
    RESAMPLE,
    RIGHT,
    ReplayRecord,
    SessionRecord,
    Sessions,
    TurnRecord,
)

RECORDS = [
    SessionRecord(
        "p",
        3,
        0.5,
        (TurnRecord("think", True, None, True, True), TurnRecord("reason", parsed=False), TurnRecord("think")),
        (ReplayRecord(REMOVE, "think", 0.25, True, 1, True), ReplayRecord(RESAMPLE, "reason", 1.0, decoded=2)),
    ),
    SessionRecord(("q", 1), 0, 1.0, (TurnRecord("reason", parsed=True),)),
    SessionRecord("p", 0, 0.0, (), (ReplayRecord(REPLACE, "critic", 0.0),)),
]


def same(a: Sessions, b: Sessions) -> bool:
    for field in fields(Sessions):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray) != isinstance(y, np.ndarray):
            return False
        if not (np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y):
            return False
    return True


def test_records_come_back_as_they_went_in():
    sessions = Sessions.from_records(RECORDS)
    assert [sessions[s] for s in range(len(sessions))] == RECORDS
    assert sessions.roles == ("think", "reason", "critic") and sessions.prompts == ("p", ("q", 1))


def test_columns_come_back_as_they_went_in():
    sessions = Sessions.from_records(RECORDS, ("reason", "silent"))
    assert sessions.roles == ("reason", "silent", "think", "critic"), "the team's own order, then as they appear"
    assert same(Sessions.from_records([sessions[s] for s in range(3)], sessions.roles), sessions)


def test_columns_say_what_the_records_said():
    sessions = Sessions.from_records(RECORDS)
    assert sessions.prompt_S.tolist() == [0, 1, 0] and sessions.session_S.tolist() == [3, 0, 0]
    assert sessions.turn_offset.tolist() == [0, 3, 4, 4] and sessions.role_T.tolist() == [0, 1, 0, 1]
    assert sessions.parsed_T.tolist() == [-1, 0, -1, 1]
    assert sessions.session_T.tolist() == [0, 0, 0, 1] and sessions.session_P.tolist() == [0, 0, 2]
    assert sessions.spoke_SV.tolist() == [[True, True, False], [False, True, False], [False, False, False]]
    assert sessions.decoded_P.tolist() == [1, 2, 0] and sessions.truncated_P.tolist() == [True, False, False]
    assert sessions.ballot_SV is None


def test_replays_are_found_by_kind_role_and_whether_they_are_shared():
    sessions = Sessions.from_records(
        [
            replace(
                RECORDS[0],
                replays=(
                    ReplayRecord(REMOVE, "think", 0.0, shared=True),
                    ReplayRecord(REMOVE, "reason", 0.0),
                    ReplayRecord(RESAMPLE, "think", 0.0, shared=True),
                ),
            )
        ]
    )
    assert sessions.replays_of(REMOVE).tolist() == [0, 1]
    assert sessions.replays_of(REMOVE, 1).tolist() == [1]
    assert sessions.replays_of(REMOVE, shared=True).tolist() == [0]
    assert sessions.replays_of(REMOVE, 0, shared=False).tolist() == []
    assert sessions.replays_of(REPLACE).tolist() == []


def test_means_by_prompt():
    sessions = Sessions.from_records(RECORDS)
    mean_G, count_G = sessions.mean_by_prompt(np.array([1, 1]), np.array([1.0, 2.0]))
    assert mean_G.tolist() == [0, 1.5] and count_G.tolist() == [0, 2]


# --------------------------------------------------------------------------------------------------------------- ballots


def vote(prompt, session, *ballots, truth="T") -> SessionRecord:
    roles = [f"voter_{i}" for i in range(len(ballots))]
    return SessionRecord(
        prompt, session, 0.0, tuple(map(TurnRecord, roles)), (), dict(zip(roles, ballots, strict=True)), truth
    )


def test_ballots_are_codes_the_truth_is_0_and_wrong_labels_are_numbered_within_a_prompt():
    sessions = Sessions.from_records(
        [vote("p", 0, "T", "x", None), vote("q", 0, "y", "T", "x", truth="x"), vote("p", 1, "z", "x", "T")]
    )
    assert sessions.ballot_SV.tolist() == [[RIGHT, 1, ABSTAINED], [1, 2, RIGHT], [2, 1, RIGHT]]


def test_a_role_without_a_ballot_is_told_from_one_that_abstains():
    mixed = [vote("p", 0, None), SessionRecord("p", 1, 1.0, (TurnRecord("think"),))]
    sessions = Sessions.from_records(mixed, ("think", "voter_0"))
    assert sessions.ballot_SV.tolist() == [[NO_BALLOT, ABSTAINED], [NO_BALLOT, NO_BALLOT]]
    assert sessions[0].ballots == {"voter_0": None} and sessions[1].ballots == {}


def test_votes_come_back_with_codes_for_labels_and_give_the_same_columns():
    sessions = Sessions.from_records([vote("p", 0, "T", "x", None), vote("p", 1, "y", "x", "T")], tie="fail")
    assert sessions[1].ballots == {"voter_0": 2, "voter_1": 1, "voter_2": RIGHT} and sessions[1].truth == RIGHT
    assert same(Sessions.from_records([sessions[0], sessions[1]], sessions.roles, "fail"), sessions)


# ----------------------------------------------------------------------------------------------------------- from tables


def test_a_table_of_plain_tuples():
    sessions = Sessions.from_table(
        [("p", 0, 1, {"think": 0.0, "reason": 0}), ("p", 1, 0, {"think": 1.0})], roles=("reason", "listener")
    )
    assert sessions.roles == ("reason", "listener", "think")
    assert sessions.spoke_SV.all() and len(sessions.role_T) == 6
    assert sessions[0].replays == (ReplayRecord(REMOVE, "think", 0.0), ReplayRecord(REMOVE, "reason", 0.0))
    assert sessions[1] == SessionRecord(
        "p", 1, 0.0, tuple(map(TurnRecord, sessions.roles)), (ReplayRecord(REMOVE, "think", 1.0),)
    )


def test_no_sessions_at_all():
    for sessions in (Sessions.from_records([], ("think",)), Sessions.from_table([], ("think",))):
        assert len(sessions) == 0 and sessions.roles == ("think",) and sessions.spoke_SV.shape == (0, 1)


# --------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_refused(bad: float):
    good = SessionRecord("p", 0, 1.0, ())
    with pytest.raises(ValueError, match="the value number 1 is not finite"):
        Sessions.from_records([good, SessionRecord("p", 1, bad, ())])
    with pytest.raises(ValueError, match="the value of a replay number 1 is not finite"):
        replays = (ReplayRecord(REMOVE, "think", 0.0), ReplayRecord(REMOVE, "think", bad))
        Sessions.from_records([SessionRecord("p", 0, 1.0, (), replays)])


def test_two_sessions_with_one_key_are_refused_and_the_key_is_named():
    twice = [SessionRecord("q", 1, 0.0, ()), SessionRecord("p", 1, 1.0, ()), SessionRecord("p", 2, 1.0, ())]
    assert len(Sessions.from_records(twice)) == 3
    with pytest.raises(ValueError, match=r"two sessions with \(prompt, session\) = \('p', 1\)"):
        Sessions.from_records([*twice, SessionRecord("p", 1, 0.0, ())])


@pytest.mark.parametrize("name", ["turn_offset", "replay_offset"])
@pytest.mark.parametrize("offset", [[0, 3, 4], [0, 3, 4, 5], []])
def test_offsets_that_do_not_fit_are_refused(name: str, offset: list[int]):
    sessions = Sessions.from_records(RECORDS)
    with pytest.raises(ValueError, match=name):
        replace(sessions, **{name: np.array(offset, dtype=int)})


def test_an_unknown_intervention_is_refused():
    with pytest.raises(ValueError):
        Sessions.from_records([SessionRecord("p", 0, 1.0, (), (ReplayRecord("mute", "think", 0.0),))])
