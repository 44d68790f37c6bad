"""scripts/equations.py: what an equation in a text is, and the table by hand."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from ccpo.run.folder import METRICS, SESSIONS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("equations")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("So 48/2 = 24 clips, and 48 + 24=72.", [True, True]),
        ("12*7 = 94", [False]),
        ("She pays 3 x $1,200 = $3,600 and 4×2=9.", [True, False]),
        ("100 - 50 - 30 = 20, 10 ÷ 4 = 2.5.", [True, True]),
        ("A third is 10/3 = 3.33, or 10/3 = 3.4", [True, False]),
        (".5*40 = 20", [True]),
        ("5+3 = 2+6 = 8", [True]),  # of a chain only what has a number alone on its right
        ("6 snakes x 3 birds = 20 snakes", []),  # words
        ("x+2 = 5 and 2x+3 = 9, n5+2=8", []),  # unknowns
        ("10% of 50 = 5", []),
        ("1/0 = 0", []),
        (f"{'9' * 400}+1 = 2", []),
        ("2+2 = 4*1", []),
        ("-3+5 = 2", []),
        ("123+45 = 169, 600+5 = 606.0", [False, False]),  # a hundredth of a large number is much
        ("2/3 = .66, 2/3 = 0.67 or 2/3=.68; 3.125*1=3.13", [True, True, False, True]),
        ("10/3 = 3, 1000/3 = 333", [False, False]),
        (f"1/3 = .{'4' * 40}, 1/3 = .{'3' * 40}", [False, True]),
        ("6 cats + 3 + 4 = 13, x + 4 + 1 = 21 and (2 + 3) * 4 + 1 = 21", []),  # they begin further left
        ("7 − 5 + 3 = 5 – 5, 7 − 5 + 3 = 5", [True]),
        ("Half of 20 + 3 = 13, 10% of 50 + 3 = 8, twice 3 + 4 = 10; a total of 20 + 3 = 23", [True]),
        ("- 3 + 5 = 8\n* 4+5 = 9\n1. 5+5 = 10", [True, True, True]),
        ("3+4 = 7\n- 3 of them\n5 +\n4+5 = 9", [True, True]),  # a line is a line
        ("20/50 = 40%, 3/4 = 75 %", []),
        ("2*600 = 1,200 x 3, 3+4 = 7.5*2, 5 + 2.5 = 7.50 + 3", []),  # no part of a number is one
        ("05+3 = 8, 10.05+1 = 11.05", [True, True]),
        ("2^3 + 4 = 12, 12:30 + 2 = 14, but: 3+4=7 and total:3+4=7", [True, True]),
        ("", []),
    ],
)
def test_an_equation_is_numbers_alone(script, text, expected):
    assert list(script.equations(text)) == expected


@pytest.mark.parametrize(
    "text", ["1 + " * 10**5, "1+" * 10**5 + "1=2", "9" * 10**5, "1,111" * 10**5, "1" + " " * 10**5, "x " * 10**5]
)
def test_a_long_text_takes_no_time(script, text):
    before = time.process_time()
    list(script.equations(text))
    assert time.process_time() - before < 5


def session(index: int, number: int, value: float, *texts: str | None) -> dict:
    turns = [{"role": role, "text": text} for role, text in zip(("think", "reason"), texts, strict=True)]
    return {"step": 5, "source": "s", "index": index, "session": number, "value": value, "turns": turns}


def test_the_table_by_hand(script):
    sessions = [
        session(0, 0, 0.0, "1+1 = 3, 2+2 = 4", "no equation"),
        session(0, 1, 1.0, "1+1 = 3", "1+1 = 2"),
        session(1, 0, 0.0, "2+2 = 4", None),
        session(1, 1, 0.0, "2*2 = 5", None),
    ]
    reason, think = script.rows_of(sessions)
    assert think[:4] == ["5", "s", "think", "4"] and think[5] == "1.25"
    assert [cell.split()[0] for cell in think[4:]] == ["0.250", "1.25", "0.625", "0.750"]
    assert reason[2:4] == ["reason", "2"] and [cell.split()[0] for cell in reason[4:]] == [
        "0.500",
        "0.50",
        "0.000",
        "0.000",
    ]


def test_a_run_without_texts_says_so(script, tmp_path, monkeypatch):
    entry = {"step": 1, "kind": "val", "metrics": {"val-core/s/team_accuracy": 0.5}}
    (tmp_path / METRICS).write_text(json.dumps(entry) + "\n")
    (tmp_path / SESSIONS).write_text("")
    monkeypatch.setattr(sys, "argv", ["equations.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="keep_sessions"):
        script.main()
    monkeypatch.setattr(sys, "argv", ["equations.py", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="error: .*nowhere"):
        script.main()
