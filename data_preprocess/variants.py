"""The same problem with other numbers: its question, its worked solution and its answer; and single lines of solutions. Our construction.

    numbers of the question --drawn anew--> every calculator annotation, worked out again --> the texts, with the new numbers in place

A question is left alone where it is not clear what each number of its solution stands for: a result that is also a number of the question, one of a
calculation or of a text that comes from nowhere, an equation without an annotation, or with a wrong one. A number that a word or a share means, too,
stays (5 and "weekdays", 80 beside 20 %), and so do 1, 2 and 100: they are of averages, ways there and back, couples and shares as often as of the
question. What was a whole number stays one, what was positive stays positive, and what was the sum of others stays their sum.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import combinations, islice
from typing import NamedTuple

from data_preprocess.role_targets import (
    ANNOTATION,
    AS_PYTHON,
    NUMBER,
    Solved,
    normal,
    number_of,
    plain,
    replaced,
    value_of,
    worth_of,
)

TRIES = 40  # draws for one variant
MISSES = 2000  # draws without a new line, after which there are taken to be no more
LARGEST = 10**6
MOST_NUMBERS = 20  # different ones of a question: no problem of GSM8K has more
SUMMANDS = 4
EXACT = Decimal("1e-12")  # 3 * (1 / 3) is one
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
    2: "two|twice|hal(?:f|ves|ved?|ving)|doubl(?:e[sd]?|ing)|pairs?|couples?|both|twins?|second",
    3: "three|thirds?|tripl(?:e[sd]?|ing)|thrice|triplets?|yards?",
    4: "four|fourths?|quarters?|quadrupl(?:e[sd]?|ing)|seasons?|quarts?|gallons?|months?|monthly",
    5: "five|fifths?|nickels?|weekdays?",
    6: r"six|sixths?|half[- ](?:of )?(?:an?[- ])?dozen",
    7: "seven|sevenths?|weeks?|weekly|daily|days?",
    8: "eight|eighths?|pints?",
    9: "nine|ninths?",
    10: "ten|tenths?|dimes?|decades?",
    12: "twelve|dozens?|months?|monthly|years?|yearly|annual(?:ly)?|foot|feet|inch(?:es)?|noon",
    14: "fourteen|weeks?|fortnight\\w*",
    15: "fifteen|quarters?",
    16: "sixteen|pounds?|ounces?|cups?",
    24: "hours?|days?|daily",
    25: "quarters?",
    **dict.fromkeys((28, 29, 31), "months?|monthly|February"),
    30: "thirty|months?|monthly|half",
    36: "yards?",
    45: "quarters?",
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

_MONTH = r"(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?|May"
_BOUND = re.compile(
    rf"""[a-z] | \s?(?:[%％] | -?percent | per\ cent | /\s?\d | :\d | [-–]\s?\d | [ap]\.?m\b | o['’]clock | to\ \d | (?:-?dollar\ )?bills?\b)
    | \s(?:of\s)?(?-i:{_MONTH})(?![\w])
    | \s(?:days?|hours?|minutes?|weeks?|months?)\s(?:a|an|per|each|every|in|of|out)\b  # of which there are so many at most
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BOUND_BEFORE = re.compile(rf"(?:\d\s?/|\d:|\d\s?[-–]|\dx|#|No\. |\b(?:{_MONTH})\s)$")
_SIGNS = "+-–*/x×÷., $"
_WRITTEN = f"0123456789(){_SIGNS}"
_NAMED = re.compile(r"\b[A-Z]\w+((?:, [A-Z]\w+)*)(,? and [A-Z]\w+)?")  # taken whole, with an end or without
_YEAR_BEFORE = re.compile(r"\b(?:in|since|until|year|of)\s$", re.IGNORECASE)


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
    sums = _sums(solved.question)
    rng = random.Random(f"{seed}\0{normal(solved.question)}")
    failed = 0
    while failed < TRIES:
        drawn = {number: _draw(rng, int(number)) for number in changeable}
        for summands, total in sums:
            if total in drawn:
                drawn[total] = sum((drawn.get(one, one) for one in summands), Decimal())
        kept = all(sum(drawn.get(one, one) for one in summands) == drawn.get(total, total) for summands, total in sums)
        changed = _worked_out(steps, drawn) if kept and len(set(drawn.values())) == len(drawn) else None
        failed = 0 if changed else failed + 1
        if changed:
            yield Solved(
                replaced(solved.question, drawn),
                tuple(replaced(line, changed) for line in solved.marked),
                f"{changed[steps[-1].result].normalize():f}",
            )


def _steps(solved: Solved) -> list[Step]:
    """Its calculations, none where one of them is not annotated, is wrong, or they lead to another answer."""
    found: list[Step] = []
    for line in solved.marked:
        annotations = list(ANNOTATION.finditer(line))
        if plain(line).count("=") > len(annotations):
            return []
        for annotation in annotations:
            expression, _, stated = annotation[1].rpartition("=")
            result = value_of(stated)
            if result is None or result <= 0 or value_of(expression) != result:
                return []
            found += (Step(expression, result), *_written(line[: annotation.start()], result))
    return found if found and found[-1].result == value_of(solved.truth) else []


def _written(before: str, result: Decimal) -> list[Step]:
    """The calculation with this result at the end of a text, if there is one: in "15-5 = <<5+5=10>>10" another than in the annotation."""
    text = before.rstrip(" =$")
    found = text[len(text.rstrip(_WRITTEN)) :].lstrip(f"){_SIGNS}").translate(AS_PYTHON)
    return [Step(found, result)] if value_of(found) == result else []


def _changeable(solved: Solved, steps: Sequence[Step]) -> list[Decimal]:
    """Numbers of the question that may be others; none unless every number of every calculation comes from one place."""
    words = f"{solved.question}\n{' '.join(solved.steps)}"
    asked = set(_numbers(solved.question))
    if len(asked) > MOST_NUMBERS or any(letter.isnumeric() for letter in NUMBER.sub("", words)):
        return []  # 1,2,3 or B12 or 2½, of which it is not known what they stand for
    meant = _meant(words)
    counts = {number for number in asked if _free(solved.question, number)}
    shares = asked - counts
    parts = {part for number in shares for part in (number / 100, 1 + number / 100, 1 - number / 100)}
    constants = meant | parts | {100 + sign * number for number in shares for sign in (1, -1)} | USUAL
    free = counts - constants
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
    if not {number for line in solved.steps for number in _numbers(line)} <= results | asked | constants:
        return []
    found = sorted(free & used)
    told = {one for a in found for b in found for one in (a + b, a * b, abs(a - b))}
    return [] if told & (asked - used) else found  # 30 and 30 of the 60 that nobody needs to count


def _meant(words: str) -> set[Decimal]:
    """Numbers that some of these words mean."""
    named = {
        Decimal(2 + names.count(",")) for names, end in _NAMED.findall(words) if names and end
    }  # Ann, Bob and Carl are 3
    return named | {
        Decimal(number) for number, names in MEANT.items() if re.search(rf"\b(?:{names})\b", words, re.IGNORECASE)
    }


def _sums(question: str) -> list[tuple[tuple[Decimal, ...], Decimal]]:
    """Counts of the question that are the sum of some others, (8, 4, 2) and 14: of so many of three kinds. The least sums come first."""
    said = Counter(_numbers(question))
    counts = sorted(number for number in said if _free(question, number) for _ in range(min(2, said[number])))
    some = (group for size in range(2, SUMMANDS + 1) for group in combinations(counts, size))
    return sorted({(group, sum(group, Decimal())) for group in some if sum(group) in counts}, key=lambda one: one[::-1])


def _numbers(text: str) -> list[Decimal]:
    return [number_of(match[0]) for match in NUMBER.finditer(text)]


def _free(question: str, number: Decimal) -> bool:
    """Whether it always stands for a count of its own: not in 3/4, 20 %, 5th, 3:30, 4-6, 10am, May 5 or "in 2019"."""
    if number < 2 or number > LARGEST:
        return False
    for match in NUMBER.finditer(question):
        if number_of(match[0]) != number:
            continue
        before, after = question[: match.start()][-24:], question[match.end() :][:24]
        if "." in match[0] or _BOUND.match(after) or _BOUND_BEFORE.search(before):
            return False
        if 1500 <= number <= 2100 and _YEAR_BEFORE.search(before):
            return False
    return True


def _draw(rng: random.Random, number: int) -> Decimal:
    """Another number of about its size, and as round as it is."""
    if number < 10:
        return Decimal(rng.choice([one for one in range(2, 10) if one != number]))
    step = next(step for step in (100, 50, 10, 5, 1) if step == 1 or number % step == 0 and number >= 4 * step)
    least, most = -(-number // (2 * step)), 2 * number // step
    found = step * rng.choice(range(least, most))
    return Decimal(found if found < number else found + step)


def _worked_out(steps: Sequence[Step], drawn: Mapping[Decimal, Decimal]) -> dict[Decimal, Decimal] | None:
    """Number -> what stands in its place, results included. None where a result is no number of its kind."""
    changed = dict(drawn)
    for expression, result in steps:
        worth = worth_of(replaced(expression, changed))
        if worth is None or not 0 < worth <= LARGEST:
            return None
        new = round(worth, 4)
        if new % (1 if result % 1 == 0 else CENTS) or abs(new - worth) > EXACT:
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

    What the numbers stand for plays no part: a line says all that its calculation needs. A number that a word of it means stays: "twice 24 is 24*2".
    """
    rng = random.Random(seed)
    able = []
    for text, steps in (
        (plain(line), _calculation(line)) for solved in (problems if count else ()) for line in solved.marked
    ):
        numbers = _numbers(steps[0].expression) if steps else []
        stay = {number for number in numbers if number < 2 or number % 1} | (_meant(text) if steps else set())
        if not stay.issuperset(numbers):
            able.append((text, steps, numbers, stay))
    found: dict[str, Line] = {}
    missed = 0  # draws since the last new line
    while able and len(found) < count and missed < MISSES:
        text, steps, numbers, stay = rng.choice(able)
        drawn = {one: one if one in stay else _draw(rng, int(one)) for one in numbers}
        changed = _worked_out(steps, drawn)
        missed += 1
        if changed and len(set(changed.values())) == len(changed) and (whole := replaced(text, changed)) not in found:
            found[whole] = Line(whole.partition("=")[0] + "=", whole, f"{changed[steps[0].result].normalize():f}")
            missed = 0
    return list(found.values())


def _calculation(line: str) -> list[Step]:
    """The line's one calculation, if the text has it left of its only equals sign, the result right of it, and no other number. Else none."""
    annotations = list(ANNOTATION.finditer(line))
    text = plain(line)
    if len(annotations) != 1 or text.count("=") != 1:
        return []
    expression, _, stated = annotations[0][1].rpartition("=")
    result, numbers = value_of(stated), _numbers(expression)
    left, right = map(_numbers, text.split("="))
    if (
        not result
        or result < 0
        or result in numbers
        or max(numbers, default=0) > LARGEST
        or value_of(expression) != result
        or sorted(left) != sorted(numbers)
        or right != [result]
        or any(letter.isnumeric() for letter in NUMBER.sub("", text))
    ):
        return []
    return [Step(expression, result), *_written(line[: annotations[0].start()], result)]
