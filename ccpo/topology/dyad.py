"""The Think-Reason dyad: one session.

    question --> THINK --> thought --+
       |                             +--> REASON --> team answer --> R_joint
       +-------------------------------^
       +--> SOLO (Reason without a thought) --> solo answer --> R_solo        decodes while Think does
       +--> EMPTIED (Reason with an empty thought), validation only           decodes while Think does

Source: the paper's dyad; the solo answer is requested as early as its input exists, never in a second pass (our construction).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ccpo.prompts import DyadPrompts, Messages, render
from ccpo.types import EMPTIED, REASON, SOLO, THINK
from ccpo.verifier import Verdict, looks_like_answer, strip_answer


@dataclass(frozen=True)
class Turn:
    """One response. ``truncated``: cut by the token limit. ``payload``: the caller's own record of the request."""

    text: str
    truncated: bool
    payload: Any = None


@dataclass(frozen=True)
class Scored:
    """A turn and what it earned.

    reward: the row's own outcome; think carries the team's.
    parsed: the verifier found an answer (True for think, which gives none).
    leaked: the thought already states a final answer. cut: the thought did not fit Reason's prompt and lost its left end.
    """

    turn: Turn
    reward: float
    parsed: bool = True
    leaked: bool = False
    cut: bool = False


class Generate(Protocol):
    def __call__(self, role: str, messages: Messages) -> Awaitable[Turn]: ...


Judge = Callable[[str], Awaitable[Verdict]]


@dataclass(frozen=True)
class ThoughtBudget:
    """How to keep Reason's prompt inside its budget by cutting the thought, never the question.

    count:  messages -> prompt tokens
    cut:    (text, tokens) -> the text without its first ``tokens`` tokens
    limit:  prompt tokens allowed
    """

    count: Callable[[Messages], int]
    cut: Callable[[str, int], str]
    limit: int


def fit_thought(prompts: DyadPrompts, question: str, thought: str, budget: ThoughtBudget) -> tuple[str, bool]:
    """Cut the thought from the left until Reason's prompt fits.

    Returns (thought, whether it was cut). Raises ValueError when the prompt does not fit even with an empty thought.
    """
    whole = thought
    while (over := budget.count(render(prompts.reason, question=question, thought=thought)) - budget.limit) > 0:
        if not thought:
            raise ValueError(
                f"Reason's prompt is {over} tokens over its budget of {budget.limit} even without a thought: "
                "set data.max_prompt_length higher, or drop the long questions from the dataset"
            )
        shorter = budget.cut(thought, over)
        thought = shorter if len(shorter) < len(thought) else ""
    return thought, thought != whole


async def run_dyad(
    question: str,
    *,
    prompts: DyadPrompts,
    generate: Generate,
    judge: Judge,
    budget: ThoughtBudget,
    solo: bool,
    emptied: bool = False,
    strip_leak: bool = False,
) -> dict[str, Scored]:
    """Run one session; requests go out as soon as their input exists.

    Args:
        question: what the user asks.
        prompts: template set.
        generate: decodes one response for a role; an exception ends the session and cancels its other requests.
        judge: verifies a text against the ground truth.
        budget: see `ThoughtBudget`.
        solo: also decode a solo answer.
        emptied: also decode Reason's answer to an empty thought (validation).
        strip_leak: remove a leaked final answer from the thought before Reason reads it.

    Returns:
        role -> Scored in the order think, solo, emptied, reason: the team answer is last. A truncated answer earns 0, as in the
        authors' code.
    """
    pending: dict[str, asyncio.Future] = {}

    def ask(role: str, messages: Messages) -> None:
        pending[role] = asyncio.ensure_future(generate(role, messages))

    try:
        ask(THINK, render(prompts.think, question=question))
        if solo:
            ask(SOLO, render(prompts.solo, question=question))
        if emptied:
            ask(EMPTIED, render(prompts.reason, question=question, thought=""))
        think = await pending[THINK]
        leaked = looks_like_answer(think.text)
        thought = strip_answer(think.text) if leaked and strip_leak else think.text
        thought, cut = fit_thought(prompts, question, thought, budget)
        ask(REASON, render(prompts.reason, question=question, thought=thought))
        answers = {role: await _score(await pending[role], judge) for role in (SOLO, EMPTIED, REASON) if role in pending}
    finally:
        for request in pending.values():
            request.cancel()
    return {THINK: Scored(think, answers[REASON].reward, leaked=leaked, cut=cut), **answers}


async def _score(turn: Turn, judge: Judge) -> Scored:
    verdict = await judge(turn.text)
    return Scored(turn, 0.0 if turn.truncated else verdict.reward, parsed=verdict.parsed)
