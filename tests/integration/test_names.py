"""Runs are called by what tells them apart."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf  # noqa: E402

from ccpo.verl_plugin.names import name_run, run_name  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "words, name, expected",
    [
        ([], "ccpo_dyad", "dyad-counterfactual-one_policy-last_digit_model-last_digit-seed0"),
        (
            ["ccpo.credit.rule=shared", "seed=7"],
            "ccpo_dyad",
            "dyad-shared-one_policy-last_digit_model-last_digit-seed7",
        ),
        (["ccpo.policies=per_role"], "ccpo_dyad", "dyad-counterfactual-per_role-last_digit_model-last_digit-seed0"),
        (
            ["ccpo.team_kwargs.n_voters=5", "ccpo.team_kwargs.rounds=2"],
            "ccpo_vote",
            "vote-n_voters5-rounds2-leave_one_out-one_policy-last_digit_model-last_digit-seed0",
        ),
        (
            ["ccpo.policies=per_role", "+ccpo.roles.think.model=org/Big-1B", "actor_rollout_ref.model.path=org/m/"],
            "ccpo_dyad",
            "dyad-counterfactual-per_role-m+think.Big-1B-last_digit-seed0",
        ),
        (
            ["ccpo.team=examples/panel.py:Panel", "data.train_files=[/tables/my data/a.parquet,b.parquet]"],
            "ccpo",
            "Panel-removal-one_policy-last_digit_model-my_data-seed0",
        ),
        (["ccpo.team=no/such.py:My/../Team", "ccpo.credit.rule=null"], "ccpo", None),
        (["ccpo.credit=null", "ccpo.team_kwargs=null", "ccpo.roles=null", "data.train_files=null"], "ccpo_vote", None),
    ],
)
def test_a_name_holds_what_tells_runs_apart(compose, words, name, expected):
    config = compose("profile=cpu", "task=last_digit", *words, name=name)
    found = run_name(config)
    assert expected in (None, found)
    assert set("/ ${}'\"\\\n").isdisjoint(found) and found[0] not in ".-" and len(found) < 250


LONG = "some-very-long-organisation-model-name-Instruct-v0.1"


@pytest.mark.parametrize(
    "one, other",
    [
        ([f"actor_rollout_ref.model.path=org/{LONG}"], [f"actor_rollout_ref.model.path=org/{LONG}-dpo"]),
        (["actor_rollout_ref.model.path='\u6a21\u578b'"], ["actor_rollout_ref.model.path='\u5927\u6a21'"]),
        (["data.train_files='\u6570/t.parquet'"], ["data.train_files='\u636e/t.parquet'"]),
        (
            ["ccpo.policies=per_role", "+ccpo.roles.think.model=org/Big-1B"],
            ["ccpo.policies=per_role", "+ccpo.roles.reason.model=org/Big-1B"],
        ),
        *(
            ([f"+ccpo.team_kwargs.{'x' * 30}{number}={number}" for number in range(count)], ["seed=1"])
            for count in (1, 9, 40)
        ),
    ],
)
def test_what_does_not_fit_into_a_name_still_tells_runs_apart(compose, one, other):
    """A part that is cut, or has letters that a name cannot have, leaves a sum."""
    found, differing = (run_name(compose("profile=cpu", "task=last_digit", *words)) for words in (one, other))
    assert found != differing and found == run_name(compose("profile=cpu", "task=last_digit", *one))
    assert max(len(found), len(differing)) <= 128 and found.isascii(), "wandb takes no longer one"


@pytest.mark.parametrize("path", ["data_preprocess/nothing/../last_digit_model/", "data_preprocess/last_digit_model/."])
def test_a_model_is_called_after_its_folder(compose, monkeypatch, path):
    monkeypatch.chdir(ROOT)
    found = run_name(compose("profile=cpu", "task=last_digit", f"actor_rollout_ref.model.path={path}"))
    assert "-last_digit_model-last_digit-" in found


def test_the_folder_follows_and_equal_commands_agree(compose):
    configs = [
        compose("profile=cpu", "task=last_digit", f"ccpo.credit.rule={rule}")
        for rule in ("shared", "removal", "shared")
    ]
    for config in configs:
        name_run(config)
    first, other, again = (config.trainer.default_local_dir for config in configs)
    assert first == again != other
    assert first == f"outputs/{configs[0].trainer.experiment_name}"


def test_a_given_name_and_folder_stay(compose):
    config = compose("trainer.experiment_name=mine", "trainer.default_local_dir=/elsewhere")
    name_run(config)
    assert (config.trainer.experiment_name, config.trainer.default_local_dir) == ("mine", "/elsewhere")
    OmegaConf.update(config, "trainer.experiment_name", "")
    name_run(config)
    assert config.trainer.experiment_name == ""  # named by the checks
