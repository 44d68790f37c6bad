"""Resolve the pinned requirements for every Python that they are for, and say what is not pinned as it would be installed.

    python scripts/check_requirements.py                          both stacks; needs uv (pip install uv) and the package index
    python scripts/check_requirements.py requirements.txt

Downloads no package: the resolver reads what each says it needs. Status 1 when a file does not resolve, or something in it is not pinned.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
STACKS = {  # file -> Pythons, oldest glibc, what it leaves open
    "requirements-cpu.txt": (("3.10", "3.11", "3.12"), "2_28", r"cuda-.*|nvidia-.*|triton"),  # of torch's default build
    "requirements.txt": (("3.11", "3.12"), "2_31", None),
}
FROM_SOURCE = ("antlr4-python3-runtime",)  # pure Python without a wheel


def pins(text: str, python: str) -> dict[str, str]:
    """Package -> version, of the lines that hold for a Python. Raises ValueError naming a line that is no exact pin, or a second one."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not (line := re.sub(r"(^|\s)#.*", "", line).strip()):
            continue
        requirement = Requirement(line)
        exact = re.fullmatch(r"==([\w.+!-]+)", str(requirement.specifier))
        if not exact:
            raise ValueError(f"{line!r} is no exact pin: set ==VERSION")
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        if (name := canonicalize_name(requirement.name)) in found:
            raise ValueError(f"{line!r} is pinned twice for Python {python}")
        found[name] = exact[1]
    return found


def resolve(file: Path, python: str, glibc: str) -> str:
    """What would be installed, one name==version a line. Raises ValueError with the resolver's reason."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise SystemExit("error: uv is not installed, which resolves for other Pythons than this one: pip install uv")
    source = [option for name in FROM_SOURCE for option in ("--no-binary", name)]
    command = [
        *(uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:", *source),
        *("--python-version", python, "--python-platform", f"x86_64-manylinux_{glibc}", str(file)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise ValueError(f"does not resolve: {done.stderr.strip()}")
    return done.stdout


def unpinned(pinned: dict[str, str], installed: dict[str, str], left_open: str | None) -> list[str]:
    """Packages that a pinned one brings along, at whatever version there is that day. (What is pinned stands in both.)"""
    strangers = sorted(installed.keys() - pinned.keys())
    return [f"{name}=={installed[name]}" for name in strangers if not (left_open and re.fullmatch(left_open, name))]


def main(files: Sequence[str]) -> int:
    wrong = 0
    for file in files or STACKS:
        pythons, glibc, left_open = STACKS[file]
        for python in pythons:
            try:
                pinned = pins((ROOT / file).read_text(encoding="utf-8"), python)
                installed = pins(resolve(ROOT / file, python, glibc), python)
                problems = [
                    f"{found} would be installed and is not pinned" for found in unpinned(pinned, installed, left_open)
                ]
            except ValueError as error:
                problems = [str(error)]
            print(
                f"{file}, Python {python}: {len(problems)} problem(s)"
                if problems
                else f"{file}, Python {python}: {len(pinned)} pins, whole"
            )
            for problem in problems:
                print(f"  {problem}")
            wrong += len(problems)
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Resolve the pinned requirements and name what is not pinned.")
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"of {', '.join(STACKS)} (default: all)")
    given = parser.parse_args().files
    if strange := [name for name in given if name not in STACKS]:
        parser.error(f"{', '.join(strange)} is none of {', '.join(STACKS)}")
    sys.exit(main(given))
