"""A comparison for people: Markdown tables, what they say in words, and the tidy file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ccpo.compare_runs.arms import (
    Arm,
    Difference,
    Interval,
    Measure,
    common,
    contributions_of,
    difference,
    excludes_0,
    k_of,
    measures_of,
    value_of,
    without_width,
)
from ccpo.compare_runs.costs import costs_of
from ccpo.compare_runs.validations import Key, Validated
from ccpo.evaluate.measures import LEVEL, mean
from ccpo.evaluate.results import NOT_BINARY
from ccpo.evaluate.tables import text_of

COLUMNS = ("arm", "seed", "source", "question", "step", "value")
FEW = 20
CHANCE = 1 - LEVEL
LEGEND = (
    "95 % intervals. Over questions: what other questions would change, of these trainings (bootstrap of questions, values averaged over seeds). "
    "Over seeds: what other trainings would change, on these questions (paired t)."
)


@dataclass(frozen=True)
class Compared:
    """A difference to the control that was shown."""

    what: str
    found: Difference

    @property
    def intervals(self) -> tuple[Interval | None, Interval | None]:
        over = self.found.over_questions
        return None if over.low is None else (over.low, over.high), self.found.over_seeds


def lines_of(arms: Sequence[Arm], before: bool) -> Iterator[str]:
    """Everything that is printed. Raises ReportError where the runs have no question in common."""
    found = [one for arm in arms for one in arm.seeds.values()]
    keys, differ = common(found)
    control = f", control: {arms[0].name}" if len(arms) > 1 else ""
    yield f"# {len(found)} run{'s' * (len(found) > 1)}, {len(arms)} arm{'s' * (len(arms) > 1)}{control}"
    if notes := [*_notes(arms), *([differ] if differ else ())]:
        yield from ("", *(f"- {note}" for note in notes))
    compared: list[Compared] = []
    for source in dict.fromkeys(source for source, _ in keys):
        yield from _source(arms, source, [key for key in keys if key[0] == source], before, compared)
    yield from _costs(arms)
    yield from ("", "## What this says", "", LEGEND, "")
    yield from said(arms, compared)


# --- what must be known ---------------------------------------------------------------------------------------------


def _notes(arms: Sequence[Arm]) -> Iterator[str]:
    found = [one for arm in arms for one in arm.seeds.values()]
    for one in found:
        if one.holder is not None:
            yield f"{one.folder} is not over ({one.holder} trains there): its numbers are those of step {one.last.step}"

    def each(of: Callable[[Validated], int]) -> str | None:
        """What every run has, where they differ."""
        return ", ".join(f"{one.run.name} {of(one)}" for one in found) if len({of(one) for one in found}) > 1 else None

    if steps := each(lambda one: one.last.step):
        yield f"the validations are at different steps ({steps}), so that differences are of the length of training, too: set --step to compare one"
    if steps := each(lambda one: one.first.step if one.first else one.last.step) if found[0].first else None:
        yield f"the first validations are at different steps ({steps})"
    if sessions := each(lambda one: one.last.k):
        yield (
            f"sessions of a question differ ({sessions}): averages are of all, pass and maj of {k_of(found)} at a time; both are without bias, and "
            "runs with more are measured more exactly"
        )
    for one in found:
        for validation in filter(None, (one.first, one.last)):
            if validation.failed:
                yield (
                    f"{one.folder}: {validation.failed:,} of {validation.asked:,} sessions of step {validation.step} failed and are left out, as in its "
                    "log; here questions weigh the same, there sessions"
                )
    for arm in arms:
        if not all(isinstance(seed, str) for seed in arm.seeds):
            yield f"{arm.name}: its configuration tells no seed, so that it is paired by question alone"


# --- tables ---------------------------------------------------------------------------------------------------------


def _source(
    arms: Sequence[Arm], source: str, keys: Sequence[Key], before: bool, compared: list[Compared]
) -> Iterator[str]:
    k = k_of([one for arm in arms for one in arm.seeds.values()])
    yield from ("", f"## {source}: {len(keys)} question{'s' * (len(keys) > 1)}, {k} session{'s' * (k > 1)} each")
    if len(keys) < FEW:
        yield from ("", f"Less than {FEW} questions: intervals over questions are too narrow.")
    measures = measures_of(arms, keys, k)
    for name, measure in measures.items():
        yield from ("", f"### {name}", "")
        yield from _table(
            arms, {"": measure}, keys, before, lambda arm, _, name=name: f"{name} of {arm} on {source}", compared
        )
    if k > 1 and len(measures) == 1:
        yield from ("", f"{NOT_BINARY}: not shown.")
    roles, needed = contributions_of(arms, keys)
    if roles:
        yield from ("", "### Contribution of each role: the team's value minus its value without the role", "")
        yield from _table(
            arms, roles, keys, before, lambda arm, role: f"contribution of {role} in {arm} on {source}", compared
        )
    if needed:
        yield from ("", *(f"{role}: without it there is no answer, so it is left out." for role in needed))


def _table(
    arms: Sequence[Arm],
    measures: Mapping[str, Measure],
    keys: Sequence[Key],
    before: bool,
    called: Callable[[str, str], str],
    compared: list[Compared],
) -> Iterator[str]:
    """A line for each measure and arm. ``measures``: by role, or one without a name. ``compared``: gets the differences to the first arm."""
    control = arms[0].name
    steps = sorted({one.first.step for arm in arms for one in arm.seeds.values() if one.first})
    since = f"step {steps[0]}" if len(steps) == 1 else "the first validation"
    head = ["arm", *(["role"] if "" not in measures else []), "seeds", "at the end [over questions]"]
    head += [f"change from {since} [over questions]", "the same [over seeds]"] if before else []
    head += [f"minus {control} [over questions]", "the same [over seeds]"] if len(arms) > 1 else []
    rows, partial, fewer = [], {}, 0
    for role, measure in measures.items():
        reference = arms[0].of(measure, keys)
        for arm in arms:
            values = arm.of(measure, keys)
            value = value_of(values)
            fewer = max(fewer, len(keys) - (value.questions if value else 0))
            row = [
                arm.name,
                *([role] if role else []),
                _seeds_text(arm),
                text_of(value and value.as_dict(), signed=bool(role)),
            ]
            if before:
                row += _cells(difference(values, arm.of(measure, keys, "first")))
            if len(arms) > 1:
                found = difference(values, reference) if arm is not arms[0] else None
                row += _cells(found) if arm is not arms[0] else ["", ""]
                if found:
                    fewer = max(fewer, len(keys) - found.over_questions.questions)
                    compared.append(Compared(called(arm.name, role), found))
                    if found.seeds and {*values, *reference} - {*found.seeds}:
                        partial[arm.name] = found.seeds
            rows.append(row)
    yield from markdown(head, rows)
    for name, seeds in partial.items():
        yield from ("", f"{name} minus {control}: of the seeds that both have, {', '.join(map(str, seeds))}.")
    if fewer:
        yield from (
            "",
            f"{'Up to ' * (fewer > 1)}{fewer} question{'s have' if fewer > 1 else ' has'} too few sessions or replays for this in some run: left out of the "
            f"numbers of its arm{' and of differences to or from it' * (len(arms) > 1)}, so that these need not be of the same questions.",
        )


def _seeds_text(arm: Arm) -> str:
    return ", ".join(seed if isinstance(seed, str) else "unknown" for seed in arm.seeds)


def _cells(found: Difference | None) -> list[str]:
    """The difference with its interval over questions, and the interval over seeds or why there is none."""
    if found is None:
        return ["", ""]
    if found.over_seeds is not None:
        low, high = found.over_seeds
        return [
            text_of(found.over_questions.as_dict(), signed=True),
            f"[{low:+.3f}, {high:+.3f}], {len(found.seeds)} seeds",
        ]
    return [
        text_of(found.over_questions.as_dict(), signed=True),
        "one seed: none" if found.seeds else "no seed in common: none",
    ]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, columns below each other."""
    cells = [[_cell(text) for text in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    yield from (lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


# --- what training took ---------------------------------------------------------------------------------------------


def _costs(arms: Sequence[Arm]) -> Iterator[str]:
    found = {arm.name: [costs_of(one.run.entries, one.last.step) for one in arm.seeds.values()] for arm in arms}
    every = [costs for of_one in found.values() for costs in of_one]
    if not any(costs.steps for costs in every):
        return
    head = [
        "arm",
        "steps",
        "tokens generated, with replays",
        "of them in replays",
        "hours of steps",
        "hours of validation",
    ]
    rows = []
    for name, of_one in found.items():
        tokens = _average([costs.tokens for costs in of_one])
        if not tokens and (trained := _average([costs.trained for costs in of_one])):
            tokens = f"unknown; {trained} in trained turns"
        hours = ([costs.seconds for costs in of_one], [costs.validation for costs in of_one])
        rows.append(
            [
                name,
                ", ".join(map(str, sorted({costs.steps for costs in of_one}))),
                tokens,
                _average([costs.replay_tokens for costs in of_one]),
                *(_average(seconds, "{:.2f}", 3600) for seconds in hours),
            ]
        )
    yield from ("", "## Training: mean of an arm's runs", "")
    yield from markdown(head, rows)


def _average(values: Sequence[float | None], form: str = "{:,.0f}", unit: float = 1) -> str:
    """Empty unless every run's log says it."""
    return "" if None in values else form.format(fmean(values) / unit)


# --- in words -------------------------------------------------------------------------------------------------------


def said(arms: Sequence[Arm], compared: Sequence[Compared]) -> Iterator[str]:
    """Which differences exclude 0, and how many would by chance."""
    if len(arms) < 2:
        yield "One arm: there is nothing to compare it with."
        return
    kinds: dict[str, list[str]] = {}
    for one in compared:
        over_questions, over_seeds = one.intervals
        questions, seeds = excludes_0(over_questions), excludes_0(over_seeds)
        if over_questions is None:
            known = "nothing is known" if over_seeds is None else f"{'exclude' if seeds else 'do not exclude'} 0"
            kind = f"Of one question, so over questions nothing is known; over seeds {known}"
        elif over_seeds is None:
            kind = f"{'Exclude' if questions else 'Do not exclude'} 0 over questions; over seeds nothing is known"
        elif questions and seeds:
            kind = "Exclude 0 under both intervals"
        elif questions or seeds:
            kind = f"Exclude 0 over {'questions' if questions else 'seeds'}, not over {'seeds' if questions else 'questions'}"
        else:
            kind = "Do not exclude 0 under either interval"
        kinds.setdefault(kind, []).append(f"{one.what} ({one.found.over_questions.value:+.3f})")
    yield f"{len(compared)} difference{'s' * (len(compared) > 1)} to {arms[0].name}:"
    yield ""
    order = sorted(kinds, key=lambda kind: (not kind.startswith("Exclude"), "not" in kind, kind))
    yield from (f"- {kind}: {'; '.join(kinds[kind])}." for kind in order)
    if flat := [one.what for one in compared if any(map(without_width, one.intervals))]:
        yield f"- An interval without width says that all its values are the same, not that it is sure, and is not counted: {'; '.join(flat)}."
    yield ""
    yield _by_chance(compared)


def _by_chance(compared: Sequence[Compared]) -> str:
    """An interval over questions takes the trainings for all that there are, so that it says nothing of what arms that are equal would do."""
    seeds = sum(one.found.over_seeds is not None for one in compared)
    together = " Differences of the same sessions come and go together."
    if not seeds:
        questions = sum(one.found.over_questions.low is not None for one in compared)
        if not questions:
            return "Nothing can be told from chance: it takes two questions or more, and two seeds."
        return (
            f"If the arms were equal, more than {CHANCE * questions:.2g} of {questions} would exclude 0 over questions by chance, since two "
            f"trainings of one arm differ, too; it takes two seeds or more to say how far.{together * (len(compared) > 1)}"
        )
    return (
        f"If the arms were equal, about {CHANCE * seeds:.2g} of {seeds} would exclude 0 over seeds by chance, and at most as many under both; over "
        f"questions more would, since two trainings of one arm differ, too.{together * (len(compared) > 1)}"
    )


# --- the tidy file --------------------------------------------------------------------------------------------------


def tidy(arms: Sequence[Arm]) -> str:
    """CSV: a line for each run's mean value of each question that is compared, at the end and, if it was asked for, before."""
    keys, _ = common([one for arm in arms for one in arm.seeds.values()])
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for arm in arms:
        for seed, one in arm.seeds.items():
            for validation in filter(None, (one.first, one.last)):
                for key in keys:
                    writer.writerow([arm.name, seed, *key, validation.step, mean(validation.questions[key].values)])
    return stream.getvalue().encode(errors="backslashreplace").decode()  # a folder's name may be no text
