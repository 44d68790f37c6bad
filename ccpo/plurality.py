"""The team's value of a vote: plurality of the ballots, and what a tie is worth.

A ballot is a hashable label (answers that mean the same have one label); None is an abstention, which is no ballot and never part
of a tie. ``truth`` is the correct label. With T the labels that share the highest count,

    value = 1[truth in T] / |T|        tie "expected": a uniform draw among the tied; the default
            1[T = {truth}]             tie "fail": a tie scores 0
            1[truth in T]              tie "optimistic"
            1[first of T = truth]      tie "first": the tied answer that the voter with the lowest index gave

and 0 if everyone abstains. Taking one of three voters away leaves two ballots, so every split pair is a tie: the tie rule is part of
the credit rule. Source: our construction (the paper does not say what a tie is worth).
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

TIES = ("expected", "fail", "optimistic", "first")


def check_tie(tie: str) -> None:
    """Raise ValueError for an unknown tie rule."""
    if tie not in TIES:
        near = difflib.get_close_matches(str(tie), TIES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"tie is {tie!r}: it decides what a split vote is worth; {hint}set one of {', '.join(TIES)}")


def vote_value(ballots: Sequence[Hashable | None], truth: Hashable, tie: str = "expected") -> float:
    """Value in [0, 1] of one vote.

    Args:
        ballots: one label per voter, None for an abstention; any number of voters.
        truth: the correct label, not None.
        tie: one of TIES.

    Raises:
        ValueError: unknown tie rule.

    Source: equations at the top of this module.
    """
    check_tie(tie)
    counts = Counter(ballot for ballot in ballots if ballot is not None)
    right = counts.pop(truth, 0)
    value = count_value(right, counts.values(), tie)
    if tie == "first" and value == 1.0 and right in counts.values():  # optimistic says: truth is among the tied
        return float(next(b for b in ballots if b == truth or counts.get(b) == right) == truth)
    return value


def count_value(right: int, others: Sequence[int], tie: str) -> float:
    """Value of a vote with ``right`` correct ballots and ``others``: the count of each wrong label.

    For tie "first", which counts alone do not decide, this is the optimistic value.
    """
    tied = 1
    for count in others:
        if count > right:
            return 0.0
        tied += count == right
    if right == 0:
        return 0.0
    if tie == "expected":
        return 1.0 / tied
    return 1.0 if tied == 1 or tie != "fail" else 0.0


def values_of_counts(counts_K: np.ndarray, truth: int | None, tie: str) -> np.ndarray:
    """Values of many votes at once.

    Args:
        counts_K: (K, ...) ballots of each of K labels; the other axes are votes.
        truth: row of the truth, None if nobody gave it.
        tie: one of TIES but "first".

    Returns:
        (...) values.
    """
    if truth is None:
        return np.zeros(counts_K.shape[1:])
    wrong_K = np.delete(counts_K, truth, axis=0)
    return worth(counts_K[truth], *top_and_tied(wrong_K, tie), tie)


def worth(right: np.ndarray, top: np.ndarray, tied: np.ndarray | int, tie: str) -> np.ndarray:
    """Values of many votes at once from the scores of their labels.

    A label's score is its count, or with tie "first" anything that orders the labels by count and, of equal counts, puts the truth
    above exactly those labels whose first voter comes after its own.

    Args:
        right: score of the truth, 0 where nobody gave it.
        top: highest score of a wrong label. tied: how many wrong labels have it (`top_and_tied`).

    Returns:
        floats of their shape.
    """
    won = (right > top) if tie == "fail" else (right >= top) & (right > 0)
    return won / (1 + tied * (right == top)) if tie == "expected" else won.astype(float)


def top_and_tied(wrong_K: np.ndarray, tie: str) -> tuple[np.ndarray, np.ndarray | int]:
    """((...) highest of (K, ...) scores of wrong labels, how many have it: 0 where the tie rule does not ask)."""
    top = wrong_K.max(axis=0, initial=0)
    return top, (wrong_K == top).sum(axis=0, dtype=np.int16) if tie == "expected" else 0


def values_of_codes(codes_TV: np.ndarray, labels: int, truth: int | None, tie: str) -> np.ndarray:
    """(T,) values of T votes of V voters; ballots are codes 0..labels-1, -1 for an abstention."""
    counts_KT = counts_of_codes(codes_TV, labels)
    if tie != "first" or truth is None:
        return values_of_counts(counts_KT, truth, tie)
    top_T = counts_KT.max(axis=0)
    own_TV = np.where(codes_TV >= 0, np.take_along_axis(counts_KT.T, np.maximum(codes_TV, 0), axis=1), -1)
    first_T = (own_TV == top_T[:, None]).argmax(axis=1)
    return ((codes_TV[np.arange(len(codes_TV)), first_T] == truth) & (top_T > 0)).astype(float)


def values_without(codes_TV: np.ndarray, tie: str) -> np.ndarray:
    """(T, V) values of the votes taken again without each voter; the truth is code 0, negative codes are no ballots."""
    labels = int(codes_TV.max(initial=0)) + 1
    out_TV = np.empty(codes_TV.shape)
    for voter in range(codes_TV.shape[1]):
        without_TV = codes_TV.copy()
        without_TV[:, voter] = -1
        out_TV[:, voter] = values_of_codes(without_TV, labels, 0, tie)
    return out_TV


def values_if(codes_TV: np.ndarray, voter: int, labels: int, tie: str) -> np.ndarray:
    """(labels + 1, T) values of the votes taken again with another ballot of one voter: a row for each code, the last for an abstention.

    So the row of a code is ``[code]``, that of -1 too. The truth is code 0; all codes are below ``labels``. Scores (`worth`) are counts;
    with tie "first" count x (V + 1) + (V - index of the first voter).
    """
    voters = codes_TV.shape[1]
    step, rank_V = (voters + 1, [voters - v for v in range(voters)]) if tie == "first" else (1, [0] * voters)
    counted_LT = np.zeros((labels, len(codes_TV)), dtype=np.int16 if voters < 180 else np.int64)  # to V (V + 2)
    rank_LT = np.zeros_like(counted_LT)
    for other in range(voters):
        for label in range(labels if other != voter else 0):
            cast_T = (codes_TV[:, other] == label).view(np.int8)
            counted_LT[label] += cast_T
            if tie == "first":
                np.maximum(rank_LT[label], cast_T * rank_LT.dtype.type(rank_V[other]), out=rank_LT[label])
    counted_LT *= step
    score_LT = counted_LT + rank_LT
    right_T, (top_T, tied_T) = score_LT[0], top_and_tied(score_LT[1:], tie)
    out_AT = np.empty((labels + 1, len(codes_TV)))
    out_AT[labels] = worth(right_T, top_T, tied_T, tie)
    for label in range(labels):
        own_T = counted_LT[label] + step + np.maximum(rank_LT[label], rank_V[voter])
        if label == 0:
            out_AT[label] = worth(own_T, top_T, tied_T, tie)
        else:
            tied_now_T = np.where(own_T > top_T, 1, tied_T + (own_T == top_T)) if tie == "expected" else 0
            out_AT[label] = worth(right_T, np.maximum(top_T, own_T), tied_now_T, tie)
    return out_AT


def counts_of_codes(codes_TV: np.ndarray, labels: int) -> np.ndarray:
    """(labels, T) ballots of each label."""
    return (codes_TV == np.arange(max(1, labels))[:, None, None]).sum(axis=2, dtype=np.int16)
