"""What is logged about votes and about roles, and what validation says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ccpo.credit.base import CreditConfig
from ccpo.credit.rules import fitting
from ccpo.metrics import contribution, cosine, plurality_metrics, session_rates, validation_scores
from ccpo.plurality import vote_value
from ccpo.step import StepSettings, compute_advantages
from ccpo.team.plan import plan
from ccpo.team.vote import Vote
from ccpo.types import REMOVE, REPLACE, RESAMPLE, ReplayRecord, SessionRecord, Sessions, TurnRecord

A, B, C = "a", "b", "c"
VOTES = {("p", 0): (A, A, B), ("p", 1): (B, B, A), ("q", 0): (A, B, C), ("q", 1): (None, None, B)}
VOTERS = ("voter_0", "voter_1", "voter_2")


def record(prompt, session, ballots, truth=A, tie="expected", roles=VOTERS) -> SessionRecord:
    """A vote with its removals; replays that resample each voter, too, to be ignored by what speaks of removals."""
    ballots = list(ballots)
    without = [vote_value(ballots[:i] + ballots[i + 1 :], truth, tie) for i in range(len(ballots))]
    removals = [ReplayRecord(REMOVE, role, b) for role, b in zip(roles, without, strict=True)]
    resamples = [ReplayRecord(RESAMPLE, role, 1.0, decoded=1) for role in roles]
    cast = dict(zip(roles, ballots, strict=True))
    turns = tuple(map(TurnRecord, roles))
    return SessionRecord(
        prompt, session, vote_value(ballots, truth, tie), turns, tuple(removals + resamples), cast, truth
    )


def sessions(votes=VOTES, tie="expected") -> Sessions:
    return Sessions.from_records([record(*key, ballots, tie=tie) for key, ballots in votes.items()], VOTERS, tie)


def step(rule: str, votes=VOTES, **credit):
    return compute_advantages(sessions(votes), StepSettings(CreditConfig(rule, **credit)))


# ----------------------------------------------------------------------------------------------------------------- votes


def test_numbers_of_four_votes():
    found = plurality_metrics(sessions())
    assert found["plurality/ballot_accuracy"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 3 + 0) / 4)
    assert found["plurality/oracle_accuracy"] == 3 / 4
    assert [found[f"voter_{i}/accuracy"] for i in range(3)] == [1 / 2, 1 / 4, 1 / 4]
    assert [found[f"voter_{i}/abstention_rate"] for i in range(3)] == [1 / 4, 1 / 4, 0]
    assert found["plurality/agreement"] == pytest.approx((1 / 3 + 1 / 3 + 0 + 0) / 4)
    two_one = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert found["plurality/entropy"] == pytest.approx((2 * two_one + math.log(3) + 0) / 4)
    assert found["plurality/pivotal_rate"] == pytest.approx((2 / 3 + 2 / 3 + 1 + 0) / 4)
    assert found["plurality/tie_rate"] == 1 / 4
    assert found["plurality/abstention_rate"] == pytest.approx(2 / 12)
    assert found["plurality/outvoted_rate"] == 1 / 4
    assert "plurality/credit_right" not in found, "no credit was given"


def test_the_tie_rule_decides_who_is_pivotal_and_who_is_outvoted():
    """AAB: without the tie rule's draw nobody is pivotal. BBA is outvoted. ABC is right if truth among the tied suffices."""
    found = plurality_metrics(sessions(tie="optimistic"))
    assert found["plurality/outvoted_rate"] == 1 / 4
    assert plurality_metrics(sessions(tie="fail"))["plurality/outvoted_rate"] == 2 / 4
    assert found["plurality/pivotal_rate"] == pytest.approx((0 + 2 / 3 + 1 / 3 + 0) / 4)


def test_credit_of_right_and_wrong_ballots():
    found = plurality_metrics(sessions(), np.arange(12.0).reshape(4, 3))
    assert found["plurality/credit_right"] == pytest.approx(np.mean([0, 1, 5, 6]))
    assert found["plurality/credit_wrong"] == pytest.approx(np.mean([2, 3, 4, 7, 8, 11])), "abstentions are neither"


def test_credit_of_right_ballots_is_absent_where_nobody_was_right():
    found = plurality_metrics(sessions({("p", 0): (B, B, C)}), np.ones((1, 3)))
    assert found["plurality/credit_wrong"] == 1 and "plurality/credit_right" not in found


def test_roles_that_cast_no_ballot_are_no_voters():
    """A panel: think speaks and does not vote. Every number is as without it, whatever its credit and place."""
    with_think = Sessions.from_records([record(*key, ballots) for key, ballots in VOTES.items()], ("think", *VOTERS))
    credit_SV = np.arange(12.0).reshape(4, 3)
    wide_SV = np.concatenate([np.full((4, 1), 99.0), credit_SV], axis=1)
    assert plurality_metrics(with_think, wide_SV) == plurality_metrics(sessions(), credit_SV)


@pytest.mark.parametrize("rule", [rule for rule in fitting(plan(Vote(3))) if rule != "random_reward"])
def test_every_rule_of_a_vote_gives_finite_advantages_that_do_not_depend_on_order(rule):
    order = np.random.default_rng(0).permutation(len(VOTES))
    mixed = dict(list(VOTES.items())[i] for i in order)
    first, second = step(rule), step(rule, mixed)
    assert np.isfinite(first.advantage_SV).all() and first.advantage_SV.any()
    np.testing.assert_allclose(first.advantage_SV[order], second.advantage_SV, atol=1e-12)
    assert first.state.steps == 1
    assert first.metrics == pytest.approx(second.metrics)


def test_shared_is_grpo_on_the_team_and_own_correctness_is_grpo_on_each_voter():
    shared = step("shared").metrics
    assert shared["credit/cosine_with_shared/all"] == pytest.approx(1)
    assert shared["credit/cosine_with_shared/voter_2"] == pytest.approx(1)
    own = step("own_correctness")
    assert own.credit_SV.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert own.advantage_SV[0, 0] == pytest.approx(-own.advantage_SV[1, 0]) and own.advantage_SV[0, 0] > 0
    assert own.metrics["credit/cosine_with_shared/all"] < 0.9
    assert own.metrics["credit/zero_rate"] == pytest.approx(4 / 12), "of q voters 1 and 2, wrong in both sessions"
    assert shared["credit/zero_rate"] == 0


def test_there_is_no_direction_in_zeros():
    found = step("leave_one_out", {("p", 0): (A, A, A), ("p", 1): (A, A, A)}).metrics
    assert not [name for name in found if "cosine" in name]
    assert cosine(np.zeros(2), np.ones(2)) is None


# ------------------------------------------------------------------------------------------------------- what roles do


def dyad(session, value, without=None, prompt="p", **turn) -> SessionRecord:
    replays = () if without is None else (ReplayRecord(REMOVE, "think", without, shared=True, decoded=1),)
    return SessionRecord(prompt, session, value, (TurnRecord("think", **turn), TurnRecord("reason")), replays)


def test_contribution_help_and_hurt():
    """Prompt p: R = 1, 0 against b = 1/2; q: R = 1 against b = 0; r has no replay and is left out."""
    table = Sessions.from_records(
        [
            dyad(0, 1.0, 1.0),
            dyad(1, 0.0, 0.0),
            dyad(0, 1.0, 0.0, "q"),
            dyad(0, 0.0, None, "r"),
        ]
    )
    assert contribution(table) == pytest.approx(
        {
            "think/contribution": (1 / 2 - 1 / 2 + 1) / 3,
            "think/help_rate": (1 / 2 + 1) / 3,
            "think/hurt_rate": (1 / 2) / 3,
        }
    )


def test_with_partial_credit_what_changes_nothing_neither_helps_nor_hurts():
    table = Sessions.from_records([dyad(0, 0.5, 0.5), dyad(0, 0.75, 0.5, "q"), dyad(0, 0.25, 0.75, "r")])
    assert contribution(table) == pytest.approx(
        {
            "think/contribution": (0.25 - 0.5) / 3,
            "think/help_rate": 0.25 / 3,
            "think/hurt_rate": 0.5 / 3,
        }
    )


def test_what_replays_cost():
    """Four sessions of two prompts: two replays decoded a turn, one of them cut; prompt q has none."""
    cut = SessionRecord("p", 2, 1.0, (), (ReplayRecord(REMOVE, "think", 0.0, True, 3, True),))
    reused = SessionRecord("q", 0, 1.0, (), (ReplayRecord(REMOVE, "reason", 0.0),))
    table = Sessions.from_records([dyad(0, 1.0, 1.0), dyad(1, 1.0), cut, reused], ("think", "reason"))
    found = compute_advantages(table, StepSettings(CreditConfig("shared"))).metrics
    assert found["replays/decodes_per_session"] == 1
    assert found["replays/truncation_rate"] == 1 / 2
    assert found["replays/prompts_without_rate"] == 1 / 2


def test_metrics_of_a_role_speak_of_the_sessions_in_which_it_spoke():
    silent = SessionRecord("p", 1, 0.0, (TurnRecord("think"),))
    table = Sessions.from_records([dyad(0, 1.0), silent])
    found = compute_advantages(table, StepSettings(CreditConfig("shared", "none"))).metrics
    assert found["think/reward_mean"] == 1 / 2 and found["reason/reward_mean"] == 1
    assert found["reason/advantage_mean"] == 1 and found["think/credit_std"] == 1 / 2


def test_session_rates():
    table = Sessions.from_records(
        [
            SessionRecord(
                "p",
                0,
                1.0,
                (TurnRecord("a", leaked=True), TurnRecord("a", True, cut=True), TurnRecord("b", parsed=True)),
            ),
            SessionRecord("p", 1, 1.0, (TurnRecord("a"), TurnRecord("b", parsed=False))),
        ],
        ("a", "b", "never"),
    )
    assert session_rates(table, expected_sessions=8) == pytest.approx(
        {
            "a/truncation_rate": 1 / 3,
            "a/cut_rate": 1 / 3,
            "a/turns_per_session": 3 / 2,
            "a/leak_rate": 1 / 3,
            "b/truncation_rate": 0,
            "b/cut_rate": 0,
            "b/turns_per_session": 1,
            "b/parse_failure_rate": 1 / 2,
            "sessions/dropped_rate": 6 / 8,
        }
    )
    assert session_rates(Sessions.from_records([], ("a",)), 0) == {"sessions/dropped_rate": 0}


# ------------------------------------------------------------------------------------------------------------ validation


def test_validation_scores_of_votes():
    found = validation_scores(sessions(), {})
    assert found["team_accuracy"] == pytest.approx(1 / 3) and found["sessions"] == 4
    assert found["oracle_accuracy"] == 3 / 4
    assert found["ballot_accuracy"] == pytest.approx(1 / 3)
    assert [found[f"voter_{i}/accuracy"] for i in range(3)] == [1 / 2, 1 / 4, 1 / 4]
    removed = [[1 / 2, 1 / 2, 1], [1 / 2, 1 / 2, 0], [0, 1 / 2, 1 / 2], [0, 0, 0]]
    for i in range(3):
        assert found[f"voter_{i}/contribution"] == pytest.approx(1 / 3 - np.mean([row[i] for row in removed]))
    assert "tie_rate" not in found, "what the votes were like is the training's"


def test_validation_scores_of_a_dyad_name_its_replays():
    replays = (
        ReplayRecord(REMOVE, "think", 0.0, True, 1),
        ReplayRecord(REMOVE, "reason", 0.0),
        ReplayRecord(REPLACE, "think", 1.0, decoded=1),
    )
    turns = (TurnRecord("think"), TurnRecord("reason"))
    table = Sessions.from_records([SessionRecord(0, 0, 1.0, turns, replays), SessionRecord(1, 0, 0.0, turns, replays)])
    found = validation_scores(table, {(REMOVE, "think"): "solo", (REPLACE, "think"): "emptied"})
    assert found == {
        "sessions": 2,
        "team_accuracy": 1 / 2,
        "solo_accuracy": 0,
        "emptied_accuracy": 1,
        "think/contribution": 1 / 2,
        "think/help_rate": 1 / 2,
        "think/hurt_rate": 0,
        "reason/contribution": 1 / 2,
        "reason/help_rate": 1 / 2,
        "reason/hurt_rate": 0,
    }


def test_validation_of_nothing():
    assert validation_scores(Sessions.from_records([], ("think",)), {(REMOVE, "think"): "solo"}) == {"sessions": 0}
