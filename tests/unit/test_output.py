"""ccpo.run.output: a command whose reader has gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ccpo.run.output import CUT, until_cut

ROOT = Path(__file__).parents[2]


def cut(words: list[str]) -> subprocess.CompletedProcess:
    """The command, with nobody at the other end of its output."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, *words], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize("length", [1, 200_000])
def test_a_command_ends_when_nobody_reads(length):
    code = f'import sys; from ccpo.run.output import until_cut; sys.exit(until_cut(lambda: print("x" * {length})))'
    done = cut(["-c", code])
    assert (done.returncode, done.stderr) == (CUT, "")


@pytest.mark.parametrize("words", [["scripts/describe_team.py", "dyad"], ["scripts/progress.py", "nowhere"]])
def test_scripts_do(words):
    done = cut(words)
    assert done.returncode == CUT and "Traceback" not in done.stderr


def test_what_is_returned_or_raised_stays():
    assert until_cut(lambda: 3) == 3 and until_cut(lambda: None) is None
    with pytest.raises(ValueError):
        until_cut(lambda: int("x"))
