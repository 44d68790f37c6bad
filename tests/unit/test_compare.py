"""Table and picture of several runs of voters."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import compare  # noqa: E402

from ccpo.report.means import mean_text  # noqa: E402
from ccpo.run.folder import METRICS  # noqa: E402

SOURCE = "toy/x"
NAMES = ("weak", "strong")


def val(step: int, team: float, voters: tuple[float, float]) -> dict:
    metrics = {f"val-core/{SOURCE}/team_accuracy": team, f"val-aux/{SOURCE}/sessions": 100}
    metrics[f"val-aux/{SOURCE}/ballot_accuracy"] = sum(voters) / len(voters)
    metrics |= {f"val-aux/{SOURCE}/voter_{i}/accuracy": value for i, value in enumerate(voters)}
    return {"step": step, "kind": "val", "metrics": metrics}


def run(weak_after: float) -> list[dict]:
    trained = [
        {
            "step": step,
            "kind": "train",
            "metrics": {"ccpo/voter_0/accuracy": weak_after, "ccpo/sessions/team_accuracy": 0.6},
        }
        for step in (1, 2, 3)
    ]
    return [val(0, 0.5, (0.3, 0.7)), *trained, val(2, 0.6, (0.35, 0.8)), val(3, 0.9, (weak_after, 0.75))]


@pytest.fixture
def runs():
    return {"shared": run(0.25), "resampled": run(0.8)}


def test_table_has_every_voter_under_every_rule_before_and_after(runs):
    blocks = compare.table(runs, NAMES).split("\n")
    weak = blocks.index("voter 0, weak")
    assert [" ".join(line.split()) for line in blocks[weak + 1 : weak + 3]] == [
        "shared (step 3) 0.300 [0.219, 0.396] 0.250 [0.175, 0.343] -0.050",
        "resampled (step 3) 0.300 [0.219, 0.396] 0.800 [0.711, 0.867] +0.500",
    ]
    assert blocks[0].startswith("toy/x, 100 sessions") and blocks[2] == "team (plurality of the votes)"
    assert blocks[-1] == compare.WARNING
    training = blocks.index("voter 0, weak, mean over the training steps")
    assert [line.split() for line in blocks[training + 1 : training + 3]] == [
        ["shared", "0.250"],
        ["resampled", "0.800"],
    ]


def test_the_weak_voter_is_the_one_that_was_weak_before_training(runs):
    assert compare.weakest(runs["shared"], 2) == 0


def test_smooth_is_a_centred_mean_with_whole_ends():
    assert compare.smooth([0.0, 3.0, 6.0, 0.0]) == [1.5, 3.0, 3.0, 3.0]
    assert compare.smooth([1.0]) == [1.0]


def test_picture(runs, tmp_path):
    compare.draw(runs, NAMES, tmp_path / "a.png", "a")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_every_rule_has_its_own_colour():
    assert len(set(compare.COLOURS)) == len(compare.COLOURS) >= len(compare.RULES)


def test_what_is_compared_fits_the_team():
    from ccpo.config import CcpoConfig
    from ccpo.credit.rules import fitting

    team = CcpoConfig(team=compare.TEAM)
    assert len(team.plan.roles) == len(compare.VOTERS) and set(compare.RULES) <= set(fitting(team.plan))
    named = [f"ccpo.roles.{role}.model" for role in team.plan.roles]
    assert {name for name, _ in (text.split("=") for text in compare.OVERRIDES) if name.endswith(".model")} <= set(
        named
    )


def test_a_run_without_validation_is_refused(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 1, "kind": "train", "metrics": {"ccpo/sessions/team_accuracy": 0.5}}\n')
    with pytest.raises(compare.report.ReportError, match="has logged no validation"):
        compare.show({"shared": tmp_path}, tmp_path / "a.png")


def saved(out: Path, rule: str, seed: int, entries: list[dict]) -> None:
    folder = compare.run_folder(out, "x", rule, seed)
    folder.mkdir(parents=True)
    (folder / METRICS).write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_over_seeds_every_rule_is_compared_with_shared_credit_of_the_same_seed(tmp_path):
    for seed, (before, after) in enumerate(((0.2, 0.8), (0.4, 0.9), (0.6, 0.7))):
        saved(tmp_path, "shared", seed, run(before))
        saved(tmp_path, "resampled", seed, run(after))
    saved(tmp_path, "marginal", 7, run(0.5))
    compare.run_folder(tmp_path, "x", "shapley", 0).mkdir()  # not begun
    blocks = [" ".join(line.split()) for line in compare.seeds_table(compare.find(tmp_path)).split("\n")]
    weak = blocks.index("voter 0, the weakest before training")
    # differences .6, .5, .1: mean .4, standard deviation .2646; t(2) = 4.303
    assert sorted(blocks[weak + 1 : weak + 4]) == [
        "marginal 1 0.500",
        "resampled 3 0.800 +- 0.248 +0.400 +- 0.657",
        "shared 3 0.400 +- 0.497",
    ]
    assert blocks[-4:][1:] == blocks[weak + 1 : weak + 4], "here training was as accurate as the end of it"


def test_a_mean_over_seeds_has_an_interval_as_soon_as_there_are_two():
    assert mean_text([0.5]) == "0.500"
    assert mean_text([0.4, 0.6]) == "0.500 +- 1.271"  # t(1) = 12.706, standard error .1
    assert mean_text([0.4, 0.6] * 50).split(" +- ")[1] == "0.020"  # t(99) = 1.984


def test_runs_of_different_lengths_are_not_compared(tmp_path):
    saved(tmp_path, "shared", 0, run(0.5))
    saved(tmp_path, "resampled", 0, run(0.5)[:-1])
    with pytest.raises(compare.report.ReportError, match="resampled seed 0: 2"):
        compare.seeds_table(compare.find(tmp_path))


def test_a_run_without_validation_is_named(tmp_path):
    saved(tmp_path, "shared", 0, run(0.5)[1:2])
    with pytest.raises(compare.report.ReportError, match="x-compare-shared-seed0 has logged no validation"):
        compare.find(tmp_path)


def test_a_folder_without_comparison_is_explained(tmp_path):
    with pytest.raises(compare.report.ReportError, match="has no run of a comparison"):
        compare.find(tmp_path)
