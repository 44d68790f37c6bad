"""What every topology's session is made of: turns, their scores, and the callables that the caller injects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from ccpo.prompts import Messages
from ccpo.verifier import Verdict


@dataclass(frozen=True)
class Turn:
    """One response. ``truncated``: cut by the token limit. ``payload``: the caller's own record of the request."""

    text: str
    truncated: bool
    payload: Any = None


@dataclass(frozen=True)
class Scored:
    """A turn and what it earned.

    reward: the row's own outcome; think and voters carry the team's.
    parsed: the verifier found an answer (True for think, which gives none).
    leaked: the thought already states a final answer.
    cut:    what this turn reads or hands on did not fit a prompt and lost its left end.
    final:  the role's last turn in the session, whose credit its earlier turns share.
    ballot: a voter's answer label, None for an abstention; equal to ``truth`` if it is right.
    truth:  the label of the right answer (votes only).
    """

    turn: Turn
    reward: float
    parsed: bool = True
    leaked: bool = False
    cut: bool = False
    final: bool = True
    ballot: Hashable | None = None
    truth: Hashable | None = None


class Generate(Protocol):
    """Decodes one response for a role in a round (0, 1, ...). An exception ends the session."""

    def __call__(self, role: str, messages: Messages, round: int = 0) -> Awaitable[Turn]: ...


Judge = Callable[[str], Awaitable[Verdict]]


@dataclass(frozen=True)
class PromptBudget:
    """How to keep a prompt inside its budget by cutting what other agents said, never the question.

    count:  messages -> prompt tokens
    cut:    (text, tokens) -> the text without its first ``tokens`` tokens
    limit:  prompt tokens allowed
    """

    count: Callable[[Messages], int]
    cut: Callable[[str, int], str]
    limit: int


async def all_or_nothing(*parts: Coroutine) -> list:
    """Results of coroutines that run at the same time; the first failure is raised at once and cancels the rest."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
