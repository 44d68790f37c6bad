"""The LogiQA command, on small text files made here and on the real ones."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ccpo.reference import reference_problem
from ccpo.verifier import verify
from data_preprocess import logiqa, sources
from data_preprocess.schema import check_row

ROOT = Path(__file__).resolve().parents[2]
GOOD = [
    ["", "b", "Ann is in Rome.", "Where is she?", "A.Paris.", "B.Rome.", "C.Oslo.", "D.Bern."],
    ["", "d", "Two and two.", "How many?", "A.1", "B.2", "C.3", "D.4"],
    ["", "A", "All cats purr.", "So?", "A.Tom purrs.", "B.None purrs.", "C.Rex purrs.", "D.Nothing follows."],
]


def text(blocks: list[list[str]], end: str = "") -> str:
    return "\n".join("\n".join(block) for block in blocks) + end


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "logiqa_eval.txt").write_text(text(GOOD), encoding="utf-8")
    other = [[line.replace("Ann", "Eve") for line in GOOD[0]], GOOD[2]]
    (folder / "Test.txt").write_text(text(other, end="\n\n"), encoding="utf-8")
    return folder


@pytest.fixture
def run(run_module):
    return partial(run_module, "data_preprocess.logiqa")


def rows(path: Path) -> list[dict]:
    found = pq.read_table(path).to_pylist()
    for row in found:
        check_row(row)
    return found


def records(tmp_path, *blocks: list[str]) -> list:
    (tmp_path / "x.txt").write_text(text([*blocks]), encoding="utf-8")
    return [record for _, record in logiqa._read_text(tmp_path / "x.txt")]


def test_the_eval_file_stands_in_for_a_missing_train_file(run, source, tmp_path):
    out = tmp_path / "out"
    done = run("--out", out, "--source", source)
    assert done.returncode == 0, done.stderr
    train, test = rows(out / "train.parquet"), rows(out / "test.parquet")
    assert [row["reward_model"]["ground_truth"] for row in train] == ["B", "D", "A"]
    assert [row["reward_model"]["ground_truth"] for row in test] == ["B", "A"]
    question = "Ann is in Rome.\nWhere is she?\nA. Paris.\nB. Rome.\nC. Oslo.\nD. Bern."
    assert train[0] == {
        "data_source": "logiqa",
        "prompt": [{"role": "user", "content": question}],
        "ability": "logic",
        "reward_model": {"style": "rule", "ground_truth": "B"},
        "extra_info": {
            "split": "train",
            "index": 0,
            "answer_type": "option",
            "question": question,
            "options": ["Paris.", "Rome.", "Oslo.", "Bern."],
            "reference": "\\boxed{B}",
        },
    }
    assert all(reference_problem(row, "reason", own_reward=False, chain=True) is None for row in train)
    assert {row["extra_info"]["split"] for row in test} == {"test"}
    manifest = json.loads((out / "manifest.json").read_text())
    note = "no logiqa_train.txt or Train.txt: the training split is logiqa_eval.txt"
    assert manifest["note"] == note and note in done.stdout
    assert manifest["train_test_overlap"] == 1
    assert [entry["file"] for entry in manifest["sources"]] == ["logiqa_eval.txt", "Test.txt"]
    content = (source / "Test.txt").read_bytes()
    assert manifest["sources"][1]["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_train_file_is_the_training_split(run, source, tmp_path):
    (source / "Train.txt").write_bytes(b"\xef\xbb\xbf" + text(GOOD[1:]).replace("\n", "\r\n").encode())
    done = run("--out", tmp_path / "out", "--source", source, "--limit", 1)
    assert done.returncode == 0, done.stderr
    train = rows(tmp_path / "out" / "train.parquet")
    assert [row["extra_info"]["options"] for row in train] == [["1", "2", "3", "4"]]
    assert "note" not in json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "training split" not in done.stdout


def test_without_any_training_file_the_command_stops(run, source, tmp_path):
    (source / "logiqa_eval.txt").unlink()
    done = run("--out", tmp_path / "out", "--source", source)
    assert done.returncode == 1 and "none of the files logiqa_train.txt, Train.txt" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change, line, reason",
    [
        (lambda block: block.pop(5), 9, "7 lines"),
        (lambda block: block.insert(3, "one more"), 9, "9 lines"),
        (lambda block: block.pop(7), 9, "7 lines"),
        (lambda block: block.pop(1), 9, "7 lines"),
        (lambda block: block.__setitem__(1, "e"), 10, "the answer is 'e'"),
        (lambda block: block.__setitem__(1, "AB"), 10, "the answer is 'AB'"),
        (lambda block: block.__setitem__(1, ""), 10, "the answer is ''"),
        (lambda block: block.__setitem__(2, " "), 11, "the passage is empty"),
        (lambda block: block.__setitem__(3, ""), 12, "the question is empty"),
        (lambda block: block.__setitem__(5, "two"), 14, "option B is missing: there is 'two'"),
        (lambda block: block.__setitem__(6, "B.two"), 15, "a second option B"),
        (lambda block: block.__setitem__(7, "D. "), 16, "option D is empty"),
        (lambda block: block.__setitem__(2, "not \udcff UTF-8"), 11, "not valid UTF-8"),
    ],
)
def test_a_malformed_question_is_named_and_stops_unless_skipped(run, source, tmp_path, change, line, reason):
    bad = list(GOOD[1])
    change(bad)
    file, out = source / "logiqa_eval.txt", tmp_path / "out"
    file.write_bytes(text([GOOD[0], bad, GOOD[2]]).encode(errors="surrogateescape"))
    done = run("--out", out, "--source", source)
    assert done.returncode == 1
    assert f"{file}: line {line}: " in done.stderr and reason in done.stderr
    assert not out.exists()
    done = run("--out", out, "--source", source, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert f"skipped {file}: line {line}: " in done.stderr
    train = rows(out / "train.parquet")
    assert [row["extra_info"]["index"] for row in train] == [0, 2]
    assert [row["reward_model"]["ground_truth"] for row in train] == ["B", "A"]
    assert json.loads((out / "manifest.json").read_text())["skipped_bad_rows"] == 1


def test_two_questions_without_a_blank_line_between_them_are_one_bad_one(tmp_path):
    first, second, third = records(tmp_path, GOOD[0], [*GOOD[1], *GOOD[2][1:]], GOOD[2])
    assert first["correct_option"] == 1 and "15 lines" in str(second) and third["context"] == "All cats purr."


def test_blank_lines_between_questions_are_no_question(tmp_path):
    assert len(records(tmp_path, GOOD[0], [""], ["", ""], GOOD[1])) == 2


def test_options_are_sorted_by_their_label(tmp_path):
    block = ["", "b", "Ann is in Rome.", "Where is she?", "A.Paris.", "C.Oslo.", "B.Rome.", "D.Bern."]
    (record,) = records(tmp_path, block)
    assert record["options"] == ["Paris.", "Rome.", "Oslo.", "Bern."]
    assert record["options"][record["correct_option"]] == "Rome."


@pytest.mark.parametrize(
    "lines, options",
    [
        (["A first", "B Third", "C Fourth", "D fifth"], ["first", "Third", "Fourth", "fifth"]),
        (["A? x", "B? y", "c.z", "d.w"], ["x", "y", "z", "w"]),
        (
            ["A.C, D play.", "A bit in B.A area", "Mr.C.X's work", "City D.B"],
            ["C, D play.", "A bit in A area", "Mr.X's work", "City B"],
        ),
    ],
)
def test_labels_that_the_translation_spoilt(tmp_path, lines, options):
    (record,) = records(tmp_path, ["", "a", "p", "q", *lines])
    assert record["options"] == options


@pytest.mark.parametrize(
    "change, message",
    [
        ({"options": ["x", "y", "z"]}, "list of 4 texts"),
        ({"options": None}, "list of 4 texts"),
        ({"options": ["x", "y", "z", ""]}, "option D is empty or blank"),
        ({"correct_option": 4}, "not 0-3"),
        ({"correct_option": -1}, "not 0-3"),
        ({"context": " "}, "'context' is empty"),
        ({"query": None}, "no field query"),
    ],
)
def test_bad_records_of_the_hub(change, message):
    good = {"context": "p", "query": "q", "options": ["x", "y", "z", "w"], "correct_option": "2"}
    assert logiqa.row(good, 0, "test")["reward_model"]["ground_truth"] == "C"
    with pytest.raises(ValueError, match=message):
        logiqa.row({**good, **change}, 0, "test")


def test_the_hub_is_asked_for_a_pinned_revision(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path, name=None, *, split, revision):  # the hub itself cannot be reached in a test
        asked.append((path, name, split, revision))
        record = {"context": f"p {split}", "query": "q", "options": ["x", "y", "z", "w"], "correct_option": 1}
        return datasets.Dataset.from_list([record])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("sys.argv", ["logiqa", "--out", str(tmp_path / "out")])
    logiqa.main()
    revision = logiqa.TRAIN.revision
    assert len(revision) == 40
    assert asked == [("lucasmccabe/logiqa", None, split, revision) for split in ("train", "test")]
    assert rows(tmp_path / "out" / "train.parquet")[0]["reward_model"]["ground_truth"] == "B"
    assert str(logiqa.TRAIN) in sources.parser("", (logiqa.TRAIN,)).format_help().replace("\n", "").replace(" ", "")


def test_real_data(run, tmp_path):
    data = ROOT.parent / "shared" / "data"
    if not (data / "logiqa_test.txt").is_file():
        pytest.skip("the real data is not here")
    done = run("--out", tmp_path / "out", "--source", data)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [facts["rows"] for facts in manifest["files"].values()] == [651, 651]
    assert (manifest["skipped_bad_rows"], manifest["train_test_overlap"]) == (0, 0)
    constants = [facts["best_constant_answer"] for facts in manifest["files"].values()]
    assert constants == [{"answer": "D", "share": 0.414747}, {"answer": "D", "share": 0.278034}]
    assert [odd.partition(": ")[0] for odd in manifest["odd_rows"]] == [
        f"train.parquet, row {n}" for n in (163, 204, 564)
    ]
    misread = 0
    test = rows(tmp_path / "out" / "test.parquet")
    for row in test:
        options, truth = row["extra_info"]["options"], row["reward_model"]["ground_truth"]
        right = options["ABCD".index(truth)]
        for answer in (f"\\boxed{{{truth}}}", f"So the answer is {truth}. {right}"):
            assert verify(answer, truth, "option", options).reward == 1.0
        misread += verify(f"\\boxed{{{right}}}", truth, "option", options).reward != 1.0
    assert misread <= 1  # of an option whose text is the letter of another one
    valves = test[(865 - 1) // 8]  # in the file its options stand in the order A, C, B, D
    assert valves["extra_info"]["options"][1] == "No.2 valve and No.3 valve."
