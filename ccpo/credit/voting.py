"""Credit of N voters. R(b) is the value of the ballots b (`ccpo.plurality`), b_i the ballot of voter i, b_-i those of the others.

    leave_one_out     R(b) - R(b_-i)                                           the vote is taken again without voter i
    shapley           mean over orders of joining of R(S + i) - R(S)           exact, up to 10 voters; credits add up to R
    own_correctness   1[b_i = truth]                                           control: no team in it
    marginal          R(b) - mean over a of R(a, b_-i)                         a: voter i's ballots in the prompt's OTHER sessions
    resampled         Q_i(b_i) - mean over a of Q_i(a)                         a as above; Q_i(a) = mean over c of R(a, c)

``resampled`` recombines sessions: c runs over all choices of one ballot per co-voter from that co-voter's own sessions of the prompt.
This needs voters that answer independently of each other given the prompt. Its noise is less than that of one session's co-voters.

An abstention casts no ballot, so its leave-one-out and Shapley credit is 0; under `marginal` and `resampled` it is an action like
any other, compared with what the voter's other ballots would have done. `marginal` and `resampled` subtract a baseline that does not
depend on the voter's own ballot, so they are unbiased for the team's value; so is `leave_one_out` (R(b_-i) is such a baseline).
`shapley` and `own_correctness` follow other gradients than the team's. Source: leave-one-out is the paper's removal principle, for
the vote; everything else is our construction (marginal: the baseline of COMA, arXiv 1705.08926; Shapley, 1953).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from itertools import product
from math import comb, factorial

import numpy as np

from ccpo.config import MAX_SHAPLEY_VOTERS
from ccpo.plurality import check_tie, count_value, counts_of_codes, values_of_codes, values_of_counts, vote_value
from ccpo.types import CreditTable, voter_index

Ballot = Hashable | None
EXACT_LIMIT = 50_000  # combinations of ballots up to which `resampled` enumerates; above, it draws DRAWS of them
DRAWS = 2_048


def leave_one_out(ballots: Sequence[Ballot], truth: Hashable, tie: str = "expected") -> list[float]:
    """R(b) - R(b_-i) of one session: a float per voter.

    Raises ValueError for an unknown tie rule. Source: the paper's removal principle.
    """
    check_tie(tie)
    if tie == "first":  # who is asked first matters: counts are not enough
        whole = vote_value(ballots, truth, tie)
        return [
            0.0 if ballot is None else whole - vote_value([*ballots[:i], *ballots[i + 1 :]], truth, tie)
            for i, ballot in enumerate(ballots)
        ]
    return _by_profile(ballots, truth, tie, _leave_one_out)


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


def own_correctness(ballots: Sequence[Ballot], truth: Hashable) -> list[float]:
    """1 for a right ballot, else 0: the control that every table must contain."""
    return [float(ballot is not None and ballot == truth) for ballot in ballots]


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


def voting_credit(table: CreditTable, rule: str, tie: str) -> np.ndarray:
    """(R,) credit of every row of a table of voters by a rule of this module.

    Raises ValueError when a session lacks a voter, or rows lack ballots.
    """
    credit_R = np.zeros(len(table))
    for rows_SV, sessions, truth in sessions_of(table):
        if rule in ("marginal", "resampled"):
            credit = {"marginal": marginal, "resampled": resampled}[rule](sessions, truth, tie)
        elif rule == "own_correctness":
            credit = [own_correctness(ballots, truth) for ballots in sessions]
        else:
            credit = [{"leave_one_out": leave_one_out, "shapley": shapley}[rule](b, truth, tie) for b in sessions]
        credit_R[np.array(rows_SV)] = credit
    return credit_R


def sessions_of(table: CreditTable) -> list[tuple[list[list[int]], list[list[Ballot]], Hashable]]:
    """Per group: rows (S, V), ballots (S, V) and the truth; voters by index."""
    if len(table) and (table.ballot_R is None or table.truth_R is None):
        raise ValueError("votes need ballot_R and truth_R in the CreditTable")
    groups: dict = {}
    for row in range(len(table)):
        groups.setdefault(table.group_R[row], {}).setdefault(int(table.session_R[row]), []).append(row)
    out = []
    for group, by_session in groups.items():
        rows_SV = [
            sorted(rows, key=lambda row: voter_index(table.role_R[row])) for _, rows in sorted(by_session.items())
        ]
        seats = {tuple(table.role_R[row] for row in rows) for rows in rows_SV}
        if len(seats) > 1:
            raise ValueError(
                f"the sessions of prompt {group!r} have different voters: {sorted(seats)}; drop incomplete sessions"
            )
        ballots_SV = [[table.ballot_R[row] for row in rows] for rows in rows_SV]
        out.append((rows_SV, ballots_SV, table.truth_R[rows_SV[0][0]]))
    return out


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
def _leave_one_out(right: int, others: tuple[int, ...], tie: str) -> tuple[float, _Sizes]:
    whole = count_value(right, others, tie)
    by_right = whole - count_value(right - 1, others, tie) if right else 0.0
    by_size = {}
    for size in set(others):
        rest = list(others)
        rest[rest.index(size)] -= 1
        by_size[size] = whole - count_value(right, rest, tie)
    return by_right, by_size


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
