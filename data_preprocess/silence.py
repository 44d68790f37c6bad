"""The embedded task ``silence``: a vote in which some voters had better say nothing. Made here, so it needs no network. Our construction.

Seven voters are asked for the last digit of one expression, and each has a copy of its own in which a digit may be smudged: shown with a mark,
and right with probability .3 alone. A voter may abstain, which is no ballot. There are two kinds of prompt, told apart by their mark:

    one_smudge    ``~``: a voter has a clean copy with probability .3; all others see the SAME smudged digit. Their guesses coincide, so they
                  outvote those who know: a smudged voter should be silent.
    own_smudges   ``^``: nobody has a clean copy, and each has its OWN smudged digit. Wrong guesses scatter, right ones add up: everybody should
                  speak.

A guess is right as often in both, so no rule that looks at one voter alone can have the right price of a wrong ballot: it depends on the others.
The row's ``copies`` are what the voters read (`OVERRIDES`); the question that it states is the clean one. Problems and
splits are those of ``data_preprocess.toy``.

    python -m data_preprocess.silence --out data/silence
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from data_preprocess.schema import Row, make_row, summary, write_dataset
from data_preprocess.toy import KNOWN_OVERLAP, MAX_TEST_SIZE, Problem, draw_problems

NAME = "silence"
VOTERS = 7
COLUMN = "copies"
OVERRIDES = {"vote": (f"ccpo.team_kwargs.n_voters={VOTERS}", f"ccpo.team_kwargs.copies={COLUMN}")}
"""Team -> what it needs beside recipe/config/task/silence.yaml, which fits every team."""


@dataclass(frozen=True)
class Kind:
    """A kind of prompt. ``clean``: probability of a clean copy. ``right``: of a smudged digit to be the true one. ``common``: all smudged copies
    of a prompt show the same digit in the same place; else each has its own."""

    mark: str
    clean: float
    common: bool
    right: float = 0.3


KINDS = {"one_smudge": Kind("~", 0.3, True), "own_smudges": Kind("^", 0.0, False)}


@dataclass(frozen=True)
class Copy:
    """What one voter reads of a problem: ``problem`` with the digit in ``place`` marked; ``place`` None: a clean copy."""

    problem: Problem
    place: int | None = None
    mark: str = ""

    @property
    def question(self) -> str:
        shown = [
            f"{self.mark if place == self.place else ''}{digit}" for place, digit in enumerate(self.problem.digits)
        ]
        first = f"{shown[0]}{self.problem.operators[0]}{shown[1]}"
        expression = first if self.problem.level == 1 else f"({first}){self.problem.operators[1]}{shown[2]}"
        return f"What is the last digit of {expression}?"


def smudged(problem: Problem, mark: str, right: float, rng: random.Random) -> Copy:
    """A copy with a digit anywhere replaced by one that is the true one with probability ``right``."""
    place = rng.randrange(len(problem.digits))
    digit = problem.digits[place]
    if rng.random() >= right:
        digit = (digit + rng.randrange(1, 10)) % 10
    digits = tuple(digit if i == place else true for i, true in enumerate(problem.digits))
    return Copy(Problem(digits, problem.operators), place, mark)


def draw_copies(problem: Problem, kind: Kind, rng: random.Random) -> list[Copy]:
    """A copy for each voter."""
    same = smudged(problem, kind.mark, kind.right, rng)
    return [
        Copy(problem)
        if rng.random() < kind.clean
        else same
        if kind.common
        else smudged(problem, kind.mark, kind.right, rng)
        for _ in range(VOTERS)
    ]


def copy_scores(sessions: Iterable[tuple[Row, Mapping[str, str | None]]]) -> dict[str, float]:
    """What voters do with clean copies, and with those of each mark.

    Args:
        sessions: the row of each, and its ballots: voter -> label, None for an abstention.

    Returns:
        ``clean/abstention_rate``, ``clean/accuracy`` (of its ballots), and the same for ``one_smudge`` and ``own_smudges``; where nothing was cast
        there is no accuracy.
    """
    abstained, right = defaultdict(list), defaultdict(list)
    for row, ballots in sessions:
        for copy, ballot in zip(row["extra_info"][COLUMN], ballots.values(), strict=False):
            what = next((name for name, kind in KINDS.items() if kind.mark in copy), "clean")
            abstained[what].append(ballot is None)
            if ballot is not None:
                right[what].append(ballot == row["reward_model"]["ground_truth"])
    rates = {f"{what}/abstention_rate": fmean(values) for what, values in abstained.items()}
    return rates | {f"{what}/accuracy": fmean(values) for what, values in right.items()}


def dataset_rows(split: str, count: int, seed: int) -> list[Row]:
    """``count`` rows, half of each kind on average. The same arguments give the same rows."""
    rng = random.Random(f"{seed}/{split}/{NAME}")
    rows = []
    for index, problem in enumerate(draw_problems(split, count, rng)):
        name = rng.choice(list(KINDS))
        copies = [copy.question for copy in draw_copies(problem, KINDS[name], rng)]
        answer, extra = str(problem.answer), {COLUMN: copies}
        rows.append(make_row(f"{NAME}/{name}", problem.question, answer, "boxed", split, index, extra=extra))
    return rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=f"Write the dataset of the embedded task silence. Known overlap: {KNOWN_OVERLAP}."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="problems, kinds and copies; the split is fixed")
    parser.add_argument("--train-size", type=int, default=4096)
    parser.add_argument("--test-size", type=int, default=600, help=f"at most {MAX_TEST_SIZE}: no repeats")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    try:
        sizes = {"train": arguments.train_size, "test": arguments.test_size}
        if min(sizes.values()) < 1:
            raise ValueError(f"every split needs at least one row, got {sizes}; raise --train-size or --test-size")
        rows = {split: dataset_rows(split, size, arguments.seed) for split, size in sizes.items()}
        source = {
            "generator": "data_preprocess.silence",
            "seed": arguments.seed,
            "known_overlap": KNOWN_OVERLAP,
        }
        manifest = write_dataset(arguments.out, rows, name=NAME, sources=[source])
    except (ValueError, OSError) as error:
        sys.exit(f"{NAME}: {error}")
    print(summary(arguments.out, manifest))


if __name__ == "__main__":
    main()
