"""Whether the nodes of a Ray that runs already can do their part of a job (docs/nodes.md), seen before any of it starts.

Ray starts a process on whichever node it likes, and takes for granted that what the process needs is there. Where it is not, a job fails in
the middle of its start, with the traceback of an import, or later: with other code it learns something else, and with a run's folder
that is not shared each node saves its own part of a checkpoint where nobody looks for it. So a process on every node looks first (look.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ccpo.config import ConfigError
from ccpo.verl_plugin import look
from ccpo.verl_plugin.network import FOLDER

CODE = "ccpo"
PACKAGES = ("numpy", "ray", "tensordict", "torch", "transformers", "TransferQueue", "verl", "vllm")
QUEUE = {"name": "TransferQueueController", "namespace": "transfer_queue"}  # TransferQueue's own: one in a Ray
ANSWER_SECONDS = 180.0  # in which a node starts a process, reads its files and answers
LEAVE_SECONDS = 60.0  # in which a job that was killed is gone
READ = (  # settings that name what any node may read; a hub's name is a folder of nobody's
    *(f"actor_rollout_ref.model.{name}" for name in ("path", "hf_config_path", "tokenizer_path", "lora_adapter_path")),
    "actor_rollout_ref.rollout.agent.agent_loop_config_path",
    "actor_rollout_ref.rollout.router_config_path",
    "data.custom_cls.path",
    "trainer.resume_from_path",
)
SAME = "the same path on every node: put it on storage that they share, or copy it to each"


def check(config: DictConfig, lock: Path) -> None:
    """Raises ConfigError with whatever is wrong on any node. ``lock``: the file that this process holds in the run's folder."""
    _check_alone()
    given = (CODE, config.ray_kwargs.ray_init.runtime_env.env_vars[FOLDER], PACKAGES, read_paths(config))
    own = look.Look().see(*given)
    problems = []
    with _looking() as nodes:
        seen = _all(nodes, "see", lambda _: given, problems)
        for address, found in seen.items():
            problems += differences(address, own, found)
        for address, why in _all(nodes, "reads", lambda _: (str(lock), lock.read_bytes()), problems).items():
            if why:
                problems.append(
                    f"the node {address} does not see this job's file {lock} ({why}): every node saves its part of a checkpoint in that folder, so "
                    "the parts would lie on several disks, and none could go on from them; set trainer.default_local_dir (OUT) to a folder "
                    "on storage that all nodes share"
                )
        doors = _all(nodes, "open", lambda address: (address,), problems)
        others = {address: [door for name, door in doors.items() if name != address] for address in nodes}
        for address, closed in _all(nodes, "closed", lambda address: (others[address],), problems).items():
            problems += [
                f"the node {address} does not reach {other} at a port that was opened there: almost all ports of a job are drawn by chance, "
                "so it would wait without end; let the nodes through to each other on every port (docs/network.md)"
                for other in closed
            ]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def read_paths(config: DictConfig) -> list[str]:
    """Files and folders of this node that other nodes read, too."""
    named = [OmegaConf.select(config, name) for name in READ]
    roles = OmegaConf.to_container(config.ccpo.get("roles") or {}, resolve=True).values()
    named += [
        config.ccpo.team,
        config.ccpo.prompts,
        config.ccpo.get("reward"),
        *(role.get(name) for role in roles for name in ("model", "prompts")),
    ]
    found: dict[str, None] = {}
    for value in filter(lambda value: isinstance(value, str), named):
        for path in (Path(value).expanduser(), Path(value.rpartition(":")[0]).expanduser()):
            if path != Path() and path.exists():
                found[str(path.absolute())] = None
                if path.suffix == ".py" and path.with_suffix(".yaml").exists():  # a team's prompts
                    found[str(path.with_suffix(".yaml").absolute())] = None
    return list(found)


def differences(address: str, own: dict[str, str], found: dict[str, str]) -> list[str]:
    """What is wrong with what a node sees. ``own``: what the job's own process sees."""
    problems = []
    if found["python"] != own["python"]:
        problems.append(
            f"the node {address} has Python {found['python']}, and the job {own['python']}: they send each other Python objects, which one cannot "
            "always read of the other; start Ray there with the same Python (bash scripts/setup.sh, then .venv/bin/ray start)"
        )
    packages = [name for name in own if name.startswith("package ") and found[name] != own[name]]
    if packages:
        listed = ", ".join(
            f"{name.partition(' ')[2]} {found[name] or 'not'} (the job: {own[name] or 'not'})" for name in packages
        )
        problems.append(
            f"the node {address} has other packages installed than the job: {listed}; run bash scripts/setup.sh there in the same commit, and "
            "start Ray with that environment (.venv/bin/ray start)"
        )
    if not found["root"]:
        problems.append(
            f"the node {address} finds no package {CODE}, which is at {own['root']} here: every process of the job runs code of it; the repository "
            f"must have {SAME}"
        )
    elif found["root"] != own["root"]:
        problems.append(
            f"the node {address} finds the package {CODE} at {found['root']}, and the job at {own['root']}: the code there may be another one; the "
            f"repository must have {SAME}, and PYTHONPATH must name no other one"
        )
    elif found["code"] != own["code"]:
        problems.append(
            f"the node {address} has other code at {own['root']} than the job: parts of it would not fit together; check out the same commit there, "
            "with the same changes"
        )
    if not found["folder"]:
        problems.append(
            f"the node {address} has no folder {own['folder']}, in which the job was started: every process of it works there, so that a relative "
            "path means the same; start it in a folder that has the same path on every node (the repository)"
        )
    for path in own:
        if path.startswith("/") and found[path] != own[path]:
            what = "another" if found[path] else "no"
            problems.append(f"the node {address} has {what} {path}, which the job reads there: it must have {SAME}")
    return problems


def _check_alone() -> None:
    """TransferQueue finds its controller by a name: a second job of the same Ray would take the first one's rows."""
    deadline = time.monotonic() + LEAVE_SECONDS
    while True:
        try:
            ray.get_actor(**QUEUE)
        except ValueError:
            return
        if time.monotonic() > deadline:
            raise ConfigError(
                [
                    "another job runs in this Ray: it has a queue of rows (TransferQueue), of which there is one, and this job would take rows out of "
                    "it; wait for that job, or end it, or start another Ray for this one (another port)"
                ]
            )
        time.sleep(1)


@contextmanager
def _looking() -> Iterator[dict[str, Any]]:
    """Address -> a process there that looks."""
    cloudpickle.register_pickle_by_value(look)
    nodes = {}
    try:
        cls = ray.remote(num_cpus=0)(look.Look)
        for node in ray.nodes():
            if node["Alive"]:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                nodes[node["NodeManagerAddress"]] = cls.options(scheduling_strategy=there).remote()
        yield nodes
    finally:
        cloudpickle.unregister_pickle_by_value(look)
        for actor in nodes.values():
            ray.kill(actor)


def _all(nodes: dict[str, Any], method: str, given: Callable[[str], tuple], problems: list[str]) -> dict[str, Any]:
    """Address -> what a method of each process returns. Who does not answer is added to ``problems`` and taken out of ``nodes``."""
    if not nodes:
        return {}
    asked = {address: getattr(actor, method).remote(*given(address)) for address, actor in nodes.items()}
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_SECONDS)
    found = {}
    for address, reference in asked.items():
        try:
            if reference not in ready:
                raise TimeoutError(f"no answer in {ANSWER_SECONDS:.0f} s")
            found[address] = ray.get(reference)
        except Exception as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            problems.append(
                f"no process of the job can run on the node {address} ({why}): its raylet's log says why (session_latest/logs in Ray's folder there); "
                "mend it, or take the node out of this Ray (ray stop)"
            )
            ray.kill(nodes.pop(address))
    return found
