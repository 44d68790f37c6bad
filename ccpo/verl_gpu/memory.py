"""What a policy takes of a GPU, in bytes: arithmetic on the model's shape, with constants that were measured.

P parameters, A those of a LoRA adapter, L layers, h hidden, m feed-forward, q and k widths of all query and of all key heads, V vocabulary,
T tokens of a pack, G GPUs.

    state      16 P / G         float32 weights, gradients and two moments (FSDP2 shards them)
               (4 P + 16 A) / G with an adapter: the model's weights have neither gradients nor moments
    gathered   2.5 P            bfloat16 weights of a layer at a time, gradients of those not yet reduced
    head       V (4 h + 6,144)  gradient of the output layer, and logits of 512 tokens at a time (fused kernels)
    layer      T (8 m + 12 h + 10 q + 4 k)     what one layer keeps for its gradient: bfloat16, and float32 in the norms
    update   = state + gathered + head + L layer                       without gradient checkpointing
             = state + gathered + head + L 2 h T + layer               with it: the layers' inputs, and one layer at a time
    resting  = 12 P / G         while answers are decoded: no gradients; (4 P + 12 A) / G with an adapter
    engine   = 2 P / size + KV cache + WORKSPACE

The layer's constants and `gathered` are fitted to one H100 (torch 2.11, packed attention, fused AdamW): docs/scaling.md has prediction and
measurement side by side. With an adapter nothing was measured: `gathered` and `layer` are those of a whole model, which keeps more. Source:
our construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIB = 2**30
LOGIT_BYTES = 512 * 4 * 3
WORKSPACE = 1.5 * GIB  # of an engine: activations of a prefill, logits, graphs
OUTSIDE = 2.5 * GIB  # of a GPU: contexts of the trainer and the engine, what an engine keeps when asleep
USABLE = 0.9  # of a GPU: the allocator's pieces do not fill it
LARGEST_PACK, PACK_STEP = 32_768, 1_024  # few large packs are faster: small kernels wait to be launched
LEAST_PACK = 8_192  # what is worth computing every layer twice for
MOST_REQUESTS = 1_024  # that an engine is asked at once
FEW_ROWS = 8  # that an engine has a cache for, at least


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes: the letters at the top of this module; ``adapter`` is 0 where the model's own weights learn. ``kv``: bytes a token
    takes in the cache of a whole model."""

    parameters: int
    layers: int
    hidden: int
    inner: int
    query: int
    key: int
    vocabulary: int
    adapter: int = 0

    @property
    def kept(self) -> int:
        """Parameters that have neither gradients nor moments."""
        return self.parameters if self.adapter else 0

    @property
    def learning(self) -> int:
        return self.adapter or self.parameters

    @property
    def kv(self) -> int:
        return 2 * 2 * self.layers * self.key


def shape_of(model: Any, lora: dict[str, Any] | None = None) -> Shape:
    """Sizes of a model.

    Args:
        model: its transformers configuration. The parameters are counted on torch's meta device: no memory, no weights.
        lora: arguments of peft.LoraConfig, if an adapter learns.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(model)
        parameters, adapter = whole.num_parameters(), 0
        if lora:
            from peft import LoraConfig, get_peft_model

            adapter = get_peft_model(whole, LoraConfig(**lora)).num_parameters(only_trainable=True)
    text = model.get_text_config()
    heads = text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Shape(
        parameters,
        text.num_hidden_layers,
        text.hidden_size,
        text.intermediate_size,
        heads * head,
        (getattr(text, "num_key_value_heads", None) or heads) * head,
        text.vocab_size,
        adapter,
    )


def state(shape: Shape, gpus: int) -> float:
    return (4 * shape.kept + 16 * shape.learning) / gpus


def resting(shape: Shape, gpus: int) -> float:
    return (4 * shape.kept + 12 * shape.learning) / gpus


def fixed(shape: Shape, gpus: int) -> float:
    """Of an update, whatever the pack."""
    return state(shape, gpus) + 2.5 * shape.parameters + shape.vocabulary * (4 * shape.hidden + LOGIT_BYTES)


def per_token(shape: Shape, checkpointing: bool) -> float:
    """Of an update, for each token of a pack."""
    layer = 8 * shape.inner + 12 * shape.hidden + 10 * shape.query + 4 * shape.key
    return 2 * shape.layers * shape.hidden + layer if checkpointing else shape.layers * layer


def update(shape: Shape, gpus: int, tokens: int, checkpointing: bool) -> float:
    """Peak of the allocator in an update."""
    return fixed(shape, gpus) + tokens * per_token(shape, checkpointing)


def largest_pack(shape: Shape, gpus: int, room: float, checkpointing: bool) -> int:
    """Tokens of the largest pack whose update fits into ``room`` bytes; 0 if none does."""
    return max(0, int((room - fixed(shape, gpus)) / per_token(shape, checkpointing)))


def room(gpu: float) -> float:
    """Bytes of a GPU that an actor and engines can have. ``gpu``: all bytes of it."""
    return USABLE * gpu - OUTSIDE


def needs_checkpointing(shape: Shape, gpus: int, room: float, row: int) -> bool:
    """Whether packs would be too small without it. ``row``: tokens of the longest row."""
    return largest_pack(shape, gpus, room, False) < min(LARGEST_PACK, max(2 * row, LEAST_PACK))


def chosen_pack(shape: Shape, gpus: int, room: float, checkpointing: bool, row: int, most: int = LARGEST_PACK) -> int:
    """Tokens of a pack: as many as fit, ``most`` at most, and one longest row at least."""
    return max(min(most, largest_pack(shape, gpus, room, checkpointing) // PACK_STEP * PACK_STEP), row)


def engine(shape: Shape, size: int, tokens: int) -> float:
    """Of each of an engine's ``size`` GPUs, with a cache for ``tokens``."""
    return (2 * shape.parameters + tokens * shape.kv) / size + WORKSPACE
