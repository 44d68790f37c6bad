"""Several resident policies in one verl job: workers, rollout servers, weight sync, routing and checkpoint folders.

verl builds one actor with its servers; every further policy joins the same worker processes (one CUDA context, one process group), gets
its own range of server ranks and its own weight sync. Facts of verl 0.9.1 this rests on:
- `PPOTrainer._setup` assigns `resource_pool_to_cls` and then makes one worker class out of each pool's entries: the only place where
  further actors can join (`CcpoTrainer.resource_pool_to_cls`);
- a server's Ray name and socket follow from its replica rank, which the worker derives from RANK: `worker.PolicyWorker` shifts it;
- a replica finds its workers by replica rank: `_Shifted` moves the list by the policy's first rank;
- `_setup` calls `_load_checkpoint` last, when policy 0 is up and asleep: the others are attached there.
"""

from __future__ import annotations

import math
import os
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, open_dict
from verl.checkpoint_engine import CheckpointEngineManager
from verl.single_controller.ray import RayClassWithInitArgs
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.rollout.llm_server import LLMServerClient, LLMServerManager

from ccpo.config import CcpoConfig, Policy
from ccpo.verl_gpu.host import replica_size
from ccpo.verl_plugin.servers import client_of


@dataclass
class PolicyRuntime:
    """A policy at work. ``config``: the whole configuration with this policy's actor_rollout_ref."""

    policy: Policy
    config: DictConfig
    first_replica: int
    mini_batch: int  # prompts, as configured
    workers: Any = None
    tokenizer: Any = None
    processor: Any = None
    servers: LLMServerManager | None = None
    sync: CheckpointEngineManager | None = None


def use_model(config: DictConfig, policy: Policy, common: DictConfig) -> None:
    """Make ``config`` load the policy's model, or the job's: ``common``, its own ``actor_rollout_ref.model``."""
    model = config.actor_rollout_ref.model
    model.path = policy.model or common.path
    model.tokenizer_path = None if policy.model else common.tokenizer_path


def by_role(runtimes: list[PolicyRuntime]) -> dict[str, PolicyRuntime]:
    """Role -> who plays it."""
    return {role: runtime for runtime in runtimes for role in runtime.policy.roles}


def runtimes_of(config: DictConfig, ccpo: CcpoConfig, total_steps: int, common: DictConfig) -> list[PolicyRuntime]:
    """One runtime per policy, not attached yet.

    Args:
        config: the whole configuration; not modified.
        ccpo: its checked ``ccpo:`` node.
        total_steps: optimizer steps of the job; a policy's learning-rate schedule counts those in which it learns.
        common: the job's model section, for policies without a model of their own.
    """
    policies, runtimes, first = ccpo.policy_list(), [], 0
    for policy in policies:
        own = deepcopy(config)
        shared = own.actor_rollout_ref
        with open_dict(own):
            use_model(own, policy, common)
            shared.actor.optim.total_training_steps = sum(
                ccpo.learns(policy.name, s) for s in range(1, total_steps + 1)
            )
            if len(policies) > 1 and config.trainer.device == "cuda":
                # Every engine is awake while answers are decoded; the trainers wait in host memory (fit.py).
                shared.rollout.gpu_memory_utilization = config.actor_rollout_ref.rollout.gpu_memory_utilization / len(
                    policies
                )
        runtimes.append(PolicyRuntime(policy, own, first, shared.actor.ppo_mini_batch_size))
        first += config.trainer.n_gpus_per_node * config.trainer.nnodes // replica_size(shared.rollout)
    return runtimes


def gpus_of(runtime: PolicyRuntime) -> int:
    """Of the job."""
    return runtime.config.trainer.n_gpus_per_node * runtime.config.trainer.nnodes


def row_unit(n: int, gpus: int) -> int:
    """What the number of an update's rows is a multiple of. ``n``: sessions per prompt. ``gpus``: of the job."""
    return math.lcm(n, gpus)


def mini_batch_rows(rows: int, prompts: int, mini_batch: int, n: int, gpus: int) -> int:
    """Rows of a mini-batch, so that a step of ``rows`` rows takes as many optimizer steps as its prompts would.

    verl counts a mini-batch as ppo_mini_batch_size x n ROWS, whatever came: a session has several rows, fewer if its program stopped
    early, none if it was dropped. It must also divide among the GPUs (an assertion of the worker, after the whole rollout).

    Args:
        rows: rows of one policy in the step.
        prompts: data.train_batch_size. mini_batch: ppo_mini_batch_size as configured, in prompts.
        n: sessions per prompt. gpus: of the job.
    """
    updates, unit = -(-prompts // mini_batch), row_unit(n, gpus)
    return -(-rows // (updates * unit)) * unit


def fit_mini_batch(runtime: PolicyRuntime, rows: int, prompts: int, n: int) -> None:
    """Set this step's mini-batch of a policy (`mini_batch_rows`) where verl reads it."""
    size = mini_batch_rows(rows, prompts, runtime.mini_batch, n, gpus_of(runtime))
    runtime.config.actor_rollout_ref.actor.ppo_mini_batch_size = size // n


def worker_class(runtime: PolicyRuntime, cls: Any, actor_role: str) -> RayClassWithInitArgs:
    return RayClassWithInitArgs(
        cls=cls,
        config=runtime.config.actor_rollout_ref,
        distillation_config=runtime.config.get("distillation"),
        role=actor_role,
        first_replica=runtime.first_replica,
    )


def attach(runtime: PolicyRuntime, group: Any) -> None:
    """What verl's `_setup` does for policy 0: model, servers, weight sync, sleep. ``group``: any worker group of the process."""
    rollout = runtime.config.actor_rollout_ref.rollout
    model = omega_conf_to_dataclass(runtime.config.actor_rollout_ref.model)
    runtime.tokenizer, runtime.processor = model.tokenizer, model.processor
    runtime.workers = group.spawn([runtime.policy.name])[runtime.policy.name]
    runtime.workers.init_model()
    runtime.servers = LLMServerManager.create(
        config=runtime.config,
        worker_group=_Shifted(runtime.workers, runtime.first_replica * replica_size(rollout)),
        start_rank=runtime.first_replica,
    )
    engine = omega_conf_to_dataclass(rollout.checkpoint_engine)
    engine.backend = "naive"
    runtime.sync = CheckpointEngineManager(
        config=engine, actor_wg=runtime.workers, replicas=runtime.servers.get_replicas()
    )
    runtime.sync.sleep_replicas()


class _Shifted:
    """A worker group as a replica with a later rank sees it: its workers stand behind ``before`` others."""

    def __init__(self, group: Any, before: int) -> None:
        self.world_size, self.workers = group.world_size, [None] * before + list(group.workers)


class PolicySyncs:
    """Stands in for the checkpoint manager: calls every policy's in turn."""

    def __init__(self, runtimes: list[PolicyRuntime]) -> None:
        self._managers = [runtime.sync for runtime in runtimes]

    def update_weights(self, *args: Any, **kwargs: Any) -> None:
        for manager in self._managers:
            manager.update_weights(*args, **kwargs)

    def sleep_replicas(self) -> None:
        for manager in self._managers:
            manager.sleep_replicas()


class PolicyCheckpoints:
    """Stands in for the actor's workers while verl saves or loads: global_step_N/POLICY instead of global_step_N/actor."""

    def __init__(self, runtimes: list[PolicyRuntime]) -> None:
        self._runtimes = runtimes

    def save_checkpoint(self, local: str, remote: str | None, step: int, max_ckpt_to_keep: int | None = None) -> None:
        for runtime in self._runtimes:
            runtime.workers.save_checkpoint(
                _beside(local, runtime), remote and _beside(remote, runtime), step, max_ckpt_to_keep=max_ckpt_to_keep
            )

    def load_checkpoint(self, local_path: str, del_local_after_load: bool = False) -> None:
        for runtime in self._runtimes:
            runtime.workers.load_checkpoint(
                local_path=_beside(local_path, runtime), del_local_after_load=del_local_after_load
            )


def _beside(path: str, runtime: PolicyRuntime) -> str:
    return os.path.join(os.path.dirname(path), runtime.policy.name)


class PolicyClient(LLMServerClient):
    """What agent loops get for their server: one client per policy, chosen by role."""

    def __init__(self, runtimes: list[PolicyRuntime]) -> None:
        self.clients = {runtime.policy.name: client_of(runtime.servers) for runtime in runtimes}
        self.policy_of = {role: runtime.policy.name for role, runtime in by_role(runtimes).items()}
        self._first = self.clients[runtimes[0].policy.name]
        super().__init__(config=self._first.config)

    async def generate(self, *args: Any, **kwargs: Any) -> Any:
        """For an agent loop that knows no roles."""
        return await self._first.generate(*args, **kwargs)
