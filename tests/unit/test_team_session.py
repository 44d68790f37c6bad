"""What a program may do, around a scripted decoder and judge: what each role is asked, what is read, what the outcome is worth."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from ccpo.prompts import PromptError, Prompts
from ccpo.team import Quote, Session, Team, Turn
from ccpo.team.dyad import Dyad
from ccpo.team.load import prompts_of
from ccpo.team.plan import plan
from ccpo.team.replay import Intervention, outcome_of, play
from ccpo.team.session import Answers, Decoded, Memory, PromptBudget, Scene, TeamError
from ccpo.team.vote import Vote
from ccpo.types import REPLACE
from ccpo.verifier import Verdict, label, same_answer

PROMPTS = Prompts.parse(
    "test",
    {
        "*": [
            {"system": "S.", "user": "{question}"},
            {"user": "{question} | {said}"},
            {"user": "{question} | {others}"},
            {"user": "{question} | {said} | {others}"},
            {"user": "only {plain}"},
        ]
    },
)


def words(messages) -> int:
    return sum(len(message["content"].split()) for message in messages)


class Judge:
    """A text that ends in "= x" states x; 4 and 8/2 are right."""

    truth = "4"

    def __init__(self):
        self.verified: list[str] = []

    async def verify(self, text: str) -> Verdict:
        self.verified.append(text)
        _, found, answer = text.rpartition("= ")
        return Verdict(answer, float(answer in ("4", "8/2")), True) if found else Verdict(None, 0.0, False)

    def label(self, answer: str) -> str:
        return answer.strip()

    async def same(self, a: str, b: str) -> bool:
        return {a, b} == {"a half", ".5"}


class Stage:
    """A scene whose agents say ``said[label]``: a text, a Decoded or an exception; "..." where nothing is scripted."""

    def __init__(self, said=(), limit=None, cut=None, question="2 + 2?", **options):
        self.said, self.asked, self.judge = dict(said), [], Judge()
        cut = cut or (lambda text, count: " ".join(text.split()[count:]))
        budget = PromptBudget(words, cut, limit) if limit else None
        self.scene = Scene(question, self.decode, PROMPTS.messages, self.judge, lambda role: budget, **options)

    async def decode(self, role, messages, name):
        self.asked.append((name, messages[-1]["content"]))
        said = self.said.get(name, "...")
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, Decoded) else Decoded(said)

    @property
    def heard(self) -> dict:
        return dict(self.asked)

    def run(self, team: Team) -> SimpleNamespace:
        """The session alone: its turns, outcome and value."""

        async def main():
            answers = Answers(self.judge)
            session = Session(team, self.scene, answers, Memory())
            outcome = await outcome_of(team, session)
            value = await answers.value(outcome)
            ballots = [await answers.ballot(turn) for turn in outcome.turns]
            return SimpleNamespace(turns=session.turns, outcome=outcome, value=value, ballots=ballots)

        return asyncio.run(main())


def team_of(program, roles=("a", "b", "c"), **attributes) -> Team:
    async def play(self, s):
        return await program(s)

    return type("Mine", (Team,), {"roles": roles, "play": play, **attributes})()


# -------------------------------------------------------------------------------------------------------- what a role hears


def test_the_template_with_exactly_the_fields_that_are_heard_is_used():
    async def program(s):
        first = await s.say("a", question=s.question, said=None, others=[])
        await s.say("b", question=s.question, said=first)
        await s.say("c", question=s.question, said=first, others=[None, first])
        await s.say("c", question=s.question, others=[None])
        return s.answer(first)

    stage = Stage({"a": "hello"})
    stage.run(team_of(program))
    assert stage.asked == [
        ("a", "2 + 2?"),
        ("b", "2 + 2? | hello"),
        ("c", "2 + 2? | hello | hello"),
        (("c", 1), "2 + 2?"),
    ]


def test_fields_without_a_template_are_refused_by_name():
    async def program(s):
        return s.answer(await s.say("a", question=s.question, mood="calm"))

    with pytest.raises(
        PromptError, match=r"no template for a that hears \{mood, question\}: its templates have the fields"
    ):
        Stage().run(team_of(program))


def test_a_role_that_is_not_declared_is_refused():
    async def program(s):
        return s.answer(await s.say("d", question=s.question))

    with pytest.raises(TeamError, match="lets 'd' speak, which is no role of Mine: it declares a, b, c"):
        Stage().run(team_of(program))


def test_lists_are_lines_and_quotes_have_a_prefix():
    async def program(s):
        a, b = await s.all(s.say("a", question=s.question), s.say("b", question=s.question))
        return s.answer(
            await s.say("c", question=s.question, others=[a, None, Quote(b, b.text.upper(), "B: "), "plain"])
        )

    stage = Stage({"a": "one", "b": "two"})
    stage.run(team_of(program))
    assert stage.heard["c"] == "2 + 2? | one\nB: TWO\nplain"


def test_braces_are_text():
    async def program(s):
        first = await s.say("a", question=s.question)
        return s.answer(await s.say("b", question=s.question, said=first))

    stage = Stage({"a": "{question} }{ {0}"}, question="{said} {} {x!r}?")
    stage.run(team_of(program))
    assert stage.heard == {"a": "{said} {} {x!r}?", "b": "{said} {} {x!r}? | {question} }{ {0}"}


def test_a_program_without_end_is_stopped():
    async def program(s):
        while True:
            await s.say("a", question=s.question)

    with pytest.raises(TeamError, match="asked for more than 5 turns; let it stop, or raise max_turns"):
        Stage().run(team_of(program, max_turns=5))


@pytest.mark.parametrize("returned", [None, "4", Turn("a", 0, "4")])
def test_a_program_returns_an_outcome(returned):
    async def program(s):
        await s.say("a", question=s.question)
        return returned

    with pytest.raises(TeamError, match="which is no outcome: return s.answer"):
        Stage().run(team_of(program))


# ----------------------------------------------------------------------------------------------------------------- budgets


async def two_others(s):
    a, b = await s.all(s.say("a", question=s.question), s.say("b", question=s.question))
    return s.answer(await s.say("c", question=s.question, said=a, others=[b]))


def test_what_others_said_loses_its_left_end_evenly():
    """2 + 2? | a.. | b..: 3 words of question and 2 bars are never cut."""
    stage = Stage({"a": "a1 a2 a3 a4", "b": "b1 b2 b3 b4"}, limit=9)
    turns = stage.run(team_of(two_others)).turns
    assert stage.heard["c"] == "2 + 2? | a3 a4 | b3 b4"
    assert [turn.cut for turn in turns] == [False, False, True]
    assert [turn.text for turn in turns[:2]] == ["a1 a2 a3 a4", "b1 b2 b3 b4"], "what was said stays whole"


def test_a_short_text_that_is_used_up_leaves_the_rest_to_the_long_one():
    stage = Stage({"a": "a1", "b": "b1 b2 b3 b4 b5 b6"}, limit=8)
    stage.run(team_of(two_others))
    assert stage.heard["c"] == "2 + 2? |  | b4 b5 b6"


def test_what_fits_is_not_cut():
    stage = Stage({"a": "a1 a2", "b": "b1 b2"}, limit=9)
    turns = stage.run(team_of(two_others)).turns
    assert stage.heard["c"] == "2 + 2? | a1 a2 | b1 b2" and not any(turn.cut for turn in turns)


def test_plain_text_is_never_cut_and_the_error_says_what_to_set():
    async def program(s):
        first = await s.say("a", question=s.question)
        return s.answer(await s.say("b", question=s.question, said=first.text))

    with pytest.raises(
        TeamError, match=r"prompt of b is 2 tokens over its budget of 5 even without .*max_prompt_length"
    ):
        Stage({"a": "one two three"}, limit=5).run(team_of(program))


def test_a_question_that_does_not_fit_is_an_error():
    with pytest.raises(TeamError, match="prompt of a is 1 tokens over its budget of 3"):
        Stage(limit=3).run(team_of(two_others))


def test_a_quotes_short_form_stands_in_where_its_text_does_not_fit():
    async def program(s):
        a = await s.say("a", question=s.question)
        return s.answer(await s.say("b", question=s.question, said=Quote(a, a.text, "A: ", "4")))

    def heard(limit):
        stage = Stage({"a": "one two = 4"}, limit=limit)
        stage.run(team_of(program))
        return stage.heard["b"]

    assert heard(9) == "2 + 2? | A: one two = 4"
    assert heard(7) == "2 + 2? | A: = 4"
    with pytest.raises(TeamError, match="even without what others said"):
        heard(5)


def test_a_text_that_cannot_be_shortened_gives_way_to_its_short_form_or_to_nothing():
    """Decoding the rest of the tokens may give a text that is not shorter: there is still an end."""

    async def program(s):
        a = await s.say("a", question=s.question)
        await s.say("b", question=s.question, said=Quote(a, a.text, short="4"))
        return s.answer(await s.say("c", question=s.question, said=a))

    stage = Stage({"a": "x y z = 4"}, limit=5, cut=lambda text, count: text)
    stage.run(team_of(program))
    assert (stage.heard["b"], stage.heard["c"]) == ("2 + 2? | 4", "2 + 2? | ")


# --------------------------------------------------------------------------------------------------------- what is read


def test_a_turn_is_read_by_the_verifier_and_once_per_text():
    found = []

    async def program(s):
        for role in ("a", "b", "c"):
            found.append(await s.read(turn := await s.say(role, question=s.question)))
        return s.answer(turn)

    stage = Stage({"a": "so = 5", "b": "hm", "c": Decoded("so = 5", truncated=True)})
    assert stage.run(team_of(program)).value == 0.0
    assert found == ["5", None, None], "a turn that was cut is not read"
    assert stage.judge.verified == ["so = 5", "hm"]


def test_nothing_is_read_where_nobody_spoke():
    async def program(s):
        assert await s.read(None) is None and s.without_answer(None) is None
        return s.answer(await s.say("a", question=s.question))

    Stage().run(team_of(program))


@pytest.mark.parametrize(
    "said, value",
    [("= 4", 1.0), ("= 5", 0.0), ("hm", 0.0), (Decoded("= 4", truncated=True), 0.0)],
)
def test_what_an_answer_is_worth(said, value):
    async def program(s):
        return s.answer(await s.say("a", question=s.question))

    assert Stage({"a": said}).run(team_of(program)).value == value


def test_no_answer_is_worth_nothing():
    async def program(s):
        await s.say("a", question=s.question)
        return s.answer(None)

    assert Stage({"a": "= 4"}).run(team_of(program)).value == 0.0


def test_a_turn_that_was_cut_can_end_the_run():
    said = {"a": Decoded("= 4", truncated=True)}
    ended = Stage(said, end_when_truncated=True)
    result = ended.run(team_of(two_others))
    assert result.value == 0.0 and result.outcome.turns == () and "c" not in ended.heard
    goes_on = Stage(said)
    goes_on.run(team_of(two_others))
    assert "c" in goes_on.heard


@pytest.mark.parametrize("strip", [False, True])
def test_a_leak_is_stripped_only_when_asked(strip):
    leaking = "Add them. The answer is 4."
    stage = Stage({"think": leaking})
    dyad = prompts_of(Dyad, "toy")
    stage.scene = Scene("2 + 2?", stage.decode, dyad.messages, stage.judge)
    played = asyncio.run(play(Dyad(strip_leak=strip), stage.scene, plan(Dyad(strip_leak=strip))))
    assert ("The answer is 4" in stage.heard["reason"]) is not strip
    assert "Add them." in stage.heard["reason"]
    think, reason = played.turns
    assert think.text == leaking and played.leaked[think] and not played.leaked[reason]
    assert played.verdicts[think] is None and not played.verdicts[reason].parsed


def test_a_text_without_an_answer_is_heard_as_it_is():
    async def program(s):
        turn = await s.say("a", question=s.question)
        assert s.without_answer(turn) is turn
        return s.answer(turn)

    Stage({"a": "Add them."}).run(team_of(program))


# ------------------------------------------------------------------------------------------------------------- pluralities


def vote_of(said, tie="expected"):
    roles = tuple(f"v{i}" for i in range(len(said)))

    async def program(s):
        return s.plurality(await s.all(*(s.say(role, question=s.question) for role in roles)), tie)

    stage = Stage(dict(zip(roles, said, strict=True)))
    return stage.run(team_of(program, roles))


@pytest.mark.parametrize(
    ("said", "tie", "value"),
    [
        (["= 4", "= 4", "= 5"], "expected", 1.0),
        (["= 4", "= 5", "= 6"], "expected", 1 / 3),
        (["= 4", "= 5", "= 6"], "fail", 0.0),
        (["= 5", "= 4", "no idea"], "optimistic", 1.0),
        (["= 5", "= 4", "no idea"], "first", 0.0),
        (["= 5", "= 5", "= 4"], "expected", 0.0),
        (["no", "no", "no"], "expected", 0.0),
    ],
)
def test_what_a_vote_is_worth(said, tie, value):
    assert vote_of(said, tie).value == value


def test_ballots_are_grouped_by_meaning_and_the_unreadable_abstain():
    assert vote_of(["= 8/2", "= 4", "= a half", "= .5", "hm", "= 9"]).ballots == [
        "4",
        "4",
        "a half",
        "a half",
        None,
        "9",
    ]


def test_a_truncated_response_is_an_abstention_even_if_it_states_the_answer():
    result = vote_of([Decoded("= 4", True), "= 5"])
    assert (result.ballots, result.value) == ([None, "5"], 0.0)


def test_a_wrong_answer_spelled_like_the_truth_is_not_the_truth(monkeypatch):
    async def verify(self, text):
        return Verdict("4", 0.0, True)

    monkeypatch.setattr(Judge, "verify", verify)
    result = vote_of(["= 4 ", "= 5"])
    assert result.ballots == ["not 4", "not 4"] and result.value == 0.0


def test_real_answers_meet_under_the_real_verifier():
    """Equivalent wrong answers share a label through the functions that sessions use."""
    assert label("1/2", "boxed") == label("\\frac{1}{2}", "boxed") == label("0.5", "boxed")
    assert same_answer("x+1", "1+x", "boxed")
    assert not same_answer("x+1", "x+2", "boxed")


def deliberation(said, limit=None, **settings):
    team = Vote(n_voters=3, rounds=2, **settings)
    stage = Stage(
        {label: said[number][i] for i, v in enumerate(team.roles) for number, label in ((0, v), (1, (v, 1)))},
        limit=limit,
    )
    return stage, stage.run(team)


def test_in_a_second_round_each_voter_reads_the_others_answers_and_the_last_vote_counts():
    stage, result = deliberation([["so = 5", "so = 5", "hm"], ["= 4", "= 4", "= 5"]])
    assert [stage.heard[f"voter_{i}"] for i in range(3)] == ["2 + 2?"] * 3
    assert stage.heard["voter_0", 1] == "2 + 2? | Voter 2: 5\nVoter 3: no answer"
    assert stage.heard["voter_2", 1] == "2 + 2? | Voter 1: 5\nVoter 2: 5"
    assert [(turn.role, turn.number) for turn in result.outcome.turns] == [(f"voter_{i}", 1) for i in range(3)]
    assert (result.ballots, result.value) == (["4", "4", "5"], 1.0)


def test_shared_reasoning_is_cut_from_the_left_until_the_prompt_fits():
    said = [["one two three four = 5", "= 6", "= 7"], ["= 4", "= 4", "= 4"]]
    whole, result = deliberation(said, share_reasoning=True)
    assert "Voter 1: one two three four = 5" in whole.heard["voter_1", 1]
    assert not any(turn.cut for turn in result.turns)
    short, result = deliberation(said, share_reasoning=True, limit=12)
    assert all(len(text.split()) <= 12 for text in short.heard.values())
    assert short.heard["voter_1", 1].startswith("2 + 2? | Voter 1: four = 5\nVoter 3: ")
    assert [turn.cut for turn in result.turns] == [False, False, False, False, True, True]


def test_bare_answers_that_do_not_fit_are_an_error_that_says_what_to_set():
    with pytest.raises(TeamError, match="data.max_prompt_length"):
        deliberation([["= 4"] * 3, ["= 4"] * 3], limit=5)


# ---------------------------------------------------------------------------------------------------------------- together


def test_all_runs_at_the_same_time_and_the_first_failure_cancels_the_rest():
    cancelled, started = [], []

    async def decode(role, messages, name):
        started.append(role)
        if role == "b":
            await asyncio.sleep(0)
            raise RuntimeError("server lost")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(role)
            raise

    async def program(s):
        return s.plurality(await s.all(*(s.say(role, question=s.question) for role in s._team.roles)))

    async def main():
        team = team_of(program)
        scene = Scene("2 + 2?", decode, PROMPTS.messages, Judge())
        with pytest.raises(RuntimeError, match="server lost"):
            await asyncio.wait_for(outcome_of(team, Session(team, scene, Answers(Judge()), Memory())), 2)
        await asyncio.sleep(0)
        assert started == ["a", "b", "c"] and cancelled == ["a", "c"]

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------- the row, and chance


ROW = {
    "prompt": "p",
    "answer": "4",
    "solution": "s",
    "ground_truth": "4",
    "reward_model": {"ground_truth": "4"},
    "extra_info": {"hint": "add", "truth": "4", "index": 3},
}


def read_row(column, columns):
    async def program(s):
        found.append(s.row[column])
        found.append(dict(s.row))
        return s.answer(await s.say("a", question=s.question))

    found = []
    Stage(row=ROW).run(team_of(program, columns=columns))
    return found


def test_a_program_reads_the_columns_that_it_declares():
    assert read_row("hint", ("hint", "prompt")) == ["add", {"hint": "add", "prompt": "p"}]
    assert read_row("index", ("index",)) == [3, {"index": 3}]


def test_a_column_that_is_not_declared_is_refused():
    with pytest.raises(TeamError, match="reads column 'hint', which Mine does not declare: add it to columns"):
        read_row("hint", ("prompt",))


def test_a_column_that_the_row_lacks_is_refused_with_those_that_it_has():
    with pytest.raises(TeamError, match="no column 'hnit': it has prompt, hint, index"):
        read_row("hnit", ("hnit",))


@pytest.mark.parametrize("column", ["reward_model", "ground_truth", "truth", "answer", "solution", "extra_info"])
def test_the_truth_is_no_column_even_if_it_is_declared(column):
    with pytest.raises(TeamError, match=f"no column '{column}'"):
        read_row(column, (column,))


def test_chance_is_the_sessions_own_and_the_same_in_its_replays():
    drawn = []

    async def program(s):
        drawn.append(s.random.random())
        assert s.random is s.random
        first = await s.say("a", question=s.question)
        return s.answer(await s.say("b", question=s.question, said=first))

    team = team_of(program, ("a", "b"))
    found = plan(team)
    assert found.varies
    drawn.clear()
    for seed in (1, 1, 2):
        asyncio.run(play(team, Stage(seed=(seed, 0)).scene, found, [Intervention(REPLACE, "a")]))
    (one, its_replay), (again, _), (other, _) = zip(drawn[::2], drawn[1::2], strict=True)
    assert one == its_replay == again != other
