"""A `BatchGenerator` on an event loop: who serves it awaits a request, however the request came (rollout.py: verl's actor; serve.py: HTTP).

Decoding runs inside the event loop, one step at a time, so a request that arrives during a step joins the next one, and no state needs
a lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

from .generation import BatchGenerator, Request, SamplingParams

QUIET_S = 0.01  # a burst of requests is over when this long none came
PATIENCE_S = 0.3  # a running batch waits no longer than this for a burst to end


def eos_token_ids(tokenizer: Any, generation_config: Any) -> set[int]:
    """Token ids that end a response: the tokenizer's, and those of the model's generation configuration (None: it has none)."""
    found = {getattr(tokenizer, "eos_token_id", None)}
    generation = getattr(generation_config, "eos_token_id", None)
    found.update(generation if isinstance(generation, list) else [generation])
    return found - {None}


class Decoding:
    """Requests in, finished requests out."""

    def __init__(self, generator: BatchGenerator) -> None:
        self.generator = generator
        self._arrived = 0
        self._futures: dict[int, asyncio.Future] = {}
        self._running: asyncio.Task | None = None

    async def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Request:
        """Continue one prompt. Raises what `BatchGenerator.add` does, or whatever a decode step raised."""
        request = self.generator.add(prompt_ids, params)
        self._arrived += 1
        future = asyncio.get_running_loop().create_future()
        self._futures[id(request)] = future
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._decode())
        await future
        return request

    def abort(self) -> int:
        """End running requests with what they have (finish_reason `abort`); how many there were."""
        aborted = self.generator.abort()
        self._resolve(aborted)
        return len(aborted)

    async def _decode(self) -> None:
        try:
            while self.generator.busy:
                await self._gather()
                self._resolve(self.generator.step())
        except Exception as error:  # the callers must hear of it, or they would wait for ever
            self.generator.abort()
            while self._futures:
                future = self._futures.popitem()[1]
                if not future.done():
                    future.set_exception(error)

    async def _gather(self) -> None:
        """Let a burst of requests in before the next step: with a small model a step costs almost the same for one row
        as for a hundred, and it takes time from the processes that send the requests."""
        await asyncio.sleep(0)
        patience = time.monotonic() + PATIENCE_S
        while self._arrived and time.monotonic() < patience:
            self._arrived = 0
            await asyncio.sleep(QUIET_S)

    def _resolve(self, finished: Iterable[Request]) -> None:
        for request in finished:
            future = self._futures.pop(id(request))
            if not future.done():  # the caller may have gone away
                future.set_result(None)
