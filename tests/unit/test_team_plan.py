"""A program without a model: who hears whom, what is reused and what costs, and which programs are refused before anything is decoded."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from ccpo.credit.base import CreditConfig, HistoryConfig
from ccpo.credit.rules import RULES, fits, fitting, refusals
from ccpo.team import Team
from ccpo.team import plan as plan_module
from ccpo.team.dyad import Dyad
from ccpo.team.load import team_class
from ccpo.team.plan import plan
from ccpo.team.session import TeamError
from ccpo.team.vote import Vote
from ccpo.types import REMOVE, REPLACE, RESAMPLE, SHUFFLE

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> Team:
    return team_class(f"{EXAMPLES / name.lower()}.py:{name}")()


def team_of(program, roles=("a", "b"), **attributes) -> Team:
    async def play(self, s):
        return await program(s)

    return type("Mine", (Team,), {"roles": roles, "play": play, **attributes})()


async def relay(s):
    first = await s.say("a", question=s.question)
    return s.answer(await s.say("b", question=s.question, said=first))


def replays(team: Team, how: str) -> dict:
    """role -> (places reused, places decoded anew, decodes, shared)"""
    found = plan(team)
    return {
        role: (sorted(r.reused), sorted(r.fresh), r.decodes, r.shared)
        for role in found.roles
        for r in [found.replay(how, role)]
    }


# --------------------------------------------------------------------------------------------------------- built-in teams


def test_the_dyad():
    found = plan(Dyad())
    think, reason = ("think", 0), ("reason", 0)
    assert found.turns == (think, reason)
    assert found.hears == {think: frozenset(), reason: {think}}
    assert found.fields == {
        "think": {frozenset({"question"})},
        "reason": {frozenset({"question"}), frozenset({"question", "thought"})},
    }
    assert (found.answers, found.tie, found.first, found.heard, found.rows) == (
        ("reason",),
        None,
        "think",
        {"think"},
        2,
    )
    assert not found.varies
    assert replays(Dyad(), REMOVE) == {"think": ([], [reason], 1, True), "reason": ([think], [], 0, False)}
    assert replays(Dyad(), RESAMPLE) == {
        "think": ([], [reason, think], 2, True),
        "reason": ([think], [reason], 1, False),
    }
    assert replays(Dyad(), REPLACE) == {"think": ([], [reason], 1, True), "reason": ([think], [], 0, False)}
    assert found.replay(SHUFFLE, "think") == found.replay(REPLACE, "think")
    assert found.valid_for(REMOVE, "think") == {"think", "reason"}
    assert found.valid_for(RESAMPLE, "reason") == {"reason"}


def test_a_stripped_thought_is_heard_all_the_same():
    assert plan(Dyad(strip_leak=True)).hears == plan(Dyad()).hears


def test_the_vote():
    found = plan(Vote(n_voters=3, tie="fail"))
    assert found.roles == found.answers == ("voter_0", "voter_1", "voter_2")
    assert (found.tie, found.first, found.heard, found.rows) == ("fail", None, frozenset(), 3)
    assert found.ballots == dict.fromkeys(found.roles, 1)
    others = [("voter_0", 0), ("voter_2", 0)]
    assert replays(Vote(), REMOVE)["voter_1"] == (others, [], 0, False)
    assert replays(Vote(), RESAMPLE)["voter_1"] == (others, [("voter_1", 0)], 1, False)
    assert found.valid_for(REMOVE, "voter_1") == {"voter_1"}


@pytest.mark.parametrize("share", [False, True])
def test_a_deliberation(share):
    team = Vote(n_voters=3, rounds=2, share_reasoning=share)
    found = plan(team)
    assert found.most == dict.fromkeys(found.roles, 2) and found.rows == 6
    assert found.ballots == dict.fromkeys(found.roles, 1), "the last vote counts"
    assert found.hears["voter_1", 1] == {("voter_0", 0), ("voter_2", 0)}
    assert found.heard == set(found.roles)
    first, second = [("voter_0", 0), ("voter_2", 0)], [("voter_0", 1), ("voter_2", 1)]
    assert replays(team, REMOVE)["voter_1"] == (first, second, 2, False)
    assert replays(team, RESAMPLE)["voter_1"] == (
        first,
        [("voter_0", 1), ("voter_1", 0), ("voter_1", 1), ("voter_2", 1)],
        4,
        False,
    )


def test_the_panel():
    found = plan(example("Panel"))
    reasons = [(f"reason_{i}", 0) for i in range(3)]
    assert (found.first, found.tie, found.answers) == ("think", "expected", ("reason_0", "reason_1", "reason_2"))
    assert found.ballots == {role: 1 for role, _ in reasons}
    removed = replays(example("Panel"), REMOVE)
    assert removed["think"] == ([], reasons, 3, True)
    assert removed["reason_0"] == ([*reasons[1:], ("think", 0)], [], 0, False)


def test_the_chain():
    proposer, critic, refiner = (("proposer", 0), ("critic", 0), ("refiner", 0))
    found = plan(example("Chain"))
    assert found.hears == {proposer: frozenset(), critic: {proposer}, refiner: {proposer, critic}}
    assert found.first == "proposer"
    assert replays(example("Chain"), REMOVE) == {
        "proposer": ([], [refiner], 1, True),
        "critic": ([proposer], [refiner], 1, False),
        "refiner": ([critic, proposer], [], 0, False),
    }
    assert found.valid_for(REMOVE, "critic") == {"critic", "refiner"}


@pytest.mark.parametrize(
    "team",
    [Dyad(), Vote(), Vote(n_voters=5, rounds=3), example("Panel"), example("Chain")],
    ids=["dyad", "vote", "five voters", "panel", "chain"],
)
def test_a_plan_needs_no_time_and_is_the_same_every_time(team):
    started = time.process_time()
    found = plan(team)
    assert time.process_time() - started < 2
    assert plan(team) == found


def test_many_voters():
    assert plan(Vote(n_voters=64)).rows == 64


def test_a_plan_can_be_made_while_an_event_loop_runs():
    async def main():
        return plan(Dyad())

    assert asyncio.run(main()) == plan(Dyad())


# ----------------------------------------------------------------------------------------------- ways that depend on texts


class EarlyStop(Team):
    roles = ("proposer", "critic", "refiner")
    samples = {"critic": ("accept", "no")}

    async def play(self, s):
        draft = await s.say("proposer", question=s.question)
        review = await s.say("critic", question=s.question, draft=draft)
        if review is not None and review.text == "accept":
            return s.answer(draft)
        return s.answer(await s.say("refiner", question=s.question, draft=draft, review=review))


def test_with_samples_every_number_is_a_bound_over_all_ways():
    found = plan(EarlyStop())
    assert found.answers == ("proposer", "refiner") and found.rows == 3
    again = found.replay(RESAMPLE, "critic")
    assert again.decodes == 2 and ("critic", 0) in again.fresh and ("proposer", 0) in again.reused
    assert found.replay(REMOVE, "critic").decodes == 1


def test_no_turn_is_both_reused_and_decoded_for_sure():
    for how in (REMOVE, RESAMPLE, REPLACE):
        for role in EarlyStop.roles:
            replay = plan(EarlyStop()).replay(how, role)
            assert not replay.fresh & replay.reused


def test_a_turn_that_some_session_has_spoken_is_not_decoded_for_sure():
    async def program(s):
        gate = await s.say("a", question=s.question)
        return s.answer(gate if gate is not None and gate.text == "stop" else await s.say("b", question=s.question))

    again = plan(team_of(program, samples={"a": ("stop", "go")})).replay(RESAMPLE, "a")
    assert (again.reused, again.fresh, again.decodes, again.shared) == ({("b", 0)}, {("a", 0)}, 2, False)


class Debate(Team):
    """As many turns as it takes: up to three."""

    roles = ("a", "judge")
    samples = {"judge": ("more", "enough")}

    async def play(self, s):
        said = None
        for _ in range(3):
            said = await s.say("a", question=s.question, said=said)
            verdict = await s.say("judge", question=s.question, said=said)
            if verdict is None or verdict.text == "enough":
                break
        return s.answer(said)


def test_most_turns_are_those_of_the_longest_way():
    found = plan(Debate())
    assert found.most == {"a": 3, "judge": 3} and found.rows == 6
    assert found.turns[0] == ("a", 0)


def test_columns_of_the_row_have_stand_ins_and_chance_is_noticed():
    async def program(s):
        role = s.random.choice(["a", "a"])
        return s.answer(await s.say("b", question=s.question, said=await s.say(role, question=s.row["hint"])))

    found = plan(team_of(program, columns=("hint",)))
    assert found.varies and found.hears["b", 0] == {("a", 0)}


def test_what_is_read_from_a_turn_is_heard_from_it():
    async def program(s):
        first = await s.say("a", question=s.question)
        return s.answer(await s.say("b", question=s.question, said=f"It says {await s.read(first)}."))

    assert plan(team_of(program)).hears["b", 0] == {("a", 0)}


# --------------------------------------------------------------------------------------------------------------- refusals


def refused(team: Team) -> str:
    with pytest.raises(TeamError) as caught:
        plan(team)
    return str(caught.value)


def test_no_roles():
    assert "Mine has no roles: set roles to the names" in refused(team_of(relay, roles=()))


@pytest.mark.parametrize(
    "roles", [("a", "B"), ("a", "b c"), ("a", "b-c"), ("a", "2b"), ("a", "a", "b"), ("a", ""), ("a", "b*")]
)
def test_bad_names(roles):
    assert "names are lower-case letters, digits and _, each once" in refused(team_of(relay, roles=roles))


def test_a_role_that_is_not_declared():
    assert "lets 'b' speak, which is no role of Mine: it declares a; add it to roles" in refused(
        team_of(relay, roles=("a",))
    )


def test_roles_that_never_speak():
    text = refused(team_of(relay, roles=("a", "b", "c")))
    assert "declares c, which never speaks: drop it from roles, or name texts in samples" in text
    assert "declares c, d, which never speak: drop them" in refused(team_of(relay, roles=("a", "b", "c", "d")))


def test_no_outcome():
    async def program(s):
        await relay(s)
        return s.answer(None)

    assert "has no outcome: no way through its program hands a turn to s.answer" in refused(team_of(program))


def test_nothing_returned():
    async def program(s):
        await relay(s)

    assert "play() of Mine returned NoneType, which is no outcome" in refused(team_of(program))


def test_two_kinds_of_outcome():
    async def program(s):
        first, second = await s.say("a", question=s.question), await s.say("b", question=s.question)
        return s.answer(first) if first is not None and first.text == "sure" else s.plurality([first, second])

    assert "now one kind, now another" in refused(team_of(program, samples={"a": ("sure", "well")}))


def test_a_program_that_speaks_for_ever():
    async def program(s):
        while True:
            await s.say("a", question=s.question)

    assert "does not end: it asked for more than 256 turns" in refused(team_of(program))
    assert "more than 7 turns" in refused(team_of(program, max_turns=7))


@pytest.mark.parametrize("awaits", [False, True])
def test_a_program_that_loops_or_waits_for_ever(awaits, monkeypatch):
    monkeypatch.setattr(plan_module, "PLAN_SECONDS", 0.2)
    stop = False

    async def program(s):
        while not stop:
            if awaits:
                await asyncio.sleep(0.01)
        return await relay(s)

    try:
        assert "does not end within 0 s when nothing is decoded: it loops or waits for something" in refused(
            team_of(program)
        )
    finally:
        stop = True  # its thread must not go on


def test_a_program_that_fails_on_a_text_that_it_did_not_expect():
    async def program(s):
        first = await s.say("a", question=s.question)
        return s.answer(await s.say("b", question="x" * int(first.text)))

    text = refused(team_of(program))
    assert (
        "raised ValueError: invalid literal for int()" in text
        and "texts that it must be able to read go into samples" in text
    )


def test_a_program_that_forgets_that_a_role_may_be_silent():
    async def program(s):
        first = await s.say("a", question=s.question)
        return s.answer(await s.say("b", question=first.text))

    assert "AttributeError" in refused(team_of(program))


def test_a_column_that_is_not_declared():
    async def program(s):
        await s.say("a", question=s.row["hint"])

    assert "reads column 'hint', which Mine does not declare" in refused(team_of(program))


def test_samples_of_strangers_and_too_many_samples():
    assert "samples of Mine name c, which are no roles" in refused(team_of(relay, samples={"c": ("x",)}))
    many = {"a": tuple("abcdefghi"), "b": ("x", "y")}
    assert "samples of Mine give 18 ways: name fewer texts" in refused(team_of(relay, samples=many))


# ------------------------------------------------------------------------------------------------------ rules and teams

TEAMS = {
    "dyad": Dyad(),
    "vote": Vote(),
    "deliberation": Vote(rounds=2),
    "crowd": Vote(n_voters=11),
    "panel": example("Panel"),
    "chain": example("Chain"),
}
NEEDS_FIRST = "it needs one role whose removal changes all the others"
NEEDS_PLURALITY = "it reads the ballots of a plurality, and this team's outcome is one answer"
UNFIT = [
    ("counterfactual", "vote", NEEDS_FIRST),
    ("counterfactual", "deliberation", NEEDS_FIRST),
    ("leave_one_out", "dyad", "it is the paper's name for removal from a plurality"),
    ("leave_one_out", "chain", "take removal"),
    ("resampled", "dyad", NEEDS_PLURALITY),
    ("resampled", "panel", "it needs one ballot of every role, and think casts 0"),
    ("resampled", "deliberation", "needs roles that answer independently, and here they hear each other"),
    ("marginal", "chain", NEEDS_PLURALITY),
    ("marginal", "panel", "think casts 0"),
    ("marginal", "deliberation", "here they hear each other"),
    ("shapley", "dyad", NEEDS_PLURALITY),
    ("shapley", "panel", "think casts 0"),
    ("shapley", "crowd", "it is exact up to 10 voters, and this team has 11"),
    ("own_correctness", "dyad", NEEDS_PLURALITY),
    ("own_correctness", "panel", "think casts 0"),
    ("likelihood", "vote", "and this team's outcome is a plurality"),
    ("likelihood", "panel", "and this team's outcome is a plurality"),
    ("paper_v1", "vote", NEEDS_FIRST),
    ("paper_v1", "chain", "of which the second answers, and this team has 3 with 3 turns"),
    ("event_v2", "deliberation", NEEDS_FIRST),
    ("event_v2", "panel", "and this team has 4"),
]


@pytest.mark.parametrize(("rule", "team", "reason"), UNFIT)
def test_a_rule_is_refused_for_a_team_that_it_does_not_fit(rule, team, reason):
    found = plan(TEAMS[team])
    assert reason in fits(rule, found)
    (refusal,) = refusals(CreditConfig(rule=rule), HistoryConfig(), found, n=4)
    assert reason in refusal and refusal.endswith(f"Rules that fit: {', '.join(fitting(found))}")


def test_every_rule_that_does_not_fit_every_team_has_a_case():
    picky = {rule for rule in RULES for team in TEAMS.values() if fits(rule, plan(team)) is not None}
    assert picky == {rule for rule, *_ in UNFIT}
    assert picky | {"removal", "resampling", "shared", "shared_history", "shrinkage", "random_reward"} == set(RULES)


def test_rules_that_recombine_ballots_refuse_a_team_that_draws_by_chance():
    async def program(s):
        s.random.random()
        return s.plurality(await s.all(s.say("a", question=s.question), s.say("b", question=s.question)))

    found = plan(team_of(program))
    for rule in ("resampled", "marginal"):
        assert "this team draws by chance what a session's roles see" in fits(rule, found)
    assert fits("shapley", found) is None


def test_a_role_that_votes_twice_is_no_voter():
    async def program(s):
        said = [await s.say(role, question=s.question) for role in ("a", "b", "b")]
        return s.plurality(said)

    assert "it needs one ballot of every role, and b casts 2" in fits("shapley", plan(team_of(program)))


@pytest.mark.parametrize("team", TEAMS)
def test_what_fits_is_accepted_with_its_own_settings(team):
    found = plan(TEAMS[team])
    for rule in fitting(found):
        assert refusals(CreditConfig(rule=rule), HistoryConfig(), found, n=4) == []


@pytest.mark.parametrize("column", ["reward_model", "answer", "ground_truth", "extra_info"])
def test_a_team_that_wants_to_see_the_truth_is_refused(column):
    class Cheat(Team):
        roles = ("one",)
        columns = (column,)

        async def play(self, s):
            return s.answer(await s.say("one", question=s.row[column]))

    with pytest.raises(TeamError, match=f"declares the column {column}.*no program sees it"):
        plan(Cheat())


def test_a_column_may_hold_anything():
    class Hints(Team):
        roles = ("a", "b")
        columns = ("hints",)

        async def play(self, s):
            said = await s.say("a", mine=s.row["hints"]["a"], all=[str(hint) for hint in s.row["hints"]])
            return s.answer(await s.say("b", mine=s.row["hints"][40], said=said))

    assert plan(Hints()).hears[("b", 0)] == {("a", 0)}


@pytest.mark.parametrize("call", ["answer", "plurality"])
def test_an_outcome_is_made_of_turns(call):
    class Texts(Team):
        roles = ("a",)

        async def play(self, s):
            text = (await s.say("a", question=s.question) or s).__class__.__name__
            return s.answer(text) if call == "answer" else s.plurality([text])

    with pytest.raises(TeamError, match=f"s.{call} takes turns that s.say returned, not str"):
        plan(Texts())


@pytest.mark.parametrize("name", ["größe", "Role", "a-b", "1st", "two words", ""])
def test_names_that_policies_and_metrics_cannot_have(name):
    class Odd(Team):
        roles = (name,)

        async def play(self, s):
            return s.answer(await s.say(name, question=s.question))

    with pytest.raises(TeamError, match="names are lower-case letters"):
        plan(Odd())


@pytest.mark.parametrize(
    "attribute, value, says",
    [
        ("roles", "ab", "roles is 'ab': it must be a tuple of names"),
        ("roles", None, "roles is None"),
        ("roles", ("a", 3), "must be a tuple of names"),
        ("columns", "hint", "columns is 'hint'"),
        ("samples", {"a": "yes"}, "map names to a list of texts each"),
        ("samples", {"a": [1, 2]}, "map names to a list of texts each"),
        ("aliases", {"without_a": "team"}, "calls a replay 'team'"),
        ("aliases", {"without_a": "b"}, "calls a replay 'b'"),
        ("aliases", {"without_a": "alone", "a_emptied": "alone"}, "calls a replay 'alone'"),
        ("max_turns", 0, "max_turns is 0"),
    ],
)
def test_attributes_of_another_kind(attribute, value, says):
    async def program(s):
        said = await s.say("a", question=s.question)
        return s.answer(await s.say("b", question=s.question, said=said))

    team = team_of(program, **{"roles": ("a", "b"), attribute: value})
    with pytest.raises(TeamError) as error:
        plan(team)
    assert says in str(error.value)


def test_ballots_of_several_turns_or_of_derived_texts_are_not_recombined():
    """The second vote depends on the first, though nobody is shown a turn: ballots of other sessions are no counterfactual."""

    async def recount(s):
        said = await s.all(*(s.say(role, question=s.question) for role in ("a", "b")))
        if len({turn.text for turn in said if turn}) > 1:
            said = await s.all(*(s.say(role, question=s.question) for role in ("a", "b")))
        return s.plurality(said)

    found = plan(team_of(recount, roles=("a", "b")))
    assert not found.heard
    assert "answer independently" in fits("marginal", found) and "answer independently" in fits("resampled", found)


def test_a_sample_that_is_passed_on_as_text_is_heard():
    async def program(s):
        said = await s.say("a", question=s.question)
        return s.answer(await s.say("b", question=s.question, seen=said.text if said else ""))

    assert plan(team_of(program, roles=("a", "b"), samples={"a": ["yes, sure", "no"]})).heard == {"a"}


def test_a_role_that_votes_only_sometimes_is_no_voter():
    async def program(s):
        said = [await s.say(role, question=s.question) for role in ("a", "b")]
        if all(turn and turn.text == "yes" for turn in said):
            return s.plurality(said)
        return s.plurality([*said, await s.say("c", question=s.question)])

    found = plan(team_of(program, roles=("a", "b", "c"), samples={"a": ["yes", "no"], "b": ["yes", "no"]}))
    assert "it needs one ballot of every role, and c casts 0 to 1" in fits("own_correctness", found)


def test_a_program_that_draws_by_chance_is_rehearsed_several_times():
    async def router(s):
        return s.answer(await s.say(s.random.choice(("a", "b", "c")), question=s.question))

    found = plan(team_of(router, roles=("a", "b", "c")))
    assert found.varies and set(found.most) == {"a", "b", "c"}
