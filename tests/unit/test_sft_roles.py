"""data_preprocess.sft_roles, on small sources made here."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ccpo.data import sha256
from data_preprocess import gsm8k, sft_roles
from data_preprocess.role_targets import normal
from data_preprocess.schema import check_row


def solved(question: str, answer: str = "1+1 = <<1+1=2>>2\n2*3 = <<2*3=6>>6\n#### 6") -> dict:
    return {"question": question, "answer": answer}


def save(folder: Path, **splits: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        (folder / f"gsm8k_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def source(tmp_path):
    train = [solved(f"How many apples, {number}?") for number in range(200)]
    train += [
        solved("how MANY  apples, 3?"),
        solved("Is this a test?"),
        solved("One step?", "It is <<2+2=4>>4.\n#### 4"),
    ]
    return save(tmp_path / "source", train=train, test=[solved("is this a TEST?"), solved("Another?")])


@pytest.fixture
def run(source, tmp_path, capsys):
    def command(*arguments: str, out: str = "out") -> tuple[Path, str]:
        words = ["--out", tmp_path / out, "--source", source, "--held", "0.2", *arguments]
        if "--teams" not in words:
            words += ["--teams", "dyad", "vote"]
        sft_roles.main([str(word) for word in words])
        return tmp_path / out, capsys.readouterr().out

    return command


def lessons(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def manifest(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


def questions(out: Path) -> dict[str, set[str]]:
    """File -> its questions, read from the files alone: those of lessons are looked for in what is asked."""
    found = {
        name: {normal(row["extra_info"]["question"]) for row in lessons(out / f"{name}.parquet")}
        for name in ("train", "dev", "test")
    }
    for file in ("sft_train", "sft_val"):
        asked = [row["messages"][-2]["content"] for row in lessons(out / f"{file}.parquet")]
        found[file] = {normal(text.partition("\n")[0]) for text in asked}
    return found


def test_what_is_taught_is_never_rewarded(run):
    out, shown = run()
    found = questions(out)
    assert all(found.values()) and "questions in two files: none" in shown
    for name, texts in found.items():
        for other, theirs in found.items():
            assert name == other or not texts & theirs, (name, other)
    assert set().union(*found.values()) == {
        *(normal(f"How many apples, {number}?") for number in range(200)),
        *("one step?", "is this a test?", "another?"),
    }
    facts = manifest(out)["roles"]
    assert facts["counts"]["questions_left_out_as_test_questions"] == 1
    assert set(facts["shared_questions"].values()) == {0} and len(facts["shared_questions"]) == 10


def test_an_overlap_would_be_counted(run, monkeypatch):
    """The count looks at what is written: a split that is broken shows."""
    monkeypatch.setattr(
        sft_roles, "side_of", lambda question, *_: "train" if "MANY" in question else sft_roles.SFT_TRAIN
    )
    monkeypatch.setattr(sft_roles, "_ours", lambda *_: set())
    with pytest.raises(SystemExit, match="none are left"):
        run()
    sides = iter(["dev", "sft_val.parquet"])
    monkeypatch.setattr(
        sft_roles,
        "side_of",
        lambda question, *_: "train" if "MANY" in question else next(sides, sft_roles.SFT_TRAIN),
    )
    out, shown = run()
    assert manifest(out)["roles"]["shared_questions"]["train, sft_train.parquet"] == 1
    assert "1 in train, sft_train.parquet" in shown


def test_long_questions_are_left_out_of_what_is_rewarded_alone(source, run):
    long = [solved(f"And how many pears, {number}?", "1\n2\n3\n#### 3") for number in range(100)]
    path = source / "gsm8k_train.jsonl"
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in long))
    all_of_them, _ = run(out="all")
    out, _ = run("--most-steps", "2")
    before, found = questions(all_of_them), questions(out)
    pears = {text for text in before["train"] if "pears" in text}
    assert pears and found["train"] == before["train"] - pears
    assert all(found[name] == before[name] for name in found if name != "train")
    facts, facts_of_all = manifest(out)["roles"], manifest(all_of_them)["roles"]
    assert facts["most_steps"] == 2 and facts_of_all["most_steps"] is None
    assert facts["counts"]["questions_left_out_for_their_steps"] == len(pears)
    assert "questions_left_out_for_their_steps" not in facts_of_all["counts"]
    with pytest.raises(SystemExit, match="none are left for train: .*--most-steps"):
        run("--most-steps", "1", "--salt", "x")


def test_lessons_are_the_prompts_of_the_teams(run):
    out, _ = run()
    taught = lessons(out / "sft_train.parquet")
    thought = next(row for row in taught if row["heard"] == "question thought")
    assert [message["role"] for message in thought["messages"]] == ["system", "user", "assistant"]
    assert "Notes from a colleague, which may be incomplete or wrong:\n1+1 = 2\n" in thought["messages"][1]["content"]
    assert thought["messages"][2]["content"] == "2*3 = 6.\n\\boxed{6}"
    assert {row["team"] for row in taught if row["heard"] == "question" and row["role"] == "reason"} == {"dyad vote"}
    assert len(taught) == len({json.dumps(row["messages"]) for row in taught})


def test_prompts_that_differ_are_lessons_of_their_own(run):
    out, _ = run("--prompts", "toy")
    assert {row["team"] for row in lessons(out / "sft_train.parquet")} == {"dyad", "vote"}


def test_rows_are_those_of_gsm8k(run, source):
    out, _ = run()
    originals = [
        gsm8k.train_row(json.loads(line), index)
        for index, line in enumerate((source / "gsm8k_train.jsonl").read_text().splitlines())
    ]
    for name, data_source, split in (("train", "gsm8k", "train"), ("dev", "gsm8k_dev", "test")):
        for row in lessons(out / f"{name}.parquet"):
            check_row(row)
            original = originals[row["extra_info"]["index"]]
            info = original["extra_info"] | {"split": split}
            assert row == {**original, "data_source": data_source, "extra_info": {**info, "options": []}}
    facts = manifest(out)
    assert facts["files"]["train.parquet"]["sha256"] == sha256((out / "train.parquet").read_bytes())
    sums = {file: known["sha256"] for file, known in facts["roles"]["files"].items()}
    assert sums == {file: sha256((out / file).read_bytes()) for file in ("sft_train.parquet", "sft_val.parquet")}
    assert facts["sources"][0] == {
        "file": "gsm8k_train.jsonl",
        "sha256": sha256((source / "gsm8k_train.jsonl").read_bytes()),
    }


def test_one_step_is_counted(run, source):
    save(source, train=[solved(f"One step, {n}?", "It is <<2+2=4>>4.\n#### 4") for n in range(100)])
    out, _ = run()
    facts = manifest(out)["roles"]
    for file in ("sft_train.parquet", "sft_val.parquet"):
        assert facts["counts"][f"one_step_questions/{file}"] == facts["counts"][f"questions/{file}"] > 0
        assert set(facts["lessons"][file]) <= {"reason(question)", "reason(question -thought)"}


def test_the_same_command_writes_the_same_bytes_over_its_own_folder(run):
    out, _ = run()
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    again, _ = run()
    assert first == {path.name: path.read_bytes() for path in again.iterdir()}
    assert sorted(first) == [
        *("dev.parquet", "manifest.json", "sft_train.parquet", "sft_val.parquet"),
        *("test.parquet", "train.parquet"),
    ]


def test_more_rows_move_nobody(run, source):
    out, _ = run()
    before = questions(out)
    save(
        source,
        train=[solved(f"How many pears, {n}?") for n in range(50)]
        + [solved(f"How many apples, {n}?") for n in range(200)],
    )
    out, _ = run()
    after = questions(out)
    for name in before:
        kept = {text for text in before[name] if "apples" in text}
        assert kept == {text for text in after[name] if "apples" in text}


def test_another_salt_is_another_split(run):
    (a, _), (b, _) = run(), run("--salt", "again", out="other")
    assert questions(a)["train"] != questions(b)["train"]


def test_a_folder_of_others_is_left_alone(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="mine.txt"):
        run()
    (out / "mine.txt").unlink()
    (out / "manifest.json").write_text('{"name": "gsm8k", "files": {}}')
    with pytest.raises(SystemExit, match="already holds dataset 'gsm8k'"):
        run()
    (out / "manifest.json").write_text("[]")
    with pytest.raises(SystemExit, match="is not a manifest"):
        run()
    assert [path.name for path in out.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    "line, reason",
    [
        ({"question": "q?", "answer": "#### 3"}, "no worked solution"),
        ({"question": "q?", "answer": "It is <<1+1=2>2\n#### 2"}, "does not end"),
        ({"question": "q?", "answer": "It is 2"}, "####"),
        ({"question": "q?", "answer": "\u0000\n#### 2"}, "NUL"),
        ({"question": "q?", "answer": "\ud800 is 2\n#### 2"}, "no valid Unicode"),
        ({"question": "q?", "answer": "x" * 200_000 + "\n#### 2"}, "characters, more than"),
        ({"question": "", "answer": "It is 2\n#### 2"}, "'question' is empty"),
        ("nonsense", "not a JSON object"),
    ],
)
def test_a_bad_row_is_named_and_stops_unless_skipped(run, source, line, reason):
    with (source / "gsm8k_train.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    with pytest.raises(SystemExit, match=reason) as refused:
        run()
    assert "line 204" in str(refused.value)
    out, _ = run("--skip-bad")
    facts = manifest(out)
    assert facts["skipped_bad_rows"] == 1 and reason in facts["skipped"][0]


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--teams", "panel"], "nobody has said what its roles are to say; known are dyad, vote"),
        (["--prompts", "choise"], "did you mean 'choice'"),
        (["--revision", "openai/gsm8k=main"], "means nothing with --source"),
        (["--limit", "2"], "none are left for"),
    ],
)
def test_a_wrong_word_is_named(run, arguments, reason):
    with pytest.raises(SystemExit, match=reason):
        run(*arguments)


@pytest.mark.parametrize("share", ["0", "1", "nan", "-0.1", "half"])
def test_a_share_is_between_0_and_1(run, share, capsys):
    with pytest.raises(SystemExit):
        run("--teach", share)
    assert "is no share" in capsys.readouterr().err


def test_the_chain_is_taught(run):
    out, _ = run("--teams", "examples/chain.py:Chain")
    roles = {(row["role"], row["heard"]) for row in lessons(out / "sft_train.parquet")}
    assert roles == {
        ("proposer", "question"),
        ("critic", "question draft"),
        ("refiner", "question draft review"),
        ("refiner", "question draft"),
        ("refiner", "question"),
    }


def sums(count: int) -> list[dict]:
    """Problems whose numbers may be others, each of another text."""
    return [
        solved(
            f"{'very ' * i}old Ann had {n} nails and lost 13.", f"{n}-13 = <<{n}-13={n - 13}>>{n - 13}.\n#### {n - 13}"
        )
        for i, n in enumerate(range(30, 30 + count))
    ]


def test_variants_are_on_the_side_of_their_question(run, tmp_path):
    save(tmp_path / "source", train=sums(90), test=[solved("Another?")])
    plain, _ = run("--teams", "vote")
    before = {file: lessons(plain / f"{file}.parquet") for file in ("sft_train", "sft_val", "train", "dev", "test")}
    out, said = run("--teams", "vote", "--variants", "3", out="variants")
    after = {file: lessons(out / f"{file}.parquet") for file in before}
    assert "questions in two files: none" in said
    for file in ("sft_val", "dev", "test"):
        assert after[file] == before[file], "what is measured is as it was"
    names = {"sft_train": "sft_train.parquet", "train": "train"}
    for file in names:
        index = (lambda row: row["index"]) if file == "sft_train" else (lambda row: row["extra_info"]["index"])
        originals = [row for row in after[file] if index(row) < sft_roles.VARIANT]
        assert originals == before[file]
        others = [row for row in after[file] if index(row) >= sft_roles.VARIANT]
        assert len(others) == 3 * len(originals) == manifest(out)["roles"]["counts"][f"variants/{names[file]}"]
        assert {index(row) % sft_roles.VARIANT for row in others} == {index(row) for row in originals}
        assert len({index(row) for row in after[file]}) == len(after[file])
    for row in after["train"]:
        check_row(row)
        nails, lost = (int(word.rstrip(".")) for word in row["extra_info"]["question"].split() if word[0].isdigit())
        assert row["reward_model"]["ground_truth"] == str(nails - lost)
        assert row["extra_info"]["reference"] == f"\\boxed{{{nails - lost}}}"


def test_a_variant_that_is_another_question_is_left_out(run, tmp_path):
    """Of a test question above all: what is tested is never taught or rewarded."""
    train = [
        solved(f"Ann had {i} nails and lost 4.", f"{i}-4 = <<{i}-4={i - 4}>>{i - 4}.\n#### {i - 4}")
        for i in range(5, 10)
    ]
    test = [solved(f"Ann had {i} nails and lost {j}.") for i in range(2, 10) for j in range(2, 10) if (i * j) % 5]
    save(tmp_path / "source", train=train + sums(60), test=test)
    out, _ = run("--teams", "vote", "--variants", "30")
    counts = manifest(out)["roles"]["counts"]
    assert counts["variants_left_out_as_known_questions"] > 10
    assert not any(manifest(out)["roles"]["shared_questions"].values())
    found = questions(out)
    assert not found["test"] & (found["train"] | found["sft_train"])


@pytest.mark.parametrize("number", ["-1", "101", "many", "2.5", ""])
def test_a_wrong_number_of_variants_is_refused(run, number, capsys):
    with pytest.raises(SystemExit):
        run("--variants", number)
    assert "set a whole number from 0 to 100" in capsys.readouterr().err


def test_practice_is_of_taught_solutions_alone(run, tmp_path):
    taught_side = save(tmp_path / "source", train=sums(90), test=[solved("Another?")])
    before, _ = run("--teams", "dyad", "vote")
    out, said = run("--teams", "dyad", "vote", "--practice", "25", out="practice")
    assert taught_side.exists() and "3 reason(practice)" in said and manifest(out)["roles"]["practice"] == 25
    for file in ("sft_val", "train", "dev", "test"):
        assert lessons(out / f"{file}.parquet") == lessons(before / f"{file}.parquet")
    taught = lessons(out / "sft_train.parquet")
    practised = [row for row in taught if row["heard"] == sft_roles.PRACTICE]
    assert [row for row in taught if row["heard"] != sft_roles.PRACTICE] == lessons(before / "sft_train.parquet")
    assert [(row["index"], row["team"]) for row in practised] == [
        (-1, "dyad vote"),
        (-2, "dyad vote"),
        (-3, "dyad vote"),
    ]
    whole = []
    for row in practised:
        *written, box = row["messages"][-1]["content"].split("\n")
        asked = row["messages"][-2]["content"].split("\n")
        assert (
            asked[0] == "Finish each line."
            and [line.partition("=")[0] + "=" for line in written] == asked[1 : len(written) + 1]
        )
        assert box == f"\\boxed{{{written[-1].rstrip('.').split('= ')[1]}}}"
        whole += written
    assert len(set(whole)) == 25
    for line in whole:
        left, right = line.rstrip(".").split(" = ")
        first, second = map(int, left.split("-"))
        assert first - second == int(right)


def test_more_practice_than_there_is_is_refused(run):
    with pytest.raises(SystemExit, match=r"--practice 9999999: the taught solutions have \d\d such lines"):
        run("--practice", "9999999")


@pytest.mark.parametrize("number", ["-1", "1e3", "", "12345678"])
def test_a_wrong_amount_of_practice_is_refused(run, number, capsys):
    with pytest.raises(SystemExit):
        run("--practice", number)
    assert "whole number" in capsys.readouterr().err


def test_indexes_that_would_be_those_of_variants_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sft_roles, "VARIANT", 50)
    save(tmp_path / "source", train=sums(60), test=[solved("Another?")])
    with pytest.raises(SystemExit, match="--variants: a source of more than 50 rows"):
        run("--variants", "1")
    run("--variants", "0")
