"""The same problem with other numbers, worked out here a second time."""

from __future__ import annotations

import json
import random
import re
import time
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest

from data_preprocess.role_targets import ANNOTATION, Solved
from data_preprocess.variants import MEANT, Step, _draw, _worked_out, lines, variants

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k_train.jsonl"
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+")

QUESTION = "Ann had 1,200 nails and 30 boards. She used 40 nails for each of 9 boards, and 5% of the rest rusted. How many are left?"
ANSWER = (
    "She used 40*9 = <<40*9=360>>360 nails.\nOf 1,200 there were 1200-360 = <<1200-360=840>>840 left.\n"
    "5/100*840 = <<5/100*840=42>>42 rusted, so 840-42 = $<<840-42=798.00>>798.00\n#### 798"
)


def problem(question: str = QUESTION, answer: str = ANSWER) -> Solved:
    return Solved.of(question, answer, answer.rpartition("#### ")[2].replace(",", ""))


def worth(expression: str) -> Fraction:
    """Of a calculation of numbers and + - * /, with exact fractions."""
    assert re.fullmatch(r"[\d\s,.+\-*/()]+", expression)
    return eval(re.sub(r"\d*\.?\d+", r"Fraction('\g<0>')", expression.replace(",", "")), {"Fraction": Fraction})


def check(one: Solved, original: Solved) -> None:
    """Its own solution leads to its answer, and nothing but numbers is another than in the original."""
    shape = lambda solved: NUMBER.sub("#", "\n".join((solved.question, *solved.steps)))  # noqa: E731
    assert shape(one) == shape(original) and one.question != original.question
    last = None
    for line in one.marked:
        for annotation in ANNOTATION.findall(line):
            expression, _, stated = annotation.rpartition("=")
            last = worth(stated)
            assert abs(worth(expression) - last) < Fraction(1, 10_000) and last > 0
            after = line.partition(f"<<{annotation}>>")[2]
            assert worth(NUMBER.search(after)[0]) == last, "the text says what the annotation does"
    assert worth(one.truth) == last and "," not in one.truth


def test_everything_follows_from_the_new_numbers():
    original = problem()
    found = variants(original, 20)
    assert len({one.question for one in found}) == 20
    for one in found:
        check(one, original)
        nails, boards, each, used, share = NUMBER.findall(one.question)
        assert (share, boards) == ("5", "30"), "a share stays, and so does what no calculation needs"
        assert nails[-3:] == ",000" or int(nails.replace(",", "")) < 1000 or nails[-4] == ","
        rest = int(nails.replace(",", "")) - int(each) * int(used)
        assert Fraction(one.truth) == rest - Fraction(rest * 5, 100)
        assert re.search(r"\$\d+\.\d\d$", one.steps[-1]), "money is written as it was"
        assert int(each) % 10 == 0 and int(used) < 10 and int(nails.replace(",", "")) % 100 == 0, "as round as it was"


def test_they_depend_on_the_question_and_the_seed_alone():
    assert variants(problem(), 5) == variants(problem(), 9)[:5]
    assert variants(problem(), 5, "a") != variants(problem(), 5, "b")
    assert variants(problem(), 0) == []


def test_there_are_no_more_than_the_numbers_allow():
    small = problem("He has 3 cats and 4 more. How many?", "3+4 = <<3+4=7>>7 cats\n#### 7")
    found = variants(small, 90)
    assert 20 < len(found) < 64 and len({one.question for one in found}) == len(found)
    for one in found:
        check(one, small)


@pytest.mark.parametrize(
    "question, answer, why",
    [
        ("He has 48 clips, and half as many more.", "48/2 = 24\n48+24 = <<48+24=72>>72\n#### 72", "no annotation"),
        ("He has 48 clips and finds 9.", "It is <<48+9=56>>56\n#### 56", "wrong"),
        ("He has 48 clips and finds 9.", "It is <<48+9=57>>57\n#### 58", "another answer"),
        ("He has 48 clips and finds 9.", "It is <<48+9+13=70>>70\n#### 70", "13 comes from nowhere"),
        ("He has 48 clips, loses 9 of 39.", "It is <<48-9=39>>39\n<<39-9=30>>30\n#### 30", "39 is asked, too"),
        ("He has 5 and 5% of 40.", "<<5/100*40=2>>2\n<<5+2=7>>7\n#### 7", "5 is a share, too, and 2 usual"),
        ("He has 3/4 of 1 cake and 8% more.", "<<3/4=.75>>.75\n<<.75*4=3>>3\n#### 3", "nothing is a count"),
        ("He was born on the 15th at 7:30 and died at 9am.", "<<15+7=22>>22\n<<22+9=31>>31\n#### 31", "no counts"),
        ("He has 2 dogs, and twice 20 cats.", "<<2*20=40>>40\n<<40-40=0>>0\n#### 0", "nothing is left"),
        ("He has 60 clips an hour.", "<<60*60=3600>>3600\n#### 3600", "60 is meant by a word, too"),
        ("He has 9 clips.", "Let x be <<9*3=27>>27, so x=27\n#### 27", "an equation without an annotation"),
        ("He has 9 clips.", "<<9+f(2)=11>>11\n#### 11", "no calculation"),
        ("He has 9 clips.", f"<<9+{'9' * 400}=18>>18\n#### 18", "too large"),
        (
            "All 60 are of two kinds, 30 here and 30 there, 5 cents each.",
            "<<30*3=90>>90\n<<30+90=120>>120\n#### 120",
            "3?",
        ),
        ("60 questions: 25 hard ones and 35 easy ones.", "<<25*2=50>>50\n<<50+35=85>>85\n#### 85", "they are 60"),
        ("He works 9 days a week.", "<<9*2=18>>18\n#### 18", "of which there are 7"),
        ("He pays with a $50 bill.", "<<50*2=100>>100\n<<100+50=150>>150\n#### 150", "there is no $35 bill"),
        ("", "<<1+1=2>>2 is it\n#### 2", "no numbers"),
        ("Of 80 apples 20% rot.", "80% are left: <<80/100*80=64>>64\n#### 64", "80 is 100 - 20, too"),
        (
            "He has 48 clips, 9 are red.",
            "39 are blue. He sells <<48*9=432>>432\n#### 432",
            "39 follows, but is not worked out",
        ),
        ("He has 48 clips, finds 9.", "It is <<48+9=57>>58\n#### 57", "the text has another result"),
        ("He hops 30 times in half an hour.", "<<30*30=900>>900\n#### 900", "30 is meant by words, too"),
        ("A ninth of 9 apples.", "<<9*9=81>>81\n#### 81", "9 is meant by a word, too"),
        ("Ann, Bob and Carl get 3 nuts each.", "<<3*3=9>>9\n#### 9", "they are 3"),
        ("Ann went on May 5 in 2019, and on 9 June.", "<<5+9=14>>14\n<<2019-14=2005>>2005\n#### 2005", "dates"),
        ("A 20-percent share, from 3 o’clock on.", "<<20*3=60>>60\n#### 60", "no counts"),
        ("Dogs: 3,4,5. And 3 cats, 4 mice.", "<<3+4=7>>7\n#### 7", "3,4,5 cannot be read"),
        ("He has 30 of type B30, 2½ of 40.", "<<30+40=70>>70\n#### 70", "½ cannot be read"),
        (f"He has 48 clips, finds {'9' * 40}.", f"<<48+{'9' * 40}=3>>3\n#### 3", "too large"),
        (" ".join(f"{number}." for number in range(11, 3011)), "<<11+13=24>>24\n#### 24", "too many numbers"),
    ],
)
def test_where_a_number_may_stand_for_two_things_there_is_none(question, answer, why):
    assert variants(problem(question, answer), 10) == [], why


def test_what_numbers_often_mean_besides_stays():
    """2 is of an average, 100 of a share, as often as of the question."""
    twos = problem("2 dogs weigh 60 and 80. The average?", "<<60+80=140>>140\n<<140/2=70>>70\n#### 70")
    percent = problem("100 apples cost 5 each, 40% off.", "<<100*5=500>>500\n<<500*40/100=200>>200 off\n#### 200")
    assert all(one.question.startswith("2 dogs") for one in variants(twos, 9)) and variants(twos, 9)
    assert all(one.question.startswith("100 apples") for one in variants(percent, 9)) and len(variants(percent, 9)) > 5


def test_what_was_the_sum_of_others_stays_their_sum():
    shelves = problem(
        "Of 14 shelves at $9 8 have 15 toys, 4 have 20 and 2 have none.",
        "<<8*15=120>>120\n<<4*20=80>>80\n<<120+80=200>>200\n<<14*9=126>>126\n<<200+126=326>>326\n#### 326",
    )
    found = variants(shelves, 9)
    assert len(found) == 9
    for one in found:
        check(one, shelves)
        all_of_them, _, eights, _, fours, _, twos = map(int, NUMBER.findall(one.question))
        assert all_of_them == eights + fours + twos
    twice = problem("Of 30 men 15 sing and 15 dance, at $7.", "<<30*7=210>>210\n<<15*7=105>>105\n#### 105")
    assert variants(twice, 5)
    for one in variants(twice, 5):
        men, sing, dance, _ = map(int, NUMBER.findall(one.question))
        assert men == sing + dance


def test_a_text_that_calculates_otherwise_than_its_annotation_follows_it_or_there_is_none():
    """Both are 10 as it is; with other numbers only one would be right."""
    for text in ("15-5 = ", "It is $15 – 5=$", "15 x 2 - 20 = "):
        question = "He is 30 and is 5 away from half of it, of 20."
        found = variants(problem(question, f"30/2 = <<30/2=15>>15\n{text}<<5+5=10>>10\n#### 10"), 20)
        assert not any(worth(found[0]) != worth(found[1]) for one in found if (found := one.steps[1].split("=")[:2])), (
            text
        )
    assert not lines([Solved("?", ("2 x 2 = <<2+2=4>>4",), "4")], 5)


def test_a_calculation_without_blanks_is_followed():
    original = problem("Ann works 8 hours for $4.", "She gets $8x4= $<<8*4=32>>32.\n#### 32")
    found = variants(original, 20)
    assert len(found) > 15
    for one in found:
        check(one, original)
        hours, wage = map(int, NUMBER.findall(one.question))
        assert one.steps[0] == f"She gets ${hours}x{wage}= ${hours * wage}."


def test_a_quotient_is_exact():
    """25002/25001 is no 1, however close."""
    numbers = {Decimal("50002"): Decimal("25002"), Decimal("25001"): Decimal("25001")}
    assert _worked_out([Step("50002/25001", Decimal(2))], numbers) is None
    assert _worked_out([Step("3*(1/3)", Decimal(1))], {})


def test_large_numbers_and_long_texts_take_no_time_or_room():
    original = problem("He has 999983 nails and loses 999,979.", "It is <<999983-999979=4>>4\n#### 4")
    for one in variants(original, 5):
        check(one, original)
    assert _draw(random.Random(0), 10**15 + 1) > 10**14
    before = time.process_time()
    for text in ("Ab, " * 20_000, "Ab, Cd and Ef " * 6000, "9" * 99_000 + "a9", "1 + " * 20_000, "a" * 99_000):
        variants(problem(f"He has 48 and 9. {text}", "<<48+9=57>>57\n#### 57"), 2)
        lines([Solved("?", (f"{text} 48+9 = <<48+9=57>>57",), "57")], 2)
    assert time.process_time() - before < 5
    assert lines([Solved("?", (f"{'9' * 40} - {'9' * 40} + 3 = <<{'9' * 40}-{'9' * 40}+3=3>>3",), "3")], 5) == []


def test_a_share_of_what_changes_is_no_constant():
    """60 is 100 - 40 here, but 40 is a count: with another one 60 would be wrong."""
    assert variants(problem("Of 100 apples 40 are red.", "It is <<60+40=100>>100\n#### 100"), 5) == []
    kept = problem("Of 700 apples 40% are red.", "<<60/100*700=420>>420 are not.\n#### 420")
    assert all("40%" in one.question and "60/100" in one.marked[0] for one in variants(kept, 5)) and variants(kept, 5)


def test_two_quantities_that_are_equal_stay_equal_or_there_is_none():
    original = problem("3 boxes of 8 and 4 of 6.", "<<3*8=24>>24\n<<4*6=24>>24\n<<24+24=48>>48\n#### 48")
    for one in variants(original, 20):
        check(one, original)


def test_lines_are_finished_in_one_way():
    found = lines(
        [problem(), problem("", "Half is 48/2 = <<48/2=24>>24, or so.\nBoth are 24+24 = $<<24+24=48>>48.\n#### 48")], 60
    )
    assert len({line.whole for line in found}) == 60
    kinds = set()
    for begun, whole, result in found:
        assert whole.startswith(begun) and begun.endswith("=") and whole.count("=") == 1
        numbers = NUMBER.findall(whole)
        left = re.search(r"(?:\d+[-+*/])+\d+", begun)[0]
        assert worth(left) == worth(numbers[-1]) == worth(result) > 0
        kinds.add(NUMBER.sub("#", whole))
    assert kinds == {"She used #*# = # nails.", "Half is #/# = #, or so.", "Both are #+# = $#."}
    # "Of 1,200 there were 1200-360": one number twice; 5/100*840 and 840-42 stand in one line.


@pytest.mark.parametrize(
    "line",
    [
        "It is 48/2 = 24.",  # no annotation
        "48/2 = <<48/2=24>>24 = 24",
        "Of 3 dogs 48/2 = <<48/2=24>>24",
        "48/2 = <<48/2=24>>24 of 30",
        "48/2 = <<48/2=25>>25",
        "6-3 = <<6-3=3>>3",  # 3 is two things
        "6-6 = <<6-6=0>>0",
        "2+2 = <<2+2=4>>4, 3+3 = <<3+3=6>>6",
        "so it is <<48/2=24>>24",
        "a = <<48/2=24>>24",
    ],
)
def test_a_line_that_does_not_say_all_is_none(line):
    assert lines([Solved("?", (line,), "24")], 5) == []


def test_a_number_that_a_word_of_the_line_means_stays():
    texts = (
        "Twice 24 is 24*2 = <<24*2=48>>48",
        "29 feet * 12 inches/foot = <<29*12=348>>348",
        "Half of 8 is 8/2 = <<8/2=4>>4",
    )
    found = lines([Solved("?", (text,), "1") for text in texts], 60)
    assert len(found) > 40
    for line in found:
        kept = {"T": "2", "H": "2"}.get(line.whole[0], "12")
        assert NUMBER.findall(line.whole)[-2] == kept and worth(line.result) == worth(NUMBER.findall(line.whole)[-1])
    assert lines([Solved("?", ("Two dozen are 2*12 = <<2*12=24>>24",), "24")], 5) == []


def test_there_are_no_more_lines_than_there_are():
    few = lines([Solved("?", ("3+4 = <<3+4=7>>7 cats",), "7")], 1000)
    assert 30 < len(few) < 60 and lines([], 5) == lines([problem()], 0) == []
    assert lines([problem()], 9, "a") == lines([problem()], 9, "a") != lines([problem()], 9, "b")


def test_words_are_words():
    for names in MEANT.values():
        re.compile(names)
    assert re.fullmatch(MEANT[12], "dozen") and re.fullmatch(MEANT[60], "minutes")


@pytest.mark.skipif(not GSM8K.exists(), reason=f"needs {GSM8K.name} of GSM8K in ../shared/data")
def test_variants_of_gsm8k():
    with GSM8K.open() as stream:
        records = [json.loads(line) for line in islice(stream, 1000)]
    problems = [problem(record["question"], record["answer"]) for record in records]
    found = [(original, one) for original in problems for one in variants(original, 2)]
    assert len({original.question for original, _ in found}) > 350
    for original, one in found:
        check(one, original)
