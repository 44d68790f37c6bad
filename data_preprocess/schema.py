"""The one row format of every dataset, and the only code that writes it.

A dataset is a folder: one parquet file per split and ``manifest.json``, which says what is in it, where it came from
and how to make it again. A row knows nothing of teams: the team is chosen by the training config.

    data_source   str
    prompt        [{"role": "user", "content": question}]
    ability       str
    reward_model  {"style": "rule", "ground_truth": str}
    extra_info    {"split": "train" | "test", "index": int (row of the source), "answer_type": str, "question": str,
                   "options": [str] (of a multiple-choice question, without their letters; otherwise empty)}
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ccpo.verifier import ANSWER_TYPES, LETTERS

FORMAT_VERSION = 1
SPLITS = ("train", "test")
MANIFEST = "manifest.json"

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


def make_row(
    data_source: str,
    question: str,
    truth: str,
    answer_type: str,
    split: str,
    index: int,
    ability: str = "math",
    options: Sequence[str] = (),
) -> Row:
    """Build and check one row; ``index`` is the row number in the source, ``options`` the texts of options A, B, ...

    Raises ValueError saying what is wrong.
    """
    row = {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": question}],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {
            "split": split,
            "index": index,
            "answer_type": answer_type,
            "question": question,
            "options": list(options),
        },
    }
    check_row(row)
    return row


def check_row(row: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first field of ``row`` that breaks the format in the module's docstring."""
    _keys("row", row, _ROW.names)
    for name in ("reward_model", "extra_info"):
        _keys(name, row[name], [field.name for field in _ROW.field(name).type])
    extra, reward = row["extra_info"], row["reward_model"]
    texts = {
        "data_source": row["data_source"],
        "ability": row["ability"],
        "ground_truth": reward["ground_truth"],
        "question": extra["question"],
    }
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be a non-empty string, got {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} is not valid Unicode text: {error.reason}") from None
    if row["prompt"] != [{"role": "user", "content": extra["question"]}]:
        raise ValueError("prompt must be one user message whose content is extra_info.question")
    if reward["style"] != "rule":
        raise ValueError(f"reward_model.style must be 'rule', got {reward['style']!r}")
    if extra["split"] not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {extra['split']!r}")
    if extra["answer_type"] not in ANSWER_TYPES:
        raise ValueError(f"answer_type must be one of {ANSWER_TYPES}, got {extra['answer_type']!r}")
    if type(extra["index"]) is not int or extra["index"] < 0:
        raise ValueError(f"index must be an int >= 0, got {extra['index']!r}")
    _check_options(extra["options"], extra["answer_type"], reward["ground_truth"])


def write_dataset(
    out: str | Path,
    splits: Mapping[str, Sequence[Row]],
    *,
    name: str,
    sources: Iterable[Path | Mapping[str, Any]] = (),
    skipped: int = 0,
    note: str = "",
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write ``OUT/<key>.parquet`` for every key of ``splits`` and ``OUT/manifest.json``; return the manifest.

    ``sources`` are files (their SHA-256 is recorded) or mappings recorded as they are (a hub dataset). ``skipped`` is
    the number of bad source rows left out. ``note`` is for what a reader must know of the splits. ``command`` is an
    argument vector, default this process's own. The same rows give the same files. Every file is complete under a
    temporary name before the first one is renamed, the manifest last.

    Raises ValueError if a split is empty, a row is malformed, or OUT holds a dataset this call would leave
    half-replaced.
    """
    out = Path(out)
    for key, rows in splits.items():
        if not rows:
            raise ValueError(f"dataset {name!r}: split {key!r} has no rows, training or evaluation on it would fail")
        for number, row in enumerate(rows):
            try:
                check_row(row)
            except ValueError as error:
                raise ValueError(f"dataset {name!r}, split {key!r}, row {number}: {error}") from None
    _check_replaceable(out, name, {f"{key}.parquet" for key in splits})
    manifest: dict[str, Any] = {
        "name": name,
        "format_version": FORMAT_VERSION,
        "command": shlex.join(_own_command() if command is None else command),
        "sources": [_describe(source) for source in sources],
        "skipped_bad_rows": skipped,
        "files": {},
        "train_test_overlap": _overlap(splits),
    }
    if note:
        manifest["note"] = note
    out.mkdir(parents=True, exist_ok=True)
    done: dict[Path, Path] = {}
    try:
        for key, rows in splits.items():
            final = out / f"{key}.parquet"
            temporary = done[final] = _temporary(final)
            pq.write_table(pa.Table.from_pylist(list(rows), schema=_ROW), temporary)
            manifest["files"][final.name] = {
                "rows": len(rows),
                "duplicate_questions": len(rows) - len({_normalize(row) for row in rows}),
                "sha256": sha256_file(temporary),
            }
        final = out / MANIFEST
        temporary = done[final] = _temporary(final)
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for final, temporary in done.items():
            os.replace(temporary, final)
    finally:
        for temporary in done.values():
            temporary.unlink(missing_ok=True)
    return manifest


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _keys(name: str, value: Any, wanted: Sequence[str]) -> None:
    if not isinstance(value, Mapping) or set(value) != set(wanted):
        got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
        raise ValueError(f"{name} must have exactly the fields {list(wanted)}, got {got}")


def _check_options(options: Any, answer_type: str, truth: str) -> None:
    if not isinstance(options, list) or not all(isinstance(option, str) and option.strip() for option in options):
        raise ValueError(f"options must be a list of non-empty strings, got {options!r}")
    if not options:
        return
    if answer_type != "option":
        raise ValueError(f"options belong to answer_type 'option', not {answer_type!r}")
    if len(options) > len(LETTERS):
        raise ValueError(f"{len(options)} options, but the verifier reads only the letters {LETTERS}")
    if truth not in tuple(LETTERS[: len(options)]):
        raise ValueError(f"ground_truth {truth!r} is not the letter of one of the {len(options)} options")


def _check_replaceable(out: Path, name: str, files: set[str]) -> None:
    """A manifest must describe the whole folder: refuse to mix two datasets, or two selections of one, in it."""
    try:
        old = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        old_name, old_files = old["name"], set(old["files"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{out / MANIFEST} is not a dataset manifest; choose another --out or delete it") from None
    if old_name != name or not old_files <= files:
        raise ValueError(
            f"{out} already holds dataset {old_name!r} ({', '.join(sorted(old_files))}), which writing {name!r} "
            f"({', '.join(sorted(files))}) would only partly replace; choose another --out or delete that folder"
        )


def _describe(source: Path | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(source, Mapping):
        return dict(source)
    return {"file": source.name, "sha256": sha256_file(source)}


def _overlap(splits: Mapping[str, Sequence[Row]]) -> int:
    """Number of test rows whose normalized question is also a training question."""
    seen: dict[str, set[str]] = {split: set() for split in SPLITS}
    for rows in splits.values():
        for row in rows:
            seen[row["extra_info"]["split"]].add(_normalize(row))
    return len(seen["train"] & seen["test"])


def _normalize(row: Row) -> str:
    return " ".join(row["extra_info"]["question"].casefold().split())


def _temporary(final: Path) -> Path:
    return final.with_name(f".{final.name}.{os.getpid()}.tmp")


def _own_command() -> list[str]:
    """The command line as a user types it: ``python -m package.module ...`` rather than the path of the file run."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    start = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else ["python", sys.argv[0]]
    return start + sys.argv[1:]
