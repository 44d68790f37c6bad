"""What runs achieved: tables in the terminal, and one HTML page with curves and sessions that needs no network.

    python scripts/report.py outputs/dyad                       RUN/report.html
    python scripts/report.py outputs/a outputs/b --out ab.html  several runs; those that differ by their seed only are averaged
    python scripts/report.py outputs/dyad --json                the numbers, no page

What the numbers mean: ccpo/report/logged.py; the curves say it beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

from ccpo.report import ReportError, load, show, summarize
from ccpo.run.output import until_cut


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables of runs, and a page with their curves and sessions.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="trainer.default_local_dir of a run")
    parser.add_argument("--out", type=Path, help="where the page is written (default: RUN/report.html, of one run)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON, write no page")
    arguments = parser.parse_args()
    if arguments.json and arguments.out:
        parser.error("--json writes no page: drop --out")
    if len(arguments.runs) > 1 and not (arguments.out or arguments.json):
        parser.error("a page of several runs belongs to none of their folders: name it, --out PAGE.html")
    try:
        if arguments.json:
            numbers = {str(run): summarize(load(run)) for run in arguments.runs}
            print(json.dumps(numbers if len(numbers) > 1 else next(iter(numbers.values())), indent=2))
        else:
            show(arguments.runs, arguments.out)
    except ReportError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    sys.exit(until_cut(main))
