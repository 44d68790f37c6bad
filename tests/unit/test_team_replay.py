"""The same program with one role changed, around a scripted decoder: what is reused, what is decoded, when it is asked, and what it is worth."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ccpo.config import CcpoConfig
from ccpo.credit.base import CreditConfig
from ccpo.team import Team
from ccpo.team.dyad import Dyad
from ccpo.team.load import team_class
from ccpo.team.plan import plan
from ccpo.team.replay import Intervention, called, play
from ccpo.team.session import Decoded, Scene, TeamError
from ccpo.team.vote import Vote
from ccpo.types import REMOVE, REPLACE, RESAMPLE, SHUFFLE, ReplayRecord, TurnRecord
from ccpo.verifier import Verdict

EXAMPLES = Path(__file__).parents[2] / "examples"


class Judge:
    """A text that ends in "= x" states x; 4 is right."""

    truth = "4"

    async def verify(self, text: str) -> Verdict:
        _, found, answer = text.rpartition("= ")
        return Verdict(answer, float(answer == "4"), True) if found else Verdict(None, 0.0, False)

    def label(self, answer: str) -> str:
        return answer

    async def same(self, a: str, b: str) -> bool:
        return False


def heard(role, fields):
    """A prompt for any role and any fields."""
    return [{"role": "user", "content": " | ".join(f"{name}: {text}" for name, text in sorted(fields.items()))}]


class Stage:
    """A scene whose agents say ``said[label]``, or their label where nothing is scripted. Labels in ``blocked`` wait for their gate."""

    def __init__(self, team: Team, said=(), blocked=(), **options):
        self.team, self.said, self.asked = team, dict(said), []
        self.gates = {name: asyncio.Event() for name in blocked}
        self.cancelled: set = set()
        self.scene = Scene("2 + 2?", self.decode, heard, Judge(), **options)

    async def decode(self, role, messages, name):
        self.asked.append((name, role, messages[-1]["content"]))
        try:
            if name in self.gates:
                await self.gates[name].wait()
        except asyncio.CancelledError:
            self.cancelled.add(name)
            raise
        said = self.said.get(name, f"{name}")
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, Decoded) else Decoded(said)

    @property
    def labels(self) -> list:
        return [name for name, *_ in self.asked]

    @property
    def heard(self) -> dict:
        return {name: text for name, _, text in self.asked}

    async def start(self, *interventions):
        return await play(self.team, self.scene, plan(self.team), interventions)


def run(team, said=(), *interventions, **options):
    """A whole session without waiting: (stage, what was played)."""

    async def main():
        stage = Stage(team, said, **options)
        return stage, await asyncio.wait_for(stage.start(*interventions), 10)

    return asyncio.run(main())


async def settle():
    for _ in range(30):
        await asyncio.sleep(0)


def remove(role):
    return Intervention(REMOVE, role)


def example(name):
    return team_class(f"{EXAMPLES / name.lower()}.py:{name}")()


EMPTIED = Intervention(REPLACE, "think")


# ------------------------------------------------------------------------ what the last speaker hears, turn by turn


def cuts(team, said=(), **options):
    """(stage, what its last speaker is asked after every turn)"""

    async def main():
        stage = Stage(team, said, **options)
        return stage, (await play(team, stage.scene, plan(team), (), cuts=True)).cuts

    stage, found = asyncio.run(main())
    return stage, [messages[-1]["content"] for messages in found]


def test_the_last_speaker_hears_one_turn_more_each_time_and_nothing_is_decoded_for_it():
    stage, found = cuts(example("Chain"), {"proposer": "a draft", "critic": "wrong"})
    assert stage.labels == ["proposer", "critic", "refiner"]
    assert found == [
        "question: 2 + 2?",
        "draft: a draft | question: 2 + 2?",
        "draft: a draft | question: 2 + 2? | review: wrong",
    ]
    assert found[-1] == stage.heard["refiner"], "with all of them it is what the session asked"


def test_a_dyads_last_speaker_is_asked_alone_and_with_the_thought():
    assert cuts(Dyad(), {"think": "an idea"})[1] == ["question: 2 + 2?", "question: 2 + 2? | thought: an idea"]
    assert cuts(Dyad(), {"think": Decoded("", truncated=True)})[1][1] == "question: 2 + 2? | thought: "


def test_cuts_are_asked_for():
    assert run(Dyad())[1].cuts == ()


class Stubborn(Team):
    """The second speaks again if the first says so, which its plan, without samples, does not see."""

    roles = ("one", "two")

    async def play(self, s):
        word = await s.say("one", question=s.question)
        turn = await s.say("two", question=s.question, word=word)
        return s.answer(await s.say("two", word=turn) if word and word.text == "again" else turn)


def test_a_session_that_goes_another_way_than_the_plan_has_no_cuts():
    assert len(cuts(Stubborn(), {"one": "once"})[1]) == 2
    with pytest.raises(TeamError, match="Stubborn went another way than its plan: it has turns of one, two, two"):
        cuts(Stubborn(), {"one": "again"})


# ------------------------------------------------------------------------------------------------------------ the dyad


def test_the_dyads_replays_ask_reason_without_a_thought_and_with_an_empty_one():
    stage, played = run(Dyad(), {"think": "an idea", "solo": "= 5", "reason": "= 4"}, remove("think"), EMPTIED)
    assert stage.heard == {
        "think": "question: 2 + 2?",
        "reason": "question: 2 + 2? | thought: an idea",
        "solo": "question: 2 + 2?",
        "emptied": "question: 2 + 2? | thought: ",
    }
    assert (played.value, [replay.value for replay in played.replays]) == (1.0, [0.0, 0.0])
    assert {role for name, role, _ in stage.asked if name in ("solo", "emptied", "reason")} == {"reason"}


def test_requests_of_replays_go_out_as_soon_as_what_they_hear_exists():
    async def main():
        everything = ("think", "solo", "emptied", "reason")
        stage = Stage(Dyad(), {"think": "an idea"}, blocked=everything)
        task = asyncio.create_task(stage.start(remove("think"), EMPTIED))
        await settle()
        assert set(stage.labels) == {"think", "solo", "emptied"}, "all three before any answer"
        stage.gates["solo"].set()
        stage.gates["emptied"].set()
        await settle()
        assert "reason" not in stage.labels, "there is no thought yet"
        stage.gates["think"].set()
        await settle()
        assert stage.labels[-1] == "reason" and not task.done()
        stage.gates["reason"].set()
        return await task

    played = asyncio.run(main())
    assert [turn.role for turn in played.turns] == ["think", "reason"]


def test_removing_the_last_speaker_decodes_nothing_and_is_worth_nothing():
    stage, played = run(Dyad(), {"reason": "= 4"}, remove("reason"))
    assert stage.labels == ["think", "reason"]
    assert (played.value, played.replays[0].value, played.replays[0].decoded) == (1.0, 0.0, ())


def test_the_last_speaker_speaks_again_to_the_sessions_thought():
    again = Intervention(RESAMPLE, "reason")
    stage, played = run(
        Dyad(), {"reason": "= 5", "reason_resampled": "= 4"}, again, Intervention(RESAMPLE, "reason", draw=1)
    )
    assert stage.labels.count("think") == 1
    assert stage.heard["reason"] == stage.heard["reason_resampled"] == stage.heard["reason_resampled 1"]
    assert [replay.value for replay in played.replays] == [1.0, 0.0]


def test_a_text_of_another_session_takes_the_turns_place():
    other = Intervention(SHUFFLE, "think", ("their idea",))
    stage, played = run(Dyad(), {}, other)
    assert stage.heard["think_shuffled"] == "question: 2 + 2? | thought: their idea"
    assert [turn.text for turn in played.replays[0].decoded] == ["think_shuffled"], "what was given is not decoded"


def test_the_last_given_text_is_used_again_and_again():
    class Twice(Team):
        roles = ("a", "b")

        async def play(self, s):
            said = [await s.say("a", question=s.question, said=i) for i in ("1", "2", "3")]
            return s.answer(await s.say("b", others=said))

    stage, _ = run(Twice(), {}, Intervention(REPLACE, "a", ("x", "y")))
    assert stage.heard["a_replaced"] == "others: x\ny\ny"
    assert set(stage.labels) == {"a", ("a", 1), ("a", 2), "b", "a_replaced"}


@pytest.mark.parametrize(
    ("intervention", "name"),
    [
        (remove("think"), "solo"),
        (EMPTIED, "emptied"),
        (Intervention(REPLACE, "think", ("a", "")), "think_replaced"),
        (Intervention(RESAMPLE, "think"), "think_resampled"),
        (Intervention(SHUFFLE, "think", ("a",)), "think_shuffled"),
        (remove("reason"), "without_reason"),
    ],
)
def test_names_of_interventions_in_metrics(intervention, name):
    assert called(Dyad(), intervention) == name


@pytest.mark.parametrize("name", ["think", "solo", "emptied", "reason"])
def test_a_failure_ends_the_session_and_its_replays_at_once(name):
    async def main():
        waiting = {"think", "solo", "emptied", "reason"} - {name} - ({"think"} if name == "reason" else set())
        stage = Stage(Dyad(), {name: RuntimeError("server lost")}, waiting)
        with pytest.raises(RuntimeError, match="server lost"):
            await asyncio.wait_for(stage.start(remove("think"), EMPTIED), 2)
        await settle()
        assert stage.cancelled == waiting & set(stage.labels) and len(stage.cancelled) >= 2

    asyncio.run(main())


def test_a_cancelled_session_cancels_its_requests():
    async def main():
        stage = Stage(Dyad(), blocked=("think", "solo"))
        task = asyncio.create_task(stage.start(remove("think")))
        await settle()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await settle()
        assert stage.cancelled == {"think", "solo"}

    asyncio.run(main())


def test_a_truncated_answer_earns_nothing_and_a_truncated_thought_is_what_the_team_makes_of_it():
    said = {"reason": Decoded("= 4", True), "solo": Decoded("= 4", True)}
    _, played = run(Dyad(), said, remove("think"))
    assert (played.value, played.replays[0].value) == (0.0, 0.0)
    _, played = run(Dyad(), {"think": Decoded("half a thou", True), "reason": "= 4"}, remove("think"))
    assert played.value == 1.0
    _, ended = run(Dyad(), {"think": Decoded("half", True), "solo": "= 4"}, remove("think"), end_when_truncated=True)
    assert (ended.value, [turn.role for turn in ended.turns], ended.replays[0].value) == (0.0, ["think"], 1.0)


# -------------------------------------------------------------------------------------------------------------- the vote


def test_removing_a_voter_decodes_nothing_and_leaves_the_others_ballots():
    said = {"voter_0": "= 4", "voter_1": "= 4", "voter_2": "= 5"}
    stage, played = run(Vote(), said, *map(remove, Vote().roles))
    assert stage.labels == ["voter_0", "voter_1", "voter_2"]
    assert (played.value, [replay.value for replay in played.replays]) == (1.0, [0.5, 0.5, 1.0])
    assert played.ballots == {"voter_0": "4", "voter_1": "4", "voter_2": "5"}
    assert not any(replay.decoded or replay.shared for replay in played.replays)


def test_a_voter_who_speaks_again_is_the_only_one_who_is_asked_again():
    stage, played = run(
        Vote(), {"voter_0": "= 4", "voter_1": "= 5", "voter_2": "= 5"}, Intervention(RESAMPLE, "voter_1")
    )
    assert stage.labels[3:] == ["voter_1_resampled"]
    assert [turn.role for turn in played.replays[0].decoded] == ["voter_1"]


def test_without_a_voter_of_a_deliberation_only_the_others_second_votes_are_decoded():
    said = {"voter_0": "= 5", "voter_1": "= 4", "voter_2": "= 6"}
    stage, played = run(Vote(rounds=2), said, remove("voter_0"))
    replayed = [("without_voter_0", "voter_1", 1), ("without_voter_0", "voter_2", 1)]
    assert len(stage.labels) == 8 and set(stage.labels) == {*said, *((voter, 1) for voter in said), *replayed}
    assert stage.heard[replayed[0]] == "others: Voter 3: 6 | question: 2 + 2?"
    assert stage.heard["voter_1", 1] == "others: Voter 1: 5\nVoter 3: 6 | question: 2 + 2?"
    assert [(turn.role, turn.number) for turn in played.replays[0].decoded] == [("voter_1", 1), ("voter_2", 1)]


def test_a_deliberation_without_a_voter_does_not_wait_for_the_sessions_last_vote():
    async def main():
        second = [(voter, 1) for voter in Vote().roles]
        stage = Stage(Vote(rounds=2), {voter: "= 5" for voter in Vote().roles}, blocked=[*second, "voter_0"])
        task = asyncio.create_task(stage.start(remove("voter_0")))
        await settle()
        assert stage.labels[3:] == [("without_voter_0", "voter_1", 1), ("without_voter_0", "voter_2", 1)]
        assert not set(second) & set(stage.labels), "nobody votes again before voter 0 has spoken"
        for gate in stage.gates.values():
            gate.set()
        await task

    asyncio.run(main())


# --------------------------------------------------------------------------------------------------- chains and panels


def test_every_turn_that_did_not_hear_the_role_is_the_sessions_own():
    stage, played = run(example("Chain"), {}, remove("critic"), Intervention(RESAMPLE, "critic"), remove("proposer"))
    without, again, alone = played.replays
    assert [turn.role for turn in without.decoded] == ["refiner"]
    assert stage.heard["without_critic"] == "draft: proposer | question: 2 + 2?"
    assert [turn.role for turn in again.decoded] == ["critic", "refiner"]
    assert "draft: proposer" in stage.heard["critic_resampled", "critic", 0]
    assert [turn.role for turn in alone.decoded] == ["refiner"] and stage.heard[
        "without_proposer"
    ] == "question: 2 + 2?"
    assert stage.labels.count("proposer") == 1
    assert [without.shared, again.shared, alone.shared] == [False, False, True]


def test_a_panels_replay_without_its_first_speaker_is_shared_and_without_another_is_free():
    stage, played = run(example("Panel"), {}, remove("think"), remove("reason_1"))
    first, other = played.replays
    assert (first.shared, [turn.role for turn in first.decoded]) == (True, ["reason_0", "reason_1", "reason_2"])
    assert (other.shared, other.decoded) == (False, ())


class EarlyStop(Team):
    """The critic may accept the draft, which then is the answer."""

    roles = ("proposer", "critic", "refiner")
    samples = {"critic": ("accept", "no")}

    async def play(self, s):
        draft = await s.say("proposer", question=s.question)
        review = await s.say("critic", question=s.question, draft=draft)
        if review is not None and review.text == "accept":
            return s.answer(draft)
        return s.answer(await s.say("refiner", question=s.question, draft=draft, review=review))


def test_a_replay_may_take_a_way_that_the_session_did_not():
    said = {"proposer": "= 4", "critic": "accept", "refiner": "= 5", "without_critic": "= 6"}
    again = {("critic_resampled", "critic", 0): "no", ("critic_resampled", "refiner", 0): "= 7"}
    stage, played = run(EarlyStop(), said | again, remove("critic"), Intervention(RESAMPLE, "critic"))
    assert "refiner" not in stage.labels and played.value == 1.0
    assert [[turn.text for turn in replay.decoded] for replay in played.replays] == [["= 6"], ["no", "= 7"]]
    assert [replay.value for replay in played.replays] == [0.0, 0.0]


def test_a_replay_that_stops_where_the_session_went_on():
    said = {"proposer": "= 4", "critic": "no", "refiner": "= 5", ("critic_resampled", "critic", 0): "accept"}
    _, played = run(EarlyStop(), said, Intervention(RESAMPLE, "critic"))
    assert (played.value, played.replays[0].value) == (0.0, 1.0)
    assert [turn.role for turn in played.replays[0].decoded] == ["critic"]


def test_a_turn_that_the_plan_did_not_see_waits_for_the_session_and_is_reused_or_decoded():
    """Without samples, the plan knows neither way: what a replay says there is right all the same."""

    class Unplanned(EarlyStop):
        samples = {}

    said = {"proposer": "= 4", "critic": "accept"}
    stage, played = run(Unplanned(), said, Intervention(REPLACE, "critic", ("no",)))
    assert [turn.role for turn in played.replays[0].decoded] == ["refiner"]
    stage, played = run(Unplanned(), said | {"critic": "no"}, Intervention(REPLACE, "critic", ("no",)))
    assert played.replays[0].value == 0.0 and stage.labels.count("refiner") + len(played.replays[0].decoded) == 2


class Gate(Team):
    """The gate lets the voice speak, which does not hear it."""

    roles = ("gate", "voice")
    samples = {"gate": ("stop", "go")}

    async def play(self, s):
        gate = await s.say("gate", question=s.question)
        if gate is not None and gate.text == "stop":
            return s.answer(gate)
        return s.answer(await s.say("voice", question=s.question))


@pytest.mark.parametrize("said, decoded", [("go", ["gate"]), ("stop", ["gate", "voice"])])
def test_a_turn_that_did_not_hear_the_role_is_reused_if_the_session_spoke_it_and_else_decoded_once_it_is_over(
    said, decoded
):
    again = Intervention(RESAMPLE, "gate")
    names = {
        ("gate_resampled", "gate", 0),
        "gate_resampled",
    }  # of the gate's second turn, whatever else the plan decodes
    stage, played = run(Gate(), {"gate": said, "voice": "= 4", **dict.fromkeys(names, "go")}, again)
    assert [turn.role for turn in played.replays[0].decoded] == decoded
    assert played.value == (said == "go")
    assert len(set(stage.labels)) == len(stage.labels), "no two requests are called the same"


class AsksTwice(Team):
    """The same question to the same role: two samples."""

    roles = ("a", "b")

    async def play(self, s):
        await s.say("b", question=s.question)
        first, second = await s.say("a", question=s.question), await s.say("a", question=s.question)
        return s.plurality([first, second])


def test_the_same_question_twice_is_two_turns_and_each_is_reused():
    said = {"a": "= 4", ("a", 1): "= 5"}
    stage, played = run(AsksTwice(), said, remove("b"))
    assert stage.labels == ["b", "a", ("a", 1)]
    assert (played.value, played.replays[0].value) == (0.5, 0.5)
    assert [(turn.role, turn.number) for turn in played.turns] == [("a", 0), ("b", 0), ("a", 1)]


# --------------------------------------------------------------------------------------------------------------- records


def test_the_record_says_what_credit_needs():
    said = {"think": "The answer is 4.", "reason": "= 4", "solo": Decoded("= 4", True)}
    _, played = run(Dyad(), said, remove("think"), remove("reason"))
    record = played.record("p", 3, truth="4")
    assert (record.prompt, record.session, record.value, record.ballots, record.truth) == ("p", 3, 1.0, None, None)
    assert record.turns == (TurnRecord("think", leaked=True), TurnRecord("reason", parsed=True))
    assert record.replays == (
        ReplayRecord(REMOVE, "think", 0.0, shared=True, decoded=1, truncated=True),
        ReplayRecord(REMOVE, "reason", 0.0),
    )


def test_the_record_of_a_vote_has_its_ballots_and_the_truth():
    _, played = run(Vote(n_voters=2), {"voter_0": "= 4", "voter_1": "hm"})
    record = played.record("p", 0, truth="4")
    assert (record.ballots, record.truth) == ({"voter_0": "4", "voter_1": None}, "4")
    assert [turn.parsed for turn in record.turns] == [True, False]


def test_wrong_answers_of_a_replay_keep_the_labels_of_the_session():
    """A ballot that only a replay casts never renames one of the session's."""
    said = {"voter_0": "= 5", "voter_1": "= 6", "voter_0_resampled": "= 7"}
    _, played = run(Vote(n_voters=2), said, Intervention(RESAMPLE, "voter_0"))
    assert played.ballots == {"voter_0": "5", "voter_1": "6"}


def test_a_program_that_fails_in_a_replay_alone_ends_the_session_with_its_error():
    class Careless(Team):
        roles = ("a", "b")

        async def play(self, s):
            said = await s.say("a", question=s.question)
            return s.answer(await s.say("b", question=said.text.upper()))

    with pytest.raises(TeamError, match="AttributeError"):
        run(Careless(), {}, remove("a"))


@pytest.mark.parametrize("rule", ["removal", "resampling"])
@pytest.mark.parametrize("team", ["dyad", "vote", f"{EXAMPLES}/panel.py:Panel", f"{EXAMPLES}/chain.py:Chain"])
def test_no_session_decodes_more_than_its_plan_says(team, rule):
    config = CcpoConfig(team=team, credit=CreditConfig(rule=rule))
    for session in range(4):
        wanted = config.replays(session, 4, False)
        _, played = run(config.members, {}, *wanted)
        for do, replay in zip(wanted, played.replays, strict=True):
            expected = config.plan.replay(do.how, do.role)
            assert (len(replay.decoded), replay.shared) == (expected.decodes, expected.shared)
        assert len(played.turns) == config.plan.rows


def test_a_reused_turn_has_its_place_in_the_replay():
    """Its number in the session may say what the removed role said."""

    class Warm(Team):
        roles = ("i", "j", "k")
        samples = {"i": ("0", "1")}

        async def play(self, s):
            first = await s.say("i", question=s.question)
            if first and first.text == "1":
                await s.say("j", question="warm up")
            draft = await s.say("j", question=s.question)
            return s.answer(await s.say("k", question=s.question, draft=f"Draft {draft.number}" if draft else "none"))

    shown = []

    async def decode(role, messages, label):
        shown.append((role, messages[0]["content"]))
        return Decoded("1" if role == "i" else "said")

    def render(role, fields):
        return [{"role": "user", "content": str(sorted(fields.items()))}]

    scene = Scene("q", decode, render, Judge())
    asyncio.run(play(Warm(), scene, plan(Warm()), [Intervention(REMOVE, "i")]))
    assert sorted(text for role, text in shown if role == "k") == [
        "[('draft', 'Draft 0'), ('question', 'q')]",
        "[('draft', 'Draft 1'), ('question', 'q')]",
    ]


def test_a_program_may_cancel_its_own_branches():
    """A replay that gives up waiting for a turn must not take it from the session."""

    class Sure(Exception):
        pass

    class Hasty(Team):
        roles = ("a", "b")

        async def play(self, s):
            async def ask(role):
                turn = await s.say(role, question=s.question)
                if turn is None:
                    raise Sure
                return turn

            try:
                return s.answer((await s.all(ask("a"), ask("b")))[1])
            except Sure:
                return s.answer(None)

    async def decode(role, messages, label):
        await asyncio.sleep(0.01)
        return Decoded(role)

    scene = Scene("q", decode, lambda role, fields: [{"role": "user", "content": "q"}], Judge())
    played = asyncio.run(play(Hasty(), scene, plan(Hasty()), [Intervention(REMOVE, role) for role in ("a", "b")]))
    assert [turn.role for turn in played.turns] == ["a", "b"] and [replay.value for replay in played.replays] == [
        0.0,
        0.0,
    ]


def test_a_role_that_casts_several_ballots_has_none_of_its_own():
    class Consistent(Team):
        roles = ("solver",)

        async def play(self, s):
            return s.plurality([await s.say("solver", question=s.question) for _ in range(3)])

    async def decode(role, messages, label):
        return Decoded("right")

    scene = Scene("q", decode, lambda role, fields: [{"role": "user", "content": "q"}], Judge())
    played = asyncio.run(play(Consistent(), scene, plan(Consistent())))
    assert played.ballots is None and len(played.turns) == 3
