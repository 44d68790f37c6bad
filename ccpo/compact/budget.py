"""What a step decodes, and a run that ends when it has decoded so much.

A generation is one decoded turn, of a session or of a replay; tokens are those of its response. Prompts that are read, forward passes (the
likelihood of a reference answer), updates and validation are no part of it. What is counted is what was decoded, whatever the rule and
the team: a replay that reuses every turn costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ccpo.compact.rollout import PlayedRow

UNITS = {"generations": "ccpo/generations", "tokens": "ccpo/generated_tokens"}
"""Unit of a budget -> metric of a training step."""


@dataclass(frozen=True)
class Budget:
    """``most``: of ``unit`` (a key of UNITS), in all training steps together. A step that would pass it is not made."""

    unit: str
    most: float

    def cost(self, metrics: Mapping[str, float]) -> float:
        return metrics[UNITS[self.unit]]


def costs(played: Sequence[PlayedRow]) -> dict[str, float]:
    """Of one step's sessions: ``ccpo/generations``, ``ccpo/generated_tokens``, of sessions and replays together, and what the replays took
    of each: ``ccpo/replay_generations``, ``ccpo/replay_tokens``."""
    said = [turn for one in played for turn in one.played.turns]
    replayed = [turn for one in played for replay in one.played.replays for turn in replay.decoded]
    tokens, replay_tokens = (sum(len(turn.payload[1]) for turn in turns) for turns in (said, replayed))
    return {
        UNITS["generations"]: float(len(said) + len(replayed)),
        UNITS["tokens"]: float(tokens + replay_tokens),
        "ccpo/replay_generations": float(len(replayed)),
        "ccpo/replay_tokens": float(replay_tokens),
    }
