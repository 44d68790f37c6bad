"""Who can reach a job: every port of ours, of verl and of TransferQueue stands on an address inside one stated network.

The network is the loopback addresses, unless ``ccpo.network`` names another one. A job reads what comes to its ports as commands and
pickles (docs/network.md), so whoever reaches them runs what he likes. Four facts make the network hold:
- verl and TransferQueue bind to the address that Ray gives the node, and so does Ray itself when that address is the loopback one. We
  start Ray there (`prepare`), and refuse a Ray that stands elsewhere (`check_nodes`);
- `ray.init` replaces a loopback address by the node's outer one, unless Ray is told to be no cluster (`_start_on_loopback`);
- torch's TCPStore listens on every address, whatever MASTER_ADDR says, unless it is given a socket (`BoundStore`);
- gloo, NCCL and vLLM look for an interface of their own, unless the environment names one (`enter`).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from datetime import timedelta
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.distributed import TCPStore

from ccpo.config import LOOPBACK, CcpoConfig, ConfigError

NETWORK = "CCPO_NETWORK"  # in the environment of every process of a job
MODULES = "VERL_USE_EXTERNAL_MODULES"  # verl's: what every process of a job imports first


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
    host = config.ray_kwargs.ray_init.get("dashboard_host")
    if host is not None and not _inside(host, network_of(config)):
        found.append(
            f"ray_kwargs.ray_init.dashboard_host is {host}, outside ccpo.network={network_of(config)}: Ray's dashboard runs commands for whoever "
            "reaches it; leave it out"
        )
    return found


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
        elif "address" not in ray_init and config.trainer.nnodes > 1:
            ray_init.address = "auto"  # that or none: a local one would wait for the other machines without end
        told = {NETWORK: network, MODULES: os.environ[MODULES]}
        ray_init.runtime_env = OmegaConf.merge(ray_init.get("runtime_env") or {}, {"env_vars": told})


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


def enter(network: str) -> None:
    """Keep this process, and those that it starts, inside the network."""
    interface, address = address_in(network)
    os.environ |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}", "VLLM_HOST_IP": address}


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
