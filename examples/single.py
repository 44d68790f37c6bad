"""One agent alone: no team, the control for all of them. With the rule shared it is GRPO of a single agent.

    question --> SOLVER --> the answer

It is asked as a voter is, and as Reason is without a thought: what a taught model was taught to answer alone (docs/teach.md).

    TEAM=examples/single.py:Single bash recipe/run_ccpo.sh ccpo.credit.rule=shared
"""

from __future__ import annotations

from ccpo.team import Outcome, Session, Team


class Single(Team):
    roles = ("solver",)
    prompts = {
        "math": {
            "solver": {
                "system": "Solve the problem step by step. Put your final answer within \\boxed{{}}.",
                "user": "{question}\n\nPut your final answer within \\boxed{{}}.",
            },
        },
        "choice": {
            "solver": {
                "system": "Answer the multiple-choice question. End with the letter of your choice as \\boxed{{letter}}.",
                "user": "{question}",
            },
        },
        "toy": {"solver": {"system": "Answer.", "user": "{question}"}},  # what the embedded model was taught
    }

    async def play(self, s: Session) -> Outcome:
        return s.answer(await s.say("solver", question=s.question))
