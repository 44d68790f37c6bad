"""ccpo/verl_gpu/host.py without Ray and vLLM: a process that becomes verl's server, and passes on what it is asked."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

verl = pytest.importorskip("verl")

from omegaconf import OmegaConf  # noqa: E402
from verl.workers.rollout.replica import RolloutReplicaRegistry  # noqa: E402

from ccpo.verl_gpu import forked, host  # noqa: E402


class Server:
    def __init__(self, port):
        if port < 0:
            raise ValueError("no such port")
        self.port = port

    def get_server_address(self):
        return "127.0.0.1", self.port

    async def generate(self, prompt_ids, **kwargs):
        return prompt_ids, kwargs


@pytest.fixture
def process(monkeypatch):
    module = ModuleType("ccpo.verl_gpu.server")
    module.Server = Server
    monkeypatch.setitem(sys.modules, "ccpo.verl_gpu.server", module)
    monkeypatch.setattr(forked, "begin", lambda: None)
    monkeypatch.setattr(forked, "use", lambda: None)
    return host.Host()


def test_calls_wait_for_the_server_whatever_their_order(process):
    async def main():
        asked = asyncio.create_task(process.get_server_address())
        await asyncio.sleep(0)
        assert not asked.done()
        await process.begin({"port": 7})
        assert await asked == ("127.0.0.1", 7)
        assert await process.generate([1, 2], request_id="a") == ([1, 2], {"request_id": "a"})

    asyncio.run(main())


def test_what_goes_wrong_in_its_making_is_told_to_whoever_asks(process):
    async def main():
        await process.begin({"port": -1})
        with pytest.raises(ValueError, match="no such port"):
            await process.get_server_address()

    asyncio.run(main())


def test_whatever_verl_asks_a_server_from_afar_is_passed_on():
    folder = Path(verl.__file__).parent
    sources = [folder / "workers/rollout/replica.py", folder / "workers/rollout/llm_server.py"]
    sources += (folder / "workers/rollout/vllm_rollout").glob("*.py")
    text = "\n".join(path.read_text() for path in sources if path.exists())
    asked = set(re.findall(r"server(?:s\[0\]|_handle)?\.(\w+)\.remote\(", text))
    assert {"generate", "sleep", "launch_server", "collective_rpc"} <= asked
    assert asked <= set(host.server_methods())


def test_a_process_that_is_there_is_taken_by_its_name_alone(monkeypatch):
    class Handle:
        def __init__(self):
            self.given = None
            self.begin = self

        def remote(self, given):
            self.given = given

    class Otherwise:
        def options(self, **options):
            return options

    handle = Handle()
    monkeypatch.setitem(host._WAITING, host.name_of(0), handle)
    waiting = host.Waiting(Otherwise())
    assert waiting.options(name="vllm_server_reward_0_0") == {"name": "vllm_server_reward_0_0"}
    assert waiting.options(name=host.name_of(0), max_concurrency=9).remote(port=1) is handle
    assert handle.given == {"port": 1}
    assert waiting.options(name=host.name_of(0)) == {"name": host.name_of(0)}  # once


@pytest.fixture
def started(monkeypatch):
    """started(backend, nodes, ...) -> the names of processes that `host.start` began for two policies, and their environments."""
    found = {}

    class Remote:
        def __init__(self, cls):
            assert cls is host.Host

        def options(self, name, runtime_env, **options):
            found[name] = runtime_env["env_vars"]
            return self

        def remote(self):
            return "a handle"

    monkeypatch.setattr(RolloutReplicaRegistry, "_registry", dict(RolloutReplicaRegistry._registry))
    monkeypatch.setattr(host, "_WAITING", {})
    monkeypatch.setattr(host.ray, "remote", Remote)

    def start(backend="vllm", nodes=1, share=1.0, device="cuda"):
        monkeypatch.setattr(host.ray, "nodes", lambda: [{}] * nodes)
        sizes = {"tensor_model_parallel_size": 1, "data_parallel_size": 1, "pipeline_model_parallel_size": 1}
        rollout = {"name": backend, "disaggregation": {"enabled": False}, **sizes}
        trainer = {"n_gpus_per_node": 1, "device": device}
        config = {"actor_rollout_ref": {"rollout": rollout}, "trainer": trainer, "ccpo": {"gpu_share": share}}
        host.start(OmegaConf.create(config), policies=2)
        return found

    return start


@pytest.mark.parametrize("share, device, crowded", [(1.0, "cuda", False), (0.3, "cuda", True), (1.0, "cpu", True)])
def test_vllm_leaves_the_processors_to_others_where_others_need_them(started, share, device, crowded):
    assert [forked.CROWDED in one for one in started(share=share, device=device).values()] == [crowded] * 2


@pytest.mark.parametrize(
    "backend, nodes, begun", [("vllm", 1, ["vllm_server_0_0", "vllm_server_1_0"]), ("vllm", 2, []), ("hf_cpu", 1, [])]
)
def test_verl_makes_our_server_wherever_a_process_waits_for_it(started, monkeypatch, backend, nodes, begun):
    """On the CPU, too: a process that waited while verl made its own server had taken that one's name."""
    theirs = RolloutReplicaRegistry._registry["vllm"]
    assert list(started(backend, nodes)) == begun == list(host._WAITING)
    module = ModuleType("ccpo.verl_gpu.server")
    module.Replica = "our replica"
    monkeypatch.setitem(sys.modules, "ccpo.verl_gpu.server", module)
    assert (RolloutReplicaRegistry._registry["vllm"] is theirs) == (backend != "vllm")
    assert backend != "vllm" or RolloutReplicaRegistry.get("vllm") == "our replica"
