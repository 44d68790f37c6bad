"""One JSON line per step: what reports and progress bars read.

Survives kill and resume without double or missing steps. verl saves before it logs a step; what the step measured lies in the checkpoint, too,
and is logged from there when a kill came between the two (`trainer.py::_load_checkpoint`).
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ccpo.run.folder import Place
from ccpo.run.json_file import append, open_file, parsed, write_atomic

KINDS = ("train", "val")
CLOCKS = ("timing_", "perf/")
"""What verl's names of a step's times and memory begin with."""


class RunLog:
    """Append-only JSON lines ``{"step": int, "kind": "train"|"val", "metrics": {name: number}}`` in the run's folder."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._place: Place | None = None

    def check_place(self) -> None:
        """Raises Moved when the folder is another one than at the first call, or is gone; what a job saves and logs belongs into one folder."""
        if self._place is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._place = Place(self.path.parent)
        self._place.check()

    def rewind(self, step: int) -> None:
        """Forget what was logged after ``step``: the job continues from that checkpoint. Also drops a half-written last line."""
        self.check_place()
        if not self.path.exists():
            return
        kept = [entry for entry in read_run_log(self.path) if entry["step"] <= step]
        write_atomic(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))

    def write(self, step: int, kind: str, metrics: Mapping[str, object]) -> None:
        """Append one line; values that are not finite numbers are left out."""
        self.check_place()
        # Flushed: a checkpoint is on the disk when it is complete, and so are the steps before it.
        append(self.path, json.dumps({"step": step, "kind": kind, "metrics": finite(metrics)}) + "\n")

    def steps(self, kind: str) -> set[int]:
        """Steps that have an entry of a kind."""
        entries = read_run_log(self.path) if self.path.exists() else []
        return {entry["step"] for entry in entries if entry["kind"] == kind}

    def has(self, step: int, kind: str) -> bool:
        return step in self.steps(kind)


def finite(metrics: Mapping[str, object]) -> dict[str, float]:
    """The values that are finite numbers."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, numbers.Real) and math.isfinite(_float(value))
    }


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an int of 400 digits
        return math.inf


def read_run_log(path: Path) -> list[dict]:
    """All whole lines; of entries with the same step and kind the last one counts. What is no entry is passed over."""
    entries: dict[tuple[int, str], dict] = {}
    with open_file(path) as stream:
        content = stream.read()
    for line in content.split(b"\n"):
        entry = _entry(line)
        if entry is not None:
            entries[entry["step"], entry["kind"]] = entry
    return sorted(entries.values(), key=lambda entry: (entry["step"], entry["kind"] == "val"))


def _entry(line: bytes) -> dict | None:
    """A line's entry; None where it is none: half written when the job was killed, or not ours."""
    try:
        found = parsed(line)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    step, kind, metrics = (found.get(name) for name in ("step", "kind", "metrics"))
    if type(step) is not int or step < 0 or kind not in KINDS or not isinstance(metrics, dict):
        return None
    return {"step": step, "kind": kind, "metrics": finite(metrics)}
