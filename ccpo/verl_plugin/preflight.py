"""Every check that can be made before Ray starts. All problems go into one ConfigError."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ccpo.config import CcpoConfig, ConfigError, Policy
from ccpo.prompts import Messages, render, with_persona
from ccpo.run import checkpoint
from ccpo.verl_plugin import dataset, network
from ccpo.verl_plugin.estimator import TRAINER_MODE

LEAST_HEARD = 8
"""Tokens that must be left in a prompt for each turn that a role hears; less than a phrase says nothing."""
AGENT_LOOP = "ccpo_team"


def check(config: DictConfig) -> list[str]:
    """Check a composed configuration against itself, the data, the model and this machine.

    Args:
        config: the whole Hydra configuration; not modified.

    Returns:
        Warnings: allowed, but worth knowing.

    Raises:
        ConfigError: with every problem found, each with what to set.
    """
    problems: list[str] = []
    notes: list[str] = []
    settings = None
    try:
        settings = CcpoConfig.from_dict(
            OmegaConf.to_container(config.ccpo, resolve=True), config.actor_rollout_ref.rollout.n
        )
        notes += settings.warnings()
    except ConfigError as error:
        problems += error.problems
    problems += _verl_problems(config)
    problems += _hardware_problems(config)
    problems += network.problems(config, settings)
    problems += _checkpoint_problems(config, settings)
    questions, data_problems = dataset.problems(config, settings.members.columns if settings else ())
    problems += data_problems
    tokenizer_of, model_problems = _tokenizers(config, settings)
    problems += model_problems
    if settings and questions and not model_problems:
        problems += _budget_problems(config, settings, tokenizer_of, questions)
    if settings:
        notes += _temperature_notes(config, settings)
        notes += _copies_notes(config, settings)
        notes += _memory_notes(config, settings)
    if problems:
        raise ConfigError(problems)
    return notes


def _verl_problems(config: DictConfig) -> list[str]:
    """Combinations with verl's own settings that cannot work."""
    found = []
    algorithm, rollout, actor = config.algorithm, config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    if config.trainer.v1.trainer_mode != TRAINER_MODE:
        found.append(
            f"trainer.v1.trainer_mode is {config.trainer.v1.trainer_mode!r}: roles and history live in ccpo's trainer; set {TRAINER_MODE}"
        )
    if algorithm.adv_estimator != "ccpo":
        found.append(
            f"algorithm.adv_estimator is {algorithm.adv_estimator!r}: it would give every role the last answer's reward; set ccpo "
            "(ccpo.credit.rule=shared is GRPO)"
        )
    if algorithm.use_kl_in_reward:
        found.append(
            "algorithm.use_kl_in_reward is true: credit is made of outcome rewards and would ignore it; set actor_rollout_ref.actor.use_kl_loss=true instead"
        )
    if config.reward.reward_model.enable:
        found.append("reward.reward_model.enable is true: sessions are scored by the verifier; set it to false")
    sampler = (config.trainer.v1.sampler.custom_sampler or {}).get("name")
    if sampler != "WatchedBuffer":
        found.append(
            f"trainer.v1.sampler.custom_sampler.name is {sampler!r}: ccpo's trainer needs a buffer whose wait "
            "for sessions has a limit; set pkg://ccpo.verl_plugin.faults and WatchedBuffer"
        )
    if config.trainer.v1.sampler.get("sync_refill_failed_groups", False):
        found.append(
            "trainer.v1.sampler.sync_refill_failed_groups is true: dropped sessions are counted, never replaced; set it to false"
        )
    if rollout.agent.default_agent_loop != AGENT_LOOP:
        found.append(
            f"actor_rollout_ref.rollout.agent.default_agent_loop is {rollout.agent.default_agent_loop!r}: teams are played by {AGENT_LOOP}; "
            "set that (ccpo.team chooses the team)"
        )
    if algorithm.get("norm_adv_by_std_in_grpo", True) is not True:
        found.append(
            "algorithm.norm_adv_by_std_in_grpo is false: ccpo normalizes by itself and would ignore it; set ccpo.credit.normalize=centred, "
            "which divides by no deviation, and leave it true"
        )
    if actor.ppo_mini_batch_size > config.data.train_batch_size:
        found.append(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size} is more than data.train_batch_size="
            f"{config.data.train_batch_size}: a mini-batch is a part of a batch; set it to at most that"
        )
    if algorithm.filter_groups.enable:
        found.append(
            "algorithm.filter_groups.enable is true: dropping all-equal groups would bias the reward history; set it to false"
        )
    return found


def _checkpoint_problems(config: DictConfig, settings: CcpoConfig | None) -> list[str]:
    """What a job could not save whole, and why it could not go on from what it finds."""
    trainer, actor = config.trainer, config.actor_rollout_ref.actor
    found = []
    saved = set(actor.checkpoint.save_contents)
    if trainer.save_freq > 0 and not {"model", "optimizer", "extra"} <= saved:
        found.append(
            f"actor_rollout_ref.actor.checkpoint.save_contents is {sorted(saved)}: without optimizer and extra (learning rate, RNG) a resumed job "
            "is another one; set [model,optimizer,extra], or trainer.save_freq=-1"
        )
    if actor.checkpoint.get("async_save", False):
        found.append(
            "actor_rollout_ref.actor.checkpoint.async_save is true: a checkpoint would be marked complete while it is still being written; set it "
            "to false"
        )
    if trainer.get("remove_previous_ckpt_in_save", False):
        found.append(
            "trainer.remove_previous_ckpt_in_save is true: the previous checkpoint would go before the new one is complete; set "
            "trainer.max_actor_ckpt_to_keep=1"
        )
    if trainer.resume_mode == "resume_path" and not trainer.resume_from_path:
        found.append("trainer.resume_mode is resume_path: set trainer.resume_from_path to a folder global_step_N")
    elif settings:
        try:
            folder = checkpoint.to_resume(trainer)
            if folder is not None:
                checkpoint.restore(folder, settings, config.actor_rollout_ref.rollout.n)
        except ConfigError as error:
            found += error.problems
    return found


def _hardware_problems(config: DictConfig) -> list[str]:
    import torch

    found = []
    if config.trainer.device == "cuda":
        have = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if have == 0:
            found.append(
                "no GPU is visible (torch.cuda.is_available() is false): run on a GPU host, or set profile=cpu task=last_digit"
            )
        elif config.trainer.nnodes == 1 and config.trainer.n_gpus_per_node > have:
            found.append(
                f"trainer.n_gpus_per_node={config.trainer.n_gpus_per_node}, but {have} GPU(s) are visible: set N_GPUS={have}"
            )
    if config.actor_rollout_ref.rollout.name == "vllm" and not any(importlib.util.find_spec(m) for m in ("vllm",)):
        found.append(
            "actor_rollout_ref.rollout.name is vllm, and vLLM is not installed: pip install -r requirements.txt on a GPU host, or set "
            "profile=cpu, which needs none"
        )
    return found


def _tokenizers(config: DictConfig, settings: CcpoConfig | None) -> tuple[dict[str, Any], list[str]]:
    """(role -> tokenizer of its policy's model, problems)."""
    policies = settings.policy_list() if settings else (Policy("shared", ()),)
    loaded: dict[str | None, Any] = {}
    found, tokenizer_of = [], {}
    for policy in policies:
        if policy.model not in loaded:
            loaded[policy.model], problems = _tokenizer(config, policy.model)
            found += problems
        tokenizer_of |= dict.fromkeys(policy.roles, loaded[policy.model])
    return tokenizer_of, found


def _tokenizer(config: DictConfig, own: str | None) -> tuple[Any, list[str]]:
    """Tokenizer of ``own``, or of the job's model; and what is wrong with it."""
    from transformers import AutoTokenizer

    model = config.actor_rollout_ref.model
    named = f"a role's model={own}" if own else f"actor_rollout_ref.model.path={model.path}"
    path = os.path.expanduser(str(own or model.tokenizer_path or model.path))
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return None, [f"{named}: its tokenizer cannot be loaded ({reason}): set MODEL to a folder or a hub id"]
    if not (tokenizer.chat_template or model.custom_chat_template):
        return None, [
            f"{named} has no chat template: roles are told apart by their messages; use an instruction-tuned "
            "model, or set actor_rollout_ref.model.custom_chat_template"
        ]
    if model.custom_chat_template:
        tokenizer.chat_template = model.custom_chat_template
    return tokenizer, []


def _budget_problems(
    config: DictConfig, settings: CcpoConfig, tokenizer_of: dict[str, Any], questions: list[str]
) -> list[str]:
    """The longest question must leave room for a thought; the engine must hold prompt and response."""
    found = []
    limit = config.data.max_prompt_length
    longest = sorted(set(questions), key=len)[-8:]  # by characters; tokens of the longest few are counted exactly

    def count(role: str, messages: Messages) -> int:
        ids = tokenizer_of[role].apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
        return len(ids["input_ids"] if hasattr(ids, "keys") else ids)

    need, who, room = max(
        (count(role, messages) + room, role, room)
        for question in longest
        for role, messages, room in _shortest_prompts(settings, question)
    )
    if need > limit:
        found.append(
            f"data.max_prompt_length={limit} cannot hold the longest question in the prompt of {who}"
            + (f" with {room} tokens for what it hears" if room else "")
            + f": that takes {need} tokens; set at least {need}, or drop the long rows from the dataset"
        )
    context = config.actor_rollout_ref.rollout.max_model_len
    if context is not None and context < limit + config.data.max_response_length:
        found.append(
            f"actor_rollout_ref.rollout.max_model_len={context} is less than data.max_prompt_length + data.max_response_length = "
            f"{limit + config.data.max_response_length}: long sessions would fail; set it to that, or null"
        )
    return found


def _shortest_prompts(settings: CcpoConfig, question: str) -> list[tuple[str, Messages, int]]:
    """(role, prompt, tokens to leave) of every template: every field empty but the question, and room for each turn that it hears."""
    plan, found = settings.plan, []
    heard = {
        role: max((len(spots) for (who, _), spots in plan.hears.items() if who == role), default=0)
        for role in plan.roles
    }
    for role in plan.roles:
        for fields in plan.fields[role]:
            template = settings.prompt_sets[role].of(role)[fields]
            messages = render(template, **{name: question if name == "question" else "" for name in fields})
            others = len(fields - {"question"}) > 0
            found.append(
                (role, with_persona(messages, settings.role(role).persona), LEAST_HEARD * heard[role] * others)
            )
    return found


def _temperature_notes(config: DictConfig, settings: CcpoConfig) -> list[str]:
    base = config.actor_rollout_ref.rollout.temperature
    set_to = {f"ccpo.roles.{role}.temperature": settings.role(role).temperature for role in settings.plan.roles}
    return [
        f"{name}={value} differs from actor_rollout_ref.rollout.temperature={base}, at which verl computes log-probabilities: the "
        "gradient is then biased towards the rollout's temperature"
        for name, value in set_to.items()
        if value is not None and value != base
    ]


def _copies_notes(config: DictConfig, settings: CcpoConfig) -> list[str]:
    validation = config.actor_rollout_ref.rollout.val_kwargs
    plan = settings.plan
    asked = {(settings.role(role).persona, str(settings.prompt_sets[role].of(role))) for role in plan.answers}
    if len(plan.answers) < 2 or plan.heard or len(asked) > 1 or len(settings.policy_list()) > 1:
        return []
    if validation.do_sample and validation.temperature > 0:
        return []
    return [
        "validation is greedy and all who answer have one prompt: they give one answer, and the plurality shows nothing; set "
        "actor_rollout_ref.rollout.val_kwargs.do_sample=true and val_kwargs.temperature=1.0, or ccpo.roles.<role>.persona"
    ]


def _memory_notes(config: DictConfig, settings: CcpoConfig) -> list[str]:
    policies = settings.policy_list()
    if len(policies) < 2 or config.trainer.device != "cuda":
        return []
    whole = config.actor_rollout_ref.rollout.gpu_memory_utilization
    return [
        f"{len(policies)} policies share each GPU: every vLLM engine gets {whole / len(policies):.2f} of its memory "
        f"(actor_rollout_ref.rollout.gpu_memory_utilization={whole} divided by {len(policies)}, since all are awake while answers are "
        "decoded), and actors and optimizers wait in host memory until their turn"
    ]
