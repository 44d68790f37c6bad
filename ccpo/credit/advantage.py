"""CreditTable -> one advantage per row. The only place where rules, normalization and groups meet.

    rule            credit                          natural normalization
    counterfactual  R_joint - beta b(x)             history          counterfactual.py
    shared          R_joint                         group (GRPO)     shared.py
    shared_history  R_joint                         history          shared.py
    paper_v1        r_think, r_reason               history+group    paper.py
    event_v2        R_joint + 0.2 bonus             group, no std    paper.py

    leave_one_out   R - R without the voter         history          voting.py (as marginal, resampled, shapley)
    own_correctness the voter's own answer          group            voting.py
    shared, shared_history                          as above

With ``train_solo`` the solo answers are trained on their own tokens: A_solo x (1 - g), A_reason x g, with the paper's gate
g = sigmoid(eta mu_delta / max(sigma_delta, floor)), argument clipped to +-20, from the history of delta = R_joint - b(x)
(0.5 before the first batch).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ccpo.config import NEEDS_SOLO, CcpoConfig
from ccpo.credit.counterfactual import counterfactual_credit, observe_baseline
from ccpo.credit.history import HistoryState, Stream, normalize_by_history
from ccpo.credit.paper import event_v2_rewards, paper_v1_rewards
from ccpo.credit.shared import group_normalize, shared_credit
from ccpo.credit.voting import voting_credit
from ccpo.metrics import credit_metrics, dyad_metrics, vote_metrics
from ccpo.types import REASON, SOLO, THINK, CreditResult, CreditTable


def compute_advantages(table: CreditTable, config: CcpoConfig, state: HistoryState) -> CreditResult:
    """Credit, advantage, new history and metrics of one step.

    Args:
        table: all rows of the step in any order, solo rows included even when they are not trained.
        config: checked configuration (`CcpoConfig.from_dict`).
        state: history before this step; not modified.

    Returns:
        CreditResult; ``advantage_R`` is 0 on rows that the configuration does not train.

    Raises:
        ValueError: the table lacks the solo answers that the rule needs. The caller keeps its old state: a failed step is not counted.

    Source: table at the top of this module.
    """
    credit = config.credit
    if credit.rule in NEEDS_SOLO and len(table) and not len(table.rows_of(SOLO)):
        raise ValueError(
            f"rule {credit.rule} compares with solo answers and this step has none: every session with one was dropped"
        )
    beta = None
    if credit.rule == "paper_v1":
        credit_R, state_after = paper_v1_rewards(table, state)
        advantage_R = _by_group(table, credit_R)
    elif credit.rule == "event_v2":
        credit_R, state_after = event_v2_rewards(table), state
        advantage_R = _by_group(table, credit_R, by_std=False)
    elif credit.rule == "counterfactual":
        credit_R, residual_R, beta = counterfactual_credit(table, state, credit.coefficient)
        state_after = observe_baseline(table, state, config.history.decay)
        advantage_R, state_after = _normalize(table, credit_R, residual_R, config, state_after)
    elif credit.rule not in ("shared", "shared_history"):
        credit_R = voting_credit(table, credit.rule, config.vote.tie)
        advantage_R, state_after = _normalize(table, credit_R, credit_R, config, state)
    else:
        credit_R = shared_credit(table)
        advantage_R, state_after = _normalize(table, credit_R, credit_R, config, state)

    gate = None
    if credit.train_solo:
        gate, state_after = _gate(table, config, state, state_after)
        weight = {THINK: 1.0, REASON: gate, SOLO: 1.0 - gate}
        advantage_R = advantage_R * np.array([weight[role] for role in table.role_R])
    else:
        advantage_R = np.where(np.asarray(table.role_R) == SOLO, 0.0, advantage_R)

    state_after = replace(state_after, steps=state_after.steps + 1)
    metrics = credit_metrics(table, credit_R, advantage_R, state_after, config.credited_roles(), beta=beta, gate=gate)
    if config.topology == "vote":
        metrics |= vote_metrics(table, credit_R, advantage_R, config.vote.tie)
    else:
        metrics |= dyad_metrics(table, advantage_R)
    return CreditResult(credit_R, advantage_R, state_after, metrics)


def _normalize(
    table: CreditTable, credit_R: np.ndarray, residual_R: np.ndarray, config: CcpoConfig, state: HistoryState
) -> tuple[np.ndarray, HistoryState]:
    """Apply the configured normalization role by role: one history stream, or one set of groups, per role."""
    how = config.credit.normalization
    advantage_R = credit_R.astype(float).copy()
    if "history" in how:
        for role in config.credited_roles():
            rows = table.rows_of(role)
            advantage_R[rows], state = normalize_by_history(
                residual_R[rows], state, f"{role}/credit", config.history.decay, config.history.floor
            )
    if config.credit.shaping == "tanh":
        rows = table.rows_of(THINK)
        advantage_R[rows] = np.tanh(config.credit.alpha * advantage_R[rows])
    if "group" in how:
        advantage_R = _by_group(table, advantage_R)
    return advantage_R, state


def _by_group(table: CreditTable, values_R: np.ndarray, by_std: bool = True) -> np.ndarray:
    keys = list(zip(table.group_R, table.role_R, strict=True))
    return group_normalize(values_R, keys, by_std=by_std)


def _gate(table: CreditTable, config: CcpoConfig, old: HistoryState, state: HistoryState) -> tuple[float, HistoryState]:
    """g from the OLD history of delta = R_joint - b(x), and the state with this batch's deltas."""
    solo = table.group_means(SOLO)
    deltas = [table.reward_R[r] - solo[table.group_R[r]] for r in table.rows_of(REASON) if table.group_R[r] in solo]
    _, state = normalize_by_history(
        np.array(deltas, dtype=float), state, "delta", config.history.decay, config.history.floor
    )
    stream = old.streams.get("delta", Stream())
    if not stream.weight:
        return 0.5, state
    slope = config.credit.eta * stream.mean / max(stream.std, config.history.floor)
    return 1 / (1 + math.exp(-min(20.0, max(-20.0, slope)))), state
