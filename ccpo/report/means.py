"""Means of few independent values, mostly one a seed, with Student's t intervals."""

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


def mean_text(values: Sequence[float], sign: str = "") -> str:
    """Mean and 95 % t interval; the mean alone of a single value. ``sign``: "+" for differences."""
    digits = 0 if max(map(abs, values)) > 100 else 3
    mean = f"{statistics.fmean(values):{sign}.{digits}f}"
    return mean if len(values) < 2 else f"{mean} +- {half_width(values):.{digits}f}"
