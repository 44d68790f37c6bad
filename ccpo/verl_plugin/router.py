"""Which rollout server a request goes to: verl's choice, told in a way that costs Ray no memory.

verl's balancer answers every request with the server's actor handle, and Ray keeps a record of each time that a process hands on a handle which is
not its own, for as long as the process has it: some 190 bytes a request, without end. Here a handle is packed once, outside of Ray's account of
references, and unpacked once in each process that asks. (The trainer has the servers' handles for as long as the job lives.)

verl finds the class through recipe/config/router.yaml (rollout.router_config_path).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from ray import cloudpickle
from verl.workers.rollout.router import GlobalRequestLoadBalancer


class Server:
    """Stands for the actor handle of a rollout server."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    @property
    def generate(self) -> Any:
        """The actor's method, which is all of it that verl's client calls."""
        return _unpacked(self._packed).generate


@lru_cache(maxsize=1024)
def _unpacked(packed: bytes) -> Any:
    return cloudpickle.loads(packed)


class Router(GlobalRequestLoadBalancer):
    """verl's balancer, whose answers hold a `Server` instead of a handle. ``config``: router.yaml, in which nothing else is set."""

    def __init__(self, servers: dict[str, Any], config: dict[str, Any] | None = None) -> None:
        super().__init__(servers)
        self._packed: dict[str, Server] = {}

    def acquire_server(self, request_id: str) -> tuple[str, Server]:
        name, handle = super().acquire_server(request_id)
        if name not in self._packed:
            self._packed[name] = Server(cloudpickle.dumps(handle))
        return name, self._packed[name]

    def add_servers(self, servers: dict[str, Any]) -> None:
        self._forget(servers)
        super().add_servers(servers)

    def remove_servers(self, server_ids: list[str]) -> None:
        self._forget(server_ids)
        super().remove_servers(server_ids)

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._packed.pop(name, None)
