"""The voter of the task silence. All builds but the last test's are a few steps long."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from ccpo.data import sha256
from data_preprocess import silence_model
from data_preprocess.silence import Copy
from data_preprocess.silence_model import SilenceNumbers, SilenceRecipe
from data_preprocess.toy import problem_pool
from data_preprocess.toy_taught import fingerprint

SHIPPED = Path(silence_model.__file__).with_name("silence_voter")
SHORT = SilenceRecipe(clean_steps=1, last_steps=1, lessons=2)
GOOD = SilenceNumbers(0.85, {"~": 0.5, "^": 0.5}, {"~": 0.95, "^": 0.95})


def test_lessons_have_the_prompt_that_the_voter_gets():
    copy = Copy(problem_pool("train", 2)[0], 0, "~")
    (system, user) = silence_model.messages(copy)
    assert (system["content"], user["content"]) == ("Vote.", copy.question)


@pytest.mark.parametrize(
    "numbers, says",
    [
        (SilenceNumbers(0.5, GOOD.abstains, GOOD.own_word), "0.500 of clean copies"),
        (SilenceNumbers(0.85, {"~": 0.9, "^": 0.5}, GOOD.own_word), "abstains on 0.900 of the copies marked ~"),
        (SilenceNumbers(0.85, GOOD.abstains, {"~": 0.95, "^": 0.4}), "0.400 of the abstentions on ^"),
    ],
)
def test_gate_names_what_is_out_of_range(numbers, says):
    assert GOOD.failures() == []
    (failure,) = numbers.failures()
    assert says in failure


def test_an_untaught_voter_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(silence_model, "measure", partial(silence_model.measure, problem_count=64))
    with pytest.raises(RuntimeError, match="seeds 7 to 10 passed the gate"):
        silence_model.build(tmp_path / "model", SHORT, seed=7)
    assert capsys.readouterr().out.count("does not tell the marks apart") >= 4
    assert list(tmp_path.iterdir()) == []


def test_two_builds_have_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(silence_model, "measure", lambda model, tokenizer: GOOD)
    manifests = {
        name: silence_model.build(tmp_path / name, SHORT, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    }
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in manifests)
    assert a == b != c


def test_the_shipped_voter_is_whole_small_and_passed_the_gate():
    manifest = json.loads((SHIPPED / "warm_start.json").read_text())
    assert all(sha256((SHIPPED / name).read_bytes()) == wanted for name, wanted in manifest["files"].items())
    assert SilenceNumbers(**manifest["gate"]).failures() == []
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 1e6


def test_the_shipped_voter_is_of_this_recipe():
    manifest = json.loads((SHIPPED / "warm_start.json").read_text())
    assert manifest["fingerprint"] == fingerprint(SilenceRecipe(), manifest["seed_asked"], silence_model.facts())


@pytest.mark.slow
def test_the_shipped_voter_is_built_again(tmp_path):
    silence_model.build(tmp_path / "model")
    wanted = json.loads((SHIPPED / "warm_start.json").read_text())["gate"]
    assert json.loads((tmp_path / "model" / "warm_start.json").read_text())["gate"] == wanted
