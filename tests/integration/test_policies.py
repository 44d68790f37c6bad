"""What every policy's part of verl's configuration is made of."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf  # noqa: E402

from ccpo.config import CcpoConfig  # noqa: E402
from ccpo.types import EMPTIED, REASON, SOLO, THINK  # noqa: E402
from ccpo.verl_plugin.policies import by_role, scale_mini_batches, seats_of, use_model  # noqa: E402


def seats(config, steps=12, **node):
    ccpo = CcpoConfig.from_dict({"policies": "per_role", **node}, config.actor_rollout_ref.rollout.n)
    common = copy.deepcopy(config.actor_rollout_ref.model)
    use_model(config, ccpo.policy_list()[0], common)  # as the trainer does first
    return ccpo, seats_of(config, ccpo, steps, common)


@pytest.mark.parametrize("own", ["think", "reason"])
def test_a_policy_without_a_model_of_its_own_has_the_jobs(cpu_config, own):
    job = cpu_config.actor_rollout_ref.model.path
    _, found = seats(cpu_config, roles={own: {"model": "org/other"}})
    paths = {seat.policy.name: seat.config.actor_rollout_ref.model.path for seat in found}
    assert paths == {"think": job, "reason": job} | {own: "org/other"}


def test_updates_replicas_and_mini_batches_are_counted_per_policy(cpu_config):
    schedule = {"mode": "alternate", "every": 2}
    ccpo, found = seats(cpu_config, steps=7, schedule=schedule, credit={"train_solo": True, "k_solo": 1})
    assert [seat.config.actor_rollout_ref.actor.optim.total_training_steps for seat in found] == [4, 3]
    assert [seat.first_replica for seat in found] == [0, 1]
    scale_mini_batches(found, ccpo, n=4)
    assert [seat.config.actor_rollout_ref.actor.ppo_mini_batch_size for seat in found] == [16, 20]


def test_policies_that_share_a_gpu_share_its_memory(cpu_config):
    cpu_config.trainer.device = "cuda"
    cpu_config.actor_rollout_ref.rollout.gpu_memory_utilization = 0.5
    _, found = seats(cpu_config)
    for seat in found:
        assert seat.config.actor_rollout_ref.rollout.gpu_memory_utilization == 0.25
        assert seat.config.actor_rollout_ref.actor.fsdp_config.param_offload


def test_who_plays_a_role(cpu_config):
    _, found = seats(cpu_config)
    players = {role: seat.policy.name for role, seat in by_role(found).items()}
    assert players == {THINK: "think", REASON: "reason", SOLO: "reason", EMPTIED: "reason"}
    assert OmegaConf.is_config(found[0].config)
