"""Where an answer begins in the tokens that a speaker sampled, with the embedded model's tokenizer and with merges as real ones have them."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ccpo.reference import Behind, answer_part, behind, border_problem, reference_problem
from data_preprocess.toy import dataset_rows

TOY = AutoTokenizer.from_pretrained(Path(__file__).parents[2] / "data_preprocess" / "last_digit_model")


class Merged:
    """Splits a text greedily into these pieces, else into letters: punctuation merges with braces, letters do not."""

    PIECES = ("\\boxed!", " \\", "box", "ed", "{\\", "frac", "}{", "}}", "}$", "}.", "=", "<end>")

    def __init__(self):
        self.listed = [*self.PIECES]

    def encode(self, text, add_special_tokens=False):
        found = []
        while text:
            piece = next((piece for piece in self.PIECES if text.startswith(piece)), text[0])
            if piece not in self.listed:
                self.listed.append(piece)
            found.append(self.listed.index(piece))
            text = text[len(piece) :]
        return found

    def decode(self, ids, clean_up_tokenization_spaces=None):
        return "".join(self.listed[number] for number in ids)


MERGED = Merged()


@pytest.mark.parametrize(
    ("tokenizer", "reference", "opener", "answer"),
    [
        (TOY, "\\boxed{7}", "\\boxed{", "7"),
        (MERGED, "\\boxed{12}", "\\boxed", "{12"),
        (MERGED, "\\boxed{\\frac{1}{2}}", "\\boxed", "{\\frac{1}{2"),  # its last token closes the box, too
        (MERGED, "So \\boxed{12}$.", "\\boxed", "{12"),
        (MERGED, "\\boxed{x=}.", "\\boxed", "{x="),
    ],
)
def test_the_answer_begins_at_a_token_and_ends_before_the_one_that_closes_it(tokenizer, reference, opener, answer):
    found, ids = answer_part(tokenizer, reference)
    assert (found, tokenizer.decode(ids)) == (opener, answer)


@pytest.mark.parametrize("reference", ["12", "\\boxed 7", "\\boxed{12", "\\boxed{}}", "\\boxed!{7}", "\\boxed{}"])
def test_a_reference_without_a_border_or_an_answer_has_none(reference):
    assert answer_part(MERGED, reference) is None
    assert behind(MERGED, reference, MERGED.encode("\\boxed{7}"), 99) is None


def found(text: str, room: int = 99) -> Behind | None:
    return behind(MERGED, "\\boxed{12}", MERGED.encode(text), room)


def test_what_is_kept_ends_with_the_first_opener():
    for text, said in (
        ("Two steps: \\boxed{12}$.<end>", True),
        ("\\boxed{12}", True),
        ("\\boxed{123}<end>", True),  # the verdict says what that is worth
        ("\\boxed{1}<end>", False),
        ("\\boxed{}, then \\boxed{12}", False),
        ("\\boxed{\\frac{12}{1}}", False),
        ("I say \\boxed", False),
    ):
        border, ids = found(text), MERGED.encode(text)
        assert MERGED.decode(ids[: border.length]) == text[: text.index("\\boxed") + 6], text
        assert border.said == said and MERGED.decode(border.answer) == "{12"


@pytest.mark.parametrize("text", ["", "12", "\\box{12}", "\\boxed!{12}", "so:\\boxed!, \\boxed{12}"])
def test_without_an_opener_or_with_one_inside_a_token_there_is_no_border(text):
    assert found(text) is None


def test_a_border_behind_which_the_answer_does_not_fit_is_none():
    """Then it could not be said: its likelihood would not be the chance of that."""
    length = len(MERGED.encode("so \\boxed"))
    assert found("so \\boxed{12}", room=length + 3).said
    assert found("so \\boxed{12", room=length + 2) is None is found("so \\boxed", room=length)


@pytest.mark.parametrize("after", ["", "{12}", "{12}$.", "{13}", "{", " and \\boxed{12}", "!"])
def test_the_border_is_decided_by_what_is_before_it(after):
    """Whatever is said later: only `said` may change."""
    before = "a, \\boxed"
    border = behind(MERGED, "\\boxed{12}", [*MERGED.encode(before), *MERGED.encode(after)], 99)
    assert (border.length, border.answer) == (len(MERGED.encode(before)), found("a, \\boxed{12}").answer)


def test_what_is_refused():
    (row,) = dataset_rows("train", 1, seed=0)
    assert reference_problem(row, "reason", False, chain=True) is None
    row["extra_info"]["answer_type"] = "number"
    row["extra_info"]["reference"] = f"The answer is {row['reward_model']['ground_truth']}."
    assert reference_problem(row, "reason", False) is None
    assert (
        "where another answer begins is not known; write the reference so, and ask reason for it"
        in reference_problem(row, "reason", False, chain=True)
    )
    assert border_problem(TOY, ["7", "\\boxed{7}"], "reason") is None
    assert "a token of reason's model" in border_problem(MERGED, ["\\boxed!{7}", "7"], "reason")
