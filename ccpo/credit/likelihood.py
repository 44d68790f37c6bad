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
``reference_after: chain`` or `resampling` there. For those before, u_i leaves out what turn i changes about the turns between it and the
answer (they are removed in v_(i+1), too): it is biased. tests/golden/test_unbiased.py proves each of this.

``reference_after: chain`` is for a last speaker that writes a chain z before its answer. What it sampled is kept up to where the answer begins
(`ccpo.reference.behind`: a border in its own tokens, decided by those before it), and

    Q          = pi_last(a* | turns, z)            a*: the reference's answer from there on, another forward pass and no decode
    value      = R + gamma (Q - [it went on with a*])      where a* alone is right and gamma is 1, this is Q: no sampled verdict is left
    gamma      = clip(EMA[Cov(R, [a*] - Q)] / (EMA[([a*] - Q)^2] + 1e-4), 0, 1)        old state; 1 at first
    residual_i = value - beta_v (v_i - m_v) - beta_s (s_i - m_s)       every turn, the last one's up to the border; s_i: the others' mean value
    credit_i   = value - beta_v v_i - beta_s s_i
    answer     = R - gamma Q - (1 - gamma) (beta_v v + beta_s s)       the last speaker's tokens behind the border

Q - [a*] has expectation 0 whatever was said before the border. So value is unbiased for every token before it, of all roles, whatever is right and
however it is spelled; answer is for those behind it, as Q depends on none of them. Of one number for the whole turn the answer would learn
nothing: Q says nothing of it. A session without a border (metric fallback_rate) keeps R, for its whole turn. Where a* is often said and wrong, or
something else is right, gamma falls: the value is never noisier than R for long. Proven in tests/golden/test_behind_the_chain.py.

``last_gradient: exact`` trains the last speaker on y* instead of what it said, with residual v, which is not centred: v grad log pi(y*) is
grad v, the gradient that R - v has in expectation where the last speaker answers at once and in one spelling. It takes the noise of its own answer
away, reads the reference's text into the weights, and is biased elsewhere.

``negative_slope`` c < 1 makes u_i = max(u_i, 0) + c min(u_i, 0): for a role that says nothing of use because every attempt costs more than
silence. BIASED on purpose: it rewards attempts that help now and then although they harm as often.

Source: our construction. Kin: VeriFree (arXiv 2505.21493: likelihood of the reference answer behind a sampled chain of one agent, in place of a
verifier, with the exact gradient for the answer; it warns of tokens that straddle the border), RLPR (arXiv 2506.18254: its mean token
probability).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ccpo.credit.base import Credit, CreditConfig, HistoryConfig, variance_ratio
from ccpo.credit.history import HistoryState
from ccpo.types import Sessions

_RIDGE = 1e-4  # below this variance of a control its coefficient is noise
_CHAIN = "/answer"  # of the history: the coefficient of the answer's chance. A role may be called "answer", and has a joint of its own
_SUMS = ("mean_v", "mean_s", "vv", "vs", "ss", "vu", "su")


def likelihood(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """Every turn against the run without it and without what came after; or, with ``reference_after=chain``, the session's own value with less
    noise against what was known before the turn.

    Raises ValueError when the sessions have no likelihoods.
    """
    if not len(sessions):
        return Credit.of(np.zeros(sessions.spoke_SV.shape), state)
    chain = config.reference_after == "chain"
    if (
        sessions.likelihood_T is None
        or (chain and sessions.behind_S is None)
        or not np.diff(sessions.turn_offset).all()
    ):
        raise ValueError(
            "rule likelihood reads how likely the last speaker finds the reference answer before every turn, and these sessions do not say, or "
            "have no turns: give SessionRecord.likelihoods"
        )
    last_T = np.zeros(len(sessions.likelihood_T), dtype=bool)
    last_T[sessions.turn_offset[1:] - 1] = True
    credit = _behind_the_chain if chain else _at_once
    return credit(sessions, last_T, state, config, history)


def _at_once(
    sessions: Sessions, last_T: np.ndarray, state: HistoryState, config: CreditConfig, history: HistoryConfig
) -> Credit:
    before_T = sessions.likelihood_T
    after_T = np.append(before_T[1:], 0.0)
    after_T[last_T] = sessions.value_S
    change_T = after_T - before_T
    change_T = np.where(last_T | (change_T > 0), change_T, config.negative_slope * change_T)
    exact = config.last_gradient == "exact"
    residual_T, _, after, metrics = _controlled(sessions, change_T, ~last_T, state, history.decay)
    residual_T = np.where(last_T & exact, before_T, residual_T)
    metrics |= _told(sessions, last_T)
    gap_S = sessions.value_S - before_T[last_T]
    metrics["credit/likelihood_gap"] = float(gap_S.mean())  # about 0 where v is the chance to be right
    uncentred = tuple(sessions.roles[code] for code in np.unique(sessions.role_T[last_T])) if exact else ()
    return Credit(_by_role(sessions, change_T), _by_role(sessions, residual_T), after, metrics, uncentred)


def _behind_the_chain(
    sessions: Sessions, last_T: np.ndarray, state: HistoryState, config: CreditConfig, history: HistoryConfig
) -> Credit:
    found_S = ~np.isnan(sessions.behind_S)
    chance_S = np.where(found_S, sessions.said_S - sessions.behind_S, 0.0)
    gamma, sums = _share(sessions.value_S[found_S], chance_S[found_S], state.joints.get(_CHAIN), history.decay)
    worth_T = (sessions.value_S - gamma * chance_S)[sessions.session_T]
    residual_T, baseline_T, after, metrics = _controlled(
        sessions, worth_T, np.ones(len(last_T), dtype=bool), state, history.decay
    )
    answer_S = sessions.value_S - gamma * sessions.behind_S - (1 - gamma) * baseline_T[last_T]
    metrics |= _told(sessions, last_T)
    metrics["credit/fallback_rate"] = float(1 - found_S.mean())
    metrics["credit/answer_coefficient"] = gamma
    if found_S.any():
        after = replace(after, joints={**after.joints, _CHAIN: sums})
        metrics["credit/likelihood_behind"] = float(sessions.behind_S[found_S].mean())
        metrics["credit/likelihood_gap"] = float(chance_S[found_S].mean())  # about 0 where what is scored was sampled
    credit_SV, residual_SV = _by_role(sessions, worth_T - baseline_T), _by_role(sessions, residual_T)
    return Credit(credit_SV, residual_SV, after, metrics, answer_S=answer_S)


def _share(
    r_K: np.ndarray, chance_K: np.ndarray, old: Mapping[str, float] | None, decay: float
) -> tuple[float, dict[str, float]]:
    """(how much of the answer's chance R is made of, by the OLD state; the new state's sums)."""
    gamma = 1.0 if not old else float(np.clip(old["dr"] / (old["dd"] + _RIDGE * old["weight"]), 0, 1))
    if not len(r_K):
        return gamma, {}
    new = {"weight": 1.0, "dd": float((chance_K**2).mean()), "dr": float((chance_K * (r_K - r_K.mean())).mean())}
    return gamma, {name: decay * (old[name] if old else 0.0) + (1 - decay) * value for name, value in new.items()}


def _told(sessions: Sessions, last_T: np.ndarray) -> dict[str, float]:
    before_T = sessions.likelihood_T
    return {
        "credit/likelihood_alone": float(before_T[sessions.turn_offset[:-1]].mean()),
        "credit/likelihood_heard": float(before_T[last_T].mean()),
    }


def _by_role(sessions: Sessions, values_T: np.ndarray) -> np.ndarray:
    """(S, V): every role speaks once."""
    values_SV = np.zeros(sessions.spoke_SV.shape)
    values_SV[sessions.session_T, sessions.role_T] = values_T
    return values_SV


def _controlled(
    sessions: Sessions, target_T: np.ndarray, which_T: np.ndarray, state: HistoryState, decay: float
) -> tuple[np.ndarray, np.ndarray, HistoryState, dict[str, float]]:
    """((T,) the target, of the turns ``which_T`` minus their centred controls, (T,) the controls times their coefficients, not centred, the new
    state, metrics of every role)."""
    residual_T, baseline_T, after, metrics = target_T.copy(), np.zeros(len(target_T)), state, {}
    for code, name in enumerate(sessions.roles):
        rows = np.flatnonzero((sessions.role_T == code) & which_T)
        if not len(rows):
            continue
        session_K, key = sessions.session_T[rows], f"{name}/likelihood"
        others_K, has_K = _others(target_T[rows], sessions.prompt_S[session_K])
        residual_T[rows], baseline_T[rows], beta, sums = _fitted(
            target_T[rows], sessions.likelihood_T[rows], others_K, has_K, state.joints.get(key), decay
        )
        after = replace(after, joints={**after.joints, key: sums})
        metrics[f"{name}/likelihood_coefficient"], metrics[f"{name}/others_coefficient"] = beta.tolist()
        metrics |= variance_ratio(name, residual_T[rows], sessions.value_S[session_K])
    return residual_T, baseline_T, after, metrics


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
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, float]]:
    """((K,) u minus its centred controls with the OLD state's coefficients, (K,) these controls times the coefficients, not centred; what is
    missing counts as its mean, (2,) the coefficients, the new state's sums)."""
    mean_v, mean_s = float(before_K.mean()), float(others_K[has_K].mean()) if has_K.any() else 0.0
    m_v, m_s, beta = mean_v, mean_s, np.zeros(2)
    if old:
        w = old["weight"]
        m_v, m_s = old["mean_v"] / w, old["mean_s"] / w
        moments = np.array([[old["vv"], old["vs"]], [old["vs"], old["ss"]]]) / w
        beta = np.linalg.solve(moments + _RIDGE * np.eye(2), np.array([old["vu"], old["su"]]) / w).clip(-1, 1)
        mean_s = mean_s if has_K.any() else m_s
    others_K = np.where(has_K, others_K, m_s)
    residual_K = u_K - beta[0] * (before_K - m_v) - beta[1] * (others_K - m_s)
    baseline_K = beta[0] * before_K + beta[1] * others_K
    v, s, u = before_K - mean_v, np.where(has_K, others_K - mean_s, 0.0), u_K - u_K.mean()
    new = dict(
        zip(
            _SUMS,
            (mean_v, mean_s, *(float((a * b).mean()) for a, b in ((v, v), (v, s), (s, s), (v, u), (s, u)))),
            strict=True,
        )
    )
    new["weight"] = 1.0
    return residual_K, baseline_K, beta, {k: decay * (old[k] if old else 0.0) + (1 - decay) * x for k, x in new.items()}
