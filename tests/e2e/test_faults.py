"""What breaks in a real job, and what comes of it. Outcomes: `ccpo/verl_plugin/faults.py`."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from jobs import LIMIT, PER_ROLE, STEPS, finish, kill_session, last_step, log_of, members, numbers, shards, wait_until

from ccpo.run.checkpoint import finished_steps
from ccpo.run.folder import ACTOR, MARKER, METRICS, step_folder

NO_VALIDATION = ("trainer.val_before_train=false", "trainer.test_freq=-1")


def stopped(job, out: Path, limit: float = LIMIT) -> str:
    """The one `error:` line with which the job stopped."""
    assert job.wait(limit) != 0
    (line,) = [line for line in log_of(out).splitlines() if line.startswith("error: ")]
    return line


def send(job, named: str, number: signal.Signals) -> None:
    """Send a signal to the job's only process with this in its title."""
    (process,) = [process for process in members(job.pid) if process.cmdline() and named in process.cmdline()[0]]
    process.send_signal(number)


@pytest.mark.slow
@pytest.mark.parametrize(
    "process, called",
    [
        ("AgentLoopWorker", "agent loop worker 0"),
        ("WorkerDict", "training worker 0"),
        ("TransferQueueController", "TransferQueue's controller"),
        ("SimpleStorageUnit", "TransferQueue's storage 0"),
    ],
)
def test_the_job_stops_when_a_process_dies(start, tmp_path, process, called):
    out = tmp_path / "job"
    job = start(out, "dyad", *NO_VALIDATION)
    wait_until(job, out, lambda: last_step(out) >= 2)
    send(job, process, signal.SIGKILL)
    line = stopped(job, out, limit=60)
    assert "a process of the job has died" in line and (called in line or "ActorDiedError" in line)
    assert f"The checkpoint of step {finished_steps(out)[-1]} is complete" in line


@pytest.mark.slow
def test_a_job_that_lost_its_rollout_server_goes_on_when_started_again(start, tmp_path):
    out = tmp_path / "job"
    job = start(out, "dyad", *NO_VALIDATION)
    wait_until(job, out, lambda: last_step(out) >= 2)
    send(job, "HfCpuServer", signal.SIGKILL)
    line = stopped(job, out, limit=60)
    assert "every session of step" in line or "has died (rollout server 0.0 of policy shared)" in line
    finish(start(out, "dyad", *NO_VALIDATION), out)
    assert {(step, "train") for step in range(1, STEPS + 1)} == set(numbers(out))


@pytest.mark.slow
def test_the_job_stops_when_a_process_hangs(start, tmp_path):
    out = tmp_path / "job"
    job = start(out, "dyad", *NO_VALIDATION, "ccpo.stall_timeout=30")
    wait_until(job, out, lambda: last_step(out) >= 2)
    send(job, "WorkerDict", signal.SIGSTOP)
    assert "nothing has moved for 30 s (ccpo.stall_timeout), since" in stopped(job, out, limit=120)


@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_checkpoint_and_no_half_one(start, tmp_path):
    out = tmp_path / "job"
    line = stopped(start(out, "dyad", *NO_VALIDATION, "actor_rollout_ref.model.external_lib=full_disk"), out)
    assert "the checkpoint of step 4 could not be saved" in line and "No space left on device" in line
    assert "The checkpoint of step 2 is complete" in line
    assert [folder.name for folder in out.glob("global_step_*")] == ["global_step_2"]
    finish(start(out, "dyad", *NO_VALIDATION), out)
    assert {(step, "train") for step in range(1, STEPS + 1)} == set(numbers(out))


@pytest.mark.slow
def test_updates_without_finite_numbers_are_skipped_and_stop_the_job(start, tmp_path):
    out = tmp_path / "job"
    line = stopped(
        start(out, "dyad", *NO_VALIDATION, "actor_rollout_ref.actor.entropy_coeff=nan", "trainer.save_freq=1"), out
    )
    assert "actor/grad_norm was not finite in 3 steps in a row (now nan)" in line
    assert [metrics["ccpo/skipped_updates"] for metrics in numbers(out).values()] == [1, 1]
    assert shards(out, 1, ACTOR) == shards(out, 2, ACTOR), "skipped: the weights are those of the start"


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_passed_over(start, tmp_path):
    out = tmp_path / "job"
    finish(start(out, "dyad", *NO_VALIDATION, steps=4), out)
    first = numbers(out)
    (weights,) = (step_folder(out, 4) / ACTOR).glob("model*.pt")
    weights.write_bytes(weights.read_bytes()[:-1000])
    finish(start(out, "dyad", *NO_VALIDATION, steps=4), out)
    assert "global_step_4 is damaged and is passed over: actor/model_world_size_1_rank_0.pt has" in log_of(out)
    assert numbers(out) == first, "steps 3 and 4 were trained again from the checkpoint of step 2"


def trained(out: Path, since: float) -> int:
    """Last step that a job logged; 0 until it has taken over what the one before it logged."""
    path = out / METRICS
    return last_step(out) if path.exists() and path.stat().st_mtime > since else 0


def inside_a_save(job, out: Path, folder: Path) -> None:
    """Wait until some of the checkpoint is there, but not yet its marker."""
    wait_until(job, out, lambda: any(folder.rglob("optim*.pt")), pause=0.01)
    time.sleep(0.5)
    assert folder.exists() and not (folder / MARKER).exists()


@pytest.mark.slow
def test_a_corrupt_checkpoint_of_the_right_size_is_named(start, tmp_path):
    out = tmp_path / "job"
    finish(start(out, "dyad", *NO_VALIDATION, steps=2), out)
    (weights,) = (step_folder(out, 2) / ACTOR).glob("model*.pt")
    weights.write_bytes(b"x" * weights.stat().st_size)
    line = stopped(start(out, "dyad", *NO_VALIDATION), out)
    assert "global_step_2 cannot be loaded (" in line and "move this one out" in line


@pytest.mark.slow
@pytest.mark.parametrize("policies", [pytest.param((), id="shared"), pytest.param(PER_ROLE, id="a policy per role")])
def test_a_job_killed_at_random_moments_equals_one_that_was_not(start, tmp_path, policies):
    """Five kills at random moments and one inside a save, for each of the two."""
    straight, killed, steps = tmp_path / "straight", tmp_path / "killed", 24
    options = ("dyad", *policies, "trainer.val_before_train=false", "actor_rollout_ref.model.external_lib=slow_save")
    finish(start(straight, *options, steps=steps), straight)

    moments = random.Random(len(policies))
    for number in range(6):
        resumed = max(finished_steps(killed), default=0)
        began = time.time()
        job = start(killed, *options, steps=steps)
        if number == 2:
            inside_a_save(job, killed, step_folder(killed, resumed + 2))
        elif number == 4:
            time.sleep(moments.uniform(5, 40))  # somewhere in its start
        else:
            enough = resumed + moments.randint(2, 4)  # some kills lose a step or two, some a save
            wait_until(job, killed, lambda since=began, step=enough: trained(killed, since) >= step)
            time.sleep(moments.uniform(0, 4))
        assert job.poll() is None, "too late: it had ended"
        kill_session(job.pid)
        job.wait(30)
        print(f"kill {number}: from {resumed}, {last_step(killed)} logged, {finished_steps(killed)} saved")
    finish(start(killed, *options, steps=steps), killed)

    assert resumed >= 4, "the kills left it no checkpoint to go on from"
    one, two = numbers(straight), numbers(killed)
    for key in set(one) & set(two):
        assert two[key] == one[key], key
    assert {(steps, "train"), (steps, "val")} <= set(two)
    for policy in ("think", "reason") if policies else (ACTOR,):
        assert shards(killed, steps, policy) == shards(straight, steps, policy)
