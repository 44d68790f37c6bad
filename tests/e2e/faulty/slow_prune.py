"""As ccpo.verl_plugin.faults, on a disk that removes checkpoints so slowly that a job can be killed meanwhile."""

import shutil
import time
from pathlib import Path

from ccpo.verl_plugin.faults import WatchedBuffer  # noqa: F401

rmtree = shutil.rmtree


def remove_slowly(path, *args, **kwargs):
    if Path(path).name.startswith("global_step_"):
        for file in sorted(path for path in Path(path).rglob("*") if path.is_file()):
            file.unlink()
            time.sleep(0.2)
    return rmtree(path, *args, **kwargs)


shutil.rmtree = remove_slowly
