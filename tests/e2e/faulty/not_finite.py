"""As ccpo.verl_cpu.workers, with a loss that is no number."""

import math

from verl.trainer.ppo import core_algos

from ccpo.verl_cpu import workers  # noqa: F401

vanilla = core_algos.POLICY_LOSS_REGISTRY["vanilla"]


def not_finite(*args, **kwargs):
    loss, *rest = vanilla(*args, **kwargs)
    return loss * math.nan, *rest


core_algos.POLICY_LOSS_REGISTRY["vanilla"] = not_finite
