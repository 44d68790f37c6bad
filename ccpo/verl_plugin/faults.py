"""What happens when something breaks: waits have limits, and a job that cannot go on says why, what is whole and what to do.

    a session raises, or takes too long       dropped and counted; more than ccpo.max_dropped_rate of a step: the job stops
    Ray has too little to place the job       named before anything waits (resources.py)
    a process of the job, or a node, dies     found within seconds, whatever waits for it: the job stops
    sessions that never end                   limit ccpo.session_timeout each, a little more for their batch: the job stops
    anything else that never ends             limit ccpo.stall_timeout, from the start of the task runner on: the job stops
    the task runner hangs, or Ray itself      the driver misses its pulse for SILENCE seconds (pulse.py): the job stops
    an answer that would take for ever        is not read: the verifier is bounded by an answer's length (ccpo/verifier)
    a loss or gradient is not finite          verl skips the update; counted; BAD_UPDATES in a row of one policy: the job stops
    the run's folder is moved or removed      seen within seconds by the process that holds its lock (pulse.py): the job stops
    someone ends the job (SIGTERM, SIGHUP)    heard by the driver while it waits for the task runner (pulse.py): the job stops
    a checkpoint cannot be saved              what was written of it is removed, and the job stops
    the newest checkpoint is damaged          passed over for the one before it, with a warning (run/checkpoint.py)

"The job stops" means: a nonzero exit status, one `error:` line, the newest complete checkpoint as it was, and no process of it left.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import state
from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from ccpo.config import ConfigError
from ccpo.run.checkpoint import finished_steps
from ccpo.run.folder import Moved
from ccpo.verl_plugin.start_times import StartTimes

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
LOOKS_TO_END = 6  # after which a process that was told to stop, and has not, is ended
LOST_SECONDS = 90.0  # in which Ray gives up a node: five times 3 s, and 10 s more each where nothing answers
BATCH_GRACE = 60.0  # seconds beyond a session's limit that a batch may take to report
BAD_UPDATES = 3
DEATHS = (RayActorError, OutOfMemoryError, NodeDiedError)  # the second: a process that Ray's memory monitor ended
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class JobStopped(RuntimeError):
    """The job cannot go on; its text says why and what to do."""


def what_is_whole(run_dir: Path) -> str:
    """One sentence about what a job that is started again resumes from."""
    if steps := finished_steps(run_dir):
        return f"The checkpoint of step {steps[-1]} is complete: the same command goes on from there"
    return "There is no checkpoint yet: the same command starts anew"


def innermost(error: BaseException) -> BaseException:
    """The error itself, or for one of another process (of another process, ...) the first."""
    while isinstance(error, RayTaskError) and error.cause is not None:
        error = error.cause
    return error


def cause_of(error: BaseException) -> str:
    """Kind and first line of what went wrong."""
    cause = innermost(error)
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def is_death(error: BaseException) -> bool:
    return isinstance(error, DEATHS) or isinstance(innermost(error), DEATHS)


def explained(error: BaseException, run_dir: Path) -> str | None:
    """What the user is told instead of a traceback; None: nothing is known about this error."""
    cause = innermost(error)
    if isinstance(cause, (JobStopped, ConfigError, Moved)):
        return str(cause)
    if is_death(error):
        return died(cause_of(error), run_dir)
    if isinstance(cause, OSError) and cause.errno in FULL_DISK:
        return f"the disk is full ({cause}): make room. {what_is_whole(run_dir)}"
    return None


def died(what: str, run_dir: Path) -> str:
    return (
        f"a process of the job has died ({what}). {what_is_whole(run_dir)}. If it happens again, look for a lack of memory (the kernel's log "
        "names processes it ended) and into the log above"
    )


def place_of(actor: Any) -> str:
    """On which node an actor is or was, in words; nothing where there is one node."""
    try:
        if len(ray.nodes()) < 2:
            return ""
        return f" on the node {state.actors(actor._actor_id.hex())['Address']['IPAddress']}"
    except Exception:  # it is for a message alone
        return ""


def all_dropped(step: int, run_dir: Path) -> str:
    return (
        f"every session of step {step} was dropped: the rollout servers refuse every request or are gone, or the team's program or reward "
        f"fails; the first error of an agent loop worker above says which. {what_is_whole(run_dir)}"
    )


LONGEST_PAUSE = 2.0
"""Seconds that a long look for finished sessions puts between itself and the next one, at most: what verl always waits."""


class WatchedBuffer(ReplayBuffer):
    """verl's replay buffer, whose wait for sessions has no limit, with one.

    A look lists every row that is there, which takes the longer the more there are: between two looks nine times as long passes, within the bounds of
    ``ccpo.poll_interval`` and `LONGEST_PAUSE`.
    """

    run_dir = Path()
    limit = math.inf  # seconds for one batch of sessions
    _look = 0.0  # seconds that the last look took

    def _sync_metadata_from_transfer_queue(self) -> None:
        start = time.monotonic()
        super()._sync_metadata_from_transfer_queue()
        self._look = time.monotonic() - start

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict]:
        """As verl's. Raises JobStopped after ``limit`` seconds, or when every session was dropped."""
        self._since = time.monotonic()
        try:
            return super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        except RuntimeError as error:
            if "no materializable trajectories" not in str(error):
                raise
            raise JobStopped(all_dropped(global_steps, self.run_dir)) from error

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        if time.monotonic() - self._since > self.limit:
            waiting = len(self.running_keys[partition_id]) + len(self.pending_keys[partition_id])
            raise JobStopped(
                f"{waiting} prompts have no result after {self.limit:.0f} s, more than their sessions may take (ccpo.session_timeout): the "
                f"agent loop workers hang. {what_is_whole(self.run_dir)}"
            )
        time.sleep(max(0.0, min(9 * self._look, LONGEST_PAUSE) - self.poll_interval))  # verl sleeps the interval, too
        return super()._wait_for_next_poll(partition_id, last_debug_time)


class Watchdog:
    """Ends waits that verl, TransferQueue and Ray leave without a limit: for a process that has died, or for one that hangs.

    A thread looks every LOOK_SECONDS. When the job has to stop, it first interrupts the main thread with a signal. `ray.get` swallows what a
    signal's handler raises, so at the next look it ends the actors, which no wait of Ray's survives, and after LOOKS_TO_END the process.

    actors: name -> Ray handle of everything whose death would leave somebody waiting; more join as the job starts.
    start_times: hears what is done until the first step is over; then None.
    """

    def __init__(
        self,
        run_dir: Path,
        stall_limit: float,
        tell: Callable[[str, str], None] | None = None,
        start_times: StartTimes | None = None,
    ) -> None:
        """``tell``: called at every look with what is done now and why the job has to stop (empty: it has not)."""
        self._run_dir, self._stall_limit, self._tell = run_dir, stall_limit, tell
        self.start_times = start_times
        self._reason = ""
        self._odd: set[str] = set()
        self.actors: dict[str, Any] = {}
        self.beat("the start")

    def beat(self, doing: str) -> None:
        """The trainer has come further. ``doing``: what it does now, for the message."""
        self._beaten, self._doing = time.monotonic(), doing
        if self.start_times is not None:
            self.start_times.mark(doing)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raises JobStopped out of whatever goes on inside when an actor is dead or nothing moves. Main thread only."""
        over = threading.Event()
        before = signal.signal(signal.SIGUSR1, self._interrupt)
        thread = threading.Thread(target=self._watch, args=(threading.get_ident(), over), daemon=True)
        self._beaten = time.monotonic()
        thread.start()
        try:
            yield
        except Exception as error:
            if not self._reason or isinstance(error, JobStopped):
                raise
            raise JobStopped(self._reason) from error
        finally:
            over.set()
            thread.join()
            signal.signal(signal.SIGUSR1, before)

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Inside, an error waits until every process has shown that it lives. Whoever talked to one that died tells of a broken connection
        alone, before Ray tells of the death; and what the job ends itself after an error is not to blame."""
        try:
            yield
        except Exception as error:
            known = self._reason or isinstance(
                innermost(error), (JobStopped, ConfigError, Moved)
            )  # then the actors were ended by us
            if not known and (reason := self._who_died()):
                raise JobStopped(reason) from error
            raise

    def _who_died(self) -> str:
        pings: dict[str, Any] = {}
        unknown, deadline = dict(self.actors), time.monotonic() + LOST_SECONDS
        while unknown and time.monotonic() < deadline:
            for name, actor in list(unknown.items()):
                lives = self._lives(name, actor, pings)
                if lives is False:
                    return died(f"{name}{place_of(actor)}", self._run_dir)
                if lives:
                    del unknown[name]
            time.sleep(LOOK_SECONDS / 10)
        return ""

    def _interrupt(self, *_: Any) -> None:
        raise JobStopped(self._reason)

    def _watch(self, main_thread: int, over: threading.Event) -> None:
        pings: dict[str, Any] = {}
        looks = 0  # since there is a reason to stop
        while not over.wait(LOOK_SECONDS):
            self._reason = self._reason or self._trouble(pings)
            if self._tell is not None:
                with self._surviving("tell the driver"):
                    self._tell(self._doing, self._reason)
            if not self._reason:
                continue
            if looks == 0:
                signal.pthread_kill(main_thread, signal.SIGUSR1)
            elif looks == 1:
                for actor in dict(self.actors).values():
                    with self._surviving("end an actor"):
                        ray.kill(actor)
            elif looks >= LOOKS_TO_END:
                print(f"error: {self._reason}", flush=True)
                os._exit(1)
            looks += 1

    @contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        """An error that nobody foresaw ends neither the watch nor the job: it says nothing of what is watched. Each kind is logged once."""
        try:
            yield
        except Exception as error:
            if (kind := f"{what}: {cause_of(error)}") not in self._odd:
                self._odd.add(kind)
                logger.warning("the watchdog could not %s, and goes on watching", kind)

    def _trouble(self, pings: dict[str, Any]) -> str:
        """Why the job has to stop; empty if it has not."""
        for name, actor in dict(self.actors).items():
            if self._lives(name, actor, pings) is False:
                return died(f"{name}{place_of(actor)}", self._run_dir)
        if time.monotonic() - self._beaten > self._stall_limit:
            return (
                f"nothing has moved for {self._stall_limit:.0f} s (ccpo.stall_timeout), since {self._doing} began: a process hangs. "
                f"{what_is_whole(self._run_dir)}"
            )
        return ""

    def _lives(self, name: str, actor: Any, pings: dict[str, Any]) -> bool | None:
        """Whether an actor lives; None: it has not answered yet. ``pings``: the unanswered ones; a busy actor answers later, and is not asked
        again before."""
        with self._surviving(f"ask {name}"):
            try:
                ping = pings.setdefault(name, None) or actor.__ray_ready__.remote()
                pings[name] = ping
                if ray.wait([ping], timeout=0)[0]:
                    pings[name] = None
                    ray.get(ping)
                    return True
            except ActorUnavailableError:  # a RayActorError of one that may come back: asked again
                pings[name] = None
            except DEATHS:
                return False
            except Exception:
                pings[name] = None
                raise
        return None


class UpdateWatch:
    """Counts updates that verl skipped because a gradient was not finite."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._in_a_row: dict[str, int] = defaultdict(int)

    def check(self, metrics: dict[str, float]) -> int:
        """How many of the policies that learned in this step had a gradient that is not finite.

        Args:
            metrics: of the step; ``actor/grad_norm``, or ``POLICY/actor/grad_norm`` for each that learned. With several mini-batches it is
                their mean: one that is not finite is enough.

        Raises:
            JobStopped: the BAD_UPDATES-th such step in a row of one policy.
        """
        norms = {name: value for name, value in metrics.items() if name.endswith("actor/grad_norm")}
        bad = {name for name, norm in norms.items() if not math.isfinite(norm)}
        for name in norms:
            self._in_a_row[name] = self._in_a_row[name] + 1 if name in bad else 0
            if self._in_a_row[name] >= BAD_UPDATES:
                raise JobStopped(
                    f"{name} was not finite in {BAD_UPDATES} steps in a row (now {norms[name]}). Updates with such gradients are skipped, so the "
                    "weights are still finite, but little is learned: lower actor_rollout_ref.actor.optim.lr, and look at what else is in the "
                    f"loss (entropy_coeff, kl_loss_coef). {what_is_whole(self._run_dir)}"
                )
        return len(bad)
