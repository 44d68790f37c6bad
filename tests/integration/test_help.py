"""--help of every script, recipe, data command and benchmark: it prints how the thing is used, and does nothing."""

from __future__ import annotations

import os
import subprocess
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


@pytest.mark.parametrize("command, flag", CASES)
def test_help_is_shown_and_nothing_done(command, flag, tmp_path, in_fork):
    done = _shell([*command, flag], tmp_path) if command[0] == "bash" else in_fork([*command, flag], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert Path(command[-1]).name.removesuffix(".sh").removesuffix(".py").rpartition(".")[2] in done.stdout, done.stdout
    assert list(tmp_path.iterdir()) == []


def _shell(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=120)
