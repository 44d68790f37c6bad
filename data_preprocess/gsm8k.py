"""GSM8K: OUT/train.parquet, OUT/test.parquet.

Local files: gsm8k_train.jsonl and gsm8k_test.jsonl, or the hub's main/*.parquet. The truth is the number after ####.
"""

from __future__ import annotations

import re

from ccpo.data import shown
from data_preprocess.schema import Row, make_row, reference
from data_preprocess.sources import ANSWER, QUESTION, Record, Source, convert, field, parser


def _source(split: str) -> Source:
    shard = f"{split}-00000-of-00001.parquet"
    return Source(
        files=(f"gsm8k_{split}.jsonl", f"{split}.jsonl", f"main/{shard}", shard),
        hub="openai/gsm8k",
        hub_split=split,
        revision="740312add88f781978c0658806c59bc2815b9866",
        config="main",
    )


_NUMBER = re.compile(r"-?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?(?<=\d)", re.ASCII)  # 18, 1,000, -2.5, .5

TRAIN, TEST = _source("train"), _source("test")


def _row(record: Record, index: int, split: str) -> Row:
    solution = field(record, ANSWER)
    _, marker, truth = solution.rpartition("####")
    if not marker:
        raise ValueError("its answer has no '####' before the final number")
    if not _NUMBER.fullmatch(truth.strip()):
        raise ValueError(f"what follows '####' is {shown(truth.strip())}, not a number in the digits 0-9")
    return row_of(field(record, QUESTION), truth.strip().replace(",", ""), split, index)


def row_of(question: str, truth: str, split: str, index: int) -> Row:
    return make_row("gsm8k", question, truth, "number", split, index, extra=reference(truth))


def train_row(record: Record, index: int) -> Row:
    return _row(record, index, "train")


def test_row(record: Record, index: int) -> Row:
    return _row(record, index, "test")


if __name__ == "__main__":
    options = parser(__doc__, (TRAIN, TEST)).parse_args()
    convert("gsm8k", options, {"train": (TRAIN, train_row), "test": (TEST, test_row)})
