"""Log-probabilities of the tokens whose log-probabilities are read, and of no others.

verl's fused output layer (use_fused_kernels) takes the logits of every token of a pack, 512 tokens at a time, forward and once more backward. Of a prompt's
tokens nobody reads them. Here the engine tells the model which places are read, by the
name that transformers has for it (logits_to_keep), and the model's last layer is run on those. Everywhere else stands 0.

Source: our construction, on verl's `forward_with_torch_backend` and its ways to read log-probabilities: the row's last ones, one token earlier
(`response_from_nested`), or where the next token has loss_mask 1 (`sft_loss`).
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from verl.models.transformers import dense_common
from verl.utils import tensordict_utils as tu
from verl.utils.experimental.torch_functional import FusedLinearForPPO
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

_verls_forward = dense_common.forward_with_torch_backend
_verls_inputs = FSDPEngineWithLMHead.prepare_model_inputs


def install() -> None:
    """From here on verl's FSDP engines with fused kernels do so."""
    dense_common.forward_with_torch_backend = forward
    FSDPEngineWithLMHead.prepare_model_inputs = prepare_model_inputs


def places_read(batch: TensorDict) -> torch.Tensor:
    """Places in the packed rows of a micro-batch whose log-probability, that of the next token, is read.

    Args:
        batch: jagged ``input_ids`` (rows, tokens) and ``loss_mask``, of the same lengths (1: learned), or of the responses' lengths.

    Returns:
        (places,) int64, ascending.
    """
    ends, mask = batch["input_ids"].offsets()[1:], batch["loss_mask"]
    if mask.values().shape[0] == batch["input_ids"].values().shape[0]:
        return mask.values().roll(-1).nonzero().squeeze(1)
    lengths, total = mask.offsets().diff(), mask.values().shape[0]
    # Place i of all responses, one behind the other, is place i + (where its row's begins here - where it begins there) of the pack.
    shift = ends - 1 - mask.offsets()[1:]
    return torch.arange(total, device=ends.device) + shift.repeat_interleave(lengths, output_size=total)


def prepare_model_inputs(self: FSDPEngineWithLMHead, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
    """verl's, with the places as ``logits_to_keep`` where the model can take them: on one process a row, and no teacher who reads all."""
    inputs, facts = _verls_inputs(self, micro_batch)
    packed = tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True)
    teacher = any(
        tu.get_non_tensor_data(micro_batch, name, False) for name in ("distillation_use_topk", "distillation_only")
    )
    if packed and not teacher and not self.use_ulysses_sp and "loss_mask" in micro_batch and _takes_places(self.module):
        inputs["logits_to_keep"] = places_read(micro_batch)
    return inputs, facts


def _takes_places(model: torch.nn.Module) -> bool:
    return any(type(module).forward is forward for module in model.modules())


def forward(
    self: Any,
    input_ids: torch.Tensor | None = None,
    *,
    logits_to_keep: int | torch.Tensor = 0,
    shift_labels: torch.Tensor | None = None,
    temperature: float = 1.0,
    return_dict: bool | None = None,
    **given: Any,
) -> Any:
    """verl's fused forward pass of a language model; with (places,) ``logits_to_keep``, and ``shift_labels`` (1, tokens), of these places alone.

    Returns:
        log_probs, entropy: (1, tokens), 0 where nothing is read.
    """
    if not isinstance(logits_to_keep, torch.Tensor) or shift_labels is None:
        more = {"shift_labels": shift_labels, "temperature": temperature, "return_dict": return_dict}
        return _verls_forward(self, input_ids, logits_to_keep=logits_to_keep, **more, **given)
    given.pop("labels", None)
    outputs = dense_common.forward_base_model(self, input_ids=input_ids, **given)
    layer = FusedLinearForPPO(impl_backend=getattr(self, "_verl_fused_kernels_backend", "torch"))
    read = layer(
        outputs[0].index_select(1, logits_to_keep),
        self.lm_head.weight,
        shift_labels.index_select(1, logits_to_keep),
        temperature,
    )
    log_probs, entropy = (values.new_zeros(shift_labels.shape).index_copy(1, logits_to_keep, values) for values in read)
    return dense_common.CausalLMOutputForPPO(
        log_probs=log_probs, entropy=entropy, hidden_states=outputs.hidden_states, attentions=outputs.attentions
    )
