"""scripts/report.py: numbers by hand, for any team, and what happens when something was not measured."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ccpo.metrics import step_metrics, validation_scores
from ccpo.run.folder import CURVES, METRICS

SCRIPT = Path(__file__).parents[2] / "scripts" / "report.py"
_spec = importlib.util.spec_from_file_location("report", SCRIPT)
report = sys.modules["report"] = importlib.util.module_from_spec(_spec)  # dataclasses look their module up
_spec.loader.exec_module(report)

SOURCE = "toy/last_digit"


def role(contribution: float, **more: float) -> dict[str, float]:
    return {"contribution": contribution, "help_rate": 0.3 + contribution, "hurt_rate": 0.3, **more}


def val(step: int, team: float, replays: dict[str, float], roles: dict[str, dict], sessions: int | None = 100) -> dict:
    metrics = {f"val-core/{SOURCE}/team_accuracy": team}
    metrics |= {f"val-aux/{SOURCE}/{name}_accuracy": value for name, value in replays.items()}
    metrics |= {f"val-aux/{SOURCE}/{name}/{k}": v for name, numbers in roles.items() for k, v in numbers.items()}
    if sessions:
        metrics[f"val-aux/{SOURCE}/sessions"] = sessions
    return {"step": step, "kind": "val", "metrics": metrics}


def train(step: int, roles: dict[str, dict] | None = None, **more: float) -> dict:
    metrics = {"ccpo/sessions/team_accuracy": 0.7, "timing_s/step": 2.0, "timing_s/gen": 0.5}
    metrics |= {f"ccpo/{name}/{k}": v for name, numbers in (roles or {}).items() for k, v in numbers.items()}
    return {"step": step, "kind": "train", "metrics": metrics | {k.replace("__", "/"): v for k, v in more.items()}}


def last_speaker(team: float) -> dict[str, float]:
    """Without it there is no answer, which is worth 0."""
    return {"contribution": team, "help_rate": team, "hurt_rate": 0.0}


# A team that names its replays itself, one whose replays bear the roles' names, and one that votes.
DYAD = [
    val(0, 0.5, {"solo": 0.4, "emptied": 0.3}, {"think": role(0.1), "reason": last_speaker(0.5)}),
    *(train(s, {"think": role(s / 10), "reason": last_speaker(0.7)}) for s in range(1, 9)),
    val(8, 0.8, {"solo": 0.4, "emptied": 0.4}, {"think": role(0.4), "reason": last_speaker(0.8)}),
]
CHAIN = [
    val(step, 0.5, {"without_a": 0.4, "without_b": 0.3, "a_emptied": 0.2}, {"a": role(0.1), "b": role(-0.2)})
    for step in (0, 5)
]


def voters(*accuracies: float) -> dict[str, dict]:
    return {f"voter_{i}": role(0.1, accuracy=value, abstention_rate=0.0) for i, value in enumerate(accuracies)}


VOTES = [
    val(0, 0.5, {"ballot": 0.4, "oracle": 0.7}, voters(0.5, 0.4, 0.3)),
    *(
        train(s, {"voter_0": role(0.1)}, ccpo__plurality__pivotal_rate=(9 - s) / 10, ccpo__plurality__agreement=s / 10)
        for s in range(1, 9)
    ),
    val(8, 0.8, {"ballot": 0.6, "oracle": 0.9}, voters(0.8, 0.6, 0.4)),
]
RUNS = {"dyad": DYAD, "chain": CHAIN, "vote": VOTES}


def legends(entries: list[dict], path: Path) -> list[list[str]]:
    """Labels of the two panels, top first."""
    from matplotlib import pyplot as plt

    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "close", kept.append)
        report.draw(entries, path, "a run")
    figure = kept[0]
    plt.close(figure)
    drawn = [axis.get_legend() for axis in figure.axes]
    return [[text.get_text() for text in legend.get_texts()] if legend else [] for legend in drawn]


def write(folder: Path, entries: list[dict]) -> Path:
    (folder / METRICS).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def cells(text: str, start: str) -> list[str]:
    """The words right of the label of the only line that begins so."""
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return line[len(start) :].split()


@pytest.mark.parametrize(
    "share, count, low, high",
    [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0)],  # textbook values
)
def test_wilson(share, count, low, high):
    assert report.wilson(share, count) == pytest.approx((low, high), abs=1e-4)


def test_summary_has_before_after_intervals_and_training():
    summary = report.summarize(DYAD)
    before, after = (summary["sources"][SOURCE][end] for end in ("before", "after"))
    assert (before["step"], after["step"], after["sessions"], summary["steps"]) == (0, 8, 100, 8)
    assert [after["accuracies"][name]["value"] for name in ("team", "solo", "emptied")] == [0.8, 0.4, 0.4]
    assert after["accuracies"]["team"]["low"] < 0.8 < after["accuracies"]["team"]["high"]
    assert after["roles"]["think"] == {"contribution": 0.4, "help_rate": 0.7, "hurt_rate": 0.3}
    training = summary["training"]
    assert training["sessions/team_accuracy"] == {"before": pytest.approx(0.7), "after": pytest.approx(0.7)}
    assert training["roles"]["think"]["contribution"] == {"before": pytest.approx(0.3), "after": pytest.approx(0.6)}
    seconds = summary["seconds"]
    assert (seconds["steps"], seconds["validation"]) == (16.0, 0)
    assert {name: part["mean"] for name, part in seconds["parts"].items()} == {"step": 2.0, "gen": 0.5, "other": 1.5}


def test_summary_of_votes_counts_a_session_once():
    summary = report.summarize(VOTES)
    after = summary["sources"][SOURCE]["after"]
    assert [after["accuracies"][name]["value"] for name in ("team", "ballot", "oracle")] == [0.8, 0.6, 0.9]
    ballots = after["accuracies"]["ballot"]
    assert (ballots["low"], ballots["high"]) == pytest.approx(report.wilson(0.6, 100))  # not of 300
    assert after["roles"]["voter_2"]["accuracy"]["value"] == 0.4
    assert summary["training"]["plurality/pivotal_rate"] == {
        "before": pytest.approx(0.6),
        "after": pytest.approx(0.3),
    }  # steps 1-5, 4-8


def test_roles_and_replays_are_those_that_the_metrics_name():
    assert report.measured(DYAD, SOURCE).replays == ["solo", "emptied"]
    known = report.measured(CHAIN, SOURCE)
    assert known.replays == ["without_a", "without_b", "a_emptied"] and list(known.roles) == ["a", "b"]
    assert [known.label(name) for name in known.replays] == ["without a", "without b", "a emptied"]
    known = report.measured(VOTES, SOURCE)
    assert known.replays == [] and list(known.accuracies) == ["team", "ballot", "oracle"]


def test_the_metrics_that_are_logged_are_the_ones_that_are_read():
    """The names come from ccpo.metrics, so a change there fails here."""
    from ccpo.credit.history import HistoryState
    from ccpo.types import ReplayRecord, SessionRecord, Sessions, TurnRecord

    turns = tuple(TurnRecord(name, False, True, False, False) for name in ("a", "b"))
    ballots = {"a": "1", "b": "2"}
    replays = (ReplayRecord("remove", "a", 0.0, True, 1, False), ReplayRecord("remove", "b", 1.0, False, 0, False))
    records = [SessionRecord("p", number, 1.0, turns, replays, ballots, "1") for number in range(2)]
    sessions = Sessions.from_records(records, ("a", "b"))
    scored = validation_scores(sessions, {("remove", "a"): "without_a"})
    value = scored.pop("team_accuracy")
    logged = {"val-core/s/team_accuracy": value, **{f"val-aux/s/{name}": number for name, number in scored.items()}}
    known = report.measured([{"step": 0, "kind": "val", "metrics": logged}], "s")
    assert list(known.accuracies) == ["team", "without_a", "ballot", "oracle"]
    assert {name: set(numbers) for name, numbers in known.roles.items()} == dict.fromkeys(
        "ab", set(report.ROLE_NUMBERS)
    )
    step = step_metrics(
        sessions, sessions.value_S[:, None] * [1.0, 1.0], sessions.value_S[:, None] * [1.0, 1.0], HistoryState()
    )
    entry = {"step": 1, "kind": "train", "metrics": {f"ccpo/{name}": number for name, number in step.items()}}
    assert set(report.trained_roles([entry])) == {"a", "b"}
    ours = {name for name in report.TRAINING if "/plurality/" in name}
    assert ours <= set(entry["metrics"])


def test_a_source_whose_name_begins_with_anothers_keeps_its_metrics():
    longer = {name.replace(SOURCE, f"{SOURCE}/hard"): value for name, value in CHAIN[0]["metrics"].items()}
    both = dict(DYAD[0], metrics=DYAD[0]["metrics"] | longer)
    assert report.sources_of([both]) == [SOURCE, f"{SOURCE}/hard"]
    assert list(report.measured([both], SOURCE).roles) == ["think", "reason"]
    assert list(report.measured([both], f"{SOURCE}/hard").roles) == ["a", "b"]


def test_without_the_number_of_sessions_there_is_no_interval():
    run = [val(step, 0.5, {"solo": 0.4}, {}, sessions=None) for step in (0, 5)]
    assert report.summarize(run)["sources"][SOURCE]["after"]["accuracies"]["team"] == {
        "value": 0.5,
        "low": None,
        "high": None,
    }
    assert "[" not in report.table(run)


def test_table_of_a_team_that_names_its_replays():
    text = report.table(DYAD)
    head, training = text.split("in training")
    assert cells(head, "team") == ["0.500", "[0.404,", "0.596]", "0.800", "[0.711,", "0.867]", "+0.300"]
    assert cells(head, "solo")[-1] == "+0.000" and cells(head, "emptied")[-1] == "+0.100"
    assert cells(head, "think: contribution") == ["+0.100", "+0.400", "+0.300"]
    assert cells(head, "think: helped (right with it only)") == ["0.400", "0.700", "+0.300"]
    assert "reason: without it there is no answer" in head and "reason: contribution" not in text
    assert cells(training, "think: contribution") == ["+0.300", "+0.600", "+0.300"]
    assert "pivotal" not in text and "oracle" not in text


def test_table_of_a_team_whose_replays_bear_the_roles_names():
    text = report.table(CHAIN)
    starts = [line[:40].strip() for line in text.splitlines()]
    assert starts[2:7] == ["team", "without a", "without b", "a emptied", "a: contribution"]
    assert cells(text, "b: contribution") == ["-0.200", "-0.200", "+0.000"]


def test_table_of_votes():
    head, training = report.table(VOTES).split("in training")
    assert [line[:40].strip() for line in head.splitlines()][2:6] == [
        "team",
        "ballots (mean of all)",
        "oracle (any ballot right)",
        "voter_0: accuracy",
    ]
    assert cells(head, "voter_2: accuracy") == ["0.300", "[0.219,", "0.396]", "0.400", "[0.309,", "0.498]", "+0.100"]
    assert cells(training, "pivotal rate (ballot decides)") == ["0.600", "0.300", "-0.300"]
    assert "tie rate" not in training, "ties were not logged"


def test_many_roles_are_told_together():
    many = [val(step, 0.5, {"ballot": 0.5}, voters(*(0.5 + step / 100,) * 20)) for step in (0, 10)]
    text = report.table(many)
    assert cells(text, "20 roles: accuracy") == ["0.500", "0.600", "+0.100"]
    assert "voter_" not in text


def test_a_team_that_is_always_wrong_needs_nobody():
    run = [val(step, 0.0, {}, {"a": last_speaker(0.0)}) for step in (0, 5)]
    assert "a: contribution" in report.table(run)


def test_names_fit_their_column():
    known = [*report.BALLOTS.values(), *report.TRAINING.values()]
    assert max(map(len, known)) < 40
    assert max(len(f"reason_0: {label}") for label in report.ROLE_NUMBERS.values()) < 40


@pytest.mark.parametrize(
    "run, top, bottom",
    [
        (
            "dyad",
            ["team, training batches", "team", "solo", "emptied"],
            ["think"],
        ),  # the last speaker's would be the team's
        ("chain", ["team", "without a", "without b", "a emptied"], ["a", "b"]),
        (
            "vote",
            [
                "team, training batches",
                "team",
                "ballots (mean of all)",
                "oracle (any ballot right)",
                *(f"voter_{i}: accuracy" for i in range(3)),
            ],
            ["voter_0", "voter_1", "voter_2"],
        ),
    ],
)
def test_picture_shows_accuracies_above_and_contributions_below(run, top, bottom, tmp_path):
    assert legends(RUNS[run], tmp_path / CURVES) == [top, bottom]


def test_picture_of_many_roles_has_one_word_for_them(tmp_path):
    many = [val(step, 0.5, {"ballot": 0.5}, voters(*(0.5,) * 20)) for step in (0, 5)]
    assert legends(many, tmp_path / CURVES) == [
        ["team", "ballots (mean of all)", "each of the 20 roles: accuracy"],
        ["each of the 20 roles"],
    ]


def test_a_full_picture_leaves_the_emptied_roles_to_the_table(tmp_path):
    names = [f"voter_{i}" for i in range(3)]
    replays = {f"without_{name}": 0.4 for name in names} | {f"{name}_emptied": 0.4 for name in names}
    run = [val(step, 0.5, replays | {"ballot": 0.5}, voters(0.5, 0.5, 0.5)) for step in (0, 5)]
    top = legends(run, tmp_path / CURVES)[0]
    assert "without voter_0" in top and "voter_0 emptied" not in top and "voter_0 emptied" in report.table(run)


def test_times_stand_on_their_own_lines():
    slower = [
        dict(entry, metrics={k: v * 3 if "timing" in k else v for k, v in entry["metrics"].items()}) for entry in DYAD
    ]
    texts = [report.table(entries).partition("time:") for entries in (DYAD, slower)]
    assert texts[0][0] == texts[1][0] and texts[0][2] != texts[1][2]


def timed(number: int, /, **seconds: float) -> dict:
    return train(number, **{f"timing_s__{name}": value for name, value in seconds.items()})


TIMED = [
    timed(1, step=9.0, gen=4.0, update_actor=3.0, train=1.0),
    *(
        timed(
            step,
            step=4.0 + step / 10,
            gen=2.0,
            decode__think=0.7,
            decode__reason=1.1,
            decode__replays=0.4,
            verify=0.02,
            old_log_prob=0.00001,
            adv=0.1,
            credit=0.01,
            update_actor=1.5,
            train=1.2,
            update_weights=0.2,
        )
        for step in (2, 3, 4)
    ),
]
TIMED[-1]["metrics"] |= {"timing_s/save_checkpoint": 0.1, "timing_s/testing": 5.0}


def test_every_part_of_a_step_has_its_time():
    text = report.table(TIMED).partition("time:")[2]
    assert max(map(len, text.splitlines())) <= 100
    assert cells(text, "seconds") == ["first", "step", "3", "later", "steps", "share", "of", "them"]
    assert cells(text, "step") == ["9.000", "4.300", "+-", "0.100"]
    assert cells(text, "  decoding and verdicts (gen)") == ["4.000", "2.000", "+-", "0.000", "47%"]
    assert cells(text, "    think: mean of a turn") == ["0.700", "+-", "0.000"]
    assert cells(text, "    replays: mean of a session") == ["0.400", "+-", "0.000"]
    assert cells(text, "    verdicts: mean of a session") == ["0.020", "+-", "0.000"]
    assert cells(text, "    credit") == ["0.010", "+-", "0.000", "0%"]
    assert cells(text, "    arithmetic (train)") == ["1.000", "1.200", "+-", "0.000", "28%"]
    assert cells(text, "    the rows' way to it") == ["2.000", "0.300", "+-", "0.000", "7%"]
    assert cells(text, "  checkpoint (save_checkpoint)") == ["0.100", "(1", "steps)", "1%"]
    assert cells(text, "  waiting and other") == ["2.000", "0.467", "+-", "0.058", "11%"]
    assert cells(text, "validation, after its step (testing)") == ["5.000", "(1", "steps)"]
    assert "old_log_prob" not in text, "it took no time"


def test_what_a_step_is_the_sum_of_is_all_of_it():
    parts = report.summarize(TIMED)["seconds"]["parts"]
    summed = [part for part in parts.values() if part["depth"] == 1]
    assert sum(part["first"] or 0 for part in summed) == pytest.approx(9.0)
    assert sum(part["share"] for part in summed) == pytest.approx(1.0, abs=1e-5)


def test_policies_that_learn_one_after_the_other_are_added():
    run = [timed(step, step=4.0, update_actor=3.0, think__train=1.0, reason__train=1.5) for step in (1, 2)]
    text = report.table(run)
    assert cells(text, "    arithmetic (train)") == ["2.500", "2.500", "62%"]
    assert cells(text, "    the rows' way to it") == ["0.500", "0.500", "12%"]


def test_turns_of_many_roles_are_told_together():
    run = [timed(step, **{f"decode__voter_{i}": float(i) for i in range(20)}) for step in (1, 2)]
    text = report.table(run)
    assert cells(text, "    20 roles: mean of a turn") == ["9.500", "9.500"] and "voter_" not in text


def test_a_run_of_one_step_has_the_first_ones_times():
    text = report.table(TIMED[:1]).partition("time:")[2]
    assert cells(text, "seconds") == ["first", "step"] and cells(text, "step") == ["9.000"]


def test_a_run_that_only_trained_so_far_is_reported(tmp_path):
    text = report.table([train(1)])
    assert "no validation" in text and "steps: 1" in text
    assert legends([train(1)], tmp_path / CURVES) == [["team, training batches"], []]


def test_several_data_sources_are_all_in_the_table():
    other = val(0, 0.1, {"solo": 0.1}, {})
    other["metrics"] |= {name.replace(SOURCE, "b"): value for name, value in other["metrics"].items()}
    assert set(report.summarize([other])["sources"]) == {SOURCE, "b"}
    assert report.table([other]).count("\nsolo") == 2


def test_no_team_is_known_by_name():
    """What is told of a run comes from its metrics."""
    code = re.sub(r'""".*?"""', "", SCRIPT.read_text(), flags=re.DOTALL)
    assert not re.search(r"\b(dyad|vote|voter|think|reason|solo|emptied)\b", code)


@pytest.mark.parametrize("name, word", [("dyad", "solo"), ("chain", "without a"), ("vote", "oracle")])
def test_show_writes_a_picture_and_json_is_json(tmp_path, capsys, name, word):
    report.show(write(tmp_path, RUNS[name]))
    assert (tmp_path / CURVES).read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert str(tmp_path / CURVES) in shown and word in shown
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "--json"], capture_output=True, text=True, cwd=tmp_path
    )
    assert json.loads(done.stdout) == report.summarize(RUNS[name])


@pytest.mark.parametrize(
    "text, words", [(None, "no folder of a run"), ("", "no whole line"), ('{"step": 1, "ki', "no whole line")]
)
def test_nothing_to_report_is_an_error_that_says_so(tmp_path, text, words):
    if text is not None:
        (tmp_path / METRICS).write_text(text)
    with pytest.raises(report.ReportError, match=words):
        report.load(tmp_path)


def test_whatever_a_log_says_gets_a_report_or_a_reason(tmp_path):
    """A log may have been edited, or belong to something else."""
    path = tmp_path / METRICS
    team, sessions = "val-core/x/team_accuracy", "val-aux/x/sessions"
    for accuracy in (0.5, -3, 7, 1e300, -1e300):
        for count in (100, 0, -3, 0.5, 1e18, 1e300):
            entries = [{"step": step, "kind": "val", "metrics": {team: accuracy, sessions: count}} for step in (0, 1)]
            entries += [{"step": 2, "kind": "train", "metrics": {}}, {"step": 3, "kind": "val", "metrics": {}}]
            path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
            assert "steps: 2" in report.table(report.load(tmp_path))
    report.draw(report.load(tmp_path), tmp_path / CURVES, "odd")
    path.write_bytes(b"\xff\n3\n[]\nnull\n{}\n")
    with pytest.raises(report.ReportError, match="no whole line"):
        report.load(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(report.ReportError, match="cannot be read"):
        report.load(tmp_path)


def test_a_picture_that_cannot_be_written_costs_only_the_picture(tmp_path, capsys):
    (tmp_path / METRICS).write_text(json.dumps(val(1, 0.5, {}, {})) + "\n")
    (tmp_path / CURVES).mkdir()
    with pytest.raises(report.ReportError, match="curves.png cannot be written.*table above is whole"):
        report.show(tmp_path)
    assert "0.500" in capsys.readouterr().out
