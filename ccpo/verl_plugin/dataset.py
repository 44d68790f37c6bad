"""What is wrong with the rows that a job would train on, found before it starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ccpo.team.session import visible
from ccpo.verifier import ANSWER_TYPES


def files(value: Any) -> list[str]:
    return [os.path.expanduser(str(path)) for path in ([value] if isinstance(value, str) else list(value or ()))]


def problems(config: DictConfig, columns: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(all questions, problems) of the training and validation files. ``columns``: those that the team reads."""
    import pyarrow.parquet as parquet

    questions: list[str] = []
    found: list[str] = []
    for key, split in (("train_files", "train"), ("val_files", "test")):
        paths = files(config.data[key])
        if not paths:
            found.append(f"data.{key} is empty: set it to a parquet file")
        for path in paths:
            if not Path(path).exists():
                found.append(
                    f"data.{key}: {path} does not exist: make it with a python -m data_preprocess.* command, or set data.{key}"
                )
                continue
            try:
                rows = parquet.read_table(path).to_pylist()
            except Exception as error:
                found.append(
                    f"data.{key}: {path} is no readable parquet file ({error}): make it anew with data_preprocess"
                )
                continue
            if not rows:
                found.append(f"data.{key}: {path} has no rows")
            for number, row in enumerate(rows):
                if reason := _row_problem(row, split, columns):
                    found.append(f"data.{key}: {path}, row {number}: {reason}")
                    break  # one line per file: the rest of a malformed file is usually the same
                questions.append(row["prompt"][-1]["content"])
            if key == "train_files" and rows and len(rows) < config.data.train_batch_size:
                found.append(
                    f"data.train_files: {len(rows)} rows are fewer than data.train_batch_size={config.data.train_batch_size}: no step would run"
                )
    return questions, found


def _row_problem(row: dict[str, Any], split: str, columns: tuple[str, ...]) -> str | None:
    """What keeps the agent loop from using a dataset row, or None."""
    prompt = row.get("prompt")
    if not isinstance(prompt, list) or not prompt or not _section(prompt[-1]).get("content"):
        return "no prompt: every row needs prompt=[{role: user, content: question}]"
    if not _section(row.get("reward_model")).get("ground_truth"):
        return "no ground truth: without reward_model.ground_truth nothing can be verified"
    info = _section(row.get("extra_info"))
    if info.get("index") is None:
        return "no extra_info.index: samples are seeded and rows ordered by it"
    if info.get("answer_type") not in ANSWER_TYPES:
        return f"extra_info.answer_type is {info.get('answer_type')!r}: the verifier knows {', '.join(ANSWER_TYPES)}"
    if info.get("split") != split:
        return f"extra_info.split is {info.get('split')!r}, expected {split!r}: agent loops tell training from validation by it"
    if missing := [name for name in columns if visible(row).get(name) is None]:
        return f"no column {missing[0]}, which the team reads: columns that a program may read here are {', '.join(visible(row))}"
    return None


def _section(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
