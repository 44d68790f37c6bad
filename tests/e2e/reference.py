"""Whether the credit of a real job's turns is what the second implementation says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from jobs import ROOT

KEEP = "trainer.v1.sampler.custom_sampler.path=pkg://keep_sessions"

_spec = importlib.util.spec_from_file_location("reference_credit", ROOT / "tests" / "golden" / "reference_credit.py")
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


def settings_of(rule: str, roles: list[str]) -> dict:
    """Of a job with one policy and default settings. In the examples, everybody hears the first role; a vote's rules have no first."""
    history = {
        "decay": 0.9,
        "floor": 0.05,
        "normalize": "group" if rule == "shared" else "history",
        "coefficient": None,
        "siblings": False,
        "wrong_price": 0.0,
        "negative_slope": 1.0,
        "last_gradient": "sampled",
        "reference_after": "prompt",
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
        **{name: session[name] for name in ("likelihoods", "behind", "said")},
        "replays": [(p["how"], p["role"], p["value"], p["shared"], p["decoded"]) for p in session["replays"]],
        "ballots": session["ballots"] and {role: label.get(b, f"wrong {b}") for role, b in session["ballots"].items()},
    }


def agrees(out: Path, rule: str, count: int) -> list[str]:
    """Fails unless it is, in each of the ``count`` steps of a job that was started with `KEEP`; gives the team's roles."""
    steps = [json.loads(line) for line in Path(f"{out}.sessions").read_text().splitlines()]
    assert len(steps) == count
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
    return roles
