"""Values of verl's settings that cannot be right, found before anything starts.

What is known about a setting comes from where verl itself says it, and only the rest stands here:

    which settings there are         verl's shipped configuration and the fields of its dataclasses
    what kind a value is             the annotation of the field, or the kind of verl's own value
    RANGES                           numbers: the interval, and why
    CHOICES                          names: verl's registries, or its branches where it has none
    `verls_own_problems`             what verl's dataclasses and validate_config refuse

How several settings fit each other is in `relations.py`.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import io
import math
import re
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

OURS = ("ccpo", "seed", "model_engine")  # checked by ccpo.config; RANGES; a choice of files that Hydra has made already
UNUSED = (
    *("critic.*", "distillation.*", "global_profiler.*", "*.profiler", "reward.reward_model.*"),
    *("reward_model.*", "custom_reward_function.*", "sandbox_fusion.*"),  # verl's old names of reward.*
)
"""Sections of parts that ccpo's trainer does not have or nobody has switched on."""
TAKEN = ("trainer.remove_previous_ckpt_in_save", "trainer.wandb_proxy")  # verl reads them and ships them in no file
TEXT_OR_LIST = ("trainer.logger",)
TEXT_OR_NULL = ("trainer.experiment_name",)  # null: `names.name_run`
FRACTIONS = ("trainer.esi_redundant_time", "trainer.v1.*.num_warmup_batches")  # verl's own value happens to be whole
ELSEWHERE = (  # named by ccpo.config, dataset.py, run/checkpoint.py and relations.py
    *("actor_rollout_ref.rollout.n", "data.train_files", "data.val_files", "trainer.resume_mode"),
    *("trainer.v1.sampler.custom_sampler", "trainer.v1.sampler.custom_sampler.*"),
)

ENGINES = re.compile(r"actor_rollout_ref\.rollout\.engine_kwargs\.\w+")

ABOUT_AS_NEAR = 0.08  # of difflib's likeness, in [0, 1]

UNSAID = object()  # the annotation of what has none

SEED = "[0, 4294967295]"
COPIES = "with less, the sessions of a prompt are copies of its likeliest one, whose differences teach nothing"
RANGES: tuple[tuple[str, str, str], ...] = (
    # setting or pattern; intervals that a value may lie in, or single values; why
    ("seed", SEED, "numpy takes no other seed"),
    ("data.seed", SEED, "numpy takes no other seed"),
    ("*.data_loader_seed", SEED, "numpy takes no other seed"),
    ("*.fsdp_config.seed", SEED, "numpy takes no other seed"),
    ("actor_rollout_ref.rollout.seed", SEED, "numpy takes no other seed"),
    ("data.train_batch_size", "[1, inf)", "a step needs prompts"),
    ("data.gen_batch_size", "[1, inf)", "a step needs prompts"),
    ("data.val_batch_size", "[1, inf)", "validation needs prompts"),
    ("data.max_prompt_length", "[1, inf)", "a role has to be asked something"),
    ("data.max_response_length", "[1, inf)", "a role has to say something"),
    ("data.*_max_samples", "-1 or [1, inf)", "it is how many rows are used, -1 is all"),
    ("data.dataloader_num_workers", "[0, inf)", "it is a number of processes"),
    ("data.filter_overlong_prompts_workers", "[1, inf)", "it is a number of processes"),
    ("*.optim.lr", "[0, 1]", "a negative rate unlearns, and Adam moves every weight by about this much a step"),
    ("*.optim.weight_decay", "[0, inf)", "a negative decay makes weights grow without limit"),
    ("*.optim.lr_warmup_steps", "-1 or [0, inf)", "it is a number of steps, -1 is by lr_warmup_steps_ratio"),
    ("*.optim.lr_warmup_steps_ratio", "[0, 1]", "it is a share of the job's steps"),
    ("*.optim.total_training_steps", "-1 or [1, inf)", "it is a number of steps, -1 is the job's"),
    ("*.optim.betas", "[0, 1)", "it is the weight of the past in an average"),
    ("*.optim.clip_grad", "(0, inf]", "no gradient has a norm of 0 or less: every update would vanish or turn around"),
    ("*.optim.min_lr_ratio", "[0, 1]", "it is a share of the learning rate"),
    ("*.optim.num_cycles", "[0, inf)", "it is a number of cycles"),
    ("*.grad_clip", "(0, inf]", "no gradient has a norm of 0 or less: every update would vanish or turn around"),
    ("*.ppo_mini_batch_size", "[1, inf)", "an optimizer step needs prompts"),
    ("*_micro_batch_size", "[1, inf)", "a forward pass needs rows"),
    ("*_micro_batch_size_per_gpu", "[1, inf)", "a forward pass needs rows"),
    ("*_max_token_len_per_gpu", "[1, inf)", "a forward pass needs tokens"),
    ("*.ppo_epochs", "[1, inf)", "every batch has to be learned from"),
    ("*.actor.clip_ratio", "[0, inf)", "it is a distance from 1"),
    ("*.actor.clip_ratio_low", "[0, inf)", "it is a distance from 1"),
    ("*.actor.clip_ratio_high", "[0, inf)", "it is a distance from 1"),
    ("*.actor.clip_ratio_c", "(1, inf)", "verl's second clip lies above a ratio of 1"),
    ("*.actor.tau_*", "(0, inf)", "it is a temperature"),
    ("*.actor.loss_scale_factor", "[1, inf)", "the loss is divided by it"),
    ("*.kl_loss_coef", "[0, inf)", "a negative one rewards drifting away from the reference"),
    ("*.policy_loss.clip_cov_ratio", "[0, 1]", "it is a share of the tokens"),
    ("*.policy_loss.kl_cov_ratio", "[0, 1]", "it is a share of the tokens"),
    ("*.policy_loss.ppo_kl_coef", "[0, inf)", "a negative one rewards drifting away"),
    ("*.policy_loss.dro_beta", "[0, inf)", "a negative one rewards drifting away"),
    ("*.entropy_from_logits_chunk_size", "[1, inf)", "it is a number of rows"),
    ("*.fsdp_size", "-1 or [1, inf)", "it is a number of GPUs, -1 is all"),
    ("*.ulysses_sequence_parallel_size", "[1, inf)", "it is a number of GPUs"),
    ("*_parallel_size", "[1, inf)", "it is a number of GPUs"),
    ("*.nccl_timeout", "[1, inf)", "it is seconds"),
    ("actor_rollout_ref.model.lora_rank", "[0, inf)", "it is a rank, 0 is no LoRA"),
    ("actor_rollout_ref.model.lora.rank", "[0, inf)", "it is a rank, 0 is no LoRA"),
    ("actor_rollout_ref.model.lora_alpha", "(0, inf)", "it scales the update"),
    (
        "actor_rollout_ref.rollout.temperature",
        "[0.01, 100]",
        f"logits are divided by it; {COPIES}, far above it is noise",
    ),
    ("actor_rollout_ref.rollout.top_p", "[0.01, 1]", f"it is a share of the probability; {COPIES}"),
    ("actor_rollout_ref.rollout.top_k", "-1 or 0 or [2, inf)", f"it is a number of tokens, -1 is all; {COPIES}"),
    ("*.val_kwargs.temperature", "[0, inf)", "logits are divided by it"),
    ("*.top_p", "(0, 1]", "it is a share of the probability"),
    ("*.top_k", "-1 or [0, inf)", "it is a number of tokens, -1 is all"),
    ("*.val_kwargs.n", "[1, inf)", "every validation prompt needs a session"),
    ("*.repetition_penalty", "(0, inf)", "probabilities are divided by it"),
    ("*.gpu_memory_utilization", "(0, 1]", "it is a share of the GPU's memory"),
    ("*.max_num_batched_tokens", "[1, inf)", "the engine decodes nothing otherwise"),
    ("*.max_model_len", "[1, inf)", "the engine decodes nothing otherwise"),
    ("*.max_num_seqs", "[1, inf)", "the engine decodes nothing otherwise"),
    ("*.over_sample_rate", "[0, 1)", "it is a share of the requests"),
    ("*.update_weights_bucket_megabytes", "[1, inf)", "weights travel in buckets of this size"),
    ("actor_rollout_ref.rollout.agent.num_workers", "[1, inf)", "sessions are played in these processes"),
    (
        "actor_rollout_ref.rollout.nnodes",
        "0",
        "it is for rollout apart from training, which ccpo's trainer does not have",
    ),
    ("reward.num_workers", "[1, inf)", "it is a number of processes"),
    ("algorithm.gamma", "[0, 1]", "it is a discount"),
    ("algorithm.lam", "[0, 1]", "it is a weight between two estimates"),
    ("algorithm.kl_ctrl.kl_coef", "[0, inf)", "a negative one rewards drifting away"),
    ("algorithm.kl_ctrl.horizon", "[1, inf)", "it is a number of steps"),
    ("algorithm.kl_ctrl.target_kl", "(0, inf)", "it is a distance"),
    ("trainer.total_epochs", "[1, inf)", "nothing would be trained"),
    ("trainer.total_training_steps", "[1, inf)", "nothing would be trained; null is all epochs"),
    ("trainer.nnodes", "[1, inf)", "somebody has to train"),
    ("trainer.n_gpus_per_node", "[1, inf)", "somebody has to train (a CPU job has one slot)"),
    ("trainer.save_freq", "-1 or [1, inf)", "it is every how many steps, -1 is never"),
    ("trainer.test_freq", "-1 or [1, inf)", "it is every how many steps, -1 is never"),
    ("trainer.max_actor_ckpt_to_keep", "[1, inf)", "the newest checkpoint has to stay; null keeps all"),
    ("trainer.max_critic_ckpt_to_keep", "[1, inf)", "the newest checkpoint has to stay; null keeps all"),
    ("trainer.log_val_generations", "[0, inf)", "it is a number of texts"),
    ("trainer.critic_warmup", "0", "there is no critic, and the policy would not learn until that step"),
    ("trainer.esi_redundant_time", "[0, inf)", "it is seconds"),
    ("trainer.ray_wait_register_center_timeout", "[1, inf)", "it is seconds"),
    ("transfer_queue.backend.SimpleStorage.num_data_storage_units", "[1, inf)", "rows have to lie somewhere"),
    ("transfer_queue.backend.SimpleStorage.total_storage_size", "[1, inf)", "rows have to lie somewhere"),
    ("ray_kwargs.ray_init.num_cpus", "[1, inf)", "processes are placed on them"),
    ("ray_kwargs.ray_init.num_gpus", "[0, inf)", "processes are placed on them"),
    (
        "ray_kwargs.ray_init.object_store_memory",
        "[78643200, inf)",
        "it is bytes, and Ray does not start with less than 75 MiB",
    ),
)
WHOLE = (  # null in verl's file and annotated nowhere, or not in it at all
    *("data.seed", "data.gen_batch_size", "data.val_batch_size", "trainer.total_training_steps"),
    *(
        "trainer.max_actor_ckpt_to_keep",
        "trainer.max_critic_ckpt_to_keep",
        "*_micro_batch_size",
        "*_micro_batch_size_per_gpu",
    ),
    *("ray_kwargs.ray_init.num_cpus", "ray_kwargs.ray_init.num_gpus", "ray_kwargs.ray_init.object_store_memory"),
)
NEEDED = (
    "actor_rollout_ref.model.path",
    "trainer.default_local_dir",
    "trainer.project_name",
    "trainer.experiment_name",
)
"""Text that must not be empty or null."""

KL = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")  # core_algos.kl_penalty_forward; each also with a +
DTYPES = ("bfloat16", "bf16", "float16", "fp16", "float32", "fp32")
CONTENTS = ("model", "optimizer", "extra", "hf_model")
LOAD_FORMATS = (  # vLLM's; verl's own dummy waits for the first weights
    *(
        "auto",
        "dummy",
        "hf",
        "safetensors",
        "fastsafetensors",
        "pt",
        "npcache",
        "mistral",
        "gguf",
        "bitsandbytes",
        "sharded_state",
    ),
    *("tensorizer", "runai_streamer", "runai_streamer_sharded"),
)
LOGGERS = {  # those of verl's that import a package of their own: found missing only after the whole start
    **{name: name for name in ("wandb", "mlflow", "swanlab", "tensorboard", "clearml", "trackio")},
    "tracking": "wandb",  # its old name
    "vemlp_wandb": "volcengine_ml_platform",
}


def _loggers() -> tuple[str, ...]:
    from verl.utils.tracking import Tracking

    return (*Tracking.supported_backend, "tracking")


def _policy_losses() -> tuple[str, ...]:
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY

    return tuple(POLICY_LOSS_REGISTRY)


def _reward_managers() -> tuple[str, ...]:
    from verl.experimental.reward_loop import reward_manager
    from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER

    return tuple(REWARD_MANAGER) if reward_manager else ()  # importing the package fills the list


@cache
def _rays_keys() -> tuple[str, ...]:
    """What ray.init takes: its parameters, and those that it takes out of **kwargs (Ray 2.60, ray._private.worker.init)."""
    import inspect

    import ray

    named = inspect.signature(ray.init).parameters.values()
    return (*(p.name for p in named if p.kind is not p.VAR_KEYWORD), *RAYS_HIDDEN_KEYS)


RAYS_HIDDEN_KEYS = (
    *(
        "_plasma_directory",
        "_node_ip_address",
        "_memory",
        "_temp_dir",
        "_metrics_export_port",
        "_system_config",
        "_node_name",
    ),
    "_skip_env_hook",
)

CHOICES: tuple[tuple[str, tuple[str, ...] | Callable[[], tuple[str, ...]], str], ...] = (
    # setting or pattern; allowed values (of each item of a list); what it is
    ("*.optim.lr_scheduler_type", ("constant", "cosine"), "learning rate schedule"),
    ("*.optim.warmup_style", ("constant", "cosine"), "learning rate schedule"),
    ("*.actor.strategy", ("fsdp", "fsdp2", "fsdp_turbo"), "way of sharding"),
    ("*.ref.strategy", ("fsdp", "fsdp2", "fsdp_turbo"), "way of sharding"),
    (
        "*.loss_agg_mode",
        ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"),
        "way of averaging the loss",
    ),
    ("*.policy_loss.loss_mode", _policy_losses, "policy loss"),
    ("*.kl_loss_type", (*KL, *(f"{name}+" for name in KL)), "estimate of the KL divergence"),
    ("algorithm.kl_penalty", (*KL, *(f"{name}+" for name in KL)), "estimate of the KL divergence"),
    ("algorithm.kl_ctrl.type", ("fixed", "adaptive"), "KL controller"),
    ("algorithm.rollout_correction.rollout_is", ("token", "sequence"), "importance weight"),
    ("algorithm.rollout_correction.loss_type", ("ppo_clip", "reinforce"), "loss"),
    ("*.fsdp_config.model_dtype", DTYPES, "number type"),
    ("*.fsdp_config.dtype", DTYPES, "number type"),
    ("*.mixed_precision.*_dtype", DTYPES, "number type"),
    ("actor_rollout_ref.rollout.mode", ("async",), "mode of a rollout server"),
    ("actor_rollout_ref.rollout.load_format", LOAD_FORMATS, "way to load weights into a rollout server"),
    ("actor_rollout_ref.rollout.quantization", ("fp8", "torchao", "ascend"), "quantization of a rollout server"),
    ("actor_rollout_ref.rollout.logprobs_mode", ("processed_logprobs", "raw_logprobs"), "kind of log-probabilities"),
    ("actor_rollout_ref.rollout.scheduling_policy", ("fcfs", "priority"), "order of a rollout server's requests"),
    (
        "actor_rollout_ref.rollout.checkpoint_engine.backend",
        ("naive",),
        "way to bring weights to servers on the same GPUs",
    ),
    ("reward.reward_manager.name", _reward_managers, "reward manager"),
    (
        "transfer_queue.backend.storage_backend",
        ("SimpleStorage", "Yuanrong", "MooncakeStore", "RayStore"),
        "storage of TransferQueue",
    ),
    ("actor_rollout_ref.rollout.dtype", (*DTYPES, "half", "float", "auto"), "number type"),
    ("*.save_contents", CONTENTS, "part of a checkpoint"),
    ("*.load_contents", CONTENTS, "part of a checkpoint"),
    ("data.truncation", ("left", "right", "middle", "error"), "way to cut"),
    ("trainer.logger", _loggers, "logger"),
    ("trainer.device", ("cuda", "cpu", "npu"), "device"),
    ("actor_rollout_ref.model.fused_kernel_options.impl_backend", ("torch", "triton"), "kernel"),
)


def problems(config: DictConfig) -> list[str]:
    """Every setting that verl does not know, every value of another kind, and every one out of its range."""
    tree = OmegaConf.to_container(config, resolve=True)
    own = [name for name in tree if name not in (*OURS, *verls_defaults())]
    text = OmegaConf.to_yaml(config) if own else ""
    return problems_of(tree, frozenset(name for name in own if "${" + name in text))


def problems_of(tree: Mapping[str, Any], own: frozenset[str] = frozenset()) -> list[str]:
    """`problems` of a resolved configuration. ``own``: sections of the user's own, to which other settings refer (${lr})."""
    named = {name: problem for name, problem in _misfits(tree, verls_defaults(), None, "") if name not in own}
    found = list(named.values())
    for name, value in leaves(tree):
        if any(isinstance(text, str) and "\0" in text for text in (value if isinstance(value, list) else [value])):
            found.append(f"{name} is {value!r}: it holds a NUL, which no name or path may; write it anew")
        if ENGINES.fullmatch(name) and value is not None:
            found.append(f"{name} is {value!r}: it is a section of the engine's own settings; set {name}.KEY=VALUE")
        if name not in named and value is not None and not _fits_any(name, (*UNUSED, *ELSEWHERE)):
            found += _range_problem(name, value) or _choice_problem(name, value)
    for name in NEEDED:
        value = _select(tree, name)
        if not value and name not in named and not (value is None and name in TEXT_OR_NULL):
            found.append(f"{name} is {value!r}: set text")
    return found


# ------------------------------------------------------------------------------------------------- kinds and known names


@cache
def verls_defaults() -> dict[str, Any]:
    """verl's shipped configuration."""
    import verl.trainer.config as package

    shipped = OmegaConf.load(Path(package.__path__[0]) / "_generated_ppo_trainer.yaml")
    return OmegaConf.to_container(shipped, resolve=True)


def missing(config: Mapping[str, Any]) -> list[str]:
    """verl's sections and settings that a configuration lacks, but for those of UNUSED parts."""
    return list(_missing(verls_defaults(), config, ""))


def _missing(shipped: Mapping[str, Any], config: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, value in shipped.items():
        name = f"{path}.{key}" if path else key
        if key == "_target_" or _fits_any(name, UNUSED) or _fits_any(f"{name}.", UNUSED):
            continue
        if key not in config:
            yield name
        elif isinstance(value, Mapping) and isinstance(config[key], Mapping):
            yield from _missing(value, config[key], name)


@cache
def _hints(cls: type) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(cls)
    except Exception:  # an annotation that verl itself never evaluates
        hints = {}
    return {f.name: hints.get(f.name, UNSAID) for f in fields(cls)}


def _class_of(node: Mapping[str, Any], hint: Any) -> type | None:
    """The dataclass that verl makes of a section."""
    if target := node.get("_target_"):
        try:
            module, _, name = str(target).rpartition(".")
            hint = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError):
            return None
    for choice in _choices(hint):
        if isinstance(choice, type) and is_dataclass(choice):
            return choice
    return None


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _misfits(
    node: Mapping[str, Any], known: Mapping[str, Any], cls: type | None, path: str
) -> Iterator[tuple[str, str]]:
    """(name, problem) of what a section has and verl does not know, or has of another kind."""
    hints = _hints(cls) if cls else {}
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        if key == "_target_" or name in (*OURS, *ELSEWHERE) or _fits_any(name, UNUSED):
            if name == "seed":
                yield from _misfit(name, value, int, 0)
            elif _fits_any(name, UNUSED):
                yield from _no_sections({key: value}, known, path)
            continue
        if key not in known and key not in hints:
            if _fits_any(name, WHOLE):
                yield from _misfit(name, value, UNSAID, None)
            elif path == "ray_kwargs.ray_init" and key in _rays_keys():
                continue
            elif name not in TAKEN and not _free(path, node):
                yield name, _unknown(name, path, _rays_keys() if path == "ray_kwargs.ray_init" else [*known, *hints])
            continue
        hint, default = hints.get(key, UNSAID), known.get(key)
        if isinstance(value, Mapping):
            inner = default if isinstance(default, Mapping) else {}
            made = _class_of(value, hint)
            if made or (inner and hint is UNSAID):
                yield from _misfits(value, inner, made, name)
            elif not isinstance(default, Mapping):
                yield from _misfit(name, value, hint, default)
        else:
            yield from _misfit(name, value, hint, default)


def _no_sections(node: Mapping[str, Any], known: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """What stands where verl has a section: it reads from those of parts that are not switched on, too."""
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(default := known.get(key), Mapping):
            if isinstance(value, Mapping):
                yield from _no_sections(value, default, name)
            elif default or value is not None:
                yield name, f"{name} is {value!r}: it is a section of settings; set {name}.KEY=VALUE"


def _free(path: str, node: Mapping[str, Any]) -> bool:
    """Whether a section may have keys that verl does not know: those of Ray, TransferQueue or a dataset class of the user's."""
    if path == "data":
        return bool((node.get("custom_cls") or {}).get("path"))
    return path.startswith("ray_kwargs.ray_init.") or path.split(".")[0] == "transfer_queue"


def _unknown(name: str, path: str, known: Any) -> str:
    keys = [str(key) for key in (*known, *(() if path else OURS)) if key != "_target_"]
    return f"{name} is not a setting, and would do nothing or end the job later: {_guess(name, path, keys)}"


def nearest(name: str, known: Mapping[str, Any]) -> str:
    """What a name that is no setting may have meant. ``known``: the settings, by section."""
    path, node = "", known
    for key in name.split("."):
        if key not in node:
            break
        path, node = f"{path}.{key}" if path else key, node[key]
        if not isinstance(node, Mapping):
            return f"{path} is no section; set {path}=VALUE"
    return _guess(name, path, [str(key) for key in node if key != "_target_"])


def _guess(name: str, path: str, keys: list[str]) -> str:
    """``keys``: of the section ``path``, in which the first unknown part of ``name`` stands."""
    first, dot, rest = name[len(path) :].lstrip(".").partition(".")
    if near := _near(first, keys):
        return f"did you mean {' or '.join(f'{path}.{key}{dot}{rest}'.lstrip('.') for key in near)}?"
    leaf, top = name.rpartition(".")[2], name.partition(".")[0]
    section = {top: verls_defaults()[top]} if top in verls_defaults() else verls_defaults()
    used = [key for key, _ in leaves(section) if not _fits_any(key, UNUSED)]
    same = [key for key in used if key.endswith(f".{name}")] or [key for key in used if key.rpartition(".")[2] == leaf]
    return f"did you mean {' or '.join(same[:3])}?" if same else "nothing reads such a key there; drop it"


def _near(word: str, keys: list[str]) -> list[str]:
    """The keys that are nearest to a word: of several that are about as near none is more likely."""
    found = difflib.get_close_matches(word, dict.fromkeys(keys), n=3)
    likeness = [difflib.SequenceMatcher(None, key, word).ratio() for key in found]
    return [key for key, own in zip(found, likeness, strict=True) if own > likeness[0] - ABOUT_AS_NEAR]


def _misfit(name: str, value: Any, hint: Any, default: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, list) and typing.get_origin(hint) is tuple and Ellipsis not in typing.get_args(hint):
        if len(value) != (length := len(typing.get_args(hint))):
            yield name, f"{name} is {value!r}: set a list of {length}"
            return
    kinds = _kinds(name, hint, default)
    if kinds and not any(_is(value, kind) for kind in kinds):
        words = " or ".join(dict.fromkeys(WORDS[kind] for kind in kinds))
        yield name, f"{name} is {value!r}: set {words}"


WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    list: "a list",
    dict: "a section",
    None: "null",
}


def _kinds(name: str, hint: Any, default: Any) -> list[Any]:
    """The kinds that a value may be of; none: anything. verl's own value always fits."""
    if _fits_any(name, WHOLE):
        return [int, None]
    if name in TEXT_OR_NULL:
        return [str, None]
    if hint is UNSAID:  # as verl's own value
        kinds = [kind for kind in (bool, int, float, str, list, dict) if isinstance(default, kind)][:1]
        return [str, list] if _fits_any(name, TEXT_OR_LIST) else [float] if _fits_any(name, FRACTIONS) else kinds
    found: list[Any] = []
    for choice in _choices(hint):
        origin = typing.get_origin(choice) or choice
        if choice is Any or origin is typing.Literal or not isinstance(origin, type):
            origin = None if choice is type(None) else Any
        if origin is type(None):
            origin = None
        elif origin in (tuple, list):
            origin = list
        elif origin is dict or (isinstance(origin, type) and is_dataclass(origin)):
            origin = dict
        found.append(origin)
    if not all(kind in WORDS for kind in found):
        return []
    if not any(_is(default, kind) for kind in found):
        found.append(None if default is None else type(default) if type(default) in WORDS else float)
    return found


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and not math.isnan(value)  # infinity: RANGES
    return isinstance(value, kind)


# ------------------------------------------------------------------------------------------------- ranges and choices


def _range_problem(name: str, value: Any) -> list[str]:
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        row = _row(RANGES, name)
        if row and not any(inside(number, interval) for interval in row[1].split(" or ")):
            return [f"{name} is {value!r}: {row[2]}; set {_in_words(row[1])}"]
        if not row and not math.isfinite(number):
            return [f"{name} is {value!r}: set a finite number"]
    return []


@lru_cache(maxsize=4096)
def _row(table: tuple[tuple, ...], name: str) -> tuple | None:
    return next((row for row in table if fnmatchcase(name, row[0])), None)


def inside(number: float, interval: str) -> bool:
    """Whether a number lies in "[low, high]", with ( and ) for a bound that is excluded, or is the number "x"."""
    found = re.fullmatch(r"([\[(])(\S+), (\S+)([\])])", interval)
    if not found:
        return number == float(interval)
    left, low, high, right = found.groups()
    above = number >= float(low) if left == "[" else number > float(low)
    return above and (number <= float(high) if right == "]" else number < float(high))


def _in_words(intervals: str) -> str:
    words = []
    for interval in intervals.split(" or "):
        found = re.fullmatch(r"([\[(])(\S+), (\S+)([\])])", interval)
        if not found:
            words.append(interval)
        elif found[3] == "inf":
            words.append(f"{'at least' if found[1] == '[' else 'more than'} {found[2]}")
        else:
            words.append(f"a number in {interval}")
    return " or ".join(words)


def _choice_problem(name: str, value: Any) -> list[str]:
    row = _row(CHOICES, name)
    if row is None:
        return []
    names = row[1]() if callable(row[1]) else row[1]
    for item in value if isinstance(value, list) else [value]:
        if item not in names:
            near = difflib.get_close_matches(str(item), names, n=1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            return [f"{name} is {value!r}: verl knows no {row[2]} {item!r}; {guess}allowed: {', '.join(names)}"]
        if name == "trainer.logger" and item in LOGGERS and not importlib.util.find_spec(LOGGERS[item]):
            return [
                f"{name} has {item}, which is not installed: pip install {LOGGERS[item]}, or drop it (ccpo writes metrics.jsonl itself)"
            ]
    return []


# ------------------------------------------------------------------------------------------------- verl's own checks


def verls_own_problems(config: DictConfig) -> list[str]:
    """What verl's dataclasses and its validate_config refuse. For a configuration whose `problems` are none."""
    from verl.trainer.ppo.utils import need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    found: list[str] = []

    def attempt(what: str, check: Callable[[], Any]) -> None:
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                check()
        except Exception as error:
            while error.__cause__ is not None:  # Hydra wraps what a dataclass says
                error = error.__cause__
            reason = str(error).strip() or type(error).__name__
            if not any(reason in text for text in found):
                found.append(f"{what}: verl refuses it ({reason}): set it as the message says")

    for section in (
        "actor_rollout_ref.actor",
        "actor_rollout_ref.rollout",
        "algorithm",
    ):  # those that verl makes objects of
        attempt(section, lambda section=section: omega_conf_to_dataclass(OmegaConf.select(config, section)))
    reference = need_reference_policy(config)
    attempt("actor_rollout_ref", lambda: validate_config(config, use_reference_policy=reference, use_critic=False))
    return found


# ------------------------------------------------------------------------------------------------- names


@lru_cache(maxsize=16384)
def _fits_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _select(tree: Mapping[str, Any], name: str) -> Any:
    for key in name.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
