"""Problems of which a sentence is missing: sentences, numbers, what is needed, what comes out without it."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest

from ccpo.verifier import verify
from data_preprocess.gaps import Broken, Problem, numbers, sentences, step_of, written
from data_preprocess.role_targets import Solved

SHOP = "Ann buys 3 pens. Each pen costs $2. She also buys a book for $7.50. How much does she pay?"
SHOP_SOLVED = "The pens cost 3*2 = $<<3*2=6>>6.\nAltogether she pays 6+7.5 = $<<6+7.5=13.5>>13.5\n#### 13.5"


def problem(question: str = SHOP, answer: str = SHOP_SOLVED) -> Problem:
    return Problem(Solved.of(question, answer, answer.rpartition("####")[2].strip().replace(",", "")))


def cut(text: str) -> list[str]:
    return [text[first:last] for first, last in sentences(text)]


@pytest.mark.parametrize(
    "text, parts",
    [
        (SHOP, ["Ann buys 3 pens.", "Each pen costs $2.", "She also buys a book for $7.50.", "How much does she pay?"]),
        ("Mr. Ray and Mrs. Poe ran 1.5 km. Who won?", ["Mr. Ray and Mrs. Poe ran 1.5 km.", "Who won?"]),
        ("It is 9 a.m. Tuesday. J. K. Lee of A.T. Motors eats .5 pie.", None),
        (
            "He said \u201cgo!\u201d Then 5 left. \u00c9ric stayed.",
            ["He said \u201cgo!\u201d", "Then 5 left. \u00c9ric stayed."],
        ),
        ("Wait... what?! 5 more came (late). $3 each.", ["Wait... what?!", "5 more came (late).", "$3 each."]),
        ("  One.\n\n  Two?  ", ["One.", "Two?"]),
        ("no stop at all", ["no stop at all"]),
        ("", []),
        (" \n ", []),
        ("?!.", ["?!."]),
        ("\u4e00\u3002\u4e8c\u3002 A. B", ["\u4e00\u3002\u4e8c\u3002 A. B"]),
    ],
)
def test_sentences(text, parts):
    if parts is None:
        parts = ["It is 9 a.m. Tuesday.", "J. K. Lee of A.T. Motors eats .5 pie."]
    assert cut(text) == parts


@pytest.mark.parametrize(
    "text, found",
    [
        ("1,250 and 3.75, or .5", {"1250", "1/1250", "15/4", "4/15", "1/2", "2"}),
        ("half of them", {"2", "1/2"}),
        ("twenty-five", {"20", "1/20", "5", "1/5", "25", "100", "4"}),
        ("two-thirds", {"2", "1/2", "3", "1/3", "5", "6", "2/3"}),
        ("20 %", {"20", "1/20", "1/5", "4/5", "6/5", "80", "120"}),
        ("ten percent", {"10", "1/10", "9/10", "11/10", "90", "110"}),
        ("no number, a bone, often, \u0665", set()),
        ("0", {"0"}),
        ("$", set()),
    ],
)
def test_numbers(text, found):
    assert numbers(text) == {Fraction(value) for value in found}


def test_what_is_needed_and_what_comes_out_without_it():
    found = problem()
    assert found.hideable == [0, 1, 2] and found.steps == 2
    assert {number: guess.answer for number, guess in found.needed.items()} == {0: "9.5", 1: "10.5", 2: "6"}
    assert found.needed[0].reply == "2+7.5 = 9.5.\n\\boxed{9.5}", "the pens' line is gone: of 3*2 one number is left"
    assert found.needed[2].reply == "The pens cost 3*2 = $6.\n\\boxed{6}"
    assert found.without(1, "[gap]") == SHOP.replace("Each pen costs $2.", "[gap]")
    assert found.with_mark(1, "[gap]") == SHOP.replace("Each", "[gap] Each")


def test_a_number_that_stands_elsewhere_too_is_not_missing():
    told_twice = SHOP.replace("How much", "If a pen is $2, how much")
    assert set(problem(told_twice).needed) == {0, 2}
    assert set(problem(SHOP.replace("3 pens", "three pens")).needed) == {0, 1, 2}
    assert set(problem(f"Three pens are here. {SHOP}").needed) == {2, 3}


def test_a_question_is_never_missing():
    found = problem("Ann buys 3 pens. Is $2 much for a pen? A book is $7.50. She buys all.")
    assert found.hideable == [0, 2] and set(found.needed) == {0, 2}


@pytest.mark.parametrize(
    "question, answer",
    [
        ("What is 3*2?", "3*2=<<3*2=6>>6\n#### 6"),  # one sentence
        ("Ann has some pens. Ben has none. Who has more?", "Nobody knows.\n#### 6"),  # no numbers, no calculations
        (SHOP, "It is $13.5.\n#### 13.5"),  # none written out
        (SHOP, SHOP_SOLVED.replace("<<3*2=6>>", "<<3*2>>")),
        (SHOP, SHOP_SOLVED.replace("<<3*2=6>>", "<<3**2=9>>")),
        (SHOP, SHOP_SOLVED.replace("<<3*2=6>>", "<<__import__('os')=6>>")),
        (SHOP, SHOP_SOLVED.replace("<<3*2=6>>", f"<<{'(' * 5000}3{')' * 5000}*2=6>>")),
        (SHOP, SHOP_SOLVED.replace("<<3*2=6>>", f"<<{'1+' * 5000}1=6>>")),
        (SHOP, SHOP_SOLVED.replace("<<3*2=6>>", "<<3/0=6>>")),
        (SHOP, SHOP_SOLVED.replace("<<3*2=6>>", "<<1e999=6>>")),
        (SHOP, SHOP_SOLVED.replace("13.5>>", "14>>")),  # they do not lead to the answer
        (SHOP, f"{SHOP_SOLVED.partition('####')[0]}So it is more.\n#### 13.5"),  # something uncalculated follows
    ],
)
def test_what_cannot_be_worked_through_needs_nothing(question, answer):
    assert problem(question, answer).needed == {}


def test_a_guess_is_one_that_can_be_believed():
    less = problem(
        "Ann has 3 pens. She loses 5 cards. She has 9 cards. How many cards are left?", "9-5=<<9-5=4>>4\n#### 4"
    )
    assert {number: guess.answer for number, guess in less.needed.items()} == {1: "9", 2: "5"}
    same = problem("Ann has 8 pens. She loses 4. How many are left?", "8-4=<<8-4=4>>4\n#### 4")
    assert {number: guess.answer for number, guess in same.needed.items()} == {1: "8"}, "4 is the truth itself"
    below = problem(
        "It is 5 degrees. It falls by 9. It rises by 30. How warm is it?", "5-9+30=<<5-9+30=26>>26\n#### 26"
    )
    assert set(below.needed) == {0, 1}, "without the third it is -4"
    odd = problem("He eats 10 figs. It takes 3 days. He goes on for 6. How many?", "10/3*6=<<10/3*6=20>>20\n#### 20")
    assert {number: guess.answer for number, guess in odd.needed.items()} == {0: "18", 1: "60"}, "10/3 is no answer"


def test_a_result_is_followed_and_not_taken_for_a_number_of_the_question():
    """6 is a result and stands in a sentence: the later 6 is the result."""
    found = problem(
        "Ann has 3 pens. Ben has twice as many. They add 6 cards. How many do they have?",
        "Ben has 3*2=<<3*2=6>>6.\nPens: 3+6=<<3+6=9>>9.\nAll: 9+6=<<9+6=15>>15\n#### 15",
    )
    assert found.needed[0].answer == "4", "2, then 2 alone, then 2+2"


def test_no_missing_number_is_said():
    for number, guess in problem().needed.items():
        said = guess.reply.replace("\\boxed", "")
        for value in problem().missing(number):
            assert f" {written(value)} " not in f" {said} " and f"${written(value)}" not in said
        assert verify(guess.reply, guess.answer, "boxed").reward == 1.0


def test_written_numbers():
    assert [written(Fraction(text)) for text in ("3", "-3", "1/2", "1/3", "1000")] == [
        "3",
        "-3",
        "0.5",
        "0.3333",
        "1000",
    ]
    assert step_of("1,000/4=250").leaves == {1000, 4}
    for bad in ("", "=", "5", "=5", "x=5", "5=x", "'5'=5", "True=1"):
        with pytest.raises(Broken):
            step_of(bad)


def test_no_text_takes_long():
    """Of 100,000 characters, in processor time."""
    began = time.process_time()
    for text in (
        "A. " * 33_000,
        "Mr. " * 25_000,
        "1" * 4_000 + "," * 90_000,
        "one " * 25_000,
        "a! " * 33_000,
        '"' * 100_000,
        "." * 100_000,
    ):
        sentences(text), numbers(text)
    assert time.process_time() - began < 5


def test_numbers_beyond_all_bounds_are_an_error_or_none():
    with pytest.raises(ValueError):
        numbers("9" * 5000)
    nines = "9" * 80
    huge = [f"{a}*{nines}=<<{a}*{nines}={a}>>{a}" for a in (2, 3, 5, 7, 11)]
    found = problem(f"It is 3. It has {nines}. How much?", "\n".join((*huge, "11*3=<<11*3=33>>33", "#### 33")))
    assert isinstance(found.needed, dict)
