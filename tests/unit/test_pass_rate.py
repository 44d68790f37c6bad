"""data_preprocess.pass_rate: rows between never and always, and every evaluation that is none of these rows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ccpo.data import sha256
from ccpo.evaluate.results import identity
from ccpo.evaluate.store import RESULT, write_result
from data_preprocess import pass_rate
from data_preprocess.schema import check_row, write_dataset
from data_preprocess.toy import dataset_rows

VALUES = [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, None], [0.5, 0.0], [0.0, 0.0]]
"""Of each training row's sessions, None for one that was dropped."""


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    dev = [{**row, "data_source": "toy_dev"} for row in dataset_rows("test", 2, 1)]
    splits = {"train": dataset_rows("train", len(VALUES), 0), "dev": dev, "test": dataset_rows("test", 3, 0)}
    write_dataset(folder, splits, name="toy", command=["made", "here"])
    (folder / "sft_train.parquet").write_bytes(b"lessons")
    return folder


def rows(file: Path) -> list[dict]:
    return pq.read_table(file).to_pylist()


@pytest.fixture
def evaluated(tmp_path, data):
    """evaluated(file, values) -> the folder of an evaluation of that file."""

    def build(file: str = "train.parquet", values=tuple(VALUES)) -> Path:
        path, out = data / file, tmp_path / "results"
        questions = [
            {**identity(row), "values": found} for row, found in zip(rows(path), values, strict=False) if found
        ]
        read = {"file": f"data/{file}", "sha256": sha256(path.read_bytes()), "rows": len(rows(path)), "limit": None}
        out.mkdir(exist_ok=True)
        settings = {"data": read, "k": 2, "seed": 0}
        write_result(out, {"format": 1, "settings": settings, "questions": questions, "measures": {}})
        return out

    return build


@pytest.fixture
def chosen(tmp_path, data, capsys):
    """chosen(evaluated, *options) -> (folder, what was said)."""

    def run(evaluation: Path, *options: object, out: Path | None = None) -> tuple[Path, str]:
        folder = out or tmp_path / "out"
        words = ["--data", data, "--evaluated", evaluation, "--out", folder, *options]
        pass_rate.main([str(word) for word in words])
        return folder, capsys.readouterr().out

    return run


def test_rows_between_never_and_always_are_kept_and_the_rest_is_as_it_was(data, evaluated, chosen):
    out, said = chosen(evaluated())
    before, kept = rows(data / "train.parquet"), rows(out / "train.parquet")
    assert kept == [before[1], before[4]] and all(check_row(row) is None for row in kept)
    assert pq.read_schema(out / "train.parquet") == pq.read_schema(data / "train.parquet")
    for name in ("dev.parquet", "test.parquet"):
        assert (out / name).read_bytes() == (data / name).read_bytes()
    manifest = json.loads((out / "manifest.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == sorted([*manifest["files"], "manifest.json"])
    assert {name: sha256((out / name).read_bytes()) for name in manifest["files"]} == {
        name: facts["sha256"] for name, facts in manifest["files"].items()
    }
    found = manifest["pass_rate"]
    assert found["rows"] == {"kept": 2, "below": 2, "above": 2, "unknown": 0} and found["settings"]["k"] == 2
    assert {name: count for name, count in found["histogram"].items() if count} == {
        "0": 2,
        "0.2-0.3": 1,
        "0.5-0.6": 1,
        "1": 2,
    }
    assert found["mean_of_kept"] == 0.375 and found["mean"] == pytest.approx(2.75 / 6)
    read = {one["file"]: one["sha256"] for one in manifest["sources"]}
    assert read["train.parquet"] == sha256((data / "train.parquet").read_bytes()) and RESULT in read
    assert (
        "2 of 6 rows" in said and "left out: 2 below, 2 above" in said and "dev.parquet (2), test.parquet (3)" in said
    )


def test_bounds_hold_at_their_ends(data, evaluated, chosen):
    before = rows(data / "train.parquet")
    out, _ = chosen(evaluated(), "--at-least", 0.5, "--at-most", 1)
    assert rows(out / "train.parquet") == before[1:4]
    out, _ = chosen(evaluated(), "--at-least", 0, "--at-most", 0.25)  # replaces its own folder
    assert rows(out / "train.parquet") == [before[0], before[4], before[5]]


def test_tenths_of_the_histogram():
    found = pass_rate.histogram([0, 0.05, 0.1, 0.125, 0.3, 0.999, 1, 1])
    assert {name: count for name, count in found.items() if count} == {
        **{"0": 1, "0.0-0.1": 1, "0.1-0.2": 2, "0.3-0.4": 1, "0.9-1.0": 1, "1": 2}
    }


def refused(run, *given, **more) -> str:
    with pytest.raises(SystemExit) as ended:
        run(*given, **more)
    said = str(ended.value.code)
    assert said.startswith("pass_rate: ") and "\n" not in said
    return said


def test_rows_without_a_session_are_named_or_left_out(tmp_path, evaluated, chosen):
    folder = evaluated(values=[*VALUES[:4], [None, None], []])
    assert "2 of 6 training rows" in refused(chosen, folder) and not (tmp_path / "out").exists()
    _, said = chosen(folder, "--skip-unknown")
    assert "1 of 6 rows" in said and "2 unknown" in said


def test_an_evaluation_of_other_rows_is_refused(data, evaluated, chosen):
    assert "is of data/test.parquet, which has no question of" in refused(chosen, evaluated("test.parquet"))
    folder = evaluated()
    splits = {name: rows(data / f"{name}.parquet") for name in ("train", "dev", "test")}
    splits["train"][3]["reward_model"]["ground_truth"] = "7"  # the same questions, another answer
    (data / "sft_train.parquet").unlink()
    write_dataset(data, splits, name="toy", command=["made", "here"])
    assert "is of another state of" in refused(chosen, folder)


def test_what_cannot_be_chosen_from_is_refused(tmp_path, data, evaluated, chosen):
    folder = evaluated()
    assert "the other way round" in refused(chosen, folder, "--at-least", 0.6, "--at-most", 0.5)
    said = refused(chosen, folder, "--at-least", 0.6, "--at-most", 0.9)
    assert "(4 are below, 2 above): set --at-least or --at-most" in said
    before = (data / "train.parquet").read_bytes()
    assert (
        "choose another --out" in refused(chosen, folder, out=data) and (data / "train.parquet").read_bytes() == before
    )
    (folder / RESULT).unlink()
    assert "give its command again to go on" in refused(chosen, folder)
    (data / "train.parquet").unlink()
    assert "train.parquet does not exist" in refused(chosen, folder)


@pytest.mark.parametrize("bound", ["1.5", "nan", "half"])
def test_a_bound_is_a_pass_rate(chosen, evaluated, bound, capsys):
    with pytest.raises(SystemExit):
        chosen(evaluated(), "--at-most", bound)
    assert "is no pass rate" in capsys.readouterr().err
