"""Removal: what the team got beyond what it gets without a role.

    removal         credit_i = R - beta_i b_i                  b_i: value of the replay in which role i says nothing
    leave_one_out   credit_i = R - b_i                         the same under the paper's name, beta = 1
    counterfactual  credit_i = R - beta b                      b: the removal that serves all sessions of a prompt, for EVERY role
    residual_i      = R - beta (b - mu_b)                      mu_b: EMA of b; what the history normalizes

Where the replay reused no turn of the session (the first speaker was removed), it serves every session of the prompt: b is the mean over
the few that were decoded. Elsewhere b_i is the session's own. ``beta = 1`` is the paper's plain difference. The default is fitted from
the history,

    beta = clip(EMA[Cov(R, b)] / max(EMA[Var(b)], 1e-4), 0, 1)     old state; over prompts (their mean R) or sessions of a batch

and 0 at first, because with few replays b is a noisy estimate: where prompts are of similar difficulty, beta = 1 with one or two of
them has more variance than no baseline at all.

b_i depends on no token of role i in the session, in any of its turns: what heard the role is decoded anew (`ccpo.team.replay`). So
`removal` and `leave_one_out` are unbiased, for any number of rounds. `counterfactual` uses one role's removal for all: valid for those
whose turns it does not reuse, and the same number for every role, so it is a control variate and does not tell the roles apart. Removing
the last speaker leaves no answer, worth 0: its removal credit is R itself.
Without any shared replay (its sessions were dropped) b = mu_b: no control variate. Inside a group a shared b is a constant that centring
would remove, so it has to be normalized by the HISTORY. With ``siblings`` the prompt's other sessions are a second baseline
(`siblings.py`). On a plurality `removal` is `leave_one_out` with a fitted coefficient, which makes the credit vary less, not the gradient:
b is then made of the ballots that R is made of (tests/golden/test_flaws.py).
Source: R - R_without_i is the paper's principle; b as a control variate and the fit are our construction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ccpo.credit.base import Credit, CreditConfig, HistoryConfig, variance_ratio
from ccpo.credit.history import HistoryState
from ccpo.credit.siblings import observe_siblings, with_siblings
from ccpo.types import REMOVE, Sessions

_VAR_FLOOR = 1e-4  # below this variance of b the ratio is noise


@dataclass(frozen=True)
class Baseline:
    """Values of a role's removals. b_S: (S,), 0 where has_S is False. b_K, r_K: the pairs that the coefficient is fitted to."""

    b_S: np.ndarray
    has_S: np.ndarray
    b_K: np.ndarray
    r_K: np.ndarray


def baseline_of(sessions: Sessions, role: int) -> Baseline | None:
    """What the team gets without a role (a code); None: the step has no such replay."""
    shared = sessions.replays_of(REMOVE, role, shared=True)
    if len(shared):
        b_G, count_G = sessions.mean_by_prompt(sessions.prompt_S[sessions.session_P[shared]], sessions.value_P[shared])
        r_G, _ = sessions.mean_by_prompt(sessions.prompt_S, sessions.value_S)
        seen = count_G > 0
        return Baseline(b_G[sessions.prompt_S], seen[sessions.prompt_S], b_G[seen], r_G[seen])
    own = sessions.replays_of(REMOVE, role)
    if not len(own):
        return None
    count_S = np.bincount(sessions.session_P[own], minlength=len(sessions))
    total_S = np.bincount(sessions.session_P[own], weights=sessions.value_P[own], minlength=len(sessions))
    b_S, has_S = total_S / np.maximum(count_S, 1), count_S > 0
    return Baseline(b_S, has_S, b_S[has_S], sessions.value_S[has_S])


def fitted_coefficient(state: HistoryState, name: str) -> float:
    """beta of a baseline from the history, in [0, 1]; 0 before the first batch (no history: no control variate)."""
    sums = state.joints.get(name)
    if not sums:
        return 0.0
    return float(min(1.0, max(0.0, sums["cov"] / max(sums["var"], _VAR_FLOOR * sums["weight"]))))


def observe(state: HistoryState, name: str, base: Baseline, decay: float) -> HistoryState:
    """Update the EMA sums of mean b, Var(b) and Cov(R, b) with this batch."""
    b, r = base.b_K, base.r_K
    if not len(b):
        return state
    new = {
        "weight": 1.0,
        "mean_b": float(b.mean()),
        "var": float(b.var()),
        "cov": float(((b - b.mean()) * (r - r.mean())).mean()),
    }
    old = state.joints.get(name) or dict.fromkeys(new, 0.0)
    return replace(state, joints={**state.joints, name: {k: decay * old[k] + (1 - decay) * v for k, v in new.items()}})


def _against(
    sessions: Sessions, base: Baseline, state: HistoryState, name: str, config: CreditConfig
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """((S,) R - beta b, (S,) R - beta (b - mu_b), the coefficients by name)."""
    if config.siblings:
        credit_S, residual_S, betas = with_siblings(sessions, base.b_S, base.has_S, state, name)
        return credit_S, residual_S, dict(zip(("baseline", "siblings"), betas.tolist(), strict=True))
    coefficient = config.coefficient
    beta = fitted_coefficient(state, name) if coefficient is None else float(coefficient)
    sums = state.joints.get(name)
    mu_b = sums["mean_b"] / sums["weight"] if sums else (float(base.b_K.mean()) if len(base.b_K) else 0.0)
    b_S = np.where(base.has_S, base.b_S, mu_b)
    return sessions.value_S - beta * b_S, sessions.value_S - beta * (b_S - mu_b), {"baseline": beta}


def _learned(
    sessions: Sessions, base: Baseline, state: HistoryState, name: str, config: CreditConfig, decay: float
) -> HistoryState:
    if config.siblings:
        return observe_siblings(state, name, sessions, base.b_S, base.has_S, decay)
    return observe(state, name, base, decay)


def counterfactual(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """The shared removal as the baseline of every role.

    Raises ValueError when the step has no shared removal (every session with one was dropped).
    """
    first = np.unique(sessions.of_P[sessions.replays_of(REMOVE, shared=True)])
    if not len(sessions):
        return Credit.of(np.zeros(sessions.spoke_SV.shape), state)
    if len(first) != 1:
        raise ValueError(_missing("counterfactual"))
    name = sessions.roles[first[0]]
    base = baseline_of(sessions, int(first[0]))
    credit_S, residual_S, betas = _against(sessions, base, state, name, config)
    spoke = sessions.spoke_SV
    return Credit(
        np.where(spoke, credit_S[:, None], 0.0),
        np.where(spoke, residual_S[:, None], 0.0),
        _learned(sessions, base, state, name, config, history.decay),
        {f"credit/{which}_coefficient": beta for which, beta in betas.items()}
        | variance_ratio("credit", residual_S, sessions.value_S),
    )


def removal(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """Every role against its own removal.

    Raises ValueError when a role that spoke has no removal in the step.
    """
    return _own_baselines(sessions, state, config, history)


def leave_one_out(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """As `removal` with beta = 1 and nothing fitted. Source: the paper's removal principle."""
    credit = _own_baselines(sessions, state, replace(config, coefficient=1.0, siblings=False), history)
    ratios = {name: value for name, value in credit.metrics.items() if name.endswith("/variance_ratio")}
    return Credit(credit.credit_SV, credit.credit_SV, state, ratios)


def _own_baselines(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    spoke = sessions.spoke_SV
    credit_SV, residual_SV = np.zeros(spoke.shape), np.zeros(spoke.shape)
    after, metrics = state, {}
    for code, name in enumerate(sessions.roles):
        if not spoke[:, code].any():
            continue
        base = baseline_of(sessions, code)
        if base is None:
            raise ValueError(_missing("removal", name))
        credit_S, residual_S, betas = _against(sessions, base, state, name, config)
        credit_SV[:, code], residual_SV[:, code] = credit_S, residual_S
        after = _learned(sessions, base, after, name, config, history.decay)
        metrics |= {f"{name}/{which}_coefficient": beta for which, beta in betas.items()}
        rows = np.flatnonzero(spoke[:, code])
        metrics |= variance_ratio(name, residual_S[rows], sessions.value_S[rows])
    return Credit(np.where(spoke, credit_SV, 0.0), np.where(spoke, residual_SV, 0.0), after, metrics)


def _missing(rule: str, role: str | None = None) -> str:
    who = f" of {role}" if role else " that serves all sessions of a prompt"
    return f"rule {rule} compares with the removal{who}, and this step has none: every session with one was dropped, or none was asked for"
