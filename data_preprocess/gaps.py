"""A problem in words of which a sentence is missing: what it says, which sentences its solution needs, and what comes out without one.

GSM8K's solutions write their calculations out (``<<48/2=24>>``), so that a solution can be worked through again without a number: the number is
left out of its calculation, a calculation of which one number is left gives that number, and what follows is calculated anew. So all who lack
the same sentence and go on without it come to the same answer. Our construction.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from data_preprocess.base_rates import boxed
from data_preprocess.role_targets import ANNOTATION, Solved, plain

# --- sentences --------------------------------------------------------------------------------------------------------
# Splitters that are packages want a model or rules of many languages; here a sentence that is cut in two would leave half of it to be read, and
# two that are taken for one are only a larger gap.

_END = re.compile(r"(?<![.!?])[.!?]+[\"'\u201d\u2019)\]]*(?=\s+[\"'\u201c\u2018($\[]*[A-Z0-9])")
_SHORT = re.compile(
    r"(?:^|[\s(\"'\u201c])(?:Mr|Mrs|Ms|Dr|St|Mt|Jr|Sr|Prof|Gen|Lt|Col|Capt|Sgt|No|Nos|vs|etc|approx|lbs?|oz|ft|in|hrs?|mins?|secs?|a\.m|p\.m|e\.g|i\.e"
    r"|(?:[A-Z]\.)*[A-Z])$"
)
"""Before a stop that ends no sentence."""
_LONGEST_SHORT = 20
"""Characters before a stop that are looked at: a text of initials alone would else be read again and again."""


def sentences(text: str) -> list[tuple[int, int]]:
    """(first character, behind the last) of each sentence, in order, without the blanks around it."""
    cuts, start = [], 0
    for found in _END.finditer(text):
        if not (found[0][0] == "." and _SHORT.search(text[max(start, found.start() - _LONGEST_SHORT) : found.start()])):
            cuts.append((start, found.end()))
            start = found.end()
    spans = []
    for first, last in (*cuts, (start, len(text))):
        part = text[first:last]
        if part.strip():
            spans.append((first + len(part) - len(part.lstrip()), first + len(part.rstrip())))
    return spans


# --- numbers ----------------------------------------------------------------------------------------------------------

_DIGITS = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?<=\d)", re.ASCII)
_WORD = re.compile(r"[a-z]+")
_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth".split()
_WORDS = (
    {word: value for value, word in enumerate(_ONES)}
    | {word: 10 * value for value, word in enumerate(_TENS, 2)}
    | {word: value for value, word in enumerate(_ORDINALS, 3)}
    | {f"{word}s": value for value, word in enumerate(_ORDINALS, 3)}
    | {"half": 2, "halves": 2, "halved": 2, "quarter": 4, "quarters": 4, "quartered": 4}
    | {"once": 1, "single": 1, "twice": 2, "double": 2, "doubles": 2, "doubled": 2, "both": 2, "couple": 2, "pair": 2, "pairs": 2, "twins": 2}
    | {"thrice": 3, "triple": 3, "triples": 3, "tripled": 3, "triplets": 3, "quadruple": 4, "quadrupled": 4}
    | {"dozen": 12, "dozens": 12, "score": 20, "hundred": 100, "thousand": 1000, "million": 10**6}
)  # fmt: skip


_OF_A_HUNDRED = re.compile(r"[\s-]*(?:%|percent|per cent|cents?\b|\u00a2)", re.IGNORECASE)


def numbers(text: str) -> set[Fraction]:
    """Every number that a calculation may take from ``text``: 20 % is 20, 1/5, 4/5, 6/5; half is 2 and 1/2. Rather too many than too few."""
    found: set[Fraction] = set()
    for match in _DIGITS.finditer(text):
        found |= _said(Fraction(match[0].replace(",", "")), _OF_A_HUNDRED.match(text, match.end()) is not None)
    words = list(_WORD.finditer(text.lower()))
    for at, match in enumerate(words):
        if match[0] in _WORDS:
            value = Fraction(_WORDS[match[0]])
            found |= _said(value, _OF_A_HUNDRED.match(text, match.end()) is not None)
            if (
                after := words[at + 1][0] if at + 1 < len(words) else ""
            ) in _WORDS:  # twenty-five, two hundred, two-thirds
                other = Fraction(_WORDS[after])
                found |= {value + other, value * other} | ({value / other} if other else set())
    return found


def _said(value: Fraction, of_a_hundred: bool) -> set[Fraction]:
    found = {value} | ({1 / value} if value else set())
    if of_a_hundred:
        part = value / 100
        found |= {part, 1 - part, 1 + part, 100 - value, 100 + value}
    return found


# --- solutions --------------------------------------------------------------------------------------------------------

_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
LONGEST = 200
"""Characters of a calculation that is read."""


class Left(NamedTuple):
    """What is left of a calculation: its value, how it is written, how many numbers it has; ``loose``: it is a sum or difference."""

    value: Fraction
    text: str
    numbers: int = 1
    loose: bool = False


class Step(NamedTuple):
    """A calculation of a solution and the result that it states."""

    tree: ast.expr
    result: Fraction

    @property
    def leaves(self) -> set[Fraction]:
        return {_leaf(node) for node in ast.walk(self.tree) if isinstance(node, ast.Constant)}


class Broken(ValueError):
    """A solution that cannot be worked through again."""


def step_of(annotation: str) -> Step:
    """From ``48/2=24``. Raises Broken."""
    expression, equals, result = annotation.replace(",", "").replace("$", "").rpartition("=")
    if not equals or not expression.strip() or len(annotation) > LONGEST:
        raise Broken
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        stated = ast.parse(result.strip(), mode="eval").body
        value = _left(stated, {}, frozenset())
        _left(tree, {}, frozenset())
    except (ValueError, ArithmeticError, SyntaxError, RecursionError, MemoryError):
        raise Broken from None
    return Step(tree, value.value)


def _leaf(node: ast.Constant) -> Fraction:
    if type(node.value) not in (int, float):
        raise Broken
    return Fraction(str(node.value))


def _left(node: ast.expr, changed: Mapping[Fraction, Fraction | None], missing: frozenset[Fraction]) -> Left | None:
    """What is left of a calculation without the ``missing`` numbers, its ``changed`` results (None: missing) put in. Raises Broken,
    ZeroDivisionError."""
    if isinstance(node, ast.Constant):
        value = _leaf(node)
        value = changed[value] if value in changed else None if value in missing else value
        return None if value is None else Left(value, written(value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _left(node.operand, changed, missing)
        return inner and Left(-inner.value, f"-{inner.text}", inner.numbers)
    if not isinstance(node, ast.BinOp) or type(node.op) not in _SIGNS:
        raise Broken
    a, b = _left(node.left, changed, missing), _left(node.right, changed, missing)
    if a is None or b is None:
        return a or b
    sign = _SIGNS[type(node.op)]
    value = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}[sign](a.value, b.value)  # fmt: skip
    first = f"({a.text})" if sign in "*/" and a.loose else a.text
    second = f"({b.text})" if b.numbers > 1 and (sign in "-/" or (sign == "*" and b.loose)) else b.text
    return Left(value, f"{first}{sign}{second}", a.numbers + b.numbers, sign in "+-")


def written(value: Fraction) -> str:
    """A number in digits, with four decimals at most."""
    return f"{float(value):.4f}".rstrip("0").rstrip(".") if value.denominator > 1 else str(value.numerator)


# --- problems ---------------------------------------------------------------------------------------------------------


class Guess(NamedTuple):
    """The solution as it comes out without a sentence, and its answer."""

    reply: str
    answer: str


class Problem:
    """A solved question, and its sentences that could be missing.

    A question, and the last sentence, are never missing. A sentence is needed when the solution calculates with a number that stands in no other
    sentence, and comes to another answer without it.
    """

    def __init__(self, solved: Solved) -> None:
        self.solved = solved
        self.spans = sentences(solved.question)

    @cached_property
    def hideable(self) -> list[int]:
        """Sentences that may be missing, by their number."""
        return [i for i, _ in enumerate(self.spans[:-1]) if "?" not in self.sentence(i)]

    def sentence(self, number: int) -> str:
        first, last = self.spans[number]
        return self.solved.question[first:last]

    def without(self, number: int, mark: str) -> str:
        """The question with ``mark`` in the place of a sentence."""
        first, last = self.spans[number]
        return f"{self.solved.question[:first]}{mark}{self.solved.question[last:]}"

    def with_mark(self, number: int, mark: str) -> str:
        """The whole question with ``mark`` before a sentence."""
        first = self.spans[number][0]
        return f"{self.solved.question[:first]}{mark} {self.solved.question[first:]}"

    @cached_property
    def lines(self) -> list[tuple[str, list[Step]]] | None:
        """Every line of the solution and its calculations; None where they cannot be worked through, or do not lead to the answer."""
        try:
            found = [(plain(line), [step_of(one) for one in ANNOTATION.findall(line)]) for line in self.solved.marked]
            truth = Fraction(self.solved.truth)
        except ValueError:  # Broken is one
            return None
        steps = [step for _, steps in found for step in steps]
        return found if steps and found[-1][1] and steps[-1].result == truth else None

    @property
    def steps(self) -> int:
        """Calculations of the solution; 0 where it cannot be worked through."""
        return sum(len(steps) for _, steps in self.lines or ())

    def missing(self, number: int) -> frozenset[Fraction]:
        """The numbers of the solution that stand in this sentence alone."""
        results: set[Fraction] = set()
        used: set[Fraction] = set()
        for _, steps in self.lines or ():
            for step in steps:
                used |= step.leaves - results
                results.add(step.result)
        others = (self.sentence(i) for i in range(len(self.spans)) if i != number)
        return frozenset((used & numbers(self.sentence(number))).difference(*map(numbers, others)))

    @cached_property
    def needed(self) -> dict[int, Guess]:
        """Sentence that the solution needs -> what comes out without it."""
        found = {number: self._guess(self.missing(number)) for number in self.hideable} if self.lines else {}
        return {number: guess for number, guess in found.items() if guess}

    def _guess(self, missing: frozenset[Fraction]) -> Guess | None:
        """The solution without these numbers. None where nothing else comes out, or nothing that one could believe."""
        if not missing:
            return None
        changed: dict[Fraction, Fraction | None] = {}
        reply: list[str] = []
        for line, steps in self.lines or ():
            here: list[str] = []
            touched = bool(numbers_written(line) & (missing | changed.keys()))
            for step in steps:
                try:
                    left = _left(step.tree, changed, missing)
                    if not step.leaves & (missing | changed.keys()):
                        new = step.result  # as it is stated, rounded or not
                    else:
                        touched, new = True, left and left.value
                    if left and left.numbers > 1:
                        here.append(f"{left.text} = {written(new)}.")
                except (Broken, ArithmeticError):
                    return None
                if new != step.result or step.result in missing:
                    if step.result in changed and changed[step.result] != new:
                        return None  # two results in one number: which is meant later?
                    changed[step.result] = new
            reply += here if touched else [line]
        answer = changed.get(Fraction(self.solved.truth))
        if answer is None or answer <= 0 or answer == Fraction(self.solved.truth) or (100 * answer).denominator > 1:
            return None
        if reply and reply[-1][-1] not in ".?":  # as Solved.end
            reply[-1] = f"{reply[-1].rstrip('!')}."
        return Guess("\n".join((*reply, boxed(written(answer)))), written(answer))


def numbers_written(line: str) -> set[Fraction]:
    """The numbers of a line in digits, as they stand."""
    return {Fraction(match[0].replace(",", "")) for match in _DIGITS.finditer(line)}
