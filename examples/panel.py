"""A panel: one thinks, three read the thought and answer, and what most of them say is the team's answer.

    question --> THINK --> thought --+--> REASON_0 --> ballot --+
                                     +--> REASON_1 --> ballot --+--> plurality
                                     +--> REASON_2 --> ballot --+

Without Think, everyone answers alone; without one Reason, the others have the vote.

    TEAM=examples/panel.py:Panel bash recipe/run_ccpo.sh ccpo.credit.rule=removal
"""

from __future__ import annotations

from ccpo.team import Outcome, Session, Team

SOLVE = "Solve the problem step by step. Put your final answer within \\boxed{{}}."
NOTES = "{question}\n\nNotes from a colleague, which may be incomplete or wrong:\n{thought}"


class Panel(Team):
    roles = ("think", "reason_0", "reason_1", "reason_2")
    # A role with several templates is asked with the one that has exactly the fields that it hears: without Think there is no thought.
    prompts = {
        "math": {
            "think": {
                "system": "Work out the key ideas and a short plan. Do not state the final answer.",
                "user": "{question}",
            },
            "reason_*": [{"system": SOLVE, "user": NOTES}, {"system": SOLVE, "user": "{question}"}],
        },
        "toy": {  # what the embedded model was taught
            "think": {"system": "Think.", "user": "{question}"},
            "reason_*": [
                {"system": "Answer.", "user": "{question}\nThought: {thought}"},
                {"system": "Answer.", "user": "{question}"},
            ],
        },
    }

    async def play(self, s: Session) -> Outcome:
        thought = await s.say("think", question=s.question)  # None in a replay without Think
        answers = await s.all(*(s.say(role, question=s.question, thought=thought) for role in self.roles[1:]))
        return s.plurality(answers)
