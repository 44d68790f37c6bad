"""Fixtures that more than one test file uses."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def compose():
    """compose(*overrides) -> the configuration that recipe/main_ccpo.py would get."""
    hydra = pytest.importorskip("hydra")

    def build(*overrides: str):
        with hydra.initialize_config_dir(str(ROOT / "recipe" / "config"), version_base=None):
            return hydra.compose("ccpo_dyad", overrides=list(overrides))

    return build


@pytest.fixture(scope="session")
def _cpu_config(compose):
    return compose("profile=cpu", "task=last_digit", f"actor_rollout_ref.model.path={ROOT}/data_preprocess/last_digit_model")


@pytest.fixture
def cpu_config(_cpu_config):
    """A copy, to be changed at will, of the embedded task's configuration."""
    return copy.deepcopy(_cpu_config)
