"""An update without an old_log_prob pass: the same weights, and the comparison with the rollout server before the optimizer steps."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("verl")

from ccpo.verl_plugin.update import (  # noqa: E402
    MAX_ROLLOUT_KL,
    Whole,
    needed,
    odd_gaps,
    own_ratio,
    silent_rows_add_nothing,
)

ALONE = Path(__file__).with_name("worker_alone.py")


LOSSES = ("token_mean", "paper_v1")


@pytest.fixture(scope="module")
def updates(in_cpu_fork):
    done = in_cpu_fork([ALONE, *LOSSES], ALONE.parent)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[-1].removeprefix("RESULT "))


@pytest.fixture(params=LOSSES)
def found(request, updates):
    return updates[request.param]


def test_the_update_is_the_one_with_the_pass(found):
    assert found["moved"] > 1e-4
    assert found["apart"] < 1e-6
    assert found["without"]["grad_norm"] == pytest.approx(found["with_pass"]["grad_norm"], rel=1e-5)
    assert found["without"]["actor/pg_loss"] == pytest.approx(found["with_pass"]["actor/pg_loss"], rel=1e-4, abs=1e-6)


def test_the_distance_to_the_server_is_measured_in_the_update(found):
    assert found["without"]["rollout_kl"] == pytest.approx(0.25, abs=1e-4)
    assert found["asked_half"]["rollout_kl"] == pytest.approx(0.5, abs=1e-4)  # of the tokens that were asked for
    assert "rollout_kl" not in found["with_pass"] and "rollout_kl" not in found["not_compared"]


@pytest.mark.parametrize("case", ["far", "nan"])
def test_rows_of_other_weights_move_nothing(found, case):
    kl = float(found["refused"][case]["kl"])
    assert kl > MAX_ROLLOUT_KL or math.isnan(kl)
    assert found["refused"][case]["moved"] == 0


def test_entropy_is_a_metric_all_the_same(found):
    assert (
        0 < found["without"]["actor/entropy_loss"] == pytest.approx(found["with_pass"]["actor/entropy_loss"], rel=1e-5)
    )


def test_rows_without_advantage_need_not_be_there(found):
    """The same gradient and step, and the same metrics: silent rows that are there stand for all of them."""
    silent = found["silent"]
    assert silent["kept"] == list("01234")  # two that teach, two that are looked at, and one more to make five
    assert silent["moved"] > 1e-4 and silent["apart"] < 1e-6
    for name in ("grad_norm", "actor/pg_loss", "actor/entropy_loss"):
        assert silent["some"][name] == pytest.approx(silent["all"][name], rel=1e-4, abs=1e-6), name


def test_the_rows_that_an_update_needs():
    keys = [f"{prompt}_{session}" for prompt in "abc" for session in range(4)]
    silent = {key for key in keys if not key.startswith("b")}
    first = {key for key in keys if key.endswith("_0")}
    assert needed(keys, silent, first, 2) == ["a_0", "b_0", "b_1", "b_2", "b_3", "c_0"]
    assert needed(keys, silent, first, 4) == ["a_0", "a_1", "a_2", "b_0", "b_1", "b_2", "b_3", "c_0"]
    assert needed(keys, set(), set(), 4) == keys
    assert needed(keys, set(keys), set(), 4) == keys[:4], "an optimizer's step is one, with a gradient or without"
    assert needed(keys, set(keys), first, 3) == ["a_0", "b_0", "c_0"]


def test_what_the_update_divides_by():
    rows = 6, {"a": 3, "b": 5, "c": 2, "d": 4}, {"b", "c", "d", "padding"}, ["a", "c", "padding"]
    assert Whole.of(*rows, "token-mean") == Whole(rows=6, tokens=14, per_silent_row=5.5)
    assert Whole.of(*rows, "seq-mean-token-mean") == Whole(rows=6, tokens=14, per_silent_row=3.0)
    assert Whole.of(2, {"a": 3}, {"padding"}, ["a", "padding"], "token-mean").per_silent_row == 1.0


def test_rows_are_left_out_where_nothing_but_the_advantage_gives_a_gradient(compose):
    def alone(*overrides):
        return silent_rows_add_nothing(compose(*overrides).actor_rollout_ref.actor)

    actor = "actor_rollout_ref.actor"
    assert alone() and alone("loss=paper_v1") and alone(f"{actor}.loss_agg_mode=seq-mean-token-sum")
    for override in (
        "entropy_coeff=1e-3",
        "use_kl_loss=true",
        "policy_loss.loss_mode=clip_cov",
        "loss_agg_mode=seq-mean-token-sum-norm",
        "use_dynamic_bsz=false",  # whose micro-batches want a number of rows that they divide
    ):
        assert not alone(f"{actor}.{override}"), override


def test_the_default_needs_no_pass(compose):
    assert own_ratio(compose()) and own_ratio(compose(name="ccpo_vote")) and own_ratio(compose("loss=paper_v1"))


@pytest.mark.parametrize(
    "override",
    [
        "actor_rollout_ref.actor.ppo_mini_batch_size=32",
        "actor_rollout_ref.actor.ppo_epochs=2",
        "algorithm.use_kl_in_reward=true",
        "algorithm.rollout_correction.rollout_is=token",
        "algorithm.rollout_correction.rollout_rs=token",
        "algorithm.rollout_correction.bypass_mode=true",
        "actor_rollout_ref.actor.policy_loss.loss_mode=bypass_mode",
        "distillation.enabled=true",
    ],
)
def test_what_reads_old_log_probabilities_brings_the_pass_back(compose, override):
    assert not own_ratio(compose("data.train_batch_size=64", override))


def test_a_distance_that_rounding_does_not_explain_gets_a_line():
    [line] = odd_gaps({"rollout_corr/kl": -0.002, "think/rollout_corr/kl": 0.46, "ccpo/x": 3.0}, 7)
    assert line.startswith("step 7: think/rollout_corr/kl is 0.46 nats per token")
    assert list(odd_gaps({"rollout_corr/kl": -0.46}, 7)), "the server reports others than it samples by"
