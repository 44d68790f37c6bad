"""Fixtures that more than one test file uses."""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.util
import json
import pickle
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from forks import ForkServer, outcome, run_in_fork

ROOT = Path(__file__).parents[1]
CPU_FORKS = {
    f"tests/integration/test_{name}.py"
    for name in ("benchmarks", "export", "head", "lora", "preflight", "reference", "update")
}


def pytest_configure(config):
    """scripts/test.sh ends a hung run with SIGTERM: fixtures must still end the jobs they started, which live in sessions of their own."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs begin deaf to it, and so would those that tests start


def pytest_collectstart():
    gc.disable()  # until all is imported: a quarter of what that takes


def pytest_collection_finish(session):
    """A million objects of imported modules, which the garbage collector need not look at again and again: a tenth of the tests' time."""
    gc.enable()
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
    """A file's tests run in one process, which makes their fixtures once; files that share a costly one, too. And all jobs in one: each has more
    processes than most machines cores."""
    from xdist.scheduler import LoadFileScheduling

    class OneJobAtATime(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "jobs" if file.startswith("tests/e2e/") else "CPU forks" if file in CPU_FORKS else file

    return OneJobAtATime(config, log)


@pytest.fixture(scope="session")
def compose():
    """compose(*overrides, name="ccpo_dyad", folder="config") -> the configuration that recipe/main_ccpo.py would get; of "sft": recipe/main_sft.py."""
    hydra = pytest.importorskip("hydra")
    import omegaconf.base
    from hydra._internal import config_loader_impl
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
        patch.setattr(config_loader_impl, "create_defaults_list", _chosen_once(config_loader_impl.create_defaults_list))
        loader = config_loader_impl.ConfigLoaderImpl
        merge = "_compose_config_from_defaults_list"
        patch.setattr(loader, merge, _merged_once(getattr(loader, merge)))
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


def _chosen_once(create_defaults_list):
    """Hydra's list of the files of a configuration, remembered by the words that choose files: most words of a command only set a value."""
    known: dict[tuple, object] = {}

    def remembered(repo, config_name, overrides_list, **flags):
        sets = [
            not one.is_sweep_override() and (isinstance(one.value(), dict) or not repo.group_exists(one.key_or_group))
            for one in overrides_list
        ]
        chooses = [one for one, plain in zip(overrides_list, sets, strict=True) if not plain]
        key = (_sources(repo), config_name, *(one.input_line for one in chooses), *flags.items())
        if key not in known:
            known[key] = create_defaults_list(repo, config_name, chooses, **flags)
        return replace(
            known[key], config_overrides=[one for one, plain in zip(overrides_list, sets, strict=True) if plain]
        )

    return remembered


def _merged_once(compose_config_from_defaults_list):
    """Hydra's merging of files, remembered by their list."""
    known: dict[tuple, bytes] = {}

    def remembered(self, defaults, repo):
        key = (_sources(repo), repr(defaults))
        if key not in known:
            known[key] = pickle.dumps(compose_config_from_defaults_list(self, defaults, repo))
        return pickle.loads(known[key])

    return remembered


def _sources(repo) -> tuple:
    return tuple((source.provider, source.path) for source in repo.get_sources())


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
        words, room = list(map(str, command)), tmp_path_factory.mktemp("fork")
        return outcome(words, run_in_fork(words, str(folder), environment, str(room)), room)

    return run


@pytest.fixture(scope="session")
def in_cpu_fork(tmp_path_factory):
    """`in_fork` of a process that has imported verl on its CPU platform, which this one has not. Files that use it are in one worker (`CPU_FORKS`)."""
    server = ForkServer()

    def run(command: Sequence[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
        return server.run(list(map(str, command)), folder, environment, tmp_path_factory.mktemp("fork"))

    yield run
    server.close()


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
