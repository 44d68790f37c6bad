"""Another machine on the network, made of a network namespace and a cable to it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from jobs import members
from processes import words_of

HERE, THERE = "198.51.100.1", "198.51.100.2"  # a network of examples, which no machine is in
CONNECT = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def answers(door):
    try:
        socket.create_connection(door, 5).close()
        return True
    except OSError:
        return False

doors = json.load(sys.stdin)
with ThreadPoolExecutor(32) as pool:
    print(json.dumps([door for door, found in zip(doors, pool.map(answers, map(tuple, doors))) if found]))
"""


def cannot() -> str | None:
    """Why there can be no neighbour here."""
    if shutil.which("ip") is None:
        return "needs the command ip"
    if os.geteuid() != 0:
        return "needs root: it lays a cable to a network namespace"
    tried = subprocess.run(["ip", "netns", "add", f"ccpo-{os.getpid()}"], capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespace can be made here: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", f"ccpo-{os.getpid()}"], check=True)
    return None


@contextmanager
def neighbour() -> Iterator[str]:
    """Name of a namespace that reaches every outer address of this machine, as another machine would."""
    name, cable = f"ccpo-{os.getpid()}", f"ccpo{os.getpid() % 10**7}"
    steps = [
        ["netns", "add", name],
        ["link", "add", f"{cable}a", "type", "veth", "peer", "name", f"{cable}b", "netns", name],
        ["address", "add", f"{HERE}/24", "dev", f"{cable}a"],
        ["link", "set", f"{cable}a", "up"],
        ["-n", name, "address", "add", f"{THERE}/24", "dev", f"{cable}b"],
        ["-n", name, "link", "set", f"{cable}b", "up"],
        ["-n", name, "route", "add", "default", "via", HERE],
    ]
    try:
        for step in steps:
            subprocess.run(["ip", *step], check=True, timeout=30)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], timeout=30)  # and the cable with it


def reached(name: str, ports: list[int]) -> list[tuple[str, int]]:
    """(address, port) of those that answer the neighbour, on any outer address of this machine."""
    outer = {
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    }
    doors = [(address, port) for address in sorted(outer) for port in ports]
    command = ["ip", "netns", "exec", name, sys.executable, "-c", CONNECT]
    done = subprocess.run(command, input=json.dumps(doors), capture_output=True, text=True, timeout=300, check=True)
    return [tuple(door) for door in json.loads(done.stdout)]


def listening(session: int) -> list[tuple[str, int, str]]:
    """(address, port, process) of every port that a session's processes listen on."""
    found = set()
    for process in members(session):
        try:
            name = " ".join(words_of(process))[:80].strip()
            connections = process.net_connections("inet")
        except psutil.Error:
            continue
        found |= {(c.laddr.ip, c.laddr.port, name) for c in connections if c.status == psutil.CONN_LISTEN}
    return sorted(found)


class Doors:
    """What a neighbour finds open of a job; filled by a test whose job runs anyway."""

    def __init__(self) -> None:
        self.why_not = cannot()
        self.ports: list[tuple[str, int, str]] = []
        self.open: list[tuple[str, int]] = []
        self.control_is_open = False

    def try_all(self, session: int) -> None:
        """Try every port of a job that is at work."""
        self.ports = listening(session)
        if self.why_not is not None:
            return
        with neighbour() as name, socket.create_server(("0.0.0.0", 0)) as server:
            control = server.getsockname()[1]
            found = reached(name, [port for _, port, _ in self.ports] + [control])
        self.open = [door for door in found if door[1] != control]
        self.control_is_open = len(self.open) < len(found)
