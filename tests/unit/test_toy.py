"""The embedded task: arithmetic, splits and the dataset written from them."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_preprocess import toy
from data_preprocess.schema import SPLITS, check_row
from data_preprocess.toy_lessons import CLEAN, CORRUPT, CORRUPT_MIX, NOT_SURE, draw_facts, draw_lesson

ROOT = Path(__file__).parents[2]
EVERY = [problem for level in (1, 2) for split in SPLITS for problem in toy.problem_pool(split, level)]


def test_answers_agree_with_python_arithmetic():
    for problem in EVERY:
        expression = re.fullmatch(r"What is the last digit of (.*)\?", problem.question).group(1)
        assert problem.answer == eval(expression) % 10, expression


def test_perfect_thought_is_a_true_step_of_the_problem():
    for problem in toy.problem_pool("train", 2):
        step, claimed = toy.thought_text(problem).split("=")
        assert f"({step})" in problem.question
        assert int(claimed) == eval(step) % 10
        assert problem.answer_from(int(claimed)) == problem.answer


def test_wrong_thought_changes_only_the_claim():
    problem = toy.Problem((3, 4, 5), ("+", "*"))
    assert toy.thought_text(problem) == "3+4=7"
    assert toy.thought_text(problem, first_result=2) == "3+4=2"
    assert problem.answer_from(2) == 0


def test_question_parses_back():
    for problem in EVERY:
        assert toy.parse_question(problem.question) == problem


@pytest.mark.parametrize("text", ["", "What is the last digit of 3-4?", "What is the last digit of (3+4)*5? ", "3+4"])
def test_other_text_does_not_parse(text):
    with pytest.raises(ValueError, match="not a toy/last_digit question"):
        toy.parse_question(text)


def test_level_two_is_divided_and_level_one_is_shared():
    train, test = (set(toy.problem_pool(split, 2)) for split in SPLITS)
    assert not train & test
    assert len(train | test) == 4000
    assert 0.13 < len(test) / 4000 < 0.17
    assert toy.problem_pool("train", 1) == toy.problem_pool("test", 1)
    assert len(toy.problem_pool("train", 1)) == 200


def test_held_out_problems_are_pinned():
    """The hash must never change: published numbers are about these problems."""
    held_out = toy.problem_pool("test", 2)
    assert len(held_out) == 585
    assert held_out[0].question == "What is the last digit of (0+0)*0?"
    digest = hashlib.sha256("".join(problem.question for problem in held_out).encode()).hexdigest()
    assert digest[:16] == "99268afcc277217c"


def test_draw_has_the_level_mix_and_few_repeats():
    drawn = toy.draw_problems("train", 1000, random.Random(0))
    level_two = [problem for problem in drawn if problem.level == 2]
    assert len(level_two) == 800 == len(set(level_two))
    assert {problem.level for problem in drawn[:50]} == {1, 2}, "levels must be mixed, not in blocks"


def test_test_problems_never_repeat():
    drawn = toy.draw_problems("test", 700, random.Random(0))
    assert len(set(drawn)) == 700
    with pytest.raises(ValueError, match="set --test-size to at most"):
        toy.draw_problems("test", 1200, random.Random(0))


def test_rows_follow_the_schema_and_their_question():
    rows = toy.dataset_rows("test", 64, seed=0)
    for row in rows:
        check_row(row)
        problem = toy.parse_question(row["prompt"][0]["content"])
        assert row["reward_model"]["ground_truth"] == str(problem.answer)
        assert row["extra_info"]["answer_type"] == "boxed"
        assert row["extra_info"]["split"] == "test"
    assert [row["extra_info"]["index"] for row in rows] == list(range(64))


def test_seed_decides_the_rows():
    assert toy.dataset_rows("train", 100, seed=3) == toy.dataset_rows("train", 100, seed=3)
    assert toy.dataset_rows("train", 100, seed=3) != toy.dataset_rows("train", 100, seed=4)


def run_command(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "data_preprocess.toy", "--out", str(out), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_command_writes_the_same_dataset_twice(tmp_path):
    for name in ("a", "b"):
        run_command(tmp_path / name, "--train-size", "300").check_returncode()
    train, test = (pq.read_table(tmp_path / "a" / f"{split}.parquet").to_pylist() for split in SPLITS)
    assert (len(train), len(test)) == (300, 256)
    questions = [{row["extra_info"]["question"] for row in rows} for rows in (train, test)]
    assert all("(" not in question for question in questions[0] & questions[1]), "only level 1 may be in both"
    for split in SPLITS:
        assert (tmp_path / "a" / f"{split}.parquet").read_bytes() == (tmp_path / "b" / f"{split}.parquet").read_bytes()


def test_command_limits_rows_and_refuses_none(tmp_path):
    run_command(tmp_path / "small", "--limit", "10").check_returncode()
    assert pq.read_table(tmp_path / "small" / "train.parquet").num_rows == 10
    refused = run_command(tmp_path / "none", "--limit", "0")
    assert refused.returncode != 0
    assert "at least one row" in refused.stderr
    assert not (tmp_path / "none").exists()


def test_facts_are_true():
    facts = draw_facts(200, random.Random(0)).split(", ")
    assert len(set(facts)) > 100
    for fact in facts:
        step, claimed = fact.split("=")
        assert int(claimed) == eval(step) % 10


def lessons(mistakes, count=4000):
    rng = random.Random(0)
    problems = toy.draw_problems("train", count, rng)
    return [(problem, draw_lesson(problem, CORRUPT_MIX, mistakes, rng)) for problem in problems]


def test_clean_lessons_teach_right_answers_unless_the_note_is_wrong():
    for problem, (messages, reply) in lessons(CLEAN):
        system, user = (message["content"] for message in messages)
        if system == "Think.":
            assert reply in (toy.thought_text(problem), NOT_SURE)
        elif "Thought: " in user and "=" in user:
            assert reply == toy.boxed(problem.answer_from(int(user[-1])))
        else:
            assert reply.endswith(toy.boxed(problem.answer))


def test_corrupt_lessons_leave_thinking_to_be_learned():
    good = [
        reply == toy.thought_text(problem)
        for problem, (messages, reply) in lessons(CORRUPT)
        if messages[0]["content"] == "Think." and problem.level == 2
    ]
    assert 0.25 < sum(good) / len(good) < 0.45
