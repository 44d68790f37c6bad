"""Your own questions: OUT/train.parquet, OUT/test.parquet, from files or the hub, by the names of their columns.

    python -m data_preprocess.custom --out data/own --train questions.jsonl --split 0.1 --question prompt --answer gold
    python -m data_preprocess.custom --out data/quiz --train a.csv --test b.csv --question q --answer key --options choices --type option
    python -m data_preprocess.custom --out data/hub --train org/name --test org/name:validation --question problem --answer answer

--train and --test are files (.jsonl, .parquet, .csv) or data sets of the hub: ORG/NAME, ORG/NAME:SPLIT, ORG/NAME:SPLIT@REVISION. With
--split the questions of --train whose hash is below that share are the test set: the same ones whatever else the file holds, and equal
questions on the same side. A file for --test alone is a set to evaluate on.

What an answer is (--type):
    boxed   mathematics, as a model writes it within \\boxed{} (the default)
    number  one number
    option  the letter of one of --options, or its text. The column holds a list of texts, without letters; in CSV, as JSON
    own     any text: a reward of your own judges (docs/your_own.md). --answer may be left out

Every row gets the column reference, \\boxed{the answer}, which the credit rule likelihood scores; --extra reference takes a column of yours
instead. With --type own there is none otherwise.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import hashlib
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ccpo.data import name_problem, shown
from ccpo.verifier import ANSWER_TYPES, LETTERS, OWN
from data_preprocess.schema import FACTS, SPLITS, Row, make_row, reference, summary, write_dataset
from data_preprocess.sources import Record, Source, built_rows, content_of, field, positive, read, share

FILES = (".jsonl", ".parquet", ".csv")
_HUB = re.compile(r"(?P<hub>[\w.-]+/[\w.-]+)(:(?P<split>[^@]+))?(@(?P<revision>\S+))?")

Places = list[tuple[str, Any]]
"""(place, record or ValueError), as `sources.read` returns them."""


# ------------------------------------------------------------------------------------------------------------- sources


def csv_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Records of a CSV file with a header; every value is text. Raises ValueError for a file that cannot be taken apart."""
    try:
        text = content_of(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: line {error.object[: error.start].count(10) + 1} is not valid UTF-8 ({error.reason})"
        ) from None
    # A long cell is its row's matter, and none where its column is not used. The limit is the process's: others read CSV files, too.
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(lines, [])
    except csv.Error as error:
        raise ValueError(f"{path}: its first line cannot be read ({error})") from None
    if not names or not all(name.strip() for name in names) or len(set(names)) < len(names):
        raise ValueError(f"{path}: its first line must name every column once, and says {shown(names)}")
    while True:
        place = f"{path}: line {lines.line_num + 1}"
        try:
            values = next(lines)
        except StopIteration:
            return
        except csv.Error as error:  # a quote that is not closed, a field without end: no row after it can be told apart
            raise ValueError(f"{place}: cannot be read ({error}), nor can what follows it") from None
        if not values:
            continue
        if len(values) != len(names):
            yield place, ValueError(f"has {len(values)} fields, and the first line names {len(names)} columns")
            continue
        yield place, dict(zip(names, values, strict=True))


def source_of(text: str, split: str, config: str | None) -> tuple[Source, Path | None]:
    """(source, its folder or None for the hub) of an argument. Raises ValueError."""
    path = Path(text).expanduser()
    if path.suffix in FILES or path.exists():
        if path.suffix not in FILES:
            raise ValueError(f"{text} is no {', '.join(FILES)} file: convert it to one of them")
        if not path.is_file():
            raise ValueError(f"there is no file {text}")
        if config:
            raise ValueError(f"--config is about data sets of the hub, and {text} is a file: drop it")
        return Source((path.name,), "", "", "", reader=csv_records if path.suffix == ".csv" else None), path.parent
    found = _HUB.fullmatch(text)
    if not found:
        raise ValueError(
            f"{text} is neither a file ({', '.join(FILES)}) nor a data set of the hub (ORG/NAME:SPLIT@REVISION)"
        )
    return Source((), found["hub"], found["split"] or split, found["revision"] or "main", config), None


# ---------------------------------------------------------------------------------------------------------------- rows


def check_columns(origin: str, records: Places, wanted: Sequence[str]) -> None:
    """Raise ValueError for a column that no record has: no row could be built, --skip-bad or not."""
    found = list(dict.fromkeys(name for _, record in records if isinstance(record, Mapping) for name in record))
    for name in wanted:
        if found and name not in found:
            near = difflib.get_close_matches(name, map(str, found), n=1)
            raise ValueError(
                f"{origin} has no column {name!r}: "
                + (f"did you mean {near[0]!r}? " if near else "")
                + f"it has {', '.join(map(str, found))}"
            )


def row_of(record: Record, number: int, split: str, given: argparse.Namespace) -> Row:
    """One row. Raises ValueError naming the column that is wrong."""
    options = _options(record, given.options) if given.options else ()
    truth = field(record, (given.answer,)) if given.answer else ""
    if given.type == "option":
        truth = _letter(truth, options, given.answer)
    extra = {} if given.type == OWN else reference(truth.strip())
    extra |= {name: _extra(record, name) for name in given.extra}
    return make_row(
        given.source, field(record, (given.question,)), truth, given.type, split, number, "own", options, extra
    )


def _options(record: Record, name: str) -> list[str]:
    value = record.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"column {name!r} is {shown(value)}, not a list of texts as JSON") from None
    if not isinstance(value, list) or not value or None in value:
        raise ValueError(f"column {name!r} is {shown(value)}, not a list of texts")
    return [field({name: item}, (name,)) for item in value]


def _letter(truth: str, options: Sequence[str], name: str) -> str:
    """The letter of the right option, of its letter or its text."""
    letters = LETTERS[: len(options)]
    by_text = [letter for letter, option in zip(letters, options, strict=False) if option == truth]
    by_letter = [truth.upper()] if len(truth) == 1 and truth.upper() in letters else []
    found = {*by_text, *by_letter}
    if len(found) == 1:
        return found.pop()
    if found:
        raise ValueError(
            f"column {name!r} is {shown(truth)}, which may be any of {', '.join(sorted(found))}: give the letter of the right option"
        )
    raise ValueError(
        f"column {name!r} is {shown(truth)}, neither a letter of {letters} nor the text of an option"
        + (" (counted from 0, or from 1? make it a letter)" if truth.isdecimal() else "")
    )


def _extra(record: Record, name: str) -> Any:
    value = record.get(name)
    if value is None:
        raise ValueError(f"column {name!r} is missing")
    return value


def in_test(question: str, share: float) -> bool:
    """Whether a question belongs to the test set: by its own text alone, blanks and case aside."""
    digest = hashlib.sha256(" ".join(question.casefold().split()).encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


# ------------------------------------------------------------------------------------------------------------- command


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_preprocess.custom",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the dataset to write")
    parser.add_argument("--train", metavar="FILE|HUB", help="training questions")
    parser.add_argument("--test", metavar="FILE|HUB", help="test questions")
    parser.add_argument("--split", type=share, metavar="SHARE", help="the share of --train that becomes the test set")
    parser.add_argument("--config", help="configuration of a hub data set that has several")
    parser.add_argument("--question", required=True, metavar="COL", help="column with the question")
    parser.add_argument("--answer", metavar="COL", help="column with the right answer")
    parser.add_argument("--options", metavar="COL", help="column with the texts of the options (--type option)")
    parser.add_argument(
        "--type", choices=(*ANSWER_TYPES, OWN), default="boxed", help="what an answer is (default: boxed)"
    )
    parser.add_argument(
        "--source", metavar="NAME", help="name of the data in metrics (default: that of the first file)"
    )
    parser.add_argument(
        "--extra",
        type=lambda text: [name for name in text.split(",") if name],
        default=[],
        metavar="COL,...",
        help="further columns, for teams (Team.columns) and rewards",
    )
    parser.add_argument("--limit", type=positive, help="use only the first N source rows of every split")
    parser.add_argument("--skip-bad", action="store_true", help="leave bad rows out and count them")
    return parser.parse_args(arguments)


def _check(given: argparse.Namespace) -> None:
    """Raise ValueError for options that do not fit each other."""
    if not given.train and not given.test:
        raise ValueError("there is nothing to read: give --train, or --test for a set to evaluate on")
    if given.split and (given.test or not given.train):
        raise ValueError("--split takes the test set out of --train: give --train, and no --test")
    if given.train and not (given.split or given.test):
        raise ValueError("a job needs a test set: give --test, or --split 0.1 to take it out of --train")
    if not given.answer and given.type != OWN:
        raise ValueError(
            f"--type {given.type} is judged by the right answer: give its column, --answer COL (without one, a reward of your own: --type own)"
        )
    if bool(given.options) != (given.type == "option"):
        raise ValueError("--options and --type option belong together: give both, or neither")
    if reason := name_problem(given.source):
        raise ValueError(f"--source {reason}")
    if taken := sorted(set(given.extra) & set(FACTS)):
        raise ValueError(f"--extra {', '.join(taken)}: a row says something else under that name; rename the column")
    if twice := sorted({name for name in given.extra if given.extra.count(name) > 1}):
        raise ValueError(f"--extra names {', '.join(twice)} twice")


def rows_of(given: argparse.Namespace) -> tuple[dict[str, list[Row]], list[Any], list[str]]:
    """(split -> rows, origins, skipped rows) as the command line says. Raises ValueError."""
    wanted = [name for name in (given.question, given.answer, given.options, *given.extra) if name]
    rows: dict[str, list[Row]] = {}
    origins, skipped = [], []
    for split, text in zip(SPLITS, (given.train, given.test), strict=True):
        if not text:
            continue
        source, folder = source_of(text, split, given.config)
        records, origin = read(source, folder, source.revision)
        origins.append(origin)
        check_columns(text, records, wanted)

        def build(record: Record, number: int, split: str = split) -> Row:
            if given.split and in_test(field(record, (given.question,)), given.split):
                split = "test"
            return row_of(record, number, split, given)

        for row in built_rows(records, build, given, skipped, folder):
            rows.setdefault(row["extra_info"]["split"], []).append(row)
    if given.split and set(rows) != set(SPLITS):
        raise ValueError(
            f"--split {given.split:g} of {sum(map(len, rows.values()))} rows leaves no {'test' if 'train' in rows else 'training'} question: set "
            "another share, or give more rows"
        )
    for split, text in zip(SPLITS, (given.train, given.test), strict=True):
        if text and split not in rows:
            raise ValueError(f"{text} has no {'good ' if skipped else ''}rows")
    return {split: rows[split] for split in SPLITS if split in rows}, origins, skipped


def main(arguments: Sequence[str] | None = None) -> None:
    given = options_of(arguments)
    first = given.train or given.test or "custom"
    given.source = given.source if given.source is not None else Path(first.partition(":")[0]).stem
    try:
        _check(given)
        rows, origins, skipped = rows_of(given)
        manifest = write_dataset(given.out, rows, name=given.source, sources=origins, skipped=skipped)
    except (ValueError, OSError) as error:
        sys.exit(f"custom: {error}")
    print(summary(given.out, manifest))


if __name__ == "__main__":
    main()
