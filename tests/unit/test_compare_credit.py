"""scripts/compare_credit.py: what is run again and what is not, and the table. Runs themselves: tests/integration/test_compact.py."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ccpo.compare_rules import picture, runs
from ccpo.report.means import holm, p_value
from ccpo.run.lock import run_lock

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("compare_credit")


def entries(team: float, silent: float, costs=((10, 4), (30, 12)), signal: float = 2.0) -> list[dict]:
    """Of a run with two sources, of which the first has three times as many sessions. ``costs``: (generations, of replays) of each step."""

    def val(step: int, accuracy: float) -> dict:
        metrics = {"val-own/copies/clean/accuracy": 0.9}
        for source, sessions, value in (("s/a", 30, accuracy), ("s/b", 10, 0.2)):
            metrics |= {f"val-core/{source}/team_accuracy": value, f"val-aux/{source}/sessions": sessions}
            metrics |= {f"val-aux/{source}/voter_{i}/abstention_rate": silent + 0.1 * i for i in range(2)}
            metrics |= {f"val-aux/{source}/voter_0/contribution": value / 2, f"val-aux/{source}/voter_0/help_rate": 0.4}
        metrics["val-aux/s/a/alone_accuracy"] = 0.3  # a replay that the other source has not
        return {"step": step, "kind": "val", "metrics": metrics}

    def train(step: int, accuracy: float) -> dict:
        generations, replays = costs[step - 1]
        metrics = {
            "ccpo/sessions/team_accuracy": accuracy,
            "ccpo/generations": generations,
            "ccpo/replay_generations": replays,
            "ccpo/generated_tokens": 5.0 * generations,
            "ccpo/replay_tokens": 5.0 * replays,
            "ccpo/credit/cosine_with_shared/all": 0.5,
        }
        if step == 2:
            metrics |= {"ccpo/signal/voter_0": -0.5, "ccpo/noise/voter_0": 2.0}
        if step == 1:
            metrics |= {"ccpo/signal/voter_0": 1.5, "ccpo/noise/voter_0": 6.0}
        return {"step": step, "kind": "train", "metrics": metrics}

    start = {"step": 0, "kind": "start", "metrics": {"ccpo/signal/voter_0": signal, "ccpo/noise/voter_0": 4.0}}
    steps = [train(i + 1, 0.5 + 0.2 * i) for i in range(len(costs))]
    return [val(0, 0.4), start, *steps, val(len(costs), team)]


def test_scores_of_a_run(script):
    found = script.scores({"entries": entries(0.6, 0.2)})
    assert found == pytest.approx(
        {
            "team": 0.5,
            "before": 0.35,
            "auc": 0.6,
            "steps": 2,
            "generations": 40,
            "replay_generations": 16,
            "tokens": 200,
            "replay_tokens": 80,
            "cosine": 0.5,
            "snr_start/voter_0": 0.5,
            "snr/voter_0": 0.125,  # of sums, not a mean of ratios
            "voter_0/abstention_rate": 0.2,
            "voter_1/abstention_rate": 0.3,
            "voter_0/contribution": 0.25,  # 30 sessions of .3 and 10 of .1
            "alone_accuracy": 0.3,
            "abstention": 0.25,
            "team/s/a": 0.6,
            "team/s/b": 0.2,
            "alone_accuracy/s/a": 0.3,
            "copies/clean/accuracy": 0.9,
        }
        | {f"voter_{i}/abstention_rate/s/{s}": 0.2 + 0.1 * i for i in range(2) for s in "ab"}
        | {"voter_0/contribution/s/a": 0.3, "voter_0/contribution/s/b": 0.1}
        | {f"abstention/s/{s}": 0.25 for s in "ab"}
    )


@pytest.mark.parametrize("unit", ["generations", "tokens"])
def test_with_a_budget_a_steps_accuracy_counts_as_much_as_it_cost(script, unit):
    found = script.scores({"entries": entries(0.6, 0.2), "unit": unit})
    assert found["auc"] == pytest.approx((10 * 0.5 + 30 * 0.7) / 40)


def test_the_rest_of_a_budget_is_filled_by_the_batch_that_would_have_passed_it(script):
    metrics = {"ccpo/sessions/team_accuracy": 1.0, "ccpo/generations": 30}
    beyond = {"step": 3, "kind": "beyond", "metrics": metrics}
    found = {"entries": [*entries(0.6, 0.2), beyond], "unit": "generations", "most": 50}
    whole = script.scores(found)
    assert whole["auc"] == pytest.approx((10 * 0.5 + 30 * 0.7 + 10 * 1.0) / 50)
    assert (whole["steps"], whole["generations"]) == (2, 40), "it is not trained"
    assert picture.curve(found) == ([0, 10, 40], pytest.approx([0.6, 2.2 / 3, 0.85]))
    exact = script.scores(found | {"most": 40})
    assert exact["auc"] == pytest.approx((10 * 0.5 + 30 * 0.7) / 40)
    assert picture.curve({"entries": entries(0.6, 0.2)})[0] == [1, 2]


def of(**rules) -> dict:
    """of(shared=[.5, .7]) -> scores of seeds 0, 1, ...; None: that seed has no run"""
    listed = {(rule, seed): value for rule, values in rules.items() for seed, value in enumerate(values)}
    return {key: {"team": value} for key, value in listed.items() if value is not None}


def test_the_table_pairs_seeds(script):
    lines = script.table(of(shared=[0.5, 0.7], own=[0.6, None, 0.9]), ["team"]).splitlines()
    assert lines[1] == "team"
    assert lines[2].split() == ["shared", "2", "0.600", "+-", "1.271"]  # 12.706 * 0.1414 / sqrt(2)
    assert lines[3].split() == ["own", "2", "0.750", "+-", "1.906", "+0.100"], "one seed is shared: no interval"
    assert script.table(of(shared=[0.5, 0.7]), ["tokens"]).splitlines()[1:] == []


def test_p_values_are_adjusted_for_the_rules_that_are_compared(script):
    values = of(shared=[0.5, 0.5, 0.5], a=[0.6, 0.7, 0.8], b=[0.5, 0.6, 0.7], same=[0.6, 0.6, 0.6])
    lines = script.table(values, ["team"]).splitlines()
    assert lines[0].endswith("p (Holm)")
    # by hand: t = .2 sqrt(3) / .1 = 3.4641, p = .0742 with 2 degrees of freedom; b: t = 1.7321, p = .2254. Two of them: .0742 * 2
    assert [line.split()[-1] for line in lines[2:5]] == ["0.000", "0.148", "0.225"]
    assert lines[5].split()[-3:] == ["+0.100", "+-", "0.000"], "no deviation, no test"
    assert script.table(of(shared=[0.5, 0.5, 0.5], a=[0.6, 0.7, 0.8]), ["team"]).splitlines()[-1].endswith(" 0.074")
    assert script.table(of(shared=[0.1, 0.1], a=[0.6, 0.6000001]), ["team"]).endswith(" < 0.001")


def test_a_rule_without_any_difference_is_one_of_those_that_are_compared(script):
    values = of(shared=[0.5, 0.5, 0.5], a=[0.6, 0.7, 0.8], nothing=[0.5, 0.5, 0.5])
    lines = script.table(values, ["team"]).splitlines()
    assert [line.split()[-1] for line in lines[3:]] == ["0.148", "1.000"], "p = .0742 alone"


def test_holm_is_monotone_and_at_most_one():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []
    assert p_value([0.3]) is None and p_value([0.0]) is None and p_value([0.2, 0.2]) is None
    assert p_value([0.0, 0.0]) == 1.0
    assert p_value([0.7 - 0.5, 0.6 - 0.4]) is None, "they differ by rounding"
    assert p_value([0.1, -0.1]) == pytest.approx(1.0)


def test_seeds_that_choose_have_no_intervals(script):
    values = of(shared=[0.5, 0.7], a=[0.6, 0.7], b=[0.9, 0.1])
    text = script.table(values, ["team"], intervals=False)
    assert "+-" not in text and " p" not in text and text.splitlines()[3].split() == ["a", "2", "0.650", "+0.050"]
    assert script.best(values, "team") == "a"
    assert script.best(of(shared=[0.9], a=[0.1], b=[0.2]), "team") == "b", "the reference is not chosen"
    with pytest.raises(script.Mistake, match="--by taem: no run of a has it; set one of team"):
        script.best(values, "taem")
    with pytest.raises(script.Mistake, match="no run of b has it"):
        script.best(values | {("b", seed): {"auc": 0.5} for seed in range(2)}, "team")


@pytest.mark.parametrize("text, seeds", [("0-3", [0, 1, 2, 3]), ("5", [5]), ("0,7,2-3,0", [0, 7, 2, 3])])
def test_seeds(script, text, seeds):
    assert script.arguments(["--rules", "shared", "--out", "x", "--seeds", text]).seeds == seeds


@pytest.mark.parametrize(
    "words, says",
    [
        (["--seeds", "3-1"], "names no seeds"),
        (["--seeds", "-1"], "argument"),
        (["--jobs", "0"], "set at least 1"),
        (["--signal", "-1"], "a number of batches"),
        (["--budget", "steps"], "generations"),
        (["--choose", "0-4"], "go together"),
        (["--confirm", "0-4"], "go together"),
        (["--by", "team"], "set --choose and --confirm"),
        (["--choose", "0-4", "--confirm", "4-9"], "seed 4 is in --choose and in --confirm"),
        (["--choose", "0-4", "--confirm", "5-9", "--seeds", "0-9"], "leave it out"),
        (["--choose", "0-4", "--confirm", "5-9"], "leave nothing to choose"),
        (["--choose", "0-4", "--confirm", "5"], "it takes two"),
        (["--rules", " "], "without a name"),
        (["--nonsense=1"], "--nonsense"),
    ],
)
def test_mistakes_of_the_command(script, words, says, capsys):
    with pytest.raises(SystemExit):
        script.arguments(["--rules", "shared", "--out", "x", *words])
    assert says in capsys.readouterr().err


def test_overrides_may_follow_the_rules(script):
    known = script.arguments(["--out", "x", "--rules", "shared", "own ccpo.credit.normalize=centred", "a.b=1", "c=2"])
    assert known.rules == ["shared", "own ccpo.credit.normalize=centred"] and known.overrides == ["a.b=1", "c=2"]
    known = script.arguments(["--rules", "shared", "--out", "x", "--scores", "team", "auc", "a.b=1"])
    assert (known.scores, known.overrides) == (["team", "auc"], ["a.b=1"])
    known = script.arguments(["--rules", "shared", "--out", "x", "a.b=1"])
    assert known.rules == ["shared"] and known.overrides == ["a.b=1"]


@pytest.mark.parametrize("text", ["0-3", "5", "0,2-3,7", "0-1,3"])
def test_seeds_are_told_as_they_are_set(script, text):
    assert script.seed_text(script.seed_list(text)) == text


# --- what is run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path, script, monkeypatch):
    """job(seeds) -> configurations of a run whose training is a stand-in; ``job.ran``: what was run, with the budget it had"""
    for name in ("train.parquet", "test.parquet"):
        (tmp_path / name).write_text(name)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("weights")
    ran = []

    def configs(seeds=(0, 1), lr=0.1, rules=("shared", "own")):
        return {
            (rule, seed): {
                "data": {"train_files": str(tmp_path / "train.parquet"), "val_files": str(tmp_path / "test.parquet")},
                "actor_rollout_ref": {"model": {"path": str(tmp_path / "model")}, "lr": lr, "seed": seed},
                "ccpo": {"roles": {}, "rule": rule},
            }
            for seed in seeds
            for rule in rules
        }

    def run(rule, seed, config, extra, path, look):
        if config["actor_rollout_ref"]["lr"] == "ended" and (rule, seed) == ("own", 0):
            raise KeyboardInterrupt
        ran.append((rule, seed))
        configs.budgets[rule, seed] = extra.most
        accuracy = {"own": 0.6, "other": 0.7}.get(rule, 0.5) + 0.01 * seed
        found = {"fingerprint": runs.fingerprint(config, extra), "unit": extra.unit}
        costs = ((10, 4), (30 + seed, 12)) if rule == "shared" else ((20, 4),)
        path.write_text(json.dumps(found | {"entries": entries(accuracy, 0.2, costs)}))
        return 1.0

    class Here:
        """A pool of this process, which runs what is submitted when it is waited for: the last first."""

        def __init__(self, jobs, mp_context, initializer):
            self.jobs, self.open = jobs, []
            assert initializer is runs.end_with_parent

        def submit(self, function, *args):
            from concurrent.futures import Future

            future = Future()
            future.work = lambda: future.set_result(function(*args))
            self.open.append(future)
            assert len(self.open) <= self.jobs
            return future

        def shutdown(self, **kwargs): ...

    def wait(futures, return_when):
        last = list(futures)[-1]
        last.work()
        pools[-1].open.remove(last)
        return SimpleNamespace(done=[last])

    pools = []
    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(runs, "wait", wait)
    monkeypatch.setattr(
        runs, "ProcessPoolExecutor", lambda *args, **kwargs: pools.append(Here(*args, **kwargs)) or pools[-1]
    )
    configs.ran, configs.budgets = ran, {}
    return configs


def test_what_is_over_is_not_run_again(script, job, tmp_path, capsys):
    script.run_all("t", job((0,)), tmp_path / "out", 1)
    assert sorted(job.ran) == [("own", 0), ("shared", 0)]
    found = script.run_all("t", job((0, 1)), tmp_path / "out", 2)
    assert sorted(job.ran[2:]) == [("own", 1), ("shared", 1)]
    assert list(found) == list(job((0, 1))) and found["own", 1]["entries"]
    assert "[4/4]" in capsys.readouterr().out
    script.run_all("t", job((0, 1)), tmp_path / "out", 1)
    assert len(job.ran) == 4


def test_an_interrupted_comparison_keeps_what_is_over(script, job, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        script.run_all("t", job((0,), lr="ended"), tmp_path / "out", 1)
    assert job.ran == [("shared", 0)] and len(list((tmp_path / "out" / "runs").iterdir())) == 1


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_budget_is_what_the_reference_took_with_the_same_seed(script, job, tmp_path, jobs):
    extra = runs.Extra("generations")
    script.run_all("t", job((0, 1)), tmp_path / "out", jobs, extra)
    assert job.budgets == {("shared", 0): None, ("shared", 1): None, ("own", 0): 40, ("own", 1): 41}
    script.run_all("t", job((0, 1)), tmp_path / "out", jobs, extra)
    assert len(job.ran) == 4, "resumed: nothing is missing"
    runs.run_path(tmp_path / "out", "own", 0).unlink()
    script.run_all("t", job((0, 1)), tmp_path / "out", jobs, extra)
    assert job.ran[4:] == [("own", 0)]


@pytest.mark.parametrize("changed", ["settings", "data", "weights", "unit", "budget", "signal", "layout"])
def test_runs_of_another_job_are_not_mixed_in(script, job, tmp_path, changed, monkeypatch):
    script.run_all("t", job(), tmp_path / "out", 1)
    extra = {"unit": runs.Extra("tokens"), "signal": runs.Extra(signal=2)}.get(changed, runs.Extra())
    if changed in ("data", "weights"):
        (tmp_path / {"data": "train.parquet", "weights": "model/model.safetensors"}[changed]).write_text("other")
    if changed == "layout":
        monkeypatch.setattr(runs, "LAYOUT", runs.LAYOUT + 1)
    if changed == "budget":  # the reference is another, and took another budget
        config = job()["own", 0]
        assert runs.fingerprint(config, runs.Extra("tokens", 5)) != runs.fingerprint(config, runs.Extra("tokens", 6))
        return
    with pytest.raises(script.Mistake, match="other settings, data, weights, budget or measurements"):
        script.run_all("t", job(lr=0.2 if changed == "settings" else 0.1), tmp_path / "out", 1, extra)
    assert len(job.ran) == 4


def test_runs_of_the_layout_before_budgets_are_refused(script, job, tmp_path):
    """Its fingerprint was that of the configuration alone; its entries tell no generations."""
    configs, digest = job((0,)), hashlib.sha256()
    digest.update(json.dumps(configs["shared", 0], sort_keys=True, default=str).encode())
    for name in ("train.parquet", "test.parquet", "model/model.safetensors"):
        digest.update((tmp_path / name).read_bytes())
    path = runs.run_path(tmp_path / "out", "shared", 0)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"fingerprint": digest.hexdigest(), "entries": []}))
    with pytest.raises(script.Mistake, match="by another version"):
        script.run_all("t", configs, tmp_path / "out", 1)


def command(script, job, monkeypatch, tmp_path, *words, rules=("shared", "own", "other")):
    """Run it on the stand-in; returns its arguments."""

    def configs(team, task, rules, seeds, overrides):
        return job(seeds, rules=rules)

    monkeypatch.setattr(script, "configurations", configs)
    return ["--rules", *rules, "--jobs", "2", "--out", str(tmp_path / "out"), *words]


def test_a_folder_belongs_to_one_comparison_at_a_time(script, job, tmp_path, monkeypatch):
    words = command(script, job, monkeypatch, tmp_path, "--seeds", "0,1", rules=("shared", "own"))
    with run_lock(tmp_path / "out"), pytest.raises(SystemExit, match="out is in use"):
        script.main(words)
    script.main(words)
    assert (tmp_path / "out" / "scores.csv").exists() and len(job.ran) == 4
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="--scores taem: no run has it; set all, or some of"):
        script.main([*words, "--scores", "taem"])


def rows_of(path: Path) -> list[dict]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_the_rule_that_some_seeds_choose_is_confirmed_on_others(script, job, tmp_path, monkeypatch, capsys):
    words = command(script, job, monkeypatch, tmp_path, "--choose", "0-1", "--confirm", "2-4", "--by", "team")
    script.main(words)
    everybody = {(rule, seed) for rule in ("shared", "own", "other") for seed in (0, 1)}
    assert set(job.ran) == everybody | {(rule, seed) for rule in ("shared", "other") for seed in (2, 3, 4)}
    said = capsys.readouterr().out
    chose, confirmed = said.split("confirmed on seeds 2-4, which chose nothing")
    assert "chosen on seeds 0-1 by team, of 2 rules beside shared: other" in chose and "+-" not in chose
    assert "+-" in confirmed and "own" not in confirmed and "Holm" not in confirmed and "own" in chose
    rows = rows_of(tmp_path / "out" / "scores.csv")
    assert list(rows[0]) == ["team", "task", "rule", "seed", "split", "score", "value"]
    splits = {(row["rule"], int(row["seed"]), row["split"]) for row in rows}
    assert splits == {(*key, "choose") for key in everybody} | {
        (rule, seed, "confirm") for rule in ("shared", "other") for seed in (2, 3, 4)
    }
    assert {row["team"] for row in rows} == {"dyad"} and {row["task"] for row in rows} == {"last_digit"}
    assert (tmp_path / "out" / "choosing.png").exists() and (tmp_path / "out" / "curves.png").exists()
    assert "been run" not in said


def test_confirming_seeds_that_another_choice_has_used_are_told(script, job, tmp_path, monkeypatch, capsys):
    script.main(command(script, job, monkeypatch, tmp_path, "--seeds", "2", rules=("shared", "own")))
    script.main(command(script, job, monkeypatch, tmp_path, "--choose", "0-1", "--confirm", "2-4", "--by", "team"))
    assert "confirming seeds have been run in this folder with own, too" in capsys.readouterr().out


def test_confirming_seeds_of_rules_that_this_command_does_not_name_are_told(script, job, tmp_path, monkeypatch, capsys):
    script.main(command(script, job, monkeypatch, tmp_path, "--seeds", "12", rules=("shared", "left out")))
    words = ["--choose", "0-1", "--confirm", "2-4", "--by", "team"]
    script.main(command(script, job, monkeypatch, tmp_path, *words))
    assert "been run" not in capsys.readouterr().out, "seed 12 is not seed 2"
    script.main(command(script, job, monkeypatch, tmp_path, "--seeds", "2", rules=("shared", "left out")))
    script.main(command(script, job, monkeypatch, tmp_path, *words))
    assert "confirming seeds have been run in this folder with left+out, too" in capsys.readouterr().out


def test_a_choice_that_is_not_ahead_says_so(script, job, tmp_path, monkeypatch, capsys):
    words = ["--choose", "0-1", "--confirm", "2-3", "--by", "before"]  # which is everybody's
    script.main(command(script, job, monkeypatch, tmp_path, *words))
    assert "None was ahead of shared" in capsys.readouterr().out


def test_several_rules_are_counted(script, job, tmp_path, monkeypatch, capsys):
    script.main(command(script, job, monkeypatch, tmp_path, "--seeds", "0-2", "--budget", "tokens"))
    said = capsys.readouterr().out
    assert "2 rules are compared with shared" in said and "p (Holm)" in said and "equal tokens" in said
    assert set(job.budgets.values()) == {None, 200, 205, 210}
    assert {row["split"] for row in rows_of(tmp_path / "out" / "scores.csv")} == {"all"}


PARENT = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from ccpo.compare_rules import runs

def work():
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ProcessPoolExecutor(1, mp_context=context, initializer=runs.end_with_parent).submit(work).result()
"""


@pytest.fixture
def parent(tmp_path):
    """(a comparison with one run, that run), both at work"""
    (tmp_path / "parent.py").write_text(PARENT)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes
    )
    yield parent, psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()


def test_a_run_does_not_outlive_its_comparison(parent):
    parent, child = parent
    parent.kill()
    parent.wait()
    with contextlib.suppress(psutil.NoSuchProcess):
        child.wait(timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_run_is_interrupted_without_a_word(parent):
    parent, child = parent
    child.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=60)
    assert "BrokenProcessPool" in said and "KeyboardInterrupt" not in said and "work()" not in said


FAILS = """
import sys, time
from pathlib import Path
from ccpo.compare_rules import runs

def run(rule, seed, config, extra, path, look):
    begun = path.with_name("begun")
    if rule == "shared":
        while not begun.exists():
            time.sleep(0.05)
        raise runs.Mistake("no")
    begun.touch()
    time.sleep(1)
    path.write_text("over")
    return 1.0

if __name__ == "__main__":
    runs.run, out = run, Path(sys.argv[1])
    config = {"data": {"train_files": __file__, "val_files": __file__}, "ccpo": {"roles": {}}, "actor_rollout_ref": {"model": {"path": "x"}}}
    try:
        runs.run_all({("shared", 0): config, ("own", 0): config}, out, 2)
    except runs.Mistake:
        print(*sorted(path.name for path in (out / "runs").iterdir()))
"""


def test_a_comparison_that_fails_ends_after_its_runs(tmp_path):
    """Its folder is free then: another command in it would otherwise meet a run that still writes there."""
    (tmp_path / "fails.py").write_text(FAILS)
    command = [sys.executable, tmp_path / "fails.py", tmp_path / "out"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1:] == ["begun own-seed0.json"], done.stdout + done.stderr


def test_progress_is_lines_or_a_bar(monkeypatch, capsys):
    with runs.progress(2, 4) as tell:
        tell("own seed 0", 3.0)
    assert capsys.readouterr().out == "[3/4] own seed 0: 3 s; 0.0 min left\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with runs.progress(2, 4) as tell:
        tell("own seed 0", 3.0)
    said = capsys.readouterr().out
    assert "3/4" in said and "own seed 0" in said


def test_a_single_source_is_drawn_once():
    names = ["team", "auc", "tokens", "solo_accuracy", "a/contribution", "abstention", "team/x", "abstention/x"]
    assert picture.validated(names) == ["team", "solo_accuracy", "abstention"]
    assert picture.validated([*names, "team/y"])[3:] == ["team/x", "abstention/x", "team/y"]


def test_curves_of_runs_with_other_steps_have_common_places():
    at, values = picture.common([([10, 20, 30], [0.0, 1.0, 2.0]), ([5, 25], [0.0, 2.0])])
    assert (at[0], at[-1]) == (10, 25) and values[:, -1].tolist() == [1.5, 2.0]
    at, values = picture.common([([1, 2], [0.0, 1.0]), ([1, 2], [2.0, 3.0])])
    assert at.tolist() == [1, 2] and values.tolist() == [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_run_is_named(script, job, tmp_path, content):
    script.run_all("t", job(), tmp_path / "out", 1)
    path = runs.run_path(tmp_path / "out", "own", 1)
    path.write_text(content)
    with pytest.raises(script.Mistake, match="own-seed1.json is damaged"):
        script.run_all("t", job(), tmp_path / "out", 1)


def test_a_run_that_vanishes_is_named_and_not_waited_for(script, job, tmp_path, monkeypatch):
    made = runs.run

    def vanishing(*args):
        seconds = made(*args)
        args[4].unlink()
        return seconds

    monkeypatch.setattr(runs, "run", vanishing)
    with pytest.raises(script.Mistake, match="shared-seed0.json was written and is gone"):
        script.run_all("t", job((0,)), tmp_path / "out", 1, runs.Extra("tokens"))


def test_a_rule_that_reads_like_a_formula_is_drawn(script, job, tmp_path, monkeypatch):
    rules = ("shared", "own a=${p.q_r_s} b=${p.q}")
    script.main(command(script, job, monkeypatch, tmp_path, "--seeds", "0,1", rules=rules))
    assert (tmp_path / "out" / "curves.png").exists() and len(rows_of(tmp_path / "out" / "scores.csv")) > 2


def test_rules_with_settings_have_files_of_their_own(tmp_path):
    paths = {runs.run_path(tmp_path, rule, 0).name for rule in ("own", "own a=1", "own a=2", "../own")}
    assert len(paths) == 4 and all("/" not in name for name in paths)


def test_scores_are_tidy(script, tmp_path):
    splits = {"choose": {("own, a=1", 3): {"team": 0.5, "auc": 0.25}}, "confirm": {("own, a=1", 4): {"team": 0.75}}}
    script.write_scores(tmp_path / "scores.csv", "my,team.py:T", "silence", splits)
    with (tmp_path / "scores.csv").open() as stream:
        assert list(csv.reader(stream)) == [
            ["team", "task", "rule", "seed", "split", "score", "value"],
            ["my,team.py:T", "silence", "own, a=1", "3", "choose", "team", "0.5"],
            ["my,team.py:T", "silence", "own, a=1", "3", "choose", "auc", "0.25"],
            ["my,team.py:T", "silence", "own, a=1", "4", "confirm", "team", "0.75"],
        ]


def test_scores_that_cannot_be_written_leave_the_old_ones(script, tmp_path):
    class Ended:
        def __str__(self):
            raise KeyboardInterrupt

    path = tmp_path / "scores.csv"
    script.write_scores(path, "dyad", "t", {"all": {("own", 3): {"team": 0.5}}})
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        script.write_scores(path, "dyad", "t", {"all": {("own", 3): {"auc": 0.1, "team": Ended()}}})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_missing_data_names_its_command(script, tmp_path):
    config = {"data": {"train_files": str(tmp_path / "silence" / "train.parquet"), "val_files": "x"}}
    with pytest.raises(script.Mistake, match="python -m data_preprocess.silence --out .*silence"):
        script.ensure_data(config, "silence")


@pytest.mark.parametrize(
    "rule, override, says",
    [
        ("sharde", "seed=0", "did you mean 'shared'"),
        ("shared", "data.no_such_key=1", "no_such_key"),
        ("shared", "loss=paper_v1", "loss_agg_mode"),
        ("shared ccpo.credit.normalize=[", "seed=0", "normalize"),
    ],
)
def test_a_mistake_is_found_before_anything_runs(script, rule, override, says, tmp_path, monkeypatch):
    pytest.importorskip("verl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=says):
        script.main(["--rules", rule, "--out", "out", override])
    assert not list(tmp_path.iterdir())


def test_configurations_are_the_recipes(script):
    pytest.importorskip("verl")
    found = script.configurations(
        "vote",
        "silence",
        ["shared", "own_correctness ccpo.credit.normalize=centred"],
        [0, 3],
        ["data.train_batch_size=4"],
    )
    assert list(found)[0] == ("shared", 0) and len(found) == 4
    one = found["own_correctness ccpo.credit.normalize=centred", 3]
    assert one["ccpo"]["credit"]["normalize"] == "centred" and one["ccpo"]["seed"] == one["data"]["seed"] == 3
    assert one["ccpo"]["team_kwargs"]["copies"] == "copies" and one["ccpo"]["team_kwargs"]["n_voters"] == 7
    from ccpo.compact import Settings

    assert Settings.of(one).prompts == 4
