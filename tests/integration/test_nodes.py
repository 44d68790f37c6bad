"""What is looked at on every node of a Ray before a job starts there. Real nodes: tests/e2e/test_nodes.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

import transfer_queue  # noqa: E402
from omegaconf import open_dict  # noqa: E402
from ray import cloudpickle  # noqa: E402

from ccpo.config import ConfigError  # noqa: E402
from ccpo.verl_plugin import look, nodes  # noqa: E402

ROOT = Path(__file__).parents[2]
THERE = "10.0.0.2"


# ------------------------------------------------------------------------------------------------------- on a node


def test_what_can_stand_for_each_other_has_one_stamp(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "code.py").write_text("a = 1\n")
        (folder / "weights").write_bytes(b"0" * (look.WHOLE + 1))
    (two / "sub" / "code.pyc").write_bytes(b"whatever")
    assert look.stamp(str(one)) == look.stamp(str(two)) != ""
    (two / "weights").write_bytes(b"1" * (look.WHOLE + 1))
    assert look.stamp(str(one)) == look.stamp(str(two)), "large files count by their size"
    (two / "sub" / "code.py").write_text("a = 2\n")
    assert look.stamp(str(one)) != look.stamp(str(two))
    (two / "sub" / "code.py").rename(two / "code.py")
    assert look.stamp(str(two)) not in (look.stamp(str(one)), "")
    file = str(one / "sub" / "code.py")
    assert look.stamp(file) != "" == look.stamp(str(tmp_path / "none")) == look.stamp("")


def test_a_node_sees_code_packages_folder_and_paths(tmp_path):
    seen = look.Look().see("ccpo", str(tmp_path), ["numpy", "no-such-package"], [str(ROOT / "LICENSE"), "/none"])
    assert seen["root"] == str(ROOT / "ccpo") and seen["python"] == ".".join(map(str, sys.version_info[:3]))
    assert seen["package numpy"] and seen["folder"] == str(tmp_path) and seen[str(ROOT / "LICENSE")]
    assert seen["package no-such-package"] == seen["/none"] == ""
    none = look.Look().see("no_such_code", "/none", [], [])
    assert none["root"] == none["code"] == none["folder"] == ""


def test_a_file_that_another_node_has_written_is_seen_late_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr(look, "LATE_SECONDS", 0.0)
    monkeypatch.setattr(look.time, "sleep", lambda _: None)
    path, reads = tmp_path / "run.lock", look.Look().reads
    assert reads(str(path), b"mine") == "No such file or directory"
    path.write_bytes(b"another job's")
    assert reads(str(path), b"mine") == "it finds another file there"
    monkeypatch.setattr(look, "LATE_SECONDS", 10.0)
    monkeypatch.setattr(look.time, "sleep", lambda _: path.write_bytes(b"mine"))
    assert reads(str(path), b"mine") == ""
    monkeypatch.setattr(look.os, "access", lambda *_: False)
    assert reads(str(path), b"mine") == "it cannot write there"


def test_a_door_is_open_until_it_is_closed():
    here = look.Look()
    door = here.open("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = ("127.0.0.3", free.getsockname()[1])
    assert look.Look().closed([door, nobody, door]) == ["127.0.0.3"]


def test_a_node_that_has_nothing_of_ours_can_look():
    cloudpickle.register_pickle_by_value(look)
    try:
        packed = cloudpickle.dumps(look.Look)
    finally:
        cloudpickle.unregister_pickle_by_value(look)
    code = f"""
import sys
sys.modules["ccpo"] = sys.modules["verl"] = sys.modules["torch"] = None
from ray import cloudpickle
import importlib.util
importlib.util.find_spec = lambda name: None
seen = cloudpickle.loads({packed!r})().see("ccpo", "/", ["ray", "none"], ["/none"])
print(sorted(name for name in seen if not seen[name]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "['/none', 'code', 'package none', 'root']", done.stderr[-2000:]


# ------------------------------------------------------------------------------------------------------- the verdict

OWN = {"python": "3.11.7", "root": "/repo/ccpo", "code": "c", "folder": "/repo", "package torch": "2.11", "/model": "m"}


@pytest.mark.parametrize(
    "there, says",
    [
        ({"python": "3.12.1"}, "the node 10.0.0.2 has Python 3.12.1, and the job 3.11.7"),
        ({"package torch": "2.9"}, "other packages installed than the job: torch 2.9 (the job: 2.11)"),
        ({"package torch": ""}, "torch not (the job: 2.11)"),
        ({"root": "", "code": ""}, "finds no package ccpo, which is at /repo/ccpo here"),
        ({"root": "/old/ccpo"}, "finds the package ccpo at /old/ccpo, and the job at /repo/ccpo"),
        ({"code": "d"}, "has other code at /repo/ccpo than the job"),
        ({"folder": ""}, "has no folder /repo, in which the job was started"),
        ({"/model": ""}, "has no /model, which the job reads there"),
        ({"/model": "n"}, "has another /model, which the job reads there"),
    ],
)
def test_whatever_differs_is_named_with_what_to_do(there, says):
    (problem,) = nodes.differences(THERE, OWN, OWN | there)
    assert says in problem and THERE in problem
    assert any(word in problem for word in ("must have", "start", "run ", "check out"))


def test_a_node_like_this_one_has_no_differences():
    assert nodes.differences(THERE, OWN, dict(OWN)) == []


def test_what_any_node_reads_is_found_in_the_configuration(cpu_config, tmp_path):
    team = tmp_path / "my.py"
    team.write_text("")
    team.with_suffix(".yaml").write_text("")
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text("")
    with open_dict(cpu_config):
        cpu_config.ccpo.team, cpu_config.ccpo.prompts = f"{team}:Mine", f"{prompts}:short"
        cpu_config.ccpo.roles = {"a": {"model": str(tmp_path)}, "b": {"model": "Qwen/Qwen2.5-1.5B-Instruct"}}
        cpu_config.data.custom_cls.path = "pkg://somewhere"
    model = str(ROOT / "data_preprocess" / "last_digit_model")
    wanted = {model, str(team), str(team.with_suffix(".yaml")), str(prompts), str(tmp_path)}
    assert set(nodes.read_paths(cpu_config)) == wanted, "no hub's name, and no data: the task runner alone reads those"


def test_relative_paths_are_those_of_the_jobs_folder(cpu_config, monkeypatch):
    monkeypatch.chdir(ROOT)
    cpu_config.actor_rollout_ref.model.path = "data_preprocess/last_digit_model"
    assert nodes.read_paths(cpu_config) == [str(ROOT / "data_preprocess" / "last_digit_model")]


class Remote:
    """A process on a node, which answers at once."""

    def __init__(self, answers):
        self._answers = answers

    def __getattr__(self, method):
        return SimpleNamespace(remote=lambda *args: self._answers.get(method, lambda *_: "")(*args))


@pytest.fixture
def looking(cpu_config, monkeypatch, tmp_path):
    """check(address -> answers) with nodes that answer so, or do not answer."""
    real, silent = look.Look(), object()
    with open_dict(cpu_config):
        cpu_config.ray_kwargs.ray_init.runtime_env = {"env_vars": {"CCPO_FOLDER": str(ROOT)}}
    lock = tmp_path / "run.lock"
    lock.write_text("mine")
    answering = {"see": real.see, "reads": lambda *_: "", "open": lambda a: (a, 1), "closed": lambda _: []}

    class FakeRay:
        @staticmethod
        def wait(references, num_returns, timeout):
            return [r for r in references if r is not silent], []

        @staticmethod
        def get(reference):
            if isinstance(reference, Exception):
                raise reference
            return reference

        @staticmethod
        def kill(actor):
            pass

    def check(others):
        @contextmanager
        def made():
            yield {address: Remote(answering | other) for address, other in others.items()}

        monkeypatch.setattr(nodes, "_looking", made)
        nodes.check(cpu_config, lock)

    monkeypatch.setattr(nodes, "ray", FakeRay)
    monkeypatch.setattr(nodes, "_check_alone", lambda: None)
    return check, silent


def test_nodes_that_are_alike_pass(looking):
    check, _ = looking
    check({"10.0.0.1": {}, THERE: {}})


def test_every_nodes_problems_come_in_one_error(looking):
    check, silent = looking
    with pytest.raises(ConfigError) as error:
        check(
            {
                "10.0.0.1": {"closed": lambda doors: [address for address, _ in doors]},
                THERE: {"reads": lambda *_: "No such file or directory"},
                "10.0.0.3": {"see": lambda *_: RuntimeError("no module\nmore")},
                "10.0.0.4": {"see": lambda *_: silent},
            }
        )
    problems = "\n".join(error.value.problems)
    assert len(error.value.problems) == 4
    assert (
        f"the node {THERE} does not see this job's file" in problems and "on storage that all nodes share" in problems
    )
    assert f"the node 10.0.0.1 does not reach {THERE} at a port that was opened there" in problems
    assert "no process of the job can run on the node 10.0.0.3 (no module)" in problems
    assert "no process of the job can run on the node 10.0.0.4 (no answer in 180 s)" in problems


def test_a_second_job_of_one_ray_is_refused_and_one_that_leaves_is_waited_for(monkeypatch):
    leaves = iter([object(), object()])

    def get_actor(**given):
        assert given == nodes.QUEUE
        try:
            return next(leaves)
        except StopIteration:
            raise ValueError("no such actor") from None

    monkeypatch.setattr(nodes, "ray", SimpleNamespace(get_actor=get_actor))
    monkeypatch.setattr(nodes.time, "sleep", lambda _: None)
    nodes._check_alone()
    monkeypatch.setattr(nodes, "ray", SimpleNamespace(get_actor=lambda **_: object()))
    monkeypatch.setattr(nodes, "LEAVE_SECONDS", 0.0)
    with pytest.raises(ConfigError, match="another job runs in this Ray"):
        nodes._check_alone()


def test_transfer_queue_still_has_one_controller_by_this_name():
    source = (Path(transfer_queue.__file__).parent / "interface.py").read_text()
    assert f'ray.get_actor("{nodes.QUEUE["name"]}", namespace="{nodes.QUEUE["namespace"]}")' in source


def test_the_process_of_a_job_works_in_the_jobs_folder(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CCPO_FOLDER": str(tmp_path)}
    code = "import os, ccpo.verl_plugin.process; print(os.getcwd())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == str(tmp_path.resolve()), done.stderr[-2000:]
