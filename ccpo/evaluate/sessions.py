"""A team's program played over endpoints: one session with its replays, as a line of JSON.

A line is `ccpo.run.sessions.session_facts`, whose turns have three more fields: prompt_tokens, completion_tokens (None where the server
counts none) and finish, the server's word for why the answer ended.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any

from ccpo.evaluate.client import Client, Usage
from ccpo.evaluate.data import Question, Row, question_of
from ccpo.judge import judge_of
from ccpo.prompts import Messages
from ccpo.reward import OwnReward
from ccpo.run.sessions import session_facts
from ccpo.seeds import request_seed
from ccpo.team.plan import Plan
from ccpo.team.replay import Intervention, play
from ccpo.team.session import Decoded, Scene, Team, Turn
from ccpo.types import SHUFFLE

Record = dict[str, Any]
Key = tuple[Question, int]
"""A session: (question, its number)."""


@dataclass(frozen=True)
class Speaker:
    """Who speaks for a role. ``sampling``: see `Client.ask`."""

    client: Client
    sampling: Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """Where sessions of one team are played.

    render: (role, fields) -> messages. speakers: role -> who speaks. seed: of the evaluation. seeded: requests get seeds. reward: the
    user's own, None: the verifier judges.
    """

    team: Team
    plan: Plan
    render: Callable[[str, Mapping[str, str]], Messages]
    speakers: Mapping[str, Speaker]
    seed: int
    seeded: bool = True
    reward: OwnReward | None = None


async def played_session(
    stage: Stage, row: Row, number: int, interventions: Sequence[Intervention], known: Record | None = None
) -> Record:
    """Play session ``number`` of a row, and its replays.

    Args:
        known: the line of the same session, whose turns are said again instead of decoded; for replays that are played later.

    Raises:
        RequestFailed, or whatever the program raises: there is no session then.
    """
    source, index = question_of(row)
    said = {(turn["role"], turn["number"]): turn for turn in known["turns"]} if known else {}

    async def decode(role: str, messages: Messages, label: Hashable) -> Decoded:
        spot = label if isinstance(label, tuple) else (label, 0)
        if (turn := said.pop(spot, None)) is not None:
            return Decoded(turn["text"], turn["truncated"])
        speaker = stage.speakers[role]
        seed = request_seed(stage.seed, source, index, number, label) if stage.seeded else None
        return await speaker.client.ask(messages, speaker.sampling, seed)

    scene = Scene(
        question=row["prompt"][-1]["content"],
        decode=decode,
        render=stage.render,
        judge=judge_of(row, stage.reward),
        row=row,
        number=number,
        seed=(stage.seed, source, index, number),
    )
    played = await play(stage.team, scene, stage.plan, interventions)
    record = session_facts(played, stage.team, row, number)
    _count(record["turns"], played.turns)
    for facts, replay in zip(record["replays"], played.replays, strict=True):
        _count(facts["turns"], replay.decoded)
    return record


def _count(facts: Sequence[Record], turns: Sequence[Turn]) -> None:
    for fact, turn in zip(facts, turns, strict=True):
        fact |= asdict(turn.payload if isinstance(turn.payload, Usage) else Usage(None, None))


async def shuffled_session(stage: Stage, row: Row, record: Record, donors: Mapping[str, Record]) -> Record:
    """Replays of a played session in which a role says what it said in a session of another question. ``donors``: role -> that session."""
    do = [
        Intervention(SHUFFLE, role, tuple(turn["text"] for turn in donor["turns"] if turn["role"] == role))
        for role, donor in donors.items()
    ]
    played = await played_session(stage, row, record["session"], do, known=record)
    return {
        "source": record["source"],
        "index": record["index"],
        "session": record["session"],
        "donors": {role: [donor["source"], donor["index"], donor["session"]] for role, donor in donors.items()},
        "replays": played["replays"],
    }


def donors_of(records: Mapping[Key, Record], roles: Sequence[str], seed: int) -> dict[Key, dict[str, Record]]:
    """For each session and each of these roles that spoke in it: a session of another question in which it spoke, by chance, and with the same
    number if there is one.

    Args:
        records: all sessions, by (question, number).

    Returns:
        session -> role -> donor; without a role, or a session, where there is none.
    """
    spoke = {key: {turn["role"] for turn in records[key]["turns"]} for key in sorted(records)}
    places: dict[tuple[str, int | None], list[Key]] = defaultdict(list)
    for key, spoken in spoke.items():
        for role in spoken:
            places[role, key[1]].append(key)
            places[role, None].append(key)
    found: dict[Key, dict[str, Record]] = {}
    for key, spoken in spoke.items():
        rng = random.Random(f"{seed}/{key}/shuffle")
        for role in (role for role in roles if role in spoken):
            for others in (places[role, key[1]], places[role, None]):
                start = rng.randrange(len(others))
                donor = next(
                    (
                        other
                        for other in chain(islice(others, start, None), islice(others, start))
                        if _apart(key, other, records)
                    ),
                    None,
                )
                if donor is not None:
                    found.setdefault(key, {})[role] = records[donor]
                    break
    return found


def _apart(key: Key, other: Key, records: Mapping[Key, Record]) -> bool:
    """Whether two sessions are of different questions; a set may ask one twice, under two numbers."""
    return key[0] != other[0] and records[key]["question"] != records[other]["question"]
