"""Train for a long time on the CPU and look whether anything grows: memory, threads, files, shared memory, folders.

    .venv/bin/python benchmarks/soak.py --steps 500 --team dyad          about 40 minutes on two cores

The job is the quickstart's, with a checkpoint every 25 steps and a validation every 50. Every few seconds each process of the
job's session is read. Memory is USS, what would be free if the process ended: RSS counts pages of the object store and of
libraries once per process that ever touched them, so it rises without any of it being the process's own. What they share is
looked at once for the whole job: the blocks of every file in /dev/shm that a process of the job has open.

Verdict per process that was there to the end: least squares of USS against the step, from --warm-up to the end, and the medians
of the first and the last 50 steps of that range, neither of which may rise by more than 5 %. (Less is no leak.)
Exit status 0: the job finished and everything is flat.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import linear_regression, median

import psutil
from evidence import ROOT, Evidence, table
from jobs import kill_session, log_of, members, start_job, title

from ccpo.run.folder import METRICS
from ccpo.run.run_log import read_run_log

FLAT = 5.0  # percent
WINDOW = 50  # steps
MB = 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--team", default="dyad")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-up", type=int, default=50, help="steps that are not looked at (default %(default)s)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between looks (default %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "soak", help="folder of the run, emptied first")
    parser.add_argument("--result", type=Path, help="JSON file (default OUT/soak.json)")
    parser.add_argument("overrides", nargs="*", metavar="-- OVERRIDE", help="further verl overrides")
    options = parser.parse_args()
    if options.steps < options.warm_up + 2 * WINDOW:
        parser.error(f"--steps must be at least --warm-up + {2 * WINDOW}, the two windows that are compared")
    out = options.out.resolve()
    evidence = Evidence(vars(options))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    data = out / "data"
    subprocess.run([sys.executable, "-m", "data_preprocess.toy", "--out", str(data)], cwd=ROOT, check=True)
    rays = Path(
        tempfile.mkdtemp(prefix="soak")
    )  # short: sockets lie in it; of this job alone, so that it can be weighed
    overrides = ["trainer.save_freq=25", "trainer.test_freq=50", f"seed={options.seed}", *options.overrides]
    run = out / "run"
    job = start_job(run, options.team, data, *overrides, steps=options.steps, environment={"RAY_TMPDIR": str(rays)})
    try:
        samples = list(watch(job, run, rays, options.every, out / "samples.jsonl"))
        status = job.wait()
        figures = {"status": status, **judge(samples, step_times(run), options)}
    finally:
        kill_session(job.pid)
        shutil.rmtree(rays, ignore_errors=True)
    if status:
        print(log_of(run)[-3000:])
    show(figures)
    evidence.write(options.result or out / "soak.json", figures)
    return 0 if status == 0 and figures["flat"] else 1


# --- looking --------------------------------------------------------------------------------------------------------


def watch(job: subprocess.Popen, run: Path, rays: Path, every: float, raw: Path):
    """A sample every few seconds until the job ends. All of them are kept in ``raw``, too."""
    with raw.open("w") as stream:
        while job.poll() is None:
            began = time.monotonic()
            sample = look(job.pid, run, rays)
            stream.write(json.dumps(sample) + "\n")
            stream.flush()
            yield sample
            time.sleep(max(0.0, every - (time.monotonic() - began)))


def look(session: int, run: Path, rays: Path) -> dict:
    """One sample of the whole job."""
    step, processes, shared = newest_step(run / METRICS), {}, {}
    for process in members(session):
        try:
            with process.oneshot():
                memory = process.memory_full_info()
                key = f"{process.pid}-{process.create_time():.0f}"
                processes[key] = {
                    "title": title(process),
                    "uss": memory.uss,
                    "pss": memory.pss,
                    "rss": memory.rss,
                    "threads": process.num_threads(),
                    "files": process.num_fds(),
                }
            shared.update(shared_files(process.pid))
        except psutil.Error:
            continue  # has just ended
    return {
        "time": time.time(),
        "step": step,
        "processes": processes,
        "shm": sum(shared.values()),
        "run_folder": size(run),
        "ray_folder": size(rays),
        "metrics": (run / METRICS).stat().st_size if (run / METRICS).exists() else 0,
    }


def shared_files(pid: int) -> dict[int, int]:
    """Bytes in memory by inode of every file in /dev/shm that a process has open, whether it still has a name or not."""
    found = {}
    folder = f"/proc/{pid}/fd"
    try:
        for name in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{name}").startswith("/dev/shm/"):
                    status = os.stat(f"{folder}/{name}")
                    found[status.st_ino] = status.st_blocks * 512
            except OSError:
                continue  # closed meanwhile
    except OSError:
        pass
    return found


def size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:
            continue  # pruned meanwhile
    return total


def newest_step(metrics: Path) -> int:
    """Step of the last whole line, without reading those before."""
    try:
        with metrics.open("rb") as stream:
            stream.seek(max(0, metrics.stat().st_size - 65536))
            lines = stream.read().decode(errors="replace").split("\n")[:-1]
        return json.loads(lines[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0


def step_times(run: Path) -> dict[int, float]:
    path = run / METRICS
    entries = read_run_log(path) if path.exists() else []
    name = "timing_s/step"
    return {entry["step"]: entry["metrics"][name] for entry in entries if name in entry["metrics"]}


# --- judging --------------------------------------------------------------------------------------------------------


def judge(samples: list[dict], seconds: dict[int, float], options: argparse.Namespace) -> dict:
    """Growth of every process and of the whole, from the warm-up to the last step."""
    last = max((sample["step"] for sample in samples), default=0)
    if last < options.warm_up + 2 * WINDOW:
        return {"flat": False, "why": f"the job reached step {last} only", "processes": [], "whole": {}}
    looked = [
        sample for sample in samples if options.warm_up <= sample["step"] < last
    ]  # at the last step processes end
    lives: dict[str, list[tuple[int, dict]]] = {}
    for sample in looked:
        for key, process in sample["processes"].items():
            lives.setdefault(key, []).append((sample["step"], process))
    end = looked[-1]["step"]
    whole_life = {k: life for k, life in lives.items() if life[0][0] <= options.warm_up + 5 and life[-1][0] >= end - 2}
    processes = []
    for life in whole_life.values():
        steps = [step for step, _ in life]
        row = {"title": life[-1][1]["title"], **growth(steps, [process["uss"] for _, process in life], "uss")}
        row |= {f"{name}_MB": ends([process[name] / MB for _, process in life]) for name in ("pss", "rss")}
        row |= {name: ends([process[name] for _, process in life]) for name in ("threads", "files")}
        processes.append(row)
    processes.sort(key=lambda row: -row["uss_last_MB"])
    steps = [sample["step"] for sample in looked]
    uss = [sum(process["uss"] for process in sample["processes"].values()) for sample in looked]
    pss = [sum(process["pss"] for process in sample["processes"].values()) for sample in looked]
    whole = {**growth(steps, uss, "uss"), **growth(steps, pss, "pss")}
    for name in ("shm", "run_folder", "ray_folder", "metrics"):
        whole[f"{name}_MB"] = ends([sample[name] / MB for sample in looked])
    brief = [life for key, life in lives.items() if key not in whole_life]
    first = [t for step, t in seconds.items() if options.warm_up < step <= options.warm_up + WINDOW]
    final = [t for step, t in seconds.items() if step > last - WINDOW]
    return {
        "flat": all(row["flat"] for row in processes),
        "steps": last,
        "samples": len(looked),
        "processes": processes,
        "whole": whole,
        "brief_processes": sorted({life[-1][1]["title"] for life in brief}),
        "step_seconds": {"after_warm_up": round(median(first), 3), "last": round(median(final), 3)},
        "metrics_bytes_a_step": round((looked[-1]["metrics"] - looked[0]["metrics"]) / max(1, steps[-1] - steps[0])),
    }


def ends(values: list[float]) -> list[float]:
    """First and last tenth (medians) and the most."""
    part = max(1, len(values) // 10)
    return [round(value, 2) for value in (median(values[:part]), median(values[-part:]), max(values))]


def growth(steps: list[int], values: list[int], name: str) -> dict:
    """By the fitted line, and between the medians of the first and last window; flat if neither rises by more than FLAT percent."""
    slope, start = linear_regression(steps, values)
    fitted = start + slope * steps[0]
    first = median(value for step, value in zip(steps, values, strict=True) if step < steps[0] + WINDOW)
    last = median(value for step, value in zip(steps, values, strict=True) if step > steps[-1] - WINDOW)
    line, medians = 100 * slope * (steps[-1] - steps[0]) / fitted, 100 * (last / first - 1)
    return {
        f"{name}_first_MB": round(first / MB, 2),
        f"{name}_last_MB": round(last / MB, 2),
        f"{name}_max_MB": round(max(values) / MB, 2),
        f"{name}_line_percent": round(line, 2),
        f"{name}_medians_percent": round(medians, 2),
        f"{name}_bytes_a_step": round(slope),
        "flat": line <= FLAT and medians <= FLAT,
    }


def show(figures: dict) -> None:
    if not figures["processes"]:
        print(f"not judged: {figures.get('why')}")
        return
    head = ["process", "USS MB, first", "last", "most", "line %", "medians %", "bytes/step", "files", "threads", "flat"]
    rows = [
        [
            row["title"],
            *(
                row[f"uss_{name}"]
                for name in ("first_MB", "last_MB", "max_MB", "line_percent", "medians_percent", "bytes_a_step")
            ),
            *("{:.0f} - {:.0f}".format(*row[name][:2]) for name in ("files", "threads")),
            row["flat"],
        ]
        for row in figures["processes"]
    ]
    whole = figures["whole"]
    print(table([head, *rows]))
    print(
        f"\nwhole job: USS {whole['uss_first_MB']} to {whole['uss_last_MB']} MB, PSS {whole['pss_first_MB']} to {whole['pss_last_MB']} MB"
    )
    for name in ("shm_MB", "run_folder_MB", "ray_folder_MB"):
        print(f"{name}: first, last, most {whole[name]}")
    print(f"processes that came and went: {', '.join(figures['brief_processes']) or 'none'}")
    print(
        f"step time (median of {WINDOW}): {figures['step_seconds']}; metrics: {figures['metrics_bytes_a_step']} bytes a step"
    )
    print(f"{figures['steps']} steps, {'all flat' if figures['flat'] else 'NOT flat'} within {FLAT:.0f} %")


if __name__ == "__main__":
    sys.exit(main())
