"""Mistakes in verl's settings and in ours: each is named, with its setting, before Ray starts."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf, open_dict  # noqa: E402

from ccpo.config import CcpoConfig, ConfigError  # noqa: E402
from ccpo.verl_plugin import lookups, relations, resources, values  # noqa: E402

NAN, INF = math.nan, math.inf
ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
NO_NUMBER = ("abc", None, True, [1], {"a": 1}, NAN)
NO_COUNT = (*NO_NUMBER, 1.5, "8", INF, -INF)
MISTAKES: dict[str, tuple] = {  # setting -> values that are wrong for it
    "data.train_batch_size": (0, -1, *NO_COUNT),
    "data.gen_batch_size": (0, -4, 2.5, "x", True),
    "data.val_batch_size": (0, -1, 2.5, "all"),
    "data.max_prompt_length": (0, -5, *NO_COUNT),
    "data.max_response_length": (0, -5, *NO_COUNT),
    "data.train_max_samples": (0, -2, 1.5, "all", None),
    "data.val_max_samples": (0, -2, 1.5, "all", None),
    "data.seed": (-1, 1.5, "seven", 2**32, True),
    "data.shuffle": ("flase", "no", 1, None),
    "data.dataloader_num_workers": (-1, 0.5, "two", None),
    "data.filter_overlong_prompts": ("yes", 0, None),
    "data.filter_overlong_prompts_workers": (0, -1, 1.5),
    "data.truncation": ("top", "Left", 3),
    "data.prompt_key": (3, ["prompt"]),
    "data.train_fils": ("x.parquet",),
    "seed": (-1, "x", 1.5, None, 2**32),
    f"{ACTOR}.optim.lr": (-1, 1e6, 3, INF, "1e-6x", *NO_NUMBER),
    f"{ACTOR}.optim.lrr": (1,),
    f"{ACTOR}.optim.learning_rate": (1e-6,),
    f"{ACTOR}.optim.weight_decay": (-0.1, NAN, INF, "x", None),
    f"{ACTOR}.optim.betas": ([], [0.9], [0.9, 0.9, 0.9], [0.9, 1.0], [-0.1, 0.9], [0.9, NAN], 0.9, "x"),
    f"{ACTOR}.optim.lr_warmup_steps": (-2, 1.5, "ten"),
    f"{ACTOR}.optim.lr_warmup_steps_ratio": (-0.1, 1.5, "x", None),
    f"{ACTOR}.optim.lr_scheduler_type": ("linear", "cosin", 3, None),
    f"{ACTOR}.optim.clip_grad": (0, -1, NAN, "x", None),
    f"{ACTOR}.optim.min_lr_ratio": (-0.1, 1.1, "x"),
    f"{ACTOR}.optim.total_training_steps": (0, -2, 1.5),
    f"{ACTOR}.strategy": ("fsdp3", "ddp", "deepspeed", None, 2),
    f"{ACTOR}.ppo_mini_batch_size": (0, -1, *NO_COUNT),
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": (0, -1, 1.5, "x"),
    f"{ACTOR}.ppo_micro_batch_size": (0, -1, 1.5),
    f"{ACTOR}.ppo_max_token_len_per_gpu": (0, -1, *NO_COUNT),
    f"{ACTOR}.use_dynamic_bsz": ("flase", "True", 1, None),
    f"{ACTOR}.ppo_epochs": (0, -1, 0.5, "x", None),
    f"{ACTOR}.clip_ratio": (-0.2, NAN, INF, "x", None),
    f"{ACTOR}.clip_ratio_low": (-0.2, NAN, "x", None),
    f"{ACTOR}.clip_ratio_high": (-0.2, NAN, "x", None),
    f"{ACTOR}.clip_ratio_c": (0.5, 1.0, NAN, "x", None),
    f"{ACTOR}.loss_agg_mode": ("token_mean", "mean", "", None, 3),
    f"{ACTOR}.policy_loss.loss_mode": ("vanila", "ppo", None),
    f"{ACTOR}.policy_loss.lossmode": ("gspo",),
    f"{ACTOR}.entropy_coeff": (NAN, INF, "x", None, True),
    f"{ACTOR}.use_kl_loss": ("flase", 0, None),
    f"{ACTOR}.kl_loss_coef": (-0.001, NAN, "x", None),
    f"{ACTOR}.kl_loss_type": ("low_var", "k4", "full", 1, None),
    f"{ACTOR}.grad_clip": (0, -1, "x"),
    f"{ACTOR}.shuffle": ("yes", 1),
    f"{ACTOR}.data_loader_seed": (-1, 1.5, "x"),
    f"{ACTOR}.checkpoint.save_contents": (["model", "optimiser", "extra"], "model", 3, None),
    f"{ACTOR}.checkpoint.load_contents": (["model", "optimiser", "extra"], "model"),
    f"{ACTOR}.fsdp_config.model_dtype": ("fp8", "float", 32, None),
    f"{ACTOR}.fsdp_config.dtype": ("fp8", "bfloat"),
    f"{ACTOR}.fsdp_config.param_offload": ("flase", 1),
    f"{ACTOR}.fsdp_config.fsdp_size": (0, -2, 1.5, "all"),
    f"{ACTOR}.fsdp_config.mixed_precision.param_dtype": ("fp8",),
    f"{ACTOR}.fsdp_config.offload": (True,),
    f"{ACTOR}.optim": (5, "AdamW", None),
    f"{ACTOR}.policy_loss": ("gspo",),
    f"{ROLLOUT}.temperature": (0, -1, INF, 1e-9, 1e9, *NO_NUMBER),
    f"{ROLLOUT}.top_p": (0, 1e-9, -0.5, 1.1, NAN, "x", None),
    f"{ROLLOUT}.top_k": (-2, 1, 1.5, "all", None),
    f"{ROLLOUT}.mode": ("sync", "asynch", ""),
    f"{ROLLOUT}.load_format": ("foo", "Dummy"),
    f"{ROLLOUT}.quantization": ("foo", "fp9"),
    f"{ROLLOUT}.logprobs_mode": ("foo", "raw_logits"),
    f"{ROLLOUT}.scheduling_policy": ("foo", "FCFS"),
    f"{ROLLOUT}.checkpoint_engine.backend": ("foo", "nccl"),
    "reward.reward_manager.name": ("foo", "Naive"),
    "transfer_queue.backend.storage_backend": ("foo", "simplestorage"),
    "data.custom_cls.path": ("a\0b",),
    f"{ROLLOUT}.dtype": ("fp8", "bfloat61", 16, None),
    f"{ROLLOUT}.gpu_memory_utilization": (0, -0.1, 1.1, 50, NAN, "x", None),
    f"{ROLLOUT}.tensor_model_parallel_size": (0, -1, 1.5, "x", None),
    f"{ROLLOUT}.max_model_len": (0, -1, 1.5, "x"),
    f"{ROLLOUT}.max_num_seqs": (0, -1, 1.5, "x", None),
    f"{ROLLOUT}.max_num_batched_tokens": (0, -1, 1.5, "x", None),
    f"{ROLLOUT}.enforce_eager": ("flase", 1),
    f"{ROLLOUT}.free_cache_engine": ("flase", 0),
    f"{ROLLOUT}.val_kwargs.temperature": (-1, NAN, "x", None),
    f"{ROLLOUT}.val_kwargs.top_p": (0, 1.5, NAN, None),
    f"{ROLLOUT}.val_kwargs.n": (0, -1, 1.5, "x", None),
    f"{ROLLOUT}.val_kwargs.do_sample": ("yes", 1),
    f"{ROLLOUT}.val_kwargs.temprature": (1.0,),
    f"{ROLLOUT}.agent.num_workers": (0, -1, 1.5, "x", None),
    f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes": (0, -1, "x", None),
    f"{ROLLOUT}.seed": (-1, 1.5, "x"),
    f"{ROLLOUT}.nnodes": (1, -1),
    f"{ROLLOUT}.temprature": (0.7,),
    f"{ROLLOUT}.max_tokens": (100,),
    f"{MODEL}.path": (None, "", 5),
    f"{MODEL}.enable_gradient_checkpointing": ("flase", 1, None),
    f"{MODEL}.use_remove_padding": ("flase", 1),
    f"{MODEL}.lora_rank": (-1, 1.5, "x", None),
    f"{MODEL}.trust_remote_code": ("yes", 1),
    f"{MODEL}.fused_kernel_options.impl_backend": ("cuda",),
    f"{MODEL}.pth": ("x",),
    "actor_rollout_ref.nccl_timeout": (0, -1, "x", None),
    "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": (0, -1, 1.5),
    "actor_rollout_ref.reff.strategy": ("fsdp",),
    "algorithm.gamma": (-0.1, 1.1, NAN, "x", None),
    "algorithm.lam": (-0.1, 1.1, "x"),
    "algorithm.kl_penalty": ("kl4", "full", None),
    "algorithm.kl_ctrl.kl_coef": (-0.1, NAN, "x", None),
    "algorithm.kl_ctrl.type": ("adaptiv", None),
    "algorithm.rollout_correction.rollout_is": ("tokens",),
    "algorithm.rollout_correction.bypass_mode": ("flase", 1),
    "algorithm.adv_estimatr": ("ccpo",),
    "algorithm.use_kl_in_rewards": (True,),
    "reward.num_workers": (0, -1, 1.5, "x", None),
    "reward.num_worker": (1,),
    "trainer.total_epochs": (0, -1, 1.5, "x", None, NAN),
    "trainer.total_training_steps": (0, -1, 1.5, "x", True),
    "trainer.nnodes": (0, -1, 1.5, "x", None),
    "trainer.n_gpus_per_node": (0, -1, 1.5, "x", None),
    "trainer.save_freq": (0, -2, 1.5, "often", None, True),
    "trainer.test_freq": (0, -2, 1.5, "often", None),
    "trainer.logger": (["console", "tensorbord"], "wandbb", 3, None),
    "trainer.device": ("tpu", "gpu", None),
    "trainer.val_before_train": ("flase", "no", 1, None),
    "trainer.val_only": ("yes", 1),
    "trainer.max_actor_ckpt_to_keep": (0, -1, 1.5, "x"),
    "trainer.log_val_generations": (-1, "x", None),
    "trainer.critic_warmup": (5, -1),
    "trainer.project_name": ("", None, 3),
    "trainer.experiment_name": ("", 3),
    "trainer.balance_batch": ("flase", 1),
    "trainer.total_step": (10,),
    "trainer.savefreq": (10,),
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": (0, -1, 1.5, "x"),
    "ray_kwargs.ray_init.num_cpus": (0, -1, 1.5, "x"),
    "ray_kwargs.ray_init.num_gpus": (-1, "x"),
    "ray_kwargs.ray_init.object_store_memory": (1, 0, -1, 10**7, "1GB"),
    "ray_kwargs.ray_init.adress": ("auto",),
    "ray_kwargs.ray_init.foo": (5,),
    "ray_kwargs.ray_init._sytem_config": ({},),
    "ray_kwargs.ray_int.num_cpus": (8,),
    "actor_rolout_ref.actor.optim.lr": (1e-6,),
    "trainr.total_epochs": (3,),
}  # fmt: skip
CASES = [
    pytest.param(name, value, id=f"{name}={value}" if value != "" else f"{name}=''")
    for name, wrong in MISTAKES.items()
    for value in wrong
]
COMBINATIONS: tuple[tuple[str, dict], ...] = (  # what is named; settings that are fine one by one
    ("ppo_mini_batch_size", {f"{ACTOR}.ppo_mini_batch_size": 17}),
    ("data.gen_batch_size", {"data.gen_batch_size": 8}),
    ("ppo_micro_batch_size_per_gpu", {f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 128}),
    ("ppo_micro_batch_size_per_gpu", {f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 5}),
    ("ppo_micro_batch_size", {f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size": 4}),
    ("rollout.max_model_len", {f"{ROLLOUT}.max_model_len": 95}),
    ("rollout.max_model_len", {f"{ROLLOUT}.max_model_len": 2048, "data.max_response_length": 4096}),
    ("ppo_max_token_len_per_gpu", {f"{ACTOR}.ppo_max_token_len_per_gpu": 95}),
    ("rollout.log_prob_max_token_len_per_gpu", {f"{ROLLOUT}.log_prob_max_token_len_per_gpu": 95}),
    ("ref.log_prob_max_token_len_per_gpu", {"actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": 95, f"{ACTOR}.use_kl_loss": True}),
    ("rollout.prompt_length", {f"{ROLLOUT}.prompt_length": 40}),
    ("rollout.response_length", {f"{ROLLOUT}.response_length": 40}),
    ("max_num_batched_tokens", {f"{ROLLOUT}.name": "vllm", f"{ROLLOUT}.enable_chunked_prefill": False, f"{ROLLOUT}.max_num_batched_tokens": 95}),
    ("tensor_model_parallel_size", {f"{ROLLOUT}.tensor_model_parallel_size": 2}),
    ("data_parallel_size", {"trainer.n_gpus_per_node": 4, f"{ROLLOUT}.data_parallel_size": 3}),
    ("ulysses_sequence_parallel_size", {f"{ACTOR}.ulysses_sequence_parallel_size": 2}),
    ("fsdp_size", {"trainer.n_gpus_per_node": 4, f"{ACTOR}.fsdp_config.fsdp_size": 3}),
    ("trainer.use_v1", {"trainer.use_v1": False}),
    ("hybrid_engine", {"actor_rollout_ref.hybrid_engine": False}),
    ("critic.enable", {"critic.enable": True}),
    ("data.prompt_key", {"data.prompt_key": "question"}),
    ("algorithm.use_pf_ppo", {"algorithm.use_pf_ppo": True}),
    ("fsdp_config.forward_only", {f"{ACTOR}.fsdp_config.forward_only": True}),
    ("rollout.ignore_eos", {f"{ROLLOUT}.ignore_eos": True}),
    ("ccpo.seed", {f"{ROLLOUT}.name": "vllm", f"{ROLLOUT}.full_determinism": True, "ccpo.seed": None}),
    ("rollout.multi_turn.enable", {f"{ROLLOUT}.multi_turn.enable": True}),
    ("reward.custom_reward_function.path='mine.py'", {"reward.custom_reward_function.path": "mine.py"}),
    ("reward.reward_manager.source='importlib'", {"reward.reward_manager.source": "importlib"}),
    ("reward.reward_manager.name='dapo'", {"reward.reward_manager.name": "dapo"}),
    ("reward.reward_manager.module.path='m.py'", {"reward.reward_manager.module.path": "m.py"}),
    ("reward.sandbox_fusion.url='http://s'", {"reward.sandbox_fusion.url": "http://s"}),
    ("reward.reward_model.model_path='org/rm'", {"reward.reward_model.model_path": "org/rm"}),
    ("custom_reward_function.path='mine.py'", {"custom_reward_function.path": "mine.py"}),
    ("reward_model.enable=True", {"reward_model.enable": True}),
    ("sandbox_fusion.url='http://s'", {"sandbox_fusion.url": "http://s"}),
    ("set ccpo.reward=path/to/file.py:function", {"reward.custom_reward_function": {"path": "mine.py", "name": "score"}}),
    ("custom_sampler.name", {"trainer.v1.sampler.custom_sampler.name": "ReplayBuffer"}),
    ("trainer.val_only", {"trainer.val_only": True, "trainer.val_before_train": False}),
    ("model.lora.rank", {f"{MODEL}.lora.rank": 8}),
    ("lora_adapter_path", {f"{MODEL}.lora_adapter_path": "/adapter"}),
    ("model.lora.merge", {f"{MODEL}.lora_rank": 8, f"{MODEL}.lora.merge": False}),
)  # fmt: skip
VERLS_OWN: tuple[tuple[str, dict], ...] = (
    ("ppo_micro_batch_size", {f"{ACTOR}.use_dynamic_bsz": False}),
    ("log_prob_micro_batch_size", {f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 4}),
    ("expert_parallel_size", {f"{ROLLOUT}.expert_parallel_size": 2}),
)
OF_CCPO: dict[str, tuple] = {
    "session_timeout": (0, -1, INF, 8000, 1e-12, *NO_NUMBER),
    "stall_timeout": (0, -1, INF, 100, 1, 1e9, *NO_NUMBER),
    "poll_interval": (0, -1, 2000, 1799, 1e-12, *NO_NUMBER),
    "max_dropped_rate": (-0.1, 1.5, *NO_NUMBER),
    "keep_sessions": (-1, 10**9, 1.5, "x", True, None),
    "keep_sessions_mb": (0, -1, 1e9, *NO_NUMBER),
    "gpu_share": (0, -0.5, 1.01, 33, INF, *NO_NUMBER),
    "seed": ("x", 1.5, True, -1, 10**30),
    "network": ("abc", "", "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/7", "::/0", "fc00::/7"),
    "policies": ("per_rol", None, 3),
    "credit.rule": ("grpo", None, 3),
    "credit.alpha": (*NO_NUMBER,),
    "credit.resamples": (0, 1.5, "x", None),
    "credit.train_replays": ("flase", 1, None),
    "history.decay": (-0.1, 1.0, 1.5, *NO_NUMBER),
    "history.floor": (-1, 1.5, 1e9, *NO_NUMBER),
    "schedule.every": (0, 1.5, "x", None),
    "schedule.mode": ("alternat", None),
    "validation_replays": (["remov"], 3),
    "team": ("dayd", None, 3),
    "prompts": ("maths", None, 3),
    "credit": (3, None),
    "sed": (1,),
}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tree(_cpu_config):
    return OmegaConf.to_container(pickle.loads(_cpu_config), resolve=True)


def with_value(tree: dict, name: str, value: object) -> dict:
    node = changed = copy.deepcopy(tree)
    *path, last = name.split(".")
    for key in path:
        node = node.setdefault(key, {})
    node[last] = value
    return changed


def with_settings(config, settings: dict):
    with open_dict(config):
        for name, value in settings.items():
            OmegaConf.update(config, name, value, merge=False, force_add=True)
    return config


def test_there_are_many():
    assert len(CASES) + len(COMBINATIONS) + len(VERLS_OWN) + sum(map(len, OF_CCPO.values())) > 400


@pytest.mark.parametrize("name, value", CASES)
def test_a_value_that_cannot_be_right_is_named(tree, name, value):
    (found,) = values.problems_of(with_value(tree, name, value))
    assert name.startswith(found.split(" is ")[0].split(" has ")[0]), found


def test_values_that_are_unusual_and_right(tree):
    for name, value in {
        f"{ACTOR}.optim.clip_grad": INF,
        f"{ACTOR}.optim.lr": 0,
        f"{ACTOR}.optim.lr_warmup_steps": 0,
        f"{ACTOR}.entropy_coeff": -0.1,
        f"{ACTOR}.clip_ratio_high": 10,
        f"{ACTOR}.optim.override_optimizer_config": {"eps": 1e-6},
        f"{ACTOR}.loss_scale_factor": 512,
        f"{ROLLOUT}.val_kwargs.temperature": 0,
        f"{ROLLOUT}.engine_kwargs.vllm": {"disable_mm_preprocessor_cache": True},
        f"{MODEL}.override_config": {"attn_implementation": "sdpa", "model_config": {}},
        f"{MODEL}.lora_rank": 8,
        f"{MODEL}.target_modules": ["q_proj"],
        "algorithm.filter_groups": None,
        "algorithm.rollout_correction.rollout_is": "token",
        "algorithm.rollout_correction.rollout_is_threshold": "0.5_5.0",
        "data.train_files": ["a.parquet", "b.parquet"],
        "data.custom_cls": {"path": "mine.py", "name": "Mine"},
        "data.apply_chat_template_kwargs": {"enable_thinking": False},
        "data.seed": None,
        "trainer.logger": "console",
        "trainer.total_training_steps": None,
        "trainer.max_actor_ckpt_to_keep": None,
        "trainer.save_freq": -1,
        "trainer.esi_redundant_time": 0.5,
        "ray_kwargs.ray_init": {
            "address": "auto",
            "runtime_env": {"env_vars": {"A": "1"}},
            "_temp_dir": "x",
            "log_to_driver": False,
        },
        f"{ROLLOUT}.top_k": 0,
        f"{ROLLOUT}.top_p": 0.5,
        f"{ROLLOUT}.val_kwargs.top_k": 1,
        f"{ROLLOUT}.load_format": "auto",
        f"{ROLLOUT}.quantization": None,
        "transfer_queue.controller": {"polling_mode": True},
    }.items():
        assert values.problems_of(with_value(tree, name, value)) == [], name
    own_dataset = with_value(tree, "data.custom_cls", {"path": "mine.py", "name": "Mine"})
    assert values.problems_of(with_value(own_dataset, "data.my_column", "x")) == []


def test_a_setting_of_the_users_own_that_others_refer_to_is_no_mistake(cpu_config):
    with_settings(cpu_config, {"rate": 1e-4, "other": 3})
    cpu_config.actor_rollout_ref.actor.optim.lr = "${rate}"
    (found,) = values.problems(cpu_config)
    assert found.startswith("other is not a setting")


@pytest.mark.parametrize("name, settings", COMBINATIONS)
def test_settings_that_do_not_fit_each_other_are_named(cpu_config, name, settings):
    assert values.problems(with_settings(cpu_config, settings)) == [], "each is fine by itself"
    assert any(name in text for text in relations.problems(cpu_config))


@pytest.mark.parametrize("name, settings", VERLS_OWN)
def test_what_verl_itself_refuses_is_named(cpu_config, name, settings):
    with_settings(cpu_config, settings)
    assert values.problems(cpu_config) == []
    assert any(name in text and "verl refuses it" in text for text in values.verls_own_problems(cpu_config))


@pytest.mark.parametrize("name, value", [(name, value) for name, wrong in OF_CCPO.items() for value in wrong])
def test_a_mistake_in_the_ccpo_node_is_named(tree, name, value):
    with pytest.raises(ConfigError, match=f"ccpo.*{name.split('.')[-1]}"):
        CcpoConfig.from_dict(with_value(tree, f"ccpo.{name}", value)["ccpo"], 4)


# ---------------------------------------------------------------------------------------------------------- look-ups


@pytest.fixture
def own(tmp_path):
    """A user's own module."""
    (tmp_path / "mine.py").write_text(
        "from torch.utils.data import Dataset\nclass Mine(Dataset): pass\nclass Other: pass\n"
    )
    (tmp_path / "broken.py").write_text("raise RuntimeError('no luck')\n")
    (tmp_path / "router.yaml").write_text("router_class: no.such.Router\n")
    for name, more in (("plain", ""), ("odd", ', "use_rslora": true, "rank_pattern": {"q_proj": 2}'), ("broken", "]")):
        (tmp_path / name).mkdir()
        text = f'{{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]{more}}}'
        (tmp_path / name / "adapter_config.json").write_text(text)
    return tmp_path


LOOKUPS: tuple[tuple[dict, str], ...] = (
    ({f"{ACTOR}.optim.optimizer": "AdamWW"}, "torch.optim.AdamWW cannot be made"),
    ({f"{ACTOR}.optim.optimizer_impl": "no.such"}, "optim.optimizer_impl is 'no.such': there is no such module"),
    ({f"{ACTOR}.optim.override_optimizer_config": {"foo": 1}}, "cannot be made (TypeError"),
    ({"data.custom_cls": {"path": "/nope.py", "name": "Mine"}}, "data.custom_cls: Mine of /nope.py cannot be loaded (FileNotFoundError"),
    ({"data.custom_cls": {"path": "OWN/mine.py", "name": "Mime"}}, "Mime of"),
    ({"data.custom_cls": {"path": "OWN/mine.py", "name": "Other"}}, "must inherit"),
    ({"data.custom_cls": {"path": "OWN/broken.py", "name": "Mine"}}, "cannot be loaded"),
    ({"data.custom_cls": {"path": "pkg://no.such", "name": "Mine"}}, "No module named"),
    ({"data.custom_cls": {"path": None, "name": "Mine"}}, "data.custom_cls.name is 'Mine', and without"),
    ({f"{MODEL}.external_lib": "no.such"}, "external_lib has 'no.such': there is no such module"),
    ({f"{MODEL}.external_lib": ["math", "no_such"]}, "external_lib has 'no_such'"),
    ({f"{MODEL}.override_config": {"attn_implementation": "spda"}}, "did you mean sdpa?"),
    ({f"{MODEL}.override_config": {"attn_implementation": 5}}, "attn_implementation is 5: set text"),
    ({f"{MODEL}.override_config": {"attn_implementation": "flash_attention_2"}}, "whose package is not installed: set sdpa"),
    ({f"{MODEL}.override_config": {"attn_implementation": "flash_attention_3"}}, "whose package is not installed: set sdpa"),
    ({f"{MODEL}.override_config": {}}, "attn_implementation is not set, and verl takes flash_attention_2"),
    ({f"{MODEL}.override_config": {"attn_implementation": "kernels-community/flash-attn"}}, "needs the package kernels"),
    ({f"{MODEL}.lora_adapter_path": "/nope"}, "lora_adapter_path is '/nope': there is no such folder"),
    ({f"{MODEL}.lora_adapter_path": "OWN/odd", f"{MODEL}.lora_rank": 8}, "which has use_rslora, rank_pattern: verl's checkpoints keep"),
    ({f"{MODEL}.lora_adapter_path": "OWN/broken", f"{MODEL}.lora_rank": 8}, "adapter_config.json cannot be read (JSONDecodeError"),
    ({f"{MODEL}.lora_adapter_path": "OWN", f"{MODEL}.lora_rank": 8}, "adapter_config.json cannot be read ("),
    ({f"{MODEL}.lora_adapter_path": "OWN/plain", f"{MODEL}.lora_rank": 4}, "of rank 8, and actor_rollout_ref.model.lora_rank is 4"),
    ({f"{MODEL}.target_modules": ["q_prj"], f"{MODEL}.lora_rank": 4}, "target_modules is ['q_prj']: a LoRA adapter cannot be put on"),
    ({f"{ROLLOUT}.router_config_path": "/nope.yaml"}, "router_config_path=/nope.yaml cannot be used (FileNotFoundError"),
    ({f"{ROLLOUT}.router_config_path": "OWN/router.yaml"}, "Failed to import module 'no.such'"),
    ({"trainer.v1.sampler.custom_sampler.path": "mine.py"}, "custom_sampler.path is 'mine.py', which leads to no module"),
    ({"trainer.v1.sampler.custom_sampler.path": "pkg://no.such"}, "which leads to no module"),
    ({f"{ROLLOUT}.agent.agent_loop_manager_class": "foo.Bar"}, "agent.agent_loop_manager_class is 'foo.Bar', which cannot be loaded"),
)  # fmt: skip


@pytest.mark.parametrize("settings, says", LOOKUPS, ids=[says for _, says in LOOKUPS])
def test_a_name_that_leads_nowhere_is_named(cpu_config, own, monkeypatch, settings, says):
    monkeypatch.setattr("transformers.utils.import_utils.is_kernels_available", lambda: False)
    monkeypatch.setattr("transformers.utils.import_utils.is_flash_attn_2_available", lambda: False)
    monkeypatch.setattr("transformers.utils.import_utils.is_flash_attn_3_available", lambda: False)
    text = OmegaConf.to_yaml(OmegaConf.create(settings)).replace("OWN", str(own))
    (found,) = lookups.problems(with_settings(cpu_config, OmegaConf.to_container(OmegaConf.create(text))))
    assert says in found


def test_names_that_lead_somewhere(cpu_config, own):
    for settings in (
        {"data.custom_cls": {"path": str(own / "mine.py"), "name": "Mine"}},
        {f"{MODEL}.override_config": {"attn_implementation": "eager"}},
        {f"{MODEL}.override_config": {"attn_implementation": "flex_attention"}},
        {f"{MODEL}.override_config": {"attn_implementation": "torch_varlen"}, f"{MODEL}.external_lib": "ccpo.verl_gpu.workers"},
        {f"{ACTOR}.optim.optimizer": "SGD"},
        {f"{MODEL}.lora_adapter_path": str(own / "plain"), f"{MODEL}.lora_rank": 8},
        {f"{MODEL}.lora_rank": 4, f"{MODEL}.target_modules": ["q_proj"]},
        {f"{MODEL}.lora_rank": 4, f"{MODEL}.path": "/no/model"},
        {f"{ROLLOUT}.router_config_path": str(ROOT / "recipe/config/router.yaml")},
        {f"{ROLLOUT}.agent.agent_loop_manager_class": "verl.trainer.ppo.v1.AgentLoopManagerTQ"},
    ):  # fmt: skip
        assert lookups.problems(with_settings(copy.deepcopy(cpu_config), settings)) == [], settings


def test_every_key_of_rays_start_is_known():
    """Ray takes some out of **kwargs, which no signature shows."""
    import inspect
    import re

    import ray

    popped = re.findall(r'kwargs\.pop\("(\w+)"', inspect.getsource(inspect.unwrap(ray.init)))
    assert len(popped) > 5 and set(popped) == set(values.RAYS_HIDDEN_KEYS)


# ---------------------------------------------------------------------------------------------------------- Ray's slots


@pytest.mark.parametrize(
    "settings, says",
    [
        (
            {"ray_kwargs.ray_init.num_cpus": 1},
            "ray_kwargs.ray_init.num_cpus is 1, and the job's processes are placed on 6",
        ),
        ({"ray_kwargs.ray_init.num_cpus": 5}, "set at least 6"),
        ({"ray_kwargs.ray_init.num_gpus": 0}, "ray_kwargs.ray_init.num_gpus is 0, and trainer.n_gpus_per_node is 1"),
        ({f"{ROLLOUT}.name": "vlm"}, "there is no such engine; allowed: "),
        ({f"{ROLLOUT}.name": None}, "there is no such engine"),
        ({f"{ROLLOUT}.name": "sglang"}, "sglang is not installed"),
        ({f"{ROLLOUT}.name": "mine", f"{MODEL}.external_lib": "no.such.module"}, "no.such.module cannot be imported"),
        (
            {"ray_kwargs.ray_init.object_store_memory": 10**15},
            "object_store_memory is 1000000000000000, and this machine has",
        ),
        ({f"{ROLLOUT}.agent.num_workers": 10**6}, "agent.num_workers is 1000000, each a process of 200 MB and more"),
        ({"reward.num_workers": 10**6}, "reward.num_workers is 1000000, each a process"),
        ({"data.dataloader_num_workers": 10**6}, "data.dataloader_num_workers is 1000000, each a process"),
    ],
)
def test_what_this_machine_cannot_place_or_run_is_named(cpu_config, settings, says):
    (found,) = resources.problems(with_settings(cpu_config, settings))
    assert says in found


def test_a_ray_that_is_too_small_is_named_before_anything_waits(cpu_config):
    def node(cpus, gpus, alive=True):
        return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}}

    resources.check_cluster(cpu_config, [node(6, 1)], "GPU")
    with pytest.raises(ConfigError, match="placed on 6 CPUs"):
        resources.check_cluster(cpu_config, [node(5, 1)], "GPU")
    cpu_config.trainer.nnodes, cpu_config.trainer.n_gpus_per_node = 2, 2
    resources.check_cluster(cpu_config, [node(9, 2), node(9, 2), node(1, 0)], "GPU")
    resources.check_cluster(cpu_config, [node(6, 2), node(9, 2), node(9, 2)], "GPU")
    with pytest.raises(ConfigError, match="3 of the job's processes come to any node .* start Ray with 9 on each"):
        resources.check_cluster(cpu_config, [node(6, 2), node(9, 2), node(1, 0)], "GPU")
    for nodes in (
        [node(20, 4)],
        [node(20, 2), node(5, 2)],
        [node(20, 2), node(20, 1)],
        [node(9, 2), node(9, 2, False)],
        [],
    ):
        with pytest.raises(ConfigError, match="trainer.nnodes=2 and trainer.n_gpus_per_node=2 need 2 node"):
            resources.check_cluster(cpu_config, nodes, "GPU")
