"""What every result of this folder says about itself: command, commit, hardware, versions, time."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [
    str(ROOT),
    str(ROOT / "tests"),
    str(ROOT / "tests" / "e2e"),
]  # jobs.py of the end-to-end tests: starting, ending, comparing jobs

from ccpo.run.json_file import write_atomic  # noqa: E402

SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD")
PACKAGES = (
    "torch",
    "verl",
    "vllm",
    "ray",
    "TransferQueue",
    "tensordict",
    "transformers",
    "numpy",
    "sympy",
    "math-verify",
)


class Evidence:
    """Made when a benchmark begins; `write` adds how long it took."""

    def __init__(self, arguments: dict):
        self.began = time.monotonic()
        self.about = {
            "command": shlex.join(["python", str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *sys.argv[1:]]),
            "arguments": {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()},
            "commit": _git("rev-parse", "HEAD"),
            "changed_files": _git("status", "--porcelain").splitlines(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "hardware": {
                "cpu": _cpu(),
                "cores": os.cpu_count(),
                "memory_GB": round(psutil.virtual_memory().total / 1e9),
                "gpus": _gpus(),
            },
            "load": os.getloadavg()[0],  # of the last minute before: other jobs on the same machine
            "environment": {
                name: value
                for name, value in os.environ.items()
                if name.startswith(("RAY_", "VLLM_", "MALLOC_", "OMP_")) and not SECRET.search(name)
            },
            "versions": {"python": platform.python_version(), "linux": platform.release(), **_versions()},
        }

    def write(self, path: Path, figures: dict) -> None:
        """Write the result as JSON, whole or not at all."""
        self.about["seconds"] = round(time.monotonic() - self.began)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({**self.about, **figures}, indent=1) + "\n")
        print(f"\n{path} ({self.about['seconds']} s)")


def job_environment(**more: str) -> dict[str, str]:
    """Of a process that finds the project's modules."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **more}


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or ("" if done.returncode == 0 else "no git repository")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gpus() -> list[str]:
    """Name and driver of each NVIDIA GPU of this machine."""
    words = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def quantile(values: list[float], q: float) -> float | None:
    """The value below which a part ``q`` of the values lies (a value that occurs, not one between two); None without values."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else None


def table(rows: list[list[object]]) -> str:
    """Rows of equal length, the first of them the head, as aligned columns."""
    return tabulate(rows, headers="firstrow", tablefmt="plain", disable_numparse=True)
