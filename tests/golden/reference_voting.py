"""A second, slow and plain implementation of voting and its credit rules, to check the package against.

Written from the method's description alone: exact fractions, plain loops over every subset or combination, no code
shared with ``ccpo.plurality`` and ``ccpo.credit.voting``. A ballot is a label or None, an abstention.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from functools import cache
from math import factorial, sqrt

Ballots = Sequence[Hashable | None]


@cache
def _value(ballots: tuple, truth: Hashable, tie: str) -> Fraction:
    given = [ballot for ballot in ballots if ballot is not None]
    if not given:
        return Fraction(0)
    most = max(given.count(ballot) for ballot in given)
    tied = []  # in the order of the lowest voter that gave the answer
    for ballot in given:
        if given.count(ballot) == most and ballot not in tied:
            tied.append(ballot)
    if tie == "expected":
        return Fraction(1, len(tied)) if truth in tied else Fraction(0)
    if tie == "fail":
        return Fraction(int(tied == [truth]))
    if tie == "optimistic":
        return Fraction(int(truth in tied))
    if tie == "first":
        return Fraction(int(tied[0] == truth))
    raise AssertionError(tie)


def value(ballots: Ballots, truth: Hashable, tie: str = "expected") -> Fraction:
    return _value(tuple(ballots), truth, tie)


def leave_one_out(ballots: Ballots, truth: Hashable, tie: str = "expected") -> list[Fraction]:
    full = value(ballots, truth, tie)
    return [
        full - value([ballot for j, ballot in enumerate(ballots) if j != i], truth, tie) for i in range(len(ballots))
    ]


def shapley(ballots: Ballots, truth: Hashable, tie: str = "expected") -> list[Fraction]:
    """Sum over the coalitions S without i of |S|! (N - 1 - |S|)! / N! times (v(S + i) - v(S))."""
    n = len(ballots)

    def worth(coalition: tuple[int, ...]) -> Fraction:
        return value([ballots[j] for j in coalition], truth, tie)

    credit = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        total = Fraction(0)
        for size in range(n):
            weight = Fraction(factorial(size) * factorial(n - 1 - size), factorial(n))
            for coalition in itertools.combinations(others, size):
                total += weight * (worth(tuple(sorted((*coalition, i)))) - worth(coalition))
        credit.append(total)
    return credit


def shapley_by_orders(ballots: Ballots, truth: Hashable, tie: str = "expected") -> list[Fraction]:
    """The definition: what a voter adds when the voters arrive one by one, averaged over all orders of arrival."""
    n = len(ballots)
    credit = [Fraction(0)] * n
    for order in itertools.permutations(range(n)):
        present: list[int] = []
        before = Fraction(0)
        for i in order:
            present.append(i)
            after = value([ballots[j] for j in sorted(present)], truth, tie)
            credit[i] += (after - before) / factorial(n)
            before = after
    return credit


def own_correctness(ballots: Ballots, truth: Hashable, price: float = 0) -> list[Fraction]:
    """A wrong ballot costs the price; nothing was said: 0."""
    worth = {True: Fraction(1), False: -Fraction(price)}
    return [Fraction(0) if ballot is None else worth[ballot == truth] for ballot in ballots]


def marginal(sessions: Sequence[Ballots], truth: Hashable, tie: str = "expected") -> list[list[Fraction]]:
    """R(a_i, a_-i) minus the mean of R(a', a_-i) over the ballots a' of voter i in the other sessions."""
    n_sessions, n_voters = len(sessions), len(sessions[0])
    credit = [[Fraction(0)] * n_voters for _ in range(n_sessions)]
    if n_sessions == 1:
        return credit
    for k in range(n_sessions):
        for i in range(n_voters):
            baseline = Fraction(0)
            for other in range(n_sessions):
                if other != k:
                    ballots = list(sessions[k])
                    ballots[i] = sessions[other][i]
                    baseline += value(ballots, truth, tie) / (n_sessions - 1)
            credit[k][i] = value(sessions[k], truth, tie) - baseline
    return credit


def resampled(sessions: Sequence[Ballots], truth: Hashable, tie: str = "expected") -> list[list[Fraction]]:
    columns = [resampled_of_voter(i, sessions, truth, tie) for i in range(len(sessions[0]))]
    return [list(row) for row in zip(*columns, strict=True)]


def resampled_of_voter(i: int, sessions: Sequence[Ballots], truth: Hashable, tie: str = "expected") -> list[Fraction]:
    """Per session. Q_i(a): the mean of R(a, a_-i) over every choice of one session per co-voter; credit: Q of the own
    ballot minus the mean of Q over the voter's ballots in the other sessions."""
    n_sessions, n_voters = len(sessions), len(sessions[0])
    if n_sessions == 1:
        return [Fraction(0)]
    others = [j for j in range(n_voters) if j != i]
    own = [session[i] for session in sessions]
    quality = {}
    for ballot in set(own):
        total = Fraction(0)
        for choice in itertools.product(range(n_sessions), repeat=len(others)):
            ballots: list = [None] * n_voters
            ballots[i] = ballot
            for j, session in zip(others, choice, strict=True):
                ballots[j] = sessions[session][j]
            total += value(ballots, truth, tie)
        quality[ballot] = total / n_sessions ** len(others)
    credit = []
    for k in range(n_sessions):
        rest = [quality[own[other]] for other in range(n_sessions) if other != k]
        credit.append(quality[own[k]] - sum(rest) / len(rest))
    return credit


# ------------------------------------------------------------------------------------------------- exact expectations

Distribution = dict  # label or None -> Fraction, sums to 1


def outcomes(voters: Sequence[Distribution]):
    """(ballots, probability) over all joint ballots of independent voters."""
    for ballots in itertools.product(*voters):
        probability = Fraction(1)
        for voter, ballot in zip(voters, ballots, strict=True):
            probability *= voter[ballot]
        yield ballots, probability


def team_gradient(voters: Sequence[Distribution], truth: Hashable, tie: str) -> list[dict]:
    """d E[R] / d logit, per voter and label. A softmax has d E[f] / d logit_b = pi_b (E[f | b] - E[f])."""
    mean = sum(p * value(ballots, truth, tie) for ballots, p in outcomes(voters))
    gradient = []
    for i, voter in enumerate(voters):
        of_voter = {}
        for label, probability in voter.items():
            fixed = [{label: Fraction(1)} if j == i else other for j, other in enumerate(voters)]
            of_voter[label] = probability * (sum(p * value(b, truth, tie) for b, p in outcomes(fixed)) - mean)
        gradient.append(of_voter)
    return gradient


def expected_score_gradient(credit: Callable, voters: Sequence[Distribution], n_sessions: int) -> list[dict]:
    """E[ mean over sessions of credit_i * grad log pi_i(ballot_i) ], per voter and label, over all joint outcomes of
    ``n_sessions`` independent sessions. ``credit(sessions)`` returns sessions x voters."""
    mass = [dict.fromkeys(voter, 0) for voter in voters]  # expected credit that falls on each own ballot
    for combination in itertools.product(list(outcomes(voters)), repeat=n_sessions):
        sessions = [ballots for ballots, _ in combination]
        probability = Fraction(1, n_sessions)
        for _, p in combination:
            probability *= p
        table = credit(sessions)
        if isinstance(table[0][0], float):
            probability = float(probability)
        for ballots, row in zip(sessions, table, strict=True):
            for i, ballot in enumerate(ballots):
                mass[i][ballot] += probability * row[i]
    gradient = []
    for of_voter, voter in zip(mass, voters, strict=True):
        total = sum(of_voter.values())
        gradient.append({label: of_voter[label] - total * voter[label] for label in voter})  # grad log pi = 1[b] - pi_b
    return gradient


def correlation(pairs: Sequence[tuple[Fraction, Fraction, Fraction]]) -> float:
    """Of (probability, x, y) triples."""
    mean_x = sum(p * x for p, x, _ in pairs)
    mean_y = sum(p * y for p, _, y in pairs)
    covariance = sum(p * (x - mean_x) * (y - mean_y) for p, x, y in pairs)
    variance_x = sum(p * (x - mean_x) ** 2 for p, x, _ in pairs)
    variance_y = sum(p * (y - mean_y) ** 2 for p, _, y in pairs)
    return float(covariance) / sqrt(variance_x * variance_y)
