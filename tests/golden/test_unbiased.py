"""Every rule that claims to be unbiased, by enumeration: the real programs, replays and rules on tabular agents.

An agent is a table: for every (role, what it hears) the probability of saying 1 (right) instead of 0. The decoder is scripted, so a
step's every outcome can be played, with its probability. For the tokens of every turn of every role

    E[score x credit] = d E[R] / d logit          score = what was said - its probability

with credits from `ccpo.step.compute_advantages` on the records that `ccpo.team.replay.play` makes.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from ccpo.credit.base import CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState
from ccpo.credit.likelihood import likelihood
from ccpo.credit.rules import RULES, fits, fitting
from ccpo.plurality import values_without
from ccpo.step import StepSettings, compute_advantages
from ccpo.team import Team
from ccpo.team.dyad import Dyad
from ccpo.team.plan import plan
from ccpo.team.replay import Intervention, play
from ccpo.team.session import Decoded, Scene
from ccpo.team.vote import Vote
from ccpo.types import REMOVE, RESAMPLE, ReplayRecord, Sessions

EXACT = 1e-12
CLEARLY = 1e-3  # a bias that is no rounding


class Chain(Team):
    roles = ("proposer", "critic", "refiner")

    async def play(self, s):
        draft = await s.say("proposer", question=s.question)
        review = await s.say("critic", question=s.question, draft=draft)
        return s.answer(await s.say("refiner", question=s.question, draft=draft, review=review))


class EarlyStop(Chain):
    """The critic may accept the draft: the refiner is then silent."""

    samples = {"critic": ("1", "0")}

    async def play(self, s):
        draft = await s.say("proposer", question=s.question)
        review = await s.say("critic", question=s.question, draft=draft)
        if review is not None and review.text == "1":
            return s.answer(draft)
        return s.answer(await s.say("refiner", question=s.question, draft=draft, review=review))


class Unforeseen(Team):
    """The proposer speaks again in a way that the plan, which has no samples here, does not see."""

    roles = ("host", "proposer", "critic")

    async def play(self, s):
        topic = await s.say("host", question=s.question)
        draft = await s.say("proposer", topic=topic)
        review = await s.say("critic", draft=draft)
        if review is not None and review.text == "0":
            draft = await s.say("proposer", review=review)
        return s.answer(draft)


class Panel(Team):
    roles = ("think", "reader_0", "reader_1", "reader_2")

    async def play(self, s):
        thought = await s.say("think", question=s.question)
        return s.plurality(await s.all(*(s.say(r, question=s.question, thought=thought) for r in self.roles[1:])))


TEAMS = {
    "dyad": Dyad(),
    "two voters": Vote(2),
    "three voters": Vote(3),
    "two voters, two rounds": Vote(2, rounds=2),
    "three voters, two rounds": Vote(3, rounds=2),
    "chain": Chain(),
    "early stop": EarlyStop(),
    "unforeseen": Unforeseen(),
    "panel": Panel(),
}
PLANS = {name: plan(team) for name, team in TEAMS.items()}


# ------------------------------------------------------------------------------------------------ every outcome of a step


class Judge:
    truth = "1"

    async def verify(self, text):
        return SimpleNamespace(answer=text, reward=float(text == "1"), parsed=True)

    def label(self, answer):
        return answer

    async def same(self, a, b):
        return a == b


class Graded(Judge):
    """Partial credit: neither answer is worth 0 or 1."""

    async def verify(self, text):
        return SimpleNamespace(answer=text, reward=0.85 if text == "1" else 0.3, parsed=True)


Token = tuple[str, tuple]
"""(role, what it hears): one logit of the policy."""


def table(role: str, heard: tuple) -> float:
    """P(1): another one for each token, between .15 and .85."""
    return 0.15 + 0.7 * (zlib.crc32(repr((role, heard)).encode()) % 1009) / 1009


@dataclass(frozen=True)
class Path:
    """One outcome of a session and its replays. ``scores``: (token, said - probability) of the session's own turns."""

    probability: float
    played: object
    scores: tuple[tuple[Token, float], ...]

    def record(self, prompt, session: int = 0):
        return self.played.record(prompt, session, Judge.truth)


@cache
def paths(
    name: str, interventions: tuple[Intervention, ...] = (), policy: Callable = table, judge: type[Judge] = Judge
) -> tuple[Path, ...]:
    """All of them, depth-first over what is decoded."""
    team, its = TEAMS[name], PLANS[name]

    async def every() -> list[Path]:
        found, todo = [], [()]
        while todo:
            prefix, said, chance = todo.pop(), [], [1.0]

            async def decode(role, heard, label, prefix=prefix, said=said, chance=chance):
                p = policy(role, heard)
                choice = prefix[len(said)] if len(said) < len(prefix) else (0 if p < 1 else 1)
                if len(said) >= len(prefix) and 0 < p < 1:
                    todo.append((*said, 1))
                said.append(choice)
                chance[0] *= p if choice else 1 - p
                return Decoded(str(choice), payload=((role, heard), choice - p))

            scene = Scene("q", decode, lambda role, fields: tuple(sorted(fields.items())), judge())
            played = await play(team, scene, its, interventions, cuts=not fits("likelihood", its))
            found.append(Path(chance[0], played, tuple(turn.payload for turn in played.turns)))
        return found

    found = asyncio.run(every())
    assert math.isclose(sum(path.probability for path in found), 1), "outcomes are missing, or counted twice"
    return tuple(found)


def gradient(weighted: Iterable[tuple[float, Path, Callable[[str], float]]]) -> dict[Token, float]:
    """E[score x credit] of (probability, session, role -> credit) triples."""
    total: dict[Token, float] = defaultdict(float)
    for probability, path, credit in weighted:
        for token, score in path.scores:
            total[token] += probability * score * credit(token[0])
    return dict(total)


def true_gradient(name: str, policy: Callable = table, judge: type[Judge] = Judge) -> dict[Token, float]:
    found = paths(name, (), policy, judge)
    return gradient((path.probability, path, lambda role, path=path: path.played.value) for path in found)


TRUE = {name: true_gradient(name) for name in TEAMS}


def gap(got: dict[Token, float], want: dict[Token, float], roles: Iterable[str]) -> float:
    """Largest error over the tokens of these roles."""
    tokens = [token for token in want if token[0] in roles]
    assert tokens and {token for token in got if token[0] in roles} == set(tokens)
    return max(abs(got[token] - want[token]) for token in tokens)


def credited(
    name: str,
    rule: str,
    groups: list[tuple[float, tuple[Path, ...]]],
    coefficient: float | None = None,
    state: HistoryState | None = None,
    **options,
) -> dict:
    """E[score x credit] where every group is a prompt of its own, with probability ``p``; means over the group's sessions."""
    roles = PLANS[name].roles
    records = [path.record(g, s) for g, (_, group) in enumerate(groups) for s, path in enumerate(group)]
    settings = StepSettings(CreditConfig(rule, "none", coefficient, **options), first=PLANS[name].first)
    result = compute_advantages(Sessions.from_records(records, roles), settings, state)
    np.testing.assert_array_equal(result.advantage_SV, result.credit_SV)  # normalize none
    sessions = [(p / len(group), path) for p, group in groups for path in group]
    return gradient(
        (p, path, lambda role, row=row: row[roles.index(role)])
        for (p, path), row in zip(sessions, result.advantage_SV.tolist(), strict=True)
    )


def alone(found: Sequence[Path]) -> list[tuple[float, tuple[Path, ...]]]:
    return [(path.probability, (path,)) for path in found]


def pairs(found: Sequence[Path]) -> list[tuple[float, tuple[Path, ...]]]:
    return [(a.probability * b.probability, (a, b)) for a, b in itertools.product(found, repeat=2)]


def replays(name: str, how: str) -> tuple[Intervention, ...]:
    """Of every role; a resample that serves all sessions of the prompt is none: the other sessions are its replays."""
    its = PLANS[name]
    return tuple(
        Intervention(how, role) for role in its.roles if how == REMOVE or not its.replay(RESAMPLE, role).shared
    )


def with_stand_ins(found: Sequence[Path], name: str) -> list[Path]:
    """Rule removal wants a removal of every role; where only one was played, the others' value is a number that nobody reads."""
    roles = PLANS[name].roles

    def added(path: Path) -> Path:
        have = {replay.intervention.role for replay in path.played.replays}

        def record(prompt, session, truth):
            its = path.played.record(prompt, session, truth)
            others = tuple(ReplayRecord(REMOVE, role, 0.37) for role in roles if role not in have)
            return type(its)(prompt, session, its.value, its.turns, its.replays + others, its.ballots, its.truth)

        return Path(path.probability, SimpleNamespace(record=record, value=path.played.value), path.scores)

    return [added(path) for path in found]


# ----------------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize("name", TEAMS)
def test_shared_is_the_true_gradient(name: str):
    assert gap(credited(name, "shared", alone(paths(name))), TRUE[name], PLANS[name].roles) < EXACT
    assert max(map(abs, TRUE[name].values())) > 10 * CLEARLY


def test_what_the_plans_say_of_the_teams():
    """Which of the teams the tests below speak about, and that every turn of theirs is a token of its own."""
    assert {name for name, its in PLANS.items() if its.first} == {"dyad", "chain", "early stop", "unforeseen", "panel"}
    tokens = {name: len(TRUE[name]) for name in TEAMS}
    assert tokens["dyad"] == 1 + 2 and tokens["chain"] == 1 + 2 + 4 and tokens["panel"] == 1 + 3 * 2
    assert tokens["early stop"] == 1 + 2 + 2, "the refiner speaks where the critic said 0"
    assert tokens["unforeseen"] == 1 + 2 + 2 + 1 and ("proposer", 1) not in PLANS["unforeseen"].turns
    assert tokens["three voters, two rounds"] == 3 + 3 * 4


@pytest.mark.parametrize("coefficient", [0.4, 1.0])
@pytest.mark.parametrize("name", TEAMS)
def test_removal_is_unbiased_for_every_turn_of_every_role(name: str, coefficient: float):
    """Role by role: what is played beside a session does not change what another role's removal is worth."""
    for role in PLANS[name].roles:
        found = with_stand_ins(paths(name, (Intervention(REMOVE, role),)), name)
        assert gap(credited(name, "removal", alone(found), coefficient), TRUE[name], [role]) < EXACT, role


@pytest.mark.parametrize("name", ["dyad", "two voters, two rounds", "three voters", "early stop"])
def test_removal_is_unbiased_with_all_replays_in_one_step(name: str):
    found = paths(name, replays(name, REMOVE))
    for coefficient in (0.4, 1.0):
        assert gap(credited(name, "removal", alone(found), coefficient), TRUE[name], PLANS[name].roles) < EXACT


@pytest.mark.parametrize("name", [name for name, its in PLANS.items() if not fits("leave_one_out", its)])
def test_leave_one_out_is_unbiased_for_every_turn_of_every_role(name: str):
    for role in PLANS[name].roles:
        found = with_stand_ins(paths(name, (Intervention(REMOVE, role),)), name)
        assert gap(credited(name, "leave_one_out", alone(found)), TRUE[name], [role]) < EXACT, role


@pytest.mark.parametrize("coefficient", [0.4, 1.0])
@pytest.mark.parametrize("name", [name for name, its in PLANS.items() if its.first])
def test_counterfactual_is_unbiased_for_every_role(name: str, coefficient: float):
    its = PLANS[name]
    found = paths(name, (Intervention(REMOVE, its.first),))
    assert gap(credited(name, "counterfactual", alone(found), coefficient), TRUE[name], its.roles) < EXACT


@pytest.mark.parametrize("rule", ["counterfactual", "removal"])
def test_a_removal_may_serve_both_sessions_of_a_prompt(rule: str):
    """Two sessions of a dyad, and a replay beside the first alone, or beside each: b is their mean."""
    with_replay = paths("dyad", replays("dyad", REMOVE))
    without = paths("dyad", (Intervention(REMOVE, "reason"),))
    one = [(a.probability * b.probability, (a, b)) for a in with_replay for b in without]
    for groups in (one, pairs(with_replay)):
        for coefficient in (0.4, 1.0):
            got = credited("dyad", rule, groups, coefficient)
            assert gap(got, TRUE["dyad"], ("think", "reason")) < EXACT


def remembering(roles: Iterable[str]) -> HistoryState:
    """A history from which neither coefficient is 0 or 1."""
    sums = {"weight": 0.5, "mean_b": 0.2, "mean_s": 0.3, "var_b": 0.1, "var_s": 0.05, "cov_bs": 0.02, "cov_b": 0.04}
    return HistoryState(joints={f"{role}/siblings": {**sums, "cov_s": 0.03} for role in roles})


@pytest.mark.parametrize("name", ["dyad", "two voters", "early stop"])
def test_siblings_leave_removal_unbiased(name: str):
    """Two sessions of a prompt, each role's removal beside one of them (a shared one) or beside both."""
    its, state = PLANS[name], remembering(PLANS[name].roles)
    for role in its.roles:
        found = with_stand_ins(paths(name, (Intervention(REMOVE, role),)), name)
        got = credited(name, "removal", pairs(found), state=state, siblings=True)
        assert gap(got, TRUE[name], [role]) < EXACT, role
        assert gap(got, credited(name, "removal", pairs(found), 0.3), [role]) < EXACT, "another baseline, one gradient"


@pytest.mark.parametrize("name", ["dyad", "early stop"])
def test_siblings_leave_counterfactual_unbiased(name: str):
    its = PLANS[name]
    with_replay, without = paths(name, (Intervention(REMOVE, its.first),)), paths(name)
    one = [(a.probability * b.probability, (a, b)) for a in with_replay for b in without]
    for groups in (one, pairs(with_replay)):
        got = credited(name, "counterfactual", groups, state=remembering(its.roles), siblings=True)
        assert gap(got, TRUE[name], its.roles) < EXACT


def test_the_coefficients_of_siblings_are_used_in_these_proofs():
    (path, *_) = paths("dyad", replays("dyad", REMOVE))
    sessions = Sessions.from_records([path.record(0, s) for s in range(2)], PLANS["dyad"].roles)
    settings = StepSettings(CreditConfig("removal", "none", siblings=True), first="think")
    metrics = compute_advantages(sessions, settings, remembering(PLANS["dyad"].roles)).metrics
    for which in ("baseline", "siblings"):
        assert 0.1 < metrics[f"think/{which}_coefficient"] < 0.9


SIZES = (2, 2, 1)
"""Sessions of the prompts of a step: with fewer than three prompts the others of one do not differ."""


@pytest.mark.parametrize(("name", "judge"), [("dyad", Judge), ("dyad", Graded), ("two voters", Judge)])
def test_shrinkage_is_unbiased_for_every_role_in_every_session(name: str, judge: type[Judge]):
    """All outcomes of three prompts, session by session: the baselines of a prompt are made of the others."""
    roles, found, true = PLANS[name].roles, paths(name, judge=judge), true_gradient(name, judge=judge)
    places = [(prompt, session) for prompt, size in enumerate(SIZES) for session in range(size)]
    settings, weighted, shrunk = StepSettings(CreditConfig("shrinkage", "none")), [[] for _ in places], set()
    for step in itertools.product(found, repeat=len(places)):
        chance = math.prod(path.probability for path in step)
        records = [path.record(*place) for path, place in zip(step, places, strict=True)]
        result = compute_advantages(Sessions.from_records(records, roles), settings)
        shrunk.add(round(result.metrics["credit/shrinkage"], 6))
        for found_here, path, row in zip(weighted, step, result.advantage_SV.tolist(), strict=True):
            found_here.append((chance, path, lambda role, row=row: row[roles.index(role)]))
    for place, found_here in zip(places, weighted, strict=True):
        assert gap(gradient(found_here), true, roles) < EXACT, place
    assert len(shrunk) > 2, "the weight is always the same: half of the claim is not tested"


def test_a_coin_teaches_nothing():
    """The same coin whatever is said: E[score x coin] is exactly 0."""
    roles, found = PLANS["dyad"].roles, paths("dyad")
    settings, thrown = StepSettings(CreditConfig("random_reward", "none")), set()
    for steps in range(8):
        rows = []
        for path in found:
            sessions = Sessions.from_records([path.record("q", 0)], roles)
            row = compute_advantages(sessions, settings, HistoryState(steps=steps)).advantage_SV[0]
            thrown.add(tuple(row))
            rows.append((path.probability, path, lambda role, row=row: row[roles.index(role)]))
        got = gradient(rows)
        assert gap(got, dict.fromkeys(got, 0.0), roles) < EXACT
    assert thrown == {(0.0, 0.0), (1.0, 1.0)} and not RULES["random_reward"].unbiased


@pytest.mark.parametrize("name", [name for name, its in PLANS.items() if not its.first])
def test_resampling_is_unbiased_for_every_turn_of_every_voter(name: str):
    """One session, one role's replay at a time (each role has its own baseline). Of three deliberating voters the first: 1024 outcomes."""
    roles = PLANS[name].roles[:1] if "three voters, two rounds" == name else PLANS[name].roles
    for role in roles:
        found = paths(name, (Intervention(RESAMPLE, role),))
        assert gap(credited(name, "resampling", alone(found)), TRUE[name], [role]) < EXACT, role


@pytest.mark.parametrize("name", ["dyad", "chain", "early stop", "unforeseen"])
def test_resampling_is_unbiased_where_the_first_role_is_compared_with_the_other_session(name: str):
    first, *others = PLANS[name].roles
    assert PLANS[name].replay(RESAMPLE, first).shared
    for role in others:
        groups = pairs(paths(name, (Intervention(RESAMPLE, role),)))
        assert gap(credited(name, "resampling", groups), TRUE[name], [first, role]) < EXACT, role


def test_resampling_is_unbiased_for_a_panel():
    """Its first speaker against the other session, its readers against themselves."""
    groups = pairs(paths("panel"))
    assert gap(credited("panel", "resampling", groups), TRUE["panel"], ["think"]) < EXACT
    for reader in PLANS["panel"].roles[1:]:
        found = paths("panel", (Intervention(RESAMPLE, reader),))
        assert gap(credited("panel", "resampling", alone(found)), TRUE["panel"], [reader]) < EXACT


def test_repeated_resamples_are_averaged_and_stay_unbiased():
    draws = tuple(Intervention(RESAMPLE, "reason", draw=draw) for draw in range(3))
    found = paths("dyad", draws)
    assert len(found) == 2**5
    assert gap(credited("dyad", "resampling", alone(found)), TRUE["dyad"], ["reason"]) < EXACT


@pytest.mark.parametrize("rule", ["marginal", "resampled"])
@pytest.mark.parametrize("name", ["two voters", "three voters"])
def test_rules_that_recombine_two_sessions_of_a_vote_are_unbiased(name: str, rule: str):
    groups = pairs(paths(name))
    assert gap(credited(name, rule, groups), TRUE[name], PLANS[name].roles) < EXACT


def with_likelihoods(found: Sequence[Path], name: str, chance: Callable = table) -> list[Path]:
    """The reference answer is "1", which the last speaker says with ``chance(role, what it hears)``."""
    last = PLANS[name].order[-1]

    def added(path: Path) -> Path:
        values = tuple(chance(last, heard) for heard in path.played.cuts)

        def record(prompt, session, truth):
            return replace(path.played.record(prompt, session, truth), likelihoods=values)

        return Path(path.probability, SimpleNamespace(record=record, value=path.played.value), path.scores)

    return [added(path) for path in found]


def test_the_teams_with_a_last_speaker():
    assert [name for name in TEAMS if not fits("likelihood", PLANS[name])] == ["dyad", "chain"]


@pytest.mark.parametrize("name", ["dyad", "chain"])
def test_likelihood_is_unbiased_for_the_last_two_where_the_last_answers_at_once(name: str):
    """A dyad's two are all. In a chain the first changes what the second says: v_1, without the second, is not what its turn is worth."""
    got, roles = credited(name, "likelihood", alone(with_likelihoods(paths(name), name))), PLANS[name].roles
    assert gap(got, TRUE[name], roles[-2:]) < EXACT
    for role in roles[:-2]:
        assert gap(got, TRUE[name], [role]) > CLEARLY, role


@pytest.mark.parametrize("name", ["dyad", "chain"])
def test_the_fitted_controls_of_likelihood_are_unbiased(name: str):
    """With coefficients from a history, on two sessions of a prompt."""
    sums = dict(
        zip("weight mean_v mean_s vv vs ss vu su".split(), (1, 0.3, 0.2, 0.1, 0.02, 0.05, 0.03, 0.02), strict=True)
    )
    roles = PLANS[name].roles
    state = HistoryState(joints={f"{role}/likelihood": sums for role in roles[:-1]})
    groups = pairs(with_likelihoods(paths(name), name))
    records = [path.record(g, s) for g, (_, group) in enumerate(groups) for s, path in enumerate(group)]
    credit = likelihood(Sessions.from_records(records, roles), state, CreditConfig("likelihood"), HistoryConfig())
    weighted = [(p / 2, path) for p, group in groups for path in group]
    rows = credit.residual_SV.tolist()
    got = gradient(
        (p, path, lambda role, row=row: row[roles.index(role)]) for (p, path), row in zip(weighted, rows, strict=True)
    )
    assert gap(got, TRUE[name], roles[-2:]) < EXACT
    assert abs(credit.residual_SV - credit.credit_SV)[:, -2].max() > CLEARLY, "the controls are not used"


@pytest.mark.parametrize("name", ["dyad", "chain"])
def test_the_exact_gradient_of_the_last_speaker_is_the_true_one(name: str):
    """Trained on the reference "1", whose score is 1 - p, with the weight v = p, whatever it said itself."""
    last, found = PLANS[name].order[-1], defaultdict(float)
    groups = alone(with_likelihoods(paths(name), name))
    records = Sessions.from_records([path.record(g) for g, (_, (path,)) in enumerate(groups)], PLANS[name].roles)
    config = CreditConfig("likelihood", last_gradient="exact")
    credit = likelihood(records, HistoryState(), config, HistoryConfig())
    assert credit.uncentred == (last,)
    for (p, (path,)), row in zip(groups, credit.residual_SV.tolist(), strict=True):
        for token, _ in path.scores:
            if token[0] == last:
                found[token] += p * (1 - table(*token)) * row[-1]
    assert gap(found, TRUE[name], [last]) < EXACT


def test_likelihood_is_another_objective_where_the_last_speaker_does_not_answer_at_once():
    """v is then the likelihood of answering so at once, whose table here is another one: Think follows it, into the other direction.
    The last speaker's own credit stays unbiased: v depends on no token of its own."""

    def at_once(role: str, heard: tuple) -> float:
        return 1 - table(role, heard)

    got = credited("dyad", "likelihood", alone(with_likelihoods(paths("dyad"), "dyad", at_once)))
    (first,) = [token for token in got if token[0] == "think"]
    assert got[first] == pytest.approx(-TRUE["dyad"][first]) and abs(got[first]) > CLEARLY
    assert gap(got, TRUE["dyad"], ["reason"]) < EXACT


def test_a_negative_slope_is_biased():
    groups = alone(with_likelihoods(paths("dyad"), "dyad"))
    records = Sessions.from_records([path.record(g) for g, (_, (path,)) in enumerate(groups)], PLANS["dyad"].roles)
    credit = likelihood(records, HistoryState(), CreditConfig("likelihood", negative_slope=0.25), HistoryConfig())
    got = gradient(
        (p, path, lambda role, row=row: row[role == "reason"])
        for (p, (path,)), row in zip(groups, credit.credit_SV.tolist(), strict=True)
    )
    assert gap(got, TRUE["dyad"], ["think"]) > CLEARLY and gap(got, TRUE["dyad"], ["reason"]) < EXACT


@pytest.mark.parametrize("name", ["dyad", "chain", "early stop", "unforeseen"])
def test_partial_credit_is_unbiased(name: str):
    """Every rule that fits a team with one answer and claims it, where R is 0, .3 or .85."""
    its, true = PLANS[name], true_gradient(name, judge=Graded)
    first, *others = its.roles
    assert gap(credited(name, "shared", alone(paths(name, judge=Graded))), true, its.roles) < EXACT
    assert max(map(abs, true.values())) > CLEARLY
    for coefficient in (0.4, 1.0):
        found = paths(name, (Intervention(REMOVE, its.first),), judge=Graded)
        assert gap(credited(name, "counterfactual", alone(found), coefficient), true, its.roles) < EXACT
        for role in its.roles:
            found = with_stand_ins(paths(name, (Intervention(REMOVE, role),), judge=Graded), name)
            assert gap(credited(name, "removal", alone(found), coefficient), true, [role]) < EXACT, role
    for role in others:
        groups = pairs(paths(name, (Intervention(RESAMPLE, role),), judge=Graded))
        assert gap(credited(name, "resampling", groups), true, [first, role]) < EXACT, role
    proved = {"shared", "shared_history", "counterfactual", "removal", "resampling", "shrinkage"}
    assert {rule for rule in fitting(its) if RULES[rule].unbiased} == proved


@pytest.mark.parametrize(("rule", "price"), [("shapley", 0.0), ("own_correctness", 0.0), ("own_correctness", 0.5)])
@pytest.mark.parametrize("name", ["three voters", "three voters, two rounds"])
def test_shapley_and_own_correctness_follow_another_gradient(name: str, rule: str, price: float):
    """Not the team's, and not parallel to it either."""
    got, want = credited(name, rule, alone(paths(name)), wrong_price=price), TRUE[name]
    tokens = sorted(want)
    a, b = np.array([got[t] for t in tokens]), np.array([want[t] for t in tokens])
    assert gap(got, want, PLANS[name].roles) > CLEARLY
    assert a @ b / math.sqrt((a @ a) * (b @ b)) < 0.995
    assert not RULES[rule].unbiased


def test_every_rule_that_claims_it_is_proved_here():
    """counterfactual, removal, leave_one_out, resampling, shared, resampled, marginal, shrinkage above; shared_history is shared."""
    proved = {
        "counterfactual",
        "removal",
        "leave_one_out",
        "resampling",
        "shared",
        "shared_history",
        "resampled",
        "marginal",
        "shrinkage",
    }
    assert {name for name, rule in RULES.items() if rule.unbiased} == proved
    assert "resampled" not in fitting(PLANS["three voters, two rounds"])


# --------------------------------------------------------------------------------------------- which replay is for whom


@pytest.mark.parametrize("name", [name for name in TEAMS if name != "three voters, two rounds"])
def test_the_plan_knows_for_whom_a_replay_is_a_baseline(name: str):
    """All (intervention, role): where `Plan.valid_for` says so, R - R(replay) is unbiased for every turn of the role."""
    its, biased = PLANS[name], []
    for how, of in itertools.product((REMOVE, RESAMPLE), its.roles):
        found = paths(name, (Intervention(how, of),))
        got = gradient((p.probability, p, lambda role, p=p: p.played.value - p.played.replays[0].value) for p in found)
        valid = its.valid_for(how, of)
        assert of in valid
        for role in its.roles:
            error = gap(got, TRUE[name], [role])
            if role in valid:
                assert error < EXACT, (how, of, role)
            elif error > CLEARLY:
                biased.append((how, of, role))
    assert biased, "nothing is biased: the claim says nothing"


def test_a_replay_that_reuses_a_turn_is_no_baseline_for_it():
    """The dyad: Reason's second answer hears the session's own thought."""
    assert PLANS["dyad"].valid_for(RESAMPLE, "reason") == {"reason"}
    found = paths("dyad", (Intervention(RESAMPLE, "reason"),))
    got = gradient((p.probability, p, lambda role, p=p: p.played.value - p.played.replays[0].value) for p in found)
    assert gap(got, {token: 0.0 for token in got}, ["think"]) < EXACT, "it takes all of Think's gradient away"
    assert gap(got, TRUE["dyad"], ["think"]) > CLEARLY


# ------------------------------------------------------------------------------------------------------- deliberations


def informed(role: str, heard: tuple) -> float:
    """Voter 0's first text informs (1) or misleads (0) with P = .5, and voters 1 and 2 say 0 first; they are then right with .9 or .3,
    voter 0 with .7. Without voter 0 they are right with .6."""
    others = dict(heard).get("others")
    if others is None:
        return 0.5 if role == "voter_0" else 0.0
    if role == "voter_0":
        return 0.7
    return 0.9 if "Voter 1: 1" in others else 0.3 if "Voter 1: 0" in others else 0.6


def test_leaving_a_voter_out_of_the_last_vote_is_wrong_for_its_earlier_turns():
    """d E[R] / d logit of voter 0's first text is .25 (.936 - .384) = .138. A rule that takes the others' last ballots as given has the
    wrong sign: .25 ((.936 - .9) - (.384 - .3)) = -.012 without the voter, -.029 with Shapley's; played again it is exact."""
    name = "three voters, two rounds"
    its = PLANS[name]
    first, want = ("voter_0", (("question", "q"),)), true_gradient(name, informed)
    assert want[first] == pytest.approx(0.25 * (0.936 - 0.384)) == pytest.approx(0.138)

    found = paths(name, (Intervention(REMOVE, "voter_0"),), informed)
    groups = alone(with_stand_ins(found, name))
    for rule in ("removal", "leave_one_out"):
        assert gap(credited(name, rule, groups, 1.0 if rule == "removal" else None), want, ["voter_0"]) < EXACT

    bare = paths(name, (), informed)
    records = Sessions.from_records([path.record(i) for i, path in enumerate(bare)], its.roles)
    shortcut_S = records.value_S - values_without(records.ballot_SV, records.tie)[:, 0]
    shortcut = gradient((p.probability, p, lambda role, x=x: x) for p, x in zip(bare, shortcut_S, strict=True))
    assert shortcut[first] == pytest.approx(-0.012)
    last = [token for token in want if token[0] == "voter_0" and token != first]
    assert all(shortcut[token] == pytest.approx(want[token], abs=EXACT) for token in last), (
        "it is exact for the last vote"
    )
    assert any(abs(want[token]) > CLEARLY for token in last)

    assert round(credited(name, "shapley", alone(bare))[first], 3) == -0.029
    with_others = [(a.probability * b.probability, (a, b)) for a, b in itertools.product(bare, repeat=2)]
    assert abs(credited(name, "marginal", with_others)[first]) < EXACT, (
        "marginal sees nothing of it: refused where roles hear each other"
    )
    assert fits("marginal", its) and fits("resampled", its)
