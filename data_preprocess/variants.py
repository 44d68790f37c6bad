"""The same problem with other numbers: its question, its worked solution and its answer; and single lines of solutions. Our construction.

    numbers of the question --drawn anew--> every calculator annotation, worked out again --> the texts, with the new numbers in place

A question is left alone where it is not clear what each number of its solution stands for: a result that is also a number of the question, a number
that a word means, too (2 and "twice"), one that comes from nowhere, an equation without an annotation, or with a wrong one. What was a whole number
stays one, what was positive stays positive.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import NamedTuple

from data_preprocess.role_targets import ANNOTATION, NUMBER, Solved, normal, number_of, plain, replaced, value_of

TRIES = 40  # draws for one variant
MISSES = 2000  # draws without a new line, after which there are taken to be no more
LARGEST = 10**6
CENTS = Decimal("0.01")
USUAL = {Decimal(1), Decimal(2), Decimal(100)}  # 1 - 1/4, half of, percent

_NAMES = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
_MEANT = {
    **{number: name for number, name in enumerate(_NAMES.split(), 1)},
    **dict(zip(range(30, 100, 10), "thirty forty fifty sixty seventy eighty ninety".split(), strict=True)),
}
MEANT: Mapping[int, str] = {
    **_MEANT,
    1: "one|single|once|per|each|an?",
    2: r"two|twice|half|halves|doubled?|pairs?|couples?|both|twins?|second",
    3: "three|thirds?|tripled?|thrice|triplets?",
    4: "four|fourths?|quarters?|quadrupled?|seasons?",
    5: "five|fifths?|nickels?|weekdays?",
    6: "six|sixths?",
    7: "seven|weeks?|weekly|daily|days?",
    8: "eight|eighths?",
    10: "ten|tenths?|dimes?|decades?",
    12: "twelve|dozens?|months?|monthly|years?|yearly|annual(?:ly)?|foot|feet|inch(?:es)?|noon",
    16: "sixteen|pounds?|ounces?",
    24: "hours?|days?|daily",
    25: "quarters?",
    30: "thirty|months?|monthly",
    50: "fifty|half",
    52: "weeks?|weekly|years?|yearly|annual(?:ly)?",
    60: "sixty|minutes?|hours?|hourly|seconds?",
    100: "hundred|percent|cents?|met(?:er|re)s?|cent(?:ury|uries)|centimet(?:er|re)s?",
    360: "degrees?|circle",
    365: "days?|daily|years?|yearly|annual(?:ly)?",
    500: "sheets?|reams?",
    2000: "tons?",
    5280: "miles?|feet",
    1000: "thousand|kilo\\w*|grams?|lit(?:er|re)s?|met(?:er|re)s?",
}
"""Number -> words that mean it as well, so that a solution may have taken it from there."""

_BOUND = re.compile(
    r"""[a-z] | \s?(?:% | percent\b | per\ cent\b | /\s?\d | :\d | -\s?\d | [ap]\.?m\b | o'clock | to\ \d | (?:-?dollar\ )?bills?\b)
    | \s(?:days?|hours?|minutes?|weeks?|months?)\s(?:a|an|per|each|every|in|of|out)\b  # of which there are so many at most
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BOUND_BEFORE = re.compile(r"(?:\d\s?/|\d:|\d\s?-|#|No\. )$")


class Step(NamedTuple):
    """An annotated calculation."""

    expression: str
    result: Decimal


def variants(solved: Solved, count: int, seed: str = "") -> list[Solved]:
    """Up to ``count`` different ones, fewer where the numbers leave no more; by the question and ``seed`` alone."""
    found: dict[str, Solved] = {normal(solved.question): solved}
    for one in islice(_drawn(solved, seed) if count else (), 4 * count):
        found.setdefault(normal(one.question), one)
        if len(found) > count:
            break
    return list(found.values())[1:]


def _drawn(solved: Solved, seed: str) -> Iterator[Solved]:
    steps = _steps(solved)
    changeable = _changeable(solved, steps)
    if not changeable:
        return
    rng = random.Random(f"{seed}\0{normal(solved.question)}")
    failed = 0
    while failed < TRIES:
        drawn = {number: _draw(rng, int(number)) for number in changeable}
        changed = _worked_out(steps, drawn) if len(set(drawn.values())) == len(drawn) else None
        failed = 0 if changed else failed + 1
        if changed:
            yield Solved(
                replaced(solved.question, drawn),
                tuple(replaced(line, changed) for line in solved.marked),
                f"{changed[steps[-1].result].normalize():f}",
            )


def _steps(solved: Solved) -> list[Step]:
    """Its calculations, none where one of them is not annotated, is wrong, or they lead to another answer."""
    found = []
    for line in solved.marked:
        annotations = ANNOTATION.findall(line)
        if plain(line).count("=") > len(annotations):
            return []
        for expression, _, stated in (one.rpartition("=") for one in annotations):
            result = value_of(stated)
            if result is None or result <= 0 or value_of(expression) != result:
                return []
            found.append(Step(expression, result))
    return found if found and found[-1].result == value_of(solved.truth) else []


def _changeable(solved: Solved, steps: Sequence[Step]) -> list[Decimal]:
    """Numbers of the question that may be others; none unless every number of every calculation comes from one place."""
    words = f"{solved.question}\n{' '.join(solved.steps)}"
    meant = {Decimal(number) for number, names in MEANT.items() if re.search(rf"\b(?:{names})\b", words, re.IGNORECASE)}
    asked = set(_numbers(solved.question))
    free = {number for number in asked - meant if number >= 2 and number % 1 == 0 and _free(solved.question, number)}
    parts = {part for number in asked - free for part in (number / 100, 1 + number / 100, 1 - number / 100)}
    constants = meant | parts | {100 + sign * number for number in asked - free for sign in (1, -1)} | USUAL
    results: set[Decimal] = set()
    used: set[Decimal] = set()
    for step in steps:
        numbers = set(_numbers(step.expression))
        if not numbers <= results | asked | constants:
            return []
        used |= numbers
        results.add(step.result)
    if results & (asked | meant | (constants & used)):
        return []
    found = sorted(free & used)
    told = {one for a in found for b in found for one in (a + b, a * b, abs(a - b))}
    return [] if told & (asked - used) else found  # 30 and 30 of the 60 that nobody needs to count


def _numbers(text: str) -> list[Decimal]:
    return [number_of(match[0]) for match in NUMBER.finditer(text)]


def _free(question: str, number: Decimal) -> bool:
    """Whether it always stands for a count of its own: not in 3/4, 20 %, 5th, 3:30, 4-6 or 10am."""
    places = [match for match in NUMBER.finditer(question) if number_of(match[0]) == number]
    return not any(
        "." in match[0] or _BOUND.match(question[match.end() :][:24]) or _BOUND_BEFORE.search(question[: match.start()])
        for match in places
    )


def _draw(rng: random.Random, number: int) -> Decimal:
    """Another number of about its size, and as round as it is."""
    if number < 10:
        return Decimal(rng.choice([one for one in range(2, 10) if one != number]))
    step = next(step for step in (100, 50, 10, 5, 1) if step == 1 or number % step == 0 and number >= 4 * step)
    least, most = -(-number // (2 * step)), 2 * number // step
    return Decimal(step * rng.choice([one for one in range(least, most + 1) if one * step != number]))


def _worked_out(steps: Sequence[Step], drawn: Mapping[Decimal, Decimal]) -> dict[Decimal, Decimal] | None:
    """Number -> what stands in its place, results included. None where a result is no number of its kind."""
    changed = dict(drawn)
    for expression, result in steps:
        new = value_of(replaced(expression, changed))
        if new is None or not 0 < new <= LARGEST or new % (1 if result % 1 == 0 else CENTS):
            return None
        if changed.setdefault(result, new) != new:
            return None  # two quantities that were equal are not any more
    return changed


# --- lines ------------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A line of a solution: up to its equals sign, whole, and what it comes to."""

    begun: str
    whole: str
    result: str


def lines(problems: Sequence[Solved], count: int, seed: str = "") -> list[Line]:
    """``count`` different lines of these solutions with other numbers, each with one calculation and no number besides; fewer where there are no more.

    What the numbers stand for plays no part: a line says all that its calculation needs.
    """
    rng = random.Random(seed)
    able = [(plain(line), step) for solved in problems for line in solved.marked if (step := _calculation(line))]
    found: dict[str, Line] = {}
    missed = 0  # draws since the last new line
    while able and len(found) < count and missed < MISSES:
        text, step = rng.choice(able)
        drawn = {one: _draw(rng, int(one)) if one >= 2 and one % 1 == 0 else one for one in _numbers(step.expression)}
        changed = _worked_out([step], drawn)
        missed += 1
        if changed and len(set(changed.values())) == len(changed) and (whole := replaced(text, changed)) not in found:
            found[whole] = Line(whole.partition("=")[0] + "=", whole, f"{changed[step.result].normalize():f}")
            missed = 0
    return list(found.values())


def _calculation(line: str) -> Step | None:
    """The line's one calculation, if the text has it left of its only equals sign, the result right of it, and no other number."""
    annotations = ANNOTATION.findall(line)
    text = plain(line)
    if len(annotations) != 1 or text.count("=") != 1:
        return None
    expression, _, stated = annotations[0].rpartition("=")
    result, numbers = value_of(stated), _numbers(expression)
    left, right = map(_numbers, text.split("="))
    if (
        not result
        or result < 0
        or result in numbers
        or value_of(expression) != result
        or sorted(left) != sorted(numbers)
    ):
        return None
    return Step(expression, result) if right == [result] else None
