"""What `ccpo.data` refuses: rows that cannot be asked or judged, and files that are not what their manifest says."""

from __future__ import annotations

import copy
import hashlib
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ccpo import data
from ccpo.data import id_problem, parquet_rows, read_files, row_note, row_problem, text_problem
from data_preprocess.schema import make_row, write_dataset

GOOD = {
    "number": make_row("d", "How many?", "72", "number", "train", 0),
    "boxed": make_row("d", "What?", "\\frac{1}{2}", "boxed", "train", 0),
    "option": make_row("d", "Which?", "B", "option", "train", 0, options=["x", "y"]),
}
SURROGATE, ARABIC = "\udcff", "\u0661\u0662"


def changed(kind: str, field: str, value) -> dict:
    """A good row with one field changed; ``field`` is a path with dots."""
    row = copy.deepcopy(GOOD[kind])
    *sections, name = field.split(".")
    target = row
    for part in sections:
        target = target[part]
    target[name] = value
    return row


@pytest.mark.parametrize("kind", GOOD)
def test_good_rows(kind):
    assert row_problem(GOOD[kind], "train") is None and row_note(GOOD[kind]) is None
    assert row_problem({**GOOD[kind], "difficulty": math.nan}, "train") is None, "what nobody reads may be missing"


TRUTH = "reward_model.ground_truth"


@pytest.mark.parametrize(
    "kind, truth",
    [
        *[("number", text) for text in ("abc", "nan", "inf", "-inf", "1_000", ARABIC, "72 73", "0x10", "--1")],
        *[("number", value) for value in (None, "", " ", "\t\n", math.nan, math.inf, 72, True, ["72"], {"a": 1}, b"72")],
        *[("boxed", value) for value in (None, "", "  ", "\u200b", "{", "\\frac{1}{2", "}{", "x" * 50_000, "a\0b", SURROGATE, 5, ["5"])],
        *[("option", value) for value in ("C", "D", "E", "F", "AB", "A or B", "", " ", "1", "x", 1, None, math.nan, ["A"], SURROGATE)],
    ],
)  # fmt: skip
def test_a_truth_that_can_never_be_judged(kind, truth):
    assert "ground_truth" in row_problem(changed(kind, TRUTH, truth), "train")


@pytest.mark.parametrize(
    "kind, truth", [("number", "-1.5"), ("number", "1,000"), ("boxed", "\\pi"), ("boxed", "x" * 300), ("option", "A")]
)
def test_truths_that_can(kind, truth):
    assert row_problem(changed(kind, TRUTH, truth), "train") is None


TEXTS = ["", "  \n", "\u200b\u200b", None, 5, math.nan, b"bytes", ["text"], SURROGATE, "ab\0c", "x" * 100_001]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_that_no_model_can_be_shown(text):
    assert text_problem(text)
    assert "prompt" in (
        problem := row_problem(changed("boxed", "prompt", [{"role": "user", "content": text}]), "train")
    ) or ("question" in problem)
    assert "option B" in row_problem(changed("option", "extra_info.options", ["x", text]), "train")
    assert "data_source" in row_problem(changed("boxed", "data_source", text), "train")


@pytest.mark.parametrize(
    "prompt, says",
    [
        (None, "no prompt"),
        ([], "no prompt"),
        ("What?", "no prompt"),
        ([None], "no prompt"),
        (["What?"], "no prompt"),
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}], "'system', 'user'"),
        ([{"role": "assistant", "content": "What?"}], "'assistant'"),
        ([{"content": "What?"}], "None"),
        ([3, {"role": "user", "content": "What?"}], "would be ignored"),
    ],
)
def test_a_prompt_is_one_question(prompt, says):
    assert says in row_problem(changed("boxed", "prompt", prompt), "train")


@pytest.mark.parametrize(
    "field, value, says",
    [
        *[("extra_info.index", value, "index") for value in (None, -1, True, 1.0, math.nan, "1", [1], 2**63)],
        *[("extra_info.answer_type", value, "answer_type") for value in (None, "regex", "", 1, ["boxed"], {})],
        *[("extra_info.split", value, "split") for value in (None, "test", "", "TRAIN", 1)],
        *[("data_source", value, "data_source") for value in ("a\nb", " a", "x" * 201)],
        ("extra_info", None, "no extra_info.index"),
        ("extra_info", "text", "no extra_info.index"),
        ("reward_model", None, "no ground truth"),
    ],
)
def test_other_fields(field, value, says):
    assert says in row_problem(changed("boxed", field, value), "train")
    assert row_problem({}, "train")


@pytest.mark.parametrize(
    "kind, options, says",
    [
        ("option", "AB", "no list"),
        ("option", {"A": "x"}, "no list"),
        ("option", ["x"], "there are 1"),
        ("option", list("uvwxyz"), "there are 6"),
        ("boxed", ["x", "y"], "belong to answer_type 'option'"),
    ],
)
def test_options(kind, options, says):
    assert says in row_problem(changed(kind, "extra_info.options", options), "train")


def test_what_is_odd_is_noted_and_not_refused():
    twins = changed("option", "extra_info.options", ["same  text", "Same text", "z"])
    assert row_problem(twins, "train") is None
    assert "option A has the text of B, the right one" in row_note(twins)
    assert row_note(changed("option", "extra_info.options", ["x", "y", "X"])) is None, "the right one is the only one"
    lost = changed("boxed", "prompt", [{"role": "user", "content": "$s+\frac{1}{2}$"}])
    assert "control character '\\x0c'" in row_note(lost) and row_problem(lost, "train") is None


def test_an_id_belongs_to_one_row():
    seen: dict = {}
    other = changed("boxed", "data_source", "e")
    assert id_problem(seen, GOOD["boxed"], "a.parquet, row 0") is None
    assert id_problem(seen, other, "a.parquet, row 1") is None
    assert "those of a.parquet, row 0" in id_problem(seen, GOOD["number"], "b.parquet, row 7")


# --- files --------------------------------------------------------------------------------------------------------------


def content(tmp_path, table) -> bytes:
    pq.write_table(table, tmp_path / "x.parquet")
    return (tmp_path / "x.parquet").read_bytes()


def test_rows_with_bytes_that_are_no_text(tmp_path):
    texts = pa.array([b"good", b"caf\xe9", b"good"]).cast(pa.binary()).view(pa.string())
    nested = pa.StructArray.from_arrays(
        [pa.array([1, 2, 3]), pa.array([b"\xff", b"x", b"y"]).view(pa.string())], ["n", "t"]
    )
    first, second, third = parquet_rows(content(tmp_path, pa.table({"text": texts, "nested": nested})))
    assert "column 'nested' is not valid UTF-8" in str(first) and isinstance(first, ValueError)
    assert "column 'text' is not valid UTF-8" in str(second) and "byte 3" in str(second)
    assert third == {"text": "good", "nested": {"n": 3, "t": "y"}}


def test_a_date_beyond_pythons(tmp_path):
    dates = pa.array([0, 2**62], pa.int64()).cast(pa.timestamp("us"), safe=False)
    good, bad = parquet_rows(content(tmp_path, pa.table({"when": dates})))
    assert good["when"].year == 1970 and "column 'when' cannot be read" in str(bad)


@pytest.mark.parametrize(
    "damage", [lambda file: file[:-20], lambda file: file[: len(file) // 2], lambda file: b"", lambda file: b"PAR1"]
)
def test_no_parquet(tmp_path, damage):
    with pytest.raises(Exception, match="(?i)parquet|magic"):
        parquet_rows(damage(content(tmp_path, pa.table({"a": [1]}))))


def test_folders_named_like_columns_are_not_read_as_columns(tmp_path):
    folder = tmp_path / "seed=1"
    folder.mkdir()
    pq.write_table(pa.table({"a": [1]}), folder / "x.parquet")
    assert parquet_rows((folder / "x.parquet").read_bytes()) == [{"a": 1}]


@pytest.fixture
def made(tmp_path):
    out = tmp_path / "made"
    write_dataset(out, {"train": [GOOD["boxed"]]}, name="d", command=["python", "-m", "x"])
    return out / "train.parquet"


def test_a_file_is_what_its_manifest_says(made, tmp_path):
    assert read_files([made]) == {made: made.read_bytes()}
    own = made.with_name("own.parquet")
    own.write_bytes(b"anything")
    assert read_files([own]) == {own: b"anything"}, "a file that the manifest does not speak of"
    made.write_bytes(made.read_bytes() + b" ")
    problem = read_files([made])[made]
    assert "edited or is damaged" in problem and "python -m x" in problem and "delete the manifest" in problem
    made.with_name("manifest.json").unlink()
    assert read_files([made]) == {made: made.read_bytes()}


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"format_version": 1}', "damaged"),
        ('{"format_version": 1, "files": 3}', "damaged"),
        ('{"format_version": 1, "files": {"train.parquet": {}}}', "damaged"),
        ('{"format_version": 1, "files": {"train.parquet": {"sha256": 5}}}', "edited or is damaged"),
        ('{"format_version": 2, "files": {}}', "format_version 2"),
        ('{"start_url": "of a web page"}', None),
        ("[]", None),
    ],
)
def test_manifests(made, text, says):
    made.with_name("manifest.json").write_text(text)
    (found,) = read_files([made]).values()
    assert found == made.read_bytes() if says is None else says in found


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.parquet").mkdir()
    missing, folder = read_files([tmp_path / "no.parquet", tmp_path / "folder.parquet"]).values()
    assert missing.endswith("no.parquet does not exist") and "cannot be read" in folder


def test_a_folder_whose_replacement_was_cut_short_is_explained(made):
    folder = made.parent
    folder.rename(data.unfinished(folder))
    (problem,) = read_files([made]).values()
    assert f"rename {data.unfinished(folder)} to {folder}" in problem and "run that command again" in problem


def test_files_of_one_folder_are_of_one_state(made, monkeypatch, tmp_path):
    """The folder is replaced between the first file and the second."""
    rows = {key: [make_row("d", f"old {key}", "1", "boxed", key, 0)] for key in ("train", "test")}
    new = {key: [make_row("d", f"new {key}", "2", "boxed", key, 0)] for key in ("train", "test")}
    out = tmp_path / "two"
    write_dataset(out, rows, name="d")
    read, count = data._bytes, iter(range(100))

    def slow(path):
        if next(count) == 2:
            write_dataset(out, new, name="d")
        return read(path)

    monkeypatch.setattr(data, "_bytes", slow)
    found = read_files([out / "train.parquet", out / "test.parquet"])
    manifest = json.loads((out / "manifest.json").read_text())
    assert {path.name: hashlib.sha256(file).hexdigest() for path, file in found.items()} == {
        name: facts["sha256"] for name, facts in manifest["files"].items()
    }
