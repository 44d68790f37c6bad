"""The dyad's starts and the specialists. All builds are a few steps long; the whole ones are what scripts/regimes.py makes."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import pytest

from ccpo.config import CcpoConfig
from ccpo.verifier import verify
from data_preprocess import toy_specialists, toy_starts
from data_preprocess.toy import boxed, problem_pool, thought_text
from data_preprocess.toy_lessons import NOT_SURE
from data_preprocess.toy_starts import LONG, SPELLINGS, STARTS, StartNumbers, StartRecipe

TWO_STEPS = problem_pool("train", 2)[1234]


def lessons(recipe: StartRecipe, count: int = 3000) -> dict[str, list[str]]:
    """Who is asked what, in the words of the last message's kind -> replies"""
    rng, found = random.Random(0), {"think": [], "told": [], "alone": []}
    for _ in range(count):
        messages, reply = toy_starts.draw_lesson(TWO_STEPS, recipe, recipe.mistakes, rng)
        who = "think" if messages[0]["content"] == "Think." else "alone"
        found["told" if "Thought: " in messages[-1]["content"] else who].append(reply)
    return found


def share(replies: list[str], wanted: str) -> float:
    return replies.count(wanted) / len(replies)


def test_lessons_have_the_prompts_that_the_roles_get():
    sets = CcpoConfig(team="dyad", prompts="toy").prompt_sets
    seen = {json.dumps(lesson.messages) for lesson in map(lambda _: _draw(STARTS["lazy_think"]), range(50))}
    question = TWO_STEPS.question
    for role, heard in (("think", {}), ("reason", {}), ("reason", {"thought": thought_text(TWO_STEPS)})):
        assert json.dumps(sets[role].messages(role, {"question": question, **heard})) in seen


_rng = random.Random(5)


def _draw(recipe: StartRecipe):
    return toy_starts.draw_lesson(TWO_STEPS, recipe, recipe.mistakes, _rng)


def test_what_think_is_taught():
    perfect = thought_text(TWO_STEPS)
    lazy, misleading = (lessons(STARTS[name])["think"] for name in ("lazy_think", "misleading_think"))
    assert share(lazy, NOT_SURE) == pytest.approx(0.91, abs=0.03)
    assert share(misleading, NOT_SURE) + share(misleading, perfect) < 0.25  # a random digit may be the right one
    long = lessons(STARTS["long_thoughts"])["think"]
    assert all(thought.startswith(LONG) for thought in long) and LONG + perfect in long


def test_what_reason_is_taught():
    noisy = lessons(STARTS["noisy_reason"])["alone"]
    assert share(noisy, boxed(TWO_STEPS.answer)) == pytest.approx(0.55, abs=0.05)
    many = lessons(STARTS["many_spellings"])
    for replies in (many["told"], many["alone"]):
        spelled = Counter(reply.strip("\\boxed{}")[1:] for reply in replies)
        assert {count for count in spelled.values() if count / len(replies) < 0.15} == set() and len(spelled) == 4
    by_thought = lessons(STARTS["spelling_by_thought"])
    assert all(len(reply) == len(boxed(1)) for reply in by_thought["alone"])
    assert 0.4 < sum(reply.endswith(".0}") for reply in by_thought["told"]) / len(by_thought["told"]) < 0.7


@pytest.mark.parametrize("spell", SPELLINGS.values())
@pytest.mark.parametrize("digit", [0, 7])
def test_every_spelling_is_right_and_fits(spell, digit):
    assert verify(spell(digit), str(digit)).reward == 1 and verify(spell(digit), str((digit + 1) % 10)).reward == 0
    assert spell(digit) == boxed(digit) or spell is not SPELLINGS["plain"]


def test_the_gate_names_what_is_out_of_range():
    numbers = dict.fromkeys(StartNumbers.__dataclass_fields__, 0.5) | {"wanted": {"joint": (0.4, 0.6)}}
    assert StartNumbers(**numbers).failures() == []
    (failure,) = StartNumbers(**numbers | {"joint": 0.7}).failures()
    assert failure == "joint is 0.700, not within 0.4 to 0.6"
    for name, recipe in STARTS.items():
        assert set(recipe.wanted) <= set(StartNumbers.__dataclass_fields__) and len(recipe.wanted) > 1, name


def test_two_builds_of_a_start_have_the_same_bits(tmp_path):
    short = replace(STARTS["long_thoughts"], clean_steps=1, steps=1, lessons=2, wanted={"joint": (0.0, 1.0)})
    made = {name: toy_starts.build(tmp_path / name, short, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))}
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in made)
    assert a == b != c and 0 <= made["a"]["gate"]["joint"] <= 1
    assert json.loads((tmp_path / "a" / "warm_start.json").read_text())["gate"]["wanted"] == {"joint": [0.0, 1.0]}


def test_specialists_share_the_questions():
    for level in (1, 2):
        for problem in problem_pool("train", level)[::7]:
            assert sum(toy_specialists.knows(voter, problem) for voter in range(toy_specialists.VOTERS)) == 1


def test_what_a_specialist_is_taught():
    rng, last = random.Random(0), TWO_STEPS.digits[-1]
    own, other = (toy_specialists.SpecialistRecipe(voter) for voter in (last // 2, (last // 2 + 1) % 5))
    known, unknown = (
        [toy_specialists.draw_lesson(TWO_STEPS, recipe, rng).reply for _ in range(2000)] for recipe in (own, other)
    )
    assert sum(boxed(TWO_STEPS.answer) in reply for reply in known) / 2000 > 0.7
    assert share(unknown, NOT_SURE) == pytest.approx(0.5, abs=0.04)
    assert share(unknown, boxed(TWO_STEPS.answer)) == pytest.approx(0.05, abs=0.02)


def test_an_untaught_specialist_is_refused(tmp_path, capsys):
    short = toy_specialists.SpecialistRecipe(0, steps=1, lessons=16)
    with pytest.raises(RuntimeError, match="seeds 7 to 10 passed the gate"):
        toy_specialists.build(tmp_path / "model", short, seed=7)
    assert capsys.readouterr().out.count("failed the gate") == 4
    assert list(tmp_path.iterdir()) == []
