"""A job that was ended between its last save and its last log line: what is logged, validated and left."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from verl.trainer.ppo.v1 import PPOTrainerSync  # noqa: E402

from ccpo.config import CcpoConfig  # noqa: E402
from ccpo.credit.history import HistoryState  # noqa: E402
from ccpo.run import checkpoint  # noqa: E402
from ccpo.run.folder import METRICS, SESSIONS  # noqa: E402
from ccpo.run.run_log import RunLog, read_run_log  # noqa: E402
from ccpo.run.session_log import SessionLog, read_sessions  # noqa: E402
from ccpo.verl_plugin.faults import Watchdog  # noqa: E402
from ccpo.verl_plugin.trainer import CcpoTrainer  # noqa: E402

CONFIG = CcpoConfig.from_dict({}, n=4)


def save(root, step):
    checkpoint.begin(root, step)
    folder = checkpoint.step_folder(root, step)
    folder.mkdir(parents=True)
    checkpoint.keep_metrics(root, step, {"a": step / 2})
    checkpoint.commit(root, step, CONFIG, 4, HistoryState())
    return folder


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """A trainer as verl has set it up; loading is verl's, and here only says the step."""
    (tmp_path / "run").mkdir()
    made = object.__new__(CcpoTrainer)
    made.config = SimpleNamespace(
        trainer=Settings(
            default_local_dir=str(tmp_path / "run"), resume_mode="auto", resume_from_path=None, test_freq=2
        )
    )
    made.run_dir, made.run_log = tmp_path / "run", RunLog(tmp_path / "run" / METRICS)
    made.session_log = SessionLog(made.run_dir / SESSIONS, 10**6, made.run_log.check_place)
    made.ccpo, made.n, made.keep, made.total_training_steps = CONFIG, 4, 1, 4
    made._attach_policies = lambda: None
    made.watchdog, made._processes = Watchdog(made.run_dir, 100.0), dict
    made._folders = nullcontext

    def load(self):
        self.global_steps = max([0, *checkpoint.finished_steps(self.run_dir)])
        if self.config.trainer.resume_mode == "resume_path":  # as verl reads it
            self.global_steps = int(self.config.trainer.resume_from_path.split("global_step_")[-1])

    monkeypatch.setattr(PPOTrainerSync, "_load_checkpoint", load)
    return made


class Settings(dict):
    __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__


def lines(trainer):
    path = trainer.run_log.path
    return [(entry["step"], entry["kind"]) for entry in read_run_log(path)] if path.exists() else []


def test_a_step_that_was_saved_and_not_logged_is_logged_from_its_checkpoint(trainer):
    trainer.run_log.write(1, "train", {"a": 0.1})
    save(trainer.run_dir, 2)
    trainer._load_checkpoint()
    assert lines(trainer) == [(1, "train"), (2, "train")]
    assert read_run_log(trainer.run_log.path)[-1]["metrics"] == {"a": 1.0}
    before = trainer.run_log.path.read_bytes()
    trainer._load_checkpoint()
    assert trainer.run_log.path.read_bytes() == before


def test_sessions_of_later_steps_are_forgotten_and_those_of_half_a_validation(trainer):
    facts = {"source": "toy", "index": 0, "session": 0, "question": "Q?", "value": 1.0, "turns": [], "replays": []}
    for step in (0, 2, 3):
        trainer.session_log.write(step, "val", [facts])
        trainer.session_log.write(step, "train", [facts])
    trainer.run_log.write(0, "val", {})
    save(trainer.run_dir, 2)
    trainer._load_checkpoint()
    found = [(entry["step"], entry["kind"]) for entry in read_sessions(trainer.session_log.path)]
    assert found == [(0, "train"), (0, "val"), (2, "train")]


def test_a_logged_step_stays_as_it_was_logged(trainer):
    trainer.run_log.write(2, "train", {"a": 0.3, "timing_s/step": 1.0})
    trainer.run_log.write(3, "train", {"a": 0.1})
    save(trainer.run_dir, 2)
    trainer._load_checkpoint()
    assert lines(trainer) == [(2, "train")]
    assert read_run_log(trainer.run_log.path)[-1]["metrics"] == {"a": 0.3, "timing_s/step": 1.0}


def test_another_runs_step_is_not_logged_here(trainer, tmp_path):
    folder = save(tmp_path / "other", 2)
    trainer.config.trainer.update(resume_mode="resume_path", resume_from_path=f"{folder}/")
    trainer._load_checkpoint()
    assert lines(trainer) == [] and trainer.global_steps == 2


@pytest.mark.parametrize(
    "step, logged, settings, validates",
    [
        (4, [], {}, True),
        (4, ["val"], {}, False),
        (4, [], {"test_freq": -1}, True),  # before training is asked for, and this is all that is left
        (4, [], {"test_freq": -1, "val_before_train": False}, False),
        (4, [], {"val_before_train": False}, True),
        (5, [], {}, True),
        (2, ["val"], {"val_before_train": True}, True),
        (2, [], {"val_before_train": False}, False),
        (4, ["val"], {"val_only": True, "val_before_train": True}, True),
    ],
)
def test_a_job_with_nothing_left_to_train_validates_if_it_had_not(trainer, step, logged, settings, validates):
    trainer.config.trainer.update(settings)
    trainer.global_steps = step
    for kind in logged:
        trainer.run_log.write(step, kind, {})
    trainer._only_finish()
    assert trainer.config.trainer.get("val_before_train", True) == validates


def test_a_finished_job_keeps_no_more_checkpoints_than_it_was_told(trainer):
    for step in (2, 4):
        save(trainer.run_dir, step)
    trainer.global_steps = 4
    trainer._only_finish()
    assert checkpoint.finished_steps(trainer.run_dir) == [4]
