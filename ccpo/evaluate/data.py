"""The rows that are asked: those of a prepared set, checked, or a sample of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccpo.data import id_problem, parquet_rows, read_files, row_problem, section, sha256
from ccpo.evaluate import EvaluationError
from ccpo.team.session import visible
from ccpo.verifier import OWN

TEST = "test.parquet"
Row = Mapping[str, Any]
Question = tuple[str, int]
"""A row by its (data_source, index)."""


@dataclass(frozen=True)
class Rows:
    """Rows in the file's order. ``total``: of the file; ``sha256``: its content's."""

    path: Path
    sha256: str
    total: int
    rows: tuple[Row, ...]


def question_of(row: Row) -> Question:
    return str(row["data_source"]), int(row["extra_info"]["index"])


def read_rows(path: Path, limit: int | None, seed: int, columns: Sequence[str] = (), own_reward: bool = False) -> Rows:
    """The rows of a parquet file, or of a folder's test.parquet.

    Args:
        limit: so many rows, drawn by ``seed``; None: all. columns: what the team's program reads. own_reward: a reward of the
            user's own judges, also rows that the verifier cannot.

    Raises:
        EvaluationError: no such file, or a row that cannot be asked and judged.
    """
    path = Path(path)
    file = path / TEST if path.is_dir() else path
    content = read_files([file])[file]
    if isinstance(content, str):
        raise EvaluationError(f"--data: {content}; make one with a python -m data_preprocess.* command")
    rows = checked_rows(file, content, columns, own_reward)
    chosen = range(len(rows))
    if limit is not None and limit < len(rows):
        chosen = sorted(random.Random(f"{seed}/rows").sample(chosen, limit))
    return Rows(file, sha256(content), len(rows), tuple(rows[number] for number in chosen))


def checked_rows(file: Path, content: bytes, columns: Sequence[str] = (), own_reward: bool = False) -> list[Row]:
    """The rows of a parquet file with this ``content``; the rest as in `read_rows`."""
    try:
        rows = parquet_rows(content)
    except Exception as error:  # pyarrow has several types for it
        raise EvaluationError(f"--data: {file} is no readable parquet file ({error})") from None
    if not rows:
        raise EvaluationError(f"--data: {file} has no rows")
    seen: dict[Question, str] = {}
    for number, row in enumerate(rows):
        place = f"row {number}"
        reason = str(row) if isinstance(row, ValueError) else _problem(row, place, seen, columns)
        if not reason and not own_reward and row["extra_info"]["answer_type"] == OWN:
            reason = "only a reward of your own can judge it (answer_type 'own'): name it, ccpo.reward=file.py:function"
        if reason:
            raise EvaluationError(f"--data: {file}, {place}: {reason}")
    return rows


def _problem(row: Row, place: str, seen: dict[Question, str], columns: Sequence[str]) -> str | None:
    split = section(row.get("extra_info")).get("split")
    reason = row_problem(row, split if split in ("train", "test") else "test") or id_problem(seen, row, place)
    missing = [name for name in columns if not reason and visible(row).get(name) is None]
    return reason or (f"no column {missing[0]}, which the team reads" if missing else None)
