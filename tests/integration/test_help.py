"""--help of every script, recipe, data command and benchmark: it prints how the thing is used, and does nothing."""

from __future__ import annotations

import importlib
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

pytest.importorskip("verl")

ROOT = Path(__file__).parents[2]


def _commands() -> list[list[str]]:
    shell = [
        ["bash", str(path)]
        for folder in ("scripts", "recipe")
        for path in (ROOT / folder).glob("*.sh")
        if path.read_text().startswith("#!")  # others are sourced
    ]
    programs = [
        path
        for folder in ("scripts", "recipe", "benchmarks", "data_preprocess")
        for path in (ROOT / folder).glob("*.py")
        if 'if __name__ == "__main__"' in path.read_text() or path.name == "__main__.py"
    ]
    modules = [path for path in programs if path.parent.name == "data_preprocess" or path.name == "__main__.py"]
    named = [["-m", f"{path.parent.name}.{path.stem}".removesuffix(".__main__")] for path in modules]
    return sorted([*shell, *named, *([str(path)] for path in programs if path not in modules)])


CASES = [
    pytest.param(words, flag, id=f"{Path(words[-1]).name} {flag}")
    for words in _commands()
    for flag in ("--help", "-h")
    if flag == "--help" or words[0] == "bash"  # argparse and Hydra have both
]


@pytest.fixture(scope="module")
def imported():
    """What takes most of a command's seconds."""
    importlib.import_module("verl.trainer.main_ppo")


@pytest.mark.parametrize("command, flag", CASES)
@pytest.mark.usefixtures("imported")
def test_help_is_shown_and_nothing_done(command, flag, tmp_path):
    shown = tmp_path.with_name(f"{tmp_path.name}.out")
    with shown.open("w") as file:
        status = (
            _shell([*command, flag], tmp_path, file)
            if command[0] == "bash"
            else _python([*command, flag], tmp_path, file)
        )
    text = shown.read_text()
    assert status == 0, text
    assert "Traceback" not in text
    assert Path(command[-1]).name.removesuffix(".sh").removesuffix(".py").rpartition(".")[2] in text, text
    assert list(tmp_path.iterdir()) == []


def _shell(command: list[str], folder: Path, file) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, stdout=file, stderr=file, timeout=120).returncode


def _python(command: list[str], folder: Path, file) -> int:
    """The status of ``python -m NAME ...`` or ``python FILE ...`` in a fork of this process, which has imported what takes seconds."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(folder)
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))
            sys.dont_write_bytecode = True
            module = command[0] == "-m"
            sys.argv = command[module:]
            sys.path.insert(0, str(ROOT) if module else str(Path(command[0]).parent))
            status = _status(runpy.run_module if module else runpy.run_path, sys.argv[0])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _status(run, name: str) -> int:
    try:
        run(name, run_name="__main__")
    except SystemExit as ended:
        return 0 if ended.code is None else int(ended.code) if isinstance(ended.code, int) else 1
    return 0
