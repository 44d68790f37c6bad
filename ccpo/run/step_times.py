"""Where a training step's time went: the seconds that `metrics.jsonl` holds as ``timing_s/...``, each part below what it is a part of.

    step = gen + read_rows + old_log_prob + ref + adv + update_actor + update_weights + save_checkpoint + other
    update_actor = train + rows

``gen`` is how long the trainer waits for all sessions. They run beside each other: what one of them waits for is a mean
(`verl_plugin/rows.py::timings`), and these means do not add up to gen. ``testing`` comes after its step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

TIMING = "timing_s/"
DECODE = "decode/"
REPLAYS = "decode/replays"
STEP, TRAIN, ROWS, OTHER = "step", "train", "rows", "other"
PARTS = {
    "gen": "decoding and verdicts (gen)",
    "read_rows": "reading of rows",
    "old_log_prob": "log-probabilities (old_log_prob)",
    "ref": "reference log-probabilities (ref)",
    "adv": "advantages (adv)",
    "update_actor": "update (update_actor)",
    "update_weights": "weights to the servers (update_weights)",
    "save_checkpoint": "checkpoint (save_checkpoint)",
    OTHER: "waiting and other",
}
"""What a step is the sum of."""
BESIDE = {REPLAYS: "replays: mean of a session", "verify": "verdicts: mean of a session"}
"""What sessions wait for in gen, besides their roles' turns."""
WITHIN = {
    "likelihood": ("adv", "how likely the reference answers are (likelihood)"),
    "credit": ("adv", "credit"),
    TRAIN: ("update_actor", "arithmetic (train)"),
    ROWS: ("update_actor", "the rows' way to it"),
}
AFTER = {"testing": "validation, after its step (testing)"}
LEAST = 5e-4  # seconds: what is shorter in every step is left out


@dataclass(frozen=True)
class Part:
    """Seconds of a part. ``first``: in the run's first step. Of the later ones that have it: ``mean``, ``std`` (None of fewer than two) and how
    many ``steps``; ``share`` of all later steps' time, None for what runs beside others or after its step."""

    label: str
    depth: int
    first: float | None
    mean: float | None
    std: float | None
    steps: int
    share: float | None


def step_times(entries: Iterable[Mapping], most_roles: int) -> dict[str, Part]:
    """Name -> part, in the order to read them in; empty if no step was timed.

    Args:
        entries: those of the run's log with kind "train".
        most_roles: more roles than these are told together.
    """
    steps = [seconds for entry in entries if STEP in (seconds := part_seconds(entry["metrics"]))]
    roles = list(dict.fromkeys(name for seconds in steps for name in seconds if _is_turn(name)))
    if len(roles) > most_roles:
        together = f"{DECODE}{len(roles)} roles"
        for seconds in steps:
            own = [seconds.pop(role) for role in roles if role in seconds]
            seconds |= {together: sum(own) / len(own)} if own else {}
        roles = [together]
    inner: dict[str, dict[str, str]] = {name: {} for name in PARTS}
    inner["gen"] = {role: f"{role.removeprefix(DECODE)}: mean of a turn" for role in roles} | BESIDE
    for name, (whole, label) in WITHIN.items():
        inner[whole][name] = label
    rows = [(STEP, "step", 0)]
    for name, label in PARTS.items():
        rows += [(name, label, 1), *((part, text, 2) for part, text in inner[name].items())]
    rows += [(name, label, 0) for name, label in AFTER.items()]
    parts = {name: _part(steps, name, label, depth) for name, label, depth in rows}
    return {name: part for name, part in parts.items() if max(abs(part.first or 0), abs(part.mean or 0)) >= LEAST}


def _is_turn(name: str) -> bool:
    return name.startswith(DECODE) and name != REPLAYS


def part_seconds(metrics: Mapping[str, float]) -> dict[str, float]:
    """A step's parts by their names, with those that follow from others."""
    seconds = {name.removeprefix(TIMING): value for name, value in metrics.items() if name.startswith(TIMING)}
    policies = [name for name in seconds if name.endswith(f"/{TRAIN}") and not name.startswith(DECODE)]
    if policies:  # which learn one after the other
        seconds[TRAIN] = sum(seconds.pop(name) for name in policies)
    if TRAIN in seconds and "update_actor" in seconds:
        seconds[ROWS] = seconds["update_actor"] - seconds[TRAIN]
    if STEP in seconds:
        seconds[OTHER] = seconds[STEP] - sum(seconds[name] for name in PARTS if name in seconds)
    return seconds


def _part(steps: list[dict[str, float]], name: str, label: str, depth: int) -> Part:
    later = steps[1:]
    values = [seconds[name] for seconds in later if name in seconds]
    mean = sum(values) / len(values) if values else None
    std = math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1) if len(values) > 1 else None
    whole = sum(seconds[STEP] for seconds in later)
    adds_up = name in PARTS or name in WITHIN
    share = sum(values) / whole if adds_up and values and whole > 0 else None
    return Part(label, depth, steps[0].get(name) if steps else None, mean, std, len(values), share)
