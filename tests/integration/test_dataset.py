"""The checks of `ccpo.verl_plugin.dataset`: every file and row that a job would read, named before it starts."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import pytest

pytest.importorskip("verl")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from ccpo.data import unfinished  # noqa: E402
from ccpo.verl_plugin import dataset  # noqa: E402
from data_preprocess.schema import write_dataset  # noqa: E402
from data_preprocess.toy import dataset_rows  # noqa: E402


def save(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def files(tmp_path):
    return {
        "train": [save(tmp_path / "train.parquet", dataset_rows("train", 16, seed=0))],
        "val": [save(tmp_path / "test.parquet", dataset_rows("test", 4, seed=0))],
    }


def problems(files, columns=(), batch: int = 8, **settings) -> list[str]:
    named = {f"{name}_files": [str(path) for path in paths] for name, paths in files.items()}
    return dataset.problems(OmegaConf.create({"data": {**named, "train_batch_size": batch, **settings}}), columns)[1]


def problem(*arguments, **named) -> str:
    (found,) = problems(*arguments, **named)
    return found


def change(path: Path, number: int, edit) -> None:
    rows = pq.read_table(path).to_pylist()
    edit(rows[number])
    save(path, rows)


def test_good_files(files):
    questions, found = dataset.problems(
        OmegaConf.create({"data": {"train_files": str(files["train"][0]), "val_files": str(files["val"][0]), "train_batch_size": 8}}), ()
    )  # fmt: skip
    assert found == [] and len(questions) == 20


@pytest.mark.parametrize(
    "edit, says",
    [
        (lambda row: row["reward_model"].update(ground_truth="{"), "reward_model.ground_truth"),
        (lambda row: row["reward_model"].update(ground_truth="nan"), "reward_model.ground_truth"),
        (lambda row: (row["extra_info"].update(answer_type="number"), row["reward_model"].update(ground_truth="abc")), "abc"),
        (lambda row: (row["extra_info"].update(answer_type="option"), row["reward_model"].update(ground_truth="F")), "'F'"),
        (lambda row: row["prompt"][0].update(content="\u200b"), "the question is empty or blank"),
        (lambda row: row["prompt"][0].update(content="a\0b"), "the question holds a NUL"),
        (lambda row: row["prompt"].insert(0, {"role": "system", "content": "x"}), "would be ignored"),
        (lambda row: row.update(data_source=""), "data_source is empty"),
        (lambda row: row["extra_info"].update(index=-1), "extra_info.index is -1"),
        (lambda row: row["extra_info"].update(index=0), "index 0 are those of"),
        (lambda row: row["extra_info"].update(options=["x", "y"]), "belong to answer_type 'option'"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_its_file(files, edit, says):
    (path,) = files["train"]
    change(path, 3, edit)
    found = problem(files)
    assert f"data.train_files: {path}, row 3: " in found and says in found


def test_many_bad_rows_are_one_line(files):
    for number in (2, 5, 9):
        change(files["train"][0], number, lambda row: row["reward_model"].update(ground_truth=""))
    found = problem(files)
    assert "row 2: no ground truth" in found and "(3 of 16 rows are bad, this is the first)" in found


def test_numbers_that_are_missing_turn_a_column_into_floats(files):
    rows = pq.read_table(files["train"][0]).to_pylist()
    for number, row in enumerate(rows):
        row["extra_info"]["index"] = math.nan if number == 7 else float(number)
    save(files["train"][0], rows)
    assert "row 0: extra_info.index is 0.0, not a whole number" in problem(files)


def test_a_column_that_the_team_reads(files):
    for path in (files["train"][0], files["val"][0]):
        rows = [{**row, "hint": 0.5, "level": math.nan} for row in pq.read_table(path).to_pylist()]
        save(path, rows)
    assert problems(files, ("hint",)) == []
    change(files["train"][0], 2, lambda row: row.update(hint=math.nan))
    assert "row 2: column hint, which the team reads, is nan" in problem(files, ("hint",))
    change(files["train"][0], 2, lambda row: row.update(hint=None))
    assert "row 2: no column hint" in problem(files, ("hint",))


@pytest.mark.parametrize(
    "column, value, says",
    [
        ("agent_name", "single_turn_agent", "verl obeys it"),
        ("agent_name", "ccpo_team", "verl obeys it"),
        ("__rollout_n__", 1, "verl obeys it"),
        ("__do_sample__", False, "verl obeys it"),
        ("session_id", 7, "every session would fail"),
        ("sampling_params", {"temperature": 0.0}, "every session would fail"),
        ("uid", "x", "under that name"),
        ("ccpo", "x", "take the place of what the model has said"),
        ("responses", "x", "take the place of what the model has said"),
        ("advantages", 1.0, "or of what is computed from it"),
        ("images", ["x.png"], "column images (data.image_key) holds something to look at"),
    ],
)
def test_a_column_with_a_meaning_to_verl_is_named(files, column, value, says):
    (path,) = files["train"]
    save(path, [{**row, column: value} for row in pq.read_table(path).to_pylist()])
    found = problem(files)
    assert found.startswith(f"data.train_files: {path}: column {column}") and says in found and "rename" in found


def test_names_that_verl_passes_are_all_known():
    """Whatever verl's own functions take beside a row's columns may not be a column."""
    import inspect

    from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, AgentLoopWorker
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

    known = {name for names in dataset.RESERVED.values() for name in names}
    worker = AgentLoopWorkerTQ.__ray_metadata__.modified_class
    for function in (AgentLoopWorker._run_agent_loop, worker._agent_loop_postprocess):
        names = inspect.signature(function).parameters.values()
        assert {p.name for p in names if p.kind is not p.VAR_KEYWORD} <= known
    output = AgentLoopOutput(prompt_ids=[1], response_ids=[1], response_mask=[1], metrics={}, num_turns=1)
    assert set(output.as_dict()) <= known


def test_columns_without_pictures_are_no_pictures(files):
    for path in (files["train"][0], files["val"][0]):
        save(path, [{**row, "images": None, "videos": []} for row in pq.read_table(path).to_pylist()])
    assert problems(files) == []


@pytest.mark.parametrize("column", ["question", "unused"])
def test_bytes_that_are_no_text(files, column):
    """verl decodes whole rows in the middle of training, so a column that nobody reads matters, too."""
    (path,) = files["train"]
    rows = pq.read_table(path).to_pylist()
    texts = [b"fine"] * 4 + [b"caf\xe9"] + [b"fine"] * 11
    table = pa.Table.from_pylist(rows).append_column(column, pa.array(texts).view(pa.string()))
    pq.write_table(table, path)
    found = problem(files)
    assert f"{path}, row 4: column '{column}' is not valid UTF-8" in found and "byte 3" in found


def test_ids_are_unique_over_all_files_of_a_split(files, tmp_path):
    files["train"].append(save(tmp_path / "more.parquet", dataset_rows("train", 3, seed=1)))
    found = problem(files)
    assert (
        f"more.parquet, row 0: data_source 'toy/last_digit' and index 0 are those of {files['train'][0]}, row 0"
        in found
    )
    other = [{**row, "data_source": "other"} for row in dataset_rows("train", 3, seed=1)]
    save(files["train"][1], other)
    assert problems(files) == []
    assert "is named twice" in problem({**files, "val": files["val"] * 2})


def test_rows_of_all_files_make_a_batch(files, tmp_path):
    other = [{**row, "data_source": "other"} for row in dataset_rows("train", 4, seed=1)]
    files["train"].append(save(tmp_path / "more.parquet", other))
    assert problems(files, batch=20) == []
    assert "20 rows are fewer than data.train_batch_size=21" in problem(files, batch=21)


@pytest.mark.parametrize("most, wrong", [(-1, False), (8, False), (100, False), (7, True), (1, True)])
def test_rows_that_are_left_out_make_no_batch(files, most, wrong):
    found = problems(files, train_max_samples=most, val_max_samples=1)
    assert found == (
        [
            f"data.train_max_samples={most} is less than data.train_batch_size=8: no step would run; set -1 (all rows), or a smaller batch"
        ]
        if wrong
        else []
    )


@pytest.mark.parametrize("path", ["/none.parquet", "/", "/tmp", "none.parquet", "."])
def test_files_where_no_folder_can_be_replaced(files, path):
    files["val"] = [path]
    assert "does not exist" in (found := problem(files)) or "cannot be read" in found


def test_a_file_that_its_manifest_does_not_describe(files, tmp_path):
    out = tmp_path / "made"
    write_dataset(out, {"train": dataset_rows("train", 16, seed=0), "test": dataset_rows("test", 4, seed=0)}, name="d")
    made = {"train": [out / "train.parquet"], "val": [out / "test.parquet"]}
    assert problems(made) == []
    change(made["train"][0], 3, lambda row: row["reward_model"].update(ground_truth="4"))
    assert "edited or is damaged" in problem(made)
    (out / "manifest.json").unlink()
    assert problems(made) == []


def test_a_folder_whose_replacement_was_cut_short(tmp_path):
    out = tmp_path / "made"
    write_dataset(out, {"train": dataset_rows("train", 16, seed=0), "test": dataset_rows("test", 4, seed=0)}, name="d")
    out.rename(unfinished(out))
    found = problems({"train": [out / "train.parquet"], "val": [out / "test.parquet"]})
    assert len(found) == 2 and all("run that command again" in text for text in found)


@pytest.mark.parametrize("cut", [0, 3, 100, -1, -30])
def test_a_file_that_was_cut_short(files, cut):
    (path,) = files["train"]
    path.write_bytes(path.read_bytes()[:cut])
    assert f"{path} is no readable parquet file" in problem(files)


def test_what_is_no_file(files, tmp_path):
    files["val"] = [tmp_path, tmp_path / "none.parquet"]
    folder, missing = problems(files)
    assert f"{tmp_path} cannot be read" in folder and "none.parquet does not exist: make it with" in missing


def test_twelve_thousand_rows_take_seconds(tmp_path):
    """About half a second of CPU time; the limit leaves room for a slow machine."""
    source = dataset_rows("train", 200, seed=0)
    rows = [copy.deepcopy(source[number % 200]) for number in range(12_000)]
    for number, row in enumerate(rows):
        row["extra_info"]["index"] = number
        row["prompt"][0]["content"] *= 6
        row["reward_model"]["ground_truth"] = f"\\frac{{{number}}}{{7}} + \\sqrt{{3}}"
    files = {
        "train": [save(tmp_path / "train.parquet", rows)],
        "val": [save(tmp_path / "t.parquet", dataset_rows("test", 1, 0))],
    }
    start = time.process_time()
    assert problems(files) == []
    assert time.process_time() - start < 10


def test_own_data_needs_no_manifest_and_may_have_more_columns(files):
    for path in (files["train"][0], files["val"][0]):
        rows = [{**row, "difficulty": None, "note": "x"} for row in pq.read_table(path).to_pylist()]
        for row in rows:
            del row["extra_info"]["options"], row["extra_info"]["question"]
        save(path, rows)
    assert problems(files) == []
