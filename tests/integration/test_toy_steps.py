"""The model whose Reason writes a step before its answer."""

from __future__ import annotations

import random
import re

import pytest
from transformers import AutoTokenizer

from ccpo.reference import behind
from data_preprocess import toy_steps
from data_preprocess.toy import boxed, draw_problems, parse_question, problem_pool, thought_text
from data_preprocess.toy_lessons import CLEAN, NOT_SURE
from data_preprocess.toy_taught import BASE

TOKENIZER = AutoTokenizer.from_pretrained(BASE)
REPLY = re.compile(r"(?:(\d)([+*])(\d)=(\d), )?\\boxed\{(\d)\}")


def lessons(mistakes, wrong_step, count=3000):
    rng = random.Random(0)
    return [
        (problem, toy_steps.draw_lesson(problem, mistakes, wrong_step, rng))
        for problem in draw_problems("train", count, rng)
    ]


def of_reason(found):
    for problem, (messages, reply) in found:
        if messages[0]["content"] == "Answer.":
            yield problem, messages[-1]["content"].partition("\nThought: ")[2], REPLY.fullmatch(reply).groups()


def test_clean_lessons_follow_the_thought_and_their_own_step():
    for problem, thought, (left, operator, right, result, answer) in of_reason(lessons(CLEAN, 0.0)):
        claimed = int(thought[-1]) if "=" in thought else problem.first_result
        assert int(answer) == problem.answer_from(claimed)
        if problem.level == 1:
            assert left is None and thought in ("", NOT_SURE, thought_text(problem))
        else:
            assert (int(left), operator, int(right)) == (claimed, problem.operators[1], problem.digits[2])
            assert result == answer


def test_mistakes_are_made_in_each_place():
    recipe = toy_steps.StepsRecipe()
    found = [
        (problem, thought, reply)
        for problem, thought, reply in of_reason(lessons(recipe.corrupt, toy_steps.WRONG_STEP))
        if problem.level == 2
    ]
    wrong_thought = sum("=" in thought and int(thought[-1]) != p.first_result for p, thought, _ in found)
    wrong_step = sum(int(result) != p.answer_from(int(left)) for p, _, (left, *_, result, _) in found)
    wrong_answer = sum(result != answer for *_, (*_, result, answer) in found)
    assert min(wrong_thought, wrong_step, wrong_answer) > 0.1 * len(found)


def test_a_reply_fits_and_has_a_border_behind_its_step():
    for problem in problem_pool("test", 2)[::20]:
        reply = toy_steps.step_text(problem, problem.first_result, problem.answer) + boxed(problem.answer)
        ids = TOKENIZER(reply + "<|im_end|>", add_special_tokens=False)["input_ids"]
        assert len(ids) <= toy_steps.STEP_TOKENS
        border = behind(TOKENIZER, boxed(problem.answer), ids, toy_steps.STEP_TOKENS)
        assert border.said and TOKENIZER.decode(ids[: border.length]) == reply[: reply.index("{") + 1]
        assert parse_question(problem.question) == problem


def test_the_gate_wants_steps_a_mediocre_team_and_something_to_learn():
    assert toy_steps.StepsNumbers(0.35, 0.2, 0.5, 0.8).failures() == []
    assert "writes a step in 0.600" in toy_steps.StepsNumbers(0.35, 0.2, 0.5, 0.6).failures()[0]
    assert "joint accuracy 0.200" in toy_steps.StepsNumbers(0.2, 0.2, 0.5, 0.8).failures()[0]
    assert "nothing to learn" in toy_steps.StepsNumbers(0.45, 0.2, 0.5, 0.8).failures()[0]


@pytest.mark.slow
def test_the_recipe_passes_its_gate(tmp_path):
    manifest = toy_steps.build(tmp_path / "steps")
    assert manifest["seed"] == toy_steps.SEED and toy_steps.StepsNumbers(**manifest["gate"]).failures() == []
