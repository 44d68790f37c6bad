"""Outcome verifier: a model's text and the truth in, a verdict out.

``boxed``   the last ``\\boxed{...}``, compared as mathematics            latex.py reads it, equality.py compares it
``number``  the final number, compared by value                          number.py
``option``  the one letter A-E, or option's text, that is chosen         option.py

A final answer is read, never guessed: what cannot be read as a whole is ``Verdict(None, 0.0, False)``. What is read how, and where that is a
judgement call: docs/verifier.md. Every step is bounded by the length of what it reads, so nothing needs a process or a clock of its own.
Source: our construction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ccpo.verifier.equality import exact, letters, same, settled
from ccpo.verifier.latex import MAX_ANSWER, Tree, UnreadableError, read
from ccpo.verifier.leaks import looks_like_answer, strip_answer
from ccpo.verifier.number import number_of, read_number
from ccpo.verifier.option import LETTERS, letter_of, read_option
from ccpo.verifier.spelling import last_boxed, normalize
from ccpo.verifier.stated import box_is_stated, prepared

__all__ = [
    "ANSWER_TYPES", "LETTERS", "OWN", "UNPARSED", "Verdict", "label", "last_boxed", "looks_like_answer", "same_answer", "strip_answer",
    "truth_problem", "verify",
]  # fmt: skip

ANSWER_TYPES = ("boxed", "number", "option")
OWN = "own"
"""The answer type of rows that only a reward of the user's own judges (`ccpo.reward`)."""
MAX_TEXT = 100_000  # characters; of a longer text the end is read, where the final answer is
_MISSING = frozenset("nan none null inf infinity -inf +inf n/a <na>".split())  # what a missing value is as text


@dataclass(frozen=True)
class Verdict:
    """``answer``: what was read, normalized, None if nothing was; ``reward``: 1.0 if it is the truth, else 0.0."""

    answer: str | None
    reward: float
    parsed: bool


UNPARSED = Verdict(None, 0.0, False)


def verify(text: str, truth: str, answer_type: str = "boxed", options: Sequence[str] = ()) -> Verdict:
    """Judge ``text``. Safe from any thread; bounded in time and memory whatever ``text`` is, and never raises because
    of it.

    ``options``: texts of the row's options without their letters, in the order A, B, ...; only "option" uses them. A
    letter beyond them is no choice; without them, every letter A-E is one.

    Raises ValueError for a ``truth`` with a ``truth_problem`` and an unknown ``answer_type`` (mistakes in the data).
    """
    _check_type(answer_type)
    if problem := truth_problem(truth, answer_type, options):
        raise ValueError(problem)
    if not isinstance(text, str):
        return UNPARSED
    text = text[-MAX_TEXT:].encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
    text = prepared(text)
    if answer_type == "option":
        letter = read_option(text, options)
        return UNPARSED if letter is None else Verdict(letter, float(letter == letter_of(truth)), True)
    if answer_type == "number":
        value = read_number(text)
        return UNPARSED if value is None else Verdict(str(value), float(value == number_of(truth)), True)
    boxed = last_boxed(text) if box_is_stated(text) else None
    return UNPARSED if boxed is None else _verify_boxed(boxed, truth)


def _check_type(answer_type: str) -> None:
    if answer_type not in ANSWER_TYPES:
        raise ValueError(f"answer_type must be one of {ANSWER_TYPES}, got {answer_type!r}")


def truth_problem(truth: object, answer_type: str, options: Sequence[str] = ()) -> str | None:
    """Why no answer to a row with this truth can be judged, in words; None if it can. Raises ValueError for an unknown ``answer_type``."""
    _check_type(answer_type)
    if not isinstance(truth, str) or not truth.strip():
        return f"truth must be a non-empty string, got {truth!r}: every answer to this row would be wrong"
    shown = truth if len(truth) < 80 else truth[:80] + "..."
    if truth.strip().casefold() in _MISSING:
        return f"truth {shown!r} is what a missing value becomes as text: leave the row out"
    if answer_type == "option":
        return _option_problem(truth, shown, options)
    if len(truth) > MAX_ANSWER:
        return (
            f"truth has {len(truth)} characters, and answers of more than {MAX_ANSWER} are not read: leave the row out"
        )
    if answer_type == "number":
        try:
            number_of(truth)
        except UnreadableError as error:
            return (
                f"truth {shown!r} is not one number, as answer_type 'number' needs ({error}): set answer_type 'boxed'"
            )
        return None
    if last_boxed(f"\\boxed{{{truth}}}") != truth:
        return f"the braces of truth {shown!r} do not close: no box can hold it"
    if "####" in truth:
        return f"truth {shown!r} is a solution with its answer after ####: set the answer alone"
    if word := _sentence_word(truth):
        return (
            f"truth {shown!r} is a sentence or a choice of answers ({word!r}), which a right answer would have to repeat word by word: set the "
            "answer alone, or leave the row out"
        )
    if not normalize(truth):
        return f"truth {shown!r} has nothing to compare: leave the row out"
    return None


_WORDS = re.compile(
    r"\\(?:text\w*|mbox|mathrm)\s*\{[^{}]*\}|\\[A-Za-z]+"
)  # words where mathematics has them, and commands
_SAYING = re.compile(r"(?i)(?<![a-z])(?:answer|is|are|or|equals|therefore|thus|hence)(?![a-z])")
_SAYING_IN_WORDS = re.compile(r"(?i)(?<![a-z])(?:answer|solution)s?\s*(?:is|are|[:=])")


def _sentence_word(truth: str) -> str | None:
    """What makes of a truth something said about an answer; ``-2 \\text{ or } 3`` is how mathematics lists two."""
    found = _SAYING.search(_WORDS.sub(" ", truth)) or _SAYING_IN_WORDS.search(truth)
    return found[0] if found else None


def _option_problem(truth: str, shown: str, options: Sequence[str]) -> str | None:
    if len(options) > len(LETTERS):
        return f"{len(options)} options, but only the letters {LETTERS} are read: leave the row out"
    letters_here = LETTERS[: len(options)] or LETTERS
    letter = letter_of(truth)
    if letter is None or letter not in letters_here:
        return f"truth {shown!r} is not one letter A-{letters_here[-1]}, as answer_type 'option' needs"
    return None


# --- boxed ------------------------------------------------------------------------------------------------------------


def _verify_boxed(boxed: str, truth: str) -> Verdict:
    if not boxed.strip() or len(boxed) > MAX_ANSWER:
        return UNPARSED
    answer = normalize(boxed)
    if not answer:
        return UNPARSED
    wanted_letter = _CHOICE.fullmatch(normalize(truth))
    if answer == normalize(truth) or (wanted_letter and wanted_letter[1] == _letter_of_choice(answer)):
        return Verdict(answer, 1.0, True)
    found = _meaning(boxed)
    if found is None:
        return UNPARSED
    wanted = _meaning(truth)
    return Verdict(answer, float(wanted is not None and not _adds_a_base(found, wanted) and _same(found, wanted)), True)


_CHOICE = re.compile(r"\(([A-F])\)")  # the truth of a multiple choice question, as MATH writes it
_CHOSEN = re.compile(r"(?i:option|choice)\s?\(?([A-F])\)?[.:]?|\(?([A-F])(?:\)|[.:])\s?(.+)")


def _letter_of_choice(answer: str) -> str | None:
    """B of "Option B" and of "(B) 16", where what follows the letter is a number."""
    found = _CHOSEN.fullmatch(answer)
    if not found or not found[3]:
        return found[1] if found else None
    value = _meaning(found[3])
    return found[2] if value is not None and value[0] == "value" and not letters(value[1]) else None


def _meaning(text: str) -> Tree | None:
    try:
        return settled(read(text))
    except UnreadableError:
        return None


def _same(a: Tree, b: Tree) -> bool:
    try:
        return same(a, b)
    except UnreadableError:
        return False


def _adds_a_base(answer: Tree, truth: Tree) -> bool:
    """72_8 is not 72: the base may be left out where the truth has one, not the reverse."""
    return answer[0] == "based" and truth[0] != "based" and answer[2] != 10


# --- ballots ----------------------------------------------------------------------------------------------------------


def label(answer: str, answer_type: str) -> str:
    """One spelling for the cheap equal values of a ``Verdict.answer``, to group ballots across sessions.

    "boxed": a rational number as a fraction in lowest terms ("0.50" and "\\frac{2}{4}" are "1/2"), anything else normalized; "number" and
    "option" answers have one spelling already. Equal labels mean equal answers, not the reverse: see ``same_answer``. Raises ValueError for
    an unknown ``answer_type``. Source: our construction.
    """
    _check_type(answer_type)
    if answer_type != "boxed":
        return answer
    tree = _meaning(answer)
    if tree is not None and tree[0] == "value" and tree[2] is None and not letters(tree[1]):
        value = exact(tree[1])
        if value is not None:
            return str(value)
    return normalize(answer)


def same_answer(a: str, b: str, answer_type: str) -> bool:
    """Whether two ``Verdict.answer`` mean the same: equal labels, or, if "boxed", the same mathematics. Symmetric.

    As safe and bounded as ``verify``; what cannot be read counts as different. Raises ValueError for an unknown ``answer_type``. Source: our
    construction.
    """
    a, b = sorted((label(a, answer_type), label(b, answer_type)))
    if a == b:
        return True
    if answer_type != "boxed" or not a:
        return False
    x, y = _meaning(a), _meaning(b)
    return x is not None and y is not None and _same(x, y)
