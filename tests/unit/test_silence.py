"""The task silence: copies, rows, what voters do with them, and the vote that reads them."""

from __future__ import annotations

import asyncio
import random
from statistics import fmean

import pyarrow.parquet as pq
import pytest

from ccpo.config import CcpoConfig
from ccpo.team.plan import plan
from ccpo.team.replay import Intervention, play
from ccpo.team.session import Decoded, Scene, TeamError
from ccpo.team.vote import Vote
from ccpo.types import REMOVE
from data_preprocess import silence
from data_preprocess.schema import check_row
from data_preprocess.silence import COLUMN, KINDS, VOTERS, Copy, smudged
from data_preprocess.toy import Problem, parse_question, problem_pool

PROBLEM = Problem((3, 4, 5), ("+", "*"))


def test_a_copy_marks_the_digit_that_it_shows():
    assert Copy(PROBLEM).question == PROBLEM.question == "What is the last digit of (3+4)*5?"
    assert Copy(PROBLEM, 1, "~").question == "What is the last digit of (3+~4)*5?"
    assert Copy(PROBLEM, 2, "^").question == "What is the last digit of (3+4)*^5?"
    assert Copy(Problem((3, 4), ("+",)), 0, "~").question == "What is the last digit of ~3+4?"


def test_a_smudged_digit_is_right_as_often_as_is_said():
    rng = random.Random(0)
    copies = [smudged(PROBLEM, "~", 0.3, rng) for _ in range(4000)]
    assert 0.27 < fmean(copy.problem == PROBLEM for copy in copies) < 0.33
    assert {copy.place for copy in copies} == {0, 1, 2}
    wrong = {copy.problem.digits[0] for copy in copies if copy.place == 0} - {3}
    assert len(wrong) == 9


@pytest.fixture(scope="module")
def rows():
    return silence.dataset_rows("train", 600, seed=0)


def of_kind(rows, name):
    return [row for row in rows if row["data_source"] == f"silence/{name}"]


def test_rows_have_a_copy_for_every_voter(rows):
    for row in rows:
        check_row(row)
        assert len(row["extra_info"][COLUMN]) == VOTERS
        assert parse_question(row["prompt"][0]["content"]).answer == int(row["reward_model"]["ground_truth"])
    assert 0.4 < len(of_kind(rows, "one_smudge")) / len(rows) < 0.6
    assert rows == silence.dataset_rows("train", 600, seed=0) != silence.dataset_rows("train", 600, seed=1)


def test_one_smudge_is_the_same_for_all_who_have_it(rows):
    clean = []
    for row in of_kind(rows, "one_smudge"):
        smudges = {copy for copy in row["extra_info"][COLUMN] if "~" in copy}
        assert len(smudges) <= 1
        clean += [copy == row["prompt"][0]["content"] for copy in row["extra_info"][COLUMN]]
    assert 0.26 < fmean(clean) < 0.34


def test_own_smudges_are_everybodys_own(rows):
    found = of_kind(rows, "own_smudges")
    assert all(copy.count("^") == 1 and "~" not in copy for row in found for copy in row["extra_info"][COLUMN])
    assert fmean(len(set(row["extra_info"][COLUMN])) for row in found) > 5


def test_splits_are_those_of_last_digit(rows):
    held_out = {problem.question for problem in problem_pool("test", 2)}
    assert not held_out & {row["prompt"][0]["content"] for row in rows}
    tested = {row["prompt"][0]["content"] for row in silence.dataset_rows("test", 100, seed=0)}
    assert len(held_out & tested) == 80


def test_copies_survive_the_file(run_module, tmp_path):
    done = run_module("data_preprocess.silence", "--out", tmp_path / "s", "--train-size", 9, "--test-size", 5)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "s" / "train.parquet").to_pylist() == silence.dataset_rows("train", 9, seed=0)
    done = run_module("data_preprocess.silence", "--out", tmp_path / "t", "--test-size", 800)
    assert done.returncode == 1 and "silence: 800 test problems" in done.stderr and not (tmp_path / "t").exists()
    done = run_module("data_preprocess.silence", "--out", tmp_path / "t", "--train-size", 0)
    assert done.returncode == 1 and "at least one row" in done.stderr


def test_scores_tell_clean_copies_from_smudged_ones():
    row = {"reward_model": {"ground_truth": "5"}, "extra_info": {COLUMN: ["1+4?", "1+~4?", "1+~4?", "2+3?"]}}
    other = {"reward_model": {"ground_truth": "5"}, "extra_info": {COLUMN: ["^1+4?"] * 4}}
    sessions = [
        (row, {"voter_0": "5", "voter_1": None, "voter_2": "7", "voter_3": "6"}),
        (other, dict.fromkeys(("voter_0", "voter_1", "voter_2", "voter_3"), "5")),
    ]
    assert silence.copy_scores(sessions) == {
        "clean/abstention_rate": 0.0,
        "clean/accuracy": 0.5,
        "one_smudge/abstention_rate": 0.5,
        "one_smudge/accuracy": 0.0,
        "own_smudges/abstention_rate": 0.0,
        "own_smudges/accuracy": 1.0,
    }
    assert silence.copy_scores([]) == {}


# --- the vote ---------------------------------------------------------------------------------------------------------


class Judge:
    truth = "5"

    async def verify(self, text):
        from ccpo.verifier import verify

        return verify(text, self.truth, "boxed")

    def label(self, answer):
        return answer

    async def same(self, a, b):
        return a == b


def played(team: Vote, copies, replays=()):
    asked = []

    async def decode(role, heard, label):
        asked.append((role, heard["question"]))
        return Decoded(heard["question"])  # says what it was asked

    scene = Scene("the question", decode, lambda role, fields: fields, Judge(), row={"extra_info": {COLUMN: copies}})
    return asyncio.run(play(team, scene, plan(team), replays)), asked


def test_a_voter_reads_its_own_copy():
    team = Vote(n_voters=3, copies=COLUMN)
    copies = ["\\boxed{5}", "\\boxed{5}", "Pass."]
    found, asked = played(team, copies, [Intervention(REMOVE, role) for role in team.roles])
    assert sorted(asked) == [(role, copy) for role, copy in zip(team.roles, copies, strict=True)]
    assert found.value == 1.0 and found.ballots == {"voter_0": "5", "voter_1": "5", "voter_2": None}
    assert team.columns == (COLUMN,) and Vote().columns == ()


def test_without_copies_all_read_the_question():
    _, asked = played(Vote(n_voters=2), ["a", "b"])
    assert {text for _, text in asked} == {"the question"}


@pytest.mark.parametrize("copies", [["a", "b"], ["a", "b", "c", "d"], [], 7])
def test_another_number_of_copies_is_an_error(copies):
    """Of more, those that were left out may be the ones that the row is about: N_VOTERS has a default."""
    with pytest.raises(TeamError, match="for 3 voters: set n_voters"):
        played(Vote(n_voters=3, copies=COLUMN), copies)


def test_the_plan_knows_that_ballots_are_independent():
    team = Vote(n_voters=7, copies=COLUMN)
    found, common = plan(team), plan(Vote(n_voters=7))
    assert found == common, "a text of one's own changes neither who hears whom nor what a replay costs"
    for rule in ("shared", "own_correctness", "leave_one_out", "resampled", "shapley", "marginal"):
        node = {"team": "vote", "prompts": "toy", "team_kwargs": {"n_voters": 7, "copies": COLUMN}}
        CcpoConfig.from_dict(node | {"credit": {"rule": rule}}, 6)


def test_marks_and_words_are_of_the_same_kinds():
    from data_preprocess.silence_model import WORDS

    assert list(WORDS) == [kind.mark for kind in KINDS.values()]
    assert len(set(WORDS.values())) == len(WORDS)
