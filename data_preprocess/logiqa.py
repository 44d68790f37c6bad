"""LogiQA: OUT/train.parquet, OUT/test.parquet. The truth is the letter of one of four options.

Local files: the original text files logiqa_train.txt (or Train.txt) and logiqa_test.txt (or Test.txt). Without a
training file logiqa_eval.txt (or Eval.txt) becomes the training split. A question has 8 lines: a blank one, the answer
letter, the passage, the question, four options that begin with "A." to "D.".

In the original files some options stand in the order A, C, B, D: the answer letter means the label, so options are
sorted by it. Some labels have lost their point or were moved into the sentence ("Researcher C.Wang is a doctor"): they
are taken out of it. The hub's copy has options without labels, so it cannot be checked for this: with the text files
those questions are right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_preprocess.schema import Row, make_row, reference
from data_preprocess.sources import Record, Source, content_of, convert, field, local_file, parser

LABELS = "ABCD"
LINES = 8


class _BadLine(ValueError):
    """(its number within the question, from 0; what is wrong)"""


def _read_text(path: Path) -> Iterator[tuple[str, Any]]:
    # Bytes that are not UTF-8 become surrogates, which are found when the question is read.
    lines = [line.decode(errors="surrogateescape").strip() for line in content_of(path).split(b"\n")]
    for start, block in _blocks(lines):
        try:
            yield f"{path}: line {start + 1}", _record(block)
        except _BadLine as error:
            offset, reason = error.args
            yield f"{path}: line {start + offset + 1}", ValueError(reason)


def _blocks(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, lines) of every question. A blank line begins one if option D is before it or a lone
    letter after it: so a line that is missing, empty or too many spoils one question, not the rest of the file."""
    while lines and not lines[-1]:
        lines.pop()
    starts = [
        number
        for number, line in enumerate(lines)
        if number == 0
        or (not line and (re.match("[Dd][.]", lines[number - 1]) or re.fullmatch("[A-Za-z]", lines[number + 1])))
    ]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        if any(lines[start:end]):
            yield start, lines[start:end]


def _record(block: list[str]) -> Record:
    """A record with the hub's fields."""
    if len(block) != LINES or block[0]:
        raise _BadLine(
            0, f"{len(block)} lines, the first {block[0][:40]!r}; a question has {LINES}, the first of them blank"
        )
    for offset, line in enumerate(block):
        if not line.isascii() and re.search("[\ud800-\udfff]", line):
            raise _BadLine(offset, "not valid UTF-8")
    _, answer, context, query, *lines = block
    if answer.upper() not in tuple(LABELS):
        raise _BadLine(1, f"the answer is {answer[:40]!r}, not the letter of one of the options A-D")
    for offset, (name, text) in enumerate([("passage", context), ("question", query)], 2):
        if not text:
            raise _BadLine(offset, f"the {name} is empty")
    options: dict[str, str] = {}
    for offset, (line, label) in enumerate(zip(lines, LABELS, strict=True), 4):
        label, text = _option(line, label, offset)
        if label in options:
            raise _BadLine(offset, f"a second option {label}")
        if not text:
            raise _BadLine(offset, f"option {label} is empty")
        options[label] = text
    texts = [options[label] for label in LABELS]
    return {"context": context, "query": query, "options": texts, "correct_option": LABELS.index(answer.upper())}


def _option(line: str, expected: str, offset: int) -> tuple[str, str]:
    """(label, text without it); a label that is not "A." at the beginning must be the one expected there."""
    found = (
        re.match(r"([A-Da-d])[.?):]", line)
        or re.match(rf"({expected})\s", line)
        or re.search(rf"(?<![A-Za-z])({expected})\.", line)
    )
    if found is None:
        raise _BadLine(offset, f"option {expected} is missing: there is {line[:40]!r}")
    return found.group(1).upper(), (line[: found.start()] + line[found.end() :]).strip()


def _source(files: tuple[str, ...], hub_split: str) -> Source:
    return Source(
        files=files,
        hub="lucasmccabe/logiqa",
        hub_split=hub_split,
        # Of the hub's parquet branch: the main branch has a loading script, which the datasets library no longer runs.
        revision="f940ffec57aaa2a0e0d3dbf2da52f56bc3db4614",
        reader=_read_text,
    )


TRAIN = _source(("logiqa_train.txt", "Train.txt"), "train")
EVAL = replace(TRAIN, files=("logiqa_eval.txt", "Eval.txt"))
TEST = _source(("logiqa_test.txt", "Test.txt"), "test")


def question_text(context: str, query: str, options: Sequence[str]) -> str:
    """What the model is asked: passage, question and options, a line each."""
    return "\n".join([context, query, *(f"{label}. {option}" for label, option in zip(LABELS, options, strict=True))])


def row(record: Record, index: int, split: str) -> Row:
    options = record.get("options")
    if not isinstance(options, list) or [type(option) for option in options] != [str] * len(LABELS):
        raise ValueError(f"field 'options' is not a list of {len(LABELS)} texts")
    correct = field(record, ("correct_option",))
    if correct not in ("0", "1", "2", "3"):
        raise ValueError(f"field 'correct_option' is {correct!r}, not 0-3")
    options = [option.strip() for option in options]
    question = question_text(field(record, ("context",)), field(record, ("query",)), options)
    truth = LABELS[int(correct)]
    return make_row(
        "logiqa", question, truth, "option", split, index, ability="logic", options=options, extra=reference(truth)
    )


def main() -> None:
    options = parser(__doc__, (TRAIN, TEST)).parse_args()
    train, note = TRAIN, ""
    if options.source and local_file(TRAIN, options.source) is None and local_file(EVAL, options.source) is not None:
        train = EVAL
        note = f"no {' or '.join(TRAIN.files)}: the training split is {local_file(EVAL, options.source).name}"
    splits = {"train": (train, partial(row, split="train")), "test": (TEST, partial(row, split="test"))}
    convert("logiqa", options, splits, note)


if __name__ == "__main__":
    main()
