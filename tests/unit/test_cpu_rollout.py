"""The generator behind the CPU rollout, without Ray: same tokens whatever else is in the batch, right distribution."""

from __future__ import annotations

import ast
import inspect
import random
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from ccpo.verl_cpu import generation
from ccpo.verl_cpu.generation import BatchGenerator, Request, SamplingParams, build_model, sample

VOCAB = 97
CONFIGS = {
    "llama": LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=256,
    ),
    "qwen2": Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,  # grouped-query attention
        tie_word_embeddings=False,
        max_position_embeddings=256,
    ),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=list(CONFIGS))
def models(request):
    """The float64 model of the generator and transformers' own float32 model with the same weights."""
    config = CONFIGS[request.param]
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():  # freshly initialized logits are almost equal: make some tokens clearly likelier
        for parameter in plain.parameters():
            parameter.mul_(5 if parameter.ndim > 1 else 1)
    model = build_model(config)
    BatchGenerator(model).load_weights(plain.state_dict())
    return model, plain


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCAB) for _ in range(rng.randrange(1, 45))] for _ in range(count)]


def outcome(request: Request):
    return request.token_ids, request.log_probs, request.finish_reason


def mixed_requests(count: int = 64) -> list[tuple[list[int], SamplingParams]]:
    """Greedy and sampled, filtered and not, short and long; every fourth prompt is one that came before."""
    texts = prompts(count)
    return [
        (
            texts[i // 4 if i % 4 == 0 else i],
            SamplingParams(
                max_tokens=(1, 6, 16, 23)[i % 4],
                temperature=(1.0, 0.7, 0.0)[i % 3],
                top_p=(1.0, 0.9)[i % 2],
                top_k=(-1, 20, 0, 5, 1)[i % 5],
                seed=1000 + i,
            ),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("max_batch, max_prefill_tokens", [(256, 8192), (7, 100)])
def test_same_tokens_and_log_probs_in_any_order_and_batch(models, max_batch, max_prefill_tokens):
    requests = mixed_requests()
    expected = [outcome(r) for r in BatchGenerator(models[0], eos_token_ids=[3]).generate(requests)]
    assert {reason for _, _, reason in expected} == {"stop", "length"}

    shuffled = random.Random(max_batch).sample(range(len(requests)), len(requests))
    generator = BatchGenerator(models[0], [3], max_batch=max_batch, max_prefill_tokens=max_prefill_tokens)
    crowd = [generator.add(p, SamplingParams(40, seed=i)) for i, p in enumerate(prompts(9, seed=7))]
    got = {}
    for index in shuffled:  # they arrive while others decode
        got[index] = generator.add(*requests[index])
        generator.step()
    while generator.busy:
        generator.step()
    assert all(len(r.token_ids) > 0 for r in crowd)
    assert [outcome(got[i]) for i in range(len(requests))] == expected


def test_batch_shape_moves_logits_by_float64_rounding_only(models):
    texts = [tuple(p) for p in prompts(50, seed=3)]
    generator = BatchGenerator(models[0])
    with torch.inference_mode():
        together = generator._prefill_pass(texts)
        alone = [generator._prefill_pass([text])[0] for text in texts]
    for (kv_a, logits_a), (kv_b, logits_b) in zip(together, alone, strict=True):
        assert (logits_a - logits_b).abs().max() < 1e-12
        assert (kv_a - kv_b).abs().max() < 1e-12


def test_requests_without_seed_differ_and_follow_the_generator_seed(models):
    def run(seed: int) -> list[list[int]]:
        params = SamplingParams(max_tokens=12)
        return [r.token_ids for r in BatchGenerator(models[0], seed=seed).generate([([5, 6, 7], params)] * 4)]

    assert len({tuple(tokens) for tokens in run(0)}) == 4
    assert run(0) == run(0)
    assert run(0) != run(1)


def test_greedy_equals_transformers_generate(models):
    model, plain = models
    for prompt in prompts(8, seed=1):
        with torch.no_grad():
            expected = plain.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=12,
                eos_token_id=None,
                pad_token_id=0,
            )[0, len(prompt) :]
        [got] = BatchGenerator(model).generate([(prompt, SamplingParams(12, temperature=0))])
        assert got.token_ids == expected.tolist()


def test_log_probs_match_a_plain_forward_pass(models):
    model, plain = models
    for request in BatchGenerator(model).generate([(p, SamplingParams(10, seed=1)) for p in prompts(8, seed=2)]):
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([[*request.prompt, *request.token_ids]])).logits[0]
        expected = logits.double().log_softmax(-1)[len(request.prompt) - 1 : -1]
        expected = expected.gather(-1, torch.tensor(request.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(request.log_probs).double(), expected, rtol=0, atol=1e-5)
        as_stored = torch.tensor(request.log_probs, dtype=torch.float32).double().tolist()
        assert as_stored == request.log_probs  # nothing is lost in verl's float32


@pytest.mark.parametrize("temperature, top_p, top_k", [(1, 1, -1), (0.5, 1, 0), (1, 0.8, -1), (1, 1, 4), (2, 0.7, 6)])
def test_samples_follow_softmax_with_temperature_top_k_top_p(temperature, top_p, top_k):
    logits = torch.tensor([1.5, -0.5, 0.0, 2.0, 0.7, -3.0, 1.1, 0.2], dtype=torch.float64)
    expected = (logits / temperature).softmax(-1).numpy()
    order = np.argsort(-expected)
    kept = list(order[: top_k if top_k > 0 else None])
    mass = np.cumsum(expected[kept]) / expected[kept].sum()
    kept = kept[: int(np.searchsorted(mass, top_p)) + 1] if top_p < 1 else kept  # the token that reaches top_p stays
    filtered = np.zeros(8)
    filtered[kept] = expected[kept] / expected[kept].sum()

    n = 40_000
    params = SamplingParams(1, temperature=temperature, top_p=top_p, top_k=top_k)
    uniforms = np.random.default_rng(0).random(n)
    tokens, log_probs = sample(logits.expand(n, -1).clone(), [params] * n, uniforms)
    counts = np.bincount(tokens, minlength=8)
    assert counts[filtered == 0].sum() == 0
    live = filtered > 0
    chi_square = ((counts[live] - n * filtered[live]) ** 2 / (n * filtered[live])).sum()
    assert chi_square < 26  # 0.9995 quantile with 7 degrees of freedom
    np.testing.assert_allclose(np.exp(log_probs[:1000]), filtered[tokens[:1000]], atol=4e-6)


def test_extreme_uniforms_never_leave_the_support():
    logits = torch.tensor([[-torch.inf, 0.1, 0.2, 0.3, -torch.inf]], dtype=torch.float64).expand(2, -1).clone()
    assert sample(logits, [SamplingParams(1)] * 2, [0.0, np.nextafter(1.0, 0.0)])[0] == [1, 3]


def test_tied_logits_are_broken_by_token_id_whatever_the_rounding():
    noise = torch.tensor([[0.0, 1e-15, 2e-15, -1e-15]], dtype=torch.float64)
    for row in (1 + noise, 1 + noise.flip(-1)):
        assert sample(row, [SamplingParams(1, temperature=0)], [0.5])[0] == [0]
        assert sample(row, [SamplingParams(1, top_k=2)], [0.75])[0] == [1]
        assert sample(row, [SamplingParams(1, top_p=0.5)], [0.75])[0] == [1]


class Letters:
    """Token id -> one letter; id 0 is special."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(ord("a") + i % 26) for i in ids if i)


def test_why_a_request_ends(models):
    def run(**kwargs) -> Request:
        params = SamplingParams(**{"max_tokens": 8, "seed": 11, **kwargs})
        [request] = BatchGenerator(models[0], [eos], tokenizer=Letters()).generate([([5, 6, 7], params)])
        return request

    eos = -1
    full = run()
    assert full.finish_reason == "length" and len(full.token_ids) == 8
    third = full.token_ids[2]
    first = full.token_ids.index(third) + 1
    by_id = run(stop_token_ids=(third,))
    assert by_id.finish_reason == "stop" and by_id.token_ids == full.token_ids[:first]  # the stop token is kept
    text = Letters().decode(full.token_ids, True)
    two = text[2:4]
    by_text = run(stop=(two,))
    assert by_text.finish_reason == "stop" and by_text.token_ids == full.token_ids[: text.index(two) + 2]
    eos = third
    assert run().token_ids == full.token_ids[:first] and run().finish_reason == "stop"
    assert run(ignore_eos=True).token_ids == full.token_ids
    assert run(max_tokens=first).finish_reason == "stop"  # not cut: it ended with its last token


def test_abort_returns_what_there_is(models):
    generator = BatchGenerator(models[0], max_batch=1)
    first, second = (generator.add([4, 5], SamplingParams(9, seed=i)) for i in range(2))
    generator.step()
    assert {id(r) for r in generator.abort()} == {id(first), id(second)}
    assert (first.finish_reason, second.finish_reason) == ("abort", "abort")
    assert first.token_ids and not second.token_ids and not generator.busy


def test_new_weights_change_the_answer_and_forget_cached_prompts(models):
    model = build_model(models[1].config)
    generator = BatchGenerator(model)
    weights = models[1].state_dict()
    generator.load_weights(weights)
    request = ([5, 6, 7], SamplingParams(8, temperature=0))
    before = generator.generate([request])[0].token_ids
    generator.load_weights({name: -tensor for name, tensor in weights.items()})
    assert generator.generate([request])[0].token_ids != before
    generator.load_weights(weights)
    assert generator.generate([request])[0].token_ids == before

    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(ValueError, match=name):
        generator.load_weights({key: value for key, value in weights.items() if key != name})
    with pytest.raises(ValueError, match="surplus"):
        generator.load_weights({**weights, "surplus": torch.zeros(1)})
    generator.add(*request)
    with pytest.raises(ValueError, match="running"):
        generator.load_weights(weights)


def test_reads_the_parameters_that_verl_passes():
    given = dict(temperature=1.0, top_p=1.0, top_k=-1, repetition_penalty=1.0, logprobs=True)
    assert SamplingParams.from_dict(given, 16, room=99) == SamplingParams(max_tokens=16)
    assert SamplingParams.from_dict({"max_new_tokens": 6, "stop": "x", "seed": 3}, 16, room=99) == SamplingParams(
        max_tokens=6, stop=("x",), seed=3
    )
    assert SamplingParams.from_dict({"max_tokens": 16}, 1, room=4).max_tokens == 4
    assert SamplingParams.from_dict({}, 1, room=4, ignore_eos=True).ignore_eos
    for wrong, word in [
        ({"presence_penalty": 0.5, "n": 2}, r"\['n', 'presence_penalty'\]"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"top_p": 0.0}, "top_p"),
        ({"temperature": -1}, "temperature"),
        ({"seed": -1}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
    ]:
        with pytest.raises(ValueError, match=word):
            SamplingParams.from_dict(wrong, 16, room=99)


def test_rejects_what_it_cannot_reproduce(models):
    sliding = Qwen2Config(num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"], sliding_window=8)
    with pytest.raises(ValueError, match="sliding_attention"):
        build_model(sliding)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ValueError, match="dynamic"):
        build_model(LlamaConfig(num_hidden_layers=1, rope_parameters=rope))
    with pytest.raises(ValueError, match="empty"):
        BatchGenerator(models[0]).add([], SamplingParams(1))
    with pytest.raises(ValueError, match="tokenizer"):
        BatchGenerator(models[0]).add([1], SamplingParams(1, stop=("x",)))


def test_building_a_model_leaves_the_callers_config_alone():
    config: PretrainedConfig = CONFIGS["llama"]
    model = build_model(config)
    AutoModelForCausalLM.from_config(config, attn_implementation="eager")  # writes into the config it is given
    assert model.config._attn_implementation != "eager"


def test_needs_neither_ray_nor_verl():
    tree = ast.parse(inspect.getsource(generation))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= {*sys.stdlib_module_names, "numpy", "torch", "transformers"}
