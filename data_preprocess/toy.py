"""The embedded task ``last_digit``: made here, so it needs no network. Our construction.

``What is the last digit of (3+4)*5?`` has the answer 5. Level 1 has one operation (200 problems), level 2 has two
(4,000). A thought is useful here by design: a tiny model does one step at a time, and Think may write the first result.

Splits: a fixed hash of the text holds out about 15 % of level 2. Level 1 is too small to split: its problems are in
both splits (20 % of the rows), so report level 2 alone where that matters.

    python -m data_preprocess.toy --out data/toy
"""

from __future__ import annotations

import argparse
import functools
import random
import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from data_preprocess.schema import make_row, reference, summary, write_dataset

DATA_SOURCE = "toy/last_digit"
LEVEL_ONE_SHARE = 0.2
HELD_OUT_PERCENT = 15
MAX_TEST_SIZE = 731  # 585 held-out problems of level 2 are 80 % of it
OPERATORS = "+*"
KNOWN_OVERLAP = "the 200 one-operation problems are in both splits; two-operation problems are disjoint"

_LEVEL_ONE = re.compile(r"What is the last digit of (\d)([+*])(\d)\?")
_LEVEL_TWO = re.compile(r"What is the last digit of \((\d)([+*])(\d)\)([+*])(\d)\?")


@dataclass(frozen=True)
class Problem:
    """One problem: ``level`` operators between ``level + 1`` digits, worked from the left."""

    digits: tuple[int, ...]
    operators: tuple[str, ...]

    @property
    def level(self) -> int:
        return len(self.operators)

    @property
    def question(self) -> str:
        first = f"{self.digits[0]}{self.operators[0]}{self.digits[1]}"
        expression = first if self.level == 1 else f"({first}){self.operators[1]}{self.digits[2]}"
        return f"What is the last digit of {expression}?"

    @property
    def first_result(self) -> int:
        """Last digit after the first operation: what a good thought says."""
        return last_digit(self.digits[0], self.operators[0], self.digits[1])

    @property
    def answer(self) -> int:
        return self.answer_from(self.first_result)

    @property
    def held_out(self) -> bool:
        """Whether the problem belongs to the test split alone. Never true for level 1."""
        return self.level == 2 and zlib.crc32(self.question.encode()) % 100 < HELD_OUT_PERCENT

    def answer_from(self, first_result: int) -> int:
        """The answer of a solver that trusts ``first_result``."""
        return first_result if self.level == 1 else last_digit(first_result, self.operators[1], self.digits[2])


def last_digit(left: int, operator: str, right: int) -> int:
    """Last digit of ``left + right`` or ``left * right``."""
    return (left + right if operator == "+" else left * right) % 10


def parse_question(text: str) -> Problem:
    """The inverse of ``Problem.question``. Raises ValueError for any other text."""
    if match := _LEVEL_ONE.fullmatch(text):
        left, operator, right = match.groups()
        return Problem((int(left), int(right)), (operator,))
    if match := _LEVEL_TWO.fullmatch(text):
        left, first, right, second, last = match.groups()
        return Problem((int(left), int(right), int(last)), (first, second))
    raise ValueError(f"not a {DATA_SOURCE} question: {text!r}; expected the form 'What is the last digit of (3+4)*5?'")


def thought_text(problem: Problem, first_result: int | None = None) -> str:
    """A thought on ``problem``: the perfect one, or the one that claims another ``first_result``."""
    if problem.level == 1:
        return "One step."
    left, right = problem.digits[:2]
    return f"{left}{problem.operators[0]}{right}={problem.first_result if first_result is None else first_result}"


def boxed(digit: int) -> str:
    return f"\\boxed{{{digit}}}"


@functools.cache
def problem_pool(split: str, level: int) -> tuple[Problem, ...]:
    """All problems of a level that ``split`` may use, in a fixed order. Level 1 is the same list for both splits."""
    every = (
        Problem(digits, operators)
        for digits in product(range(10), repeat=level + 1)
        for operators in product(OPERATORS, repeat=level)
    )
    return tuple(problem for problem in every if level == 1 or problem.held_out == (split == "test"))


def draw_problems(split: str, count: int, rng: random.Random) -> list[Problem]:
    """``count`` problems in random order, 20 % of level 1.

    A level repeats a problem only after all of its pool were used. The test split must not repeat: ValueError if
    ``count`` asks for more than it has.
    """
    level_one_count = round(LEVEL_ONE_SHARE * count)
    drawn: list[Problem] = []
    for level, level_count in ((1, level_one_count), (2, count - level_one_count)):
        pool = problem_pool(split, level)
        if split == "test" and level_count > len(pool):
            raise ValueError(
                f"{count} test problems need {level_count} of level {level}, but the split has only {len(pool)}, and "
                f"repeats would count a problem twice; set --test-size to at most {MAX_TEST_SIZE}"
            )
        drawn += _shuffled_passes(pool, level_count, rng)
    rng.shuffle(drawn)
    return drawn


def _shuffled_passes(pool: Sequence[Problem], count: int, rng: random.Random) -> list[Problem]:
    drawn: list[Problem] = []
    while len(drawn) < count:
        drawn += rng.sample(pool, min(len(pool), count - len(drawn)))
    return drawn


def dataset_rows(split: str, count: int, seed: int) -> list[dict]:
    """``count`` rows as in ``data_preprocess.schema``. The same arguments give the same rows."""
    problems = draw_problems(split, count, random.Random(f"{seed}/{split}"))
    return [
        make_row(
            DATA_SOURCE,
            problem.question,
            str(problem.answer),
            "boxed",
            split,
            index,
            extra=reference(str(problem.answer)),
        )
        for index, problem in enumerate(problems)
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=f"Write the dataset of the embedded task last_digit. Known overlap: {KNOWN_OVERLAP}."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="order and choice of the problems; the split is fixed")
    parser.add_argument("--train-size", type=int, default=4096)
    parser.add_argument("--test-size", type=int, default=256, help=f"at most {MAX_TEST_SIZE}: no repeats")
    parser.add_argument("--limit", type=int, help="at most this many rows per split, for a quick look")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    try:
        manifest = _write(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"last_digit: {error}")
    print(summary(arguments.out, manifest))


def _write(arguments: argparse.Namespace) -> dict:
    sizes = {"train": arguments.train_size, "test": arguments.test_size}
    if arguments.limit is not None:
        sizes = {split: min(size, arguments.limit) for split, size in sizes.items()}
    if min(sizes.values()) < 1:
        raise ValueError(f"every split needs at least one row, got {sizes}; raise --limit, --train-size or --test-size")
    rows = {split: dataset_rows(split, size, arguments.seed) for split, size in sizes.items()}
    source = {"generator": "data_preprocess.toy", "seed": arguments.seed, "known_overlap": KNOWN_OVERLAP}
    return write_dataset(arguments.out, rows, name="last_digit", sources=[source])


if __name__ == "__main__":
    main()
