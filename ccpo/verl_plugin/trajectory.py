"""One turn as a TransferQueue row that keeps its own role and reward; a session's first row carries the session's record.

verl facts this module rests on (0.9.1, `trainer/ppo/v1/agent_loop_tq.py`):
- before the rows of a session are stored, the last row's reward replaces its siblings'; `as_dict()` runs after that, so the own
  reward is restored there;
- a session's rows take the FIRST row's columns: every row is built by the one constructor below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import torch
from pydantic import PrivateAttr
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput

from ccpo.team.replay import Played, PlayedReplay
from ccpo.team.session import Turn
from ccpo.types import SessionRecord
from ccpo.verl_plugin.update import NOT_ASKED

COLUMN = "ccpo"
"""TransferQueue column with the row's facts: a dict, see `RoleOutput.build`."""


class RoleOutput(AgentLoopOutput):
    """An AgentLoopOutput whose reward and role survive verl's post-processing."""

    _facts: dict = PrivateAttr()

    @classmethod
    def build(
        cls,
        turn: Turn,
        reward: float,
        *,
        prompt_id: tuple[str, int],
        replay: int | None = None,
        session: SessionRecord | None = None,
        kept: str | None = None,
        has_log_probs: bool = False,
        reference: dict[str, Any] | None = None,
    ) -> RoleOutput:
        """Make the row of one turn.

        Args:
            turn: what was said; ``payload`` is (prompt token ids, verl TokenOutput, seconds).
            reward: what the run that it belongs to was worth.
            prompt_id: (data source, row index) of the dataset row: identifies the prompt across runs, unlike verl's uid.
            replay: number of the replay that it was decoded for; None: the session's own.
            session: the session's record, on its first row.
            kept: on the first row of a session that may be kept, its facts as JSON (`ccpo.run.sessions`): text travels whatever is in it.
            has_log_probs: the step's rows have a column of the server's log-probabilities, `NOT_ASKED` where they were not asked for.
            reference: on the first row of a session whose reference answer is scored, `reference.facts`.
        """
        prompt_ids, response, seconds = turn.payload
        out = cls(
            prompt_ids=prompt_ids,
            response_ids=response.token_ids,
            response_mask=[1] * len(response.token_ids),
            response_logprobs=response.log_probs or ([NOT_ASKED] * len(response.token_ids) if has_log_probs else None),
            reward_score=reward,
            num_turns=2,
            metrics=AgentLoopMetrics(generate_sequences=seconds),
            # merged, never replaced: the server's min/max_global_steps must survive
            extra_fields={**response.extra_fields, "reward_extra_info": {"acc": reward}},
        )
        out._facts = {
            "role": turn.role,
            "reward": float(reward),
            "prompt": prompt_id,
            "replay": replay,
            "session": asdict(session) if session is not None else None,
            "kept": kept,
            "reference": reference,
            "seconds": seconds,
            "session_seconds": None,
            "session_tokens": None,
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


def outputs_of(
    played: Played,
    *,
    prompt_id: tuple[str, int],
    truth: str,
    with_replays: Callable[[PlayedReplay], bool],
    kept: str | None = None,
    has_log_probs: bool = False,
    verifying: float = 0.0,
    reference: dict[str, Any] | None = None,
) -> list[RoleOutput]:
    """The rows of a session: its turns, then those decoded for the replays that are wanted (to be trained, or looked at).

    ``kept``, ``reference``: see `RoleOutput.build`. ``verifying``: seconds that the session waited for verdicts.
    """
    record = played.record(prompt_id, 0, truth)  # uid and session number are verl's: they are in the row's key
    rows = [
        RoleOutput.build(
            turn,
            played.value,
            prompt_id=prompt_id,
            session=None if i else record,
            kept=None if i else kept,
            has_log_probs=has_log_probs,
            reference=None if i else reference,
        )
        for i, turn in enumerate(played.turns)
    ]
    rows += [
        RoleOutput.build(turn, replay.value, prompt_id=prompt_id, replay=number, has_log_probs=has_log_probs)
        for number, replay in enumerate(played.replays)
        if with_replays(replay)
        for turn in replay.decoded
    ]
    if rows:
        replayed = [turn for replay in played.replays for turn in replay.decoded]
        replaying = sum(turn.payload[2] for turn in replayed)
        rows[0]._facts["session_seconds"] = {"verify": verifying, "replays": replaying}
        rows[0]._facts["session_tokens"] = {"turns": _tokens(played.turns), "replays": _tokens(replayed)}
    return rows


def _tokens(turns: Iterable[Turn]) -> int:
    """Of what was said."""
    return sum(len(turn.payload[1].token_ids) for turn in turns)
