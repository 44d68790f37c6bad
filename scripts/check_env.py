"""What is installed and what this machine has, with what to do about each problem. Runs in any Python 3.

python scripts/check_env.py        status 0 when the CPU or the GPU stack is usable, 1 otherwise
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOTH = ("torch", "verl", "ray", "transformers", "tensordict", "TransferQueue", "mpmath", "hydra-core")
GPU_ONLY = ("vllm",)
PYTHONS = ((3, 10), (3, 11), (3, 12))
LEAST_MEMORY = 8.0  # GB free: Ray, a trainer and a rollout worker
LEAST_SHM = 1.0  # GB: Ray's object store lives there
LEAST_DISK = 10.0  # GB: environment and checkpoints
SETUP = {"cpu": "bash scripts/setup.sh", "gpu": "bash scripts/setup.sh gpu"}


@dataclass
class Facts:
    """What was found. None or absent: not there, or not known. GB are 10**9 bytes."""

    python: tuple[int, int]
    versions: dict[str, str]
    pins: dict[str, str]  # exact pins of the stack that is, or would be, installed
    gpus: list[str] = field(default_factory=list)
    memory: float | None = None
    shm: float | None = None
    disk: float | None = None
    commit: str | None = None


def gather() -> Facts:
    """Look at this machine and this Python. Imports nothing but the standard library."""
    versions = {}
    for name in BOTH + GPU_ONLY:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return Facts(
        python=sys.version_info[:2],
        versions=versions,
        pins=read_pins(ROOT / ("requirements.txt" if "vllm" in versions else "requirements-cpu.txt")),
        gpus=_lines("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"),
        memory=_free_memory(),
        shm=_free_space("/dev/shm"),
        disk=_free_space(ROOT),
        commit=next(iter(_lines("git", "-C", str(ROOT), "describe", "--always", "--dirty")), None),
    )


def read_pins(path: Path) -> dict[str, str]:
    """Exact pins that apply to every Python: ``name==version`` lines without an environment marker."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    matches = (re.match(r"([\w.-]+)(?:\[[^]]*\])?==([^\s;#]+)\s*(?:#.*)?$", line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def _lines(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def _free_space(path: str | Path) -> float | None:
    return shutil.disk_usage(path).free / 1e9 if os.path.isdir(path) else None


def _free_memory() -> float | None:
    """Available memory, at most what a container's limit leaves; None where Linux's files are missing."""
    try:
        available = int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) * 1024
    except (OSError, TypeError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        available = min(available, limit - used)
    except (OSError, ValueError):  # no cgroup v2, or "max"
        pass
    return available / 1e9


def problems_of(facts: Facts) -> tuple[list[str], list[str]]:
    """(what makes both stacks unusable, what is worth knowing), each with what to do."""
    fatal, notes = [], []
    if facts.python not in PYTHONS:
        found = ".".join(map(str, facts.python))
        fatal.append(
            f"this is Python {found}, verl 0.9.1 needs 3.10, 3.11 or 3.12: PYTHON=/path/to/python3.11 {SETUP['cpu']}"
        )
    missing = [name for name in BOTH if name not in facts.versions]
    if missing:
        where = (
            "" if sys.prefix != sys.base_prefix else " (this is no virtual environment; was .venv/bin/python meant?)"
        )
        fatal.append(f"{', '.join(missing)} not installed{where}: {SETUP['cpu']}, on a GPU machine {SETUP['gpu']}")
    for name in ("verl", "TransferQueue"):
        found, pinned = facts.versions.get(name), facts.pins.get(name)
        if found and pinned and found != pinned:
            fatal.append(
                f"{name} {found} is installed, {pinned} is required: ccpo hooks into functions that move between "
                f"releases; {SETUP['cpu']}, on a GPU machine {SETUP['gpu']}"
            )
    if not facts.gpus:
        notes.append("no NVIDIA GPU: use profile=cpu (bash scripts/quickstart.sh); recipe/run_ccpo_*.sh need a GPU")
    elif "vllm" not in facts.versions:
        notes.append(f"a GPU, but no vllm, which profile=gpu needs: {SETUP['gpu']}")
    for name, found, least, remedy in (
        ("memory", facts.memory, LEAST_MEMORY, "end other programs; Ray kills workers when memory runs out"),
        (
            "/dev/shm",
            facts.shm,
            LEAST_SHM,
            "Ray's object store falls back to slow files; in a container set --shm-size=8g",
        ),
        ("disk", facts.disk, LEAST_DISK, "make room for checkpoints, or point trainer.default_local_dir elsewhere"),
    ):
        if found is not None and found < least:
            notes.append(f"{found:.1f} GB of {name} free, {least:.0f} GB are advised: {remedy}")
    return fatal, notes


def describe(facts: Facts) -> str:
    """All facts, one line each."""
    rows = [("ccpo", facts.commit or "unknown commit"), ("python", f"{platform.python_version()}  {sys.executable}")]
    for name in BOTH + GPU_ONLY:
        pinned = facts.pins.get(name)
        found = facts.versions.get(name, "not installed")
        differs = name in facts.versions and pinned and found.split("+")[0] != pinned
        rows.append((name, f"{found}  (pinned: {pinned})" if differs else found))
    rows.append(("cpu", f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"))
    rows += [("gpu", gpu) for gpu in facts.gpus or ["none"]]
    for name, value in (("memory", facts.memory), ("/dev/shm", facts.shm), ("disk", facts.disk)):
        rows.append((name, "unknown" if value is None else f"{value:.1f} GB free"))
    return "\n".join(f"{name:<15}{value}" for name, value in rows)


def main() -> int:
    facts = gather()
    fatal, notes = problems_of(facts)
    print(describe(facts))
    print()
    for text in fatal:
        print(f"problem: {text}")
    for text in notes:
        print(f"note: {text}")
    if fatal:
        return 1
    print("usable: profile=cpu" + (", profile=gpu" if facts.gpus and "vllm" in facts.versions else ""))
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.exit(main())
