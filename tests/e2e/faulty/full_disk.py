"""As ccpo.verl_cpu.workers, on a disk that is full when the optimizer of step 4 is saved."""

import errno
import os

import torch

from ccpo.verl_cpu import workers  # noqa: F401

save = torch.save


def save_until_full(value, path, *args, **kwargs):
    if "global_step_4" in str(path) and "optim" in str(path):
        with open(path, "wb") as stream:
            stream.write(b"as far as it went")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return save(value, path, *args, **kwargs)


torch.save = save_until_full
