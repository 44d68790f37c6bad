"""A process for verl's vLLM server that starts, and imports vLLM, while the training workers load the model.

verl creates a server's process when the workers are ready, and the process then imports vLLM for 20 s and more. Here the process is there
before: a `Host` takes what verl would have created the server with, and passes on what it is asked. It imports vLLM itself, so that
neither who starts it nor who holds a handle of it needs to (Ray makes them read the annotations of the methods).
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig
from verl.plugin.platform import get_platform
from verl.workers.rollout.replica import RolloutReplicaRegistry

from ccpo.verl_gpu import forked

VERLS = ("verl", "workers/rollout/vllm_rollout/vllm_async_server.py", "vLLMHttpServer")
MOST_REQUESTS = 1000  # at once; Ray's default for actors of this kind, and verl's

_WAITING: dict[str, Any] = {}


class Host:
    """A server to be. Its other methods are those of verl's server."""

    def __init__(self) -> None:
        forked.begin()  # beside the imports of this process
        from ccpo.verl_gpu.server import Server

        forked.use()
        self._class, self._server, self._error = Server, None, None
        self._begun = asyncio.Event()

    async def begin(self, given: dict[str, Any]) -> None:
        """Make the server; nothing else runs in the process meanwhile. ``given``: the arguments of verl's constructor."""
        try:
            self._server = self._class(**given)
        except Exception as error:  # for whoever asks next: nobody waits for this call
            self._error = error
        self._begun.set()


def _passed_on(name: str) -> Callable:
    async def method(self: Host, *args: Any, **kwargs: Any) -> Any:
        await self._begun.wait()  # Ray keeps no order between the calls of an asynchronous actor
        if self._error is not None:
            raise self._error
        found = getattr(self._server, name)(*args, **kwargs)
        return await found if inspect.isawaitable(found) else found

    method.__name__ = name
    return method


def server_methods() -> list[str]:
    """Names of the methods of verl's server, read from its source: importing it would import vLLM."""
    package, path, name = VERLS
    source = Path(importlib.util.find_spec(package).origin).parent / path
    (server,) = (n for n in ast.parse(source.read_text()).body if isinstance(n, ast.ClassDef) and n.name == name)
    methods = [n for n in server.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and not n.decorator_list]
    return [n.name for n in methods if not n.name.startswith("_")]


for _name in server_methods():
    setattr(Host, _name, _passed_on(_name))


def name_of(replica: int) -> str:
    """What verl calls a server of one node; its training workers find it by this name."""
    return f"vllm_server_{replica}_0"


def replica_size(rollout: DictConfig) -> int:
    """GPUs of one server."""
    return rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size


def _load_replica() -> type:
    from ccpo.verl_gpu.server import Replica  # imports vLLM

    return Replica


def start(config: DictConfig, policies: int) -> None:
    """Have verl make our servers, and start the processes of all servers of a job on one node.

    Args:
        config: the whole configuration.
        policies: each has servers of its own.
    """
    rollout, trainer, platform = config.actor_rollout_ref.rollout, config.trainer, get_platform()
    if rollout.name != "vllm":
        return
    RolloutReplicaRegistry.register("vllm", _load_replica)
    # Of several nodes only verl knows, later, which one has the GPUs that a server shares with its training workers.
    if len(ray.nodes()) > 1 or rollout.disaggregation.enabled:
        return
    environment = {**dict.fromkeys(platform.ray_noset_envvars(), "1"), **platform.rollout_env_vars()}
    if config.ccpo.gpu_share < 1 or trainer.device != "cuda":
        environment[forked.CROWDED] = "1"
    for replica in range(policies * (trainer.n_gpus_per_node // replica_size(rollout))):
        name = name_of(replica)
        _WAITING[name] = (
            ray.remote(Host)
            .options(name=name, max_concurrency=MOST_REQUESTS, runtime_env={"env_vars": environment})
            .remote()
        )


class Waiting:
    """Stands in for the Ray class that verl creates a server from: takes a process that is there, or makes one."""

    def __init__(self, otherwise: Any) -> None:
        self._otherwise = otherwise

    def options(self, **options: Any) -> Waiting:
        host = _WAITING.pop(options.get("name", ""), None)
        return _Taken(host) if host is not None else self._otherwise.options(**options)


class _Taken:
    def __init__(self, host: Any) -> None:
        self._host = host

    def remote(self, **given: Any) -> Any:
        self._host.begin.remote(given)
        return self._host
