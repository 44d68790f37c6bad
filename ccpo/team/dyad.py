"""The Think-Reason dyad. Think never answers; Reason reads the question and the thought.

    question --> THINK --> thought --+
       +-----------------------------+--> REASON --> the team's answer

Without Think, Reason answers alone (``solo``): the paper's counterfactual. Source: the paper's dyad.
"""

from __future__ import annotations

from dataclasses import dataclass

from ccpo.team.session import Outcome, Session, Team


@dataclass(frozen=True)
class Dyad(Team):
    """strip_leak: Reason never reads a final answer that Think leaked."""

    strip_leak: bool = False

    roles = ("think", "reason")
    aliases = {"without_think": "solo", "think_emptied": "emptied"}

    async def play(self, s: Session) -> Outcome:
        thought = await s.say("think", question=s.question)
        if self.strip_leak:
            thought = s.without_answer(thought)
        return s.answer(await s.say("reason", question=s.question, thought=thought))
