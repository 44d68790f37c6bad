"""Rollout server `hf_cpu` (rollout.name=hf_cpu): a Ray actor around BatchGenerator, and verl's two sides of it.

HfCpuReplica starts the server, HfCpuAdapter lives in the training worker and sends it new weights. Every replica is
one process with a whole copy of the model, whatever the rollout's parallel sizes say.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from transformers import AutoConfig
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import HFModelConfig
from verl.workers.rollout import base as rollout_base
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput
from verl.workers.rollout.utils import get_max_position_embeddings

from .decoding import Decoding, eos_token_ids
from .generation import BatchGenerator, SamplingParams, build_model

NAME = "hf_cpu"


def _actor_name(replica_rank: int) -> str:
    return f"{NAME}_server_{replica_rank}"


class HfCpuServer:
    """Serves generate() to the agent loops."""

    def __init__(self, config: Any, model_config: Any, replica_rank: int) -> None:
        self.config = omega_conf_to_dataclass(config)
        self.model_config: HFModelConfig = omega_conf_to_dataclass(model_config, dataclass_type=HFModelConfig)
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        hf_config = AutoConfig.from_pretrained(
            self.model_config.local_path, trust_remote_code=self.model_config.trust_remote_code
        )
        positions = get_max_position_embeddings(hf_config)
        self.max_model_len = min(self.config.max_model_len or positions, positions)
        self.generator = BatchGenerator(
            build_model(hf_config),
            eos_token_ids=eos_token_ids(self.model_config.tokenizer, self.model_config.generation_config),
            tokenizer=self.model_config.tokenizer,
            max_batch=self.config.max_num_seqs,
            max_prefill_tokens=self.config.max_num_batched_tokens,
            seed=self.config.seed + replica_rank,
        )
        self.global_steps: int | None = None
        self._decoding = Decoding(self.generator)
        self._open = asyncio.Event()  # closed between abort_all_requests and resume_generation
        self._open.set()
        self._rejecting = False

    def address(self) -> str:
        return ray.util.get_node_ip_address()

    async def generate(
        self,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        request_id: str,
        image_data: Any = None,
        video_data: Any = None,
    ) -> TokenOutput:
        """Continue one prompt, with verl's contract of the vLLM server.

        Returns:
            TokenOutput: stop_reason `completed` or `aborted`; extra_fields has global_steps (of the weights) and
            finish_reason: `stop`, `length` (cut by max_tokens or by the model's context) or `abort`.

        Raises:
            ValueError: images or videos, no room behind the prompt, or sampling parameters this server cannot honour.
        """
        if image_data or video_data:
            raise ValueError("the hf_cpu rollout takes text only: use rollout.name=vllm for images and videos")
        room = self.max_model_len - len(prompt_ids)
        if room < 1:
            raise ValueError(
                f"the prompt has {len(prompt_ids)} tokens and the context {self.max_model_len}: nothing can be "
                "generated; raise rollout.max_model_len or shorten the prompt"
            )
        left = self.config.prompt_length + self.config.response_length - len(prompt_ids)
        default = max(1, min(self.config.response_length, left))
        params = SamplingParams.from_dict(sampling_params, default, room, ignore_eos=self.config.ignore_eos)

        while not self._open.is_set():
            if self._rejecting:
                return TokenOutput(token_ids=[], stop_reason="aborted", extra_fields=self._extra_fields("abort"))
            await self._open.wait()
        request = await self._decoding.run(prompt_ids, params)
        return TokenOutput(
            token_ids=request.token_ids,
            log_probs=request.log_probs if sampling_params.get("logprobs") else None,
            stop_reason="aborted" if request.finish_reason == "abort" else "completed",
            extra_fields=self._extra_fields(request.finish_reason),
        )

    def _extra_fields(self, finish_reason: str) -> dict[str, Any]:
        return {"global_steps": self.global_steps, "finish_reason": finish_reason}

    async def load_weights(self, weights: dict[str, torch.Tensor], global_steps: int | None) -> None:
        """Take over the weights as soon as no request is on its way: a response never mixes two policies."""
        while self.generator.busy:
            await asyncio.sleep(0.001)
        self.generator.load_weights(weights)
        self.global_steps = global_steps

    async def abort_all_requests(self, reject_request: bool = False) -> dict[str, Any]:
        """End running requests; hold later ones until resume_generation, or send them back as aborted."""
        self._open.clear()
        self._rejecting = reject_request
        return {"aborted_count": self._decoding.abort()}

    async def resume_generation(self) -> None:
        self._rejecting = False
        self._open.set()

    # Nothing to free: weights and keys and values stay in memory.
    async def sleep(self, **kwargs: Any) -> None: ...
    async def wake_up(self, **kwargs: Any) -> None: ...
    async def clear_kv_cache(self) -> None: ...
    async def release_kv_cache(self) -> None: ...
    async def resume_kv_cache(self) -> None: ...
    async def start_profile(self, **kwargs: Any) -> None: ...
    async def stop_profile(self) -> None: ...


class HfCpuReplica(RolloutReplica):
    """The trainer's handle of one server."""

    async def launch_servers(self) -> None:
        node = await self.workers[0].__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        server = (
            ray.remote(HfCpuServer)
            .options(
                name=_actor_name(self.replica_rank),
                num_cpus=0,
                max_concurrency=self.max_concurrency,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),  # beside who sends it weights
            )
            .remote(self.config, self.model_config, self.replica_rank)
        )
        self._server_address = f"{await server.address.remote()}:{NAME}-{self.replica_rank}"
        self._server_handle = server
        self.servers = [server]


class HfCpuAdapter(BaseRollout):
    """Lives in each training worker; the first rank of a replica sends the weights to its server."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1) -> None:
        super().__init__(config, model_config, device_mesh)
        rank = int(os.environ["RANK"])
        size = (
            self.config.tensor_model_parallel_size
            * self.config.data_parallel_size
            * self.config.pipeline_model_parallel_size
        )
        self.replica_rank = rank // size if replica_rank == -1 else replica_rank
        self._sends = rank % size == 0
        self._server: ray.actor.ActorHandle | None = None

    async def resume(self, tags: list[str]) -> None: ...

    async def release(self) -> None: ...

    @torch.no_grad()
    async def update_weights(
        self,
        weights: Iterable[tuple[str, torch.Tensor]],
        global_steps: int | None = None,
        wire_format: str = "named_tensors",
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        if wire_format != "named_tensors" or peft_config is not None:
            raise ValueError(
                "the hf_cpu rollout takes whole weights: leave actor_rollout_ref.model.lora.merge true, as profile=cpu has it, and "
                "rollout.checkpoint_engine.backend=naive"
            )
        named = {}
        for name, tensor in weights:  # on every rank, because gathering a shard is a collective call
            if self._sends:
                named[name] = tensor.detach().to("cpu", copy=True)
        if self._sends:
            if self._server is None:  # the servers start after this object
                self._server = ray.get_actor(_actor_name(self.replica_rank))
            await self._server.load_weights.remote(named, global_steps)


RolloutReplicaRegistry.register(NAME, lambda: HfCpuReplica)
rollout_base._ROLLOUT_REGISTRY[(NAME, "async")] = f"{__name__}.{HfCpuAdapter.__name__}"
