"""N voters and a plurality; with more rounds, everyone reads the others' last answers and votes again: a deliberation.

    question --> VOTER_0 --> ballot --+
    question --> VOTER_1 --> ballot --+--> plurality
    question --> VOTER_2 --> ballot --+

With ``copies``, every voter reads a text of its own in place of the question: what it alone was given to know.

Source: the paper's voting topology; rounds are our construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ccpo.team.session import Outcome, Quote, Session, Team, TeamError, Turn


@dataclass(frozen=True)
class Vote(Team):
    """n_voters: 2 to 64. tie: what a tie is worth (`ccpo.plurality.TIES`). rounds: how often everyone votes; the last vote counts.
    share_reasoning: from the second round on, the others' whole texts are shown, not their answers alone.
    copies: column of the dataset row with a text for every voter; empty: all read the question."""

    n_voters: int = 3
    tie: str = "expected"
    rounds: int = 1
    share_reasoning: bool = False
    copies: str = ""

    def __post_init__(self):
        if not 2 <= self.n_voters <= 64:
            raise TeamError(
                f"n_voters is {self.n_voters}: one voter is no vote, and more than 64 were never tried; set 2..64"
            )
        if self.rounds < 1:
            raise TeamError(f"rounds is {self.rounds}: set at least 1")
        if self.share_reasoning and self.rounds == 1:
            raise TeamError("share_reasoning needs a second round, in which it is read: set rounds >= 2, or drop it")

    @cached_property
    def roles(self) -> tuple[str, ...]:
        return tuple(f"voter_{i}" for i in range(self.n_voters))

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.copies,) if self.copies else ()

    async def play(self, s: Session) -> Outcome:
        asked = self.questions(s)
        said = await s.all(*(s.say(v, question=asked[v]) for v in self.roles))
        for _ in range(1, self.rounds):
            shown = await s.all(*(self.show(s, turn) for turn in said))
            others = {v: [q for q in shown if q and q.turn.role != v] for v in self.roles}
            said = await s.all(*(s.say(v, question=asked[v], others=others[v]) for v in self.roles))
        return s.plurality(said, self.tie)

    def questions(self, s: Session) -> dict[str, str]:
        """Voter -> what it is asked."""
        if not self.copies:
            return dict.fromkeys(self.roles, s.question)
        copies = s.row[self.copies]
        try:
            if not isinstance(copies, str) and len(copies) != self.n_voters:  # the plan has one text in place of them
                raise IndexError
            return {v: copies[i] for i, v in enumerate(self.roles)}
        except (IndexError, TypeError, KeyError):
            raise TeamError(
                f"column {self.copies!r} of the row holds {len(copies) if isinstance(copies, list) else copies!r} texts for {self.n_voters} voters: "
                "set n_voters (N_VOTERS) to how many there are, since a row is made for all of its texts together, or make the data with as many"
            ) from None

    async def show(self, s: Session, turn: Turn | None) -> Quote | None:
        if turn is None:
            return None
        answer, prefix = await s.read(turn) or "no answer", f"Voter {self.roles.index(turn.role) + 1}: "
        return Quote(turn, (turn.text or answer) if self.share_reasoning else answer, prefix, answer)
