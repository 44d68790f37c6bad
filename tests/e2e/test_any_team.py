"""Teams of which nothing in ccpo knows train with the real trainer, and every role's credit is what the second implementation says."""

from __future__ import annotations

import pytest
from jobs import TEAM, finish, numbers
from reference import KEEP, agrees

STEPS = 2
ONLY_TRAIN = ("trainer.save_freq=-1", "trainer.val_before_train=false")
PANEL, CHAIN, SINGLE = "examples/panel.py:Panel", "examples/chain.py:Chain", "examples/single.py:Single"


@pytest.mark.slow
@pytest.mark.parametrize(
    "team, rule",
    [
        (PANEL, "removal"),
        (CHAIN, "resampling"),
        (CHAIN, "likelihood"),
        (PANEL, "resampling"),
        (CHAIN, "removal"),
        (SINGLE, "shared"),
    ],
)
def test_a_users_team_trains_and_its_credit_equals_the_references(start, request, tmp_path, team, rule):
    out = tmp_path / "job"
    model = [f"actor_rollout_ref.model.path={request.getfixturevalue('chain_model')}"] if team == CHAIN else []
    finish(start(out, team, f"ccpo.credit.rule={rule}", KEEP, *ONLY_TRAIN, *model, steps=STEPS), out)
    roles = agrees(out, rule, STEPS)
    logged = numbers(out)
    for role in roles:
        for name in ("contribution", "help_rate", "hurt_rate"):
            assert f"val-aux/toy/last_digit/{role}/{name}" in logged[STEPS, "val"]
        train = logged[STEPS, "train"]
        assert train[f"ccpo/{role}/advantage_std"] > 0
    assert logged[STEPS, "val"][TEAM] > 0.25
