"""One step of the method: sessions + settings + history -> advantages, new history, metrics. All that a trainer calls.

    credit     of the rule (`ccpo.credit.rules`)                                              R units, per session and role
    advantage  normalized (`ccpo.credit.normalize`, `ccpo.credit.history`)                     what every token of the turns is multiplied by

All turns of a role in a session share its advantage. Roles of one policy share one scale of the history.

With ``train_replays`` the turns decoded for the shared removal are trained as well, on what the team got there: A_replay x (1 - g) n / k,
and the same roles' own turns get x g, with the paper's gate g = sigmoid(eta mu_delta / max(sigma_delta, floor)), argument clipped to +-20,
from the history of delta = R - b(x) (0.5 before the first batch). k of a prompt's n sessions carry such a replay, hence n / k: with it the
ratio of the two objectives is (1 - g) / g whatever k is. Source: our construction on the paper's gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ccpo.credit.base import CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState, Stream, normalize_by_history
from ccpo.credit.normalize import group_normalize, group_normalize_roles
from ccpo.credit.removal import baseline_of
from ccpo.credit.rules import RULES, normalization, partial_problems
from ccpo.metrics import step_metrics
from ccpo.types import REMOVE, Sessions, StepResult

REPLAYS = "replays"
"""Name of the trained replays among the streams of the history and the metrics."""
ANSWER = "answer"
"""The same of what the last speaker says behind its chain, where that has a credit of its own (`ccpo.credit.likelihood`)."""


@dataclass(frozen=True)
class StepSettings:
    """What a step needs to know of a job.

    policy_of:   role -> name of the policy that plays it; a role that is not listed has a policy of its own.
    first:       the role whose removal serves all sessions of a prompt, None if there is none (`Plan.first`).
    also_spoken: roles that speak in that replay: those whose own turns the gate of ``train_replays`` weighs.
    """

    credit: CreditConfig = field(default_factory=CreditConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    policy_of: Mapping[str, str] = field(default_factory=dict)
    first: str | None = None
    also_spoken: tuple[str, ...] = ()


def compute_advantages(sessions: Sessions, settings: StepSettings, state: HistoryState | None = None) -> StepResult:
    """Credit, advantage, new history and metrics of one step.

    Args:
        sessions: all of the step's, in any order.
        settings: checked (`ccpo.credit.rules.refusals`).
        state: history before this step, None at the start; not modified.

    Returns:
        StepResult; advantages are 0 where nothing was said or is trained.

    Raises:
        ValueError: the step lacks the replays that the rule needs, or has values between 0 and 1 for which it is not defined. The caller
            keeps its old state: a failed step is not counted.

    Source: top of this module.
    """
    state, config, history = state or HistoryState(), settings.credit, settings.history
    spoke = sessions.spoke_SV
    if RULES[config.rule].binary and (partial := _partial(sessions)) is not None:
        raise ValueError(f"the reward gave {partial:g}, partial credit: {partial_problems(config.rule, None)[0]}")
    credit = RULES[config.rule].credit(sessions, state, config, history)
    how, state_after = normalization(config), credit.state
    trained = sessions.replays_of(REMOVE, shared=True) if config.train_replays else np.array([], dtype=int)
    trained = trained[sessions.decoded_P[trained] > 0]
    advantage_SV, advantage_K = credit.credit_SV.astype(float), sessions.value_P[trained]
    answer_S = credit.answer_S
    if "history" in how and not RULES[config.rule].published:  # a published rule has a history of its own
        rows = {name: np.flatnonzero(spoke[:, code]) for code, name in enumerate(sessions.roles)}
        values = {f"{name}/credit": credit.residual_SV[rows[name], sessions.roles.index(name)] for name in rows}
        scale_of = {f"{name}/credit": settings.policy_of.get(name, name) for name in rows}
        if config.train_replays:
            values[f"{REPLAYS}/credit"] = advantage_K
            players = [settings.policy_of.get(name, name) for name in settings.also_spoken]
            scale_of[f"{REPLAYS}/credit"] = players[0] if players else REPLAYS
        if answer_S is not None:
            divided = np.flatnonzero(~np.isnan(answer_S))
            last = sessions.roles[sessions.role_T[-1]]
            values[f"{last}/{ANSWER}"] = answer_S[divided]
            scale_of[f"{last}/{ANSWER}"] = settings.policy_of.get(last, last)
        uncentred = {f"{name}/credit" for name in credit.uncentred}
        normalized, state_after = normalize_by_history(
            values, state_after, scale_of, history.decay, history.floor, uncentred
        )
        for code, name in enumerate(sessions.roles):
            advantage_SV[rows[name], code] = normalized[f"{name}/credit"]
        if answer_S is not None:
            answer_S = answer_S.copy()
            answer_S[divided] = normalized[f"{last}/{ANSWER}"]
        advantage_K = normalized.get(f"{REPLAYS}/credit", advantage_K)
    if config.shaping == "tanh" and settings.first in sessions.roles:
        code = sessions.roles.index(settings.first)
        advantage_SV[:, code] = np.where(spoke[:, code], np.tanh(config.alpha * advantage_SV[:, code]), 0.0)
    if how in ("group", "centred", "history+group"):
        advantage_SV = group_normalize_roles(advantage_SV, sessions.prompt_S, spoke, by_std=how != "centred")
        if len(trained):
            prompt_K = sessions.prompt_S[sessions.session_P[trained]]
            advantage_K = group_normalize(advantage_K, prompt_K, by_std=how != "centred")

    advantage_P, gate = np.zeros(len(sessions.value_P)), None
    if config.train_replays:
        gate, state_after = _gate(sessions, settings, state, state_after)
        gated_V = np.array([gate if name in settings.also_spoken else 1.0 for name in sessions.roles])
        advantage_SV = advantage_SV * gated_V
        if answer_S is not None:
            answer_S = answer_S * gated_V[sessions.role_T[-1]]
        prompt_K = sessions.prompt_S[sessions.session_P[trained]]
        n_G = np.bincount(sessions.prompt_S, minlength=len(sessions.prompts))
        k_G = np.bincount(prompt_K, minlength=len(sessions.prompts))
        advantage_P[trained] = advantage_K * (1 - gate) * n_G[prompt_K] / k_G[prompt_K]

    state_after = replace(state_after, steps=state_after.steps + 1)
    metrics = step_metrics(sessions, credit.credit_SV, advantage_SV, state_after) | dict(credit.metrics)
    if gate is not None:
        metrics["credit/gate"] = gate
    return StepResult(credit.credit_SV, advantage_SV, advantage_P, state_after, metrics, answer_S)


def _partial(sessions: Sessions) -> float | None:
    """The first value between 0 and 1."""
    values = np.concatenate([sessions.value_S, sessions.value_P])
    found = values[(values > 0) & (values < 1)]
    return float(found[0]) if len(found) else None


def _gate(
    sessions: Sessions, settings: StepSettings, old: HistoryState, state: HistoryState
) -> tuple[float, HistoryState]:
    """g from the OLD history of delta = R - b(x), and the state with this batch's deltas."""
    history, deltas = settings.history, np.array([])
    if settings.first in sessions.roles:
        base = baseline_of(sessions, sessions.roles.index(settings.first))
        if base is not None:
            deltas = (sessions.value_S - base.b_S)[base.has_S]
    _, state = normalize_by_history({"delta": deltas}, state, None, history.decay, history.floor)
    stream = old.streams.get("delta", Stream())
    if not stream.weight:
        return 0.5, state
    slope = settings.credit.eta * stream.mean / max(stream.std, history.floor)
    return 1 / (1 + math.exp(-min(20.0, max(-20.0, slope)))), state
