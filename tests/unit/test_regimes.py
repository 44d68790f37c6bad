"""scripts/regimes.py: every regime differs from its base in what it says; what is run, and what the tables say."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("regimes", ROOT / "scripts" / "regimes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(node, path: str = "") -> dict[str, object]:
    if not isinstance(node, dict):
        return {path: node}
    found: dict[str, object] = {}
    for key, value in node.items():
        found |= flat(value, f"{path}.{key}" if path else key)
    return found


def keys(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


# --- the list ---------------------------------------------------------------------------------------------------------


def test_each_regime_has_all_it_needs(script):
    for name, regime in script.regimes().items():
        assert name == regime.name and re.fullmatch(r"[a-z0-9_]+", name)
        assert regime.says and regime.team and regime.task and regime.data and regime.starts
        assert regime.rules[0] == "shared" and len(set(regime.rules)) == len(regime.rules) > 1
        assert regime.seconds > 0 and (not regime.base or name.startswith(f"{regime.base}_"))
        if "model.path" in " ".join(regime.changes):
            assert any(f"models/{start}" in " ".join(regime.changes) for start in regime.starts)


def test_all_that_is_made_is_used(script):
    import regime_list

    chosen = script.regimes().values()
    assert {regime.data for regime in chosen} == set(regime_list.DATASETS)
    from data_preprocess.toy_starts import STARTS

    assert set(STARTS) <= {start for regime in chosen for start in regime.starts}


def test_regimes_differ_from_their_base_in_what_they_say(script, monkeypatch):
    pytest.importorskip("verl")
    monkeypatch.chdir(ROOT)
    every = script.regimes()
    configs = script.configurations(list(every.values()), [0], Path("d"), [])
    of = {regime.name: flat(configs[script.Job(regime.name, "shared", 0)]) for regime in every.values()}
    for regime in every.values():
        if not regime.base:
            continue
        own, base = of[regime.name], of[regime.base]
        differing = {key for key in own | base if own.get(key) != base.get(key)}
        said = set(map(keys, regime.changes)) | ({"ccpo.team"} if regime.team != every[regime.base].team else set())
        assert (
            said and {next((one for one in said if f"{key}.".startswith(f"{one}.")), key) for key in differing} == said
        ), regime.name


def test_all_rules_of_all_regimes_are_accepted(script, monkeypatch):
    """`compare_credit.configurations` looks at every rule of every regime."""
    pytest.importorskip("verl")
    monkeypatch.chdir(ROOT)
    chosen = list(script.regimes().values())
    found = script.configurations(chosen, [3, 1], Path("d"), ["trainer.total_training_steps=2"])
    assert len(found) == 2 * sum(len(regime.rules) for regime in chosen)
    order = list(found)
    assert [job.seed for job in order] == sorted((job.seed for job in order), key=[3, 1].index), "seeds are outermost"
    costs = [script.regimes()[job.regime].seconds for job in order if job.seed == 3]
    assert costs == sorted(costs, reverse=True)
    assert {config["trainer"]["total_training_steps"] for config in found.values()} == {2}
    assert found[script.Job("dyad", "shared", 1)]["data"]["train_files"] == "d/last_digit/train.parquet"


def test_one_kind_of_prompt_is_half_of_the_two(script):
    import regime_list

    both, halves = (
        regime_list.DATASETS["silence"](),
        [regime_list.DATASETS[name]() for name in ("one_smudge", "own_smudges")],
    )
    for split, rows in both.items():
        kept = [row for half in halves for row in half[split]]
        assert sorted(row["extra_info"]["index"] for row in kept) == [row["extra_info"]["index"] for row in rows]
    assert {row["data_source"] for row in halves[0]["train"]} == {"silence/one_smudge"}


# --- the command ------------------------------------------------------------------------------------------------------


def test_arguments(script):
    known = script.arguments(["--only", "dyad_n2", "dyad", "a.b=1", "--seeds", "2-3"])
    assert [regime.name for regime in known.chosen] == ["dyad", "dyad_n2"] and known.seeds == [2, 3]
    assert known.overrides == ["a.b=1"] and len(script.arguments([]).chosen) == len(script.regimes())
    assert script.arguments(["--seeds", "0", "a.b=1"]).overrides == ["a.b=1"]


@pytest.mark.parametrize(
    "words, says",
    [
        (["--only", "dyda"], "--only dyda: there is no such regime"),
        (["--jobs", "0"], "--jobs is 0: set at least 1"),
        (["--minutes", "0"], "--minutes is 0"),
        (["--minutes", "nan"], "--minutes is nan"),
        (["--nonsense"], "--nonsense is no argument"),
        (["dyad"], "dyad is no argument"),
        (["--list", "--prepare"], "not allowed with"),
    ],
)
def test_mistakes_of_the_command(script, words, says, capsys):
    with pytest.raises(SystemExit):
        script.arguments(words)
    assert says in capsys.readouterr().err


def test_the_list_counts_runs(script, capsys):
    script.main(["--list", "--only", "dyad", "vote", "--seeds", "0-1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["dyad", "10"], ["vote", "8"]]
    assert lines[-1].startswith("18 runs, about ")


# --- what is run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(script, monkeypatch, tmp_path):
    """Runs in this process; ``pool.ran``: which; ``pool.fails``: those that raise"""
    from concurrent.futures import Future

    class Here:
        ran: list = []
        fails: set = set()

        def submit(self, function, task, rule, seed, config, path):
            future: Future = Future()
            Here.ran.append((task, rule, seed))
            if (rule, seed) in Here.fails:
                future.set_exception(Here.fails_with)
            else:
                path.write_text(json.dumps({"rule": rule}))
                future.set_result(1.0)
            return future

        def shutdown(self, **kwargs): ...

    Here.ran, Here.fails, Here.fails_with = [], set(), ValueError("no")
    monkeypatch.setattr(script, "_pool", lambda jobs: Here())
    return Here


def jobs(script, count: int = 5):
    return [script.Job("dyad", "shared", seed) for seed in range(count)]


def test_a_run_that_fails_does_not_end_the_others(script, pool, tmp_path, capsys):
    pool.fails = {("shared", 1)}
    listed = jobs(script)
    failed = script.run_missing({"dyad": "t"}, dict.fromkeys(listed), listed, tmp_path, 2, float("inf"))
    assert failed == {listed[1]: "ValueError: no"} and len(pool.ran) == 5
    assert "[5/5] dyad, shared, seed 4: 1 s; 0.0 min left" in capsys.readouterr().out


def test_a_process_that_is_ended_ends_the_job(script, pool, tmp_path):
    from concurrent.futures.process import BrokenProcessPool

    pool.fails, pool.fails_with = {("shared", 0)}, BrokenProcessPool("gone")
    with pytest.raises(script.Mistake, match="fewer --jobs"):
        script.run_missing({"dyad": "t"}, dict.fromkeys(jobs(script)), jobs(script), tmp_path, 1, float("inf"))


def test_nothing_begins_when_the_time_is_over(script, pool, tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 10**6, 40))  # every look takes 40 s
    monkeypatch.setattr(script.time, "monotonic", lambda: next(clock))
    assert script.run_missing({"dyad": "t"}, dict.fromkeys(jobs(script)), jobs(script), tmp_path, 1, 2.5) == {}
    assert 1 <= len(pool.ran) < 5 and "the time is over" in capsys.readouterr().out


# --- what came of it --------------------------------------------------------------------------------------------------


@pytest.fixture
def values(script):
    """shared and two rules on three seeds, and one rule on a seed that shared lacks"""
    team = {"shared": (0.5, 0.6, 0.55), "counterfactual": (0.7, 0.81, 0.74), "likelihood": (0.4, 0.8, 0.5, 0.9)}
    return {
        script.Job("dyad", rule, seed): {"team": value, "auc": value / 2}
        for rule, found in team.items()
        for seed, value in enumerate(found)
    }


def test_differences_pair_seeds(script, values):
    found = script.differences(values, "dyad", "likelihood", "shared", "team")
    assert found == pytest.approx([-0.1, 0.2, -0.05])
    assert script.differences(values, "dyad", "resampling", "shared", "team") == []
    assert script.differences(values, "dyad_n2", "likelihood", "shared", "team") == []


@pytest.mark.parametrize(
    "found, text",
    [
        ([], ""),
        ([0.2], "+0.200"),
        ([0.2, 0.21, 0.19], "**+0.200 +- 0.025**"),  # 4.3027 * 0.01 / sqrt(3)
        ([-0.2, -0.21, -0.19], "**-0.200 +- 0.025**"),
        ([0.2, 0.3, -0.1], "+0.133 +- 0.517"),
        ([0.0, 0.0, 0.0], "+0.000 +- 0.000"),
    ],
)
def test_bold_where_the_interval_excludes_0(script, found, text):
    assert script.cell(found) == text


def test_the_table(script, values):
    chosen = [script.regimes()["dyad"], script.regimes()["dyad_n2"]]
    gates = {"embedded": {"joint": 0.43, "abstains": {"~": 0.5}}}
    text = script.tables(values, chosen, gates)
    (row,) = [line for line in text.splitlines() if line.startswith("| `dyad")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == "3" and cells[3].startswith("0.550 +- 0.124 / 0.275")
    assert cells[5].startswith("**+0.200") and cells[6].startswith("+0.017") and cells[4] == cells[7] == ""
    head = next(line for line in text.splitlines() if line.startswith("| regime"))
    assert head.count("|") == row.count("|")
    assert "in 2 of 4; were there no differences at all, about 0 would by chance" in text
    assert "| `embedded` | joint 0.43, abstains ~ 0.5 |" in text


def test_a_picture_needs_no_whole_regime(script, values, tmp_path):
    chosen = list(script.regimes().values())
    script.draw(tmp_path / "team.png", values, chosen, "team")
    assert (tmp_path / "team.png").read_bytes().startswith(b"\x89PNG")
    script.draw(tmp_path / "none.png", {}, chosen, "team")
    assert not (tmp_path / "none.png").exists()


def test_scores_are_tidy(script, values, tmp_path):
    script.write_scores(tmp_path / "scores.csv", values)
    with (tmp_path / "scores.csv").open() as stream:
        lines = list(csv.reader(stream))
    assert lines[:2] == [["regime", "rule", "seed", "score", "value"], ["dyad", "shared", "0", "team", "0.5"]]
    assert len(lines) == 1 + 2 * len(values)
