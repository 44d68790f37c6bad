"""The generator of labelled texts itself: the same texts for a seed, every edit in use, labels that hold where a glance can tell."""

import importlib.util
import random
import sys
from fractions import Fraction
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("second_generator", Path(__file__).with_name("second_generator.py"))
generator = sys.modules["second_generator"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generator)

OPTIONS = [
    "The leisure area lies to the south.",
    "Some managers are in charge of two departments.",
    "Every valve was opened at once.",
    "No conclusion about the harvest follows.",
]
ROWS = {
    "number": ["72", "-7", "1,200", "109,200,000", "0", "5", "12.5"],
    "boxed": [
        "72", "-7", "0", "12", "10,\\!000", "1.25", ".5", "\\frac{4}{3}", "-\\frac{14}{3}", "\\frac12", "3/4", "\\dfrac{1}{6}",
        "5\\sqrt{2}", "\\frac{3\\sqrt{7}}{2}", "-\\sqrt{3}", "16\\pi", "\\frac{\\pi}{3}", "8 - 4\\sqrt{2}", "\\frac{1+\\sqrt{5}}{2}",
        "16+8\\pi", "5 - 12i", "(1,6)", "(6,1)", "\\left( \\frac{1}{2}, -3, 7 \\right)", "1,-2", "-3, -1, 4", "[2,5)", "(4, \\infty)", "(-\\infty, 3]",
        "(-\\infty, 1) \\cup (3, \\infty)", "[-2,7]", "\\begin{pmatrix} 7 \\\\ -13 \\end{pmatrix}",
        "\\begin{pmatrix} 1 & 2 \\\\ 4/9 & 4 \\end{pmatrix}", "x^2 + 33x - 33", "-2x^3 + \\frac{2}{3}x - 1", "2ab + b^2", "x=4",
        "y = 2x + 3", "2x - y + 2z - 18 = 0", "1204_9", "\\text{(A)}", "C", "\\text{Thursday}", "\\text{B,E}", "25\\%", "12.5\\%",
        "\\$5.50", "\\$1,\\!657", "90^\\circ", "22.5^{\\circ}", "15\\text{ cm}", "15\\mbox{ cm}^2", "(x+2)(x-3)", "3 \\pm 2\\sqrt{2}",
        "\\sqrt3", "\\{1, 2, 5\\}", "2^{100} - 2", "20\\!:\\!34",
    ],
    "option": ["A", "B", "C", "D"],
}  # fmt: skip


def rows(kind):
    return [(truth, OPTIONS if kind == "option" else ()) for truth in ROWS[kind]]


@pytest.mark.parametrize("kind", generator.TYPES)
@pytest.mark.parametrize("make", [generator.wrong, generator.right], ids=["wrong", "right"])
def test_a_seed_gives_the_same_texts_and_another_seed_others(kind, make):
    def texts(seed):
        rng = random.Random(seed)
        return [make(rng, truth, kind, options) for truth, options in rows(kind) for _ in range(5)]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


@pytest.mark.parametrize("kind", generator.TYPES)
@pytest.mark.parametrize("label", ["wrong", "right"])
def test_every_edit_applies_to_some_truth(kind, label):
    table = {"wrong": generator.WRONG, "right": generator.RIGHT}[label][kind]
    rng = random.Random(0)
    seen = set()
    for truth, options in rows(kind) * 2:
        texts = generator.every(label, rng, truth, kind, options)
        assert all(isinstance(text, str) for text in texts.values())
        seen |= set(texts)
    assert set(table) - seen == set()
    assert len(table) >= 60


@pytest.mark.parametrize("kind", generator.TYPES)
def test_no_text_has_both_labels(kind):
    rng = random.Random(0)
    for truth, options in rows(kind):
        wrong, right = (
            {text for _ in range(2) for text in generator.every(label, rng, truth, kind, options).values()}
            for label in ("wrong", "right")
        )
        assert wrong and right
        assert wrong & right == set(), truth


def test_no_placeholder_is_left_in_a_text():
    rng = random.Random(0)
    for kind in generator.TYPES:
        for truth, options in rows(kind):
            for label in ("wrong", "right"):
                for name, text in generator.every(label, rng, truth, kind, options).items():
                    assert not set("@¤¡¿") & set(text), name


def test_a_box_that_holds_only_digits_shows_its_label():
    """Where the last box is a plain whole number, reading it is trivial: the label must be what it says."""
    rng = random.Random(0)
    found = {"wrong": 0, "right": 0}
    for truth in ("72", "1234", "5"):
        for label in found:
            for _ in range(5):
                for text in generator.every(label, rng, truth, "boxed", ()).values():
                    last = text.rpartition("\\boxed{")[2].partition("}")[0].strip()
                    if (
                        last.isascii()
                        and last.isdigit()
                        and text.count("\\boxed") == 1
                        and text.count("}") == text.count("{") == 1
                    ):
                        found[label] += 1
                        assert (last == truth) == (label == "right"), text
    assert min(found.values()) > 5


@pytest.mark.parametrize(
    "q", [Fraction(72), Fraction(-1200), Fraction(4, 3), Fraction(-5, 8), Fraction(1, 6), Fraction(0), Fraction(1, 4)]
)
def test_spellings_of_a_number_that_python_can_read_are_equal_to_it(q):
    read = 0
    for name, make in generator.SPELLINGS.items():
        text = make(q)
        try:
            spelled = Fraction(text.replace(" ", "")) if text and "mixed" not in name else None
        except ValueError:
            continue
        if spelled is not None:
            read += 1
            assert spelled == q, name
    assert read


@pytest.mark.parametrize("q", [Fraction(5), Fraction(-12), Fraction(0), Fraction(3, 7), Fraction(11), Fraction(987654)])
def test_a_near_number_is_another_number(q):
    rng = random.Random(0)
    assert all(generator.near(rng, q) != q for _ in range(300))
    assert all(Fraction(generator.near_number(rng, q)) != q for _ in range(300))


def test_truths_of_a_shape_that_is_not_known_still_get_texts():
    rng = random.Random(0)
    for truth in (r"\sin x", r"\text{no } \triangle", r"\sqrt[3]{2}", "???"):
        assert generator.wrong(rng, truth, "boxed", ())
        assert generator.right(rng, truth, "boxed", ())


def test_unknown_truths_of_options_are_refused():
    with pytest.raises(ValueError, match="no edit applies"):
        generator.right(random.Random(0), "Q", "option", OPTIONS)
