"""What credit rules do to voters of unequal skill: a table and a picture of one run per rule (quickstart.sh --compare).

The voters are personas of one policy, so what one learns the others learn too, under shared credit as well. A policy for
each (quickstart.sh ... -- ccpo.policies=per_role) is another comparison: keep it in a folder of its own (--out).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import report

Runs = dict[str, list[dict]]  # credit rule -> entries of its run's metrics

TEAM_IN_TRAINING, VOTER_IN_TRAINING = report.VOTE.team, "ccpo/voter_{i}/accuracy"
SMOOTH_STEPS = 3  # odd
COLOURS = ("#c2356b", "#1b6ca8", "#2a8a57", "#d1602f")
WARNING = (
    "One seed proves nothing: intervals are of the validation samples, not of training; repeat with --seed 1, 2, ..."
)


def table(runs: Runs, personas: Sequence[str]) -> str:
    """Accuracies of the team and of every voter before and after training, rule by rule; of the first data source."""
    source = report.sources_of(next(iter(runs.values())))[0]
    labels = {"val-core/{source}/team_accuracy": report.VOTE.accuracies["team"].label}
    labels |= {report.VOTE.voter.replace("{i}", str(i)): f"voter {i}, {name}" for i, name in enumerate(personas)}
    ends = {rule: _ends(entries, source) for rule, entries in runs.items()}
    counts = sorted({str(after["sessions"]) for _, after in ends.values()})
    lines = [report.row(f"{source}, {' or '.join(counts)} sessions", "before", "after", "change"), "-" * 96]
    for metric, label in labels.items():
        lines.append(label)
        for rule, (before, after) in ends.items():
            first, last = (end["metrics"][metric.format(source=source)] for end in (before, after))
            cells = (
                report.score_text(report.score(value, end["sessions"]))
                for value, end in ((first, before), (last, after))
            )
            lines.append(report.row(f"  {rule} (step {after['step']})", *cells, f"{last - first:+.3f}"))
    return "\n".join([*lines, "", WARNING])


def _ends(entries: list[dict], source: str) -> tuple[dict, dict]:
    """First and last validation of a run, each with ``sessions``."""
    team = report.VOTE.accuracies["team"].metric.format(source=source)
    seen = [entry for entry in entries if entry["kind"] == "val" and team in entry["metrics"]]
    sessions = report.SESSIONS.format(source=source)
    first, last = ({**entry, "sessions": int(entry["metrics"].get(sessions, 0))} for entry in (seen[0], seen[-1]))
    return first, last


def weakest(runs: Runs, voters: int) -> int:
    """Index of the voter that was the least accurate before training."""
    entries = next(iter(runs.values()))
    source = report.sources_of(entries)[0]
    before = _ends(entries, source)[0]["metrics"]
    return min(range(voters), key=lambda i: before[report.VOTE.voter.format(source=source, i=i)])


def smooth(values: Sequence[float], width: int = SMOOTH_STEPS) -> list[float]:
    """Centred means of up to ``width`` values; fewer at the ends."""
    reach = width // 2
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def draw(runs: Runs, personas: Sequence[str], path: Path, title: str) -> None:
    """Write training curves, one line per rule: the weak voter on the left, the team on the right (PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    weak = weakest(runs, len(personas))
    panels = {
        f"weak voter ({personas[weak]})": VOTER_IN_TRAINING.format(i=weak),
        "team (plurality)": TEAM_IN_TRAINING,
    }
    with plt.rc_context(report.PLOT_STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
        for axis, (name, metric) in zip(axes, panels.items(), strict=True):
            for (rule, entries), colour in zip(runs.items(), cycle(COLOURS), strict=False):
                steps, values = report.series([entry for entry in entries if entry["kind"] == "train"], metric)
                axis.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
                axis.plot(steps, smooth(values), color=colour, linewidth=2, label=rule)
            axis.set_title(name, loc="left", fontweight="bold")
            axis.set_xlabel("step")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set_ylabel("accuracy on training batches")
        axes[1].legend(frameon=False, fontsize=9, title="credit rule", loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.suptitle(f"{title}: one seed, mean over {SMOOTH_STEPS} steps (thin: every step)", fontsize=10)
        figure.savefig(path, dpi=130, metadata={"Software": None})
        plt.close(figure)


def show(folders: dict[str, Path], personas: Sequence[str], picture: Path) -> None:
    """Print the table and write the picture. ReportError when a run has logged no validation."""
    runs = {rule: report.load(folder) for rule, folder in folders.items()}
    for rule, entries in runs.items():
        if not report.sources_of(entries):
            raise report.ReportError(
                f"the run of {rule}, {folders[rule]}, has logged no validation, so it has no before and after"
            )
    print(table(runs, personas))
    draw(runs, personas, picture, picture.stem)
    print(f"curves: {picture}")
