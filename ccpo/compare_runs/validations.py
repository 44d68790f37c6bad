"""A run's validation, question by question, from its sessions.jsonl: whole and as its log says, or refused.

An average of a part would not be what the run logged, and not of the questions that other runs were asked. So the sessions are counted, and
their mean value is compared with the one that was logged.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ccpo.evaluate.measures import mean
from ccpo.evaluate.results import RIGHT, NoLabels, answer_of
from ccpo.report.logged import SESSIONS as COUNTED
from ccpo.report.logged import TEAM_ACCURACY, ReportError, sources_of
from ccpo.report.runs import Run, questions, read_run
from ccpo.run.folder import SESSIONS
from ccpo.run.lock import holder_of
from ccpo.run.session_log import VAL
from ccpo.run.texts import digest_of, shortened
from ccpo.types import REMOVE
from ccpo.verifier import label

DROPPED = "val-aux/sessions/dropped_rate"
SAME = 1e-6  # of a mean of values in [0, 1]: what rounding may change, and no session does
DRAW = 0  # seed of which of tied answers a vote counts as, in maj@k
Key = tuple[str, int]
"""Data source and index of a question."""


@dataclass(frozen=True)
class Question:
    """A question in a validation. ``text``: stands for it and its truth. ``values``: R of each session that came. ``answers``: RIGHT, a wrong
    answer or None (no answer) of each, by the verifier's label for cheap equal values; None for all where a value is neither right nor wrong.
    ``contributions``: role -> mean of R minus the value without the role, where replays were played."""

    text: str
    values: tuple[float, ...]
    answers: tuple[Hashable, ...] | None
    contributions: Mapping[str, float]


@dataclass(frozen=True)
class Validation:
    """``k``: sessions of each question. ``asked``: of all questions together, of which ``failed`` did not come."""

    step: int
    k: int
    asked: int
    failed: int
    questions: Mapping[Key, Question]


@dataclass(frozen=True)
class Validated:
    """A run without its sessions, and what its validations say. ``first``: an earlier one, if it was asked for. ``holder``: who trains there now."""

    folder: Path
    run: Run
    last: Validation
    first: Validation | None
    holder: str | None


def read(folder: Path, step: int | None = None, before: bool = False) -> Validated:
    """The validation at ``step`` (None: the last), with ``before`` the first one, too. Raises ReportError where one is not there or not whole."""
    folder = Path(folder)
    holder = holder_of(folder)
    run, steps = _opened(folder)
    if step is not None and step not in steps:
        raise ReportError(f"{folder} has no validation at step {step}: set --step to one of {_listed(steps)}")
    last = steps[-1] if step is None else step
    if before and steps[0] == last:
        raise ReportError(
            f"{folder} has no validation before step {last}, so no change is known: leave out --before (and train with "
            "trainer.val_before_train=true)"
        )
    first = _validation(folder, run, steps[0]) if before else None
    return Validated(folder, replace(run, sessions=[]), _validation(folder, run, last), first, holder)


def whole(folder: Path) -> list[int]:
    """Steps of the validations of which all sessions are kept. Raises ReportError unless the first and the last are among them, and where someone
    trains."""
    folder = Path(folder)
    if (holder := holder_of(folder)) is not None:
        raise ReportError(f"{folder} is being trained ({holder}): wait until it has ended")
    run, steps = _opened(folder)
    found = []
    for step in steps:
        try:
            _validation(folder, run, step)
            found.append(step)
        except ReportError:
            if step in (steps[0], steps[-1]):
                raise
    return found


def _opened(folder: Path) -> tuple[Run, list[int]]:
    """(the run, steps of the validations that it logged). Raises ReportError where there is none."""
    run = read_run(folder, _without_texts)
    steps = [entry["step"] for entry in run.entries if entry["kind"] == VAL and sources_of([entry])]
    if not steps:
        raise ReportError(f"{folder} has logged no validation: set trainer.test_freq, trainer.val_before_train")
    return run, steps


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps)) if len(steps) <= 8 else f"{steps[0]}, {steps[1]}, ..., {steps[-1]}"


def _without_texts(entry: dict) -> dict | None:
    """What is needed of a validation session, the same whether its texts were kept: they are nearly all of a file, and runs may be many."""
    if entry["kind"] != VAL:
        return None
    ballots = entry.get("ballots")
    answer, truth = shortened(entry.get("answer")), shortened(entry.get("truth"))
    kept = ("step", "kind", "source", "index", "session", "value")
    return {name: entry[name] for name in kept} | {
        "text": json.dumps([digest_of(entry), truth]),
        "truth": str(truth),
        "answer": answer if isinstance(answer, str) else None,
        "ballots": {role: None if one is None else str(shortened(one)) for role, one in ballots.items()}
        if isinstance(ballots, dict)
        else None,
        "replays": [
            (replay["role"], replay["value"], replay.get("shared") is True)
            for replay in entry["replays"]
            if replay["how"] == REMOVE
        ],
    }


def _validation(folder: Path, run: Run, step: int) -> Validation:
    """Raises ReportError unless all sessions that were logged are there, and no others."""
    metrics = next(entry["metrics"] for entry in run.entries if (entry["step"], entry["kind"]) == (step, VAL))
    sessions = [entry for entry in run.sessions if entry["step"] == step]
    sources = sources_of([{"kind": VAL, "metrics": metrics}])
    counts = Counter(entry["source"] for entry in sessions)
    for source in sorted({*sources, *counts}):
        _check_whole(folder, run, step, source, counts[source], metrics)
    for source in sources:
        own = mean([entry["value"] for entry in sessions if entry["source"] == source])
        logged = metrics[TEAM_ACCURACY.format(source=source)]
        if abs(own - logged) > SAME:
            raise ReportError(
                f"{folder}: the sessions of {source} at step {step} have the mean value {own:.6f}, and the run logged {logged:.6f}: one of "
                f"{SESSIONS} and the log was changed, so neither is used; leave the run out"
            )
    found = {key: _question(members) for key, members in questions(sessions).items()}
    k = max(entry["session"] for entry in sessions) + 1
    dropped = metrics.get(DROPPED, 0.0)
    asked = round(len(sessions) / (1 - dropped)) if 0 <= dropped < 1 else len(sessions)
    return Validation(step, k, asked, asked - len(sessions), found)


def _check_whole(folder: Path, run: Run, step: int, source: str, found: int, metrics: Mapping[str, float]) -> None:
    counted = metrics.get(COUNTED.format(source=source))
    if counted is None:
        raise ReportError(
            f"{folder} has not logged how many sessions of {source} the validation at step {step} had, so that it cannot be known whether all "
            "are kept: leave the run out"
        )
    if not run.sessions:
        raise ReportError(
            f"{folder} has no sessions of a validation in {SESSIONS}: train with ccpo.keep_sessions above 0"
        )
    if not found:
        whole = sorted({entry["step"] for entry in run.sessions})
        raise ReportError(
            f"{folder} has no sessions of {source} at step {step} any more: its {SESSIONS} was full (ccpo.keep_sessions_mb), and the first and "
            f"the last validation and every so many steps stay. Set --step to one of {_listed(whole)}, or train with a larger one"
        )
    if found < counted:
        raise ReportError(
            f"{folder}: of the validation at step {step}, {found:,} of {counted:,.0f} sessions of {source} are kept, and an average of them is not "
            f"of what other runs were asked: leave the run out. Unless {SESSIONS} was changed, it was too small: one validation takes at most "
            f"a quarter of ccpo.keep_sessions_mb, even without texts; train with {math.ceil(10 * counted / found) / 10:.1f} times of it or more"
        )
    if found > counted:
        raise ReportError(
            f"{folder}: {SESSIONS} has {found:,} sessions of {source} at step {step}, and the run logged {counted:,.0f}: one of the two was "
            "changed; leave the run out"
        )


def _question(sessions: Sequence[Mapping[str, Any]]) -> Question:
    try:
        answers = tuple(_answer(entry) for entry in sessions)
    except NoLabels:
        answers = None
    return Question(
        sessions[0]["text"], tuple(entry["value"] for entry in sessions), answers, dict(_contributions(sessions))
    )


def _answer(entry: Mapping[str, Any]) -> Hashable:
    """As in an evaluation. What a tie is worth is seen from the value: between 0 and 1 one of the tied answers is drawn."""
    ballots = entry["ballots"]
    if ballots is None:
        if entry["value"] == 1.0 and entry["answer"] is None:
            raise NoLabels  # a reward that names no answers, or a role with several ballots: wrong ones cannot be told apart either
        found = answer_of(entry, None, DRAW)
    elif entry["value"] == 1.0:
        return RIGHT
    else:
        others = {role: one for role, one in ballots.items() if entry["value"] > 0 or one != entry["truth"]}
        found = answer_of({**entry, "ballots": others}, "expected", DRAW)
    return label(found, "boxed") if isinstance(found, str) else found


def _contributions(sessions: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """As the log has it (`ccpo.metrics.contribution`): a replay that serves all sessions of its question is taken from all of them, another one
    from its own session."""
    shared, own = defaultdict(list), defaultdict(list)
    for entry in sessions:
        for role, value, serves_all in entry["replays"]:
            (shared if serves_all else own)[role].append((entry["value"], value))
    value = mean([entry["value"] for entry in sessions])
    every = dict.fromkeys(role for entry in sessions for role, _, _ in entry["replays"])
    return [
        (role, value - mean([other for _, other in shared[role]]))
        if role in shared
        else (role, mean([mine - other for mine, other in own[role]]))
        for role in every
    ]
