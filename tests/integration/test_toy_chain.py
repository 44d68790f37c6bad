"""The model of the chain. All builds but the last test's are a few steps long."""

from __future__ import annotations

import dataclasses
import json
import random
from functools import partial

import pytest
from transformers import AutoTokenizer

from ccpo.config import CcpoConfig
from data_preprocess import toy_chain
from data_preprocess.toy import boxed, draw_problems, problem_pool, thought_text
from data_preprocess.toy_lessons import CLEAN, CORRUPT, NOT_SURE
from data_preprocess.toy_taught import BASE

SHORT = toy_chain.ChainRecipe(clean_steps=2, corrupt_steps=1, lessons=2)
PASSING = toy_chain.ChainNumbers(0.45, 0.4, 0.4, 0.9, 0.4, 0.35)
PROBLEM = problem_pool("train", 2)[1234]


def lessons(mistakes, count=3000):
    rng = random.Random(0)
    return [(problem, toy_chain.draw_lesson(problem, mistakes, rng)) for problem in draw_problems("train", count, rng)]


def test_every_prompt_of_the_team_is_taught_and_no_other():
    config = CcpoConfig(team=f"{toy_chain.CHAIN}:Chain", prompts="toy")
    asked = set()
    for problem, (messages, _) in lessons(CORRUPT):
        texts = {"question": problem.question}
        *before, after = messages[-1]["content"].split(problem.question)
        if before != [""]:
            texts["draft"] = before[0].removesuffix("\n")
        if after:
            texts["review"] = after.removeprefix("\nThought: ")
        players = [
            role
            for role, prompts in config.prompt_sets.items()
            if frozenset(texts) in prompts.of(role) and prompts.messages(role, texts) == messages
        ]
        assert players
        asked |= {(role, frozenset(texts)) for role in players}
    assert asked == {(role, fields) for role in config.plan.roles for fields in config.plan.fields[role]}


def test_the_refiner_is_taught_to_follow_the_review_then_the_draft():
    follow = partial(toy_chain.follow, PROBLEM)
    for digit in range(10):
        assert follow(boxed(digit), thought_text(PROBLEM, 7)) == PROBLEM.answer_from(7)
        assert follow(boxed(digit), NOT_SURE) == follow(boxed(digit), "") == follow(boxed(digit)) == digit
    assert follow() == follow("", "") == follow("", NOT_SURE) == PROBLEM.answer


def test_clean_lessons_are_right_unless_what_is_shown_is_wrong():
    for problem, (messages, reply) in lessons(CLEAN):
        if messages[0]["content"] == "Think.":
            assert reply in (thought_text(problem), NOT_SURE)
        elif messages[-1]["content"] == problem.question:
            assert reply == boxed(problem.answer)


def test_prompts_and_replies_fit():
    """A prompt stays under 80 tokens with a draft and a review of 16, a reply under 16."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    longest = "z" * 16
    assert len(tokenizer(longest)["input_ids"]) == 16
    for problem in problem_pool("test", 2)[::50]:
        for role, heard in (
            ("proposer", {}),
            ("critic", {"draft": longest}),
            ("refiner", {"draft": longest, "review": longest}),
        ):
            messages = toy_chain.messages(role, problem, **heard)
            assert len(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)) < 80
        for reply in (boxed(problem.answer), thought_text(problem), NOT_SURE):
            assert len(tokenizer(reply + "<|im_end|>")["input_ids"]) <= 16


def test_gate_names_every_failure():
    assert PASSING.failures() == []
    assert "perfect reviews" in dataclasses.replace(PASSING, perfect_review=0.69).failures()[0]
    assert "0.250" in dataclasses.replace(PASSING, joint=0.25).failures()[0]
    assert "0.610" in dataclasses.replace(PASSING, joint=0.61).failures()[0]


def test_numbers_are_measured_on_the_team():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    numbers = toy_chain.measure(toy_chain.teach(tokenizer, SHORT, 3), tokenizer, problem_count=48)
    assert all(0 <= value <= 1 for value in dataclasses.astuple(numbers))
    assert numbers.without_proposer > 0.15, "a refiner that is shown nothing is asked as the embedded model was taught"


def test_two_builds_have_the_same_bits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toy_chain, "measure", lambda model, tokenizer: PASSING)
    manifests = {name: toy_chain.build(tmp_path / name, SHORT, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))}
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in manifests)
    assert a == b != c
    assert manifests["a"] == json.loads((tmp_path / "a" / "warm_start.json").read_text())
    toy_chain.build(tmp_path / "a", SHORT, 1)
    assert "is complete" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_writes_a_model_that_passes_with_its_first_seed(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["toy_chain", "--out", str(tmp_path / "chain")])
    toy_chain.main()
    written = json.loads((tmp_path / "chain" / "warm_start.json").read_text())
    assert written["seed"] == written["seed_asked"]
    assert written["gate"]["joint"] + 0.2 < written["gate"]["perfect_review"], "there is something to learn"
    assert min(written["gate"]["without_proposer"], written["gate"]["without_critic"]) > 0.2, "the others answer alone"
