"""Metrics of runs of several kinds, as the trainer logs them, for the tests of reports."""

from __future__ import annotations

import json
from pathlib import Path

from ccpo.run.folder import METRICS

SOURCE = "toy/last_digit"


def role(contribution: float, **more: float) -> dict[str, float]:
    return {"contribution": contribution, "help_rate": 0.3 + contribution, "hurt_rate": 0.3, **more}


def val(step: int, team: float, replays: dict[str, float], roles: dict[str, dict], sessions: int | None = 100) -> dict:
    metrics = {f"val-core/{SOURCE}/team_accuracy": team}
    metrics |= {f"val-aux/{SOURCE}/{name}_accuracy": value for name, value in replays.items()}
    metrics |= {f"val-aux/{SOURCE}/{name}/{k}": v for name, numbers in roles.items() for k, v in numbers.items()}
    if sessions:
        metrics[f"val-aux/{SOURCE}/sessions"] = sessions
    return {"step": step, "kind": "val", "metrics": metrics}


def train(step: int, roles: dict[str, dict] | None = None, **more: float) -> dict:
    metrics = {"ccpo/sessions/team_accuracy": 0.7, "timing_s/step": 2.0, "timing_s/gen": 0.5}
    metrics |= {f"ccpo/{name}/{k}": v for name, numbers in (roles or {}).items() for k, v in numbers.items()}
    return {"step": step, "kind": "train", "metrics": metrics | {k.replace("__", "/"): v for k, v in more.items()}}


def last_speaker(team: float) -> dict[str, float]:
    """Without it there is no answer, which is worth 0."""
    return {"contribution": team, "help_rate": team, "hurt_rate": 0.0}


# A team that names its replays itself, one whose replays bear the roles' names, and one that votes.
DYAD = [
    val(0, 0.5, {"solo": 0.4, "emptied": 0.3}, {"think": role(0.1), "reason": last_speaker(0.5)}),
    *(train(s, {"think": role(s / 10), "reason": last_speaker(0.7)}) for s in range(1, 9)),
    val(8, 0.8, {"solo": 0.4, "emptied": 0.4}, {"think": role(0.4), "reason": last_speaker(0.8)}),
]
CHAIN = [
    val(step, 0.5, {"without_a": 0.4, "without_b": 0.3, "a_emptied": 0.2}, {"a": role(0.1), "b": role(-0.2)})
    for step in (0, 5)
]


def voters(*accuracies: float) -> dict[str, dict]:
    return {f"voter_{i}": role(0.1, accuracy=value, abstention_rate=0.0) for i, value in enumerate(accuracies)}


VOTES = [
    val(0, 0.5, {"ballot": 0.4, "oracle": 0.7}, voters(0.5, 0.4, 0.3)),
    *(
        train(s, {"voter_0": role(0.1)}, ccpo__plurality__pivotal_rate=(9 - s) / 10, ccpo__plurality__agreement=s / 10)
        for s in range(1, 9)
    ),
    val(8, 0.8, {"ballot": 0.6, "oracle": 0.9}, voters(0.8, 0.6, 0.4)),
]
RUNS = {"dyad": DYAD, "chain": CHAIN, "vote": VOTES}


def write(folder: Path, entries: list[dict]) -> Path:
    (folder / METRICS).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def timed(number: int, /, **seconds: float) -> dict:
    return train(number, **{f"timing_s__{name}": value for name, value in seconds.items()})


TIMED = [
    timed(1, step=9.0, gen=4.0, update_actor=3.0, train=1.0),
    *(
        timed(
            step,
            step=4.0 + step / 10,
            gen=2.0,
            decode__think=0.7,
            decode__reason=1.1,
            decode__replays=0.4,
            verify=0.02,
            old_log_prob=0.00001,
            adv=0.1,
            credit=0.01,
            update_actor=1.5,
            train=1.2,
            update_weights=0.2,
        )
        for step in (2, 3, 4)
    ),
]
TIMED[-1]["metrics"] |= {"timing_s/save_checkpoint": 0.1, "timing_s/testing": 5.0}
