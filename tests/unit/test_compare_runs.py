"""scripts/compare_runs.py: numbers by hand on tiny runs, a t interval by its formula, and what is refused or said."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from statistics import fmean

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import compare_runs  # noqa: E402

from ccpo.compare_runs import picture  # noqa: E402
from ccpo.compare_runs.arms import arms_of, common, contributions_of, difference, excludes_0, measures_of  # noqa: E402
from ccpo.compare_runs.tables import lines_of  # noqa: E402
from ccpo.compare_runs.validations import read  # noqa: E402
from ccpo.evaluate.measures import estimate  # noqa: E402
from ccpo.metrics import contribution  # noqa: E402
from ccpo.report import ReportError  # noqa: E402
from ccpo.run.folder import JOB, LOCK, METRICS, SESSIONS  # noqa: E402
from ccpo.run.lock import run_lock  # noqa: E402
from ccpo.run.run_log import RunLog  # noqa: E402
from ccpo.run.session_log import SessionLog, read_sessions  # noqa: E402
from ccpo.run.texts import has_texts  # noqa: E402
from ccpo.types import ReplayRecord, SessionRecord, Sessions, TurnRecord  # noqa: E402

T1 = 12.706204736  # 97.5 % quantile of Student's t with one degree of freedom: tan(0.475 pi)
SHARED, OTHER = "dyad, shared", "dyad, counterfactual"


def session(step: int, index: int, number: int, value: float, **others: object) -> dict:
    """A wrong answer is "0", and there is one."""
    return {
        **{"step": step, "kind": "val", "source": "s", "index": index, "session": number, "question": f"Q{index}?"},
        **{"truth": "1", "value": value, "answer": "1" if value == 1 else "0", "turns": [], "ballots": None},
        "replays": [],
        **others,
    }


def played(step: int, *values: tuple[float | None, ...]) -> list[dict]:
    """Sessions of questions 0, 1, ... by their values; None did not come."""
    return [
        session(step, i, n, value) for i, own in enumerate(values) for n, value in enumerate(own) if value is not None
    ]


def validated(sessions: list[dict], asked: int | None = None) -> dict:
    """What the run logs of these sessions."""
    metrics = {"val-aux/sessions/dropped_rate": 1 - len(sessions) / (asked or len(sessions))}
    for source in {one["source"] for one in sessions}:
        values = [one["value"] for one in sessions if one["source"] == source]
        metrics[f"val-core/{source}/team_accuracy"] = fmean(values)
        metrics[f"val-aux/{source}/sessions"] = float(len(values))
    return {"step": sessions[0]["step"], "kind": "val", "metrics": metrics}


def save(folder: Path, *ends: list[dict], rule: str = "shared", seed: object = 0, asked: int | None = None) -> Path:
    """A run with these validations, each a list of sessions of one step."""
    (folder / JOB).parent.mkdir(parents=True)
    job = {"seed": seed, "ccpo": {"team": "dyad", "seed": seed, "credit": {"rule": rule}}}
    (folder / JOB).write_text(json.dumps(job))  # which is YAML, too
    entries = [validated(of_one, asked) for of_one in ends]
    (folder / METRICS).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (folder / SESSIONS).write_text("".join(json.dumps(one) + "\n" for of_one in ends for one in of_one))
    return folder


def said(*folders: Path, step: int | None = None, before: bool = False, control: str | None = None) -> str:
    return "\n".join(lines_of(arms_of([read(one, step, before) for one in folders], control), before))


def row(text: str, title: str, arm: str) -> list[str]:
    """The cells of an arm's line below a title."""
    lines = text[text.index(title) :].splitlines()
    return next([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith(f"| {arm} "))


def test_numbers_by_hand(tmp_path):
    control = save(tmp_path / "a", played(0, (0, 0), (0, 1)), played(9, (0, 1), (0, 1)))
    better = save(tmp_path / "b", played(0, (0, 0), (0, 1)), played(9, (1, 1), (0, 0)), rule="counterfactual")
    text = said(control, better, before=True)
    # By question: .5, .5 of the control, 1, 0 of the other. Of two questions drawn again a quarter of the draws is twice the first, a quarter twice
    # the second.
    assert row(text, "### avg@2", SHARED)[1:4] == ["0", "0.500 [0.500, 0.500]", "+0.250 [+0.000, +0.500]"]
    assert row(text, "### avg@2", OTHER)[2:] == [
        *("0.500 [0.000, 1.000]", "+0.250 [-0.500, +1.000]", "one seed: none"),
        *("+0.000 [-0.500, +0.500]", "one seed: none"),
    ]
    # Both questions have a right one of the control's two sessions, one of the other's.
    assert row(text, "### pass@2", SHARED)[2] == "1.000 [1.000, 1.000]"
    assert row(text, "### pass@2", OTHER)[5] == "-0.500 [-1.000, +0.000]"
    # A tie of a right and a wrong answer is worth a half.
    assert row(text, "### maj@2", SHARED)[2] == "0.500 [0.500, 0.500]"
    assert row(text, "### maj@2", OTHER)[2] == "0.500 [0.000, 1.000]"
    assert "3 differences to dyad, shared:" in text and "more than 0.15 of 3 would exclude 0 over questions" in text
    assert "Do not exclude 0 over questions; over seeds nothing is known: avg@2 of dyad, counterfactual on s" in text
    assert "One arm: there is nothing" in said(control) and "change from" not in said(control)


def test_two_seeds_have_a_paired_t_interval(tmp_path):
    values = {  # (rule, seed) -> four questions
        ("shared", 0): [0.0, 0.5, 0.5, 0.0],
        ("shared", 1): [0.0, 0.5, 0.0, 0.0],
        ("counterfactual", 1): [1.0, 0.5, 1.0, 0.0],  # another order of seeds
        ("counterfactual", 0): [0.5, 0.5, 1.0, 0.0],
    }
    halves = {0.0: (0, 0), 0.5: (0, 1), 1.0: (1, 1)}
    folders = [
        save(tmp_path / f"{rule}{seed}", played(4, *(halves[value] for value in own)), rule=rule, seed=seed)
        for (rule, seed), own in values.items()
    ]
    found = [read(folder) for folder in folders]
    control, other = arms_of(found)
    keys, differ = common(found)
    average = measures_of([control, other], keys, 2)["avg@2"]
    got = difference(other.of(average, keys), control.of(average, keys))
    by_seed = [fmean(values["counterfactual", seed]) - fmean(values["shared", seed]) for seed in (0, 1)]  # .25, .5
    half = (
        T1 * abs(by_seed[0] - by_seed[1]) / 2
    )  # the deviation of two is |x - y| / sqrt 2, that of their mean half the distance
    assert differ is None and sorted(got.seeds) == ["0", "1"]
    assert got.over_seeds == pytest.approx((fmean(by_seed) - half, fmean(by_seed) + half))
    assert got.over_questions == estimate([0.75, 0.0, 0.75, 0.0], 0)  # seeds averaged, question by question
    text = said(*folders)
    assert row(text, "### avg@2", OTHER)[-2:] == ["+0.375 [+0.000, +0.750]", "[-1.213, +1.963], 2 seeds"]
    assert "Do not exclude 0 under either interval: avg@2 of dyad, counterfactual on s (+0.375)" in text
    # The other way round, by each of the names that it has.
    for name in (OTHER, "counterfactual", "counterfactual1"):
        assert row(said(*folders, control=name), "### avg@2", SHARED)[-1] == "[-1.963, +1.213], 2 seeds"


def test_both_intervals_have_to_exclude_0(tmp_path):
    """Three seeds that agree, and 30 questions; and an arm that is ahead with one seed and behind with the others."""
    rest = [(0,)] * 20
    folders = []
    for seed, (ahead, mixed) in enumerate([(4, 10), (5, 0), (6, 0)]):
        for rule, right in (("shared", 0), ("removal", ahead), ("counterfactual", mixed)):
            values = [*([(1,)] * right), *([(0,)] * (10 - right)), *rest]
            folders.append(save(tmp_path / f"{rule}{seed}", played(1, *values), rule=rule, seed=seed))
    text = said(*folders)
    assert "- Exclude 0 under both intervals: avg@1 of dyad, removal on s (+0.167)" in text
    assert "- Exclude 0 over questions, not over seeds: avg@1 of dyad, counterfactual on s (+0.111)" in text
    assert "2 differences" in text and "about 0.1 of 2 would exclude 0 over seeds" in text and "pass@" not in text


def test_an_interval_without_width_says_nothing(tmp_path):
    runs = [
        save(tmp_path / f"{rule}{seed}", played(1, (value,), (value,)), rule=rule, seed=seed)
        for rule, value in (("shared", 0), ("removal", 1))
        for seed in (0, 1)
    ]
    text = said(*runs)
    assert row(text, "### avg@1", "dyad, removal")[-2:] == ["+1.000 [+1.000, +1.000]", "[+1.000, +1.000], 2 seeds"]
    assert "Do not exclude 0 under either" in text and "An interval without width" in text
    assert excludes_0((0.1, 0.2)) and excludes_0((-0.2, -0.1)) and not excludes_0((0.0, 0.2)) and not excludes_0(None)


def test_one_question_has_no_interval_over_questions(tmp_path):
    values = {"shared": (0, 0, 0), "removal": (1, 1, 0)}
    runs = [
        save(tmp_path / f"{rule}{seed}", played(1, (value,)), rule=rule, seed=seed)
        for rule, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    text = said(*runs)
    assert "- Of one question, so over questions nothing is known; over seeds do not exclude 0: avg@1 of" in text
    text = said(runs[0], runs[3])
    assert "over questions nothing is known; over seeds nothing is known: avg@1 of" in text and "exclude 0" not in text
    assert text.endswith("it takes two questions or more, and two seeds.")


def test_only_seeds_of_both_make_a_difference(tmp_path):
    runs = [
        save(tmp_path / f"{rule}{seed}", played(1, (value,), (0,)), rule=rule, seed=seed)
        for rule, seed, value in (("shared", 0, 0), ("shared", 1, 1), ("removal", 1, 1), ("removal", 2, 0))
    ]
    text = said(*runs)
    assert row(text, "### avg@1", "dyad, removal")[-2:] == ["+0.000 [+0.000, +0.000]", "one seed: none"]
    assert "dyad, removal minus dyad, shared: of the seeds that both have, 1." in text
    text = said(runs[0], runs[3])
    assert row(text, "### avg@1", "dyad, removal")[-1] == "no seed in common: none"


def test_each_data_source_has_its_tables(tmp_path):
    more = [one | {"source": "t/more"} for one in played(1, (1,), (1,), (0,), (0,))]
    runs = [
        save(tmp_path / rule, [*played(1, (value,), (1,)), *more], rule=rule)
        for rule, value in (("shared", 0), ("removal", 1))
    ]
    text = said(*runs)
    assert row(text, "## s: 2 questions", "dyad, removal")[2:4] == ["1.000 [1.000, 1.000]", "+0.500 [+0.000, +1.000]"]
    assert row(text, "## t/more: 4 questions", "dyad, removal")[2] == "0.500 [0.000, 1.000]"
    assert "avg@1 of dyad, removal on t/more (+0.000)" in text and "2 differences" in text


# --- roles, votes and costs -----------------------------------------------------------------------------------------


def test_contributions_are_the_logs(tmp_path):
    """Of a replay that serves all sessions of its question, and of one that belongs to its session; the last speaker is left out."""
    values = {0: (1.0, 0.0), 1: (1.0, 1.0), 2: (0.0, 0.0)}
    shared, own = {0: 1.0, 1: 0.0, 2: 1.0}, {0: (1.0, 1.0), 1: (0.0, 1.0), 2: (0.0, 0.0)}
    sessions, records = [], []
    for index, pair in values.items():
        for n, value in enumerate(pair):
            replays = [("b", own[index][n], False), ("c", 0.0, False)] + [("a", shared[index], True)] * (n == 0)
            told = [
                {"how": "remove", "role": role, "name": "x", "value": worth, "shared": every, "turns": []}
                for role, worth, every in replays
            ]
            sessions.append(session(3, index, n, value, replays=told))
            turns = tuple(TurnRecord(role, False, True, False, False) for role in "abc")
            replayed = tuple(ReplayRecord("remove", role, worth, every, 1, False) for role, worth, every in replays)
            records.append(SessionRecord(f"q{index}", n, value, turns, replayed))
    logged = contribution(Sessions.from_records(records, ("a", "b", "c")))
    found = [read(save(tmp_path / "run", sessions))]
    arms, (keys, _) = arms_of(found), common(found)
    measures, needed = contributions_of(arms, keys)
    assert list(measures) == ["b", "a"] and needed == ["c"]
    for role, measure in measures.items():
        of_questions = arms[0].of(measure, keys)["0"]
        assert fmean(of_questions.values()) == pytest.approx(logged[f"{role}/contribution"])
    text = said(tmp_path / "run")
    assert "c: without it there is no answer" in text and "| dyad, shared | a    | 0     | -0.167" in text


def test_a_vote_counts_as_one_of_its_answers(tmp_path):
    ballots = {
        (0, 0): (0.5, {"v": "1", "w": "7"}),  # tied: drawn
        (0, 1): (1.0, {"v": "1", "w": "1"}),
        (1, 0): (0.0, {"v": "7", "w": None}),
        (1, 1): (0.0, {"v": None, "w": None}),
    }
    ballots |= {
        (2, n): (0.0, {"v": "7", "w": "1"}) for n in range(8)
    }  # a tie that goes to the first: the right one is not drawn
    sessions = [session(2, i, n, value, ballots=cast, answer=None) for (i, n), (value, cast) in ballots.items()]
    last = read(save(tmp_path / "run", sessions)).last
    tied, right = last.questions["s", 0].answers
    assert tied in (0, "7") and right == 0 and last.questions["s", 1].answers == ("7", None)
    assert last.questions["s", 2].answers == ("7",) * 8
    assert "### pass@8" in said(tmp_path / "run")


def test_equal_wrong_answers_are_one_and_values_between_have_no_plurality(tmp_path):
    sessions = [session(2, 0, n, 0.0, answer=answer) for n, answer in enumerate(("0.50", "\\frac{1}{2}", None))]
    assert read(save(tmp_path / "run", sessions)).last.questions["s", 0].answers == ("1/2", "1/2", None)
    partly = save(tmp_path / "partly", played(2, (0.25, 1.0)))
    text = said(partly)
    assert "pass@2" not in text and "these values lie between" in text


def test_a_reward_that_names_no_answers_has_no_plurality(tmp_path):
    run = save(tmp_path / "run", [session(2, 0, n, float(n), answer=None) for n in range(2)])
    assert "maj@2" not in said(run) and "the reward has no label" in said(run)


def test_what_training_took(tmp_path):
    run = save(tmp_path / "run", played(2, (1,)))
    lengths = ((300.0, 5.0, 10.0), (600.0, 10.0, 5.0))  # of all rows; mean answer, mean prompt: 20 rows of 5, 40 of 10
    names = ("perf/total_num_tokens", "response_length/mean", "prompt_length/mean", "timing_s/step")
    log = RunLog(run / METRICS)
    for number, one in enumerate(lengths, 1):
        log.write(number, "train", dict(zip(names, (*one, 1800.0), strict=True)))
    log.write(3, "train", {"timing_s/step": 9.0})  # after the validation
    assert row(said(run), "## Training", SHARED)[1:] == ["2", "unknown; 500 in trained turns", "", "1.00", ""]
    counted = {"ccpo/generated_tokens": 1100.0, "ccpo/replay_tokens": 100.0, "timing_s/testing": 36.0}
    for number in (1, 2):
        log.write(number, "train", counted)
    assert row(said(run), "## Training", SHARED)[1:] == ["2", "2,200", "200", "", "0.02"]


# --- what is refused or said ----------------------------------------------------------------------------------------


def refused(*folders: Path, **options) -> str:
    with pytest.raises(ReportError) as told:
        said(*folders, **options)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_other_questions_are_left_out_and_counted(tmp_path):
    a = save(tmp_path / "a", played(1, (1,), (0,), (1,)))
    sessions = played(1, (1,), (0,))
    sessions[1]["question"] = "Another?"
    b = save(tmp_path / "b", sessions, rule="removal")
    text = said(a, b)
    assert "validated on different questions (a 3, b 2; 1 with the same number and another text or truth)" in text
    assert "the 1 that all have are compared" in text and row(text, "### avg@1", SHARED)[2] == "1.000"
    c = save(tmp_path / "c", [session(1, 9, 0, 1.0)], rule="removal")
    assert "different questions, and none is in all (a 3, c 1)" in refused(a, c)


def cut(run: Path, most: int, *ends: list[dict]) -> Path:
    """The run with the sessions that a file of so many bytes holds."""
    (run / SESSIONS).unlink()
    log = SessionLog(run / SESSIONS, most, lambda: None)
    for sessions in ends:
        facts = [{k: v for k, v in one.items() if k not in ("step", "kind")} for one in sessions]
        log.write(sessions[0]["step"], "val", facts)
    return run


def test_a_validation_whose_texts_were_cut_is_compared_as_if_whole(tmp_path):
    """With answers and ballots that are longer than what is kept of them, beside sessions that have all."""
    long = ["7" * 300, "7" * 300 + "8", "1"]
    turns = [{"role": "a", "text": "x" * 2000}]

    def end(step: int, shift: int) -> list[dict]:
        found = []
        for index in range(36):
            for n in range(4):
                answer, truth = long[(index + n // 2 + shift) % 3], long[index % 2]
                replay = {
                    "how": "remove",
                    "role": "a",
                    "name": "x",
                    "value": float(n % 2),
                    "shared": False,
                    "turns": turns,
                }
                facts = {
                    "truth": truth,
                    "turns": turns,
                    "replays": [replay],
                    "answer": answer,
                    "question": f"{index}" * 300,
                }
                if index > 17:
                    facts |= {"ballots": {"a": answer, "b": truth, "c": None}, "answer": None}
                found.append(session(step, index, n, float(answer == truth), **facts))
        return found

    ends = {"shared": (end(0, 1), end(9, 2)), "removal": (end(0, 0), end(9, 0))}
    runs = [save(tmp_path / rule, *of_rule, rule=rule) for rule, of_rule in ends.items()]
    whole = said(*runs, before=True)
    assert "### maj@4" in whole and row(whole, "### Contribution", SHARED)[1] == "a"
    cut(runs[1], 1_500_000, *ends["removal"])
    texts = [has_texts(one) for one in read_sessions(runs[1] / SESSIONS)]
    assert len(texts) == 288 and 100 < sum(texts) < 200
    assert said(*runs, before=True) == whole


def test_a_validation_that_was_cut_is_refused(tmp_path):
    """By the log that cuts it: one validation takes a quarter of the file, and of a full one every so many steps stay."""
    ends = [played(step, *[(1,)] * 40) for step in range(5)]
    run = save(tmp_path / "run", *ends)
    whole = (run / SESSIONS).stat().st_size // 5
    for most, step, words in (
        (
            2 * whole,
            None,
            ["of 40 sessions of s are kept", "a quarter of ccpo.keep_sessions_mb", "times of it or more"],
        ),
        (4 * whole + 200, 1, ["no sessions of s at step 1 any more", "Set --step to one of 0, 2, 4"]),
    ):
        cut(run, most, *ends)
        told = refused(run, step=step)
        assert all(word in told for word in words), told
    assert "40 questions" in said(run, step=2)
    (run / SESSIONS).unlink()
    assert "ccpo.keep_sessions above 0" in refused(run)


def test_sessions_that_are_not_the_logs_are_refused(tmp_path):
    run = save(tmp_path / "run", played(1, (1, 0), (1, 1)))
    lines = (run / SESSIONS).read_text().splitlines()
    changed = lines[0].replace('"value": 1', '"value": 0')
    (run / SESSIONS).write_text("\n".join([changed, *lines[1:]]) + "\n")
    assert "mean value 0.500000, and the run logged 0.750000" in refused(run)
    (run / SESSIONS).write_text("\n".join([*lines, lines[0]]) + "\n")
    assert "has 5 sessions of s at step 1, and the run logged 4" in refused(run)
    (run / METRICS).write_text((run / METRICS).read_text().replace("val-aux/s/sessions", "x"))
    assert "has not logged how many sessions" in refused(run)


def test_sessions_that_failed_are_counted(tmp_path):
    run = save(tmp_path / "run", played(1, (1, None), (0, 0)), asked=4)
    text = said(run)
    assert "1 of 4 sessions of step 1 failed and are left out" in text
    assert row(text, "### avg@2", SHARED)[2].startswith("0.500"), "of questions, where the log has a third"
    assert "1 question has too few sessions" in text[text.index("### pass@2") :]
    assert "too few" not in text[: text.index("### pass@2")]


def test_questions_that_a_difference_lacks_are_counted(tmp_path):
    """Each arm lacks another one: a difference is of one question, where either number is of two."""
    a = save(tmp_path / "a", played(1, (1, None), (0, 0), (0, 1)), asked=6)
    b = save(tmp_path / "b", played(1, (1, 1), (0, None), (1, 1)), asked=6, rule="removal")
    text = said(a, b)
    assert row(text, "### pass@2", "dyad, removal")[2:4] == ["1.000 [1.000, 1.000]", "+0.000"]
    assert "Up to 2 questions have too few sessions" in text and "need not be of the same questions" in text


def test_steps_and_sessions_that_differ_are_said(tmp_path):
    a = save(tmp_path / "a", played(0, (1, 1)), played(4, (1, 1)))
    b = save(tmp_path / "b", played(0, (1, 1, 0, 1)), played(6, (1, 0, 0, 0)), rule="removal")
    text = said(a, b)
    assert "at different steps (a 4, b 6)" in text and "sessions of a question differ (a 2, b 4)" in text
    assert row(text, "### pass@2", "dyad, removal")[2] == "0.500"  # 1 - C(3, 2) / C(4, 2)
    assert "different steps" not in said(a, b, step=0)
    assert "has no validation at step 5: set --step to one of 0, 4" in refused(a, b, step=5)
    assert "has no validation before step 0" in refused(a, step=0, before=True)


def test_runs_that_are_none_twice_or_of_one_seed_are_refused(tmp_path):
    a = save(tmp_path / "a", played(1, (1,)))
    (tmp_path / "link").symlink_to(a)
    assert "is given twice" in refused(a, tmp_path / "link")
    assert "have one seed, 0, and differ in none of ccpo, data" in refused(a, save(tmp_path / "copy", played(1, (1,))))
    assert "is no folder of a run" in refused(tmp_path)
    assert "--control removal is no arm; the arms are: dyad, shared" in refused(a, control="removal")
    (tmp_path / "trained").mkdir()
    RunLog(tmp_path / "trained" / METRICS).write(1, "train", {"a": 1.0})
    assert "has logged no validation" in refused(tmp_path / "trained")


def test_a_run_without_a_configuration_pairs_with_no_seed(tmp_path):
    runs = [save(tmp_path / name, played(1, (1,), (0,))) for name in "ab"]
    (runs[0] / JOB).unlink()
    (runs[1] / JOB).write_text("ccpo: &a {team: x, credit: {rule: y}, z: *a}")  # which holds itself
    text = said(*runs)
    assert row(text, "### avg@1", "b")[1:] == [
        "unknown",
        "0.500 [0.000, 1.000]",
        "+0.000 [+0.000, +0.000]",
        "no seed in common: none",
    ]
    assert "a: its configuration tells no seed" in text


def test_a_run_that_is_not_over_is_said(tmp_path):
    run = save(tmp_path / "run", played(1, (1,)))
    with run_lock(run):
        assert f"{run} is not over (process " in said(run)
    (run / LOCK).write_text("{}")  # what a killed holder leaves
    assert "is not over" not in said(run)


def test_the_command_prints_and_writes_a_tidy_file(tmp_path, monkeypatch, capsys, load_script):
    script = load_script("compare_runs")
    a = save(tmp_path / "a", played(0, (0, 0)), played(4, (0, 1)))
    b = save(tmp_path / "b", played(0, (0, 1)), played(4, (1, 1)), rule="removal", seed=3)
    out = tmp_path / "table.csv"
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", str(a), str(b), "--before", "--out", str(out)])
    script.main()
    assert capsys.readouterr().out.startswith("# 2 runs, 2 arms, control: dyad, shared\n")
    assert list(csv.DictReader(out.open())) == [
        dict(arm=arm, seed=seed, source="s", question="0", step=step, value=value)
        for arm, seed, step, value in (
            ("dyad, shared", "0", "0", "0.0"),
            ("dyad, shared", "0", "4", "0.5"),
            ("dyad, removal", "3", "0", "0.5"),
            ("dyad, removal", "3", "4", "1.0"),
        )
    ]
    c = save(tmp_path / "c\udcff", played(4, (1, 1)))  # a name that is no text
    (c / JOB).unlink()
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", str(c), "--out", str(out)])
    script.main()
    assert "\nc\\udcff," in out.read_text()
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", str(a), "--out", str(tmp_path / "no" / "table.csv")])
    with pytest.raises(SystemExit, match=r"^error: .*table.csv cannot be written \(No such file or directory\)"):
        script.main()


@pytest.mark.parametrize("name", [SESSIONS, METRICS])
@pytest.mark.parametrize(
    "make, says", [(os.mkfifo, "it is a pipe or a device"), (os.mkdir, "Is a directory")], ids=["pipe", "folder"]
)
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, name, make, says):
    run = save(tmp_path / "a", played(9, (0, 1)))
    (run / name).unlink()
    make(run / name)
    with pytest.raises(ReportError, match=f"{name} cannot be read .{says}"):
        read(run)


def trained(folder: Path, *values: float) -> Path:
    """The same run, with these values of the team in training."""
    entries = [
        {"step": i, "kind": "train", "metrics": {"ccpo/sessions/team_accuracy": v}} for i, v in enumerate(values, 1)
    ]
    with (folder / METRICS).open("a") as stream:
        stream.writelines(f"{json.dumps(entry)}\n" for entry in entries)
    return folder


def test_curves_are_means_of_stretches_and_an_arms_are_means_of_its_seeds(tmp_path):
    run = trained(save(tmp_path / "a", played(0, (0, 1))), *(float(i) for i in range(30)))
    found = picture.curve(read(run).run.entries, 30)
    assert len(found) == picture.POINTS and found[0] == (2, 1.0) and found[1] == (4.5, 3.5)  # of three and two steps
    assert picture.curve(read(run).run.entries, 2) == {0: (1, 0.0), 1: (2, 1.0)} and picture.curve([], 9) == {}
    assert picture.mean_of([{0: (1, 0.0), 1: (2, 1.0)}, {0: (1, 1.0), 2: (4, 0.5)}]) == {0: (1, 0.5)}


def test_a_mean_goes_as_far_as_all_seeds_have_trained_and_were_validated(tmp_path):
    long = trained(save(tmp_path / "a", played(60, (0, 1)), seed=0), *[0.9] * 24, *[0.1] * 60)
    short = trained(save(tmp_path / "b", played(60, (0, 1)), seed=1), *[0.9] * 24)
    (arm,) = arms_of([read(long), read(short)])
    assert {value for one in picture.curves_of(arm) for _, value in one.values()} == {0.9}
    (arm,) = arms_of([read(trained(save(tmp_path / "c", played(9, (0, 1))), *[0.5] * 30))])
    assert max(step for one in picture.curves_of(arm) for step, _ in one.values()) == 9


@pytest.mark.parametrize("before", [False, True])
def test_a_picture_of_any_arms(tmp_path, monkeypatch, before):
    rules = ["shared", "$a_b$", *(f"rule{i}" for i in range(8))]
    runs = [
        trained(
            save(tmp_path / f"{rule}-{seed}", played(0, (0, 1)), played(9, (1, 1)), rule=rule, seed=seed), *[0.5] * seed
        )
        for rule in rules
        for seed in (0, 1)
    ]
    out = tmp_path / "p.png"
    monkeypatch.setattr(
        sys, "argv", ["compare_runs.py", *map(str, runs), *["--before"][:before], "--picture", str(out)]
    )
    compare_runs.main()
    assert out.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(sys, "argv", ["compare_runs.py", str(runs[0]), "--picture", str(tmp_path)])
    with pytest.raises(SystemExit, match="cannot be written"):
        compare_runs.main()
