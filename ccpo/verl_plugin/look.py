"""What a node of Ray sees of a job. It may have nothing of ours, so this module is sent there as it is, and uses the standard library alone."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

# Bytes of a file up to which its content counts, and not only its size: all of the code, but no weights.
WHOLE = 1 << 18
DOOR_SECONDS = 10.0
LATE_SECONDS = 40.0  # in which a network file system shows what another node has written


class Look:
    """A process on a node."""

    def see(self, code: str, folder: str, packages: Iterable[str], paths: Iterable[str]) -> dict[str, str]:
        """Whatever must be the same on every node; what is not there has an empty text.

        Args:
            code: name of our package.
            folder: that in which the job works.
            packages: names of distributions.
            paths: files and folders that are read.
        """
        spec = importlib.util.find_spec(code)
        root = str(Path(spec.origin).parent) if spec and spec.origin else ""
        found = {"python": platform.python_version(), "root": root, "code": stamp(root)}
        found["folder"] = folder if os.path.isdir(folder) else ""
        return found | {f"package {name}": _version(name) for name in packages} | {path: stamp(path) for path in paths}

    def reads(self, path: str, content: bytes) -> str:
        """Why a file that another node has written is not here; empty if it is."""
        deadline = time.monotonic() + LATE_SECONDS
        while True:
            try:
                if Path(path).read_bytes() == content:
                    return "" if os.access(Path(path).parent, os.W_OK | os.X_OK) else "it cannot write there"
                why = "it finds another file there"
            except OSError as error:
                why = error.strerror or type(error).__name__
            if time.monotonic() > deadline:
                return why
            time.sleep(1)

    def open(self, address: str) -> tuple[str, int]:
        """A door at a port that is drawn by chance, as almost all of a job's are."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._door = socket.create_server((address, 0), family=family)
        threading.Thread(target=self._answer, daemon=True).start()
        return address, self._door.getsockname()[1]

    def _answer(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                self._door.accept()[0].close()

    def closed(self, doors: list[tuple[str, int]]) -> list[str]:
        """Those addresses of others that cannot be reached from here."""
        with ThreadPoolExecutor(32) as pool:
            return [door[0] for door, found in zip(doors, pool.map(_answers, doors), strict=True) if not found]


def _answers(door: tuple[str, int]) -> bool:
    try:
        socket.create_connection(door, DOOR_SECONDS).close()
        return True
    except OSError:
        return False


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def stamp(path: str) -> str:
    """Two files or folders that a job could use in each other's place have the same."""
    root = Path(path)
    if not path or not root.exists():
        return ""
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
        if file.suffix == ".pyc" or not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.relative_to(root)} {size} ".encode())
        if size <= WHOLE:
            digest.update(file.read_bytes())
    return digest.hexdigest()
