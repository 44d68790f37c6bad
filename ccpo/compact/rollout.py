"""Sessions of a team, all of a step's at once: what they ask is decoded together as soon as none of them can go on without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ccpo.compact.policy import Policy
from ccpo.compact.settings import Sampling, Settings
from ccpo.credit.rules import RULES
from ccpo.judge import RowJudge, judge_of
from ccpo.prompts import Messages, with_persona
from ccpo.reference import Behind, answer_ids, behind
from ccpo.seeds import request_seed
from ccpo.team.replay import Played, play
from ccpo.team.session import Decoded, PromptBudget, Scene
from ccpo.types import SessionRecord
from ccpo.verifier import Verdict, same_answer, verify
from ccpo.verl_cpu.generation import Request, SamplingParams

QUIET = 16
"""Turns of the event loop without a new request after which all sessions wait for an answer. Fewer would make smaller batches, no other samples."""

_verdict = lru_cache(maxsize=1 << 16)(verify)
_same = lru_cache(maxsize=1 << 16)(same_answer)


class _Judge(RowJudge):
    """Remembers what it has judged, as the same few texts are said again and again; no thread is worth its while."""

    async def verify(self, text: str) -> Verdict:
        return _verdict(text, self.truth, self.answer_type, self.options)

    async def same(self, a: str, b: str) -> bool:
        return _same(a, b, self.answer_type)


@dataclass(frozen=True)
class PlayedRow:
    """A session of a dataset row. ``prompt``: (data source, row index). A turn's payload is (prompt token ids, response token ids).
    ``reference``: tokens of the row's reference answer, where credit asks how likely it is; ``behind``: where the last speaker's answer begins, where
    it asks for that."""

    prompt: tuple[str, int]
    number: int
    played: Played
    row: Mapping[str, Any]
    reference: tuple[int, ...] | None = None
    behind: Behind | None = None

    @property
    def record(self) -> SessionRecord:
        return self.played.record(self.prompt, self.number, self.row["reward_model"]["ground_truth"])


class _Desk:
    """Takes requests and answers them when nobody has another."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Policy, Request, asyncio.Future]] = []

    async def ask(self, policy: Policy, prompt: Sequence[int], params: SamplingParams) -> Request:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((policy, policy.sampler.add(prompt, params), future))
        return await future

    async def serve(self, work: asyncio.Future) -> None:
        """Until ``work`` is done."""
        while not work.done():
            quiet, seen = 0, len(self._waiting)
            while quiet < QUIET and not work.done():
                await asyncio.sleep(0)
                quiet = quiet + 1 if len(self._waiting) == seen else 0
                seen = len(self._waiting)
            asked, self._waiting = self._waiting, []
            if not asked:  # they wait for a reward of the user's own
                await asyncio.sleep(0.001)
            for policy in dict.fromkeys(policy for policy, _, _ in asked):
                while policy.sampler.busy:
                    policy.sampler.step()
            for _, request, future in asked:
                if not future.done():  # its session has failed
                    future.set_result(request)


def play_rows(
    rows: Sequence[Mapping[str, Any]],
    policies: Mapping[str, Policy],
    settings: Settings,
    step: int,
    validating: bool,
) -> list[PlayedRow]:
    """All sessions of these dataset rows, in canonical order: by prompt, then by number.

    Args:
        rows: of the dataset.
        policies: role -> who plays it.
        settings: of the run.
        step: training steps so far are ``step`` - 1; 0 before the first.
        validating: sampled, replayed and judged as validation is.

    Raises:
        Exception: the first of a session's; the others are given up.
    """
    rows = sorted(rows, key=_prompt)
    return asyncio.run(_play(rows, policies, settings, step, validating))


def _prompt(row: Mapping[str, Any]) -> tuple[str, int]:
    return str(row["data_source"]), int(row["extra_info"]["index"])


async def _play(
    rows: Sequence[Mapping[str, Any]], policies: Mapping[str, Policy], settings: Settings, step: int, validating: bool
) -> list[PlayedRow]:
    desk, sampling = _Desk(), settings.validation if validating else settings.training
    sessions = [
        _session(row, number, policies, settings, sampling, step, validating, desk)
        for row in rows
        for number in range(sampling.n)
    ]
    timeout = settings.ccpo.session_timeout
    work = asyncio.ensure_future(asyncio.wait_for(asyncio.gather(*sessions), timeout))
    await desk.serve(work)
    try:
        return await work
    except asyncio.TimeoutError:
        raise RuntimeError(
            f"the sessions of step {step} did not end within ccpo.session_timeout={timeout} s: the team's program waits for something that "
            "never comes, or set it higher"
        ) from None


async def _session(
    row: Mapping[str, Any],
    number: int,
    policies: Mapping[str, Policy],
    settings: Settings,
    sampling: Sampling,
    step: int,
    validating: bool,
    desk: _Desk,
) -> PlayedRow:
    config, prompt, split = settings.ccpo, _prompt(row), row["extra_info"]["split"]

    def longest(role: str) -> int:
        return min(config.role(role).max_tokens or settings.response_tokens, settings.response_tokens)

    def room(role: str, read: Sequence[int]) -> int:
        return min(longest(role), policies[role].room - len(read))

    async def decode(role: str, messages: Messages, name: Hashable) -> Decoded:
        policy, own = policies[role], config.role(role)
        ids = policy.prompt(messages)
        seed = None if config.seed is None else request_seed(config.seed, prompt, number, name, step, split)
        params = SamplingParams(
            max_tokens=room(role, ids),
            temperature=sampling.temperature if own.temperature is None or validating else own.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            stop=own.stop,
            seed=seed,
        )
        done = await desk.ask(policy, ids, params)
        text = policy.text(done.token_ids)
        ended = done.token_ids[-1] in policy.special or any(stop in text for stop in own.stop)
        return Decoded(text, len(done.token_ids) >= longest(role) and not ended, (ids, done.token_ids))

    def render(role: str, fields: Mapping[str, str]) -> Messages:
        return with_persona(config.prompt_sets[role].messages(role, fields), config.role(role).persona)

    def budget(role: str) -> PromptBudget:
        policy = policies[role]
        return PromptBudget(lambda messages: len(policy.prompt(messages)), policy.cut, settings.prompt_tokens)

    scene = Scene(
        question=row["prompt"][-1]["content"],
        decode=decode,
        render=render,
        judge=judge_of(row, config.own_reward) if config.own_reward else _Judge.of(row),
        budget=budget,
        row=row,
        number=number,
        seed=(config.seed, prompt, number, step),
        end_when_truncated=RULES[config.credit.rule].end_when_truncated and not validating,
    )
    replays = config.replays(number, sampling.n, validating)
    scored = config.reads_reference and not validating
    played = await play(config.members, scene, config.plan, replays, cuts=scored)
    if not scored:
        return PlayedRow(prompt, number, played, row)
    role, text = config.plan.order[-1], row["extra_info"]["reference"]
    last, border = policies[role], None
    if config.reads_chain:
        read, said = played.turns[-1].payload
        border = behind(last.tokenizer, text, said, room(role, read))
    return PlayedRow(prompt, number, played, row, tuple(answer_ids(last.tokenizer, text)), border)
