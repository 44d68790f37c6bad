"""The commands behind the numbers of docs/runs, as they stand in its pages.

    python scripts/reproduce.py                          the pages, and how many commands each has
    python scripts/reproduce.py cpu_silence              its commands, numbered
    python scripts/reproduce.py cpu_silence --run        all of them, one after the other; ends with the first that fails
    python scripts/reproduce.py cpu_silence --run 1 3    these

A page's commands are its indented blocks, so what is shown is what is run. They are run from the repository's root, with the Python of .venv where
there is one. A command that was interrupted goes on when it is run again, if the script that it calls does.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "runs"


def commands(text: str) -> list[str]:
    """A page's commands, in its order: indented by four spaces; a line that ends in a backslash goes on."""
    found, open_ = [], False
    for line in text.splitlines():
        if not line.startswith("    ") or not line.strip():
            open_ = False
            continue
        if open_:
            found[-1] += "\n" + line[4:]
        else:
            found.append(line[4:])
        open_ = line.endswith("\\")
    return found


def pages() -> dict[str, Path]:
    return {path.stem: path for path in sorted(PAGES.glob("*.md"))}


def title(page: Path) -> str:
    return re.sub(r"^#+ *", "", page.read_text(encoding="utf-8").splitlines()[0])


def run(chosen: Sequence[tuple[int, str]]) -> None:
    """Run these commands (number, text). Exits with the status of the first that fails."""
    own = ROOT / ".venv" / "bin"
    environment = {**os.environ, "PATH": f"{own}{os.pathsep}{os.environ['PATH']}"} if own.is_dir() else None
    for number, command in chosen:
        print(f"[{number}] {command}", flush=True)
        begun = time.monotonic()
        status = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, check=False).returncode
        print(f"[{number}] {'done' if status == 0 else f'ended with {status}'} after {time.monotonic() - begun:.0f} s")
        if status:
            sys.exit(status)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", help="a page of docs/runs, without .md")
    parser.add_argument("--run", nargs="*", type=int, metavar="NUMBER", help="run its commands: all, or these")
    known = parser.parse_args(argv)
    found = pages()
    if known.page is None:
        if known.run is not None:
            parser.error(f"--run needs a page: one of {', '.join(found)}")
        for name, path in found.items():
            print(f"{name:28} {len(commands(path.read_text(encoding='utf-8'))):3} commands  {title(path)}")
        return
    if known.page not in found:
        near = difflib.get_close_matches(known.page, found, n=1)
        parser.error(f"{known.page}: {f'did you mean {near[0]}? ' if near else ''}pages: {', '.join(found)}")
    numbered = dict(enumerate(commands(found[known.page].read_text(encoding="utf-8")), 1))
    if known.run is None:
        print(title(found[known.page]))
        for number, command in numbered.items():
            print(f"\n[{number}] {command}")
        return
    if wrong := [number for number in known.run if number not in numbered]:
        parser.error(f"--run {wrong[0]}: {known.page} has commands 1 to {len(numbered)}")
    run([(number, numbered[number]) for number in known.run or numbered])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
