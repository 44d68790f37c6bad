"""Processes that start while others are still busy.

verl starts its processes one after the other, each when it is needed, and most of a start is their imports. Agent loop workers need
nothing to import, so theirs begin first: an `EarlyAgentLoopWorker` is an empty actor, which verl's manager fills when the rollout servers are up.
The trainer's own process imports the rollout server's code in a thread, while it waits for the training workers.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import ray
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.workers.rollout.replica import get_rollout_replica_class

from ccpo.verl_gpu import host

_WAITING: list[Any] = []


class EarlyAgentLoopWorker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """verl's agent loop worker, which begins when it is told to."""

    def __init__(self) -> None:
        """Nothing: being here means that everything is imported."""

    def begin(self, *args: Any) -> None:
        super().__init__(*args)


def start(config: Any, policies: int) -> None:
    """Start what can be started before anything else of a job: agent loop workers, and rollout servers' processes."""
    rollout = config.actor_rollout_ref.rollout
    host.start(config, policies)
    if not str(rollout.agent.get("agent_loop_manager_class")).endswith(
        EarlyManager.__name__
    ):  # somebody's own starts its own
        return
    worker = ray.remote(EarlyAgentLoopWorker).options(scheduling_strategy="SPREAD")  # over the nodes, as verl does
    _WAITING.extend(worker.remote() for _ in range(rollout.agent.num_workers))


def import_server(config: Any) -> None:
    """Import the rollout server's code in a thread. For when this process will wait for others: two imports at once take turns."""
    name = config.actor_rollout_ref.rollout.name
    threading.Thread(target=get_rollout_replica_class, args=(name,), daemon=True).start()


class EarlyManager(AgentLoopManagerTQ):
    """verl's manager, with workers that are there already."""

    async def _init_agent_loop_workers(self) -> None:
        self.agent_loop_workers = _WAITING[:]
        _WAITING.clear()
        given = (self.config, self.llm_client, self.teacher_client, self.reward_loop_worker_handles)
        await asyncio.gather(*(worker.begin.remote(*given) for worker in self.agent_loop_workers))
