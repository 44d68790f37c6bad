"""A job that is killed at random moments, and what it has in common with one that was not.

For the end-to-end tests and for benchmarks/random_kills.py.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from jobs import (
    PER_ROLE,
    finish,
    kill_session,
    last_step,
    log_of,
    members,
    numbers,
    sessions,
    shards,
    start_job,
    title,
    wait_until,
)

from ccpo.run.checkpoint import finished_steps
from ccpo.run.folder import ACTOR, MARKER, METRICS, STEP, step_folder, step_of

JOBS = {  # name -> team, further settings, policies
    "dyad": ("dyad", (), (ACTOR,)),
    "vote": ("vote", (), (ACTOR,)),
    "per_role": ("dyad", PER_ROLE, ("think", "reason")),
    "panel": ("examples/panel.py:Panel", ("ccpo.credit.rule=removal",), (ACTOR,)),
}
SAVE_EVERY = 2
SMALL = (
    *("data.train_batch_size=4", "trainer.val_before_train=false", f"trainer.save_freq={SAVE_EVERY}"),
    *("trainer.max_actor_ckpt_to_keep=1", "actor_rollout_ref.model.external_lib=slow_save"),
    "trainer.v1.sampler.custom_sampler.path=pkg://slow_prune",
)
MOMENTS = ("start", "step", "save", "prune")
ALONE = 0.3  # part of the kills that hit one process only
LIMIT = 1800.0  # seconds for anything else: other jobs may keep the machine busy
PATIENCE = 180.0  # seconds in which a job that lost one process has to stop, or to train on
LEAVE = 20.0  # seconds in which the processes of a job that stopped have to be gone


@dataclass
class Trial:
    """What came of one job."""

    job: str
    steps: int
    kills: list[dict] = field(default_factory=list)
    lines: int = 0  # of both run logs, equal in every number
    values: int = 0
    sessions: int = 0  # kept by both, equal in every text and number
    tensors: int = 0  # of weights and optimizers after the last step, equal to the last bit
    missing: list[int] = field(default_factory=list)  # steps of which the killed job has no line
    left_over: list[str] = field(default_factory=list)  # checkpoints that the killed job did not remove
    differing: list[str] = field(default_factory=list)
    start_seconds: float = 0.0
    seconds: float = 0.0


def attempt(job: str, data: Path, folder: Path, steps: int, kills: int, seed: int, say: Callable = print) -> Trial:
    """Train once undisturbed and once with kills, each followed by the same command, until both are done; compare."""
    team, settings, policies = JOBS[job]
    straight, killed = folder / f"{job}-straight", folder / f"{job}-killed"
    settings = (*SMALL, f"trainer.test_freq={steps}", *settings)
    began = time.monotonic()
    trial, dice = Trial(job, steps), random.Random(f"{job} {seed}")

    def start(out: Path) -> subprocess.Popen:
        running.append(start_job(out, team, data, *settings, steps=steps))
        return running[-1]

    running: list[subprocess.Popen] = []
    try:
        process = start(straight)
        wait_until(process, straight, lambda: last_step(straight) >= 1, limit=LIMIT)
        trial.start_seconds = round(time.monotonic() - began, 1)
        finish(process, straight, LIMIT)
        step_seconds = (time.monotonic() - began - trial.start_seconds) / steps
        say(f"{job}: undisturbed in {time.monotonic() - began:.0f} s")
        for number in range(1, kills + 1):
            if steps in finished_steps(killed):  # it went on without the process that it lost, up to the end
                break
            row = {"kill": number, **kill_once(start, killed, steps, dice, trial.start_seconds, step_seconds)}
            kill_session(running[-1].pid)
            trial.kills.append(row)
            say(f"{job}: {row}")
        finish(start(killed), killed, LIMIT)
    finally:
        for process in running:
            kill_session(process.pid)
    compare(trial, straight, killed, policies)
    trial.seconds = round(time.monotonic() - began)
    return trial


def kill_once(start: Callable, out: Path, steps: int, dice: random.Random, start_seconds: float, step_seconds: float):
    """Start the job, kill it or one process of it at a random moment, and see it ended."""
    resumed, began = max(finished_steps(out), default=0), time.time()
    late = resumed + 3 * SAVE_EVERY > steps  # leaves something to do after the last kill
    moment, alone = dice.choice(MOMENTS[:-1] if late else MOMENTS), dice.random() < ALONE
    job = start(out)
    if moment == "start":
        time.sleep(dice.uniform(1, start_seconds))
    elif moment == "step":
        enough = min(resumed + dice.randint(1, 3), steps - 1)
        wait_until(job, out, lambda: trained(out, began) >= enough, limit=LIMIT)
        time.sleep(dice.uniform(0, step_seconds))
    elif moment == "save":
        saving = step_folder(out, resumed + SAVE_EVERY)
        wait_until(job, out, lambda: written(saving, began), 0.01, LIMIT)
        time.sleep(dice.uniform(0, 2.5))
    else:
        saved = step_folder(out, max(resumed + SAVE_EVERY, 2 * SAVE_EVERY))  # the first save has nothing to remove
        wait_until(job, out, (saved / MARKER).exists, 0.002, LIMIT)
        time.sleep(dice.uniform(0, 1.5))
    assert job.poll() is None, f"too late: it had ended\n{log_of(out)[-3000:]}"
    seconds = round(time.time() - began, 2)
    logged, saved, whole = trained(out, began), finished_steps(out), unfinished(out)
    victim = kill(job, out, dice if alone else None)
    row = {"moment": moment, "victim": victim, "after_seconds": seconds, "resumed_from": resumed, "step": logged}
    row |= {"complete": saved, "incomplete": whole}
    if alone:
        row |= after_one(job, out, began)
    kill_session(job.pid)
    job.wait(30)
    return row


def kill(job: subprocess.Popen, out: Path, dice: random.Random | None) -> str:
    """SIGKILL to the whole session at once, or to one process of it; says to which."""
    processes = members(job.pid)
    if dice is None:
        for process in processes:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return "all"
    victim = dice.choice(sorted(processes, key=lambda process: process.pid))
    try:
        called = title(victim)
        victim.kill()
        return called
    except psutil.Error:
        return "none: it had just ended"


def after_one(job: subprocess.Popen, out: Path, began: float) -> dict:
    """What a job does that has lost one process: it stops, trains on (the process was none that it needs), or hangs."""
    lost, before = time.monotonic(), trained(out, began)
    while job.poll() is None and trained(out, began) < before + 2 and time.monotonic() - lost < PATIENCE:
        time.sleep(0.2)
    if job.poll() is None:
        went_on = trained(out, began) >= before + 2
        return {"then": "went on" if went_on else f"hung for {PATIENCE:.0f} s"}
    row = {"then": f"stopped, status {job.returncode}", "stopped_after": round(time.monotonic() - lost, 1)}
    deadline = time.monotonic() + LEAVE
    while (left := alive(job.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return row | {"left_running": left}


def alive(session: int) -> list[str]:
    found = []
    for process in members(session):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(title(process))
        except psutil.Error:
            continue
    return found


def trained(out: Path, since: float) -> int:
    """Last step that a job logged; 0 until it has taken over what the one before it logged."""
    path = out / METRICS
    return last_step(out) if path.exists() and path.stat().st_mtime > since else 0


def written(folder: Path, since: float) -> bool:
    """Whether a save has begun, of which an earlier job may have left a part."""
    try:
        return any(path.stat().st_mtime > since for path in folder.rglob("*.pt"))
    except FileNotFoundError:
        return False


def unfinished(out: Path) -> list[str]:
    """Checkpoints that are not complete: being saved, or, under another name, being removed."""
    found = out.glob(f"{STEP}*")
    return sorted(folder.name for folder in found if step_of(folder.name) is None or not (folder / MARKER).exists())


def compare(trial: Trial, straight: Path, killed: Path, policies: tuple[str, ...]) -> None:
    """Every number of every line that both have, every session that was kept, every tensor of the last checkpoint, and what is left of others."""
    mine, theirs = sessions(straight), sessions(killed)
    trial.differing += [
        f"sessions of step {step} {kind}"
        for step, kind in mine | theirs
        if mine.get((step, kind)) != theirs.get((step, kind))
    ]
    trial.sessions = sum(map(len, mine.values()))
    one, two = numbers(straight), numbers(killed)
    trial.missing = sorted(step for step, kind in set(one) - set(two))
    trial.differing += [f"step {step} has no line" for step in trial.missing]
    for key in sorted(set(one) & set(two)):
        names = one[key].keys() | two[key].keys()
        unequal = sorted(name for name in names if one[key].get(name) != two[key].get(name))
        trial.differing += [
            f"step {key[0]} {key[1]} {name}: {one[key].get(name)} became {two[key].get(name)}" for name in unequal
        ]
        trial.lines, trial.values = trial.lines + 1, trial.values + len(names)
    for policy in policies:
        mine, theirs = shards(straight, trial.steps, policy), shards(killed, trial.steps, policy)
        trial.differing += [
            f"{policy} {name}" for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)
        ]
        trial.tensors += len(mine)
    folders = [{folder.name for folder in out.glob(f"{STEP}*")} for out in (killed, straight)]
    trial.left_over = sorted(folders[0] - folders[1])
