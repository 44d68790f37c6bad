"""What every rule is given, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ccpo.credit.history import HistoryState


@dataclass(frozen=True)
class CreditConfig:
    """Which credit every turn gets. A setting that the rule does not read is refused (`ccpo.credit.rules`).

    rule:               a name in `ccpo.credit.rules.RULES`
    normalize:          one of `ccpo.credit.normalize.NORMALIZATIONS`; None: the rule's own
    coefficient:        beta of a counterfactual baseline in (0, 1]; None: fitted from the history
    siblings:           fit the prompt's other sessions as a second baseline beside the removal (rules counterfactual, removal)
    replays_per_prompt: how many replays of a prompt are decoded where one serves all its sessions, 1..n; None: what the rule needs
    resamples:          how often a role speaks again in every session (rule resampling)
    shaping:            "none", or "tanh": the removed role's normalized credit becomes tanh(alpha A), which bounds it and
                        changes the objective
    alpha:              slope of the tanh
    train_replays:      also train the turns decoded for the shared removal, weight 1 - g; the same roles' own turns get g
    eta:                slope of the gate g = sigmoid(eta mu_delta / sigma_delta)
    wrong_price:        what a wrong ballot costs, in units of a right one (rule own_correctness); an abstention is worth 0
    negative_slope:     factor of what a turn takes away, in [0, 1] (rule likelihood); below 1 it is biased on purpose
    reference_after:    where the reference answer is scored: after the last speaker's "prompt", or after its own "chain" (rule likelihood)
    last_gradient:      "sampled", or "exact": train the last speaker on the reference answer instead of its own (rule likelihood)
    """

    rule: str = "counterfactual"
    normalize: str | None = None
    coefficient: float | None = None
    replays_per_prompt: int | None = None
    resamples: int = 1
    shaping: str = "none"
    alpha: float = 1.0
    train_replays: bool = False
    eta: float = 1.0
    siblings: bool = False
    wrong_price: float = 0.0
    negative_slope: float = 1.0
    last_gradient: str = "sampled"
    reference_after: str = "prompt"


@dataclass(frozen=True)
class HistoryConfig:
    """decay: EMA decay in [0, 1). floor: smallest standard deviation to divide by, in units of R."""

    decay: float = 0.9
    floor: float = 0.05


@dataclass(frozen=True)
class Credit:
    """What a rule returns.

    credit_SV:   (S, V) contribution in units of R; 0 where the role said nothing.
    residual_SV: (S, V) what the history normalizes instead: the credit plus a constant per role, chosen so that its mean does not jump
                 when a fitted coefficient moves, or minus control variates of mean 0.
    uncentred:   roles whose residual is divided by the history's scale alone: a mean is a baseline for what was sampled, and these are trained
                 on something else.
    answer_S:    (S,) what the history normalizes for the last speaker's tokens behind its chain, nan where its whole turn has one credit; None:
                 nowhere has it two.
    state:       the history, with what the rule itself remembers.
    metrics:     scalars, without prefix.
    """

    credit_SV: np.ndarray
    residual_SV: np.ndarray
    state: HistoryState
    metrics: Mapping[str, float] = field(default_factory=dict)
    uncentred: tuple[str, ...] = ()
    answer_S: np.ndarray | None = None

    @classmethod
    def of(cls, credit_SV: np.ndarray, state: HistoryState) -> Credit:
        """A rule without a fitted coefficient and without a memory."""
        return cls(credit_SV, credit_SV, state)


def variance_ratio(of: str, residual_K: np.ndarray, value_K: np.ndarray) -> dict[str, float]:
    """``<of>/variance_ratio`` = Var(R - baseline) / Var(R): below 1 the baseline takes noise away, above 1 it adds some (docs/method.md).

    Empty where R hardly varies: nothing is to be taken away, and the ratio would be rounding over rounding.
    """
    variance = float(value_K.var()) if len(value_K) else 0.0
    return {f"{of}/variance_ratio": float(residual_K.var()) / variance} if variance > 1e-12 else {}
