"""The vocabulary of the pure code: what goes into a credit rule and what comes out.

Suffixes of array names: ``_R`` rows (one per trajectory), ``_G`` groups (one per prompt), ``_S`` sessions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

THINK, REASON, SOLO, EMPTIED = "think", "reason", "solo", "emptied"
"""Roles of the dyad. ``solo`` is Reason without a thought (the counterfactual); ``emptied`` is Reason with an empty thought
(validation only: what the team does when Think falls silent)."""
CREDITED = (THINK, REASON, SOLO)


@dataclass(frozen=True)
class CreditTable:
    """One step's trajectories, keyed, never positional: groups may be ragged and rows may come in any order.

    group_R:   (R,) hashable prompt key (verl: uid)
    session_R: (R,) int, session of the group; a session holds at most one row per role
    role_R:    (R,) str
    reward_R:  (R,) float, the row's OWN outcome: team reward for think and reason, its own for solo

    Raises ValueError for unequal lengths, non-finite rewards, unknown roles, or two rows with one (group, session, role).
    """

    group_R: np.ndarray
    session_R: np.ndarray
    role_R: np.ndarray
    reward_R: np.ndarray

    def __post_init__(self):
        rows = len(self.group_R)
        for name in ("session_R", "role_R", "reward_R"):
            got = len(getattr(self, name))
            if got != rows:
                raise ValueError(f"CreditTable.{name} has {got} rows, group_R has {rows}: pass one value per trajectory")
        if not np.isfinite(np.asarray(self.reward_R, dtype=float)).all():
            bad = int(np.flatnonzero(~np.isfinite(np.asarray(self.reward_R, dtype=float)))[0])
            raise ValueError(f"reward of row {bad} is not finite: a verdict must be a number, the step is not counted")
        if unknown := set(self.role_R) - set(CREDITED):
            raise ValueError(f"roles {sorted(unknown)} get no credit: pass rows of {', '.join(CREDITED)} only")
        keys = Counter(zip(self.group_R, self.session_R, self.role_R, strict=True))
        if len(keys) != rows:
            double = keys.most_common(1)[0][0]
            raise ValueError(f"two rows with (group, session, role) = {double}: a session plays each role once")

    @classmethod
    def from_rows(cls, rows: list[tuple[Any, int, str, float]]) -> CreditTable:
        """Build from (group, session, role, reward) tuples."""
        groups, sessions, roles, rewards = zip(*rows, strict=True) if rows else ((), (), (), ())
        group_R = np.empty(len(rows), dtype=object)
        group_R[:] = groups
        return cls(group_R, np.array(sessions, dtype=int), np.array(roles, dtype=object), np.array(rewards, dtype=float))

    def __len__(self) -> int:
        return len(self.group_R)

    def rows_of(self, role: str) -> np.ndarray:
        """(K,) indices of the rows of one role."""
        return np.flatnonzero(np.asarray(self.role_R) == role)

    def group_means(self, role: str) -> dict[Any, float]:
        """Mean reward of a role per group; groups without that role are absent."""
        values: dict[Any, list[float]] = {}
        for row in self.rows_of(role):
            values.setdefault(self.group_R[row], []).append(float(self.reward_R[row]))
        return {group: float(np.mean(v)) for group, v in values.items()}


@dataclass(frozen=True)
class CreditResult:
    """What a rule says about every row of the table.

    credit_R:    (R,) contribution in reward units, before normalization
    advantage_R: (R,) what the policy gradient multiplies every token of the row with; 0 for rows that are not trained
    state:       the history after this step (the argument is unchanged)
    metrics:     scalars about the step, without prefix
    """

    credit_R: np.ndarray
    advantage_R: np.ndarray
    state: Any
    metrics: dict[str, float] = field(default_factory=dict)
