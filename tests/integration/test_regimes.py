"""scripts/regimes.py on one regime of few rows: data, runs of two steps, tables; and again, when there is nothing left to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("verl")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch, load_script):
    module = load_script("regimes")
    import regime_list

    from data_preprocess import toy

    rows = {split: toy.dataset_rows(split, count, seed=0) for split, count in (("train", 16), ("test", 4))}
    monkeypatch.setitem(regime_list.DATASETS, "last_digit", lambda: rows)
    two = {
        name: replace(regime, rules=("shared", "likelihood ccpo.credit.last_gradient=exact"))
        for name, regime in module.regimes().items()
    }
    monkeypatch.setattr(module, "regimes", lambda: two)
    monkeypatch.chdir(ROOT)
    return module


@pytest.mark.slow
def test_a_regime_from_nothing_to_its_table(script, tmp_path, capsys):
    out, data = tmp_path / "out", tmp_path / "data"
    words = ["--out", str(out), "--data", str(data), "--only", "dyad_n2", "--seeds", "0-1", "--jobs", "2"]
    words.append("trainer.total_training_steps=2")
    script.main(words)
    said = capsys.readouterr().out
    assert "[4/4]" in said and "| `dyad_n2` | 2 sessions of a prompt | 2 |" in said
    runs = sorted((out / "dyad_n2" / "runs").iterdir())
    assert len(runs) == 4
    steps = [entry["step"] for entry in json.loads(runs[0].read_text())["entries"] if entry["kind"] == "train"]
    assert steps == [1, 2]
    assert {"scores.csv", "starts.json", "regimes.md", "team.png", "auc.png"} <= {path.name for path in out.iterdir()}
    assert json.loads((out / "starts.json").read_text())["embedded"]["joint"] > 0.3
    before = {path: path.stat().st_mtime_ns for path in runs}
    runs[3].unlink()
    script.main([*words, "--tables"])
    assert "[" not in capsys.readouterr().out.split("##")[0] and not runs[3].exists(), "nothing is run for tables"
    script.main(words)
    assert "[1/1]" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in runs[:3]} == {path: before[path] for path in runs[:3]}
    with pytest.raises(SystemExit, match="other settings"):
        script.main([*words[:-1], "trainer.total_training_steps=3"])


def test_a_start_that_fails_its_gate_leaves_the_other_regimes(script, tmp_path, monkeypatch, capsys):
    def prepared(chosen, folder, jobs):
        return {"embedded": {"joint": 0.4}}, {"lazy_think": "no seed passed"}

    monkeypatch.setattr(script, "prepare", prepared)
    seen = []

    def configurations(chosen, *args):
        seen.extend(regime.name for regime in chosen)
        raise script.Mistake("far enough")

    monkeypatch.setattr(script, "configurations", configurations)
    with pytest.raises(SystemExit, match="far enough"):
        script.main(["--only", "dyad", "dyad_lazy_think", "--out", str(tmp_path)])
    assert seen == ["dyad"] and "lazy_think: no seed passed" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no regime has its start"):
        script.main(["--only", "dyad_lazy_think", "--out", str(tmp_path)])
    monkeypatch.setattr(script, "configurations", lambda *args: {})
    with pytest.raises(SystemExit, match="1 starts were not made"):
        script.main(["--prepare", "--only", "dyad", "dyad_lazy_think"])
