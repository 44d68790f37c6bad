"""The ballot rules prompt by prompt and profile by profile, in plain loops: what the package computed before it took all prompts at once.

Faster than the fractions of reference_voting.py, so that large votes and drawn combinations can be compared too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from itertools import product
from math import comb, factorial

import numpy as np

from ccpo.plurality import count_value, counts_of_codes, values_of_codes, values_of_counts, vote_value

Ballot = Hashable | None
EXACT_LIMIT = 50_000
DRAWS = 2_048


def shapley(ballots: Sequence[Ballot], truth: Hashable, tie: str = "expected") -> list[float]:
    """Shapley values of one session's voters: a float per voter."""
    if tie == "first":
        codes = {truth: 0}
        return list(_shapley_by_subsets(tuple(None if b is None else codes.setdefault(b, len(codes)) for b in ballots)))
    return _by_profile(ballots, truth, tie, _shapley)


def marginal(sessions: Sequence[Sequence[Ballot]], truth: Hashable, tie: str = "expected") -> list[list[float]]:
    """(S, V) credit of ONE prompt's sessions."""
    if len(sessions) < 2:
        return [[0.0] * len(ballots) for ballots in sessions]
    cast = [Counter(ballots) for ballots in zip(*sessions, strict=True)]  # voter -> its ballots over all sessions
    credit = []
    for ballots in sessions:
        whole, row = vote_value(ballots, truth, tie), []
        for i, ballot in enumerate(ballots):
            others = cast[i] - Counter([ballot])
            total = sum(
                count * (whole if other == ballot else vote_value([*ballots[:i], other, *ballots[i + 1 :]], truth, tie))
                for other, count in others.items()
            )
            row.append(whole - total / (len(sessions) - 1))
        credit.append(row)
    return credit


def resampled(sessions: Sequence[Sequence[Ballot]], truth: Hashable, tie: str = "expected") -> list[list[float]]:
    """As `marginal`. Above EXACT_LIMIT combinations of distinct ballots: the mean over DRAWS combinations, seed 0."""
    if len(sessions) < 2:
        return [[0.0] * len(ballots) for ballots in sessions]
    labels = {
        ballot: code for code, ballot in enumerate(dict.fromkeys(b for s in sessions for b in s if b is not None))
    }
    codes_SV = np.array([[-1 if ballot is None else labels[ballot] for ballot in ballots] for ballots in sessions])
    choices = [np.unique(column, return_inverse=True, return_counts=True) for column in codes_SV.T]
    combinations = 1
    for found, _, _ in choices:
        combinations *= len(found)
    setting = (len(labels), labels.get(truth), tie)
    if combinations <= EXACT_LIMIT:
        value_of = _exact_values(choices, len(codes_SV), *setting)
    else:
        value_of = _drawn_values(codes_SV, choices, *setting)
    credit_SV = np.empty(codes_SV.shape)
    for i, (_, inverse, _) in enumerate(choices):
        value_S = value_of[i][inverse]
        credit_SV[:, i] = (value_S - value_S.mean()) * len(value_S) / (len(value_S) - 1)  # minus the mean of the OTHERS
    return credit_SV.tolist()


# --- by profile: without tie "first", a voter's credit depends on the counts alone ------------------------------------

_Sizes = dict[int, float]  # size of a wrong label -> credit of each of its voters


def _by_profile(
    ballots: Sequence[Ballot], truth: Hashable, tie: str, rule: Callable[..., tuple[float, _Sizes]]
) -> list[float]:
    """A float per voter from ``rule(correct ballots, sorted counts of the wrong labels, tie)``, which remembers what it computed."""
    counts: dict[Ballot, int] = {}
    for ballot in ballots:
        counts[ballot] = counts.get(ballot, 0) + 1
    counts.pop(None, None)
    right = counts.pop(truth, 0)
    by_right, by_size = rule(right, tuple(sorted(counts.values())), tie)
    credit = {label: by_size[count] for label, count in counts.items()}
    credit[truth], credit[None] = by_right, 0.0
    return [credit[ballot] for ballot in ballots]


@lru_cache(maxsize=65_536)
def _shapley(right: int, others: tuple[int, ...], tie: str) -> tuple[float, _Sizes]:
    sizes = (right, *others)
    voters = sum(sizes)
    credit: dict[int, float] = {}
    for own in {0, *(sizes.index(size, 1) for size in set(others))}:
        if not sizes[own]:
            continue
        total = 0.0
        available = [size - (label == own) for label, size in enumerate(sizes)]
        for joined in product(*(range(size + 1) for size in available)):
            before = sum(joined)
            ways = factorial(before) * factorial(voters - before - 1)
            for size, taken in zip(available, joined, strict=True):
                ways *= comb(size, taken)
            after = [taken + (label == own) for label, taken in enumerate(joined)]
            total += ways * (count_value(after[0], after[1:], tie) - count_value(joined[0], joined[1:], tie))
        credit[own] = total / factorial(voters)
    return credit.get(0, 0.0), {sizes[own]: value for own, value in credit.items() if own}


@lru_cache(maxsize=4_096)
def _shapley_by_subsets(codes: tuple[int | None, ...]) -> tuple[float, ...]:
    """Tie "first" over every subset of voters; code 0 is the truth."""
    voters = len(codes)
    value = {}
    for mask in range(2**voters):
        value[mask] = vote_value([code for i, code in enumerate(codes) if mask >> i & 1], 0, "first")
    weight = [factorial(k) * factorial(voters - k - 1) / factorial(voters) for k in range(voters)]
    return tuple(
        sum(weight[mask.bit_count()] * (value[mask | 1 << i] - value[mask]) for mask in value if not mask >> i & 1)
        for i in range(voters)
    )


# --- resampled --------------------------------------------------------------------------------------------------------

_Choices = list[
    tuple[np.ndarray, np.ndarray, np.ndarray]
]  # per voter: distinct codes, code of each session, sessions per code


def _exact_values(choices: _Choices, sessions: int, labels: int, truth: int | None, tie: str) -> list[np.ndarray]:
    """Q_i of each distinct ballot of voter i: the table of all combinations' values, averaged over the co-voters."""
    shape = tuple(len(found) for found, _, _ in choices)
    axes = [found[axis] for (found, _, _), axis in zip(choices, np.indices(shape, sparse=True), strict=True)]
    if tie == "first":
        codes_TV = np.stack([axis.ravel() for axis in np.broadcast_arrays(*axes)], axis=1)
        values = values_of_codes(codes_TV, labels, truth, tie).reshape(shape)
    else:
        of_label = np.arange(max(1, labels)).reshape(-1, *(1,) * len(shape))
        counts = np.zeros((len(of_label), *shape), dtype=np.int16)
        for axis in axes:
            counts += axis == of_label
        values = values_of_counts(counts, truth, tie)
    shares = [counts / sessions for _, _, counts in choices]
    out = []
    for voter in range(len(choices)):
        value = np.moveaxis(values, voter, 0)
        for other in reversed([share for i, share in enumerate(shares) if i != voter]):
            value = value @ other
        out.append(value)
    return out


def _drawn_values(
    codes_SV: np.ndarray, choices: _Choices, labels: int, truth: int | None, tie: str
) -> list[np.ndarray]:
    """As `_exact_values`, over DRAWS combinations of sessions."""
    sessions, voters = codes_SV.shape
    drawn_TV = np.random.default_rng(0).integers(sessions, size=(DRAWS, voters))
    codes_TV = codes_SV[drawn_TV, np.arange(voters)]
    counts_KT = counts_of_codes(codes_TV, labels)
    out = []
    for voter, (found, _, _) in enumerate(choices):
        without_KT = counts_KT - counts_of_codes(codes_TV[:, voter : voter + 1], labels)
        values = []
        for code in found:
            if tie == "first":
                swapped_TV = codes_TV.copy()
                swapped_TV[:, voter] = code
                values.append(values_of_codes(swapped_TV, labels, truth, tie).mean())
            else:
                with_KT = without_KT + counts_of_codes(np.array([[code]]), labels)
                values.append(values_of_counts(with_KT, truth, tie).mean())
        out.append(np.array(values))
    return out
