"""What the turns of one dataset row's sessions are worth: by the verifier, or by a reward of the user's own, with the row's truth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ccpo.reward import OwnReward, Reward
from ccpo.verifier import OWN, Verdict, label, same_answer, verify

VERLS = frozenset("uid session_id global_steps agent_name index tools_kwargs interaction_kwargs raw_prompt".split())
"""Columns that verl adds to a row: an own reward sees those of the data alone, the same in training and elsewhere."""
PLAIN = (str, int, float, bool, list, tuple, dict, type(None))


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds.append(time.perf_counter() - start)


@dataclass(frozen=True)
class RowJudge:
    """A `ccpo.team.session.Judge`: the verifier. Its work is done in threads, since it may take a while. ``waited``: seconds for each verdict."""

    truth: str
    answer_type: str
    options: tuple[str, ...] = ()
    waited: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> RowJudge:
        """Of a dataset row, as `ccpo.data` says what it has. Raises ValueError for one that only an own reward can judge."""
        info = row["extra_info"]
        if info["answer_type"] == OWN:
            raise ValueError(
                "extra_info.answer_type is 'own': only a reward of your own can judge the row; set ccpo.reward"
            )
        return cls(row["reward_model"]["ground_truth"], info["answer_type"], tuple(info.get("options") or ()))

    async def verify(self, text: str) -> Verdict:
        with _timed(self.waited):
            return await asyncio.to_thread(verify, text, self.truth, self.answer_type, self.options)

    def label(self, answer: str) -> str:
        return label(answer, self.answer_type)

    async def same(self, a: str, b: str) -> bool:
        return await asyncio.to_thread(same_answer, a, b, self.answer_type)


@dataclass(frozen=True)
class OwnJudge:
    """A `ccpo.team.session.Judge`: a reward of the user's own, see `ccpo.reward`. Raises RewardError where it gives no value.

    row: what the reward is shown. A bare number has no answer and counts as read: ``Verdict(None, value, True)``.
    """

    reward: OwnReward
    truth: str
    row: Mapping[str, Any]
    waited: list[float] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Mapping[str, Any], reward: OwnReward) -> OwnJudge:
        shown = {name: value for name, value in row.items() if name not in VERLS and isinstance(value, PLAIN)}
        if "raw_prompt" in row:
            shown["prompt"] = row["raw_prompt"]
        return cls(reward, row["reward_model"]["ground_truth"], shown)

    async def verify(self, text: str) -> Verdict:
        with _timed(self.waited):
            found = await self.reward.value(text, self.truth, self.row)
            if not isinstance(found, Reward):
                return Verdict(None, found, True)
            if found.answer is not None and found.answer not in self.labels and self.reward.has("label"):
                self.labels[found.answer] = await self.reward.label(found.answer)
            return Verdict(found.answer, found.value, found.answer is not None)

    def label(self, answer: str) -> str:
        return self.labels.get(answer, answer)

    async def same(self, a: str, b: str) -> bool:
        return a == b or (self.reward.has("same") and await self.reward.same(a, b))


def judge_of(row: Mapping[str, Any], reward: OwnReward | None = None) -> RowJudge | OwnJudge:
    """Who judges a dataset row: ``reward``, or without one the verifier. Raises ValueError for a row that the verifier cannot judge."""
    return RowJudge.of(row) if reward is None else OwnJudge.of(row, reward)
