"""The voters of unequal skill. All builds but the last test's are a few steps long."""

from __future__ import annotations

import json
from functools import partial

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from ccpo.prompts import VOTE
from ccpo.topology.session import PromptBudget
from ccpo.topology.vote import Voter, _ask
from data_preprocess import toy_voters
from data_preprocess.toy import problem_pool
from data_preprocess.toy_lessons import VOTERS, vote_messages

SHORT = toy_voters.VoterRecipe(steps=2, lessons=2)
PASSING = toy_voters.VoterNumbers(dict(zip(VOTERS, (0.74, 0.5, 0.34), strict=True)))


@pytest.fixture
def every_model_passes(monkeypatch):
    monkeypatch.setattr(toy_voters, "measure_voters", lambda model, tokenizer, personas: PASSING)


@pytest.mark.parametrize("persona", VOTERS)
def test_lessons_have_the_prompt_that_the_voter_gets(persona):
    problem = problem_pool("train", 2)[0]
    budget = PromptBudget(limit=80, count=lambda messages: 0, cut=lambda text, tokens: text)
    asked, _ = _ask(Voter(VOTE["toy"], persona), problem.question, [], 0, budget, False)
    assert vote_messages(problem, persona) == asked
    assert asked[0]["content"] == f"Vote. {persona}"


def test_prompts_fit():
    tokenizer = AutoTokenizer.from_pretrained(toy_voters.BASE)
    for persona in VOTERS:
        prompt = tokenizer.apply_chat_template(
            vote_messages(problem_pool("train", 2)[0], persona), add_generation_prompt=True, return_dict=False
        )
        assert len(prompt) < 64


def test_gate_names_every_voter_out_of_range():
    assert PASSING.failures() == []
    (failure,) = toy_voters.VoterNumbers({**PASSING.accuracy, "Wild": 0.5}).failures()
    assert "'Wild'" in failure and "0.500" in failure


def test_untaught_voters_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toy_voters, "measure_voters", partial(toy_voters.measure_voters, problem_count=64))
    with pytest.raises(RuntimeError, match="seeds 7 to 10 passed the gate"):
        toy_voters.build(tmp_path / "model", seed=7, recipe=SHORT)
    assert capsys.readouterr().out.count("failed the gate") == 4
    assert list(tmp_path.iterdir()) == []


def test_two_builds_have_the_same_bits(tmp_path, every_model_passes, capsys):
    manifests = {name: toy_voters.build(tmp_path / name, seed, SHORT) for name, seed in (("a", 1), ("b", 1), ("c", 2))}
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in manifests)
    assert a == b != c
    assert manifests["a"] == json.loads((tmp_path / "a" / "warm_start.json").read_text())
    assert set(manifests["a"]["recipe"]["voters"]) == set(VOTERS)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").num_parameters() == manifests["a"]["parameters"]
    toy_voters.build(tmp_path / "a", 1, SHORT)
    assert "is complete" in capsys.readouterr().out


@pytest.mark.slow
def test_default_build_has_voters_of_unequal_skill(tmp_path):
    manifest = toy_voters.build(tmp_path / "model")
    assert manifest["seed"] == manifest["seed_asked"]
    calm, quick, wild = manifest["gate"]["accuracy"].values()
    assert calm - quick > 0.1 and quick - wild > 0.1
