"""scripts/copy_scores.py on runs that are written here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ccpo.run.texts import without_texts
from data_preprocess import partial_gsm8k, silence
from data_preprocess.schema import make_row, write_dataset

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("copy_scores")


def row(kind: str, index: int, truth: str, gaps: list[str], split: str = "test") -> dict:
    extra = {"copies": ["c"] * len(gaps), "gaps": gaps}
    return make_row(f"{partial_gsm8k.NAME}/{kind}", f"Q{index}?", truth, "boxed", split, index, extra=extra)


@pytest.fixture
def data(tmp_path):
    rows = {
        "train": [row("same_gap", 1, "9", ["whole", "needed"], "train")],
        "test": [row("same_gap", 1, ".5", ["whole", "needed"]), row("own_gaps", 2, "6", ["harmless", "needed"])],
    }
    write_dataset(tmp_path / "data", rows, name="partial_gsm8k")
    return tmp_path / "data"


def session(step: int, kind: str, index: int, ballots: dict | None, value: float = 1.0, **other: object) -> dict:
    found = {"step": step, "kind": "val", "source": f"partial_gsm8k/{kind}", "index": index, "session": 0}
    return found | {"question": f"Q{index}?", "value": value, "turns": [], "replays": [], "ballots": ballots} | other


def save(run: Path, *sessions: dict) -> Path:
    run.mkdir()
    (run / "sessions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in sessions))
    return run


def test_every_validation_is_scored(script, data, tmp_path):
    run = save(
        tmp_path / "run",
        session(0, "same_gap", 1, {"voter_0": "1/2", "voter_1": "7"}, 0.5),
        session(0, "own_gaps", 2, {"voter_0": "6", "voter_1": None}),
        without_texts(session(4, "same_gap", 1, {"voter_0": "1/2", "voter_1": None})),
        session(3, "same_gap", 1, {"voter_0": None, "voter_1": None}, 0.0) | {"kind": "train"},
    )
    found = script.scores_of(run, script.rows_of(data))
    assert list(found) == [0, 4]
    assert found[0] == {
        "team/same_gap": 0.5,
        "team/own_gaps": 1.0,
        "same_gap/whole/abstention_rate": 0.0,
        "same_gap/whole/accuracy": 1.0,
        "same_gap/needed/abstention_rate": 0.0,
        "same_gap/needed/accuracy": 0.0,
        "own_gaps/harmless/abstention_rate": 0.0,
        "own_gaps/harmless/accuracy": 1.0,
        "own_gaps/needed/abstention_rate": 1.0,
    }
    assert found[4]["same_gap/needed/abstention_rate"] == 1.0 and "team/own_gaps" not in found[4]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "copy_scores.py", run, data], capture_output=True, text=True, check=True
    )
    assert [line.split() for line in done.stdout.splitlines()[1:3]] == [
        ["step", "0", "step", "4"],
        ["team/own_gaps", "1.000", "-"],
    ]


def test_the_embedded_task_is_scored_too(script, tmp_path):
    rows = {"train": silence.dataset_rows("train", 2, 0), "test": silence.dataset_rows("test", 3, 0)}
    write_dataset(tmp_path / "data", rows, name="silence")
    sessions = [
        session(
            0, "", one["extra_info"]["index"], dict.fromkeys(map(str, range(7)), one["reward_model"]["ground_truth"])
        )
        | {"source": one["data_source"], "question": one["prompt"][0]["content"]}
        for one in rows["test"]
    ]
    found = script.scores_of(save(tmp_path / "run", *sessions), script.rows_of(tmp_path / "data"))
    assert {value for name, value in found[0].items() if name.endswith("accuracy")} == {1.0}


@pytest.mark.parametrize(
    "bad",
    [
        session(0, "same_gap", 9, {"voter_0": "1"}),
        session(0, "same_gap", 1, None),
        session(0, "same_gap", 1, {"voter_0": "1"}, source="gsm8k"),
        session(0, "same_gap", 1, {"voter_0": "1"}, question="another salt"),
        without_texts(session(0, "same_gap", 1, {"voter_0": "1"}, question="another salt")),
    ],
)
def test_a_run_of_other_data_is_refused(script, data, tmp_path, bad):
    with pytest.raises(script.Mistake, match="validated row"):
        script.scores_of(save(tmp_path / "run", bad), script.rows_of(data))


def test_folders_that_hold_nothing_are_refused(script, data, tmp_path):
    with pytest.raises(script.Mistake, match="no parquet files with validation rows"):
        script.rows_of(tmp_path)
    with pytest.raises(script.Mistake, match="has no sessions.jsonl"):
        script.scores_of(tmp_path, script.rows_of(data))
