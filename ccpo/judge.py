"""What the turns of one dataset row's sessions are worth: the verifier, with the row's truth, for programs that run on an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ccpo.verifier import Verdict, label, same_answer, verify


@dataclass(frozen=True)
class RowJudge:
    """A `ccpo.team.session.Judge`. Its work is done in threads, since it may take a while. ``waited``: seconds for each verdict."""

    truth: str
    answer_type: str
    options: tuple[str, ...] = ()
    waited: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> RowJudge:
        """Of a dataset row, as `ccpo.data` says what it has."""
        info = row["extra_info"]
        return cls(row["reward_model"]["ground_truth"], info["answer_type"], tuple(info.get("options") or ()))

    async def verify(self, text: str) -> Verdict:
        start = time.perf_counter()
        try:
            return await asyncio.to_thread(verify, text, self.truth, self.answer_type, self.options)
        finally:
            self.waited.append(time.perf_counter() - start)

    def label(self, answer: str) -> str:
        return label(answer, self.answer_type)

    async def same(self, a: str, b: str) -> bool:
        return await asyncio.to_thread(same_answer, a, b, self.answer_type)
