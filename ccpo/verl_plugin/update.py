"""Whether an update needs the old policy's log-probabilities from a pass of their own, and what the pass was good for besides.

With one optimizer step per batch the policy that is updated is the one whose log-probabilities would be the old ones: the ratio is 1 by
construction. `own_ratio` says whether that holds; then the trainer makes no old_log_prob pass, and verl's own loss, whichever is
configured, is handed ``old = log_prob.detach()`` (`worker.loss`): the same number, and the same gradient, that the pass would have given it.

The pass also showed whether the rollout server samples from the weights that are trained. Without it the update's own
log-probabilities are compared with the server's, and `RolloutGap` decides before the optimizer steps. One session of a prompt is asked
for the server's, the others' tokens are marked `NOT_ASKED`.

Then, too, a row whose advantages are all 0 adds nothing to the gradient: where rewards are rare, more than half of the rows. `needed`
says which rows the update gets, and `Whole` what it divides by and what it reports of those that it does not get.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

MAX_ROLLOUT_KL = 2.0
"""Nats per token between the rollout server and the actor. Rounding gives about .002; random weights give 9."""
ODD_ROLLOUT_KL = 0.1
"""Worth a line in the log. A server with the weights of another job, some steps away, was .4 from them."""

NOT_ASKED = 1.0
"""In place of a log-probability, which is never above 0."""


class WrongWeights(RuntimeError):
    """The rollout server samples from other weights than those that are trained. ``kl``: nats per token."""

    def __init__(self, kl: float) -> None:
        super().__init__(kl)
        self.kl = kl

    def __str__(self) -> str:
        return f"the rollout server's distribution is {self.kl:.1f} nats per token away from the actor's"


def own_ratio(config: DictConfig) -> bool:
    """Whether the ratio to the old policy is 1 by construction, and nothing else reads the old log-probabilities.

    Args:
        config: the whole configuration, ``ppo_mini_batch_size`` as the user set it, in prompts.
    """
    actor, correction = config.actor_rollout_ref.actor, config.algorithm.get("rollout_correction") or {}
    return (
        actor.ppo_mini_batch_size >= config.data.train_batch_size
        and actor.ppo_epochs == 1
        and not config.algorithm.use_kl_in_reward
        and not any(correction.get(name) for name in ("bypass_mode", "rollout_is", "rollout_rs"))
        and actor.policy_loss.loss_mode != "bypass_mode"
        and not (config.get("distillation") or {}).get("enabled", False)
    )


def silent_rows_add_nothing(actor: DictConfig) -> bool:
    """Whether, with an own ratio, a row without advantage has no gradient: the losses that we ship are -A x ratio, clipped or not, and nothing is
    added to them. (seq-mean-token-sum-norm divides by the longest answer that is there.) Micro-batches of a fixed size want a number of rows that
    they divide. ``actor``: actor_rollout_ref.actor."""
    return (
        actor.use_dynamic_bsz
        and actor.policy_loss.loss_mode in ("vanilla", "gspo")
        and actor.loss_agg_mode in ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean")
        and not actor.entropy_coeff
        and not actor.use_kl_loss
    )


def needed(keys: Sequence[str], silent: Collection[str], looked_at: Collection[str], unit: int) -> list[str]:
    """The rows that an update needs, in their order.

    Args:
        keys: of all rows of the update; their number is a multiple of ``unit``.
        silent: those without advantage, padding included.
        looked_at: those that are compared with the rollout server, silent or not: they stand for all silent rows in the metrics.
        unit: what the number of rows has to be a multiple of; silent rows fill it up.
    """
    wanted = [key in looked_at or key not in silent for key in keys]
    missing = -sum(wanted) % unit if any(wanted) else unit
    for place, found in enumerate(wanted):
        if missing and not found:
            wanted[place] = True
            missing -= 1
    return [key for key, found in zip(keys, wanted, strict=True) if found]


class Whole(NamedTuple):
    """What an update would have had without `needed`: rows and response tokens, by which losses are divided, and for how many a silent row stands
    that it got."""

    rows: int
    tokens: int
    per_silent_row: float

    @classmethod
    def of(
        cls, rows: int, tokens: Mapping[str, int], silent: Collection[str], kept: Sequence[str], loss_agg_mode: str
    ) -> Whole:
        """
        Args:
            rows: of the mini-batch, padding included.
            tokens: key -> response tokens, of real rows.
            silent, kept: keys, padding included.
            loss_agg_mode: verl's; a row counts as its tokens do, but once where a row's mean is taken.
        """
        weights = dict.fromkeys(tokens, 1) if loss_agg_mode == "seq-mean-token-mean" else tokens
        every, got = (sum(weights.get(key, 0) for key in keys if key in silent) for keys in (weights, kept))
        return cls(rows, sum(tokens.values()), every / got if got else 1.0)

    def entropy(self, entropy: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
        """So that the loss's mean of it is that of all rows: an estimate, from the silent rows that are here.

        Args:
            entropy: (B, *) jagged, nats at each token of prompt and response. advantages: (B, *) jagged, of the response.
        """
        heard = advantages.to_padded_tensor(0.0).ne(0).any(-1)
        times = torch.where(heard, 1.0, self.per_silent_row).repeat_interleave(entropy.offsets().diff())
        return torch.nested.nested_tensor_from_jagged(entropy.values() * times, entropy.offsets())


def odd_gaps(metrics: Mapping[str, float], step: int) -> Iterator[str]:
    """A line for each policy whose rows came from rather another distribution than its own."""
    for name, kl in metrics.items():
        # Below 0 no distance can be: then the server's log-probabilities are not those that it samples by.
        if name.endswith("rollout_corr/kl") and abs(kl) > ODD_ROLLOUT_KL:
            yield (
                f"step {step}: {name} is {kl:.2f} nats per token, where rounding gives about .002: the rollout server may sample from other weights, "
                "or with settings that the actor does not know (top_p, top_k, a quantized model)"
            )


class RolloutGap:
    """Mean over a mini-batch's response tokens of log p(rollout server) - log p(actor): an estimate of KL(server, actor)."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.total = self.tokens = 0.0
        self.mean: float | None = None

    def add(self, rollout: torch.Tensor, own: torch.Tensor, mask: torch.Tensor) -> None:
        """One micro-batch; each a tensor of all its response tokens."""
        counts = mask.bool() & (rollout != NOT_ASKED)
        gap = torch.where(counts, rollout.double() - own.double(), 0.0)
        self.total, self.tokens = self.total + gap.sum(), self.tokens + counts.sum()

    def decide(self, group: Any = None) -> None:
        """Sum over the ranks; raise WrongWeights if the distance is too large or not a number."""
        if isinstance(self.tokens, float):  # nothing to compare with
            return
        both = torch.stack([self.total, self.tokens])
        if torch.distributed.is_initialized() and torch.distributed.get_world_size(group) > 1:
            torch.distributed.all_reduce(both, group=group)
        total, tokens = both.tolist()
        self.mean = total / tokens if tokens else 0.0
        if not self.mean <= MAX_ROLLOUT_KL:
            raise WrongWeights(self.mean)
