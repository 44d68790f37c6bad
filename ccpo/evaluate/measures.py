"""Numbers of an evaluation, and how sure they are.

Every number is a mean over questions of something about one question; questions weigh the same, however many sessions each has.

avg@k     mean of the sessions' values, which may be any numbers in [0, 1]
pass@k    chance that one of k sessions is right: 1 - C(n - c, k) / C(n, k) of n sessions with c right ones (Chen et al. 2021, unbiased)
maj@k     chance that the plurality of k sessions' answers is right, over all choices of k of n sessions; a tie of t is worth 1/t
paired    mean of differences within a session, or within a question

Intervals: 95 %, percentile bootstrap, clustered by question: questions are drawn again with replacement, each with all of its sessions, so
that sessions of one question are not taken for independent ones. With fewer than some 20 questions they are too narrow. Source of the
estimators: the papers named; the exact plurality over subsets is our construction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

DRAWS = 4000
CHUNK = 250  # draws at a time: 250 x questions indices in memory
LEVEL = 0.95
MOST = 1000  # sessions of one question: choices of half of 1030 are more than a float holds


@dataclass(frozen=True)
class Estimate:
    """``value`` with its interval, over so many ``questions``; low and high are None with fewer than two."""

    value: float
    low: float | None
    high: float | None
    questions: int

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


def estimate(values: Sequence[float | None], seed: int) -> Estimate | None:
    """Mean over questions, with its interval. None in place of a question without a value; None if there is no other."""
    values_Q = np.array([value for value in values if value is not None], dtype=float)
    count = len(values_Q)
    if not count:
        return None
    mean = float(values_Q.mean())
    if count < 2:
        return Estimate(mean, None, None, count)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [values_Q[rng.integers(0, count, (CHUNK, count))].mean(axis=1) for _ in range(DRAWS // CHUNK)]
    )
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(mean, float(low), float(high), count)


def mean(values: Sequence[float | None]) -> float | None:
    """Of the values that are there."""
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if found else None


def pass_at(right: int, sessions: int, k: int) -> float | None:
    """Of one question: chance that one of k sessions is right, unbiased from ``sessions`` with ``right`` right ones. None if k are not there."""
    if not 1 <= k <= sessions:
        return None
    return 1.0 - math.comb(sessions - right, k) / math.comb(sessions, k)


def majority_at(labels: Sequence[Hashable | None], truth: Hashable, k: int) -> float | None:
    """Of one question: expected value of the plurality of k of these answers, over all choices of k.

    Args:
        labels: one a session; equal answers have one label, None is no answer. truth: the right one's.

    Returns:
        what `ccpo.plurality.vote_value` (tie "expected") gives on average over the C(n, k) choices; None if k are not there.
    """
    if not 1 <= k <= len(labels):
        return None
    counts = Counter(label for label in labels if label is not None)
    silent, right = len(labels) - counts.total(), counts.pop(truth, 0)
    value = 0.0
    for r in range(1, min(right, k) + 1):  # right answers among the k
        # ways[t, x]: choices of x answers that are not right, none of them more often than r times, and t of them exactly r times
        ways = np.zeros((k // r + 1, k - r + 1))
        ways[0] = [math.comb(silent, x) for x in range(k - r + 1)]
        for n in counts.values():
            ways = _with_label(ways, n, r)
        tied = ways[:, k - r]
        value += math.comb(right, r) * float((tied / np.arange(1, len(tied) + 1)).sum())
    return value / math.comb(len(labels), k)


def _with_label(ways: np.ndarray, n: int, r: int) -> np.ndarray:
    """The choices when an answer that was given n times may be among them, too."""
    out = np.zeros_like(ways)
    for times in range(min(n, r, ways.shape[1] - 1) + 1):
        chosen = math.comb(n, times) * ways[:, : ways.shape[1] - times]
        if times < r:
            out[:, times:] += chosen
        else:
            out[1:, times:] += chosen[:-1]
    return out


def sizes(k: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to k, and k."""
    return tuple(sorted({2**i for i in range(k.bit_length()) if 2**i <= k} | {k}))
