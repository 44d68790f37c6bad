"""What a job asks of Ray, and whether it is there: what can never be placed is waited for without end (verl 0.9.1, `pg.ready()`).

Ray counts CPUs and GPUs in its own books. verl reserves COLOCATED CPUs beside each GPU for its worker groups, TransferQueue one for its
controller and one for each of its storages, and any further process is placed where one more is free; none of them is a core.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import psutil
from omegaconf import DictConfig

from ccpo.config import ConfigError
from ccpo.verl_plugin.network import own_ray

COLOCATED = 3  # verl.single_controller.ray.base.ResourcePoolManager.max_colocate_count
PROCESS_MEGABYTES = 200  # the least that a process of a job has been seen to take, with verl and torch imported
ENGINES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt_llm"}  # rollout name -> what it imports


def problems(config: DictConfig) -> list[str]:
    """What this machine lacks, seen before Ray starts."""
    return [*_device_problems(config), *_engine_problems(config), *_slot_problems(config), *_memory_problems(config)]


def _device_problems(config: DictConfig) -> list[str]:
    import torch

    if config.trainer.device != "cuda":
        return []
    have = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if have == 0:
        return [
            "no GPU is visible (torch.cuda.is_available() is false): run on a GPU host, or set profile=cpu task=last_digit"
        ]
    if config.trainer.nnodes == 1 and config.trainer.n_gpus_per_node > have:
        return [
            f"trainer.n_gpus_per_node={config.trainer.n_gpus_per_node}, but {have} GPU(s) are visible: set N_GPUS={have}"
        ]
    return []


def _engine_problems(config: DictConfig) -> list[str]:
    from verl.utils.import_utils import import_external_libs
    from verl.workers.rollout.base import _ROLLOUT_REGISTRY

    rollout, library = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model.external_lib
    if (rollout.name, "async") not in _ROLLOUT_REGISTRY:
        try:
            import_external_libs(library)  # may bring engines of its own
        except Exception as error:
            return [
                f"actor_rollout_ref.model.external_lib={library} cannot be imported ({type(error).__name__}: {error}): name a module that Python "
                "finds, or set null"
            ]
    known = sorted(name for name, _ in _ROLLOUT_REGISTRY)
    if rollout.name not in known:
        return [
            f"actor_rollout_ref.rollout.name is {rollout.name!r}: there is no such engine; allowed: {', '.join(known)}"
            + ("" if "hf_cpu" in known else " (hf_cpu comes with profile=cpu)")
        ]
    if rollout.name in ENGINES and not importlib.util.find_spec(ENGINES[rollout.name]):
        title = "vLLM" if rollout.name == "vllm" else rollout.name
        return [
            f"actor_rollout_ref.rollout.name is {rollout.name}, and {title} is not installed: pip install -r requirements.txt on a GPU host, or "
            "set profile=cpu, which needs none"
        ]
    return []


def _slot_problems(config: DictConfig) -> list[str]:
    """Of the Ray that the job will start itself; one that runs already is asked by `check_cluster`."""
    from ray._private.utils import get_num_cpus

    if not own_ray(config):
        return []
    ray_init, gpus = config.ray_kwargs.ray_init, config.trainer.n_gpus_per_node
    need, have = cpus_needed(config), ray_init.get("num_cpus") or get_num_cpus()
    found = []
    if have < need:
        found.append(
            f"ray_kwargs.ray_init.num_cpus is {ray_init.get('num_cpus')}"
            + ("" if ray_init.get("num_cpus") else f", which is this machine's {have}")
            + f", and the job's processes are placed on {need}: it would wait for ever; set at least {need} (Ray counts slots, not cores)"
        )
    if ray_init.get("num_gpus") is not None and ray_init.num_gpus < gpus:
        found.append(
            f"ray_kwargs.ray_init.num_gpus is {ray_init.num_gpus}, and trainer.n_gpus_per_node is {gpus}: the job would wait for ever; set {gpus}"
        )
    return found


def _memory_problems(config: DictConfig) -> list[str]:
    """Of the machine on which the job starts its own Ray: all of it runs there."""
    if not own_ray(config):
        return []
    have, found = psutil.virtual_memory().total, []
    store = config.ray_kwargs.ray_init.get("object_store_memory")
    if store is not None and store > have:
        found.append(
            f"ray_kwargs.ray_init.object_store_memory is {store}, and this machine has {have} bytes of memory: Ray would not start; set less, or "
            "null (a share of it)"
        )
    processes = {
        "actor_rollout_ref.rollout.agent.num_workers": config.actor_rollout_ref.rollout.agent.num_workers,
        "reward.num_workers": config.reward.num_workers,
        "data.dataloader_num_workers": config.data.dataloader_num_workers,
    }
    found += [
        f"{name} is {number}, each a process of {PROCESS_MEGABYTES} MB and more, and this machine has {have >> 20} MB: it would run out of "
        f"memory; set at most {max(1, (have >> 20) // PROCESS_MEGABYTES)}, and rather as many as it has cores"
        for name, number in processes.items()
        if number * PROCESS_MEGABYTES > have >> 20
    ]
    return found


def cpus_needed(config: DictConfig) -> int:
    """CPUs in Ray's books, of the whole job."""
    queue = config.transfer_queue.backend
    storages = queue.SimpleStorage.num_data_storage_units if queue.storage_backend == "SimpleStorage" else 0
    return COLOCATED * config.trainer.n_gpus_per_node * config.trainer.nnodes + 1 + storages + 1


def check_cluster(config: DictConfig, nodes: list[dict[str, Any]], gpu: str) -> None:
    """Raises ConfigError when the running Ray may never place the job. ``nodes``: of ray.nodes(). ``gpu``: what Ray calls the device."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus, wanted = config.trainer.n_gpus_per_node, config.trainer.nnodes
    fit = [node for node in alive if node.get("CPU", 0) >= COLOCATED * gpus and node.get(gpu, 0) >= gpus]
    cpus, need = sum(node.get("CPU", 0) for node in alive), cpus_needed(config)
    listed = "; ".join(f"{node.get('CPU', 0):.0f} CPUs, {node.get(gpu, 0):.0f} GPUs" for node in alive)
    others = need - COLOCATED * gpus * wanted
    if len(fit) < wanted:
        raise ConfigError(
            [
                f"trainer.nnodes={wanted} and trainer.n_gpus_per_node={gpus} need {wanted} node(s) with {gpus} GPU(s) and {COLOCATED * gpus} CPUs "
                f"each, and Ray's nodes have {listed}: the job would wait for ever; set fewer, or start Ray with more (--num-cpus, "
                "--num-gpus)"
            ]
        )
    if cpus < need:
        raise ConfigError(
            [
                f"the job's processes are placed on {need} CPUs of Ray, whose nodes have {listed}: it would wait for ever; start Ray with more "
                "(--num-cpus counts slots, not cores)"
            ]
        )
    if len(fit) - _taken([node["CPU"] - COLOCATED * gpus for node in fit], others) < wanted:
        raise ConfigError(
            [
                f"{others} of the job's processes come to any node before its training workers, which need {COLOCATED * gpus} CPUs on each of {wanted} "
                f"node(s), and Ray's nodes have {listed}: it could wait for ever; start Ray with {COLOCATED * gpus + others} on each (--num-cpus "
                "counts slots, not cores)"
            ]
        )


def _taken(spare: list[float], others: int) -> int:
    """On how many nodes others may leave too little room. ``spare``: CPUs that a node has besides its training workers'."""
    nodes = 0
    for cpus in sorted(spare):
        others -= int(cpus) + 1
        nodes += others >= 0
    return nodes
