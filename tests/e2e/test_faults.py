"""What breaks in a real job, and what comes of it. Outcomes: `ccpo/verl_plugin/faults.py`."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from jobs import LIMIT, STEPS, finish, last_step, log_of, members, numbers, shards, wait_until
from kills import attempt
from processes import words_of

from ccpo.run.checkpoint import finished_steps
from ccpo.run.folder import ACTOR, step_folder

NO_VALIDATION = ("trainer.val_before_train=false", "trainer.test_freq=-1")


def stopped(job, out: Path, limit: float = LIMIT) -> str:
    """The one `error:` line with which the job stopped."""
    assert job.wait(limit) != 0
    (line,) = [line for line in log_of(out).splitlines() if line.startswith("error: ")]
    return line


def send(job, named: str, number: signal.Signals) -> None:
    """Send a signal to the job's only process with this in its title."""
    (process,) = [process for process in members(job.pid) if named in "".join(words_of(process)[:1])]
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
@pytest.mark.parametrize("whom", ["driver", "all"])
def test_a_job_that_is_told_to_end_says_what_is_whole_and_goes_on_when_started_again(start, tmp_path, whom):
    out = tmp_path / "job"
    job = start(out, "dyad", *NO_VALIDATION)
    wait_until(job, out, lambda: last_step(out) >= 2)
    for process in [job] if whom == "driver" else members(job.pid):
        process.send_signal(signal.SIGTERM)
    line = stopped(job, out, limit=60)
    assert "told to end (SIGTERM)" in line and f"The checkpoint of step {finished_steps(out)[-1]} is complete" in line
    assert job.returncode == 1  # not aborted
    finish(start(out, "dyad", *NO_VALIDATION), out)


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


HANGS = ("ccpo.stall_timeout=90", "ccpo.session_timeout=90")


def nothing_left(job) -> None:
    """Ray's daemons may take a moment."""
    deadline = time.monotonic() + 30
    while (left := members(job.pid)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left, left


@pytest.mark.slow
def test_the_job_stops_when_a_process_hangs(start, tmp_path):
    out = tmp_path / "job"
    job = start(out, "dyad", *NO_VALIDATION, *HANGS)
    wait_until(job, out, lambda: last_step(out) >= 2)
    send(job, "WorkerDict", signal.SIGSTOP)
    began = time.monotonic()
    assert "nothing has moved for 90 s (ccpo.stall_timeout), since" in stopped(job, out, limit=240)
    print(f"stopped after {time.monotonic() - began:.0f} s")
    nothing_left(job)


@pytest.mark.slow
def test_the_job_stops_when_a_process_hangs_in_the_start(start, tmp_path):
    out = tmp_path / "job"
    job = start(out, "dyad", *NO_VALIDATION, *HANGS)
    wait_until(job, out, lambda: any("WorkerDict" in "".join(words_of(process)[:1]) for process in members(job.pid)))
    send(job, "WorkerDict", signal.SIGSTOP)
    began = time.monotonic()
    line = stopped(job, out, limit=300)
    print(f"stopped after {time.monotonic() - began:.0f} s")
    assert (
        "nothing has moved for 90 s (ccpo.stall_timeout), since the start of the training workers and rollout servers"
        in line
    )
    assert "There is no checkpoint yet: the same command starts anew" in line
    nothing_left(job)


@pytest.mark.slow
@pytest.mark.parametrize("process", ["TaskRunner", "gcs_server"])
def test_the_job_stops_when_its_task_runner_or_ray_itself_hangs(start, tmp_path, process):
    out = tmp_path / "job"
    job = start(out, "dyad", *NO_VALIDATION)
    wait_until(job, out, lambda: last_step(out) >= 2)
    send(job, process, signal.SIGSTOP)
    began = time.monotonic()
    line = stopped(job, out, limit=300)
    print(f"stopped after {time.monotonic() - began:.0f} s")
    assert (
        "the task runner has shown no sign of life for 120 s" in line
        and "is complete: the same command goes on" in line
    )
    nothing_left(job)


@pytest.mark.slow
def test_a_job_that_can_never_be_placed_is_refused_before_ray_starts(start, tmp_path):
    out = tmp_path / "job"
    began = time.monotonic()
    job = start(out, "dyad", "ray_kwargs.ray_init.num_cpus=1")
    assert job.wait(LIMIT) == 1
    print(f"refused after {time.monotonic() - began:.0f} s")
    assert (
        "ray_kwargs.ray_init.num_cpus is 1, and the job's processes are placed on 6: it would wait for ever"
        in log_of(out)
    )
    assert not out.exists() and "ray init kwargs" not in log_of(out)


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
        start(out, "dyad", *NO_VALIDATION, "actor_rollout_ref.model.external_lib=not_finite", "trainer.save_freq=1"),
        out,
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


@pytest.mark.slow
def test_a_corrupt_checkpoint_of_the_right_size_is_named(start, tmp_path):
    out = tmp_path / "job"
    finish(start(out, "dyad", *NO_VALIDATION, steps=2), out)
    (weights,) = (step_folder(out, 2) / ACTOR).glob("model*.pt")
    weights.write_bytes(b"x" * weights.stat().st_size)
    assert "nothing was started" in stopped(start(out, "dyad", *NO_VALIDATION), out)
    assert "every checkpoint in" in log_of(out) and "its SHA-256 differs" in log_of(out)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["dyad", "per_role"])
def test_a_job_killed_at_random_moments_equals_one_that_was_not(data, tmp_path, job):
    """More kills, and more jobs: benchmarks/random_kills.py."""
    trial = attempt(job, data, tmp_path, steps=14, kills=5, seed=1)
    assert not trial.differing and trial.tensors
    assert max(row["resumed_from"] for row in trial.kills) >= 2, "the kills left it no checkpoint to go on from"
