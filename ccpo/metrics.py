"""What is logged about credit. Names are chosen so that verl's reduction by SUBSTRING leaves them alone.

verl reduces metrics whose name contains max, min, sum or total in a special way (verl 0.9.1, `MetricsAggregator`); a name
such as ``dominance`` would be reduced with min. `reducible` says whether a name is safe; a test holds every name to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ccpo.credit.history import HistoryState
from ccpo.credit.shared import group_normalize
from ccpo.types import REASON, SOLO, THINK, CreditTable

_RESERVED = ("max", "min", "sum", "total")


def reducible(name: str) -> bool:
    """Whether verl reduces this metric name as an average over parts of a step."""
    return not any(word in name.lower() for word in _RESERVED)


def credit_metrics(
    table: CreditTable,
    credit_R: np.ndarray,
    advantage_R: np.ndarray,
    state: HistoryState,
    *,
    beta: float | None = None,
    gate: float | None = None,
) -> dict[str, float]:
    """Scalars about one step's credit.

    Returns:
        ``<role>/{reward,credit,advantage}_{mean,std}``; ``contribution/{marginal,help_rate,hurt_rate,same_rate}`` (where the
        prompt has a solo answer); ``credit/cosine_with_shared/<role>``: cosine of the role's advantages with GRPO's on the team
        reward, 1 for GRPO itself; ``history/...``: the state after the step.
    """
    out: dict[str, float] = {}
    for role in (THINK, REASON, SOLO):
        rows = table.rows_of(role)
        if not len(rows):
            continue
        for name, values_R in (("reward", table.reward_R), ("credit", credit_R), ("advantage", advantage_R)):
            values = np.asarray(values_R, dtype=float)[rows]
            out[f"{role}/{name}_mean"], out[f"{role}/{name}_std"] = float(values.mean()), float(values.std())
    out |= contribution(table)
    out["credit/prompts_without_solo_rate"] = 1 - len(table.group_means(SOLO)) / max(1, len(set(table.group_R)))
    for role in (THINK, REASON):
        rows = table.rows_of(role)
        grpo = group_normalize(np.asarray(table.reward_R, dtype=float)[rows], [table.group_R[r] for r in rows])
        if (value := cosine(advantage_R[rows], grpo)) is not None:
            out[f"credit/cosine_with_shared/{role}"] = value
    if beta is not None:
        out["credit/baseline_coefficient"] = beta
    if gate is not None:
        out["credit/gate"] = gate
    out["history/steps"] = float(state.steps)
    for name, stream in state.streams.items():
        out[f"history/{name}/mean"], out[f"history/{name}/std"] = stream.mean, stream.std
    for name, (mean, variance) in state.paper.items():
        out[f"history/paper_{name}/mean"], out[f"history/paper_{name}/std"] = mean, variance**0.5
    return out


def contribution(table: CreditTable) -> dict[str, float]:
    """What Think changed, with b the prompt's mean solo reward and R the team reward of each session.

    marginal = mean(R - b); help = mean(R (1 - b)): right where an independent solo answer would be wrong; hurt = mean((1 - R) b);
    same = 1 - help - hurt. Empty where no prompt has a solo answer. Source: removal principle of the paper; the rates with an
    independent solo answer are our construction.
    """
    solo = table.group_means(SOLO)
    rows = [r for r in table.rows_of(REASON) if table.group_R[r] in solo]
    if not rows:
        return {}
    reward = np.asarray(table.reward_R, dtype=float)[rows]
    b = np.array([solo[table.group_R[r]] for r in rows])
    helped, hurt = float((reward * (1 - b)).mean()), float(((1 - reward) * b).mean())
    return {
        "contribution/marginal": float((reward - b).mean()),
        "contribution/help_rate": helped,
        "contribution/hurt_rate": hurt,
        "contribution/same_rate": 1 - helped - hurt,
    }


def cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    """Cosine of two vectors; None when one of them is zero."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / norm if norm > 0 else None


def session_rates(facts: list[Mapping[str, object]], expected_sessions: int) -> dict[str, float]:
    """Health of one step's sessions.

    Args:
        facts: one mapping per row with ``role``, ``session`` (hashable key) and the flags ``parsed``, ``truncated``,
            ``leaked``, ``cut`` (a flag that does not apply to the role is False).
        expected_sessions: prompts x n.

    Returns:
        ``think/{leak_rate,cut_rate}``, ``<role>/truncation_rate``, ``<role>/parse_failure_rate`` for answering roles, and
        ``sessions/dropped_rate``.
    """
    out: dict[str, float] = {}
    for role in sorted({str(fact["role"]) for fact in facts}):
        rows = [fact for fact in facts if fact["role"] == role]
        flags = ("truncated", "leaked", "cut") if role == THINK else ("truncated", "parsed")
        rate = {flag: float(np.mean([bool(fact[flag]) for fact in rows])) for flag in flags}
        out[f"{role}/truncation_rate"] = rate["truncated"]
        if role == THINK:
            out[f"{role}/leak_rate"], out[f"{role}/cut_rate"] = rate["leaked"], rate["cut"]
        else:
            out[f"{role}/parse_failure_rate"] = 1 - rate["parsed"]
    seen = len({fact["session"] for fact in facts})
    out["sessions/dropped_rate"] = 1 - seen / expected_sessions if expected_sessions else 0.0
    return out
