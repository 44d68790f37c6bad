"""Files that another could have written are read as data: verl's real resume code, torch's rules, and what a checkpoint is made of."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest

verl = pytest.importorskip("verl")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from verl.model_merger import fsdp_model_merger  # noqa: E402
from verl.trainer.ppo.v1 import trainer_base  # noqa: E402
from verl.utils.checkpoint import fsdp_checkpoint_manager  # noqa: E402
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager  # noqa: E402

from ccpo.verl_plugin import loading  # noqa: E402

ROOT = Path(__file__).parents[2]
VERL = Path(verl.__file__).parent


class Evil:
    """A pickle that makes a folder when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def as_in_a_job(monkeypatch):
    """Loads behave as in every process of a job; afterwards as before."""
    monkeypatch.setenv(loading.FORCE, "0")
    monkeypatch.setenv(loading.NEVER, "1")
    loading.plain_data_only()


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """verl's checkpoint manager with a small model, its optimizer and schedule; and a checkpoint that it wrote."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    model = torch.nn.Linear(4, 2)
    model.config, model.can_generate = Config(), lambda: False
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    contents = {"save_contents": ["model", "optimizer", "extra"], "load_contents": ["model", "optimizer", "extra"]}
    found = FSDPCheckpointManager(model, optimizer, schedule, checkpoint_config=contents)
    found.save_checkpoint(str(tmp_path / "actor"))
    yield found
    torch.distributed.destroy_process_group()


class Config:
    architectures, name_or_path = ["Linear"], ""

    def save_pretrained(self, folder):
        (Path(folder) / "config.json").write_text(json.dumps({}))


def test_verl_still_reads_checkpoints_as_pickles():
    """When these fail, `plain_data_only` may have less to do, or something new to look at."""
    loads = {
        fsdp_checkpoint_manager: 3,
        trainer_base: 1,
        fsdp_model_merger: 2,
    }
    for module, number in loads.items():
        text = inspect.getsource(module)
        assert text.count("torch.load(") == text.count("weights_only=False") == number, module
        assert "pickle.load" not in text


def test_verl_resumes_what_it_saved_and_the_random_numbers_go_on(as_in_a_job, manager, tmp_path):
    expected = np.random.random(), random.random(), torch.rand(1).item()
    manager.load_checkpoint(str(tmp_path / "actor"))
    assert (np.random.random(), random.random(), torch.rand(1).item()) == expected
    assert loading.more_than_data(sorted((tmp_path / "actor").glob("*.pt"))) == []


@pytest.mark.parametrize("kind", ["model", "optim", "extra_state"])
@pytest.mark.parametrize("how", ["zip", "old format", "bare pickle"])
def test_verls_resume_runs_nothing(as_in_a_job, manager, tmp_path, kind, how):
    file, mark = tmp_path / "actor" / f"{kind}_world_size_1_rank_0.pt", tmp_path / "ran"
    if how == "bare pickle":
        file.write_bytes(pickle.dumps(Evil(mark)))
    else:
        torch.save({"rng": Evil(mark)}, file, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        manager.load_checkpoint(str(tmp_path / "actor"))
    assert not mark.exists()
    (said,) = loading.more_than_data([file])
    assert str(file) in said and ("mkdir" in said if how == "zip" else "no file as torch.save writes it" in said)


def test_the_trap_works_where_nothing_is_forced(manager, tmp_path, monkeypatch):
    monkeypatch.delenv(loading.FORCE, raising=False)
    file = tmp_path / "actor" / "extra_state_world_size_1_rank_0.pt"
    torch.save({"lr_scheduler": None, "x": Evil(tmp_path / "ran")}, file)
    manager.load_checkpoint(str(tmp_path / "actor"))
    assert (tmp_path / "ran").exists()


def test_the_data_loaders_state_is_data(as_in_a_job, tmp_path):
    from torchdata.stateful_dataloader import StatefulDataLoader
    from torchdata.stateful_dataloader.sampler import RandomSampler

    sampler = RandomSampler(range(8), generator=torch.Generator())
    loader = StatefulDataLoader(list(range(8)), batch_size=2, sampler=sampler)
    rows = iter(loader)
    next(rows)
    torch.save(loader.state_dict(), tmp_path / "data.pt")
    assert loading.more_than_data([tmp_path / "data.pt"]) == []
    loader.load_state_dict(torch.load(tmp_path / "data.pt", weights_only=False))


class Forged:
    """A numpy array whose type says that these bytes are addresses of objects: looking at it reads there."""

    def __init__(self, kind: str = "O8", data: bytes = b"AAAAAAAA") -> None:
        self.kind, self.data = kind, data

    def __reduce__(self):
        shape = (1, (1,), _Type(self.kind), False, self.data)
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), shape


class _Type:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self):
        return np.dtype, (self.kind, False, True), (3, "|", None, None, None, -1, -1, 0)


@pytest.mark.parametrize("forged", [Forged(), Forged("V8"), Forged("f4"), Forged("u4", b"AAAA")])
def test_of_numpy_only_a_random_state_is_read(as_in_a_job, tmp_path, forged):
    """The last one has no byte order: nothing but what numpy itself writes is let in."""
    torch.save({"numpy": forged}, tmp_path / "file.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "file.pt", weights_only=False)


def test_every_process_of_verl_reads_data_alone():
    code = """
    import os
    os.environ |= dict(VERL_USE_EXTERNAL_MODULES="ccpo.verl_plugin.process", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    import verl
    print(os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"], "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" in os.environ)
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "1 False", done.stderr[-2000:]


def test_transformers_still_reads_models_that_are_pickles_as_data():
    from transformers.modeling_utils import load_state_dict

    assert inspect.signature(load_state_dict).parameters["weights_only"].default is True
