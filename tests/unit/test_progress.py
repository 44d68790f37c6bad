"""scripts/progress.py: what is said of a run, and when it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ccpo.run.folder import METRICS
from ccpo.run.lock import run_lock

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(load_script):
    return load_script("progress")


def train(step: int, value: float, **others: float) -> dict:
    return {
        "step": step,
        "kind": "train",
        "metrics": {"ccpo/sessions/team_accuracy": value, "timing_s/step": step, **others},
    }


def validated(step: int, **values: float) -> dict:
    metrics = {f"val-core/{source}/team_accuracy": value for source, value in values.items()}
    return {"step": step, "kind": "val", "metrics": metrics}


def save(folder: Path, *entries: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / METRICS).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def test_what_is_said(script, tmp_path):
    steps = [train(step, 0.1 if step <= 10 else 0.4, **{"actor/entropy": 0.5}) for step in range(1, 13)]
    run = save(tmp_path / "a", validated(0, dev=0.25, test=0.5), *steps, validated(12, dev=0.3))
    assert list(script.lines(run)) == [
        f"{run}: step 12",
        "  team, steps 1-12: 0.100 0.400",
        "  s a step 10.0, entropy 0.500",  # of steps 8 to 12
        "  validated on dev: 0.250 at 0, 0.300 at 12",
        "  validated on test: 0.500 at 0",
    ]


def test_a_run_that_trains_or_has_only_begun(script, tmp_path):
    run = save(tmp_path / "a", validated(0, dev=0.25))
    with run_lock(run):
        assert list(script.lines(run)) == [f"{run}: step 0, trains", "  validated on dev: 0.250 at 0"]
        assert script.show([run]) == 0
    assert script.show([run]) == 1


def test_it_goes_on_until_all_have_ended(script, tmp_path, monkeypatch, capsys):
    ended, late = save(tmp_path / "ended", train(1, 1.0)), tmp_path / "late"
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            save(late, train(1, 0.5))

    monkeypatch.setattr(
        script, "time", SimpleNamespace(sleep=sleep)
    )  # not time's own: other threads of the tests sleep, too
    monkeypatch.setattr(sys, "argv", ["progress.py", str(ended), str(late), "--every", "60"])
    script.main()
    assert waits == [60, 60]
    assert capsys.readouterr().out.count(f"{late}: {late / METRICS} does not exist") == 2
    monkeypatch.setattr(sys, "argv", ["progress.py", str(tmp_path / "nowhere")])
    script.main()
    assert len(waits) == 2, "once, without --every"


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "often", "1e9"])
def test_a_wrong_time_is_refused(script, seconds, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["progress.py", "x", "--every", seconds])
    with pytest.raises(SystemExit):
        script.main()
    assert "set 1 to 86400 seconds" in capsys.readouterr().err
