"""Rules that read the ballots of a plurality. R(b) is the value of the ballots b (`ccpo.plurality`), b_i the ballot of role i, b_-i the others'.

    shapley           mean over orders of joining of R(S + i) - R(S)           exact, up to 10 voters; credits add up to R
    own_correctness   1[b_i = truth] - c 1[b_i is wrong]                       control: no team in it; c: wrong_price, 0 by default
    marginal          R(b) - mean over a of R(a, b_-i)                         a: role i's ballots in the prompt's OTHER sessions
    resampled         Q_i(b_i) - mean over a of Q_i(a)                         a as above; Q_i(a) = mean over c of R(a, c)

(Leave-one-out is the removal replay: `removal.py`.) ``resampled`` recombines sessions: c runs over all choices of one ballot per co-voter
from that co-voter's own sessions of the prompt. Its noise is less than that of one session's co-voters. Both it and ``marginal`` need
voters that answer independently of each other given the prompt, and are refused for others: what a voter said in an earlier round
moved the ballots that its credit takes as given.

An abstention casts no ballot, so its Shapley credit is 0; under `marginal` and `resampled` it is an action like any other, compared
with what the voter's other ballots would have done. `marginal` and `resampled` subtract a baseline that does not depend on the
voter's own ballot, so they are unbiased for the team's value. `shapley` and `own_correctness` follow other gradients than the team's,
and see the last vote alone.

A price of a wrong ballot makes silence an answer: with it a voter that is right with probability p should speak where p > c / (1 + c). GRPO's
deviation would take the price away: in a prompt's group whose ballots are wrong or abstain, credit is -c or 0, and over its own
deviation that is the same for every c. So a priced rule is centred, or scaled by the history, and the group's deviation is refused.

Source: our construction (marginal: the baseline of COMA, arXiv 1705.08926; Shapley, 1953).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import factorial

import numpy as np

from ccpo.credit.base import Credit, CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState
from ccpo.credit.recombine import qualities
from ccpo.plurality import check_tie, top_and_tied, values_if, worth
from ccpo.types import ABSTAINED, NO_BALLOT, RIGHT, Sessions

Ballot = Hashable | None
MAX_SHAPLEY_VOTERS = 10  # the cost doubles with each
CHUNK = 1 << 21  # entries of a table that is worked on at once: it stays in the cache


def shapley_credit(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """Shapley values of every session's ballots."""
    return Credit.of(_shapley(_ballots(sessions), sessions.tie), state)


def own_correctness_credit(
    sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig
) -> Credit:
    """1 for a right ballot, minus the price for a wrong one, 0 for an abstention: the control that every table must contain."""
    ballot_SV = _ballots(sessions)
    return Credit.of((ballot_SV == RIGHT) - config.wrong_price * (ballot_SV > RIGHT), state)


def marginal_credit(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """Against the voter's ballots of the prompt's other sessions, in this session's vote."""
    return Credit.of(_against_other_ballots(_ballots(sessions), sessions.prompt_S, sessions.tie, _marginal), state)


def resampled_credit(sessions: Sessions, state: HistoryState, config: CreditConfig, history: HistoryConfig) -> Credit:
    """The same in recombined votes."""
    return Credit.of(_against_other_ballots(_ballots(sessions), sessions.prompt_S, sessions.tie, _resampled), state)


def _ballots(sessions: Sessions) -> np.ndarray:
    """(S, V) codes. Raises ValueError when a session lacks a ballot."""
    ballot_SV = sessions.ballot_SV
    if ballot_SV is None:
        if len(sessions):
            raise ValueError("this rule reads ballots, and the sessions have none: their outcome is no plurality")
        return np.zeros(sessions.spoke_SV.shape, dtype=int)
    if (ballot_SV == NO_BALLOT).any():
        s, role = np.argwhere(ballot_SV == NO_BALLOT)[0]
        raise ValueError(
            f"session {int(sessions.session_S[s])} of prompt {sessions.prompts[sessions.prompt_S[s]]!r} has no ballot of "
            f"{sessions.roles[role]}: this rule needs one of every role"
        )
    return ballot_SV


# --- the rules for one prompt, whose ballots may be any labels ----------------------------------------------------------


def shapley(ballots: Sequence[Ballot], truth: Hashable, tie: str = "expected") -> list[float]:
    """Shapley values of one session's voters, with R of nobody = 0: a float per voter; they add up to R(b).

    Raises ValueError for an unknown tie rule or more than 10 voters. Source: our construction.
    """
    return _shapley(_codes([ballots], truth, tie), tie)[0].tolist()


def marginal(sessions: Sequence[Sequence[Ballot]], truth: Hashable, tie: str = "expected") -> list[list[float]]:
    """R(b) minus what the voter's ballots of the other sessions would have got in this one.

    Args:
        sessions: (S, V) ballots of all sessions of ONE prompt; voters in the same order in each.
        truth: the correct label.
        tie: one of TIES.

    Returns:
        (S, V) credit; 0 everywhere for a single session, which has no other ballots to compare with.

    Raises:
        ValueError: unknown tie rule, or sessions of unequal size.
    """
    return _of_prompt(sessions, truth, tie, _marginal)


def resampled(sessions: Sequence[Sequence[Ballot]], truth: Hashable, tie: str = "expected") -> list[list[float]]:
    """Value of the voter's ballot among resampled co-voters, minus the mean value of its ballots in the other sessions.

    Arguments, result and errors as for `marginal`. Exact up to EXACT_LIMIT combinations of distinct ballots; above, the mean over DRAWS
    combinations of sessions, drawn with a fixed seed (`recombine.py`). Source: our construction.
    """
    return _of_prompt(sessions, truth, tie, _resampled)


def _of_prompt(sessions: Sequence[Sequence[Ballot]], truth: Hashable, tie: str, rule: _Rule) -> list[list[float]]:
    ballot_SV = _codes(sessions, truth, tie)
    return _against_other_ballots(ballot_SV, np.zeros(len(ballot_SV), dtype=int), tie, rule).tolist()


def _codes(sessions: Sequence[Sequence[Ballot]], truth: Hashable, tie: str) -> np.ndarray:
    """(S, V) codes as `Sessions` holds them. Raises ValueError: unknown tie rule, or sessions of unequal size."""
    check_tie(tie)
    if len({len(ballots) for ballots in sessions}) > 1:
        raise ValueError(
            f"sessions have {sorted({len(b) for b in sessions})} voters: one prompt's sessions have the same voters in the same order"
        )
    code = {truth: RIGHT}
    for ballots in sessions:
        for ballot in ballots:
            if ballot is not None:
                code.setdefault(ballot, len(code))
    code[None] = ABSTAINED
    rows = [[code[ballot] for ballot in ballots] for ballots in sessions]
    return np.array(rows, dtype=int).reshape(len(rows), -1 if rows and rows[0] else 0)


# --- marginal and resampled: a ballot minus the voter's ballots of the other sessions -----------------------------------

_Rule = Callable[[np.ndarray, np.ndarray, np.ndarray, str], np.ndarray]


def _against_other_ballots(ballot_SV: np.ndarray, prompt_S: np.ndarray, tie: str, rule: _Rule) -> np.ndarray:
    """(S, V) what a session's ballot is worth minus the mean worth of the same voter's ballots in the prompt's other sessions.

    ``rule(codes_SV, prompt_S, cast_GVA, tie)`` says what ballots are worth: (V, A, S), A a voter's possible ballots: each label, and last
    an abstention. Prompts with as many labels are taken together. 0 for a prompt of one session, and where nobody was right.
    """
    credit_SV = np.zeros(ballot_SV.shape)
    if not ballot_SV.size:
        return credit_SV
    order = np.argsort(prompt_S, kind="stable")  # draws count a prompt's sessions in the order of the batch
    group_S = np.unique(prompt_S[order], return_inverse=True)[1].reshape(-1)
    code_SV, labels_G = _compact(ballot_SV[order], group_S)
    n_G = np.bincount(group_S)
    right_G = np.bincount(group_S, weights=(code_SV == RIGHT).any(axis=1)) > 0
    labels_G = np.where((n_G > 1) & right_G, labels_G, 0)
    for labels in np.unique(labels_G[labels_G > 0]).tolist():
        rows_S = np.flatnonzero(labels_G[group_S] == labels)
        found_G, group = np.unique(group_S[rows_S], return_inverse=True)
        code, group, voters, ballots = code_SV[rows_S], group.reshape(-1), ballot_SV.shape[1], labels + 1
        cell_SV = (
            group[:, None] * voters + np.arange(voters)
        ) * ballots + code % ballots  # an abstention, -1, is the last
        cast_GVA = np.bincount(cell_SV.ravel(), minlength=len(found_G) * voters * ballots).reshape(-1, voters, ballots)
        worth_VAS = rule(code, group, cast_GVA, tie)
        own_SV = np.take_along_axis(worth_VAS, code.T[:, None] % ballots, axis=1)[:, 0].T
        total_SV = np.einsum("vas,sva->sv", worth_VAS, cast_GVA[group].astype(float))
        credit_SV[order[rows_S]] = own_SV - (total_SV - own_SV) / (n_G[found_G][group] - 1)[:, None]
    return credit_SV


def _marginal(code_SV: np.ndarray, prompt_S: np.ndarray, cast_GVA: np.ndarray, tie: str) -> np.ndarray:
    """In the session's own vote."""
    code_SV, labels = np.asfortranarray(code_SV.astype(np.int16)), cast_GVA.shape[2] - 1
    return np.stack([values_if(code_SV, voter, labels, tie) for voter in range(code_SV.shape[1])])


def _resampled(code_SV: np.ndarray, prompt_S: np.ndarray, cast_GVA: np.ndarray, tie: str) -> np.ndarray:
    """In all recombined votes of the prompt."""
    return np.take(qualities(code_SV, prompt_S, cast_GVA, tie), prompt_S, axis=2)


def _compact(ballot_SV: np.ndarray, group_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((S, V) codes with the wrong labels of each group numbered 1, 2, ... without gaps; (G,) labels of each group with the truth)."""
    code_SV = np.minimum(ballot_SV, RIGHT)
    wrong_S, wrong_V = np.nonzero(ballot_SV > RIGHT)
    width = int(ballot_SV.max()) + 1
    used_K, which = np.unique(group_S[wrong_S] * width + ballot_SV[wrong_S, wrong_V], return_inverse=True)
    wrong_G = np.bincount(used_K // width, minlength=int(group_S[-1]) + 1)
    before_G = np.cumsum(wrong_G) - wrong_G
    code_SV[wrong_S, wrong_V] = which.reshape(-1) - before_G[group_S[wrong_S]] + 1
    return code_SV, wrong_G + 1


# --- shapley ------------------------------------------------------------------------------------------------------------


def _shapley(ballot_SV: np.ndarray, tie: str) -> np.ndarray:
    """(S, V) over every coalition of voters M, as bits. Coalitions are built voter by voter: a score (`worth`) is twice the count, and with
    tie "first" one more for a wrong label that came before the truth.

    Raises ValueError for more than 10 voters.
    """
    sessions, voters = ballot_SV.shape
    if voters > MAX_SHAPLEY_VOTERS:
        raise ValueError(
            f"shapley is exact up to {MAX_SHAPLEY_VOTERS} voters, got {voters}: its cost doubles with each; use leave_one_out or resampled"
        )
    credit_SV = np.zeros(ballot_SV.shape)
    if not ballot_SV.size:
        return credit_SV
    code_SV, labels_S = _compact(ballot_SV, np.arange(sessions))
    joins_VM = np.arange(2**voters) >> np.arange(voters)[:, None] & 1
    size_M = joins_VM.sum(axis=0)
    weight = np.array([factorial(k) * factorial(voters - k - 1) / factorial(voters) for k in range(voters)])
    weight_VM = np.where(joins_VM == 1, weight[size_M - 1], -weight[np.minimum(size_M, voters - 1)])
    labels = int(labels_S.max())
    chunk = max(1, CHUNK // (labels << voters))
    for start in range(0, sessions, chunk):
        code_VS = code_SV[start : start + chunk].T
        score_LMS = np.zeros((labels, 2**voters, code_VS.shape[1]), dtype=np.int8)
        for voter in range(voters):
            before, after = slice(2**voter), slice(2**voter, 2 ** (voter + 1))
            for label in range(labels):
                cast_S = (code_VS[voter] == label).view(np.int8)
                np.add(score_LMS[label, before], 2 * cast_S, out=score_LMS[label, after])
                if tie == "first" and label != RIGHT:
                    new_MS = (score_LMS[label, before] == 0) & (score_LMS[RIGHT, before] == 0)
                    score_LMS[label, after] += new_MS & cast_S
        value_MS = worth(score_LMS[RIGHT], *top_and_tied(score_LMS[1:], tie), tie)
        credit_SV[start : start + chunk] = (weight_VM @ value_MS).T
    return credit_SV
