"""Where runs stand: a few lines for each, while they train or after.

    python scripts/progress.py outputs/*
    python scripts/progress.py outputs/a outputs/b --every 60        again every 60 seconds, until all have ended

The team's accuracy in training is a mean of ten steps each, the last of what is there; other numbers are means of the last five steps. A folder without a
log is named and waited for. The whole story of a run: scripts/report.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

from ccpo.evaluate.measures import mean
from ccpo.report.logged import TEAM_ACCURACY, TEAM_IN_TRAINING, ReportError, load, sources_of
from ccpo.run.lock import holder_of
from ccpo.run.output import until_cut

BLOCK, LAST = 10, 5
NUMBERS = {
    "timing_s/step": ("s a step", "{:.1f}"),
    "ccpo/generated_tokens": ("tokens said a step", "{:,.0f}"),
    "response_length/clip_ratio": ("truncated", "{:.3f}"),
    "actor/entropy": ("entropy", "{:.3f}"),
    "actor/grad_norm": ("gradient", "{:.3g}"),
    "rollout_corr/kl": ("rollout kl", "{:.4f}"),
    "ccpo/credit/zero_rate": ("advantages of 0", "{:.2f}"),
}
"""Metric (of one policy; several have theirs as POLICY/metric) -> its name here, and how it is written."""


def lines(folder: Path) -> Iterator[str]:
    """What is said of a run. Raises ReportError where it has logged nothing."""
    entries = load(folder)
    train = [entry["metrics"] for entry in entries if entry["kind"] == "train"]
    steps = [entry["step"] for entry in entries if entry["kind"] == "train"]
    holder = holder_of(folder)
    yield f"{folder}: step {steps[-1] if steps else 0}" + ("" if holder is None else ", trains")
    rewards = [one[TEAM_IN_TRAINING] for one in train if TEAM_IN_TRAINING in one]
    blocks = [rewards[start : start + BLOCK] for start in range(0, len(rewards), BLOCK)]
    if blocks:
        yield f"  team, steps {steps[0]}-{steps[-1]}: " + " ".join(f"{mean(block):.3f}" for block in blocks)
    said = [
        f"{name} {form.format(value)}"
        for metric, (name, form) in NUMBERS.items()
        if (value := mean([one[metric] for one in train[-LAST:] if metric in one])) is not None
    ]
    if said:
        yield "  " + ", ".join(said)
    for source in sources_of(entries):
        name = TEAM_ACCURACY.format(source=source)
        found = [
            (one["step"], one["metrics"][name]) for one in entries if one["kind"] == "val" and name in one["metrics"]
        ]
        yield f"  validated on {source}: " + ", ".join(f"{value:.3f} at {step}" for step, value in found)


def show(folders: Sequence[Path]) -> int:
    """Print all; returns how many have ended. A run that has not begun has not ended."""
    ended = 0
    for folder in folders:
        try:
            print(*lines(folder), sep="\n")
            ended += holder_of(folder) is None
        except ReportError as error:
            print(f"{folder}: {error}")
    return ended


def seconds(text: str) -> float:
    """A time to wait, as argparse's type."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 1 <= found <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}: set 1 to 86400 seconds")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("--every", type=seconds, metavar="SECONDS", help="again and again, until all runs have ended")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may be no text
    while show(options.runs) < len(options.runs) and options.every:
        print(flush=True)
        time.sleep(options.every)


if __name__ == "__main__":
    try:
        sys.exit(until_cut(main))
    except KeyboardInterrupt:
        sys.exit(130)
