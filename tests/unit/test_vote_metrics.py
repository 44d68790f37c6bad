"""What is logged about votes, and how credit reaches every row of a vote."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ccpo.config import VOTE_RULES, CcpoConfig
from ccpo.credit.advantage import compute_advantages
from ccpo.credit.history import HistoryState
from ccpo.metrics import validation_scores, vote_metrics
from ccpo.plurality import vote_value
from ccpo.types import CreditTable

A, B, C = "a", "b", "c"
SESSIONS = {("p", 0): (A, A, B), ("p", 1): (B, B, A), ("q", 0): (A, B, C), ("q", 1): (None, None, B)}


def table(sessions=SESSIONS, truth=A) -> CreditTable:
    return CreditTable.from_rows(
        [
            (prompt, session, f"voter_{i}", vote_value(ballots, truth), ballot, truth)
            for (prompt, session), ballots in sessions.items()
            for i, ballot in enumerate(ballots)
        ]
    )


def config(rule="leave_one_out", **credit) -> CcpoConfig:
    return CcpoConfig.from_dict({"topology": "vote", "credit": {"rule": rule, **credit}}, n=2)


def test_numbers_of_four_votes():
    found = vote_metrics(table(), np.zeros(12), np.zeros(12), "expected")
    assert found["vote/team_accuracy"] == pytest.approx((1 + 0 + 1 / 3 + 0) / 4)
    assert found["vote/voter_accuracy"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 3 + 0) / 4)
    assert found["vote/oracle_accuracy"] == 3 / 4
    assert [found[f"voter_{i}/accuracy"] for i in range(3)] == [1 / 2, 1 / 4, 1 / 4]
    assert found["vote/agreement"] == pytest.approx((1 / 3 + 1 / 3 + 0 + 0) / 4)
    two_one = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert found["vote/entropy"] == pytest.approx((2 * two_one + math.log(3) + 0) / 4)
    assert found["vote/pivotal_rate"] == pytest.approx((2 / 3 + 2 / 3 + 1 + 0) / 4)
    assert found["vote/tie_rate"] == 1 / 4
    assert found["vote/abstention_rate"] == pytest.approx(2 / 12)
    assert found["vote/outvoted_rate"] == 1 / 4
    assert "credit/cosine_with_shared/voters" not in found, "there is no direction in zeros"


def test_credit_of_right_and_wrong_ballots():
    credit = np.arange(12.0)
    found = vote_metrics(table(), credit, credit, "expected")
    assert found["vote/credit_right"] == pytest.approx(np.mean([0, 1, 5, 6]))
    assert found["vote/credit_wrong"] == pytest.approx(np.mean([2, 3, 4, 7, 8, 11])), "abstentions are neither"


@pytest.mark.parametrize("rule", VOTE_RULES)
def test_every_rule_gives_finite_advantages_that_do_not_depend_on_row_order(rule):
    rows = table()
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = CreditTable(
        *(getattr(rows, name)[order] for name in ("group_R", "session_R", "role_R", "reward_R", "ballot_R", "truth_R"))
    )
    first, second = (compute_advantages(t, config(rule), HistoryState()) for t in (rows, mixed))
    assert np.isfinite(first.advantage_R).all() and first.advantage_R.any()
    np.testing.assert_allclose(first.advantage_R[order], second.advantage_R, atol=1e-12)
    assert first.state.steps == 1


def test_shared_is_grpo_on_the_team_and_own_correctness_is_grpo_on_each_voter():
    shared = compute_advantages(table(), config("shared"), HistoryState())
    assert shared.metrics["credit/cosine_with_shared/voters"] == pytest.approx(1)
    own = compute_advantages(table(), config("own_correctness"), HistoryState())
    assert list(own.credit_R) == [1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert own.advantage_R[0] == pytest.approx(-own.advantage_R[3]) and own.advantage_R[0] > 0


def test_a_table_without_a_voter_or_without_ballots_is_refused():
    rows = [("p", 0, "voter_0", 1.0, A, A), ("p", 0, "voter_1", 1.0, A, A), ("p", 1, "voter_0", 1.0, A, A)]
    with pytest.raises(ValueError, match="different voters"):
        compute_advantages(CreditTable.from_rows(rows), config(), HistoryState())
    with pytest.raises(ValueError, match="ballot_R"):
        compute_advantages(CreditTable.from_rows([row[:4] for row in rows]), config(), HistoryState())


def facts(sessions, final=True) -> list[dict]:
    return [
        {"role": f"voter_{i}", "session": key, "reward": 0.0, "ballot": ballot, "truth": A, "final": final}
        for key, ballots in sessions.items()
        for i, ballot in enumerate(ballots)
    ]


def test_validation_scores_of_votes_count_the_last_round_only():
    found = validation_scores(facts(SESSIONS) + facts({"early": (A, A, A)}, final=False), "expected")
    assert found["team_accuracy"] == pytest.approx(1 / 3) and found["sessions"] == 4
    assert found["oracle_accuracy"] == 3 / 4
    assert [found[f"voter_{i}_accuracy"] for i in range(3)] == [1 / 2, 1 / 4, 1 / 4]
    assert found["voter_accuracy"] == pytest.approx(1 / 3)


def test_validation_scores_of_a_dyad():
    rows = [("think", 1.0), ("solo", 0.0), ("emptied", 0.0), ("reason", 1.0)]
    found = validation_scores(
        [{"role": role, "reward": reward, "final": True, "session": 0} for role, reward in rows], "expected"
    )
    assert found == {
        "team_accuracy": 1.0,
        "solo_accuracy": 0.0,
        "emptied_accuracy": 0.0,
        "marginal_contribution": 1.0,
        "sessions": 1.0,
    }
