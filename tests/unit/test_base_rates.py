"""What a text that says nothing of the question earns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_preprocess import gsm8k, logiqa
from data_preprocess.base_rates import best_constant, boxed, earned, fixed_texts, share
from data_preprocess.schema import make_row
from data_preprocess.toy import dataset_rows

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def row(truth: str, kind: str, options=(), index: int = 0) -> dict:
    return make_row("d", "A question of 5 words?", truth, kind, "train", index, options=options)


@pytest.mark.parametrize(
    "rows, earns",
    [
        ([row(truth, "boxed") for truth in ("\\frac{1}{2}", "0.5", "1", "2", "\\frac{2}{4}")], 0.6),
        ([row(truth, "number") for truth in ("1,000", "1000", "1000.0", "7")], 0.75),
        ([row(truth, "option", ["x", "y", "z"]) for truth in ("A", "C", "C", "b")], 0.5),
        ([row(truth, "boxed") for truth in ("x+1", "x+1", "2(x+1)", "2x+2", "1+x")], 0.6),
        (dataset_rows("test", 256, seed=0), 46 / 256),
    ],
)
def test_the_best_constant_answer_earns_what_is_reported(rows, earns):
    best = best_constant(rows)
    assert best["share"] == round(earns, 6)
    assert share(rows, boxed(best["answer"])) == pytest.approx(earns)


def real(module, name: str) -> list[dict]:
    if not DATA.is_dir():
        pytest.skip("the real data is not here")
    if module is gsm8k:
        lines = (DATA / name).read_text().splitlines()
        return [gsm8k.test_row(json.loads(line), number) for number, line in enumerate(lines)]
    records = logiqa._read_text(DATA / name)
    return [logiqa.row(record, number, "test") for number, (_, record) in enumerate(records)]


@pytest.mark.parametrize("module, name", [(gsm8k, "gsm8k_test.jsonl"), (logiqa, "logiqa_test.txt")])
def test_on_real_data_constants_earn_their_base_rate_and_texts_without_an_answer_nothing(module, name):
    rows = real(module, name)
    best = best_constant(rows)
    assert share(rows, boxed(best["answer"])) == pytest.approx(best["share"], abs=1e-6)
    assert {text: share for text, share in earned(rows[:300]).items() if share} == {}


def test_texts_without_an_answer_earn_nothing_on_the_embedded_task():
    shares = earned(dataset_rows("test", 100, seed=0))
    assert set(shares) == set(fixed_texts("q")) and set(shares.values()) == {0.0}


def test_fixed_texts_show_all_that_a_model_was_shown():
    texts = fixed_texts("Who?", ["Ann", "Bob"])
    assert texts["the question"] == "Who?" and texts["all options"] == "A. Ann\nB. Bob" and texts["nothing"] == ""
    assert set(fixed_texts("Who?")) < set(texts)
