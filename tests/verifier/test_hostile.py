"""Generated hostile texts, from a worker thread: none hangs, crashes, raises or is rewarded."""

from __future__ import annotations

import random
import threading
import time

import pytest

from ccpo import verifier

TRUTHS = {"boxed": ("\\frac{173}{29}", "x^{2}+31x"), "number": ("7919.25",), "option": ("D",)}
COUNT = 6_000
VERDICT_SECONDS = 2.0
WORDS = [
    *"\\frac \\sqrt \\sum_{i=1}^{n} \\int_0^1 \\left( \\right) \\begin{pmatrix} \\end{pmatrix} \\text{ \\binom".split(),
    *"\\pm \\cup ^ _ { } ( ) [ ] ! & \\\\ = < > | , . % $ # ~ \\ne \\le \\infty \\pi e i x y 0 1 2 99 999999".split(),
    *"\\! \\, 0.1 1/0 \\in \\{ \\} \\overline \\lim_{x\\to0} \\log \\sin \\arctan \\pmod \\mathbb{R}".split(),
    *"∞ − ½ ² 𝟘 ٣ \u200b \ud800 \0 \n".split(" "),
]


def _soup(rng: random.Random) -> str:
    return "".join(rng.choice(WORDS) for _ in range(rng.randint(1, 60)))


def _nested(rng: random.Random) -> str:
    opened, closed = rng.choice(
        [("{", "}"), ("(", ")"), ("\\frac{1}{", "}"), ("\\sqrt{", "}"), ("\\left(", "\\right)"), ("x^{", "}")]
    )
    depth = rng.choice([3, 6, 18, 100, 3000])
    return opened * depth + "2" + closed * (depth + rng.choice([0, 0, -1, 1]))


def _power(rng: random.Random) -> str:
    return rng.choice(
        ["9^{9^{9^{9}}}", "9^9^9", "10^{10^{%d}}", "2^{%d!}", "(%d!)!", "%d^{99999}", "((2^{%d})^{%d})^{%d}"]
    ).replace("%d", str(rng.randint(9, 999)))


def _digits(rng: random.Random) -> str:
    return (
        rng.choice(["", "-", "."])
        + rng.choice("123456789") * rng.choice([50, 600, 5000, 200_000])
        + rng.choice(["", "!", "e999", "."])
    )


def _repeated(rng: random.Random) -> str:
    piece = rng.choice(
        [
            "\\boxed",
            "\\boxed{",
            "answer is ",
            "answer: *",
            "#### ",
            "(A) ",
            "1,",
            "$ ",
            "-",
            "1/",
            " ",
            "\n",
            "A. ",
            "}",
            "\\",
            "a=",
        ]
    )
    return piece * rng.choice([10, 1000, 20_000])


def _padded(rng: random.Random) -> str:
    lead = rng.choice(
        ["", "answer", "answer is", "answer is option", "Option", "####", "-", "answer: b", "(A", "answer the"]
    )
    return lead + rng.choice([" ", "\n", "*", "\t", ")", "."]) * 90_000 + rng.choice(["", "x", "3", "\\frac"])


def _megabyte(rng: random.Random) -> str:
    return "".join(rng.choices(["word ", "\\frac{1}{2} ", "(E) ", "x^2 ", "\n"], k=2000)) * 100


MAKERS = [(_soup, 60), (_nested, 15), (_digits, 10), (_repeated, 11), (_padded, 1), (_power, 2), (_megabyte, 1)]


def _texts():
    rng = random.Random(20240917)
    makers, weights = zip(*MAKERS, strict=True)
    for number in range(COUNT):
        answer_type = ("boxed", "boxed", "number", "option")[number % 4]
        body = rng.choices(makers, weights)[0](rng)
        frame = rng.choice(
            [
                "{}",
                "\\boxed{{{}}}",
                "so \\boxed{{{}}}.",
                "The answer is {}",
                "#### {}",
                "\\boxed{{{}",
                "**Answer:** {}\n",
            ]
        )
        yield frame.format(body), rng.choice(TRUTHS[answer_type]), answer_type


def _timed(*arguments):
    start = time.thread_time()  # of a processor, however busy the machine is
    return verifier.verify(*arguments), time.thread_time() - start


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_hostile_texts_are_bounded_and_never_rewarded():
    slowest, rewarded, errors, done = (0.0, ""), [], [], []

    def work():
        nonlocal slowest
        for text, truth, answer_type in _texts():
            try:
                verdict, seconds = _timed(text, truth, answer_type)
            except Exception as error:
                errors.append((text[:80], answer_type, repr(error)))
                continue
            slowest = max(slowest, (seconds, text[:80]))
            if verdict.reward != 0.0 and not (answer_type == "option" and verdict.answer == "D"):
                rewarded.append((text[:80], truth))
            assert verdict.parsed == (verdict.answer is not None)
            done.append(1)

    thread = threading.Thread(target=work, daemon=True)
    start = time.monotonic()
    thread.start()
    thread.join(300)
    assert not thread.is_alive(), f"stuck after {len(done)} texts"
    assert not errors, errors[:3]
    assert len(done) == COUNT
    assert not rewarded, rewarded[:3]
    assert slowest[0] < VERDICT_SECONDS, slowest
    print(f"{COUNT} texts in {time.monotonic() - start:.1f} s, slowest {slowest}")
