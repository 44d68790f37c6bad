"""The prompt's other sessions as a baseline: what they got depends on nothing that was said in this one.

    s           = mean of R over the prompt's other sessions

    siblings    credit_i   = R - beta_b b_i - beta_s s                             beside a removal b_i (`removal.py`)
                residual_i = R - beta_b (b_i - mu_b) - beta_s (s - mu_s)           mu: EMA means; what the history normalizes

    shrinkage   credit_i   = R - (1 - lambda) s - lambda g
                g          = mean over the OTHER prompts of m_k, their mean R
                lambda     = (G - 1) / G  v / (v + u)                              G prompts in the step
                v          = mean over the other prompts of their sample variance of R over their number of sessions
                u          = mean over the other prompts of (m_k - g)^2

The coefficients of ``siblings`` are one regression of R on both baselines,

    (beta_b, beta_s) = clip((EMA[Cov] + 1e-4 I)^-1 EMA[(Cov(R, b), Cov(R, s))], 0, 1)     old state; Cov: 2 x 2, of (b, s)

over the sessions of a batch that have both, and 0 before the first batch. What is missing counts as its mean. Both baselines, and both
rules, are unbiased: s, g and lambda are made of other sessions, the coefficients of other steps. Inside a prompt's group s is affine in R,
so centring by the group would undo it: the history normalizes.

With ``shrinkage`` a prompt's own mean is shrunk towards that of all prompts the more, the noisier such means are (v) and the less prompts
differ (u). Where the other prompts say neither (v + u = 0) lambda is 0. A session without siblings is compared with g, a step of one prompt
uses s alone, and where there is neither, the credit is 0. Prompts may have different numbers of sessions; those of one have no sample
variance and are left out of v.

Source: shrinkage is Zeng, Zhou, Arora and Zanette, "Shrinking the Variance: Shrinkage Baselines for Reinforcement Learning with Verifiable
Rewards", ICML 2026 (PMLR 306), arXiv 2511.03710: the baseline with two levels of leaving out, there without a scale (`normalize=none`).
Uneven groups and the fitted siblings are our construction.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ccpo.credit.base import Credit, CreditConfig, HistoryConfig, variance_ratio
from ccpo.credit.history import HistoryState
from ccpo.types import Sessions

RIDGE = 1e-4
_NOTHING = 1e-12  # below it a variance is the rounding of equal values


def others(sessions: Sessions) -> tuple[np.ndarray, np.ndarray]:
    """((S,) mean of R over the prompt's other sessions; (S,) whether there are any)."""
    mean_G, count_G = sessions.mean_by_prompt(sessions.prompt_S, sessions.value_S)
    n_S = count_G[sessions.prompt_S]
    return (mean_G[sessions.prompt_S] * n_S - sessions.value_S) / np.maximum(n_S - 1, 1), n_S > 1


def with_siblings(
    sessions: Sessions, b_S: np.ndarray, has_S: np.ndarray, state: HistoryState, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What two fitted baselines leave of R.

    Args:
        b_S, has_S: (S,) the first baseline, and where there is one.
        state: history before this step. name: of the baseline in it.

    Returns:
        ((S,) R - beta_b b - beta_s s, (S,) residual, (2,) the coefficients).
    """
    s_S, siblings_S = others(sessions)
    sums = state.joints.get(_key(name))
    beta, mu = np.zeros(2), np.zeros(2)  # without a history neither baseline
    if sums:
        weight = sums["weight"]
        mu = np.array([sums["mean_b"], sums["mean_s"]]) / weight
        covariance = np.array([[sums["var_b"], sums["cov_bs"]], [sums["cov_bs"], sums["var_s"]]]) / weight
        with_r = np.array([sums["cov_b"], sums["cov_s"]]) / weight
        beta = np.clip(np.linalg.solve(covariance + RIDGE * np.eye(2), with_r), 0.0, 1.0)
    b_S, s_S = np.where(has_S, b_S, mu[0]), np.where(siblings_S, s_S, mu[1])
    credit_S = sessions.value_S - (beta[0] * b_S + beta[1] * s_S)
    return credit_S, sessions.value_S - (beta[0] * (b_S - mu[0]) + beta[1] * (s_S - mu[1])), beta


def observe_siblings(
    state: HistoryState, name: str, sessions: Sessions, b_S: np.ndarray, has_S: np.ndarray, decay: float
) -> HistoryState:
    """The EMA sums of the regression with this batch; unchanged where no session has both baselines."""
    s_S, siblings_S = others(sessions)
    rows = np.flatnonzero(has_S & siblings_S)
    if not len(rows):
        return state
    b, s, r = b_S[rows], s_S[rows], sessions.value_S[rows]
    db, ds, dr = b - b.mean(), s - s.mean(), r - r.mean()
    new = {
        "weight": 1.0,
        "mean_b": float(b.mean()),
        "mean_s": float(s.mean()),
        "var_b": float((db * db).mean()),
        "var_s": float((ds * ds).mean()),
        "cov_bs": float((db * ds).mean()),
        "cov_b": float((db * dr).mean()),
        "cov_s": float((ds * dr).mean()),
    }
    old = state.joints.get(_key(name)) or dict.fromkeys(new, 0.0)
    sums = {key: decay * old[key] + (1 - decay) * value for key, value in new.items()}
    return replace(state, joints={**state.joints, _key(name): sums})


def _key(name: str) -> str:
    """Apart from the sums of the single coefficient, which are over prompts where this is over sessions."""
    return f"{name}/siblings"


def shrinkage(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """R minus the prompt's other sessions, shrunk towards the other prompts; the same number for every role."""
    spoke = sessions.spoke_SV
    if not len(sessions):
        return Credit.of(np.zeros(spoke.shape), state)
    s_S, siblings_S = others(sessions)
    weight_G, g_G, known = _towards_other_prompts(sessions)
    weight_S = np.where(siblings_S, weight_G[sessions.prompt_S], 1.0 if known else 0.0)
    baseline_S = (1 - weight_S) * s_S + weight_S * g_G[sessions.prompt_S]
    compared_S = siblings_S | known
    credit_S = np.where(compared_S, sessions.value_S - baseline_S, 0.0)
    credit_SV = np.where(spoke, credit_S[:, None], 0.0)
    metrics = {"credit/shrinkage": float(weight_S.mean())}
    metrics |= variance_ratio("credit", credit_S[compared_S], sessions.value_S[compared_S])
    return Credit(credit_SV, credit_SV, state, metrics)


def _towards_other_prompts(sessions: Sessions) -> tuple[np.ndarray, np.ndarray, bool]:
    """((G,) lambda, (G,) g, whether there are other prompts)."""
    mean_G, count_G = sessions.mean_by_prompt(sessions.prompt_S, sessions.value_S)
    squares_G = np.bincount(
        sessions.prompt_S, weights=(sessions.value_S - mean_G[sessions.prompt_S]) ** 2, minlength=len(mean_G)
    )
    seen_G, several_G = (count_G > 0).astype(float), count_G > 1
    variance_G = np.where(several_G, squares_G / np.maximum(count_G * (count_G - 1), 1), 0.0)
    prompts_G = np.maximum(_of_the_others(seen_G), 1)
    g_G = _of_the_others(mean_G) / prompts_G
    u_G = np.maximum(_of_the_others(mean_G**2) / prompts_G - g_G**2, 0.0)
    v_G = _of_the_others(variance_G) / np.maximum(_of_the_others(several_G.astype(float)), 1)
    ratio_G = np.where(v_G + u_G > _NOTHING, v_G / np.maximum(v_G + u_G, _NOTHING), 0.0)
    known = bool(seen_G.sum() > 1)
    return (prompts_G / (prompts_G + 1) * ratio_G if known else np.zeros(len(mean_G))), g_G, known


def _of_the_others(values_G: np.ndarray) -> np.ndarray:
    """(G,) the sum without each entry, added from both ends: it depends on the entry not even by rounding."""
    left, right = np.cumsum(values_G), np.cumsum(values_G[::-1])[::-1]
    return np.concatenate([[0.0], left[:-1]]) + np.concatenate([right[1:], [0.0]])
