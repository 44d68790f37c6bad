"""`algorithm.adv_estimator=ccpo`, registered in verl's core algorithms.

verl hands an estimator rewards, mask, config and uids, but no roles, sessions or state. The trainer lays those out with
`step_context` around verl's own advantage computation; the estimator then puts the pure code's numbers on the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType

import torch
from verl.trainer.ppo.core_algos import register_adv_est

TRAINER_MODE = "ccpo_sync"


@dataclass(frozen=True)
class StepContext:
    """keys_B: verl's row keys in batch order, padding included. advantage_of: key -> advantage; padding has none. answer_of: key -> (number of a
    response token, the advantage from there on), of rows that have two."""

    keys_B: list[str]
    advantage_of: dict[str, float]
    answer_of: Mapping[str, tuple[int, float]]


_STEP: ContextVar[StepContext | None] = ContextVar("ccpo_step", default=None)


@contextmanager
def step_context(
    keys_B: list[str], advantage_of: dict[str, float], answer_of: Mapping[str, tuple[int, float]] = MappingProxyType({})
) -> Iterator[None]:
    token = _STEP.set(StepContext(list(keys_B), advantage_of, answer_of))
    try:
        yield
    finally:
        _STEP.reset(token)


@register_adv_est("ccpo")
def ccpo_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, config=None, index=None, **_
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put each row's advantage on its response tokens.

    Args:
        token_level_rewards: (B, T) verl's rewards; not read: the credit table holds every role's own reward.
        response_mask: (B, T), 1 on response tokens, all 0 on padding rows.
        config: verl's algorithm section, unused.
        index: (B,) uids, unused: rows go by key.

    Returns:
        advantages and returns, both (B, T).

    Raises:
        RuntimeError: no step context, which means that another trainer than ours runs.
    """
    step = _STEP.get()
    if step is None:
        raise RuntimeError(
            "algorithm.adv_estimator=ccpo needs the rows' roles and the reward history, which only ccpo's trainer provides, and "
            f"another trainer is running: set trainer.v1.trainer_mode={TRAINER_MODE} and start recipe/main_ccpo.py, or use "
            "algorithm.adv_estimator=grpo"
        )
    if len(step.keys_B) != len(response_mask):
        raise RuntimeError(
            f"the batch has {len(response_mask)} rows, the credit table was laid out for {len(step.keys_B)}"
        )
    row = torch.tensor([step.advantage_of.get(key, 0.0) for key in step.keys_B], dtype=token_level_rewards.dtype)
    advantages = row.to(response_mask.device).unsqueeze(-1) * response_mask
    for place, key in enumerate(step.keys_B):
        if key in step.answer_of:
            first, value = step.answer_of[key]
            mask = response_mask[place].bool()
            advantages[place, mask & (mask.cumsum(-1) > first)] = value
    return advantages, advantages
