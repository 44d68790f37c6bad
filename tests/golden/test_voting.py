"""Voting and its credit rules: hand-worked values, the second implementation, exact expectations."""

from __future__ import annotations

import importlib.util
import itertools
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ccpo.credit.ballots import marginal, own_correctness_credit, resampled, shapley
from ccpo.credit.base import CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState
from ccpo.plurality import TIES, values_of_codes, values_without, vote_value
from ccpo.step import StepSettings, compute_advantages
from ccpo.types import REMOVE, ReplayRecord, SessionRecord, Sessions, TurnRecord

_spec = importlib.util.spec_from_file_location("reference_voting", Path(__file__).with_name("reference_voting.py"))
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

F = Fraction
LABELS = ("C", "W", "X", None)  # C is the truth, W and X are different wrong answers, None abstains
ALL_TIES = ("expected", "fail", "optimistic", "first")
TOLERANCE = 1e-12


def _codes(ballots, truth) -> np.ndarray:
    """(1, V) codes as `Sessions` holds them: the truth is 0, abstentions are negative."""
    number = {truth: 0}
    return np.array([[-1 if b is None else number.setdefault(b, len(number)) for b in ballots]])


def leave_one_out(ballots, truth, tie: str = "expected") -> list[float]:
    """From columns: R(b) - R(b_-i) of one vote."""
    codes_1V = _codes(ballots, truth)
    value_1 = values_of_codes(codes_1V, int(codes_1V.max(initial=0)) + 1, 0, tie)
    return (value_1[:, None] - values_without(codes_1V, tie))[0].tolist()


def own_correctness(ballots, truth) -> list[float]:
    cast = {f"voter_{i}": ballot for i, ballot in enumerate(ballots)}
    sessions = Sessions.from_records([SessionRecord("p", 0, 0.0, (), (), cast, truth)])
    return own_correctness_credit(sessions, HistoryState(), CreditConfig(), HistoryConfig()).credit_SV[0].tolist()


def _credit(rule: str, votes: list, truth, tie: str) -> list[list[float]]:
    """(S, V) credit of one prompt's sessions, each with the removal replays of its vote, through the step as a trainer calls it."""
    roles = [f"voter_{i}" for i in range(len(votes[0]))]
    records = []
    for session, ballots in enumerate(votes):
        ballots = list(ballots)
        without = [vote_value(ballots[:i] + ballots[i + 1 :], truth, tie) for i in range(len(ballots))]
        replays = tuple(ReplayRecord(REMOVE, role, b) for role, b in zip(roles, without, strict=True))
        turns, cast = tuple(map(TurnRecord, roles)), dict(zip(roles, ballots, strict=True))
        records.append(SessionRecord("p", session, vote_value(ballots, truth, tie), turns, replays, cast, truth))
    settings = StepSettings(CreditConfig(rule, "none"))
    return compute_advantages(Sessions.from_records(records, roles, tie), settings).credit_SV.tolist()


def _ballots(word: str) -> list[str | None]:
    return [None if letter == "-" else letter for letter in word]


def _close(got, want) -> bool:
    return len(got) == len(want) and all(abs(a - b) <= TOLERANCE for a, b in zip(got, want, strict=True))


def _close_table(got, want) -> bool:
    return len(got) == len(want) and all(_close(a, b) for a, b in zip(got, want, strict=True))


def _profiles(n: int) -> list[tuple]:
    """Every profile of n ballots; from five voters on, a seeded sample."""
    if n <= 4:
        return list(itertools.product(LABELS, repeat=n))
    draw = random.Random(n)
    return [tuple(draw.choices(LABELS, k=n)) for _ in range(80)]


def _random_prompts(count: int, seed: int, labels: int = 4) -> list[list[tuple]]:
    """Prompts of 2-5 sessions and 2-4 voters; each voter has its own favourites, as real voters do."""
    draw = random.Random(seed)
    prompts = []
    for _ in range(count):
        pool = ["C", "W", "X", "Y"][: draw.randint(1, labels)] + [None]
        sessions, voters = draw.randint(2, 5), draw.randint(2, 4)
        weights = [[draw.random() for _ in pool] for _ in range(voters)]
        prompts.append([tuple(draw.choices(pool, w)[0] for w in weights) for _ in range(sessions)])
    return prompts


PROMPTS = _random_prompts(60, seed=3)


def test_the_tie_rules_have_the_agreed_names():
    assert tuple(TIES) == ALL_TIES


# -------------------------------------------------------------------------------------------------------- hand-worked

TABLE = [  # ballots, tie, team reward, leave-one-out
    ("CCC", "expected", 1, (0, 0, 0)),
    ("CCC", "fail", 1, (0, 0, 0)),
    ("CCC", "optimistic", 1, (0, 0, 0)),
    ("CCW", "expected", 1, (F(1, 2), F(1, 2), 0)),
    ("CCW", "fail", 1, (1, 1, 0)),
    ("CCW", "optimistic", 1, (0, 0, 0)),
    ("CWW", "expected", 0, (0, F(-1, 2), F(-1, 2))),
    ("CWW", "fail", 0, (0, 0, 0)),
    ("CWW", "optimistic", 0, (0, -1, -1)),
    ("CWX", "expected", F(1, 3), (F(1, 3), F(-1, 6), F(-1, 6))),
    ("CWX", "fail", 0, (0, 0, 0)),
    ("CWX", "optimistic", 1, (1, 0, 0)),
    ("WWW", "expected", 0, (0, 0, 0)),
    ("WWW", "fail", 0, (0, 0, 0)),
    ("WWW", "optimistic", 0, (0, 0, 0)),
    # the lowest voter index wins a tie, so the order of the voters matters
    ("CCC", "first", 1, (0, 0, 0)),
    ("CCW", "first", 1, (0, 0, 0)),  # without voter 0 or 1: C, W -> C
    ("CWC", "first", 1, (1, 0, 0)),  # without voter 0: W, C -> W
    ("WCC", "first", 1, (0, 1, 1)),  # without voter 1 or 2: W, C -> W
    ("CWW", "first", 0, (0, -1, -1)),  # without voter 1 or 2: C, W -> C
    ("WCW", "first", 0, (-1, 0, 0)),  # without voter 0: C, W -> C
    ("WWC", "first", 0, (0, 0, 0)),
    ("CWX", "first", 1, (1, 0, 0)),
    ("WCX", "first", 0, (-1, 0, 0)),
    ("WXC", "first", 0, (0, 0, 0)),
    ("WWW", "first", 0, (0, 0, 0)),
    ("WCCW", "first", 0, (-1, 0, 0, -1)),  # two against two; voter 0 decides
    ("XCCWW", "first", 1, (0, 1, 1, 0, 0)),  # X is ahead of all, and not among the tied
    ("-WC", "first", 0, (0, -1, 0)),  # an abstaining voter 0 decides nothing
    ("-CW", "first", 1, (0, 1, 0)),
    # abstentions are no ballots
    ("---", "expected", 0, (0, 0, 0)),
    ("---", "fail", 0, (0, 0, 0)),
    ("---", "optimistic", 0, (0, 0, 0)),
    ("---", "first", 0, (0, 0, 0)),
    ("C--", "expected", 1, (1, 0, 0)),
    ("C--", "fail", 1, (1, 0, 0)),
    ("W--", "expected", 0, (0, 0, 0)),  # without it all abstain: 0 as well
    ("CC-", "expected", 1, (0, 0, 0)),
    ("CW-", "expected", F(1, 2), (F(1, 2), F(-1, 2), 0)),
    ("CW-", "fail", 0, (0, -1, 0)),
    ("CW-", "optimistic", 1, (1, 0, 0)),
    ("CWX-", "expected", F(1, 3), (F(1, 3), F(-1, 6), F(-1, 6), 0)),
    # a truth that nobody gave
    ("WWX", "expected", 0, (0, 0, 0)),
    ("WX", "expected", 0, (0, 0)),
    ("WX", "optimistic", 0, (0, 0)),
    ("WX", "first", 0, (0, 0)),
    ("W-X", "fail", 0, (0, 0, 0)),
    # one voter, five voters
    ("C", "expected", 1, (1,)),
    ("-", "expected", 0, (0,)),
    ("CCWWX", "expected", F(1, 2), (F(1, 2), F(1, 2), F(-1, 2), F(-1, 2), 0)),
    ("CCCWW", "expected", 1, (F(1, 2), F(1, 2), F(1, 2), 0, 0)),
    ("CCWWW", "fail", 0, (0, 0, 0, 0, 0)),
]


@pytest.mark.parametrize(("word", "tie", "reward", "credit"), TABLE, ids=[f"{row[0]}-{row[1]}" for row in TABLE])
def test_hand_worked_votes(word, tie, reward, credit):
    assert vote_value(_ballots(word), "C", tie) == pytest.approx(float(reward), abs=TOLERANCE)
    assert _close(leave_one_out(_ballots(word), "C", tie), credit)
    assert reference.value(_ballots(word), "C", tie) == reward
    assert reference.leave_one_out(_ballots(word), "C", tie) == list(credit)


SHAPLEY = [
    ("CCC", (F(1, 3), F(1, 3), F(1, 3))),
    ("CCW", (F(7, 12), F(7, 12), F(-1, 6))),
    ("CWW", (F(1, 2), F(-1, 4), F(-1, 4))),
    ("CWX", (F(11, 18), F(-5, 36), F(-5, 36))),
    ("WWW", (0, 0, 0)),
    ("C--", (1, 0, 0)),
    ("CW-", (F(3, 4), F(-1, 4), 0)),  # C adds 1 or 1/2; W adds 0 or -1/2
    ("---", (0, 0, 0)),
]


@pytest.mark.parametrize(("word", "credit"), SHAPLEY, ids=[row[0] for row in SHAPLEY])
def test_hand_worked_shapley(word, credit):
    assert _close(shapley(_ballots(word), "C"), credit)
    assert reference.shapley(_ballots(word), "C") == list(credit)


def test_own_correctness_is_one_for_the_truth_and_zero_for_a_wrong_answer_or_an_abstention():
    assert list(own_correctness(_ballots("CW-XC"), "C")) == [1, 0, 0, 0, 1]


def test_hand_worked_marginal_and_resampled():
    """Two voters, three sessions, expected ties: CC, CW, WC. Each voter gave C, C, W in some order."""
    sessions = [_ballots("CC"), _ballots("CW"), _ballots("WC")]
    # marginal, voter 0: session 0: 1 - (1 + 1/2)/2; session 1: 1/2 - (1/2 + 0)/2; session 2: 1/2 - (1 + 1)/2.
    # Voter 1 is the same with sessions 1 and 2 exchanged.
    assert _close_table(marginal(sessions, "C"), [(F(1, 4), F(1, 4)), (F(1, 4), F(-1, 2)), (F(-1, 2), F(1, 4))])
    # resampled: Q(C) = 2/3 * 1 + 1/3 * 1/2 = 5/6, Q(W) = 2/3 * 1/2 = 1/3
    assert _close_table(resampled(sessions, "C"), [(F(1, 4), F(1, 4)), (F(1, 4), F(-1, 2)), (F(-1, 2), F(1, 4))])
    # They part where the co-voter's ballot of the session is not typical. Voter 0: C, W, W; voter 1: W, C, C.
    sessions = [_ballots("CW"), _ballots("WC"), _ballots("WC")]
    assert _close(marginal(sessions, "C")[0], (F(1, 2), F(-1, 2)))
    sessions = [_ballots("C-"), _ballots("WC"), _ballots("WC")]
    assert _close(marginal(sessions, "C")[0], (1, 0))  # R(C, -) - R(W, -); R(C, -) - R(C, C)
    # Q_0(C) = 1/3 + 2/3 = 1, Q_0(W) = 2/3 * 1/2 = 1/3; Q_1(C) = 1/3 + 2/3 * 1/2 = 2/3, Q_1(-) = 1/3
    assert _close(resampled(sessions, "C")[0], (F(2, 3), F(-1, 3)))


@pytest.mark.parametrize("rule", [marginal, resampled])
@pytest.mark.parametrize("word", ["CCW", "C-X", "C"])
def test_a_single_session_has_nothing_to_compare_with(rule, word):
    assert _close_table(rule([_ballots(word)], "C"), [[0] * len(word)])


# ------------------------------------------------------------------------------------------- the second implementation


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("tie", ALL_TIES)
def test_every_profile_equals_the_reference(n, tie):
    for ballots in _profiles(n):
        assert abs(vote_value(ballots, "C", tie) - reference.value(ballots, "C", tie)) <= TOLERANCE, ballots
        assert _close(leave_one_out(ballots, "C", tie), reference.leave_one_out(ballots, "C", tie)), ballots
        assert _close(shapley(ballots, "C", tie), reference.shapley(ballots, "C", tie)), ballots
        assert _close(own_correctness(ballots, "C"), reference.own_correctness(ballots, "C")), ballots


@pytest.mark.parametrize("tie", ALL_TIES)
def test_the_references_two_forms_of_shapley_agree(tie):
    for n in (1, 2, 3, 4):
        for ballots in _profiles(n):
            assert reference.shapley(ballots, "C", tie) == reference.shapley_by_orders(ballots, "C", tie), ballots


@pytest.mark.parametrize("tie", ALL_TIES)
@pytest.mark.parametrize("rule", ["leave_one_out", "shapley", "own_correctness", "marginal", "resampled"])
def test_every_rule_of_a_step_equals_the_reference(rule, tie):
    """From columns, in which labels are codes."""
    for sessions in PROMPTS:
        if rule in ("marginal", "resampled"):
            want = getattr(reference, rule)(sessions, "C", tie)
        else:
            of_one, ties = getattr(reference, rule), [tie] * (rule != "own_correctness")
            want = [of_one(ballots, "C", *ties) for ballots in sessions]
        assert _close_table(_credit(rule, sessions, "C", tie), want), sessions


@pytest.mark.parametrize("tie", ALL_TIES)
@pytest.mark.parametrize("rule", ["marginal", "resampled"])
def test_random_prompts_equal_the_reference(rule, tie):
    package = {"marginal": marginal, "resampled": resampled}[rule]
    for sessions in PROMPTS:
        want = getattr(reference, rule)(sessions, "C", tie)
        assert _close_table(package([list(ballots) for ballots in sessions], "C", tie), want), sessions


@pytest.mark.parametrize("tie", ALL_TIES)
def test_five_voters_and_six_labels_equal_the_reference(tie):
    draw = random.Random(8)
    for _ in range(3):
        sessions = [draw.choices(["C", "C", "W", "X", "Y", "Z", None], k=5) for _ in range(4)]
        assert _close_table(resampled(sessions, "C", tie), reference.resampled(sessions, "C", tie)), sessions
        assert _close_table(marginal(sessions, "C", tie), reference.marginal(sessions, "C", tie)), sessions


@pytest.mark.parametrize("tie", ["expected", "first"])
def test_resampled_of_too_many_combinations_is_drawn_close_to_the_exact_value_and_repeatable(tie):
    """Three voters, 38 different ballots each: 54,872 combinations. 2,000 draws have a standard error of 0.011."""
    draw = random.Random(5)
    cast = ["C"] * 23 + [None] * 2 + [f"W{i}" for i in range(36)]
    sessions = list(zip(*(draw.sample(cast, k=len(cast)) for _ in range(3)), strict=True))
    got = resampled(sessions, "C", tie)
    want = reference.resampled_of_voter(1, sessions, "C", tie)  # of one voter: the reference is slow
    assert max(abs(row[1] - exact) for row, exact in zip(got, want, strict=True)) < 0.02
    assert max(want) > 0.15  # the tolerance is small beside the credit
    assert resampled(sessions, "C", tie) == got


# ----------------------------------------------------------------------------------------------------------- invariants


@pytest.mark.parametrize("tie", ALL_TIES)
def test_shapley_is_efficient_symmetric_and_gives_an_abstainer_nothing(tie):
    for ballots in _profiles(4) + _profiles(6)[:100]:
        credit = shapley(ballots, "C", tie)
        assert abs(sum(credit) - vote_value(ballots, "C", tie)) <= TOLERANCE, ballots
        for i, ballot in enumerate(ballots):
            if ballot is None:
                assert abs(credit[i]) <= TOLERANCE, ballots
            if tie != "first":  # there, equal ballots of different voters are not interchangeable
                twins = [credit[j] for j, other in enumerate(ballots) if other == ballot]
                assert max(twins) - min(twins) <= TOLERANCE, ballots


def test_shapley_has_a_limit_of_ten_voters():
    ballots = ["C", "C", "C", "C", "W", "W", "W", "X", "X", None]
    assert sum(shapley(ballots, "C")) == pytest.approx(1)
    with pytest.raises(ValueError, match="10"):
        shapley([*ballots, "C"], "C")


@pytest.mark.parametrize("tie", ["expected", "fail", "optimistic"])
def test_permuting_voters_permutes_credit(tie):
    for ballots in _profiles(3) + _profiles(6)[:50]:
        order = list(range(len(ballots)))
        random.Random(str(ballots)).shuffle(order)
        permuted = [ballots[i] for i in order]
        for rule in (leave_one_out, shapley):
            credit = rule(ballots, "C", tie)
            assert _close(rule(permuted, "C", tie), [credit[i] for i in order]), (rule, ballots)
    for sessions in PROMPTS:
        order = list(range(len(sessions[0])))
        random.Random(str(sessions)).shuffle(order)
        for rule in (marginal, resampled):
            credit = rule(sessions, "C", tie)
            permuted = rule([[ballots[i] for i in order] for ballots in sessions], "C", tie)
            assert _close_table(permuted, [[row[i] for i in order] for row in credit]), (rule, sessions)


@pytest.mark.parametrize("tie", ALL_TIES)
@pytest.mark.parametrize("rule", [marginal, resampled])
def test_permuting_sessions_permutes_rows(rule, tie):
    for sessions in PROMPTS:
        order = list(range(len(sessions)))
        random.Random(str(sessions)).shuffle(order)
        credit = rule(sessions, "C", tie)
        assert _close_table(rule([sessions[k] for k in order], "C", tie), [credit[k] for k in order]), sessions


@pytest.mark.parametrize("tie", ALL_TIES)
def test_wrong_answers_are_only_names(tie):
    """Renaming changes nothing; 0, the empty text and False-like labels are ballots, only None abstains."""
    names = {"C": "C", "W": 0, "X": "", "Y": (), None: None}
    swap = {"C": "C", "W": "Y", "X": "W", "Y": "X", None: None}
    for renaming, truth in ((names, "C"), (swap, "C"), ({**names, "C": 0, "W": "C"}, 0)):
        for ballots in _profiles(3) + _profiles(4):
            renamed = [renaming[ballot] for ballot in ballots]
            assert vote_value(renamed, truth, tie) == vote_value(ballots, "C", tie), renamed
            assert _close(leave_one_out(renamed, truth, tie), leave_one_out(ballots, "C", tie)), renamed
            assert _close(shapley(renamed, truth, tie), shapley(ballots, "C", tie)), renamed
            assert list(own_correctness(renamed, truth)) == list(own_correctness(ballots, "C")), renamed
        for sessions in PROMPTS[:30]:
            renamed = [[renaming[ballot] for ballot in ballots] for ballots in sessions]
            for rule in (marginal, resampled):
                assert _close_table(rule(renamed, truth, tie), rule(sessions, "C", tie)), renamed


# --------------------------------------------------------------------------------------- unbiasedness, by enumeration


def _voters(labels: tuple, count: int) -> list[dict]:
    """Unequal voters with full support, as exact softmax distributions."""
    weights = [(5, 2, 3, 1), (2, 4, 1, 3), (3, 3, 5, 2)]
    voters = []
    for i in range(count):
        total = sum(weights[i][: len(labels)])
        voters.append({label: F(weight, total) for label, weight in zip(labels, weights[i], strict=False)})
    return voters


CASES = {  # name: (labels, voters, sessions)
    "two voters, two sessions": (LABELS, 2, 2),
    "two voters, three sessions": (("C", "W", None), 2, 3),
    "three voters, two sessions": (("C", "W", "X"), 3, 2),
}

RULES_OF_A_SESSION = {"leave_one_out": leave_one_out, "shared": lambda b, t, tie: [vote_value(b, t, tie)] * len(b)}
RULES_OF_A_PROMPT = {"marginal": marginal, "resampled": resampled}


def _gap(a: list[dict], b: list[dict]) -> float:
    return max(abs(x[label] - y[label]) for x, y in zip(a, b, strict=True) for label in x)


@pytest.mark.parametrize("rule", ["shared", "leave_one_out"])
@pytest.mark.parametrize("tie", ALL_TIES)
def test_leave_one_out_is_unbiased_for_the_team_reward(rule, tie):
    """The value without voter i does not depend on voter i's ballot: a baseline, whatever the tie rule."""
    voters = _voters(LABELS, 3)
    want = reference.team_gradient(voters, "C", tie)
    if rule == "leave_one_out":
        exact = reference.expected_score_gradient(
            lambda sessions: [reference.leave_one_out(ballots, "C", tie) for ballots in sessions], voters, 1
        )
        assert exact == want  # fractions: equal, not close
    package = RULES_OF_A_SESSION[rule]
    got = reference.expected_score_gradient(
        lambda sessions: [package(ballots, "C", tie) for ballots in sessions], voters, 1
    )
    assert _gap(got, want) <= TOLERANCE


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tie", ALL_TIES)
@pytest.mark.parametrize("rule", ["marginal", "resampled"])
def test_marginal_and_resampled_are_unbiased_for_the_team_reward(rule, case, tie):
    """What is subtracted comes from the voter's other sessions, which its ballot does not touch; resampled also needs
    voters that are independent given the prompt, as they are here."""
    labels, count, n_sessions = CASES[case]
    voters = _voters(labels, count)
    want = reference.team_gradient(voters, "C", tie)
    exact_rule, package_rule = getattr(reference, rule), RULES_OF_A_PROMPT[rule]
    exact = reference.expected_score_gradient(lambda sessions: exact_rule(sessions, "C", tie), voters, n_sessions)
    assert exact == want
    got = reference.expected_score_gradient(lambda sessions: package_rule(sessions, "C", tie), voters, n_sessions)
    assert _gap(got, want) <= TOLERANCE


def _session_gradient(rule, voters: list[dict]) -> list[dict]:
    return reference.expected_score_gradient(lambda sessions: [rule(b) for b in sessions], voters, 1)


def test_own_correctness_is_not_the_team_gradient():
    """Its direction for a voter alone differs (it does not care what a wrong voter says, the team does), and so
    does the weight it gives to one voter against another."""
    voters = _voters(LABELS, 3)
    team = reference.team_gradient(voters, "C", "expected")
    own = _session_gradient(lambda ballots: own_correctness(ballots, "C"), voters)
    for voter, of_team, of_own in zip(voters, team, own, strict=True):
        # Per unit of probability, W and None are the same to own_correctness; an abstention is better for the team.
        assert of_own["W"] / voter["W"] == pytest.approx(of_own[None] / voter[None])
        assert of_team["W"] / voter["W"] < of_team[None] / voter[None]
    weight = [of_own["C"] / of_team["C"] for of_team, of_own in zip(team, own, strict=True)]
    assert max(weight) > 1.05 * min(weight)


def test_own_correctness_is_the_team_gradient_for_two_voters_that_never_abstain():
    """The exception: there E[R] is the mean of the two accuracies, so the control is 2 x the team gradient."""
    voters = _voters(("C", "W"), 2)
    team = reference.team_gradient(voters, "C", "expected")
    own = _session_gradient(lambda ballots: own_correctness(ballots, "C"), voters)
    assert _gap(own, [{label: 2 * g for label, g in of_voter.items()} for of_voter in team]) <= TOLERANCE


def test_shapley_is_not_the_team_gradient():
    """It also pays for coalitions that never vote: it is not the team reward minus a baseline."""
    voters = _voters(LABELS, 3)
    team = reference.team_gradient(voters, "C", "expected")
    got = _session_gradient(lambda ballots: shapley(ballots, "C"), voters)
    ratio = [got[i]["C"] / float(team[i]["C"]) for i in range(3)]
    assert max(ratio) > 1.02 * min(ratio)  # not parallel either


def test_resampled_needs_independent_voters():
    """Three voters that all read the same fair hint, easy or hard: resampling mixes easy co-voters into hard
    sessions and gets another gradient. marginal keeps the session's co-voters and stays unbiased."""
    right = {"easy": (F(9, 10), F(4, 5), F(3, 4)), "hard": (F(2, 5), F(1, 5), F(1, 10))}
    policies = {hint: [{"C": p, "W": 1 - p} for p in of_hint] for hint, of_hint in right.items()}
    want = {hint: reference.team_gradient(voters, "C", "expected") for hint, voters in policies.items()}
    rules = {reference.marginal: True, marginal: True, reference.resampled: False, resampled: False}
    for rule, unbiased in rules.items():
        got = {hint: [dict.fromkeys("CW", 0) for _ in voters] for hint, voters in policies.items()}
        draws = [(hint, b, float(p)) for hint, voters in policies.items() for b, p in reference.outcomes(voters)]
        for (hint, ballots, p), (_, other, q) in itertools.product(draws, repeat=2):
            credit = rule([ballots, other], "C")[0]  # of the first session; the second is its mirror image
            for i, ballot in enumerate(ballots):
                for label, probability in policies[hint][i].items():
                    got[hint][i][label] += p * q / 2 * float(credit[i]) * float((label == ballot) - probability)
        assert (max(_gap(got[hint], want[hint]) for hint in policies) <= TOLERANCE) == unbiased, rule


# ------------------------------------------------------------------------------------- correlation with own correctness

CORRELATION = {  # accuracy in tenths: shared, leave-one-out (expected), leave-one-out (fail), marginal
    3: (0.468, 0.615, 0.580, 0.648),
    5: (0.500, 0.707, 0.577, 0.707),
    7: (0.468, 0.615, 0.422, 0.648),
    9: (0.327, 0.271, 0.147, 0.424),
}


@pytest.mark.parametrize("tenths", CORRELATION)
def test_correlation_of_credit_with_own_correctness(tenths):
    """Three voters of equal accuracy whose wrong answers are all the same answer. The marginal column is its limit of
    many sessions: here the other sessions of the prompt hold each ballot exactly as often as the voter gives it."""
    voter = {"C": F(tenths, 10), "W": F(10 - tenths, 10)}
    others = [(ballot,) * 3 for ballot in "C" * tenths + "W" * (10 - tenths)]
    columns: list[list] = [[], [], [], []]
    for ballots, probability in reference.outcomes([voter] * 3):
        credits = (
            vote_value(ballots, "C"),
            leave_one_out(ballots, "C")[0],
            leave_one_out(ballots, "C", "fail")[0],
            marginal([ballots, *others], "C")[0][0],
        )
        own = own_correctness(ballots, "C")[0]
        for column, credit in zip(columns, credits, strict=True):
            column.append((float(probability), credit, own))
    got = [round(reference.correlation(column), 3) for column in columns]
    assert got == list(CORRELATION[tenths])
