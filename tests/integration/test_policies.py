"""What every policy's part of verl's configuration is made of."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf  # noqa: E402

from ccpo.config import CcpoConfig  # noqa: E402
from ccpo.types import EMPTIED, REASON, SOLO, THINK  # noqa: E402
from ccpo.verl_plugin.policies import by_role, runtimes_of, scale_mini_batches, use_model  # noqa: E402


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


def test_updates_replicas_and_mini_batches_are_counted_per_policy(cpu_config):
    schedule = {"mode": "alternate", "every": 2}
    ccpo, found = runtimes(cpu_config, steps=7, schedule=schedule, credit={"train_solo": True, "k_solo": 1})
    assert [runtime.config.actor_rollout_ref.actor.optim.total_training_steps for runtime in found] == [4, 3]
    assert [runtime.first_replica for runtime in found] == [0, 1]
    scale_mini_batches(found, ccpo, n=4)
    assert [runtime.config.actor_rollout_ref.actor.ppo_mini_batch_size for runtime in found] == [16, 20]


def test_policies_that_share_a_gpu_share_its_memory(cpu_config):
    cpu_config.trainer.device = "cuda"
    cpu_config.actor_rollout_ref.rollout.gpu_memory_utilization = 0.5
    _, found = runtimes(cpu_config)
    for runtime in found:
        assert runtime.config.actor_rollout_ref.rollout.gpu_memory_utilization == 0.25
        assert runtime.config.actor_rollout_ref.actor.fsdp_config.param_offload


def test_who_plays_a_role(cpu_config):
    _, found = runtimes(cpu_config)
    players = {role: runtime.policy.name for role, runtime in by_role(found).items()}
    assert players == {THINK: "think", REASON: "reason", SOLO: "reason", EMPTIED: "reason"}
    assert OmegaConf.is_config(found[0].config)
