"""What a release is: a wheel and a source archive, tried where nothing but numpy and mpmath is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = """
import sys
from setuptools import build_meta
out = sys.argv[1]
print("BUILT", build_meta.build_sdist(out), build_meta.build_wheel(out))
"""
"""What `python -m build` asks of the backend, without an environment of its own, which would need the network."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(source archive, wheel) of the files that git knows, and of new ones."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if listed.returncode:
        pytest.skip("no git repository, which says what belongs to a release")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    sdist, wheel = done.stdout.rsplit("BUILT", 1)[1].split()
    return out / sdist, out / wheel


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """run(code) -> what it prints in an environment with the wheel, numpy and mpmath."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(built[1]) as wheel:
        wheel.extractall(folder)
    for name in ("numpy", "numpy.libs", "mpmath"):
        beside = Path(importlib.util.find_spec(name.split(".")[0]).origin).parents[1] / name
        if beside.exists():
            (folder / name).symlink_to(beside)

    def run(code: str) -> str:
        command = [sys.executable, "-S", "-c", code]  # -S: no site-packages
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_the_example_of_the_readme_runs(installed):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert installed(code) == code.rsplit("# ", 1)[1].strip()


def test_a_verdict_and_a_plan_need_nothing_more(installed):
    assert installed("from ccpo.verifier import verify; print(verify('It is \\\\boxed{0.5}', '1/2').reward)") == "1.0"
    code = "from ccpo.team.plan import plan; from ccpo.team.dyad import Dyad; print(plan(Dyad()).roles)"
    assert installed(code) == "('think', 'reason')"


def test_a_team_with_prompts_says_which_package_reads_them(installed):
    code = "from ccpo.config import CcpoConfig, ConfigError\ntry: CcpoConfig.from_dict({}, 4)\nexcept ConfigError as e: print(e)"
    assert "pip install pyyaml" in installed(code)


def test_the_version_is_that_of_pyproject_toml(installed, built):
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert installed("from importlib.metadata import version; print(version('ccpo'))") == stated
    assert f"\nversion: {stated}\n" in (ROOT / "CITATION.cff").read_text()
    sdist, wheel = built
    assert sdist.name == f"ccpo-{stated}.tar.gz" and wheel.name == f"ccpo-{stated}-py3-none-any.whl"


def test_the_wheel_has_the_packages_and_their_data_and_nothing_else(built):
    """verl's wheel installs top-level `tests` and `scripts`: ours must not land there."""
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"ccpo", "data_preprocess"}
    for folder in ("ccpo", "data_preprocess"):
        ours = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {name for name in ours if "__pycache__" not in name} <= names


def test_the_wheel_can_be_made_of_the_source_archive(built, tmp_path):
    """Whose extras are read from the requirements."""
    shutil.unpack_archive(built[0], tmp_path)
    (source,) = tmp_path.iterdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with zipfile.ZipFile(built[1]) as one, zipfile.ZipFile(tmp_path / built[1].name) as two:
        assert set(one.namelist()) == set(two.namelist())
