"""The baselines that every table must contain: the team's value for every role.

shared:          credit_i = R     (normalized by the group this is GRPO)
shared_history:  credit_i = R     (normalized by the history; no counterfactual: separates the two ideas)
"""

from __future__ import annotations

import numpy as np

from ccpo.credit.base import Credit, CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState
from ccpo.types import Sessions


def shared(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """(S, V) R wherever a role spoke. Source: GRPO on the team's reward."""
    return Credit.of(np.where(sessions.spoke_SV, sessions.value_S[:, None], 0.0), state)
