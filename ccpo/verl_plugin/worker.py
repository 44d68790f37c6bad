"""verl's worker process: several policies in one, and an update that needs no pass before it (`update.py`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from tensordict import TensorDict
from torch import nn
from torch.distributed.fsdp import FSDPModule
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import response_from_nested

from ccpo.verl_gpu import head
from ccpo.verl_plugin.update import RolloutGap, Whole

WHOLE = "whole"
"""Name of a `Whole` among what is told with a batch."""


def loss(config: Any, gap: RolloutGap, model_output: dict, data: TensorDict, dp_group: Any = None) -> tuple:
    """verl's ppo_loss on rows of which some lack old log-probabilities: theirs are the model's own. Of a batch's rows not all need be here."""
    if "old_log_probs" not in data:
        own = response_from_nested(model_output["log_probs"].detach(), data["response_mask"])
        data["old_log_probs"] = own
        if "rollout_log_probs" in data:
            gap.add(data["rollout_log_probs"].values(), own.values(), data["response_mask"].values())
    if (
        not config.entropy_coeff and model_output.get("entropy") is not None
    ):  # a metric: 0 times its gradient costs a pass
        model_output = {**model_output, "entropy": model_output["entropy"].detach()}
    if given := tu.get_non_tensor_data(data, WHOLE, None):  # rows that would add nothing were left out
        whole = Whole(**given)
        tu.assign_non_tensor(data, batch_num_tokens=whole.tokens, global_batch_size=whole.rows)
        if model_output.get("entropy") is not None:
            model_output = {**model_output, "entropy": whole.entropy(model_output["entropy"], data["advantages"])}
    return ppo_loss(config=config, model_output=model_output, data=data, dp_group=dp_group)


class ActorWorker(TrainingWorker):
    """The actor inside a worker."""

    def watch(self, gap: RolloutGap) -> None:
        """Let ``gap`` decide before every step of the optimizer."""
        self.gap, engine = gap, self.engine
        engine.optimizer.register_step_pre_hook(lambda *_: gap.decide(engine.get_data_parallel_group()))

    def train_mini_batch(self, data: TensorDict) -> TensorDict | None:
        start = time.perf_counter()
        output = super().train_mini_batch(data)
        if output is not None:  # beside timing_s/update_actor: what the rows' way to the actor takes
            tu.get(output, "metrics")["train_seconds"] = time.perf_counter() - start
        return output

    def train_batch(self, data: TensorDict) -> TensorDict | None:
        self.gap.clear()
        output = super().train_batch(data)
        if output is not None and self.gap.mean is not None:
            tu.get(output, "metrics")["rollout_kl"] = self.gap.mean
        return output


def left_out_of_the_merge(actor: nn.Module) -> Iterator[str]:
    """LoRA's layers that verl does not merge for the rollout: of FSDP2's parts it takes all but the root (fsdp_merge_unmerge), where a tied
    embedding and the output layer are."""
    from peft.tuners.lora import LoraLayer

    if not isinstance(actor, FSDPModule):  # FSDP1, which is gathered as a whole
        return
    parts = [name for name, module in actor.named_modules() if name and isinstance(module, FSDPModule)]
    for name, module in actor.named_modules():
        if isinstance(module, LoraLayer) and not any(f"{name}.".startswith(f"{part}.") for part in parts):
            yield name


class PolicyWorker(ActorRolloutRefWorker):
    """One policy inside the shared worker process; its rollout adapter talks to this policy's servers."""

    actor_worker_cls = ActorWorker

    def __init__(self, *args: Any, first_replica: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first_replica = first_replica

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        head.install()
        super().init_model()
        if self.actor is not None:
            names = list(left_out_of_the_merge(self.actor.engine.module))
            if names and self.config.model.lora.get("merge"):
                raise ValueError(
                    f"actor_rollout_ref.model.target_modules: an adapter on {', '.join(names)} is not merged into what the rollout gets, so that it "
                    "would sample from another policy than the one that learns; leave these out (all-linear does), or set "
                    "actor_rollout_ref.model.lora.merge=false where the rollout takes adapters (vLLM on a GPU)"
                )
            gap = RolloutGap()
            self.actor.watch(gap)
            if not self.distillation_enabled:  # which has a loss of its own
                self.actor.set_loss_fn(partial(loss, self.loss_fn.keywords["config"], gap))
        if self.rollout is None or not self.first_replica:
            return
        rollout = self.rollout
        self.rollout = type(rollout)(
            config=rollout.config,
            model_config=rollout.model_config,
            device_mesh=rollout.device_mesh,
            replica_rank=rollout.replica_rank + self.first_replica,
        )
