"""Kill training jobs at random moments, start each again with the same command, and compare with jobs that were left alone.

    .venv/bin/python benchmarks/random_kills.py --kills 20 --seed 0           about an hour on two cores

Four jobs (the dyad; three voters; the dyad with a policy per role, which take turns to learn; the panel of examples/panel.py) get an
equal part of the kills. A moment is drawn: during the start, a step, a save or the removal of an old checkpoint (both on a disk
that is made slow, else nothing would ever hit them), and when in it. Most kills (SIGKILL) hit every process of the job at once;
some hit a random one only, and then it is noted whether the job stopped by itself, went on or hung.

Equal means: every number of every logged step, and every tensor of weights and optimizers after the last, to the last bit.
Exit status 0: all jobs were equal.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from evidence import ROOT, Evidence, table
from kills import JOBS, attempt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="over all jobs (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims (default %(default)s)")
    parser.add_argument("--steps", type=int, default=14, help="of each job (default %(default)s)")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "random_kills", help="folder, emptied first")
    parser.add_argument("--result", type=Path, help="JSON file (default OUT/random_kills.json)")
    options = parser.parse_args()
    if options.kills < len(options.jobs):
        parser.error(f"--kills must be at least {len(options.jobs)}, one for each job")
    out = options.out.resolve()
    evidence = Evidence(vars(options))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    data = out / "data"
    sizes = ["--train-size", "64", "--test-size", "64"]
    subprocess.run([sys.executable, "-m", "data_preprocess.toy", "--out", str(data), *sizes], cwd=ROOT, check=True)
    result = options.result or out / "random_kills.json"
    trials, broken = [], []
    for number, job in enumerate(options.jobs):
        kills = options.kills // len(options.jobs) + (number < options.kills % len(options.jobs))
        try:
            trials.append(attempt(job, data, out, options.steps, kills, options.seed, say))
        except AssertionError as error:  # a job that does not come back is a result
            broken.append({"job": job, "why": str(error)[-2000:]})
            say(f"{job}: {error}")
        figures = summary(trials, broken)  # after each job, so that one that is cut off leaves what it knows
        evidence.write(result, {**figures, "trials": [asdict(trial) for trial in trials]})
    show(trials, figures)
    return 0 if figures["equal"] else 1


def say(text: str) -> None:
    print(text, flush=True)


def summary(trials: list, broken: list) -> dict:
    rows = [row for trial in trials for row in trial.kills]
    return {
        "equal": not broken and not any(trial.differing for trial in trials),
        "broken": broken,
        "kills": len(rows),
        "of_all_processes": sum(row["victim"] == "all" for row in rows),
        "of_one_process": dict(Counter(row["victim"] for row in rows if row["victim"] != "all")),
        "moments": dict(Counter(row["moment"] for row in rows)),
        "with_an_incomplete_checkpoint": sum(bool(row["incomplete"]) for row in rows),
        "after_one": dict(Counter(row["then"] for row in rows if "then" in row)),
        "stopped_after_seconds": sorted(row["stopped_after"] for row in rows if "stopped_after" in row),
        "lines_compared": sum(trial.lines for trial in trials),
        "values_compared": sum(trial.values for trial in trials),
        "sessions_compared": sum(trial.sessions for trial in trials),
        "tensors_compared": sum(trial.tensors for trial in trials),
        "lines_missing": sum(len(trial.missing) for trial in trials),
        "checkpoints_left_over": sum(len(trial.left_over) for trial in trials),
    }


def show(trials: list, figures: dict) -> None:
    print()
    head = [
        "job",
        "kills",
        "of one process",
        "lines equal",
        "values",
        "sessions",
        "tensors",
        "differing",
        "missing lines",
        "left over",
    ]
    rows = [
        [
            trial.job,
            len(trial.kills),
            sum(row["victim"] != "all" for row in trial.kills),
            trial.lines,
            trial.values,
            trial.sessions,
            trial.tensors,
            len(trial.differing),
            trial.missing,
            trial.left_over,
        ]
        for trial in trials
    ]
    print(table([head, *rows]))
    for trial in trials:
        for line in trial.differing[:10]:
            print(f"{trial.job}: {line}")
    print(f"moments: {figures['moments']}; one process: {figures['of_one_process']}, then {figures['after_one']}")
    print(f"{figures['kills']} kills: {'all equal' if figures['equal'] else 'NOT equal'}")


if __name__ == "__main__":
    sys.exit(main())
