"""benchmarks/step_model.py: what it was fitted to, what must hold of any such model, and that docs/scaling.md shows its tables."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ccpo.config import CcpoConfig
from ccpo.run.folder import JOB, METRICS

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import scaling  # noqa: E402
import step_model as model  # noqa: E402
from shapes import SHAPES, sizes  # noqa: E402

ROWS = json.loads(scaling.MEASURED.read_text())
SMALL = sizes("smollm2-135m")
GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WORK = scaling.work(scaling._options([]), 64)


def step(shape: str, gpus: int, kind: str = "h200", work: model.Work = WORK) -> dict[str, float]:
    return model.seconds(sizes(shape), model.GPUS[kind], gpus, work)


def fitting(shape: str, kind: str) -> list[int]:
    return [gpus for gpus in GPU_COUNTS if not model.fit(sizes(shape), model.GPUS[kind], gpus, WORK).missing]


# --- what was measured ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [row for row in ROWS if row["calibration"]], ids=lambda row: row["command"])
def test_what_it_was_fitted_to_comes_out(row):
    assert row["gpus"] == 1
    found = model.by_part(scaling.predicted(row))
    for part in scaling.PARTS:
        assert found[part] == pytest.approx(row["seconds"][part], rel=0.1, abs=0.02), part


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["command"])
def test_the_parts_of_a_measured_step_add_up(row):
    parts = [row["seconds"][part] for part in scaling.PARTS if part != "step"]
    assert sum(parts) == pytest.approx(row["seconds"]["step"], rel=0.02)
    assert row["commit"] and row["command"]


@pytest.mark.parametrize("requests, milliseconds", [(128, 4.1), (256, 4.6)])  # docs/scaling.md, A decode step
def test_a_decode_step_of_the_small_model(requests, milliseconds):
    work = model.Work(requests, requests, 175, 200, 200, requests, 458, 458)
    gpu = model.GPUS["h100"]
    parts = model.decoding(SMALL, gpu, 1, work, model.fit(SMALL, gpu, 1, work))
    assert 5 * (sum(parts.values()) - parts["gen/sessions"]) == pytest.approx(milliseconds, rel=0.02)


@pytest.mark.parametrize(
    "pack, checkpointing, seconds",  # docs/scaling.md, The update
    [(32_768, False, 1.16), (16_384, False, 1.93), (32_768, True, 1.52), (16_384, True, 2.52)],
)
def test_an_update_of_the_small_model(pack, checkpointing, seconds):
    work, gpu = model.Work(256, 256, 179, 190, 200, 256, 570, 570), model.GPUS["h100"]
    found = replace(model.fit(SMALL, gpu, 1, work), pack=pack, checkpointing=checkpointing)
    parts = model.learning(SMALL, gpu, 1, work, found, 0.0)
    assert sum(parts.values()) - parts["update_actor/rows"] == pytest.approx(seconds, rel=0.1)


# --- what must hold -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", model.GPUS)
@pytest.mark.parametrize("shape", SHAPES)
def test_more_gpus_never_need_more_memory_each(shape, kind):
    found = [model.fit(sizes(shape), model.GPUS[kind], gpus, WORK) for gpus in GPU_COUNTS]
    learns = [each.learns for each in found]
    assert learns == sorted(learns, reverse=True)
    fits = [not each.missing for each in found]
    assert fits == sorted(fits), "what fits some GPUs fits more of them"
    room = model.GPUS[kind].bytes
    assert all(max(each.learns, each.decodes) <= room for each in found if not each.missing)


@pytest.mark.parametrize("kind", model.GPUS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_gets_shorter_with_gpus_until_what_no_gpu_shares_is_left(shape, kind):
    counts = fitting(shape, kind)
    parts = [step(shape, gpus, kind) for gpus in counts]
    for cause in ("cache", "prompts", "arithmetic", "optimizer"):
        values = [model.causes(each)[cause] for each in parts]
        assert values == sorted(values, reverse=True), cause
    inside = [sum(each.values()) for gpus, each in zip(counts, parts, strict=True) if gpus <= model.NODE]
    assert inside == sorted(inside, reverse=True)
    assert len({each["gen/sessions"] + each["other/rows"] for each in parts}) <= 1, "the driver's work stays"


def test_a_faster_gpu_is_never_slower_and_a_longer_batch_never_shorter():
    assert sum(step("qwen2.5-1.5b", 1, "h200").values()) <= sum(step("qwen2.5-1.5b", 1, "h100").values())
    longer = scaling.work(scaling._options([]), 128)
    for gpus in (1, 8, 64):
        assert sum(step("qwen2.5-1.5b", gpus, work=longer).values()) > sum(step("qwen2.5-1.5b", gpus).values())


def test_larger_engines_read_weights_faster_and_meet():
    alone, eight = (model.seconds(sizes("qwen2.5-32b"), model.GPUS["h200"], 32, WORK, size) for size in (1, 8))
    assert eight["gen/weights"] == pytest.approx(alone["gen/weights"] / 8)
    assert eight["gen/meetings"] > alone["gen/meetings"] == 0


def test_nodes_are_joined_by_a_slower_link():
    inside, across = step("qwen2.5-7b", 8), step("qwen2.5-7b", 16)
    assert across["update_actor/links"] > inside["update_actor/links"]


def test_a_cache_that_holds_few_requests_makes_waves():
    crowded = replace(WORK, at_once=100 * WORK.at_once)
    assert step("qwen2.5-1.5b", 1, work=crowded)["gen/host"] > step("qwen2.5-1.5b", 1)["gen/host"]


def test_the_team_decides_what_is_decoded_one_after_the_other():
    dyad = model.work_of(CcpoConfig(), 10, 4, 100, 50, 80, 1000)
    assert (dyad.turns, dyad.rows, dyad.decode_steps) == (10 * (4 * 2 + 2), 80, 160)  # two replays a prompt
    assert dyad.prompt == 100 + 50 / 2  # every second turn reads a thought
    vote = model.work_of(scaling._config("vote", {"n_voters": 5}, "leave_one_out"), 10, 4, 100, 50, 80, 1000)
    assert (vote.turns, vote.rows, vote.decode_steps, vote.at_once) == (200, 200, 80, 200)


def test_every_cause_is_explained():
    found = {name.partition("/")[2] for name in step("qwen2.5-7b", 8)}
    assert found == set(model.CAUSES)
    assert {name.partition("/")[0] for name in step("qwen2.5-7b", 8)} == set(scaling.PARTS) - {"step"}


# --- what is shown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["docs/scaling.md", "README.md"])
def test_a_page_shows_the_tables_that_the_script_prints(name):
    page = (ROOT / name).read_text()
    assert scaling.with_tables(page, scaling._options([])) == page, f"python benchmarks/scaling.py --write {name}"


def test_the_docs_show_every_table_and_the_readme_the_first():
    heads = [table[0] for _, table in scaling.tables(scaling._options([]))]
    shown = (ROOT / "docs" / "scaling.md").read_text().splitlines()
    assert all(shown.count(head) >= heads.count(head) for head in heads)
    assert heads[0] in (ROOT / "README.md").read_text().splitlines()


def test_one_job_is_told_with_what_to_change(capsys, monkeypatch):
    for shape, gpus, words in (
        ("qwen2.5-7b", "32", ["most of it: decoding: reading weights", "tensor_model_parallel_size"]),
        ("qwen2.5-32b", "1", ["does not fit", "N_GPUS"]),
    ):
        monkeypatch.setattr(sys, "argv", ["scaling.py", "--model-shape", shape, "--gpus", gpus])
        assert scaling.main() == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words)


def test_a_run_becomes_a_measured_row(tmp_path):
    pytest.importorskip("omegaconf")
    (tmp_path / JOB).parent.mkdir(parents=True)
    (tmp_path / JOB).write_text(
        json.dumps(
            {
                "ccpo": {"team": "dyad", "roles": {"think": {"max_tokens": 96}}},
                "data": {"max_prompt_length": 640, "max_response_length": 320, "train_batch_size": 16},
                "actor_rollout_ref": {"rollout": {"n": 8}},
                "trainer": {"n_gpus_per_node": 2, "nnodes": 1},
            }
        )
    )
    seconds = {"gen": 2.0, "read_rows": 0.1, "adv": 0.2, "update_actor": 1.0, "train": 0.9, "update_weights": 0.3}
    lengths = {
        "prompt_length/mean": 160.0,
        "prompt_length/max": 300.0,
        "response_length/mean": 170.0,
        "response_length/max": 310.0,
    }
    timing = {f"timing_s/{name}": value for name, value in (seconds | {"step": 4.0, "save_checkpoint": 0.25}).items()}
    lines = [{"step": number, "kind": "train", "metrics": timing | lengths} for number in (1, 2, 3)]
    (tmp_path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = scaling._options(["--row", str(tmp_path), "--model-shape", "smollm2-135m", "--gpu", "h100"])
    row = scaling.measured_row(options)
    assert row.keys() == ROWS[0].keys() and row["gpus"] == 2 and not row["calibration"]
    assert row["tokens"] == {
        "prompt": 160.0,
        "response": 170.0,
        "decode_steps": 96 + 310,
        "longest": 610,
        "allowed": 960,
    }
    assert row["seconds"] == {
        "gen": 2.0,
        "adv": 0.2,
        "update_actor": 1.0,
        "update_weights": 0.3,
        "other": 0.25,
        "step": 3.75,  # without the checkpoint
    }
    assert sum(scaling.predicted(row).values()) > 0
