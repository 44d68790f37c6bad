"""Reading a dataset's source, a local folder or the Hugging Face hub, and the command line all commands share."""

from __future__ import annotations

import argparse
import codecs
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ccpo.data import parquet_rows, shown
from ccpo.verifier import last_boxed
from data_preprocess.schema import Row, summary, write_dataset

Record = dict[str, Any]
QUESTION = ("question", "problem", "Problem")
ANSWER = ("answer", "Answer", "final_answer", "ground_truth")
SOLUTION = ("solution", "Solution", "groundtruth")


@dataclass(frozen=True)
class Source:
    """One split. ``files``: names looked for in a local folder, in this order; ``reader``: of files that are neither
    JSON lines nor parquet, as ``read`` returns their records; the rest names the split on the hub."""

    files: tuple[str, ...]
    hub: str
    hub_split: str
    revision: str
    config: str | None = None
    reader: Callable[[Path], Iterator[tuple[str, Any]]] | None = None

    def __str__(self) -> str:
        return f"{self.hub}@{self.revision}"


def field(record: Record, names: Sequence[str]) -> str:
    """The first of ``names`` that ``record`` has, as text: 27.0 is "27". Raises ValueError if none has text."""
    present = [name for name in names if record.get(name) is not None]
    if not present:
        raise ValueError(f"no field {' / '.join(names)}; it has {', '.join(map(str, record)) or 'none'}")
    name, value = present[0], record[present[0]]
    if isinstance(value, list) and len(value) == 1:  # some sets list alternatives; one is no alternative
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"field {name!r} is {type(value).__name__}, not text or a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"field {name!r} is {value}, not text or a number")
        value = int(value) if value.is_integer() else format(Decimal(repr(value)), "f")
    if not str(value).strip():
        raise ValueError(f"field {name!r} is empty")
    return str(value).strip()


def boxed_truth(record: Record) -> str:
    """Ground truth of a MATH-like record: the last boxed expression of its solution; without a solution, its answer."""
    texts = [record[name] for name in SOLUTION if isinstance(record.get(name), str)]
    solution = next((text for text in texts if text.strip()), None)
    if solution is None or ("\\boxed" not in solution and any(record.get(name) is not None for name in ANSWER)):
        return field(record, ANSWER)
    truth = last_boxed(solution)
    if truth is None or not truth.strip():
        raise ValueError("its solution has no \\boxed{...} with an answer in it")
    return truth.strip()


def read(source: Source, folder: Path | None, revision: str) -> tuple[list[tuple[str, Any]], Any]:
    """All records of a split and what the manifest says of their origin.

    Records are ``(place, record)``; a line or row that cannot be read comes as ``(place, ValueError)``, to be judged
    like any other bad row. Raises ValueError if the source cannot be read at all.
    """
    if folder is None:
        return _read_hub(source, revision)
    path = local_file(source, folder)
    if path is None:
        raise ValueError(f"{folder} has none of the files {', '.join(source.files)}")
    return list((source.reader or (_read_jsonl if path.suffix == ".jsonl" else _read_parquet))(path)), path


def local_file(source: Source, folder: Path) -> Path | None:
    """The file of ``folder`` that ``read`` takes for ``source``; None if there is none."""
    return next((folder / name for name in source.files if (folder / name).is_file()), None)


def content_of(path: Path) -> bytes:
    """A text file's bytes without a byte order mark. Raises ValueError for one that is compressed or in UTF-16."""
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        raise ValueError(f"{path} is compressed with gzip: unpack it first")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is in UTF-16: convert it to UTF-8 first")
    return content.removeprefix(codecs.BOM_UTF8)


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(content_of(path).split(b"\n"), 1):
        if line.strip():  # a blank line is no row
            yield f"{path}: line {number}", _json_record(line)


def _json_record(line: bytes) -> Record | ValueError:
    try:
        record = json.loads(line.decode(), parse_constant=_no_number, object_pairs_hook=_distinct)
    except UnicodeDecodeError as error:
        return ValueError(f"not valid UTF-8 ({error.reason} at byte {error.start} of the line)")
    except (ValueError, RecursionError) as error:
        return ValueError(f"not JSON ({error})")
    return record if isinstance(record, dict) else ValueError(f"not a JSON object but {type(record).__name__}")


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _distinct(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {shown(next(name for name in names if names.count(name) > 1))} stands twice")
    return record


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    content = path.read_bytes()
    try:
        records = parquet_rows(content)
    except Exception as error:  # pyarrow has several types for it
        raise ValueError(f"{path} is not a readable parquet file: {error}") from None
    for number, record in enumerate(records):
        yield f"{path}: row {number}", record


def _read_hub(source: Source, revision: str) -> tuple[list[tuple[str, Any]], Record]:
    import datasets

    try:
        loaded = datasets.load_dataset(source.hub, source.config, split=source.hub_split, revision=revision)
    except Exception as error:  # offline, unknown revision, gated: the library has a type for each
        raise ValueError(
            f"cannot load {source.hub} (split {source.hub_split}, revision {revision}) from the Hugging Face hub: "
            f"{type(error).__name__}: {error}. Without network access, give a folder with --source"
        ) from None
    records = [_hub_record(loaded, number) for number in range(len(loaded))]
    content = hashlib.sha256()
    for record in records:
        content.update(json.dumps(record, sort_keys=True, default=str).encode())
    origin = {
        "hub": source.hub,
        "config": source.config,
        "split": source.hub_split,
        "revision": revision,
        "sha256_of_records": content.hexdigest(),
    }
    name = f"{source.hub}@{revision} {source.hub_split}"
    return [(f"{name}: row {number}", record) for number, record in enumerate(records)], origin


def _hub_record(loaded: Any, number: int) -> Record | ValueError:
    try:
        return loaded[number]
    except Exception as error:  # bytes that are not UTF-8, a date beyond Python's
        return ValueError(f"cannot be read ({error})")


def parser(doc: str, sources: Sequence[Source]) -> argparse.ArgumentParser:
    """Options every command has; ``doc`` is the module's docstring."""
    pins = "; ".join(sorted({str(source) for source in sources}))
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True, help="folder of the dataset to write")
    options.add_argument(
        "--source", type=Path, help="local folder with the source files (default: the Hugging Face hub)"
    )
    options.add_argument(
        "--revision",
        action="append",
        default=[],
        metavar="REPO=COMMIT",
        help=f"commit, tag or branch of a hub dataset, repeatable (default: {pins}; 'main' may change)",
    )
    options.add_argument("--limit", type=positive, help="use only the first N source rows of every split")
    options.add_argument("--skip-bad", action="store_true", help="leave bad rows out and count them")
    return options


def share(text: str) -> float:
    """A share that is neither nothing nor all, as argparse's type."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: set a number between 0 and 1, for example 0.1")
    return found


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return int(text)


Build = Callable[[Record, int], Row]
"""(record, its number in the source) -> row; raises ValueError saying what is wrong with the record."""


def built_rows(
    records: Sequence[tuple[str, Any]],
    build: Build,
    options: argparse.Namespace,
    skipped: list[str],
    folder: Path | None,
) -> list[Row]:
    """The rows of ``records`` as ``--limit`` and ``--skip-bad`` say; what is left out is told and added to ``skipped``.

    ``folder``: that of the source's files, which ``skipped`` need not name. Raises ValueError for a bad row that is not to be skipped.
    """
    rows = []
    for number, (place, record) in enumerate(records[: options.limit]):
        try:
            if isinstance(record, ValueError):
                raise record
            rows.append(build(record, number))
        except ValueError as error:
            if not options.skip_bad:
                raise ValueError(f"{place}: {error}. Nothing was written; --skip-bad leaves bad rows out") from None
            print(f"skipped {place}: {error}", file=sys.stderr)
            skipped.append(f"{place.removeprefix(f'{folder}/')}: {error}")
    return rows


def convert(name: str, options: argparse.Namespace, splits: dict[str, tuple[Source, Build]], note: str = "") -> None:
    """Read, convert and write one dataset as the command line says; errors end it with a message and status 1.

    ``note`` is printed and goes to the manifest.
    """
    try:
        if options.source and not options.source.is_dir():
            raise ValueError(f"--source {options.source} is not a folder")
        if options.source and options.revision:
            raise ValueError("--revision names a state of the hub and means nothing with --source; give one of them")
        revisions = dict(text.rsplit("=", 1) if "=" in text else (text, "") for text in options.revision)
        hubs = sorted({source.hub for source, _ in splits.values()})
        if not set(revisions) <= set(hubs) or not all(revisions.values()):
            raise ValueError(f"--revision must be REPO=COMMIT, REPO one of {', '.join(hubs)}; got {options.revision}")
        rows: dict[str, list[Row]] = {}
        origins, skipped = [], []
        for key, (source, build) in splits.items():
            records, origin = read(source, options.source, revisions.get(source.hub, source.revision))
            origins.append(origin)
            rows[key] = built_rows(records, build, options, skipped, options.source)
        manifest = write_dataset(options.out, rows, name=name, sources=origins, skipped=skipped, note=note)
    except (ValueError, OSError) as error:
        sys.exit(f"{name}: {error}")
    print(summary(options.out, manifest))
