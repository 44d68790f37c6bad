"""Which rollout server a request goes to: chosen by whoever makes it, unless somebody's own router is asked."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf  # noqa: E402
from verl.workers.rollout.llm_server import LLMServerClient, LLMServerManager  # noqa: E402
from verl.workers.rollout.replica import TokenOutput  # noqa: E402
from verl.workers.rollout.router import get_router_handle  # noqa: E402

from ccpo.verl_plugin.servers import DirectClient, client_of  # noqa: E402

CONFIG = OmegaConf.create({"actor_rollout_ref": {"rollout": {"name": "vllm"}}})


class Handle:
    """As an actor handle; ``most``: requests at once. One whose first token is negative fails."""

    def __init__(self) -> None:
        self.now, self.most, self.asked = 0, 0, 0
        self.generate = self

    async def remote(self, prompt_ids, **given):
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001 * (1 + prompt_ids[0] % 3))
        self.now -= 1
        if prompt_ids[0] < 0:
            raise RuntimeError("the server died")
        return TokenOutput(token_ids=prompt_ids, log_probs=[], stop_reason="completed")


def asks(client, number: int):
    return client.generate(request_id=str(number), prompt_ids=[number], sampling_params={})


def test_a_client_spreads_its_requests_evenly():
    servers = {name: Handle() for name in "abc"}
    client = DirectClient(CONFIG, servers)

    async def main():
        return await asyncio.gather(*(asks(client, number) for number in range(300)))

    found = asyncio.run(main())
    assert [output.token_ids for output in found] == [[number] for number in range(300)]
    assert {server.most for server in servers.values()} == {100} and set(client._under_way.values()) == {0}


def test_many_clients_with_a_request_each_do_not_all_ask_the_first_server():
    servers = {name: Handle() for name in "abc"}

    async def main():
        return await asyncio.gather(*(asks(DirectClient(CONFIG, servers), number) for number in range(300)))

    asyncio.run(main())
    assert all(server.asked > 50 for server in servers.values())


def test_a_request_that_fails_keeps_no_place():
    client = DirectClient(CONFIG, {"a": Handle()})
    with pytest.raises(RuntimeError, match="the server died"):
        asyncio.run(asks(client, -1))
    assert client._under_way == {"a": 0}


def test_clients_that_travel_choose_for_themselves():
    """An agent loop worker gets its client pickled: what one does is nothing to another."""
    first = DirectClient(CONFIG, {"a": "handle of a", "b": "handle of b"})
    pickled = pickle.dumps(first)

    def chosen(client) -> list[str]:
        return [asyncio.run(client._acquire_server(str(i)))[0] for i in range(64)]

    second, third = pickle.loads(pickled), pickle.loads(pickled)
    found = chosen(second)
    assert Counter(found) == {"a": 32, "b": 32} and chosen(third) != found
    assert set(first._under_way.values()) == {0}


@pytest.mark.parametrize("router", [None, "somebody's own"])
def test_somebodys_own_router_is_asked(router):
    servers = LLMServerManager.__new__(LLMServerManager)
    servers.config, servers.global_load_balancer = CONFIG, router
    servers.server_addresses, servers.server_handles = ["a"], ["handle"]
    client = client_of(servers)
    assert type(client) is (DirectClient if router is None else LLMServerClient)
    if router:
        assert client._load_balancer == router


def test_verl_starts_no_process_for_a_router():
    path = Path(__file__).parents[2] / "recipe" / "config" / "router.yaml"
    assert get_router_handle({"a": "server"}, router_config_path=str(path)) is None


def test_an_agent_loop_that_knows_no_roles_asks_the_first_policy():
    from ccpo.verl_plugin.policies import PolicyClient

    def runtime(name, role):
        servers = SimpleNamespace(
            config=CONFIG, global_load_balancer=None, server_addresses=[name], server_handles=[Handle()]
        )
        return SimpleNamespace(policy=SimpleNamespace(name=name, roles=(role,)), servers=servers)

    runtimes = [runtime("first", "think"), runtime("second", "reason")]
    client = PolicyClient(runtimes)
    assert asyncio.run(asks(client, 3)).token_ids == [3]
    assert [r.servers.server_handles[0].asked for r in runtimes] == [1, 0]
    assert client.policy_of == {"think": "first", "reason": "second"}
