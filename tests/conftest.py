"""Fixtures that more than one test file uses."""

from __future__ import annotations

import copy
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_configure(config):
    """scripts/test.sh ends a hung run with SIGTERM: fixtures must still end the jobs they started, which live in sessions of their own."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))


@pytest.fixture(scope="session")
def compose():
    """compose(*overrides, name="ccpo_dyad") -> the configuration that recipe/main_ccpo.py would get."""
    hydra = pytest.importorskip("hydra")

    def build(*overrides: str, name: str = "ccpo_dyad"):
        with hydra.initialize_config_dir(str(ROOT / "recipe" / "config"), version_base=None):
            return hydra.compose(name, overrides=list(overrides))

    return build


@pytest.fixture(scope="session")
def _cpu_config(compose):
    sizes = {  # not the recipe's, which are tuned now and then
        "actor_rollout_ref.model.path": ROOT / "data_preprocess" / "last_digit_model",
        "actor_rollout_ref.actor.ppo_mini_batch_size": 16,
        "actor_rollout_ref.rollout.n": 4,
        "actor_rollout_ref.rollout.temperature": 1.0,
        "actor_rollout_ref.rollout.val_kwargs.n": 1,
        "ccpo.seed": 0,
        "data.max_prompt_length": 80,
        "data.max_response_length": 16,
        "data.train_batch_size": 16,
    }
    return compose("profile=cpu", "task=last_digit", *(f"{name}={value}" for name, value in sizes.items()))


@pytest.fixture
def cpu_config(_cpu_config):
    """A copy, to be changed at will, of the embedded task's configuration."""
    return copy.deepcopy(_cpu_config)
