"""scripts/report.py: numbers by hand, for any team, and what happens when something was not measured."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sample_runs import CHAIN, DYAD, RUNS, SOURCE, TIMED, VOTES, last_speaker, timed, train, val, voters, write

from ccpo.metrics import step_metrics, validation_scores
from ccpo.report import charts, logged, show
from ccpo.report.runs import Run
from ccpo.report.table import table
from ccpo.run.folder import METRICS, REPORT, SESSIONS
from data_preprocess import schema, silence

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "report.py"


def drawn(entries: list[dict]) -> dict[str, list[str]]:
    """Title of each chart -> the curves in it."""
    found = charts.of_run(Run("a run", entries, [], "label", "kind", "0"), 400)
    return {
        one["title"]: list(dict.fromkeys(row["series"] for row in one["spec"]["data"]["values"]))
        for own in found.values()
        for one in own
    }


def cells(text: str, start: str) -> list[str]:
    """The words right of the label of the only line that begins so."""
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return line[len(start) :].split()


@pytest.mark.parametrize(
    "share, count, low, high",
    [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0)],  # textbook values
)
def test_wilson(share, count, low, high):
    assert logged.wilson(share, count) == pytest.approx((low, high), abs=1e-4)


def test_summary_has_before_after_intervals_and_training():
    summary = logged.summarize(DYAD)
    before, after = (summary["sources"][SOURCE][end] for end in ("before", "after"))
    assert (before["step"], after["step"], after["sessions"], summary["steps"]) == (0, 8, 100, 8)
    assert [after["accuracies"][name]["value"] for name in ("team", "solo", "emptied")] == [0.8, 0.4, 0.4]
    assert after["accuracies"]["team"]["low"] < 0.8 < after["accuracies"]["team"]["high"]
    assert after["roles"]["think"] == {"contribution": 0.4, "help_rate": 0.7, "hurt_rate": 0.3}
    training = summary["training"]
    assert training["sessions/team_accuracy"] == {"before": pytest.approx(0.7), "after": pytest.approx(0.7)}
    assert training["roles"]["think"]["contribution"] == {"before": pytest.approx(0.25), "after": pytest.approx(0.65)}
    seconds = summary["seconds"]
    assert (seconds["steps"], seconds["validation"]) == (16.0, 0)
    assert {name: part["mean"] for name, part in seconds["parts"].items()} == {"step": 2.0, "gen": 0.5, "other": 1.5}


def test_summary_of_votes_counts_a_session_once():
    summary = logged.summarize(VOTES)
    after = summary["sources"][SOURCE]["after"]
    assert [after["accuracies"][name]["value"] for name in ("team", "ballot", "oracle")] == [0.8, 0.6, 0.9]
    ballots = after["accuracies"]["ballot"]
    assert (ballots["low"], ballots["high"]) == pytest.approx(logged.wilson(0.6, 100))  # not of 300
    assert after["roles"]["voter_2"]["accuracy"]["value"] == 0.4
    assert summary["training"]["plurality/pivotal_rate"] == {
        "before": pytest.approx(0.65),
        "after": pytest.approx(0.25),
    }  # steps 1-4, 5-8


@pytest.mark.parametrize(
    "steps, head", [(1, "first step "), (3, "first step "), (4, "first 2 steps"), (30, "first 5 steps")]
)
def test_the_ends_of_training_share_no_step(steps, head):
    text = table([train(step, ccpo__plurality__tie_rate=step / 100) for step in range(1, steps + 1)])
    assert head in text and (f"{steps / 100:.3f}" in text) == (steps < 4)
    assert cells(text, "tie rate")[-1] == f"{(steps - max(1, min(5, steps // 2))) / 100:+.3f}"


def test_roles_and_replays_are_those_that_the_metrics_name():
    assert logged.measured(DYAD, SOURCE).replays == ["solo", "emptied"]
    known = logged.measured(CHAIN, SOURCE)
    assert known.replays == ["without_a", "without_b", "a_emptied"] and list(known.roles) == ["a", "b"]
    assert [known.label(name) for name in known.replays] == ["without a", "without b", "a emptied"]
    known = logged.measured(VOTES, SOURCE)
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
    found = {"val-core/s/team_accuracy": value, **{f"val-aux/s/{name}": number for name, number in scored.items()}}
    known = logged.measured([{"step": 0, "kind": "val", "metrics": found}], "s")
    assert list(known.accuracies) == ["team", "without_a", "ballot", "oracle"]
    assert {name: set(numbers) for name, numbers in known.roles.items()} == dict.fromkeys(
        "ab", set(logged.ROLE_NUMBERS)
    )
    step = step_metrics(
        sessions, sessions.value_S[:, None] * [1.0, 1.0], sessions.value_S[:, None] * [1.0, 1.0], HistoryState()
    )
    entry = {"step": 1, "kind": "train", "metrics": {f"ccpo/{name}": number for name, number in step.items()}}
    assert set(logged.trained_roles([entry])) == {"a", "b"}
    ours = {name for name in logged.TRAINING if "/plurality/" in name}
    assert ours <= set(entry["metrics"])


def test_a_source_whose_name_begins_with_anothers_keeps_its_metrics():
    longer = {name.replace(SOURCE, f"{SOURCE}/hard"): value for name, value in CHAIN[0]["metrics"].items()}
    both = dict(DYAD[0], metrics=DYAD[0]["metrics"] | longer)
    assert logged.sources_of([both]) == [SOURCE, f"{SOURCE}/hard"]
    assert list(logged.measured([both], SOURCE).roles) == ["think", "reason"]
    assert list(logged.measured([both], f"{SOURCE}/hard").roles) == ["a", "b"]


def test_without_the_number_of_sessions_there_is_no_interval():
    run = [val(step, 0.5, {"solo": 0.4}, {}, sessions=None) for step in (0, 5)]
    assert logged.summarize(run)["sources"][SOURCE]["after"]["accuracies"]["team"] == {
        "value": 0.5,
        "low": None,
        "high": None,
    }
    assert "[" not in table(run)


def test_table_of_a_team_that_names_its_replays():
    text = table(DYAD)
    head, training = text.split("in training")
    assert cells(head, "team") == ["0.500", "[0.404,", "0.596]", "0.800", "[0.711,", "0.867]", "+0.300"]
    assert cells(head, "solo")[-1] == "+0.000" and cells(head, "emptied")[-1] == "+0.100"
    assert cells(head, "think: contribution") == ["+0.100", "+0.400", "+0.300"]
    assert cells(head, "think: helped (right with it only)") == ["0.400", "0.700", "+0.300"]
    assert "reason: without it there is no answer" in head and "reason: contribution" not in text
    assert cells(training, "think: contribution") == ["+0.250", "+0.650", "+0.400"]
    assert "pivotal" not in text and "oracle" not in text


def test_table_of_a_team_whose_replays_bear_the_roles_names():
    text = table(CHAIN)
    starts = [line[:40].strip() for line in text.splitlines()]
    assert starts[2:7] == ["team", "without a", "without b", "a emptied", "a: contribution"]
    assert cells(text, "b: contribution") == ["-0.200", "-0.200", "+0.000"]


def test_table_of_votes():
    head, training = table(VOTES).split("in training")
    assert [line[:40].strip() for line in head.splitlines()][2:6] == [
        "team",
        "ballots (mean of all)",
        "oracle (any ballot right)",
        "voter_0: accuracy",
    ]
    assert cells(head, "voter_2: accuracy") == ["0.300", "[0.219,", "0.396]", "0.400", "[0.309,", "0.498]", "+0.100"]
    assert cells(training, "pivotal rate (ballot decides)") == ["0.650", "0.250", "-0.400"]
    assert "tie rate" not in training, "ties were not logged"


def test_many_roles_are_told_together():
    many = [val(step, 0.5, {"ballot": 0.5}, voters(*(0.5 + step / 100,) * 20)) for step in (0, 10)]
    text = table(many)
    assert cells(text, "20 roles: accuracy") == ["0.500", "0.600", "+0.100"]
    assert "voter_" not in text


def test_a_team_that_is_always_wrong_needs_nobody():
    run = [val(step, 0.0, {}, {"a": last_speaker(0.0)}) for step in (0, 5)]
    assert "a: contribution" in table(run)


def test_names_fit_their_column():
    known = [*logged.BALLOTS.values(), *logged.TRAINING.values()]
    assert max(map(len, known)) < 40
    assert max(len(f"reason_0: {label}") for label in logged.ROLE_NUMBERS.values()) < 40


ALONE = "Accuracy of the team and of its replays"


def test_curves_are_of_the_team_its_replays_and_its_roles():
    found = drawn(DYAD)
    assert found[ALONE] == ["team", "solo", "emptied"]
    assert found["Contribution"] == ["think"], "the last speaker's would be the team's"
    assert found["Hurt: wrong with the role, right without"] == ["think"]
    assert found["Team accuracy"] == ["team"] and found["Time of a step"][0] == "decoding and verdicts (gen)"
    found = drawn(CHAIN)
    assert found[ALONE] == ["team", "without a", "without b", "a emptied"] and found["Contribution"] == ["a", "b"]
    found = drawn(VOTES)
    assert found[ALONE] == ["team", "ballots (mean of all)", "oracle (any ballot right)"]
    assert found["Accuracy of each role"] == [f"voter_{i}" for i in range(3)]


def test_many_roles_are_one_curve():
    found = drawn([val(step, 0.5, {"ballot": 0.5}, voters(*(0.5,) * 20)) for step in (0, 5)])
    assert found["Accuracy of each role"] == found["Contribution"] == ["mean of 20 roles"]


def test_a_full_chart_leaves_the_emptied_roles_to_the_table():
    names = [f"voter_{i}" for i in range(3)]
    replays = {f"without_{name}": 0.4 for name in names} | {f"{name}_emptied": 0.4 for name in names}
    run = [val(step, 0.5, replays | {"ballot": 0.5, "oracle": 0.9}, voters(0.5, 0.5, 0.5)) for step in (0, 5)]
    assert drawn(run)[ALONE] == [
        "team",
        "without voter_0",
        "without voter_1",
        "without voter_2",
        *logged.BALLOTS.values(),
    ]
    assert "voter_0 emptied" in table(run)


def test_times_stand_on_their_own_lines():
    slower = [
        dict(entry, metrics={k: v * 3 if "timing" in k else v for k, v in entry["metrics"].items()}) for entry in DYAD
    ]
    texts = [table(entries).partition("time:") for entries in (DYAD, slower)]
    assert texts[0][0] == texts[1][0] and texts[0][2] != texts[1][2]


def test_every_part_of_a_step_has_its_time():
    text = table(TIMED).partition("time:")[2]
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
    parts = logged.summarize(TIMED)["seconds"]["parts"]
    summed = [part for part in parts.values() if part["depth"] == 1]
    assert sum(part["first"] or 0 for part in summed) == pytest.approx(9.0)
    assert sum(part["share"] for part in summed) == pytest.approx(1.0, abs=1e-5)


def test_policies_that_learn_one_after_the_other_are_added():
    run = [timed(step, step=4.0, update_actor=3.0, think__train=1.0, reason__train=1.5) for step in (1, 2)]
    text = table(run)
    assert cells(text, "    arithmetic (train)") == ["2.500", "2.500", "62%"]
    assert cells(text, "    the rows' way to it") == ["0.500", "0.500", "12%"]


def test_turns_of_many_roles_are_told_together():
    run = [timed(step, **{f"decode__voter_{i}": float(i) for i in range(20)}) for step in (1, 2)]
    text = table(run)
    assert cells(text, "    20 roles: mean of a turn") == ["9.500", "9.500"] and "voter_" not in text


def test_a_run_of_one_step_has_the_first_ones_times():
    text = table(TIMED[:1]).partition("time:")[2]
    assert cells(text, "seconds") == ["first", "step"] and cells(text, "step") == ["9.000"]


def test_a_run_that_only_trained_so_far_is_reported():
    text = table([train(1)])
    assert "no validation" in text and "steps: 1" in text
    assert drawn([train(1)]).keys() == {"Team accuracy", "Time of a step"}


def test_several_data_sources_are_all_in_the_table():
    other = val(0, 0.1, {"solo": 0.1}, {})
    other["metrics"] |= {name.replace(SOURCE, "b"): value for name, value in other["metrics"].items()}
    assert set(logged.summarize([other])["sources"]) == {SOURCE, "b"}
    assert table([other]).count("\nsolo") == 2


def test_no_team_is_known_by_name():
    """What is told of a run comes from its metrics."""
    files = [SCRIPT, *(ROOT / "ccpo" / "report").glob("*.*")]
    assert len(files) > 8
    code = re.sub(r'""".*?"""', "", "".join(path.read_text() for path in files), flags=re.DOTALL)
    assert not re.search(r"\b(dyad|vote|voter|think|reason|solo|emptied)\b", code)


@pytest.mark.parametrize("name, word", [("dyad", "solo"), ("chain", "without a"), ("vote", "oracle")])
def test_show_writes_a_page_and_json_is_json(tmp_path, capsys, name, word):
    show([write(tmp_path, RUNS[name])])
    assert (tmp_path / REPORT).read_text().startswith("<!doctype html>")
    shown = capsys.readouterr().out
    assert str(tmp_path / REPORT) in shown and word in shown
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "--json"], capture_output=True, text=True, cwd=tmp_path
    )
    assert json.loads(done.stdout) == logged.summarize(RUNS[name])


@pytest.mark.parametrize(
    "text, words", [(None, "no folder of a run"), ("", "no whole line"), ('{"step": 1, "ki', "no whole line")]
)
def test_nothing_to_report_is_an_error_that_says_so(tmp_path, text, words):
    if text is not None:
        (tmp_path / METRICS).write_text(text)
    with pytest.raises(logged.ReportError, match=words):
        logged.load(tmp_path)


def test_whatever_a_log_says_gets_a_report_or_a_reason(tmp_path):
    """A log may have been edited, or belong to something else."""
    path = tmp_path / METRICS
    team, sessions = "val-core/x/team_accuracy", "val-aux/x/sessions"
    for accuracy in (0.5, -3, 7, 1e300, -1e300):
        for count in (100, 0, -3, 0.5, 1e18, 1e300):
            entries = [{"step": step, "kind": "val", "metrics": {team: accuracy, sessions: count}} for step in (0, 1)]
            entries += [{"step": 2, "kind": "train", "metrics": {}}, {"step": 3, "kind": "val", "metrics": {}}]
            path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
            assert "steps: 2" in table(logged.load(tmp_path))
            drawn(logged.load(tmp_path))
    path.write_bytes(b"\xff\n3\n[]\nnull\n{}\n")
    with pytest.raises(logged.ReportError, match="no whole line"):
        logged.load(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(logged.ReportError, match="cannot be read"):
        logged.load(tmp_path)


@pytest.mark.parametrize("name", ["report", "compare_runs", "copy_scores"])
def test_sessions_that_cannot_be_read_are_not_taken_for_none(tmp_path, name):
    write(tmp_path, DYAD)
    (tmp_path / SESSIONS).mkdir()
    schema.write_dataset(tmp_path / "data", {"test": silence.dataset_rows("test", 1, 0)}, name="silence")
    script, data = ROOT / "scripts" / f"{name}.py", [tmp_path / "data"] * (name == "copy_scores")
    done = subprocess.run([sys.executable, script, tmp_path, *data], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"error: {tmp_path / SESSIONS} cannot be read (Is a directory)")
    assert "move it away" in done.stderr and not (tmp_path / REPORT).exists()


def test_a_page_that_cannot_be_written_costs_only_the_page(tmp_path, capsys):
    (tmp_path / METRICS).write_text(json.dumps(val(1, 0.5, {}, {})) + "\n")
    (tmp_path / REPORT).mkdir()
    with pytest.raises(logged.ReportError, match="report.html cannot be written.*table above is whole"):
        show([tmp_path])
    assert "0.500" in capsys.readouterr().out


@pytest.mark.parametrize("words, said", [(["a", "b"], "name it, --out"), (["a", "--json", "--out", "b"], "drop --out")])
def test_a_command_that_says_too_little_or_too_much(words, said):
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr
