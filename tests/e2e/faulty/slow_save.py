"""As ccpo.verl_cpu.workers, on a disk so slow that a job can be killed inside a save."""

import time

import torch

from ccpo.verl_cpu import workers  # noqa: F401

save = torch.save


def save_slowly(value, path, *args, **kwargs):
    save(value, path, *args, **kwargs)
    if "optim" in str(path):
        time.sleep(2)


torch.save = save_slowly
