"""From what was played to numbers: labels, replays, controls, tokens, bad answers; two evaluations paired; the folder they lie in."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import time
from fractions import Fraction

import pytest

from ccpo.evaluate import EvaluationError, compare
from ccpo.evaluate.controls import affordable, groups
from ccpo.evaluate.results import (
    NoLabels,
    answer_of,
    bad_answers,
    codes_of,
    cost_of,
    ledger_of,
    measures_of,
    table_of,
    team_measures,
)
from ccpo.evaluate.sessions import donors_of
from ccpo.evaluate.store import SESSION, SESSIONS, SHUFFLED, SINGLE, differences, opened, read_result, write_result
from ccpo.evaluate.tables import notes, show_comparison
from ccpo.judge import RowJudge

SETTINGS = {"k": 2, "seed": 0, "team": {"name": "pair"}, "data": {"file": "x.parquet", "sha256": "x"}}


def row(index: int, truth: str = "1"):
    info = {"index": index, "split": "test", "answer_type": "boxed", "options": []}
    return {
        "data_source": "toy",
        "prompt": [{"role": "user", "content": f"question {index}"}],
        "reward_model": {"ground_truth": truth},
        "extra_info": info,
    }


def turn(role: str, text: str = "", tokens: int | None = 3, **more):
    known = {"role": role, "number": 0, "text": text, "truncated": False, "parsed": None, "leaked": False}
    return {**known, "prompt_tokens": 5, "completion_tokens": tokens, **more}


def session(
    index: int, number: int, value: float, answer: str | None = None, removed: float | None = None, ballots=None, **more
):
    replay = {"how": "remove", "role": "a", "value": removed, "turns": [turn("b")]}
    return {
        "source": "toy",
        "index": index,
        "session": number,
        "question": f"question {index}",
        "truth": "1",
        "value": value,
        "answer": answer,
        "ballots": ballots,
        "turns": [turn("a", "hint"), turn("b", answer or "")],
        "replays": [] if removed is None else [replay],
        **more,
    }


@pytest.fixture
def store(tmp_path):
    with opened(tmp_path / "out", SETTINGS) as found:
        yield found


def table(store, k=2, samples=None, rows=(0, 1), tie=None):
    return asyncio.run(table_of([row(index) for index in rows], store, k, tie, samples, 0))


def test_the_answer_of_a_session():
    one = session(0, 0, 1.0, "2/2")
    assert answer_of(one, None, 0) == 0 and answer_of(session(0, 0, 0.0, "7"), None, 0) == "7"
    assert answer_of(session(0, 0, 0.0), None, 0) is None
    with pytest.raises(NoLabels):
        answer_of(session(0, 0, 0.5, "7"), None, 0)
    votes = session(0, 0, 0.5, ballots={"a": "1", "b": "7", "c": None})
    drawn = {answer_of(session(0, n, 0.5, ballots=votes["ballots"]), "expected", 0) for n in range(40)}
    assert drawn == {0, "7"}  # a tie is a draw
    assert [answer_of(votes, tie, 0) for tie in ("fail", "first", "optimistic")] == [None, 0, 0]
    assert answer_of(session(0, 0, 0.0, ballots={"a": None}), "expected", 0) is None
    with pytest.raises(NoLabels):
        answer_of(session(0, 0, 1.0), "expected", 0)


def test_answers_that_mean_the_same_have_one_code():
    judge = RowJudge("1", "boxed")
    answers = [0, "0.5", None, "\\frac{1}{2}", "x+y", "y+x", "3", 0]
    assert asyncio.run(codes_of(answers, judge)) == [0, 1, -1, 1, 2, 2, 3, 0]


def test_a_table_and_its_measures(store):
    store.add(SESSION, session(0, 0, 1.0, "1", removed=0.0))
    store.add(SESSION, session(0, 1, 0.0, "7", removed=1.0))
    store.add(SESSION, session(1, 0, 1.0, "1", removed=0.0))
    store.drop(SESSION, (("toy", 1), 1), "server error (500)", "oh no")
    store.add(
        SHUFFLED,
        {
            "source": "toy",
            "index": 0,
            "session": 0,
            "replays": [{"how": "shuffle", "role": "a", "value": 0.0, "turns": []}],
        },
    )
    found = table(store)
    assert found[0]["values"] == [1.0, 0.0] and found[0]["labels"] == [0, 1]
    assert found[1]["values"] == [1.0, None] and found[1]["labels"] == [0, None]
    assert found[0]["replays"] == {"remove": {"a": [0.0, 1.0]}, "shuffle": {"a": [0.0, None]}}
    measures = measures_of(found, ("a", "b"), ("remove", "shuffle"), 2, None, 0)
    assert measures["team"]["avg"]["value"] == 0.75  # questions weigh the same
    assert measures["team"]["pass"]["2"] == {"value": 1.0, "low": None, "high": None, "questions": 1}
    removed = measures["roles"]["a"]["remove"]
    assert [removed[name]["value"] for name in ("without", "contribution", "helped", "hurt")] == [0.25, 0.5, 0.75, 0.25]
    assert measures["roles"]["a"]["shuffle"]["contribution"]["value"] == 1.0 and measures["roles"]["b"] == {}
    assert measures["controls"] == {}


def test_values_between_0_and_1_have_means_and_nothing_that_needs_right_or_wrong():
    found = team_measures([[0.5, 1.0], [0.25]], [None, [0]], 2, 0)
    assert found["avg"]["value"] == 0.5 and "pass" not in found and "right or wrong" in found["note"]


@pytest.mark.parametrize("wrong, said", [(0, True), (1, False)])
def test_an_interval_without_width_is_not_called_sure(store, wrong, said):
    """If all of 50 questions are right, 5.8 % of others may be wrong: such a sample comes in 5 % of cases."""
    for index in range(50):
        store.add(SESSION, session(index, 0, float(index >= wrong), "7"))
    entries = table(store, k=1, rows=range(50))
    found = {
        "measures": measures_of(entries, (), (), 1, None, 0),
        "questions": entries,
        "cost": {},
        "ledger": {},
        "bad": bad_answers(store, {SESSION: 50}),
    }
    assert any("up to 5.8% may differ" in line for line in notes(found, frozenset())) is said


def test_one_agent_votes_with_as_many_answers_as_the_team_pays_for(store):
    store.add(SESSION, session(0, 0, 1.0, "1"))
    store.add(SESSION, session(0, 1, 0.0, "7"))
    for number, answer in enumerate(["7", "7", "1", "1", "7", "1"]):
        alone = session(0, number, float(answer == "1"), answer) | {"turns": [turn("single", answer, 2)]}
        store.add(SINGLE, alone)
    singles = list(store.records[SINGLE].values())
    assert affordable(store.records[SESSION].values(), singles) == 3  # 6 tokens a session, 2 an answer
    [entry] = table(store, samples=Fraction(3), rows=(0,))
    assert entry["single"] == {"values": [0.0, 0.0], "labels": [1, 1]} and entry["self_consistency"] == [0.0, 1.0]
    controls = measures_of([entry], ("a",), (), 2, Fraction(3), 0)["controls"]
    assert controls["self_consistency"]["avg"]["value"] == 0.5 and controls["single"]["team_minus"]["value"] == 0.5
    assert cost_of(store, 3)["self_consistency"]["completion_tokens"] == cost_of(store, 3)["team"]["completion_tokens"]


def test_votes_spend_what_the_team_does_on_average():
    def records(*tokens):
        return [{"turns": [turn("a", tokens=count)]} for count in tokens]

    assert affordable(records(10, 13), records(4)) == Fraction(23, 8) and affordable(records(1), records(50)) == 1
    assert affordable(records(9), records(0)) == 1
    for samples in (Fraction(1), Fraction(23, 8), Fraction(7, 3), Fraction(40)):
        votes = groups(samples, 8)
        assert [number for vote in votes for number in vote] == list(range(int(8 * samples)))
        assert {len(vote) for vote in votes} <= {int(samples), -int(-samples // 1)}
    assert affordable(records(None), records(1)) is None and affordable([], []) is None


def test_tokens_and_bad_answers_are_counted(store):
    store.add(
        SESSION, session(0, 0, 0.0, None, removed=0.0) | {"turns": [turn("a", "", None), turn("b", "x", parsed=False)]}
    )
    store.drop(SESSION, (("toy", 0), 1), "context too long", "no")
    assert ledger_of(store)["sessions"]["a"] == {"turns": 1, "prompt_tokens": 5, "completion_tokens": 0, "unknown": 1}
    assert ledger_of(store)["replays"]["b"]["completion_tokens"] == 3 and ledger_of(store)["controls"] == {}
    bad = bad_answers(store, {SESSION: 2})
    assert bad["session"] == {"wanted": 2, "played": 1, "dropped": {"context too long": 1}}
    assert bad["roles"]["a"]["empty"] == 1 and bad["roles"]["b"]["unparsed"] == 1
    assert cost_of(store, None)["team"] == {"completion_tokens": None, "tokens": None}


def test_turns_come_from_another_question():
    records = {(("toy", index), number): session(index, number, 1.0) for index in range(3) for number in range(2)}
    donors = donors_of(records, ["a"], 0)
    assert donors.keys() == records.keys()
    for key, found in donors.items():
        assert found["a"]["question"] != records[key]["question"] and found["a"]["session"] == key[1]
    assert donors == donors_of(dict(reversed(records.items())), ["a"], 0) and donors != donors_of(records, ["a"], 1)


def test_without_another_question_or_a_turn_there_is_no_donor():
    alone, twin = session(0, 0, 1.0), session(1, 0, 1.0) | {"question": "question 0"}
    assert donors_of({(("toy", 0), 0): alone, (("toy", 1), 0): twin}, ["a"], 0) == {}
    records = {(("toy", 0), 0): alone, (("toy", 1), 0): session(1, 0, 1.0) | {"turns": []}}
    assert donors_of(records, ["a"], 0) == {}
    other = session(1, 1, 1.0)
    assert donors_of({(("toy", 0), 0): alone, (("toy", 1), 1): other}, ["a"], 0)[("toy", 0), 0] == {"a": other}


def test_donors_of_many_sessions_are_soon_found():
    records = {(("toy", index), number): session(index, number, 1.0) for index in range(2000) for number in range(4)}
    start = time.process_time()
    assert len(donors_of(records, ["a", "b"], 0)) == 8000
    assert time.process_time() - start < 10


# --- pairs ------------------------------------------------------------------------------------------------------------


def result(values: dict[int, list], k: int = 2, digest: str = "q", removed: float = 0.0):
    entries = [
        {
            "source": "toy",
            "index": index,
            "question": f"{digest}{index}",
            "values": list(of_one),
            "labels": [0 if value == 1 else 1 for value in of_one],
            "replays": {"remove": {"a": [removed] * len(of_one)}},
            "single": {"values": [1.0], "labels": [0]},
        }
        for index, of_one in values.items()
    ]
    return {"format": 1, "settings": {**SETTINGS, "k": k}, "questions": entries, "measures": {}}


def test_two_evaluations_are_paired_by_question():
    a, b = (
        result({0: [1.0, 1.0], 1: [0.0, 1.0], 2: [0.0, 0.0]}),
        result({2: [1.0, 1.0], 1: [0.0, 0.0], 9: [1.0, 1.0]}, removed=0.5),
    )
    found = compare.compare(a, b)
    assert (found["pairs"], found["only_a"], found["only_b"], found["other_text"]) == (2, 1, 1, 0)
    rows = {each["what"]: each for each in found["rows"]}
    assert (rows["team, avg"]["a"], rows["team, avg"]["b"]) == (0.25, 0.5)
    assert rows["team, avg"]["difference"]["value"] == -0.25 and rows["team, pass@2"]["difference"]["value"] == 0.0
    assert rows["a: contribution (remove)"]["a"] == 0.25 and rows["a: contribution (remove)"]["b"] == 0.0
    assert rows["one agent, avg"]["difference"]["value"] == 0.0
    out = io.StringIO()
    show_comparison(found, out)
    assert "2 questions pair; left out: 1 only in A, 1 only in B" in out.getvalue() and "-0.250" in out.getvalue()


def test_a_question_whose_control_was_dropped_leaves_the_others_to_compare():
    a, b = (result({index: [1.0, 1.0] for index in range(3)}) for _ in range(2))
    del b["questions"][0]["single"]
    [alone] = [each for each in compare.compare(a, b)["rows"] if each["what"] == "one agent, avg"]
    assert alone["difference"]["questions"] == 2


def test_an_evaluation_against_itself_differs_nowhere():
    a = result({index: [float(index % 2), 1.0] for index in range(30)})
    for each in compare.compare(a, a)["rows"]:
        assert (each["difference"]["low"], each["difference"]["value"], each["difference"]["high"]) == (0, 0, 0)


def test_other_questions_do_not_pair():
    with pytest.raises(EvaluationError, match="no question of A"):
        compare.compare(result({0: [1.0]}), result({1: [1.0]}))
    with pytest.raises(EvaluationError, match="no question of A"):
        compare.compare(result({0: [1.0]}), result({0: [1.0]}, digest="other"))
    mixed = result({0: [1.0, 1.0], 1: [1.0, 1.0]})
    mixed["questions"][1]["question"] = "another text"
    assert compare.compare(mixed, result({0: [1.0, 1.0], 1: [1.0, 1.0]}))["other_text"] == 1


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_torn_line_is_played_again(tmp_path):
    out = tmp_path / "out"
    with opened(out, SETTINGS) as store:
        for index in range(3):
            store.add(SESSION, session(index, 0, 1.0, "\0 \ud800 \u2028 <script>"))
    whole = (out / SESSIONS).read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == ord(b"\n")]
    for cut in {0, 1, *ends, *(at + 1 for at in ends), *range(2, len(whole), 97)} - {len(whole)}:
        (out / SESSIONS).write_bytes(whole[:cut])
        with opened(out, SETTINGS) as store:
            kept = len(store.records[SESSION])
            assert kept == max(0, whole[:cut].count(b"\n") - 1)
            for index in range(kept, 3):
                store.add(SESSION, session(index, 0, 1.0, "\0 \ud800 \u2028 <script>"))
        assert (out / SESSIONS).read_bytes() == whole


def test_nothing_is_left_where_nothing_was_played(tmp_path):
    with opened(tmp_path / "a" / "b", SETTINGS):
        pass
    assert not (tmp_path / "a").exists()


def test_a_session_that_was_dropped_and_played_later_counts_as_played(tmp_path):
    key = (("toy", 0), 0)
    with opened(tmp_path / "out", SETTINGS) as store:
        store.drop(SESSION, key, "too many requests (429)", "\ud800")
        assert store.dropped[SESSION] == {key: "too many requests (429)"}
    with opened(tmp_path / "out", SETTINGS) as store:
        assert store.dropped[SESSION] and not store.records[SESSION]
        store.add(SESSION, session(0, 0, 1.0))
    with opened(tmp_path / "out", SETTINGS) as store:
        assert not store.dropped[SESSION] and key in store.records[SESSION]


def test_other_settings_are_refused_with_the_difference(tmp_path):
    with opened(tmp_path / "out", SETTINGS) as store:
        store.add(SESSION, session(0, 0, 1.0))
    with pytest.raises(EvaluationError, match='k is 2 there, 3 here; team.name is "pair" there, "trio" here'):
        with opened(tmp_path / "out", SETTINGS | {"k": 3, "team": {"name": "trio"}}):
            pass
    assert differences({"a": 1}, {"b": [1]}) == [("a", "1", "null"), ("b", "null", "[1]")]


@pytest.mark.parametrize(
    "text", ["hello\n", '{"kind": "session"}\n', "[]\n", '{"kind": "settings"}\n', "[" * 9999 + "\n"]
)
def test_a_file_that_is_not_ours_is_refused_and_stays(tmp_path, text):
    (tmp_path / SESSIONS).write_text(text)
    with pytest.raises(EvaluationError, match="line 1"):
        with opened(tmp_path, SETTINGS):
            pass
    assert (tmp_path / SESSIONS).read_text() == text


def test_a_full_disk_is_told_and_loses_nothing(tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path; from ccpo.evaluate.store import opened\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "with opened(Path(sys.argv[1]), {}) as store:\n"
        "    for i in range(99): store.drop('session', (('toy', i), 0), 'why', 'x' * 300)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, timeout=60
    )
    assert "EvaluationError" in done.stderr and "cannot be written (File too large)" in done.stderr
    with opened(tmp_path / "out", {}) as store:
        assert 1 < len(store.dropped[SESSION]) < 99
        store.add(SESSION, session(0, 0, 1.0))
    with opened(tmp_path / "out", {}) as store:
        assert len(store.records[SESSION]) == 1


def test_two_at_once_are_refused(tmp_path):
    with opened(tmp_path / "out", SETTINGS):
        code = (
            "import sys; from pathlib import Path; from ccpo.evaluate.store import opened\n"
            "try:\n    with opened(Path(sys.argv[1]), {}): pass\nexcept ValueError as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True, timeout=60
        )
        assert f"process {os.getpid()}" in done.stdout and "works there" in done.stdout, done.stderr
    with pytest.raises(EvaluationError, match="is a file"):
        (tmp_path / "file").touch()
        with opened(tmp_path / "file", SETTINGS):
            pass


def test_a_result_is_read_back_or_refused(tmp_path):
    with pytest.raises(EvaluationError, match="when it is complete"):
        read_result(tmp_path)
    path = write_result(tmp_path, result({0: [1.0]}))
    assert read_result(tmp_path) == read_result(path) == json.loads(path.read_text())
    for text in ("{", "[]", '{"format": 1}', json.dumps(result({}) | {"format": 99})):
        path.write_text(text)
        with pytest.raises(EvaluationError, match=str(tmp_path)):
            read_result(tmp_path)


def test_a_result_that_was_changed_is_refused(tmp_path):
    whole = result({0: [1.0], 1: [0.0, None]})
    first, second = whole["questions"]
    changed = [
        *({"settings": {}}, {"settings": SETTINGS | {"seed": "0"}}, {"settings": SETTINGS | {"data": [1]}}),
        *({"questions": [first, one]} for one in (3, {}, first, second | {"index": "1"}, second | {"values": None})),
        *({"questions": [second | {"values": [value]}]} for value in ("a", float("nan"), 5, -1, True)),
    ]
    for change in changed:
        write_result(tmp_path, whole | change)
        with pytest.raises(EvaluationError, match="is not as an evaluation writes it"):
            read_result(tmp_path)
