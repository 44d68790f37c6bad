"""The chain of examples/chain.py without its critic: one drafts, one reads the draft and answers. For scripts/regimes.py."""

from __future__ import annotations

from pathlib import Path

from ccpo.team import Outcome, Session, Team
from ccpo.team.load import team_class

CHAIN = team_class(f"{Path(__file__).resolve().parents[1] / 'examples' / 'chain.py'}:Chain")


class ShortChain(Team):
    roles = ("proposer", "refiner")
    prompts = {name: {role: chosen[role] for role in ("proposer", "refiner")} for name, chosen in CHAIN.prompts.items()}

    async def play(self, s: Session) -> Outcome:
        draft = await s.say("proposer", question=s.question)
        return s.answer(await s.say("refiner", question=s.question, draft=draft))
