"""Means of few independent values, mostly one a seed, with Student's t intervals and tests."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def half_width(values: Sequence[float]) -> float:
    """Of the 95 % t interval of the mean; 0 for a single value."""
    from scipy.stats import t

    if len(values) < 2:
        return 0.0
    return float(t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean; None of fewer than two."""
    if len(values) < 2:
        return None
    mean, half = statistics.fmean(values), half_width(values)
    return mean - half, mean + half


def p_value(values: Sequence[float]) -> float | None:
    """Two-sided t test that the mean is 0; 1 where all values are 0, None of fewer than two, or where all are the same but for rounding."""
    from scipy.stats import ttest_1samp

    if len(values) > 1 and not any(values):
        return 1.0  # nothing speaks against it, and it is one of those that are compared (`holm`)
    if len(values) < 2 or max(values) - min(values) <= 1e-9 * max(map(abs, values)):
        return None
    return float(ttest_1samp(values, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for as many tests: all those below .05 together have a chance of 5 % to hold a false one. In the order given.

    Source: Holm 1979, a simple sequentially rejective multiple test procedure.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = least
    return adjusted


def mean_text(values: Sequence[float], sign: str = "") -> str:
    """Mean and 95 % t interval; the mean alone of a single value. ``sign``: "+" for differences."""
    digits = 0 if max(map(abs, values)) > 100 else 3
    mean = f"{statistics.fmean(values):{sign}.{digits}f}"
    return mean if len(values) < 2 else f"{mean} +- {half_width(values):.{digits}f}"
