"""What a process of a job need not import. An import of vLLM takes some 12 s of a processor, and verl makes every process do it.

- verl's module for Ascend's NPUs imports vLLM before it looks whether there is such a device;
- `verl.third_party.vllm` imports vLLM to look at its version, and trainers read one number of it (contract tests).
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

SLEEP_LEVEL = 2  # verl's, for every vLLM from 0.18 on, besides that for NPUs


def skip_vllm() -> None:
    """Import vLLM where a server is, and nowhere else. Nothing is changed where there is an NPU, or no vLLM."""
    if importlib.util.find_spec("torch_npu") or importlib.util.find_spec("vllm") is None:
        return
    sys.modules["verl.checkpoint_engine.hccl_checkpoint_engine"] = (
        None  # importing it raises ImportError, which verl expects
    )
    stand_in = ModuleType("verl.third_party.vllm")
    stand_in.VLLM_SLEEP_LEVEL, stand_in.get_version, stand_in.vllm_version = SLEEP_LEVEL, installed, installed("vllm")
    sys.modules["verl.third_party.vllm"] = stand_in


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
