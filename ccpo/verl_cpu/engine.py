"""FSDP2 training engine on the CPU (gloo). verl registers its FSDP engines for cuda and npu only.

FSDP1 is left out: its sync_module_states needs an accelerator.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.distributed.tensor import DTensor
from verl.utils.fsdp_utils import merged_lora_context, normalize_peft_param_name
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead


class _KeepParametersInPlace:
    """verl gives forward-only models (the reference policy) CPUOffloadPolicy(pin_memory=True). Pinning needs an
    accelerator and offloading has nothing to offload from, so they are built like the actor."""

    def _build_fsdp_module(self, module):
        forward_only = self.engine_config.forward_only
        object.__setattr__(self.engine_config, "forward_only", False)  # a frozen dataclass
        try:
            return super()._build_fsdp_module(module)
        finally:
            object.__setattr__(self.engine_config, "forward_only", forward_only)


@EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cpu")
class CpuEngineWithLMHead(_KeepParametersInPlace, FSDPEngineWithLMHead):
    @torch.no_grad()
    def _merged_lora_per_tensor_param(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What the rollout gets of an actor with an adapter (model.lora.merge). verl's own rounds it to bfloat16, whose steps are larger than
        what a young adapter adds: the rollout would sample from another policy than the one that learns. Each is a copy: on the CPU a
        gathered tensor is the parameter itself, which gets its own weights back at the end."""
        with merged_lora_context(self.module, backup_adapters=True):
            for name, weight in normalize_peft_param_name(self.module.state_dict()).items():
                yield name, (weight.full_tensor() if isinstance(weight, DTensor) else weight).clone()


@EngineRegistry.register(model_type="value_model", backend="fsdp2", device="cpu")
class CpuEngineWithValueHead(_KeepParametersInPlace, FSDPEngineWithValueHead):
    pass
