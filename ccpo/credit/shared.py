"""The baselines that every table must contain: the team's value for every role, and a coin in its place.

shared:          credit_i = R     (normalized by the group this is GRPO)
shared_history:  credit_i = R     (normalized by the history; no counterfactual: separates the two ideas)
random_reward:   credit_i = a fair coin of the session, 0 or 1, the same for every role

A coin of 1/2 is independent of everything that was said; one that falls 1 as often as the team was right would know how often it was.
Its expected gradient is 0, so what a run with it gains comes from elsewhere: clipping, the model's own habits, chance. It depends on the
step's number (`HistoryState.steps`), the session's position in the step and a fixed seed, never on the keys of prompts, which a trainer
may draw at random: the coin of position s is ``default_rng((COIN, steps)).random(S)[s] < 1/2``, and a resumed job throws the same ones.
Source of the control: Shao et al., "Spurious Rewards", arXiv 2506.10947, where it raised some models' scores.
"""

from __future__ import annotations

import numpy as np

from ccpo.credit.base import Credit, CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState
from ccpo.types import Sessions

COIN = 2506_10947
"""First half of the coins' seed; the second is the number of the step."""


def shared(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """(S, V) R wherever a role spoke. Source: GRPO on the team's reward."""
    return Credit.of(np.where(sessions.spoke_SV, sessions.value_S[:, None], 0.0), state)


def random_reward(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """(S, V) the session's coin wherever a role spoke. Sessions must come in an order that another run repeats."""
    coin_S = np.random.default_rng((COIN, state.steps)).random(len(sessions)) < 0.5
    return Credit.of(np.where(sessions.spoke_SV, coin_S[:, None], 0.0), state)
