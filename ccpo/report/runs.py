"""A run as a report reads it: its metrics, its sessions, and which other runs differ from it by nothing but the seed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccpo.report.logged import ReportError, load
from ccpo.report.means import t_interval
from ccpo.run.folder import JOB, SESSIONS
from ccpo.run.json_file import Damaged, open_file
from ccpo.run.session_log import VAL, read_sessions
from ccpo.types import REMOVE

SEEDS = ("seed", "data_loader_seed")
ALIKE = ("ccpo", "data", "algorithm", "actor_rollout_ref")
"""Sections of a job's configuration in which runs of one kind agree, but for their seeds."""


@dataclass(frozen=True)
class Run:
    """``entries``: of the run log. ``sessions``: those that were kept. ``kind``: equal for runs that differ by their seed only. ``label``: team
    and rule, or the folder's name where the configuration is not known."""

    name: str
    entries: list[dict]
    sessions: list[dict]
    label: str
    kind: str
    seed: str

    def validated(self, step: int, source: str, sessions: float | None) -> list[dict]:
        """The sessions of a validation, if all that were counted (``sessions``) are kept; else none."""
        found = [
            entry for entry in self.sessions if (entry["step"], entry["kind"], entry["source"]) == (step, VAL, source)
        ]
        return found if len(found) == sessions else []


def read_run(folder: Path, pick: Callable[[dict], dict | None] = lambda entry: entry) -> Run:
    """Raises ReportError where there is nothing to report, or sessions that cannot be read; a configuration that cannot be read only costs the
    label. ``pick``: what is kept of each session (`read_sessions`)."""
    import yaml

    folder, entries = Path(folder), load(folder)
    try:
        sessions = read_sessions(folder / SESSIONS, pick)
    except Damaged as error:
        raise ReportError(str(error)) from None
    name = folder.resolve().name
    try:
        with open_file(folder / JOB) as stream:
            job = yaml.safe_load(stream.read().decode())
        label = f"{job['ccpo']['team']}, {job['ccpo']['credit']['rule']}"
        kind = json.dumps([_without_seeds(job.get(section)) for section in ALIKE], sort_keys=True, default=str)
        return Run(name, entries, sessions, label, kind, str(job.get("seed", "?")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return Run(name, entries, sessions, name, str(folder.resolve()), "?")


def _without_seeds(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(key): _without_seeds(value) for key, value in node.items() if key not in SEEDS}
    return node


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Label -> runs that differ by their seed only. Kinds with one label get the names of their first runs, too."""
    by_kind: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_kind[run.kind].append(run)
    labels = [members[0].label for members in by_kind.values()]
    return {
        members[0].label if labels.count(members[0].label) == 1 else f"{members[0].name}: {members[0].label}": members
        for members in by_kind.values()
    }


def over_seeds(values: Sequence[float], runs: Sequence[Run]) -> tuple[float, float] | None:
    """`t_interval` of one value a run; None where runs have one seed: equal runs agree, which says nothing of other seeds."""
    return t_interval(values) if len({run.seed for run in runs}) == len(runs) else None


def questions(sessions: Iterable[dict]) -> dict[tuple[str, int], list[dict]]:
    """Sessions by their question."""
    found: dict[tuple[str, int], list[dict]] = defaultdict(list)
    for entry in sessions:
        found[entry["source"], entry["index"]].append(entry)
    return found


def differences(sessions: Iterable[dict], role: str) -> list[float]:
    """A question's mean of R minus what the team got without the role, for each question that has it."""
    found = []
    for members in questions(sessions).values():
        own = [
            entry["value"] - replay["value"]
            for entry in members
            for replay in entry["replays"]
            if replay["how"] == REMOVE and replay["role"] == role
        ]
        if own:
            found.append(sum(own) / len(own))
    return found
