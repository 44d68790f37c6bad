"""The voters of unequal skill. All builds but the last test's are a few steps long."""

from __future__ import annotations

import json
from functools import partial

import pytest
from transformers import AutoModelForCausalLM

from ccpo.config import CcpoConfig
from data_preprocess import toy_voters
from data_preprocess.toy import problem_pool
from data_preprocess.toy_lessons import UNEQUAL_VOTERS, vote_messages

SHORT = toy_voters.VoterRecipe(UNEQUAL_VOTERS["weak"], 0.2, 0.38, steps=2, lessons=2)
PASSING = toy_voters.VoterNumbers(0.3, 0.2, 0.38)


@pytest.fixture
def every_model_passes(monkeypatch):
    monkeypatch.setattr(toy_voters, "measure", lambda model, tokenizer, recipe: PASSING)


def test_lessons_have_the_prompt_that_the_voter_gets():
    problem = problem_pool("train", 2)[0]
    voters = CcpoConfig(team="vote", prompts="toy").prompt_sets
    assert len(voters) == 3
    for voter, prompts in voters.items():
        assert vote_messages(problem) == prompts.messages(voter, {"question": problem.question})


def test_gate_names_what_is_out_of_range():
    assert PASSING.failures() == []
    (failure,) = toy_voters.VoterNumbers(0.5, 0.2, 0.38).failures()
    assert "0.500" in failure and "0.38" in failure


def test_an_untaught_voter_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toy_voters, "measure", partial(toy_voters.measure, problem_count=64))
    with pytest.raises(RuntimeError, match="seeds 7 to 10 passed the gate"):
        toy_voters.build(tmp_path / "model", SHORT, seed=7)
    assert capsys.readouterr().out.count("failed the gate") == 4
    assert list(tmp_path.iterdir()) == []


def test_two_builds_have_the_same_bits(tmp_path, every_model_passes, capsys):
    manifests = {name: toy_voters.build(tmp_path / name, SHORT, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))}
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in manifests)
    assert a == b != c
    assert manifests["a"] == json.loads((tmp_path / "a" / "warm_start.json").read_text())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").num_parameters() == manifests["a"]["parameters"]
    toy_voters.build(tmp_path / "a", SHORT, 1)
    assert "is complete" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_writes_a_strong_and_a_weak_voter(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["toy_voters", "--out", str(tmp_path / "voters")])
    toy_voters.main()
    strong, weak = (
        json.loads((tmp_path / "voters" / name / "warm_start.json").read_text()) for name in ("strong", "weak")
    )
    assert strong["seed"] == strong["seed_asked"] and weak["seed"] == weak["seed_asked"]
    assert strong["gate"]["accuracy"] - 0.5 > 0.1 and 0.5 - weak["gate"]["accuracy"] > 0.1
