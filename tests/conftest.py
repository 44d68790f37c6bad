"""Fixtures that more than one test file uses."""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.util
import json
import os
import pickle
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[1]


def pytest_configure(config):
    """scripts/test.sh ends a hung run with SIGTERM: fixtures must still end the jobs they started, which live in sessions of their own."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs begin deaf to it, and so would those that tests start


def pytest_collection_finish(session):
    """A million objects of imported modules, which the garbage collector need not look at again and again: a tenth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def pytest_terminal_summary(terminalreporter):
    """What tests have measured (`record_property`), for whoever looks for a regression: no test depends on a time."""
    passed = terminalreporter.stats.get("passed", [])
    found = [(name, value) for report in passed for name, value in report.user_properties]
    if found:
        terminalreporter.section("measured")
        for name, value in found:
            terminalreporter.write_line(f"{name:<60} {value}")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """A file's tests run in one process, which makes their fixtures once, and all jobs in one: each has more processes than most machines cores."""
    from xdist.scheduler import LoadFileScheduling

    class OneJobAtATime(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "jobs" if nodeid.startswith("tests/e2e/") else super()._split_scope(nodeid)

    return OneJobAtATime(config, log)


@pytest.fixture(scope="session")
def compose():
    """compose(*overrides, name="ccpo_dyad", folder="config") -> the configuration that recipe/main_ccpo.py would get; of "sft": recipe/main_sft.py."""
    hydra = pytest.importorskip("hydra")
    import omegaconf.base
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    Plugins.instance()  # which reads the sources' modules anew: those that an import gives are others
    sources = [SourcesRegistry.instance().types[scheme] for scheme in ("file", "pkg")]

    @functools.cache
    def composed(folder: str, name: str, overrides: tuple[str, ...]) -> bytes:
        with hydra.initialize_config_dir(str(ROOT / "recipe" / folder), version_base=None):
            return pickle.dumps(hydra.compose(name, overrides=list(overrides)))

    with pytest.MonkeyPatch.context() as patch:
        # Most of what reading a configuration takes is the parsing of the same forty files, and of the same 200 texts with ${ in them.
        patch.setattr(omegaconf.base, "parse", functools.cache(omegaconf.base.parse))
        for source in sources:
            patch.setattr(source, "load_config", _read_once(source.load_config))
        yield lambda *overrides, name="ccpo_dyad", folder="config": pickle.loads(
            composed(folder, name, overrides)
        )  # a fifth of a deep copy's time


def _read_once(load_config):
    """Hydra's reading of a file, remembered by folder and name."""
    known: dict[tuple[str, str], bytes] = {}

    @functools.wraps(load_config)
    def remembered(self, config_path):
        key = (self.path, config_path)
        if key not in known:
            known[key] = pickle.dumps(load_config(self, config_path))
        return pickle.loads(known[key])

    return remembered


@pytest.fixture(scope="session")
def _cpu_config(compose):
    sizes = {  # not the recipe's, which are tuned now and then
        "actor_rollout_ref.model.path": ROOT / "data_preprocess" / "last_digit_model",
        "actor_rollout_ref.actor.ppo_mini_batch_size": 16,
        "actor_rollout_ref.rollout.n": 4,
        "actor_rollout_ref.rollout.temperature": 1.0,
        "actor_rollout_ref.rollout.val_kwargs.n": 1,
        "ccpo.seed": 0,
        "data.max_prompt_length": 80,
        "data.max_response_length": 16,
        "data.train_batch_size": 16,
    }
    return pickle.dumps(
        compose("profile=cpu", "task=last_digit", *(f"{name}={value}" for name, value in sizes.items()))
    )


@pytest.fixture
def cpu_config(_cpu_config):
    """A copy, to be changed at will, of the embedded task's configuration."""
    return pickle.loads(_cpu_config)


@pytest.fixture(scope="session")
def load_script():
    """load_script("report") -> a module of its own of scripts/report.py, which is in no package."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def run_module(monkeypatch, capsys):
    """run_module(name, *arguments) -> what `python -m name` gives, run in this process, which has imported most of it already."""

    def run(name: str, *arguments) -> subprocess.CompletedProcess:
        words = [name, *map(str, arguments)]
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr("sys.argv", words)
        monkeypatch.delitem(sys.modules, name, raising=False)  # runpy warns of one that has been imported
        capsys.readouterr()
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
            status, said = 0, ""
        except SystemExit as ended:  # any other exception fails the test
            said = "" if isinstance(ended.code, int | None) else f"{ended.code}\n"
            status = 1 if said else ended.code or 0
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, shown.out, shown.err + said)

    return run


@pytest.fixture(scope="session")
def in_fork(tmp_path_factory):
    """in_fork([FILE or "-m", NAME, ...], folder, **environment) -> what ``python FILE ...`` gives in that folder, in a fork of this process, which
    has imported what takes most of a command's seconds."""
    importlib.import_module("verl.trainer.main_ppo")

    def run(command: Sequence[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
        room = tmp_path_factory.mktemp("fork")
        child = os.fork()
        if child == 0:
            _be_python(list(map(str, command)), folder, environment, room)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return subprocess.CompletedProcess(command, status, (room / "1").read_text(), (room / "2").read_text())

    return run


def _be_python(command: list[str], folder: Path, environment: Mapping[str, str], room: Path) -> NoReturn:
    """Never returns. The process's output goes to the files 1 and 2 of ``room``."""
    status = 1
    try:
        for number in (1, 2):
            os.dup2(os.open(room / str(number), os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))
        os.chdir(folder)
        os.environ.update(environment)
        sys.dont_write_bytecode = True
        module = command[0] == "-m"
        sys.argv = command[module:]
        sys.path.insert(0, str(ROOT) if module else str((ROOT / sys.argv[0]).parent))
        (runpy.run_module if module else runpy.run_path)(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class _ScriptedEndpoint(ThreadingHTTPServer):
    """An OpenAI-compatible address that answers with (status, body) of ``script`` in turn, the last one again and again.

    A body that is text is sent as it is; a status or a body that is a function gets the request's. ``seen``: (body, key) of every request.
    """

    daemon_threads = True
    key = "sk-very-secret-0123456789"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ScriptedAnswer)
        self.script: list[tuple[int, object]] = []
        self.seen: list[tuple[dict, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class _ScriptedAnswer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((body, self.headers["Authorization"]))
        script = self.server.script
        status, answer = script.pop(0) if len(script) > 1 else script[0]
        status, answer = (part(body) if callable(part) else part for part in (status, answer))
        content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def scripted_endpoint():
    """A `_ScriptedEndpoint` on a free port."""
    server = _ScriptedEndpoint()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
