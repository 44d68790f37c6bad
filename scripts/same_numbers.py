"""Do two runs have the same numbers, to the last bit, and where do they part?

    python scripts/same_numbers.py outputs/a outputs/b

Two runs of one command and seed, or one that was killed and went on beside one that was left alone. Compared is what both have: every logged number but
clocks and memory, all that is known of the sessions that were kept, and the weights and moments of the last common checkpoint. Exit status 0 if all are
equal, 1 if not, 2 if they cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

from ccpo.compare_runs.same import compare
from ccpo.report.logged import ReportError
from ccpo.run.output import until_cut


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument("b", type=Path, metavar="RUN", help="folder of another one")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may be no text
    try:
        found = compare(options.a, options.b)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*found.lines, sep="\n")
    return {True: 0, False: 1, None: 2}[found.equal]


if __name__ == "__main__":
    try:
        sys.exit(until_cut(main))
    except Exception:  # Python's own status would be 1, which says that they are not equal
        traceback.print_exc()
        sys.exit(2)
