"""vLLM's own processes, forked from one that has imported vLLM already.

A server starts an engine process, and that a worker process; inside Ray, vLLM makes each a fresh Python that imports everything again, one
after the other. Here a fork server (Python's own, `multiprocessing.forkserver`) imports vLLM once, beside what else a job starts. The engine is
forked from it, and the worker from the engine, which is what vLLM does outside Ray. Where vLLM's code is another one than we know, or
VLLM_WORKER_MULTIPROC_METHOD is set, nothing changes.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import multiprocessing
import os
import sys
import threading
import time
from multiprocessing import context, forkserver
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
STARTER, ASKED = "vllm.v1.engine.utils", "get_mp_context"
"""What starts an engine, in the context that this function of it gives."""
NEEDED = ("vllm.v1.engine.core", "vllm.v1.worker.gpu_worker")
"""Modules of an engine and its worker. Not verl's part of the worker: importing verl touches the GPU (`_touched_gpu`)."""
QUEUE = "vllm.distributed.device_communicators.shm_broadcast"
CROWDED = "CCPO_CROWDED"
"""An environment variable: others need the processors (several jobs share a GPU, or there is none)."""
TURNS_S, LOOK_MS = 0.0005, 1
"""How long an engine and its worker turn round once they wait for each other; and how long they sleep then, unless they are woken before."""


class _Process(context.ForkServerProcess):
    """A process with the environment of the one that starts it, which it does not outlive."""

    def start(self) -> None:
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        os.environ.clear()  # the fork server's is older: verl and vLLM set variables until the engine starts
        os.environ.update(self._environment)
        if not _touched_gpu():  # vLLM has set it, because it is inside Ray; here it is not, and may fork
            os.environ.pop(METHOD, None)
        threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
        super().run()


def _touched_gpu() -> bool:
    """Whether the process that this one was forked from had to do with the GPU: then this one, and what it forks, cannot use it."""
    return "torch" in sys.modules and sys.modules["torch"].cuda._is_in_bad_fork()


def _end_with(parent: Any) -> None:
    """A killed server would leave an engine that holds the GPU's memory for ever."""
    parent.join()
    os._exit(1)


class _Context(context.ForkServerContext):
    Process = _Process


def begin() -> None:
    """Start the fork server; it imports what is needed while the caller goes on."""
    multiprocessing.set_forkserver_preload(["ccpo.verl_gpu.preload"])
    forkserver.ensure_running()


def prepare() -> None:
    """In the fork server: import what its children need. An error is theirs to meet again, and to name."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # looking for a GPU must not touch it (`_touched_gpu`)
    try:
        for name in NEEDED:
            importlib.import_module(name)
        beside_others(sys.modules[NEEDED[1]].Worker)
        if CROWDED in os.environ:
            sleep_sooner(importlib.import_module(QUEUE))
    except Exception as error:
        logger.warning("vLLM could not be imported ahead: %s", error)


def beside_others(worker: type) -> None:
    """Let a worker fall asleep while another job's wakes on the same GPU (ccpo.gpu_share).

    vLLM fact: `Worker.sleep` frees its memory, and then asserts that the GPU has more free bytes than before. Another job that takes more in that moment
    ended this one. Nothing but a line in the log is behind the assertion.
    """
    asleep = worker.sleep

    @functools.wraps(asleep)
    def sleep(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            asleep(self, *args, **kwargs)
        except AssertionError as error:
            if "Memory usage increased" not in str(error):
                raise
            logger.warning("another process took memory of this GPU while the engine gave its own back")

    worker.sleep = sleep


def sleep_sooner(queue: ModuleType) -> None:
    """Let engine and worker leave the processors to others while they wait for each other.

    vLLM facts: whoever reads the queue between them turns round for a second after every message, which is all of a rollout, and sleeps until
    the writer's notice after that. Some notices of messages in quick succession are lost: with vLLM 0.28 a reader that slept at once waited 5 s for
    a weight update now and then. So it looks again after `LOOK_MS`, until the second is over.
    """
    condition = getattr(queue, "SpinCondition", None)
    known = condition is not None and "busy_loop_s" in inspect.signature(condition).parameters
    if not (known and all(hasattr(condition, name) for name in ("wait", "record_read"))):
        logger.warning(
            "this vLLM waits in a way that is not known here: engine and worker may use a processor each while they wait"
        )
        return
    waits = condition.wait

    @functools.wraps(waits)
    def wait(self: Any, timeout_ms: int | None = None) -> None:
        now, read, turns = time.monotonic(), getattr(self, "last_read", None), getattr(self, "busy_loop_s", None)
        if read is None or turns is None or now > read + turns:
            return waits(self, timeout_ms)
        if getattr(self, "_waits_for", None) != read:
            self._waits_for, self._waits_since = read, now
        if now <= self._waits_since + TURNS_S:
            return waits(self, timeout_ms)
        self.busy_loop_s = 0
        try:
            waits(self, LOOK_MS if timeout_ms is None else min(LOOK_MS, timeout_ms))
        finally:
            self.busy_loop_s = turns

    condition.wait = wait


def use() -> None:
    """From now on, vLLM in this process starts engines from the fork server. Imports vLLM."""
    starter = importlib.import_module(STARTER)
    if METHOD in os.environ:
        return
    if not hasattr(starter, ASKED):
        logger.warning("this vLLM starts its engine in a way that is not known here: it imports everything anew")
        return
    setattr(starter, ASKED, _Context)
