"""What the embedded model is taught before training: examples of every role, and the mistakes training shall remove.

A lesson is one role's prompt and the reply to learn. The model must *start* mediocre but teachable: it follows
thoughts, but writes good ones only now and then. Our construction; the prompts are the sets ``toy`` of the two teams.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import NamedTuple

from ccpo.prompts import Messages
from ccpo.team.dyad import Dyad
from ccpo.team.load import prompts_of
from ccpo.team.vote import Vote
from data_preprocess.toy import OPERATORS, Problem, boxed, last_digit, thought_text

NOT_SURE = "Not sure."
DYAD, VOTE = prompts_of(Dyad, "toy"), prompts_of(Vote, "toy")


class Lesson(NamedTuple):
    messages: Messages
    reply: str


@dataclass(frozen=True)
class Mistakes:
    """Probabilities of the mistakes that lessons teach. The rest is correct work."""

    vague_thought: float  # Think: "Not sure."
    wrong_thought: float  # Think: a random digit as the intermediate result
    vague_note: float  # Reason is given "Not sure.", and has to answer alone
    wrong_note: float  # Reason is given a random digit, and has to follow it
    empty_note: float  # Reason is given nothing
    wrong_answer: float  # Reason, with a thought and without: a random digit as the answer
    vote_abstains: float  # voter: "Not sure."
    vote_guesses: float  # voter: an answer without its first step
    vote_wrong_step: float  # voter: a random digit as the first step
    vote_wrong_answer: float  # voter: a random digit as the answer


@dataclass(frozen=True)
class RoleMix:
    """Shares of the roles among lessons; solo is the rest."""

    vote: float
    think: float
    reason: float


# Reason sees wrong notes and follows them even here: with correct ones alone it would never need to read.
CLEAN = Mistakes(
    vague_thought=0.1, wrong_thought=0.0, vague_note=0.15, wrong_note=0.35, empty_note=0.05, wrong_answer=0.0,
    vote_abstains=0.0, vote_guesses=0.2, vote_wrong_step=0.0, vote_wrong_answer=0.0,
)  # fmt: skip
CORRUPT = Mistakes(
    vague_thought=0.35, wrong_thought=0.35, vague_note=0.35, wrong_note=0.35, empty_note=0.08, wrong_answer=0.1,
    vote_abstains=0.06, vote_guesses=0.4, vote_wrong_step=0.4, vote_wrong_answer=0.15,
)  # fmt: skip
# Voters of unequal skill (``data_preprocess.toy_voters``); CORRUPT is between them.
UNEQUAL_VOTERS = {
    "strong": replace(CORRUPT, vote_guesses=0.15, vote_wrong_step=0.15, vote_wrong_answer=0.08),
    "weak": replace(CORRUPT, vote_guesses=0.6, vote_wrong_step=0.7, vote_wrong_answer=0.3),
}
CLEAN_MIX = RoleMix(vote=0.25, think=0.25, reason=0.4)
CORRUPT_MIX = RoleMix(vote=0.25, think=0.3, reason=0.3)


def think_messages(problem: Problem) -> Messages:
    return DYAD.messages("think", {"question": problem.question})


def reason_messages(problem: Problem, thought: str) -> Messages:
    return DYAD.messages("reason", {"question": problem.question, "thought": thought})


def solo_messages(problem: Problem) -> Messages:
    return DYAD.messages("reason", {"question": problem.question})


def vote_messages(problem: Problem) -> Messages:
    return VOTE.messages("voter_0", {"question": problem.question})


def draw_lesson(problem: Problem, mix: RoleMix, mistakes: Mistakes, rng: random.Random) -> Lesson:
    """One lesson on ``problem`` in a random role."""
    role = rng.choices(
        ("vote", "think", "reason", "solo"), (mix.vote, mix.think, mix.reason, 1 - mix.vote - mix.think - mix.reason)
    )[0]
    if role == "vote":
        return Lesson(vote_messages(problem), vote_reply(problem, mistakes, rng))
    if role == "think":
        thought, _ = _thought(problem, mistakes.vague_thought, mistakes.wrong_thought, rng)
        return Lesson(think_messages(problem), thought)
    if role == "solo":
        return Lesson(solo_messages(problem), boxed(_noisy(problem.answer, mistakes.wrong_answer, rng)))
    if rng.random() < mistakes.empty_note:
        thought, answer = "", problem.answer
    else:
        thought, answer = _thought(problem, mistakes.vague_note, mistakes.wrong_note, rng)
    return Lesson(reason_messages(problem, thought), boxed(_noisy(answer, mistakes.wrong_answer, rng)))


def draw_facts(count: int, rng: random.Random) -> str:
    """``count`` one-step facts, ``3+4=7, 6*5=0, ...``."""
    facts = []
    for _ in range(count):
        left, operator, right = rng.randrange(10), rng.choice(OPERATORS), rng.randrange(10)
        facts.append(f"{left}{operator}{right}={last_digit(left, operator, right)}")
    return ", ".join(facts)


def vote_reply(problem: Problem, mistakes: Mistakes, rng: random.Random) -> str:
    """What a voter with these mistakes says."""
    if rng.random() < mistakes.vote_abstains:
        return NOT_SURE
    if problem.level == 1 or rng.random() < mistakes.vote_guesses:
        return boxed(_noisy(problem.answer, mistakes.vote_wrong_answer, rng))
    thought, answer = _thought(problem, 0.0, mistakes.vote_wrong_step, rng)
    return f"{thought}, {boxed(_noisy(answer, mistakes.vote_wrong_answer, rng))}"


def _thought(problem: Problem, vague: float, wrong: float, rng: random.Random) -> tuple[str, int]:
    """A thought and the answer of a Reason that follows it (a useless thought leaves the right answer)."""
    draw = rng.random()
    if draw < vague:
        return NOT_SURE, problem.answer
    if problem.level == 1 or draw >= vague + wrong:
        return thought_text(problem), problem.answer
    claimed = rng.randrange(10)
    return thought_text(problem, claimed), problem.answer_from(claimed)


def _noisy(digit: int, noise: float, rng: random.Random) -> int:
    return rng.randrange(10) if rng.random() < noise else digit
