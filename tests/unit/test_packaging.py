"""What `pip install .` would bring along."""

from __future__ import annotations

from pathlib import Path

import pytest
from setuptools import Distribution
from setuptools.config.pyprojecttoml import apply_configuration

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built():
    return apply_configuration(Distribution(), ROOT / "pyproject.toml")


def test_the_packages_are_ours_alone(built):
    """verl's wheel installs top-level packages `tests` and `scripts`: ours must never land beside them."""
    assert {name.split(".")[0] for name in built.packages} == {"ccpo", "data_preprocess"}
    ours = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("ccpo/**/__init__.py")}
    assert set(built.packages) == ours | {"data_preprocess"}


def test_the_method_needs_numpy_and_mpmath_alone_and_the_stacks_are_the_pinned_ones(built):
    assert built.install_requires == ["numpy", "mpmath"]
    assert "verl==0.9.1" in built.extras_require["cpu"] and "vllm==0.24.0" in built.extras_require["gpu"]
    pins = [line for line in (ROOT / "requirements-cpu.txt").read_text().splitlines() if line and line[0] != "#"]
    assert len(built.extras_require["cpu"]) == len(pins)


def test_what_a_page_is_made_of_comes_along(built):
    patterns = built.package_data["ccpo.report"]
    parts = [path for path in (ROOT / "ccpo" / "report").iterdir() if path.suffix in (".html", ".css", ".js", ".txt")]
    assert len(parts) == 4 and all(any(path.match(pattern) for pattern in patterns) for path in parts)
