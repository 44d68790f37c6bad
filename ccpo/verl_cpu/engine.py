"""FSDP2 training engine on the CPU (gloo). verl registers its FSDP engines for cuda and npu only.

FSDP1 is left out: its sync_module_states needs an accelerator.
"""

from __future__ import annotations

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
    pass


@EngineRegistry.register(model_type="value_model", backend="fsdp2", device="cpu")
class CpuEngineWithValueHead(_KeepParametersInPlace, FSDPEngineWithValueHead):
    pass
