"""How likely the last speaker finds the reference answers of a step, as `ccpo.verl_plugin.reference` has the actor say it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ccpo.compact.policy import Policy
from ccpo.compact.rollout import PlayedRow
from ccpo.compact.update import TrainedTurn, log_probs


def likelihoods(played: Sequence[PlayedRow], policy: Policy) -> dict[str, np.ndarray]:
    """What `Sessions` are told of them: ``likelihood_T``, ``behind_S``, ``said_S``; every distinct row is scored once. ``policy``: the last
    speaker's."""
    number: dict[TrainedTurn, int] = {}

    def place(read: Sequence[int], answer: Sequence[int]) -> int:
        return number.setdefault(TrainedTurn(tuple(read), tuple(answer), 0.0), len(number))

    of_T, of_S = [], []
    for one in played:
        of_T += [place(policy.prompt(messages), one.reference) for messages in one.played.cuts]
        of_S.append(-1 if one.behind is None else place(chain(one), one.behind.answer))
    with torch.no_grad():
        log_probs_BT, mask_BT = log_probs(policy.model, list(number), temperature=1.0)
    scores = (log_probs_BT * mask_BT).double().sum(dim=1).exp().clamp(max=1.0).numpy()
    said_S = [one.behind is not None and one.behind.said for one in played]
    return {
        "likelihood_T": scores[of_T],
        "behind_S": np.append(scores, np.nan)[of_S],
        "said_S": np.array(said_S, dtype=bool),
    }


def chain(one: PlayedRow) -> list[int]:
    """What the last speaker of a session with a border read and said before its answer."""
    read, said = one.played.turns[-1].payload
    return [*read, *said[: one.behind.length]]
