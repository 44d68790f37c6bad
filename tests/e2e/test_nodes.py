"""A job on two nodes of Ray (docs/nodes.md). Each is a machine as far as Linux can pretend: an address of its own behind a switch, a loopback
address, /dev/shm and processes of its own. They share a processor and the disk, as nodes share a disk over the network.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from jobs import ROOT, finish, kill_session, log_of, numbers, shards, start_job, title, wait_until
from neighbour import cannot
from processes import words_of
from test_faults import stopped

from ccpo.run.checkpoint import finished_steps
from ccpo.run.folder import ACTOR

NETWORK, FIRST, SECOND, PORT = "198.51.100.0/24", "198.51.100.11", "198.51.100.12", 6379  # a network of examples
STEPS = 6
TWICE = (  # of whatever a node should have one
    "actor_rollout_ref.rollout.agent.num_workers=2",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=2",
)
ON_EACH = {"WorkerDict", "HfCpuServer", "EarlyAgentLoopWorker", "SimpleStorageUnit"}
RAYS_OWN = {"IDLE", "DashboardAgent", "RuntimeEnvAgent"}
ONE_NODE = ("trainer.n_gpus_per_node=2", "ray_kwargs.ray_init.num_gpus=2", "ray_kwargs.ray_init.num_cpus=12")


def sh(*command: str) -> None:
    subprocess.run(command, check=True, timeout=60)


class Machine:
    """Namespaces that last as long as their first process: with it everything in them ends, as when a machine loses its power."""

    def __init__(self) -> None:
        apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._outer = subprocess.Popen([*apart, "sleep", "infinity"], start_new_session=True, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not (inner := psutil.Process(self._outer.pid).children()) or inner[0].name() != "sleep":
            assert time.monotonic() < deadline, "no namespaces were made"
            time.sleep(0.05)
        self.pid = inner[0].pid
        self._space = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        self.inside = ("nsenter", "--target", str(self.pid), "--net", "--mount", "--pid")
        sh(*self.inside, "mount", "-t", "tmpfs", "shm", "/dev/shm")
        sh(*self.inside, "ip", "link", "set", "lo", "up")

    def titles(self) -> Counter[str]:
        """What a job runs here."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = os.stat(f"/proc/{process.pid}/ns/pid").st_ino == self._space
                if ours and "".join(words_of(process)[:1]).startswith("ray::"):
                    found.append(title(process))
            except (OSError, psutil.Error):
                continue
        return Counter(name for name in found if name not in RAYS_OWN)

    def end(self) -> None:
        if self._outer.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._outer.wait(30)


class Nodes:
    """Two machines, a switch between them, and a Ray."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ccpo"))  # a socket's path must be short
        self._token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._machines: list[Machine] = []
        self._switch = self._machine()
        sh(*self._switch.inside, "ip", "link", "add", "switch", "type", "bridge")
        sh(*self._switch.inside, "ip", "link", "set", "switch", "up")
        self.first = self.plugged(FIRST)
        self.second = self.plugged(SECOND)

    def _machine(self) -> Machine:
        self._machines.append(Machine())
        return self._machines[-1]

    def plugged(self, address: str) -> Machine:
        machine, port = self._machine(), f"port{address.rpartition('.')[2]}"
        other_end = ("peer", "name", port, "netns", str(self._switch.pid))
        sh("ip", "link", "add", "cable", "netns", str(machine.pid), "type", "veth", *other_end)
        sh(*self._switch.inside, "ip", "link", "set", port, "master", "switch", "up")
        sh(*machine.inside, "ip", "address", "add", f"{address}/24", "dev", "cable")
        sh(*machine.inside, "ip", "link", "set", "cable", "up")
        return machine

    def ray(self, machine: Machine, address: str) -> None:
        """As docs/nodes.md says, in a folder that has nothing to do with the job."""
        head = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        command = [
            *(*machine.inside, str(Path(sys.executable).with_name("ray")), "start", f"--node-ip-address={address}"),
            *(head if address == FIRST else [f"--address={FIRST}:{PORT}"]),
            *("--num-cpus=7", "--num-gpus=1", "--object-store-memory=200000000", "--disable-usage-stats"),
            f"--temp-dir={self._folder / address}",
        ]
        keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        done = subprocess.run(
            command,
            env=keep | self._token,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=180,
            start_new_session=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        self.ray(self.first, FIRST)
        self.ray(self.second, SECOND)

    def job(self, out: Path, data: Path, *overrides: str) -> subprocess.Popen:
        """A job whose driver runs on the first machine."""
        settings = (f"ccpo.network={NETWORK}", "trainer.nnodes=2", *TWICE, *SAVING, *overrides)
        inside = (*self.first.inside, "env", f"--chdir={ROOT}")  # entering a machine leaves the folder
        where = self._token | {"RAY_ADDRESS": f"{FIRST}:{PORT}"}
        return start_job(out, "dyad", data, *settings, steps=STEPS, environment=where, inside=inside)

    def end(self) -> None:
        for machine in reversed(self._machines):
            machine.end()
        shutil.rmtree(self._folder, ignore_errors=True)


SAVING = ("trainer.save_freq=2", f"trainer.test_freq={STEPS}")


@pytest.fixture
def nodes():
    if why_not := cannot() or (None if shutil.which("nsenter") else "needs the command nsenter"):
        pytest.skip(why_not)
    made = Nodes()
    yield made
    made.end()
    assert not [p for machine in made._machines for p in machine.titles()], "nothing is left of the machines"


@pytest.fixture
def launch(nodes, data):
    jobs = []

    def run(out: Path, *overrides: str) -> subprocess.Popen:
        jobs.append(nodes.job(out, data, *overrides))
        return jobs[-1]

    yield run
    for job in jobs:
        kill_session(job.pid)
        job.wait(30)


def gone(*machines: Machine, limit: float = 60) -> None:
    """The job's processes have left; Ray's own stay."""
    deadline = time.monotonic() + limit
    while any(left := [machine.titles() for machine in machines]):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


@pytest.mark.slow
def test_two_nodes_train_what_two_workers_of_one_node_train_through_kills_and_the_loss_of_a_node(
    nodes, launch, start, tmp_path
):
    """Every number and every tensor is equal: the samples are seeded, and a sum of two gradients has no order."""
    straight, out = tmp_path / "straight", tmp_path / "two"
    finish(start(straight, "dyad", *TWICE, *ONE_NODE, steps=STEPS), straight)

    nodes.start()
    job = launch(out)
    wait_until(job, out, lambda: 2 in finished_steps(out))
    here, there = nodes.first.titles(), nodes.second.titles()
    assert set(here) >= ON_EACH and set(there) >= ON_EACH, (here, there)
    assert here["TaskRunner"] + here["TaskRunnerV1"] == 1, "beside the driver, which holds the folder"
    kill_session(job.pid)  # the driver alone is in it
    job.wait(30)
    gone(nodes.first, nodes.second)

    job = launch(out)
    wait_until(job, out, lambda: 4 in finished_steps(out))
    nodes.second.end()
    began = time.monotonic()
    line = stopped(job, out, limit=120)
    print(f"stopped after {time.monotonic() - began:.0f} s")
    assert "a process of the job has died" in line and f"on the node {SECOND}" in line
    assert "The checkpoint of step 4 is complete" in line
    gone(nodes.first)

    job = launch(out)
    assert job.wait(120) == 1
    assert "trainer.nnodes=2 and trainer.n_gpus_per_node=1 need 2 node(s)" in log_of(out)

    nodes.second = nodes.plugged(SECOND)
    nodes.ray(nodes.second, SECOND)
    finish(launch(out), out)
    one, two = numbers(straight), numbers(out)
    assert set(one) <= set(two) and {kind for _, kind in set(two) - set(one)} <= {"val"}
    for key in one:
        assert two[key] == one[key], key
    assert shards(out, STEPS, ACTOR) == shards(straight, STEPS, ACTOR)
    gone(nodes.first, nodes.second)


def refused(job: subprocess.Popen, out: Path) -> str:
    assert job.wait(180) == 1, log_of(out)[-3000:]
    assert not out.exists(), "nothing of a refused job is left"
    return log_of(out).rpartition("error: ")[2]


@pytest.mark.slow
def test_a_node_that_cannot_do_its_part_is_named_before_anything_starts(nodes, launch, tmp_path):
    there = nodes.second.inside
    shared = tmp_path / "shared"
    shared.mkdir()
    other = tmp_path / "other"
    other.mkdir()

    def hide(path: Path, text: str) -> None:
        """Another file of this name, on the second machine alone."""
        (other / path.name).write_text(text)
        sh(*there, "mount", "--bind", str(other / path.name), str(path))

    nodes.start()
    found = refused(launch(shared / "three", "trainer.nnodes=3"), shared / "three")
    assert "trainer.nnodes=3 and trainer.n_gpus_per_node=1 need 3 node(s)" in found

    (metadata,) = Path(psutil.__file__).parents[1].glob("transformers-*.dist-info/METADATA")
    hide(metadata, "Metadata-Version: 2.1\nName: transformers\nVersion: 0.0.1\n")
    hide(ROOT / "ccpo" / "types.py", (ROOT / "ccpo" / "types.py").read_text() + "# of another commit\n")
    sh(*there, "mount", "-t", "tmpfs", "none", str(shared))
    sh(*there, "mount", "-t", "tmpfs", "none", str(ROOT / "data_preprocess" / "last_digit_model"))
    found = refused(launch(shared / "other"), shared / "other")
    for says in (
        f"the node {SECOND} has other packages installed than the job: transformers 0.0.1 (the job: ",
        f"the node {SECOND} has other code at {ROOT / 'ccpo'} than the job",
        f"the node {SECOND} has another {ROOT / 'data_preprocess' / 'last_digit_model'}, which the job reads there",
        f"the node {SECOND} does not see this job's file {shared / 'other' / 'run.lock'}",
    ):
        assert says in found, found
    assert FIRST not in found, "which is as it should be"

    sh(*there, "mount", "-t", "tmpfs", "none", str(ROOT))
    found = refused(launch(shared / "none"), shared / "none")
    assert f"the node {SECOND} finds no package ccpo, which is at {ROOT / 'ccpo'} here" in found
