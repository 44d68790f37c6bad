"""Local models behind OpenAI-compatible servers of their own: on this machine alone, on a free port, with a key that nobody else has.

A server ends with this process, whatever ends it (guard.py). On a GPU it is `vllm serve`, elsewhere `python -m ccpo.verl_cpu.serve`.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ccpo.evaluate import EvaluationError, guard
from ccpo.evaluate.client import Endpoint

VLLM, CPU = "vllm", "cpu"
BACKENDS = (VLLM, CPU)
ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
START_S = 1800.0  # a large model is read from a slow disk, and kernels are compiled
MEMORY = 0.9  # of a GPU, shared by the servers on it
TAIL = 2000  # characters of a server's log in a message


class NotStarted(EvaluationError):
    """A server that is not there; its text has the end of what it said."""


@dataclass(frozen=True)
class Serving:
    """How local models are served. ``max_model_len``: prompt and answer in tokens; None: the model's own. ``gpus``: how many there are.
    ``options``: more of `vllm serve`."""

    backend: str
    max_model_len: int | None = None
    seed: int = 0
    gpus: int = 0
    options: tuple[str, ...] = ()


def gpus_here() -> int:
    """How many NVIDIA GPUs this machine has."""
    if shutil.which("nvidia-smi") is None:
        return 0
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
        return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return 0


def backend_here(gpus: int) -> str:
    """vLLM where there are a GPU and vLLM."""
    return VLLM if gpus and importlib.util.find_spec("vllm") is not None else CPU


def command_of(serving: Serving, model: str, port: int, share: int) -> list[str]:
    """What starts a server. ``share``: how many servers are on one GPU."""
    longest = [] if serving.max_model_len is None else ["--max-model-len", str(serving.max_model_len)]
    common = ["--host", HOST, "--port", str(port), "--served-model-name", model, "--seed", str(serving.seed), *longest]
    if serving.backend == CPU:
        return [sys.executable, "-m", "ccpo.verl_cpu.serve", model, *common]
    return [
        sys.executable,
        "-m",
        "vllm.entrypoints.cli.main",  # `vllm serve`, of this environment
        "serve",
        model,
        "--dtype",
        "auto",
        "--gpu-memory-utilization",
        f"{MEMORY / share:.3f}",
        "--generation-config",
        "vllm",  # sampling is what a request says, not what the model's own file adds to it
        "--no-enable-log-requests",
        "--disable-uvicorn-access-log",
        "--uvicorn-log-level",
        "warning",
        *serving.options,
        *common,  # last: where a server listens is not an option's to say
    ]


def environment_of(serving: Serving, key: str, number: int, share: int) -> dict[str, str]:
    """Of server ``number``, of ``share`` that have one GPU, or all cores. The key is not on the command line, which others can see."""
    found = dict(os.environ)
    found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), found.get("PYTHONPATH"))))
    if serving.backend == CPU:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = found.get("OMP_NUM_THREADS", str(max(1, cores // share)))  # of any number come the same answers
        return found | {"CCPO_SERVE_KEY": key, "OMP_NUM_THREADS": threads}
    seen = found.get("CUDA_VISIBLE_DEVICES")
    devices = seen.split(",") if seen else [str(gpu) for gpu in range(serving.gpus)]
    if len(devices) > 1:
        found["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    return found | {"VLLM_API_KEY": key}


@contextmanager
def served(models: Sequence[str], serving: Serving, body: Mapping[str, Any]) -> Iterator[dict[str, Endpoint]]:
    """Endpoints of these models (folders or hub ids), each by its model, until the block is left.

    Servers start one after another: each takes its share of a GPU's memory by what is free. Raises NotStarted.
    """
    share = -(-len(models) // max(1, serving.gpus))
    with ExitStack() as stack:
        yield {
            model: stack.enter_context(_server(serving, model, number, share, body))
            for number, model in enumerate(models)
        }


@contextmanager
def _server(serving: Serving, model: str, number: int, share: int, body: Mapping[str, Any]) -> Iterator[Endpoint]:
    key, port = secrets.token_urlsafe(24), _free_port()
    endpoint = Endpoint(f"http://{HOST}:{port}/v1", model, key, local=True, body=body)
    with _log() as log:
        process = subprocess.Popen(
            [sys.executable, guard.__file__, *command_of(serving, model, port, share)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment_of(serving, key, number, share),
            start_new_session=True,  # Ctrl-C is ours to handle; the server ends after what waits for it
        )
        try:
            _wait(process, endpoint, log)
            yield endpoint
        finally:
            process.stdin.close()
            try:
                process.wait(guard.GRACE_S + 5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _log() -> Iterator[IO[bytes]]:
    """A file for what a server says: removed in the end, kept if the server does not start, since a cause may stand far above the last line."""
    with tempfile.NamedTemporaryFile(prefix="ccpo-server-", suffix=".log", delete=False) as log:
        try:
            yield log
        except NotStarted:
            raise
        except BaseException:
            os.unlink(log.name)
            raise
        os.unlink(log.name)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return found.getsockname()[1]


def _wait(process: subprocess.Popen, endpoint: Endpoint, log: IO[bytes]) -> None:
    """Until the server answers to its key, which another one on the same port would not."""
    request = urllib.request.Request(f"{endpoint.url}/models", headers={"Authorization": f"Bearer {endpoint.key}"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise NotStarted(
                f"the server of model {endpoint.model} ended while it started:\n{_tail(log, endpoint.key)}"
            )
        try:
            with direct.open(request, timeout=10):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise NotStarted(
        f"the server of model {endpoint.model} did not answer within {START_S:.0f} s:\n{_tail(log, endpoint.key)}"
    )


def _tail(log: IO[bytes], key: str) -> str:
    with open(log.name, "rb") as whole:
        whole.seek(max(0, os.path.getsize(log.name) - 4 * TAIL))
        end = whole.read().decode("utf-8", "replace").replace(key, "***").strip()[-TAIL:]
    return f"{end}\n(all that it said: {log.name})"
