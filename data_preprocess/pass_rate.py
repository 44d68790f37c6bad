"""The training questions that a model sometimes gets right: those it never or always does teach nothing.

    python scripts/evaluate.py --team dyad --model outputs/taught/model --data data/gsm8k_roles/train.parquet --k 8 \\
        --replays --controls none --out results/taught
    python -m data_preprocess.pass_rate --data data/gsm8k_roles --evaluated results/taught --out data/gsm8k_between

    OUT/train.parquet   the rows of DATA/train.parquet whose pass rate is within the bounds
    OUT/*.parquet       all other sets of rows (test, dev, ...), byte for byte; lessons (sft_*.parquet) are not copied
    OUT/manifest.json   bounds, counts, a histogram of pass rates, the evaluation's settings, SHA-256 of what was read and written

A question's pass rate is the mean value of its sessions in the evaluation. If all sessions of a prompt earn the same, a rule that compares them
(shared) has nothing to go by. The pass rate is taken once, before training. Source: choosing prompts by the pass rate of the taught model, Kimi k1.5,
arXiv 2501.12599, section 2.1.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ccpo.data import FORMAT_VERSION, MANIFEST, read_files, sha256
from ccpo.evaluate.compare import paired
from ccpo.evaluate.data import Question, Row, checked_rows, question_of
from ccpo.evaluate.measures import mean
from ccpo.evaluate.results import identity
from ccpo.evaluate.store import RESULT, read_result
from data_preprocess.folder import replace_folder
from data_preprocess.schema import file_facts, own_command, replaceable
from data_preprocess.sft_roles import SFT_TRAIN, SFT_VAL

TRAIN = "train.parquet"
AT_LEAST, AT_MOST = 0.001, 0.999
"""Between never and always for any number of sessions that an evaluation may have, up to 1,000."""
KEPT, BELOW, ABOVE, UNKNOWN = "kept", "below", "above", "unknown"


def read_rows(data: Path) -> dict[str, tuple[bytes, list[Row]]]:
    """File name -> (content, rows) of every set of rows in a folder, all of one state of it. Raises ValueError."""
    names = {path.name for path in data.glob("*.parquet")} - {SFT_TRAIN, SFT_VAL}
    found = {}
    for path, content in read_files([data / name for name in sorted({*names, TRAIN})]).items():
        if isinstance(content, str):
            raise ValueError(f"--data: {content}")
        found[path.name] = content, checked_rows(path, content, own_reward=True)
    return found


def rates_of(file: Path, content: bytes, rows: Sequence[Row], result: Mapping[str, Any]) -> dict[Question, float]:
    """Row -> its pass rate, of those that have one. Raises ValueError for an evaluation of other rows than those of ``file``."""
    read = result["settings"]["data"]
    pairs, _ = paired({"questions": [identity(row) for row in rows]}, result)
    if not pairs:
        raise ValueError(
            f"--evaluated is of {read['file']}, which has no question of {file}: evaluate that file, --data {file}"
        )
    if read["sha256"] != sha256(content):
        raise ValueError(
            f"--evaluated is of another state of {file} (it read {read['file']}; the SHA-256 differs), so its values may be of other answers: evaluate "
            f"{file} anew, with another --out"
        )
    rates = {(entry["source"], entry["index"]): mean(entry["values"]) for _, entry in pairs}
    return {question: rate for question, rate in rates.items() if rate is not None}


def histogram(rates: Sequence[float]) -> dict[str, int]:
    """Questions by pass rate: never and always apart, tenths between (0.1 belongs to 0.1-0.2)."""
    names = ["0", *(f"{i / 10:.1f}-{(i + 1) / 10:.1f}" for i in range(10)), "1"]
    counts = Counter(0 if rate <= 0 else 11 if rate >= 1 else 1 + int(rate * 10) for rate in rates)
    return {name: counts[number] for number, name in enumerate(names)}


# --- command ----------------------------------------------------------------------------------------------------------


def build(given: argparse.Namespace) -> dict[str, Any]:
    """Write the folder; returns its manifest. Raises ValueError, and nothing is written."""
    low, high = given.at_least, given.at_most
    if low > high:
        raise ValueError(
            f"--at-least {low:g} is more than --at-most {high:g}, and no rate is both: set them the other way round"
        )
    if os.path.realpath(given.out) == os.path.realpath(given.data):
        raise ValueError("--out is the folder of --data, whose left-out rows would be gone: choose another --out")
    files = read_rows(given.data)
    content, rows = files[TRAIN]
    result = read_result(given.evaluated)
    rates = rates_of(given.data / TRAIN, content, rows, result)
    if not given.skip_unknown and len(rates) < len(rows):
        raise ValueError(
            f"{len(rows) - len(rates)} of {len(rows)} training rows have no session in {given.evaluated}, so their pass rate is unknown: evaluate all of "
            "them (the same command again plays what failed; with --limit gone, another --out), or set --skip-unknown to leave them out"
        )
    sides = [_side(rates.get(question_of(row)), low, high) for row in rows]
    counts = {side: sides.count(side) for side in (KEPT, BELOW, ABOVE, UNKNOWN)}
    if not counts[KEPT]:
        raise ValueError(
            f"no training row has a pass rate from {low:g} to {high:g} ({counts[BELOW]} are below, {counts[ABOVE]} above): set --at-least or --at-most"
        )
    chosen = [number for number, side in enumerate(sides) if side == KEPT]
    table = pq.ParquetFile(pa.BufferReader(content)).read().take(chosen)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    origins = {
        **{name: found for name, (found, _) in files.items()},
        RESULT: _result_file(given.evaluated).read_bytes(),
    }
    files[TRAIN] = sink.getvalue().to_pybytes(), [rows[number] for number in chosen]
    manifest: dict[str, Any] = {
        "name": f"{_name(given.data)}_between",
        "format_version": FORMAT_VERSION,
        "command": shlex.join(own_command()),
        "sources": [{"file": name, "sha256": sha256(found)} for name, found in origins.items()],
        "files": {name: file_facts(listed, found) for name, (found, listed) in files.items()},
        "pass_rate": {
            "at_least": low,
            "at_most": high,
            "rows": counts,
            "histogram": histogram(list(rates.values())),
            "mean": mean(list(rates.values())),
            "mean_of_kept": mean([rates[question_of(row)] for row in files[TRAIN][1]]),
            "settings": result["settings"],
        },
    }

    def write(folder: Path) -> None:
        for name, (found, _) in files.items():
            (folder / name).write_bytes(found)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    replace_folder(given.out, lambda folder: replaceable(folder, manifest["name"], set(files)), write)
    return manifest


def _side(rate: float | None, low: float, high: float) -> str:
    return UNKNOWN if rate is None else BELOW if rate < low else ABOVE if rate > high else KEPT


def _result_file(place: Path) -> Path:
    return place / RESULT if place.is_dir() else place


def _name(data: Path) -> str:
    """Name of the dataset in a folder; the folder's own where no manifest says another."""
    try:
        return str(json.loads((data / MANIFEST).read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return data.resolve().name


def lines(out: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What the command says of what it wrote."""
    found = manifest["pass_rate"]
    rows, total = found["rows"], sum(found["rows"].values())
    left = ", ".join(f"{rows[side]} {side}" for side in (BELOW, ABOVE, UNKNOWN) if rows[side])
    others = ", ".join(f"{name} ({facts['rows']})" for name, facts in manifest["files"].items() if name != TRAIN)
    return [
        f"{out / TRAIN}: {rows[KEPT]} of {total} rows, with a pass rate from {found['at_least']:g} to {found['at_most']:g}; left out: {left or 'none'}",
        f"mean pass rate: {found['mean_of_kept']:.3f} of these rows, {found['mean']:.3f} of all that were evaluated",
        "pass rate: " + ", ".join(f"{name}: {count}" for name, count in found["histogram"].items()),
        f"as they were: {others or 'no other set'}",
    ]


def rate(text: str) -> float:
    """A number from 0 to 1, as argparse's type."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no pass rate: set a number from 0 to 1")
    return found


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="python -m data_preprocess.pass_rate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--data", type=Path, required=True, help="folder of a dataset, with train.parquet")
    options.add_argument(
        "--evaluated",
        type=Path,
        required=True,
        help="folder of an evaluation of that train.parquet (scripts/evaluate.py)",
    )
    options.add_argument("--out", type=Path, required=True, help="folder of the dataset to write")
    options.add_argument(
        "--at-least",
        type=rate,
        default=AT_LEAST,
        help="lowest pass rate that is kept (default: %(default)s, not never)",
    )
    options.add_argument(
        "--at-most",
        type=rate,
        default=AT_MOST,
        help="highest pass rate that is kept (default: %(default)s, not always)",
    )
    options.add_argument(
        "--skip-unknown",
        action="store_true",
        help="leave out rows that have no session in the evaluation, and count them",
    )
    return options.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    given = options_of(arguments)
    try:
        manifest = build(given)
    except (ValueError, OSError) as error:
        sys.exit(f"pass_rate: {error}")
    print(*lines(given.out, manifest), sep="\n")


if __name__ == "__main__":
    main()
