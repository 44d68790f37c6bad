"""The commit marker of a checkpoint: `ccpo_state.json`, written last and atomically, when everything else is on the disk.

It lists the size and the SHA-256 of every file of its folder: one that has changed since (a copy cut short, a disk that lied) is found before
anything is loaded. That is against damage: who can write to the folder can write the marker, too. A folder ``global_step_N`` without it
is an unfinished save and is never resumed from. verl's own tracker file is written in place, before any state that a subclass adds
(`trainer_base.py::_save_checkpoint`), so it follows the marker, not the reverse.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from functools import partial
from io import BufferedIOBase, RawIOBase
from pathlib import Path
from typing import Any

from ccpo.config import CcpoConfig, ConfigError
from ccpo.credit.history import HistoryState
from ccpo.credit.rules import RULES, replays_per_prompt
from ccpo.run.folder import (
    MARKER,
    METRICS,
    SETTINGS,
    STEP,
    STEP_METRICS,
    TRACKER,
    run_folder,
    step_folder,
    step_name,
    step_of,
)
from ccpo.run.json_file import Damaged, read_object, write_atomic
from ccpo.run.json_file import flush as _flush
from ccpo.run.run_log import finite

logger = logging.getLogger(__name__)

FORMAT = 2  # 1: before teams were programs
MODES = ("auto", "disable", "resume_path")  # verl's
PART = re.compile(r"(.*_world_size_(\d+)_rank_)(\d+)\.pt")  # of a policy's model, optimizer or random state
REWOUND = ".rewound"  # ends the name of a marker behind which a job went back
WASTE = ".waste"  # ends the name of a checkpoint that is being removed


def finished_steps(root: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending. Folders with other names (global_step_4.old) are none."""
    try:
        names = os.listdir(root)
    except OSError:
        return []
    steps = (step for name in names if (step := step_of(name)) is not None)
    return sorted(step for step in steps if _is_complete(step_folder(root, step)))


def _is_complete(folder: Path) -> bool:
    try:
        (folder / MARKER).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # it may be there: `damage` says what is wrong
    return True


def begin(root: Path, step: int) -> None:
    """Make room for a save: whatever an earlier, interrupted or rewound job left at this step goes.

    The folder first gets another name: killed in between, it is no half checkpoint but waste, which the next start removes. Of a link only the
    link goes.
    """
    folder = step_folder(root, step)
    if os.path.lexists(folder):
        folder.replace(_aside(folder, WASTE))
    _sweep(root)


def _sweep(root: Path) -> None:
    """Remove what `begin` renamed, and what is left of it by jobs that were killed."""
    for waste in Path(root).glob(f"{STEP}*{WASTE}"):
        try:
            _remove(waste)
        except OSError as error:
            logger.warning("the old checkpoint %s cannot be removed: %s", waste, error)


def _aside(path: Path, ending: str) -> Path:
    """A name beside ``path`` that nothing has."""
    names = (path.with_name(f"{path.name}{number}{ending}") for number in ("", *(f".{i}" for i in range(1, 10**6))))
    return next(name for name in names if not os.path.lexists(name))


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def keep_metrics(root: Path, step: int, metrics: Mapping[str, object]) -> None:
    """Before `commit`: a job that is killed before it logs the step logs it from here when it goes on."""
    write_atomic(step_folder(root, step) / STEP_METRICS, json.dumps(finite(metrics), indent=1))


def kept_metrics(folder: Path) -> dict[str, float]:
    """What `keep_metrics` kept; nothing in a checkpoint that has none."""
    try:
        return finite(read_object(Path(folder) / STEP_METRICS, {}))
    except Damaged:
        return {}


def keep_settings(root: Path, step: int) -> None:
    """Before `commit`: what the job was started with, for `verl_plugin.resuming` to compare. A folder without it keeps none."""
    with suppress(FileNotFoundError):
        shutil.copyfile(Path(root) / SETTINGS, step_folder(root, step) / SETTINGS)


def kept_settings(folder: Path) -> dict[str, Any] | None:
    """What `keep_settings` kept; None in a checkpoint that has none."""
    try:
        return read_object(Path(folder) / SETTINGS, {})
    except Damaged:
        return None


def commit(root: Path, step: int, config: CcpoConfig, n: int, history: HistoryState) -> None:
    """Mark the checkpoint complete. Raises OSError where a training worker's part of it is not there."""
    folder = step_folder(root, step)
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    if missing := missing_parts(names):
        raise OSError(
            f"{', '.join(missing)} cannot be seen from here: the node that wrote it writes on another disk, or its network file system is late"
        )
    with ThreadPoolExecutor() as pool:  # hashing lets go of Python's lock, and the disk writes meanwhile
        sums = pool.map(partial(_sha256, folder), names)
        sizes = _flushed(folder)
    state = {
        "format": FORMAT,
        "global_steps": step,
        "fingerprint": fingerprint(config, n),
        "history": history.to_dict(),
        "files": sizes,
        "sha256": dict(zip(names, sums, strict=True)),
    }
    _flush(Path(root))  # the folder's own entry
    write_atomic(folder / MARKER, json.dumps(state, indent=1))


def workers_of(folder: Path) -> set[int]:
    """How many training workers saved a checkpoint, as the names of their parts say."""
    names = (path.name for path in Path(folder).rglob("*.pt"))
    return {int(match[2]) for name in names if (match := PART.fullmatch(name))}


def missing_parts(names: Iterable[str]) -> list[str]:
    """Files that training workers on other nodes must have written beside these: verl's names say how many there are of each."""
    found = [match.groups() for name in names if (match := PART.fullmatch(name))]
    whole = {f"{head}{rank}.pt" for head, size, _ in found for rank in range(int(size))}
    return sorted(whole - {f"{head}{rank}.pt" for head, _, rank in found})


def prune(root: Path, step: int, keep: int | None) -> None:
    """Drop all but the ``keep`` newest complete checkpoints up to ``step`` (None: keep all). What cannot be dropped stays, with a warning."""
    # Later ones are of a job before this one started again.
    done = [other for other in finished_steps(root) if other <= step]
    for old in done[: -keep if keep else 0]:
        try:
            begin(root, old)
        except OSError as error:
            logger.warning("the old checkpoint %s cannot be removed: %s", step_folder(root, old), error)


def _flushed(folder: Path) -> dict[str, int]:
    """Name -> bytes of every file in the folder, all of them on the disk when this returns."""
    sizes = {}
    for path in sorted(folder.rglob("*")):
        size = _flush(path)
        if path.is_file():
            sizes[str(path.relative_to(folder))] = size
    _flush(folder)
    return sizes


def _sha256(folder: Path, name: str) -> str:
    with (folder / name).open("rb", buffering=0) as stream:
        return sha256_of(stream)


def sha256_of(stream: RawIOBase | BufferedIOBase) -> str:
    """SHA-256 of what is left in it, in hexadecimal digits. It is read a part at a time: it may be larger than memory."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    while size := stream.readinto(buffer):
        digest.update(buffer[:size])
    return digest.hexdigest()


def damage(folder: Path, contents: bool = False) -> str | None:
    """What is missing or is not as when the checkpoint was saved; None if nothing is.

    Args:
        contents: read every file, and not only its size. Markers of earlier versions have no sums to compare.
    """
    try:
        state = {"files": {}, "sha256": {}} | read_object(folder / MARKER, {})
    except Damaged as error:
        return str(error)
    sizes, sums = state["files"], state["sha256"]
    if not (isinstance(sizes, dict) and isinstance(sums, dict)):
        return f"{MARKER} is not readable (its files are no names with sizes and sums)"
    if foreign := [name for name in (*sizes, *sums) if not _is_below(name)]:
        return f"{MARKER} is not readable ({ascii(foreign[0])[:80]} is no file's name in its folder)"
    for name, size in sizes.items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, {size} were saved"
    if not contents:
        return None
    with ThreadPoolExecutor() as pool:
        now = dict(zip(sums, pool.map(partial(_sha256, folder), sums), strict=True))
    changed = [name for name in sums if now[name] != sums[name]]
    return f"{', '.join(changed)} has other bytes than were saved (its SHA-256 differs)" if changed else None


def _is_below(name: str) -> bool:
    """Whether a marker's name can be that of a file in its folder: what it says is anything, and is opened."""
    try:
        os.fsencode(name)
    except ValueError:  # half a character of two, as JSON can spell it
        return False
    path = Path(name)
    return "\0" not in name and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def rewind(root: Path, step: int) -> None:
    """Later checkpoints belong to a job that was started again from ``step``: nothing resumes from them, their weights stay. Waste goes."""
    _sweep(root)
    for later in finished_steps(root):
        if later > step:
            folder = step_folder(root, later)
            # What a link names is perhaps another run's: the link is renamed, and nothing behind it.
            path = folder if folder.is_symlink() else folder / MARKER
            path.replace(_aside(path, REWOUND))


def to_resume(trainer: Mapping[str, Any], contents: bool = False) -> Path | None:
    """The checkpoint that a job goes on from, as verl's ``trainer`` section says; None: it starts anew.

    ``contents``: pass over one with changed bytes, too. That reads it all, so a job asks once, right before it loads.

    Raises ConfigError when there are checkpoints and all are damaged, which starting anew would hide; when the way of resuming would go back
    behind what the folder holds; and when ``resume_from_path`` is no checkpoint's folder.
    """
    root, mode, named = (
        run_folder(trainer["default_local_dir"]).absolute(),
        trainer["resume_mode"],
        trainer["resume_from_path"],
    )
    if mode not in MODES:
        raise ConfigError([f"trainer.resume_mode is {mode!r}: set {', '.join(MODES)}"])
    if named and mode != "resume_path":
        raise ConfigError(
            [
                f"trainer.resume_from_path={named} is not read with trainer.resume_mode={mode}: set trainer.resume_mode=resume_path, or leave it out"
            ]
        )
    _listable(root)
    steps = finished_steps(root)
    if named and "\0" in str(named):
        raise ConfigError([f"trainer.resume_from_path is {named!r}: it holds a NUL; name a folder global_step_N"])
    if mode == "resume_path":
        given = Path(os.path.expanduser(str(named)))
        if given.resolve().parent != root.resolve() and given.absolute().parent.resolve() != root.resolve():
            _refuse_to_lose(root, steps, f"trainer.resume_from_path={named} is not in this job's folder")
        return _named(given)
    if mode == "disable":
        _refuse_to_lose(root, steps, "trainer.resume_mode=disable starts anew")
        return None
    found = {}
    for step in reversed(steps):
        if (what := _unusable(step_folder(root, step), contents)) is None:
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


def _state(folder: Path) -> dict[str, Any]:
    """What a marker says. Raises Damaged where it is none; one of another format may say anything."""
    state = read_object(folder / MARKER, {"format": int})
    if state["format"] == FORMAT:
        read_object(folder / MARKER, {"global_steps": int, "fingerprint": dict, "history": dict})
        try:
            HistoryState.from_dict(state["history"])
            _check_numbers(**state["history"])
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            raise Damaged(f"{MARKER} is not readable (its history is none: {error})") from None
    return state


def _check_numbers(streams: dict, joints: dict, paper: dict, steps: int) -> None:
    groups = [*(group.values() for group in (*streams.values(), *joints.values())), *paper.values(), [steps]]
    for value in (value for group in groups for value in group):
        if type(value) not in (int, float) or not math.isfinite(value):
            raise TypeError(f"{value!r} is no finite number")
    squares = [("second", stream["second"]) for stream in streams.values()] + [
        ("variance", pair[1]) for pair in paper.values()
    ]
    weights = [("weight", stream["weight"]) for stream in streams.values()]
    for name, value in (("steps", steps), *weights, *squares):
        if value < 0:
            raise ValueError(f"{name} is {value}, and none is negative")
    if type(steps) is not int:
        raise TypeError(f"steps is {steps}, no whole number")


def _unusable(folder: Path, contents: bool) -> str | None:
    """What is wrong with a checkpoint on the disk; None if nothing is."""
    try:
        _state(folder)
        return damage(folder, contents)
    except Damaged as error:
        return str(error)
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"


def _listable(root: Path) -> None:
    """A job must not start anew because its folder could not be read."""
    try:
        os.listdir(root)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigError(
            [
                f"{root} cannot be read ({error.strerror}), so whether it holds a run is unknown: mend that, or set another trainer.default_local_dir"
            ]
        ) from None


def _named(given: Path) -> Path:
    """The folder that trainer.resume_from_path means. verl reads the step off the end of its text, so it must be the folder's real name."""
    folder = given.resolve()
    if step_of(folder.name) is None:
        raise ConfigError(
            [
                f"trainer.resume_from_path={given} is the folder {folder}, whose name is not global_step_N, off which the step is read: name a "
                f"checkpoint's folder; one that was renamed needs its old name (global_steps in its {MARKER})"
            ]
        )
    return folder


def _refuse_to_lose(root: Path, steps: list[int], why: str) -> None:
    """A job that does not go on from this folder must not put its own checkpoints and log over what is there."""
    log = root / METRICS
    if steps or (log.exists() and log.stat().st_size):
        what = f"checkpoints of steps {', '.join(map(str, steps))}" if steps else f"a log ({METRICS})"
        raise ConfigError(
            [
                f"{why}, and {root} holds a run already ({what}), which would be lost: set another trainer.default_local_dir (OUT), or go on "
                "with what is there (trainer.resume_mode=auto), or move the folder away"
            ]
        )


def point_tracker_at(root: Path, folder: Path | None) -> None:
    """Make verl's tracker name this checkpoint (None: no checkpoint, and no tracker)."""
    tracker = Path(root) / TRACKER
    if tracker.is_dir() and not tracker.is_symlink():  # no writer of it makes one
        tracker.replace(_aside(tracker, ".old"))
    if folder is None:
        tracker.unlink(missing_ok=True)
    else:
        write_atomic(tracker, str(step_of(folder.name)))


def restore(folder: Path, config: CcpoConfig, n: int, contents: bool = False) -> HistoryState:
    """Read a checkpoint's history.

    Raises ConfigError when the folder is no complete ccpo checkpoint, is damaged, or was trained with another rule.
    """
    folder = Path(folder)
    choose = "choose another one in trainer.resume_from_path"
    if not _is_complete(folder):
        raise ConfigError([f"{folder} has no {MARKER}: it is no complete ccpo checkpoint; {choose}"])
    if what := _unusable(folder, contents):
        raise ConfigError([f"{folder} is damaged: {what}; {choose}"])
    state = _state(folder)
    if state["format"] != FORMAT:
        raise ConfigError(
            [
                f"{folder} was saved by an earlier version of ccpo (format {state['format']}, this one writes {FORMAT}), whose history "
                "means something else: it is not resumed. Its weights are whole; python -m verl.model_merger merge --backend fsdp --local_dir "
                f"{folder / 'POLICY'} --target_dir OUT makes a model of them to start from; set another trainer.default_local_dir"
            ]
        )
    if step_of(folder.name) != state["global_steps"]:
        raise ConfigError(
            [
                f"{folder} holds the checkpoint of step {state['global_steps']}: it was renamed or copied; call it {step_name(state['global_steps'])} "
                "again, or move it away"
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
        # off is None: checkpoints from before these two settings lack them, and are resumed
        "ccpo.credit.siblings": credit.siblings or None,
        "ccpo.credit.wrong_price": credit.wrong_price or None,
        "ccpo.credit.replays_per_prompt": replays_per_prompt(credit, n),
        "ccpo.credit.resamples": credit.resamples,
        "ccpo.credit.shaping": [credit.shaping, credit.alpha],
        "ccpo.credit.train_replays": [credit.train_replays, credit.eta],
        "ccpo.history": [config.history.decay, config.history.floor],
    }
    if "negative_slope" in RULES[credit.rule].reads:
        found["ccpo.credit.negative_slope"] = credit.negative_slope
        found["ccpo.credit.last_gradient"] = credit.last_gradient
        # off is None, as above
        found["ccpo.credit.reference_after"] = credit.reference_after if credit.reference_after != "prompt" else None
    return json.loads(json.dumps(found, default=str))


def _place(spot: tuple[str, int]) -> str:
    return f"{spot[0]} {spot[1]}"
