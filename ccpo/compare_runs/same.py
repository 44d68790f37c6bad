"""Do two runs have the same numbers, to the last bit, and where do they part?

Compared are every logged number but clocks and memory, the texts of the sessions that were kept, and the sums of the files of the last checkpoint
that both have. What one run alone has is counted, not compared: a run that was ended early is no other run.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ccpo.compare_runs.tables import markdown
from ccpo.report.logged import TEAM_IN_TRAINING, ReportError
from ccpo.report.runs import Run, read_run
from ccpo.run.checkpoint import PART, finished_steps
from ccpo.run.folder import MARKER, SETTINGS, step_folder
from ccpo.run.json_file import Damaged, read_object
from ccpo.run.session_log import TRAIN, VAL

When = tuple[int, str]
"""(step, "train" or "val"); what is validated before the first step is of step 0."""
Session = tuple[str, int, int]
"""Data source, number of the row in it, number of the session."""
Said = tuple[str, "str | None"]
"""Role and text of a turn; None where the text was not kept."""
SHOWN = {
    TEAM_IN_TRAINING: "team",
    "actor/entropy": "entropy",
    "actor/grad_norm": "gradient",
    "rollout_corr/kl": "rollout kl",
}
MOST_ROWS, NAMED, AROUND = 12, 3, 24


class Compared(NamedTuple):
    """``equal``: None where the runs have nothing of it in common."""

    equal: bool | None
    lines: list[str]


def compare(a: Path, b: Path) -> Compared:
    """Two runs. Raises ReportError for a folder that is no run's or is given twice, and for runs that have nothing in common."""
    if os.path.realpath(a) == os.path.realpath(b):
        raise ReportError(f"{a} and {b} are one folder: it is equal to itself")
    runs = read_run(a), read_run(b)
    parts = [_numbers(*runs), _sessions(*runs), _checkpoints(a, b)]
    if all(part.equal is None for part in parts):
        raise ReportError(f"{a} and {b} have no step, validation or checkpoint in common: there is nothing to compare")
    equal = all(part.equal is not False for part in parts)
    verdict = "equal in all that both have" if equal else "not equal"
    return Compared(equal, [_settings(a, b), *(line for part in parts for line in part.lines), verdict])


def _settings(a: Path, b: Path) -> str:
    try:
        ours, theirs = (read_object(folder / SETTINGS, {}) for folder in (a, b))
    except Damaged as error:
        return f"settings: not compared ({error})"
    differ = _differing(ours, theirs)
    return f"settings: {'the same' if not differ else 'other ' + ', '.join(differ)}"


# --- numbers ----------------------------------------------------------------------------------------------------------


def numbers(entries: Sequence[Mapping[str, Any]]) -> dict[When, dict[str, float]]:
    """(step, kind) -> everything that was logged, except clocks and memory."""
    return {
        (entry["step"], entry["kind"]): {
            name: value
            for name, value in entry["metrics"].items()
            if not name.startswith("timing") and "perf/" not in name
        }
        for entry in entries
    }


def _numbers(a: Run, b: Run) -> Compared:
    ours, theirs = numbers(a.entries), numbers(b.entries)
    both = _in_order(ours, theirs)
    differ = {when: names for when in both if (names := _differing(ours[when], theirs[when]))}
    alone = len(ours) + len(theirs) - 2 * len(both)
    lines = [
        f"log: {len(both) - len(differ)} of {len(both)} lines have the same numbers"
        + (f"; {alone} that one run alone has are not compared" if alone else "")
    ]
    if differ:
        first = next(iter(differ))
        steps = [when for when in both if when[1] == TRAIN]
        columns = {name: title for name, title in SHOWN.items() if any(name in ours[when] for when in steps)}
        rows = [
            [
                str(when[0]),
                f"{len(differ.get(when, ()))} of {len(ours[when])}",
                *(_pair(ours[when].get(name), theirs[when].get(name)) for name in columns),
            ]
            for when in _some_of(steps, next((when for when in steps if when in differ), None))
        ]
        lines.append(f"  the first with others: {_spelt(first)}, {_named(differ[first])}")
        if rows:
            lines += ["", *markdown(["step", "numbers that differ", *columns.values()], rows), ""]
    return Compared(not differ if both else None, lines)


def _in_order(ours: Mapping[When, Any], theirs: Mapping[When, Any]) -> list[When]:
    """What both have. A step is trained, then validated."""
    return sorted(ours.keys() & theirs.keys(), key=lambda when: (when[0], when[1] == VAL))


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names with other values; one that is not a number twice is the same."""
    return sorted(
        name
        for name in ours.keys() | theirs.keys()
        if not (
            name in ours and name in theirs and (ours[name] == theirs[name] or repr(ours[name]) == repr(theirs[name]))
        )
    )


def _pair(a: float | None, b: float | None) -> str:
    first, second = ("none" if value is None else f"{value:.9g}" for value in (a, b))
    return first if a == b else f"{first}, {second}"


def _some_of(steps: Sequence[When], must: When | None) -> list[When]:
    """The first, the last and some between, and the one that has to be among them."""
    last = len(steps) - 1
    places = {round(number * last / (MOST_ROWS - 1)) for number in range(MOST_ROWS)} if steps else set()
    if must is not None:
        places.add(steps.index(must))
    return [steps[place] for place in sorted(places)]


def _spelt(when: When) -> str:
    return f"step {when[0]}" if when[1] == TRAIN else f"the validation after step {when[0]}"


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


# --- sessions ---------------------------------------------------------------------------------------------------------


def _said(run: Run) -> dict[When, dict[Session, list[Said]]]:
    found: dict[When, dict[Session, list[Said]]] = {}
    for entry in run.sessions:
        name = (entry["source"], entry["index"], entry["session"])
        turns = [(turn["role"], turn.get("text")) for turn in entry["turns"]]
        found.setdefault((entry["step"], entry["kind"]), {})[name] = turns
    return found


def _sessions(a: Run, b: Run) -> Compared:
    ours, theirs = _said(a), _said(b)
    both = [
        (when, name, ours[when][name], theirs[when][name])
        for when in _in_order(ours, theirs)
        for name in sorted(ours[when].keys() & theirs[when].keys())
    ]
    kept = [one for one in both if all(text is not None for _, text in (*one[2], *one[3]))]
    differ = [one for one in kept if one[2] != one[3]]
    lines = [
        f"sessions: {len(kept) - len(differ):,} of {len(kept):,} have the same texts"
        + (
            f"; {len(both) - len(kept):,} of which texts were not kept are not compared"
            if len(kept) < len(both)
            else ""
        )
    ]
    if differ:
        when, (source, index, session), *turns = differ[0]
        pairs = itertools.zip_longest(*turns)
        number, (one, other) = next((number, pair) for number, pair in enumerate(pairs, 1) if pair[0] != pair[1])
        where = f"{_spelt(when)}, {source} {index}, session {session}, turn {number} ({(one or other)[0]})"
        lines += [f"  the first with others: {where}", f"  {_apart(one, other)}"]
    return Compared(not differ if kept else None, lines)


def _apart(one: Said | None, other: Said | None) -> str:
    """How two turns differ."""
    if one is None or other is None:
        return "only one run has this turn"
    if one[0] != other[0]:
        return f"in the other run {other[0]} speaks there"
    same = len(os.path.commonprefix((one[1], other[1])))
    ends = [ascii(text[max(0, same - AROUND) : same + AROUND]) for _, text in (one, other)]
    return f"after {same} equal characters: {ends[0]} and {ends[1]}"


# --- checkpoints ------------------------------------------------------------------------------------------------------


def _checkpoints(a: Path, b: Path) -> Compared:
    both = sorted(set(finished_steps(a)) & set(finished_steps(b)))
    if not both:
        return Compared(None, ["checkpoint: there is no step of which both have one"])
    try:
        ours, theirs = (_sums(step_folder(folder, both[-1]) / MARKER) for folder in (a, b))
    except Damaged as error:
        return Compared(None, [f"checkpoint: not compared ({error})"])
    differ, of_all = _differing(ours, theirs), len(ours.keys() | theirs.keys())
    line = f"checkpoint of step {both[-1]}: {of_all - len(differ)} of {of_all} files of weights and moments are equal"
    return Compared(not differ if of_all else None, [line + (f"; other: {_named(differ)}" if differ else "")])


def _sums(marker: Path) -> dict[str, Any]:
    """File -> its SHA-256 when the checkpoint was saved, of what training workers wrote."""
    sums = read_object(marker, {"sha256": dict})["sha256"]
    return {name: value for name, value in sums.items() if PART.fullmatch(Path(name).name)}
