"""The commit marker of a checkpoint: `ccpo_state.json`, written last and atomically, when everything else is on the disk.

It lists the size of every file of its folder: one that has another size since (a copy cut short, a disk that lied) is found before
anything is loaded. A folder ``global_step_N`` without it is an unfinished save and is never resumed from. verl's own tracker file is written in
place, before any state that a subclass adds (`trainer_base.py::_save_checkpoint`), so it follows the marker, not the reverse.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from ccpo.config import CcpoConfig, ConfigError
from ccpo.credit.history import HistoryState
from ccpo.credit.rules import replays_per_prompt
from ccpo.run.folder import MARKER, TRACKER, step_folder, step_name, step_of

logger = logging.getLogger(__name__)

FORMAT = 2  # 1: before teams were programs


def write_atomic(path: Path, text: str) -> None:
    """Write to a temporary name, flush to disk, rename, flush the rename."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    _flush(path.parent)


def finished_steps(root: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending. Folders with other names (global_step_4.old) are none."""
    steps = (step_of(marker.parent.name) for marker in Path(root).glob(f"*/{MARKER}"))
    return sorted(step for step in steps if step is not None)


def begin(root: Path, step: int) -> None:
    """Make room for a save: whatever an earlier, interrupted or rewound job left at this step goes."""
    folder = step_folder(root, step)
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def commit(root: Path, step: int, config: CcpoConfig, n: int, history: HistoryState) -> None:
    """Mark the checkpoint complete."""
    folder = step_folder(root, step)
    state = {
        "format": FORMAT,
        "global_steps": step,
        "fingerprint": fingerprint(config, n),
        "history": history.to_dict(),
        "files": _flushed(folder),
    }
    _flush(Path(root))  # the folder's own entry
    write_atomic(folder / MARKER, json.dumps(state, indent=1))


def prune(root: Path, step: int, keep: int | None) -> None:
    """Drop all but the ``keep`` newest complete checkpoints up to ``step`` (None: keep all). What cannot be dropped stays, with a warning."""
    # Later ones are of a job before this one started again.
    done = [other for other in finished_steps(root) if other <= step]
    for old in done[: -keep if keep else 0]:
        try:
            begin(root, old)
        except OSError as error:
            logger.warning("the old checkpoint %s cannot be removed: %s", step_folder(root, old), error)


def _flush(path: Path) -> int:
    """Wait until a file or folder is on the disk and not only in its cache; its size in bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _flushed(folder: Path) -> dict[str, int]:
    """Name -> bytes of every file in the folder, all of them on the disk when this returns."""
    sizes = {}
    for path in sorted(folder.rglob("*")):
        size = _flush(path)
        if path.is_file():
            sizes[str(path.relative_to(folder))] = size
    _flush(folder)
    return sizes


def damage(folder: Path) -> str | None:
    """What is missing or has another size than when the checkpoint was saved; None if nothing is."""
    try:
        state = json.loads((folder / MARKER).read_text())
    except ValueError:
        return f"{MARKER} is not readable"
    for name, size in state.get("files", {}).items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, {size} were saved"
    return None


def rewind(root: Path, step: int) -> None:
    """Later checkpoints belong to a job that was started again from ``step``: nothing resumes from them, their weights stay."""
    for later in finished_steps(root):
        if later > step:
            marker = step_folder(root, later) / MARKER
            marker.replace(marker.with_name(MARKER + ".rewound"))


def to_resume(trainer: Mapping[str, Any]) -> Path | None:
    """The checkpoint that a job goes on from, as verl's ``trainer`` section says; None: it starts anew.

    Raises ConfigError when there are checkpoints and all are damaged: starting anew would hide that.
    """
    if trainer["resume_mode"] == "disable":
        return None
    if trainer["resume_mode"] == "resume_path":
        return Path(trainer["resume_from_path"]).absolute()
    root = Path(trainer["default_local_dir"]).absolute()
    found = {}
    for step in reversed(finished_steps(root)):
        if (what := damage(step_folder(root, step))) is None:
            return step_folder(root, step)
        found[step] = what
        logger.warning("%s is damaged and is passed over: %s", step_folder(root, step), what)
    if found:
        listed = "; ".join(f"{step_name(step)}: {what}" for step, what in found.items())
        raise ConfigError(
            [
                f"every checkpoint in {root} is damaged ({listed}): restore one, or start anew with another trainer.default_local_dir"
            ]
        )
    return None


def point_tracker_at(root: Path, folder: Path | None) -> None:
    """Make verl's tracker name this checkpoint (None: no checkpoint, and no tracker)."""
    if folder is None:
        (Path(root) / TRACKER).unlink(missing_ok=True)
    else:
        write_atomic(Path(root) / TRACKER, str(step_of(folder.name)))


def restore(folder: Path, config: CcpoConfig, n: int) -> HistoryState:
    """Read a checkpoint's history.

    Raises ConfigError when the folder is no complete ccpo checkpoint, is damaged, or was trained with another rule.
    """
    marker = Path(folder) / MARKER
    if not marker.exists():
        raise ConfigError(
            [
                f"{folder} has no {MARKER}: it is no complete ccpo checkpoint; choose another one in trainer.resume_from_path"
            ]
        )
    if what := damage(Path(folder)):
        raise ConfigError([f"{folder} is damaged: {what}; choose another one in trainer.resume_from_path"])
    state = json.loads(marker.read_text())
    if state.get("format") != FORMAT:
        raise ConfigError(
            [
                f"{folder} was saved by an earlier version of ccpo (format {state.get('format')}, this one writes {FORMAT}), whose history "
                "means something else: it is not resumed. Its weights are whole; python -m verl.model_merger merge --backend fsdp --local_dir "
                f"{Path(folder) / 'POLICY'} --target_dir OUT makes a model of them to start from; set another trainer.default_local_dir"
            ]
        )
    mine = fingerprint(config, n)
    differing = sorted(
        key for key in mine.keys() | state["fingerprint"].keys() if state["fingerprint"].get(key) != mine.get(key)
    )
    if differing:
        raise ConfigError(
            [
                f"{folder} was trained with {key}={state['fingerprint'].get(key)!r}, this job has {mine.get(key)!r}: its history does not "
                "fit; set it back, or start anew with another trainer.default_local_dir"
                for key in differing
            ]
        )
    return HistoryState.from_dict(state["history"])


def fingerprint(config: CcpoConfig, n: int) -> dict[str, object]:
    """The settings that give the history its meaning, as JSON gives them back."""
    team, plan, credit = config.members, config.plan, config.credit
    settings = asdict(team) if is_dataclass(team) else {}
    found = {
        "ccpo.team": type(team).__name__,
        **{f"ccpo.team_kwargs.{name}": value for name, value in settings.items()},
        "who hears whom": {_place(spot): sorted(map(_place, plan.hears[spot])) for spot in plan.turns},
        "ccpo.policies": {policy.name: list(policy.roles) for policy in config.policy_list()},
        "ccpo.schedule": [config.schedule.mode, config.schedule.every, config.schedule.first],
        "ccpo.credit.rule": credit.rule,
        "ccpo.credit.normalize": config.normalization,
        "ccpo.credit.coefficient": credit.coefficient,
        "ccpo.credit.replays_per_prompt": replays_per_prompt(credit, n),
        "ccpo.credit.resamples": credit.resamples,
        "ccpo.credit.shaping": [credit.shaping, credit.alpha],
        "ccpo.credit.train_replays": [credit.train_replays, credit.eta],
        "ccpo.history": [config.history.decay, config.history.floor],
    }
    return json.loads(json.dumps(found, default=str))


def _place(spot: tuple[str, int]) -> str:
    return f"{spot[0]} {spot[1]}"
