"""The counterfactual: the same program run again with one role changed.

    intervention   the role's `say` returns                  used for
    remove         None: it said nothing                     the paper's principle: what would the team have got without it
    resample       a fresh sample                            what the others make of another turn of this role
    replace        a given text                              thought emptied: is the turn read at all
    shuffle        its turn in a session of another prompt   is the content read, or only its presence

A replay remembers its session: a `say` that hears the same is answered with the session's own turn, everything else is decoded. So what
did not hear the role is reused and never decoded again. Which turns are decoded is known beforehand (`ccpo.team.plan`), so their requests
go out as soon as what they hear exists, beside the session; a turn that the plan did not see waits until the session has spoken it, or is
over without it. Both are valid: a reused turn was spoken without hearing the role, and what heard it is decoded anew, so the value of a
replay that removes or resamples role i depends on no token of role i in the session. Source: our construction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ccpo.prompts import Messages
from ccpo.team.plan import Plan
from ccpo.team.session import Answers, Ended, Key, Memory, Outcome, Scene, Session, Team, TeamError, Turn, fitted
from ccpo.types import REMOVE, REPLACE, RESAMPLE, SHUFFLE, ReplayRecord, SessionRecord, TurnRecord


@dataclass(frozen=True)
class Intervention:
    """What a replay changes. ``texts``: what the role says instead, turn by turn, the last one again and again (replace, shuffle).
    ``draw``: number of a repeated resample."""

    how: str
    role: str
    texts: tuple[str, ...] = ("",)
    draw: int = 0

    @property
    def name(self) -> str:
        """For metrics: ``without_think``, ``think_emptied``, ``think_replaced``, ``think_resampled``, ``think_shuffled``."""
        if self.how == REMOVE:
            return f"without_{self.role}"
        if self.how == REPLACE:
            return f"{self.role}_{'replaced' if any(self.texts) else 'emptied'}"
        return f"{self.role}_{'resampled' if self.how == RESAMPLE else 'shuffled'}"


def called(team: Team, intervention: Intervention) -> str:
    """What the replay is called in metrics: the team's own word for it, or its name."""
    return team.aliases.get(intervention.name, intervention.name)


class Replay(Session):
    """A run of the program with one role changed. ``decoded``: the turns that are not the session's own."""

    def __init__(
        self, team: Team, scene: Scene, answers: Answers, memory: Memory, intervention: Intervention, plan: Plan
    ) -> None:
        super().__init__(team, scene, answers, memory)
        self.intervention = intervention
        self.decoded: list[Turn] = []
        self._plan = plan.replay(intervention.how, intervention.role)

    async def _speak(self, role: str, number: int, heard: dict[str, Any], key: Key) -> Turn | None:
        do = self.intervention
        if role == do.role and do.how == REMOVE:
            return None
        if role == do.role and do.how in (REPLACE, SHUFFLE):
            return Turn(role, number, do.texts[min(number, len(do.texts) - 1)])
        fresh = self._plan.shared or (role, number) in self._plan.fresh or (role == do.role and do.how == RESAMPLE)
        # shielded: a program may cancel this branch, and the turn is the session's
        if not fresh and (turn := await asyncio.shield(self._memory.slot(key))) is not None:
            # In its place in this run: its number in the session may say what the changed role said.
            return turn if turn.number == number else replace(turn, number=number)
        turn = await self._decode(role, number, heard, self._label(role, number))
        self.decoded.append(turn)
        return turn

    @property
    def shared(self) -> bool:
        """It reuses no turn, so it is the same for all sessions of the prompt."""
        return self._plan.shared

    def _label(self, role: str, number: int) -> Hashable:
        do = self.intervention
        name = called(self._team, do)
        if do.draw:
            name = f"{name} {do.draw}"
        return name if self._plan.fresh == {(role, number)} else (name, role, number)


class Cut(Session):
    """A run in which only the first ``count`` roles of the plan's order speak, with the session's own turns: what is its last one asked?

    ``messages``: that. Nothing is decoded.
    """

    def __init__(
        self, team: Team, scene: Scene, answers: Answers, memory: Memory, order: tuple[str, ...], count: int
    ) -> None:
        super().__init__(team, scene, answers, memory)
        self.messages: Messages | None = None
        self._last, self._heard = order[-1], order[:count]

    async def _speak(self, role: str, number: int, heard: dict[str, Any], key: Key) -> Turn | None:
        if role == self._last:
            self.messages, _ = fitted(role, heard, self._scene.render, self._scene.budget(role))
            raise Ended
        return await self._memory.slot(key) if role in self._heard else None


@dataclass(frozen=True)
class PlayedReplay:
    intervention: Intervention
    value: float
    shared: bool
    decoded: tuple[Turn, ...]


@dataclass(frozen=True)
class Played:
    """A session that took place. ``turns``: in the order of their number, then of the team's roles. ``ballots``: one of every role
    that casts one, None where there is no plurality or a role casts several. ``verdicts``: of every turn that its run asked for an answer,
    else None; ``leaked``: see `TurnRecord`. ``cuts``: what the last speaker would be asked, had only the turns before each one been spoken;
    empty unless they were asked for."""

    value: float
    turns: tuple[Turn, ...]
    outcome: Outcome
    replays: tuple[PlayedReplay, ...]
    ballots: dict[str, str | None] | None
    verdicts: dict[Turn, Any | None]
    leaked: dict[Turn, bool]
    cuts: tuple[Messages, ...] = ()

    def turn_record(self, turn: Turn) -> TurnRecord:
        verdict = self.verdicts[turn]
        parsed = bool(verdict.parsed) if verdict is not None else None
        return TurnRecord(turn.role, turn.truncated, parsed, self.leaked[turn], turn.cut)

    def record(self, prompt: Hashable, session: int, truth: Hashable | None = None) -> SessionRecord:
        """What credit needs of it."""
        return SessionRecord(
            prompt,
            session,
            self.value,
            tuple(map(self.turn_record, self.turns)),
            tuple(
                ReplayRecord(
                    replay.intervention.how,
                    replay.intervention.role,
                    replay.value,
                    replay.shared,
                    len(replay.decoded),
                    any(turn.truncated for turn in replay.decoded),
                )
                for replay in self.replays
            ),
            self.ballots,
            truth if self.ballots is not None else None,
        )


async def play(
    team: Team, scene: Scene, plan: Plan, interventions: Sequence[Intervention] = (), cuts: bool = False
) -> Played:
    """Run a session and its replays; requests go out as soon as what they hear exists.

    Args:
        team: whose program.
        scene: where, for whom, and with what.
        plan: the team's.
        interventions: one replay each.
        cuts: whether to say what the last speaker hears after every turn (`Played.cuts`); the plan must have an order.

    Raises:
        TeamError, or whatever decoding raises: the session and all its replays end.
    """
    from ccpo.verifier import looks_like_answer

    answers, memory = Answers(scene.judge), Memory()
    session = Session(team, scene, answers, memory)
    replays = [Replay(team, scene, answers, memory, do, plan) for do in interventions]

    async def run_session() -> Outcome:
        try:
            return await outcome_of(team, session)
        finally:
            memory.close()

    outcome, *others = await session.all(run_session(), *(outcome_of(team, replay) for replay in replays))
    value = await answers.value(outcome)  # first: the session's own ballots name the wrong labels
    values = [await answers.value(other) for other in others]
    ballots = None
    if outcome.tie is not None and len({turn.role for turn in outcome.turns}) == len(outcome.turns):
        ballots = {turn.role: await answers.ballot(turn) for turn in outcome.turns}  # None where a role casts several
    turns = tuple(sorted(session.turns, key=lambda turn: (turn.number, team.roles.index(turn.role))))
    asked = session.asked.union(*(replay.asked.intersection(replay.decoded) for replay in replays))
    spoken = [*turns, *(turn for replay in replays for turn in replay.decoded)]
    return Played(
        value,
        turns,
        outcome,
        tuple(
            PlayedReplay(replay.intervention, worth, replay.shared, tuple(replay.decoded))
            for replay, worth in zip(replays, values, strict=True)
        ),
        ballots,
        {turn: await answers.verdict(turn) if turn in asked else None for turn in spoken},
        {turn: turn not in asked and looks_like_answer(turn.text) for turn in spoken},
        await _cuts(team, scene, plan, answers, memory, turns) if cuts else (),
    )


async def _cuts(
    team: Team, scene: Scene, plan: Plan, answers: Answers, memory: Memory, turns: Sequence[Turn]
) -> tuple[Messages, ...]:
    order = plan.order
    runs = [Cut(team, scene, answers, memory, order, count) for count in range(len(order))]
    for run in runs:
        await outcome_of(team, run)
    if tuple(turn.role for turn in turns) != order or any(run.messages is None for run in runs):
        raise TeamError(
            f"the session of {type(team).__name__} went another way than its plan: it has turns of {', '.join(turn.role for turn in turns)}, and what "
            f"{order[-1]} hears after each turn is known for {', '.join(order)} alone; name texts in samples that lead the program there"
        )
    return tuple(run.messages for run in runs)


async def outcome_of(team: Team, session: Session) -> Outcome:
    """Run the program. Raises TeamError when it returns anything but an outcome."""
    try:
        outcome = await team.play(session)
    except Ended:
        return Outcome(())
    if not isinstance(outcome, Outcome):
        raise TeamError(
            f"play() of {type(team).__name__} returned {type(outcome).__name__}, which is no outcome: return s.answer(turn) or "
            "s.plurality(turns)"
        )
    return outcome
