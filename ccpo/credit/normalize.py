"""Credit -> advantage.

    history        (c - mu) / sigma                     statistics over all steps so far (`history.py`)
    group          (c - mean) / (std + 1e-6)            of the prompt's sessions, role by role: GRPO
    centred        c - mean                             the same without the deviation: Dr. GRPO (RLOO x (n - 1) / n)
    history+group  group after history                  as paper_v1 does; elsewhere it equals group
    none           c

Statistics are per role over what is in the records, never over a configured list. The group's deviation reweights prompts: with n = 8
sessions a prompt of accuracy p counts 1.74 times its share of the gradient at p = .5, 2.18 at .1, 2.41 at .02; centred does not.
Source: GRPO (arXiv 2402.03300, section 4.1), verl `compute_grpo_outcome_advantage`; Dr. GRPO (arXiv 2503.20783).
"""

from __future__ import annotations

import numpy as np

NORMALIZATIONS = ("history", "group", "centred", "history+group", "none")
EPS = 1e-6


def group_normalize(values_K: np.ndarray, group_K: np.ndarray, *, by_std: bool = True) -> np.ndarray:
    """(v - mean of the group), over (sample standard deviation of the group + EPS) if ``by_std``.

    Args:
        values_K: (K,) values.
        group_K: (K,) int group of each value, 0 <= group; groups may be ragged.
        by_std: divide by the standard deviation (Bessel-corrected, as torch.std).

    Returns:
        (K,) normalized values. A group of one gets 0: it says nothing about its own baseline. (verl's GRPO passes such a
        reward through unchanged; a group of one appears here only when other sessions of the prompt were dropped.)
    """
    values_K = np.asarray(values_K, dtype=float)
    count = np.bincount(group_K)
    mean = np.bincount(group_K, weights=values_K) / np.maximum(count, 1)
    centred_K = np.where(count[group_K] > 1, values_K - mean[group_K], 0.0)
    if not by_std:
        return centred_K
    std = np.sqrt(np.bincount(group_K, weights=centred_K**2) / np.maximum(count - 1, 1))
    return centred_K / (std[group_K] + EPS)


def group_normalize_roles(value_SV: np.ndarray, prompt_S: np.ndarray, spoke_SV: np.ndarray, by_std: bool) -> np.ndarray:
    """(S, V) every role by itself, over the sessions of a prompt in which it spoke; 0 elsewhere."""
    out_SV = np.zeros_like(value_SV)
    for role in range(value_SV.shape[1]):
        rows = np.flatnonzero(spoke_SV[:, role])
        if len(rows):
            out_SV[rows, role] = group_normalize(value_SV[rows, role], prompt_S[rows], by_std=by_std)
    return out_SV
