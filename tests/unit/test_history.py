"""History normalization: the expected numbers were computed by hand from the equations in the module's docstring."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ccpo.credit.history import HistoryState, normalize_by_history


def _run(batches: list, decay: float = 0.9, floor: float = 0.05, stream: str = "think/credit"):
    """Outputs of consecutive batches, and the last state."""
    state, outputs = HistoryState(), []
    for batch in batches:
        values, state = normalize_by_history({stream: np.array(batch, dtype=float)}, state, None, decay, floor)
        outputs.append(values[stream].tolist())
    return outputs, state


def test_first_batch_uses_its_own_statistics():
    """Mean 2, population deviation 1 (not Bessel's sqrt 2)."""
    outputs, state = _run([[1, 3]])
    assert outputs == [[-1.0, 1.0]]
    stream = state.streams["think/credit"]
    assert (stream.mean, stream.std) == (pytest.approx(2.0), pytest.approx(1.0))


def test_three_batches_by_hand():
    """decay 1/2. After [1, 3]: c = .5, M = 1, m = 2, S = .5, s = 1.
    [4, 6], old mean 2 and deviation 1: 2, 4. Then c = .75, M = 3, m = 4, S = .25 + .5 * mean(0, 4) = 1.25, s = 5/3.
    [4, 9], old mean 4 and deviation sqrt(5/3): 0, 5 / sqrt(5/3) = sqrt(15). Then c = .875, M = 1.5 + 3.25, m = 38/7,
    S = .625 + .5 * mean((10/7)^2, (25/7)^2) = .625 + 725/196."""
    outputs, state = _run([[1, 3], [4, 6], [4, 9]], decay=0.5)
    assert outputs[1] == pytest.approx([2.0, 4.0])
    assert outputs[2] == pytest.approx([0.0, 15**0.5])
    stream = state.streams["think/credit"]
    assert stream.weight == pytest.approx(0.875)
    assert stream.mean == pytest.approx(38 / 7)
    assert stream.std**2 == pytest.approx((0.625 + 725 / 196) / 0.875)


def test_drift_of_the_batch_mean_counts_as_spread():
    """Each batch is constant, so every batch variance is 0; but 5 is 5/3 away from the EMA mean 10/3."""
    _, state = _run([[0, 0], [5, 5]], decay=0.5)
    assert state.streams["think/credit"].std ** 2 == pytest.approx(0.5 * (5 - 10 / 3) ** 2 / 0.75)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_bias_correction(decay: float):
    """Without it the mean after one batch would be (1 - decay) * 0.7, and would creep towards 0.7."""
    for batches in (1, 2, 10):
        _, state = _run([[0.2, 1.2]] * batches, decay=decay)
        assert state.streams["think/credit"].mean == pytest.approx(0.7)
        assert state.streams["think/credit"].std == pytest.approx(0.5)


def test_decay_zero_remembers_the_last_batch_only():
    outputs, _ = _run([[100, 300], [1, 3], [2, 5]], decay=0.0)
    assert outputs[2] == pytest.approx([0.0, 3.0])


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_constant_stream_stays_zero(value: float):
    outputs, _ = _run([[value] * 3] * 5, floor=0.05)
    assert np.abs(outputs).max() < 1e-12


def test_floor_bounds_a_surprise_after_a_constant_stream():
    outputs, _ = _run([[1, 1], [1, 1], [0, 1]], floor=0.05)
    assert outputs[2] == pytest.approx([-20.0, 0.0])


def test_empty_batch_changes_nothing():
    _, state = _run([[1, 3]])
    values, after = normalize_by_history({"think/credit": np.array([])}, state)
    assert values["think/credit"].shape == (0,)
    assert after == state
    assert normalize_by_history({"think/credit": np.array([])}, HistoryState())[1] == HistoryState()
    assert normalize_by_history({}, state) == ({}, state)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused_and_the_state_is_untouched(bad: float):
    _, state = _run([[1, 3]])
    before = json.dumps(state.to_dict())
    with pytest.raises(ValueError, match="finite"):
        normalize_by_history({"reason/credit": np.array([1.0, 2.0]), "think/credit": np.array([1.0, bad])}, state)
    assert json.dumps(state.to_dict()) == before


@pytest.mark.parametrize(
    "decay, floor, name", [(1.0, 0.05, "decay"), (-0.1, 0.05, "decay"), (0.9, 0.0, "floor"), (0.9, -1.0, "floor")]
)
def test_settings_out_of_range_are_refused(decay: float, floor: float, name: str):
    with pytest.raises(ValueError, match=name):
        normalize_by_history({"think/credit": np.array([1.0])}, HistoryState(), None, decay, floor)


def test_streams_are_independent_and_the_argument_is_not_modified():
    _, state = _run([[1, 3]])
    before = json.dumps(state.to_dict())
    values, after = normalize_by_history({"reason/credit": np.array([10.0, 30.0])}, state)
    assert values["reason/credit"].tolist() == [-1.0, 1.0]
    assert json.dumps(state.to_dict()) == before
    assert after.streams["think/credit"] == state.streams["think/credit"]
    assert set(after.streams) == {"think/credit", "reason/credit"}


def test_values_are_not_modified():
    values = np.array([1.0, 3.0])
    normalize_by_history({"think/credit": values}, HistoryState())
    assert values.tolist() == [1.0, 3.0]


A, B, C = "voter_0/credit", "voter_1/credit", "voter_2/credit"


def test_streams_of_one_policy_share_one_scale_and_keep_their_means():
    """Variances 1 and 9: one scale sqrt(5); a stream of another policy has its own."""
    batch = {A: np.array([1.0, 3.0]), B: np.array([0.0, 6.0]), C: np.array([0.0, 6.0])}
    values, _ = normalize_by_history(batch, HistoryState(), {A: "one", B: "one", C: "other"})
    assert values[A] == pytest.approx([-1 / 5**0.5, 1 / 5**0.5])
    assert values[B] == pytest.approx([-3 / 5**0.5, 3 / 5**0.5])
    assert values[C] == pytest.approx([-1, 1])


def test_the_shared_scale_is_of_the_old_history_and_every_stream_learns_its_own_moments():
    first = {A: np.array([1.0, 3.0]), B: np.array([0.0, 6.0])}
    one = dict.fromkeys((A, B), "one")
    _, state = normalize_by_history(first, HistoryState(), one)
    values, after = normalize_by_history({A: np.array([12.0]), B: np.array([3.0])}, state, one)
    assert values[A] == pytest.approx([10 / 5**0.5]) and values[B] == pytest.approx([0])
    alone, alone_after = normalize_by_history({A: np.array([12.0]), B: np.array([3.0])}, state)
    assert alone[A] == pytest.approx([10])
    assert after == alone_after, "what is remembered does not depend on who shares"


def test_a_stream_without_a_batch_has_no_part_in_the_scale():
    """Whoever said nothing in this step, or was never heard of, does not change the others' scale."""
    batch = {A: np.array([1.0, 3.0]), B: np.array([])}
    values, state = normalize_by_history(batch, HistoryState(), dict.fromkeys((A, B), "one"))
    assert values[A].tolist() == [-1.0, 1.0] and not len(values[B])
    assert set(state.streams) == {A}


def test_the_floor_bounds_the_shared_scale():
    batch = {A: np.array([0.0, 0.02]), B: np.array([1.0, 1.0])}
    values, _ = normalize_by_history(batch, HistoryState(), dict.fromkeys((A, B), "one"), floor=0.05)
    assert values[A] == pytest.approx([-0.2, 0.2]) and values[B].tolist() == [0, 0]


def test_a_policy_may_be_named_like_a_stream():
    values, _ = normalize_by_history({A: np.array([1.0, 3.0]), B: np.array([0.0, 6.0])}, HistoryState(), {B: A})
    assert values[A].tolist() == [-1.0, 1.0] and values[B].tolist() == [-1.0, 1.0]


def test_json_round_trip_is_exact():
    _, state = _run([[0.1, 1 / 3], [2 / 7, 0.9]])
    restored = HistoryState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert restored == state
    assert HistoryState.from_dict(HistoryState().to_dict()) == HistoryState()


def test_foreign_states_are_refused():
    data = HistoryState().to_dict()
    with pytest.raises(ValueError, match="surprise"):
        HistoryState.from_dict({**data, "surprise": 1})
    with pytest.raises(ValueError, match="streams"):
        HistoryState.from_dict({name: value for name, value in data.items() if name != "streams"})


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_foreign_streams_are_refused(change: str):
    """A stream without its second moment must not silently become one with deviation 0."""
    data = _run([[1, 3]])[1].to_dict()
    if change == "missing":
        del data["streams"]["think/credit"]["second"]
    else:
        data["streams"]["think/credit"]["third"] = 0.0
    with pytest.raises(ValueError, match="think/credit"):
        HistoryState.from_dict(data)
