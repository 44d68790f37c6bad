"""`python -m data_preprocess.custom`: a user's own questions, from files or the hub, by the names of their columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccpo.data import read_files
from ccpo.reference import reference_problem
from data_preprocess import custom
from data_preprocess.schema import check_row

GOOD = [{"q": f"What is {i}+1?", "gold": i + 1, "hint": f"h{i}", "weight": i / 4} for i in range(8)]
BASIC = ("--question", "q", "--answer", "gold")


@pytest.fixture
def run(tmp_path, capsys):
    """run(*arguments) -> (error or None, what was printed, split -> rows)."""

    def of(*arguments) -> tuple[str | None, str, dict[str, list[dict]]]:
        try:
            custom.main(["--out", str(tmp_path / "out"), *map(str, arguments)])
        except SystemExit as ended:
            said = capsys.readouterr()
            return (ended.code if isinstance(ended.code, str) else said.err), said.out, {}
        rows = {path.stem: pq.read_table(path).to_pylist() for path in (tmp_path / "out").glob("*.parquet")}
        for found in rows.values():
            for row in found:
                check_row(row)
        return None, capsys.readouterr().out, rows

    return of


def lines(folder: Path, records: list[dict], name: str = "mine.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_columns_are_mapped_and_extra_ones_are_kept(run, tmp_path):
    error, said, rows = run("--train", lines(tmp_path, GOOD), "--split", 0.4, *BASIC, "--extra", "hint,weight")
    assert error is None and set(rows) == {"train", "test"}
    every = sorted([*rows["train"], *rows["test"]], key=lambda row: row["extra_info"]["index"])
    assert [row["reward_model"]["ground_truth"] for row in every] == [str(i + 1) for i in range(8)]
    assert every[3]["data_source"] == "mine" and every[3]["prompt"][0]["content"] == "What is 3+1?"
    assert every[3]["extra_info"]["hint"] == "h3" and every[3]["extra_info"]["weight"] == 0.75
    assert all(row["extra_info"]["split"] == split for split in rows for row in rows[split])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (
        manifest["name"] == "mine"
        and manifest["sources"][0]["file"] == "mine.jsonl"
        and "test.parquet" in manifest["files"]
    )
    assert "rows" in said
    paths = [tmp_path / "out" / f"{split}.parquet" for split in rows]
    assert all(isinstance(content, bytes) for content in read_files(paths).values())


@pytest.mark.parametrize(
    ("record", "arguments", "reference"),
    [
        ({"gold": " 1/2 "}, (), "\\boxed{1/2}"),
        ({"gold": "12"}, ("--type", "number"), "\\boxed{12}"),
        ({"gold": "no", "of": ["yes", "no"]}, ("--type", "option", "--options", "of"), "\\boxed{B}"),
        ({"gold": "7", "reference": "So: \\boxed{7}"}, ("--extra", "reference"), "So: \\boxed{7}"),
    ],
)
def test_rows_have_a_reference_that_the_verifier_finds_right(run, tmp_path, record, arguments, reference):
    error, _, rows = run("--test", lines(tmp_path, [{"q": "Which?", **record}]), *BASIC, *arguments)
    (row,) = rows["test"]
    assert error is None and row["extra_info"]["reference"] == reference
    assert reference_problem(row, "reason", own_reward=False, chain=True) is None


def test_for_an_own_reward_a_reference_is_the_users(run, tmp_path):
    path = lines(tmp_path, [{"q": "Which?", "gold": "any", "said": "any of them"}])
    _, _, rows = run("--test", path, *BASIC, "--type", "own")
    assert "reference" not in rows["test"][0]["extra_info"]
    assert "--type own: give your column with --extra reference" in reference_problem(rows["test"][0], "x", True)


def test_a_questions_side_does_not_depend_on_the_others(run, tmp_path):
    _, _, all_rows = run("--train", lines(tmp_path, GOOD * 2), "--split", 0.4, *BASIC)
    assert {row["prompt"][0]["content"] for row in all_rows["test"]}.isdisjoint(
        row["prompt"][0]["content"] for row in all_rows["train"]
    )
    _, _, rows = run("--train", lines(tmp_path, GOOD[::-1]), "--split", 0.4, *BASIC)
    for split in rows:
        assert {row["prompt"][0]["content"] for row in rows[split]} == {
            r["prompt"][0]["content"] for r in all_rows[split]
        }
    assert custom.in_test(" what IS\t3+1?\n", 0.4) == custom.in_test("What is 3+1?", 0.4)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_every_kind_of_file_gives_the_same_rows(run, tmp_path, kind):
    records = [{"q": 'Say "a,\nb".', "gold": "a"}, {"q": "Zw\u00f6lf \U0001f600?", "gold": "12"}]
    path = tmp_path / f"mine.{kind}"
    if kind == "jsonl":
        lines(tmp_path, records)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_bytes('\ufeffq,gold\r\n"Say ""a,\nb"".",a\r\n\r\nZw\u00f6lf \U0001f600?,12\r\n'.encode())
    error, _, rows = run("--test", path, *BASIC)
    assert error is None and set(rows) == {"test"}
    assert [(row["prompt"][0]["content"], row["reward_model"]["ground_truth"]) for row in rows["test"]] == [
        ('Say "a,\nb".', "a"),
        ("Zw\u00f6lf \U0001f600?", "12"),
    ]


@pytest.mark.parametrize("answer, letter", [("B", "B"), ("b", "B"), ("two", "B"), (" two ", "B"), ("A", "A")])
def test_an_option_is_a_letter_or_its_text(run, tmp_path, answer, letter):
    path = lines(tmp_path, [{"q": "Which?", "gold": answer, "o": ["one", "two"]}])
    _, _, rows = run("--test", path, *BASIC, "--options", "o", "--type", "option")
    assert rows["test"][0]["reward_model"]["ground_truth"] == letter
    assert rows["test"][0]["extra_info"]["options"] == ["one", "two"]


@pytest.mark.parametrize(
    "record, says",
    [
        ({"gold": "C", "o": ["one", "two"]}, "'gold' is 'C', neither a letter of AB nor the text of an option"),
        ({"gold": 1, "o": ["one", "two"]}, "counted from 0, or from 1? make it a letter"),
        ({"gold": "B", "o": ["B", "A"]}, "which may be any of A, B"),
        ({"gold": "x", "o": ["x", "x"]}, "which may be any of A, B"),
        ({"gold": "A", "o": "one, two"}, "column 'o' is 'one, two', not a list of texts as JSON"),
        ({"gold": "A", "o": '{"a": 1}'}, "not a list of texts"),
        ({"gold": "A", "o": None}, "column 'o' is None"),
        ({"gold": "A", "o": ["one", None]}, "column 'o' is ['one', None], not a list of texts"),
        ({"gold": "A", "o": ["one"]}, "there are 1"),
    ],
)
def test_options_that_are_wrong(run, tmp_path, record, says):
    path = lines(tmp_path, [{"q": "Which?", **record}])
    error, _, _ = run("--test", path, *BASIC, "--options", "o", "--type", "option")
    assert says in error and f"{path}: line 1" in error


def test_options_in_csv_are_json(run, tmp_path):
    path = tmp_path / "quiz.csv"
    path.write_text('q,gold,o\nWhich?,two,"[""one"", ""two""]"\n')
    _, _, rows = run("--test", path, *BASIC, "--options", "o", "--type", "option")
    assert rows["test"][0]["reward_model"]["ground_truth"] == "B"


def test_rows_for_an_own_reward_may_have_any_truth_or_none(run, tmp_path):
    path = lines(tmp_path, [{"q": "Write.", "gold": "The answer is, n/a"}])
    assert "ground_truth" in run("--test", path, *BASIC)[0]
    error, said, rows = run("--test", path, *BASIC, "--type", "own")
    assert error is None and rows["test"][0]["reward_model"]["ground_truth"] == "The answer is, n/a"
    assert "judged by a reward of your own" in said
    error, _, rows = run("--test", path, "--question", "q", "--type", "own")
    assert error is None and rows["test"][0]["reward_model"]["ground_truth"] == ""


@pytest.mark.parametrize(
    "content, says",
    [
        (b'q,gold\na,1\nb,2,3\n', "line 3: has 3 fields, and the first line names 2 columns"),
        (b'q,gold\na,1\n"b,2\nc,3\n', "line 3: cannot be read (unexpected end of data)"),
        (b'q,gold\na,1\ncaf\xe9,2\n', "line 3 is not valid UTF-8"),
        (b"q,q\na,1\n", "must name every column once"),
        (b"q,\na,1\n", "must name every column once"),
        (b"", "must name every column once"),
        (b"q,gold\n", "has no rows"),
        (b"q;gold\na;1\n", "has no column 'q': it has q;gold"),
        (b"q,gold\n" + b"x" * 140_000 + b",1\n", "line 2: the question has 140000 characters, more than 100000"),
        (b'q,gold\na,1\n ,2\n', "line 3: field 'q' is empty"),
        ("q,gold\n".encode("utf-16"), "UTF-16"),
    ],
)  # fmt: skip
def test_csv_files_that_are_wrong(run, tmp_path, content, says):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    error, _, _ = run("--test", path, *BASIC)
    assert says in error and str(path) in error and not (tmp_path / "out").exists()


def test_a_long_cell_is_its_own_rows_matter(run, tmp_path):
    long = "x" * 1_000_000
    (tmp_path / "mine.csv").write_text(f"q,gold,notes\na,1,{long}\n{long},2,\nc,3,\n")
    error, _, rows = run("--test", tmp_path / "mine.csv", *BASIC, "--skip-bad")
    assert error is None and [row["prompt"][0]["content"] for row in rows["test"]] == ["a", "c"]


def test_a_short_file_leaves_others_that_the_process_reads_their_long_cells(tmp_path):
    (tmp_path / "short.csv").write_text("q,gold\na,1\n")
    assert list(custom.csv_records(tmp_path / "short.csv"))
    assert next(csv.reader(["x" * 1000])) == ["x" * 1000]


def test_a_column_that_stands_twice_is_no_column(run, tmp_path):
    pq.write_table(pa.table([["a"], ["1"], ["2"]], names=["q", "gold", "gold"]), tmp_path / "mine.parquet")
    error, _, _ = run("--test", tmp_path / "mine.parquet", *BASIC)
    assert "column 'gold' stands twice" in error


def test_a_quote_without_end_takes_no_rows_with_it_unseen(run, tmp_path):
    (tmp_path / "mine.csv").write_text('q,gold\na,1\n"b,2\nc,3\n')
    error, _, _ = run("--test", tmp_path / "mine.csv", *BASIC, "--skip-bad")
    assert "line 3: cannot be read" in error and not (tmp_path / "out").exists()


def test_a_bad_row_is_left_out_where_asked(run, tmp_path):
    path = lines(tmp_path, [*GOOD[:2], {"q": "?", "gold": None}, {"gold": 3}, *GOOD[2:]])
    error, _, _ = run("--test", path, *BASIC)
    assert f"{path}: line 3: no field gold" in error and "Nothing was written" in error
    error, said, rows = run("--test", path, *BASIC, "--skip-bad")
    assert error is None and "skipped 2" in said and len(rows["test"]) == 8
    skipped = json.loads((tmp_path / "out" / "manifest.json").read_text())["skipped"]
    assert skipped[0].startswith("mine.jsonl: line 3: ")


def test_a_column_that_is_nowhere_is_an_error_even_with_skip_bad(run, tmp_path):
    path = lines(tmp_path, GOOD)
    error, _, _ = run("--test", path, "--question", "q", "--answer", "glod", "--skip-bad")
    assert f"{path} has no column 'glod': did you mean 'gold'? it has q, gold, hint, weight" in error
    assert "no column 'hnit': did you mean 'hint'?" in run("--test", path, *BASIC, "--extra", "hnit")[0]


@pytest.mark.parametrize(
    "values, says",
    [
        ((1, "a"), "column 'x' holds values of several kinds (int, str"),
        ((2**70, 1), "column 'x' holds values of several kinds"),
        ((1, None), "line 2: column 'x' is missing"),
        (({"a": 1}, {"a": 2}), "column 'x' is {'a': 1}: set text, a number"),
        (([1, [2]], [1]), "holds a list with an item that is [2]"),
        (("a\0", "b"), "column 'x' holds a NUL"),
        (("\ud800", "b"), "no valid Unicode"),
    ],
)
def test_extra_columns_that_are_wrong(run, tmp_path, values, says):
    path = lines(tmp_path, [{"q": f"q{i}", "gold": "1", "x": value} for i, value in enumerate(values)])
    assert says in run("--test", path, *BASIC, "--extra", "x")[0]


@pytest.mark.parametrize("values", [("a", ""), (1, 0.5), (True, False), ([1, 2], []), (["a"], ["b", "c"])])
def test_extra_columns_of_one_kind(run, tmp_path, values):
    path = lines(tmp_path, [{"q": f"q{i}", "gold": "1", "x": value} for i, value in enumerate(values)])
    error, _, rows = run("--test", path, *BASIC, "--extra", "x")
    assert error is None and [row["extra_info"]["x"] for row in rows["test"]] == list(values)


@pytest.mark.parametrize(
    "arguments, says",
    [
        ((), "there is nothing to read"),
        (("--train", "MINE"), "a job needs a test set: give --test, or --split 0.1"),
        (("--train", "MINE", "--test", "MINE", "--split", "0.1"), "--split takes the test set out of --train"),
        (("--test", "MINE", "--split", "0.1"), "--split takes the test set out of --train"),
        (("--train", "MINE", "--split", "1.5"), "is no share"),
        (("--train", "MINE", "--split", "0.0000001"), "leaves no test question"),
        (("--test", "MINE", "--type", "option"), "--options and --type option belong together"),
        (("--test", "MINE", "--options", "hint"), "--options and --type option belong together"),
        (("--test", "MINE", "--extra", "index,hint"), "--extra index: a row says something else under that name"),
        (("--test", "MINE", "--extra", "hint,hint"), "--extra names hint twice"),
        (("--test", "MINE", "--source", " a"), "--source is ' a': one line without blanks around it"),
        (("--test", "MINE", "--config", "main"), "--config is about data sets of the hub"),
        (("--test", "gone.jsonl"), "there is no file gone.jsonl"),
        (("--test", "mine"), "neither a file"),
        (("--test", "FOLDER"), "is no .jsonl, .parquet, .csv file"),
    ],
)
def test_options_that_do_not_fit(run, tmp_path, arguments, says):
    names = {"MINE": str(lines(tmp_path, GOOD)), "FOLDER": str(tmp_path)}
    error, _, _ = run(*(names.get(word, word) for word in arguments), *BASIC)
    assert says in error and not (tmp_path / "out").exists()


def test_an_answer_is_needed_unless_a_reward_judges(run, tmp_path):
    assert "give its column, --answer COL" in run("--test", lines(tmp_path, GOOD), "--question", "q")[0]


def test_the_hub_by_name_split_and_revision(run, monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path, name=None, *, split, revision):
        asked.append((path, name, split, revision))
        return datasets.Dataset.from_list(GOOD)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    error, _, rows = run("--train", "org/set", "--test", "org/set:validation@abc", "--config", "main", *BASIC)
    assert error is None and len(rows["train"]) == len(rows["test"]) == 8
    assert asked == [("org/set", "main", "train", "main"), ("org/set", "main", "validation", "abc")]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [origin["revision"] for origin in manifest["sources"]] == ["main", "abc"]


def test_the_help_says_how(capsys):
    with pytest.raises(SystemExit):
        custom.options_of(["--help"])
    assert " \\boxed{} (the default)" in capsys.readouterr().out
