"""What every policy's part of verl's configuration is made of."""

from __future__ import annotations

import copy
import math

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf  # noqa: E402

from ccpo.config import CcpoConfig  # noqa: E402
from ccpo.verl_plugin.policies import by_role, fit_mini_batch, mini_batch_rows, runtimes_of, use_model  # noqa: E402


def runtimes(config, steps=12, **node):
    ccpo = CcpoConfig.from_dict({"policies": "per_role", **node}, config.actor_rollout_ref.rollout.n)
    common = copy.deepcopy(config.actor_rollout_ref.model)
    use_model(config, ccpo.policy_list()[0], common)  # as the trainer does first
    return ccpo, runtimes_of(config, ccpo, steps, common)


@pytest.mark.parametrize("own", ["think", "reason"])
def test_a_policy_without_a_model_of_its_own_has_the_jobs(cpu_config, own):
    job = cpu_config.actor_rollout_ref.model.path
    _, found = runtimes(cpu_config, roles={own: {"model": "org/other"}})
    paths = {runtime.policy.name: runtime.config.actor_rollout_ref.model.path for runtime in found}
    assert paths == {"think": job, "reason": job} | {own: "org/other"}


def test_updates_and_replicas_are_counted_per_policy(cpu_config):
    _, found = runtimes(cpu_config, steps=7, schedule={"mode": "alternate", "every": 2})
    assert [runtime.config.actor_rollout_ref.actor.optim.total_training_steps for runtime in found] == [4, 3]
    assert [runtime.first_replica for runtime in found] == [0, 1]


@pytest.mark.parametrize("n, gpus", [(1, 1), (3, 2), (4, 1), (4, 3), (5, 4), (8, 2)])
@pytest.mark.parametrize("prompts, mini", [(16, 16), (16, 8), (16, 5), (64, 64)])
@pytest.mark.parametrize("rows", [1, 127, 128, 171, 513])
def test_a_step_takes_as_many_updates_as_its_prompts_whatever_came(n, gpus, prompts, mini, rows):
    """verl pads a batch to a multiple of its mini-batch, which is ppo_mini_batch_size x n rows and must divide among the GPUs."""
    size = mini_batch_rows(rows, prompts, mini, n, gpus)
    assert size > 0 and size % n == 0 and size % gpus == 0
    updates = -(-prompts // mini)
    assert -(-rows // size) <= updates, "never more optimizer steps than configured"
    assert size * updates < rows + updates * math.lcm(n, gpus), "padding is less than a unit per update"


def test_a_step_sets_its_mini_batch_where_verl_reads_it(cpu_config):
    _, (think, reason) = runtimes(cpu_config)
    fit_mini_batch(think, rows=64, prompts=16, n=4)
    fit_mini_batch(reason, rows=81, prompts=16, n=4)
    sizes = [runtime.config.actor_rollout_ref.actor.ppo_mini_batch_size for runtime in (think, reason)]
    assert sizes == [16, 21]


def test_policies_that_share_a_gpu_share_its_memory(cpu_config):
    cpu_config.trainer.device = "cuda"
    cpu_config.actor_rollout_ref.rollout.gpu_memory_utilization = 0.5
    _, found = runtimes(cpu_config)
    for runtime in found:
        assert runtime.config.actor_rollout_ref.rollout.gpu_memory_utilization == 0.25


def test_who_plays_a_role(cpu_config):
    _, found = runtimes(cpu_config)
    players = {role: runtime.policy.name for role, runtime in by_role(found).items()}
    assert players == {"think": "think", "reason": "reason"}
    assert OmegaConf.is_config(found[0].config)
