"""What is logged about credit. Names are chosen so that verl's reduction by SUBSTRING leaves them alone.

verl reduces metrics whose name contains max, min, sum or total in a special way (verl 0.9.1, `MetricsAggregator`); a name
such as ``dominance`` would be reduced with min. `reducible` says whether a name is safe; a test holds every name to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ccpo.credit.history import HistoryState
from ccpo.credit.normalize import group_normalize_roles
from ccpo.credit.removal import baseline_of
from ccpo.plurality import counts_of_codes, values_of_codes, values_without
from ccpo.types import ABSTAINED, INTERVENTIONS, NO_BALLOT, RIGHT, Sessions

_RESERVED = ("max", "min", "sum", "total")
FAMILIES = ("credit", "history", "plurality", "replays", "sessions")
"""First words of metric names that are not about one role: no role may be called so."""


def reducible(name: str) -> bool:
    """Whether verl reduces this metric name as an average over parts of a step."""
    return not any(word in name.lower() for word in _RESERVED)


def step_metrics(
    sessions: Sessions, credit_SV: np.ndarray, advantage_SV: np.ndarray, state: HistoryState
) -> dict[str, float]:
    """Scalars about one step's credit.

    Returns:
        ``<role>/{reward,credit,advantage}_{mean,std}`` over the sessions in which the role spoke (reward: the team's R);
        ``<role>/{contribution,help_rate,hurt_rate}``: see `contribution`; ``credit/cosine_with_shared/<role>``: cosine of its advantages
        with GRPO's on R, 1 for GRPO itself, ``.../all``: of all roles together; ``credit/zero_rate``: share of what roles did in sessions whose
        advantage is 0, which teaches nothing; ``history/...``: the state after the step;
        ``plurality/...``: see `plurality_metrics`; ``replays/...``: what the counterfactuals cost.
    """
    out: dict[str, float] = {}
    spoke = sessions.spoke_SV
    for code, role in enumerate(sessions.roles):
        rows = np.flatnonzero(spoke[:, code])
        if not len(rows):
            continue
        for name, values in (
            ("reward", sessions.value_S[rows]),
            ("credit", credit_SV[rows, code]),
            ("advantage", advantage_SV[rows, code]),
        ):
            out[f"{role}/{name}_mean"], out[f"{role}/{name}_std"] = float(values.mean()), float(values.std())
    out["history/steps"] = float(state.steps)
    for name, stream in state.streams.items():
        out[f"history/{name}/mean"], out[f"history/{name}/std"] = stream.mean, stream.std
    for name, (mean, variance) in state.paper.items():
        out[f"history/paper_{name}/mean"], out[f"history/paper_{name}/std"] = mean, variance**0.5
    out |= contribution(sessions)
    shared_SV = group_normalize_roles(
        np.where(spoke, sessions.value_S[:, None], 0.0), sessions.prompt_S, spoke, by_std=True
    )
    for code, role in enumerate(sessions.roles):
        if (value := cosine(advantage_SV[:, code], shared_SV[:, code])) is not None:
            out[f"credit/cosine_with_shared/{role}"] = value
    if (value := cosine(advantage_SV.ravel(), shared_SV.ravel())) is not None:
        out["credit/cosine_with_shared/all"] = value
    if spoke.any():
        out["credit/zero_rate"] = float((advantage_SV[spoke] == 0).mean())
    if sessions.ballot_SV is not None:
        out |= plurality_metrics(sessions, credit_SV)
    out |= _replay_metrics(sessions)
    return out


def contribution(sessions: Sessions) -> dict[str, float]:
    """What each role changed, with b what the team gets without it and R the value of each session, R and b in [0, 1].

    ``<role>/contribution`` = mean(R - b); ``help_rate`` = mean of max(R - b, 0): right where the team without the role would be wrong;
    ``hurt_rate`` = mean of max(b - R, 0); with partial credit, what was gained and what was lost. Over sessions with a removal of that
    role in the step (of its own, or shared by the prompt); absent without any. Source: removal principle of the paper; the rates with an
    independent replay are our construction.
    """
    out: dict[str, float] = {}
    for code, role in enumerate(sessions.roles):
        base = baseline_of(sessions, code)
        if base is None or not base.has_S.any():
            continue
        reward, b = sessions.value_S[base.has_S], base.b_S[base.has_S]
        out[f"{role}/contribution"] = float((reward - b).mean())
        out[f"{role}/help_rate"] = float(np.maximum(reward - b, 0.0).mean())
        out[f"{role}/hurt_rate"] = float(np.maximum(b - reward, 0.0).mean())
    return out


def _replay_metrics(sessions: Sessions) -> dict[str, float]:
    """``replays/decodes_per_session``; ``replays/truncation_rate`` of replays that decoded something; ``replays/prompts_without_rate``: share
    of prompts without a shared replay, where some prompt has one."""
    if not len(sessions):
        return {}
    out = {"replays/decodes_per_session": float(sessions.decoded_P.sum() / len(sessions))}
    decoded = sessions.decoded_P > 0
    if decoded.any():
        out["replays/truncation_rate"] = float(sessions.truncated_P[decoded].mean())
    shared = sessions.session_P[sessions.shared_P & decoded]
    if len(shared):
        out["replays/prompts_without_rate"] = 1 - len(np.unique(sessions.prompt_S[shared])) / len(sessions.prompts)
    return out


def plurality_metrics(sessions: Sessions, credit_SV: np.ndarray | None = None) -> dict[str, float]:
    """What the votes were like; means over sessions.

    ``plurality/ballot_accuracy``: share of right ballots; ``oracle_accuracy``: any of them right; ``agreement``: share of pairs of
    voters that cast the same ballot; ``entropy`` of the ballots cast, in nats; ``pivotal_rate``: share of ballots without which the
    value would differ; ``tie_rate``; ``abstention_rate``; ``outvoted_rate``: somebody was right and the value is 0; with ``credit_SV``
    ``credit_right``, ``credit_wrong``: mean credit of right and of wrong ballots (absent without any). ``<role>/accuracy``: share of
    right ballots of one role; ``<role>/abstention_rate``.
    """
    ballot_SV, tie = sessions.ballot_SV, sessions.tie
    voters = np.flatnonzero((ballot_SV != NO_BALLOT).any(axis=0))
    ballot_SV = ballot_SV[:, voters]
    if not ballot_SV.size:
        return {}
    has_SV, cast_SV, right_SV = ballot_SV != NO_BALLOT, ballot_SV >= RIGHT, ballot_SV == RIGHT
    labels = int(ballot_SV.max()) + 1
    value_S = values_of_codes(ballot_SV, labels, RIGHT, tie)
    pivotal_SV = has_SV & (values_without(ballot_SV, tie) != value_S[:, None])
    counts_KS = counts_of_codes(ballot_SV, labels).astype(float)
    cast_S, has_S = cast_SV.sum(axis=1), has_SV.sum(axis=1)
    shares_KS = counts_KS / np.maximum(cast_S, 1)
    logs_KS = np.log(np.where(shares_KS > 0, shares_KS, 1.0))
    top_S = counts_KS.max(axis=0)
    any_right_S = right_SV.any(axis=1)
    out = {
        "ballot_accuracy": (right_SV.sum(axis=1) / has_S).mean(),
        "oracle_accuracy": any_right_S.mean(),
        "agreement": ((counts_KS * (counts_KS - 1)).sum(axis=0) / np.maximum(has_S * (has_S - 1), 1)).mean(),
        "entropy": -(shares_KS * logs_KS).sum(axis=0).mean(),
        "pivotal_rate": (pivotal_SV.sum(axis=1) / has_S).mean(),
        "tie_rate": (((counts_KS == top_S).sum(axis=0) > 1) & (top_S > 0)).mean(),
        "abstention_rate": (1 - cast_S / has_S).mean(),
        "outvoted_rate": (any_right_S & (value_S == 0)).mean(),
    }
    out = {f"plurality/{name}": float(value) for name, value in out.items()}
    if credit_SV is not None:
        for name, mask in (("credit_right", right_SV), ("credit_wrong", cast_SV & ~right_SV)):
            if mask.any():
                out[f"plurality/{name}"] = float(credit_SV[:, voters][mask].mean())
    for column, code in enumerate(voters):
        own = ballot_SV[has_SV[:, column], column]
        out[f"{sessions.roles[code]}/accuracy"] = float((own == RIGHT).mean())
        out[f"{sessions.roles[code]}/abstention_rate"] = float((own == ABSTAINED).mean())
    return out


def validation_scores(sessions: Sessions, names: Mapping[tuple[str, str], str]) -> dict[str, float]:
    """Scores of one data source's validation sessions; ``team_accuracy`` is the one to follow.

    Args:
        sessions: with their replays.
        names: (how, role) -> what that replay is called, of the replays that are worth a number of their own.

    Returns:
        ``team_accuracy``: mean R; ``<name>_accuracy``: mean value of each named replay; ``<role>/{contribution,help_rate,hurt_rate}``;
        for a plurality ``ballot_accuracy``, ``oracle_accuracy``, ``<role>/accuracy``, ``<role>/abstention_rate``; ``sessions``.
    """
    out = {"sessions": float(len(sessions))}
    if not len(sessions):
        return out
    out["team_accuracy"] = float(sessions.value_S.mean())
    for (how, role), name in names.items():
        rows = np.flatnonzero(
            (sessions.how_P == INTERVENTIONS.index(how)) & (sessions.of_P == sessions.roles.index(role))
        )
        if len(rows):
            out[f"{name}_accuracy"] = float(sessions.value_P[rows].mean())
    out |= contribution(sessions)
    if sessions.ballot_SV is not None:
        found = plurality_metrics(sessions)
        kept = ("plurality/ballot_accuracy", "plurality/oracle_accuracy")
        out |= {
            name.removeprefix("plurality/"): value
            for name, value in found.items()
            if name in kept or not name.startswith("plurality/")
        }
    return out


def session_rates(sessions: Sessions, expected_sessions: int) -> dict[str, float]:
    """Health of one step's sessions.

    Args:
        sessions: those that came.
        expected_sessions: prompts x n.

    Returns:
        ``<role>/truncation_rate``, ``<role>/cut_rate`` (what it heard was cut to fit), ``<role>/parse_failure_rate`` of turns that are asked
        for an answer, ``<role>/leak_rate`` of those that are not; ``<role>/turns_per_session``; ``sessions/dropped_rate``.
    """
    out: dict[str, float] = {}
    for code, role in enumerate(sessions.roles):
        rows = np.flatnonzero(sessions.role_T == code)
        if not len(rows):
            continue
        out[f"{role}/truncation_rate"] = float(sessions.truncated_T[rows].mean())
        out[f"{role}/cut_rate"] = float(sessions.cut_T[rows].mean())
        out[f"{role}/turns_per_session"] = len(rows) / len(sessions)
        asked = rows[sessions.parsed_T[rows] >= 0]
        if len(asked):
            out[f"{role}/parse_failure_rate"] = float(1 - sessions.parsed_T[asked].mean())
        if len(asked) < len(rows):
            told = rows[sessions.parsed_T[rows] < 0]
            out[f"{role}/leak_rate"] = float(sessions.leaked_T[told].mean())
    out["sessions/dropped_rate"] = 1 - len(sessions) / expected_sessions if expected_sessions else 0.0
    return out


def cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    """Cosine of two vectors; None when one of them is zero."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / norm if norm > 0 else None
