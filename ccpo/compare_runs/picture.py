"""A comparison as a picture (PNG): what the team got in training, and what it gets on the questions of the validation."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ccpo.compare_runs.arms import Arm, Measure, common, k_of, measures_of, value_of
from ccpo.compare_runs.validations import Key
from ccpo.report.logged import TEAM_IN_TRAINING, series

COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, told apart by the colour-blind, too, without their yellow. Source: jfly.uni-koeln.de/color."""
POINTS = 12
"""Of a curve. A step's own mean is of few questions."""
Curve = list[tuple[float, float]]
"""(step, value)."""


def png(arms: Sequence[Arm], before: bool) -> bytes:
    """Left the team's value in training: thin a seed, thick the mean of an arm's seeds. Then a panel for each source of questions: avg@k of the last
    validation, with ``before`` of the first one, too; 95 % intervals over questions. Raises ReportError without a question that all runs have."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = [one for arm in arms for one in arm.seeds.values()]
    keys, k = common(found)[0], k_of(found)
    sources = list(dict.fromkeys(source for source, _ in keys))
    style = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10}
    style["text.parse_math"] = False  # a $ in a name is no formula
    with plt.rc_context(style):
        figure, (left, *panels) = plt.subplots(
            1,
            1 + len(sources),
            figsize=(4.6 + 2.3 * len(sources), 3.9 + 0.2 * len(arms)),
            layout="constrained",
            width_ratios=(2, *[1] * len(sources)),
        )
        for number, arm in enumerate(arms):
            look = {"color": COLOURS[number % len(COLOURS)], "linestyle": "--" if number >= len(COLOURS) else "-"}
            curves = [curve(one.run.entries) for one in arm.seeds.values()]
            for one in curves:
                left.plot(*_xy(one), **look, alpha=0.35, linewidth=0.9)
            left.plot(*_xy(mean_of(curves)), **look, linewidth=2.2, label=f"{arm.name} ({len(curves)})")
            for panel, source in zip(panels, sources, strict=True):
                own = [key for key in keys if key[0] == source]
                average = next(iter(measures_of(arms, own, k).values()))
                _ends(panel, arm, average, own, before, 0.03 * (number - (len(arms) - 1) / 2), look)
        left.set(xlabel="step", ylabel="team's value in training")
        for panel, source in zip(panels, sources, strict=True):
            panel.set(title=f"{source}, avg@{k}", xlim=(-0.3, 1.3))
            panel.set_xticks([0, 1], ["before", "after"]) if before else panel.set_xticks([1], ["after"])
        for axes in (left, *panels):
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", alpha=0.25)
        figure.legend(
            loc="outside lower center", frameon=False, fontsize=9, ncols=min(3, len(arms)), title="arm (seeds)"
        )
        out = io.BytesIO()
        figure.savefig(out, dpi=130, format="png", metadata={"Software": None})
        plt.close(figure)
    return out.getvalue()


def _ends(
    panel: Any, arm: Arm, measure: Measure, keys: Sequence[Key], before: bool, offset: float, look: Mapping[str, Any]
) -> None:
    """An arm's last validation, with ``before`` behind its first one."""
    places = [(0, "first"), (1, "last")] if before else [(1, "last")]
    scores = [(place + offset, value_of(arm.of(measure, keys, when))) for place, when in places]
    known = [(place, score) for place, score in scores if score is not None]
    halves = [
        (score.value - score.low, score.high - score.value) if score.low is not None else (0.0, 0.0)
        for _, score in known
    ]
    values = [score.value for _, score in known]
    panel.errorbar(
        [place for place, _ in known],
        values,
        yerr=list(zip(*halves, strict=True)),
        marker="o",
        markersize=4,
        capsize=2,
        **look,
    )


def curve(entries: Sequence[Mapping]) -> Curve:
    """Means of up to `POINTS` stretches of the training, each at the middle of its steps. ``entries``: of the run log."""
    steps, values = series(list(entries), TEAM_IN_TRAINING)
    count = min(POINTS, len(steps))
    edges = [round(number * len(steps) / count) for number in range(count + 1)] if count else []
    return [(fmean(steps[a:b]), fmean(values[a:b])) for a, b in zip(edges, edges[1:], strict=False)]


def mean_of(curves: Sequence[Curve]) -> Curve:
    """Mean over seeds, as far as all of them go."""
    return [
        (fmean(at), fmean(values))
        for at, values in (zip(*points, strict=True) for points in zip(*curves, strict=False))
    ]


def _xy(points: Curve) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
