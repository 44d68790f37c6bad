"""A team's program without a model: who hears whom, and what a session and its replays cost.

`plan` runs the program with marked stand-in texts. From the plan come requests as early as their inputs exist, bounds for batches and
prompts, the cost of every rule before training, and the refusal of rules whose counterfactual the team does not define. Where the
program's way depends on what is said, ``Team.samples`` names texts to try; every number is then an upper bound.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

from ccpo.prompts import Messages
from ccpo.team.session import (
    HIDDEN,
    Answers,
    Decoded,
    Outcome,
    PlainVerdict,
    Quote,
    Scene,
    Session,
    Team,
    TeamError,
    Turn,
)
from ccpo.types import REMOVE, REPLACE, RESAMPLE

Spot = tuple[str, int]
"""A turn by its place: (role, number)."""
PLAN_SECONDS = 20.0
MOST_WAYS = 256
CHANCES = 8  # runs of a program that draws by chance
TAKEN = ("team", "ballot", "oracle")
"""Words before _accuracy in the log that are not replays."""


@dataclass(frozen=True)
class ReplayPlan:
    """One intervention. ``reused``, ``fresh``: places of turns that are the session's own, or decoded anew whatever is said. ``decodes``: at
    most. ``shared``: it reuses nothing, so one replay serves all sessions of a prompt."""

    reused: frozenset[Spot]
    fresh: frozenset[Spot]
    decodes: int
    shared: bool


@dataclass(frozen=True)
class Plan:
    """What a team's program does.

    roles:   the team's. turns: places of all turns, in the order in which they are first asked for.
    most:    role -> how often it speaks in a session, at most.
    hears:   place -> places of the turns it hears. fields: role -> the sets of fields it is given, in the session or a replay.
    answers: roles whose turns make the outcome. tie: what a tie is worth, None if the outcome is no plurality. ballots, always: role -> how
             many it casts, at most and at least.
    replays: (how, role) -> ReplayPlan, of the interventions remove, resample and replace.
    varies:  the program draws by chance (``s.random``): sessions of one prompt differ in more than what is said.
    order:   the roles as they speak, where each speaks once and in one order whatever is said; else None.
    cuts:    what the last of ``order`` is given where only the first 0, 1, ... of the others speak: sets of fields, of the runs that ask it.
    """

    roles: tuple[str, ...]
    turns: tuple[Spot, ...]
    most: Mapping[str, int]
    hears: Mapping[Spot, frozenset[Spot]]
    fields: Mapping[str, frozenset[frozenset[str]]]
    answers: tuple[str, ...]
    tie: str | None
    ballots: Mapping[str, int]
    always: Mapping[str, int]
    replays: Mapping[tuple[str, str], ReplayPlan]
    varies: bool
    order: tuple[str, ...] | None
    cuts: tuple[frozenset[str], ...]

    def replay(self, how: str, role: str) -> ReplayPlan:
        """A shuffled turn is a replaced one."""
        return self.replays[how if how in (REMOVE, RESAMPLE) else REPLACE, role]

    @property
    def rows(self) -> int:
        """Turns of a session, at most."""
        return sum(self.most.values())

    @property
    def heard(self) -> frozenset[str]:
        """Roles that another role hears."""
        return frozenset(role for spot, spots in self.hears.items() for role, _ in spots if role != spot[0])

    @property
    def first(self) -> str | None:
        """The role whose removal serves all sessions of a prompt: nobody speaks without having heard it. None: there is none."""
        found = [
            role for role in self.roles if (r := self.replay(REMOVE, role)).shared and r.decodes and len(self.roles) > 1
        ]
        return found[0] if len(found) == 1 else None

    def valid_for(self, how: str, role: str) -> frozenset[str]:
        """Roles for whose turns this replay's value is a baseline: it reuses none of them."""
        return frozenset(self.roles) - {name for name, _ in self.replay(how, role).reused}


def plan(team: Team) -> Plan:
    """Rehearse a team's program.

    Raises:
        TeamError: no roles, a role that is not declared or never speaks, no outcome, a program without end, or one that raises.
    """
    name = type(team).__name__
    _check_attributes(team)
    roles = tuple(team.roles)
    if not roles:
        raise TeamError(f"{name} has no roles: set roles to the names that its program uses")
    for role in roles:
        if not isinstance(role, str) or not re.fullmatch("[a-z][a-z0-9_]*", role) or roles.count(role) > 1:
            raise TeamError(
                f"{name} has a role {role!r}: names are lower-case letters, digits and _, each once; they name policies, metrics and settings"
            )
    if hidden := [column for column in team.columns if column in HIDDEN]:
        raise TeamError(
            f"{name} declares the column {hidden[0]}, which says the truth or holds it: no program sees it; drop it from columns"
        )
    box: list[Any] = []
    thread = threading.Thread(target=lambda: box.append(_caught(team)), daemon=True)
    thread.start()
    thread.join(PLAN_SECONDS)
    if not box:
        raise TeamError(
            f"the program of {name} does not end within {PLAN_SECONDS:.0f} s when nothing is decoded: it loops or waits for something; "
            "let it await s.say, s.read and s.all alone"
        )
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]


def _caught(team: Team) -> Plan | TeamError:
    try:
        return asyncio.run(_plan(team))
    except TeamError as error:
        return error
    except BaseException as error:  # SystemExit, too
        return TeamError(
            f"the program of {type(team).__name__} raised {type(error).__name__}: {error}, when it was run with marked texts in place of "
            "what a model says. It has to take any text (a model says anything); texts that it must be able to read go into samples"
        )


async def _plan(team: Team) -> Plan:
    turns: dict[Spot, None] = {}
    most: Counter = Counter()
    hears: dict[Spot, set[Spot]] = defaultdict(set)
    fields: dict[str, set[frozenset[str]]] = defaultdict(set)
    answers: dict[str, None] = {}
    ballots: Counter = Counter()
    ties: set[str | None] = set()
    orders: set[tuple[Spot, ...]] = set()
    reused: dict[tuple[str, str], set[Spot]] = defaultdict(set)
    fresh: dict[tuple[str, str], set[Spot]] = defaultdict(set)
    decodes: Counter = Counter()
    varies = False
    always: dict[str, int] = dict.fromkeys(team.roles, MOST_WAYS)
    ways = list(_ways(team))
    if len(ways) ** 2 > MOST_WAYS:
        raise TeamError(f"samples of {type(team).__name__} give {len(ways)} ways: name fewer texts")
    probe = _Rehearsal(team, ways[0])
    await _outcome(team, probe)
    chances = range(CHANCES if hasattr(probe, "_random") else 1)
    for way, chance in product(ways, chances):
        session = _Rehearsal(team, way, chance=chance)
        outcome = await _outcome(team, session)
        turns |= dict.fromkeys(session.places)
        orders.add(tuple(session.places))
        most |= Counter(role for role, _ in session.places)
        for spot, heard in session.hears.items():
            hears[spot] |= heard
        answers |= dict.fromkeys(turn.role for turn in outcome.turns)
        cast = Counter(turn.role for turn in outcome.turns)
        ballots |= cast
        always = {role: min(always[role], cast[role]) for role in team.roles}
        ties.add(outcome.tie)
        runs = [session]
        for how, role, other in product((REMOVE, RESAMPLE, REPLACE), team.roles, ways):
            replay = _Rehearsal(team, other, session, how, role, chance)
            await _outcome(team, replay)
            reused[how, role] |= replay.reused
            fresh[how, role] |= replay.fresh
            decodes[how, role] = max(decodes[how, role], len(replay.fresh))
            runs.append(replay)
        for run in runs:
            varies |= hasattr(run, "_random")
            for role, found in run.fields.items():
                fields[role] |= found
    if silent := [role for role in team.roles if role not in most]:
        raise TeamError(
            f"{type(team).__name__} declares {', '.join(silent)}, which never speak{'s' if len(silent) == 1 else ''}: drop "
            f"{'it' if len(silent) == 1 else 'them'} from roles, or name texts in samples that lead the program there"
        )
    if len(ties) > 1:
        raise TeamError(
            f"the outcome of {type(team).__name__} is now one kind, now another ({ties}): end every way with the same of s.answer and s.plurality"
        )
    if not answers:
        raise TeamError(
            f"{type(team).__name__} has no outcome: no way through its program hands a turn to s.answer or s.plurality"
        )
    order = tuple(role for role, _ in turns) if len(orders) == 1 and len(turns) == len(team.roles) else None
    cuts = [_Rehearsal(team, ways[0], silent=order[i:-1]) for i in range(len(order))] if order else []
    for run in cuts:
        with suppress(Exception):  # one rule needs them, which is then refused
            await _outcome(team, run)
    return Plan(
        roles=tuple(team.roles),
        turns=tuple(turns),
        most={role: most[role] for role in team.roles},
        hears={spot: frozenset(hears[spot]) for spot in turns},
        fields={role: frozenset(found) for role, found in fields.items()},
        answers=tuple(answers),
        tie=ties.pop(),
        ballots=dict(ballots),
        always=always,
        replays={
            (how, role): ReplayPlan(
                frozenset(reused[how, role]),
                frozenset(fresh[how, role] - reused[how, role]),
                decodes[how, role],
                not reused[how, role],
            )
            for how in (REMOVE, RESAMPLE, REPLACE)
            for role in team.roles
        },
        varies=varies,
        order=order,
        cuts=tuple(fields for run in cuts for fields in run.fields[order[-1]]),
    )


def _ways(team: Team) -> Iterator[dict[str, str]]:
    """Every choice of one sample per role."""
    names = [role for role in team.samples if team.samples[role]]
    if unknown := [role for role in names if role not in team.roles]:
        raise TeamError(f"samples of {type(team).__name__} name {', '.join(unknown)}, which are no roles of it")
    for texts in product(*(team.samples[role] for role in names)):
        yield dict(zip(names, texts, strict=True))


async def _outcome(team: Team, run: _Rehearsal) -> Outcome:
    from ccpo.team.replay import outcome_of

    return await outcome_of(team, run)


class _Rehearsal(Session):
    """A run with stand-ins. ``session``, ``how``, ``role``: the run that it replays and what it changes.

    ``silent``: roles that say nothing.

    Two runs hear the same where they hear the same turns, so what is heard is compared by turn and not by text.
    """

    def __init__(
        self,
        team: Team,
        way: Mapping[str, str],
        session: _Rehearsal | None = None,
        how: str = "",
        role: str = "",
        chance: int = 0,
        silent: tuple[str, ...] = (),
    ) -> None:
        super().__init__(team, _scene(chance), Answers(_StandInJudge()))
        self.row = _StandInRow(team)
        self.places: list[Spot] = []
        self.fields: dict[str, set[frozenset[str]]] = defaultdict(set)
        self.hears: dict[Spot, set[Spot]] = defaultdict(set)
        self.memory: dict[Any, Turn] = {}
        self.reused: set[Spot] = set()
        self.fresh: set[Spot] = set()
        self._way, self._of, self._how, self._role, self._silent = way, session, how, role, silent
        self._marks: dict[str, Spot] = {}

    async def _speak(self, role: str, number: int, heard: dict[str, Any], key: Any) -> Turn | None:
        changed = role == self._role
        if changed and self._how == REMOVE or role in self._silent:
            return None
        if changed and self._how == REPLACE:
            return Turn(role, number, "")
        self.fields[role].add(frozenset(heard))
        spot = (role, number)
        self.places.append(spot)
        for value in heard.values():
            self.hears[spot] |= self._heard(value)
        if self._of is not None and key in self._of.memory and not (changed and self._how == RESAMPLE):
            turn = self._of.memory[key]
            self.reused.add(spot)
        else:
            mark = f"<{role} {number} {id(self)}>"
            turn = Turn(role, number, self._way.get(role, mark))
            self._marks[turn.text or mark] = spot  # a sample, too: who is given its text has heard it
            self.fresh.add(spot)
        self.memory[key] = turn
        return turn

    def _heard(self, value: Any) -> set[Spot]:
        if isinstance(value, list):
            return set().union(*map(self._heard, value))
        if isinstance(value, Quote):
            value = value.turn
        if isinstance(value, Turn):
            return {(value.role, value.number)}
        return {spot for mark, spot in self._marks.items() if mark in str(value)}

    def _identity(self, heard: dict[str, Any]) -> tuple:
        def of(value: Any) -> Any:
            if isinstance(value, list):
                return tuple(map(of, value))
            if isinstance(value, Quote):
                return (value.prefix, id(value.turn))
            return id(value) if isinstance(value, Turn) else str(value)

        return tuple(sorted((name, of(value)) for name, value in heard.items()))


class _StandInJudge:
    truth = "<truth>"

    async def verify(self, text: str) -> Any:
        return PlainVerdict(f"<answer of {text}>", 0.0, True)

    def label(self, answer: str) -> str:
        return answer

    async def same(self, a: str, b: str) -> bool:
        return a == b


class _StandIn(str):
    """A marked text in place of a column, whatever it holds: an entry of it is a marked text, too."""

    def __getitem__(self, key: Any) -> _StandIn:
        return _StandIn(f"{self}[{key}]")

    def __iter__(self) -> Iterator[_StandIn]:
        return iter([self[0]])


class _StandInRow(dict):
    """A marked text for every column that the team declares."""

    def __init__(self, team: Team) -> None:
        super().__init__({name: _StandIn(f"<column {name}>") for name in team.columns})
        self._team = team

    def __missing__(self, name: str) -> Any:
        raise TeamError(
            f"the program reads column {name!r}, which {type(self._team).__name__} does not declare: add it to columns, so that every "
            "row can be checked for it before training"
        )


async def _no_decode(role: str, messages: Messages, label: Any) -> Decoded:
    raise AssertionError("a rehearsal decodes nothing")


def _scene(chance: int) -> Scene:
    return Scene("<question>", _no_decode, lambda role, fields: [], _StandInJudge(), seed=chance)


def _check_attributes(team: Team) -> None:
    """Raise TeamError for class attributes of another kind than `Team` says."""
    name = type(team).__name__
    try:
        found = {
            attribute: getattr(team, attribute) for attribute in ("roles", "columns", "aliases", "samples", "max_turns")
        }
    except Exception as error:
        raise TeamError(f"an attribute of {name} cannot be read ({type(error).__name__}: {error})") from None
    for attribute in ("roles", "columns"):
        if not _texts(found[attribute]):
            raise TeamError(
                f'{name}.{attribute} is {found[attribute]!r}: it must be a tuple of names, such as ("one", "two")'
            )
    for attribute, fits in (("aliases", lambda value: isinstance(value, str)), ("samples", _texts)):
        entries = found[attribute]
        if not isinstance(entries, Mapping) or not all(isinstance(k, str) and fits(v) for k, v in entries.items()):
            kind = "a text" if attribute == "aliases" else "a list of texts"
            raise TeamError(f"{name}.{attribute} is {entries!r}: it must map names to {kind} each")
    if not isinstance(found["max_turns"], int) or found["max_turns"] < 1:
        raise TeamError(f"{name}.max_turns is {found['max_turns']!r}: set a whole number of turns, at least 1")
    called = list(found["aliases"].values())
    if bad := [word for word in called if called.count(word) > 1 or word in TAKEN or word in found["roles"]]:
        raise TeamError(
            f"{name}.aliases calls a replay {bad[0]!r}, which is the name of a role, of another replay or of a metric "
            f"({', '.join(TAKEN)}): it names a column of the log; choose another"
        )


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
