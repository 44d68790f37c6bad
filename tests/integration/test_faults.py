"""When a job stops, and what it says. Real Ray actors die in tests/e2e/test_faults.py; here they are stood in for."""

from __future__ import annotations

import math
import pickle
import time

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf  # noqa: E402
from ray.exceptions import RayActorError, RayTaskError  # noqa: E402
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer  # noqa: E402

from ccpo.verl_plugin import faults  # noqa: E402
from ccpo.verl_plugin.faults import BAD_UPDATES, JobStopped, UpdateWatch, WatchedBuffer, reason_of  # noqa: E402


class Cluster:
    """Stands in for Ray: pings of dead workers raise, of busy ones never come back."""

    def __init__(self):
        self.dead, self.busy, self.pinged = set(), set(), []

    def worker(self, name):
        class Ready:
            @staticmethod
            def remote():
                self.pinged.append(name)
                return name

        class Worker:
            __ray_ready__ = Ready

        return Worker()

    def wait(self, pings, num_returns, timeout):
        assert timeout == 0, "the trainer must not wait for a busy worker"
        return [name for name in pings if name not in self.busy], [name for name in pings if name in self.busy]

    def get(self, pings):
        if self.dead & set(pings):
            raise RayActorError


@pytest.fixture
def cluster(monkeypatch):
    cluster = Cluster()
    monkeypatch.setattr(faults, "ray", cluster)
    monkeypatch.setattr(faults, "PING_SECONDS", -1.0)
    monkeypatch.setattr(WatchedBuffer, "_sync_metadata_from_transfer_queue", lambda self: None)
    return cluster


@pytest.fixture
def waiting(cluster, tmp_path):
    """A buffer whose prompt never finishes."""
    sampler = OmegaConf.create({"max_off_policy_threshold": None, "max_off_policy_strategy": "drop"})
    buffer = WatchedBuffer(
        "sync", OmegaConf.create({}), sampler_kwargs=OmegaConf.create({}), poll_interval=0.01, **sampler
    )
    buffer.running_keys["train"].add("uid")
    buffer.watch([cluster.worker("a"), cluster.worker("b")], tmp_path, limit=0.2)
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


def test_a_dead_worker_is_found_while_others_are_busy(waiting, cluster):
    cluster.busy.add("a")
    cluster.dead.add("b")
    with pytest.raises(RayActorError):
        sample(waiting)


def test_a_busy_worker_is_not_asked_again_before_it_answered(waiting, cluster):
    cluster.busy |= {"a", "b"}
    with pytest.raises(JobStopped):
        sample(waiting)
    assert cluster.pinged == ["a", "b"]


def test_a_step_without_any_session_says_so(waiting, monkeypatch):
    def nothing(self, **_):
        raise RuntimeError("Sync replay buffer selected terminal groups with no materializable trajectories.")

    monkeypatch.setattr(ReplayBuffer, "sample", nothing)
    with pytest.raises(JobStopped, match="every session of step 3 was dropped"):
        sample(waiting)


def test_verls_buffer_still_says_what_we_look_for():
    """The words are verl 0.9.1's; a version that changes them must change `WatchedBuffer.sample`."""
    import inspect

    assert "no materializable trajectories" in inspect.getsource(ReplayBuffer)
    assert "self._wait_for_next_poll(" in inspect.getsource(ReplayBuffer.sample)


def test_a_death_is_explained(tmp_path):
    (tmp_path / "global_step_8").mkdir()
    (tmp_path / "global_step_8" / "ccpo_state.json").write_text("{}")
    with pytest.raises(JobStopped, match="process of the job has died.*step 8 is whole"):
        with faults.deaths_explained(tmp_path):
            raise RayActorError


def test_skipped_updates_are_counted_per_policy_and_stop_the_job_when_they_go_on(tmp_path):
    watch = UpdateWatch(tmp_path)
    fine = {"think/actor/grad_norm": 0.1, "reason/actor/grad_norm": 0.2, "ccpo/x": math.nan}
    think = fine | {"think/actor/grad_norm": math.nan, "think/actor/loss": math.nan}
    both = think | {"reason/actor/grad_norm": math.inf}
    assert [watch.check(metrics) for metrics in (fine, think, both, fine)] == [0, 1, 2, 0]
    assert [watch.check(both) for _ in range(BAD_UPDATES - 1)] == [2] * (BAD_UPDATES - 1)
    with pytest.raises(JobStopped, match="no finite update in 3 steps.*think/actor/grad_norm=nan.*optim.lr"):
        watch.check(think)


def test_reasons_are_those_of_the_process_that_failed():
    inside = OSError(28, "No space left on device")
    assert reason_of(RayTaskError("save", "long traceback", inside)) == "OSError: [Errno 28] No space left on device"
    assert reason_of(RuntimeError("first line\nsecond line")) == "RuntimeError: first line"


def test_the_reason_to_stop_reaches_the_driver():
    assert str(pickle.loads(pickle.dumps(JobStopped("why")))) == "why"
