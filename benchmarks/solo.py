"""A team of one: what GRPO trains. For comparisons with it; no benchmark of its own."""

from ccpo.team import Outcome, Session, Team

SYSTEM = "Solve the problem step by step. Put your final answer within \\boxed{{}}."


class Solo(Team):
    roles = ("solver",)
    prompts = {"math": {"solver": {"system": SYSTEM, "user": "{question}"}}}

    async def play(self, s: Session) -> Outcome:
        return s.answer(await s.say("solver", question=s.question))
