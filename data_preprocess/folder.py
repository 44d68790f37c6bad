"""Replacing a folder as a whole: whoever looks sees the old files or the new ones, never a mixture, whenever the process is killed.

The new folder is written beside the old one, flushed, and swapped with it in one step of the kernel's (Linux: renameat2 with
RENAME_EXCHANGE). Where the file system cannot do that, the old folder is renamed away first; a kill between the two renames leaves
``.NAME.ccpo-old``, which the next replacement puts back and the readers (``ccpo.data``) name. Only what we wrote is ever deleted.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ccpo.data import unfinished

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def replace_folder(out: Path, check: Callable[[Path], set[str]], write: Callable[[Path], None]) -> None:
    """Make ``out`` hold what ``write`` puts into the empty folder that it is given.

    ``check``: names of the files in ``out`` that may go; raises ValueError if it is not ours to replace. A link is followed. Two
    processes that write into one parent folder do so one after the other. Raises ValueError, with the old files in place, where ``out``
    holds other files too, or the system refuses.
    """
    out = Path(os.path.realpath(out))
    try:
        if out == Path.cwd():
            raise ValueError(
                f"{out} is the folder that this command runs in, which it cannot replace; choose another --out"
            )
        if out == out.parent:
            raise ValueError(
                f"{out} is the root of this machine's files, which nothing can replace; choose another --out"
            )
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; choose another --out")
        out.parent.mkdir(parents=True, exist_ok=True)
        with _alone(out.parent):
            _replace(out, check, write)
    except OSError as error:
        raise ValueError(
            f"{out} cannot be replaced as a whole ({error}); choose another --out, a folder yet to be made"
        ) from error


def _replace(out: Path, check: Callable[[Path], set[str]], write: Callable[[Path], None]) -> None:
    old, new = unfinished(out), out.with_name(f".{out.name}.ccpo-new")
    if old.exists() and not (out.exists() and any(out.iterdir())):
        old.rename(out)
    for left in (old, new):  # by a process that was killed; the files of out are whole
        shutil.rmtree(left, ignore_errors=True)
    going = check(out) if out.exists() else set()
    refuse_others(out, going)
    new.mkdir()
    try:
        write(new)
        if out.exists():
            new.chmod(stat.S_IMODE(out.stat().st_mode))
        for path in (*new.iterdir(), new):
            _flush(path)
        gone = _swap(new, out, old)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    _flush(out.parent)
    if gone is not None and not _others(gone, going):  # nobody has put a file there meanwhile
        shutil.rmtree(gone, ignore_errors=True)


def refuse_others(out: Path, going: set[str]) -> None:
    """Raise ValueError if ``out`` holds anything but files of these names."""
    if others := _others(out, going):
        raise ValueError(
            f"{out} also holds {', '.join(others[:5])}, which this command did not write: it replaces the folder as a whole; move that away, or "
            "choose another --out"
        )


def _swap(new: Path, out: Path, old: Path) -> Path | None:
    """Put ``new`` in the place of ``out``; where the replaced folder is now, if there was one."""
    if not out.exists():
        new.rename(out)
        return None
    if _exchange(new, out):
        return new
    out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        old.rename(out)
        raise
    return old


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one step; False, and nothing done, where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    return renameat2 is not None and not renameat2(
        _AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE
    )


def _others(folder: Path, ours: set[str]) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ours) if folder.exists() else []


@contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """Hold the lock on writing into ``parent``. It is the folder's own, so that nothing is left behind."""
    number = os.open(parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another command that writes into {parent}", file=sys.stderr)
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _flush(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's names."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
