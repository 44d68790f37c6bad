"""When a job stops, and what it says. Real Ray actors die in tests/e2e/test_faults.py; here they are stood in for."""

from __future__ import annotations

import math
import pickle
import signal
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf  # noqa: E402
from ray.exceptions import (  # noqa: E402
    ActorUnavailableError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    RayTaskError,
)
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer  # noqa: E402

from ccpo.config import ConfigError  # noqa: E402
from ccpo.run.folder import (  # noqa: E402
    MARKER,
    Moved,  # noqa: E402
    step_folder,
)
from ccpo.verl_plugin import faults  # noqa: E402
from ccpo.verl_plugin.faults import BAD_UPDATES, JobStopped, UpdateWatch, Watchdog, WatchedBuffer, cause_of  # noqa: E402
from ccpo.verl_plugin.trainer import CcpoTrainer  # noqa: E402


class Cluster:
    """Stands in for Ray: pings of dead actors raise, of busy ones never come back."""

    def __init__(self):
        self.dead, self.busy, self.pinged = {}, set(), []
        self.killed, self.exited = threading.Event(), threading.Event()

    def actor(self, name):
        class Ready:
            @staticmethod
            def remote():
                self.pinged.append(name)
                return name

        class Actor:
            __ray_ready__ = Ready

        return Actor()

    def actors(self, *names):
        return {name: self.actor(name) for name in names}

    def wait(self, pings, timeout):
        assert timeout == 0, "nobody waits for a busy actor"
        return [name for name in pings if name not in self.busy], []

    def kill(self, actor):
        self.killed.set()

    def get(self, name):
        if name in self.dead:
            raise self.dead[name]


@pytest.fixture
def cluster(monkeypatch):
    cluster = Cluster()
    monkeypatch.setattr(faults, "ray", cluster)
    monkeypatch.setattr(faults, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(faults, "LOOKS_TO_END", 2)
    monkeypatch.setattr(faults.os, "_exit", lambda status: cluster.exited.set())
    return cluster


@pytest.fixture
def waiting(monkeypatch, tmp_path):
    """A buffer whose prompt never finishes."""
    monkeypatch.setattr(faults.ReplayBuffer, "_sync_metadata_from_transfer_queue", lambda self: None)
    sampler = OmegaConf.create({"max_off_policy_threshold": None, "max_off_policy_strategy": "drop"})
    empty = OmegaConf.create({})
    buffer = WatchedBuffer("sync", empty, sampler_kwargs=empty, poll_interval=0.01, **sampler)
    buffer.running_keys["train"].add("uid")
    buffer.run_dir, buffer.limit = tmp_path, 0.2
    return buffer


def sample(buffer):
    return buffer.sample(global_steps=3, partition_id="train", batch_size=1)


def test_sessions_that_never_end_stop_the_job(waiting):
    began = time.monotonic()
    with pytest.raises(JobStopped, match="1 prompts have no result after 0 s.*ccpo.session_timeout.*no checkpoint yet"):
        sample(waiting)
    assert time.monotonic() - began < 5
    waiting.running_keys["train"].clear()
    waiting.finished_keys["train"].add("uid")
    waiting.limit = -1.0
    waiting.partitions["train"]["uid_0_0"] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WatchedBuffer, "_materialize_batch", lambda self, *_: "batch")
        assert sample(waiting) == ("batch", {}), "what is ready is never late"


def test_looking_takes_a_tenth_of_the_wait(waiting, monkeypatch):
    looks = []

    def slow(self):
        looks.append(time.monotonic())
        time.sleep(0.02)

    monkeypatch.setattr(faults.ReplayBuffer, "_sync_metadata_from_transfer_queue", slow)
    waiting.limit = 0.5
    with pytest.raises(JobStopped):
        sample(waiting)
    pauses = [later - earlier for earlier, later in zip(looks[:-1], looks[1:], strict=True)]
    assert len(looks) >= 2 and min(pauses) >= 0.2


@pytest.mark.parametrize("interval, look, slept", [(0.05, 0.001, 0.05), (0.05, 0.1, 0.9), (0.05, 60, 2), (5, 60, 5)])
def test_a_pause_is_nine_looks_within_bounds(waiting, monkeypatch, interval, look, slept):
    pauses = []
    waiting.poll_interval, waiting._look, waiting._since = interval, look, time.monotonic()
    monkeypatch.setattr(time, "sleep", pauses.append)
    waiting._wait_for_next_poll("train", time.time())
    assert sum(pauses) == pytest.approx(slept)


def watchdog(run_dir, limit, actors, tell=None):
    made = Watchdog(run_dir, limit, tell)
    made.actors |= actors
    return made


def forever():
    threading.Event().wait(20)
    pytest.fail("nobody interrupted the wait")


@pytest.mark.parametrize("death", [RayActorError(), OutOfMemoryError("memory monitor")], ids=["died", "ended by Ray"])
def test_a_death_ends_any_wait_while_other_actors_are_busy(cluster, tmp_path, death):
    cluster.busy.add("training worker 0")
    cluster.dead["storage"] = death
    with pytest.raises(JobStopped, match=r"a process of the job has died \(storage\)"):
        with watchdog(tmp_path, 1000, cluster.actors("training worker 0", "storage")).watching():
            forever()
    assert cluster.pinged.count("training worker 0") == 1, "a busy actor is not asked again before it answers"


def test_a_broken_connection_is_explained_by_the_death_that_ray_tells_of_later(cluster, tmp_path, monkeypatch):
    actors = cluster.actors("training worker 1")
    actors["training worker 1"]._actor_id = b"a"
    monkeypatch.setattr(cluster, "nodes", lambda: [{}, {}], raising=False)
    monkeypatch.setattr(faults.state, "actors", lambda actor: {"Address": {"IPAddress": f"10.0.0.{len(actor)}"}})
    with pytest.raises(JobStopped, match=r"has died \(training worker 1 on the node 10\.0\.0\.2\)"):
        watched = watchdog(tmp_path, 1000, actors)
        with watched.watching(), watched.explaining():
            cluster.dead["training worker 1"] = ActorUnavailableError("for now", None)
            threading.Timer(0.5, cluster.dead.__setitem__, ("training worker 1", RayActorError())).start()
            raise RuntimeError("Connection reset by peer")


def test_actors_that_the_watchdog_ended_are_not_to_blame(cluster, tmp_path):
    """A worker hangs, the watchdog ends all actors, and whoever waits for another one hears of its death."""
    cluster.busy.add("a")
    watched = watchdog(tmp_path, 0.1, cluster.actors("a"))
    with pytest.raises(JobStopped, match="nothing has moved"):
        with watched.watching(), watched.explaining():
            with suppress(JobStopped):
                forever()
            assert cluster.killed.wait(20)
            cluster.busy.clear()
            cluster.dead["a"] = RayActorError()
            raise RuntimeError("the actor is dead because it was killed by `ray.kill`")


def test_any_other_error_stays_what_it_is(cluster, tmp_path):
    watched = watchdog(tmp_path, 1000, cluster.actors("a"))
    with pytest.raises(KeyError), watched.watching(), watched.explaining():
        raise KeyError("x")


def test_what_does_not_move_is_stopped_and_what_moves_is_not(cluster, tmp_path):
    watched = watchdog(tmp_path, 0.3, cluster.actors("a"))
    with pytest.raises(JobStopped, match="nothing has moved for 0 s.*since the save of step 3 began.*starts anew"):
        with watched.watching():
            for _ in range(10):
                time.sleep(0.1)
                watched.beat("the save of step 3")
            forever()


def test_a_wait_that_swallows_the_signal_ends_with_its_actor(cluster, tmp_path):
    cluster.busy.add("a")
    with pytest.raises(JobStopped, match="nothing has moved"):
        with watchdog(tmp_path, 0.1, cluster.actors("a")).watching():
            with suppress(JobStopped):
                forever()
            assert cluster.killed.wait(20)
            raise RayActorError  # as ray.get would


def test_a_wait_that_survives_that_too_ends_with_the_process(cluster, tmp_path, capfd):
    with suppress(JobStopped), watchdog(tmp_path, 0.1, cluster.actors("a")).watching():
        with suppress(JobStopped):
            forever()
        assert cluster.exited.wait(20)
    assert "error: nothing has moved" in capfd.readouterr().out


def test_it_watches_while_the_job_starts_and_actors_join(cluster, tmp_path):
    cluster.dead["late"] = RayActorError()
    watched = watchdog(tmp_path, 1000, {})
    with pytest.raises(JobStopped, match=r"has died \(late\)"):
        with watched.watching():
            time.sleep(0.1)
            watched.actors |= cluster.actors("late")
            forever()


@pytest.mark.parametrize("where", ["remote", "wait", "get"])
@pytest.mark.parametrize("error", [ValueError("what?"), RaySystemError("raylet"), ActorUnavailableError("net", None)])
def test_an_error_that_nobody_foresaw_ends_neither_the_watch_nor_the_job(
    cluster, tmp_path, monkeypatch, caplog, where, error
):
    actors = cluster.actors("odd", "other")

    def fail(name="odd", *_, **__):
        if "odd" in (name, *name):
            raise error
        return ([name], []) if where == "wait" else None

    monkeypatch.setattr(*(actors["odd"].__ray_ready__, "remote", fail) if where == "remote" else (cluster, where, fail))
    with watchdog(tmp_path, 1000, actors).watching():
        deadline = time.monotonic() + 20
        while cluster.pinged.count("other") < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert cluster.pinged.count("other") >= 4
    assert len(caplog.records) <= 1, "each kind of error is logged once"
    monkeypatch.undo()
    monkeypatch.setattr(faults, "ray", cluster)
    monkeypatch.setattr(faults, "LOOK_SECONDS", 0.02)
    if where != "remote":
        with pytest.raises(JobStopped, match="nothing has moved"), watchdog(tmp_path, 0.2, actors).watching():
            forever()


def test_a_driver_that_cannot_be_told_does_not_matter(cluster, tmp_path):
    told = []

    def tell(doing, reason):
        told.append((doing, reason))
        raise OSError("gone")

    with pytest.raises(JobStopped, match="since the start began"):
        with watchdog(tmp_path, 2.0, {}, tell).watching():  # time for the first look on a busy machine
            forever()
    assert told[0] == ("the start", "") and "nothing has moved" in told[-1][1]


def test_the_watch_ends_with_the_job(cluster, tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    with watchdog(tmp_path, 1000, cluster.actors("a")).watching():
        pass
    cluster.dead["a"] = RayActorError()
    assert signal.getsignal(signal.SIGUSR1) is before
    for thread in threading.enumerate():
        if thread.name.endswith("(_watch)"):
            thread.join(10)
            assert not thread.is_alive()


def test_a_step_without_any_session_says_so(waiting, monkeypatch):
    def nothing(self, **_):
        raise RuntimeError("Sync replay buffer selected terminal groups with no materializable trajectories.")

    monkeypatch.setattr(ReplayBuffer, "sample", nothing)
    with pytest.raises(JobStopped, match="every session of step 3 was dropped"):
        sample(waiting)


def wrapped(error, times=1):
    for _ in range(times):
        error = RayTaskError("run", "a long traceback", error)
    return error


@pytest.mark.parametrize(
    "error, says",
    [
        (JobStopped("the reason"), "the reason"),
        (wrapped(JobStopped("the reason")), "the reason"),
        (wrapped(JobStopped("the reason")).as_instanceof_cause(), "the reason"),
        (ConfigError(["wrong"]), "1. wrong"),
        (wrapped(Moved("the folder is gone")), "the folder is gone"),
        (RayActorError(), "a process of the job has died"),
        (wrapped(RayActorError(), 2), "a process of the job has died"),
        (wrapped(OutOfMemoryError("8 GB")), "a process of the job has died (OutOfMemoryError: 8 GB)"),
        (
            wrapped(OSError(28, "No space left on device")),
            "the disk is full ([Errno 28] No space left on device): make room",
        ),
    ],
)
def test_known_errors_are_explained(tmp_path, error, says):
    assert says in faults.explained(error, tmp_path)


@pytest.mark.parametrize("error", [ValueError("x"), wrapped(KeyError("x")), OSError(2, "no such file")])
def test_unknown_errors_keep_their_traceback(tmp_path, error):
    assert faults.explained(error, tmp_path) is None


def test_what_is_whole_names_the_newest(tmp_path):
    for step in (8, 16):
        step_folder(tmp_path, step).mkdir()
        (step_folder(tmp_path, step) / MARKER).write_text("{}")
    assert "step 16 is complete" in faults.died("x", tmp_path)


def test_skipped_updates_are_counted_per_policy_and_stop_the_job_when_they_go_on(tmp_path):
    watch = UpdateWatch(tmp_path)
    think, reason = "think/actor/grad_norm", "reason/actor/grad_norm"
    fine = {think: 0.1, reason: 0.2, "ccpo/x": math.nan}
    both = fine | {think: math.nan, reason: math.inf}
    assert [watch.check(metrics) for metrics in (fine, fine | {think: math.nan}, both, fine)] == [0, 1, 2, 0]
    for _ in range(BAD_UPDATES - 1):  # they take turns: the other's good steps do not excuse a policy that never learns
        assert watch.check({think: math.nan}) == 1 and watch.check({reason: 0.1}) == 0
    with pytest.raises(JobStopped, match="think/actor/grad_norm was not finite in 3 steps.*optim.lr"):
        watch.check({think: math.nan})


def dropped(rate, **attributes):
    CcpoTrainer._check_dropped(
        SimpleNamespace(global_steps=4, ccpo=SimpleNamespace(max_dropped_rate=0.5), **attributes),
        {"sessions/dropped_rate": rate},
    )


def test_dropped_sessions_are_noise_up_to_a_limit(tmp_path):
    dropped(0.5)
    with pytest.raises(JobStopped, match="75% of step 4's sessions were dropped, more than ccpo.max_dropped_rate=50%"):
        dropped(0.75, run_dir=tmp_path)
    with pytest.raises(JobStopped, match="every session of step 4 was dropped"):
        dropped(1.0, run_dir=tmp_path)


def test_reasons_are_those_of_the_process_that_failed():
    inside = OSError(28, "No space left on device")
    assert cause_of(RayTaskError("save", "long traceback", inside)) == "OSError: [Errno 28] No space left on device"
    assert cause_of(RuntimeError("first line\nsecond line")) == "RuntimeError: first line"


def test_the_reason_to_stop_reaches_the_driver():
    assert str(pickle.loads(pickle.dumps(JobStopped("why")))) == "why"
