"""A chain: one drafts, one reviews the draft, one reads both and answers.

    question --> PROPOSER --> draft --+--> CRITIC --> review --+
                                      +------------------------+--> REFINER --> the team's answer

Without the critic, the refiner reads the draft alone; without the proposer there is nothing to review, and it answers on its own.

    TEAM=examples/chain.py:Chain bash recipe/run_ccpo.sh ccpo.credit.rule=removal
"""

from __future__ import annotations

from ccpo.team import Outcome, Session, Team

BOXED = "Put your final answer within \\boxed{{}}."
REFINE = f"Solve the problem. Keep what is right in what you are shown, and correct the rest. {BOXED}"
DRAFT = "{question}\n\nDraft:\n{draft}"


class Chain(Team):
    roles = ("proposer", "critic", "refiner")
    # A role with several templates is asked with the one that has exactly the fields that it hears.
    prompts = {
        "math": {
            "proposer": {"system": f"Solve the problem step by step. {BOXED}", "user": "{question}"},
            "critic": {
                "system": "Check the draft and name its first mistake, or say that there is none.",
                "user": DRAFT,
            },
            "refiner": [
                {"system": REFINE, "user": DRAFT + "\n\nReview:\n{review}"},
                {"system": REFINE, "user": DRAFT},
                {"system": REFINE, "user": "{question}"},
            ],
        },
        "toy": {  # what data_preprocess.toy_chain teaches, in words that the embedded model knows
            "proposer": {"system": "Answer.", "user": "{question}"},
            "critic": {"system": "Think.", "user": "{draft}\n{question}"},
            "refiner": [
                {"system": "Answer.", "user": "{draft}\n{question}\nThought: {review}"},
                {"system": "Answer.", "user": "{draft}\n{question}"},
                {"system": "Answer.", "user": "{question}"},
            ],
        },
    }

    async def play(self, s: Session) -> Outcome:
        draft = await s.say("proposer", question=s.question)
        review = await s.say("critic", question=s.question, draft=draft) if draft else None  # nothing to review
        return s.answer(await s.say("refiner", question=s.question, draft=draft, review=review))
