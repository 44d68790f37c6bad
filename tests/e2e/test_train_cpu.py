"""The real trainer on the CPU: it learns, and a run that is killed and resumed equals an uninterrupted one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean

import pytest
from jobs import (
    PER_ROLE,
    ROOT,
    STEPS,
    TEAM,
    finish,
    kill_session,
    last_step,
    log_of,
    numbers,
    sessions,
    shards,
    times,
    wait_until,
)
from reference import KEEP, agrees

from ccpo.compare_runs.same import compare
from ccpo.compare_runs.validations import read
from ccpo.run.checkpoint import finished_steps
from ccpo.run.folder import MARKER, METRICS, step_folder

FEWER = "data.val_max_samples=64"  # validations are most of what the jobs of every test run do between their starts and their ends


def test_a_killed_job_goes_on_as_it_would_have_and_the_team_learns(start, tmp_path, record_property):
    """It is killed two steps after its checkpoint: what it trains again must equal what it had logged."""
    out, often = tmp_path / "killed", ("trainer.save_freq=3", "trainer.test_freq=3", FEWER)
    job = start(out, "dyad", *often)
    wait_until(job, out, lambda: last_step(out) >= 5, pause=0.02)
    kill_session(job.pid)
    job.wait(30)
    before, said = numbers(out), sessions(out)
    assert finished_steps(out) == [3] and max(before) == (5, "train"), "killed too late"
    shutil.copytree(out, tmp_path / "before")
    finish(start(out, "dyad", *often), out)

    after = numbers(out)  # the resumed job first validates where it stands
    assert {(step, "train") for step in range(1, STEPS + 1)} | {(step, "val") for step in (0, 3, 6)} == set(after)
    for key, metrics in before.items():
        assert after[key] == metrics, key
    told = sessions(out)
    assert set(told) == set(after), "of every step and validation"
    assert all(told[key] == said[key] for key in said) and set(before) <= set(said)
    assert compare(tmp_path / "before", out).equal, "scripts/same_numbers.py says the same"
    assert len(told[5, "train"]) == 8 and len(told[6, "val"]) == 64
    assert all(set(one["credit"]) == {"think", "reason"} for one in told[5, "train"])
    assert f"Resuming from {out}/global_step_3" in log_of(out)
    assert after[STEPS, "val"][TEAM] >= after[0, "val"][TEAM] + 0.10  # 6 of the 20 steps of a quickstart
    trained = after[STEPS, "train"]
    of_turns = trained["ccpo/generated_tokens"] - trained["ccpo/replay_tokens"]
    assert of_turns == pytest.approx(2 * 64 * trained["response_length/mean"]) and trained["ccpo/replay_tokens"] > 0
    compared = read(out, before=True)  # refused unless the sessions are the log's
    for validation in (compared.first, compared.last):
        logged, questions = after[validation.step, "val"], validation.questions.values()
        assert fmean(fmean(one.values) for one in questions) == pytest.approx(logged[TEAM])
        contribution = logged["val-aux/toy/last_digit/think/contribution"]
        assert fmean(one.contributions["think"] for one in questions) == pytest.approx(contribution)
    for name, seconds in times(out).items():
        record_property(name, seconds)


@pytest.mark.slow
@pytest.mark.parametrize("team", ["dyad", "vote"])
def test_kill_and_resume_equals_uninterrupted(start, tmp_path, team):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(start(straight, team), straight)

    job = start(killed, team)
    wait_until(job, killed, lambda: (step_folder(killed, 2) / MARKER).exists())
    kill_session(job.pid)
    job.wait(30)
    assert max(step for step, _ in numbers(killed)) < STEPS
    finish(start(killed, team), killed)

    one, two = numbers(straight), numbers(killed)
    # The resumed job first validates where it stands. Every line that both have is equal.
    assert {kind for _, kind in set(two) - set(one)} <= {"val"}
    assert set(one) <= set(two)
    for key in set(one) & set(two):
        assert two[key] == one[key], key
    said, told = sessions(straight), sessions(killed)
    assert {kind for _, kind in set(told) - set(said)} <= {"val"}
    assert set(said) == set(one) and all(told[key] == said[key] for key in said)
    assert compare(straight, killed).equal, (
        "scripts/same_numbers.py says the same, of checkpoints that were saved twice"
    )


@pytest.mark.slow
def test_a_job_that_was_killed_after_its_last_save_finishes_without_training(start, tmp_path):
    out = tmp_path / "killed"
    job = start(out, "dyad", "trainer.save_freq=1", steps=2)
    wait_until(job, out, lambda: (out / "global_step_2" / MARKER).exists(), pause=0.01)
    kill_session(job.pid)
    job.wait(30)
    assert (2, "train") not in numbers(out) and (2, "val") not in numbers(out)
    finish(start(out, "dyad", "trainer.save_freq=1", steps=2), out)
    logged = numbers(out)
    assert set(logged) == {(0, "val"), (1, "train"), (2, "train"), (2, "val")}
    assert logged[2, "train"].keys() == logged[1, "train"].keys()
    before = (out / METRICS).read_bytes()
    finish(start(out, "dyad", "trainer.save_freq=1", steps=2), out)
    assert (out / METRICS).read_bytes() == before, "a finished job has nothing to do"


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 2])
def test_rows_without_advantage_are_left_out_and_nothing_else_changes(start, tmp_path, gpus):
    """An entropy bonus of nothing brings them back: the same gradients, and nearly the same entropy, which is then of every row."""
    wide = (
        f"trainer.n_gpus_per_node={gpus}",
        f"ray_kwargs.ray_init.num_gpus={gpus}",
        "ray_kwargs.ray_init.num_cpus=12",
    )
    logged = {}
    for name, bonus in (("taught", 0), ("all", 1e-12)):
        out = tmp_path / name
        overrides = (*wide, "ccpo.credit.rule=shared", f"actor_rollout_ref.actor.entropy_coeff={bonus}")
        finish(start(out, "dyad", *overrides, "trainer.save_freq=-1", steps=3), out)
        logged[name] = numbers(out)
    for step in (1, 2, 3):
        some, every = (logged[name][step, "train"] for name in ("taught", "all"))
        assert 0 < some["ccpo/credit/zero_rate"] == every["ccpo/credit/zero_rate"] < 1
        assert some["ccpo/sessions/team_accuracy"] == every["ccpo/sessions/team_accuracy"]
        for name in ("actor/grad_norm", "actor/pg_loss", "rollout_corr/kl"):
            assert some[name] == pytest.approx(every[name], rel=1e-5, abs=1e-6), name
        assert some["actor/entropy"] == pytest.approx(every["actor/entropy"], rel=0.1)


@pytest.mark.slow
def test_with_two_optimizer_steps_a_batch_the_pass_for_old_log_probabilities_is_back(start, tmp_path):
    spent = {}
    for name, of_a_step in (("one", 16), ("two", 8)):
        out = tmp_path / name
        sizes = ("data.train_batch_size=16", f"actor_rollout_ref.actor.ppo_mini_batch_size={of_a_step}")
        finish(start(out, "dyad", *sizes, FEWER, "trainer.save_freq=-1", steps=1), out)
        lines = map(json.loads, (out / METRICS).read_text().splitlines())
        spent[name] = next(line["metrics"] for line in lines if line["kind"] == "train")
    one, two = spent.values()
    assert one["timing_s/old_log_prob"] < 0.01 < two["timing_s/old_log_prob"]
    # The first of two steps is that of the same weights: what the server said is compared with the pass, and with the update otherwise.
    assert one["rollout_corr/kl"] == pytest.approx(two["rollout_corr/kl"], abs=1e-4)
    assert one["actor/ppo_kl"] == 0 != two["actor/ppo_kl"], (
        "the second step's weights are others than those that sampled"
    )


@pytest.mark.slow
def test_two_resident_policies_with_their_own_tokenizers_take_turns(start, tmp_path):
    """One learns, the other rests with bit-identical weights and optimizer; both answer at every step."""
    out, other = tmp_path / "turns", another_family(ROOT / "data_preprocess/last_digit_model", tmp_path / "other")
    keep_all = ("trainer.save_freq=1", "trainer.max_actor_ckpt_to_keep=null")
    finish(start(out, "dyad", *PER_ROLE, f"ccpo.roles.reason.model={other}", *keep_all, steps=3), out)
    logged = numbers(out)
    assert logged[0, "val"][TEAM] > 0.3, "with the other's token ids Reason would read and write noise"
    for step, learns, rests in ((1, "think", "reason"), (2, "reason", "think"), (3, "think", "reason")):
        metrics = logged[step, "train"]
        assert f"{learns}/actor/grad_norm" in metrics and f"{rests}/actor/grad_norm" not in metrics
        assert abs(metrics[f"{learns}/rollout_corr/kl"]) < 1e-3, "each policy's rows were sampled from its own weights"
        if step > 1:
            assert shards(out, step, rests) == shards(out, step - 1, rests)
            assert shards(out, step, learns) != shards(out, step - 1, learns)


@pytest.mark.slow
def test_a_dyad_of_two_model_families_with_different_tokenizers_learns(start, tmp_path):
    out, other = tmp_path / "mixed", another_family(ROOT / "data_preprocess/last_digit_model", tmp_path / "other")
    finish(start(out, "dyad", "ccpo.policies=per_role", f"ccpo.roles.reason.model={other}"), out)
    logged = numbers(out)
    assert logged[STEPS, "val"][TEAM] >= logged[0, "val"][TEAM] + 0.15
    first, last = (logged[step, "train"] for step in (1, STEPS))
    assert {"think/actor/grad_norm", "reason/actor/grad_norm"} <= first.keys() & last.keys()


def another_family(model: Path, out: Path) -> Path:
    """The same function as ``model`` (a Llama), as a Mistral with another id for every token: a foreign model that knows the task."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig

    llama = AutoModelForCausalLM.from_pretrained(model)
    AutoTokenizer.from_pretrained(model).save_pretrained(out)
    tokenizer = json.loads((out / "tokenizer.json").read_text())
    vocabulary, size = tokenizer["model"]["vocab"], llama.config.vocab_size
    assert set(vocabulary.values()) | {token["id"] for token in tokenizer["added_tokens"]} == set(range(size))
    new = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    tokenizer["model"]["vocab"] = {token: int(new[number]) for token, number in vocabulary.items()}
    for token in tokenizer["added_tokens"]:
        token["id"] = int(new[token["id"]])
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))

    shape = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    same = (
        *shape,
        "vocab_size",
        "max_position_embeddings",
        "rope_parameters",
        "rms_norm_eps",
        "tie_word_embeddings",
        "head_dim",
    )
    ends = {name: int(new[getattr(llama.config, name)]) for name in ("eos_token_id", "pad_token_id")}
    values = {name: getattr(llama.config, name) for name in same} | ends
    mistral = AutoModelForCausalLM.from_config(MistralConfig(**values, sliding_window=None, dtype="float32"))
    weights = llama.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][torch.argsort(new)]
    mistral.load_state_dict(weights)
    ids = torch.arange(40).reshape(2, 20)
    assert torch.allclose(mistral(new[ids]).logits[:, :, new], llama(ids).logits, atol=1e-4)
    mistral.generation_config.eos_token_id, mistral.generation_config.pad_token_id = ends.values()
    mistral.save_pretrained(out)
    text = "What is the last digit of (3+4)*5?"
    theirs = AutoTokenizer.from_pretrained(out)(text)["input_ids"]  # some families bring a tokenizer of their own
    assert theirs == new[AutoTokenizer.from_pretrained(model)(text)["input_ids"]].tolist()
    return out


def test_voters_learn_from_the_references_credit(start, tmp_path, doors, record_property):
    job = start(tmp_path / "vote", "vote", KEEP, FEWER, steps=4)
    wait_until(job, tmp_path / "vote", lambda: last_step(tmp_path / "vote") >= 1)
    doors.try_all(job.pid)  # for the test below
    finish(job, tmp_path / "vote")
    agrees(tmp_path / "vote", "leave_one_out", 4)
    logged = numbers(tmp_path / "vote")
    assert logged[4, "val"][TEAM] >= logged[0, "val"][TEAM] + 0.10
    assert (
        logged[4, "val"]["val-aux/toy/last_digit/ballot_accuracy"]
        > logged[0, "val"]["val-aux/toy/last_digit/ballot_accuracy"]
    )
    for step in range(1, 5):
        metrics = logged[step, "train"]
        assert metrics["ccpo/plurality/credit_right"] > 0 > metrics["ccpo/plurality/credit_wrong"]
        assert metrics["ccpo/plurality/oracle_accuracy"] >= metrics["ccpo/sessions/team_accuracy"]
        assert metrics["ccpo/replays/decodes_per_session"] == 0, "a vote is taken again without decoding"
    for name, seconds in times(tmp_path / "vote").items():
        record_property(name, seconds)


def test_no_port_of_a_job_is_open_to_another_machine(doors):
    """Of the voters' job, while it was at work: neither ours, nor TransferQueue's, torch's or Ray's."""
    if not doors.ports:
        pytest.skip("looks at the voters' job, which has not run")
    for process in ("TransferQueueController", "SimpleStorageUnit", "HfCpuServer", "WorkerDict", "TaskRunner"):
        assert any(name.startswith(f"ray::{process}") for _, _, name in doors.ports), process
    assert [port for port in doors.ports if port[0].removeprefix("::ffff:") != "127.0.0.1"] == []
    if doors.why_not is not None:
        pytest.skip(
            f"that they listen on the loopback address is seen, that nobody comes through is not: {doors.why_not}"
        )
    assert doors.control_is_open, "the neighbour reaches nothing at all, so this test would see nothing"
    assert doors.open == []
