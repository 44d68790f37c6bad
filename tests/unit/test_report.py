"""scripts/report.py: numbers by hand, and what happens when something was not measured."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "report.py"
_spec = importlib.util.spec_from_file_location("report", SCRIPT)
report = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(report)

SOURCE = "toy/last_digit"


def val(step: int, team: float, solo: float, **more: float) -> dict:
    metrics = {
        f"val-core/{SOURCE}/team_accuracy": team,
        f"val-aux/{SOURCE}/solo_accuracy": solo,
        f"val-aux/{SOURCE}/marginal_contribution": team - solo,
        **{f"val-aux/{SOURCE}/{name}": value for name, value in more.items()},
    }
    return {"step": step, "kind": "val", "metrics": metrics}


def train(step: int, **metrics: float) -> dict:
    names = {
        "help": "ccpo/contribution/help_rate",
        "hurt": "ccpo/contribution/hurt_rate",
        "seconds": "timing_s/step",
        "gen": "timing_s/gen",
    }
    return {"step": step, "kind": "train", "metrics": {names[name]: value for name, value in metrics.items()}}


RUN = [
    val(0, 0.5, 0.4, sessions=100),
    *(train(s, help=s / 10, seconds=2.0, gen=0.5) for s in range(1, 9)),
    val(8, 0.8, 0.4, sessions=100),
]


def write(folder: Path, entries: list[dict]) -> Path:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


@pytest.mark.parametrize(
    "share, count, low, high",
    [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0)],  # textbook values
)
def test_wilson(share, count, low, high):
    assert report.wilson(share, count) == pytest.approx((low, high), abs=1e-4)


def test_summary_has_before_after_intervals_and_rates():
    summary = report.summarize(RUN)
    ends = summary["sources"][SOURCE]
    assert (ends["before"]["step"], ends["after"]["step"], summary["steps"]) == (0, 8, 8)
    assert ends["before"]["team"]["value"] == 0.5 and ends["after"]["team"]["value"] == 0.8
    assert ends["after"]["team"]["low"] < 0.8 < ends["after"]["team"]["high"]
    assert ends["after"]["marginal"] == pytest.approx(0.4)
    assert summary["rates"] == {"help": {"before": pytest.approx(0.3), "after": pytest.approx(0.6)}}  # steps 1-5, 4-8
    assert summary["seconds"] == {"steps": 16.0, "validation": 0, "step": 2.0, "phases": {"gen": 0.5}}


def test_without_the_number_of_sessions_there_is_no_interval():
    summary = report.summarize([val(0, 0.5, 0.4), val(5, 0.6, 0.4)])
    assert summary["sources"][SOURCE]["after"]["team"] == {"value": 0.6, "low": None, "high": None}
    assert "[" not in report.table(summary)


def test_table_shows_what_was_measured_and_nothing_else():
    text = report.table(report.summarize(RUN))
    assert "0.500 [0.404, 0.596]" in text and "+0.300" in text
    assert "emptied" not in text and "hurt" not in text


def test_times_stand_on_their_own_lines():
    slower = [
        dict(entry, metrics={k: v * 3 if "timing" in k else v for k, v in entry["metrics"].items()}) for entry in RUN
    ]
    texts = [report.table(report.summarize(entries)).splitlines() for entries in (RUN, slower)]
    differing = [a for a, b in zip(*texts, strict=True) if a != b]
    assert differing and all(line.startswith("time") for line in differing)


def test_a_run_that_only_trained_so_far_is_reported():
    text = report.table(report.summarize([train(1, seconds=2.0)]))
    assert "no validation" in text and "steps: 1" in text


def test_several_data_sources_are_all_in_the_table():
    other = val(0, 0.1, 0.1)
    other["metrics"] |= {name.replace(SOURCE, "b"): value for name, value in other["metrics"].items()}
    assert set(report.summarize([other])["sources"]) == {SOURCE, "b"}


def test_show_writes_a_picture_and_json_is_json(tmp_path, capsys):
    report.show(write(tmp_path, RUN))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "curves.png") in capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "--json"], capture_output=True, text=True, cwd=tmp_path
    )
    assert json.loads(done.stdout) == report.summarize(RUN)


@pytest.mark.parametrize(
    "text, words", [(None, "no folder of a run"), ("", "no whole line"), ('{"step": 1, "ki', "no whole line")]
)
def test_nothing_to_report_is_an_error_that_says_so(tmp_path, text, words):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(report.ReportError, match=words):
        report.load(tmp_path)
