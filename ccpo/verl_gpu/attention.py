"""Attention of transformers over packed rows, with the FlashAttention that PyTorch itself ships (torch.nn.attention.varlen).

verl packs the rows of a micro-batch into one sequence, (1, total tokens), and tells them apart by position_ids, which begin again at
0 with every row. PyTorch's scaled_dot_product_attention knows no rows: its cost is quadratic in the pack. The variable-length kernel
attends within each row alone, in the order of the row's own square, and needs no package besides torch.

Select it with ``override_config.attn_implementation`` = `NAME`; `refusal` says for which model or torch it is none.
Source: PyTorch's `varlen_attn`; `AttentionInterface` of transformers.
"""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import torch

NAME = "torch_varlen"
LARGEST_HEAD = 256  # of the kernel, which also wants multiples of 8


def register() -> None:
    """Make `NAME` known to transformers, without a mask: rows are told apart by their positions."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def refusal(model: Any) -> str | None:
    """Why a model cannot use it on this torch; None if it can.

    Args:
        model: a transformers configuration.
    """
    try:
        from torch.nn.attention import varlen  # noqa: F401
    except ImportError:
        return f"torch {torch.__version__} has no torch.nn.attention.varlen (2.10 has)"
    text = model.get_text_config() if hasattr(model, "get_text_config") else model
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if head % 8 or head > LARGEST_HEAD:
        return f"its heads have {head} numbers, and the kernel wants a multiple of 8, {LARGEST_HEAD} at most"
    for name in ("attn_logit_softcapping", "attention_chunk_size"):
        if getattr(text, name, None):
            return f"its attention has {name}={getattr(text, name)}, which the kernel does not know"
    if getattr(text, "attention_dropout", 0):
        return f"its attention has dropout {text.attention_dropout}, which the kernel does not know"
    if hasattr(model, "vision_config"):
        return "it sees images, whose positions do not tell rows apart"
    return None


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_ids: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row of a pack.

    Args:
        query: (B, H, T, D). key, value: (B, H_kv, T, D), H a multiple of H_kv. bfloat16 or float16.
        attention_mask: not read. Padding behind a row is made of rows of its own, whose results nobody reads.
        scaling: of the scores; None: 1 / sqrt(D).
        position_ids: (B, T) int; a row begins where it is 0.
        sliding_window: how many positions a token sees, itself included; None: all before it.

    Returns:
        (B, T, H, D), None.

    Raises:
        ValueError: no positions, or a cache of earlier tokens: rows could not be told apart.
    """
    batch, heads, length, size = query.shape
    if position_ids is None or position_ids.dim() != 2:
        raise ValueError(
            f"{NAME} finds the rows of a pack by position_ids of shape (batch, tokens), and got "
            f"{None if position_ids is None else tuple(position_ids.shape)}: use attn_implementation=sdpa for this model"
        )
    if key.shape[2] != length:
        raise ValueError(
            f"{NAME} got {length} queries and {key.shape[2]} keys: it is for training on whole rows; decode with attn_implementation=sdpa"
        )
    if dropout:
        raise ValueError(f"{NAME} knows no dropout ({dropout}): use attn_implementation=sdpa")
    if position_ids.shape != (batch, length):  # one line of positions for all rows of a batch
        position_ids = position_ids.expand(batch, length)
    begin, longest = _rows(position_ids)
    left = -1 if sliding_window is None else sliding_window - 1
    out = _kernel(
        *(states.transpose(1, 2).reshape(batch * length, states.shape[1], size) for states in (query, key, value)),
        begin=begin,
        longest=longest,
        scale=scaling,
        left=left,
    )
    if torch.are_deterministic_algorithms_enabled() and out.grad_fn is not None:
        _in_one_order(out.grad_fn)
    return out.view(batch, length, heads, size), None


def _in_one_order(node: torch.autograd.graph.Node) -> None:
    """Let the kernel's backward pass add in one order, always the same.

    PyTorch's does that only where an operation that cannot is an error; verl's full_determinism asks for warnings, and with those it adds
    in any order. So for this node alone warnings are errors. (A pass that fails leaves it so for the process.)
    """
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    node.register_prehook(lambda grads: torch.use_deterministic_algorithms(True))
    node.register_hook(lambda *_: torch.use_deterministic_algorithms(True, warn_only=lenient))


def _kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    begin: torch.Tensor,
    longest: int,
    scale: float | None,
    left: int,
) -> torch.Tensor:
    """PyTorch's kernel on (tokens, heads, D)."""
    from torch.nn.attention.varlen import varlen_attn

    if query.dtype == torch.float32 and torch.is_autocast_enabled(
        query.device.type
    ):  # rotary embeddings of float32 weights
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    grouped = {}
    if key.shape[1] != query.shape[1]:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            grouped = {"enable_gqa": True}
        else:  # torch 2.11
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
    return varlen_attn(query, key, value, begin, begin, longest, longest, scale=scale, window_size=(left, 0), **grouped)


_LAST: tuple[weakref.ref, int, torch.Tensor, int] | None = None


def _rows(position_ids: torch.Tensor) -> tuple[torch.Tensor, int]:
    """((rows + 1,) int32 offsets of the rows in the flattened batch, length of the longest).

    Every layer of a forward pass asks with the same tensor; finding the longest row waits for the GPU, so it is done once.
    """
    global _LAST
    if _LAST is not None and _LAST[0]() is position_ids and _LAST[1] == position_ids._version:
        return _LAST[2], _LAST[3]
    starts = position_ids == 0
    starts[:, 0] = True  # a row of the batch begins a row, whatever its positions say
    flat = starts.reshape(-1)
    end = torch.tensor([flat.numel()], device=flat.device)
    begin = torch.cat([flat.nonzero().squeeze(1), end]).to(torch.int32)
    longest = int(begin.diff().max())
    _LAST = (weakref.ref(position_ids), position_ids._version, begin, longest)
    return begin, longest
