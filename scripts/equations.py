"""How much of the arithmetic in a run's texts is wrong: 12*7 = 84 is right, 12 x 7 = $94 is not.

    python scripts/equations.py outputs/my_run

Of every validation and role: equations of numbers and + - * / x in a text, the share of them that is wrong, and the share of wrong sessions in which
the role wrote a wrong one. What has a word or a letter between its numbers is no equation here, nor is what comes to a percentage. A result with
decimals may be rounded or cut, any other has to be exact. Means over questions, with 95 % intervals (ccpo/evaluate/measures.py). A model whose
arithmetic is wrong needs lessons in it (docs/teach.md); a reward at the end tells it little.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

from ccpo.compare_runs.tables import markdown
from ccpo.evaluate.measures import estimate, mean
from ccpo.evaluate.tables import text_of
from ccpo.report.logged import ReportError
from ccpo.report.runs import read_run
from ccpo.run.output import until_cut
from ccpo.run.session_log import VAL
from data_preprocess.role_targets import AS_PYTHON, NUMERAL, worth_of

_BLANK = r"[^\S\n]*"
_SIGN = rf"{_BLANK}[-+*/x×÷−–]{_BLANK}"
EQUATION = re.compile(
    rf"""(?<![\w.,/*+\-−–^])(?<!\d:) \$? ({NUMERAL} (?:{_SIGN} \$? {NUMERAL})*)  # taken whole, so that none begins in the midst of another
    (?: {_BLANK}={_BLANK} \$? ({NUMERAL}) (?![\w^]|[.,]\d|{_BLANK}[%*/]|{_SIGN}\$?[\d.(]))?""",
    re.VERBOSE,
)
_BULLET = re.compile(r"\s*[-*+]?\s*")
_BEGUN = re.compile(
    r"""(?:[-+*/×÷−–^] | \bx | \b(?:plus|minus|times|twice|thrice|double) | (?:\bhalf|\bthirds?|\bquarters?|\w+ths?|%|\bpercent)\s+(?:of|the))\s*$""",
    re.IGNORECASE | re.VERBOSE,
)
"""What stands before an equation that begins further left, with a word: 6 cats + 3 + 4 = 13."""
PLACES = 12
EXACT = Decimal("1e-12")  # 1 / 3 * 3 is one
Sessions = Sequence[Mapping[str, Any]]


def equations(text: str) -> Iterator[bool]:
    """Of each equation in a text: whether it is right."""
    for match in EQUATION.finditer(text):
        written, stated = match.groups()
        left = re.sub(r"(?<![\d.,])0+(?=\d)", "", written.translate(AS_PYTHON))  # 05 is 5
        if not stated or not re.search(r"[-+*/]", left):
            continue
        before = text[max(0, match.start() - 24) : match.start()].rpartition("\n")[2]
        if not _BULLET.fullmatch(before) and _BEGUN.search(before):
            continue
        worth = worth_of(left)
        if worth is not None:
            yield is_right(worth, stated)


def is_right(worth: Decimal, stated: str) -> bool:
    """Whether a result is stated right: to the decimals that it has, rounded or cut (2/3 is .67 or .66), a whole number exactly."""
    found = Decimal(stated.replace(",", ""))
    if abs(worth - found) <= EXACT:
        return True
    if "." not in stated or len(stated.partition(".")[2]) > PLACES:
        return False
    return any(found == worth.quantize(found, rounding) for rounding in (ROUND_HALF_UP, ROUND_DOWN))


def shown(values: Sequence[float | None]) -> str:
    found = estimate(values, seed=0)
    return "none" if found is None else text_of(found.as_dict())


def rows_of(sessions: Sessions) -> Iterator[list[str]]:
    """A row of the table for each validation step, data source and role."""
    kinds: dict[tuple[int, str, str], dict[int, list[tuple[float, list[bool]]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for entry in sessions:
        said: dict[str, list[bool]] = defaultdict(list)
        for turn in entry["turns"]:
            if isinstance(turn.get("text"), str):
                said[turn["role"]] += equations(turn["text"])
        for role, found in said.items():
            kinds[entry["step"], entry["source"], role][entry["index"]].append((entry["value"], found))
    for (step, source, role), questions in sorted(kinds.items()):
        texts = list(questions.values())
        wrong_equations = [mean([found.count(False) / len(found) for _, found in one if found]) for one in texts]
        in_wrong = [mean([float(False in found) for value, found in one if value < 1]) for one in texts]
        yield [
            *(str(step), source, role, str(sum(map(len, texts)))),
            shown([mean([value for value, _ in one]) for one in texts]),
            f"{mean([mean([float(len(found)) for _, found in one]) for one in texts]):.2f}",
            *(shown(wrong_equations), shown(in_wrong)),
        ]


HEAD = [
    "step",
    "questions",
    "role",
    "texts",
    "team's value",
    "equations a text",
    "of them wrong",
    "wrong sessions with one",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run")
    options = parser.parse_args()
    try:
        sessions = [entry for entry in read_run(options.run).sessions if entry["kind"] == VAL]
    except ReportError as error:
        sys.exit(f"error: {error}")
    rows = list(rows_of(sessions))
    if not rows:
        sys.exit(
            f"error: {options.run} has no texts of a validation: set trainer.test_freq, and ccpo.keep_sessions above 0"
        )
    print(*markdown(HEAD, rows), sep="\n")


if __name__ == "__main__":
    sys.exit(until_cut(main))
