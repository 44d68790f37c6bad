"""What training gave, arm against arm: the validations of several runs, by question and by seed.

    python scripts/compare_runs.py outputs/dyad-shared-* outputs/dyad-counterfactual-* --before
    python scripts/compare_runs.py outputs/a outputs/b --step 400 --control shared --out table.csv --picture curves.png

RUN is the folder of a run. Runs that differ by nothing but their seed are one arm; the first run's arm is the control. A difference has two
intervals, over questions and over seeds; how to read them: docs/report.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

from ccpo.compare_runs.arms import arms_of
from ccpo.compare_runs.picture import png
from ccpo.compare_runs.tables import lines_of, tidy
from ccpo.compare_runs.validations import read
from ccpo.report import ReportError
from ccpo.run.json_file import write_atomic
from ccpo.run.output import until_cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--step", type=int, help="which validation (default: the last of each run)")
    parser.add_argument("--before", action="store_true", help="the change from the first validation, too")
    parser.add_argument(
        "--control", metavar="NAME", help="an arm's name, its rule, or a run in it (default: the first)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="arm, seed, source, question, step, value")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="curves of training, and the validations")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may be no text
    try:
        found = [read(run, options.step, options.before) for run in options.runs]
        arms = arms_of(found, options.control)
        print(*lines_of(arms, options.before), sep="\n")
    except ReportError as error:
        sys.exit(f"error: {error}")
    for path, what, make in (
        (options.out, "values by question", lambda: tidy(arms)),
        (options.picture, "picture", lambda: png(arms, options.before)),
    ):
        if path:
            try:
                write_atomic(path, make())
            except OSError as error:
                sys.exit(f"error: {path} cannot be written ({error.strerror}); the tables above are whole")
            except (OverflowError, ValueError) as error:  # steps or values that no float holds
                sys.exit(f"error: {path} cannot be drawn ({error}); the tables above are whole")
            print(f"\n{what}: {path}")


if __name__ == "__main__":
    sys.exit(until_cut(main))
