"""scripts/report.py: numbers by hand, and what happens when something was not measured."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ccpo.run.folder import CURVES, METRICS

SCRIPT = Path(__file__).parents[2] / "scripts" / "report.py"
_spec = importlib.util.spec_from_file_location("report", SCRIPT)
report = sys.modules["report"] = importlib.util.module_from_spec(_spec)  # dataclasses look their module up
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


def vote(step: int, team: float, voters: tuple[float, ...], oracle: float, **more: float) -> dict:
    metrics = {
        f"val-core/{SOURCE}/team_accuracy": team,
        f"val-aux/{SOURCE}/voter_accuracy": sum(voters) / len(voters),
        f"val-aux/{SOURCE}/oracle_accuracy": oracle,
        **{f"val-aux/{SOURCE}/voter_{i}_accuracy": value for i, value in enumerate(voters)},
        **{f"val-aux/{SOURCE}/{name}": value for name, value in more.items()},
    }
    return {"step": step, "kind": "val", "metrics": metrics}


def ballots(step: int, **rates: float) -> dict:
    metrics = {"ccpo/vote/team_accuracy": 0.7, **{f"ccpo/vote/{name}": value for name, value in rates.items()}}
    return {"step": step, "kind": "train", "metrics": metrics}


VOTES = [
    vote(0, 0.5, (0.5, 0.4, 0.3), 0.7, sessions=100),
    *(ballots(s, pivotal_rate=(9 - s) / 10, agreement=s / 10) for s in range(1, 9)),
    vote(8, 0.8, (0.8, 0.6, 0.4), 0.9, sessions=100),
]


def legends(entries: list[dict], path: Path) -> list[list[str]]:
    """Labels of the two panels, top first."""
    from matplotlib import pyplot as plt

    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "close", kept.append)
        report.draw(entries, path, "a run")
    figure = kept[0]
    plt.close(figure)
    return [axis.get_legend_handles_labels()[1] for axis in figure.axes]


def write(folder: Path, entries: list[dict]) -> Path:
    (folder / METRICS).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
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
    assert "[" not in report.table(summary, report.DYAD)


def test_table_shows_what_was_measured_and_nothing_else():
    text = report.table(report.summarize(RUN), report.DYAD)
    assert "0.500 [0.404, 0.596]" in text and "+0.300" in text
    assert "emptied" not in text and "hurt" not in text


def test_a_dyad_is_told_as_a_dyad_and_votes_as_votes():
    assert report.topology_of(RUN) is report.topology_of(RUN[1:2]) is report.DYAD
    assert report.topology_of(VOTES) is report.topology_of(VOTES[:1]) is report.topology_of(VOTES[1:2]) is report.VOTE


def test_summary_of_votes_counts_a_session_once():
    summary = report.summarize(VOTES)
    before, after = (summary["sources"][SOURCE][end] for end in ("before", "after"))
    assert (before["step"], after["step"], summary["steps"]) == (0, 8, 8)
    assert [after[name]["value"] for name in ("team", "voter", "oracle")] == pytest.approx([0.8, 0.6, 0.9])
    assert (before["gain"], after["gain"]) == (pytest.approx(0.1), pytest.approx(0.2))
    assert (after["voter"]["low"], after["voter"]["high"]) == pytest.approx(report.wilson(0.6, 100))  # not of 300
    assert summary["rates"] == {
        "pivotal": {"before": pytest.approx(0.6), "after": pytest.approx(0.3)},  # steps 1-5, 4-8
        "agreement": {"before": pytest.approx(0.3), "after": pytest.approx(0.6)},
    }


def test_table_of_votes():
    rows = report.table(report.summarize(VOTES), report.VOTE).splitlines()
    starts = [row[:40].strip() for row in rows]
    assert starts[2:6] == [
        "team (plurality of the votes)",
        "voter (mean of all)",
        "oracle (any voter right)",
        "gain of voting (team - voter)",
    ]
    assert rows[3].split()[-1] == "+0.200" and rows[5].split()[-3:] == ["+0.100", "+0.200", "+0.100"]
    assert [start.split(" (")[0] for start in starts[9:11]] == ["pivotal rate", "agreement"]  # ties were not logged


@pytest.mark.parametrize("topology", [report.DYAD, report.VOTE])
def test_names_fit_their_column(topology):
    curves = [*topology.accuracies.values(), *topology.rates.values()]
    assert max(len(curve.label) for curve in curves) < 40


def test_picture_of_a_dyad_shows_its_curves(tmp_path):
    top, bottom = legends(RUN, tmp_path / CURVES)
    assert top == ["team (Reason reads the thought)", "solo (Reason answers on its own)"]
    assert bottom == ["Think's contribution: team - solo"]  # the rates stand in the table only


def test_picture_of_votes_shows_every_voter(tmp_path):
    top, bottom = legends(VOTES, tmp_path / CURVES)
    assert top[0] == "team, training batches" and top[-3:] == ["voter 0", "voter 1", "voter 2"]
    assert [label.split(" (")[0] for label in top[1:4]] == ["team", "voter", "oracle"]
    assert [label.split(" (")[0] for label in bottom] == ["gain of voting: team - voter", "pivotal rate", "agreement"]


def test_picture_of_many_voters_has_one_word_for_them(tmp_path):
    many = [vote(step, 0.5, (0.5,) * 20, 0.9) for step in (0, 5)]
    assert legends(many, tmp_path / CURVES)[0][-1] == "each of the 20 voters"
    assert len(legends(many, tmp_path / CURVES)[0]) == 4


def test_times_stand_on_their_own_lines():
    slower = [
        dict(entry, metrics={k: v * 3 if "timing" in k else v for k, v in entry["metrics"].items()}) for entry in RUN
    ]
    texts = [report.table(report.summarize(entries), report.DYAD).splitlines() for entries in (RUN, slower)]
    differing = [a for a, b in zip(*texts, strict=True) if a != b]
    assert differing and all(line.startswith("time") for line in differing)


def test_a_run_that_only_trained_so_far_is_reported():
    text = report.table(report.summarize([train(1, seconds=2.0)]), report.DYAD)
    assert "no validation" in text and "steps: 1" in text


def test_several_data_sources_are_all_in_the_table():
    other = val(0, 0.1, 0.1)
    other["metrics"] |= {name.replace(SOURCE, "b"): value for name, value in other["metrics"].items()}
    assert set(report.summarize([other])["sources"]) == {SOURCE, "b"}


@pytest.mark.parametrize("run, word", [(RUN, "solo"), (VOTES, "oracle")], ids=["dyad", "vote"])
def test_show_writes_a_picture_and_json_is_json(tmp_path, capsys, run, word):
    report.show(write(tmp_path, run))
    assert (tmp_path / CURVES).read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert str(tmp_path / CURVES) in shown and word in shown
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "--json"], capture_output=True, text=True, cwd=tmp_path
    )
    assert json.loads(done.stdout) == report.summarize(run)


@pytest.mark.parametrize(
    "text, words", [(None, "no folder of a run"), ("", "no whole line"), ('{"step": 1, "ki', "no whole line")]
)
def test_nothing_to_report_is_an_error_that_says_so(tmp_path, text, words):
    if text is not None:
        (tmp_path / METRICS).write_text(text)
    with pytest.raises(report.ReportError, match=words):
        report.load(tmp_path)
