"""What a ballot is worth among resampled co-voters: Q_i(a) = mean over c of R(a, c), c: one ballot of each co-voter from its own sessions.

Three ways to the same number, by what it costs:

    by counts   The value depends on the ballots through the score of each label alone. Voters are passed in order; F_i(x) is the chance
                of the scores x before voter i, B_i(x) the mean value of what may follow, and Q_i(a) = sum over x of F_i(x) B_i+1(x + a).
                The scores x are the same for all prompts with as many labels, so all are computed at once.
    by table    Many voters or labels have more scores than COUNTED transitions: all combinations of one prompt's distinct ballots.
    drawn       A prompt with more than EXACT_LIMIT combinations of distinct ballots: DRAWS combinations of sessions. Draw t takes voter v's
                ballot from session ``default_rng(0).integers(n, size=(DRAWS, V))[t, v]``, counted in the order of the batch: the same in
                every prompt of n sessions, and in every run.

Scores are twice the count, and with tie "first" one more for a wrong label whose first voter came before the truth's. Scores after which
the truth cannot win any more are left out: their value is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np

from ccpo.plurality import top_and_tied, values_if, values_of_codes, worth
from ccpo.types import RIGHT

EXACT_LIMIT = 50_000  # combinations of distinct ballots up to which the mean is exact; above, it is over DRAWS of them
DRAWS = 2_048
COUNTED = 250_000  # transitions between scores up to which they are listed
CHUNK = 1 << 18  # entries of a table that is worked on at once: it stays in the cache


def qualities(code_SV: np.ndarray, prompt_S: np.ndarray, cast_GVA: np.ndarray, tie: str) -> np.ndarray:
    """(V, A, G) Q of every ballot of every voter; of ballots that a voter never cast, anything.

    Args:
        code_SV: truth 0, wrong labels 1 .. A - 2, abstentions -1. prompt_S: 0 .. G - 1, ascending.
        cast_GVA: how often voter v cast ballot a in the prompt's sessions; the last ballot is an abstention.
        tie: one of `ccpo.plurality.TIES`.
    """
    prompts, voters, ballots = cast_GVA.shape
    labels = ballots - 1
    n_G = cast_GVA[:, 0].sum(axis=1)
    share_VAG = np.moveaxis(cast_GVA / n_G[:, None, None], 0, 2)
    out_VAG = np.zeros(share_VAG.shape)
    combinations_G = (cast_GVA > 0).sum(axis=2).prod(axis=1, dtype=float)
    exact_G, drawn_G = np.flatnonzero(combinations_G <= EXACT_LIMIT), np.flatnonzero(combinations_G > EXACT_LIMIT)
    if ballots * comb(voters + labels, labels + 1) <= COUNTED:
        moves = _moves(voters, labels, tie)
        chunk = max(1, CHUNK // max(len(step.after) for step in moves.steps))
        for start in range(0, len(exact_G), chunk):
            some_G = exact_G[start : start + chunk]
            out_VAG[:, :, some_G] = _by_counts(np.ascontiguousarray(share_VAG[:, :, some_G]), moves)
    else:
        for g in exact_G.tolist():
            out_VAG[:, :, g] = _by_table(share_VAG[:, :, g], tie)
    first_G = np.searchsorted(prompt_S, np.arange(prompts))
    for n in np.unique(n_G[drawn_G]).tolist():
        of_n_G = drawn_G[n_G[drawn_G] == n]
        chunk = max(1, CHUNK // (DRAWS * labels))
        for start in range(0, len(of_n_G), chunk):
            some_G = of_n_G[start : start + chunk]
            out_VAG[:, :, some_G] = _drawn(code_SV[first_G[some_G, None] + np.arange(n)], labels, tie)
    return out_VAG


# --- by counts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """One voter. Per ballot a: from_A[a] -> to_A[a], numbers of scores before and after it. after: the scores, all that are left."""

    from_A: list[np.ndarray]
    to_A: list[np.ndarray]
    after: list[tuple[int, ...]]


@dataclass(frozen=True)
class _Moves:
    steps: list[_Step]
    value_X: np.ndarray  # of the scores after the last voter


@lru_cache(maxsize=64)
def _moves(voters: int, labels: int, tie: str) -> _Moves:
    """All scores that voters with these labels can come to, voter by voter."""
    before, steps = [(0,) * labels], []
    for voter in range(voters):
        left, number = voters - voter - 1, {}
        from_A, to_A = ([[] for _ in range(labels + 1)] for _ in range(2))
        for source, scores in enumerate(before):
            for ballot in range(labels + 1):
                after = _add(scores, ballot, tie)
                best, top = after[RIGHT] + 2 * left, max(after[1:], default=0)
                if best > top or (best == top > 0 and tie != "fail"):
                    from_A[ballot].append(source)
                    to_A[ballot].append(number.setdefault(after, len(number)))
        before = list(number)
        steps.append(_Step([np.array(x, dtype=int) for x in from_A], [np.array(x, dtype=int) for x in to_A], before))
    score_LX = np.array(before, dtype=int).T
    return _Moves(steps, worth(score_LX[RIGHT], *top_and_tied(score_LX[1:], tie), tie))


def _add(scores: tuple[int, ...], ballot: int, tie: str) -> tuple[int, ...]:
    """The scores after one more ballot; the last ballot is an abstention."""
    if ballot == len(scores):
        return scores
    early = tie == "first" and ballot != RIGHT and scores[ballot] == scores[RIGHT] == 0
    return (*scores[:ballot], scores[ballot] + 2 + early, *scores[ballot + 1 :])


def _by_counts(share_VAG: np.ndarray, moves: _Moves) -> np.ndarray:
    """(V, A, G) Q from the shares of each voter's ballots."""
    prompts = share_VAG.shape[2]
    chances = [np.ones((1, prompts))]
    for share_AG, step in zip(share_VAG[:-1], moves.steps[:-1], strict=True):
        after_XG = np.zeros((len(step.after), prompts))
        for share_G, source, target in zip(share_AG, step.from_A, step.to_A, strict=True):
            after_XG[target] += chances[-1][source] * share_G
        chances.append(after_XG)
    out_VAG = np.empty(share_VAG.shape)
    value_XG = np.broadcast_to(moves.value_X[:, None], (len(moves.value_X), prompts))
    for voter in reversed(range(len(share_VAG))):
        chance_XG, step = chances[voter], moves.steps[voter]
        before_XG = np.zeros(chance_XG.shape)
        for ballot, (source, target) in enumerate(zip(step.from_A, step.to_A, strict=True)):
            then_XG = value_XG[target]
            out_VAG[voter, ballot] = np.einsum("xg,xg->g", chance_XG[source], then_XG)
            before_XG[source] += then_XG * share_VAG[voter, ballot]
        value_XG = before_XG
    return out_VAG


# --- by table, drawn ----------------------------------------------------------------------------------------------------


def _by_table(share_VA: np.ndarray, tie: str) -> np.ndarray:
    """(V, A) Q from the values of all combinations of the ballots that were cast, averaged over the co-voters."""
    labels = share_VA.shape[1] - 1
    cast_V = [np.flatnonzero(share_A) for share_A in share_VA]
    code_TV = np.stack([axis.ravel() for axis in np.meshgrid(*cast_V, indexing="ij")], axis=1)
    code_TV[code_TV == labels] = -1
    values = values_of_codes(code_TV, labels, RIGHT, tie).reshape([len(cast) for cast in cast_V])
    out_VA = np.zeros(share_VA.shape)
    for voter, cast in enumerate(cast_V):
        value = np.moveaxis(values, voter, 0)
        for other in reversed([v for v in range(len(cast_V)) if v != voter]):
            value = value @ share_VA[other, cast_V[other]]
        out_VA[voter, cast] = value
    return out_VA


def _drawn(code_GNV: np.ndarray, labels: int, tie: str) -> np.ndarray:
    """(V, A, G) Q over DRAWS combinations of the N sessions."""
    prompts, n, voters = code_GNV.shape
    drawn_TV = np.random.default_rng(0).integers(n, size=(DRAWS, voters))
    code_VGT = np.stack([code_GNV[:, drawn_TV[:, voter], voter] for voter in range(voters)]).astype(np.int16)
    code_KV = code_VGT.reshape(voters, -1).T
    return np.stack(
        [
            values_if(code_KV, voter, labels, tie).reshape(labels + 1, prompts, DRAWS).mean(axis=2)
            for voter in range(voters)
        ]
    )
