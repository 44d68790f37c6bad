"""The published rules of a team of two, as the authors' code states them: reproduced to be compared with, with their flaws.

The first speaker ("think") is removed; the other ("reason") then answers alone: R_solo. `paper_v1` (alpha = eta = 1, beta = 0.99,
eps = 1e-6), session k paired with its own removal k:

    delta_k  = R_joint,k - R_solo,k
    z(v)     = (v - mu_v) / (sigma_v + eps)                            three EMA streams: delta, joint, solo
    r_think  = tanh(alpha z(delta_k))
    g        = sigmoid(eta mu_delta / (sigma_delta + eps))             argument clipped to +-20
    r_reason = g z(R_joint,k) + (1 - g) z(R_solo,k)
    r        = 0 for both where a turn was truncated                   a truncated thought ends the session
    A        = (r - mean_group) / (std_group + 1e-6)                   per prompt and role
    mu <- beta mu + (1 - beta) mean,  V <- beta V + (1 - beta) var     first batch: mu = mean, V = population variance
    sigma    = sqrt(V) if V > eps else 1

Old statistics normalize, then they are updated; the first batch uses raw delta and raw R_joint. Flaws: R_solo,k is an unrelated
draw (noise), it lands on tokens of the joint answer which did not cause it, and the group z-score removes the affine part. (Where a
truncated answer is right all the same, the authors count it as right in the streams; here it is worth 0 there too.)

`event_v2`, rewards mapped to {-1, +1}, b = mean of the prompt's R_solo:

    bonus    = 1[R_joint > 0 and b < 0] - 1[R_joint < 0 and b > 0]
    r_think  = R_joint + 0.2 bonus,    r_reason = R_joint,    A = r - mean_group

Flaw: inside a group b is constant, so r_think is affine in R_joint: exactly 1.1 x the shared advantage (1.0 x where b = 0).
Source: authors' code (GitHub bhai114/ccpo), read for facts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ccpo.credit.base import Credit, CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState
from ccpo.types import REMOVE, Sessions

ALPHA = ETA = 1.0
DECAY, EPS = 0.99, 1e-6
BONUS = 0.2


def paper_v1(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """r_think and r_reason before the group z-score.

    Raises ValueError when a session has no removal of its own to be paired with (replays_per_prompt must equal n).
    """
    spoke = sessions.spoke_SV
    if not len(sessions):
        return Credit.of(np.zeros(spoke.shape), state)
    rows = sessions.replays_of(REMOVE, shared=True)
    solo_S = np.full(len(sessions), np.nan)
    solo_S[sessions.session_P[rows]] = sessions.value_P[rows]
    if np.isnan(solo_S).any():
        s = int(np.flatnonzero(np.isnan(solo_S))[0])
        raise ValueError(
            f"paper_v1 pairs every session with a replay without the first speaker; session {int(sessions.session_S[s])} of prompt "
            f"{sessions.prompts[sessions.prompt_S[s]]} has none: set ccpo.credit.replays_per_prompt = n"
        )
    first = int(sessions.of_P[rows[0]])
    joint_S = sessions.value_S
    streams = {"delta": joint_S - solo_S, "joint": joint_S, "solo": solo_S}
    think_S, reason_S = streams["delta"], joint_S
    if state.paper:
        mu_delta, sigma_delta = _mean_sigma(state, "delta")
        g = 1 / (1 + np.exp(-np.clip(ETA * mu_delta / (sigma_delta + EPS), -20, 20)))
        z = {name: _z(values, state, name) for name, values in streams.items()}
        think_S, reason_S = np.tanh(ALPHA * z["delta"]), g * z["joint"] + (1 - g) * z["solo"]
    truncated_S = np.bincount(sessions.session_T[sessions.truncated_T], minlength=len(sessions)) > 0
    reward_SV = np.where((np.arange(spoke.shape[1]) == first)[None, :], think_S[:, None], reason_S[:, None])
    reward_SV = np.where(spoke & ~truncated_S[:, None], reward_SV, 0.0)
    return Credit.of(reward_SV, replace(state, paper={name: _ema(state, name, v) for name, v in streams.items()}))


def event_v2(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """r_think and r_reason in {-1.2 .. 1.2}. Prompts without a removal get no bonus.

    Raises ValueError when the step has none at all.
    """
    spoke = sessions.spoke_SV
    if not len(sessions):
        return Credit.of(np.zeros(spoke.shape), state)
    rows = sessions.replays_of(REMOVE, shared=True)
    if not len(rows):
        raise ValueError(
            "rule event_v2 compares with replays without the first speaker, and this step has none: every session with one was dropped"
        )
    sign_S = 2 * sessions.value_S - 1
    solo_G, count_G = sessions.mean_by_prompt(sessions.prompt_S[sessions.session_P[rows]], sessions.value_P[rows])
    b_S = (np.where(count_G > 0, 2 * solo_G - 1, 0.0))[sessions.prompt_S]
    bonus_S = ((sign_S > 0) & (b_S < 0)).astype(float) - ((sign_S < 0) & (b_S > 0))
    first_V = np.arange(spoke.shape[1]) == int(sessions.of_P[rows[0]])
    return Credit.of(np.where(spoke, sign_S[:, None] + BONUS * bonus_S[:, None] * first_V[None, :], 0.0), state)


def _mean_sigma(state: HistoryState, name: str) -> tuple[float, float]:
    mean, variance = state.paper[name]
    return mean, variance**0.5 if variance > EPS else 1.0


def _z(values: np.ndarray, state: HistoryState, name: str) -> np.ndarray:
    mean, sigma = _mean_sigma(state, name)
    return (values - mean) / (sigma + EPS)


def _ema(state: HistoryState, name: str, values: np.ndarray) -> tuple[float, float]:
    mean, variance = float(values.mean()), float(values.var())
    if name not in state.paper:
        return mean, variance
    old_mean, old_variance = state.paper[name]
    return DECAY * old_mean + (1 - DECAY) * mean, DECAY * old_variance + (1 - DECAY) * variance
