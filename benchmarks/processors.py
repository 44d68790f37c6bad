"""Which processes of a running job use the processors: seconds of each, a step. With a small model a job waits for these, not for its GPU.

    .venv/bin/python benchmarks/processors.py RUN_FOLDER

It watches the job that writes this folder, on its own machine and with a Ray of its own, between the ends of two training steps. A process
that waits by turning round (vLLM's do, for a second) uses its core all the same. Several jobs on one machine slow each other down,
processors' seconds included.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections import defaultdict
from pathlib import Path

import psutil
from evidence import Evidence, table
from jobs import title
from soak import newest_step

from ccpo.run.folder import LOCK, METRICS
from ccpo.run.lock import holder_of
from ccpo.run.output import until_cut


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the job's folder (trainer.default_local_dir)")
    parser.add_argument("--steps", type=int, default=10, help="training steps to watch (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/processors.json"))
    given = parser.parse_args()
    if given.steps < 1:
        parser.error(f"--steps is {given.steps}: set it to 1 or more")
    if (driver := driver_of(given.folder)) is None:
        parser.error(f"no job of this machine runs in {given.folder}: one holds {LOCK} there as long as it lives")
    evidence = Evidence(vars(given))
    log = given.folder / METRICS
    first = begins_after(driver, log, newest_step(log))
    before, began = used(driver), time.monotonic()
    if not any("Worker" in name for name, _ in before.values()):
        raise SystemExit(
            "error: no worker is a child of this job's: it joined a Ray that runs already, which starts its processes"
        )
    last = begins_after(driver, log, first + given.steps - 1)
    after, seconds = used(driver), time.monotonic() - began
    steps = last - first
    shares: dict[str, list[float]] = defaultdict(list)
    for process, (name, spent) in after.items():
        shares[name].append((spent - before.get(process, (name, 0.0))[1]) / steps)
    rows = sorted(((sum(each), len(each), name) for name, each in shares.items()), reverse=True)
    whole = sum(row[0] for row in rows)
    print(f"{steps} steps of {seconds / steps:.2f} s; {whole / (seconds / steps):.2f} cores in use\n")
    head = ["process", "how many", "seconds a step", "share"]
    shown = [
        [name, count, f"{spent:.2f}", f"{spent / whole:.0%}"] for spent, count, name in rows if spent >= 0.01 * whole
    ]
    print(table([head, *shown]))
    figures = {name: {"processes": count, "seconds_a_step": spent} for spent, count, name in rows}
    evidence.write(given.out, {"steps": steps, "seconds_a_step": seconds / steps, "of": figures})
    return 0


def driver_of(folder: Path) -> psutil.Process | None:
    """The process that holds a run's folder, if it is one of this machine."""
    try:
        facts = json.loads((folder / LOCK).read_text())
        if holder_of(folder) is not None and facts["host"] == socket.gethostname():
            return psutil.Process(facts["pid"])
    except (OSError, ValueError, TypeError, KeyError, psutil.NoSuchProcess):
        pass
    return None


def begins_after(driver: psutil.Process, log: Path, step: int) -> int:
    """Wait until a later step than this one is in the log; which one it is."""
    while (steps := newest_step(log)) <= step:
        if not alive(driver):
            raise SystemExit(
                f"error: the job ended after {steps} steps, before what was to be measured: give fewer --steps"
            )
        time.sleep(0.05)
    return steps


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def used(driver: psutil.Process) -> dict[psutil.Process, tuple[str, float]]:
    """Every process of a job: its name, and the seconds of processors that it has used."""
    found = {}
    try:
        family = [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        raise SystemExit("error: the job ended: give fewer --steps") from None
    for process in family:
        try:
            spent = process.cpu_times()
            found[process] = name_of(process), spent.user + spent.system
        except psutil.NoSuchProcess:
            continue
    return found


def name_of(process: psutil.Process) -> str:
    words = process.cmdline()
    forked = any("forkserver" in word for word in words)
    return "vLLM, engine and worker" if forked else title(process)


if __name__ == "__main__":
    raise SystemExit(until_cut(main))
