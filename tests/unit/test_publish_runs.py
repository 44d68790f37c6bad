"""scripts/publish_runs.py: an archive gives the numbers that the run gives, and the page's numbers are those of its archives."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
from test_compare_runs import played, row, said, save, session

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import publish_runs  # noqa: E402

from ccpo.compare_runs.arms import arms_of  # noqa: E402
from ccpo.compare_runs.tables import lines_of  # noqa: E402
from ccpo.compare_runs.validations import read  # noqa: E402
from ccpo.evaluate.measures import mean  # noqa: E402
from ccpo.report.logged import TEAM_IN_TRAINING, series  # noqa: E402
from ccpo.run.folder import METRICS, SESSIONS  # noqa: E402
from ccpo.run.lock import run_lock  # noqa: E402

RUNS = ROOT / "docs" / "runs"


SAID = {
    "role": "think",
    "number": 0,
    "text": "so it is 7",
    "truncated": False,
    "cut": False,
    "answer": None,
    "parsed": None,
}


def unpacked(archives: Path, to: Path) -> list[Path]:
    """As the script's own documentation does it."""
    to.mkdir()
    subprocess.run(f"cat {archives}/*.tar.xz | tar xJi -C {to}", shell=True, check=True, timeout=60)
    return sorted(to.iterdir())


def replay(value: float, shared: bool) -> dict:
    return {"how": "remove", "role": "think", "name": "solo", "value": value, "shared": shared, "turns": []}


def test_an_archive_gives_the_numbers_of_the_run(tmp_path):
    ends = [
        [
            session(step, i, n, float(n == i), replays=[replay(0.5, n == 0)], turns=[SAID])
            for i in (0, 1)
            for n in (0, 1)
        ]
        for step in (0, 9)
    ]
    train = {**session(3, 0, 0, 1.0), "kind": "train"}
    runs = [save(tmp_path / "a", *ends), save(tmp_path / "b", *ends, rule="counterfactual", seed=1)]
    with (runs[0] / SESSIONS).open("a") as stream:
        stream.write(f"{publish_runs.as_json(train)}\n")
    publish_runs.main([*map(str, runs), "--out", str(tmp_path / "out")])
    folders = unpacked(tmp_path / "out", tmp_path / "again")
    assert said(*folders, before=True) == said(*runs, before=True)
    text = (folders[0] / SESSIONS).read_text()
    assert "Q0?" not in text and SAID["text"] not in text and '"train"' not in text
    assert (folders[0] / METRICS).read_bytes() == (runs[0] / METRICS).read_bytes()


def test_the_same_run_gives_the_same_bytes_and_an_archive_can_be_made_of_an_unpacked_one(tmp_path):
    run = save(tmp_path / "a", played(0, (0, 1)))
    publish_runs.main([str(run), "--out", str(tmp_path / "out")])
    (again,) = unpacked(tmp_path / "out", tmp_path / "again")
    publish_runs.main([str(again), "--out", str(tmp_path / "twice")])
    assert (tmp_path / "out" / "a.tar.xz").read_bytes() == (tmp_path / "twice" / "a.tar.xz").read_bytes()


@pytest.mark.parametrize("name", ["r" * 240, os.fsdecode(b"run-\xff")])
def test_any_folder_name_comes_back(tmp_path, name):
    run = save(tmp_path / name, played(0, (0, 1)))
    publish_runs.main([str(run), "--out", str(tmp_path / "out")])
    assert [one.name for one in unpacked(tmp_path / "out", tmp_path / "again")] == [name]


def test_what_is_not_whole_or_still_trains_is_refused(tmp_path, capsys):
    out = tmp_path / "out"
    short = save(tmp_path / "short", played(0, (0, 1)))
    (short / SESSIONS).write_text(publish_runs.as_json(played(0, (0, 1))[0]) + "\n")
    with pytest.raises(SystemExit, match="1 of 2 sessions"):
        publish_runs.main([str(short), "--out", str(out)])
    none = save(tmp_path / "none", played(0, (0, 1)))
    (none / METRICS).write_text('{"step": 1, "kind": "train", "metrics": {}}\n')
    with pytest.raises(SystemExit, match="no validation"):
        publish_runs.main([str(none), "--out", str(out)])
    run = save(tmp_path / "run", played(0, (0, 1)))
    with run_lock(run), pytest.raises(SystemExit, match="being trained"):
        publish_runs.main([str(run), "--out", str(out)])
    with pytest.raises(SystemExit):
        publish_runs.main([str(run), str(run), "--out", str(out)])
    assert "two runs of one name" in capsys.readouterr().err and not out.exists()


def test_a_validation_that_was_thinned_out_in_the_middle_is_no_obstacle(tmp_path):
    ends = [played(step, (0, 1)) for step in (0, 5, 9)]
    run = save(tmp_path / "a", *ends)
    (run / SESSIONS).write_text(
        "".join(publish_runs.as_json(one) + "\n" for of_one in (ends[0], ends[2]) for one in of_one)
    )
    publish_runs.main([str(run), "--out", str(tmp_path / "out")])
    (again,) = unpacked(tmp_path / "out", tmp_path / "again")
    assert said(again, before=True) == said(run, before=True)


def short(number: str) -> str:
    """As the pages write numbers: .107 for 0.107."""
    return re.sub(r"(?<![\d.])0\.", ".", number)


PAGES = sorted(path.stem for path in RUNS.glob("*.md") if (RUNS / path.stem).is_dir())
NUMBER = r"[+-]?\d*\.\d{3}"
INTERVAL = rf"(?:{NUMBER} )?\[{NUMBER}, {NUMBER}\]"


@pytest.fixture(scope="module", params=PAGES)
def page(request, tmp_path_factory):
    """(the section Results, arms, what compare_runs says of all arms and of each alone, numbers as pages write them)"""
    text = (RUNS / f"{request.param}.md").read_text().split("## Results")[1].split("## Commands")[0]
    folders = unpacked(RUNS / request.param, tmp_path_factory.mktemp("page") / "runs")
    arms = arms_of([read(folder, before=True) for folder in folders], "shared")
    said = {arm.name: short("\n".join(lines_of([arm], before=True))) for arm in arms}
    return text, arms, said | {"": short("\n".join(lines_of(arms, before=True)))}


def test_the_first_table_of_a_page_is_that_of_its_archives(page):
    text, arms, said = page
    for arm in arms:
        team, rule = arm.name.split(", ")
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {team}, `{rule}` |")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        questions = [q for one in arm.seeds.values() for key, q in one.first.questions.items() if key[0] == "gsm8k"]
        first = mean([mean(question.values) for question in questions])
        _, _, after, change, seeds, *_ = row(said[""], "### avg@8", arm.name)
        assert cells[1].split()[0] == str(len(arm.seeds))
        assert cells[2:] == [short(f"{first:.3f}"), after, change, seeds.removesuffix(f", {len(arm.seeds)} seeds")]


def test_the_curves_of_a_page_are_those_of_its_archives(page):
    text, arms, _ = page
    for arm in arms:
        for seed, one in arm.seeds.items():
            values = series(one.run.entries, TEAM_IN_TRAINING)[1]
            cells = [short(f"{fmean(values[i : i + 20]):.3f}") for i in range(0, len(values), 20)]
            assert f"| `{arm.name.split(', ')[1]}` {seed} | {' | '.join(cells)} |" in text


def test_every_interval_of_a_page_is_one_that_its_archives_give(page):
    text, arms, said = page
    given = "\n".join(said.values())
    lines = [line for line in text.splitlines() if "equation" not in line]  # those need texts
    found = re.findall(INTERVAL, "\n".join(lines))
    assert len(found) >= 6 * len(arms)
    for one in found:
        assert one in given or f"({one})" in given, one
