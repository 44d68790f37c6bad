"""What the roles are taught to say, from small worked solutions."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace

import pytest

from ccpo.team.load import prompts_of, team_class
from ccpo.team.plan import plan
from ccpo.team.replay import Intervention, play
from ccpo.team.session import Decoded, Scene
from ccpo.types import REMOVE, REPLACE
from ccpo.verifier import verify
from data_preprocess.role_targets import (
    BOX,
    LESSONS,
    NO_MISTAKE,
    NUMBER,
    STEP,
    Solved,
    chain,
    draw,
    dyad,
    mistake,
    plain,
    vote,
    worth_of,
)

ANSWER = "Half of 48 is 48/2 = <<48/2=24>>24.\n\n  Together 48+24 = <<48+24=72>>72 clips \n#### 72"
SOLVED = Solved.of("How many clips?", ANSWER, "72")


def said(lessons) -> dict[str, str]:
    """'role(fields that it hears)' -> reply."""
    return {f"{lesson.role}({' '.join(lesson.fields)})": lesson.reply for lesson in lessons}


def test_a_solution_is_its_lines_without_annotations():
    assert SOLVED.steps == ("Half of 48 is 48/2 = 24.", "Together 48+24 = 72 clips")
    assert SOLVED.whole == "Half of 48 is 48/2 = 24.\nTogether 48+24 = 72 clips.\n\\boxed{72}"


@pytest.mark.parametrize("ending", ["It is 36 + 36 = 72", "72", "It is 72.", "Is it 72? It is 72!", "so 2 x 36 = $72"])
def test_the_verifier_reads_what_is_taught(ending):
    assert verify(Solved.of("q", f"{ending}\n#### 72", "72").whole, "72", "number").reward == 1.0


def test_dyad():
    found = said(dyad(SOLVED, STEP))
    assert found.pop("reason(question)") == SOLVED.whole
    assert found.pop("think(question)") == "Half of 48 is 48/2 = 24."
    assert found.pop("reason(question thought)") == "Together 48+24 = 72 clips.\n\\boxed{72}"
    assert not found
    (behind,) = (lesson for lesson in dyad(SOLVED, STEP) if "thought" in lesson.fields)
    assert behind.fields == {"question": "How many clips?", "thought": "Half of 48 is 48/2 = 24."}
    boxed = said(dyad(SOLVED, BOX))
    assert boxed["reason(question thought)"] == "\\boxed{72}" and boxed["reason(question)"] == SOLVED.whole


def test_a_tenth_is_asked_with_an_empty_thought():
    lessons = [
        lesson
        for number in range(1000)
        for lesson in dyad(Solved.of(f"q{number}?", ANSWER, "72"), STEP)
        if lesson.fields.get("thought") == ""
    ]
    assert 60 < len(lessons) < 140 and {lesson.reply for lesson in lessons} == {SOLVED.whole}


def test_of_one_step_nothing_is_left_to_think():
    one = Solved.of("q", "1+1 = <<1+1=2>>2\n#### 2", "2")
    assert said(dyad(one, STEP)) == {"reason(question)": "1+1 = 2.\n\\boxed{2}"}


def test_vote():
    assert said(vote(SOLVED, STEP)) == {"voter_0(question)": SOLVED.whole}


def test_chain():
    seen = set()
    for number in range(40):
        solved = Solved.of(f"How many clips, {number}?", ANSWER, "72")
        found = said(chain(solved, STEP))
        assert found["proposer(question)"] == found["refiner(question draft review)"] == solved.whole
        assert found["refiner(question draft)"] == found["refiner(question)"] == solved.whole
        (critic,) = (lesson for lesson in chain(solved, STEP) if lesson.role == "critic")
        wrong = verify(critic.fields["draft"], "72", "number").reward == 0.0
        seen.add(wrong)
        if wrong:
            named, right = re.fullmatch("The first mistake: (.*)\nIt should be: (.*)", critic.reply).groups()
            lines = critic.fields["draft"].split("\n")
            at = lines.index(named)
            assert lines[:at] == list(solved.steps[:at]) and right == solved.steps[at] != named
        else:
            assert (critic.reply, critic.fields["draft"]) == (NO_MISTAKE, solved.whole)
    assert seen == {True, False}


def test_a_mistake_is_followed_to_the_answer():
    found = set()
    for number in range(30):
        wrong = mistake(Solved.of(f"{number}?", ANSWER, "72"))
        first, last, box = wrong.draft.split("\n")
        half = int(re.search(r"= (\d+)\.$", first)[1])
        total = int(re.search(r"48\+(\d+) = (\d+) clips$", last)[2])
        assert box == f"\\boxed{{{total}}}" and total != 72
        assert re.search(r"48\+(\d+)", last)[1] == str(half)
        found.add(half == 24)
        if half != 24:
            assert total == 48 + half and wrong.line == first
    assert found == {True, False}, "either step may be the wrong one"


@pytest.mark.parametrize(
    "answer, truth",
    [
        ("It is 72.\n#### 72", "72"),  # no annotation
        ("<<48/2=24>>24 is half.\nTogether 72.\n#### 72", "72"),  # the last step has none
        ("It is <<1+1=2>>3\n#### 3", "3"),  # the text says another number
        ("It is <<2*3=6>>6\n#### 6", "7"),  # they lead to another answer
    ],
)
def test_where_annotations_do_not_lead_to_the_answer_there_is_no_mistaken_draft(answer, truth):
    assert all(mistake(Solved.of(f"{number}?", answer, truth)) is None for number in range(20))


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("expression", ["48or 9", "1if 2else 3", "0x10", "1e5", "2j"])
def test_a_word_is_no_arithmetic_and_python_warns_of_none(expression, recwarn):
    assert worth_of(expression) is None and not recwarn.list


@pytest.mark.parametrize(
    "expression",
    [
        "f(2)",
        "2**2**2**99999",
        "2.__class__",
        f"{'(' * 5000}2{')' * 5000}",
        f"2+{'9' * 5000}",
        "1/(2-3)",
        "",
        "'2'",
        "1e999*2",
        "2 if 1 else 3",
    ],
)
def test_no_annotation_is_run(expression):
    """A first step that is off makes the second one to be computed anew: arithmetic, or no draft."""
    answer = f"One is <<1+1=2>>2.\nIt is <<{expression}=3>>3\n#### 3"
    found = [mistake(Solved.of(f"{number}?", answer, "3")) for number in range(40)]
    assert {wrong.line.split()[0] for wrong in found if wrong} <= {"It", *(["One"] if expression == "1/(2-3)" else [])}
    assert None in found


def test_what_was_rounded_is_no_mistake():
    answer = "A third is <<1/3=0.3333>>0.3333.\nThree are <<3*.3333=1>>1.\nTwice is <<1*2=2>>2\n#### 2"
    for number in range(40):
        wrong = mistake(Solved.of(f"{number}?", answer, "2"))
        if wrong and wrong.line.startswith("Twice"):
            assert "Three are 1." in wrong.draft


@pytest.mark.parametrize(
    "answer, reason",
    [
        ("#### 3", "no worked solution"),
        (" \n\n#### 3", "no worked solution"),
        ("It is <<1+1=2>2\n#### 2", "does not end"),
        ("It is 1+1=2>>2\n#### 2", "does not end"),
        ("<<1+1=2>>\n#### 2", "says nothing"),
    ],
)
def test_a_solution_that_cannot_be_cut_is_refused(answer, reason):
    with pytest.raises(ValueError, match=reason):
        Solved.of("q", answer, "2")


def test_a_question_always_falls_on_the_same_side():
    assert draw("How many clips?", "") == draw("  how MANY\n clips? ", "") != draw("How many clips?", "another")
    assert [round(draw(f"q{number}", "salt"), 6) for number in range(3)] == [0.124925, 0.940189, 0.17526], (
        "earlier data sets would mix"
    )
    assert 0.45 < sum(draw(f"q{number}", "") for number in range(2000)) / 2000 < 0.55


def test_plain_keeps_what_is_no_annotation():
    assert plain("5 < 6 and 7 > 6, <<1=1>>1") == "5 < 6 and 7 > 6, 1"


def test_every_team_has_its_own_lessons():
    for team, lessons in LESSONS.items():
        cls = team_class(team)
        prompts = prompts_of(cls, "math")
        roles = {lesson.role for lesson in lessons(SOLVED, STEP)}
        assert all(prompts.messages(lesson.role, lesson.fields) for lesson in lessons(SOLVED, STEP))
        assert not cls.roles or not isinstance(cls.roles, tuple) or roles == set(cls.roles)


class Right:
    """The verifier, for the truth of `SOLVED`."""

    truth = "72"

    async def verify(self, text):
        return verify(text, "72", "number")

    def label(self, answer):
        return answer

    async def same(self, a, b):
        return a == b


EMPTIED = "q6?"  # of those that are asked with an empty thought, too
UNMISTAKEN = "q0?"  # of those whose draft is right


@pytest.mark.parametrize(
    "team, question, interventions",
    [
        ("dyad", EMPTIED, [(REMOVE, "think"), (REMOVE, "reason"), (REPLACE, "think")]),
        ("vote", EMPTIED, [(REMOVE, "voter_1")]),
        ("examples/chain.py:Chain", UNMISTAKEN, [(REMOVE, "proposer"), (REMOVE, "critic"), (REMOVE, "refiner")]),
    ],
)
def test_a_team_that_says_what_it_was_taught_is_right_in_sessions_and_replays(team, question, interventions):
    """Whatever the program asks is a lesson, with the very same messages."""
    solved, member = Solved.of(question, ANSWER, "72"), team_class(team)()
    prompts = prompts_of(type(member), "math")
    known = {str(prompts.messages(one.role, one.fields)): one.reply for one in LESSONS[team](solved, STEP)}

    async def decode(role, messages, label):
        return Decoded(known[str(messages)])

    scene = Scene(question, decode, lambda role, fields: prompts.messages(role, fields), Right())
    played = asyncio.run(play(member, scene, plan(member), [Intervention(*what) for what in interventions]))
    assert played.value == 1.0
    assert all(
        replay.value == 1.0 or replay.intervention in (Intervention(REMOVE, "reason"), Intervention(REMOVE, "refiner"))
        for replay in played.replays
    )


@pytest.mark.parametrize(
    "text, numbers",
    [
        ("$1,200, 6.50 or .5.", ["1,200", "6.50", ".5"]),
        ("6x5= 30, $2.50x14, 2x.5", ["6", "5", "30", "2.50", "14", "2", ".5"]),
        ("B12, 1,2,3, 12,34 and 3 x 4", ["3", "4"]),
        ("5th, 3x and 1.2.3", ["5", "3", "1.2"]),
    ],
)
def test_what_a_number_is(text, numbers):
    assert NUMBER.findall(text) == numbers


@pytest.mark.parametrize(
    "text", ["9" * 10**5 + "a9", "1" + ",111" * 10**5 + "z1", "1x" * 10**5, "." + "9" * 10**5 + "a9"]
)
def test_numbers_are_found_in_no_time(text):
    """A backtracking search of the first takes minutes."""
    before = time.process_time()
    NUMBER.findall(text)
    assert time.process_time() - before < 5


def test_a_mistake_is_followed_where_there_are_no_blanks():
    solved = Solved("?", ("She has 2x3= <<2*3=6>>6.", "So $6x12= $<<6*12=72>>72."), "72")
    found = next(one for i in range(99) if (one := mistake(replace(solved, question=f"{i}?"))) and "2x3" in one.line)
    first, second, _ = found.draft.split("\n")
    off = first.removeprefix("She has 2x3= ").rstrip(".")
    assert second == f"So ${off}x12= ${int(off) * 12}."
