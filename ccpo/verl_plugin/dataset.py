"""What is wrong with the rows that a job would train on, found before it starts."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ccpo.data import id_problem, parquet_rows, read_files, row_problem, shown
from ccpo.team.session import visible
from ccpo.verifier import OWN
from ccpo.verl_plugin.trajectory import COLUMN

# verl hands every column of a row to the agent loop by its name, and writes it beside what the model has said (verl 0.9.1: agent_loop_tq.py,
# AgentLoopOutput.as_dict, trainer_base.py).
RESERVED = {
    "verl obeys it: rows would be played by another agent loop, another number of times or another way than the job says": (
        "agent_name __rollout_n__ __do_sample__ validate".split()
    ),
    "verl passes something else under that name, so that every session would fail, or lose it": (
        "uid session_id global_steps trajectory trace sampling_params self output _ray_trace_ctx".split()
    ),
    "it would take the place of what the model has said, or of what is computed from it": (
        (
            f"{COLUMN} prompts responses response_mask loss_mask attention_mask input_ids position_ids extra_fields "
            "rollout_log_probs old_log_probs log_probs ref_log_prob entropy values advantages returns metrics "
            "rm_scores token_level_scores token_level_rewards rollout_is_weights routed_experts num_turns "
            "multi_modal_data multi_modal_inputs mm_processor_kwargs mm_processor_output teacher_ids teacher_logprobs"
        ).split()
    ),
}
"""Why a column is refused -> names."""
PICTURES = {
    "image_key": "images",
    "video_key": "videos",
    "audio_key": "audios",
}  # verl's settings and their usual values


def files(value: Any) -> list[str]:
    return [os.path.expanduser(str(path)) for path in ([value] if isinstance(value, str) else list(value or ()))]


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _no_files(value: Any) -> str | None:
    """Why a setting names no files."""
    if value is None:
        return None
    if not isinstance(value, (str, list, ListConfig)):
        return "it names no file"
    for path in [value] if isinstance(value, str) else value:
        if not isinstance(path, str) or not path:
            return f"{path!r} is no file's name"
        if "\0" in path:
            return "a name holds a NUL"
    return None


def problems(config: DictConfig, columns: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(all questions, problems) of the training and validation files. ``columns``: those that the team reads."""
    wrong = {key: _no_files(config.data[key]) for key in ("train_files", "val_files")}
    named = {key: [] if wrong[key] else [Path(path) for path in files(config.data[key])] for key in wrong}
    contents = read_files([path for paths in named.values() for path in paths])
    questions: list[str] = []
    found: list[str] = []
    for key, split in (("train_files", "train"), ("val_files", "test")):
        if wrong[key]:
            found.append(
                f"data.{key} is {shown(_plain(config.data[key]))}: {wrong[key]}; set it to a parquet file, or a list of them"
            )
        elif not named[key]:
            found.append(f"data.{key} is empty: set it to a parquet file")
        seen: dict[tuple[str, int], str] = {}
        total = 0
        for number, path in enumerate(named[key]):
            if path in named[key][:number]:
                found.append(f"data.{key}: {path} is named twice: its rows would be too; name it once")
                continue
            rows = _rows(path, contents[path])
            if isinstance(rows, str):
                found.append(f"data.{key}: {rows}")
                continue
            total += len(rows)
            found += [f"data.{key}: {path}: {problem}" for problem in _file_problems(rows, config.data)]
            texts, problem = _judge(rows, path, split, columns, OmegaConf.select(config, "ccpo.reward"), seen)
            questions += texts
            found += [f"data.{key}: {problem}"] if problem else []
        if key == "train_files":
            found += _too_few(config.data, total)
    return questions, found


def _too_few(data: DictConfig, total: int) -> list[str]:
    """verl makes whole batches of what it keeps, so with less than one there is no step, and it divides by their number."""
    most = data.get("train_max_samples", -1)
    if total and 0 < most < data.train_batch_size:
        return [
            f"data.train_max_samples={most} is less than data.train_batch_size={data.train_batch_size}: no step would run; set -1 (all rows), or a "
            "smaller batch"
        ]
    if 0 < total < data.train_batch_size:
        return [
            f"data.train_files: {total} rows are fewer than data.train_batch_size={data.train_batch_size}: no step would run"
        ]
    return []


def _rows(path: Path, content: bytes | str) -> list[dict[str, Any] | ValueError] | str:
    """The rows of a parquet file, or why there are none."""
    if isinstance(content, str):
        missing = " make it with a python -m data_preprocess.* command, or name another file"
        return f"{content}:{missing}" if content.endswith("does not exist") else content
    try:
        return parquet_rows(content) or f"{path} has no rows"
    except Exception as error:  # pyarrow has several types for it
        return f"{path} is no readable parquet file ({error}): make it anew with data_preprocess"


def _file_problems(rows: list[dict[str, Any] | ValueError], data: DictConfig) -> list[str]:
    """What a file has, and none may have."""
    good = [row for row in rows if isinstance(row, dict)]
    has = good[0] if good else {}
    found = [
        f"column {name}: {why}; rename it, or leave it out"
        for why, names in RESERVED.items()
        for name in names
        if name in has
    ]
    for setting, usual in PICTURES.items():
        name = data.get(setting, usual)
        if any(row.get(name) for row in good):
            found.append(
                f"column {name} (data.{setting}) holds something to look at or listen to: teams are asked in text alone; leave such rows out, or "
                f"rename the column if it is something else"
            )
    return found


def _judge(
    rows: list[dict[str, Any] | ValueError],
    path: Path,
    split: str,
    columns: tuple[str, ...],
    reward: str | None,
    seen: dict,
) -> tuple[list[str], str | None]:
    """(questions, problem) of a file: its first bad row, and how many there are."""
    questions, bad, first = [], 0, ""
    for number, row in enumerate(rows):
        place = f"{path}, row {number}"
        if isinstance(row, ValueError):
            reason = str(row)
        else:
            reason = row_problem(row, split) or id_problem(seen, row, place) or _column_problem(row, columns)
            reason = reason or _judge_problem(row, reward)
        if reason is None:
            questions.append(row["prompt"][0]["content"])
            continue
        bad += 1
        first = first or f"{place}: {reason}"
    if bad < 2:
        return questions, first or None
    return questions, f"{first} ({bad} of {len(rows)} rows are bad, this is the first)"


def _judge_problem(row: dict[str, Any], reward: str | None) -> str | None:
    """Why nobody can judge a row."""
    if row["extra_info"]["answer_type"] != OWN or reward:
        return None
    return (
        "extra_info.answer_type is 'own', which only a reward of your own can judge: set ccpo.reward (docs/your_own.md)"
    )


def _column_problem(row: dict[str, Any], columns: tuple[str, ...]) -> str | None:
    """Why the team cannot read a row's columns."""
    if not columns:
        return None
    has = visible(row)
    for name in columns:
        if has.get(name) is None:
            return f"no column {name}, which the team reads: columns that a program may read here are {', '.join(has)}"
        if isinstance(has[name], float) and not math.isfinite(has[name]):
            return f"column {name}, which the team reads, is {shown(has[name])}: a value is missing"
    return None
