"""scripts/compare_credit.py: what is run again and what is not, and the table. Runs themselves: tests/integration/test_compact.py."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from ccpo.run.lock import run_lock

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_credit", ROOT / "scripts" / "compare_credit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(team: float, silent: float) -> list[dict]:
    """Of a run with two sources, of which the first has three times as many sessions."""

    def val(step: int, accuracy: float) -> dict:
        metrics = {"val-copies/clean/accuracy": 0.9}
        for source, sessions, value in (("s/a", 30, accuracy), ("s/b", 10, 0.2)):
            metrics |= {f"val-core/{source}/team_accuracy": value, f"val-aux/{source}/sessions": sessions}
            metrics |= {f"val-aux/{source}/voter_{i}/abstention_rate": silent + 0.1 * i for i in range(2)}
            metrics |= {f"val-aux/{source}/voter_0/contribution": 0.3, f"val-aux/{source}/voter_0/help_rate": 0.4}
        return {"step": step, "kind": "val", "metrics": metrics}

    def train(step: int, accuracy: float) -> dict:
        metrics = {"ccpo/sessions/team_accuracy": accuracy, "ccpo/generated_tokens": 100.0}
        return {"step": step, "kind": "train", "metrics": metrics | {"ccpo/credit/cosine_with_shared/all": 0.5}}

    return [val(0, 0.4), train(1, 0.5), train(2, 0.7), val(2, team)]


def test_scores_of_a_run(script):
    found = script.scores({"entries": entries(0.6, 0.2)})
    assert found == pytest.approx(
        {
            "team": 0.5,
            "before": 0.35,
            "auc": 0.6,
            "tokens": 200.0,
            "cosine": 0.5,
            "team/s/a": 0.6,
            "voter_0/contribution/s/a": 0.3,
            "abstention/s/a": 0.25,
            "team/s/b": 0.2,
            "voter_0/contribution/s/b": 0.3,
            "abstention/s/b": 0.25,
            "copies/clean/accuracy": 0.9,
        }
    )


def test_the_table_pairs_seeds(script):
    values = {
        ("shared", 0): {"team": 0.5},
        ("shared", 1): {"team": 0.7},
        ("own", 0): {"team": 0.6},
        ("own", 2): {"team": 0.9},
    }
    lines = script.table(values).splitlines()
    assert lines[1] == "team"
    assert lines[2].split() == ["shared", "2", "0.600", "+-", "1.271"]  # 12.706 * 0.1414 / sqrt(2)
    assert lines[3].split() == ["own", "2", "0.750", "+-", "1.906", "+0.100"], "one seed is shared: no interval"
    assert script.table(values, ["tokens"]).splitlines()[1:] == []


@pytest.mark.parametrize("text, seeds", [("0-3", [0, 1, 2, 3]), ("5", [5]), ("0,7,2-3,0", [0, 7, 2, 3])])
def test_seeds(script, text, seeds):
    assert script.arguments(["--rules", "shared", "--out", "x", "--seeds", text]).seeds == seeds


@pytest.mark.parametrize(
    "words, says",
    [
        (["--seeds", "3-1"], "names no seeds"),
        (["--seeds", "-1"], "argument"),
        (["--jobs", "0"], "set at least 1"),
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


# --- what is run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path, script, monkeypatch):
    """job(seeds) -> configurations of a run whose training is a stand-in; ``job.ran``: what was run"""
    for name in ("train.parquet", "test.parquet"):
        (tmp_path / name).write_text(name)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("weights")
    ran = []

    def configs(seeds=(0, 1), lr=0.1):
        return {
            (rule, seed): {
                "data": {"train_files": str(tmp_path / "train.parquet"), "val_files": str(tmp_path / "test.parquet")},
                "actor_rollout_ref": {"model": {"path": str(tmp_path / "model")}, "lr": lr, "seed": seed},
                "ccpo": {"roles": {}, "rule": rule},
            }
            for seed in seeds
            for rule in ("shared", "own")
        }

    def run(task, rule, seed, config, path):
        if config["actor_rollout_ref"]["lr"] == "ended" and (rule, seed) == ("own", 0):
            raise KeyboardInterrupt
        ran.append((rule, seed))
        found = {"fingerprint": script.fingerprint(config), "entries": entries(0.6, 0.2)}
        path.write_text(json.dumps(found))
        return 1.0

    class Here:
        """A pool of this process."""

        def __init__(self, *args, **kwargs): ...

        def submit(self, function, *args):
            from concurrent.futures import Future

            future = Future()
            future.set_result(function(*args))
            return future

        def shutdown(self, **kwargs): ...

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(script, "ProcessPoolExecutor", Here)
    configs.ran = ran
    return configs


def test_what_is_over_is_not_run_again(script, job, tmp_path, capsys):
    script.run_all("t", job((0,)), tmp_path / "out", 1)
    assert sorted(job.ran) == [("own", 0), ("shared", 0)]
    script.run_all("t", job((0, 1)), tmp_path / "out", 1)
    assert sorted(job.ran[2:]) == [("own", 1), ("shared", 1)]
    assert "[4/4]" in capsys.readouterr().out
    script.run_all("t", job((0, 1)), tmp_path / "out", 1)
    assert len(job.ran) == 4


def test_an_interrupted_comparison_keeps_what_is_over(script, job, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        script.run_all("t", job((0,), lr="ended"), tmp_path / "out", 1)
    assert job.ran == [("shared", 0)] and len(list((tmp_path / "out" / "runs").iterdir())) == 1


@pytest.mark.parametrize("changed", ["settings", "data", "weights"])
def test_runs_of_another_job_are_not_mixed_in(script, job, tmp_path, changed):
    script.run_all("t", job(), tmp_path / "out", 1)
    if changed != "settings":
        (tmp_path / {"data": "train.parquet", "weights": "model/model.safetensors"}[changed]).write_text("other")
    with pytest.raises(script.Mistake, match="other settings, data or weights"):
        script.run_all("t", job(lr=0.2 if changed == "settings" else 0.1), tmp_path / "out", 1)


def test_a_folder_belongs_to_one_comparison_at_a_time(script, job, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "configurations", lambda *args: job())
    words = ["--rules", "shared", "own", "--out", str(tmp_path / "out")]
    with run_lock(tmp_path / "out"), pytest.raises(SystemExit, match="out is in use"):
        script.main(words)
    script.main(words)
    assert (tmp_path / "out" / "scores.csv").exists() and len(job.ran) == 4
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="--scores taem: no run has it; set some of"):
        script.main([*words, "--scores", "taem"])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_run_is_named(script, job, tmp_path, content):
    script.run_all("t", job(), tmp_path / "out", 1)
    path = script.run_path(tmp_path / "out", "own", 1)
    path.write_text(content)
    with pytest.raises(script.Mistake, match="own-seed1.json is damaged"):
        script.run_all("t", job(), tmp_path / "out", 1)


def test_rules_with_settings_have_files_of_their_own(script, tmp_path):
    paths = {script.run_path(tmp_path, rule, 0).name for rule in ("own", "own a=1", "own a=2", "../own")}
    assert len(paths) == 4 and all("/" not in name for name in paths)


def test_scores_are_tidy(script, tmp_path):
    script.write_scores(tmp_path / "scores.csv", {("own, a=1", 3): {"team": 0.5, "auc": 0.25}})
    with (tmp_path / "scores.csv").open() as stream:
        assert list(csv.reader(stream)) == [
            ["rule", "seed", "score", "value"],
            ["own, a=1", "3", "team", "0.5"],
            ["own, a=1", "3", "auc", "0.25"],
        ]


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
