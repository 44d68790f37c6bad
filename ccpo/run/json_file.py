"""JSON that lies on a disk: written whole or not at all; and read as what could lie there, which is anything."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO


class Damaged(ValueError):
    """A file is not what we write under its name; its text says which and why."""


def open_file(path: Path) -> BinaryIO:
    """For reading. Raises OSError, also for a pipe, on which a reader would wait for ever, and a device."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        mode = os.fstat(number).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
        return os.fdopen(number, "rb")  # which refuses a folder
    except OSError:
        os.close(number)
        raise


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write text, as UTF-8, or bytes to a temporary name, flush to disk, rename, flush the rename. What was there stays when that fails. Raises
    OSError, also where something else than a file is there: a rename would replace a device."""
    if not path.name or (path.exists() and not path.is_file()):
        number = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(number, os.strerror(number) if path.is_dir() else "it is no file of a disk", str(path))
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    flush(path.parent)


def append(path: Path, lines: str) -> None:
    """Add whole lines and flush them to disk. A line that a full disk cut before is not to spoil them: they begin on a new one."""
    with path.open("ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                lines = "\n" + lines
        stream.write(lines.encode())
        stream.flush()
        os.fsync(stream.fileno())


def flush(path: Path) -> int:
    """Wait until a file or folder is on the disk and not only in its cache; its size in bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def parsed(content: bytes) -> Any:
    """What JSON says, in UTF-8. Raises ValueError for anything that is none, however deep or long."""
    try:
        return json.loads(
            content.decode("utf-8-sig")
        )  # bytes alone are taken with halves of pairs, which nothing can write again
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_object(path: Path, keys: Mapping[str, type]) -> dict[str, Any]:
    """The object in a file of ours, which has these keys with values of these types, and maybe more.

    Raises Damaged where it is anything else, or cannot be read.
    """
    try:
        with open_file(path) as stream:
            found = parsed(stream.read())
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise Damaged(f"{path.name} is not readable ({error})") from None
    if not isinstance(found, dict):
        raise Damaged(f"{path.name} is not readable (a {type(found).__name__}, where an object is expected)")
    for key, kind in keys.items():
        if type(found.get(key)) is not kind:
            what = f"{key} is a {type(found[key]).__name__}, not a {kind.__name__}" if key in found else f"has no {key}"
            raise Damaged(f"{path.name} is not readable ({what})")
    return found
