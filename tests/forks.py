"""Commands of Python in forks of a process that has imported what takes most of their seconds.

``python tests/forks.py`` reads one request a line, the arguments of `run_in_fork` as JSON, and answers with the exit status.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ccpo.verl_cpu import ENVIRONMENT

ROOT = Path(__file__).parents[1]
LIMIT = 400  # seconds for one command


class ForkServer:
    """A process on verl's CPU platform, which must be chosen before verl is first imported."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], room: Path
    ) -> subprocess.CompletedProcess:
        request = {"command": command, "folder": str(folder), "environment": environment, "room": str(room)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process that forks has ended"
        return outcome(command, int(answer), room)

    def close(self) -> None:
        self.process.communicate(timeout=30)


def outcome(command: Sequence[str], status: int, room: Path) -> subprocess.CompletedProcess:
    return subprocess.CompletedProcess(command, status, (room / "1").read_text(), (room / "2").read_text())


def run_in_fork(command: Sequence[str], folder: str, environment: Mapping[str, str], room: str) -> int:
    """Exit status of ``python *command`` in a fork of this process. The output goes to the files 1 and 2 of ``room``."""
    child = os.fork()
    if child == 0:
        _be_python(list(command), folder, environment, room)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _be_python(command: list[str], folder: str, environment: Mapping[str, str], room: str) -> NoReturn:
    status = 1
    try:
        signal.alarm(LIMIT)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (1, 2):
            os.dup2(os.open(f"{room}/{number}", os.O_WRONLY | os.O_CREAT), number)
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


def _serve() -> None:
    gc.disable()
    for name in ("verl.trainer.main_ppo", "ccpo.verl_plugin.worker"):
        importlib.import_module(name)
    gc.enable()
    gc.freeze()
    for line in sys.stdin:
        print(run_in_fork(**json.loads(line)), flush=True)


if __name__ == "__main__":
    _serve()
