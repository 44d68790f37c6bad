"""Measures of an evaluation against brute force: every choice of k sessions, and simulated sets of questions."""

from __future__ import annotations

import random
from itertools import combinations
from statistics import fmean

import pytest

from ccpo.evaluate.measures import MOST, estimate, majority_at, mean, pass_at, sizes
from ccpo.plurality import vote_value

CASES = [
    [random.Random(seed).choice([0, 0, 1, 2, 3, None]) for _ in range(random.Random(seed).randint(1, 7))]
    for seed in range(40)
]


@pytest.mark.parametrize("labels", CASES, ids=str)
def test_pass_and_majority_are_means_over_all_choices(labels):
    right = labels.count(0)
    for k in range(1, len(labels) + 1):
        chosen = list(combinations(labels, k))
        assert pass_at(right, len(labels), k) == pytest.approx(fmean(float(0 in some) for some in chosen))
        assert majority_at(labels, 0, k) == pytest.approx(fmean(vote_value(some, 0) for some in chosen))


def test_one_session_is_the_mean_and_more_than_there_are_is_nothing():
    assert pass_at(3, 8, 1) == majority_at([0] * 3 + [1] * 4 + [None], 0, 1) == 3 / 8
    assert pass_at(3, 8, 9) is None and majority_at([0], 0, 2) is None and pass_at(0, 0, 1) is None


def test_many_sessions_do_not_overflow():
    labels = [i % 37 for i in range(MOST)]
    assert 0 < majority_at(labels, 0, MOST // 2) < 1
    assert pass_at(1, MOST, MOST // 2) == pytest.approx(0.5)


def test_sizes():
    assert [sizes(k) for k in (1, 2, 5, 8)] == [(1,), (1, 2), (1, 2, 4, 5), (1, 2, 4, 8)]


def test_an_interval_is_reproducible_and_holds_the_value():
    rng = random.Random(3)
    values = [rng.random() for _ in range(50)]
    first = estimate(values, seed=1)
    assert first == estimate([*values, None], seed=1) and first.questions == 50
    assert first.value == pytest.approx(fmean(values)) and first.low < first.value < first.high
    assert estimate(values, seed=2).low != first.low
    assert estimate([], 0) is None and estimate([None], 0) is None and estimate([0.5], 0).low is None
    assert mean([None, 1.0, 0.0]) == 0.5 and mean([None]) is None


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Questions of unequal difficulty with four sessions each: sessions of one question are no independent samples."""
    rng, covered = random.Random(0), 0
    for trial in range(200):
        questions = []
        for _ in range(60):
            chance = rng.choice([0.1, 0.9])
            questions.append(fmean(float(rng.random() < chance) for _ in range(4)))
        found = estimate(questions, seed=trial)
        covered += found.low <= 0.5 <= found.high
    assert 180 <= covered <= 200
