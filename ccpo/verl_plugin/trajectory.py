"""One role's response as a TransferQueue row that keeps its own role and reward.

verl facts this module rests on (0.9.1, `trainer/ppo/v1/agent_loop_tq.py`):
- before the rows of a session are stored, the last row's reward replaces its siblings'; `as_dict()` runs after that, so the own
  reward is restored there;
- a session's rows take the FIRST row's columns: every row is built by the one constructor below.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import PrivateAttr
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

from ccpo.topology.session import Scored

COLUMN = "ccpo"
"""TransferQueue column with the row's facts: a dict, see `RoleOutput.build`."""


class RoleOutput(AgentLoopOutput):
    """An AgentLoopOutput whose reward and role survive verl's post-processing."""

    _facts: dict = PrivateAttr()

    @classmethod
    def build(cls, role: str, scored: Scored, *, prompt_id: tuple[str, int]) -> RoleOutput:
        """Make the row of one role.

        Args:
            role: the role's name.
            scored: turn and reward; ``turn.payload`` is (prompt token ids, verl TokenOutput, seconds).
            prompt_id: (data source, row index) of the dataset row: identifies the prompt across runs, unlike verl's uid.
        """
        prompt_ids, response, seconds = scored.turn.payload
        out = cls(
            prompt_ids=prompt_ids,
            response_ids=response.token_ids,
            response_mask=[1] * len(response.token_ids),
            response_logprobs=response.log_probs or None,
            reward_score=scored.reward,
            num_turns=2,
            metrics=AgentLoopMetrics(generate_sequences=seconds),
            # merged, never replaced: the server's min/max_global_steps must survive
            extra_fields={**response.extra_fields, "reward_extra_info": {"acc": scored.reward}},
        )
        out._facts = {
            "role": role,
            "reward": float(scored.reward),
            "prompt": prompt_id,
            "parsed": scored.parsed,
            "truncated": scored.turn.truncated,
            "leaked": scored.leaked,
            "cut": scored.cut,
            "final": scored.final,
            "ballot": scored.ballot,
            "truth": scored.truth,
        }
        return out

    def as_dict(self) -> dict[str, Any]:
        row = super().as_dict()
        scores = torch.zeros_like(row["response_mask"], dtype=torch.float32)
        scores[-1] = self._facts["reward"]
        row["rm_scores"] = scores
        row["extra_fields"]["reward_extra_info"] = {"acc": self._facts["reward"]}
        row[COLUMN] = self._facts
        return row
