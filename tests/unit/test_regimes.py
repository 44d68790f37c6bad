"""scripts/regimes.py: every regime differs from its base in what it says; what is run, and what the tables say."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("regimes")


def flat(node, path: str = "") -> dict[str, object]:
    if not isinstance(node, dict):
        return {path: node}
    found: dict[str, object] = {}
    for key, value in node.items():
        found |= flat(value, f"{path}.{key}" if path else key)
    return found


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


class Here:
    """A pool of this process."""

    def __enter__(self):
        return self

    def __exit__(self, *error): ...

    def submit(self, function, *args):
        from concurrent.futures import Future

        future: Future = Future()
        try:
            future.set_result(function(*args))
        except ValueError as error:
            future.set_exception(error)
        return future

    def shutdown(self, **kwargs): ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def composed(script, folder):
    """Job -> configuration, of the first rule of every regime"""
    pytest.importorskip("verl")
    chosen = [replace(regime, rules=regime.rules[:1]) for regime in script.regimes().values()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(script, "_pool", lambda jobs: Here())
        return script.configurations(chosen, [3, 1], folder, ["trainer.save_freq=7"], 1)


@pytest.mark.slow  # composes every regime
def test_regimes_differ_from_their_base_in_what_they_say(script, composed):
    every = script.regimes()
    of = {name: flat(composed[script.Job(name, "shared", 1)]) for name in every}
    for name, regime in every.items():
        if not regime.base:
            continue
        base = every[regime.base]
        differing = {key for key in of[name] | of[base.name] if of[name].get(key) != of[base.name].get(key)}
        copies = (".rollout_n", ".served_model_name", "rollout.prompt_length", "rollout.response_length")  # of verl
        differing = {key for key in differing if not key.endswith(copies)}
        said = {override.partition("=")[0].lstrip("+") for override in regime.changes}
        if regime.team != base.team:
            said.add("ccpo.team")
        found = {next((one for one in said if f"{key}.".startswith(f"{one}.")), key) for key in differing}
        assert found == said and said, name


@pytest.mark.slow  # composes every regime
def test_seeds_are_outermost_and_what_takes_longest_begins(script, composed, folder):
    every, order = script.regimes(), list(composed)
    assert [job.seed for job in order] == [3] * len(every) + [1] * len(every)
    costs = [every[job.regime].seconds for job in order[: len(every)]]
    assert costs == sorted(costs, reverse=True)
    one = composed[script.Job("dyad", "shared", 3)]
    assert one["data"]["train_files"] == f"{folder}/last_digit/train.parquet" and one["trainer"]["save_freq"] == 7
    assert one["ccpo"]["seed"] == one["data"]["seed"] == 3


@pytest.mark.slow  # composes every regime
def test_all_rules_of_all_regimes_fit_their_team(script, composed, monkeypatch):
    from ccpo.compact import Settings

    monkeypatch.chdir(ROOT)
    for name, regime in script.regimes().items():
        config = composed[script.Job(name, "shared", 1)]
        for rule in regime.rules:
            word, *settings = rule.split()
            given = dict(setting.removeprefix("ccpo.credit.").split("=") for setting in settings)
            given = {key: float(value) if value[0].isdigit() else value for key, value in given.items()}
            credit = {**config["ccpo"]["credit"], "rule": word, **given}
            assert Settings.of({**config, "ccpo": {**config["ccpo"], "credit": credit}}).steps in (30, 40)


@pytest.mark.slow  # composes every regime
def test_what_was_composed_is_taken_again_for_the_same_alone(script, composed, folder, monkeypatch):
    import compare_credit
    import regime_list

    def refuse(*args):
        raise script.Mistake("composed again")

    monkeypatch.setattr(compare_credit, "configurations", refuse)
    dyad = replace(script.regimes()["dyad"], rules=("shared",))
    found = regime_list.compose(dyad, [3, 1], folder, ["trainer.save_freq=7"])
    assert list(found) == [("shared", 3), ("shared", 1)]
    assert found["shared", 1] == composed[script.Job("dyad", "shared", 1)]
    for regime, seeds, more in (
        (dyad, [3], ["trainer.save_freq=7"]),
        (dyad, [3, 1], []),
        (replace(dyad, rules=("removal",)), [3, 1], ["trainer.save_freq=7"]),
    ):
        with pytest.raises(script.Mistake, match="composed again"):
            regime_list.compose(regime, seeds, folder, more)


def test_two_commands_may_compose_the_same_at_once(script, monkeypatch, tmp_path):
    import compare_credit
    import regime_list

    from ccpo.run import json_file

    made = {("shared", 0): {"a": 1}}
    monkeypatch.setattr(compare_credit, "configurations", lambda *args: made)

    def other(*args):  # another command is done first, with what it calls a temporary file
        for path in (tmp_path / "composed").glob("*-????????????????.json.tmp"):
            path.replace(path.with_suffix(""))

    monkeypatch.setattr(json_file.os, "fsync", other)
    dyad = replace(script.regimes()["dyad"], rules=("shared",))
    assert regime_list.compose(dyad, [0], tmp_path, []) == made
    monkeypatch.undo()
    assert regime_list.compose(dyad, [0], tmp_path, []) == made
    assert len(list((tmp_path / "composed").iterdir())) == 1


def test_a_configuration_that_there_is_not_names_its_regime(script, monkeypatch, tmp_path):
    pytest.importorskip("verl")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(script, "_pool", lambda jobs: Here())
    chosen = [replace(script.regimes()["dyad"], rules=("shared",))]
    with pytest.raises(script.Mistake, match="regime dyad: .*no_such_key"):
        script.configurations(chosen, [0], tmp_path, ["data.no_such_key=1"], 1)


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
    """No run is made. ``pool.ran``: which were asked for; ``pool.fails``: those that raise ``pool.error``"""

    class Pool(Here):
        ran: list = []
        fails: set = set()
        error: Exception = ValueError("no")

        def submit(self, function, rule, seed, config, extra, path, look):
            Pool.ran.append((rule, seed))
            future = super().submit(float, 1)
            if (rule, seed) in Pool.fails:
                future = type(future)()
                future.set_exception(Pool.error)
            return future

    monkeypatch.setattr(script, "_pool", lambda jobs: Pool())
    return Pool


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

    pool.fails, pool.error = {("shared", 0)}, BrokenProcessPool("gone")
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


def test_the_second_table_is_against_the_other_control(script, values):
    other = {
        script.Job("dyad", "shared_history", seed): {"team": value, "auc": 0.1}
        for seed, value in enumerate((0.6, 0.6, 0.6))
    }
    text = script.tables(values | other, [script.regimes()["dyad"]], {})
    heads = [line.split("|")[4].strip() for line in text.splitlines() if line.startswith("| regime")]
    assert heads == ["shared: end / training", "shared_history: end / training"]
    second = [line for line in text.splitlines() if line.startswith("| `dyad")][1]
    assert "+0.150" in second and second.split("|")[4].strip().startswith("0.600 +- 0.000")


def test_a_far_difference_stands_at_the_border(script, values, tmp_path):
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots()
    script._mark(panel, [-0.6, -0.5, -0.55], 0.0, "o", "#000000")
    assert panel.texts[0].get_text() == "-0.55" and panel.lines[0].get_xdata()[0] == -script.FAR
    script._mark(panel, [0.1, 0.5, -0.3], 1.0, "o", "#000000")
    assert len(panel.texts) == 1 and max(panel.lines[1].get_xdata()) <= script.FAR
    plt.close(figure)


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


def test_scores_that_cannot_be_written_leave_the_old_ones(script, values, tmp_path):
    class Ended:
        def __str__(self):
            raise KeyboardInterrupt

    path = tmp_path / "scores.csv"
    script.write_scores(path, values)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        script.write_scores(path, {script.Job("dyad", "shared", 0): {"auc": 0.1, "team": Ended()}})
    assert path.read_bytes() == before


def test_the_pages_words_have_their_numbers_from_its_tables():
    page = (ROOT / "docs" / "runs" / "regimes.md").read_text(encoding="utf-8")
    words, _, tables = page.partition("\n## dyad\n")
    cells = [cell for line in tables.splitlines() if line.startswith("| `") for cell in line.split(" | ")[4:]]
    parts = [part for cell in cells for part in cell.strip("| ").split(" / ") if "+-" in part]
    bold = [part for part in parts if part.startswith("**")]
    assert f"in {len(bold)} of {len(parts)}; were there no" in tables and len(parts) > 300
    found = {re.sub(r"[*+-]+(?=0\.)", "", part).strip("* ").replace("0.", ".") for part in parts}
    told = re.findall(r"(\.\d{3} \+- \.\d{3})", " ".join(words.split()))
    assert len(told) > 10 and not set(told) - found
