"""Rules that read the ballots of a plurality. R(b) is the value of the ballots b (`ccpo.plurality`), b_i the ballot of role i, b_-i the others'.

    shapley           mean over orders of joining of R(S + i) - R(S)           exact, up to 10 voters; credits add up to R
    own_correctness   1[b_i = truth]                                           control: no team in it
    marginal          R(b) - mean over a of R(a, b_-i)                         a: role i's ballots in the prompt's OTHER sessions
    resampled         Q_i(b_i) - mean over a of Q_i(a)                         a as above; Q_i(a) = mean over c of R(a, c)

(Leave-one-out is the removal replay: `removal.py`.) ``resampled`` recombines sessions: c runs over all choices of one ballot per co-voter
from that co-voter's own sessions of the prompt. Its noise is less than that of one session's co-voters. Both it and ``marginal`` need
voters that answer independently of each other given the prompt, and are refused for others: what a voter said in an earlier round
moved the ballots that its credit takes as given.

An abstention casts no ballot, so its Shapley credit is 0; under `marginal` and `resampled` it is an action like any other, compared
with what the voter's other ballots would have done. `marginal` and `resampled` subtract a baseline that does not depend on the
voter's own ballot, so they are unbiased for the team's value. `shapley` and `own_correctness` follow other gradients than the team's,
and see the last vote alone. Source: our construction (marginal: the baseline of COMA, arXiv 1705.08926; Shapley, 1953).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from itertools import product
from math import comb, factorial

import numpy as np

from ccpo.credit.base import Credit, CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState
from ccpo.plurality import check_tie, count_value, counts_of_codes, values_of_codes, values_of_counts, vote_value
from ccpo.types import ABSTAINED, NO_BALLOT, RIGHT, Sessions

Ballot = Hashable | None
MAX_SHAPLEY_VOTERS = 10  # the cost doubles with each
EXACT_LIMIT = 50_000  # combinations of ballots up to which `resampled` enumerates; above, it draws DRAWS of them
DRAWS = 2_048


def shapley_credit(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """Shapley values of every session's ballots; equal profiles are computed once."""
    ballot_SV = _ballots(sessions)
    profiles, which_S = np.unique(ballot_SV, axis=0, return_inverse=True)
    values = [shapley(_cast(profile), RIGHT, sessions.tie) for profile in profiles.tolist()]
    credit_SV = np.array(values, dtype=float).reshape(profiles.shape)[which_S.reshape(-1)]
    return Credit.of(credit_SV, state)


def own_correctness_credit(
    sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig
) -> Credit:
    """1 for a right ballot, else 0: the control that every table must contain."""
    return Credit.of((_ballots(sessions) == RIGHT).astype(float), state)


def marginal_credit(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    return Credit.of(_by_prompt(sessions, marginal), state)


def resampled_credit(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    return Credit.of(_by_prompt(sessions, resampled), state)


def _by_prompt(sessions: Sessions, rule: Callable[..., list[list[float]]]) -> np.ndarray:
    ballot_SV = _ballots(sessions)
    credit_SV = np.zeros(ballot_SV.shape)
    order = np.argsort(sessions.prompt_S, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(sessions.prompt_S[order])) + 1):
        if len(rows):
            credit_SV[rows] = rule([_cast(ballots) for ballots in ballot_SV[rows].tolist()], RIGHT, sessions.tie)
    return credit_SV


def _ballots(sessions: Sessions) -> np.ndarray:
    """(S, V) codes. Raises ValueError when a session lacks a ballot."""
    ballot_SV = sessions.ballot_SV
    if ballot_SV is None:
        if len(sessions):
            raise ValueError("this rule reads ballots, and the sessions have none: their outcome is no plurality")
        return np.zeros(sessions.spoke_SV.shape, dtype=int)
    if (ballot_SV == NO_BALLOT).any():
        s, role = np.argwhere(ballot_SV == NO_BALLOT)[0]
        raise ValueError(
            f"session {int(sessions.session_S[s])} of prompt {sessions.prompts[sessions.prompt_S[s]]!r} has no ballot of "
            f"{sessions.roles[role]}: this rule needs one of every role"
        )
    return ballot_SV


def _cast(codes: Sequence[int]) -> list[Ballot]:
    return [None if code == ABSTAINED else code for code in codes]


def shapley(ballots: Sequence[Ballot], truth: Hashable, tie: str = "expected") -> list[float]:
    """Shapley values of one session's voters, with R of nobody = 0: a float per voter; they add up to R(b).

    Raises ValueError for an unknown tie rule or more than 10 voters. Source: our construction.
    """
    check_tie(tie)
    if len(ballots) > MAX_SHAPLEY_VOTERS:
        raise ValueError(
            f"shapley is exact up to {MAX_SHAPLEY_VOTERS} voters, got {len(ballots)}: its cost doubles with each; use leave_one_out or resampled"
        )
    if tie == "first":
        codes = {truth: 0}
        return list(_shapley_by_subsets(tuple(None if b is None else codes.setdefault(b, len(codes)) for b in ballots)))
    return _by_profile(ballots, truth, tie, _shapley)


def marginal(sessions: Sequence[Sequence[Ballot]], truth: Hashable, tie: str = "expected") -> list[list[float]]:
    """R(b) minus what the voter's ballots of the other sessions would have got in this one.

    Args:
        sessions: (S, V) ballots of all sessions of ONE prompt; voters in the same order in each.
        truth: the correct label.
        tie: one of TIES.

    Returns:
        (S, V) credit; 0 everywhere for a single session, which has no other ballots to compare with.

    Raises:
        ValueError: unknown tie rule, or sessions of unequal size.
    """
    _check(sessions, tie)
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
    """Value of the voter's ballot among resampled co-voters, minus the mean value of its ballots in the other sessions.

    Arguments, result and errors as for `marginal`. Exact by enumeration up to EXACT_LIMIT combinations of distinct ballots; above,
    the mean over DRAWS combinations of sessions, drawn with a fixed seed. Source: our construction.
    """
    _check(sessions, tie)
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


def _check(sessions: Sequence[Sequence[Ballot]], tie: str) -> None:
    check_tie(tie)
    if len({len(ballots) for ballots in sessions}) > 1:
        raise ValueError(
            f"sessions have {sorted({len(b) for b in sessions})} voters: one prompt's sessions have the same voters in the same order"
        )
