"""A step as a trainer calls it: agents that learn with it, names that do not matter, and the README's way in."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import ccpo
from ccpo import CreditConfig, HistoryState, ReplayRecord, SessionRecord, Sessions, StepSettings, TurnRecord
from ccpo.credit.rules import RULES, refusals
from ccpo.team import Team
from ccpo.team.dyad import Dyad
from ccpo.team.plan import plan
from ccpo.team.replay import Intervention, play
from ccpo.team.session import Decoded, Scene
from ccpo.team.vote import Vote
from ccpo.types import REMOVE, RESAMPLE

# ------------------------------------------------------------------------------------------- two agents that learn a task

QUESTIONS = {"red": "2", "green": "0", "blue": "1"}
"""Think sees the question, Reason the thought alone: they have to agree on a language."""
WORDS = ("0", "1", "2")


class Whisper(Team):
    roles = ("think", "reason")

    async def play(self, s):
        return s.answer(await s.say("reason", thought=await s.say("think", question=s.question)))


class Agents:
    """A table of logits for each (role, what it hears), played with softmax."""

    def __init__(self, seed: int) -> None:
        self.logits: dict = {}
        self.random = np.random.default_rng(seed)

    def probabilities(self, key) -> np.ndarray:
        weights = np.exp(self.logits.setdefault(key, np.zeros(len(WORDS))))
        return weights / weights.sum()

    async def decode(self, role, heard, label) -> Decoded:
        p = self.probabilities((role, heard))
        word = int(self.random.choice(len(WORDS), p=p))
        return Decoded(WORDS[word], payload=((role, heard), np.eye(len(WORDS))[word] - p))

    def learn(self, payload, advantage: float, rate: float) -> None:
        key, score = payload
        self.logits[key] = self.logits[key] + rate * advantage * score


def judge(truth: str):
    async def verify(text):
        return SimpleNamespace(answer=text, reward=float(text == truth), parsed=True)

    async def same(a, b):
        return a == b

    return SimpleNamespace(truth=truth, verify=verify, label=str, same=same)


def train(rule: str, steps: int, n: int = 6, seed: int = 0) -> list[float]:
    """The team's value in every step."""
    team = Whisper()
    its, agents, state, values = plan(team), Agents(seed), HistoryState(), []
    config = CreditConfig(rule)
    assert refusals(config, ccpo.HistoryConfig(), its, n) == []
    how = {"removal": REMOVE, "counterfactual": REMOVE, "resampling": RESAMPLE}.get(rule)
    asked = [
        Intervention(how, role) for role in its.roles if how and (how == REMOVE or not its.replay(how, role).shared)
    ]
    settings = StepSettings(config, first=its.first)

    async def run():
        found = []
        for question, truth in QUESTIONS.items():
            for session in range(n):
                scene = Scene(question, agents.decode, lambda role, fields: tuple(sorted(fields.items())), judge(truth))
                played = await play(team, scene, its, asked, cuts=RULES[rule].reference)
                likely = [
                    float(agents.probabilities((its.order[-1], heard))[WORDS.index(truth)]) for heard in played.cuts
                ]
                found.append((question, session, played, tuple(likely) or None))
        return found

    for _ in range(steps):
        played = asyncio.run(run())
        sessions = Sessions.from_records(
            [replace(p.record(question, s), likelihoods=likely) for question, s, p, likely in played], its.roles
        )
        result = ccpo.compute_advantages(sessions, settings, state)
        state = result.state
        for (_, _, p, _), row in zip(played, result.advantage_SV, strict=True):
            for turn in p.turns:
                agents.learn(turn.payload, row[its.roles.index(turn.role)], rate=0.3)
        values.append(float(sessions.value_S.mean()))
    assert state.steps == steps
    return values


@pytest.mark.parametrize(
    "rule", ["counterfactual", "removal", "resampling", "likelihood", "shared", "shared_history", "shrinkage"]
)
def test_two_tabular_agents_learn_to_talk(rule: str):
    values = train(rule, steps=45)
    assert np.mean(values[:5]) < 0.55, "they begin at chance"
    assert np.mean(values[-5:]) > 0.9, values


# ------------------------------------------------------------------------------------------------------------- the coin


def coins(steps: int, keys: str = "abc", roles: tuple[str, ...] = ("x", "y"), value: float = 1.0) -> list[float]:
    """Of four sessions of each of these prompts, in this order."""
    turns = tuple(TurnRecord(role) for role in roles)
    table = Sessions.from_records([SessionRecord(key, s, value, turns) for key in keys for s in range(4)], roles)
    settings = StepSettings(CreditConfig("random_reward", "none"))
    result = ccpo.compute_advantages(table, settings, HistoryState(steps=steps))
    assert result.state.steps == steps + 1
    assert (result.credit_SV == result.credit_SV[:, :1]).all(), "one coin for all roles"
    return result.credit_SV[:, 0].tolist()


def test_a_coin_is_of_a_position_and_a_step_and_of_nothing_else():
    assert coins(3) == coins(3, keys="zqb") == coins(3, roles=("one",)) == coins(3, value=0.0)
    assert coins(3, keys="abcd")[:12] == coins(3), "prompts that come later change nothing"
    assert len({tuple(coins(steps)) for steps in range(50)}) == 50, "every step throws anew"


def test_coins_are_fair():
    thrown = [coin for steps in range(400) for coin in coins(steps)]
    assert set(thrown) == {0.0, 1.0}
    assert np.mean(thrown) == pytest.approx(0.5, abs=4 * 0.5 / len(thrown) ** 0.5)


def test_a_resumed_job_throws_the_same_coins():
    settings, table = (
        StepSettings(CreditConfig("random_reward")),
        Sessions.from_table([(prompt, s, s % 2, {"a": 0}) for prompt in "pq" for s in range(3)]),
    )
    one = ccpo.compute_advantages(table, settings)
    two = ccpo.compute_advantages(table, settings, one.state)
    again = ccpo.compute_advantages(table, settings, HistoryState.from_dict(one.state.to_dict()))
    np.testing.assert_array_equal(two.advantage_SV, again.advantage_SV)
    assert (two.credit_SV != one.credit_SV).any()


# --------------------------------------------------------------------------------------------------- do the replays pay?


def ratios(rule: str, rows, state: HistoryState | None = None, **options) -> tuple[dict[str, float], HistoryState]:
    roles = tuple(dict.fromkeys(role for *_, without in rows for role in without))
    result = ccpo.compute_advantages(
        Sessions.from_table(rows, roles), StepSettings(CreditConfig(rule, "none", **options)), state
    )
    return {k: v for k, v in result.metrics.items() if k.endswith("variance_ratio")}, result.state


PAYS = [
    ("p", 0, 1, {"a": 1, "b": 0}),
    ("p", 1, 1, {"a": 1, "b": 1}),
    ("q", 0, 0, {"a": 0, "b": 1}),
    ("q", 1, 0, {"a": 0, "b": 0}),
]
"""R = 1, 1, 0, 0. Without a the same: nothing is left of R. Without b independent of it: R - b has twice the variance."""


@pytest.mark.parametrize("rule", ["removal", "leave_one_out"])
def test_the_variance_that_a_baseline_leaves(rule: str):
    options = {"coefficient": 1.0} if rule == "removal" else {}
    assert ratios(rule, PAYS, **options)[0] == {"a/variance_ratio": 0.0, "b/variance_ratio": 2.0}


def test_leave_one_out_is_the_plain_difference_whatever_else_is_set():
    plain, state = ratios("leave_one_out", PAYS)
    assert ratios("leave_one_out", PAYS, siblings=True, coefficient=0.5) == (plain, state) and not state.joints


def test_a_fitted_coefficient_leaves_the_useless_baseline_out():
    first, state = ratios("removal", PAYS)
    assert first == {"a/variance_ratio": 1.0, "b/variance_ratio": 1.0}, "no history: no control variate"
    fitted, _ = ratios("removal", PAYS, state)
    assert fitted == {"a/variance_ratio": 0.0, "b/variance_ratio": 1.0}
    both, _ = ratios("removal", PAYS, ratios("removal", PAYS, siblings=True)[1], siblings=True)
    assert both["a/variance_ratio"] < 1e-6 and both["b/variance_ratio"] < 1e-6, "siblings are worth what a's removal is"


def test_one_baseline_for_all_roles_has_one_ratio():
    records = [
        SessionRecord(
            prompt, s, value, (TurnRecord("a"), TurnRecord("b")), (ReplayRecord("remove", "a", value, True, 1),)
        )
        for prompt, value in (("p", 1.0), ("q", 0.0))
        for s in range(2)
    ]
    table = Sessions.from_records(records, ("a", "b"))
    found = ccpo.compute_advantages(table, StepSettings(CreditConfig("counterfactual", coefficient=1.0), first="a"))
    assert found.metrics["credit/variance_ratio"] == 0
    found = ccpo.compute_advantages(table, StepSettings(CreditConfig("shrinkage")))
    assert found.metrics["credit/variance_ratio"] == 0 and found.metrics["credit/shrinkage"] == 0
    found = ccpo.compute_advantages(table, StepSettings(CreditConfig("resampling")))
    assert found.metrics["a/variance_ratio"] == found.metrics["b/variance_ratio"] == 0
    found = ccpo.compute_advantages(table, StepSettings(CreditConfig("shared")))
    assert not [name for name in found.metrics if "variance_ratio" in name], "there is no baseline"


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
@pytest.mark.parametrize("rule", ["removal", "leave_one_out", "resampling", "shrinkage"])
def test_there_is_no_ratio_where_the_reward_does_not_vary(rule: str, value: float):
    """.1 + .1 + ... is not 3 times .1 to the last bit: a mean's rounding is no variance."""
    rows = [(prompt, s, value, {"a": s % 2}) for prompt in "pqr" for s in range(3)]
    with np.errstate(all="raise"):
        assert ratios(rule, rows)[0] == {}


def test_only_sessions_with_something_to_compare_count():
    """Rule resampling gives a lone session 0, which is no baseline that paid."""
    rows = [("p", 0, 1, {"a": 0}), ("p", 1, 0, {"a": 0}), *((f"lone {i}", 0, i % 2, {"a": 0}) for i in range(6))]
    assert ratios("resampling", rows)[0] == {"a/variance_ratio": 4.0}  # R = 1, 0 against 0, 1: credit 1, -1


# ---------------------------------------------------------------------------------------------------- names do not matter

RENAMED = {
    "dyad": {"think": "zebra", "reason": "ape"},
    "vote": {"voter_0": "solo", "voter_1": "think", "voter_2": "a"},
}


def records(team: str, name: dict[str, str]) -> list[SessionRecord]:
    """Twelve sessions with all kinds of replays, their roles called by these names."""
    draw = np.random.default_rng(7)
    roles = list(RENAMED[team])
    found = []
    for prompt in range(3):
        for session in range(4):
            value = float(draw.random() < 0.6)
            ballots = [("T", "x", "y", None)[i] for i in draw.choice(4, size=len(roles))] if team == "vote" else None
            replays = []
            for i, role in enumerate(roles):
                shared = team == "dyad" and i == 0
                replays.append(ReplayRecord(REMOVE, name[role], float(draw.random() < 0.4), shared, int(shared)))
                if team == "vote" or i:
                    replays.append(ReplayRecord(RESAMPLE, name[role], float(draw.random() < 0.5), decoded=1))
            turns = tuple(TurnRecord(name[role], bool(draw.random() < 0.1)) for role in roles)
            cast = dict(zip((name[role] for role in roles), ballots, strict=True)) if ballots else None
            likely = tuple(draw.random(len(roles)))
            found.append(
                SessionRecord(prompt, session, value, turns, tuple(replays), cast, "T" if cast else None, likely)
            )
    return found


CASES = [
    (team, rule, train)
    for team, its in (("dyad", plan(Dyad())), ("vote", plan(Vote(3))))
    for rule in RULES
    for train in (False, True)
    if not refusals(CreditConfig(rule, train_replays=train), ccpo.HistoryConfig(), its, 4)
]


@pytest.mark.parametrize(("team", "rule", "train"), CASES)
def test_renaming_every_role_changes_no_number(team: str, rule: str, train: bool):
    def two_steps(name: dict[str, str]):
        roles, state = [name[role] for role in RENAMED[team]], None
        first, spoken = (roles[0], (roles[1],)) if team == "dyad" else (None, ())
        settings = StepSettings(
            CreditConfig(rule, train_replays=train),
            policy_of=dict.fromkeys(roles, "one"),
            first=first,
            also_spoken=spoken,
        )
        sessions = Sessions.from_records(records(team, name), roles)
        for _ in range(2):
            result = ccpo.compute_advantages(sessions, settings, state)
            state = result.state
        return result

    plain, renamed = two_steps({role: role for role in RENAMED[team]}), two_steps(RENAMED[team])
    assert plain.advantage_SV.any()
    np.testing.assert_array_equal(plain.advantage_SV, renamed.advantage_SV)
    np.testing.assert_array_equal(plain.advantage_P, renamed.advantage_P)
    np.testing.assert_array_equal(plain.credit_SV, renamed.credit_SV)
    called = {"/".join(RENAMED[team].get(part, part) for part in key.split("/")): v for key, v in plain.metrics.items()}
    assert called == renamed.metrics


# --------------------------------------------------------------------------------------------------------- the way in


def test_a_step_from_a_plain_table():
    """What each team was worth, and what it was worth without each role: no model, no trainer."""
    sessions = Sessions.from_table(
        [
            ("q1", 0, 1, {"planner": 0, "coder": 0}),
            ("q1", 1, 0, {"planner": 0, "coder": 0}),
            ("q2", 0, 1, {"planner": 1, "coder": 0}),
            ("q2", 1, 1, {"planner": 1, "coder": 0}),
        ]
    )
    result = ccpo.compute_advantages(sessions, StepSettings(CreditConfig("removal", "none", coefficient=1.0)))
    assert sessions.roles == ("planner", "coder")
    assert result.credit_SV.tolist() == result.advantage_SV.tolist() == [[1, 1], [0, 0], [0, 1], [0, 1]]
    assert result.metrics["planner/contribution"] == 1 / 4 and result.metrics["coder/contribution"] == 3 / 4
    assert result.state.steps == 1

    normalized = ccpo.compute_advantages(sessions, StepSettings(CreditConfig("removal", coefficient=1.0)), result.state)
    np.testing.assert_allclose(normalized.advantage_SV.mean(axis=0), 0, atol=1e-12)
    again = HistoryState.from_dict(result.state.to_dict())
    after = ccpo.compute_advantages(sessions, StepSettings(CreditConfig("removal", coefficient=1.0)), again)
    np.testing.assert_array_equal(after.advantage_SV, normalized.advantage_SV)


def test_a_role_that_says_nothing_gets_nothing():
    sessions = Sessions.from_records(
        [
            SessionRecord("q", 0, 1.0, (TurnRecord("a"), TurnRecord("b"))),
            SessionRecord("q", 1, 0.0, (TurnRecord("a"),)),
            SessionRecord("q", 2, 0.0, (TurnRecord("a"), TurnRecord("b"), TurnRecord("b"))),
        ],
        ("a", "b", "never"),
    )
    result = ccpo.compute_advantages(sessions, StepSettings(CreditConfig("shared", "centred")))
    np.testing.assert_allclose(result.advantage_SV, [[2 / 3, 1 / 2, 0], [-1 / 3, 0, 0], [-1 / 3, -1 / 2, 0]])
    assert result.credit_SV[1].tolist() == [0, 0, 0]
    assert not any(name.startswith("never/") for name in result.metrics)


def test_a_failed_step_is_not_counted():
    """The caller keeps its old state: the step raises before it returns another."""
    state = HistoryState()
    sessions = Sessions.from_records([SessionRecord("q", 0, 1.0, (TurnRecord("a"),))])
    with pytest.raises(ValueError, match="removal of a"):
        ccpo.compute_advantages(sessions, StepSettings(CreditConfig("removal")), state)
    assert state == HistoryState()


def test_the_default_settings_are_a_rule_that_exists():
    assert StepSettings().credit.rule in RULES
    with pytest.raises(KeyError):
        ccpo.compute_advantages(Sessions.from_table([], ("a",)), StepSettings(CreditConfig("no such rule")))
