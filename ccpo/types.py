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
VOTER = "voter_"
"""Roles of a vote are ``voter_0`` .. ``voter_{N-1}``."""


def voter_role(index: int) -> str:
    return f"{VOTER}{index}"


def voter_index(role: str) -> int:
    """Inverse of `voter_role`. Raises ValueError for any other role."""
    head, _, number = role.rpartition("_")
    if f"{head}_" != VOTER or not number.isdecimal():
        raise ValueError(f"{role!r} is no voter: roles of a vote are {VOTER}0, {VOTER}1, ...")
    return int(number)


def is_voter(role: str) -> bool:
    return role.startswith(VOTER) and role[len(VOTER) :].isdecimal()


@dataclass(frozen=True)
class CreditTable:
    """One step's trajectories, keyed, never positional: groups may be ragged and rows may come in any order.

    group_R:   (R,) hashable prompt key (verl: uid)
    session_R: (R,) int, session of the group; a session holds at most one row per role
    role_R:    (R,) str
    reward_R:  (R,) float, the row's OWN outcome: team reward for think, reason and voters, its own for solo
    ballot_R:  (R,) hashable answer label per voter row, None for an abstention; votes only
    truth_R:   (R,) the prompt's correct label; votes only

    Raises ValueError for unequal lengths, non-finite rewards, unknown roles, or two rows with one (group, session, role).
    """

    group_R: np.ndarray
    session_R: np.ndarray
    role_R: np.ndarray
    reward_R: np.ndarray
    ballot_R: np.ndarray | None = None
    truth_R: np.ndarray | None = None

    def __post_init__(self):
        rows = len(self.group_R)
        for name in ("session_R", "role_R", "reward_R", "ballot_R", "truth_R"):
            column = getattr(self, name)
            got = rows if column is None else len(column)
            if got != rows:
                raise ValueError(
                    f"CreditTable.{name} has {got} rows, group_R has {rows}: pass one value per trajectory"
                )
        if not np.isfinite(np.asarray(self.reward_R, dtype=float)).all():
            bad = int(np.flatnonzero(~np.isfinite(np.asarray(self.reward_R, dtype=float)))[0])
            raise ValueError(f"reward of row {bad} is not finite: a verdict must be a number, the step is not counted")
        if unknown := {role for role in set(self.role_R) - set(CREDITED) if not is_voter(role)}:
            raise ValueError(
                f"roles {sorted(unknown)} get no credit: pass rows of {', '.join(CREDITED)}, or of {VOTER}0, {VOTER}1, ... only"
            )
        keys = Counter(zip(self.group_R, self.session_R, self.role_R, strict=True))
        if len(keys) != rows:
            double = keys.most_common(1)[0][0]
            raise ValueError(f"two rows with (group, session, role) = {double}: a session plays each role once")

    @classmethod
    def from_rows(cls, rows: list[tuple]) -> CreditTable:
        """Build from (group, session, role, reward) tuples, or for votes (group, session, role, reward, ballot, truth)."""
        columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
        groups, sessions, roles, rewards, *votes = columns
        return cls(
            _objects(groups),
            np.array(sessions, dtype=int),
            np.array(roles, dtype=object),
            np.array(rewards, dtype=float),
            *map(_objects, votes),
        )

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


def _objects(values: Any) -> np.ndarray:
    """(K,) object array; numpy would make a matrix of tuples."""
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


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
