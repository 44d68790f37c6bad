"""ccpo/verl_gpu/attention.py: rows of a pack are told apart, on the CPU with a kernel written down in plain torch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ccpo.verl_gpu import attention  # noqa: E402


def plain_kernel(query, key, value, *, begin, longest, scale, left):
    """What PyTorch's kernel computes, row by row."""
    assert longest == int(begin.diff().max())
    out = torch.empty_like(query)
    times = query.shape[1] // key.shape[1]
    for a, b in zip(begin.tolist(), begin.tolist()[1:], strict=False):
        at = torch.arange(b - a)
        seen = at[None] <= at[:, None]
        if left >= 0:
            seen &= at[None] >= at[:, None] - left
        q, k, v = (
            x[a:b].transpose(0, 1) for x in (query, key.repeat_interleave(times, 1), value.repeat_interleave(times, 1))
        )
        scores = torch.einsum("htd,hsd->hts", q, k) * (scale or query.shape[-1] ** -0.5)
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out[a:b] = torch.einsum("hts,hsd->htd", weights, v).transpose(0, 1)
    return out


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setattr(attention, "_kernel", plain_kernel)
    attention.register()


def model(kv_heads: int = 2, window: int | None = None):
    sizes = dict(
        num_hidden_layers=2,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        vocab_size=50,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    config = transformers.MistralConfig(**sizes, sliding_window=window) if window else transformers.LlamaConfig(**sizes)
    return transformers.AutoModelForCausalLM.from_config(config)


ROWS = [torch.arange(n) * 7 % 50 for n in (1, 9, 3, 1, 14)]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 4])
def test_a_pack_equals_its_rows_one_by_one(kv_heads, window):
    net = model(kv_heads, window)
    net.set_attn_implementation("eager")
    alone = torch.cat([net(input_ids=row[None]).logits[0] for row in ROWS])
    net.set_attn_implementation(attention.NAME)
    positions = torch.cat([torch.arange(len(row)) for row in ROWS])[None]
    packed = net(input_ids=torch.cat(ROWS)[None], position_ids=positions, use_cache=False).logits[0]
    torch.testing.assert_close(packed, alone)


def test_padded_rows_of_a_batch_equal_their_rows_one_by_one():
    net = model()
    net.set_attn_implementation("eager")
    alone = [net(input_ids=row[None]).logits[0] for row in ROWS]
    net.set_attn_implementation(attention.NAME)
    padded = torch.nn.utils.rnn.pad_sequence(ROWS, batch_first=True)
    positions = torch.nn.utils.rnn.pad_sequence([torch.arange(len(row)) for row in ROWS], batch_first=True)
    logits = net(input_ids=padded, position_ids=positions, use_cache=False).logits
    for i, row in enumerate(ROWS):
        torch.testing.assert_close(logits[i, : len(row)], alone[i])


def test_positions_are_looked_at_once_for_all_layers_and_anew_for_every_pack(monkeypatch):
    found = []
    monkeypatch.setattr(
        attention, "_kernel", lambda *a, begin, **k: found.append(begin) or plain_kernel(*a, begin=begin, **k)
    )
    net = model()
    net.set_attn_implementation(attention.NAME)
    whole = torch.arange(12)  # both packs are views of one tensor
    for split in (4, 7):
        positions = torch.cat([torch.arange(split), torch.arange(12 - split)])[None]
        net(input_ids=whole[None], position_ids=positions, use_cache=False)
    assert [b.tolist() for b in found] == [[0, 4, 12]] * 2 + [[0, 7, 12]] * 2
    assert found[0] is found[1] and found[2] is found[3]
    positions.fill_(1)
    positions[0, 5] = 0
    assert attention._rows(positions)[0].tolist() == [0, 5, 12]  # the same tensor with other numbers in it


class Strict(torch.autograd.Function):
    """Says, of its backward pass, whether PyTorch's FlashAttention would add in one order there."""

    said: list = []

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        Strict.said.append(
            torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
        )
        return grad


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lenient", [None, True, False])
def test_with_full_determinism_the_kernels_backward_pass_adds_in_one_order(monkeypatch, lenient, checkpointing):
    def kernel(query, key, value, **given):
        return Strict.apply(plain_kernel(query, key, value, **given))

    monkeypatch.setattr(attention, "_kernel", kernel)
    monkeypatch.setattr(Strict, "said", [])
    net = model()
    net.set_attn_implementation(attention.NAME)
    if checkpointing:
        net.gradient_checkpointing_enable({"use_reentrant": False})
        net.train()
    row = ROWS[1]
    try:
        if lenient is not None:
            torch.use_deterministic_algorithms(True, warn_only=lenient)
        net(input_ids=row[None], position_ids=torch.arange(len(row))[None], use_cache=False).logits.sum().backward()
        assert Strict.said == [lenient is not None] * 2  # layers
        assert torch.is_deterministic_algorithms_warn_only_enabled() == bool(lenient)  # of all else as it was
        assert torch.are_deterministic_algorithms_enabled() == (lenient is not None)
    finally:
        torch.use_deterministic_algorithms(False)


def test_what_it_cannot_do_is_refused():
    q = torch.zeros(1, 4, 3, 8)
    with pytest.raises(ValueError, match="position_ids"):
        attention.attend(None, q, q, q)
    with pytest.raises(ValueError, match="3 queries and 5 keys"):
        attention.attend(None, q, torch.zeros(1, 4, 5, 8), q, position_ids=torch.arange(3)[None])
    with pytest.raises(ValueError, match="dropout"):
        attention.attend(None, q, q, q, position_ids=torch.arange(3)[None], dropout=0.1)


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({}, None),
        ({"head_dim": 80}, None),
        ({"head_dim": 20}, "multiple of 8"),
        ({"head_dim": 512}, "256 at most"),
        ({"attention_dropout": 0.1}, "dropout"),
        ({"attn_logit_softcapping": 50.0}, "softcapping"),
        ({"vision_config": {}}, "images"),
    ],
)
def test_models_it_does_not_fit(changed, reason):
    config = transformers.LlamaConfig(hidden_size=256, num_attention_heads=4, **changed)
    found = attention.refusal(config)
    assert (found is None) if reason is None else (reason in found)
