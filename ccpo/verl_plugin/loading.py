"""Reading what others could have written, without running it: torch files as plain data.

A pickle names functions and is read by calling them. torch's `weights_only` calls those of a fixed list, which holds all that a checkpoint of
a job is made of (tensors, shards, containers, numbers), except the state of numpy's random numbers. numpy's own functions are
not let in for it: a forged type makes them read memory at any address. `_Words` takes their place.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.tensor  # puts shards on torch's list

FORCE, NEVER = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class _Word:
    """Stands for numpy's type of 32-bit unsigned integers, the only one of a random state."""

    def __init__(self, name: str, *_: Any) -> None:
        if name != "u4":
            raise pickle.UnpicklingError(f"an array of type {name}, where only numpy's random state may be one")

    def __setstate__(self, state: tuple) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError(f"an array of byte order {state[1]}")


class _Words(list):
    """Stands for a numpy array of 32-bit integers; `numpy.random.set_state` takes a list as well."""

    def __setstate__(self, state: tuple) -> None:
        _, _, kind, _, data = state
        if type(kind) is not _Word or type(data) is not bytes:
            raise pickle.UnpicklingError("an array that is no random state of numpy")
        self[:] = np.frombuffer(data, np.dtype("<u4")).tolist()


def _words(*_: Any) -> _Words:
    return _Words()


def know_random_states() -> None:
    """Let `weights_only` read numpy's random state, as a list of numbers."""
    stand_ins = [(_Word, "numpy.dtype"), (_Words, "numpy.ndarray")]
    for module in ("numpy._core", "numpy.core"):  # numpy 2 and 1
        stand_ins.append((_words, f"{module}.multiarray._reconstruct"))
    torch.serialization.add_safe_globals(stand_ins)


def plain_data_only() -> None:
    """From now on every `torch.load` of this process, and of those that it starts, takes plain data alone, whatever its caller asks for."""
    os.environ.pop(NEVER, None)
    os.environ[FORCE] = "1"
    know_random_states()


def more_than_data(files: Iterable[Path]) -> list[str]:
    """What is wrong with each torch file whose reading would call more than `plain_data_only` lets it, in words. Reads no tensor."""
    know_random_states()
    found = []
    for path in files:
        try:
            calls = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        except Exception as error:
            line = str(error).splitlines()[0] if str(error) else ""
            found.append(f"{path} is no file as torch.save writes it ({type(error).__name__}: {line})")
            continue
        if calls:
            found.append(
                f"{path} is more than data: reading it would call {', '.join(sorted(calls))}, so that whoever can write there could run commands"
            )
    return found


CONVERT = (
    "python -m verl.model_merger merge --backend fsdp --local_dir {folder} --target_dir OUT reads shards whatever they call, in a place where "
    "nothing can be lost, and makes a safetensors model of them, to start from (actor_rollout_ref.model.path)"
)
"""For who knows where such a file is from."""
