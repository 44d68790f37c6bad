"""Processes that start while others are still busy, and agent loop workers that do not begin anew for every session.

verl starts its processes one after the other, each when it is needed, and most of a start is their imports. Agent loop workers need
nothing to import, so theirs begin first: an `EarlyAgentLoopWorker` is an empty actor, which verl's manager fills when the rollout servers are up.
The trainer's own process imports the rollout server's code in a thread, while it waits for the training workers.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections import defaultdict
from functools import cached_property
from typing import Any

import ray
import torch
import transfer_queue as tq
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tensordict import NonTensorStack, TensorDict
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap, _agent_loop_registry
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.rollout_trace import rollout_trace_attr
from verl.workers.rollout.replica import get_rollout_replica_class

from ccpo.verl_gpu import host
from ccpo.verl_plugin.agent_loops import TeamAgentLoop

OURS = f"{TeamAgentLoop.__module__}.{TeamAgentLoop.__qualname__}"

OF_THE_DATASET = ("uid", "reward_model")
"""Of a dataset row's columns those that somebody reads in its sessions' rows: verl's advantage and what is dumped of rollouts. Each other one cost
every row its packing and unpacking."""
NOBODY_READS = ("metrics", "multi_modal_data")
"""Of verl's own columns; images themselves are not stored by verl either."""

warnings.filterwarnings("ignore", "The PyTorch API of nested tensors is in prototype stage", UserWarning)  # `_columns`

_WAITING: list[Any] = []


class EarlyAgentLoopWorker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """verl's agent loop worker, which begins when it is told to."""

    def __init__(self) -> None:
        """Nothing: being here means that everything is imported."""

    def begin(self, *args: Any) -> None:
        super().__init__(*args)
        self._under_way: dict[str, int] = defaultdict(int)  # prompt -> its sessions that have begun and not ended
        self._finished: dict[str, list[tuple[dict, list]]] = defaultdict(list)

    @cached_property
    def _loop(self) -> TeamAgentLoop:
        return TeamAgentLoop(
            trainer_config=DictConfigWrap(self.config),
            server_manager=self.llm_client,
            tokenizer=self.tokenizer,
            processor=self.processor,
            hf_model_type=self.hf_model_type,
            dataset_cls=self.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
        )

    async def _run_agent_loop(
        self,
        sampling_params: dict[str, Any],
        trajectory: dict[str, Any],
        *,
        agent_name: str,
        trace: bool = True,
        **row: Any,
    ) -> Any:
        """As verl's, which makes a loop for every session and copies the whole configuration for it; ours serves all.
        Rows go into the queue once for a prompt, not once for each session."""
        if _agent_loop_registry.get(agent_name, {}).get("_target_") != OURS:
            return await super()._run_agent_loop(sampling_params, trajectory, agent_name=agent_name, trace=trace, **row)
        about = {name: trajectory[name] for name in ("step", "sample_index", "rollout_n", "validate")}
        uid, validate = row["uid"], trajectory["validate"]
        self._under_way[uid] += 1
        try:
            with rollout_trace_attr(**about, name="agent_loop", trace=trace):
                rows = await self._loop.run(sampling_params, **row)
            if self.distillation_enabled:  # verl asks the teacher about each session
                await self._agent_loop_postprocess(rows, validate, **row)
            else:
                self._finished[uid].append((row, rows))
        finally:
            self._under_way[uid] -= 1
            if not self._under_way[uid]:  # verl marks the prompt as finished after this
                del self._under_way[uid]
                await self._put(self._finished.pop(uid, []), validate)

    async def _put(self, sessions: list[tuple[dict[str, Any], list[AgentLoopOutput]]], validate: bool) -> None:
        """Rows of a prompt's sessions into the queue, as verl's `_agent_loop_postprocess` writes those of one: what a call costs beside its
        rows is most of it.

        Args:
            sessions: the dataset row's columns with verl's ``uid`` and ``session_id``, and the session's rows; none: it was dropped.
        """
        keys, fields, tags = [], [], []
        for row, outputs in sessions:
            for i, output in enumerate(outputs):
                ids = torch.tensor([*output.prompt_ids, *output.response_ids], dtype=torch.int64)
                extra = self._compute_multi_modal_inputs(output, ids)
                positions = self._compute_position_ids(ids[None], torch.ones_like(ids)[None], extra).squeeze(0)
                field = {
                    **output.as_dict(),
                    **{name: row[name] for name in OF_THE_DATASET},
                    "input_ids": ids,
                    "position_ids": positions,
                    "multi_modal_inputs": extra,
                }
                for name in NOBODY_READS:
                    field.pop(name, None)
                field["loss_mask"] = field["response_mask"]
                length = {
                    "prompt_len": len(output.prompt_ids),
                    "response_len": len(output.response_ids),
                    "seq_len": len(ids),
                }
                weights = {name: field["extra_fields"].get(name) for name in ("min_global_steps", "max_global_steps")}
                keys.append(f"{row['uid']}_{row['session_id']}_{i}")
                fields.append(field)
                tags.append({"status": "success", **length, "global_steps": row["global_steps"], **weights})
        if keys:
            await tq.async_kv_batch_put(keys, "val" if validate else "train", _columns(fields), tags)


def _columns(rows: list[dict[str, Any]]) -> TensorDict:
    """As verl's `list_of_dict_to_tensordict`, with tensors of any lengths as PyTorch's older nested tensors: the queue takes each apart six times, which
    Python does for jagged ones. It holds single tensors, so that what is read is the same."""
    whole = {name: [row[name] for row in rows] for name in rows[0]}
    return TensorDict(
        {
            name: torch.nested.as_nested_tensor(values)
            if all(map(torch.is_tensor, values))
            else NonTensorStack(*values)
            for name, values in whole.items()
        },
        batch_size=[len(rows)],
    )


def start(config: Any, policies: int) -> None:
    """Start what can be started before anything else of a job: processes of rollout servers and of agent loop workers."""
    rollout = config.actor_rollout_ref.rollout
    host.start(config, policies)
    if not str(rollout.agent.get("agent_loop_manager_class")).endswith(
        EarlyManager.__name__
    ):  # somebody's own starts its own
        return
    worker = ray.remote(EarlyAgentLoopWorker)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    for number in range(rollout.agent.num_workers):  # round the nodes, as verl does; SPREAD may put all on one
        there = NodeAffinitySchedulingStrategy(nodes[number % len(nodes)], soft=True)
        _WAITING.append(worker.options(scheduling_strategy=there).remote())


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
