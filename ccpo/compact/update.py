"""The policy gradient of one step, as verl's trainer computes it with one optimizer step a batch (`ccpo.verl_plugin.update`):

    loss = - sum over rows and their response tokens of A p(token) / p_old(token) / number of all response tokens

The ratio to the old policy is 1 by construction, so nothing is clipped and the gradient is that of A log p(token). Sessions of a prompt share
what they are asked: every distinct prompt is encoded once, its keys and values are used by all its responses, and gradients flow back through
them. Rows without advantage count in the mean and are not encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from ccpo.compact.policy import Policy


@dataclass(frozen=True)
class TrainedTurn:
    """One turn: token ids that were read and said, and its advantage."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    advantage: float


def update(policy: Policy, turns: Sequence[TrainedTurn]) -> dict[str, float]:
    """One step of the optimizer. Returns ``loss``, ``grad_norm`` and ``skipped``: 1 where the gradient was not finite and no step was made."""
    policy.optimizer.zero_grad(set_to_none=False)
    loss = policy_loss(policy.model, turns, policy.temperature)
    if loss.requires_grad:
        loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), policy.grad_clip)
    finite = bool(torch.isfinite(norm))
    if finite:
        policy.optimizer.step()
    return {"loss": loss.item(), "grad_norm": norm.item(), "skipped": float(not finite)}


def policy_loss(
    model: PreTrainedModel, turns: Sequence[TrainedTurn], temperature: float = 1.0, tokens: int | None = None
) -> torch.Tensor:
    """The loss at the top of this module; a constant 0 where no turn has an advantage.

    Args:
        model: causal, with full attention in every layer.
        turns: all of a step's.
        temperature: logits are divided by it, as they were when the turns were sampled.
        tokens: number of all response tokens, where ``turns`` are a part of the step's; None: they are all.
    """
    tokens = sum(len(turn.response) for turn in turns) if tokens is None else tokens
    turns = [turn for turn in turns if turn.advantage]
    if not turns:
        return torch.zeros(())
    log_probs_BT, mask_BT = log_probs(model, turns, temperature)
    advantage_B = torch.tensor([turn.advantage for turn in turns], dtype=log_probs_BT.dtype)
    ratio_BT = (log_probs_BT - log_probs_BT.detach()).exp()
    return -(ratio_BT * advantage_B[:, None] * mask_BT).sum() / tokens


def log_probs(
    model: PreTrainedModel, turns: Sequence[TrainedTurn], temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """((B, T) log-probabilities of the response tokens, (B, T) 1 where there is one)."""
    numbers: dict[tuple[int, ...], int] = {}
    of_B = torch.tensor([numbers.setdefault(turn.prompt, len(numbers)) for turn in turns])
    prompts_UP, length_U = _padded(list(numbers))
    response_BT, length_B = _padded([turn.response for turn in turns])
    cache = DynamicCache()
    read = model.model(
        input_ids=prompts_UP, past_key_values=cache, use_cache=True
    ).last_hidden_state  # padding is on the right: unseen
    hidden_BTH = read[torch.arange(len(numbers)), length_U - 1][of_B][:, None]
    if (more := response_BT.shape[1] - 1) > 0:
        shared = DynamicCache()
        for number, layer in enumerate(cache.layers):
            shared.update(layer.keys[of_B], layer.values[of_B], number)
        start_B = length_U[of_B]
        seen_BP = torch.arange(prompts_UP.shape[1]) < start_B[:, None]
        causal_TT = torch.ones(more, more, dtype=torch.bool).tril()
        seen = torch.cat(
            [seen_BP[:, None].expand(-1, more, -1), causal_TT.expand(len(turns), -1, -1)], dim=2
        )  # (B, T - 1, P + T - 1)
        mask = torch.zeros(seen.shape, dtype=hidden_BTH.dtype).masked_fill_(~seen, torch.finfo(hidden_BTH.dtype).min)
        said = model.model(
            input_ids=response_BT[:, :-1],
            position_ids=start_B[:, None] + torch.arange(more),
            attention_mask=mask[:, None],
            past_key_values=shared,
            use_cache=True,
        ).last_hidden_state
        hidden_BTH = torch.cat([hidden_BTH, said], dim=1)
    mask_BT = torch.arange(response_BT.shape[1]) < length_B[:, None]
    logits_KV = model.lm_head(hidden_BTH[mask_BT]) / temperature  # of the real tokens alone
    picked_K = logits_KV.log_softmax(-1).gather(-1, response_BT[mask_BT][:, None])[:, 0]
    out_BT = torch.zeros(mask_BT.shape, dtype=picked_K.dtype).masked_scatter(mask_BT, picked_K)
    return out_BT, mask_BT.to(out_BT.dtype)


def _padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """((B, T) ids, filled with 0 on the right; (B,) lengths)."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows]), torch.tensor([len(row) for row in rows])
