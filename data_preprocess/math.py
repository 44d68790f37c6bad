"""MATH for training, MATH-500 for testing: OUT/train.parquet, OUT/test.parquet.

Local files: math_train.parquet (or train.parquet, train.jsonl) and math500.parquet (or test.jsonl, test.parquet).
The truth is the last boxed expression of the solution; of a source that has only answers, the answer.
"""

from __future__ import annotations

from data_preprocess.schema import Row, make_row, reference
from data_preprocess.sources import QUESTION, Record, Source, boxed_truth, convert, field, parser

TRAIN = Source(
    files=("math_train.parquet", "train.parquet", "data/train-00000-of-00001.parquet", "train.jsonl"),
    hub="DigitalLearningGmbH/MATH-lighteval",
    hub_split="train",
    revision="0530c78699ea5e8eb5530600900e1f328b48acad",
)
TEST = Source(
    files=("math500.parquet", "test.jsonl", "test.parquet"),
    hub="HuggingFaceH4/MATH-500",
    hub_split="test",
    revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
)


def _row(name: str, record: Record, split: str, index: int) -> Row:
    truth = boxed_truth(record)
    return make_row(name, field(record, QUESTION), truth, "boxed", split, index, extra=reference(truth))


def train_row(record: Record, index: int) -> Row:
    return _row("math", record, "train", index)


def test_row(record: Record, index: int) -> Row:
    return _row("math500", record, "test", index)


if __name__ == "__main__":
    options = parser(__doc__, (TRAIN, TEST)).parse_args()
    convert("math", options, {"train": (TRAIN, train_row), "test": (TEST, test_row)})
