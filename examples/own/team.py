"""A tutor who sees a hint that the solver does not, and tells it in its own words.

question, hint --> TUTOR --> advice --+
question -----------------------------+--> SOLVER --> the team's answer
"""

from __future__ import annotations

from ccpo.team import Outcome, Session, Team


class Tutor(Team):
    roles = ("tutor", "solver")
    columns = ("hint",)

    async def play(self, s: Session) -> Outcome:
        advice = await s.say("tutor", question=s.question, hint=s.row["hint"])
        return s.answer(await s.say("solver", question=s.question, advice=advice))
