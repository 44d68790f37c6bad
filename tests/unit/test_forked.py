"""ccpo/verl_gpu/forked.py with a vLLM of a few lines, which starts its processes as the real one does: a server's engine, an engine's worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from ccpo.verl_gpu import forked

ROOT = Path(__file__).parents[2]
STARTER = """
import multiprocessing, os
def get_mp_context():
    if os.environ.get("IN_RAY") == str(os.getpid()):
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    return multiprocessing.get_context(os.environ.get("VLLM_WORKER_MULTIPROC_METHOD", "fork"))
"""
PACKAGE = {
    "vllm/v1/engine/utils.py": STARTER,
    "vllm/v1/executor/multiproc_executor.py": STARTER,
    "vllm/v1/worker/gpu_worker.py": """
class Worker:
    def sleep(self, level=1):
        self.freed = level
        assert False, "Memory usage increased after sleeping."
""",
    "vllm/distributed/device_communicators/shm_broadcast.py": """
import time
class SpinCondition:
    def __init__(self, busy_loop_s=1):
        self.busy_loop_s, self.last_read, self.slept = busy_loop_s, time.monotonic(), []
    def record_read(self):
        self.last_read = time.monotonic()
    def wait(self, timeout_ms=None):
        if time.monotonic() > self.last_read + self.busy_loop_s:
            self.slept.append(timeout_ms)
""",
    "vllm/v1/engine/core.py": """
import os, time
IMPORTED_BY = os.getpid()
def about():
    return {"pid": os.getpid(), "imported_by": IMPORTED_BY, "set_later": os.environ.get("SET_LATER"), "removed": os.environ.get("REMOVED")}
def engine(answers):
    from vllm.v1.executor import multiproc_executor
    context = multiproc_executor.get_mp_context()
    reader, writer = context.Pipe(duplex=False)
    death_reader, death_writer = context.Pipe(duplex=False)
    inherited = [death_writer] if context.get_start_method() == "fork" else []
    process = context.Process(target=worker, args=(writer, death_reader, inherited), daemon=True)
    process.start()
    death_reader.close()
    answers.send([about(), reader.recv()])
    time.sleep(600)
def worker(answers, death, inherited):
    for pipe in inherited:
        pipe.close()
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.v1.worker.gpu_worker import Worker
    turns = shm_broadcast.SpinCondition()
    for wait in (0, 1.1):
        turns.record_read()
        time.sleep(wait)
        turns.wait()
        time.sleep(0.01)
        turns.wait()
        turns.wait(5000)
        turns.wait(0)
    one = Worker()
    try:
        one.sleep(level=2)
        slept = one.freed
    except AssertionError:
        slept = "ended"
    answers.send({**about(), "slept": slept, "waits": turns.slept})
    death.poll(600)
""",
}
SERVER = """
import json, os, sys, time
if __name__ == "__main__":
    os.environ["IN_RAY"] = str(os.getpid())
    from ccpo.verl_gpu import forked
    forked.begin()
    forked.use()
    from vllm.v1.engine import core, utils
    os.environ["SET_LATER"] = "yes"
    del os.environ["REMOVED"]
    context = utils.get_mp_context()
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=core.engine, args=(writer,))
    process.start()
    print(json.dumps(reader.recv()), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def start(tmp_path):
    """Runs a server; the engine and the worker that it started, and itself."""
    started = []

    def run(starter: str = "get_mp_context", more: dict[str, str] | None = None, **changed: str):
        for name, text in {**PACKAGE, **changed}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            for parent in path.relative_to(tmp_path).parents[:-1]:
                (tmp_path / parent / "__init__.py").touch()
        (tmp_path / "server.py").write_text(SERVER.replace("get_mp_context", starter))
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "REMOVED": "no", **(more or {})}
        server = subprocess.Popen(
            [sys.executable, tmp_path / "server.py"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        started.append(server)
        line = server.stdout.readline()
        assert line, server.stderr.read()
        engine, worker = json.loads(line)
        started.extend(psutil.Process(found["pid"]) for found in (engine, worker))
        return server, engine, worker

    yield run
    for process in started:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass


def test_engine_and_worker_import_nothing_and_see_what_was_set_meanwhile(start):
    server, engine, worker = start()
    assert engine["imported_by"] == worker["imported_by"]
    assert len({server.pid, engine["pid"], worker["pid"], engine["imported_by"]}) == 4
    assert engine["set_later"] == worker["set_later"] == "yes"
    assert engine["removed"] is None and worker["removed"] is None


def test_a_worker_falls_asleep_while_another_jobs_takes_memory(start):
    assert start()[2]["slept"] == 2


def test_where_others_need_the_processors_a_worker_sleeps_while_it_waits_and_looks_again_soon(start):
    """vLLM's own way is in order when it has waited for a second; before, a notice may be lost."""
    look = forked.LOOK_MS
    assert start(more={forked.CROWDED: "1"})[2]["waits"] == [look, look, 0, None, None, 5000, 0] and look <= 2


def test_a_worker_alone_waits_as_vllm_does(start):
    assert start()[2]["waits"] == [None, None, 5000, 0]


class Empty:
    pass


class OfAnotherKind:
    def __init__(self, patience=1):
        pass

    def wait(self, timeout_ms=None):
        return "waited"

    def record_read(self):
        pass


@pytest.mark.parametrize("condition", [None, Empty, OfAnotherKind])
def test_a_vllm_that_waits_in_another_way_is_left_as_it_is(condition, caplog):
    queue = ModuleType("queue")
    if condition is not None:
        queue.SpinCondition = type("SpinCondition", (condition,), {})
    before = dict(vars(queue.SpinCondition)) if condition else {}
    forked.sleep_sooner(queue)
    assert "not known here" in caplog.text and (not condition or dict(vars(queue.SpinCondition)) == before)


def test_a_vllm_that_waits_otherwise_than_it_says_waits_all_the_same():
    queue = ModuleType("queue")
    queue.SpinCondition = type("SpinCondition", (OfAnotherKind,), {"__init__": lambda self, busy_loop_s=1: None})
    forked.sleep_sooner(queue)
    assert queue.SpinCondition().wait() == queue.SpinCondition().wait(5) == "waited"


@pytest.mark.parametrize("error", [AssertionError("no such level"), RuntimeError("Memory usage increased")])
def test_other_errors_of_a_worker_that_falls_asleep_are_told(error):
    class Worker:
        def sleep(self):
            raise error

    forked.beside_others(Worker)
    with pytest.raises(type(error), match=str(error)):
        Worker().sleep()


def test_nothing_outlives_a_killed_server(start):
    server, engine, worker = start()
    family = [psutil.Process(found) for found in (engine["pid"], worker["pid"], engine["imported_by"])]
    server.send_signal(signal.SIGKILL)
    server.wait()
    until = time.monotonic() + 20
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family):
        assert time.monotonic() < until, family
        time.sleep(0.1)


def test_another_vllm_does_as_it_always_does(start):
    renamed = {"vllm/v1/engine/utils.py": STARTER.replace("get_mp_context", "context_of_its_own")}
    _, engine, worker = start("context_of_its_own", **renamed)
    assert engine["imported_by"] == engine["pid"] and worker["imported_by"] == worker["pid"]


def test_a_method_that_somebody_chose_stays(start, monkeypatch):
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    _, engine, worker = start()
    assert engine["imported_by"] == engine["pid"] and worker["imported_by"] == worker["pid"]


def test_what_cannot_be_imported_ahead_is_imported_later(start):
    module = "vllm/v1/worker/gpu_worker.py"
    broken = "import os\nif 'SET_LATER' not in os.environ: raise RuntimeError('no such thing')\n" + PACKAGE[module]
    _, engine, worker = start(**{module: broken})
    assert engine["set_later"] == worker["set_later"] == "yes"
