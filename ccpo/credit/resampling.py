"""Resampling: what the team got beyond what it gets when the role speaks again.

    credit_i = R - mean over replays of R(role i says something else)

What heard the role is decoded anew, what did not is the session's own. So each role has a baseline of its own, and the rule tells the
roles apart: a turn is compared with other turns of the same role in the same place. A role that everything depends on (the first
speaker) needs no decode: a replay would reuse nothing, and the prompt's other sessions are such replays,

    credit_i = R - mean of R over the prompt's other sessions

The baseline depends on no token of role i in the session, so the rule is unbiased for the tokens of every turn (tests/golden). With a
dyad it is the tree of two answers per thought. A session without another of its prompt has nothing to compare with: credit 0.
Source: our construction (the counterfactual baseline of COMA, arXiv 1705.08926, by decoding; the branches of tree search methods).
"""

from __future__ import annotations

import numpy as np

from ccpo.credit.base import Credit, CreditConfig, HistoryConfig, variance_ratio
from ccpo.credit.history import HistoryState
from ccpo.credit.siblings import others
from ccpo.types import RESAMPLE, Sessions


def resampling(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """Every role against its own resampled turns, or where the step has no such replay against the prompt's other sessions."""
    spoke = sessions.spoke_SV
    credit_SV = np.zeros(spoke.shape)
    others_S, siblings_S = others(sessions)
    metrics: dict[str, float] = {}
    for code, name in enumerate(sessions.roles):
        rows = sessions.replays_of(RESAMPLE, code)
        baseline_S, has_S = others_S, siblings_S
        if len(rows):
            count_S = np.bincount(sessions.session_P[rows], minlength=len(sessions))
            total_S = np.bincount(sessions.session_P[rows], weights=sessions.value_P[rows], minlength=len(sessions))
            baseline_S, has_S = total_S / np.maximum(count_S, 1), count_S > 0
        credit_SV[:, code] = np.where(has_S, sessions.value_S - baseline_S, 0.0)
        compared_S = has_S & spoke[:, code]
        metrics |= variance_ratio(name, credit_SV[compared_S, code], sessions.value_S[compared_S])
    credit_SV = np.where(spoke, credit_SV, 0.0)
    return Credit(credit_SV, credit_SV, state, metrics)
