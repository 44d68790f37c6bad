"""Do two runs have the same numbers, to the last bit, and where do they part?

Compared are every logged number but clocks and memory, all that is known of the sessions that were kept, and the weights and moments of the last
checkpoint that both have. What one run alone has is counted, not compared: a run that was ended early is no other run.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ccpo.compare_runs.tables import markdown
from ccpo.report.logged import TEAM_IN_TRAINING, ReportError
from ccpo.report.runs import Run, read_run
from ccpo.run.checkpoint import PART, finished_steps, sha256_of
from ccpo.run.folder import SETTINGS, step_folder
from ccpo.run.json_file import Damaged, open_file, read_object
from ccpo.run.output import printable
from ccpo.run.run_log import CLOCKS
from ccpo.run.session_log import TRAIN, VAL
from ccpo.run.texts import has_texts, without_texts

When = tuple[int, str]
"""(step, "train" or "val"); what is validated before the first step is of step 0."""
Session = tuple[str, int, int, int]
"""Data source, number of the row in it, number of the session, and which it is of those that have these."""
Said = tuple[str, "str | None"]
"""Role and text of a turn; None where the text was not kept."""
SHOWN = {
    TEAM_IN_TRAINING: "team",
    "actor/entropy": "entropy",
    "actor/grad_norm": "gradient",
    "rollout_corr/kl": "rollout kl",
}
MOST_ROWS, NAMED, AROUND = 12, 3, 24
RANDOM = "extra_state_"  # begins the name of a worker's file of random states
TENSOR = re.compile(r"/data/\d+$")  # of torch's archives


class Compared(NamedTuple):
    """``equal``: None where the runs have nothing of it in common, or it cannot be ``read``."""

    equal: bool | None
    lines: list[str]
    read: bool = True


def compare(a: Path, b: Path) -> Compared:
    """Two runs. Raises ReportError for a folder that is no run's or is given twice, and for runs that have nothing in common."""
    if os.path.realpath(a) == os.path.realpath(b):
        raise ReportError(f"{a} and {b} are one folder: it is equal to itself")
    runs = read_run(a), read_run(b)
    try:
        settings, parts = _settings(a, b), [_numbers(*runs), _sessions(*runs), _checkpoints(a, b)]
    except RecursionError:
        raise ReportError(f"{a} or {b} has JSON that is nested too deeply to be compared") from None
    equal: bool | None = all(part.equal is not False for part in parts)
    verdict = "equal in all that both have" if equal else "not equal"
    if equal and not all(part.read for part in parts):
        equal, verdict = None, "not known: something that both have cannot be read"
    elif all(part.equal is None for part in parts):
        raise ReportError(f"{a} and {b} have no step, validation or checkpoint in common: there is nothing to compare")
    return Compared(
        equal, [printable(line) for line in (settings, *(line for part in parts for line in part.lines), verdict)]
    )


def _settings(a: Path, b: Path) -> str:
    found = []
    for folder in (a, b):
        try:
            found.append(read_object(folder / SETTINGS, {}))
        except Damaged as error:
            return f"settings: not compared ({folder}: {error})"
    differ = _differing(*found)
    return f"settings: {'the same' if not differ else 'other ' + ', '.join(differ)}"


# --- numbers ----------------------------------------------------------------------------------------------------------


def numbers(entries: Sequence[Mapping[str, Any]]) -> dict[When, dict[str, float]]:
    """(step, kind) -> everything that was logged, except clocks and memory."""
    return {
        (entry["step"], entry["kind"]): {
            name: value for name, value in entry["metrics"].items() if entry["kind"] == VAL or not _is_clock(name)
        }
        for entry in entries
    }


def _is_clock(name: str) -> bool:
    """Of a step's numbers: verl's clocks and memory, of every policy. Behind ccpo/ stand roles, whatever they are called; a validation has none."""
    return name.startswith(CLOCKS) or ("/perf/" in name and not name.startswith("ccpo/"))


def _numbers(a: Run, b: Run) -> Compared:
    ours, theirs = numbers(a.entries), numbers(b.entries)
    alone = len(ours.keys() ^ theirs.keys())
    both = [when for when in _in_order(ours, theirs) if ours[when] or theirs[when]]
    differ = {when: names for when in both if (names := _differing(ours[when], theirs[when]))}
    lines = [
        f"log: {len(both) - len(differ)} of {len(both)} lines have the same numbers"
        + (f"; {alone} that one run alone has are not compared" if alone else "")
    ]
    if differ:
        first = next(iter(differ))
        steps = [when for when in both if when[1] == TRAIN]
        columns = {
            name: title
            for name, title in SHOWN.items()
            if any(name in ours[when] or name in theirs[when] for when in steps)
        }
        rows = [
            [
                str(when[0]),
                f"{len(differ.get(when, ()))} of {len(ours[when].keys() | theirs[when].keys())}",
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
    """Names that one lacks, or with other values."""
    return sorted(
        name
        for name in ours.keys() | theirs.keys()
        if not (name in ours and name in theirs and _exact(ours[name]) == _exact(theirs[name]))
    )


def _exact(value: Any) -> str:
    """Equal for equal bits: 0.0 and -0.0 are two, and so are 1 and true; one that is not a number twice is the same."""
    return json.dumps(value, sort_keys=True)


def _pair(a: float | None, b: float | None) -> str:
    first, second = ("none" if value is None else f"{value:.9g}" for value in (a, b))
    return first if _exact(a) == _exact(b) else f"{first}, {second}"


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


def _kept(run: Run) -> dict[When, dict[Session, dict]]:
    found: dict[When, dict[Session, dict]] = {}
    seen: Counter[tuple] = Counter()
    for entry in run.sessions:
        when, name = (entry["step"], entry["kind"]), (entry["source"], entry["index"], entry["session"])
        found.setdefault(when, {})[(*name, seen[when, name])] = entry
        seen[when, name] += 1
    return found


def _sessions(a: Run, b: Run) -> Compared:
    ours, theirs = _kept(a), _kept(b)
    both = [
        (when, name, *_as_kept_by_both(ours[when][name], theirs[when][name]))
        for when in _in_order(ours, theirs)
        for name in sorted(ours[when].keys() & theirs[when].keys())
    ]
    differ = [one for one in both if _exact(one[2]) != _exact(one[3])]
    bare = sum(not has_texts(one) for _, _, one, _ in both)
    alone = len(a.sessions) + len(b.sessions) - 2 * len(both)
    lines = [
        f"sessions: {len(both) - len(differ):,} of {len(both):,} are the same"
        + (f"; of {bare:,} the texts were not kept" if bare else "")
        + (f"; {alone:,} that one run alone has are not compared" if alone else "")
    ]
    if differ:
        when, (source, index, session, _), one, other = differ[0]
        what, how = _parted(one, other)
        lines += [f"  the first with others: {_spelt(when)}, {source} {index}, session {session}, {what}", f"  {how}"]
    return Compared(not differ if both else None, lines)


def _as_kept_by_both(one: dict, other: dict) -> tuple[dict, dict]:
    return (one, other) if has_texts(one) and has_texts(other) else (without_texts(one), without_texts(other))


def _parted(one: dict, other: dict) -> tuple[str, str]:
    """(where two sessions part, how): in what was said, or else in what is known of it."""
    said = ([(turn["role"], turn.get("text")) for turn in entry["turns"]] for entry in (one, other))
    for number, (mine, its) in enumerate(itertools.zip_longest(*said), 1):
        if mine != its:
            return f"turn {number} ({(mine or its)[0]})", _apart(mine, its)
    names = _differing(one, other)
    if not (names[0] in one and names[0] in other):
        return _named(names), f"only one run has {names[0]}"
    return _named(names), _excerpts(_exact(one[names[0]]), _exact(other[names[0]]))


def _apart(one: Said | None, other: Said | None) -> str:
    """How two turns differ."""
    if one is None or other is None:
        return "only one run has this turn"
    if one[0] != other[0]:
        return f"in the other run {other[0]} speaks there"
    return _excerpts(one[1], other[1])


def _excerpts(one: str, other: str) -> str:
    same = len(os.path.commonprefix((one, other)))
    ends = [ascii(text[max(0, same - AROUND) : same + AROUND]) for text in (one, other)]
    return f"after {same} equal characters: {ends[0]} and {ends[1]}"


# --- checkpoints ------------------------------------------------------------------------------------------------------


def _checkpoints(a: Path, b: Path) -> Compared:
    both = sorted(set(finished_steps(a)) & set(finished_steps(b)))
    if not both:
        return Compared(None, ["checkpoint: there is no step of which both have one"])
    try:
        ours, theirs = (_sums(step_folder(folder, both[-1])) for folder in (a, b))
    except Damaged as error:
        return Compared(None, [f"checkpoint: not compared ({error})"], read=False)
    differ, of_all = _differing(ours, theirs), len(ours.keys() | theirs.keys())
    line = f"checkpoint of step {both[-1]}: {of_all - len(differ)} of {of_all} files of weights and moments are equal"
    return Compared(not differ, [line + (f"; other: {_named(differ)}" if differ else "")])


def _sums(folder: Path) -> dict[str, dict[str, str]]:
    """File of a training worker's weights or moments -> its tensors, by their places in it -> SHA-256. Raises Damaged.

    A file's own sum is another one in each process: what is pickled beside the tensors holds a hash of texts, and which of them were one object. Nothing
    is unpickled here. Random states are no part of it: some are of generators that nobody seeds.
    """
    found = {}
    for path in sorted(folder.rglob("*.pt")):
        if not PART.fullmatch(path.name) or path.name.startswith(RANDOM):
            continue
        try:
            with open_file(path) as stream, zipfile.ZipFile(stream) as archive:
                sums = found[str(path.relative_to(folder))] = {}
                for name in filter(TENSOR.search, archive.namelist()):
                    with archive.open(name) as tensor:
                        sums[name] = sha256_of(tensor)
        except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise Damaged(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not found:
        raise Damaged(f"{folder} has no files of weights")
    return found
