"""The published dyad rules, as the authors' code states them: reproduced to be compared with, with their flaws.

`paper_v1` (alpha = eta = 1, beta = 0.99, eps = 1e-6), session k paired with solo answer k:

    delta_k  = R_joint,k - R_solo,k
    z(v)     = (v - mu_v) / (sigma_v + eps)                            three EMA streams: delta, joint, solo
    r_think  = tanh(alpha z(delta_k))
    g        = sigmoid(eta mu_delta / (sigma_delta + eps))             argument clipped to +-20
    r_reason = g z(R_joint,k) + (1 - g) z(R_solo,k)
    A        = (r - mean_group) / (std_group + 1e-6)                   per prompt and role
    mu <- beta mu + (1 - beta) mean,  V <- beta V + (1 - beta) var     first batch: mu = mean, V = population variance
    sigma    = sqrt(V) if V > eps else 1

Old statistics normalize, then they are updated; the first batch uses raw delta and raw R_joint. Flaws: R_solo,k is an unrelated
draw (noise), it lands on tokens of the joint answer which did not cause it, and the group z-score removes the affine part.

`event_v2`, rewards mapped to {-1, +1}, b = mean of the prompt's R_solo:

    bonus    = 1[R_joint > 0 and b < 0] - 1[R_joint < 0 and b > 0]
    r_think  = R_joint + 0.2 bonus,    r_reason = R_joint,    A = r - mean_group

Flaw: inside a group b is constant, so r_think is affine in R_joint: exactly 1.1 x the shared advantage (1.0 x where b = 0).
Source: authors' code (GitHub bhai114/ccpo), read for facts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ccpo.credit.history import HistoryState
from ccpo.types import SOLO, THINK, CreditTable

ALPHA = ETA = 1.0
DECAY, EPS = 0.99, 1e-6
BONUS = 0.2


def paper_v1_rewards(table: CreditTable, state: HistoryState) -> tuple[np.ndarray, HistoryState]:
    """(R,) r_think, r_reason (solo rows: 0, they are not trained) before the group z-score, and the new state.

    Raises ValueError when a session has no solo answer to be paired with (k_solo must equal n).
    """
    own_R = np.asarray(table.reward_R, dtype=float)
    solo_of = {(table.group_R[r], table.session_R[r]): own_R[r] for r in table.rows_of(SOLO)}
    rows = np.flatnonzero(np.asarray(table.role_R) != SOLO)
    if not rows.size:
        return np.zeros(len(table)), state  # nothing to learn from
    try:
        solo = np.array([solo_of[table.group_R[r], table.session_R[r]] for r in rows], dtype=float)
    except KeyError as missing:
        raise ValueError(
            f"paper_v1 pairs every session with a solo answer; session {int(missing.args[0][1])} of prompt "
            f"{missing.args[0][0]} has none: set k_solo = n"
        ) from None
    joint = own_R[rows]
    think = np.asarray(table.role_R)[rows] == THINK
    streams = {"delta": joint - solo, "joint": joint, "solo": solo}

    reward_R = np.zeros(len(table))
    if state.paper:
        mu_delta, sigma_delta = _mean_sigma(state, "delta")
        g = 1 / (1 + np.exp(-np.clip(ETA * mu_delta / (sigma_delta + EPS), -20, 20)))
        z = {name: _z(values, state, name) for name, values in streams.items()}
        reward_R[rows] = np.where(think, np.tanh(ALPHA * z["delta"]), g * z["joint"] + (1 - g) * z["solo"])
    else:
        reward_R[rows] = np.where(think, streams["delta"], joint)
    # Statistics are per session: every session has one think row, so think rows count each session once.
    once = {name: values[think] for name, values in streams.items()}
    return reward_R, replace(state, paper={name: _ema(state, name, v) for name, v in once.items()})


def event_v2_rewards(table: CreditTable) -> np.ndarray:
    """(R,) r_think and r_reason in {-1.2 .. 1.2}; solo rows: 0. Groups without a solo answer get no bonus."""
    sign_R = 2 * np.asarray(table.reward_R, dtype=float) - 1
    solo = table.group_means(SOLO)
    b_R = np.array([2 * solo.get(group, 0.5) - 1 for group in table.group_R])
    bonus_R = ((sign_R > 0) & (b_R < 0)).astype(float) - ((sign_R < 0) & (b_R > 0))
    role_R = np.asarray(table.role_R)
    return np.where(role_R == SOLO, 0.0, sign_R + np.where(role_R == THINK, BONUS * bonus_R, 0.0))


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
