"""On which addresses a job stands, and what of Ray, verl, TransferQueue and torch that rests on."""

from __future__ import annotations

import inspect
import os
import re
import socket
import subprocess
import sys
import textwrap
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest

verl = pytest.importorskip("verl")

import ray  # noqa: E402
import torch.distributed  # noqa: E402
import transfer_queue  # noqa: E402
from ray._private import ray_constants, services  # noqa: E402
from transfer_queue.utils import zmq_utils  # noqa: E402
from verl.trainer import main_ppo  # noqa: E402
from verl.workers.rollout.utils import run_uvicorn  # noqa: E402

from ccpo.config import LOOPBACK, CcpoConfig, ConfigError  # noqa: E402
from ccpo.verl_plugin import network  # noqa: E402

ROOT = Path(__file__).parents[2]
VERL = Path(verl.__file__).parent
ELSEWHERE = "203.0.113.0/24"  # an example network, in which no machine is


# ------------------------------------------------------------------------------------------------------- the address


def test_the_loopback_address_is_the_default_and_is_found():
    assert network.address_in(LOOPBACK) == ("lo", "127.0.0.1")


def test_a_network_without_an_address_of_this_machine_is_refused():
    with pytest.raises(ConfigError, match=r"has no address in ccpo.network=203.0.113.0/24 \(it has .*127.0.0.1"):
        network.address_in(ELSEWHERE)


@pytest.mark.parametrize(
    "value, says",
    [("10.0.0.0/24", None), ("10.0.0.7/24", None), ("fd00::/64", None), ("10.0.0.7", None)]
    + [("0.0.0.0/0", "every address"), ("::/0", "every address"), ("eth0", "'eth0'"), ("10.0.0.0/33", "10.0.0.0/33")],
)
def test_the_network_is_checked_with_the_configuration(value, says):
    problems = []
    try:
        CcpoConfig.from_dict({"team": "dyad", "network": value}, 4)
    except ConfigError as error:
        problems = error.problems
    assert [says in problem for problem in problems] == ([] if says is None else [True])


def said(config, settings=True) -> list[str]:
    return network.problems(config, settings)


def test_one_machine_needs_no_network_and_several_do(cpu_config, monkeypatch):
    monkeypatch.setattr(network, "_join_problems", lambda _: [])
    assert said(cpu_config) == []
    cpu_config.trainer.nnodes = 2
    (problem,) = said(cpu_config)
    assert "ccpo.network=10.0.0.0/24" in problem and "docs/network.md" in problem
    cpu_config.ccpo.network = ELSEWHERE
    assert "has no address in" in said(cpu_config)[0]
    assert said(cpu_config, None) == []  # then the network itself is wrong, which is said elsewhere


@pytest.mark.parametrize(
    "host, fine", [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)]
)
def test_rays_dashboard_is_kept_inside(cpu_config, host, fine):
    cpu_config.ray_kwargs.ray_init.include_dashboard = True
    with network.open_dict(cpu_config):
        cpu_config.ray_kwargs.ray_init.dashboard_host = host
    assert (said(cpu_config) == []) == fine


@pytest.fixture
def clusters(monkeypatch):
    """Ray as it comes, and nothing of the environment."""
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    for name in ("RAY_ADDRESS", "PYTHONPATH", network.PLATFORM):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(network.MODULES, "ccpo.verl_plugin.process")


def test_a_ray_of_our_own_starts_on_the_loopback_address(cpu_config, clusters):
    network.prepare(cpu_config)
    ray_init = cpu_config.ray_kwargs.ray_init
    assert (ray_init.address, ray_init._node_ip_address) == ("local", "127.0.0.1")
    assert services.resolve_ip_for_localhost(ray_init._node_ip_address) == "127.0.0.1"
    assert ray_init.runtime_env.env_vars == {
        "CCPO_NETWORK": LOOPBACK,
        "CCPO_FOLDER": os.getcwd(),
        "CCPO_JOB": os.environ["CCPO_JOB"],
        "VERL_USE_EXTERNAL_MODULES": "ccpo.verl_plugin.process",
    }
    assert ray_init.num_cpus == 8
    network.prepare(cpu_config)  # nothing that a second start would stumble over


def test_what_the_user_tells_rays_processes_stays(cpu_config, clusters):
    with network.open_dict(cpu_config):
        cpu_config.ray_kwargs.ray_init.runtime_env = {"env_vars": {"MINE": "1"}}
    network.prepare(cpu_config)
    told = cpu_config.ray_kwargs.ray_init.runtime_env.env_vars
    assert told.keys() == {"MINE", "CCPO_NETWORK", "CCPO_FOLDER", "CCPO_JOB", network.MODULES}


def test_processes_elsewhere_find_the_modules_that_this_one_finds(cpu_config, clusters, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"code::{tmp_path}")
    monkeypatch.setenv(network.PLATFORM, "cpu")
    network.prepare(cpu_config)
    told = cpu_config.ray_kwargs.ray_init.runtime_env.env_vars
    assert told.PYTHONPATH == f"{tmp_path / 'code'}:{tmp_path}" and told[network.PLATFORM] == "cpu"
    told.PYTHONPATH = "theirs"
    network.prepare(cpu_config)
    assert cpu_config.ray_kwargs.ray_init.runtime_env.env_vars.PYTHONPATH == "theirs"


def test_a_ray_that_runs_is_joined_as_it_is(cpu_config, clusters, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    network.prepare(cpu_config)
    ray_init = cpu_config.ray_kwargs.ray_init
    assert "address" not in ray_init and "_node_ip_address" not in ray_init
    assert not {"num_cpus", "num_gpus", "object_store_memory"} & ray_init.keys(), "ray.init refuses them"
    assert ray_init.runtime_env.env_vars.CCPO_NETWORK == LOOPBACK
    assert ray_constants.ENABLE_RAY_CLUSTER


def test_several_machines_never_get_a_ray_of_one(cpu_config, clusters):
    cpu_config.trainer.nnodes, cpu_config.ccpo.network = 2, LOOPBACK
    network.prepare(cpu_config)
    assert cpu_config.ray_kwargs.ray_init.address == "auto"


def test_a_ray_that_is_not_there_is_named_before_ray_looks_for_it(cpu_config, clusters, monkeypatch):
    assert said(cpu_config) == []
    with socket.create_server(("127.0.0.2", 0)) as server:
        address = f"127.0.0.2:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert said(cpu_config) == []
    (problem,) = said(cpu_config)
    assert f"to join the Ray at {address}, and there is none" in problem and "docs/nodes.md" in problem
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.2:10001")
    assert "to join the Ray at ray://127.0.0.2:10001, and there is none" in said(cpu_config)[0]
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    cpu_config.trainer.nnodes, cpu_config.ccpo.network = 2, LOOPBACK
    (problem,) = said(cpu_config)
    assert "to join the Ray at auto, and there is none (Could not find any running Ray instance" in problem
    with network.open_dict(cpu_config):
        cpu_config.ray_kwargs.ray_init.address = "local"
    assert "a Ray of one machine is asked for" in said(cpu_config)[0]


def test_a_ray_that_lets_nobody_in_is_explained():
    try:
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379") from RuntimeError(
            "a\nInvalidAuthToken"
        )
    except ConnectionError as error:
        assert "cannot join this Ray (InvalidAuthToken)" in network.not_joined(error)
    mismatch = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.12.1")
    assert "with: Ray: 2.60.0 Python: 3.12.1. What one pickles" in network.not_joined(mismatch)
    assert network.not_joined(ValueError("x")) is network.not_joined(ConnectionError("reset")) is None


@pytest.mark.parametrize(
    "addresses, stated, refused",
    [
        (["127.0.0.1"], None, []),
        (["10.0.0.1"], None, ["10.0.0.1"]),
        (["10.0.0.1", "10.0.0.2"], "10.0.0.0/24", []),
        (["10.0.0.1", "192.168.0.2"], "10.0.0.0/24", ["192.168.0.2"]),
    ],
)
def test_a_ray_that_stands_elsewhere_is_refused(cpu_config, monkeypatch, addresses, stated, refused):
    gone = {"NodeManagerAddress": "198.51.100.9", "Alive": False}
    monkeypatch.setattr(ray, "nodes", lambda: [gone, *({"NodeManagerAddress": a, "Alive": True} for a in addresses)])
    cpu_config.ccpo.network = stated
    if not refused:
        return network.check_nodes(cpu_config)
    with pytest.raises(ConfigError, match=f"Ray has nodes at {', '.join(refused)}, outside ccpo.network"):
        network.check_nodes(cpu_config)


# ------------------------------------------------------------------------------------------------- the libraries' facts


def test_ray_still_replaces_a_loopback_address_unless_it_is_to_form_no_cluster(clusters):
    assert services.resolve_ip_for_localhost("127.0.0.1") == services.node_ip_address_from_perspective(None)
    network._start_on_loopback()
    assert services.resolve_ip_for_localhost("127.0.0.1") == "127.0.0.1"
    users = [
        path.relative_to(Path(ray.__file__).parent)
        for path in Path(ray.__file__).parent.rglob("*.py")
        if "ENABLE_RAY_CLUSTER" in path.read_text(errors="replace")
    ]
    # The command line, which a job does not use, and the two files that the fact is about: nothing else is switched off with it.
    assert sorted(map(str, users)) == ["_private/ray_constants.py", "_private/services.py", "scripts/scripts.py"]


def test_verl_still_starts_ray_with_what_the_configuration_says():
    assert "ray.init(**OmegaConf.to_container(ray_init_kwargs))" in inspect.getsource(main_ppo.run_ppo)


def test_transfer_queue_still_binds_to_rays_address_and_nowhere_else():
    assert "return ray.util.get_node_ip_address()" in inspect.getsource(zmq_utils.get_node_ip_address)
    root = Path(transfer_queue.__file__).parent
    binds = [
        line.strip()
        for path in root.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"socket\.bind\(", line)
    ]
    outer = [line for line in binds if "_inproc_addr" not in line]
    assert len(outer) == 3 and all("bind(format_zmq_address(self._node_ip, " in line for line in outer), binds
    for name in ("controller.py", "storage/simple_storage.py"):
        assert "self._node_ip = get_node_ip_address()" in (root / name).read_text()


def test_verls_servers_still_stand_on_rays_address():
    server = (VERL / "workers/rollout/vllm_rollout/vllm_async_server.py").read_text()
    assert 'self._server_address = ray.util.get_node_ip_address().strip("[]")' in server
    assert "self._master_address = self._server_address" in server
    assert "run_uvicorn(app, args, self._server_address)" in server
    assert "uvicorn.Config(app, host=server_address, port=0" in inspect.getsource(run_uvicorn)
    assert 'addr = ray.util.get_node_ip_address().strip("[]")' in (VERL / "single_controller/ray/base.py").read_text()


LISTENING = """
import os, psutil, socket
def listening():
    found = {c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}
    return sorted(address.removeprefix("::ffff:") for address in found)
"""


def run(code: str) -> str:
    """What Python prints that has nothing of this process."""
    done = subprocess.run(
        [sys.executable, "-c", LISTENING + textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_jobs_of_one_machine_are_told_apart(cpu_config, clusters, monkeypatch):
    """Each has a Ray of its own, whose first job has the number 01000000."""
    from ray.runtime_context import RuntimeContext

    number = SimpleNamespace(current_job_id=SimpleNamespace(hex=lambda: "01000000"), worker_id=None)
    monkeypatch.setattr(RuntimeContext, "get_job_id", RuntimeContext.get_job_id)  # put back after the test
    network.tell_jobs_apart()
    names = set()
    for _ in range(2):
        config = deepcopy(cpu_config)
        network.prepare(config)
        monkeypatch.setenv("CCPO_JOB", config.ray_kwargs.ray_init.runtime_env.env_vars.CCPO_JOB)
        with monkeypatch.context() as running:
            running.setattr(ray, "is_initialized", lambda: True)
            names.add(RuntimeContext(number).get_job_id())
    assert len(names) == 2 and all(re.fullmatch("01000000[0-9a-f]{16}", name) for name in names)


def test_verl_still_names_the_socket_of_weights_after_rays_number_of_the_job():
    folder = VERL / "workers" / "rollout" / "vllm_rollout"
    sender, server, receiver = (
        (folder / name).read_text() for name in ("vllm_rollout.py", "vllm_async_server.py", "utils.py")
    )
    name = "ipc:///tmp/rl-colocate-zmq-{job_id}-replica-"
    assert name in sender and "job_id = ray.get_runtime_context().get_job_id()" in sender
    assert 'os.environ["VERL_RAY_JOB_ID"] = ray.get_runtime_context().get_job_id()' in server
    assert name in receiver and 'job_id = os.environ.get("VERL_RAY_JOB_ID"' in receiver


@pytest.mark.parametrize("given, found", [("32768\t60999", True), ("1024 65535", False), ("", False)])
def test_training_workers_meet_where_no_connection_takes_the_port(monkeypatch, tmp_path, given, found):
    monkeypatch.setattr(network, "CONNECTIONS", tmp_path / "range")
    assert network.meeting_ports() is None, "another system than Linux"
    network.CONNECTIONS.write_text(given)
    ranges = {tuple(network.meeting_ports() or ()) for _ in range(20)}
    assert (len(ranges) > 1) == found, "jobs that start at once begin at different places"
    lowest = 1 + rays_last_port()
    assert all(lowest <= a and b == a + network.MEETING <= 32_768 for a, b in filter(None, ranges))


def rays_last_port() -> int:
    """Where `ray start` lets the processes of its jobs listen ends: they are many, start at any time, and would take the meeting's port."""
    from ray.scripts.scripts import start

    return next(option.default for option in start.params if option.name == "max_worker_port")


def test_verl_still_takes_the_first_free_port_of_a_range():
    from verl.single_controller.ray import base
    from verl.trainer.ppo.v1 import trainer_base

    assert 'kwargs.pop("master_port_range"' in inspect.getsource(base.RayWorkerGroup.__init__)
    assert "RayWorkerGroup(" in inspect.getsource(trainer_base), "where ours is put in its place"
    pick = base.get_master_addr_port._function
    with socket.socket() as taken, pytest.MonkeyPatch.context() as patch:
        patch.setattr(base.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
        first, end = network.meeting_ports()
        while True:
            try:
                taken.bind(("", first))
                break
            except OSError:
                first += 1
        assert first < int(pick([first, end])[1]) < end


def test_torchs_own_store_still_listens_everywhere():
    """When this fails, `BoundStore` can go."""
    code = """
    from torch.distributed import TCPStore
    store = TCPStore("127.0.0.1", 0, 1, True)
    print(listening())
    """
    assert run(code) in ("['::']", "['0.0.0.0']")


@pytest.mark.parametrize("way", ["env://", "tcp://127.0.0.1:{port}"])
def test_a_process_group_of_a_job_listens_inside_alone(way):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = f"""
    os.environ |= dict(CCPO_NETWORK="127.0.0.0/8", MASTER_ADDR="127.0.0.1", MASTER_PORT="{port}", RANK="0", WORLD_SIZE="1")
    import ccpo.verl_plugin.process, torch
    torch.distributed.init_process_group("cpu:gloo", init_method="{way.format(port=port)}", rank=0, world_size=1)
    one = torch.ones(1)
    torch.distributed.all_reduce(one)
    again = torch.distributed.TCPStore("127.0.0.1", {port}, 1, True, multi_tenant=True)  # the same server
    again.set("key", "value")
    print(listening(), one.item(), again.get("key"))
    """
    assert run(code) == "['127.0.0.1'] 1.0 b'value'"


def test_the_store_of_a_stated_address_listens_there():
    code = """
    from ccpo.verl_plugin.network import BoundStore
    store = BoundStore("127.0.0.2", 0, 1, True, use_libuv=False)
    client = BoundStore("127.0.0.2", store.port, 1, False)
    store.set("key", "value")
    print(listening(), client.get("key"))
    """
    assert run(code) == "['127.0.0.2'] b'value'"


def test_torch_still_makes_its_stores_where_they_are_replaced():
    rendezvous = sys.modules["torch.distributed.rendezvous"]
    makers = [line.strip() for line in inspect.getsource(rendezvous).splitlines() if "TCPStore(" in line]
    assert makers == ["return TCPStore(", "return TCPStore("]
    assert issubclass(network.BoundStore, torch.distributed.TCPStore)


def test_every_process_of_verl_enters_the_network_first():
    code = """
    os.environ |= dict(CCPO_NETWORK="127.0.0.0/8", VERL_USE_EXTERNAL_MODULES="ccpo.verl_plugin.process")
    import verl
    from verl.utils import distributed
    print(distributed.TCPStore.__name__, os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"], os.environ["VLLM_HOST_IP"])
    """
    assert run(code) == "BoundStore lo =lo 127.0.0.1"
