"""Our balancer sends its servers in a form that Ray keeps no account of."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

pytest.importorskip("verl")

from verl.workers.rollout.router import get_router_handle  # noqa: E402

from ccpo.verl_plugin import early, router  # noqa: E402


class Handle:
    """As an actor handle: whoever pickles it is noted."""

    pickled = 0

    def __init__(self, name: str) -> None:
        self.name = name
        self.generate = f"generate of {name}"

    def __reduce__(self):
        Handle.pickled += 1
        return Handle, (self.name,)


def test_a_handle_is_packed_once_and_not_for_each_request():
    balancer = router.Router({"a": Handle("a"), "b": Handle("b")}, {"router_class": "as in router.yaml"})
    Handle.pickled = 0
    names = set()
    for number in range(20):
        name, server = pickle.loads(pickle.dumps(balancer.acquire_server(f"request {number}")))
        assert server.generate == f"generate of {name}"
        names.add(name)
    assert names == {"a", "b"}, "the least busy one gets the next request"
    assert Handle.pickled == 2
    assert balancer.acquire_server("request 3")[0] == balancer.acquire_server("request 3")[0], (
        "a session stays where it is"
    )


def test_a_server_that_came_back_under_its_name_is_the_new_one():
    balancer = router.Router({"a": Handle("old")})
    assert balancer.acquire_server("1")[1].generate == "generate of old"
    balancer.remove_servers(["a"])
    balancer.add_servers({"a": Handle("new")})
    assert balancer.acquire_server("2")[1].generate == "generate of new"


class Actor:
    """A router's process: what it was told, in order."""

    def __init__(self) -> None:
        self.told = []
        self.begin = self.acquire_server = self

    def remote(self, *given):
        self.told.append(given)
        return len(self.told)


def test_verl_gets_the_router_that_is_there_and_only_when_it_has_begun(monkeypatch):
    waited, there = [], Actor()
    monkeypatch.setattr(early, "_ROUTERS", [there])
    monkeypatch.setattr(early.ray, "get", waited.append)
    path = Path(__file__).parents[2] / "recipe" / "config" / "router.yaml"
    assert get_router_handle({"a": "server"}, router_config_path=str(path)) is there
    assert there.told[0][0] == {"a": "server"} and waited == [1]
    assert not early._ROUTERS
