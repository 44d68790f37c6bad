"""verl's vLLM server, without the work per token that nobody reads.

verl asks the engine for every token as it comes: a text, a list of log-probabilities and an answer object per request and decode step, of
which it keeps the last. For a small model that is about half of a decode step, since it is Python (docs/scaling.md). Here a request is
answered once, when it is done, and its text is not made: the agent loop decodes the tokens itself. A request with stop strings
keeps its text, which vLLM looks for them in.
"""

from __future__ import annotations

from typing import Any

import ray
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from vllm.sampling_params import RequestOutputKind

from ccpo.verl_gpu.host import Waiting


class Server(vLLMHttpServer):
    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **kwargs: Any
    ) -> TokenOutput:
        """As verl's; see the top of this module."""
        lean = {"output_kind": RequestOutputKind.FINAL_ONLY, "detokenize": bool(sampling_params.get("stop"))}
        return await super().generate(prompt_ids, {**lean, **sampling_params}, request_id, **kwargs)


class Replica(vLLMReplica):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = Waiting(ray.remote(Server))
