"""The rule likelihood in the real trainer: likelihoods of reference answers come from a forward pass of the actor, and nothing is decoded."""

from __future__ import annotations

import json

import pytest
from jobs import STEPS, TEAM, finish, kill_session, numbers, sessions, times, wait_until

from ccpo.run.folder import MARKER, METRICS, step_folder
from ccpo.run.run_log import read_run_log

RULE = "ccpo.credit.rule=likelihood"


@pytest.mark.slow
def test_a_dyad_learns_and_a_killed_job_goes_on_as_it_would_have(start, tmp_path, record_property):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(start(straight, "dyad", RULE), straight)
    job = start(killed, "dyad", RULE)
    wait_until(job, killed, lambda: (step_folder(killed, 2) / MARKER).exists())
    kill_session(job.pid)
    job.wait(30)
    assert max(step for step, _ in numbers(killed)) < STEPS
    finish(start(killed, "dyad", RULE), killed)
    one, two = numbers(straight), numbers(killed)
    assert set(one) <= set(two) and all(two[key] == one[key] for key in one)
    assert {key: sessions(killed)[key] for key in one} == sessions(straight)

    assert one[STEPS, "val"][TEAM] >= one[0, "val"][TEAM] + 0.10
    for step in range(1, STEPS + 1):
        metrics = one[step, "train"]
        assert metrics["ccpo/replays/decodes_per_session"] == 0
        assert 0 < metrics["ccpo/credit/likelihood_alone"] < 1 and 0 < metrics["ccpo/credit/likelihood_heard"] < 1
        assert abs(metrics["ccpo/credit/likelihood_gap"]) < 0.25, (
            "Reason answers at once and in one spelling: R - v has mean 0"
        )
        for kept in sessions(straight)[step, "train"]:
            alone, heard = kept["likelihood"]["before"]
            assert kept["credit"]["think"] == pytest.approx(heard - alone)
            assert kept["credit"]["reason"] == pytest.approx(kept["value"] - heard)
            assert kept["likelihood"]["behind"] is None
    assert any(
        metrics["ccpo/think/others_coefficient"] for metrics in (one[step, "train"] for step in range(2, STEPS + 1))
    )
    timed = [line["metrics"] for line in read_run_log(straight / METRICS) if line["kind"] == "train"]
    assert all(0 < found["timing_s/likelihood"] < found["timing_s/adv"] for found in timed)
    for name, seconds in times(straight).items():
        record_property(name, seconds)


@pytest.mark.slow
def test_the_last_speaker_may_be_trained_on_the_reference_itself(start, tmp_path):
    out, folder = tmp_path / "exact", tmp_path / "said"
    options = ("ccpo.credit.last_gradient=exact", f"trainer.rollout_data_dir={folder}", "trainer.save_freq=-1")
    finish(start(out, "dyad", RULE, *options, steps=4), out)
    logged = numbers(out)
    assert logged[4, "val"][TEAM] >= logged[0, "val"][TEAM] + 0.10
    assert logged[4, "train"]["actor/grad_norm"] > 0
    outputs = [json.loads(line)["output"] for line in (folder / "1.jsonl").read_text().splitlines()]
    boxed = [text for text in outputs if text.startswith("\\boxed{")]
    assert len(boxed) >= 64, "every answer of Reason that was trained"
    said = [kept["turns"][1]["text"] == f"\\boxed{{{kept['truth']}}}" for kept in sessions(out)[1, "train"]]
    assert not all(said), "it said other things, too"


@pytest.mark.slow
def test_the_last_speakers_own_policy_scores_and_a_leaky_slope_trains(start, tmp_path):
    out, model = tmp_path / "two", "ccpo.policies=per_role"
    finish(start(out, "dyad", RULE, model, "ccpo.credit.negative_slope=0.25", "trainer.save_freq=-1", steps=2), out)
    for step in (1, 2):
        metrics = numbers(out)[step, "train"]
        assert metrics["think/actor/grad_norm"] > 0 < metrics["reason/actor/grad_norm"]
        assert abs(metrics["ccpo/credit/likelihood_gap"]) < 0.25


@pytest.mark.slow
def test_the_answer_is_scored_behind_the_chain_that_was_said(start, tmp_path):
    """What is kept of a turn is what was sampled up to its box: with the embedded model, which answers at once, that alone."""
    out = tmp_path / "chain"
    finish(start(out, "dyad", RULE, "ccpo.credit.reference_after=chain", "trainer.save_freq=-1", steps=6), out)
    logged = numbers(out)
    assert logged[6, "val"][TEAM] >= logged[0, "val"][TEAM] + 0.10
    for step in range(1, 7):
        metrics = logged[step, "train"]
        assert metrics["ccpo/replays/decodes_per_session"] == 0 and metrics["actor/grad_norm"] > 0
        assert metrics["ccpo/credit/fallback_rate"] < 0.2 and abs(metrics["ccpo/credit/likelihood_gap"]) < 0.2
        for kept in sessions(out)[step, "train"]:
            behind, answer = kept["likelihood"]["behind"], kept["likelihood"]["answer_advantage"]
            assert (behind is None) == (answer is None) and (behind is None or "\\boxed{" in kept["turns"][1]["text"])
    assert logged[1, "train"]["ccpo/credit/answer_coefficient"] == 1
    right = [kept for kept in sessions(out)[1, "train"] if kept["turns"][1]["text"] == f"\\boxed{{{kept['truth']}}}"]
    for kept in right:
        assert kept["credit"]["think"] == pytest.approx(kept["likelihood"]["behind"]), "R is 1, and it was said so"
    assert right
