"""N voters and a plurality: one session.

    question --> VOTER_0 --> ballot --+
    question --> VOTER_1 --> ballot --+--> plurality --> R
    question --> VOTER_2 --> ballot --+
                                              rounds > 1: each voter reads the others' last answers and votes again

All voters of a round decode at the same time. Answers become ballots by equivalence: right answers share the truth's label, wrong ones
that mean the same share one label, and what the verifier cannot read is an abstention. Source: the paper's voting topology; rounds,
grouping and abstentions are our construction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ccpo.config import VoteConfig
from ccpo.plurality import vote_value
from ccpo.prompts import VOTE, Messages, VotePrompts, render, with_persona
from ccpo.topology.session import Generate, Judge, PromptBudget, Scored, Turn, all_or_nothing
from ccpo.types import voter_role
from ccpo.verifier import Verdict


@dataclass(frozen=True)
class Voter:
    """How one voter is asked. ``persona`` is added to the system message."""

    prompts: VotePrompts
    persona: str = ""


def voters_of(vote: VoteConfig, prompts: str) -> list[Voter]:
    """The team of a configuration; ``prompts``: template set of voters without their own."""
    names = vote.templates or (prompts,) * vote.n_voters
    return [
        Voter(VOTE[name], persona) for name, persona in zip(names, vote.personas or ("",) * vote.n_voters, strict=True)
    ]


@dataclass(frozen=True)
class Spoken:
    turn: Turn
    verdict: Verdict
    cut: bool


async def run_vote(
    question: str,
    *,
    voters: Sequence[Voter],
    truth: str,
    generate: Generate,
    judge: Judge,
    label: Callable[[str], str],
    same: Callable[[str, str], Awaitable[bool]],
    budgets: Sequence[PromptBudget],
    tie: str = "expected",
    rounds: int = 1,
    share_reasoning: bool = False,
) -> list[tuple[str, Scored]]:
    """Run one session.

    Args:
        question: what the user asks.
        voters: the team.
        truth: label of right ballots.
        generate: decodes one response; an exception ends the session and cancels its other requests.
        judge: verifies a text against the ground truth.
        label: canonical spelling of an answer.
        same: whether two answers mean the same.
        budgets: one per voter, see `PromptBudget`.
        tie: one of `ccpo.plurality.TIES`.
        rounds: how often everyone votes; the last vote counts.
        share_reasoning: from the second round on, show the others' texts instead of their answers.

    Returns:
        (role, Scored), round by round, voters in order. Every turn carries the value of the last vote and its voter's ballot in its
        own round; only the last round's are ``final``. A truncated response is an abstention.
    """
    spoken: list[list[Spoken]] = []
    for number in range(rounds):
        asked = [
            _ask(voter, question, spoken[-1] if spoken else [], seat, budgets[seat], share_reasoning)
            for seat, voter in enumerate(voters)
        ]
        turns = await all_or_nothing(
            *(_say(generate, seat, messages, number) for seat, (messages, _) in enumerate(asked))
        )
        verdicts = await all_or_nothing(*(_judged(judge, turn) for turn in turns))
        spoken.append(
            [Spoken(turn, verdict, cut) for turn, verdict, (_, cut) in zip(turns, verdicts, asked, strict=True)]
        )
    ballots = [await group_ballots([s.verdict for s in said], truth, label, same) for said in spoken]
    value = vote_value(ballots[-1], truth, tie)
    return [
        (
            voter_role(seat),
            Scored(
                s.turn,
                value,
                parsed=s.verdict.parsed,
                cut=s.cut,
                final=number == rounds - 1,
                ballot=ballots[number][seat],
                truth=truth,
            ),
        )
        for number, said in enumerate(spoken)
        for seat, s in enumerate(said)
    ]


async def group_ballots(
    verdicts: Sequence[Verdict], truth: str, label: Callable[[str], str], same: Callable[[str, str], Awaitable[bool]]
) -> list[str | None]:
    """One label per verdict: ``truth`` if right, None if unreadable, else that of the first equivalent wrong answer."""
    wrong: list[str] = []

    async def of(verdict: Verdict) -> str | None:
        if verdict.answer is None:
            return None
        if verdict.reward == 1.0:
            return truth
        own = label(verdict.answer)
        if own == truth:  # spelled like the truth and yet judged wrong
            own = f"not {own}"
        for seen in wrong:
            if seen == own or await same(seen, own):
                return seen
        wrong.append(own)
        return own

    return [await of(verdict) for verdict in verdicts]  # one by one: each is compared with those before it


async def _say(generate: Generate, seat: int, messages: Messages, number: int) -> Turn:
    return await generate(voter_role(seat), messages, number)


async def _judged(judge: Judge, turn: Turn) -> Verdict:
    return Verdict(None, 0.0, False) if turn.truncated else await judge(turn.text)


def _ask(
    voter: Voter, question: str, last: Sequence[Spoken], seat: int, budget: PromptBudget, share_reasoning: bool
) -> tuple[Messages, bool]:
    """(messages for one voter, whether what the others said was cut to fit). Raises ValueError if even bare answers do not fit."""
    if not last:
        return with_persona(render(voter.prompts.vote, question=question), voter.persona), False
    answers = {other: s.verdict.answer or "no answer" for other, s in enumerate(last) if other != seat}
    texts = {other: last[other].turn.text for other in answers} if share_reasoning else {}
    cut = False
    while True:
        others = "\n".join(f"Voter {other + 1}: {texts.get(other) or answer}" for other, answer in answers.items())
        messages = with_persona(render(voter.prompts.again, question=question, others=others), voter.persona)
        over = budget.count(messages) - budget.limit
        if over <= 0:
            return messages, cut
        if not any(texts.values()):
            raise ValueError(
                f"a voter's prompt with the others' answers is {over} tokens over its budget of {budget.limit}: set "
                "data.max_prompt_length higher, or drop the long questions from the dataset"
            )
        texts, cut = {other: _shorter(text, -(-over // len(texts)), budget) for other, text in texts.items()}, True


def _shorter(text: str, tokens: int, budget: PromptBudget) -> str:
    shorter = budget.cut(text, tokens)
    return shorter if len(shorter) < len(text) else ""
