"""The ballot rules of all prompts at once equal the same rules prompt by prompt (reference_ballots.py), to the last digits.

Batches are random: ragged, shuffled, with single sessions, abstentions, prompts that nobody got right, codes with gaps, every tie rule,
and prompts with more combinations than EXACT_LIMIT, whose drawn combinations must be the same ones.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ccpo.credit import ballots, recombine
from ccpo.credit.base import CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState
from ccpo.credit.rules import RULES
from ccpo.plurality import TIES, values_if, values_of_codes
from ccpo.types import ABSTAINED, RIGHT, Sessions

_spec = importlib.util.spec_from_file_location("reference_ballots", Path(__file__).with_name("reference_ballots.py"))
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

TOLERANCE = 1e-12
SHAPES = [  # voters, wrong labels of the batch, most sessions of a prompt, prompts
    (1, 2, 4, 12),
    (2, 3, 6, 30),
    (3, 1, 8, 30),
    (3, 5, 8, 40),
    (3, 30, 20, 6),
    (5, 6, 8, 12),
    (7, 3, 8, 8),
]


def _batch(voters: int, wrong: int, most: int, prompts: int, seed: int, *, labels_of_a_prompt: int = 4):
    """((S, V) codes, (S,) prompts), in no order. Some prompts are easy, some nobody gets right, some labels are never given."""
    draw = np.random.default_rng(seed)
    ballot, prompt = [], []
    for number in range(prompts):
        sessions = int(draw.integers(1, most + 1))
        labels = 1 + draw.permutation(wrong)[:labels_of_a_prompt]
        ease_V = np.clip(draw.choice([0, 0.2, 0.5, 0.9]) + draw.normal(0, 0.1, voters) * draw.integers(2), 0, 1)
        said = np.where(draw.random((sessions, voters)) < ease_V, RIGHT, draw.choice(labels, (sessions, voters)))
        ballot.append(np.where(draw.random((sessions, voters)) < draw.choice([0, 0.2]), ABSTAINED, said))
        prompt.append(np.full(sessions, number))
    ballot_SV, prompt_S = np.concatenate(ballot).astype(np.int32), np.concatenate(prompt)
    order = draw.permutation(len(prompt_S))
    return ballot_SV[order], prompt_S[order]


def _sessions(ballot_SV: np.ndarray, prompt_S: np.ndarray, tie: str) -> Sessions:
    (count, voters), none = ballot_SV.shape, np.zeros(0, dtype=int)
    turns = np.zeros(count * voters, dtype=bool)
    return Sessions(
        roles=tuple(f"voter_{i}" for i in range(voters)),
        prompts=tuple(range(int(prompt_S.max()) + 1)),
        prompt_S=prompt_S,
        session_S=np.arange(count),
        value_S=values_of_codes(ballot_SV, int(ballot_SV.max()) + 1, RIGHT, tie),
        turn_offset=np.arange(count + 1) * voters,
        role_T=np.tile(np.arange(voters), count),
        truncated_T=turns,
        parsed_T=turns.astype(np.int8),
        leaked_T=turns,
        cut_T=turns,
        replay_offset=np.zeros(count + 1, dtype=int),
        how_P=none,
        of_P=none,
        value_P=none.astype(float),
        shared_P=none.astype(bool),
        decoded_P=none,
        truncated_P=none.astype(bool),
        ballot_SV=ballot_SV,
        tie=tie,
    )


def _credit(rule: str, ballot_SV: np.ndarray, prompt_S: np.ndarray, tie: str) -> np.ndarray:
    sessions = _sessions(ballot_SV, prompt_S, tie)
    return RULES[rule].credit(sessions, HistoryState(), CreditConfig(rule), HistoryConfig()).credit_SV


def _by_prompt(rule: str, ballot_SV: np.ndarray, prompt_S: np.ndarray, tie: str) -> np.ndarray:
    out_SV, of_rule = np.zeros(ballot_SV.shape), getattr(reference, rule)
    for prompt in np.unique(prompt_S):
        rows = np.flatnonzero(prompt_S == prompt)
        cast = [[None if code == ABSTAINED else code for code in codes] for codes in ballot_SV[rows].tolist()]
        out_SV[rows] = [of_rule(b, RIGHT, tie) for b in cast] if rule == "shapley" else of_rule(cast, RIGHT, tie)
    return out_SV


def _same(rule: str, ballot_SV: np.ndarray, prompt_S: np.ndarray, tie: str) -> None:
    want_SV = _by_prompt(rule, ballot_SV, prompt_S, tie)
    np.testing.assert_allclose(_credit(rule, ballot_SV, prompt_S, tie), want_SV, rtol=0, atol=TOLERANCE)
    assert np.abs(want_SV).max() > 0  # something was compared


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rule", ["marginal", "resampled", "shapley"])
def test_random_batches_equal_the_rule_prompt_by_prompt(rule, shape, tie):
    _same(rule, *_batch(*shape, seed=len(tie) + shape[0]), tie)


@pytest.mark.parametrize("tie", TIES)
def test_shapley_of_ten_voters(tie):
    _same("shapley", *_batch(10, 4, 2, 4, seed=2), tie)


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("shape", [(3, 60, 44, 3), (8, 4, 8, 4)], ids=str)
def test_drawn_combinations_are_the_same(shape, tie):
    """Beside prompts that are exact, in groups of several sizes."""
    ballot_SV, prompt_S = _batch(*shape, seed=4, labels_of_a_prompt=shape[1])
    draw = np.random.default_rng(0)
    n = shape[2]
    many = np.stack([draw.permutation(np.arange(n) % (shape[1] + 1)) for _ in range(shape[0])], axis=1)
    few = np.where(draw.random((n - 1, shape[0])) < 0.6, RIGHT, 1)
    ballot_SV = np.concatenate([ballot_SV, many, many[::-1], many[1:], few])
    sizes = [n, n, n - 1, n - 1]
    prompt_S = np.concatenate([prompt_S, np.repeat(np.arange(4) + prompt_S.max() + 1, sizes)])
    first = np.flatnonzero(prompt_S == prompt_S.max() - 3)
    distinct = [len(np.unique(column)) for column in ballot_SV[first].T]
    assert np.prod(distinct) > recombine.EXACT_LIMIT == reference.EXACT_LIMIT
    assert recombine.DRAWS == reference.DRAWS
    _same("resampled", ballot_SV, prompt_S, tie)


@pytest.mark.parametrize("tie", TIES)
def test_the_ways_to_recombine_agree(tie, monkeypatch):
    """By counts, and by the table of one prompt's combinations where the counts would be too many."""
    batch = _batch(4, 6, 8, 20, seed=9)
    by_counts_SV = _credit("resampled", *batch, tie)
    monkeypatch.setattr(recombine, "COUNTED", 0)
    monkeypatch.setattr(recombine, "_by_counts", None)
    np.testing.assert_allclose(_credit("resampled", *batch, tie), by_counts_SV, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("rule", ["marginal", "resampled", "shapley"])
def test_pieces_of_any_size_give_the_same(rule, tie, monkeypatch):
    batch = _batch(3, 5, 8, 12, seed=1)
    whole_SV = _credit(rule, *batch, tie)
    monkeypatch.setattr(recombine, "CHUNK", 1)
    monkeypatch.setattr(ballots, "CHUNK", 1)
    np.testing.assert_allclose(_credit(rule, *batch, tie), whole_SV, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("rule", ["marginal", "resampled", "shapley"])
def test_nothing_to_compare_is_no_credit(rule):
    silent = np.full((6, 3), ABSTAINED, dtype=np.int32)
    wrong = np.arange(1, 19, dtype=np.int32).reshape(6, 3)
    for ballot_SV in (silent, wrong):
        assert not _credit(rule, ballot_SV, np.repeat([0, 1, 1], 2), "expected").any()


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("voters", [1, 4, 200])
def test_values_if_takes_the_vote_again(tie, voters):
    """200 voters: their scores do not fit two bytes."""
    draw = np.random.default_rng(voters)
    code_TV = draw.integers(-1, 3, (50, voters))
    for voter in {0, voters // 2, voters - 1}:
        got_AT = values_if(code_TV, voter, 3, tie)
        for code in (0, 1, 2, ABSTAINED):
            again_TV = code_TV.copy()
            again_TV[:, voter] = code
            np.testing.assert_array_equal(got_AT[code], values_of_codes(again_TV, 3, RIGHT, tie))
