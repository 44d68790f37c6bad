"""What `pip install .` would bring along."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools import Distribution
from setuptools.config.pyprojecttoml import apply_configuration

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import check_requirements  # noqa: E402


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


@pytest.mark.parametrize(
    "file, python", [(file, python) for file, (pythons, *_) in check_requirements.STACKS.items() for python in pythons]
)
def test_a_stack_is_a_list_of_exact_pins_and_each_package_is_named_once(file, python):
    assert len(check_requirements.pins((ROOT / file).read_text(), python)) > 100


def test_both_stacks_have_the_version_of_verl_that_is_required():
    required = dict(
        line.split("=", 1) for line in (ROOT / "REQUIRED_VERL.txt").read_text().splitlines() if line[0] != "#"
    )
    assert required["MODE"] == "pinned_tag"
    version = re.fullmatch(r"pip install verl==([\d.]+)", required["PIP_INSTALL"])[1]
    assert required["TAG"] == f"v{version}"
    for file, (pythons, *_) in check_requirements.STACKS.items():
        for python in pythons:
            assert check_requirements.pins((ROOT / file).read_text(), python)["verl"] == version


def test_setup_knows_for_which_pythons_a_stack_is():
    text = (ROOT / "scripts" / "setup.sh").read_text()
    listed = re.findall(r"requirements=(\S+) pythons=\((.+)\)", text)
    assert {file: sorted(pythons.split()) for file, pythons in listed} == {
        file: sorted(pythons) for file, (pythons, *_) in check_requirements.STACKS.items()
    }


@pytest.mark.parametrize(
    "text, words",
    [
        ("numpy>=2\n", "no exact pin"),
        ("numpy\n", "no exact pin"),
        ("numpy==2.*\n", "no exact pin"),
        ("a_b==1\na-b==1\n", "pinned twice for Python 3.11"),
        ('x==1; python_version < "3.12"\nx==2; python_version >= "3.11"\n', "pinned twice"),
    ],
)
def test_what_is_no_list_of_pins(text, words):
    with pytest.raises(ValueError, match=words):
        check_requirements.pins(text, "3.11")


def test_pins_hold_for_the_python_of_their_marker():
    text = '# none\nA_b[x]==1.0.post1  # why\n\nx==1; python_version < "3.11"\nx==2; python_version >= "3.11"\n'
    assert check_requirements.pins(text, "3.10") == {"a-b": "1.0.post1", "x": "1"}
    assert check_requirements.pins(text, "3.12") == {"a-b": "1.0.post1", "x": "2"}


def test_what_a_package_brings_along_unpinned_is_named():
    found = check_requirements.unpinned({"a": "1"}, {"a": "1", "b": "2", "nvidia-x": "3"}, "nvidia-.*")
    assert found == ["b==2"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="resolving needs uv, and the package index")
def test_every_stack_resolves_and_pins_all_that_it_installs():
    command = [sys.executable, str(ROOT / "scripts" / "check_requirements.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_page_is_made_of_comes_along(built):
    patterns = built.package_data["ccpo.report"]
    parts = [path for path in (ROOT / "ccpo" / "report").iterdir() if path.suffix in (".html", ".css", ".js", ".txt")]
    assert len(parts) == 4 and all(any(path.match(pattern) for pattern in patterns) for path in parts)
