"""Who can reach a job: every port of ours, of verl and of TransferQueue stands on an address inside one stated network.

The network is the loopback addresses, unless ``ccpo.network`` names another one. A job reads what comes to its ports as commands and
pickles (docs/network.md), so whoever reaches them runs what he likes. Four facts make the network hold:
- verl and TransferQueue bind to the address that Ray gives the node, and so does Ray itself when that address is the loopback one. We
  start Ray there (`prepare`), and refuse a Ray that stands elsewhere (`check_nodes`);
- `ray.init` replaces a loopback address by the node's outer one, unless Ray is told to be no cluster (`_start_on_loopback`);
- torch's TCPStore listens on every address, whatever MASTER_ADDR says, unless it is given a socket (`BoundStore`);
- gloo, NCCL and vLLM look for an interface of their own, unless the environment names one (`enter`);
- weights reach a vLLM server through a socket in /tmp whose name has Ray's number of the job, and that is 01000000 in every Ray that has just
  started: two jobs on one machine had one socket, and got each other's weights or waited for ever (`tell_jobs_apart`).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.distributed import TCPStore

from ccpo.config import LOOPBACK, CcpoConfig, ConfigError

NETWORK = "CCPO_NETWORK"  # in the environment of every process of a job
FOLDER = "CCPO_FOLDER"  # the same: where it works
JOB = "CCPO_JOB"  # the same: a word of this job alone
MODULES = "VERL_USE_EXTERNAL_MODULES"  # verl's: what every process of a job imports first
PLATFORM = "VERL_PLATFORM"  # verl's
CONNECT_SECONDS = 10.0
CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")  # the ports that the kernel gives to connections
MEETING = 500  # ports that are looked through
STARTING = ("num_cpus", "num_gpus", "object_store_memory")
"""Of a Ray that starts; ray.init refuses them where it joins one."""


def network_of(config: DictConfig) -> str:
    return config.ccpo.get("network") or LOOPBACK


def address_in(network: str) -> tuple[str, str]:
    """This machine's interface and address in the network. Raises ConfigError where it has none."""
    wanted, found = ipaddress.ip_network(network, strict=False), {}
    for interface, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if address.family in (socket.AF_INET, socket.AF_INET6):
                found[address.address.partition("%")[0]] = interface
    for address, interface in found.items():
        if ipaddress.ip_address(address) in wanted:
            return interface, address
    raise ConfigError(
        [
            f"{socket.gethostname()} has no address in ccpo.network={network} (it has {', '.join(found)}): name the network in which every "
            "machine of the job has one"
        ]
    )


def own_ray(config: DictConfig) -> bool:
    """Whether the job starts a Ray of its own, and joins none that runs."""
    joins = os.environ.get("RAY_ADDRESS") or config.ray_kwargs.ray_init.get("address")
    return config.trainer.nnodes == 1 and joins in (None, "", "local")


def problems(config: DictConfig, settings: CcpoConfig | None) -> list[str]:
    """What in a composed configuration would open the job to others. ``settings``: its checked ``ccpo`` section; None: that is wrong itself."""
    found = []
    if config.trainer.nnodes > 1 and not config.ccpo.get("network"):
        found.append(
            f"trainer.nnodes is {config.trainer.nnodes} and ccpo.network is not set: whoever reaches a port of the job can run commands in it, "
            "so say which network its machines talk in, and keep others out of it (docs/network.md): ccpo.network=10.0.0.0/24"
        )
    elif settings is not None:
        try:
            address_in(network_of(config))
        except ConfigError as error:
            found += error.problems
    found += _join_problems(config)
    host = config.ray_kwargs.ray_init.get("dashboard_host")
    if host is not None and not _inside(host, network_of(config)):
        found.append(
            f"ray_kwargs.ray_init.dashboard_host is {host}, outside ccpo.network={network_of(config)}: Ray's dashboard runs commands for whoever "
            "reaches it; leave it out"
        )
    return found


def _join_problems(config: DictConfig) -> list[str]:
    """Why the Ray that the job would join cannot be the one. Ray itself asks an address where nothing is for minutes."""
    from ray._private import services

    if own_ray(config):
        return []
    told = config.ray_kwargs.ray_init.get("address") or os.environ.get("RAY_ADDRESS") or "auto"
    start = (
        "start Ray on every node first (ray start, docs/nodes.md), and set RAY_ADDRESS to the first one's ADDRESS:6379"
    )
    if told == "local":
        return [f"trainer.nnodes is {config.trainer.nnodes}, and a Ray of one machine is asked for: {start}"]
    try:
        host, _, port = services.canonicalize_bootstrap_address(told).rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    # No address; nothing found (Ray's ConnectionError is an OSError), or nothing there.
    except (ValueError, OSError) as error:
        return [f"the job is to join the Ray at {told}, and there is none ({error}): {start}"]
    return []


def not_joined(error: Exception) -> str | None:
    """What the user is told of a Ray that is there and lets the job not in; None: it is another error."""
    why = (str(error.__cause__ or error).strip().splitlines() or [""])[-1]
    if isinstance(error, ConnectionError) and "Ray cluster" in str(error):
        return (
            f"the job cannot join this Ray ({why[:300]}): where `ray start` asks for a token (it does with RAY_AUTH_MODE=token, and on a machine that "
            "has one), the job needs it, too; set RAY_AUTH_MODE=token and the same token on every node and for the job (docs/nodes.md)"
        )
    if "Version mismatch" in str(error):
        return (
            f"the job cannot join this Ray: {' '.join(str(error).split())}. What one pickles the other cannot always read: start Ray on every node, "
            "and the job, with the same environment (bash scripts/setup.sh, then .venv/bin/ray start)"
        )
    return None


def prepare(config: DictConfig) -> None:
    """Make Ray start inside the network, if this job starts it, and tell every process of the job which network that is."""
    network, ray_init = network_of(config), config.ray_kwargs.ray_init
    _, address = address_in(network)
    with open_dict(ray_init):
        if own_ray(config):
            ray_init.address = "local"  # not one whose address another user has left in Ray's folder
            ray_init._node_ip_address = address
            if _inside(address, LOOPBACK):
                _start_on_loopback()
        else:
            for name in STARTING:
                ray_init.pop(name, None)
            if "address" not in ray_init and config.trainer.nnodes > 1:
                ray_init.address = "auto"  # that or none: a local one would wait for the other machines without end
        ray_init.runtime_env = OmegaConf.merge(
            {"env_vars": _found_by()}, ray_init.get("runtime_env") or {}, {"env_vars": _told(network)}
        )


def _found_by() -> dict[str, str]:
    """Where this process looks for modules: those of a Ray that runs have the environment of its `ray start`, not this one."""
    folders = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join(os.path.abspath(folder) for folder in folders)
    return {"PYTHONPATH": path} if path else {}


def _told(network: str) -> dict[str, str]:
    """What every process of the job has in its environment, wherever it runs."""
    verls = {name: os.environ[name] for name in (MODULES, PLATFORM) if name in os.environ}
    os.environ[JOB] = secrets.token_hex(8)  # this process is one of them
    return {NETWORK: network, FOLDER: os.getcwd(), JOB: os.environ[JOB], **verls}


def _start_on_loopback() -> None:
    """Let ray.init take 127.0.0.1 as it is. On the systems where Ray forms no clusters it does; its switch for that is read here alone."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False


def check_nodes(config: DictConfig) -> None:
    """Raises ConfigError when a node of the running Ray has its address elsewhere: everything on that node would listen there."""
    import ray

    network = network_of(config)
    nodes = sorted({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})
    outside = [address for address in nodes if not _inside(address, network)]
    if outside:
        raise ConfigError(
            [
                f"Ray has nodes at {', '.join(outside)}, outside ccpo.network={network}: every port of the job on them would be open there, and "
                "whoever reaches one can run commands. Set ccpo.network to the network of these addresses, or start Ray inside it (ray start "
                "--node-ip-address=ADDRESS on every machine); without a running Ray (RAY_ADDRESS) the job starts its own on the loopback address"
            ]
        )


def meeting_ports() -> list[int] | None:
    """Where the training workers may meet: [first, one after the last], below the ports that the kernel gives to connections.

    verl picks that port while the workers start and listens on it 20 s later; until then any connection of this job, or of another one, may have got
    it. Jobs that start at once begin at different places of the range. None: the kernel leaves no room there, and verl picks as it does.
    """
    try:
        lowest = int(CONNECTIONS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    first = 20_000  # below: services, and (10,002 to 19,999) the processes of a Ray that `ray start` began
    if lowest - first < 2 * MEETING:
        return None
    begin = secrets.randbelow(lowest - first - MEETING) + first
    return [begin, begin + MEETING]


def enter(network: str) -> None:
    """Keep this process, and those that it starts, inside the network."""
    interface, address = address_in(network)
    os.environ |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}", "VLLM_HOST_IP": address}


def tell_jobs_apart() -> None:
    """Let Ray's number of the job end with the job's own word, wherever it is asked for: verl names sockets after it."""
    from ray.runtime_context import RuntimeContext

    number = RuntimeContext.get_job_id
    RuntimeContext.get_job_id = lambda self: number(self) + os.environ.get(JOB, "")


class BoundStore(TCPStore):
    """torch's store, whose server listens on the address that its clients are told, and on no other."""

    def __init__(
        self,
        host_name: str,
        port: int,
        world_size: int | None = None,
        is_master: bool = False,
        timeout: timedelta = timedelta(seconds=300),  # noqa: B008, torch's default
        wait_for_workers: bool = True,
        multi_tenant: bool = False,
        master_listen_fd: int | None = None,
        use_libuv: bool = True,
    ) -> None:
        if is_master and master_listen_fd is None:
            family = socket.getaddrinfo(host_name, port)[0][0]
            try:
                server = socket.create_server((host_name, port), family=family, backlog=2048)
                port, master_listen_fd = server.getsockname()[1], server.detach()
            except OSError as error:
                if (
                    not multi_tenant or error.errno != errno.EADDRINUSE
                ):  # else it is this process's own server, which torch shares
                    raise
        super().__init__(
            host_name, port, world_size, is_master, timeout, wait_for_workers, multi_tenant, master_listen_fd, use_libuv
        )


def bind_stores() -> None:
    """Every TCPStore that this process makes from now on is a `BoundStore`."""
    import torch.distributed

    torch.distributed.TCPStore = BoundStore
    sys.modules["torch.distributed.rendezvous"].TCPStore = BoundStore  # the attribute of that name is a function


def _inside(host: Any, network: str) -> bool:
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host) in ipaddress.ip_network(
            network, strict=False
        )
    except ValueError:
        return False
