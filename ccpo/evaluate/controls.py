"""What a reader asks of any team: is one agent as good, with the same tokens?

single            one agent answers the question alone: the task's last speaker, with the model that speaks for it, asked by the template
                  of that role that has the question alone, else by `PLAIN`. It may write as much as all of the team's turns together.
self_consistency  the same agent answers m times, and the plurality of its answers is the answer (ties: `ccpo.plurality`, expected).
                  m is how many of its answers the team's completion tokens pay for, on average over the set, and at least 1. It is no
                  whole number: with 2.5, votes have 2 and 3 answers in turn (`groups`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any

from ccpo.config import CcpoConfig
from ccpo.evaluate.sessions import Record, Speaker, Stage
from ccpo.prompts import Messages, render, with_persona
from ccpo.team.plan import plan
from ccpo.team.session import Outcome, Session, Team

NONE, SINGLE, ALL = "none", "single", "all"
CONTROLS = (NONE, SINGLE, ALL)
QUESTION = "question"
PLAIN = "{question}\n\nSolve the problem step by step. Put your final answer within \\boxed{{}}."


class Single(Team):
    """One agent, alone."""

    roles = (SINGLE,)

    async def play(self, s: Session) -> Outcome:
        return s.answer(await s.say(SINGLE, question=s.question))


def last_speaker(config: CcpoConfig) -> str:
    """The role that gives the team's answer; of a plurality the first."""
    return config.plan.answers[0]


def single_prompt(config: CcpoConfig) -> tuple[tuple[str, str], ...]:
    """The template of the agent that is alone."""
    role = last_speaker(config)
    return config.prompt_sets[role].of(role).get(frozenset({QUESTION})) or (("user", PLAIN),)


def single_limit(config: CcpoConfig, sampling: Mapping[str, Mapping[str, Any]]) -> int:
    """Tokens that all turns of a session may have together. ``sampling``: role -> as in `Client.ask`."""
    return sum(times * sampling[role]["max_tokens"] for role, times in config.plan.most.items())


def single_stage(config: CcpoConfig, speaker: Speaker, seed: int, seeded: bool) -> Stage:
    """Where the agent that is alone is asked."""
    team, template = Single(), single_prompt(config)
    persona = config.role(last_speaker(config)).persona

    def rendered(role: str, fields: Mapping[str, str]) -> Messages:
        return with_persona(render(template, **fields), persona)

    return Stage(team, plan(team), rendered, {SINGLE: speaker}, seed, seeded, config.own_reward)


def completion_tokens(record: Record) -> int | None:
    """What a session's own turns have, without its replays; None where the server counts none."""
    counts = [turn["completion_tokens"] for turn in record["turns"]]
    return None if None in counts else sum(counts)


def affordable(sessions: Iterable[Record], samples: Iterable[Record]) -> Fraction | None:
    """m: how many answers of one agent cost what a session of the team does, on average. None where tokens are not known."""
    team, alone = ([completion_tokens(record) for record in records] for records in (sessions, samples))
    if not team or not alone or None in team or None in alone:
        return None
    if not sum(alone):
        return Fraction(1)
    return max(Fraction(1), Fraction(sum(team) * len(alone), len(team) * sum(alone)))


def groups(samples: Fraction, votes: int) -> list[range]:
    """The numbers of the answers in each of so many votes, which have ``samples`` answers on average and share none."""
    ends = [int(samples * vote) for vote in range(votes + 1)]
    return [range(start, end) for start, end in pairwise(ends)]
