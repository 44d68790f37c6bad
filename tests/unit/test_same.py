"""scripts/same_numbers.py: what two runs have in common, to the last bit, and where they part."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ccpo.compare_runs.same import compare
from ccpo.report import ReportError
from ccpo.run.folder import JOB, MARKER, METRICS, SESSIONS, SETTINGS, step_folder
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


Tensors = dict[str, dict[str, bytes]]
"""File of a checkpoint -> its tensors, by their places in it."""


def save(
    folder: Path,
    entries: list[dict] = (VALIDATED, *STEPS),
    sessions: list[dict] = SESSIONS_OF,
    parts: dict[int, Tensors] | None = None,
    settings: dict | None = None,
) -> Path:
    """A run. Its checkpoints are as torch writes them: an archive with the bytes of each tensor, and a pickle that is another one in every process."""
    folder.mkdir()
    for name, lines in ((METRICS, entries), (SESSIONS, sessions)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step, files in (parts or {}).items():
        for name, tensors in files.items():
            path = step_folder(folder, step) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(path, "w") as archive:
                for place, content in ({"data.pkl": str(folder).encode()} | tensors).items():
                    archive.writestr(f"{path.stem}/{place}", content)
        (step_folder(folder, step) / MARKER).write_text("{}")
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
        "sessions: 3 of 3 are the same",
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
    assert "sessions: 2 of 2 are the same; 1 that one run alone has are not compared" in found.lines


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
    assert "sessions: 1 of 3 are the same" in found.lines
    number, role = (1, "a") if turns[0] != "3 + 4 = 7" else (2, "b")
    assert f"  the first with others: step 1, s 5, session 0, turn {number} ({role})" in found.lines


def test_texts_that_were_not_kept_are_no_difference(tmp_path):
    bare = [without_texts(SESSIONS_OF[0]), *SESSIONS_OF[1:]]
    found = compare(save(tmp_path / "a"), save(tmp_path / "b", sessions=bare))
    assert found.equal
    assert "sessions: 3 of 3 are the same; of 1 the texts were not kept" in found.lines


PARTS = {
    f"actor/{kind}_world_size_1_rank_0.pt": {"data/0": kind.encode(), "data/1": b"1"} for kind in ("model", "optim")
}


def test_weights_and_moments_of_the_last_common_checkpoint(tmp_path):
    moments, random = "actor/optim_world_size_1_rank_0.pt", "actor/extra_state_world_size_1_rank_0.pt"
    other = {**PARTS, moments: {"data/0": b"optim", "data/1": b"2"}}
    own = {**PARTS, random: {"data/0": b"of Python's random numbers, which nobody seeds"}}
    a = save(tmp_path / "a", parts={2: own, 4: own, 9: own})
    assert compare(a, save(tmp_path / "b", parts={2: PARTS, 4: PARTS, 7: other})).equal
    for number, changed_part in enumerate((other[moments], {"data/0": b"optim"})):
        found = compare(a, save(tmp_path / f"c{number}", parts={4: PARTS | {moments: changed_part}}))
        assert found.equal is False
        assert found.lines[-2] == (
            f"checkpoint of step 4: 1 of 2 files of weights and moments are equal; other: {moments}"
        )


@pytest.mark.parametrize("damage", ["nothing", "cut", "pipe", "missing", "text", "bits"])
def test_a_checkpoint_that_both_have_and_that_cannot_be_read_is_not_equal(tmp_path, damage):
    a, b = (save(tmp_path / name, parts={4: PARTS}) for name in "ab")
    for path in step_folder(b, 4).rglob("*.pt"):
        content = path.read_bytes()
        path.unlink()
        if damage == "pipe":
            os.mkfifo(path)
        elif damage != "missing":
            new = {
                "cut": content[:-9],
                "text": b"{}",
                "bits": content.replace(b"optim", b"optic").replace(b"model", b"modem"),
            }
            path.write_bytes(new.get(damage, content))
    found = compare(a, b)
    if damage == "nothing":
        assert found.equal
        return
    assert found.equal is None and found.lines[-1] == "not known: something that both have cannot be read"
    assert f"not compared ({step_folder(b, 4)}" in found.lines[-2]


def test_what_cannot_be_compared_is_said(tmp_path):
    a = save(tmp_path / "a")
    with pytest.raises(ReportError, match="one folder"):
        compare(a, tmp_path / "x" / ".." / "a")
    with pytest.raises(ReportError, match="nothing to compare"):
        compare(a, save(tmp_path / "b", [{**STEPS[0], "step": 8}], []))
    b = save(tmp_path / "c", settings={})
    assert compare(a, b).lines[0].startswith(f"settings: not compared ({a}: settings.json cannot be read (No such file")


# --- a wrong "equal" is the worst outcome ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"value": 0.0}, "value"),
        ({"answer": "2"}, "answer"),
        ({"question": "R?"}, "question"),
        ({"truth": "2"}, "truth"),
        ({"ballots": {"a": "1"}}, "ballots"),
        ({"credit": {"a": 0.5, "b": -0.0}}, "credit"),
        ({"replays": [{"how": "remove", "role": "a", "name": "x", "value": 1.0, "turns": []}]}, "replays"),
    ],
)
@pytest.mark.parametrize("texts", [True, False])
def test_a_session_is_more_than_its_texts(tmp_path, facts, why, texts):
    bare = without_texts if not texts else lambda one: one
    own = [{**one, "credit": {"a": 0.5, "b": 0.0}} for one in SESSIONS_OF]
    others = [own[0], {**own[1], **facts}, own[2]]
    a, b = save(tmp_path / "a", sessions=own), save(tmp_path / "b", sessions=[bare(one) for one in others])
    found = compare(a, b)
    assert found.equal is False and "sessions: 2 of 3 are the same" in found.lines[2]
    assert (
        found.lines[3]
        == f"  the first with others: step 1, s 5, session 0, {why if texts or why != 'question' else 'digest'}"
    )
    assert compare(a, save(tmp_path / "c", sessions=[bare(one) for one in own])).equal


def test_a_session_that_appears_twice_is_compared_twice(tmp_path):
    twice = [session(0, "val", 4, "another", "two"), *SESSIONS_OF]
    a, b, c = save(tmp_path / "a"), save(tmp_path / "b", sessions=twice), save(tmp_path / "c", sessions=twice)
    assert compare(a, b).equal is False and compare(b, a).equal is False and compare(b, c).equal is True


def test_sessions_that_one_run_alone_has_are_counted(tmp_path):
    others = [session(0, "val", 40, "x"), session(1, "train", 50, "y")]
    found = compare(save(tmp_path / "a"), save(tmp_path / "b", sessions=others))
    assert "sessions: 0 of 0 are the same; 5 that one run alone has are not compared" in found.lines


def test_the_sign_of_zero_counts(tmp_path):
    a, b = (save(tmp_path / str(zero), changed(STEPS, 1, actor__grad_norm=zero)) for zero in (0.0, -0.0))
    assert compare(a, b).equal is False


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("val", "val-core/perf/gsm8k/team_accuracy"),
        ("val", "timing_of_trains/team_accuracy"),
        ("train", "ccpo/perf/accuracy"),
        ("train", "superperf/actor/entropy"),
    ],
)
def test_what_only_sounds_like_a_clock_is_compared(tmp_path, kind, name):
    a, b = (save(tmp_path / str(x), [{"step": 1, "kind": kind, "metrics": {name: x}}], []) for x in (0.5, 0.6))
    assert compare(a, b).equal is False


def test_lines_without_numbers_are_no_common_ones(tmp_path):
    clocks = [{**one, "metrics": {"timing_s/step": 1.0}} for one in STEPS]
    with pytest.raises(ReportError, match="nothing to compare"):
        compare(save(tmp_path / "a", clocks, []), save(tmp_path / "b", clocks, []))
    found = compare(save(tmp_path / "c", clocks, []), save(tmp_path / "d", STEPS, []))
    assert found.equal is False and any("3 of 3" in line and "none, 0.1" in line for line in found.lines)


# --- what may lie in a folder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [SETTINGS, JOB])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_a_pipe_is_not_waited_for(tmp_path, name, what):
    a, b = save(tmp_path / "a", settings={}), save(tmp_path / "b", settings={})
    path = b / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path) if what == "pipe" else path.symlink_to("/dev/zero")
    command = [sys.executable, "scripts/same_numbers.py", str(a), str(b)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=True)
    assert ("it is a pipe or a device" in done.stdout.decode()) == (name == SETTINGS)


def test_what_a_terminal_would_obey_is_not_printed(tmp_path):
    odd = "\x1b[2J\nequal in all that both have\ud800"
    others = [{**SESSIONS_OF[1], "source": odd}, {**SESSIONS_OF[1], "source": odd, "value": 0.0}]
    a, b = (save(tmp_path / f"{i}", changed(STEPS, 1, **{odd: float(i)}), [others[i]]) for i in (0, 1))
    found = compare(a, b)
    assert all(line.isprintable() for line in found.lines)
    assert sum(r"\x1b[2J\nequal in all that both have\ud800" in line for line in found.lines) == 2


def test_json_that_is_nested_deeply_is_no_crash(tmp_path):
    for depth in (700, 900, 960, 990):
        text = json.dumps(SESSIONS_OF[1])[:-1] + f', "more": {"[" * depth + "]" * depth}}}\n'
        a, b = (save(tmp_path / f"{name}{depth}", sessions=[]) for name in "ab")
        for folder in (a, b):
            (folder / SESSIONS).write_text(text)
        try:
            assert compare(a, b).equal
        except ReportError as error:
            assert "nested too deeply" in str(error)


def run(*folders: Path, out: str = "/dev/null") -> int:
    command = [sys.executable, "scripts/same_numbers.py", *map(str, folders)]
    with open(out, "wb") as stream:
        return subprocess.run(command, cwd=ROOT, stdout=stream, stderr=subprocess.DEVNULL).returncode


def test_the_command(tmp_path):
    a, b, c = save(tmp_path / "a"), save(tmp_path / "b"), save(tmp_path / "c", changed([VALIDATED, *STEPS], 1, x=1.0))
    d, e = (save(tmp_path / name, parts={1: PARTS}) for name in "de")
    next(step_folder(e, 1).rglob("*.pt")).write_text("")
    long = tmp_path / ("x" * 300)
    for others, status in (((a, b), 0), ((a, c), 1), ((a, tmp_path / "none"), 2), ((a, long), 2), ((d, e), 2)):
        assert run(*others) == status, others
    assert run(a, b, out="/dev/full") not in (0, 1), "they are equal, and nobody was told"
