"""How the driver knows that the task runner lives, and ends what is left of a job.

verl's driver waits in `ray.get` for the task runner without a limit. Ray tells it of one that has died, of none that hangs. So the task
runner's watchdog writes a pulse into Ray's key-value store, which every node reaches, and the driver's wait reads it (`WatchedRunner`).
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from ccpo.verl_plugin.faults import LOOK_SECONDS, JobStopped, is_death, what_is_whole

SILENCE = 120.0  # seconds without a pulse, of which there is one every LOOK_SECONDS
FOLDER_SECONDS = 1.0  # between looks at whether the run's folder is still where it was
GRACE = 60.0  # seconds that a task runner which knows that it has to stop may take
ENDING = (signal.SIGTERM, signal.SIGHUP)  # of whoever ends jobs: Slurm, timeout, a shell that is closed
SHUTDOWN = 30.0  # seconds for Ray to end its processes before they are killed


def _key() -> str:
    return f"ccpo_pulse_{ray.get_runtime_context().get_job_id()}"


def send(doing: str, reason: str) -> None:
    """The task runner lives. ``doing``: what it does; ``reason``: why the job has to stop (empty: it has not)."""
    _internal_kv_put(_key(), json.dumps({"at": time.time(), "doing": doing, "why": reason}))


def receive() -> dict[str, Any]:
    """The newest pulse; empty before the first."""
    return json.loads(_internal_kv_get(_key()) or "{}")


class _Listener:
    """Reads the pulse in a thread of its own: with Ray's store hanging, a read has no end."""

    def __init__(self) -> None:
        self.pulse: dict[str, Any] = {}
        self.changed = time.monotonic()
        self.reason_since: float | None = None
        self.looks = 0
        self._over = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                pulse = receive()
            except Exception:  # no news
                continue
            finally:
                self.looks += 1
            if pulse != self.pulse:
                self.pulse, self.changed = pulse, time.monotonic()
                if pulse.get("why") and self.reason_since is None:
                    self.reason_since = self.changed

    def close(self) -> None:
        self._over.set()


@contextmanager
def _told() -> Iterator[list[int]]:
    """The signals of whoever wants the job to end, as they come; main thread. The first is heard, and later ones do not disturb the end.

    With Ray in the process a SIGTERM would abort it with a dump of C++ frames, and an exception out of a handler would be lost in `ray.wait`.
    What is ignored (nohup) stays so, and a handler that Python does not know (None), since it could not be put back.
    """
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDING}
    heard = [number for number in ENDING if before[number] not in (signal.SIG_IGN, None)]
    for number in heard:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_IGN if came else before[number])


def _why(told: list[int], run_dir: Path) -> str:
    return f"it was told to end ({signal.Signals(told[0]).name}). {what_is_whole(run_dir)}"


def wait_for(run: Any, run_dir: Path, start_limit: float, check: Callable[[], None]) -> Any:
    """Wait for the end of the task runner's ``run`` (an object reference) and return it. Raises JobStopped when it will not end.

    ``start_limit``: seconds until the first pulse, in which Ray places and starts the task runner. ``check``: raises when the job must end
    because its folder is not its own any more, which only this process, that holds the lock, can tell.
    """
    with _told() as told, closing(_Listener()) as listener:
        while not ray.wait([run], timeout=min(LOOK_SECONDS, FOLDER_SECONDS))[0]:
            if told:
                raise JobStopped(_why(told, run_dir))
            check()
            silent, reason = time.monotonic() - listener.changed, listener.pulse.get("why")
            if reason and time.monotonic() - listener.reason_since > GRACE:
                raise JobStopped(reason)
            if not listener.pulse and silent > start_limit:
                raise JobStopped(
                    f"the task runner has not started within {start_limit:.0f} s (ccpo.stall_timeout): Ray cannot place it, or hangs. "
                    f"{what_is_whole(run_dir)}"
                )
            if listener.pulse and silent > SILENCE:
                raise JobStopped(
                    f"the task runner has shown no sign of life for {SILENCE:.0f} s, since {listener.pulse['doing']}: its process or Ray itself "
                    f"hangs. {what_is_whole(run_dir)}"
                )
        try:
            ray.get(run)
        except Exception as error:
            if is_death(error) and told:  # whoever told this process told the others, too, and they were first
                raise JobStopped(_why(told, run_dir)) from error
            if is_death(error) and (reason := _last_reason(listener)):  # it ended itself, and said why
                raise JobStopped(reason) from error
            raise
        return run


def _last_reason(listener: _Listener) -> str:
    wanted, deadline = listener.looks + 2, time.monotonic() + 3 * LOOK_SECONDS + 1
    while (
        listener.looks < wanted and time.monotonic() < deadline
    ):  # a whole look more: the reason may be newer than the last
        time.sleep(LOOK_SECONDS / 10)
    return listener.pulse.get("why", "")


class WatchedRunner:
    """A task runner's class for verl's `run_ppo`, whose `ray.get` then finds a run that has ended."""

    def __init__(
        self,
        cls: Any,
        run_dir: Path,
        start_limit: float,
        check: Callable[[], None],
        begin: Callable[[], dict[str, Any]],
        **options: Any,
    ) -> None:
        """``begin``: called when Ray is there; returns the task runner's options, besides ``options``."""
        self._cls, self._wait, self._begin, self._options = cls, (run_dir, start_limit, check), begin, options

    def options(self, **options: Any) -> WatchedRunner:
        return WatchedRunner(self._cls, *self._wait, self._begin, **self._options, **options)

    def remote(self) -> Any:
        runner = self._cls.options(**self._begin(), **self._options).remote()

        def run(config: Any) -> Any:
            return wait_for(runner.run.remote(config), *self._wait)

        return SimpleNamespace(run=SimpleNamespace(remote=run))


def end_ray() -> None:
    """End Ray, and every process below this one that it leaves: one that is stopped takes no notice of Ray."""
    family = psutil.Process().children(recursive=True)
    closing = threading.Thread(target=ray.shutdown, daemon=True)
    closing.start()
    closing.join(SHUTDOWN)
    for process in psutil.wait_procs(family, timeout=1)[1]:
        try:
            process.kill()
        except psutil.Error:
            continue
    closing.join(SHUTDOWN)
