"""One job, one folder: who gets the lock, who is told what, and what is left."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ccpo.config import ConfigError
from ccpo.run import lock
from ccpo.run.folder import LOCK, Moved
from ccpo.run.lock import HANDED_ON, Held, handed_on, run_lock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from ccpo.run.lock import run_lock
with run_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
CONTEND = """
import sys
from ccpo.run.lock import Held, run_lock
print("ready", flush=True)
sys.stdin.readline()
try:
    with run_lock(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
except Held:
    print("refused", flush=True)
"""


def start(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path/run."""
    process = start(HOLD, tmp_path / "run")
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def tree(folder):
    """Everything below a folder: names, contents, times."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }


def test_the_second_job_is_told_who_trains_there_and_changes_nothing(tmp_path, holder):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "run" / "global_step_1").mkdir()
    before = tree(tmp_path)
    for way in (tmp_path / "run", tmp_path / "link", tmp_path / "run" / "..", Path(os.path.relpath(tmp_path / "run"))):
        way = way / "run" if way.name == ".." else way
        with pytest.raises(Held, match="in use") as caught, run_lock(way):
            pass
        assert f"process {holder.pid} " in str(caught.value) and "run_lock(sys.argv[1])" in str(caught.value)
        assert "trainer.default_local_dir" in str(caught.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_that_was_killed_holds_nothing(tmp_path, holder, number):
    holder.send_signal(number)
    holder.wait(30)
    with run_lock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / LOCK).exists()


def test_of_jobs_that_start_at_once_one_gets_the_folder(tmp_path):
    processes = [start(CONTEND, tmp_path / "run") for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    words = [process.stdout.readline().strip() for process in processes]
    assert sorted(words) == ["held", "refused", "refused", "refused"]
    for process in processes:
        process.communicate()


def test_jobs_that_take_turns_quickly_never_share_it(tmp_path):
    """Each removes the file, and the folder with it, while others try."""
    code = """
import os, sys
from pathlib import Path
from ccpo.run.lock import Held, run_lock
folder, mine, count = Path(sys.argv[1]), Path(sys.argv[2]), 0
while count < 100:
    try:
        with run_lock(folder):
            os.close(os.open(mine, os.O_CREAT | os.O_EXCL))
            os.unlink(mine)
            count += 1
    except Held:
        pass
"""
    processes = [start(code, tmp_path / "run", tmp_path / "exclusive") for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    for process in processes:
        process.communicate()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("there", [True, False])
def test_a_start_that_is_given_up_leaves_nothing(tmp_path, there):
    folder = tmp_path / "deep" / "run"
    if there:
        folder.mkdir(parents=True)
        (folder / "kept").touch()
    with pytest.raises(ConfigError, match="another reason"), run_lock(folder):
        raise ConfigError(["another reason"])
    assert [path.name for path in tmp_path.rglob("*")] == (["deep", "run", "kept"] if there else [])


def test_what_a_job_wrote_stays(tmp_path):
    with run_lock(tmp_path / "deep" / "run"):
        (tmp_path / "deep" / "run" / "metrics.jsonl").touch()
    assert [path.name for path in (tmp_path / "deep" / "run").iterdir()] == ["metrics.jsonl"]


def test_children_do_not_keep_the_lock(tmp_path):
    """Ray's daemons outlive a job that was killed; a child that was forked has the same open file."""
    with run_lock(tmp_path):
        daemon = subprocess.Popen(["sleep", "60"], close_fds=False)
        forked = os.fork()
        if not forked:
            signal.pause()
    try:
        with run_lock(tmp_path):
            pass
    finally:
        daemon.kill()
        daemon.wait()
        os.kill(forked, signal.SIGKILL)
        os.waitpid(forked, 0)


def test_a_child_takes_the_lock_over_and_keeps_it_when_its_parent_is_killed(tmp_path):
    child = HOLD.replace("sys.stdin.read()", "import signal; signal.pause()")
    code = f"""
import os, subprocess, sys
from ccpo.run.lock import handed_on, run_lock
with run_lock({str(tmp_path)!r}) as held:
    command = [sys.executable, "-c", {child!r}, {str(tmp_path)!r}]
    subprocess.run(command, pass_fds=held.descriptors, env={{**os.environ, **handed_on(held)}})
"""
    parent = start(code)
    assert parent.stdout.readline() == "held\n"  # the child's
    note = json.loads((tmp_path / LOCK).read_text())
    try:
        assert note["pid"] != parent.pid
        parent.kill()
        parent.wait(30)
        with pytest.raises(Held, match=f"process {note['pid']} "), run_lock(tmp_path):
            pass
    finally:
        os.kill(note["pid"], signal.SIGKILL)
        parent.communicate()


def test_the_parent_still_has_what_its_child_gives_back(tmp_path):
    code = f"import sys\nsys.path[:0] = [{str(ROOT)!r}]\nfrom ccpo.run.lock import run_lock\nwith run_lock({str(tmp_path)!r}): pass"
    with run_lock(tmp_path) as held:
        environment = {**os.environ, **handed_on(held)}
        subprocess.run([sys.executable, "-c", code], pass_fds=held.descriptors, env=environment, check=True)
        contender = start(CONTEND, tmp_path)
        assert contender.communicate("go\n")[0] == "ready\nrefused\n"


@pytest.mark.parametrize("text", ["", "7", "999999,9", "-1,-1", "x,y", "99999999999999999999,3", "1,1", "0,1,2"])
def test_a_descriptor_that_is_not_this_lock_gives_nothing(tmp_path, monkeypatch, holder, text):
    monkeypatch.setenv(HANDED_ON, text)
    with pytest.raises(Held), run_lock(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b"3",
        b"{}",
        b'{"pid": null, "host": 1, "command": []}',
        b"[" * 99999,
        b'{"pid": 1e999, "host": "h", "command": "c"}',
    ],
)
def test_a_note_that_cannot_be_read_is_no_obstacle(tmp_path, text):
    (tmp_path / LOCK).write_bytes(text)
    with (tmp_path / LOCK).open("r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(Held, match="process"), run_lock(tmp_path):
            pass
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.raises(ConfigError, match="cannot lock files.*another file system.*Lustre"), run_lock(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    "what", ["a file", "below a file", "a link to nowhere", "the lock is a folder", "the lock is a link"]
)
def test_a_folder_that_cannot_be_used_is_named(tmp_path, what):
    folder = tmp_path / "run"
    if what == "a link to nowhere":
        folder.symlink_to(tmp_path / "nowhere")
    elif what == "the lock is a folder":
        (folder / LOCK).mkdir(parents=True)
    elif what == "the lock is a link":
        folder.mkdir()
        (tmp_path / "thesis").write_text("precious")
        (folder / LOCK).symlink_to(tmp_path / "thesis")
    else:
        folder.write_text("precious")
        folder = folder / "x" if what == "below a file" else folder
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match="cannot be written.*another folder"), run_lock(folder):
        pass
    assert tree(tmp_path) == before


@pytest.mark.parametrize("call", ["pwrite", "mkdir", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_disk_or_a_folder_of_somebody_else_is_named(tmp_path, monkeypatch, number, call):
    def fails(*_):
        raise OSError(number, os.strerror(number), "somewhere")

    monkeypatch.setattr(lock.os, call, fails)
    with pytest.raises(ConfigError, match=os.strerror(number)), run_lock(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_folder_that_was_made_again_stays(tmp_path):
    folder = tmp_path / "run"
    with run_lock(folder):
        (folder / LOCK).unlink()
        (folder / LOCK).write_text("of another job")
    assert (folder / LOCK).read_text() == "of another job"


@pytest.mark.parametrize("how", ["the file is deleted", "the file is replaced"])
def test_without_its_file_the_folder_is_still_held(tmp_path, holder, how):
    file = tmp_path / "run" / LOCK
    file.unlink()
    if how == "the file is replaced":
        file.write_text("{}")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(Held, match="in use: another process trains there"), run_lock(tmp_path / "run"):
        pass
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) in (before, [])
    holder.kill()
    holder.wait(30)
    with run_lock(tmp_path / "run"):
        pass


def test_a_child_keeps_the_folder_without_its_file_when_its_parent_is_killed(tmp_path):
    child = HOLD.replace("sys.stdin.read()", "import signal; signal.pause()")
    code = f"""
import os, subprocess, sys
from ccpo.run.lock import handed_on, run_lock
with run_lock({str(tmp_path)!r}) as held:
    command = [sys.executable, "-c", {child!r}, {str(tmp_path)!r}]
    subprocess.run(command, pass_fds=held.descriptors, env={{**os.environ, **handed_on(held)}})
"""
    parent = start(code)
    assert parent.stdout.readline() == "held\n"  # the child's
    pid = json.loads((tmp_path / LOCK).read_text())["pid"]
    try:
        (tmp_path / LOCK).unlink()
        parent.kill()
        parent.wait(30)
        with pytest.raises(Held), run_lock(tmp_path):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        parent.communicate()


def remove(folder):
    (folder / LOCK).unlink()
    folder.rmdir()


def anew(folder):
    remove(folder)
    folder.mkdir()


LOSSES = {
    "moved": lambda folder: folder.rename(folder.with_name("elsewhere")),
    "removed": remove,
    "made anew": anew,
    "a file": lambda folder: (remove(folder), folder.touch()),
}


@pytest.mark.parametrize("how", LOSSES)
@pytest.mark.parametrize("whole", [True, False])
def test_who_loses_the_folder_is_told_before_it_writes_again(tmp_path, monkeypatch, how, whole):
    if not whole:
        monkeypatch.setattr(lock, "_locks", lambda folder: False)
    folder = tmp_path / "run"
    with run_lock(folder) as hold:
        hold.check()
        LOSSES[how](folder)
        with pytest.raises(Moved, match="moved, removed or made again.*trainer.default_local_dir"):
            hold.check()


@pytest.mark.parametrize("whole", [True, False])
def test_without_its_file_a_job_goes_on_only_where_the_folder_is_locked_too(tmp_path, monkeypatch, whole):
    if not whole:
        monkeypatch.setattr(lock, "_locks", lambda folder: False)
    with run_lock(tmp_path) as hold:
        (tmp_path / LOCK).unlink()
        if whole:
            hold.check()
        else:
            with pytest.raises(Moved):
                hold.check()


def test_a_disk_that_does_not_answer_ends_no_job(tmp_path, monkeypatch):
    with run_lock(tmp_path) as hold:

        def fails(*_):
            raise OSError(errno.EIO, "no answer")

        monkeypatch.setattr(Path, "stat", fails)
        hold.check()
