"""Likelihood: what a turn changed about how likely the last speaker finds the reference answer.

    v_i        = pi_last(y* | turns 0 .. i-1)      the run in which the roles from turn i on are removed, the last speaker aside
    u_i        = v_(i+1) - v_i                     the change that turn i makes; v_0: nobody was heard
    credit_i   = u_i                               of the last speaker: R - v, v: with all others heard
    residual_i = u_i - beta_v (v_i - m_v) - beta_s (s_i - m_s)      what the history normalizes

y* is the row's reference answer with its end token; one teacher-forced forward pass gives v, and nothing is decoded. Credits add up: over the
roles of a session they are R - v_0, the team's value minus that of its last speaker alone. For a dyad u = pi(y* | x, thought) - pi(y* | x).

Two control variates are fitted: v_i, and s_i, the mean of u_i over the prompt's other sessions; both depend on no token of turn i.

    beta = clip((EMA[Cov(x)] + 1e-4 I)^-1 EMA[Cov(x, u)], -1, 1)      x = (v_i, s_i), over the sessions of a batch, old state

0 at first; m_v and m_s are old means (of the first batch its own). A session alone in its prompt has no s_i: that control is then 0.

R - v is unbiased for the last speaker whatever v is: v depends on no token of its own. For the others v stands in place of R. For the last
but one, so for both roles of a dyad, that is unbiased where v is the last speaker's chance to be right: it answers at once, and one spelling
scores. Where it writes a chain before its answer, or has several spellings, v is the likelihood of answering so at once, another objective: take
`resampling` there. For those before, u_i leaves out what turn i changes about the turns between it and the answer (they are removed in
v_(i+1), too): it is biased. tests/golden/test_unbiased.py proves each of this.

``last_gradient: exact`` trains the last speaker on y* instead of what it said, with residual v, which is not centred: v grad log pi(y*) is
grad v, the gradient that R - v has in expectation where the last speaker answers at once and in one spelling. It takes the noise of its own answer
away, reads the reference's text into the weights, and is biased elsewhere.

``negative_slope`` c < 1 makes u_i = max(u_i, 0) + c min(u_i, 0): for a role that says nothing of use because every attempt costs more than
silence. BIASED on purpose: it rewards attempts that help now and then although they harm as often.

Source: our construction. Kin: VeriFree (arXiv 2505.21493: likelihood of the reference answer behind a sampled chain of one agent), RLPR (arXiv
2506.18254: its mean token probability).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ccpo.credit.base import Credit, CreditConfig, HistoryConfig, variance_ratio
from ccpo.credit.history import HistoryState
from ccpo.types import Sessions

_RIDGE = 1e-4  # below this variance of a control its coefficient is noise
_SUMS = ("mean_v", "mean_s", "vv", "vs", "ss", "vu", "su")


def likelihood(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """Every turn against the run without it and without what came after.

    Raises ValueError when the sessions have no likelihoods.
    """
    shape = sessions.spoke_SV.shape
    if not len(sessions):
        return Credit.of(np.zeros(shape), state)
    before_T = sessions.likelihood_T
    if before_T is None or not np.diff(sessions.turn_offset).all():
        raise ValueError(
            "rule likelihood reads how likely the last speaker finds the reference answer before every turn, and these sessions do not say, or "
            "have no turns: give SessionRecord.likelihoods"
        )
    last_T = np.zeros(len(before_T), dtype=bool)
    last_T[sessions.turn_offset[1:] - 1] = True
    after_T = np.append(before_T[1:], 0.0)
    after_T[last_T] = sessions.value_S
    change_T = after_T - before_T
    change_T = np.where(last_T | (change_T > 0), change_T, config.negative_slope * change_T)

    exact = config.last_gradient == "exact"
    residual_T, after, metrics = np.where(last_T & exact, before_T, change_T), state, {}
    for code, name in enumerate(sessions.roles):
        rows = np.flatnonzero((sessions.role_T == code) & ~last_T)
        if not len(rows):
            continue
        prompt_K, key = sessions.prompt_S[sessions.session_T[rows]], f"{name}/likelihood"
        others_K, has_K = _others(change_T[rows], prompt_K)
        residual_T[rows], beta, sums = _fitted(
            change_T[rows], before_T[rows], others_K, has_K, state.joints.get(key), history.decay
        )
        after = replace(after, joints={**after.joints, key: sums})
        metrics[f"{name}/likelihood_coefficient"], metrics[f"{name}/others_coefficient"] = beta.tolist()
        metrics |= variance_ratio(name, residual_T[rows], sessions.value_S[sessions.session_T[rows]])
    heard = before_T[last_T]
    metrics["credit/likelihood_alone"] = float(before_T[sessions.turn_offset[:-1]].mean())
    metrics["credit/likelihood_heard"] = float(heard.mean())
    metrics["credit/likelihood_gap"] = float(
        (sessions.value_S - heard).mean()
    )  # about 0 where v is the chance to be right
    credit_SV, residual_SV = np.zeros(shape), np.zeros(shape)
    credit_SV[sessions.session_T, sessions.role_T] = change_T
    residual_SV[sessions.session_T, sessions.role_T] = residual_T
    uncentred = tuple(sessions.roles[code] for code in np.unique(sessions.role_T[last_T])) if exact else ()
    return Credit(credit_SV, residual_SV, after, metrics, uncentred)


def _others(value_K: np.ndarray, prompt_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((K,) mean over the prompt's other entries, (K,) whether there are any)."""
    count_K = np.bincount(prompt_K)[prompt_K]
    total_K = np.bincount(prompt_K, weights=value_K)[prompt_K]
    return (total_K - value_K) / np.maximum(count_K - 1, 1), count_K > 1


def _fitted(
    u_K: np.ndarray,
    before_K: np.ndarray,
    others_K: np.ndarray,
    has_K: np.ndarray,
    old: Mapping[str, float] | None,
    decay: float,
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """((K,) u minus its controls with the OLD state's coefficients, (2,) these, the new state's sums)."""
    mean_v, mean_s = float(before_K.mean()), float(others_K[has_K].mean()) if has_K.any() else 0.0
    m_v, m_s, beta = mean_v, mean_s, np.zeros(2)
    if old:
        w = old["weight"]
        m_v, m_s = old["mean_v"] / w, old["mean_s"] / w
        moments = np.array([[old["vv"], old["vs"]], [old["vs"], old["ss"]]]) / w
        beta = np.linalg.solve(moments + _RIDGE * np.eye(2), np.array([old["vu"], old["su"]]) / w).clip(-1, 1)
        mean_s = mean_s if has_K.any() else m_s
    residual_K = u_K - beta[0] * (before_K - m_v) - beta[1] * np.where(has_K, others_K - m_s, 0.0)
    v, s, u = before_K - mean_v, np.where(has_K, others_K - mean_s, 0.0), u_K - u_K.mean()
    new = dict(
        zip(
            _SUMS,
            (mean_v, mean_s, *(float((a * b).mean()) for a, b in ((v, v), (v, s), (s, s), (v, u), (s, u)))),
            strict=True,
        )
    )
    new["weight"] = 1.0
    return residual_K, beta, {k: decay * (old[k] if old else 0.0) + (1 - decay) * x for k, x in new.items()}
