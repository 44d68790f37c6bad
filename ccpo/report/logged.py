"""What a run's metrics say: what was measured, accuracies with intervals, numbers before and after training.

"before" is the first validation, "after" the last one. Accuracies carry 95 % Wilson intervals over the scored sessions, which counts
them as independent; with several sessions per prompt the truth is wider. (The mean over the ballots of a session counts once per
session: they answer the same question.) A role's contribution is the team's accuracy minus what the team gets without that role; it is
the rate at which the role helped minus the rate at which it hurt. Which roles and which replays a run has is read off the names of its
metrics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ccpo.run.folder import METRICS
from ccpo.run.run_log import read_run_log
from ccpo.run.step_times import step_times
from ccpo.team.replay import Intervention
from ccpo.types import REMOVE, REPLACE

TEAM = "team"
TEAM_ACCURACY = "val-core/{source}/team_accuracy"
AUX = "val-aux/{source}/"
SESSIONS = AUX + "sessions"
ACCURACY = "_accuracy"
TEAM_IN_TRAINING = "ccpo/sessions/team_accuracy"
BALLOTS = {"ballot": "ballots (mean of all)", "oracle": "oracle (any ballot right)"}
"""Accuracies of a plurality that are no replay's."""
CONTRIBUTION = "contribution"
ROLE_NUMBERS = {
    "accuracy": "accuracy",
    CONTRIBUTION: "contribution",
    "help_rate": "helped (right with it only)",
    "hurt_rate": "hurt (wrong with it only)",
}
"""What is known of a role, in validation and in training."""
TRAINING = {
    TEAM_IN_TRAINING: "team",
    "ccpo/plurality/pivotal_rate": "pivotal rate (ballot decides)",
    "ccpo/plurality/tie_rate": "tie rate",
    "ccpo/plurality/abstention_rate": "abstention rate (no readable answer)",
    "ccpo/plurality/agreement": "agreement (pairs with equal ballots)",
    "ccpo/plurality/outvoted_rate": "outvoted rate (one right, team wrong)",
    "ccpo/credit/cosine_with_shared/all": "cosine of advantages with shared credit",
    "ccpo/credit/zero_rate": "advantages of 0 (nothing to learn)",
}
"""Of the training batches, noisy."""
MANY_SESSIONS = 10**9
RATE_STEPS = 5  # train batches at each end over which noisy numbers are averaged, at most half of all
MANY_ROLES = 6  # more roles are told together


class ReportError(ValueError):
    """There is nothing to report yet."""


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % Wilson score interval of a share observed on ``count`` > 0 trials (Wilson, 1927)."""
    share = min(max(share, 0.0), 1.0)  # a log may have been edited
    centre = share + z * z / (2 * count)
    spread = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def load(run_dir: Path) -> list[dict]:
    """Entries of the run's metrics; ReportError when there are none."""
    path = Path(run_dir) / METRICS
    try:
        entries = read_run_log(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ReportError(
            f"{path} does not exist: {run_dir} is no folder of a run (trainer.default_local_dir), or nothing "
            "was logged yet"
        ) from None
    except OSError as error:
        raise ReportError(
            f"{path} cannot be read ({error.strerror}): {run_dir} is no folder of a run, or belongs to somebody else"
        ) from None
    if not entries:
        raise ReportError(f"{path} has no whole line yet; wait for the first validation or step")
    return entries


# --- what was measured ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What the metrics of a data source's validations are about, each in the order of its first appearance.

    accuracies: name -> metric, the team's first. roles: role -> what is known of it -> metric.
    """

    accuracies: Mapping[str, str]
    roles: Mapping[str, Mapping[str, str]]

    @property
    def replays(self) -> list[str]:
        """Names of the replays that have an accuracy of their own."""
        return [name for name in self.accuracies if name != TEAM and name not in BALLOTS]

    def label(self, name: str) -> str:
        """An accuracy in words: a replay's own name, which says whom it removes or empties."""
        known = {Intervention(how, role).name: spelt(how, role) for role in self.roles for how in (REMOVE, REPLACE)}
        return BALLOTS.get(name) or known.get(name, name)


def spelt(how: str, role: str) -> str:
    """A replay in words, without the team's own: "without NAME", "NAME emptied"."""
    return Intervention(how, "*").name.replace("_", " ").replace("*", role)


def sources_of(entries: list[dict]) -> list[str]:
    """Data sources that were validated, in alphabetical order. (A source's name may contain slashes.)"""
    start, end = TEAM_ACCURACY.split("{source}")
    names = {name for entry in entries if entry["kind"] == "val" for name in entry["metrics"]}
    return sorted(name[len(start) : -len(end)] for name in names if name.startswith(start) and name.endswith(end))


def measured(entries: list[dict], source: str) -> Measured:
    """What was validated on a data source."""
    start = AUX.format(source=source)
    longer = tuple(AUX.format(source=other) for other in sources_of(entries) if other.startswith(f"{source}/"))
    accuracies, roles = {TEAM: TEAM_ACCURACY.format(source=source)}, {}
    for metric in _names(entries, "val"):
        if not metric.startswith(start) or metric.startswith(longer):
            continue
        role, slash, what = metric.removeprefix(start).rpartition("/")
        if slash and what in ROLE_NUMBERS:
            roles.setdefault(role, {})[what] = metric
        elif not slash and what.endswith(ACCURACY):
            accuracies[what.removesuffix(ACCURACY)] = metric
    last = {name: accuracies.pop(name) for name in BALLOTS if name in accuracies}
    return Measured(accuracies | last, roles)


def trained_roles(entries: list[dict]) -> dict[str, dict[str, str]]:
    """Role -> what is known of it -> metric, of the training batches."""
    roles: dict[str, dict[str, str]] = {}
    for metric in _names(entries, "train"):
        first, *role, what = metric.split("/") if metric.count("/") == 2 else ("", "")
        if first == "ccpo" and metric not in TRAINING and what in ROLE_NUMBERS:
            roles.setdefault(role[0], {})[what] = metric
    return roles


def _names(entries: list[dict], kind: str) -> dict[str, None]:
    """Names of metrics, in the order of their first appearance."""
    return dict.fromkeys(name for entry in entries if entry["kind"] == kind for name in entry["metrics"])


# --- numbers --------------------------------------------------------------------------------------------------------


def summarize(entries: list[dict]) -> dict:
    """All numbers of the report.

    Returns:
        ``steps``: last trained step. ``sources``: per data source ``before`` and ``after``, see `scores`. ``training``: ``team`` and others
        by their metric's name without ``ccpo/``, and ``roles``: role -> number; each ``before`` and ``after``, means over the first and
        last ``averaged`` steps that have it. ``seconds``: wall time of steps and validations, and the parts of a step
        (`ccpo.run.step_times`); None without a step. What was not measured is absent.
    """
    train = [entry for entry in entries if entry["kind"] == "train"]
    sources = {}
    for source in sources_of(entries):
        known = measured(entries, source)
        seen = validations(entries, source)
        sources[source] = {"before": scores(seen[0], source, known), "after": scores(seen[-1], source, known)}
    training: dict = {}
    averaged = max(1, min(RATE_STEPS, len(train) // 2))
    for metric in TRAINING:
        if ends := _ends(train, metric, averaged):
            training[metric.removeprefix("ccpo/")] = ends
    roles = {
        role: {what: _ends(train, numbers[what], averaged) for what in ROLE_NUMBERS if what in numbers}
        for role, numbers in trained_roles(entries).items()
    }
    return {
        "steps": max((entry["step"] for entry in train), default=0),
        "sources": sources,
        "training": training | ({"roles": roles} if roles else {}),
        "averaged": averaged,
        "seconds": _seconds(train),
    }


def validations(entries: list[dict], source: str) -> list[dict]:
    """The entries that validated a data source."""
    team = TEAM_ACCURACY.format(source=source)
    return [entry for entry in entries if entry["kind"] == "val" and team in entry["metrics"]]


def scores(entry: dict, source: str, known: Measured) -> dict:
    """One validation: ``step``; ``sessions`` (None if not logged); ``accuracies``: name -> `score`; ``roles``: role -> number, of which
    ``accuracy`` is a `score`."""
    metrics = entry["metrics"]
    sessions = _sessions(metrics, source)
    roles = {
        role: {
            what: score(metrics[names[what]], sessions) if what == "accuracy" else metrics[names[what]]
            for what in ROLE_NUMBERS
            if names.get(what) in metrics
        }
        for role, names in known.roles.items()
    }
    return {
        "step": entry["step"],
        "sessions": sessions,
        "accuracies": {
            name: score(metrics[metric], sessions) for name, metric in known.accuracies.items() if metric in metrics
        },
        "roles": {role: numbers for role, numbers in roles.items() if numbers},
    }


def _sessions(metrics: Mapping[str, float], source: str) -> int | None:
    count = metrics.get(SESSIONS.format(source=source), 0)
    return int(count) if 1 <= count < MANY_SESSIONS else None


def score(value: float, sessions: int | None) -> dict:
    """An accuracy with its interval; bounds None without ``sessions``."""
    low, high = wilson(value, sessions) if sessions else (None, None)
    return {"value": value, "low": low, "high": high}


def _ends(train: list[dict], metric: str, steps: int) -> dict | None:
    values = series(train, metric)[1]
    return {"before": mean(values[:steps]), "after": mean(values[-steps:])} if values else None


def _seconds(train: list[dict]) -> dict | None:
    parts = step_times(train, MANY_ROLES)
    if not parts:
        return None
    return {
        "steps": sum(series(train, "timing_s/step")[1]),
        "validation": sum(series(train, "timing_s/testing")[1]),
        "parts": {name: asdict(part) for name, part in parts.items()},
    }


def series(entries: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the entries that have ``name``."""
    found = [(entry["step"], entry["metrics"][name]) for entry in entries if name in entry["metrics"]]
    return [step for step, _ in found], [value for _, value in found]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def indispensable(validated: Iterable[dict]) -> list[str]:
    """Roles whose contribution is all that the team has: without the last speaker there is no answer."""
    validated = list(validated)
    found = []
    for role in validated[-1]["roles"]:
        pairs = [(end["roles"].get(role, {}).get(CONTRIBUTION), end["accuracies"][TEAM]["value"]) for end in validated]
        if all(own is not None and math.isclose(own, team) for own, team in pairs) and any(team for _, team in pairs):
            found.append(role)
    return found
