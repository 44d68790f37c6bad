"""How much of a step's gradient is signal, role by role, from the gradients of single prompts.

    G_p     gradient of role i's part of the loss at prompt p, times the number B of prompts: the mean of G_p is the step's gradient of role i
    signal  mean of <G_p, G_q> over the pairs p != q of n prompts = (|sum G|^2 - sum |G|^2) / (n (n - 1))      estimates |E G|^2
    noise   (sum |G|^2 - |sum G|^2 / n) / (n - 1) / B                                                         estimates E |g - E g|^2
    ratio   signal / noise

with g the step's gradient, before clipping and the optimizer. Both are unbiased where prompts are drawn, sampled and credited independently;
|mean G|^2 would be too large by the noise. So signal may be negative where there is little of it: average signal and noise over steps, seeds
or batches first, then divide; the ratio itself is not unbiased. Credit that reads other prompts of its step (`shrinkage`; a history's
first step, centred by its own mean) ties prompts together: there both are off by their covariance. At the starting weights n counts
the prompts of several batches, and most pairs are of two of them. Source: U-statistic of a squared mean; its use here: our construction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import torch

from ccpo.compact.policy import Policy
from ccpo.compact.update import TrainedTurn, policy_loss

ALL = "all"
"""Beside the roles: the gradient of all of them together, in all policies."""


class Moments:
    """Of vectors that are added one by one. ``count``; ``total``: their sum; ``squares``: sum of their squared norms."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), 0.0

    def add(self, vector: torch.Tensor) -> None:
        vector = vector.double()
        self.count, self.total, self.squares = (
            self.count + 1,
            self.total + vector,
            self.squares + float(vector @ vector),
        )

    @property
    def squared_mean(self) -> float:
        """Unbiased for the squared norm of the mean; needs two vectors."""
        return (float(self.total @ self.total) - self.squares) / (self.count * (self.count - 1))

    @property
    def variance(self) -> float:
        """Unbiased for the expected squared distance of one vector from the mean; needs two vectors."""
        return (self.squares - float(self.total @ self.total) / self.count) / (self.count - 1)


class Signal:
    """Collects prompts of one or more steps with the same weights."""

    def __init__(self) -> None:
        self._moments: dict[str, Moments] = defaultdict(Moments)

    def add(
        self,
        prompts: Sequence[Hashable],
        turns: Sequence[tuple[Hashable, str, TrainedTurn]],
        players: Mapping[str, Policy],
    ) -> None:
        """One step. ``prompts``: all that were asked. ``turns``: (prompt, role, turn) of all that the step trains. ``players``: role -> policy."""
        self._prompts = len(prompts)
        tokens: dict[str, int] = defaultdict(int)
        by_part: dict[tuple[Hashable, str], list[TrainedTurn]] = defaultdict(list)
        for prompt, role, turn in turns:
            tokens[players[role].name] += len(turn.response)
            by_part[prompt, role].append(turn)
        for prompt in prompts:
            whole: dict[str, torch.Tensor] = {}
            for role, policy in players.items():
                gradient = len(prompts) * _gradient(policy, by_part[prompt, role], tokens[policy.name])
                whole[policy.name] = whole.get(policy.name, 0) + gradient
                self._moments[role].add(gradient)
            self._moments[ALL].add(torch.cat(list(whole.values())))

    def metrics(self) -> dict[str, float]:
        """``ccpo/signal/<role>``, ``ccpo/noise/<role>`` of a step, and of ``all`` roles; empty for a single prompt, which has no pairs."""
        out = {}
        for name, moments in self._moments.items():
            if moments.count > 1:
                out[f"ccpo/signal/{name}"] = moments.squared_mean
                out[f"ccpo/noise/{name}"] = moments.variance / self._prompts
        return out


def _gradient(policy: Policy, turns: Sequence[TrainedTurn], tokens: int) -> torch.Tensor:
    """(D,) of the step's loss, as far as these turns make it. ``tokens``: of all the policy's turns in the step."""
    parameters = list(policy.model.parameters())
    loss = policy_loss(policy.model, turns, policy.temperature, tokens)
    if not loss.requires_grad:  # nobody has an advantage
        return torch.zeros(sum(parameter.numel() for parameter in parameters))
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in found])
