"""Data files under names that the datasets library takes as they are.

To it a file's name is a pattern and more: [2024] matches one character, * reads other files too, $HOME is a variable, a::b a chain of file systems.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from ccpo.verl_plugin.dataset import files

PLAIN = re.compile(r"[\w./ -]+")


@contextmanager
def plain_names(data: DictConfig) -> Iterator[None]:
    """Inside, ``data.train_files`` and ``data.val_files`` name links wherever a name is not plain."""
    before = {key: data[key] for key in ("train_files", "val_files")}
    with tempfile.TemporaryDirectory(prefix="ccpo-") as folder:
        for key, value in before.items():
            data[key] = [_plain(path, Path(folder) / f"{key}_{number}") for number, path in enumerate(files(value))]
        try:
            yield
        finally:
            for key, value in before.items():
                data[key] = value


def _plain(path: str, link: Path) -> str:
    if PLAIN.fullmatch(path) or not os.path.exists(path):  # another machine's file is verl's to fetch
        return path
    link = link.with_suffix(Path(path).suffix)  # verl tells formats apart by it
    link.symlink_to(os.path.abspath(path))
    return str(link)
