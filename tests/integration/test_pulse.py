"""How the driver's wait ends: real Ray and real processes are in tests/e2e/test_faults.py; here they are stood in for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

pytest.importorskip("verl")

from ray.exceptions import RayActorError  # noqa: E402

from ccpo.run.folder import Moved  # noqa: E402
from ccpo.run.lock import run_lock  # noqa: E402
from ccpo.verl_plugin import pulse  # noqa: E402
from ccpo.verl_plugin.faults import JobStopped  # noqa: E402


class FakeRay:
    """A run that ends when it is told to, and the store that pulses lie in."""

    def __init__(self):
        self.store, self.ended, self.error, self.hangs = {}, threading.Event(), None, False

    def wait(self, refs, timeout):
        return (refs, []) if self.ended.wait(timeout) else ([], refs)

    def get(self, ref):
        if self.error:
            raise self.error

    def get_runtime_context(self):
        return SimpleNamespace(get_job_id=lambda: "01")

    def shutdown(self):
        pass


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()

    def read(key):
        if fake.hangs:
            threading.Event().wait(5)
        return fake.store.get(key)

    monkeypatch.setattr(pulse, "ray", fake)
    monkeypatch.setattr(pulse, "_internal_kv_put", fake.store.__setitem__)
    monkeypatch.setattr(pulse, "_internal_kv_get", read)
    for name, seconds in {"LOOK_SECONDS": 0.02, "SILENCE": 0.4, "GRACE": 0.2}.items():
        monkeypatch.setattr(pulse, name, seconds)
    return fake


def in_place():
    pass


def waiting(tmp_path, limit=0.3, check=in_place):
    return pulse.wait_for("run", tmp_path, limit, check)


def test_a_task_runner_that_lives_is_waited_for_and_one_that_goes_silent_is_not(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(pulse, "SILENCE", 2.0)  # 40 pulses: on a busy machine some come late
    began = time.monotonic()
    pulse.send("the save of step 3", "")

    def live():
        while time.monotonic() - began < 2.5:
            pulse.send("the save of step 3", "")
            time.sleep(0.05)

    threading.Thread(target=live, daemon=True).start()
    with pytest.raises(JobStopped, match="no sign of life for 2 s, since the save of step 3.*no checkpoint yet"):
        waiting(tmp_path)
    assert 4.0 < time.monotonic() - began < 15


def test_one_that_never_starts_has_a_limit(ray, tmp_path):
    with pytest.raises(JobStopped, match="has not started within 0 s .ccpo.stall_timeout.: Ray cannot place it"):
        waiting(tmp_path)


def test_a_folder_that_is_not_the_jobs_any_more_ends_it(ray, tmp_path):
    """A second job could have taken the name: this one must not write on."""
    folder = tmp_path / "run"
    with pytest.raises(Moved, match="run is not the folder any more"), run_lock(folder) as hold:
        threading.Timer(0.1, folder.rename, [tmp_path / "elsewhere"]).start()
        waiting(folder, 60, hold.check)


def test_a_store_that_hangs_is_silence(ray, tmp_path):
    ray.hangs = True
    began = time.monotonic()
    with pytest.raises(JobStopped, match="has not started"):
        waiting(tmp_path)
    assert time.monotonic() - began < 3


def test_one_that_knows_that_it_has_to_stop_and_does_not_is_stopped(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(pulse, "SILENCE", 100)
    pulse.send("the first step", "nothing has moved")
    with pytest.raises(JobStopped, match="nothing has moved"):
        waiting(tmp_path)


def test_one_that_ended_itself_said_why_before(ray, tmp_path):
    pulse.send("the first step", "nothing has moved")
    ray.ended.set()
    ray.error = RayActorError()
    with pytest.raises(JobStopped, match="nothing has moved"):
        waiting(tmp_path)
    ray.store.clear()
    with pytest.raises(RayActorError):
        waiting(tmp_path)


@pytest.fixture
def handlers():
    before = {each: signal.getsignal(each) for each in pulse.ENDING}
    yield before
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_whoever_tells_the_job_to_end_is_heard_once_and_told_what_is_whole(ray, tmp_path, handlers, number):
    ray.wait = lambda refs, timeout: os.kill(os.getpid(), number) or ([], refs)  # by then somebody listens
    with pytest.raises(JobStopped, match=f"told to end .{number.name}.. There is no checkpoint yet"):
        waiting(tmp_path, limit=30)
    for each in pulse.ENDING:
        os.kill(os.getpid(), each)  # while the job is taken down


def test_the_death_of_a_task_runner_that_was_told_to_end_too_is_no_lack_of_memory(ray, tmp_path, handlers):
    ray.wait = lambda refs, timeout: os.kill(os.getpid(), signal.SIGTERM) or (refs, [])
    ray.error = RayActorError()
    with pytest.raises(JobStopped, match="told to end"):
        waiting(tmp_path)


def test_what_is_ignored_stays_so_and_a_run_that_ends_by_itself_leaves_the_handlers_as_they_were(
    ray, tmp_path, handlers
):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    ray.ended.set()
    during = []
    ray.wait = lambda refs, timeout: during.append(signal.getsignal(signal.SIGHUP)) or (refs, [])
    waiting(tmp_path)
    assert during == [signal.SIG_IGN]
    assert signal.getsignal(signal.SIGTERM) == handlers[signal.SIGTERM]


def test_a_handler_that_python_does_not_know_stays(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(pulse.signal, "getsignal", lambda number: None)
    monkeypatch.setattr(pulse.signal, "signal", lambda number, handler: pytest.fail("it could not be put back"))
    ray.ended.set()
    waiting(tmp_path)


def test_the_end_and_errors_come_through_and_options_stay(ray, tmp_path):
    made = []

    class Runner:
        @classmethod
        def options(cls, **options):
            made.append(options)
            return cls

        @classmethod
        def remote(cls):
            return SimpleNamespace(run=SimpleNamespace(remote=lambda config: ("ran", config)))

    ray.ended.set()
    runner = pulse.WatchedRunner(Runner, tmp_path, 1.0, in_place, lambda: {"here": True})
    assert runner.options(a=1).remote().run.remote("config") == ("ran", "config") and made == [{"a": 1, "here": True}]
    ray.error = ValueError("x")
    with pytest.raises(ValueError):
        runner.remote().run.remote("config")


def test_nothing_is_left_of_a_job_not_even_what_is_stopped(ray, monkeypatch):
    monkeypatch.setattr(pulse, "SHUTDOWN", 0.2)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    psutil.Process(child.pid).suspend()
    pulse.end_ray()
    assert child.wait(10) == -9
