"""How likely the last speaker finds the reference answers of a step, as `ccpo.verl_plugin.reference` has the actor say it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ccpo.compact.policy import Policy
from ccpo.compact.rollout import PlayedRow
from ccpo.compact.update import TrainedTurn, log_probs


def likelihoods(played: Sequence[PlayedRow], policy: Policy) -> np.ndarray:
    """(T,) before each turn of the sessions; every distinct prompt is scored once. ``policy``: the last speaker's."""
    number: dict[TrainedTurn, int] = {}
    of_T = [
        number.setdefault(TrainedTurn(tuple(policy.prompt(messages)), one.reference, 0.0), len(number))
        for one in played
        for messages in one.played.cuts
    ]
    with torch.no_grad():
        log_probs_BT, mask_BT = log_probs(policy.model, list(number), temperature=1.0)
    return (log_probs_BT * mask_BT).double().sum(dim=1).exp().clamp(max=1.0).numpy()[of_T]
