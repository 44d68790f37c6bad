"""What a run achieved: a table and RUN_DIR/curves.png, from RUN_DIR/metrics.jsonl.

    python scripts/report.py outputs/dyad
    python scripts/report.py outputs/dyad --json

"before" is the first validation, "after" the last one. Accuracies carry 95 % Wilson intervals over the scored sessions,
which counts them as independent; with several sessions per prompt the truth is wider. Equal metrics give equal lines,
except for the lines on time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

from ccpo.verl_plugin.run_log import read_run_log

ACCURACIES = {
    "team": "val-core/{source}/team_accuracy",
    "solo": "val-aux/{source}/solo_accuracy",
    "emptied": "val-aux/{source}/emptied_accuracy",
}
LABELS = {
    "team": "team (Reason reads the thought)",
    "solo": "solo (Reason answers on its own)",
    "emptied": "thought emptied (Reason reads nothing)",
}
MARGINAL = "val-aux/{source}/marginal_contribution"
SESSIONS = "val-aux/{source}/sessions"
RATES = {"help": "ccpo/contribution/help_rate", "hurt": "ccpo/contribution/hurt_rate"}
TEAM_REWARD = "ccpo/reason/reward_mean"
COSINE = "ccpo/credit/cosine_with_shared/think"
PHASES = ("gen", "old_log_prob", "update_actor", "update_weights")
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
    path = Path(run_dir) / "metrics.jsonl"
    if not path.exists():
        raise ReportError(
            f"{path} does not exist: {run_dir} is no folder of a run (trainer.default_local_dir), or nothing "
            "was logged yet"
        )
    entries = read_run_log(path)
    if not entries:
        raise ReportError(f"{path} has no whole line yet; wait for the first validation or step")
    return entries


def sources_of(entries: list[dict]) -> list[str]:
    """Data sources that were validated, in alphabetical order. (A source's name may contain slashes.)"""
    start, end = "val-core/", "/team_accuracy"
    names = {name for entry in entries if entry["kind"] == "val" for name in entry["metrics"]}
    return sorted(name[len(start) : -len(end)] for name in names if name.startswith(start) and name.endswith(end))


def summarize(entries: list[dict]) -> dict:
    """All numbers of the report.

    Returns:
        ``steps``: last trained step. ``sources``: per data source ``before`` and ``after``, each with ``step``,
        ``sessions`` (None if not logged), ``marginal`` and per accuracy ``{"value", "low", "high"}`` (bounds None
        without ``sessions``); what was not measured is absent. ``rates``: help and hurt in training, means over the
        first and last `RATE_STEPS` steps.
        ``seconds``: wall time of steps and validations, mean step, and its phases; None without a step.
    """
    train = [entry for entry in entries if entry["kind"] == "train"]
    val = [entry for entry in entries if entry["kind"] == "val"]
    sources = {}
    for source in sources_of(entries):
        seen = [entry for entry in val if ACCURACIES["team"].format(source=source) in entry["metrics"]]
        sources[source] = {"before": _scores(seen[0], source), "after": _scores(seen[-1], source)}
    rates = {}
    for name, metric in RATES.items():
        values = _series(train, metric)[1]
        if values:
            rates[name] = {"before": _mean(values[:RATE_STEPS]), "after": _mean(values[-RATE_STEPS:])}
    return {
        "steps": max((entry["step"] for entry in train), default=0),
        "sources": sources,
        "rates": rates,
        "seconds": _seconds(train),
    }


def _scores(entry: dict, source: str) -> dict:
    metrics = entry["metrics"]
    sessions = int(metrics.get(SESSIONS.format(source=source), 0)) or None
    scores: dict = {"step": entry["step"], "sessions": sessions}
    for name, pattern in ACCURACIES.items():
        value = metrics.get(pattern.format(source=source))
        if value is not None:
            low, high = wilson(value, sessions) if sessions else (None, None)
            scores[name] = {"value": value, "low": low, "high": high}
    if (marginal := metrics.get(MARGINAL.format(source=source))) is not None:
        scores["marginal"] = marginal
    return scores


def _seconds(train: list[dict]) -> dict | None:
    steps = _series(train, "timing_s/step")[1]
    if not steps:
        return None
    phases = {name: _series(train, f"timing_s/{name}")[1] for name in PHASES}
    return {
        "steps": sum(steps),
        "validation": sum(_series(train, "timing_s/testing")[1]),
        "step": _mean(steps),
        "phases": {name: sum(values) / len(steps) for name, values in phases.items() if values},
    }


def _series(entries: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the entries that have ``name``."""
    found = [(entry["step"], entry["metrics"][name]) for entry in entries if name in entry["metrics"]]
    return [step for step, _ in found], [value for _, value in found]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


# --- table ----------------------------------------------------------------------------------------------------------


def table(summary: dict) -> str:
    """The numbers as text."""
    lines = []
    for source, ends in summary["sources"].items():
        before, after = ends["before"], ends["after"]
        head = f"{source}, {after['sessions']} sessions" if after["sessions"] else source
        lines += [_row(head, f"step {before['step']}", f"step {after['step']}", "change"), "-" * 96]
        for name, label in LABELS.items():
            if name in before and name in after:
                change = after[name]["value"] - before[name]["value"]
                lines.append(_row(label, _accuracy(before[name]), _accuracy(after[name]), f"{change:+.3f}"))
        if "marginal" in before and "marginal" in after:
            ends_of = before["marginal"], after["marginal"]
            lines.append(
                _row(
                    "Think's contribution (team - solo)",
                    *(f"{v:+.3f}" for v in ends_of),
                    f"{ends_of[1] - ends_of[0]:+.3f}",
                )
            )
        lines.append("")
    if not summary["sources"]:
        lines += ["no validation was logged (trainer.test_freq, trainer.val_before_train)", ""]
    if summary["rates"]:
        lines += [_row("in training", f"first {RATE_STEPS} steps", f"last {RATE_STEPS} steps", "change"), "-" * 96]
        texts = {"help": "Think helped (right, solo wrong)", "hurt": "Think hurt (wrong, solo right)"}
        for name, ends in summary["rates"].items():
            change = ends["after"] - ends["before"]
            lines.append(_row(texts[name], f"{ends['before']:.3f}", f"{ends['after']:.3f}", f"{change:+.3f}"))
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


def _row(label: str, *cells: str) -> str:
    return f"{label:<40}{cells[0]:<23}{cells[1]:<23}{cells[2]}".rstrip()


def _accuracy(score: dict) -> str:
    interval = f" [{score['low']:.3f}, {score['high']:.3f}]" if score["low"] is not None else ""
    return f"{score['value']:.3f}{interval}"


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
    sources = sources_of(entries)
    style = {"team": ("#1b6ca8", "o", "-"), "solo": ("#d1602f", "s", "-"), "emptied": ("#8a8a8a", "^", "--")}
    settings = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
    }
    with plt.rc_context(settings):
        shape = {"figsize": (11, 6.4), "height_ratios": (3, 2), "sharex": True, "layout": "constrained"}
        figure, (top, bottom) = plt.subplots(2, 1, **shape)
        steps, values = _series(train, TEAM_REWARD)
        if values:
            top.plot(steps, values, color=style["team"][0], alpha=0.35, linewidth=1, label="team, training batches")
        for source in sources[:1]:
            for name, pattern in ACCURACIES.items():
                _curve(
                    top, val, pattern.format(source=source), SESSIONS.format(source=source), LABELS[name], style[name]
                )
            steps, values = _series(val, MARGINAL.format(source=source))
            bottom.plot(
                steps, values, color="#2a8a57", marker="o", linewidth=2, label="Think's contribution: team - solo"
            )
        steps, values = _series(train, COSINE)
        if values:
            label = "cosine of Think's advantages with shared credit"
            bottom.plot(steps, values, color="#7a4fa3", alpha=0.6, linewidth=1, label=label)
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


def _curve(axis, val: list[dict], name: str, sessions: str, label: str, style: tuple[str, str, str]) -> None:
    steps, values = _series(val, name)
    if not values:
        return
    colour, marker, line = style
    axis.plot(steps, values, color=colour, marker=marker, linestyle=line, linewidth=2, markersize=5, label=label)
    counts = [int(entry["metrics"].get(sessions, 0)) for entry in val if name in entry["metrics"]]
    if all(counts):
        bounds = [wilson(value, count) for value, count in zip(values, counts, strict=True)]
        axis.fill_between(steps, *zip(*bounds, strict=True), color=colour, alpha=0.12, linewidth=0)


# --- command --------------------------------------------------------------------------------------------------------


def show(run_dir: Path) -> None:
    """Print the table and write the picture."""
    entries = load(run_dir)
    print(table(summarize(entries)))
    picture = Path(run_dir) / "curves.png"
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
