"""Evaluation sets, one file each: OUT/aime2024.parquet, aime2025, amc23, minervamath, gaokao2023en.

Local files: SET.parquet or SET.jsonl for every set of --sets. The hub's Gaokao2023 has no pinned revision.
"""

from __future__ import annotations

from functools import partial

from data_preprocess.schema import Row, make_row
from data_preprocess.sources import ANSWER, QUESTION, Record, Source, boxed_truth, convert, field, parser


def _source(name: str, hub: str, hub_split: str, revision: str) -> Source:
    return Source((f"{name}.parquet", f"{name}.jsonl"), hub, hub_split, revision)


SETS = {
    "aime2024": _source("aime2024", "HuggingFaceH4/aime_2024", "train", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a"),
    "aime2025": _source("aime2025", "math-ai/aime25", "test", "563bb8404243c5f09de6ec262f2db674fe5bce9b"),
    "amc23": _source("amc23", "math-ai/amc23", "test", "80815d37005feb82cd7f8fbc6901d5d3eff43057"),
    "minervamath": _source("minervamath", "math-ai/minervamath", "test", "ee46ddc498933b1977577953250ca5c66be64f96"),
    "gaokao2023en": _source("gaokao2023en", "MARIO-Math-Reasoning/Gaokao2023-Math-En", "train", "main"),
}


def row(record: Record, index: int, name: str) -> Row:
    has_answer = any(record.get(column) is not None for column in ANSWER)
    truth = field(record, ANSWER) if has_answer else boxed_truth(record)
    return make_row(name, field(record, QUESTION), truth, "boxed", "test", index)


if __name__ == "__main__":
    options = parser(__doc__, tuple(SETS.values()))
    options.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="which sets (default: all)")
    options = options.parse_args()
    chosen = dict.fromkeys(options.sets)
    convert("benchmarks", options, {name: (SETS[name], partial(row, name=name)) for name in chosen})
