"""One JSON line per step: what reports and progress bars read.

Survives kill and resume without double steps. verl saves before it logs a step, so a kill between the two leaves that step's line out.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping
from pathlib import Path


class RunLog:
    """Append-only JSON lines ``{"step": int, "kind": "train"|"val", "metrics": {name: number}}`` in the run's folder."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def rewind(self, step: int) -> None:
        """Forget what was logged after ``step``: the job continues from that checkpoint. Also drops a half-written last line."""
        if not self.path.exists():
            return
        kept = [entry for entry in read_run_log(self.path) if entry["step"] <= step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        temporary.replace(self.path)

    def write(self, step: int, kind: str, metrics: Mapping[str, object]) -> None:
        """Append one line; values that are not finite numbers are left out."""
        numbers_only = {
            k: float(v) for k, v in metrics.items() if isinstance(v, numbers.Real) and math.isfinite(float(v))
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as stream:
            stream.write(json.dumps({"step": step, "kind": kind, "metrics": numbers_only}) + "\n")


def read_run_log(path: Path) -> list[dict]:
    """All whole lines; of entries with the same step and kind the last one counts."""
    entries: dict[tuple[int, str], dict] = {}
    for line in Path(path).read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that was being written when the job was killed
        entries[entry["step"], entry["kind"]] = entry
    return sorted(entries.values(), key=lambda entry: (entry["step"], entry["kind"] == "val"))
