"""scripts/reproduce.py: the pages' commands are complete, and what is shown is what is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import reproduce  # noqa: E402

PAGES = reproduce.pages()


@pytest.mark.parametrize("name", PAGES)
def test_every_page_has_commands_that_can_be_run(name):
    found = reproduce.commands(PAGES[name].read_text())
    assert found, "a page of runs without the command of its numbers"
    for command in found:
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0, command
        assert "..." not in command, "a command that is not written out"
        for script in re.findall(r"\b(?:scripts|recipe|benchmarks|docs)/[\w/]+\.(?:py|sh)", command):
            assert (ROOT / script).is_file(), f"{script} does not exist"
        for module in re.findall(r"-m (data_preprocess\.\w+)", command):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{module} does not exist"


def test_a_command_goes_on_after_a_backslash_and_no_further():
    text = "words\n\n    first \\\n      more\n    second\n\n    third \\\n\nwords\n    fourth\n"
    assert reproduce.commands(text) == ["first \\\n  more", "second", "third \\", "fourth"]


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "PAGES", tmp_path)
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    (tmp_path / "mine.md").write_text("# My run\n\n    echo one >> log\n    exit 3\n    echo \\\n      three >> log\n")
    return tmp_path


def test_chosen_commands_are_run_in_order(page, capsys):
    reproduce.main(["mine", "--run", "1", "3"])
    assert (page / "log").read_text() == "one\nthree\n" and "[3] done" in capsys.readouterr().out


def test_the_first_that_fails_ends_it(page, capsys):
    with pytest.raises(SystemExit) as ended:
        reproduce.main(["mine", "--run"])
    assert ended.value.code == 3 and (page / "log").read_text() == "one\n"
    assert "[2] ended with 3" in capsys.readouterr().out


def test_nothing_is_run_unless_asked(page, capsys):
    reproduce.main([])
    reproduce.main(["mine"])
    assert not (page / "log").exists() and "[1] echo one" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, says", [(["main"], "did you mean mine"), (["mine", "--run", "4"], "1 to 3"), (["--run"], "needs a page")]
)
def test_what_is_not_there_is_named(page, capsys, words, says):
    with pytest.raises(SystemExit):
        reproduce.main(words)
    assert says in capsys.readouterr().err
