"""data_preprocess.partial_gsm8k, on small sources made here: who reads what, lessons, rows, scores, and the vote that reads them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from statistics import fmean

import pyarrow.parquet as pq
import pytest

from ccpo.data import sha256
from ccpo.team.load import prompts_of, team_class
from ccpo.team.plan import plan
from ccpo.team.replay import play
from ccpo.team.session import Decoded, Scene
from ccpo.team.vote import Vote
from ccpo.verifier import verify
from data_preprocess import partial_gsm8k as partial
from data_preprocess import sft_roles
from data_preprocess.gaps import Guess, Problem, sentences
from data_preprocess.partial_gsm8k import COPIES, GAPS, KINDS, Gaps, Teacher, copies, copy_scores
from data_preprocess.role_targets import Solved, normal
from data_preprocess.schema import check_row


def record(number: int) -> dict:
    a, b, c = number + 20, 3 + number % 7, 11 + number % 5
    question = (
        f"Ann, no. {number}x, has {a} pens. Mr. Poe gives her {b} boxes. A box has {c} pens. How many pens has she?"
    )
    total = b * c
    return {
        "question": question,
        "answer": f"The boxes have {b}*{c}=<<{b}*{c}={total}>>{total} pens.\nIn all {a}+{total}=<<{a}+{total}={a + total}>>{a + total}.\n#### {a + total}",
    }


HOSTILE = [
    {"question": "What is 3*2?", "answer": "3*2=<<3*2=6>>6\n#### 6"},
    {"question": "Who is it? Nobody. \U0001f600 \u4f60\u597d", "answer": "Nobody.\n#### 0"},
    {"question": "It is 1.5 m. Mr. A. has \u00bd of it", "answer": "1.5/2=<<1.5/2=.75>>.75\n#### .75"},
    {"question": "[most copies lack a sentence here] A is 2. B is 9. A+B?", "answer": "2+9=<<2+9=11>>11\n#### 11"},
    {"question": "Braces {question} of 4. And \\boxed{5}. 4+5?", "answer": "4+5=<<4+5=9>>9\n#### 9"},
]


def problem(number: int = 1) -> Problem:
    one = record(number)
    return Problem(Solved.of(one["question"], one["answer"], one["answer"].rpartition(" ")[2]))


def save(folder: Path, **splits: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        (folder / f"gsm8k_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    train = [record(number) for number in range(240)] + HOSTILE
    return save(tmp_path_factory.mktemp("source"), train=train, test=[record(number) for number in range(500, 530)])


def made(source: Path, out: Path, *words: object) -> Path:
    partial.main([str(word) for word in ("--out", out, "--source", source, "--held", "0.2", *words)])
    return out


@pytest.fixture(scope="module")
def out(source, tmp_path_factory):
    return made(source, tmp_path_factory.mktemp("out") / "data")


def read(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def rows_of(out: Path) -> list[dict]:
    return [row for name in ("train", "dev", "test") for row in read(out / f"{name}.parquet")]


# --- copies -----------------------------------------------------------------------------------------------------------


def test_rows_are_gsm8ks_with_a_copy_for_every_voter(out):
    known = {one["question"]: one["answer"].rpartition(" ")[2] for one in map(record, [*range(240), *range(500, 530)])}
    for row in rows_of(out):
        check_row(row)
        assert len(row["extra_info"][COPIES]) == len(row["extra_info"][GAPS]) == 5
        truth = row["reward_model"]["ground_truth"]
        assert known.get(row["prompt"][0]["content"], truth) == truth
        assert row["extra_info"]["answer_type"] == "boxed" and row["extra_info"]["reference"] == f"\\boxed{{{truth}}}"
    sources = Counter(row["data_source"] for row in rows_of(out))
    assert set(sources) == {f"{name}/{kind}" for name in ("partial_gsm8k", "partial_gsm8k_dev") for kind in KINDS}


def test_no_voter_sees_what_is_missing(out):
    for row in rows_of(out):
        question, kind = row["prompt"][0]["content"], row["data_source"].rpartition("/")[2]
        parts = [question[first:last] for first, last in sentences(question)]
        for copy, gap in zip(row["extra_info"][COPIES], row["extra_info"][GAPS], strict=True):
            here = [part for part in parts if part in copy]
            assert parts[-1] in here, "what is asked is always there"
            if gap == "whole":
                assert copy == question
            elif gap == "harmless":
                assert copy.replace(f"{KINDS[kind].mark} ", "", 1) == question
            else:
                (hidden,) = set(parts) - set(here)
                assert copy == question.replace(hidden, KINDS[kind].mark) and copy.count(KINDS[kind].mark) >= 1
            others = [other.mark for name, other in KINDS.items() if name != kind and other.mark not in question]
            assert not any(mark in copy for mark in others)


def test_same_gap_is_the_same_for_all_who_have_it_and_own_gaps_are_spread(out):
    common_is_harmless = []
    for row in rows_of(out):
        found = list(zip(row["extra_info"][COPIES], row["extra_info"][GAPS], strict=True))
        counts = Counter(gap for _, gap in found)
        if row["data_source"].endswith("same_gap"):
            assert counts["whole"] == 1 and len({pair for pair in found if pair[1] != "whole"}) == 1
            common_is_harmless.append(counts["harmless"] > 0)
        else:
            assert counts == {"harmless": 2, "needed": 3}
            needed = Counter(copy for copy, gap in found if gap == "needed")
            assert len(needed) >= 2 and max(needed.values()) <= 2
    assert 0.2 < fmean(common_is_harmless) < 0.6


def test_no_voter_is_always_the_one_that_knows(out):
    places = Counter(
        row["extra_info"][GAPS].index("whole") for row in rows_of(out) if "whole" in row["extra_info"][GAPS]
    )
    assert set(places) == set(range(5))


def test_copies_are_those_of_the_question_and_the_salt_alone(source, out, tmp_path):
    again = made(source, tmp_path / "again")
    for name in ("train", "dev", "test", "sft_train", "sft_val"):
        assert (again / f"{name}.parquet").read_bytes() == (out / f"{name}.parquet").read_bytes()
    fewer = save(tmp_path / "fewer", train=[record(number) for number in range(200, 80, -1)], test=[record(500)])
    kept = {
        row["prompt"][0]["content"]: row["extra_info"][COPIES]
        for row in read(made(fewer, tmp_path / "b") / "train.parquet")
    }
    whole = {row["prompt"][0]["content"]: row["extra_info"][COPIES] for row in read(out / "train.parquet")}
    assert kept and kept == {question: whole[question] for question in kept}
    salted = rows_of(made(source, tmp_path / "salted", "--salt", "x"))
    assert salted != rows_of(out)


def test_what_the_team_is_worth_when_voters_do_as_they_were_taught():
    """Neither speaking nor silence is best in both kinds: the reason for the defaults of `Gaps`."""
    played = []
    for one in map(problem, range(300)):
        for kind in KINDS:
            texts, lacks = copies(one, kind, Gaps(), "")
            played.append(({"data_source": f"d/{kind}", "extra_info": {COPIES: texts, GAPS: lacks}}, one))
    same, own = partial.worth(played)["same_gap"], partial.worth(played)["own_gaps"]
    assert same["silent"] == 1.0 and 0.3 < same["speak"] < 0.5
    assert own["silent"] == 0.0 and own["speak"] >= 0.5
    assert own["right"] == pytest.approx(0.4) and same["right"] == pytest.approx(0.4, abs=0.08)


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"voters": 2}, "fewer than 3"),
        ({"voters": 65}, "at most 64"),
        ({"whole": 0}, "at least 1"),
        ({"whole": 3}, "set 1 to 2"),
        ({"voters": 4, "whole": 2}, "set 1 to 1"),
        ({"harmless": 5}, "set 1 to 4"),
        ({"harmless": 0}, "never right"),
    ],
)
def test_what_is_no_such_vote_is_refused(values, reason):
    with pytest.raises(ValueError, match=reason):
        Gaps(**values)


@pytest.mark.parametrize("gaps", [Gaps(3, 1, 1), Gaps(64, 31, 63)])
def test_any_such_vote_has_its_copies(gaps):
    for kind in KINDS:
        texts, lacks = copies(problem(), kind, gaps, "")
        assert len(texts) == len(lacks) == gaps.voters and all(texts)


# --- lessons ----------------------------------------------------------------------------------------------------------


def test_lessons_show_copies_of_taught_questions_and_say_one_of_three(out):
    prompts = prompts_of(team_class("vote"), "partial")
    known = {normal(one["question"]): one["answer"].rpartition(" ")[2] for one in map(record, range(240))}
    kinds = Counter()
    for one in read(out / "sft_train.parquet"):
        *asked, reply = one["messages"]
        kinds[one["copy"], one["says"]] += 1
        verdict = verify(reply["content"], "-1", "boxed")
        assert verdict.parsed == (one["says"] != "abstention")
        if one["copy"] == "whole":
            truth = known.get(normal(asked[-1]["content"].partition("\n\nPut your")[0]))
            assert one["says"] == "solution" and (truth is None or verdict.answer == truth)
        else:
            kind, gap = one["copy"].split("/")
            assert KINDS[kind].mark in asked[-1]["content"]
            assert one["says"] in {"needed": ("guess", "abstention"), "harmless": ("solution", "abstention")}[gap]
            assert (one["says"] == "abstention") == (reply["content"] == KINDS[kind].abstention)
        copy = asked[-1]["content"].partition("\n\nPut your")[0]
        assert asked == prompts.messages("voter_0", {"question": copy})
    gaps = {f"{kind}/{gap}" for kind in KINDS for gap in ("needed", "harmless")}
    for gap in gaps:
        said = {says: count for (copy, says), count in kinds.items() if copy == gap}
        assert 0.3 < said["abstention"] / sum(said.values()) < 0.7, "both are alive"


def test_the_share_that_abstains_is_what_is_asked(source, tmp_path):
    lessons = read(made(source, tmp_path / "a", "--abstain", "0.1") / "sft_train.parquet")
    gaps = [one["says"] for one in lessons if one["copy"] != "whole"]
    assert 0.04 < fmean(says == "abstention" for says in gaps) < 0.18


def test_what_is_taught_is_never_rewarded_and_sides_are_those_of_sft_roles(source, out, tmp_path):
    facts = json.loads((out / "manifest.json").read_text())
    assert set(facts["roles"]["shared_questions"].values()) == {0} and len(facts["roles"]["shared_questions"]) == 10
    rewarded = {normal(row["prompt"][0]["content"]) for row in rows_of(out)}
    for file in ("sft_train", "sft_val"):
        taught = {
            normal(one["messages"][1]["content"].partition("\n\nPut")[0]) for one in read(out / f"{file}.parquet")
        }
        assert taught and not taught & rewarded
    words = ("--out", tmp_path / "roles", "--source", source, "--held", "0.2", "--teams", "vote")
    sft_roles.main([str(word) for word in words])
    theirs = {row["prompt"][0]["content"] for row in read(tmp_path / "roles" / "train.parquet")}
    ours = {row["prompt"][0]["content"] for row in read(out / "train.parquet")}
    assert ours and ours < theirs
    assert facts["roles"]["counts"]["questions/train"] == len(theirs) and facts["roles"]["rows"]["train"]
    for file, found in {**facts["files"], **facts["roles"]["files"]}.items():
        assert sha256((out / file).read_bytes()) == found["sha256"]


def test_a_lesson_that_would_be_read_otherwise_is_refused():
    teacher, one = Teacher(prompts_of(team_class("vote"), "partial"), 1e-9, ""), problem()
    assert len(list(teacher.lessons(one, 0))) == 5
    for reply in ("I guess 7.", "No, it is not \\boxed{7}", "\\boxed{8}"):
        one.needed = dict.fromkeys(one.needed, Guess(reply, "7"))
        with pytest.raises(ValueError, match="would be taught is read as"):
            list(teacher.lessons(one, 0))


@pytest.mark.parametrize("text", ["Each costs 5 dollars. I can't tell.", *(kind.abstention for kind in KINDS.values())])
def test_an_abstention_in_words_is_one(text):
    assert not verify(text, "5", "boxed").parsed
    firsts = {kind.abstention.split()[0] for kind in KINDS.values()}
    assert len(firsts) == len({kind.mark for kind in KINDS.values()}) == len(KINDS)


# --- the command ------------------------------------------------------------------------------------------------------


def test_few_steps_are_asked_for(source, tmp_path):
    with pytest.raises(SystemExit, match="none are left for train: a question needs two sentences"):
        made(source, tmp_path / "a", "--most-steps", "1")
    assert not (tmp_path / "a").exists()
    assert len(read(made(source, tmp_path / "a", "--most-steps", "2") / "train.parquet")) > 50


@pytest.mark.parametrize(
    "words, reason",
    [
        (("--voters", "2"), "--voters 2"),
        (("--prompts", "odd"), "--prompts is 'odd'"),
        (("--prompts", "choice"), None),
        (("--revision", "openai/gsm8k=x"), "means nothing with --source"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(source, tmp_path, words, reason):
    if reason is None:
        assert made(source, tmp_path / "a", *words).is_dir()
        return
    with pytest.raises(SystemExit, match=reason):
        made(source, tmp_path / "a", *words)
    assert not (tmp_path / "a").exists()


def test_a_bad_row_is_named_and_another_datasets_folder_is_kept(source, tmp_path, capsys):
    bad = save(
        tmp_path / "bad", train=[*map(record, range(120)), {"question": "Q?", "answer": "#### 5"}], test=[record(500)]
    )
    with pytest.raises(SystemExit, match="no worked solution"):
        made(bad, tmp_path / "a")
    facts = json.loads((made(bad, tmp_path / "a", "--skip-bad") / "manifest.json").read_text())
    assert facts["skipped_bad_rows"] == 1
    with pytest.raises(SystemExit, match="already holds dataset 'partial_gsm8k'"):
        sft_roles.main(["--out", str(tmp_path / "a"), "--source", str(source), "--teams", "vote"])
    capsys.readouterr()
    made(bad, tmp_path / "a", "--skip-bad")
    assert "partial_gsm8k" in (tmp_path / "a" / "manifest.json").read_text()


# --- scores and the vote ----------------------------------------------------------------------------------------------


def test_scores_of_each_kind_of_copy():
    def row(kind, *gaps):
        return {"data_source": f"d/{kind}", "reward_model": {"ground_truth": "5"}, "extra_info": {GAPS: list(gaps)}}

    sessions = [
        (row("same_gap", "whole", "needed", "needed", "needed"), {"a": "5", "b": None, "c": "7", "d": "7"}),
        (row("same_gap", "whole", "needed", "needed", "needed"), {"a": None, "b": "5", "c": "7", "d": "8"}),
        (row("own_gaps", "harmless", "needed"), {"a": "5", "b": "6"}),
    ]
    assert copy_scores(sessions) == {
        "same_gap/whole/abstention_rate": 0.5,
        "same_gap/needed/abstention_rate": 1 / 6,
        "own_gaps/harmless/abstention_rate": 0.0,
        "own_gaps/needed/abstention_rate": 0.0,
        "same_gap/whole/accuracy": 1.0,
        "same_gap/needed/accuracy": 0.2,
        "own_gaps/harmless/accuracy": 1.0,
        "own_gaps/needed/accuracy": 0.0,
        "same_gap/needed/coincidence": 0.5,
    }
    assert copy_scores([]) == {}


class Judge:
    def __init__(self, truth):
        self.truth = truth

    async def verify(self, text):
        return verify(text, self.truth, "boxed")

    def label(self, answer):
        return answer

    async def same(self, a, b):
        return a == b


def test_the_vote_reads_the_copies_of_a_row(out):
    row = next(
        row
        for row in read(out / "train.parquet")
        if row["data_source"].endswith("same_gap") and "needed" in row["extra_info"][GAPS]
    )
    truth, question = row["reward_model"]["ground_truth"], row["prompt"][0]["content"]
    team, asked = Vote(n_voters=5, copies=COPIES), {}

    async def decode(role, heard, label):
        asked[role] = heard["question"]
        return Decoded(f"\\boxed{{{truth}}}" if heard["question"] == question else KINDS["same_gap"].abstention)

    scene = Scene(question, decode, lambda role, fields: fields, Judge(truth), row=row)
    found = asyncio.run(play(team, scene, plan(team), []))
    assert [asked[role] for role in team.roles] == row["extra_info"][COPIES]
    assert found.value == 1.0 and Counter(found.ballots.values()) == {None: 4, truth: 1}
