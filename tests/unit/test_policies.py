"""Which policy plays which role, and which learns when."""

from __future__ import annotations

import pytest

from ccpo.config import CcpoConfig, ConfigError

THINK, REASON = "think", "reason"


def dyad(n=4, **node) -> CcpoConfig:
    return CcpoConfig.from_dict({"policies": "per_role", **node}, n)


def vote(n=4, **node) -> CcpoConfig:
    credit = {"rule": "resampled"}
    return CcpoConfig.from_dict({"policies": "per_role", "team": "vote", "credit": credit, **node}, n)


def roles(config: CcpoConfig) -> dict[str, tuple[str, ...]]:
    return {policy.name: policy.roles for policy in config.policy_list()}


def test_one_policy_plays_every_role_by_default():
    assert roles(CcpoConfig.from_dict({}, 4)) == {"shared": (THINK, REASON)}


def test_every_role_has_its_own():
    assert roles(dyad()) == {"think": (THINK,), "reason": (REASON,)}
    assert roles(vote()) == {f"voter_{i}": (f"voter_{i}",) for i in range(3)}


def test_roles_may_share_policies_partly():
    config = vote(roles={"voter_0": {"policy": "a"}, "voter_2": {"policy": "a", "model": "org/small"}})
    assert roles(config) == {"a": ("voter_0", "voter_2"), "voter_1": ("voter_1",)}
    assert [policy.model for policy in config.policy_list()] == ["org/small", None]


def test_rows_of_a_policy():
    config = dyad(credit={"train_replays": True, "replays_per_prompt": 3})
    assert config.rows_per_prompt(4, (THINK,)) == 4
    assert config.rows_per_prompt(4, (REASON,)) == 4 + 3
    assert config.rows_per_prompt(4) == 11
    assert vote(team_kwargs={"rounds": 1}).rows_per_prompt(4, ("voter_1",)) == 4


def test_together_everyone_learns_always():
    assert all(dyad().learns(name, step) for name in ("think", "reason") for step in range(1, 30))


def test_alternating_policies_take_turns():
    config = dyad(schedule={"mode": "alternate", "every": 3})
    assert "".join("t" if config.learns("think", step) else "r" for step in range(1, 14)) == "tttrrrtttrrrt"
    assert all(config.learns("think", step) != config.learns("reason", step) for step in range(1, 40))
    config = dyad(schedule={"mode": "alternate", "every": 1, "first": "reason"})
    assert [config.learns("reason", step) for step in range(1, 5)] == [True, False, True, False]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"policies": "per_rol"}, "did you mean 'per_role'?"),
        ({"policies": "shared", "roles": {"think": {"model": "a"}}}, "set ccpo.policies=per_role, or drop it"),
        ({"roles": {"solo": {"model": "a"}}}, "ccpo.roles.solo: the team has no such role"),
        ({"roles": {"voter_0": {"model": "a"}}}, "the team has no such role"),
        ({"roles": {"critic": {}}}, "ccpo.roles.critic: the team has no such role"),
        ({"roles": {"think": {"policy": "Actor 1"}}}, "cannot name a policy"),
        ({"roles": {"think": {"policy": "actor_rollout"}}}, "cannot name a policy"),
        (
            {"roles": {"think": {"policy": "a", "model": "x"}, "reason": {"policy": "a", "model": "y"}}},
            "policy a has 2 models, x, y",
        ),
        ({"schedule": {"every": 0}}, "ccpo.schedule.every is 0"),
        ({"schedule": {"mode": "alternating"}}, "did you mean 'alternate'?"),
        ({"schedule": {"first": "solo"}}, "the policies are think, reason"),
        ({"policies": "shared", "schedule": {"mode": "alternate"}}, "there is one policy"),
    ],
)
def test_impossible_policies_are_refused(node, expected):
    with pytest.raises(ConfigError) as error:
        dyad(**node)
    assert expected in str(error.value)


def test_replays_are_trained_where_one_policy_speaks_in_them():
    panel = {"team": "examples/panel.py:Panel", "prompts": "toy", "credit": {"rule": "removal", "train_replays": True}}
    with pytest.raises(ConfigError, match="reason_0, reason_1, reason_2 say in one replay, and they have 3 policies"):
        CcpoConfig.from_dict({**panel, "policies": "per_role"}, 4)
    for accepted in (panel, {"policies": "per_role", "credit": {"train_replays": True}}):
        CcpoConfig.from_dict(accepted, 4)
    readers = {f"reason_{i}": {"policy": "readers"} for i in range(3)}
    CcpoConfig.from_dict({**panel, "policies": "per_role", "roles": readers}, 4)
