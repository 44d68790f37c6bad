"""The numbers of a run as tables: text for a terminal, cells for a page. Equal metrics give equal tables, except for those on time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ccpo.report.logged import (
    CONTRIBUTION,
    MANY_ROLES,
    ROLE_NUMBERS,
    TRAINING,
    indispensable,
    mean,
    measured,
    scores,
    summarize,
    validations,
)
from ccpo.run.step_times import STEP

Rows = list[tuple[str, str, "float | dict", "float | dict"]]
"""(what, label, before, after); ``what`` is "accuracy" or a number of `ROLE_NUMBERS`."""
WIDTHS, TIME_WIDTHS = (40, 23, 23), (44, 13, 26)  # of the columns but the last
RULE = "-" * 96


@dataclass(frozen=True)
class Table:
    """Rows of cells, the label first. ``notes``: sentences below it. ``widths``: of the columns in text."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...] = ()
    widths: tuple[int, ...] = WIDTHS

    def lines(self) -> list[str]:
        return [
            row(*self.head, widths=self.widths),
            RULE,
            *(row(*cells, widths=self.widths) for cells in self.rows),
        ] + [*self.notes]


def table(entries: list[dict]) -> str:
    """The numbers as text."""
    summary = summarize(entries)
    lines: list[str] = []
    if not summary["sources"]:
        lines += ["no validation was logged (trainer.test_freq, trainer.val_before_train)", ""]
    for part in [*accuracy_tables(entries, summary), *training_tables(summary)]:
        lines += [*part.lines(), ""]
    lines.append(f"steps: {summary['steps']}")
    if seconds := summary["seconds"]:
        lines += [duration(seconds), "", *time_table(seconds).lines()]
    return "\n".join(lines)


def accuracy_tables(entries: list[dict], summary: Mapping) -> list[Table]:
    """Before and after, one table per data source."""
    return [_accuracy_table(entries, source, ends) for source, ends in summary["sources"].items()]


def _accuracy_table(entries: list[dict], source: str, ends: Mapping) -> Table:
    before, after = ends["before"], ends["after"]
    known = measured(entries, source)
    head = f"{source}, {after['sessions']} sessions" if after["sessions"] else source
    both = [name for name in known.accuracies if name in before["accuracies"] and name in after["accuracies"]]
    accuracies = [
        ("accuracy", known.label(name), before["accuracies"][name], after["accuracies"][name]) for name in both
    ]
    needed = indispensable(ends.values())
    return Table(
        (head, f"step {before['step']}", f"step {after['step']}", "change"),
        _cells([*accuracies, *_role_rows(before["roles"], after["roles"], needed)]),
        tuple(f"{role}: without it there is no answer" for role in needed),
    )


def training_tables(summary: Mapping) -> list[Table]:
    """What the training batches say, if they were logged."""
    training = dict(summary["training"])
    if not training:
        return []
    roles = training.pop("roles", {})
    rows: Rows = [("", TRAINING[f"ccpo/{name}"], end["before"], end["after"]) for name, end in training.items()]
    first, last = (
        {role: {what: end[when] for what, end in numbers.items()} for role, numbers in roles.items()}
        for when in ("before", "after")
    )
    needed = [role for ends in summary["sources"].values() for role in indispensable(ends.values())]
    steps = f"{summary['averaged']} steps" if summary["averaged"] > 1 else "step"
    head = ("in training", f"first {steps}", f"last {steps}", "change")
    return [Table(head, _cells([*rows, *_role_rows(first, last, needed)]))]


def _role_rows(before: dict, after: dict, needed: Iterable[str]) -> Rows:
    """Rows on every role; of more than `MANY_ROLES` the mean. Of roles that are ``needed`` for an answer, what removal says is left out."""
    ends = {
        role: {what: (before[role][what], numbers[what]) for what in numbers if what in before.get(role, {})}
        for role, numbers in after.items()
    }
    for role in needed:
        ends[role] = {what: end for what, end in ends.get(role, {}).items() if what == "accuracy"}
    rows = [
        (what, f"{role}: {ROLE_NUMBERS[what]}", *numbers[what])
        for role, numbers in ends.items()
        for what in ROLE_NUMBERS
        if what in numbers
    ]
    if len(ends) <= MANY_ROLES:
        return rows
    whats = [what for what in ROLE_NUMBERS if any(what == row[0] for row in rows)]
    return [_together(what, [row for row in rows if row[0] == what]) for what in whats]


def _together(what: str, rows: Rows) -> tuple:
    """The mean of what is known of many roles; an interval of it would need their correlation."""
    before, after = (mean([_value(row[end]) for row in rows]) for end in (2, 3))
    return what, f"{len(rows)} roles: {ROLE_NUMBERS[what]}", before, after


def _cells(rows: Rows) -> list[tuple[str, ...]]:
    return [
        (label, score_text(before, what), score_text(after, what), f"{_value(after) - _value(before):+.3f}")
        for what, label, before, after in rows
    ]


def row(*cells: str, widths: tuple[int, ...] = WIDTHS) -> str:
    padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)]
    return "".join([*padded, *cells[len(widths) :]]).rstrip()


def _value(scored: float | dict) -> float:
    return scored["value"] if isinstance(scored, dict) else scored


def score_text(scored: float | dict, what: str = "") -> str:
    """A number, with its interval if it is known."""
    if not isinstance(scored, dict):
        return f"{scored:+.3f}" if what == CONTRIBUTION else f"{scored:.3f}"
    interval = f" [{scored['low']:.3f}, {scored['high']:.3f}]" if scored["low"] is not None else ""
    return f"{scored['value']:.3f}{interval}"


def last_scores(entries: list[dict], source: str) -> list[tuple[str, str]]:
    """(label, text) of everything that the last validation says."""
    known, seen = measured(entries, source), validations(entries, source)
    last = scores(seen[-1], source, known)
    found = [(known.label(name), score_text(scored)) for name, scored in last["accuracies"].items()]
    needed = indispensable(scores(entry, source, known) for entry in seen)
    rows = _role_rows(last["roles"], last["roles"], needed)
    return [*found, *((label, score_text(after, what)) for what, label, _, after in rows)]


def duration(seconds: Mapping) -> str:
    return f"time: {_duration(seconds['steps'])} in steps, {_duration(seconds['validation'])} in validation, without start-up"


def time_table(seconds: Mapping) -> Table:
    """The parts of a step, the first one apart: what starts only once would hide what the others take."""
    parts = seconds["parts"]
    later = parts[STEP]["steps"] if STEP in parts else 0
    head = (
        "seconds",
        "first step",
        *((f"{later} later step{'s' * (later > 1)}", "share of them") if later else ("", "")),
    )
    rows = []
    for part in parts.values():
        if part["mean"] is None:
            cells = ["", ""]
        else:
            spread = f" +- {_seconds_text(part['std'], part['mean'])}" if part["std"] is not None else ""
            some = f" ({part['steps']} steps)" if part["steps"] < later else ""
            share = f"{part['share']:.0%}" if part["share"] is not None else ""
            cells = [_seconds_text(part["mean"]) + spread + some, share]
        first = "" if part["first"] is None else _seconds_text(part["first"])
        rows.append(("  " * part["depth"] + part["label"], first, *cells))
    note = "sessions run beside each other: means of turns, replays and verdicts do not add up to gen"
    return Table(head, rows, (note,), TIME_WIDTHS)


def _seconds_text(seconds: float, like: float | None = None) -> str:
    """With as many digits as ``like`` has, itself if None."""
    return f"{seconds:.3f}" if (seconds if like is None else like) < 10 else f"{seconds:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
