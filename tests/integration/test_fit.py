"""Settings computed for a GPU: what they are for known shapes, that a set value stays, and what does not fit."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

pytest.importorskip("verl")
transformers = pytest.importorskip("transformers")

from omegaconf import OmegaConf  # noqa: E402

from ccpo.verl_gpu import memory  # noqa: E402
from ccpo.verl_plugin import fit  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import step_model  # noqa: E402
from shapes import SHAPES, config_of, sizes  # noqa: E402

H100 = 79.2 * memory.GIB
SMOLLM2 = transformers.LlamaConfig(
    num_hidden_layers=30,
    hidden_size=576,
    intermediate_size=1536,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49_152,
    tie_word_embeddings=True,
)

# One H100, torch 2.11, benchmarks/actor.py: (model, tokens of the largest pack, gradient checkpointing, peak of an update in GiB).
MEASURED = [
    (SMOLLM2, 15_750, False, 14.40),
    (SMOLLM2, 31_500, False, 26.04),
    (SMOLLM2, 15_750, True, 3.34),
    (SMOLLM2, 31_500, True, 4.23),
    ("qwen2.5-0.5b", 7_230, False, 19.98),
    ("qwen2.5-0.5b", 12_660, False, 27.03),
    ("qwen2.5-0.5b", 12_660, True, 10.27),
    ("qwen2.5-1.5b", 7_600, False, 47.97),
    ("qwen2.5-1.5b", 12_670, False, 62.05),
    ("qwen2.5-1.5b", 12_670, True, 28.83),
    ("qwen2.5-3b", 12_330, True, 57.55),
]


@pytest.mark.parametrize("model, tokens, checkpointing, peak", MEASURED)
def test_predicted_peaks_are_within_15_percent_of_the_measured_ones(model, tokens, checkpointing, peak):
    shape = memory.shape_of(config_of(model) if isinstance(model, str) else model)
    assert memory.update(shape, 1, tokens, checkpointing) / memory.GIB == pytest.approx(peak, rel=0.15)


def test_parameters_are_those_of_the_public_models():
    shapes = {name: memory.shape_of(config_of(name)) for name in SHAPES}
    assert {name: sizes(name) for name in SHAPES} == shapes, "the same without transformers"
    billions = {
        "smollm2-135m": 0.135,
        "qwen2.5-0.5b": 0.494,
        "qwen2.5-1.5b": 1.544,
        "qwen2.5-3b": 3.086,
        "qwen2.5-7b": 7.616,
        "qwen2.5-14b": 14.77,
        "qwen2.5-32b": 32.76,
    }
    assert {name: shape.parameters / 1e9 for name, shape in shapes.items()} == pytest.approx(billions, abs=5e-3)


@pytest.fixture
def gpu_job(compose, tmp_path):
    """gpu_job(model, *overrides, gpu=bytes) -> (configuration, lines, problems)."""

    def settle(model, *overrides, gpu=H100, name="ccpo_dyad"):
        (config_of(model) if isinstance(model, str) else model).save_pretrained(tmp_path / "model")
        config = compose("profile=gpu", f"actor_rollout_ref.model.path={tmp_path / 'model'}", *overrides, name=name)
        return config, *fit.settle(config, gpu)

    return settle


def chosen(config):
    entry = config.actor_rollout_ref
    return {
        "pack": entry.actor.ppo_max_token_len_per_gpu,
        "checkpointing": entry.model.enable_gradient_checkpointing,
        "share": entry.rollout.gpu_memory_utilization,
        "requests": entry.rollout.max_num_seqs,
        "context": entry.rollout.max_model_len,
        "offload": entry.actor.fsdp_config.param_offload,
        "attention": entry.model.override_config.attn_implementation,
    }


def test_the_default_recipe_on_one_h100(gpu_job):
    config, lines, problems = gpu_job("qwen2.5-1.5b")
    assert not problems
    found = chosen(config)
    assert found["attention"] == "torch_varlen" and found["offload"] is False and found["context"] == 6144
    assert 0.6 < found["share"] < 0.7 and found["requests"] == 512
    assert found["pack"] >= 2 * 6144 and found["checkpointing"] is False
    assert config.actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu == found["pack"]
    assert "while it learns" in "\n".join(lines) and "gradient checkpointing off" in lines[-1]


def test_the_plan_on_the_page_is_the_one_that_is_printed(gpu_job):
    page = (Path(__file__).parents[2] / "docs" / "first_run.md").read_text()
    assert "\n".join(f"    {line}" for line in gpu_job("qwen2.5-1.5b")[1]) in page


@pytest.mark.parametrize("gpus", [1, 8])
@pytest.mark.parametrize("model", [name for name in SHAPES if name.startswith("qwen")])
def test_the_model_of_a_step_has_the_settings_of_the_plan(gpu_job, model, gpus):
    config, _, problems = gpu_job(model, f"trainer.n_gpus_per_node={gpus}")
    work = step_model.Work(512, 512, 450, 500, 4096, 384, 6144, 2748)
    gpu = step_model.GPUS["h100"]
    assert gpu.bytes == H100
    found = step_model.fit(sizes(model), gpu, gpus, work)
    assert bool(found.missing) == bool(problems)
    if not problems:
        own = {"pack": found.pack, "checkpointing": found.checkpointing, "offload": found.offload}
        assert own.items() <= chosen(config).items()


def test_a_small_model_gets_the_largest_packs(gpu_job):
    config, _, problems = gpu_job(SMOLLM2, "task=gsm8k")
    assert not problems
    found = chosen(config)
    assert found["pack"] == memory.LARGEST_PACK and found["checkpointing"] is False


def test_engines_get_what_their_requests_can_fill_and_no_more(gpu_job):
    """Waking 100 GiB of cache in every step takes .25 s; a cache for all requests at their longest is never short."""
    few, _, problems = gpu_job(SMOLLM2, "task=gsm8k", "data.train_batch_size=4", "actor_rollout_ref.rollout.n=2")
    assert not problems
    many, _, problems = gpu_job(SMOLLM2, "data.train_batch_size=64", "actor_rollout_ref.rollout.n=8")
    assert not problems
    assert chosen(few)["share"] == fit.SMALLEST_SHARE and chosen(many)["share"] > 0.8
    rollout = few.actor_rollout_ref.rollout
    cache = rollout.max_num_seqs * rollout.max_model_len * memory.shape_of(SMOLLM2).kv
    assert cache < chosen(few)["share"] * H100


def test_a_larger_model_computes_its_layers_twice(gpu_job):
    config, _, problems = gpu_job("qwen2.5-3b")
    assert not problems
    assert chosen(config)["checkpointing"] is True and chosen(config)["pack"] >= 6144


@pytest.mark.parametrize("policies", ["shared", "per_role"])
def test_seven_billion_with_float32_moments_are_refused_on_one_gpu_and_fit_four(gpu_job, policies):
    _, _, problems = gpu_job("qwen2.5-7b", f"ccpo.policies={policies}")
    assert "does not fit" in problems[0] and "7.62 billion" in problems[0] and "N_GPUS" in problems[0]
    assert not gpu_job("qwen2.5-7b", f"ccpo.policies={policies}", "trainer.n_gpus_per_node=4")[2]


def test_of_a_lora_actor_the_adapter_alone_has_gradients_and_moments(gpu_job):
    """Seven billion parameters of which an adapter learns rest on one GPU."""
    rank = "actor_rollout_ref.model.lora_rank=16"
    config, lines, problems = gpu_job("qwen2.5-7b", rank, "actor_rollout_ref.model.target_modules=[q_proj,v_proj]")
    assert not problems
    model = config_of("qwen2.5-7b")
    head = model.hidden_size // model.num_attention_heads
    query, value = model.num_attention_heads * head, model.num_key_value_heads * head
    adapter = 16 * model.num_hidden_layers * (2 * model.hidden_size + query + value)
    assert f"a LoRA adapter of {adapter / 1e6:.3g} million learns" in lines[0]
    shape = memory.shape_of(model, {"task_type": "CAUSAL_LM", "r": 16, "target_modules": ["q_proj", "v_proj"]})
    assert shape.adapter == adapter and shape.parameters == memory.shape_of(model).parameters
    assert memory.state(shape, 1) == 4 * shape.parameters + 16 * adapter
    assert memory.resting(shape, 2) == (4 * shape.parameters + 12 * adapter) / 2
    assert gpu_job("qwen2.5-7b")[2] and not gpu_job("qwen2.5-7b", rank)[2], "all-linear"


def test_several_policies_wait_in_host_memory(gpu_job):
    config, _, problems = gpu_job("qwen2.5-1.5b", "ccpo.policies=per_role")
    assert not problems
    assert chosen(config)["offload"] is True and config.actor_rollout_ref.actor.fsdp_config.optimizer_offload is True
    assert chosen(config)["share"] > 0.8


def test_what_is_set_stays(gpu_job):
    config, _, problems = gpu_job(
        "qwen2.5-1.5b",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=7000",
        "actor_rollout_ref.model.enable_gradient_checkpointing=true",
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.3",
        "actor_rollout_ref.rollout.max_num_seqs=7",
        "actor_rollout_ref.rollout.max_model_len=7000",
        "actor_rollout_ref.actor.fsdp_config.param_offload=true",
        "actor_rollout_ref.model.override_config.attn_implementation=sdpa",
    )
    assert not problems
    assert chosen(config) == {
        "pack": 7000,
        "checkpointing": True,
        "share": 0.3,
        "requests": 7,
        "context": 7000,
        "offload": True,
        "attention": "sdpa",
    }


def test_a_model_that_packed_attention_does_not_know_gets_sdpa_and_a_note(gpu_job):
    model = transformers.LlamaConfig(
        hidden_size=80, num_attention_heads=4, num_hidden_layers=2, intermediate_size=64, vocab_size=99
    )
    config, lines, problems = gpu_job(model)
    assert not problems and chosen(config)["attention"] == "sdpa" and chosen(config)["pack"] == fit.LARGEST_SDPA_PACK
    assert "multiple of 8" in lines[-1]
    _, _, problems = gpu_job(model, "actor_rollout_ref.model.override_config.attn_implementation=torch_varlen")
    assert "multiple of 8" in problems[0] and "set sdpa" in problems[0]


def test_an_engine_without_room_is_refused(gpu_job):
    _, _, problems = gpu_job("qwen2.5-1.5b", "actor_rollout_ref.rollout.gpu_memory_utilization=0.05")
    assert "rollout engines do not fit" in problems[0] and "gpu_memory_utilization=0.05" in problems[0]


def test_a_share_of_a_gpu_is_planned_as_a_smaller_gpu_and_given_to_vllm_in_whole_ones(gpu_job):
    """Two jobs of half a GPU each take no more than one."""
    whole, half = (
        gpu_job("qwen2.5-0.5b", "data.train_batch_size=4", *more, gpu=size)
        for more, size in (((), H100 / 2), (("ccpo.gpu_share=0.5",), H100))
    )
    assert half[2] == [] and "ccpo.gpu_share=0.5 of 79.2" in half[1][0]
    assert half[1][-1] == whole[1][-1] and half[1][1:5] == whole[1][1:5], (
        "the same plan, but for rounding of vLLM's share"
    )
    (alone, shared) = (chosen(config) for config, _, _ in (whole, half))
    assert shared.pop("share") == pytest.approx(alone.pop("share") / 2, abs=1e-3)
    assert shared == alone
    _, _, problems = gpu_job("qwen2.5-1.5b", "ccpo.gpu_share=0.1")
    assert "the model does not fit" in problems[0]


@pytest.mark.parametrize("policies, engines", [("shared", 1), ("per_role", 2)])
def test_beside_other_jobs_an_engine_is_told_its_cache(gpu_job, policies, engines):
    """vLLM's own trial ends with an assertion where another job frees memory meanwhile."""
    whole, part = (
        gpu_job("qwen2.5-0.5b", f"ccpo.policies={policies}", f"ccpo.gpu_share={share}")[0] for share in (1, 0.5)
    )
    name = "actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes"
    assert OmegaConf.select(whole, name) is None, "alone on the GPU vLLM measures it"
    shape = memory.shape_of(config_of("qwen2.5-0.5b"))
    cache = OmegaConf.select(part, name)
    assert engines * memory.engine(shape, 1, cache / shape.kv) == pytest.approx(chosen(part)["share"] * H100, rel=1e-6)
    config, _, _ = gpu_job("qwen2.5-0.5b", "ccpo.gpu_share=0.5", f"+{name}=1000000000")
    assert OmegaConf.select(config, name) == 1_000_000_000, "what is set stays"


def test_engines_of_different_models_get_caches_that_fit_beside_all_their_weights(gpu_job, tmp_path):
    """Half of the share each would leave the larger model a byte, at which vLLM does not start."""
    config_of("qwen2.5-3b").save_pretrained(tmp_path / "other")
    more = (f"+ccpo.roles.reason.model={tmp_path / 'other'}", "ccpo.policies=per_role", "ccpo.gpu_share=0.9")
    more += ("actor_rollout_ref.rollout.gpu_memory_utilization=0.18",)
    config, _, problems = gpu_job(SMOLLM2, *more)
    assert not any("engines do not fit" in problem for problem in problems)
    cache = OmegaConf.select(config, "actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes")
    weights = sum(memory.engine(memory.shape_of(one), 1, 0) for one in (SMOLLM2, config_of("qwen2.5-3b")))
    assert cache > memory.GIB / 2 and 2 * cache + weights == pytest.approx(0.18 * H100, rel=1e-6)


def test_long_rows_count(gpu_job):
    _, _, problems = gpu_job("qwen2.5-3b", "data.max_response_length=200000")
    assert any("shorter rows" in problem for problem in problems)


@pytest.mark.parametrize(
    "broken", ["actor_rollout_ref.model.path=/nowhere/at/all", "ccpo.team=no_such_team", "data.train_batch_size=x"]
)
def test_a_broken_configuration_is_left_to_the_checks(compose, monkeypatch, broken):
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # or it asks for the default model, again and again
    config = compose("profile=gpu", broken)
    assert fit.settle(config, H100) == ([], [])
    assert None not in chosen(config).values() or chosen(config)["context"] is None


def test_a_job_without_a_gpu_has_no_plan(compose):
    config = compose("profile=cpu", "task=last_digit")
    before = OmegaConf.to_yaml(config)
    assert fit.settle(config) == ([], []) and OmegaConf.to_yaml(config) == before


def test_no_plan_is_a_promise_that_is_broken_by_one_token(gpu_job):
    """At the pack that was chosen the update fits; so does one row, or the job is refused."""
    for name in SHAPES:
        for gpu in (24, 40, 48, 80):
            config, _, problems = gpu_job(name, gpu=gpu * memory.GIB)
            if problems:
                continue
            found, shape = chosen(config), memory.shape_of(config_of(name))
            peak = memory.update(shape, 1, found["pack"], found["checkpointing"])
            assert peak + memory.OUTSIDE <= memory.USABLE * gpu * memory.GIB + 1
            resting = 0 if found["offload"] else memory.resting(shape, 1)
            assert found["share"] * gpu * memory.GIB + resting + memory.OUTSIDE <= 0.95 * gpu * memory.GIB


def test_where_the_gpu_is_not_known_a_share_of_it_stays_a_share(gpu_job, monkeypatch):
    monkeypatch.setattr(fit, "gpu_bytes", lambda: 1 / 0)
    for part, engines in ((1, 0.5), (0.25, 0.125), ("half", 0.5)):
        config, _, _ = gpu_job("qwen2.5-0.5b", f"ccpo.gpu_share={part}", gpu=None)
        assert chosen(config)["share"] == engines


def test_the_first_gpu_is_found_by_its_number_or_name(monkeypatch):
    found = []
    library = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=found.append,
        nvmlDeviceGetHandleByUUID=found.append,
        nvmlDeviceGetMemoryInfo=lambda _: types.SimpleNamespace(total=H100),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    for visible in ("1,0", " 1, 0", "MIG-a", ""):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert fit.gpu_bytes() == H100
    assert found == [1, 1, "MIG-a", 0]
