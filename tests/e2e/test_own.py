"""examples/own trains with the real trainer: own data, prompts, team, and an own reward with partial credit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import ROOT, finish, numbers
from reference import KEEP, agrees

STEPS = 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "reward", ["close", "exact"]
)  # a coroutine with partial credit; a function, in processes of its own
def test_the_example_trains_and_its_credit_equals_the_references(start, tmp_path, reward):
    data, out = tmp_path / "data", tmp_path / "job"
    command = "data_preprocess.custom --train examples/own/questions.jsonl --split 0.2 --question prompt --answer gold --type own"
    subprocess.run(
        [sys.executable, "-m", *command.split(), "--extra", "hint,tolerance", "--source", "own", "--out", str(data)],
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    own = (
        *(f"ccpo.reward=examples/own/reward.py:{reward}", "ccpo.prompts=examples/own/prompts.yaml:short"),
        *(f"data.train_files={data}/train.parquet", f"data.val_files={data}/test.parquet"),
        *("ccpo.credit.rule=removal", "ccpo.roles.solver.max_tokens=6", KEEP),
        *("trainer.save_freq=-1", "trainer.val_before_train=false"),
    )
    finish(start(out, "examples/own/team.py:Tutor", *own, steps=STEPS), out)
    agrees(out, "removal", STEPS)
    logged = numbers(out)
    for step in range(1, STEPS + 1):
        train = logged[step, "train"]
        assert train["ccpo/sessions/dropped_rate"] == 0
        assert train["ccpo/solver/advantage_std"] > 0
    assert {"val-core/own/team_accuracy", "val-aux/own/tutor/contribution"} <= set(logged[STEPS, "val"])
    steps = [json.loads(line) for line in Path(f"{out}.sessions").read_text().splitlines()]
    values = {session["value"] for step in steps for session in step["sessions"]}
    assert {0.0, 1.0} < values if reward == "close" else {0.0, 1.0} == values
