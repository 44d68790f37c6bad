"""The one row format of every dataset, and the only code that writes it.

A dataset is a folder: one parquet file per split and ``manifest.json``, which says what is in it, where it came from
and how to make it again. The folder is replaced as a whole. A row knows nothing of teams: the team is chosen by the
training config. What is wrong with a row or a file is found by ``ccpo.data``, here and again before training.

    data_source   str
    prompt        [{"role": "user", "content": question}]
    ability       str
    reward_model  {"style": "rule", "ground_truth": str}
    extra_info    {"split": "train" | "test", "index": int (row of the source), "answer_type": str, "question": str,
                   "options": [str] (of a multiple-choice question, without their letters; otherwise empty),
                   optionally "reference": str (`reference`),
                   and the columns of a user's own, for teams and rewards: the same in every row}
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ccpo.data import (
    FORMAT_VERSION,
    LONGEST_TEXT,
    MANIFEST,
    id_problem,
    name_problem,
    row_note,
    row_problem,
    sha256,
    shown,
    text_problem,
)
from data_preprocess.base_rates import best_constant
from data_preprocess.folder import replace_folder

SPLITS = ("train", "test")

_ROW = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
        "extra_info": pa.struct(
            {
                "split": pa.string(),
                "index": pa.int64(),
                "answer_type": pa.string(),
                "question": pa.string(),
                "options": pa.list_(pa.string()),
            }
        ),
    }
)

Row = dict[str, Any]
FACTS = tuple(field.name for field in _ROW.field("extra_info").type)
"""What every row's extra_info has."""
HEARD = ("interaction_kwargs", "need_tools_kwargs", "tools_kwargs")
"""What verl would obey in extra_info (verl 0.9.1, rl_dataset.py)."""


def make_row(
    data_source: str,
    question: str,
    truth: str,
    answer_type: str,
    split: str,
    index: int,
    ability: str = "math",
    options: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> Row:
    """Build and check one row; ``index`` is the row number in the source, ``options`` the texts of options A, B, ...,
    ``extra`` further columns: text, numbers, true or false, or lists of them.

    Blanks around the truth are left out. Raises ValueError saying what is wrong.
    """
    row = {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": question}],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": truth.strip() if isinstance(truth, str) else truth},
        "extra_info": {
            "split": split,
            "index": index,
            "answer_type": answer_type,
            "question": question,
            "options": list(options),
            **(extra or {}),
        },
    }
    check_row(row)
    return row


def reference(truth: str) -> dict[str, str]:
    """The column ``reference``: what the last speaker says when it is right, here the boxed answer alone.

    The credit rule ``likelihood`` asks how likely it is. Of a speaker that writes a solution before its answer that is how likely it answers at
    once, not how often it is right: there ``reference_after=chain`` asks behind the solution. (Its end token depends on the model: ccpo adds it.)
    """
    return {"reference": f"\\boxed{{{truth}}}"}


def check_row(row: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first field of ``row`` that breaks the format in the module's docstring."""
    _keys("row", row, _ROW.names)
    _keys("reward_model", row["reward_model"], [field.name for field in _ROW.field("reward_model").type])
    extra = row["extra_info"]
    _keys(
        "extra_info",
        {name: extra[name] for name in FACTS if name in extra} if isinstance(extra, Mapping) else extra,
        FACTS,
    )
    for name, value in extra.items():
        if name not in FACTS and (reason := _extra_problem(name, value)):
            raise ValueError(f"column {shown(name)} {reason}")
    if row["prompt"] != [{"role": "user", "content": extra["question"]}]:
        raise ValueError("prompt must be one user message whose content is extra_info.question")
    if row["reward_model"]["style"] != "rule":
        raise ValueError(f"reward_model.style must be 'rule', got {row['reward_model']['style']!r}")
    if extra["split"] not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {extra['split']!r}")
    if not isinstance(extra["options"], list):
        raise ValueError(f"options must be a list, got {extra['options']!r}")
    if reason := name_problem(row["ability"]):
        raise ValueError(f"ability {reason}")
    if reason := row_problem(row, extra["split"]):
        raise ValueError(reason)


def write_dataset(
    out: str | Path,
    splits: Mapping[str, Sequence[Row]],
    *,
    name: str,
    sources: Iterable[Path | Mapping[str, Any]] = (),
    skipped: Sequence[str] = (),
    note: str = "",
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write ``OUT/<key>.parquet`` for every key of ``splits`` and ``OUT/manifest.json``; return the manifest.

    ``sources`` are files (their SHA-256 is recorded) or mappings recorded as they are (a hub dataset). ``skipped``
    says which bad source rows were left out, and why. ``note`` is for what a reader must know of the splits.
    ``command`` is an argument vector, default this process's own. The same rows give the same files. The folder is
    replaced as a whole.

    Raises ValueError if a split is empty, a row is malformed or has another row's id, or OUT holds anything but this
    dataset.
    """
    out = Path(out)
    seen: dict[str, dict[tuple[str, int], str]] = {split: {} for split in SPLITS}
    for key, rows in splits.items():
        if not rows:
            raise ValueError(f"dataset {name!r}: split {key!r} has no rows, training or evaluation on it would fail")
        for number, row in enumerate(rows):
            place = f"split {key!r}, row {number}"
            try:
                check_row(row)
                if reason := id_problem(seen[row["extra_info"]["split"]], row, place):
                    raise ValueError(reason)
            except ValueError as error:
                raise ValueError(f"dataset {name!r}, {place}: {error}") from None
    manifest: dict[str, Any] = {
        "name": name,
        "format_version": FORMAT_VERSION,
        "command": shlex.join(own_command() if command is None else command),
        "sources": [_describe(source) for source in sources],
        "skipped_bad_rows": len(skipped),
        "skipped": list(skipped),
        "odd_rows": _odd_rows(splits),
        "files": {},
        "train_test_overlap": _overlap(splits),
    }
    if note:
        manifest["note"] = note
    tables = _tables(splits, name)

    def write(folder: Path) -> None:
        for key, rows in splits.items():
            path = folder / f"{key}.parquet"
            pq.write_table(tables[key], path)
            manifest["files"][path.name] = file_facts(rows, path.read_bytes())
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    replace_folder(out, lambda folder: replaceable(folder, name, {f"{key}.parquet" for key in splits}), write)
    return manifest


def file_facts(rows: Sequence[Row], content: bytes) -> dict[str, Any]:
    """What a manifest says of a file of rows, and of its ``content``."""
    return {
        "rows": len(rows),
        "duplicate_questions": len(rows) - len({_normalize(row) for row in rows}),
        "best_constant_answer": best_constant(rows),
        "sha256": sha256(content),
    }


def _tables(splits: Mapping[str, Sequence[Row]], name: str) -> dict[str, pa.Table]:
    """Split -> its rows as a table. Columns of a user's own get the one type that holds all their values. Raises ValueError for two."""
    infos = [(key, number, row["extra_info"]) for key, rows in splits.items() for number, row in enumerate(rows)]
    own: dict[str, pa.DataType] = {}
    for column in dict.fromkeys(column for *_, info in infos for column in info if column not in FACTS):
        for key, number, info in infos:
            if column not in info:
                raise ValueError(
                    f"dataset {name!r}, split {key!r}, row {number}: no column {column!r}, which other rows have"
                )
        try:
            own[column] = pa.array([info[column] for *_, info in infos]).type
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            kinds = sorted({type(info[column]).__name__ for *_, info in infos})
            raise ValueError(
                f"dataset {name!r}: column {column!r} holds values of several kinds ({', '.join(kinds)}, or numbers beyond 64 bits): make them of one"
            ) from None
    info = pa.struct([*_ROW.field("extra_info").type, *(pa.field(column, kind) for column, kind in own.items())])
    schema = _ROW.set(_ROW.get_field_index("extra_info"), pa.field("extra_info", info))
    return {key: pa.Table.from_pylist(list(rows), schema=schema) for key, rows in splits.items()}


def _extra_problem(name: Any, value: Any) -> str | None:
    """Why a column of a user's own cannot be one."""
    if reason := name_problem(name):
        return f"cannot be called so: its name {reason}"
    if name in HEARD:
        return "cannot be called so: verl obeys it; rename it"
    if isinstance(value, list):
        return next(
            (f"holds a list with an item that {reason}" for item in value if (reason := _value_problem(item))), None
        )
    return _value_problem(value)


def _value_problem(value: Any) -> str | None:
    if isinstance(value, str):
        return text_problem(value, LONGEST_TEXT) if value.strip() else None
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}: a value is missing"
    return None if isinstance(value, (bool, int, float)) else f"is {shown(value)}: set text, a number, or true or false"


def summary(out: Path, manifest: Mapping[str, Any]) -> str:
    """What a data command says of what it wrote."""
    lines = []
    for file, facts in manifest["files"].items():
        constant = facts["best_constant_answer"]
        says = (
            f"always answering {constant['answer']} is right on {constant['share']:.1%}"
            if constant
            else "judged by a reward of your own"
        )
        lines.append(f"{out / file}: {facts['rows']} rows, {facts['duplicate_questions']} duplicate questions; {says}")
    lines += [f"odd: {text}" for text in _some(manifest["odd_rows"])]
    if "note" in manifest:
        lines.append(manifest["note"])
    lines.append(
        f"skipped {manifest['skipped_bad_rows']}, test questions also in train {manifest['train_test_overlap']}"
    )
    return "\n".join(lines)


def _some(texts: Sequence[str], count: int = 20) -> list[str]:
    """The first ``count`` of ``texts``, and how many more there are."""
    more = [f"and {len(texts) - count} more, listed in {MANIFEST}"] if len(texts) > count else []
    return [*texts[:count], *more]


def _odd_rows(splits: Mapping[str, Sequence[Row]]) -> list[str]:
    return [
        f"{key}.parquet, row {number}: {note}"
        for key, rows in splits.items()
        for number, row in enumerate(rows)
        if (note := row_note(row))
    ]


def _keys(name: str, value: Any, wanted: Sequence[str]) -> None:
    if not isinstance(value, Mapping) or set(value) != set(wanted):
        got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
        raise ValueError(f"{name} must have exactly the fields {list(wanted)}, got {got}")


def replaceable(out: Path, name: str, files: set[str]) -> set[str]:
    """Files of the dataset that ``out`` holds. A manifest must describe the whole folder: refuse to mix two datasets, or
    two selections of one, in it."""
    try:
        old = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        old_name, old_files = old["name"], set(old["files"])
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{out / MANIFEST} is not a dataset manifest; choose another --out or delete it") from None
    if old_name != name or not old_files <= files:
        raise ValueError(
            f"{out} already holds dataset {old_name!r} ({', '.join(sorted(old_files))}), which writing {name!r} "
            f"({', '.join(sorted(files))}) would only partly replace; choose another --out or delete that folder"
        )
    return {*old_files, MANIFEST}


def _describe(source: Path | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(source, Mapping):
        return dict(source)
    return {"file": source.name, "sha256": sha256(source.read_bytes())}


def _overlap(splits: Mapping[str, Sequence[Row]]) -> int:
    """Number of test rows whose normalized question is also a training question."""
    seen: dict[str, set[str]] = {split: set() for split in SPLITS}
    for rows in splits.values():
        for row in rows:
            seen[row["extra_info"]["split"]].add(_normalize(row))
    return len(seen["train"] & seen["test"])


def _normalize(row: Row) -> str:
    return " ".join(row["prompt"][-1]["content"].casefold().split())


def own_command() -> list[str]:
    """The command line as a user types it: ``python -m package.module ...`` rather than the path of the file run."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    start = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else ["python", sys.argv[0]]
    return start + sys.argv[1:]
