"""`algorithm.adv_estimator=ccpo` as verl calls it."""

from __future__ import annotations

import pytest

pytest.importorskip("verl")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from verl.protocol import DataProto  # noqa: E402
from verl.trainer.ppo import core_algos  # noqa: E402
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories  # noqa: E402

from ccpo.verl_plugin.estimator import TRAINER_MODE, ccpo_advantage, step_context  # noqa: E402

KEYS = ["u_0_0", "u_0_1", "pad1_0_0", "v_0_0"]
MASK = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
ADVANTAGE_OF = {"u_0_0": 0.5, "u_0_1": -2.0, "v_0_0": 1.25, "not in this batch": 9.0}
EXPECTED = [[0.5, 0.5, 0.0], [-2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.25, 1.25, 1.25]]


def through_verl():
    """verl's own call, with rewards that must not matter."""
    data = DataProto.from_dict(
        tensors={"token_level_rewards": torch.full((4, 3), 7.0), "response_mask": MASK},
        non_tensors={"uid": np.array([key.split("_")[0] for key in KEYS], dtype=object)},
    )
    return compute_advantage_for_multi_trajectories(data, batch_keys=KEYS, adv_estimator="ccpo", config={})


def test_it_is_registered():
    assert core_algos.get_adv_estimator_fn("ccpo") is ccpo_advantage


def test_each_row_gets_its_advantage_on_its_tokens_and_padding_nothing():
    with step_context(KEYS, ADVANTAGE_OF):
        data = through_verl()
    assert data.batch["advantages"].tolist() == EXPECTED
    assert data.batch["returns"].tolist() == EXPECTED
    assert data.batch["advantages"].dtype == torch.float32


def test_a_row_may_have_another_advantage_from_some_token_on():
    later = {"v_0_0": (1, -3.0), "u_0_1": (0, 4.0), "u_0_0": (2, 5.0), "elsewhere": (0, 9.0)}
    with step_context(KEYS, ADVANTAGE_OF, later):
        data = through_verl()
    assert data.batch["advantages"].tolist() == [[0.5, 0.5, 0], [4.0, 0, 0], [0, 0, 0], [1.25, -3.0, -3.0]]


def test_outside_our_trainer_the_error_says_what_to_set():
    with pytest.raises(
        RuntimeError, match=f"trainer.v1.trainer_mode={TRAINER_MODE}.*recipe/main_ccpo.py.*adv_estimator=grpo"
    ):
        through_verl()


def test_the_context_ends_with_the_step_even_after_an_error():
    with pytest.raises(KeyError), step_context(KEYS, ADVANTAGE_OF):
        raise KeyError
    with pytest.raises(RuntimeError, match="another trainer is running"):
        through_verl()


def test_a_batch_of_another_size_is_refused():
    with (
        step_context(KEYS[:3], ADVANTAGE_OF),
        pytest.raises(RuntimeError, match="has 4 rows, the credit table was laid out for 3"),
    ):
        through_verl()
