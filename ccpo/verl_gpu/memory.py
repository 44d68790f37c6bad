"""What a policy takes of a GPU, in bytes: arithmetic on the model's shape, with constants that were measured.

P parameters, L layers, h hidden, m feed-forward, q and k widths of all query and of all key heads, V vocabulary, T tokens of a pack, G GPUs.

    state      16 P / G         float32 weights, gradients and two moments (FSDP2 shards them)
    gathered   2.5 P            bfloat16 weights of a layer at a time, gradients of those not yet reduced
    head       V (4 h + 6,144)  gradient of the output layer, and logits of 512 tokens at a time (fused kernels)
    layer      T (8 m + 12 h + 10 q + 4 k)     what one layer keeps for its gradient: bfloat16, and float32 in the norms
    update   = state + gathered + head + L layer                       without gradient checkpointing
             = state + gathered + head + L 2 h T + layer               with it: the layers' inputs, and one layer at a time
    resting  = 12 P / G         while answers are decoded: no gradients
    engine   = 2 P / size + KV cache + WORKSPACE

The layer's constants and `gathered` are fitted to one H100 (torch 2.11, packed attention, fused AdamW): docs/scaling.md has prediction and
measurement side by side. Source: our construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIB = 2**30
LOGIT_BYTES = 512 * 4 * 3
WORKSPACE = 1.5 * GIB  # of an engine: activations of a prefill, logits, graphs
OUTSIDE = 2.5 * GIB  # of a GPU: contexts of the trainer and the engine, what an engine keeps when asleep
USABLE = 0.9  # of a GPU: the allocator's pieces do not fill it


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes: the letters at the top of this module. ``kv``: bytes a token takes in the cache of a whole model."""

    parameters: int
    layers: int
    hidden: int
    inner: int
    query: int
    key: int
    vocabulary: int

    @property
    def kv(self) -> int:
        return 2 * 2 * self.layers * self.key


def shape_of(model: Any) -> Shape:
    """Sizes of a model.

    Args:
        model: its transformers configuration. The parameters are counted on torch's meta device: no memory, no weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(model).parameters())
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
    )


def state(shape: Shape, gpus: int) -> float:
    return 16 * shape.parameters / gpus


def resting(shape: Shape, gpus: int) -> float:
    return 12 * shape.parameters / gpus


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
