"""What the end-to-end tests share: waiting for a job, ending it, reading what it logged and saved."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from processes import words_of

from ccpo.compare_runs.same import numbers as logged_numbers
from ccpo.run.folder import METRICS, SESSIONS, step_folder
from ccpo.run.run_log import read_run_log
from ccpo.run.session_log import read_sessions

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6
LIMIT = 600  # seconds for one job; it takes about 100 on two idle cores
PER_ROLE = ("ccpo.policies=per_role", "ccpo.schedule.mode=alternate", "ccpo.schedule.every=1")
TEAM = "val-core/toy/last_digit/team_accuracy"


LIBC = ctypes.CDLL(None)
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG, of Linux


def _end_with_the_starter() -> None:
    """pytest-xdist kills a worker that takes more than ten seconds to end, and no fixture of it runs then. Ray's processes end with the job's first."""
    if sys.platform == "linux":
        LIBC.prctl(END_WITH_PARENT, signal.SIGKILL)


def times(out: Path) -> dict[str, str]:
    """What a job's log says of its start and of its later steps, in seconds."""
    steps = [line["metrics"] for line in read_run_log(out / METRICS) if line["kind"] == "train"]
    parts = {k.removeprefix("timing_s/start/"): v for k, v in steps[0].items() if k.startswith("timing_s/start/")}
    later = sorted(step["timing_s/step"] for step in steps[1:])
    longest = sorted(parts, key=parts.get, reverse=True)[:4]
    listed = ", ".join(f"{part} {parts[part]:.0f}" for part in longest)
    return {
        f"{out.name} job: from the command to its first step, s": f"{sum(parts.values()):.0f} ({listed})",
        f"{out.name} job: a later step (median), s": f"{later[len(later) // 2]:.2f}",
    }


def start_job(
    out: Path,
    team: str,
    data: Path,
    *overrides: str,
    steps: int,
    environment: Mapping[str, str] | None = None,
    inside: Sequence[str] = (),
) -> subprocess.Popen:
    """Start training in a session of its own. Its log is beside ``out``; whoever calls ends it with `kill_session`.

    ``inside``: a command that runs the one that follows it.
    """
    named = [f"ccpo_{team}"] if team in ("dyad", "vote") else ["ccpo", f"ccpo.team={team}"]
    command = [
        *inside,
        *(sys.executable, "recipe/main_ccpo.py", "--config-name", *named, "profile=cpu"),
        *("task=last_digit", f"data.train_files={data}/train.parquet", f"data.val_files={data}/test.parquet"),
        *(f"trainer.default_local_dir={out}", f"trainer.total_training_steps={steps}", *overrides),
    ]
    theirs = filter(None, [os.environ.get("PYTHONPATH")])
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent / "faulty"), *theirs])
    ours = {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "CCPO_TEST_OUT": str(out)}
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **ours, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_the_starter,
        )


def members(session: int) -> list[psutil.Process]:
    """Every process of a session that is alive."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found.append(process)
        except OSError:
            continue
    return found


def title(process: psutil.Process) -> str:
    """A process's name that is the same in every run: without identifiers, folders, options and what it is doing."""
    words = words_of(process)
    if not words:
        return process.name()
    if words[0].startswith("ray::"):
        return re.sub(r"[(.].*", "", " ".join(words)[5:]).strip()
    script = next((word for word in words[1:] if word.endswith(".py")), None)
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else None
    return module or Path(script or words[0]).name


def kill_session(session: int) -> None:
    for process in members(session):
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue


def log_of(out: Path) -> str:
    return (out.parent / f"{out.name}.log").read_text(errors="replace")


def finish(job: subprocess.Popen, out: Path, limit: float = LIMIT) -> None:
    status = job.wait(limit)
    assert status == 0, log_of(out)[-3000:]


def wait_until(
    job: subprocess.Popen, out: Path, what: Callable[[], bool], pause: float = 0.1, limit: float = LIMIT
) -> None:
    """Wait for ``what`` while the job runs. Fails when the job ends before, or nothing happens within the limit."""
    deadline = time.monotonic() + limit
    while not what():
        assert job.poll() is None and time.monotonic() < deadline, log_of(out)[-3000:]
        time.sleep(pause)


def last_step(out: Path) -> int:
    path = out / METRICS
    return max((entry["step"] for entry in read_run_log(path)), default=0) if path.exists() else 0


def numbers(out: Path) -> dict:
    """Everything that was logged, except clocks and memory."""
    return logged_numbers(read_run_log(out / METRICS))


def sessions(out: Path) -> dict:
    """(step, kind) -> the sessions that were kept."""
    found: dict = {}
    for entry in read_sessions(out / SESSIONS):
        found.setdefault((entry["step"], entry["kind"]), []).append(entry)
    return found


def shards(out: Path, step: int, policy: str) -> dict[str, str]:
    """Checksums of every tensor of a policy's weights and optimizer."""
    import torch

    sums: dict[str, str] = {}

    def walk(name: str, value) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{name}/{key}", item)
        elif torch.is_tensor(value):
            local = value.to_local() if hasattr(value, "to_local") else value
            sums[name] = hashlib.sha256(local.contiguous().numpy().tobytes()).hexdigest()

    for kind in ("model", "optim"):
        for path in sorted((step_folder(out, step) / policy).glob(f"{kind}*.pt")):
            walk(path.stem, torch.load(path, weights_only=False))
    assert any(name.startswith("model") for name in sums)  # an optimizer that never stepped has no tensors
    return sums
