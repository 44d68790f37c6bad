"""Mathematics written in LaTeX, without a symbolic engine: one spelling, simple values, and what is refused unread.

All of it is bounded in time by the length of its input, so none of it needs a process of its own (``ccpo.verifier`` has
one for the rest).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

MAX_ANSWER = 500  # characters given to symbolic algebra; the longest MATH truth has 159
MAX_DEPTH = 6  # nested brackets; the deepest MATH truth has 3, and the parser's cost grows steeply
MAX_DIGITS = 1_000  # of one number

# --- spelling ---------------------------------------------------------------------------------------------------------

INTEGER = re.compile(r"-?[0-9]+")
_GROUPED = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+")


@lru_cache(maxsize=4096)
def normalize(answer: str) -> str:
    """Spelling without meaning removed from a LaTeX answer: equal results mean equal answers, not the reverse."""
    fractions = (("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"))
    for old, new in ((",\\!", ","), ("{,}", ","), *fractions, ("\\$", ""), ("$", "")):
        answer = answer.replace(old, new)
    answer = re.sub(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[!,;:]", "", answer)
    answer = re.sub(r"\\(?:text|textbf|textrm|mathrm|mbox)\s?\{([^{}]*)\}", r" \1 ", answer)
    answer = re.sub(r"\\ |~|\s", " ", answer)
    answer = re.sub(r" +", " ", answer)
    answer = re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", answer)  # "3 1/2" is not "31/2"
    answer = re.sub(r"\\?%$", "", answer.removesuffix("."))
    if _GROUPED.fullmatch(answer):
        answer = answer.replace(",", "")
    if INTEGER.fullmatch(answer):
        digits = answer.lstrip("-").lstrip("0") or "0"
        answer = "-" + digits if answer[0] == "-" and digits != "0" else digits
    return answer


_DECIMAL = re.compile(r"([-+]?)(\d+\.?\d*|\.\d+)(?:/(\d+))?", re.ASCII)


def simple_value(answer: str) -> Fraction | None:
    """The value of a normalized answer that is an integer, a decimal or a fraction of integers, else None."""
    decimal = _DECIMAL.fullmatch(answer)
    if decimal:
        sign, top, bottom = decimal.groups()
        return _value(sign, top, bottom or "1")
    fraction = _FRACTION.fullmatch(re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", answer))
    if fraction is None:
        return None
    sign, top, bottom = fraction.groups()
    value = _value("", top, bottom)
    return -value if value is not None and sign == "-" else value


def canonical(answer: str) -> str:
    """Of an integer, decimal or simple fraction the fraction in lowest terms, of anything else its normalization."""
    answer = normalize(answer)
    value = simple_value(answer)
    return answer if value is None else str(value)


# --- refusals ---------------------------------------------------------------------------------------------------------

_TOWER = re.compile(r"!\W{0,9}!|\d{6}\W{0,3}!|(?:\^[^\^]{0,40}){8}|\^\W{0,3}\d{5}|(?:\^[({\\a-z\d ]{0,12}){3}")


def too_complex(answer: str) -> bool:
    """Cheap refusal of what no dataset contains: the child would only find out by running out of time."""
    if len(answer) > MAX_ANSWER:
        return True
    answer = answer.replace("\\!", "")  # a thin space, not a factorial
    depth = deepest = 0
    for char in answer:
        depth += (char in "{([") - (char in "})]")
        deepest = max(deepest, depth)
    return deepest > MAX_DEPTH or _TOWER.search(answer) is not None


_UNEQUAL = re.compile(r"\\neq?(?![a-zA-Z])|\\not\b|\u2260|!=")
_BASE = re.compile(r"\d\s?_\s?\{?\s?(\d+)")


def contradicts(answer: str, truth: str) -> bool:
    """What math-verify overlooks: an inequality is no value, and numerals of two stated bases are not one number."""
    if (_UNEQUAL.search(answer) is None) != (_UNEQUAL.search(truth) is None):
        return True
    bases = [set(_BASE.findall(text)) for text in (answer, truth)]
    return all(bases) and bases[0] != bases[1]


# --- numbers ----------------------------------------------------------------------------------------------------------

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\d))?|\.\d+"
NUMBER = re.compile(rf"(?<![\w)])([-+]?)\s?\\?\$?\s?({_DIGITS})(?:\s?/\s?({_DIGITS}))?|({_DIGITS})", re.ASCII)
_FRACTION = re.compile(r"([-+]?)\s?\\[dt]?frac\s?\{\s?(-?\d+)\s?\}\s?\{\s?(-?\d+)\s?\}", re.ASCII)


def plain(text: str) -> str:
    """Numbers in ``text`` in their plain spelling: no LaTeX around thousands, minus signs and percents."""
    for old, new in ((",\\!", ","), ("{,}", ","), ("\u2212", "-"), ("\\%", "%"), ("\\left", ""), ("\\right", "")):
        text = text.replace(old, new)
    return text


def _value(sign: str, top: str, bottom: str = "1") -> Fraction | None:
    if max(len(top), len(bottom)) > MAX_DIGITS:
        return None
    try:
        return Fraction(sign + top.replace(",", "")) / Fraction(bottom.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def numbers(text: str) -> list[re.Match[str]]:
    """Every number of ``text``, in order."""
    return list(NUMBER.finditer(text))


def number_value(match: re.Match[str]) -> Fraction | None:
    """The value of a match of ``NUMBER``; None if it is too long or has no value."""
    sign, top, bottom, bare = match.groups()
    return _value("", bare) if bare else _value(sign, top, bottom or "1")


def only_number(text: str) -> Fraction | None:
    """The value of an expression with one number and perhaps a unit: "72", "\\$1,000", "50\\%", "\\frac{1}{2}"."""
    fraction = _FRACTION.search(text)
    if fraction:
        rest = text[: fraction.start()] + text[fraction.end() :]
        sign, top, bottom = fraction.groups()
        value = _value("", top, bottom)
        return None if value is None or numbers(rest) else -value if sign == "-" else value
    found = numbers(text)
    return number_value(found[0]) if len(found) == 1 else None
