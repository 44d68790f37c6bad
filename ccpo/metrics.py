"""What is logged about credit. Names are chosen so that verl's reduction by SUBSTRING leaves them alone.

verl reduces metrics whose name contains max, min, sum or total in a special way (verl 0.9.1, `MetricsAggregator`); a name
such as ``dominance`` would be reduced with min. `reducible` says whether a name is safe; a test holds every name to it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ccpo.credit.history import HistoryState
from ccpo.credit.shared import group_normalize
from ccpo.credit.voting import leave_one_out, sessions_of
from ccpo.plurality import vote_value, winners
from ccpo.types import EMPTIED, REASON, SOLO, THINK, CreditTable, is_voter, voter_index

_RESERVED = ("max", "min", "sum", "total")


def reducible(name: str) -> bool:
    """Whether verl reduces this metric name as an average over parts of a step."""
    return not any(word in name.lower() for word in _RESERVED)


def credit_metrics(
    table: CreditTable,
    credit_R: np.ndarray,
    advantage_R: np.ndarray,
    state: HistoryState,
    roles: tuple[str, ...],
    *,
    beta: float | None = None,
    gate: float | None = None,
) -> dict[str, float]:
    """Scalars about one step's credit.

    Returns:
        ``<role>/{reward,credit,advantage}_{mean,std}`` for each of ``roles``; ``history/...``: the state after the step.
    """
    out: dict[str, float] = {}
    for role in roles:
        rows = table.rows_of(role)
        if not len(rows):
            continue
        for name, values_R in (("reward", table.reward_R), ("credit", credit_R), ("advantage", advantage_R)):
            values = np.asarray(values_R, dtype=float)[rows]
            out[f"{role}/{name}_mean"], out[f"{role}/{name}_std"] = float(values.mean()), float(values.std())
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


def dyad_metrics(table: CreditTable, advantage_R: np.ndarray) -> dict[str, float]:
    """``contribution/{marginal,help_rate,hurt_rate,same_rate}`` (where the prompt has a solo answer) and
    ``credit/cosine_with_shared/<role>``: cosine of the role's advantages with GRPO's on the team reward, 1 for GRPO itself.
    """
    out = contribution(table)
    out["credit/prompts_without_solo_rate"] = 1 - len(table.group_means(SOLO)) / max(1, len(set(table.group_R)))
    for role in (THINK, REASON):
        if (value := _cosine_with_shared(table, advantage_R, [role])) is not None:
            out[f"credit/cosine_with_shared/{role}"] = value
    return out


def _cosine_with_shared(table: CreditTable, advantage_R: np.ndarray, roles: Sequence[str]) -> float | None:
    rows = np.flatnonzero(np.isin(np.asarray(table.role_R, dtype=str), roles))
    keys = [(table.group_R[r], table.role_R[r]) for r in rows]
    return cosine(advantage_R[rows], group_normalize(np.asarray(table.reward_R, dtype=float)[rows], keys))


def vote_metrics(table: CreditTable, credit_R: np.ndarray, advantage_R: np.ndarray, tie: str) -> dict[str, float]:
    """What the votes of one step were like; means over sessions.

    ``vote/team_accuracy``: value of the plurality; ``voter_accuracy``: share of right voters; ``oracle_accuracy``: any voter right;
    ``agreement``: share of pairs of voters that cast the same ballot; ``entropy`` of the ballots cast, in nats; ``pivotal_rate``: share
    of voters without whom the value would differ; ``tie_rate``; ``abstention_rate``; ``outvoted_rate``: somebody was right and the
    value is 0; ``credit_right``, ``credit_wrong``: mean credit of right and of wrong ballots (absent without any);
    ``<role>/accuracy``: share of right ballots of one voter; ``credit/cosine_with_shared/voters``: see `dyad_metrics`.
    """
    stats: dict[str, list[float]] = defaultdict(list)
    credit: dict[bool, list[float]] = {True: [], False: []}
    right: dict[str, list[bool]] = defaultdict(list)
    for rows_SV, sessions, truth in sessions_of(table):
        for rows, ballots in zip(rows_SV, sessions, strict=True):
            for name, value in _session_stats(ballots, truth, tie).items():
                stats[name].append(value)
            for row, ballot in zip(rows, ballots, strict=True):
                right[table.role_R[row]].append(ballot is not None and ballot == truth)
                if ballot is not None:
                    credit[ballot == truth].append(float(credit_R[row]))
    out = {f"vote/{name}": float(np.mean(values)) for name, values in stats.items()}
    out |= {f"{role}/accuracy": float(np.mean(values)) for role, values in right.items()}
    for was_right, name in ((True, "credit_right"), (False, "credit_wrong")):
        if credit[was_right]:
            out[f"vote/{name}"] = float(np.mean(credit[was_right]))
    voters = sorted(set(table.role_R))
    if (value := _cosine_with_shared(table, advantage_R, voters)) is not None:
        out["credit/cosine_with_shared/voters"] = value
    return out


def _session_stats(ballots: list, truth: object, tie: str) -> dict[str, float]:
    voters = len(ballots)
    counts = Counter(ballot for ballot in ballots if ballot is not None)
    cast = sum(counts.values())
    value, right = vote_value(ballots, truth, tie), counts[truth]
    shares = np.array(list(counts.values()), dtype=float) / max(1, cast)
    return {
        "team_accuracy": value,
        "voter_accuracy": right / voters,
        "oracle_accuracy": float(right > 0),
        "agreement": sum(c * (c - 1) for c in counts.values()) / (voters * (voters - 1)),
        "entropy": float(-(shares * np.log(shares)).sum()) if cast else 0.0,
        "pivotal_rate": float(np.mean([credit != 0 for credit in leave_one_out(ballots, truth, tie)])),
        "tie_rate": float(len(winners(ballots)) > 1),
        "abstention_rate": 1 - cast / voters,
        "outvoted_rate": float(right > 0 and value == 0),
    }


def validation_scores(facts: Sequence[Mapping[str, Any]], tie: str) -> dict[str, float]:
    """Accuracies of one data source's validation rows; ``team_accuracy`` is the one to follow.

    Args:
        facts: one mapping per row, see `trajectory.RoleOutput`, with ``session``: a hashable key.
        tie: the vote's tie rule.

    Returns:
        Dyad: ``team_accuracy``, ``solo_accuracy``, ``emptied_accuracy``, ``marginal_contribution`` (team - solo).
        Vote: ``team_accuracy``, ``voter_accuracy``, ``oracle_accuracy``, ``voter_<i>_accuracy``. Both: ``sessions``.
    """
    facts = [fact for fact in facts if fact["final"]]
    if any(is_voter(str(fact["role"])) for fact in facts):
        return _vote_scores(facts, tie)
    names = {REASON: "team_accuracy", SOLO: "solo_accuracy", EMPTIED: "emptied_accuracy"}
    rewards = {role: [float(fact["reward"]) for fact in facts if fact["role"] == role] for role in names}
    out = {names[role]: float(np.mean(values)) for role, values in rewards.items() if values}
    if rewards[REASON] and rewards[SOLO]:
        out["marginal_contribution"] = out["team_accuracy"] - out["solo_accuracy"]
    return out | {"sessions": float(len(rewards[REASON]))}


def _vote_scores(facts: Sequence[Mapping[str, Any]], tie: str) -> dict[str, float]:
    sessions: dict[Any, list] = defaultdict(list)
    right: dict[str, list[bool]] = defaultdict(list)
    for fact in sorted(facts, key=lambda fact: voter_index(fact["role"])):
        sessions[fact["session"]].append(fact)
        right[fact["role"]].append(fact["ballot"] is not None and fact["ballot"] == fact["truth"])
    stats = [_session_stats([f["ballot"] for f in session], session[0]["truth"], tie) for session in sessions.values()]
    out = {
        name: float(np.mean([s[name] for s in stats]))
        for name in ("team_accuracy", "voter_accuracy", "oracle_accuracy")
    }
    out |= {f"{role}_accuracy": float(np.mean(values)) for role, values in right.items()}
    return out | {"sessions": float(len(stats))}


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
        flags = ("truncated", "leaked", "cut") if role == THINK else ("truncated", "parsed", "cut")
        rate = {flag: float(np.mean([bool(fact[flag]) for fact in rows])) for flag in flags}
        out[f"{role}/truncation_rate"] = rate["truncated"]
        if role == THINK or is_voter(role):
            out[f"{role}/cut_rate"] = rate["cut"]
        if role == THINK:
            out[f"{role}/leak_rate"] = rate["leaked"]
        else:
            out[f"{role}/parse_failure_rate"] = 1 - rate["parsed"]
    seen = len({fact["session"] for fact in facts})
    out["sessions/dropped_rate"] = 1 - seen / expected_sessions if expected_sessions else 0.0
    return out
