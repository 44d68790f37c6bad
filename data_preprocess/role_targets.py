"""What each role of a team is to say about a solved problem: targets for supervised fine-tuning. Our construction.

A worked solution is cut where the team hands over. A role's prompt is not written here: the lesson names what the role hears, and the
team's own prompts (`ccpo.prompts`) make the messages of it, as a session does.
"""

from __future__ import annotations

import ast
import hashlib
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from ccpo.data import shown
from data_preprocess.base_rates import boxed

STEP, BOX = "step", "box"
REASONS = (STEP, BOX)
"""What Reason writes behind a thought: the last step and the box, or the box alone."""

EMPTIED_SHARE = 0.1
"""Of questions whose Reason is also asked with an empty thought, as validation asks it (``think_emptied``)."""

NO_MISTAKE = "There is no mistake."

ANNOTATION = re.compile(r"<<([^<>]*)>>")
NUMERAL = r"(?:\d+(?:,\d{3})*(?!,?\d)(?:\.\d+(?!\d))?|\.\d+(?!\d))"
"""1,200, 6.50 and .5, never fewer digits than there are: else a long text takes for ever."""

NUMBER = re.compile(rf"(?:(?<![\w.,])|(?<=\dx)){NUMERAL}(?!(?!x[\d.])[\w,]*\d)")
"""1,200, 6.50, .5, and both of 6x5; not B12 or 1,2,3."""


AS_PYTHON = str.maketrans({"x": "*", "×": "*", "÷": "/", "−": "-", "–": "-", "$": None})
"""How a calculation in a text becomes one that `worth_of` reads."""

LARGEST = 10**12
"""What a calculation may come to."""


@dataclass(frozen=True)
class Solved:
    """A question with its worked solution: ``marked`` are its lines, still with calculator annotations ``<<48/2=24>>``."""

    question: str
    marked: tuple[str, ...]
    truth: str

    @classmethod
    def of(cls, question: str, answer: str, truth: str) -> Solved:
        """From a GSM8K answer, lines and then ``#### N``. Raises ValueError where there is no solution, or an annotation is broken."""
        lines = tuple(line.strip() for line in answer.rpartition("####")[0].splitlines() if line.strip())
        for line in lines:
            if (left := plain(line)) and ("<<" in left or ">>" in left):
                raise ValueError(f"a calculator annotation << >> of its solution does not end: {shown(line)}")
            if not left:
                raise ValueError(f"a line of its solution says nothing besides an annotation: {shown(line)}")
        if not lines:
            raise ValueError("its answer has no worked solution before '####': there is nothing to learn from")
        return cls(question, lines, truth)

    @property
    def steps(self) -> tuple[str, ...]:
        return tuple(map(plain, self.marked))

    @property
    def box(self) -> str:
        return boxed(self.truth)

    @property
    def end(self) -> str:
        """The last step, which ends as a sentence, and the boxed answer."""
        last = self.steps[-1]
        return f"{last if last[-1] in '.?' else last.rstrip('!') + '.'}\n{self.box}"

    @property
    def whole(self) -> str:
        """The solution and the boxed answer."""
        return "\n".join((*self.steps[:-1], self.end))


class Lesson(NamedTuple):
    """What a role is to say when it hears ``fields``. ``answers``: whether the reply has to be right."""

    role: str
    fields: Mapping[str, str]
    reply: str
    answers: bool = True


def plain(line: str) -> str:
    """A line without its calculator annotations."""
    return ANNOTATION.sub("", line).strip()


def draw(question: str, salt: str) -> float:
    """A number in [0, 1) that depends on the question and the salt alone; blanks and case aside."""
    digest = hashlib.sha256(f"{salt}\0{normal(question)}".encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def normal(question: str) -> str:
    """A question as it is compared with others."""
    return " ".join(question.casefold().split())


# --- teams ------------------------------------------------------------------------------------------------------------


def dyad(solved: Solved, reason: str) -> Iterator[Lesson]:
    """Think leaves the last step to Reason, which alone has to do everything. Of one step nothing is left to think."""
    asked = {"question": solved.question}
    if thought := "\n".join(solved.steps[:-1]):
        yield Lesson("think", asked, thought, answers=False)
        yield Lesson("reason", {**asked, "thought": thought}, solved.box if reason == BOX else solved.end)
    yield Lesson("reason", asked, solved.whole)  # the counterfactual without Think
    if draw(solved.question, "emptied") < EMPTIED_SHARE:
        yield Lesson("reason", {**asked, "thought": ""}, solved.whole)


def vote(solved: Solved, reason: str) -> Iterator[Lesson]:
    """One voter: all have the same prompt. Of the first round alone."""
    yield Lesson("voter_0", {"question": solved.question}, solved.whole)


def chain(solved: Solved, reason: str) -> Iterator[Lesson]:
    """Half of the drafts that are reviewed have a mistake; the refiner is asked with and without the review, and alone."""
    asked = {"question": solved.question}
    yield Lesson("proposer", asked, solved.whole)
    mistaken = mistake(solved) if draw(solved.question, "mistake") < 0.5 else None
    draft = mistaken.draft if mistaken else solved.whole
    review = f"The first mistake: {mistaken.line}\nIt should be: {mistaken.right}" if mistaken else NO_MISTAKE
    yield Lesson("critic", {**asked, "draft": draft}, review, answers=False)
    yield Lesson("refiner", {**asked, "draft": draft, "review": review}, solved.whole)
    yield Lesson("refiner", {**asked, "draft": draft}, solved.whole)
    yield Lesson("refiner", asked, solved.whole)


LESSONS: dict[str, Callable[[Solved, str], Iterator[Lesson]]] = {
    "dyad": dyad,
    "vote": vote,
    "examples/chain.py:Chain": chain,
}
"""Team -> its lessons. Only who knows what a role is for can say what it is to say."""

ALONE = {"dyad": "reason", "vote": "voter_0", "examples/chain.py:Chain": "proposer"}
"""Team -> the role that is asked a question alone."""


# --- drafts with a mistake --------------------------------------------------------------------------------------------


class Mistake(NamedTuple):
    """A draft whose first mistake is in ``line``, where ``right`` should stand; it follows from it to the boxed answer."""

    draft: str
    line: str
    right: str


def mistake(solved: Solved) -> Mistake | None:
    """The solution with one result off, and everything that follows from it. None where its annotations do not lead to the answer."""
    lines = [(line, ANNOTATION.findall(line)) for line in solved.marked]
    able = [i for i, (_, found) in enumerate(lines) if len(found) == 1 and "=" in found[0]]
    if not able or able[-1] != len(lines) - 1:
        return None
    at = able[int(draw(solved.question, "place") * len(able))]
    off = 1 + int(draw(solved.question, "amount") * 9)
    changed: dict[Decimal, Decimal] = {}  # result -> what the draft has for it
    written = list(solved.steps[:at])
    for i in range(at, len(lines)):
        line, found = lines[i]
        if not found:
            written.append(replaced(plain(line), changed))
            continue
        if i not in able:
            return None
        expression, _, stated = found[0].rpartition("=")
        result, follows = value_of(stated), replaced(expression, changed)
        if result is None or result in changed:
            return None
        if i == at:
            new = result + off
        else:  # 3 * .3333 is stated as 1, which is no mistake
            new = result if follows == expression else value_of(follows)
        if new is None:
            return None
        if new != result:
            changed[result] = new
        before, _, after = line.partition(f"<<{found[0]}>>")
        rest, count = NUMBER.subn(_text(new), after, count=1)
        if not count or value_of(NUMBER.search(after)[0]) != result:
            return None
        written.append(replaced(before, changed if i > at else {}) + rest)
    answer = changed.get(Decimal(solved.truth))
    if answer is None:
        return None
    return Mistake("\n".join((*written, boxed(_text(answer)))), written[at], solved.steps[at])


_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def worth_of(expression: str) -> Decimal | None:
    """What an arithmetic expression is worth, to some twenty digits; None if it is none, or comes to too much."""

    def worth(node: ast.expr) -> Decimal:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return Decimal(str(node.value))
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](worth(node.left), worth(node.right))
        raise ValueError

    if re.search(r"[^\W\d_]", expression):  # Python would warn of 48or 9
        return None
    try:
        found = worth(ast.parse(expression.replace(",", "").strip(), mode="eval").body)
        return found if abs(found) < LARGEST else None
    except (ValueError, ArithmeticError, SyntaxError, RecursionError, MemoryError):
        return None


def value_of(expression: str) -> Decimal | None:
    """`worth_of`, to four decimals."""
    found = worth_of(expression)
    return None if found is None else round(found, 4)


def number_of(text: str) -> Decimal:
    """A text that `NUMBER` matches, to four decimals as `value_of`."""
    value = Decimal(text.replace(",", ""))
    return round(value, 4) if value < LARGEST else value


def replaced(text: str, changed: Mapping[Decimal, Decimal]) -> str:
    """The text with other numbers in place of some, written as those were: 1,200 with a comma, 6.50 with two decimals, .5 without a 0."""

    def other(match: re.Match) -> str:
        value = number_of(match[0])
        if value not in changed:
            return match[0]
        new = changed[value].normalize()
        places = max(2 if re.search(r"\.\d\d$", match[0]) else 0, -int(new.as_tuple().exponent))
        written = format(new, f"{',' if ',' in match[0] else ''}.{places}f")
        return written.removeprefix("0") if match[0][0] == "." else written

    return NUMBER.sub(other, text)


def _text(value: Decimal) -> str:
    return format(value.normalize(), "f")
