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

from ccpo.credit.base import Credit, CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState
from ccpo.types import RESAMPLE, Sessions


def resampling(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """Every role against its own resampled turns, or where the step has no such replay against the prompt's other sessions."""
    spoke = sessions.spoke_SV
    credit_SV = np.zeros(spoke.shape)
    mean_G, count_G = sessions.mean_by_prompt(sessions.prompt_S, sessions.value_S)
    n_S = count_G[sessions.prompt_S]
    others_S = (mean_G[sessions.prompt_S] * n_S - sessions.value_S) / np.maximum(n_S - 1, 1)
    against_others_S = np.where(n_S > 1, sessions.value_S - others_S, 0.0)
    for code in range(len(sessions.roles)):
        rows = sessions.replays_of(RESAMPLE, code)
        if not len(rows):
            credit_SV[:, code] = against_others_S
            continue
        count_S = np.bincount(sessions.session_P[rows], minlength=len(sessions))
        total_S = np.bincount(sessions.session_P[rows], weights=sessions.value_P[rows], minlength=len(sessions))
        own_S = sessions.value_S - total_S / np.maximum(count_S, 1)
        credit_SV[:, code] = np.where(count_S > 0, own_S, 0.0)
    return Credit.of(np.where(spoke, credit_SV, 0.0), state)
