"""One job, one folder: a lock that lasts as long as the process that holds it, however that ends.

A `flock` on the file LOCK of the run's folder: the kernel releases it with the holder, and it is the same lock through a symlink, a relative
path or another mount. The file says who holds it. It is taken before anything else is written, and leaves nothing behind: neither the file
nor a folder that was made for it and stayed empty. A file that a killed holder has left means nothing.

The file can be deleted, and the folder moved, under a running job. So the folder's own descriptor is locked, too, where the file system
lets it, and the holder asks now and then whether the folder is still its own (`Hold.check`; pulse.py does, every second).

scripts/quickstart.py holds it from its preparation on and hands it to the trainer that it starts (`handed_on`): both hold one lock, and it
lasts until the last of the two has ended.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ccpo.config import ConfigError
from ccpo.run.folder import LOCK, Moved, Place, moved

HANDED_ON = "CCPO_RUN_LOCK"
"""Environment variable: the file descriptors of a lock that the parent process holds."""
HELD = (errno.EWOULDBLOCK, errno.EACCES)
LONGEST = 500  # characters of a command in a message
TRIES = 100  # a lock file that goes away between its opening and its locking is opened anew


class Held(ConfigError):
    """Another process holds the folder. ``holder``: who, in words."""

    def __init__(self, problems: list[str], holder: str = "another process"):
        super().__init__(problems)
        self.holder = holder

    def __reduce__(self):
        return type(self), (self.problems, self.holder)


@dataclass(frozen=True)
class Hold:
    """A folder that is held."""

    path: Path  # of the lock file
    file: int
    folder: int  # descriptor of the folder itself
    whole: bool  # whether that is locked, too: network file systems may lock files alone
    place: Place

    @property
    def descriptors(self) -> tuple[int, int]:
        """What a child must inherit (``pass_fds``) to hold the folder with this process."""
        return self.file, self.folder

    def check(self) -> None:
        """Raises Moved when the folder is no longer ours, so that another job may have it: it is gone, or another one has its name."""
        self.place.check()
        if not (self.whole or _is_at(self.path, self.file)):
            raise Moved(moved(self.path.parent))


@contextmanager
def run_lock(folder: Path) -> Iterator[Hold]:
    """Hold the run's folder, which is made if it is missing.

    Raises ConfigError when another process holds it (`Held`, with its pid and command), or when nothing can be locked there. The folder is
    then as it was.
    """
    path = Path(folder).absolute() / LOCK
    hold = _from_parent(path)
    ours = hold is None
    made: list[Path] = []
    try:
        if hold is None:
            hold = _taken(path, made)
        _forked.update(hold.descriptors)
        _sign(hold.file, path)
        yield hold
    finally:
        if hold is not None:
            _forked.difference_update(hold.descriptors)
            # First the folder: who finds no file must not find a folder that is still locked.
            # A child that is being forked has the same open folder for an instant more.
            if ours and hold.folder not in _shared:
                with suppress(OSError):
                    fcntl.flock(hold.folder, fcntl.LOCK_UN)
            _shared.discard(hold.folder)
            os.close(hold.folder)
            if ours:
                _remove(path, hold.file)
            os.close(hold.file)
        for parent in reversed(made):
            with suppress(OSError):  # something is in it: it stays
                parent.rmdir()


def holder_of(folder: Path) -> str | None:
    """Who trains in a folder now, in words; None where nobody does, as far as its lock file says. Nothing is written, and a lock that is free is
    shared for an instant alone."""
    path = Path(folder) / LOCK
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _holder(path) if error.errno in HELD else None
    finally:
        os.close(file)
    return None


def handed_on(hold: Hold) -> Mapping[str, str]:
    """What the environment of a child must have, besides the descriptors themselves, to hold the folder with this process."""
    _shared.add(hold.folder)
    return {HANDED_ON: ",".join(map(str, hold.descriptors))}


def _from_parent(path: Path) -> Hold | None:
    """The parent's lock, if there is one and it is that of this folder."""
    text = os.environ.pop(HANDED_ON, "")  # not for children of this process
    try:
        file, folder = map(int, text.split(","))
        if not (_is_at(path, file) and _is_at(path.parent, folder)):
            return None
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hold = Hold(path, file, folder, _locks(folder), Place(path.parent))
        for descriptor in hold.descriptors:
            os.set_inheritable(descriptor, False)
        return hold
    except (ValueError, OverflowError, OSError):
        return None


def _taken(path: Path, made: list[Path]) -> Hold:
    """A lock that was free. ``made``: gets the folders that had to be made."""
    for _ in range(TRIES):
        try:
            _make(path.parent, made)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not path.parent.is_symlink():
                continue  # its last holder has just removed the folder
            raise ConfigError([_unusable(path.parent, error)]) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            raise _refused(path, error) from None
        hold = _with_folder(path, file) if _is_at(path, file) else None
        if hold is not None:
            return hold
        os.close(file)  # its last holder has just removed it: this one locks nothing
    raise ConfigError(
        [f"{path} comes and goes: other processes start in {path.parent} all the time; choose another folder"]
    )


def _with_folder(path: Path, file: int) -> Hold | None:
    """The folder of a file that is locked, locked as well; None where it has just been removed.

    Raises Held, with everything as it was, where somebody holds the folder: the file is a new one, and the holder's was deleted.
    """
    folder = None
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        hold = Hold(path, file, folder, _locks(folder), Place(path.parent))
        if _is_at(path.parent, folder):
            return hold
        os.close(folder)
        return None
    except OSError as error:
        _remove(path, file)
        for descriptor in filter(None, (folder, file)):
            os.close(descriptor)
        if folder is None:
            raise ConfigError([_unusable(path.parent, error)]) from None
        raise _refused(path, error) from None


def _locks(folder: int) -> bool:
    """Lock a folder's descriptor; False where the file system locks none. Raises OSError where somebody else holds it."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            raise
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove(path: Path, descriptor: int) -> None:
    with suppress(OSError):
        if _is_at(path, descriptor):  # not that of a job in a folder that was deleted and made again
            path.unlink()


def _make(folder: Path, made: list[Path]) -> None:
    missing = []
    while not folder.exists() and not folder.is_symlink():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        with suppress(FileExistsError):
            folder.mkdir()
            made.append(folder)


def _refused(path: Path, error: OSError) -> ConfigError:
    if error.errno in HELD:
        holder = _holder(path)
        return Held(
            [
                f"{path.parent} is in use: {holder} trains there, and two jobs in one folder would mix their checkpoints. Wait for it, "
                "or end it, or choose another folder (trainer.default_local_dir; OUT of the recipes, --out of the quickstart)"
            ],
            holder,
        )
    return ConfigError(
        [
            f"{path.parent} is on a file system that cannot lock files ({error.strerror}), so a second job in it would not be noticed and would "
            "mix its checkpoints with this one's: choose a folder on another file system (trainer.default_local_dir, OUT), or mount this one "
            "with locks (NFS: version 4; Lustre: -o flock)"
        ]
    )


def _unusable(folder: Path, error: OSError) -> str:
    return (
        f"the run's folder {folder} cannot be written ({error.strerror}: {error.filename}): checkpoints and the log go there; mend that, or choose "
        "another folder (trainer.default_local_dir, OUT)"
    )


def _sign(descriptor: int, path: Path) -> None:
    """Write down who holds the lock."""
    command = shlex.join(sys.orig_argv)
    note = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "command": command}) + "\n"
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, note.encode(errors="replace"), 0)
    except OSError as error:
        raise ConfigError([_unusable(path.parent, OSError(error.errno, error.strerror, str(path)))]) from None


def _holder(path: Path) -> str:
    """Who holds the lock, as far as the file says so: it is empty for an instant when a lock was just taken."""
    try:
        note = json.loads(path.read_bytes())
        where = "" if note["host"] == socket.gethostname() else f" on {note['host']}"
        return f"process {int(note['pid'])}{where} ({str(note['command'])[:LONGEST]})"
    except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return "another process"


_forked: set[int] = set()
_shared: set[int] = set()  # folders that were handed on: a child may outlive this process, and must keep them


def _let_go() -> None:
    """A forked child is another process: the lock must not outlive its holder there."""
    for descriptor in _forked:
        with suppress(OSError):
            os.close(descriptor)
    _forked.clear()


os.register_at_fork(after_in_child=_let_go)
