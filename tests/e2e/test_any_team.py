"""Teams of which nothing in ccpo knows train with the real trainer, and every role's credit is what the second implementation says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from jobs import ROOT, TEAM, finish, numbers

STEPS = 2
KEEP = (
    "trainer.v1.sampler.custom_sampler.path=pkg://keep_sessions",
    "trainer.save_freq=-1",
    "trainer.val_before_train=false",
)
PANEL, CHAIN = "examples/panel.py:Panel", "examples/chain.py:Chain"

_spec = importlib.util.spec_from_file_location("reference_credit", ROOT / "tests" / "golden" / "reference_credit.py")
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


def settings_of(rule: str, roles: list[str]) -> dict:
    """Of a job with one policy and default settings. In both examples, everybody hears the first role."""
    history = {
        "decay": 0.9,
        "floor": 0.05,
        "normalize": "history",
        "coefficient": None,
        "shaping": "none",
        "alpha": 1.0,
    }
    return {
        **history,
        "rule": rule,
        "train_replays": False,
        "eta": 1.0,
        "tie": "expected",
        "roles": roles,
        "policy_of": dict.fromkeys(roles, "shared"),
        "first": roles[0],
        "also_spoken": roles[1:],
    }


def as_reference(session: dict) -> dict:
    label = {None: None, 0: reference.TRUTH}
    return {
        "prompt": session["prompt"],
        "session": session["session"],
        "value": session["value"],
        "spoke": {turn["role"]: turn["truncated"] for turn in session["turns"]},
        "replays": [(p["how"], p["role"], p["value"], p["shared"], p["decoded"]) for p in session["replays"]],
        "ballots": session["ballots"] and {role: label.get(b, f"wrong {b}") for role, b in session["ballots"].items()},
    }


@pytest.mark.parametrize(
    "team, rule",
    [
        (PANEL, "removal"),
        pytest.param(CHAIN, "resampling", marks=pytest.mark.slow),
        pytest.param(PANEL, "resampling", marks=pytest.mark.slow),
        pytest.param(CHAIN, "removal", marks=pytest.mark.slow),
    ],
)
def test_a_users_team_trains_and_its_credit_equals_the_references(start, request, tmp_path, team, rule):
    out = tmp_path / "job"
    model = [f"actor_rollout_ref.model.path={request.getfixturevalue('chain_model')}"] if team == CHAIN else []
    finish(start(out, team, f"ccpo.credit.rule={rule}", *KEEP, *model, steps=STEPS), out)
    steps = [json.loads(line) for line in Path(f"{out}.sessions").read_text().splitlines()]
    assert len(steps) == STEPS
    memory: dict = {}
    for step in steps:
        roles, sessions = step["roles"], step["sessions"]
        assert len(sessions) == 64 and np.all(step["spoke"])
        credit = np.array(step["credit"])
        assert (np.abs(credit).max(axis=0) > 0).all(), (
            f"a role without credit: {dict(zip(roles, credit.T, strict=True))}"
        )
        theirs, _, memory = reference.reference_step(
            list(map(as_reference, sessions)), settings_of(rule, roles), memory
        )
        for s, session in enumerate(sessions):
            for code, role in enumerate(roles):
                expected = theirs[session["prompt"], session["session"], role]
                assert step["advantage"][s][code] == pytest.approx(expected, abs=1e-9)
    logged = numbers(out)
    for role in steps[0]["roles"]:
        for name in ("contribution", "help_rate", "hurt_rate"):
            assert f"val-aux/toy/last_digit/{role}/{name}" in logged[STEPS, "val"]
        train = logged[STEPS, "train"]
        assert train[f"ccpo/{role}/advantage_std"] > 0
    assert logged[STEPS, "val"][TEAM] > 0.25
