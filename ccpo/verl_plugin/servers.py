"""Which rollout server a request goes to: chosen where the request is made.

verl asks a process of its own before every request and tells it afterwards, and Ray keeps a record of every server that it hands on. With a
small model that process alone was 6 % of a step's work (docs/scaling.md), and of three calls through Ray for a request two were to it. Here
every agent loop worker spreads its own requests evenly, and those of all workers come out about even: less so while each has few. No request
stays with the server of another one, since each of a team's has a name of its own. A router of one's own is asked as verl asks it
(actor_rollout_ref.rollout.router_config_path); recipe/config/router.yaml is none.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import ray
from omegaconf import DictConfig
from verl.workers.rollout.llm_server import LLMServerClient, LLMServerManager

_RANDOM = random.Random()  # of this process alone, and not the one that a user's team may draw from


class DirectClient(LLMServerClient):
    """verl's client, which sends a request to the server that has fewest of its own; of several one at random.

    Args:
        config: of the policy that they serve.
        servers: actor handles by address.
    """

    def __init__(self, config: DictConfig, servers: Mapping[str, Any]) -> None:
        super().__init__(config)
        self._servers = dict(servers)
        self._under_way = dict.fromkeys(self._servers, 0)

    async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
        fewest = min(self._under_way.values())
        name = _RANDOM.choice([name for name, count in self._under_way.items() if count == fewest])
        self._under_way[name] += 1
        return name, self._servers[name]

    def _release_server(self, server_id: str, request_id: str | None = None) -> None:
        self._under_way[server_id] -= 1


def client_of(servers: LLMServerManager) -> LLMServerClient:
    """Asks these servers; through a router if the configuration names one."""
    if servers.global_load_balancer is not None:
        return servers.get_client()
    return DirectClient(servers.config, dict(zip(servers.server_addresses, servers.server_handles, strict=True)))


class _Nobody(ray.actor.ActorClass):
    """Stands in for the Ray class that verl makes its router from: starts no process."""

    def __init__(self) -> None:
        """ActorClass wants a class here; there is none to be made from."""

    def remote(self, *args: Any) -> None:
        return None


nobody = _Nobody()
