"""What is wrong with the published credit rules, as numbers. Each claim of ``docs/method.md`` is one test here."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ccpo.config import CcpoConfig, ConfigError, CreditConfig
from ccpo.credit.advantage import compute_advantages
from ccpo.credit.history import HistoryState
from ccpo.credit.shared import group_normalize
from ccpo.types import REASON, SOLO, THINK, CreditTable


def _config(rule: str, **credit) -> CcpoConfig:
    return CcpoConfig(credit=CreditConfig(rule, **credit))


def _table(joint_GS: np.ndarray, solo_GS: np.ndarray) -> CreditTable:
    """Sessions x prompts of joint rewards; solo may have fewer columns."""
    rows = []
    for group, (joint, solo) in enumerate(zip(joint_GS, solo_GS, strict=True)):
        for session, reward in enumerate(joint):
            rows += [(group, session, THINK, reward), (group, session, REASON, reward)]
        rows += [(group, session, SOLO, reward) for session, reward in enumerate(solo)]
    return CreditTable.from_rows(rows)


def _advantages(table: CreditTable, config: CcpoConfig, role: str, state: HistoryState | None = None) -> np.ndarray:
    return compute_advantages(table, config, state or HistoryState()).advantage_R[table.rows_of(role)]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _step(rng: np.random.Generator, prompts: int, n: int, edge: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Joint accuracy uniform in [edge, 1 - edge]; Reason alone is right 0.8 times as often."""
    accuracy_G1 = rng.uniform(edge, 1 - edge, size=(prompts, 1))
    return (rng.random((prompts, n)) < accuracy_G1).astype(float), (
        rng.random((prompts, n)) < 0.8 * accuracy_G1
    ).astype(float)


# ----------------------------------------------------------------------------------------------- 1. event_v2 is a no-op


def test_event_v2_is_the_shared_advantage_times_a_constant():
    """All 0/1 tables of four sessions: b != 0 gives exactly 1.1, b = 0 exactly 1.0."""
    seen = set()
    for joint in itertools.product((0.0, 1.0), repeat=4):
        for solo in itertools.product((0.0, 1.0), repeat=4):
            advantage = _advantages(_table(np.array([joint]), np.array([solo])), _config("event_v2"), THINK)
            signed = 2 * np.array(joint) - 1
            factor = 1.0 if sum(solo) == 2 else 1.1
            np.testing.assert_allclose(advantage, factor * (signed - signed.mean()), atol=1e-12)
            seen.add(factor)
    assert seen == {1.0, 1.1}


def test_event_v2_and_grpo_point_the_same_way_in_every_group():
    """Over a batch the cosine is below 1, but only because event_v2 does not divide by the group's deviation."""
    table = _table(*_step(np.random.default_rng(0), prompts=200, n=8))
    event, shared = (_advantages(table, _config(rule), THINK) for rule in ("event_v2", "shared"))
    assert 0.97 < _cosine(event, shared) < 0.999
    by_group = [_cosine(e, s) for e, s in zip(event.reshape(200, 8), shared.reshape(200, 8), strict=True) if s.any()]
    assert len(by_group) > 100
    np.testing.assert_allclose(by_group, 1.0, atol=1e-12)


def test_event_v2_leaves_reason_the_shared_advantage():
    joint, solo = _step(np.random.default_rng(0), prompts=20, n=4)
    signed = 2 * joint - 1
    advantage = _advantages(_table(joint, solo), _config("event_v2"), REASON).reshape(20, 4)
    np.testing.assert_allclose(advantage, signed - signed.mean(axis=1, keepdims=True), atol=1e-12)


# ----------------------------------------------------------------------------------------------- 2. paper_v1 adds noise


@pytest.mark.parametrize("edge, low, high", [(0.0, 0.62, 0.70), (0.2, 0.65, 0.74)])
def test_paper_v1_think_credit_is_a_noisy_shared_credit(edge: float, low: float, high: float):
    """64 prompts x 4 sessions, 20 steps: cosine of Think's advantage with the shared one over all rows."""
    rng, state = np.random.default_rng(1), HistoryState()
    paper, shared = [], []
    for _ in range(20):
        table = _table(*_step(rng, prompts=64, n=4, edge=edge))
        result = compute_advantages(table, _config("paper_v1"), state)
        state = result.state
        paper.append(result.advantage_R[table.rows_of(THINK)])
        shared.append(_advantages(table, _config("shared"), THINK))
    assert low < _cosine(np.concatenate(paper), np.concatenate(shared)) < high


def test_paper_v1_credits_groups_that_say_nothing():
    """All joint rewards equal: shared credit is 0, paper_v1's is of the same size as anywhere else, and pure noise."""
    joint, solo = np.ones((2, 4)), np.array([[0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    table = _table(joint, solo)
    assert not _advantages(table, _config("shared"), THINK).any()
    advantage = _advantages(table, _config("paper_v1"), THINK).reshape(2, 4)
    z = math.sqrt(3) / 2  # deviations +-a of four values: a / sqrt(4 a^2 / 3)
    np.testing.assert_allclose(advantage[0], [z, -z, z, -z], atol=1e-5)
    np.testing.assert_allclose(advantage[1], 0, atol=1e-9)


def test_paper_v1_puts_the_solo_answer_on_the_joint_answers_tokens():
    """After the first batch r_reason moves with R_solo,k although R_joint,k is the same in every session."""
    config, state = _config("paper_v1"), HistoryState()
    state = compute_advantages(_table(*_step(np.random.default_rng(2), 16, 4)), config, state).state
    advantage = _advantages(_table(np.ones((1, 4)), np.array([[1.0, 0.0, 0.0, 0.0]])), config, REASON, state)
    np.testing.assert_allclose(advantage, [1.5, -0.5, -0.5, -0.5], atol=1e-4)


# ------------------------------------------------------------------------- 4. what the group's centring takes out again


def test_affine_normalization_before_the_group_changes_nothing():
    """GRPO of (v - mu) / sigma is GRPO of v, up to the 1e-6 beside the standard deviation."""
    rng = np.random.default_rng(3)
    values, keys = rng.normal(size=40), list(np.repeat(np.arange(10), 4))
    for mu, sigma in ((0.3, 0.2), (-5.0, 7.0)):
        np.testing.assert_allclose(
            group_normalize((values - mu) / sigma, keys), group_normalize(values, keys), atol=1e-4
        )


def test_counterfactual_in_a_group_equals_shared_and_is_refused():
    """b is one number per group: the group's mean takes it out, whatever the coefficient."""
    table = _table(*_step(np.random.default_rng(4), prompts=30, n=4))
    shared = compute_advantages(table, _config("shared"), HistoryState()).advantage_R
    for coefficient in (0.3, 1.0):
        group = compute_advantages(
            table, _config("counterfactual", normalize="group", coefficient=coefficient), HistoryState()
        )
        np.testing.assert_allclose(group.advantage_R, shared, atol=1e-9)
        both = compute_advantages(
            table, _config("counterfactual", normalize="history+group", coefficient=coefficient), HistoryState()
        )
        np.testing.assert_allclose(both.advantage_R, shared, atol=1e-4)
    for normalize in ("group", "history+group"):
        with pytest.raises(ConfigError, match="equals the shared reward.*one constant inside"):
            CcpoConfig.from_dict({"credit": {"rule": "counterfactual", "normalize": normalize}}, n=4)


# ---------------------------------------------------------------------------------------------- what our baseline keeps


@pytest.mark.parametrize("k_solo", [1, 2, 3])
@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_a_baseline_that_ignores_the_thought_is_unbiased(beta: float, k_solo: int):
    """Two thoughts, every outcome enumerated: E[dlog pi (R - mu - beta (b - mu_b))] is the exact gradient of E[R].

    A baseline that sees the thought's own outcome is the counter-example: it is biased.
    """
    p_think = 1 / (1 + math.exp(-0.4))  # policy: P(thought 1) = sigmoid(theta), theta = 0.4
    right = {1: 0.7, 0: 0.3}  # P(R_joint = 1 | thought)
    p_solo, mu, mu_b = 0.45, 0.61, 0.2  # mu_b need not be E[b]
    true_gradient = p_think * (1 - p_think) * (right[1] - right[0])

    def expected_gradient(credit) -> float:
        total = 0.0
        for thought, joint, *solo in itertools.product((0, 1), repeat=2 + k_solo):
            p = (p_think if thought else 1 - p_think) * (right[thought] if joint else 1 - right[thought])
            p *= math.prod(p_solo if s else 1 - p_solo for s in solo)
            total += p * (thought - p_think) * credit(joint, sum(solo) / k_solo)
        return total

    assert expected_gradient(lambda joint, b: joint - mu) == pytest.approx(true_gradient, abs=1e-12)
    assert expected_gradient(lambda joint, b: joint - mu - beta * (b - mu_b)) == pytest.approx(true_gradient, abs=1e-12)
    assert abs(expected_gradient(lambda joint, b: joint - mu - beta * (joint * b - mu_b)) - true_gradient) > 1e-3


def _residual_variance(spread: float, beta: float, k_solo: int) -> float:
    """Var(R_joint - beta b), exact: two equally likely prompts of accuracy 1/2 +- spread, solo as accurate as joint."""
    total = square = 0.0
    for accuracy in (0.5 - spread, 0.5 + spread):
        for joint, *solo in itertools.product((0, 1), repeat=1 + k_solo):
            p = 0.5 * math.prod(accuracy if outcome else 1 - accuracy for outcome in (joint, *solo))
            value = joint - beta * sum(solo) / k_solo
            total, square = total + p * value, square + p * value**2
    return square - total**2


@pytest.mark.parametrize(
    "spread, k_solo, noisier", [(0.15, 1, True), (0.15, 2, True), (0.3, 1, True), (0.3, 2, False), (0.3, 4, False)]
)
def test_the_plain_difference_is_noisier_than_no_baseline_when_prompts_are_alike(
    spread: float, k_solo: int, noisier: bool
):
    """Var(R - b) = (1 + 1/k) E[p (1 - p)], Var(R) = Var(p) + E[p (1 - p)]: noisier where k < E[p (1 - p)] / Var(p).

    The best coefficient, Var(p) / (Var(p) + E[p (1 - p)] / k), is never noisier.
    """
    between, within = spread**2, 0.25 - spread**2
    best = between / (between + within / k_solo)
    none, plain, fitted = (_residual_variance(spread, beta, k_solo) for beta in (0.0, 1.0, best))
    assert none == pytest.approx(0.25)
    assert plain == pytest.approx(within * (1 + 1 / k_solo))
    assert fitted == pytest.approx(0.25 - between * best)
    assert (plain > none) is noisier
    assert fitted < min(none, plain)


def test_easy_prompts_give_think_less_credit():
    """Two prompts solved in every session, one of them by Reason alone too: it must earn Think less."""
    state, config = HistoryState(), _config("counterfactual", coefficient=1.0, k_solo=4)
    state = compute_advantages(_table(*_step(np.random.default_rng(5), 32, 4)), config, state).state
    easy, needed = (
        _advantages(_table(np.ones((2, 4)), np.array([[1.0] * 4, [0.0] * 4])), config, THINK, state)
        .reshape(2, 4)
        .mean(axis=1)
    )
    assert needed > easy + 1.0


# ---------------------------------------------------------------------------------------------------------- verl's GRPO


def test_shared_is_verls_own_grpo():
    torch = pytest.importorskip("torch")
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed")
    rng = np.random.default_rng(6)
    rows = []
    for group in range(40):
        for session in range(rng.integers(2, 9)):
            reward = float(rng.random() < 0.5)
            rows += [(f"prompt {group}", session, THINK, reward), (f"prompt {group}", session, REASON, reward)]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    advantage = compute_advantages(CreditTable.from_rows(rows), _config("shared"), HistoryState()).advantage_R

    mask_RT = torch.arange(5)[None, :] < torch.tensor(rng.integers(1, 6, size=len(rows)))[:, None]
    rewards_RT = torch.zeros(len(rows), 5, dtype=torch.float64)
    rewards_RT[:, 0] = torch.tensor([row[3] for row in rows])
    index = np.array([f"{group}/{role}" for group, _, role, _ in rows], dtype=object)
    theirs_RT, _ = core_algos.compute_grpo_outcome_advantage(rewards_RT, mask_RT.to(torch.float64), index)
    np.testing.assert_allclose(theirs_RT[:, 0].numpy(), advantage, atol=1e-6)
    np.testing.assert_allclose(theirs_RT.numpy(), advantage[:, None] * mask_RT.numpy(), atol=1e-6)
