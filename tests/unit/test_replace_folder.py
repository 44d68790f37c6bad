"""A dataset's folder is replaced as a whole, whenever the command is killed, and nothing else is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ccpo.data import parquet_rows, read_files, unfinished
from data_preprocess import folder
from data_preprocess.schema import make_row, write_dataset

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "test")


def write(out: Path, text: str, splits=SPLITS, name: str = "d") -> dict:
    return write_dataset(
        out, {split: [make_row("d", text, "1", "boxed", split, 0)] for split in splits}, name=name, command=["x"]
    )


def state(out: Path) -> str:
    """The question that all files hold; fails for a mixture or damage."""
    found = read_files([out / f"{split}.parquet" for split in SPLITS])
    assert all(isinstance(content, bytes) for content in found.values()), found
    (text,) = {parquet_rows(content)[0]["prompt"][0]["content"] for content in found.values()}
    return text


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    """Both ways of swapping: the kernel's, and the one for file systems without it."""
    if request.param == "two renames":
        monkeypatch.setattr(folder, "_exchange", lambda a, b: False)


def left_beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path != out)


def test_a_new_folder_and_its_replacement(way, tmp_path):
    out = tmp_path / "deep" / "out"
    write(out, "old")
    out.chmod(0o750)
    write(out, "new")
    assert state(out) == "new" and left_beside(out) == []
    assert out.stat().st_mode & 0o777 == 0o750
    empty = tmp_path / "deep" / "empty"
    empty.mkdir()
    write(empty, "new")
    assert state(empty) == "new"


def test_this_machine_swaps_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not folder._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot")
    assert (tmp_path / "a" / "b").exists() and (tmp_path / "b" / "a").exists()


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "train.parquet.bak", "sub/own.parquet"])
def test_other_peoples_files_stay(way, tmp_path, name):
    out = tmp_path / "out"
    write(out, "old")
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(ValueError, match=f"also holds {name.split('/')[0]}"):
        write(out, "new")
    assert state(out) == "old" and (out / name).read_text() == "mine" and left_beside(out) == []


def test_a_folder_of_somebody_else_is_not_replaced(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "train.parquet").write_text("mine, without a manifest")
    with pytest.raises(ValueError, match="also holds train.parquet"):
        write(out, "new")
    (out / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="not a dataset manifest"):
        write(out, "new")
    (out / "train.parquet").unlink()
    (out / "manifest.json").unlink()
    with pytest.raises(ValueError, match="is a file"):
        (tmp_path / "file").write_text("mine")
        write(tmp_path / "file", "new")
    with pytest.raises(ValueError, match="cannot be replaced as a whole"):
        write(tmp_path / "file" / "below", "new")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_root_cannot_be_replaced():
    with pytest.raises(ValueError, match="/ is the root .* choose another --out"):
        write(Path("/"), "new")


def test_the_current_folder_cannot_be_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="folder that this command runs in"):
        write(Path("."), "new")
    write(Path("out"), "new")
    assert state(tmp_path / "out") == "new"


def test_a_link_stays_a_link(way, tmp_path):
    (tmp_path / "real").mkdir()
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    link.symlink_to("real")
    dangling.symlink_to(tmp_path / "later")
    for _ in range(2):
        write(link, "new")
        write(dangling, "new")
    assert link.is_symlink() and state(tmp_path / "real") == "new" == state(link)
    assert dangling.is_symlink() and state(tmp_path / "later") == "new"


def test_where_the_system_refuses_the_old_files_stay(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(out, "old")
    monkeypatch.setattr(folder, "_exchange", lambda a, b: False)
    rename = Path.rename

    def refuses(path, target):
        if path.name == ".out.ccpo-new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(ValueError, match="cannot be replaced as a whole .*No space left"):
        write(out, "new")
    assert state(out) == "old" and left_beside(out) == []


def test_a_full_disk_leaves_the_old_files(way, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(out, "old")

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "_flush", full)
    with pytest.raises(ValueError, match="No space left"):
        write(out, "new")
    assert state(out) == "old" and left_beside(out) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_line_leaves_a_whole_set_or_says_what_to_do(tmp_path, exchange):
    """The process is forked and killed at every line of `data_preprocess.folder` in turn."""
    out, states, step = tmp_path / "out", [], 0
    sets = {}
    for name in ("old", "new"):
        write(tmp_path / name, name)
        sets[name] = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    def put(name: str) -> None:
        folder.replace_folder(
            out,
            lambda _: set(sets["old"]),
            lambda new: [(new / file).write_bytes(sets[name][file]) for file in sets[name]],
        )

    while True:
        step += 1
        put("old")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "out"], "nothing is left behind"
        status = _killed_at(step, lambda: put("new"), exchange)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        if out.exists():
            states.append(state(out))
        else:
            problem = read_files([out / "train.parquet"])[out / "train.parquet"]
            assert "run that command again" in problem, problem
            states.append("explained")
    assert step > 30 and {"old", "new"} <= set(states)
    assert ("explained" in states) is not exchange
    assert "old" not in states[states.index("new") :], "after the swap it stays"


def _killed_at(step: int, act: Callable[[], None], exchange: bool) -> int:
    """Wait status of a fork that acts and is killed at the ``step``-th line that it runs in `data_preprocess.folder`."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    steps = 0

    def trace(frame, event, argument):
        nonlocal steps
        if frame.f_code.co_filename != folder.__file__:
            return None
        if event == "line":
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    try:
        if not exchange:
            folder._exchange = lambda a, b: False
        sys.settrace(trace)
        act()
        os._exit(0)
    finally:
        os._exit(1)


def test_readers_and_writers_at_once(tmp_path):
    """Two writers replace one folder, a reader looks all the time: it always sees one whole set."""
    out = tmp_path / "out"
    write(out, "before")
    script = (
        "import sys; from pathlib import Path; from data_preprocess.schema import make_row, write_dataset\n"
        "for i in range(8):\n"
        "    rows = {s: [make_row('d', sys.argv[2], '1', 'boxed', s, 0)] for s in ('train', 'test')}\n"
        "    write_dataset(Path(sys.argv[1]), rows, name='d', command=['x'])\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(out), f"w{i}"], cwd=ROOT, stderr=subprocess.PIPE)
        for i in range(2)
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        seen.add(state(out))
    for writer in writers:
        assert writer.wait() == 0, writer.stderr.read().decode()
    assert len(seen) > 1 and left_beside(out) == []


def test_another_dataset_is_not_mixed_in(tmp_path):
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(ValueError, match="already holds dataset 'd'"):
        write(out, "new", name="other")
    with pytest.raises(ValueError, match="partly replace"):
        write(out, "new", splits=("train",))
    assert state(out) == "old" and not unfinished(out).exists()
    assert json.loads((out / "manifest.json").read_text())["name"] == "d"


def test_a_second_writer_waits(tmp_path, capsys):
    out, entered, go = tmp_path / "out", threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        (path / "first").touch()
        entered.set()
        go.wait(10)

    first = threading.Thread(target=folder.replace_folder, args=(out, lambda _: set(), slow))
    second = threading.Thread(
        target=folder.replace_folder, args=(out, lambda _: {"first"}, lambda new: (new / "second").touch())
    )
    first.start()
    assert entered.wait(10)
    second.start()
    second.join(0.3)
    assert second.is_alive() and not out.exists()
    go.set()
    first.join(10)
    second.join(10)
    assert [path.name for path in out.iterdir()] == ["second"] and "waiting" in capsys.readouterr().err
