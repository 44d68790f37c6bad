"""The names of everything in a run's folder (``trainer.default_local_dir``).

    metrics.jsonl                one line per step and validation (run_log.py)
    sessions.jsonl               what was said in all validation sessions and a few training sessions (session_log.py)
    hydra/.hydra/config.yaml     the composed configuration of the job
    settings.json                the job's settings, resolved, with sums of its data and prompts (verl_plugin/resuming.py)
    global_step_N/               a checkpoint (checkpoint.py), complete when it has its marker ccpo_state.json
        step_metrics.json        what its step measured before it was saved
        settings.json            that of the job that saved it
        actor/ or POLICY/        shards of the only policy, or of each
    latest_checkpointed_iteration.txt
    run.lock                     who trains here now (lock.py); only while somebody does
    report.html                  what scripts/report.py draws
    quickstart.json, prepare.log, train.log      of scripts/quickstart.sh

Readers and writers take them from here, so that a name stands in one place.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ccpo.config import ConfigError

METRICS = "metrics.jsonl"
SESSIONS = "sessions.jsonl"
JOB = Path("hydra") / ".hydra" / "config.yaml"  # Hydra's own place; recipe/main_ccpo.py writes it, after every check
MARKER = "ccpo_state.json"
STEP_METRICS = "step_metrics.json"
SETTINGS = "settings.json"
LOCK = "run.lock"
REPORT = "report.html"

QUICKSTART = "quickstart.json"
PREPARE_LOG = "prepare.log"
TRAIN_LOG = "train.log"

# verl's own names (verl 0.9.1, trainer_base.py::_save_checkpoint)
TRACKER = "latest_checkpointed_iteration.txt"
ACTOR = "actor"  # folder of a policy that is alone
STEP = "global_step_"


FOLDERS = ("trainer.default_local_dir", "trainer.validation_data_dir", "trainer.rollout_data_dir")
"""Settings that name a folder that a job writes."""


def run_folder(value: object, setting: str = FOLDERS[0]) -> Path:
    """The folder that a setting means, ~ as a shell reads it. Raises ConfigError where it means none."""
    if not isinstance(value, str) or not value:
        quoting = f"a folder whose name reads like something else needs quotes that reach hydra, \"{setting}='2024'\""
        own = " (the recipes' OUT and the quickstart's --out take any name as it is)" if setting == FOLDERS[0] else ""
        raise ConfigError([f"{setting} is {value!r}, no text: {quoting}{own}"])
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value):
        raise ConfigError(
            [
                f"{setting} is {value!r}: {scheme[0]} names another machine's storage, and what is written must lie in a folder, where it can be "
                "locked, renamed and flushed; set a folder, or mount that storage as one"
            ]
        )
    folder = os.path.expanduser(value)
    if "\0" in value or folder.startswith("~"):
        why = (
            "it holds a NUL"
            if "\0" in value
            else f"there is no user {value.split('/')[0][1:]!r} here (a folder of that name is ./~...)"
        )
        raise ConfigError([f"{setting} is {value!r}: {why}; set another folder"])
    return Path(folder)


def step_name(step: int) -> str:
    return f"{STEP}{step}"


def step_folder(root: Path, step: int) -> Path:
    return Path(root) / step_name(step)


def step_of(name: str) -> int | None:
    """The step of a checkpoint folder's name; None for any other name (global_step_4.old)."""
    found = re.fullmatch(rf"{STEP}(0|[1-9][0-9]*)", name)  # one name per step: global_step_05 is none
    return int(found[1]) if found else None


def policy_folder(checkpoint: Path, policy: str, alone: bool) -> Path:
    """Where a checkpoint keeps a policy's shards; one that is ``alone`` keeps verl's own folder name."""
    return Path(checkpoint) / (ACTOR if alone else policy)


class Moved(RuntimeError):
    """A run's folder is no longer where the job writes."""


class Place:
    """A folder as it is now. A name says little: the folder may be moved away, and another job make a new one under the same name."""

    def __init__(self, folder: Path):
        self.folder = Path(folder).absolute()
        self._was = self.folder.stat()

    def check(self) -> None:
        """Raises Moved once no folder, or another one, has the name. A disk that does not answer says neither."""
        try:
            if os.path.samestat(self.folder.stat(), self._was):
                return
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:
            return
        raise Moved(moved(self.folder))


def moved(folder: Path) -> str:
    return (
        f"{folder} is not the folder any more in which this job began: it was moved, removed or made again meanwhile, and what is written "
        "under that name now could be mixed with another job's. The job ends; checkpoints that it had completed are where the folder is now. "
        "Name that one, or another one, in trainer.default_local_dir (OUT) and start again"
    )
