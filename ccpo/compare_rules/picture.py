"""A comparison as one picture (PNG): the curves of training, the paired differences, and the last validation by source."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ccpo.compare_rules.runs import Key
from ccpo.compare_rules.scores import batches
from ccpo.compare_rules.tables import Values, differences, every_score, of_rule, rules_of
from ccpo.report.colours import COLOURS
from ccpo.report.means import half_width

MARKERS, LINES = ("o", "s", "^", "D", "v", "P", "X"), ("-", "--", ":", "-.")
DIFFERENCES = ("auc", "team")
GRID = 60
"""Places along the curves of runs whose steps differ."""


def draw(path: Path, runs: Mapping[Key, Mapping[str, Any]], values: Values, title: str, intervals: bool = True) -> None:
    """Means over seeds, differences to the first rule with the same seed. ``intervals``: 95 % t intervals of both."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rules, unit = rules_of(values), next(iter(runs.values())).get("unit")
    shown = validated(every_score(values))
    half: Callable[[Sequence[float]], float] = half_width if intervals else lambda values: 0.0
    with_intervals = ", 95 % intervals" if intervals else ", no intervals"
    style = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10}
    style["text.parse_math"] = False  # ${...} of a rule's settings is no formula
    with plt.rc_context(style):
        size = (16, 4.6 + 0.25 * len(rules))
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=size, layout="constrained", width_ratios=(4, 3, 3))
        for number, rule in enumerate(rules):
            mine = [found for (named, _), found in runs.items() if named == rule]
            again, which = divmod(number, len(COLOURS))
            colour = COLOURS[which]
            look = {"color": colour, "marker": MARKERS[which], "markersize": 5}
            look["markerfacecolor"] = (
                "white" if again else colour
            )  # a colour that is used again has other marks and lines
            at, curves = common([curve(found) for found in mine])
            means, halves = curves.mean(axis=0), np.array([half(list(column)) for column in curves.T])
            line = {"linestyle": LINES[again % len(LINES)], "linewidth": 1.8, "markevery": max(1, len(at) // 8)}
            left.plot(at, means, **look, **line, label=f"{rule} ({len(mine)})")
            left.fill_between(at, means - halves, means + halves, color=colour, alpha=0.12, linewidth=0)
            offset = (number - (len(rules) - 1) / 2) * 0.7 / len(rules)
            if number:
                _bars(middle, [differences(values, rule, name) for name in DIFFERENCES], offset, look, half)
            _bars(right, [list(of_rule(values, rule, name).values()) for name in shown], offset, look, half)
        left.set(
            xlabel=f"{unit} decoded in training" if unit else "step",
            ylabel="team accuracy on training batches, mean of three",
            ylim=(-0.02, 1.02),
        )
        columns = {"ncols": min(4, len(rules)), "handlelength": 4}
        figure.legend(loc="outside lower center", frameon=False, fontsize=9, title="credit rule (seeds)", **columns)
        middle.axvline(0, color="#888888", linewidth=1)
        middle.set(xlabel=f"minus {rules[0]}, same seed", title=f"paired differences{with_intervals}")
        right.set(xlabel="last validation", title=f"means{with_intervals}", xlim=(-0.02, 1.02))
        for axes, names in ((middle, DIFFERENCES), (right, shown)):
            axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        figure.suptitle(title, fontsize=10)
        figure.savefig(path, dpi=130, metadata={"Software": None})
        plt.close(figure)


def validated(names: Sequence[str]) -> list[str]:
    """Of a last validation, what is drawn: the whole team, by source where there are several, and its replays that have a name."""
    by_source = [name for name in names if name.startswith(("team/", "abstention/"))]
    several = sum(name.startswith("team/") for name in by_source) > 1
    whole = [
        name for name in names if name in ("team", "abstention") or ("/" not in name and name.endswith("_accuracy"))
    ]
    return whole + (by_source if several else [])


def _bars(axes: Any, values: Sequence[Sequence[float]], offset: float, look: Mapping[str, Any], half: Callable) -> None:
    places = [(place + offset, own) for place, own in enumerate(values) if own]
    if places:
        means, halves = [statistics.fmean(own) for _, own in places], [half(own) for _, own in places]
        axes.errorbar(means, [place for place, _ in places], xerr=halves, linestyle="", capsize=2, **look)


def curve(found: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """(step, or what training had taken of the budget before it; accuracy, each the mean of a step and its neighbours)."""
    weights, accuracy = zip(*batches(found), strict=True)
    smooth = [statistics.fmean(accuracy[max(0, i - 1) : i + 2]) for i in range(len(accuracy))]
    return list(accumulate(weights[:-1], initial=0.0 if found.get("unit") else 1.0)), smooth


def common(curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """(places that all curves reach, (curves, places) their values there, straight lines between steps)."""
    if all(list(at) == list(curves[0][0]) for at, _ in curves):
        return np.array(curves[0][0]), np.array([values for _, values in curves])
    places = np.linspace(max(at[0] for at, _ in curves), min(at[-1] for at, _ in curves), GRID)
    return places, np.array([np.interp(places, at, values) for at, values in curves])
