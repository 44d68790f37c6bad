"""What credit rules do to voters of unequal skill.

    bash scripts/quickstart.sh --team vote --compare --seed 1    trains, then a table and a picture of this seed
    python scripts/compare.py outputs                            afterwards, all seeds found there

Over seeds: means and 95 % t intervals of the last validation, and of the differences to shared credit with the same seed.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

from ccpo import report  # noqa: E402
from ccpo.report.means import mean_text  # noqa: E402
from ccpo.run.folder import METRICS  # noqa: E402
from ccpo.run.output import until_cut  # noqa: E402
from data_preprocess.toy_lessons import UNEQUAL_VOTERS  # noqa: E402

Runs = dict[str, list[dict]]  # credit rule -> entries of its run's metrics

# What is trained: three voters, each a policy of its own; the medium one starts from the embedded model.
TEAM = "vote"
RULES = ("shared", "leave_one_out", "resampled", "shapley", "own_correctness")
STEPS = 30
STRONG, WEAK = UNEQUAL_VOTERS
VOTERS = (STRONG, "medium", WEAK)
MODELS = Path("data") / "last_digit_voters"  # where data_preprocess.toy_voters writes them
OVERRIDES = [
    "ccpo.policies=per_role",
    f"ccpo.roles.voter_0.model={MODELS / STRONG}",
    f"ccpo.roles.voter_2.model={MODELS / WEAK}",
    "actor_rollout_ref.rollout.n=6",  # more sessions a prompt, and shared credit is less noisy: the voters differ less
]

TEAM_ACCURACY, VOTER_ACCURACY = report.TEAM_ACCURACY, report.AUX + "voter_{i}/accuracy"
BALLOT_ACCURACY = report.AUX + "ballot_accuracy"
TEAM_LABEL, BALLOT_LABEL = "team (plurality of the votes)", "voter (mean of all)"
VOTER_IN_TRAINING = "ccpo/voter_{i}/accuracy"
SMOOTH_STEPS = 3  # odd
COLOURS = ("#c2356b", "#1b6ca8", "#2a8a57", "#d1602f", "#7a4fa3", "#8a8a8a")  # no two rules of a comparison look alike
PLOT_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}
REFERENCE = "shared"  # rule that the others are compared with
WARNING = (
    "One seed proves nothing: intervals are of the validation samples, not of training; repeat with --seed 1, 2, ..., then "
    "python scripts/compare.py FOLDER"
)


def table(runs: Runs, names: Sequence[str]) -> str:
    """Accuracies of the team and of every voter before and after training, rule by rule; of the first data source."""
    source = report.sources_of(next(iter(runs.values())))[0]
    labels = {TEAM_ACCURACY: TEAM_LABEL}
    labels |= {VOTER_ACCURACY.replace("{i}", str(i)): f"voter {i}, {name}" for i, name in enumerate(names)}
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
    weak = weakest(next(iter(runs.values())), len(names))
    lines.append(f"voter {weak}, {names[weak]}, mean over the training steps")
    lines += [report.row(f"  {rule}", "", f"{in_training(entries, weak):.3f}", "") for rule, entries in runs.items()]
    return "\n".join([*lines, "", WARNING])


def _ends(entries: list[dict], source: str) -> tuple[dict, dict]:
    """First and last validation of a run, each with ``sessions``."""
    seen = report.validations(entries, source)
    sessions = report.SESSIONS.format(source=source)
    first, last = ({**entry, "sessions": int(entry["metrics"].get(sessions, 0))} for entry in (seen[0], seen[-1]))
    return first, last


def weakest(entries: list[dict], voters: int) -> int:
    """Index of the voter that was the least accurate before training, which is the same in every run of a comparison."""
    source = report.sources_of(entries)[0]
    before = _ends(entries, source)[0]["metrics"]
    return min(range(voters), key=lambda i: before[VOTER_ACCURACY.format(source=source, i=i)])


def in_training(entries: list[dict], voter: int) -> float:
    """Mean accuracy of a voter on the training batches: how soon it learned, where the last validation says how far."""
    return statistics.fmean(report.series(entries, VOTER_IN_TRAINING.format(i=voter))[1])


def smooth(values: Sequence[float], width: int = SMOOTH_STEPS) -> list[float]:
    """Centred means of up to ``width`` values; fewer at the ends."""
    reach = width // 2
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def draw(runs: Runs, names: Sequence[str], path: Path, title: str) -> None:
    """Write training curves, one line per rule: the weak voter on the left, the team on the right (PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    weak = weakest(next(iter(runs.values())), len(names))
    panels = {
        f"voter {weak}, {names[weak]}": VOTER_IN_TRAINING.format(i=weak),
        "team (plurality)": report.TEAM_IN_TRAINING,
    }
    with plt.rc_context(PLOT_STYLE):
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


def _validated(folder: Path) -> list[dict]:
    entries = report.load(folder)
    if not report.sources_of(entries):
        raise report.ReportError(f"the run {folder} has logged no validation, so it has no before and after")
    return entries


def show(folders: dict[str, Path], picture: Path) -> None:
    """Print the table and write the picture. ReportError when a run has logged no validation."""
    runs = {rule: _validated(folder) for rule, folder in folders.items()}
    print(table(runs, VOTERS))
    draw(runs, VOTERS, picture, picture.stem)
    print(f"curves: {picture}")


# --- several seeds --------------------------------------------------------------------------------------------------


def run_folder(out: Path, task: str, rule: str, seed: int) -> Path:
    """Where the comparison keeps the run of one rule and seed."""
    return out / f"{task}-compare-{rule}-seed{seed}"


def find(out: Path) -> dict[str, dict[int, list[dict]]]:
    """rule -> seed -> entries of every compared run in ``out``. ReportError when there is none."""
    found: dict[str, dict[int, list[dict]]] = defaultdict(dict)
    for folder in sorted(out.glob("*-compare-*-seed*")):
        named = re.fullmatch(r".+-compare-(\w+)-seed(\d+)", folder.name)
        if named and (folder / METRICS).exists():  # the folders of all rules are made first
            found[named[1]][int(named[2])] = _validated(folder)
    if not found:
        raise report.ReportError(
            f"{out} has no run of a comparison (bash scripts/quickstart.sh --team {TEAM} --compare)"
        )
    return dict(found)


def seeds_table(found: dict[str, dict[int, list[dict]]]) -> str:
    """Weak voter, mean voter and team after training, over the seeds of each rule. All runs must have equally many steps."""
    ends = {
        (rule, seed): _ends(entries, report.sources_of(entries)[0])[1]
        for rule, runs in found.items()
        for seed, entries in runs.items()
    }
    steps = sorted({end["step"] for end in ends.values()})
    if len(steps) > 1:
        last = ", ".join(f"{rule} seed {seed}: {end['step']}" for (rule, seed), end in ends.items())
        raise report.ReportError(f"runs of different lengths are not comparable; last validated steps: {last}")
    some = next(iter(next(iter(found.values())).values()))
    source = report.sources_of(some)[0]
    start = _ends(some, source)[0]["metrics"]
    voters = sum(VOTER_ACCURACY.format(source=source, i=i) in start for i in range(len(start)))
    weak = weakest(some, voters)
    weakest_voter = f"voter {weak}, the weakest before training"
    metrics = {
        weakest_voter: VOTER_ACCURACY.replace("{i}", str(weak)),
        BALLOT_LABEL: BALLOT_ACCURACY,
        TEAM_LABEL: TEAM_ACCURACY,
    }
    measured = {
        label: {key: end["metrics"][metric.format(source=source)] for key, end in ends.items()}
        for label, metric in metrics.items()
    }
    measured[f"{weakest_voter}, mean over the training steps"] = {
        (rule, seed): in_training(entries, weak) for rule, runs in found.items() for seed, entries in runs.items()
    }
    lines = [report.row(f"{source}, step {steps[0]}", "seeds", "after", f"minus {REFERENCE}, same seed"), "-" * 96]
    for label, value in measured.items():
        lines.append(label)
        for rule, runs in found.items():
            after = [value[rule, seed] for seed in runs]
            paired = [value[rule, seed] - value[REFERENCE, seed] for seed in runs if (REFERENCE, seed) in value]
            cells = (str(len(runs)), mean_text(after), mean_text(paired, "+") if rule != REFERENCE and paired else "")
            lines.append(report.row(f"  {rule}", *cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare credit rules over the seeds that were trained.")
    parser.add_argument(
        "out", type=Path, nargs="?", default=Path("outputs"), help="folder of the runs (default outputs)"
    )
    try:
        print(seeds_table(find(parser.parse_args().out)))
    except report.ReportError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    sys.exit(until_cut(main))
