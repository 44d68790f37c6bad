"""From the command to the end of the first step, part by part: of a job, and of the same job that goes on; and what saving and loading take.

    .venv/bin/python benchmarks/start.py --cpu                            the quickstart's job
    .venv/bin/python benchmarks/start.py --model MODEL --data data/gsm8k  on a GPU; add start=quick for short runs

Runs a job of two steps that saves after each, and then the same command for two steps more, which resumes. Files are warm in the second.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from evidence import ROOT, Evidence, job_environment, table

PREFIX = "timing_s/start/"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="the embedded task on the CPU")
    parser.add_argument("--model", help="folder or hub id")
    parser.add_argument("--data", type=Path, help="folder that python -m data_preprocess.gsm8k has made")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for one job (default %(default)s)")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "bench" / "start")
    parser.add_argument("--result", type=Path, default=ROOT / "outputs" / "bench" / "start.json")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="further verl overrides")
    options = parser.parse_args()
    if not options.cpu and not (options.model and options.data):
        parser.error("give --model and --data, or --cpu")
    evidence = Evidence(vars(options))
    options.work = options.work.resolve()
    shutil.rmtree(options.work, ignore_errors=True)
    jobs = {name: run(name, steps, options) for name, steps in (("anew", 2), ("resumed", 4))}
    evidence.write(options.result, {"jobs": jobs})
    parts = list(dict.fromkeys(part for job in jobs.values() for part in job["start"]))
    rows = [
        ["part", *jobs],
        *([part, *(f"{job['start'].get(part, 0):.1f}" for job in jobs.values())] for part in parts),
    ]
    for name in ("first step over", "save", "checkpoint_GB", "whole job"):
        rows.append([name, *(f"{job[name]:.2f}" for job in jobs.values())])
    print(table(rows))
    return 0


def run(name: str, steps: int, options: argparse.Namespace) -> dict:
    """One job of ``options.work``: seconds of its start's parts, of its saves (mean), and gigabytes of a checkpoint."""
    folder = options.work / "run"
    given = [
        f"trainer.default_local_dir={folder}",
        f"trainer.total_training_steps={steps}",
        "trainer.save_freq=1",
        "trainer.test_freq=-1",
        "trainer.val_before_train=False",
        *options.overrides,
    ]
    if options.cpu:
        data = options.work / "data"
        if not data.exists():
            made = [sys.executable, "-m", "data_preprocess.toy", "--out", str(data)]
            subprocess.run(made, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        own = [
            "profile=cpu",
            "task=last_digit",
            f"actor_rollout_ref.model.path={ROOT / 'data_preprocess' / 'last_digit_model'}",
        ]
    else:
        data, own = (
            options.data.resolve(),
            ["profile=gpu", "task=gsm8k", f"actor_rollout_ref.model.path={options.model}"],
        )
    files = [f"data.train_files={data / 'train.parquet'}", f"data.val_files={data / 'test.parquet'}"]
    words = [sys.executable, str(ROOT / "recipe" / "main_ccpo.py"), "--config-name", "ccpo_dyad", *own, *files, *given]
    log, begun = options.work / f"{name}.log", time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as text:
        done = subprocess.run(
            ["timeout", "--kill-after=30", str(options.timeout), *words],
            stdout=text,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=job_environment(),
        )
    if done.returncode:
        sys.exit(f"the job {name} ended with status {done.returncode}: {log}")
    whole = time.monotonic() - begun
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    own_steps = [line["metrics"] for line in lines if line["kind"] == "train" and steps - 2 < line["step"] <= steps]
    start = {key.removeprefix(PREFIX): value for key, value in own_steps[0].items() if key.startswith(PREFIX)}
    saves = [line["timing_s/save_checkpoint"] for line in own_steps]
    newest = folder / f"global_step_{steps}"
    return {
        "start": {part: round(value, 2) for part, value in start.items()},
        "first step over": sum(start.values()),
        "save": sum(saves) / len(saves),
        "checkpoint_GB": sum(path.stat().st_size for path in newest.rglob("*") if path.is_file()) / 1e9,
        "whole job": whole,
    }


if __name__ == "__main__":
    sys.exit(main())
