"""The dataset commands, run as users run them, on small sources made here."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_preprocess import gsm8k, sources
from data_preprocess.schema import check_row, make_row, write_dataset

ROOT = Path(__file__).resolve().parents[2]


def run(module: str, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"data_preprocess.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done


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


def test_math(source, tmp_path):
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
        "sha256": sha256(out / "train.parquet"),
    }
    assert manifest["files"]["test.parquet"]["sha256"] == sha256(out / "test.parquet")
    assert manifest["sources"][0] == {"file": "math_train.parquet", "sha256": sha256(source / "math_train.parquet")}
    assert manifest["command"].startswith("python -m data_preprocess.math --out ")
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "test.parquet", "train.parquet"]


def test_gsm8k_and_limit(source, tmp_path):
    assert run("gsm8k", "--out", tmp_path / "out", "--source", source, "--limit", 2).returncode == 0
    train = rows(tmp_path / "out" / "train.parquet")
    assert [row["reward_model"]["ground_truth"] for row in train] == ["1000", "2000"]
    assert train[1]["extra_info"] == {
        "split": "train",
        "index": 1,
        "answer_type": "number",
        "question": "How many train 2?",
        "options": [],
    }
    assert len(rows(tmp_path / "out" / "test.parquet")) == 2


def test_benchmarks(source, tmp_path):
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
def test_a_bad_row_is_named_and_stops_unless_skipped(source, tmp_path, line, reason):
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
    assert json.loads((out / "manifest.json").read_text())["skipped_bad_rows"] == 1


def test_a_solution_without_a_box_is_bad(source, tmp_path):
    pq.write_table(pa.table({"problem": ["p"], "solution": ["no box"]}), source / "math_train.parquet")
    done = run("math", "--out", tmp_path / "out", "--source", source)
    assert done.returncode == 1 and "math_train.parquet: row 0" in done.stderr and "boxed" in done.stderr


def test_user_mistakes(source, tmp_path):
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
    with pytest.raises(ValueError, match="row 1: ground_truth"):
        write_dataset(
            tmp_path / "b", {"train": [row, {**row, "reward_model": {"style": "rule", "ground_truth": ""}}]}, name="d"
        )
    with pytest.raises(ValueError, match="no rows"):
        write_dataset(tmp_path / "b", {"train": []}, name="d")
    assert not (tmp_path / "b").exists()
    with pytest.raises(ValueError, match="already holds dataset 'd'"):
        write_dataset(tmp_path / "a", {"train": [row]}, name="other")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"truth": 1}, "ground_truth"),
        ({"question": ""}, "question"),
        ({"question": "\ud800"}, "Unicode"),
        ({"answer_type": "letter"}, "answer_type"),
        ({"split": "dev"}, "split"),
        ({"index": -1}, "index"),
        ({"options": ["x", "y"]}, "belong to answer_type 'option'"),
        ({"options": ["x", "y"], "answer_type": "option", "truth": "C"}, "not the letter of one of the 2 options"),
        ({"options": ["x", "y"], "answer_type": "option", "truth": "AB"}, "not the letter"),
        ({"options": ["x", " "], "answer_type": "option", "truth": "A"}, "non-empty strings"),
        ({"options": list("uvwxyz"), "answer_type": "option", "truth": "A"}, "only the letters"),
    ],
)
def test_rows_are_checked(change, message):
    good = dict(data_source="d", question="q", truth="1", answer_type="boxed", split="train", index=0)
    with pytest.raises(ValueError, match=message):
        make_row(**{**good, **change})


@pytest.mark.parametrize(
    "module, arguments, counts, skipped",
    [
        ("math", ["--skip-bad"], {"train": 7496, "test": 500}, 4),
        ("gsm8k", [], {"train": 7473, "test": 1319}, 0),
        ("benchmarks", ["--sets", "aime2024", "aime2025", "amc23"], {"aime2024": 30, "aime2025": 30, "amc23": 40}, 0),
    ],
)
def test_real_data(tmp_path, module, arguments, counts, skipped):
    data = ROOT.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the real data is not here")
    done = run(module, "--out", tmp_path / "out", "--source", data, *arguments)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {name.removesuffix(".parquet"): facts["rows"] for name, facts in manifest["files"].items()} == counts
    assert (manifest["skipped_bad_rows"], manifest["train_test_overlap"]) == (skipped, 0)
