"""A comparison as a picture (PNG): what the team got in training, and what it gets on the questions of the validation."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ccpo.compare_runs.arms import Arm, Measure, common, k_of, measures_of, value_of
from ccpo.compare_runs.validations import Key
from ccpo.report.colours import COLOURS
from ccpo.report.logged import TEAM_IN_TRAINING, series
from ccpo.run.output import printable

POINTS = 12
"""Of a curve. A step's own mean is of few questions."""
Curve = dict[int, tuple[float, float]]
"""Number of a stretch -> (step, value)."""


def png(arms: Sequence[Arm], before: bool) -> bytes:
    """Left the team's value in training: thin a seed, thick the mean of an arm's seeds. Then a panel for each source of questions: avg@k of the last
    validation, with ``before`` of the first one, too; 95 % intervals over questions. Raises ReportError without a question that all runs have."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = [one for arm in arms for one in arm.seeds.values()]
    keys, k = common(found)[0], k_of(found)
    sources = {source: [key for key in keys if key[0] == source] for source, _ in keys}
    averages = [next(iter(measures_of(arms, own, k).values())) for own in sources.values()]
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
            curves = curves_of(arm)
            for one in curves:
                left.plot(*_xy(one), **look, alpha=0.35, linewidth=0.9)
            left.plot(*_xy(mean_of(curves)), **look, linewidth=2.2, label=f"{printable(arm.name)} ({len(curves)})")
            offset = 0.03 * (number - (len(arms) - 1) / 2)
            for panel, own, average in zip(panels, sources.values(), averages, strict=True):
                _ends(panel, arm, average, own, before, offset, look)
        left.set(xlabel="step", ylabel="team's value in training")
        for panel, source in zip(panels, sources, strict=True):
            panel.set(title=f"{printable(source)}, avg@{k}", xlim=(-0.3, 1.3))
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


def curve(entries: Sequence[Mapping], last: int) -> Curve:
    """Means of up to `POINTS` equal stretches of the steps 1 to ``last``, each at the mean of its steps. ``entries``: of the run log."""
    stretches: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for step, value in zip(*series(list(entries), TEAM_IN_TRAINING), strict=True):
        if 1 <= step <= last:
            stretches[(step - 1) * min(POINTS, last) // last].append((step, value))
    return {number: (fmean(s for s, _ in own), fmean(v for _, v in own)) for number, own in stretches.items()}


def curves_of(arm: Arm) -> list[Curve]:
    """Of its seeds, as far as all of them have trained, and were validated."""
    lasts = [
        min(one.last.step, max(series(one.run.entries, TEAM_IN_TRAINING)[0], default=0)) for one in arm.seeds.values()
    ]
    return [curve(one.run.entries, min(lasts)) for one in arm.seeds.values()]


def mean_of(curves: Sequence[Curve]) -> Curve:
    """Mean over seeds of the stretches that all have."""
    every = [number for number in sorted(curves[0]) if all(number in other for other in curves)]
    return {
        number: (fmean(one[number][0] for one in curves), fmean(one[number][1] for one in curves)) for number in every
    }


def _xy(points: Curve) -> tuple[list[float], list[float]]:
    return [points[number][0] for number in sorted(points)], [points[number][1] for number in sorted(points)]
