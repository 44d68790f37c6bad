"""The dataset commands, on small sources made here."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_preprocess import gsm8k, math, sources
from data_preprocess.schema import check_row, make_row, write_dataset

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(run_module):
    return lambda module, *arguments: run_module(f"data_preprocess.{module}", *arguments)


def rows(path: Path) -> list[dict]:
    found = pq.read_table(path).to_pylist()
    for row in found:
        check_row(row)
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def source(tmp_path):
    """MATH with solutions, GSM8K and two benchmarks, with columns as they are on the hub or in common copies."""
    folder = tmp_path / "source"
    folder.mkdir()
    train = [
        {"problem": "One half?", "solution": "First \\boxed{2}, so $\\boxed{\\frac{1}{2}}$.", "level": "Level 1"},
        {"problem": "What is  1+1?", "solution": "\\boxed{2}", "level": "Level 1"},
        {"problem": "what is 1+1?", "solution": "\\boxed{2}", "level": "Level 1"},
    ]
    pq.write_table(pa.Table.from_pylist(train), folder / "math_train.parquet")
    test = [
        {"question": "What is 1+1?", "answer": "2", "groundtruth": ""},
        {"question": "Pi?", "answer": "\\pi", "groundtruth": ""},
    ]
    pq.write_table(pa.Table.from_pylist(test), folder / "math500.parquet")
    for split in ("train", "test"):
        lines = [{"question": f"How many {split} {i}?", "answer": f"Sum.\n#### {i},000"} for i in range(1, 4)]
        (folder / f"gsm8k_{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pq.write_table(pa.Table.from_pylist([{"question": "q", "answer": 27.0}]), folder / "amc23.parquet")
    (folder / "aime2024.jsonl").write_text(json.dumps({"Problem": "p", "Answer": 33}) + "\n")
    return folder


def test_math(run, source, tmp_path):
    out = tmp_path / "out"
    done = run("math", "--out", out, "--source", source)
    assert done.returncode == 0, done.stderr
    train, test = rows(out / "train.parquet"), rows(out / "test.parquet")
    assert [row["reward_model"]["ground_truth"] for row in train] == ["\\frac{1}{2}", "2", "2"]
    assert [row["extra_info"]["answer_type"] for row in test] == ["boxed", "boxed"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["train_test_overlap"] == 1
    assert manifest["files"]["train.parquet"] == {
        "rows": 3,
        "duplicate_questions": 1,
        "best_constant_answer": {"answer": "2", "share": 0.666667},
        "sha256": sha256(out / "train.parquet"),
    }
    assert manifest["files"]["test.parquet"]["sha256"] == sha256(out / "test.parquet")
    assert manifest["sources"][0] == {"file": "math_train.parquet", "sha256": sha256(source / "math_train.parquet")}
    assert manifest["command"].startswith("python -m data_preprocess.math --out ")
    assert f"{out}/train.parquet: 3 rows, 1 duplicate questions; always answering 2 is right on 66.7%" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "test.parquet", "train.parquet"]


def test_gsm8k_and_limit(run, source, tmp_path):
    assert run("gsm8k", "--out", tmp_path / "out", "--source", source, "--limit", 2).returncode == 0
    train = rows(tmp_path / "out" / "train.parquet")
    assert [row["reward_model"]["ground_truth"] for row in train] == ["1000", "2000"]
    assert train[1]["extra_info"] == {
        "split": "train",
        "index": 1,
        "answer_type": "number",
        "question": "How many train 2?",
        "reference": "\\boxed{2000}",
        "options": [],
    }
    assert len(rows(tmp_path / "out" / "test.parquet")) == 2


def test_benchmarks(run, source, tmp_path):
    done = run("benchmarks", "--out", tmp_path / "out", "--source", source, "--sets", "amc23", "aime2024")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "out" / "amc23.parquet")[0]["reward_model"]["ground_truth"] == "27"
    assert rows(tmp_path / "out" / "aime2024.parquet")[0]["reward_model"]["ground_truth"] == "33"
    missing = run("benchmarks", "--out", tmp_path / "all", "--source", source)
    assert missing.returncode == 1 and "aime2025.parquet" in missing.stderr
    assert not (tmp_path / "all").exists()
    partly = run("benchmarks", "--out", tmp_path / "out", "--source", source, "--sets", "amc23")
    assert partly.returncode == 1 and "partly replace" in partly.stderr


@pytest.mark.parametrize(
    "line, reason",
    [
        ('{"question": "q", "answer": "no marker"}', "####"),
        ('{"question": "q", "answer": "#### many"}', "not a number"),
        ('{"question": " ", "answer": "#### 1"}', "'question' is empty"),
        ('{"answer": "#### 1"}', "no field question"),
        ("{broken", "not JSON"),
        ("[1]", "not a JSON object"),
    ],
)
def test_a_bad_row_is_named_and_stops_unless_skipped(run, source, tmp_path, line, reason):
    file = source / "gsm8k_train.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    out = tmp_path / "out"
    done = run("gsm8k", "--out", out, "--source", source)
    assert done.returncode == 1
    assert f"{file}: line 2" in done.stderr and reason in done.stderr
    assert not out.exists()
    done = run("gsm8k", "--out", out, "--source", source, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert [row["extra_info"]["index"] for row in rows(out / "train.parquet")] == [0, 2, 3]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["skipped_bad_rows"] == 1
    (skipped,) = manifest["skipped"]
    assert skipped.startswith("gsm8k_train.jsonl: line 2: ") and reason in skipped


def convert(capsys, module, out: Path, source: Path, *arguments: str) -> tuple[str | None, str]:
    """(error, what was printed) of a command that runs in this process."""
    options = sources.parser("", (module.TRAIN, module.TEST)).parse_args(
        ["--out", str(out), "--source", str(source), *arguments]
    )
    splits = {"train": (module.TRAIN, module.train_row), "test": (module.TEST, module.test_row)}
    try:
        sources.convert(module.__name__.rpartition(".")[2], options, splits)
    except SystemExit as error:
        return str(error), capsys.readouterr().out
    return None, capsys.readouterr().out


def answer(text: str) -> bytes:
    return json.dumps({"question": "q", "answer": text}).encode()


@pytest.mark.parametrize(
    "line, reason",
    [
        *[
            (answer(f"#### {text}"), "not a number in the digits 0-9")
            for text in ("nan", "inf", "1_000", "\u0661\u0662", "72 73", "", "1,0", "1,,000", ",", "-", ".", "0x10", "1e5", "$5")
        ],
        (answer("#### 1 #### "), "not a number"),
        (b'{"question": "caf\xe9", "answer": "#### 1"}', "not valid UTF-8"),
        (b'{"question": "\\ud800", "answer": "#### 1"}', "no valid Unicode"),
        (b'{"question": "a\\u0000b", "answer": "#### 1"}', "holds a NUL"),
        (b'{"question": "\\u200b", "answer": "#### 1"}', "empty or blank"),
        (b'{"question": "' + b"x" * 100_001 + b'", "answer": "#### 1"}', "has 100001 characters"),
        (b'{"question": NaN, "answer": "#### 1"}', "NaN is no number"),
        (b'{"question": "q", "answer": Infinity}', "Infinity is no number"),
        (b'{"question": 1e999, "answer": "#### 1"}', "'question' is inf"),
        (b'{"question": "q", "answer": null}', "no field answer"),
        (b'{"question": ["q", "r"], "answer": "#### 1"}', "'question' is list"),
        (b'{"question": true, "answer": "#### 1"}', "'question' is bool"),
        (b'{"question": "q", "question": "r", "answer": "#### 1"}', "'question' stands twice"),
        (b"[" * 100_000, "not JSON"),
        (b'"text"', "not a JSON object but str"),
        (b"null", "not a JSON object but NoneType"),
        (b'\xef\xbb\xbf{"question": "q", "answer": "#### 1"}', "not JSON"),  # a mark that is not at the file's beginning
    ],
)  # fmt: skip
def test_bad_lines(source, tmp_path, capsys, line, reason):
    file, out = source / "gsm8k_train.jsonl", tmp_path / "out"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], line, *lines[1:]]))
    error, _ = convert(capsys, gsm8k, out, source)
    assert f"{file}: line 2: " in error and reason in error and "Nothing was written" in error
    assert not out.exists()
    error, said = convert(capsys, gsm8k, out, source, "--skip-bad")
    assert error is None and "skipped 1" in said
    assert [row["extra_info"]["index"] for row in rows(out / "train.parquet")] == [0, 2, 3]
    assert reason in json.loads((out / "manifest.json").read_text())["skipped"][0]


def test_lines_as_other_editors_write_them(source, tmp_path, capsys):
    file = source / "gsm8k_train.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([*file.read_bytes().splitlines(), b"", b"  ", b""]))
    assert convert(capsys, gsm8k, tmp_path / "out", source)[0] is None
    assert len(rows(tmp_path / "out" / "train.parquet")) == 3


@pytest.mark.parametrize(
    "content, reason",
    [  # mtime: the name of a test must be the same in every process
        (gzip.compress(answer("#### 1"), mtime=0), "compressed with gzip"),
        (gzip.compress(answer("#### 1"), mtime=0)[:20], "compressed with gzip"),
        ("\ufeff{}".encode("utf-16-le"), "UTF-16"),
        (b"", "has no rows"),
        (b"\n\n", "has no rows"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("--skip-bad",)])
def test_files_that_are_no_lines(source, tmp_path, capsys, content, reason, arguments):
    (source / "gsm8k_test.jsonl").write_bytes(content)
    error, _ = convert(capsys, gsm8k, tmp_path / "out", source, *arguments)
    assert reason in error and not (tmp_path / "out").exists()


def test_bad_parquet_rows(source, tmp_path, capsys):
    """A text that is not UTF-8, a missing number (NaN) and a missing text, each named, each skipped where asked."""
    texts = pa.array([b"good", b"caf\xe9", b"good", b"good"]).view(pa.string())
    answers = pa.array([1.5, 2.0, float("nan"), None])
    pq.write_table(pa.table({"problem": texts, "answer": answers}), source / "math_train.parquet")
    out, file = tmp_path / "out", source / "math_train.parquet"
    error, _ = convert(capsys, math, out, source)
    assert f"{file}: row 1: column 'problem' is not valid UTF-8" in error and not out.exists()
    assert convert(capsys, math, out, source, "--skip-bad")[0] is None
    assert [row["reward_model"]["ground_truth"] for row in rows(out / "train.parquet")] == ["1.5"]
    skipped = json.loads((out / "manifest.json").read_text())["skipped"]
    reasons = ["row 1: column 'problem'", "row 2: field 'answer' is nan", "row 3: no field answer"]
    assert [
        text.removeprefix("math_train.parquet: ")[: len(reason)] for text, reason in zip(skipped, reasons, strict=True)
    ] == reasons


@pytest.mark.parametrize("cut", [0, 4, 20, -1, -20])
def test_a_parquet_file_that_was_cut_short(source, tmp_path, capsys, cut):
    file = source / "math_train.parquet"
    file.write_bytes(file.read_bytes()[:cut])
    error, _ = convert(capsys, math, tmp_path / "out", source, "--skip-bad")
    assert f"{file} is not a readable parquet file" in error


@pytest.mark.parametrize(
    "solution, reason",
    [
        ("\\boxed{}", "no \\boxed"),
        ("\\boxed{ \n}", "no \\boxed"),
        ("\\boxed{1", "no \\boxed"),
        ("no box", "no \\boxed"),
        ("\\boxed{" + "x" * 4_000 + "}", "characters"),
        ("\\boxed{" + "x" * 50_000 + "}", "no \\boxed"),
        ("\\boxed{\u200b}", "empty or blank"),
    ],
)
def test_bad_solutions(source, tmp_path, capsys, solution, reason):
    pq.write_table(
        pa.table({"problem": ["p", "p"], "solution": ["\\boxed{1}", solution]}), source / "math_train.parquet"
    )
    error, _ = convert(capsys, math, tmp_path / "out", source)
    assert "math_train.parquet: row 1" in error and reason in error


@pytest.mark.parametrize(
    "value, text", [(27.0, "27"), ([27.0], "27"), (0.1, "0.1"), (1e-7, "0.0000001"), (10**30, "1" + "0" * 30)]
)
def test_numbers_as_text(value, text):
    assert sources.field({"x": value}, ("x",)) == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("nan")], [], [1, 2], [None], True, {}, b"x", " "])
def test_what_is_no_text(value):
    with pytest.raises(ValueError, match="field 'x' is"):
        sources.field({"x": value}, ("x",))


def test_what_is_odd_is_reported(source, tmp_path, capsys):
    pq.write_table(pa.table({"problem": ["p", "$\frac{1}{2}$"], "answer": ["1", "2"]}), source / "math_train.parquet")
    error, said = convert(capsys, math, tmp_path / "out", source)
    assert error is None and "odd: train.parquet, row 1: the question holds the control character '\\x0c'" in said
    assert len(json.loads((tmp_path / "out" / "manifest.json").read_text())["odd_rows"]) == 1


def test_a_solution_without_a_box_is_bad(run, source, tmp_path):
    pq.write_table(pa.table({"problem": ["p"], "solution": ["no box"]}), source / "math_train.parquet")
    done = run("math", "--out", tmp_path / "out", "--source", source)
    assert done.returncode == 1 and "math_train.parquet: row 0" in done.stderr and "boxed" in done.stderr


def test_user_mistakes(run, source, tmp_path):
    (source / "amc23.parquet").write_bytes(b"PAR1 not really")
    for arguments, message in [
        (("--source", tmp_path / "nowhere"), "not a folder"),
        (("--source", source, "--limit", "0"), "whole number"),
        (("--source", source, "--revision", "math-ai/amc23=main"), "nothing with --source"),
        (("--revision", "other/set=main", "--sets", "amc23"), "REPO one of math-ai/amc23"),
        (("--source", source, "--sets", "amc23"), "not a readable parquet file"),
    ]:
        done = run("benchmarks", "--out", tmp_path / "out", *arguments)
        assert done.returncode != 0 and message in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_hub_loading_names_repo_config_split_and_revision(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path, name=None, *, split, revision):  # the hub itself cannot be reached in a test
        asked.append((path, name, split, revision))
        return datasets.Dataset.from_list([{"question": "q", "answer": "#### 5"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options = sources.parser("", (gsm8k.TRAIN,)).parse_args(
        ["--out", str(tmp_path / "out"), "--revision", "openai/gsm8k=abc"]
    )
    sources.convert("gsm8k", options, {"train": (gsm8k.TRAIN, gsm8k.train_row)})
    assert asked == [("openai/gsm8k", "main", "train", "abc")]
    origin = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"][0]
    assert (origin["hub"], origin["revision"], len(origin["sha256_of_records"])) == ("openai/gsm8k", "abc", 64)


def test_writing_is_repeatable_and_leaves_nothing_on_an_error(tmp_path):
    row = make_row("d", "q", "1", "boxed", "train", 0)
    first = write_dataset(tmp_path / "a", {"train": [row]}, name="d", command=["x"])
    assert write_dataset(tmp_path / "a", {"train": [row]}, name="d", command=["x"]) == first
    with pytest.raises(ValueError, match="row 1: no ground truth"):
        write_dataset(
            tmp_path / "b", {"train": [row, {**row, "reward_model": {"style": "rule", "ground_truth": ""}}]}, name="d"
        )
    with pytest.raises(ValueError, match="split 'more', row 0: .* are those of split 'train', row 0"):
        write_dataset(tmp_path / "b", {"train": [row], "more": [{**row, "ability": "logic"}]}, name="d")
    test = make_row("d", "q", "1", "boxed", "test", 0)
    write_dataset(tmp_path / "c", {"train": [row], "test": [test]}, name="d")
    with pytest.raises(ValueError, match="no rows"):
        write_dataset(tmp_path / "b", {"train": []}, name="d")
    assert not (tmp_path / "b").exists()
    with pytest.raises(ValueError, match="already holds dataset 'd'"):
        write_dataset(tmp_path / "a", {"train": [row]}, name="other")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"truth": 1}, "ground_truth is 1, not text"),
        ({"truth": " "}, "no ground truth"),
        ({"truth": "{"}, "ground_truth"),
        ({"question": ""}, "no prompt"),
        ({"question": "\ud800"}, "Unicode"),
        ({"answer_type": "letter"}, "answer_type"),
        ({"answer_type": "number", "truth": "abc"}, "ground_truth"),
        ({"split": "dev"}, "split"),
        ({"index": -1}, "index"),
        ({"data_source": " "}, "data_source"),
        ({"ability": ""}, "ability"),
        ({"options": ["x", "y"]}, "belong to answer_type 'option'"),
        ({"options": ["x", "y"], "answer_type": "option", "truth": "C"}, "ground_truth"),
        ({"options": ["x", " "], "answer_type": "option", "truth": "A"}, "option B is empty or blank"),
        ({"options": list("uvwxyz"), "answer_type": "option", "truth": "A"}, "there are 6"),
    ],
)
def test_rows_are_checked(change, message):
    good = dict(data_source="d", question="q", truth=" 1\n", answer_type="boxed", split="train", index=0)
    assert make_row(**good)["reward_model"]["ground_truth"] == "1"
    with pytest.raises(ValueError, match=message):
        make_row(**{**good, **change})


@pytest.mark.parametrize(
    "module, arguments, counts, skipped",
    [
        ("math", ["--skip-bad"], {"train": 7495, "test": 500}, 5),
        ("gsm8k", [], {"train": 7473, "test": 1319}, 0),
        ("benchmarks", ["--sets", "aime2024", "aime2025", "amc23"], {"aime2024": 30, "aime2025": 30, "amc23": 40}, 0),
    ],
)
def test_real_data(run, tmp_path, module, arguments, counts, skipped):
    data = ROOT.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the real data is not here")
    done = run(module, "--out", tmp_path / "out", "--source", data, *arguments)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {name.removesuffix(".parquet"): facts["rows"] for name, facts in manifest["files"].items()} == counts
    assert (manifest["skipped_bad_rows"], manifest["train_test_overlap"]) == (skipped, 0)
