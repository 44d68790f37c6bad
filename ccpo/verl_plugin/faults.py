"""What happens when something breaks: waits have limits, and a job that cannot go on says why, what is whole and what to do.

    a session raises, or takes too long       dropped and counted; more than ccpo.max_dropped_rate of a step: the job stops
    a rollout server dies                     its sessions raise: as above
    an agent loop worker dies                 found within PING_SECONDS: the job stops (verl would wait for its sessions for ever)
    sessions that never end                   limit ccpo.session_timeout, and for the whole batch a little more: the job stops
    the verifier hangs                        its child process is replaced, the answer counts as wrong (ccpo/verifier.py)
    a loss or gradient is not finite          verl skips the update; counted; BAD_UPDATES steps in a row: the job stops
    a checkpoint cannot be saved              what was written of it is removed, and the job stops
    the newest checkpoint is damaged          passed over for the one before it, with a warning (checkpoint.py)

"The job stops" means: a nonzero exit status, one `error:` line, and the newest complete checkpoint as it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from ccpo.verl_plugin.checkpoint import finished_steps

PING_SECONDS = 5.0
BATCH_GRACE = 60.0  # seconds beyond a session's limit that a batch may take to report
BAD_UPDATES = 3
NUMBERS = ("actor/grad_norm", "actor/pg_loss", "actor/loss")  # that must be finite


class JobStopped(RuntimeError):
    """The job cannot go on; its text says why and what to do. `main_ccpo.py` prints it without a traceback."""


def what_is_whole(run_dir: Path) -> str:
    """One sentence about what a job that is started again resumes from."""
    if steps := finished_steps(run_dir):
        return f"The checkpoint of step {steps[-1]} is whole: the same command goes on from there"
    return "There is no checkpoint yet: the same command starts anew"


def reason_of(error: BaseException) -> str:
    """The first line of what went wrong; for an error in another process, of its cause there."""
    cause = error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}".rstrip(": ")


@contextmanager
def deaths_explained(run_dir: Path) -> Iterator[None]:
    """Inside, the death of one of the job's processes becomes a JobStopped."""
    try:
        yield
    except RayActorError as error:
        raise JobStopped(
            f"a process of the job has died ({reason_of(error)}). {what_is_whole(run_dir)}. If it happens again, look for a lack of memory "
            "(the kernel's log names processes it killed) and into the log above"
        ) from error


class WatchedBuffer(ReplayBuffer):
    """verl's replay buffer, whose wait for sessions has no limit, with one; and it notices when nobody works on them any more."""

    run_dir = Path()
    limit = math.inf  # seconds for one batch of sessions
    _workers: tuple[Any, ...] = ()

    def watch(self, workers: list[Any], run_dir: Path, limit: float) -> None:
        """From now on, stop when one of the ``workers`` (agent loops' Ray actors) is dead, or a batch takes ``limit`` seconds."""
        self._workers, self.run_dir, self.limit = tuple(workers), run_dir, limit
        self._pings: list[Any] = []
        self._looked = time.monotonic()

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict]:
        """As verl's. Raises JobStopped after ``limit`` seconds, or when every session was dropped; RayActorError for a dead worker."""
        self._since = time.monotonic()
        try:
            return super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        except RuntimeError as error:
            if "no materializable trajectories" not in str(error):
                raise
            raise JobStopped(all_dropped(global_steps, self.run_dir)) from error

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        now = time.monotonic()
        if now - self._looked > PING_SECONDS:
            self._looked = now
            self._ping()
        if now - self._since > self.limit:
            waiting = len(self.running_keys[partition_id]) + len(self.pending_keys[partition_id])
            raise JobStopped(
                f"{waiting} prompts have no result after {self.limit:.0f} s, more than their sessions may take (ccpo.session_timeout): the "
                f"agent loop workers hang. {what_is_whole(self.run_dir)}"
            )
        return super()._wait_for_next_poll(partition_id, last_debug_time)

    def _ping(self) -> None:
        if not self._pings:
            self._pings = [worker.__ray_ready__.remote() for worker in self._workers]
        ready, self._pings = ray.wait(self._pings, num_returns=len(self._pings), timeout=0) if self._pings else ([], [])
        ray.get(ready)  # raises for a dead worker; a busy one answers later


def all_dropped(step: int, run_dir: Path) -> str:
    return (
        f"every session of step {step} was dropped: most likely a rollout server has died, or refuses every request; the first error of an "
        f"agent loop worker above says which. {what_is_whole(run_dir)}"
    )


class UpdateWatch:
    """Counts updates that verl skipped because a gradient was not finite."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._in_a_row = 0

    def check(self, metrics: dict[str, float]) -> int:
        """How many of the step's policies had an update without finite numbers. Raises JobStopped at the BAD_UPDATES-th step in a row."""
        bad = {name: value for name, value in metrics.items() if name.endswith(NUMBERS) and not math.isfinite(value)}
        self._in_a_row = self._in_a_row + 1 if bad else 0
        if self._in_a_row >= BAD_UPDATES:
            shown = ", ".join(f"{name}={value}" for name, value in bad.items())
            raise JobStopped(
                f"no finite update in {BAD_UPDATES} steps ({shown}): such updates are skipped, so the weights are still finite, but nothing is "
                f"learned. Lower actor_rollout_ref.actor.optim.lr or set entropy and KL coefficients back. {what_is_whole(self._run_dir)}"
            )
        return len({name.rpartition("actor/")[0] for name in bad})
