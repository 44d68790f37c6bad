"""scripts/reproduce.py: the pages' commands are complete, and what is shown is what is run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import reproduce  # noqa: E402

PAGES = reproduce.pages()


@pytest.mark.parametrize("name", PAGES)
def test_every_page_has_commands_that_can_be_run(name):
    found = reproduce.commands(PAGES[name].read_text())
    assert found, "a page of runs without the command of its numbers"
    for command in (one.text for one in found):
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0, command
        assert "..." not in command, "a command that is not written out"
        for script in re.findall(r"\b(?:scripts|recipe|benchmarks|docs)/[\w/]+\.(?:py|sh)", command):
            assert (ROOT / script).is_file(), f"{script} does not exist"
        for module in re.findall(r"-m (data_preprocess\.\w+)", command):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{module} does not exist"


def test_a_command_goes_on_after_a_backslash_and_no_further():
    text = "words\n\n    first \\\n      more\n    second\n\n    third \\\n\nwords\n    fourth\n"
    assert [one.text for one in reproduce.commands(text)] == ["first \\\n  more", "second", "third \\", "fourth"]


def test_a_blank_line_and_a_line_of_text_end_a_block():
    text = "    a\n    b \\\n      b\n    c\n\n    d\n    \n    e\nwords\n    f\n    g\n"
    assert [one.block for one in reproduce.commands(text)] == [0, 0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize("name", PAGES)
def test_commands_of_one_block_do_not_need_each_other(name):
    """Data stand in a block before those who read them, and no two commands of a block write into one folder."""
    found = reproduce.commands(PAGES[name].read_text())
    for block in {one.block for one in found}:
        texts = [one.text for one in found if one.block == block]
        assert len({"data_preprocess" in text for text in texts}) == 1, texts
        folders = [re.findall(r"(?:--out |OUT=)(\S+)", text) for text in texts]
        assert len(texts) < 2 or all(folders) or "quickstart" in texts[0], "where does it write?"
        assert len(sum(folders, [])) == len(set(sum(folders, []))), folders


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


def write(page: Path, text: str) -> None:
    (page / "mine.md").write_text(f"# My run\n\n{text}")


MET = "for i in $(seq 500); do [ -e {other} ] && break; sleep .01; done; [ -e {other} ] && echo met {other}"


def test_commands_of_a_block_run_side_by_side_and_the_next_block_after_all_of_it(page, capsys):
    first, second = (f"touch {mine}; {MET.format(other=other)}; touch {mine}_done" for mine, other in ("ab", "ba"))
    write(page, f"    {first}\n    {second}\n\n    ls a_done b_done\n    echo behind\n")
    reproduce.main(["mine", "--run", "--beside", "2"])
    logs = page / "outputs" / "reproduce" / "mine"
    read = {path.name: path.read_text().splitlines() for path in logs.iterdir()}
    assert read["1.log"] == [f"[1] {first}", "met b"] and read["2.log"] == [f"[2] {second}", "met a"]
    assert read["3.log"][1:] == ["a_done", "b_done"]
    said = capsys.readouterr().out
    assert said.count("\n") == 8 and f"[2] begins, see {logs / '2.log'}\n" in said and "[4] done after 0 s" in said
    reproduce.main(["mine", "--run", "4", "--beside", "2"])
    assert (logs / "4.log").read_text().count("\nbehind\n") == 2, "what an earlier run said is kept"


def test_each_command_sees_the_gpu_that_fewest_run_on(page, capsys):
    write(
        page,
        "".join(f"    touch r{i}; {MET.format(other='r3')}; echo $CUDA_VISIBLE_DEVICES >> g{i}\n" for i in range(4)),
    )
    reproduce.main(["mine", "--run", "--beside", "4", "--gpus", "5, 7"])
    assert [(page / f"g{i}").read_text() for i in range(4)] == ["5\n", "7\n", "5\n", "7\n"]
    assert "[2] GPU 7: begins, see " in capsys.readouterr().out


def test_a_failure_lets_the_others_end_and_starts_no_more(page, capsys):
    later = f"{MET.format(other='failed')}; sleep .1; echo whole > whole; exit 4"
    write(page, f"    {later}\n    touch failed; exit 3\n    touch third\n\n    touch fourth\n")
    with pytest.raises(SystemExit) as ended:
        reproduce.main(["mine", "--run", "--beside", "2"])
    assert ended.value.code == 3 and (page / "whole").exists()
    assert not (page / "third").exists() and not (page / "fourth").exists()
    assert "[2] ended with 3" in (said := capsys.readouterr().out) and "[1] ended with 4" in said


STUBBORN = "(trap '' INT TERM; touch stubborn; sleep 60) & trap 'echo bye > bye; exit 1' INT TERM; touch ready; sleep 60 & wait"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_process_of_every_command(page, number):
    write(page, f"    {STUBBORN}\n    echo $$ > second; exec sleep 60\n")
    code = (
        "import pathlib, runpy, signal, sys; import reproduce; reproduce.PAGES = reproduce.ROOT = pathlib.Path.cwd(); reproduce.PATIENCE = .3\n"
        "try: reproduce.main(['mine', '--run', '--beside', '2'])\n"
        "except KeyboardInterrupt: sys.exit('stopped')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=page, env=environment, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 20
    while time.monotonic() < until and not all((page / name).exists() for name in ("ready", "stubborn", "second")):
        time.sleep(0.01)
    groups = [child.pid for child in psutil.Process(process.pid).children()]
    process.send_signal(number)
    assert "stopped" in process.communicate(timeout=20)[1] and process.returncode == 1
    assert len(groups) == 2 and (page / "bye").exists(), "it could not end by itself"
    left = [one for one in psutil.process_iter(["status"]) if group_of(one.pid) in groups and one.status() != "zombie"]
    assert not left


def group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def test_a_command_that_is_named_twice_runs_once_and_without_a_path(page, monkeypatch, capsys):
    monkeypatch.delenv("PATH")
    reproduce.main(["mine", "--run", "1", "1"])
    assert (page / "log").read_text() == "one\n"


def test_a_log_that_cannot_be_written_ends_what_runs_in_one_line(page, capsys):
    write(page, "    sleep 20; touch whole\n    echo two\n")
    (page / "outputs" / "reproduce" / "mine" / "2.log").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"^what ran was ended: .*Is a directory: .*2.log'; mend that"):
        reproduce.main(["mine", "--run", "--beside", "2"])
    assert not (page / "whole").exists()


def test_nothing_is_run_unless_asked(page, capsys):
    reproduce.main([])
    reproduce.main(["mine"])
    assert not (page / "log").exists() and "[1] echo one" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, says",
    [
        (["main"], "did you mean mine"),
        (["mine", "--run", "4"], "1 to 3"),
        (["--run"], "needs a page"),
        (["mine", "--run", "--beside", "0"], "set at least 1"),
        (["mine", "--run", "--gpus", "0,,1"], "a GPU without a name"),
        (["mine", "--run", "--gpus", ""], "a GPU without a name"),
    ],
)
def test_what_is_not_there_is_named(page, capsys, words, says):
    with pytest.raises(SystemExit):
        reproduce.main(words)
    assert says in capsys.readouterr().err
