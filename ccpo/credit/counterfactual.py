"""Counterfactual credit of the dyad: what the team earned beyond what Reason earns alone.

    b(x)     = mean of the prompt's solo rewards                       (k_solo of them, shared by its sessions)
    credit   = R_joint - beta b(x)
    residual = R_joint - beta (b(x) - mu_b)                            mu_b: EMA of b
    A        = (residual - mu) / sigma                                 mu, sigma: history of the residual (`history.py`)

``beta = 1`` is the paper's plain difference delta = R_joint - R_solo. The default is fitted from the history,

    beta = clip(EMA[Cov(mean_k R_joint, b)] / max(EMA[Var(b)], 1e-4), 0, 1)     old state; over the prompts of a batch; 0 at first

because with few solo answers b is a noisy estimate: where prompts are of similar difficulty, beta = 1 with one or two of them has
more variance than no prompt baseline at all.
b does not depend on the thought nor on the joint answer's tokens, so for both roles it is an unbiased control variate. It has to
be normalized by the HISTORY: inside a group b is a constant, and centring the group removes it.
Source: R_joint - R_without_i is the paper's principle; b as a control variate and the fit are our construction.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ccpo.credit.history import HistoryState
from ccpo.types import REASON, SOLO, CreditTable

_VAR_FLOOR = 1e-4  # below this variance of b over prompts the ratio is noise


def fitted_coefficient(state: HistoryState) -> float:
    """beta from the history, in [0, 1]; 0 before the first batch (no history: no control variate)."""
    sums = state.joints
    if not sums:
        return 0.0
    return float(min(1.0, max(0.0, sums["cov"] / max(sums["var"], _VAR_FLOOR * sums["weight"]))))


def baseline_mean(state: HistoryState, fallback: float) -> float:
    """mu_b: EMA mean of b; ``fallback`` before the first batch."""
    return state.joints["mean_b"] / state.joints["weight"] if state.joints else fallback


def observe_baseline(table: CreditTable, state: HistoryState, decay: float) -> HistoryState:
    """Update the EMA sums of mean b, Var(b) and Cov(group mean of R_joint, b) with this batch's prompts."""
    solo, joint = table.group_means(SOLO), table.group_means(REASON)
    both = [group for group in solo if group in joint]
    if not both:
        return state
    b_G = np.array([solo[g] for g in both])
    r_G = np.array([joint[g] for g in both])
    new = {
        "weight": 1.0,
        "mean_b": float(b_G.mean()),
        "var": float(b_G.var()),
        "cov": float(((b_G - b_G.mean()) * (r_G - r_G.mean())).mean()),
    }
    old = state.joints or dict.fromkeys(new, 0.0)
    return replace(state, joints={k: decay * old[k] + (1 - decay) * v for k, v in new.items()})


def counterfactual_credit(
    table: CreditTable, state: HistoryState, coefficient: float | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Credit of every think and reason row; solo rows keep their own reward.

    Args:
        table: the step's rows. A group without any solo row (its sessions were dropped) gets b = mu_b: no control variate.
        state: history before the step.
        coefficient: beta in [0, 1], or None for the fitted one.

    Returns:
        credit_R: (R,) R_joint - beta b.
        residual_R: (R,) R_joint - beta (b - mu_b), the value whose history normalizes the credit: its mean does not jump
            when beta moves.
        beta: the coefficient that was used.
    """
    beta = fitted_coefficient(state) if coefficient is None else float(coefficient)
    solo = table.group_means(SOLO)
    mu_b = baseline_mean(state, fallback=float(np.mean(list(solo.values()))) if solo else 0.0)
    b_R = np.array([solo.get(group, mu_b) for group in table.group_R], dtype=float)
    own_R = np.asarray(table.reward_R, dtype=float)
    is_solo_R = np.asarray(table.role_R) == SOLO
    credit_R = np.where(is_solo_R, own_R, own_R - beta * b_R)
    residual_R = np.where(is_solo_R, own_R, own_R - beta * (b_R - mu_b))
    return credit_R, residual_R, beta
