"""The baselines that every table must contain: the team reward for every role.

shared:          credit_i = R_joint     (normalized by the group this is GRPO)
shared_history:  credit_i = R_joint     (normalized by the history; no counterfactual: separates the two ideas)
"""

from __future__ import annotations

import numpy as np

from ccpo.types import CreditTable


def shared_credit(table: CreditTable) -> np.ndarray:
    """(R,) the row's own outcome: the team reward for think and reason, its own reward for solo."""
    return np.asarray(table.reward_R, dtype=float).copy()


def group_normalize(values: np.ndarray, keys: list, *, by_std: bool = True, eps: float = 1e-6) -> np.ndarray:
    """GRPO's normalization: (v - mean of the group) / (sample standard deviation of the group + eps).

    Args:
        values: (K,) values.
        keys: K hashable group keys; groups may be ragged.
        by_std: divide by the standard deviation (Bessel-corrected, as torch.std).
        eps: added to the standard deviation.

    Returns:
        (K,) normalized values. A group of one gets 0: it says nothing about its own baseline. (verl's GRPO passes such a
        reward through unchanged; a group of one appears here only when other sessions of the prompt were dropped.)

    Source: GRPO (arXiv 2402.03300, section 4.1), verl `compute_grpo_outcome_advantage`.
    """
    values = np.asarray(values, dtype=float)
    out = np.zeros_like(values)
    groups: dict = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    for rows in groups.values():
        if len(rows) < 2:
            continue
        part = values[rows]
        centred = part - part.mean()
        out[rows] = centred / (part.std(ddof=1) + eps) if by_std else centred
    return out
