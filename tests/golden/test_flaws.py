"""What is wrong with the published credit rules, and with plausible settings of ours, as numbers. Each claim of ``docs/method.md`` is one
test here (that earlier rounds of a deliberation need a replay: test_unbiased.py)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ccpo.credit.base import CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState, Stream
from ccpo.credit.normalize import group_normalize
from ccpo.credit.rules import refusals
from ccpo.plurality import vote_value
from ccpo.step import StepSettings, compute_advantages
from ccpo.team.dyad import Dyad
from ccpo.team.plan import plan
from ccpo.types import REMOVE, ReplayRecord, SessionRecord, Sessions, TurnRecord

THINK, REASON = "think", "reason"
DYAD = plan(Dyad())


def _settings(rule: str, **credit) -> StepSettings:
    config = CreditConfig(rule, **credit)
    return StepSettings(config, HistoryConfig(), {THINK: "shared", REASON: "shared"}, THINK, (REASON,))


def _refused(rule: str, n: int = 4, history: HistoryConfig | None = None, **credit) -> str:
    return " / ".join(refusals(CreditConfig(rule, **credit), history or HistoryConfig(), DYAD, n))


def _table(joint_GS: np.ndarray, solo_GS: np.ndarray, cut: frozenset = frozenset()) -> Sessions:
    """Prompts x sessions of the team's rewards and of Reason's alone, which may have fewer columns. ``cut``: (prompt, session, role)."""
    records = []
    for group, (joint, solo) in enumerate(zip(joint_GS, solo_GS, strict=True)):
        for session, reward in enumerate(joint):
            turns = tuple(TurnRecord(role, (group, session, role) in cut) for role in (THINK, REASON))
            replays = [ReplayRecord(REMOVE, REASON, 0.0)]
            if session < len(solo):
                replays.append(ReplayRecord(REMOVE, THINK, float(solo[session]), shared=True, decoded=1))
            records.append(SessionRecord(group, session, float(reward), turns, tuple(replays)))
    return Sessions.from_records(records, (THINK, REASON))


def _advantages(sessions: Sessions, settings: StepSettings, role: str, state: HistoryState | None = None) -> np.ndarray:
    return compute_advantages(sessions, settings, state).advantage_SV[:, sessions.roles.index(role)]


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
            advantage = _advantages(_table(np.array([joint]), np.array([solo])), _settings("event_v2"), THINK)
            signed = 2 * np.array(joint) - 1
            factor = 1.0 if sum(solo) == 2 else 1.1
            np.testing.assert_allclose(advantage, factor * (signed - signed.mean()), atol=1e-12)
            seen.add(factor)
    assert seen == {1.0, 1.1}


def test_event_v2_and_grpo_point_the_same_way_in_every_group():
    """Over a batch the cosine is below 1, but only because event_v2 does not divide by the group's deviation."""
    table = _table(*_step(np.random.default_rng(0), prompts=200, n=8))
    event, shared = (_advantages(table, _settings(rule), THINK) for rule in ("event_v2", "shared"))
    assert 0.97 < _cosine(event, shared) < 0.999
    by_group = [_cosine(e, s) for e, s in zip(event.reshape(200, 8), shared.reshape(200, 8), strict=True) if s.any()]
    assert len(by_group) > 100
    np.testing.assert_allclose(by_group, 1.0, atol=1e-12)


def test_event_v2_leaves_reason_the_shared_advantage():
    joint, solo = _step(np.random.default_rng(0), prompts=20, n=4)
    signed = 2 * joint - 1
    advantage = _advantages(_table(joint, solo), _settings("event_v2"), REASON).reshape(20, 4)
    np.testing.assert_allclose(advantage, signed - signed.mean(axis=1, keepdims=True), atol=1e-12)


# ----------------------------------------------------------------------------------------------- 2. paper_v1 adds noise


@pytest.mark.parametrize("edge, low, high", [(0.0, 0.62, 0.70), (0.2, 0.65, 0.74)])
def test_paper_v1_think_credit_is_a_noisy_shared_credit(edge: float, low: float, high: float):
    """64 prompts x 4 sessions, 20 steps: cosine of Think's advantage with the shared one over all rows."""
    rng, state = np.random.default_rng(1), HistoryState()
    paper, shared = [], []
    for _ in range(20):
        table = _table(*_step(rng, prompts=64, n=4, edge=edge))
        result = compute_advantages(table, _settings("paper_v1"), state)
        state = result.state
        paper.append(result.advantage_SV[:, 0])
        shared.append(_advantages(table, _settings("shared"), THINK))
    assert low < _cosine(np.concatenate(paper), np.concatenate(shared)) < high


def test_paper_v1_credits_groups_that_say_nothing():
    """All joint rewards equal: shared credit is 0, paper_v1's is of the same size as anywhere else, and pure noise."""
    joint, solo = np.ones((2, 4)), np.array([[0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    table = _table(joint, solo)
    assert not _advantages(table, _settings("shared"), THINK).any()
    advantage = _advantages(table, _settings("paper_v1"), THINK).reshape(2, 4)
    z = math.sqrt(3) / 2  # deviations +-a of four values: a / sqrt(4 a^2 / 3)
    np.testing.assert_allclose(advantage[0], [z, -z, z, -z], atol=1e-5)
    np.testing.assert_allclose(advantage[1], 0, atol=1e-9)


def test_paper_v1_puts_the_solo_answer_on_the_joint_answers_tokens():
    """After the first batch r_reason moves with R_solo,k although R_joint,k is the same in every session."""
    config = _settings("paper_v1")
    state = compute_advantages(_table(*_step(np.random.default_rng(2), 16, 4)), config).state
    advantage = _advantages(_table(np.ones((1, 4)), np.array([[1.0, 0.0, 0.0, 0.0]])), config, REASON, state)
    np.testing.assert_allclose(advantage, [1.5, -0.5, -0.5, -0.5], atol=1e-4)


@pytest.mark.parametrize("role", [THINK, REASON])
def test_paper_v1_shapes_a_session_with_a_cut_turn_to_zero_for_both_roles(role: str):
    """Not R but the shaped reward is 0, and the group's z-score comes after it: first batch, R = 1, R_solo = 0, so delta = R = 1 in the
    other three sessions: (0 - 3/4) / (1/2) = -1.5 against .5."""
    settings = _settings("paper_v1")
    sessions = _table(np.ones((1, 4)), np.zeros((1, 4)), frozenset({(0, 2, role)}))
    result = compute_advantages(sessions, settings)
    assert result.credit_SV.tolist() == [[1, 1], [1, 1], [0, 0], [1, 1]]
    np.testing.assert_allclose(result.advantage_SV, [[0.5] * 2, [0.5] * 2, [-1.5] * 2, [0.5] * 2], atol=1e-5)
    state = compute_advantages(_table(*_step(np.random.default_rng(2), 16, 4)), settings).state
    later = compute_advantages(sessions, settings, state)
    assert not later.credit_SV[2].any() and later.credit_SV[[0, 1, 3]].all(), "0 itself, wherever the history stands"


@pytest.mark.parametrize(
    "setting", [{"alpha": 0.7}, {"eta": 2.0}, {"shaping": "tanh"}, {"coefficient": 1.0}, {"train_replays": True}]
)
@pytest.mark.parametrize("rule", ["paper_v1", "event_v2"])
def test_published_rules_refuse_settings_that_they_do_not_read(rule: str, setting: dict):
    assert _refused(rule) == ""
    assert f"ccpo.credit.{next(iter(setting))} would do nothing or change it" in _refused(rule, **setting)


@pytest.mark.parametrize("history", [HistoryConfig(decay=0.5), HistoryConfig(floor=0.1)])
def test_paper_v1_refuses_another_history(history: HistoryConfig):
    name = "decay" if history.decay == 0.5 else "floor"
    assert f"ccpo.history.{name} would do nothing" in _refused("paper_v1", history=history)


def test_paper_v1_is_normalized_by_its_own_history_alone():
    """Its epsilon is 1e-6 in units of the shaped reward: another normalization before the z-score would move it."""
    state = compute_advantages(_table(*_step(np.random.default_rng(2), 16, 4)), _settings("paper_v1")).state
    assert not state.streams and set(state.paper) == {"delta", "joint", "solo"}


# ------------------------------------------------------------------------- 3. what the group's centring takes out again


def test_affine_normalization_before_the_group_changes_nothing():
    """GRPO of (v - mu) / sigma is GRPO of v, up to the 1e-6 beside the standard deviation."""
    rng = np.random.default_rng(3)
    values, keys = rng.normal(size=40), np.repeat(np.arange(10), 4)
    for mu, sigma in ((0.3, 0.2), (-5.0, 7.0)):
        np.testing.assert_allclose(
            group_normalize((values - mu) / sigma, keys), group_normalize(values, keys), atol=1e-4
        )


def test_counterfactual_in_a_group_equals_shared_and_is_refused():
    """b is one number per group: the group's mean takes it out, whatever the coefficient."""
    table = _table(*_step(np.random.default_rng(4), prompts=30, n=4))
    for coefficient, (normalize, like) in itertools.product(
        (0.3, 1.0), (("group", "group"), ("history+group", "group"), ("centred", "centred"))
    ):
        ours, shared = (
            compute_advantages(table, _settings(rule, normalize=how, **given)).advantage_SV
            for rule, how, given in (
                ("counterfactual", normalize, {"coefficient": coefficient}),
                ("shared", like, {}),
            )
        )
        np.testing.assert_allclose(ours, shared, atol=1e-4 if "+" in normalize else 1e-9)
        assert "equals the shared reward: the baseline is one constant inside" in _refused(
            "counterfactual", normalize=normalize
        )


def test_a_tanh_does_not_save_it():
    """R is 0 or 1, so a group's credits are two values, and tanh makes two values of them: the z-score maps them to the same two."""
    rng, state = np.random.default_rng(4), HistoryState()
    settings = _settings("counterfactual", normalize="history+group", shaping="tanh", alpha=0.7, coefficient=1.0)
    for _ in range(4):
        table = _table(*_step(rng, prompts=30, n=4))
        result = compute_advantages(table, settings, state)
        state = result.state
        assert result.advantage_SV.any()
        np.testing.assert_allclose(
            result.advantage_SV, compute_advantages(table, _settings("shared")).advantage_SV, atol=2e-5
        )
    assert "with tanh, too, where R has two values" in _refused(
        "counterfactual", normalize="history+group", shaping="tanh"
    )


def test_removal_in_a_group_gives_the_first_speaker_the_shared_reward_and_is_refused():
    table = _table(*_step(np.random.default_rng(4), prompts=30, n=4))
    for normalize in ("group", "centred"):
        ours = _advantages(table, _settings("removal", normalize=normalize, coefficient=1.0), THINK)
        np.testing.assert_allclose(ours, _advantages(table, _settings("shared", normalize=normalize), THINK), atol=1e-9)
        assert "gives think the shared reward" in _refused("removal", normalize=normalize)


# ------------------------------------------------------------------------------------ 4. the group's deviation reweights


@pytest.mark.parametrize(("p", "multiplier"), [(0.5, 1.74), (0.1, 2.18), (0.02, 2.41)])
def test_the_groups_deviation_reweights_prompts_and_centring_does_not(p: float, multiplier: float):
    """One agent, right with probability p, n = 8: E[mean of A x score] over grad p = p (1 - p), every count of right answers enumerated.
    Centred it is (n - 1) / n for every prompt: the leave-one-out baseline of RLOO, times (n - 1) / n."""
    n, got = 8, {}
    for normalize in ("group", "centred"):
        expected = 0.0
        for right in range(n + 1):
            value_S = np.array([1.0] * right + [0.0] * (n - right))
            advantage_S = _advantages(_table(value_S[None], [[]]), _settings("shared", normalize=normalize), THINK)
            chance = math.comb(n, right) * p**right * (1 - p) ** (n - right)
            expected += chance * float(np.mean(advantage_S * (value_S - p)))
        got[normalize] = expected / (p * (1 - p))
    assert round(got["group"], 2) == multiplier
    assert got["centred"] == pytest.approx((n - 1) / n)


def test_centred_is_dr_grpo_and_rloo_up_to_a_constant():
    joint, solo = _step(np.random.default_rng(8), prompts=20, n=5)
    advantage = _advantages(_table(joint, solo), _settings("shared", normalize="centred"), REASON).reshape(20, 5)
    np.testing.assert_allclose(advantage, joint - joint.mean(axis=1, keepdims=True), atol=1e-12)
    rloo = joint - (joint.sum(axis=1, keepdims=True) - joint) / 4
    np.testing.assert_allclose(advantage, rloo * 4 / 5, atol=1e-12)


# ----------------------------------------------------------------------------------- 5. the scale of a policy's own roles

UNEQUAL = (0.9, 0.6, 0.3)
"""Accuracies of three voters whose wrong answers are all the same."""


def _votes(accuracy: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, Sessions]:
    """(probability, ballots, sessions) of every vote, each a prompt of its own, with its removals."""
    roles = tuple(f"voter_{i}" for i in range(len(accuracy)))
    ballots_TV = np.array(list(itertools.product((1, 0), repeat=len(accuracy))))
    chance_T = np.prod(np.where(ballots_TV, accuracy, 1 - np.array(accuracy)), axis=1)
    records = []
    for t, ballots in enumerate(ballots_TV.tolist()):
        without = [vote_value(ballots[:i] + ballots[i + 1 :], 1) for i in range(len(roles))]
        replays = tuple(ReplayRecord(REMOVE, role, b) for role, b in zip(roles, without, strict=True))
        cast = dict(zip(roles, ballots, strict=True))
        records.append(SessionRecord(t, 0, vote_value(ballots, 1), tuple(map(TurnRecord, roles)), replays, cast, 1))
    return chance_T, ballots_TV, Sessions.from_records(records, roles)


@pytest.mark.parametrize(("policy", "is_gradient"), [("one", True), ("each", False)])
def test_voters_of_one_policy_need_one_scale(policy: str, is_gradient: bool):
    """Leave-one-out, normalized by a history that knows each voter's mean and deviation exactly. One policy plays all: its update is a
    gradient of E[R] if every voter's part is the same multiple of d E[R] / d logit of that voter; divided by a deviation each, it is not."""
    chance_T, ballots_TV, sessions = _votes(UNEQUAL)
    score_TV = ballots_TV - np.array(UNEQUAL)
    true_V = chance_T @ (sessions.value_S[:, None] * score_TV)
    raw_TV = compute_advantages(sessions, StepSettings(CreditConfig("leave_one_out", "none"))).credit_SV
    mean_V = chance_T @ raw_TV
    second_V = chance_T @ (raw_TV - mean_V) ** 2
    assert second_V.max() > 1.3 * second_V.min(), "unequal voters"
    names = [f"{role}/credit" for role in sessions.roles]
    state = HistoryState({name: Stream(1.0, *moments) for name, *moments in zip(names, mean_V, second_V, strict=True)})
    policy_of = {role: "shared" if policy == "one" else role for role in sessions.roles}
    settings = StepSettings(CreditConfig("leave_one_out", "history"), policy_of=policy_of)
    ratio_V = chance_T @ (compute_advantages(sessions, settings, state).advantage_SV * score_TV) / true_V
    if is_gradient:
        np.testing.assert_allclose(ratio_V, 1 / math.sqrt(second_V.mean()), rtol=1e-12)
    else:
        np.testing.assert_allclose(ratio_V, 1 / np.sqrt(second_V), rtol=1e-12)
        assert ratio_V.max() > 1.1 * ratio_V.min()


# ------------------------------------------------------------------------- 6. two measures of what leave-one-out still says


def test_accurate_voters_leave_one_out_says_less_by_correlation_and_more_by_signal_to_noise():
    """Three voters, p = .9, one logit each. Correlation of the credit with the own ballot's truth: .271 against .327 of the shared reward.
    Signal-to-noise |E[g]| / sqrt(Var g) of g = score x (credit - its mean), what a history or a large group leaves: .225 against .135.
    Both have E[g] = p (1 - p) (.99 - .81)."""
    p = 0.9
    chance_T, ballots_TV, sessions = _votes((p,) * 3)
    own_T = ballots_TV[:, 0].astype(float)
    found = {}
    for rule in ("shared", "leave_one_out"):
        credit_T = compute_advantages(sessions, StepSettings(CreditConfig(rule, "none"))).credit_SV[:, 0]
        credit_T = credit_T - chance_T @ credit_T
        correlation = chance_T @ (credit_T * (own_T - p)) / math.sqrt(chance_T @ credit_T**2 * p * (1 - p))
        g_T = (own_T - p) * credit_T
        signal = chance_T @ g_T
        assert signal == pytest.approx(p * (1 - p) * (0.99 - 0.81))
        found[rule] = (round(correlation, 3), round(signal / math.sqrt(chance_T @ (g_T - signal) ** 2), 3))
    assert found == {"shared": (0.327, 0.135), "leave_one_out": (0.271, 0.225)}


def test_the_variance_of_a_votes_credit_is_not_that_of_its_gradient():
    """The same three voters. beta = 1 has 1.46 times the variance of R, the fitted one (.36) .79 times; and yet the gradient with beta = 1 is
    the clearer one, .225 against .161: b is the others' vote, which R is made of, too. So `leave_one_out` keeps its coefficient."""
    p = 0.9
    chance_T, ballots_TV, sessions = _votes((p,) * 3)
    own_T, value_T = ballots_TV[:, 0].astype(float), sessions.value_S

    def mean(x_T):
        return chance_T @ x_T

    def variance(x_T):
        return mean((x_T - mean(x_T)) ** 2)

    whole = compute_advantages(sessions, StepSettings(CreditConfig("leave_one_out", "none"))).credit_SV[:, 0]
    without_T = value_T - whole
    fitted = float(mean((value_T - mean(value_T)) * (without_T - mean(without_T))) / variance(without_T))
    found = {}
    for beta in (fitted, 1.0):
        settings = StepSettings(CreditConfig("removal", "none", beta))
        credit_T = compute_advantages(sessions, settings).credit_SV[:, 0]
        g_T = (own_T - p) * (credit_T - mean(credit_T))
        ratio, clear = variance(credit_T) / variance(value_T), mean(g_T) / math.sqrt(variance(g_T))
        found[round(beta, 2)] = (round(ratio, 2), round(clear, 3))
    assert found == {0.36: (0.79, 0.161), 1.0: (1.46, 0.225)}


# ------------------------------------------------------------------------------------------------ 7. replays are trained


@pytest.mark.parametrize("k", range(1, 9))
def test_the_weight_of_trained_replays_does_not_depend_on_how_many_there_are(k: int):
    """All rewards 1, normalize none, g = sigmoid(0.5): the replays' weights add up to n (1 - g), Reason's own to n g, for every k of n = 8.
    (Without the factor n / k the ratio would be (1 - g) / g x k / n.)"""
    n, g = 8, 1 / (1 + math.exp(-0.5))
    state = HistoryState({"delta": Stream(1.0, 0.1, 0.04)})  # mean .1, deviation .2
    settings = _settings("shared", normalize="none", train_replays=True, replays_per_prompt=k)
    sessions = _table(np.ones((2, n)), np.ones((2, k)))
    result = compute_advantages(sessions, settings, state)
    assert result.metrics["credit/gate"] == pytest.approx(g)
    assert result.advantage_P.sum() == pytest.approx(2 * n * (1 - g))
    assert np.count_nonzero(result.advantage_P) == 2 * k
    np.testing.assert_allclose(result.advantage_SV.sum(axis=0), [2 * n, 2 * n * g])


# ---------------------------------------------------------------------------------------------- what our baseline keeps


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_a_baseline_that_ignores_the_thought_is_unbiased(beta: float, k: int):
    """Two thoughts, every outcome enumerated: E[dlog pi (R - mu - beta (b - mu_b))] is the exact gradient of E[R].

    A baseline that sees the thought's own outcome is the counter-example: it is biased.
    """
    p_think = 1 / (1 + math.exp(-0.4))  # policy: P(thought 1) = sigmoid(theta), theta = 0.4
    right = {1: 0.7, 0: 0.3}  # P(R_joint = 1 | thought)
    p_solo, mu, mu_b = 0.45, 0.61, 0.2  # mu_b need not be E[b]
    true_gradient = p_think * (1 - p_think) * (right[1] - right[0])

    def expected_gradient(credit) -> float:
        total = 0.0
        for thought, joint, *solo in itertools.product((0, 1), repeat=2 + k):
            p = (p_think if thought else 1 - p_think) * (right[thought] if joint else 1 - right[thought])
            p *= math.prod(p_solo if s else 1 - p_solo for s in solo)
            total += p * (thought - p_think) * credit(joint, sum(solo) / k)
        return total

    assert expected_gradient(lambda joint, b: joint - mu) == pytest.approx(true_gradient, abs=1e-12)
    assert expected_gradient(lambda joint, b: joint - mu - beta * (b - mu_b)) == pytest.approx(true_gradient, abs=1e-12)
    assert abs(expected_gradient(lambda joint, b: joint - mu - beta * (joint * b - mu_b)) - true_gradient) > 1e-3


def _residual_variance(spread: float, beta: float, k: int) -> float:
    """Var(R_joint - beta b), exact: two equally likely prompts of accuracy 1/2 +- spread, solo as accurate as joint."""
    total = square = 0.0
    for accuracy in (0.5 - spread, 0.5 + spread):
        for joint, *solo in itertools.product((0, 1), repeat=1 + k):
            p = 0.5 * math.prod(accuracy if outcome else 1 - accuracy for outcome in (joint, *solo))
            value = joint - beta * sum(solo) / k
            total, square = total + p * value, square + p * value**2
    return square - total**2


@pytest.mark.parametrize(
    "spread, k, noisier", [(0.15, 1, True), (0.15, 2, True), (0.3, 1, True), (0.3, 2, False), (0.3, 4, False)]
)
def test_the_plain_difference_is_noisier_than_no_baseline_when_prompts_are_alike(spread: float, k: int, noisier: bool):
    """Var(R - b) = (1 + 1/k) E[p (1 - p)], Var(R) = Var(p) + E[p (1 - p)]: noisier where k < E[p (1 - p)] / Var(p).

    The best coefficient, Var(p) / (Var(p) + E[p (1 - p)] / k), is never noisier.
    """
    between, within = spread**2, 0.25 - spread**2
    best = between / (between + within / k)
    none, plain, fitted = (_residual_variance(spread, beta, k) for beta in (0.0, 1.0, best))
    assert none == pytest.approx(0.25)
    assert plain == pytest.approx(within * (1 + 1 / k))
    assert fitted == pytest.approx(0.25 - between * best)
    assert (plain > none) is noisier
    assert fitted < min(none, plain)


def test_easy_prompts_give_think_less_credit():
    """Two prompts solved in every session, one of them by Reason alone too: it must earn Think less."""
    config = _settings("counterfactual", coefficient=1.0, replays_per_prompt=4)
    state = compute_advantages(_table(*_step(np.random.default_rng(5), 32, 4)), config).state
    easy, needed = (
        _advantages(_table(np.ones((2, 4)), np.array([[1.0] * 4, [0.0] * 4])), config, THINK, state)
        .reshape(2, 4)
        .mean(axis=1)
    )
    assert needed > easy + 1.0


# ---------------------------------------------------------------------------------------------------------- verl's GRPO


@pytest.mark.parametrize(("normalize", "by_std"), [("group", True), ("centred", False)])
def test_shared_is_verls_own_grpo(normalize: str, by_std: bool):
    """``by_std``: verl's ``algorithm.norm_adv_by_std_in_grpo``."""
    torch = pytest.importorskip("torch")
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed")
    rng = np.random.default_rng(6)
    records = [
        SessionRecord(f"prompt {group}", session, float(rng.random() < 0.5), (TurnRecord(THINK), TurnRecord(REASON)))
        for group in range(40)
        for session in range(rng.integers(2, 9))
    ]
    records = [records[i] for i in rng.permutation(len(records))]
    sessions = Sessions.from_records(records, (THINK, REASON))
    advantage_R = compute_advantages(sessions, _settings("shared", normalize=normalize)).advantage_SV.ravel()

    rows = len(advantage_R)
    mask_RT = torch.arange(5)[None, :] < torch.tensor(rng.integers(1, 6, size=rows))[:, None]
    rewards_RT = torch.zeros(rows, 5, dtype=torch.float64)
    rewards_RT[:, 0] = torch.tensor([record.value for record in records for _ in record.turns])
    index = np.array([f"{record.prompt}/{turn.role}" for record in records for turn in record.turns], dtype=object)
    theirs_RT, _ = core_algos.compute_grpo_outcome_advantage(
        rewards_RT, mask_RT.to(torch.float64), index, norm_adv_by_std_in_grpo=by_std
    )
    np.testing.assert_allclose(theirs_RT[:, 0].numpy(), advantage_R, atol=1e-6)
    np.testing.assert_allclose(theirs_RT.numpy(), advantage_R[:, None] * mask_RT.numpy(), atol=1e-6)
