"""The embedded model: tokenizer, gate and model folder. All recipes but the last test's are a few steps long."""

from __future__ import annotations

import dataclasses
import json
import random
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_preprocess import toy_model
from data_preprocess.toy import boxed, draw_problems, problem_pool, thought_text
from data_preprocess.toy_lessons import (
    CLEAN,
    CLEAN_MIX,
    DYAD,
    NOT_SURE,
    Lesson,
    draw_lesson,
    reason_messages,
    think_messages,
    vote_messages,
)

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SHORT = toy_model.Recipe(drill_steps=3, drill_batch=4, clean_steps=2, corrupt_steps=1, role_batch=4)
PASSING = toy_model.GateNumbers(joint=0.43, solo=0.37, perfect_thought=0.8, vote=0.43, good_thoughts=0.42)


@pytest.fixture(scope="module")
def tokenizer():
    return toy_model.build_tokenizer()


@pytest.fixture
def every_model_passes(monkeypatch):
    monkeypatch.setattr(toy_model, "measure", lambda model, tokenizer: PASSING)


@pytest.mark.parametrize("text", ["(3+4)*5?\nThought: 3+4=7", "\\boxed{5}", "Grüße, 你好 \t 🙂\n\n", "  two  spaces  "])
def test_any_text_round_trips(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["\n", *SPECIAL_TOKENS, "\\boxed{", *"0123456789+*=()}"])
def test_structural_texts_are_single_tokens(tokenizer, text):
    assert len(tokenizer(text)["input_ids"]) == 1


def test_special_tokens(tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("<|im_end|>5")["input_ids"], skip_special_tokens=True) == "5"


def test_chat_template_is_chatml(tokenizer):
    messages = DYAD.messages("reason", {"question": "Q?", "thought": "3+4=7"})
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nAnswer.<|im_end|>\n<|im_start|>user\nQ?\nThought: 3+4=7<|im_end|>\n<|im_start|>assistant\n"
    )


def test_prompts_and_replies_fit(tokenizer):
    for problem in problem_pool("test", 2)[::20]:
        thought = thought_text(problem)
        for messages in (think_messages(problem), reason_messages(problem, thought), vote_messages(problem)):
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            assert len(prompt) < 64
        answer = boxed(problem.answer)
        for reply, room in (
            (thought, toy_model.THOUGHT_TOKENS),
            (NOT_SURE, toy_model.THOUGHT_TOKENS),
            (answer, toy_model.ANSWER_TOKENS),
            (f"{thought}, {answer}", toy_model.VOTE_TOKENS),
        ):
            assert len(tokenizer(reply + "<|im_end|>")["input_ids"]) <= room
        assert len(tokenizer(f"{thought}, {answer}")["input_ids"]) > toy_model.ANSWER_TOKENS, "no room to think"


def test_only_replies_and_results_are_learned(tokenizer):
    encoder = toy_model.Encoder(tokenizer)
    problem = problem_pool("train", 2)[0]
    lessons = [Lesson(reason_messages(problem, "3+4=7"), "\\boxed{5}"), Lesson(think_messages(problem), "Not sure.")]
    (batch,) = encoder.lessons(lessons, batch_size=2)
    learned = [tokenizer.decode(labels[labels >= 0]) for labels in batch.labels]
    assert learned == ["\\boxed{5}<|im_end|>", "Not sure.<|im_end|>"]
    facts = encoder.facts(["3+4=7, 6*5=0"])
    assert tokenizer.decode(facts.labels[facts.labels >= 0]) == "70"


def test_padding_does_not_change_the_loss(tokenizer):
    """The training step gives no attention mask; a longer neighbour must not matter."""
    encoder, rng = toy_model.Encoder(tokenizer), random.Random(0)
    lessons = [draw_lesson(problem, CLEAN_MIX, CLEAN, rng) for problem in draw_problems("train", 8, rng)]
    torch.manual_seed(0)
    model = toy_model.new_model(tokenizer, SHORT)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def loss_and_tokens(batch):
        loss = toy_model.train_step(model, optimizer, batch, SHORT, lr=0.0)
        tokens = int((batch.labels >= 0).sum())
        return loss * tokens, tokens

    with toy_model.one_seeded_thread(seed=0):
        together = loss_and_tokens(encoder.lessons(lessons, batch_size=8)[0])
        alone = [loss_and_tokens(batch) for batch in encoder.lessons(lessons, batch_size=1)]
    assert together[1] == sum(tokens for _, tokens in alone)
    assert together[0] == pytest.approx(sum(loss for loss, _ in alone), rel=1e-5)


def test_gate_names_every_failure():
    assert PASSING.failures() == []
    assert "perfect thoughts" in dataclasses.replace(PASSING, perfect_thought=0.69).failures()[0]
    assert "0.250" in dataclasses.replace(PASSING, joint=0.25).failures()[0]
    assert "0.610" in dataclasses.replace(PASSING, joint=0.61).failures()[0]


def test_untrained_models_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toy_model, "measure", partial(toy_model.measure, problem_count=32))
    with pytest.raises(RuntimeError, match="seeds 7 to 10 passed the gate"):
        toy_model.build(tmp_path / "model", seed=7, recipe=SHORT)
    assert capsys.readouterr().out.count("failed the gate") == 4
    assert list(tmp_path.iterdir()) == []


def test_next_seed_replaces_one_that_fails(tmp_path, monkeypatch):
    numbers = iter([dataclasses.replace(PASSING, perfect_thought=0.1), PASSING])
    monkeypatch.setattr(toy_model, "measure", lambda model, tokenizer: next(numbers))
    manifest = toy_model.build(tmp_path / "model", seed=3, recipe=SHORT)
    assert (manifest["seed_asked"], manifest["seed"]) == (3, 4)


def test_two_builds_have_the_same_bits(tmp_path, every_model_passes):
    for name in ("a", "b"):
        torch.rand(3)  # the caller's random state must not matter
        toy_model.build(tmp_path / name, seed=1, recipe=SHORT)
    toy_model.build(tmp_path / "other", seed=2, recipe=SHORT)
    for file in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "other")]
    assert weights[0] != weights[1]


def test_folder_loads_like_any_model(tmp_path, tokenizer, every_model_passes):
    manifest = toy_model.build(tmp_path / "model", seed=1, recipe=SHORT)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model")
    trained = toy_model.warm_start(tokenizer, SHORT, seed=1)
    messages = think_messages(problem_pool("test", 2)[0])
    ids = loaded.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    assert ids.tolist()[0] == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert torch.equal(model(ids).logits, trained(ids).logits)
    assert model.dtype == torch.float32
    assert (loaded.pad_token_id, loaded.eos_token_id) == (model.config.pad_token_id, model.config.eos_token_id)
    assert manifest["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert manifest == json.loads((tmp_path / "model" / "warm_start.json").read_text())


def test_complete_folder_is_left_alone(tmp_path, every_model_passes, capsys):
    out = tmp_path / "model"
    first = toy_model.build(out, seed=1, recipe=SHORT)
    written = (out / "model.safetensors").stat().st_mtime_ns
    assert toy_model.build(out, seed=1, recipe=SHORT) == first
    assert (out / "model.safetensors").stat().st_mtime_ns == written
    assert "is complete" in capsys.readouterr().out


def test_incomplete_folder_and_another_recipe_are_rebuilt(tmp_path, every_model_passes):
    out = tmp_path / "model"
    out.mkdir()
    first = toy_model.build(out, seed=1, recipe=SHORT)
    (out / "model.safetensors").unlink()
    toy_model.build(out, seed=1, recipe=SHORT)
    assert (out / "model.safetensors").exists()
    second = toy_model.build(out, seed=1, recipe=dataclasses.replace(SHORT, clean_steps=3))
    assert second["fingerprint"] != first["fingerprint"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_damaged_file_is_made_anew_and_other_peoples_files_stay(tmp_path, every_model_passes):
    out = tmp_path / "model"
    first = toy_model.build(out, seed=1, recipe=SHORT)
    good = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(good[:-4] + b"\0\1\2\3")
    assert toy_model.build(out, seed=1, recipe=SHORT)["files"] == first["files"]
    assert (out / "model.safetensors").read_bytes() == good
    (out / "notes.txt").write_text("mine")
    assert toy_model.build(out, seed=1, recipe=SHORT)["files"] == first["files"], "nothing is to be done"
    (out / "config.json").unlink()
    with pytest.raises(ValueError, match="also holds notes.txt"):
        toy_model.build(out, seed=1, recipe=SHORT)
    assert (out / "notes.txt").read_text() == "mine"
    (out / "warm_start.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        toy_model.build(out, seed=1, recipe=SHORT)


def test_other_folders_are_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not ours to replace"):
        toy_model.build(tmp_path, recipe=SHORT)
    assert (tmp_path / "notes.txt").exists()


def test_the_shipped_model_is_the_default_build_and_passes_the_gate():
    folder = Path(toy_model.__file__).with_name("last_digit_model")
    written = json.loads((folder / "warm_start.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    numbers = toy_model.measure(model, AutoTokenizer.from_pretrained(folder))
    assert not numbers.failures()
    assert numbers.joint == pytest.approx(written["gate"]["joint"], abs=0.02)  # another torch may round another way
    assert numbers.solo == pytest.approx(written["gate"]["solo"], abs=0.02)


def test_the_shipped_model_was_taught_these_prompts_and_lessons(monkeypatch):
    """A changed prompt or recipe needs a new model: the command would build another one in its place."""
    written = json.loads((Path(toy_model.__file__).with_name("last_digit_model") / "warm_start.json").read_text())
    monkeypatch.setattr(torch, "__version__", written["torch"])
    assert toy_model._fingerprint(toy_model.Recipe(), written["seed_asked"]) == written["fingerprint"]


@pytest.mark.slow
def test_default_build_passes_the_gate_with_its_first_seed(tmp_path):
    manifest = toy_model.build(tmp_path / "model")
    assert manifest["seed"] == manifest["seed_asked"]
    assert manifest["gate"]["solo"] < manifest["gate"]["joint"] < manifest["gate"]["perfect_thought"]
