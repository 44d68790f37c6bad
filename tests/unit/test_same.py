"""scripts/same_numbers.py: what two runs have in common, to the last bit, and where they part."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ccpo.compare_runs.same import compare
from ccpo.report import ReportError
from ccpo.run.folder import MARKER, METRICS, SESSIONS, SETTINGS, step_folder
from ccpo.run.texts import without_texts

ROOT = Path(__file__).parents[2]
STEPS = [
    {
        "step": step,
        "kind": "train",
        "metrics": {
            **{"ccpo/sessions/team_accuracy": 0.1 * step, "actor/grad_norm": 1 / step, "actor/entropy": 0.5},
            **{"timing_s/step": 3.0, "timing_per_token_ms/gen": 0.1, "perf/max_memory_allocated_gb": 9.0},
        },
    }
    for step in (1, 2, 3)
]
VALIDATED = {"step": 0, "kind": "val", "metrics": {"val-core/s/team_accuracy": 0.5}}


def session(step: int, kind: str, index: int, *texts: str) -> dict:
    turns = [{"role": role, "text": text} for role, text in zip("ab", texts, strict=False)]
    facts = {"step": step, "kind": kind, "source": "s", "index": index, "session": 0, "value": 1.0, "answer": "1"}
    return {**facts, "question": "Q?", "truth": "1", "turns": turns, "ballots": None, "replays": []}


SESSIONS_OF = [
    session(0, "val", 4, "one", "two"),
    session(1, "train", 5, "3 + 4 = 7", "7"),
    session(3, "train", 6, "x"),
]


def save(
    folder: Path,
    entries: list[dict] = (VALIDATED, *STEPS),
    sessions: list[dict] = SESSIONS_OF,
    sums: dict[int, dict[str, str]] | None = None,
    settings: dict | None = None,
) -> Path:
    folder.mkdir()
    for name, lines in ((METRICS, entries), (SESSIONS, sessions)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step, of_one in (sums or {}).items():
        step_folder(folder, step).mkdir()
        (step_folder(folder, step) / MARKER).write_text(json.dumps({"sha256": of_one}))
    if settings is not None:
        (folder / SETTINGS).write_text(json.dumps(settings))
    return folder


def changed(entries: list[dict], number: int, **metrics: float) -> list[dict]:
    found = copy.deepcopy(list(entries))
    found[number]["metrics"] |= {name.replace("__", "/"): value for name, value in metrics.items()}
    return found


def test_clocks_and_memory_may_differ(tmp_path):
    slower = [{**one, "metrics": {**one["metrics"], "timing_s/step": 9.0, "perf/max": 1.0}} for one in STEPS]
    found = compare(
        save(tmp_path / "a", settings={"seed": 0}), save(tmp_path / "b", [VALIDATED, *slower], settings={"seed": 0})
    )
    assert found.equal
    assert found.lines == [
        "settings: the same",
        "log: 4 of 4 lines have the same numbers",
        "sessions: 3 of 3 have the same texts",
        "checkpoint: there is no step of which both have one",
        "equal in all that both have",
    ]


def test_the_last_bit_counts(tmp_path):
    other = changed([VALIDATED, *STEPS], 2, actor__grad_norm=0.5 + 2**-53)
    assert other[2]["metrics"]["actor/grad_norm"] != 0.5
    found = compare(
        save(tmp_path / "a", settings={"seed": 0, "x": 1}), save(tmp_path / "b", other, settings={"seed": 1, "x": 1})
    )
    assert found.equal is False and found.lines[-1] == "not equal"
    assert found.lines[:3] == [
        "settings: other seed",
        "log: 3 of 4 lines have the same numbers",
        "  the first with others: step 2, actor/grad_norm",
    ]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.lines if line.startswith("|")]
    assert cells[0] == ["step", "numbers that differ", "team", "entropy", "gradient"]
    assert cells[2:4] == [["1", "0 of 3", "0.1", "0.5", "1"], ["2", "1 of 3", "0.2", "0.5", "0.5, 0.5"]]


@pytest.mark.parametrize("other", [{"actor/new": 1.0}, {"actor/entropy": float("nan")}])
def test_a_number_that_one_lacks_differs_and_none_twice_does_not(tmp_path, other):
    entries = [{**one, "metrics": {**one["metrics"], **other}} for one in STEPS]
    a, b, c = save(tmp_path / "a", STEPS), save(tmp_path / "b", entries), save(tmp_path / "c", entries)
    assert compare(a, b).equal is False and compare(b, a).equal is False and compare(b, c).equal is True


def test_a_run_that_ended_early_is_equal_in_what_it_has(tmp_path):
    found = compare(save(tmp_path / "a"), save(tmp_path / "b", [VALIDATED, *STEPS[:1]], SESSIONS_OF[:2]))
    assert found.equal
    assert "log: 2 of 2 lines have the same numbers; 2 that one run alone has are not compared" in found.lines
    assert "sessions: 2 of 2 have the same texts" in found.lines


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        (("3 + 4 = 8", "7"), "after 8 equal characters: '3 + 4 = 7' and '3 + 4 = 8'"),
        (("3 + 4 = 7", "\x1b[31m7"), r"after 0 equal characters: '7' and '\x1b[31m7'"),
        (("3 + 4 = 7",), "only one run has this turn"),
    ],
)
def test_the_first_other_text_is_shown(tmp_path, turns, why):
    others = [SESSIONS_OF[0], session(1, "train", 5, *turns), session(3, "train", 6, "y")]
    found = compare(save(tmp_path / "a"), save(tmp_path / "b", sessions=others))
    assert found.equal is False and f"  {why}" in found.lines
    assert "sessions: 1 of 3 have the same texts" in found.lines
    number, role = (1, "a") if turns[0] != "3 + 4 = 7" else (2, "b")
    assert f"  the first with others: step 1, s 5, session 0, turn {number} ({role})" in found.lines


def test_texts_that_were_not_kept_are_no_difference(tmp_path):
    bare = [without_texts(SESSIONS_OF[0]), *SESSIONS_OF[1:]]
    found = compare(save(tmp_path / "a"), save(tmp_path / "b", sessions=bare))
    assert found.equal
    assert "sessions: 2 of 2 have the same texts; 1 of which texts were not kept are not compared" in found.lines


def test_weights_and_moments_of_the_last_common_checkpoint(tmp_path):
    own = {f"actor/{kind}_world_size_1_rank_0.pt": kind for kind in ("model", "optim", "extra_state")}
    other = {
        **own,
        "actor/optim_world_size_1_rank_0.pt": "changed",
        "data.pt": "of the loader",
        "settings.json": "of another folder",
    }
    a = save(tmp_path / "a", sums={2: own, 4: own, 9: own})
    assert compare(a, save(tmp_path / "b", sums={2: other, 4: own, 7: other})).equal
    found = compare(a, save(tmp_path / "c", sums={4: other}))
    assert found.equal is False
    assert found.lines[-2] == (
        "checkpoint of step 4: 2 of 3 files of weights and moments are equal; other: actor/optim_world_size_1_rank_0.pt"
    )


def test_what_cannot_be_compared_is_said(tmp_path):
    a = save(tmp_path / "a")
    with pytest.raises(ReportError, match="one folder"):
        compare(a, tmp_path / "x" / ".." / "a")
    with pytest.raises(ReportError, match="nothing to compare"):
        compare(a, save(tmp_path / "b", [{**STEPS[0], "step": 8}], []))
    damaged = save(tmp_path / "c", sums={1: {}})
    (step_folder(damaged, 1) / MARKER).write_text("{}")
    assert any(
        "not compared (ccpo_state.json" in line for line in compare(damaged, save(tmp_path / "d", sums={1: {}})).lines
    )


def test_the_command(tmp_path):
    a, b, c = save(tmp_path / "a"), save(tmp_path / "b"), save(tmp_path / "c", changed([VALIDATED, *STEPS], 1, x=1.0))
    for others, status in (((a, b), 0), ((a, c), 1), ((a, tmp_path / "none"), 2)):
        command = [sys.executable, "scripts/same_numbers.py", *map(str, others)]
        assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == status, others
