"""Labelled texts for the verifier, made by small edits of real truths; beside second_generator.py, which knows nothing of the verifier.

    wrong(rng, truth, answer_type, options) -> (name of the edit, text that must not score)
    right(rng, truth, answer_type, options) -> (name of the edit, text that must score)

A label comes from the edit, never from a parser: an edit applies only where its effect is certain. Raises LookupError where none applies.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

INTEGER = re.compile(r"-?(?:0|[1-9]\d*)")
FRACTION = re.compile(r"(-?)\\[dt]?frac\{([1-9]\d*)\}\{([1-9]\d*)\}")
TUPLE = re.compile(r"\((-?\d+), ?(-?\d+)\)")
FRAMES = {
    "boxed": ["\\boxed{%s}", "So the answer is $\\boxed{%s}$.", "\\[\\boxed{%s}\\]", "First 3, then \\boxed{17}.\n\nFinally: \\boxed{%s}"],
    "number": ["\\boxed{%s}", "#### %s", "The answer is %s.", "So it is 12 + 5 in all.\nThe answer is: %s", "**Answer:** %s"],
}  # fmt: skip

Edit = Callable[[random.Random, str], "str | None"]


def wrong(rng: random.Random, truth: str, answer_type: str, options: Sequence[str] = ()) -> tuple[str, str]:
    return _made(WRONG, rng, truth, answer_type, options)


def right(rng: random.Random, truth: str, answer_type: str, options: Sequence[str] = ()) -> tuple[str, str]:
    return _made(RIGHT, rng, truth, answer_type, options)


def _made(table, rng, truth, answer_type, options):
    if answer_type == "option":
        texts = _options(rng, truth, options)["wrong" if table is WRONG else "right"]
        return rng.choice(texts)
    edits = [*table["any"].items(), *(table["boxed"].items() if answer_type == "boxed" else ())]
    for name, edit in rng.sample(edits, len(edits)):
        if (changed := edit(rng, truth.strip())) is not None:
            return name, rng.choice(FRAMES[answer_type]) % changed
    raise LookupError(truth)


# --- wrong ------------------------------------------------------------------------------------------------------------


def _whole(truth: str) -> int | None:
    return int(truth) if INTEGER.fullmatch(truth) and len(truth) < 12 else None


def _digit(rng: random.Random, truth: str) -> str | None:
    """Another digit somewhere in a number: no two numerals of one length are one number."""
    if not INTEGER.fullmatch(truth):
        return None
    spots = [at for at, char in enumerate(truth) if char.isdigit()]
    at = rng.choice(spots)
    return truth[:at] + rng.choice([d for d in "123456789" if d != truth[at]]) + truth[at + 1 :]


def _of(pattern: str, excluded: tuple[int, ...] = ()) -> Edit:
    def edit(rng: random.Random, truth: str) -> str | None:
        value = _whole(truth)
        return None if value is None or value in excluded or value < 0 else pattern.replace("@", truth)

    return edit


def _near(rng: random.Random, truth: str) -> str | None:
    value = _whole(truth)
    return None if value is None else f"{value}.{'0' * rng.randint(0, 9)}{rng.randint(1, 9)}"


def _sign(rng: random.Random, truth: str) -> str | None:
    value = _whole(truth)
    return None if not value else str(-value)


def _false_step(rng: random.Random, truth: str) -> str | None:
    value = _whole(truth)
    if value is None or value < 0:
        return None
    a = rng.randint(1, 999)
    return f"{a} + {value + 1 + rng.randint(0, 50)} = {truth}"


def _one_digit_of_latex(rng: random.Random, truth: str) -> str | None:
    """Another first digit of one numeral of an expression in which each numeral counts."""
    if (
        re.search(r"[a-zA-Z]", re.sub(r"\\(?:[dt]?frac|sqrt|pi|left|right|infty|cup)(?![a-zA-Z])", "", truth))
        or "0^" in truth
    ):
        return None
    if not re.fullmatch(r"[-+(){}\[\], \\a-z0-9./]*", truth) or "," in truth or not re.search(r"\\[a-z]", truth):
        return None
    spots = [match.start() for match in re.finditer(r"(?<![\d.])[1-9]\d*(?![\d.])", truth)]
    if not spots:
        return None
    at = rng.choice(spots)
    other = rng.choice([d for d in "2357" if d != truth[at]])
    changed = truth[:at] + other + truth[at + 1 :]
    fraction = FRACTION.fullmatch(truth), FRACTION.fullmatch(changed)
    if all(fraction):
        (_, a, b), (_, c, d) = (match.groups() for match in fraction)
        return changed if int(a) * int(d) != int(b) * int(c) else None
    # Of sums, roots and multiples of pi only a numeral that stands alone before a sign or a command is certain to count.
    return (
        changed
        if re.fullmatch(r"-?[1-9]\d*(?:\\pi|\\sqrt\{[1-9]\d*\}| \\pi| \\sqrt\{[1-9]\d*\})", truth) and at <= 1
        else None
    )


def _swapped(rng: random.Random, truth: str) -> str | None:
    found = TUPLE.fullmatch(truth)
    return f"({found[2]}, {found[1]})" if found and found[1] != found[2] else None


def _flipped(rng: random.Random, truth: str) -> str | None:
    found = FRACTION.fullmatch(truth)
    return f"{found[1]}\\frac{{{found[3]}}}{{{found[2]}}}" if found and int(found[2]) != int(found[3]) else None


def _more(rng: random.Random, truth: str) -> str | None:
    """An expression of one kind, and something more than nothing."""
    return f"{truth}+\\frac{{1}}{{{rng.randint(2, 10**6)}}}" if re.fullmatch(r"[-\dxyn+^{} ]+", truth) else None


WRONG: dict[str, dict[str, Edit]] = {
    "any": {
        "another digit": _digit,
        "a little more": _near,
        "the other sign": _sign,
        "a false step before it": _false_step,
        **{
            f"an operation: {pattern}": _of(pattern, excluded)
            for pattern, excluded in {
                "\\sqrt{@}": (0, 1), "@! + 1": (), "@\\pi": (0,), "-(@)": (0,), "\\ne @": (), "not @": (), "< @": (), "> @": (), "\\le @": (),
                "@\u00bd": (), "@\u00b2": (0, 1), "@ million": (0,), "@ hundred": (0,), "\\log @": (0,), "\u2013@": (0,), "@ + 9": (),
                "9 - @": (), "@\\cdot 3": (0,), "\\frac{@}{7}": (0,), "@^3": (0, 1), "2^{@}": (1, 2), "\\neg @": (), "987654 \\vee @": (),
                "\\foo{987654} @": (), "987654=@": (987654,), "@ or 987654": (987654,), "@, 987654": (987654,), "@ \\pm 1": (),
                "\\approx @": (), "@e7": (0,), "@.5": (), "7@": (), "@7": (), "@_{36}": (), "|@| - 1": (), "@i": (0,), "@x": (0,),
                "\\sin @": (0,), "@\\%@": (0,), "@ \\text{ squared}": (0, 1), "\\text{minus }@": (0,), "[@, @]": (), "\\{@, 987654\\}": (),
            }.items()
        },
    },
    "boxed": {
        "another digit in an expression": _one_digit_of_latex,
        "a pair the other way round": _swapped,
        "a fraction upside down": _flipped,
        "an expression and more": _more,
    },
}  # fmt: skip


# --- right ------------------------------------------------------------------------------------------------------------


def _same(pattern: str) -> Edit:
    return lambda rng, truth: pattern.replace("@", truth) if _whole(truth) is not None else None


def _grouped(between: str) -> Edit:
    def edit(rng: random.Random, truth: str) -> str | None:
        value = _whole(truth)
        return None if value is None or abs(value) < 1000 else f"{value:,}".replace(",", between)

    return edit


def _true_step(rng: random.Random, truth: str) -> str | None:
    value = _whole(truth)
    if value is None or value < 1:
        return None
    a = rng.randint(1, 99)
    return f"{a} + {value} - {a} = {truth}" if rng.random() < 0.5 else f"{a * value} \\div {a} = {truth}"


def _expanded(rng: random.Random, truth: str) -> str | None:
    found = FRACTION.fullmatch(truth)
    times = rng.randint(2, 30)
    return f"{found[1]}\\frac{{{int(found[2]) * times}}}{{{int(found[3]) * times}}}" if found else None


def _written(pattern: str) -> Edit:
    def edit(rng: random.Random, truth: str) -> str | None:
        found = FRACTION.fullmatch(truth)
        return (
            found.expand(pattern.replace("\\", "\\\\").replace("@1", "\\1").replace("@2", "\\2").replace("@3", "\\3"))
            if found
            else None
        )

    return edit


def _mixed(rng: random.Random, truth: str) -> str | None:
    found = FRACTION.fullmatch(truth)
    if not found or int(found[2]) <= int(found[3]) or int(found[2]) % int(found[3]) == 0 or int(found[3]) > 99:
        return None
    whole, rest = divmod(int(found[2]), int(found[3]))
    return (
        f"{found[1]}{whole}\\frac{{{rest}}}{{{found[3]}}}"
        if rng.random() < 0.5
        else f"{found[1]}{whole} {rest}/{found[3]}"
    )


RIGHT: dict[str, dict[str, Edit]] = {
    "any": {
        "as it is": lambda rng, truth: truth,
        "a true step before it": _true_step,
        **{
            f"spelled: {pattern}": _same(pattern)
            for pattern in (
                "@.0", "@.00", "x=@", "n = @", "@\\text{ cm}", "@\\text{ m}^2", "@ dollars", "@\\,\\text{clips}", "@ apples", "\\text{@}",
                "\\mathbf{@}", "{@}", "@.", "\\left(@\\right)", "\\frac{@}{1}", "@\\cdot 10^{0}", "@e0",
            )
        },
        **{f"thousands: {between!r}": _grouped(between) for between in (",", "{,}", ",\\!", " ", "\\,", "\u2009")},
        "a plus sign": lambda rng, truth: f"+{truth}" if truth.isdigit() else None,
        "fullwidth digits": lambda rng, truth: "".join(chr(ord(c) + 0xFEE0) for c in truth) if truth.isdigit() else None,
    },
    "boxed": {
        "a fraction expanded": _expanded,
        "a mixed number": _mixed,
        **{f"a fraction: {p}": _written(p) for p in ("@1@2/@3", "@1\\dfrac{@2}{@3}", "@1\\frac{@2}{@3}", "\\frac{@1@2}{@3}")},
        "a pair with other spaces": lambda rng, truth: f"\\left( {m[1]} ,\\, {m[2]} \\right)" if (m := TUPLE.fullmatch(truth)) else None,
    },
}  # fmt: skip


def _options(rng: random.Random, truth: str, options: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Texts about the truth's letter T and another one O."""
    letters = "ABCDE"[: len(options)]
    other = rng.choice([letter for letter in letters if letter != truth])
    own, its = options[letters.index(truth)], options[letters.index(other)]
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, options, strict=True))
    every = " ".join(f"({letter})" for letter in letters)
    wrong_ = {
        "another letter": f"The answer is {other}.",
        "boxed": f"\\boxed{{{other}}}",
        "its text": f"{other}. {its}",
        "denied": f"The answer is not {truth}.",
        "joined": f"The answer is {truth} or {other}.",
        "joined the other way": f"\\boxed{{{other} or {truth}}}",
        "ruled out": f"I rule out {truth}.",
        "called wrong": f"{truth} is wrong.",
        "called incorrect": f"Option {truth} is incorrect.",
        "the list": listed,
        "every letter": every,
        "eliminated": f"I eliminate option {truth}",
        "asked": f"Is it {truth}?",
        "all are wrong": "\n".join(f"{x} is wrong." for x in letters),
        "both": f"{truth} and {other} are both correct.",
        "every box": " ".join(f"\\boxed{{{x}}}" for x in letters),
        "only mentioned": f"Let us look at option {truth} first.",
        "letter against text": f"\\boxed{{{truth}. {its}}}",
        "boxed denial": f"\\boxed{{\\text{{not }}{truth}}}",
        "taken back": f"The answer is {truth}. Wait, that is wrong.",
    }
    right_ = {
        "letter": truth,
        "brackets": f"({truth})",
        "sentence": f"The answer is {truth}.",
        "box": f"\\boxed{{{truth}}}",
        "text box": f"$\\boxed{{\\text{{({truth})}}}}$",
        "answer": f"**Answer:** {truth}",
        "listed": f"{truth}. {own}",
        "after the list": f"{listed}\n\nAnswer: {truth}",
        "choice": f"I choose ({truth}).",
        "others out": f"Option {other} is wrong. So the answer is {truth}.",
        "not the other": f"The answer is {truth}, not {other}.",
        "right": f"{truth} is correct.",
        "reason": f"The answer is {truth} because {other} does not follow.",
        "last line": f"Some thoughts on it.\n\n{truth}",
        "text after": f"The correct option is ({truth}) {own}",
    }
    if own.strip(" .").casefold() == its.strip(" .").casefold():  # a row in which two options have one text
        del wrong_["letter against text"]
    if [text.strip().casefold() for text in options].count(own.strip().casefold()) == 1:
        right_["its own text"] = f"\\boxed{{{own}}}"
    if own.strip().casefold() == its.strip().casefold():  # the same text twice: not against the letter
        del wrong_["letter against text"]
    return {"wrong": list(wrong_.items()), "right": list(right_.items())}
