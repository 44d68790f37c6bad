"""One dyad session around fakes that answer when they are told to: what is asked when, and what comes back."""

from __future__ import annotations

import asyncio

import pytest

from ccpo.prompts import DyadPrompts
from ccpo.topology.dyad import run_dyad
from ccpo.topology.session import PromptBudget, Turn
from ccpo.types import EMPTIED, REASON, SOLO, THINK
from ccpo.verifier import Verdict

PROMPTS = DyadPrompts(
    think=(("user", "think: {question}"),),
    reason=(("user", "reason: {question} | {thought}"),),
    solo=(("user", "solo: {question}"),),
)


def words(messages) -> int:
    return sum(len(message["content"].split()) for message in messages)


class Session:
    """Fake server and judge. A role in ``gates`` answers once its event is set; ``answers`` may hold exceptions."""

    def __init__(self, answers=None, blocked=(), limit=1000, **options):
        texts = {THINK: "an idea", SOLO: "wrong", EMPTIED: "wrong", REASON: "right"} | (answers or {})
        self.answers = {role: Turn(a, False) if isinstance(a, str) else a for role, a in texts.items()}
        self.gates = {role: asyncio.Event() for role in blocked}
        self.prompts: dict[str, str] = {}
        self.cancelled: set[str] = set()
        self.question = options.pop("question", "two plus two?")
        self.options = {"solo": True} | options
        cut = lambda text, count: " ".join(text.split()[count:])  # noqa: E731
        self.budget = PromptBudget(words, cut, limit)

    async def generate(self, role, messages):
        self.prompts[role] = messages[-1]["content"]
        try:
            if role in self.gates:
                await self.gates[role].wait()
        except asyncio.CancelledError:
            self.cancelled.add(role)
            raise
        if isinstance(self.answers[role], Exception):
            raise self.answers[role]
        return self.answers[role]

    async def judge(self, text):
        return Verdict(text, float(text == "right"), text != "unreadable")

    async def start(self):
        return await run_dyad(
            self.question, prompts=PROMPTS, generate=self.generate, judge=self.judge, budget=self.budget, **self.options
        )


def run(*args, **options):
    """A whole session without waiting: (Session, result)."""

    async def main():
        session = Session(*args, **options)
        return session, await session.start()

    return asyncio.run(main())


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


def test_requests_go_out_as_soon_as_their_input_exists():
    async def main():
        session = Session(blocked=(THINK, SOLO, EMPTIED, REASON), emptied=True)
        task = asyncio.create_task(session.start())
        await settle()
        assert set(session.prompts) == {THINK, SOLO, EMPTIED}, "all three before any answer"
        session.gates[SOLO].set()
        session.gates[EMPTIED].set()
        await settle()
        assert REASON not in session.prompts, "there is no thought yet"
        session.gates[THINK].set()
        await settle()
        assert session.prompts[REASON] == "reason: two plus two? | an idea"
        assert not task.done()
        session.gates[REASON].set()
        return session, await task

    session, result = asyncio.run(main())
    assert list(result) == [THINK, SOLO, EMPTIED, REASON], "the team answer is last"
    assert session.prompts[EMPTIED] == "reason: two plus two? | "
    assert session.prompts[SOLO] == "solo: two plus two?"
    assert not session.cancelled


@pytest.mark.parametrize("solo, emptied", [(False, False), (True, False), (False, True)])
def test_only_what_is_asked_for_is_requested(solo, emptied):
    session, result = run(solo=solo, emptied=emptied)
    roles = [THINK, *[SOLO] * solo, *[EMPTIED] * emptied, REASON]
    assert list(result) == roles
    assert set(session.prompts) == set(roles)


def test_every_answer_has_its_own_reward_and_think_the_teams():
    _, result = run({SOLO: "right", REASON: "unreadable"})
    assert {role: scored.reward for role, scored in result.items()} == {THINK: 0, SOLO: 1, REASON: 0}
    assert {role: scored.parsed for role, scored in result.items()} == {THINK: True, SOLO: True, REASON: False}


def test_a_truncated_answer_earns_nothing():
    _, result = run({REASON: Turn("right", True), SOLO: "right"})
    assert {role: scored.reward for role, scored in result.items()} == {THINK: 0, SOLO: 1, REASON: 0}
    _, result = run({THINK: Turn("half a thou", True)})
    assert result[THINK].reward == 1, "a truncated thought is judged by what the team made of it"


@pytest.mark.parametrize("role", [THINK, SOLO, EMPTIED, REASON])
def test_a_failure_ends_the_session_at_once_and_cancels_the_rest(role):
    async def main():
        waiting = {THINK, SOLO, EMPTIED, REASON} - {role} - ({THINK} if role == REASON else set())
        session = Session({role: RuntimeError("server lost")}, blocked=waiting, emptied=True)
        with pytest.raises(RuntimeError, match="server lost"):
            await asyncio.wait_for(session.start(), 2)
        await settle()
        assert session.cancelled == waiting & set(session.prompts)
        assert len(session.cancelled) >= 2

    asyncio.run(main())


def test_a_cancelled_session_cancels_its_requests():
    async def main():
        session = Session(blocked=(THINK, SOLO))
        task = asyncio.create_task(session.start())
        await settle()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await settle()
        assert session.cancelled == {THINK, SOLO}

    asyncio.run(main())


@pytest.mark.parametrize("strip", [False, True])
def test_a_leak_is_measured_and_stripped_only_when_asked(strip):
    leaking = "Add them. The answer is 4."
    session, result = run({THINK: leaking}, strip_leak=strip)
    assert result[THINK].leaked and result[THINK].turn.text == leaking
    assert not result[REASON].leaked
    assert ("The answer is 4" in session.prompts[REASON]) is not strip
    assert "Add them." in session.prompts[REASON]


def test_a_thought_without_an_answer_is_left_alone():
    session, result = run({THINK: "Add them."}, strip_leak=True)
    assert not result[THINK].leaked and session.prompts[REASON].endswith("| Add them.")


def test_a_long_thought_loses_its_left_end_and_the_question_nothing():
    session, result = run({THINK: "a b c d e f"}, limit=8)
    assert session.prompts[REASON] == "reason: two plus two? | d e f"
    assert result[THINK].cut and result[THINK].turn.text == "a b c d e f"
    session, result = run({THINK: "d e f"}, limit=8)
    assert session.prompts[REASON].endswith("| d e f") and not result[THINK].cut


def test_a_thought_that_cannot_be_shortened_is_dropped_whole():
    """Decoding the rest of the tokens may give a text that is not shorter: there is still an end."""

    async def main():
        session = Session({THINK: "a b"}, limit=5)
        session.budget = PromptBudget(words, lambda text, count: text, 5)
        return session, await session.start()

    session, result = asyncio.run(main())
    assert session.prompts[REASON].endswith("| ") and result[THINK].cut


def test_a_budget_too_small_for_the_question_says_what_to_set():
    with pytest.raises(ValueError, match=r"1 tokens over its budget of 4 even without a thought.*max_prompt_length"):
        run(limit=4)


def test_braces_are_text():
    session, _ = run({THINK: "{question} }{ {0}"}, question="{thought} {} {x!r}?")
    assert session.prompts[THINK] == "think: {thought} {} {x!r}?"
    assert session.prompts[REASON] == "reason: {thought} {} {x!r}? | {question} }{ {0}"
