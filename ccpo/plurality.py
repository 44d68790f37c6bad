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
    top = counts_K.max(axis=0)
    right = (counts_K[truth] == top) & (top > 0)
    if tie == "optimistic":
        return right.astype(float)
    tied = (counts_K == top).sum(axis=0, dtype=np.int16)
    return right / tied if tie == "expected" else (right & (tied == 1)).astype(float)


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


def counts_of_codes(codes_TV: np.ndarray, labels: int) -> np.ndarray:
    """(labels, T) ballots of each label."""
    return (codes_TV == np.arange(max(1, labels))[:, None, None]).sum(axis=2, dtype=np.int16)
