"""What a run achieved: a table and RUN_DIR/curves.png, from RUN_DIR/metrics.jsonl.

    python scripts/report.py outputs/dyad
    python scripts/report.py outputs/dyad --json

"before" is the first validation, "after" the last one. Accuracies carry 95 % Wilson intervals over the scored sessions,
which counts them as independent; with several sessions per prompt the truth is wider. (The mean over the voters of a
session counts once per session: its voters answer the same question.) Which topology ran is read off the metrics. Equal
metrics give equal lines, except for the lines on time.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

from ccpo.run.folder import CURVES, METRICS
from ccpo.run.run_log import read_run_log


@dataclass(frozen=True)
class Curve:
    """A metric ({source}: of a data source), its name in table and legend, and its looks; no colour: not drawn."""

    metric: str
    label: str
    colour: str = ""
    marker: str = ""
    line: str = "-"


@dataclass(frozen=True)
class Difference:
    """What the team adds: validated accuracy ``more`` minus accuracy ``less``; ``key`` names it in the summary."""

    key: str
    label: str
    more: str
    less: str
    colour: str


@dataclass(frozen=True)
class Topology:
    """What is reported of a topology's runs."""

    accuracies: dict[str, Curve]  # validated
    difference: Difference
    rates: dict[str, Curve]  # in training, noisy
    cosine: Curve  # in training, drawn only
    team: str  # the team's accuracy on training batches
    voter: str = ""  # validated accuracy of voter {i}; "": there are none


DYAD = Topology(
    accuracies={
        "team": Curve("val-core/{source}/team_accuracy", "team (Reason reads the thought)", "#1b6ca8", "o"),
        "solo": Curve("val-aux/{source}/solo_accuracy", "solo (Reason answers on its own)", "#d1602f", "s"),
        "emptied": Curve(
            "val-aux/{source}/emptied_accuracy", "thought emptied (Reason reads nothing)", "#8a8a8a", "^", "--"
        ),
    },
    difference=Difference("marginal", "Think's contribution", "team", "solo", "#2a8a57"),
    rates={
        "help": Curve("ccpo/contribution/help_rate", "Think helped (right, solo wrong)"),
        "hurt": Curve("ccpo/contribution/hurt_rate", "Think hurt (wrong, solo right)"),
    },
    cosine=Curve("ccpo/credit/cosine_with_shared/think", "cosine of Think's advantages with shared credit", "#7a4fa3"),
    team="ccpo/reason/reward_mean",
)
VOTE = Topology(
    accuracies={
        "team": Curve("val-core/{source}/team_accuracy", "team (plurality of the votes)", "#1b6ca8", "o"),
        "voter": Curve("val-aux/{source}/voter_accuracy", "voter (mean of all)", "#d1602f", "s"),
        "oracle": Curve("val-aux/{source}/oracle_accuracy", "oracle (any voter right)", "#8a8a8a", "^", "--"),
    },
    difference=Difference("gain", "gain of voting", "team", "voter", "#2a8a57"),
    rates={
        "pivotal": Curve("ccpo/vote/pivotal_rate", "pivotal rate (voter changes the value)", "#c2356b"),
        "tie": Curve("ccpo/vote/tie_rate", "tie rate"),
        "abstention": Curve("ccpo/vote/abstention_rate", "abstention rate (no readable answer)"),
        "agreement": Curve("ccpo/vote/agreement", "agreement (pairs with equal ballots)", "#b07d12"),
        "outvoted": Curve("ccpo/vote/outvoted_rate", "outvoted rate (one right, team wrong)"),
    },
    cosine=Curve("ccpo/credit/cosine_with_shared/voters", "cosine of the advantages with shared credit", "#7a4fa3"),
    team="ccpo/vote/team_accuracy",
    voter="val-aux/{source}/voter_{i}_accuracy",
)
SESSIONS = "val-aux/{source}/sessions"
PHASES = ("gen", "old_log_prob", "update_actor", "update_weights")
VOTER_COLOURS = ("#d9a441", "#5aa88f", "#b06ab3", "#7d8ccf", "#a0765b", "#c97b84")
PLOT_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}
RATE_STEPS = 5  # train batches at each end over which noisy rates are averaged


class ReportError(ValueError):
    """There is nothing to report yet."""


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % Wilson score interval of a share observed on ``count`` > 0 trials (Wilson, 1927)."""
    centre = share + z * z / (2 * count)
    spread = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def load(run_dir: Path) -> list[dict]:
    """Entries of the run's metrics; ReportError when there are none."""
    path = Path(run_dir) / METRICS
    if not path.exists():
        raise ReportError(
            f"{path} does not exist: {run_dir} is no folder of a run (trainer.default_local_dir), or nothing "
            "was logged yet"
        )
    entries = read_run_log(path)
    if not entries:
        raise ReportError(f"{path} has no whole line yet; wait for the first validation or step")
    return entries


def topology_of(entries: list[dict]) -> Topology:
    """The topology of a run: votes log metrics that nothing else does."""
    names = {name for entry in entries for name in entry["metrics"]}
    return VOTE if any(name.startswith("ccpo/vote/") or name.endswith("/voter_accuracy") for name in names) else DYAD


def sources_of(entries: list[dict]) -> list[str]:
    """Data sources that were validated, in alphabetical order. (A source's name may contain slashes.)"""
    start, end = "val-core/", "/team_accuracy"
    names = {name for entry in entries if entry["kind"] == "val" for name in entry["metrics"]}
    return sorted(name[len(start) : -len(end)] for name in names if name.startswith(start) and name.endswith(end))


def summarize(entries: list[dict]) -> dict:
    """All numbers of the report.

    Returns:
        ``steps``: last trained step. ``sources``: per data source ``before`` and ``after``, each with ``step``,
        ``sessions`` (None if not logged), the topology's difference and per accuracy ``{"value", "low", "high"}``
        (bounds None without ``sessions``); what was not measured is absent. ``rates``: the topology's rates in
        training, means over the first and last `RATE_STEPS` steps.
        ``seconds``: wall time of steps and validations, mean step, and its phases; None without a step.
    """
    topology = topology_of(entries)
    train = [entry for entry in entries if entry["kind"] == "train"]
    val = [entry for entry in entries if entry["kind"] == "val"]
    sources = {}
    for source in sources_of(entries):
        team = topology.accuracies["team"].metric.format(source=source)
        seen = [entry for entry in val if team in entry["metrics"]]
        sources[source] = {
            "before": _scores(seen[0], source, topology),
            "after": _scores(seen[-1], source, topology),
        }
    rates = {}
    for name, rate in topology.rates.items():
        values = series(train, rate.metric)[1]
        if values:
            rates[name] = {"before": _mean(values[:RATE_STEPS]), "after": _mean(values[-RATE_STEPS:])}
    return {
        "steps": max((entry["step"] for entry in train), default=0),
        "sources": sources,
        "rates": rates,
        "seconds": _seconds(train),
    }


def _scores(entry: dict, source: str, topology: Topology) -> dict:
    metrics = entry["metrics"]
    sessions = int(metrics.get(SESSIONS.format(source=source), 0)) or None
    scores: dict = {"step": entry["step"], "sessions": sessions}
    for name, accuracy in topology.accuracies.items():
        value = metrics.get(accuracy.metric.format(source=source))
        if value is not None:
            scores[name] = score(value, sessions)
    difference = topology.difference
    if difference.more in scores and difference.less in scores:
        scores[difference.key] = scores[difference.more]["value"] - scores[difference.less]["value"]
    return scores


def score(value: float, sessions: int | None) -> dict:
    """An accuracy with its interval; bounds None without ``sessions``."""
    low, high = wilson(value, sessions) if sessions else (None, None)
    return {"value": value, "low": low, "high": high}


def _seconds(train: list[dict]) -> dict | None:
    steps = series(train, "timing_s/step")[1]
    if not steps:
        return None
    phases = {name: series(train, f"timing_s/{name}")[1] for name in PHASES}
    return {
        "steps": sum(steps),
        "validation": sum(series(train, "timing_s/testing")[1]),
        "step": _mean(steps),
        "phases": {name: sum(values) / len(steps) for name, values in phases.items() if values},
    }


def series(entries: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the entries that have ``name``."""
    found = [(entry["step"], entry["metrics"][name]) for entry in entries if name in entry["metrics"]]
    return [step for step, _ in found], [value for _, value in found]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


# --- table ----------------------------------------------------------------------------------------------------------


def table(summary: dict, topology: Topology) -> str:
    """The numbers as text."""
    difference = topology.difference
    lines = []
    for source, ends in summary["sources"].items():
        before, after = ends["before"], ends["after"]
        head = f"{source}, {after['sessions']} sessions" if after["sessions"] else source
        lines += [row(head, f"step {before['step']}", f"step {after['step']}", "change"), "-" * 96]
        for name, accuracy in topology.accuracies.items():
            if name in before and name in after:
                change = after[name]["value"] - before[name]["value"]
                lines.append(row(accuracy.label, score_text(before[name]), score_text(after[name]), f"{change:+.3f}"))
        if difference.key in before and difference.key in after:
            label = f"{difference.label} ({difference.more} - {difference.less})"
            first, last = before[difference.key], after[difference.key]
            lines.append(row(label, f"{first:+.3f}", f"{last:+.3f}", f"{last - first:+.3f}"))
        lines.append("")
    if not summary["sources"]:
        lines += ["no validation was logged (trainer.test_freq, trainer.val_before_train)", ""]
    if summary["rates"]:
        lines += [row("in training", f"first {RATE_STEPS} steps", f"last {RATE_STEPS} steps", "change"), "-" * 96]
        for name, ends in summary["rates"].items():
            first, last = ends["before"], ends["after"]
            lines.append(row(topology.rates[name].label, f"{first:.3f}", f"{last:.3f}", f"{last - first:+.3f}"))
        lines.append("")
    lines.append(f"steps: {summary['steps']}")
    if seconds := summary["seconds"]:
        lines.append(
            f"time: {_duration(seconds['steps'])} in steps, {_duration(seconds['validation'])} in validation, "
            "without start-up"
        )
        named = ", ".join(f"{name} {value:.2f} s" for name, value in seconds["phases"].items())
        lines.append(f"time of a step: {seconds['step']:.2f} s ({named})")
    return "\n".join(lines)


def row(label: str, *cells: str) -> str:
    return f"{label:<40}{cells[0]:<23}{cells[1]:<23}{cells[2]}".rstrip()


def score_text(scored: dict) -> str:
    interval = f" [{scored['low']:.3f}, {scored['high']:.3f}]" if scored["low"] is not None else ""
    return f"{scored['value']:.3f}{interval}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


# --- picture --------------------------------------------------------------------------------------------------------


def draw(entries: list[dict], path: Path, title: str) -> None:
    """Write the curves of a run to ``path`` (PNG). Of several data sources the first one is drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    train = [entry for entry in entries if entry["kind"] == "train"]
    val = [entry for entry in entries if entry["kind"] == "val"]
    sources, topology = sources_of(entries), topology_of(entries)
    with plt.rc_context(PLOT_STYLE):
        shape = {"figsize": (11, 6.4), "height_ratios": (3, 2), "sharex": True, "layout": "constrained"}
        figure, (top, bottom) = plt.subplots(2, 1, **shape)
        steps, values = series(train, topology.team)
        if values:
            colour = topology.accuracies["team"].colour
            top.plot(steps, values, color=colour, alpha=0.35, linewidth=1, label="team, training batches")
        for source in sources[:1]:
            for accuracy in topology.accuracies.values():
                _accuracy_curve(top, val, source, accuracy)
            for voter in voters(val, topology, source):
                top.plot(*series(val, voter.metric), color=voter.colour, linewidth=1, label=voter.label, zorder=1.9)
            _difference_curve(bottom, val, source, topology)
        for curve in (*topology.rates.values(), topology.cosine):
            steps, values = series(train, curve.metric)
            if values and curve.colour:
                bottom.plot(steps, values, color=curve.colour, alpha=0.6, linewidth=1, label=curve.label)
        top.set_ylabel("accuracy")
        top.set_title(f"{title}: {sources[0]}" if sources else title, loc="left", fontweight="bold")
        bottom.axhline(0, color="black", linewidth=0.8)
        bottom.set_xlabel("step")
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis in (top, bottom):
            if axis.get_legend_handles_labels()[0]:
                axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.savefig(path, dpi=130, metadata={"Software": None})
        plt.close(figure)


def voters(val: list[dict], topology: Topology, source: str) -> list[Curve]:
    """A curve for every voter that was validated."""
    logged = {name for entry in val for name in entry["metrics"]}
    patterns = (topology.voter.format(source=source, i=i) for i in count())
    names = list(takewhile(logged.__contains__, patterns))
    if len(names) > len(VOTER_COLOURS):  # too many to tell apart
        labels = [f"each of the {len(names)} voters", *[""] * (len(names) - 1)]
        return [Curve(name, label, VOTER_COLOURS[0]) for name, label in zip(names, labels, strict=True)]
    return [Curve(name, f"voter {i}", VOTER_COLOURS[i]) for i, name in enumerate(names)]


def _accuracy_curve(axis, val: list[dict], source: str, accuracy: Curve) -> None:
    name, sessions = accuracy.metric.format(source=source), SESSIONS.format(source=source)
    steps, values = series(val, name)
    if not values:
        return
    looks = {"color": accuracy.colour, "marker": accuracy.marker, "linestyle": accuracy.line}
    axis.plot(steps, values, **looks, linewidth=2, markersize=5, label=accuracy.label)
    counts = [int(entry["metrics"].get(sessions, 0)) for entry in val if name in entry["metrics"]]
    if all(counts):
        bounds = [wilson(value, number) for value, number in zip(values, counts, strict=True)]
        axis.fill_between(steps, *zip(*bounds, strict=True), color=accuracy.colour, alpha=0.12, linewidth=0)


def _difference_curve(axis, val: list[dict], source: str, topology: Topology) -> None:
    difference = topology.difference
    more, less = (topology.accuracies[name].metric.format(source=source) for name in (difference.more, difference.less))
    points = [
        (entry["step"], entry["metrics"][more] - entry["metrics"][less])
        for entry in val
        if more in entry["metrics"] and less in entry["metrics"]
    ]
    if points:
        label = f"{difference.label}: {difference.more} - {difference.less}"
        axis.plot(*zip(*points, strict=True), color=difference.colour, marker="o", linewidth=2, label=label)


# --- command --------------------------------------------------------------------------------------------------------


def show(run_dir: Path) -> None:
    """Print the table and write the picture."""
    entries = load(run_dir)
    print(table(summarize(entries), topology_of(entries)))
    picture = Path(run_dir) / CURVES
    draw(entries, picture, Path(run_dir).resolve().name)
    print(f"curves: {picture}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Table and curves of a run.")
    parser.add_argument("run_dir", type=Path, help="trainer.default_local_dir of the run")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON, draw nothing")
    arguments = parser.parse_args()
    try:
        if arguments.json:
            print(json.dumps(summarize(load(arguments.run_dir)), indent=2))
        else:
            show(arguments.run_dir)
    except ReportError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
