"""Every check that can be made before Ray starts. All problems go into one ConfigError."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ccpo.config import CcpoConfig, ConfigError, Policy
from ccpo.data import shown
from ccpo.prompts import Messages, render, with_persona
from ccpo.run import checkpoint
from ccpo.run.folder import FOLDERS, METRICS, run_folder
from ccpo.verl_plugin import dataset, lookups, network, reference, relations, resources, resuming, reward_trial, values

LEAST_HEARD = 8
"""Tokens that must be left in a prompt for each turn that a role hears; less than a phrase says nothing."""
WEIGHTS = ("*.safetensors", "*.bin")
STATE = {"model", "optimizer", "extra"}
"""What of a policy a checkpoint must hold, and a resumed job read."""


def check(config: DictConfig) -> list[str]:
    """Check a composed configuration against itself, the data, the model and this machine.

    Args:
        config: the whole Hydra configuration; not modified.

    Returns:
        Warnings: allowed, but worth knowing.

    Raises:
        ConfigError: with every problem found, each with what to set.
    """
    readable(config)
    problems, settings = values.problems(config), None
    try:
        settings = CcpoConfig.from_dict(
            OmegaConf.to_container(config.ccpo, resolve=True), config.actor_rollout_ref.rollout.n
        )
    except ConfigError as error:
        problems += error.problems

    def also(check: Callable[..., Any], *args: Any, nothing: Any = ()) -> Any:
        """A check that reads values of which some are already known to be wrong: what they break is no news."""
        try:
            return check(*args)
        except Exception:
            if not problems:
                raise
            return nothing

    problems += also(relations.problems, config)
    problems += also(lookups.problems, config)
    problems += also(resources.problems, config)
    problems += also(network.problems, config, settings)
    no_folder = also(_folder_problems, config)
    problems += no_folder
    unfit, changes = also(_checkpoint_problems, config, None if no_folder else settings, nothing=([], []))
    problems += unfit
    columns = settings.members.columns if settings else ()
    questions, data_problems = also(dataset.problems, config, columns, nothing=([], []))
    problems += data_problems
    if settings and not data_problems:
        problems += also(reward_trial.problems, config, settings)
    tokenizer_of, model_problems = also(_tokenizers, config, settings, nothing=({}, [""]))
    problems += filter(None, model_problems)
    if settings and questions and not model_problems:
        found = also(_template_problems, config, settings, tokenizer_of, questions)
        problems += found or also(_budget_problems, config, settings, tokenizer_of, questions)
        if settings.reads_reference:
            problems += also(reference.problems, config, settings, tokenizer_of[settings.plan.order[-1]])
    if not problems:
        problems += values.verls_own_problems(config)
    if problems:
        raise ConfigError(problems)
    return [
        *changes,
        *settings.warnings(),
        *_temperature_notes(config, settings),
        *_likelihood_notes(config, settings),
        *_greedy_notes(config),
        *_copies_notes(config, settings),
        *_memory_notes(config, settings),
    ]


SECTIONS = (
    *"ccpo data actor_rollout_ref algorithm trainer reward ray_kwargs ray_kwargs.ray_init transfer_queue".split(),
    *(f"actor_rollout_ref.{name}" for name in ("model", "actor", "ref", "rollout", "rollout.agent")),
)
"""Those that every check reads from."""


def readable(config: DictConfig) -> None:
    """Raises ConfigError for sections that are none, settings that were taken out (~KEY), and references (${...}) to what there is not: nothing
    can be read of those."""
    found = []
    for name in SECTIONS:
        try:
            section = OmegaConf.select(config, name)
        except OmegaConfBaseException:  # below one that is none, which is named; or a reference, which is named below
            continue
        if not isinstance(section, DictConfig) and not any(name.startswith(text.split(" ")[0]) for text in found):
            found.append(f"{name} is {section!r}: it is a section of settings; set {name}.KEY=VALUE")
    gone = [] if found else values.missing(OmegaConf.to_container(config, resolve=False))
    found += [f"{name} is not there: verl reads it; leave out what takes it away (~{name})" for name in gone]
    if found:
        raise ConfigError(found)
    try:
        OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).strip().splitlines()[0]
        found.append(
            f"{error.full_key or 'a setting'} cannot be read ({reason}): what it refers to must be a setting that there is"
        )
        raise ConfigError(found) from None


def _folder_problems(config: DictConfig) -> list[str]:
    """Whether the run's folder can be made and written. Writes nothing."""
    found = []
    for setting in FOLDERS:
        name = setting.partition(".")[2]
        if (value := config.trainer.get(name)) is None:
            continue
        try:
            folder = run_folder(value, setting).absolute()
        except ConfigError as error:
            found += error.problems
            continue
        log = folder / METRICS
        if setting == FOLDERS[0] and os.path.lexists(log) and not log.is_file():
            found.append(
                f"{setting}={value}: {log} is no file, and every step is logged there; move it away, or set another folder"
            )
        there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not there.is_dir():
            found.append(
                f"trainer.{name}={value}: {there} is no folder, and nothing can be written below it; set another one"
            )
        elif not os.access(there, os.W_OK | os.X_OK):
            found.append(
                f"trainer.{name}={value}: {there} cannot be written; set another one, or change its permissions"
            )
    return found


def _checkpoint_problems(config: DictConfig, settings: CcpoConfig | None) -> tuple[list[str], list[str]]:
    """(What a job could not save whole, and why it could not go on from what it finds; what it goes on from otherwise than it was made.)"""
    trainer, actor = config.trainer, config.actor_rollout_ref.actor
    found, notes = [], []
    saved, loaded = set(actor.checkpoint.save_contents), set(actor.checkpoint.load_contents)
    if trainer.save_freq > 0 and not STATE <= saved:
        found.append(
            f"actor_rollout_ref.actor.checkpoint.save_contents is {sorted(saved)}: without optimizer and extra (learning rate, RNG) a resumed job "
            "is another one; set [model,optimizer,extra], or trainer.save_freq=-1"
        )
    if trainer.resume_mode != "disable" and loaded != saved and not STATE <= loaded:
        found.append(
            f"actor_rollout_ref.actor.checkpoint.load_contents is {sorted(loaded)}: a resumed job would begin without the rest; set "
            "[model,optimizer,extra], or trainer.resume_mode=disable"
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
    if trainer.resume_mode == "resume_path" and not (
        trainer.resume_from_path and isinstance(trainer.resume_from_path, str)
    ):
        found.append("trainer.resume_mode is resume_path: set trainer.resume_from_path to a folder global_step_N")
    elif settings:
        try:
            folder = checkpoint.to_resume(trainer)
            if folder is not None:
                checkpoint.restore(folder, settings, config.actor_rollout_ref.rollout.n)
                workers, saved = trainer.nnodes * trainer.n_gpus_per_node, checkpoint.workers_of(folder)
                if saved - {workers}:
                    found.append(
                        f"{folder} was saved by {max(saved)} training workers, and this job has {workers} (trainer.nnodes x "
                        "trainer.n_gpus_per_node): each reads the part that it saved; set them as they were, or start in another folder from the "
                        "model that scripts/export_model.py makes of it"
                    )
                changed, notes = resuming.compare(folder, config)
                found += changed
        except ConfigError as error:
            found += error.problems
    return found, notes


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
    from transformers import AutoConfig, AutoTokenizer

    model = config.actor_rollout_ref.model
    named = f"a role's model={own}" if own else f"actor_rollout_ref.model.path={model.path}"
    path, says, change = str(own or model.path), named, "set MODEL to a folder or a hub id"
    if not own and model.tokenizer_path:
        path, says = str(model.tokenizer_path), f"actor_rollout_ref.model.tokenizer_path={model.tokenizer_path}"
        change = "set it to a folder or a hub id, or null (the model's own)"
    path, weights = os.path.expanduser(path), os.path.expanduser(str(own or model.path))
    if why := _no_folder(weights) or (None if model.hf_config_path and not own else _no_config(weights)):
        return None, [f"{named}: {why}: set MODEL to a whole model's folder, or a hub id"]
    if why := _no_folder(path):
        return None, [f"{says}: {why}: {change}"]
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    except Exception as error:
        return None, [f"{says}: its tokenizer cannot be loaded ({_why_not(path, error)}): {change}"]
    if not (tokenizer.chat_template or model.custom_chat_template):
        return None, [
            f"{named} has no chat template: roles are told apart by their messages; use an instruction-tuned "
            "model, or set actor_rollout_ref.model.custom_chat_template"
        ]
    if model.custom_chat_template:
        tokenizer.chat_template = model.custom_chat_template
    path, says, change = weights, named, "set MODEL to a whole model's folder, or a hub id"
    if not own and model.hf_config_path and model.hf_config_path != model.path:
        path, says = (
            os.path.expanduser(str(model.hf_config_path)),
            f"actor_rollout_ref.model.hf_config_path={model.hf_config_path}",
        )
        change = "set it to a folder with config.json or a hub id, or null (the model's own)"
    if why := _no_folder(path) or _no_config(path):
        return None, [f"{says}: {why}: {change}"]
    try:
        architecture = AutoConfig.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    except Exception as error:
        return None, [f"{says}: its config.json cannot be loaded ({_why_not(path, error)}): {change}"]
    if Path(weights).is_dir() and not any(path for kind in WEIGHTS for path in Path(weights).glob(kind)):
        return None, [
            f"{named} has no weights ({', '.join(WEIGHTS)}): set MODEL to a whole model's folder, or a hub id"
        ]
    return tokenizer, _context_problems(config, named, architecture)


HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)


def _no_folder(path: str) -> str | None:
    """Why there is no model under ``path``: of a folder that is not there the hub would say that its name is none of the hub's."""
    if os.path.isdir(path):
        return None if os.listdir(path) else f"the folder {path} is empty"
    if os.path.exists(path):
        return f"{path} is a file, no model's folder"
    first = path.split("/")[0]
    if not HUB_ID.fullmatch(path) or ("/" in path and os.path.isdir(first)):  # no id, or a folder's subfolder
        return f"the folder {path} does not exist"
    return None


def _no_config(path: str) -> str | None:
    missing = os.path.isdir(path) and not os.path.isfile(os.path.join(path, "config.json"))
    return f"the folder {path} has no config.json" if missing else None


def _why_not(path: str, error: Exception) -> str:
    """Why nothing could be loaded from ``path``, a folder or the hub's name of a model."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if os.path.isdir(path):
        return reason
    causes = []
    while error is not None:
        causes.append(type(error).__name__)
        error = error.__cause__ or error.__context__
    if "RepositoryNotFoundError" in causes:
        return f"there is no folder {path}, and the hub has no model of that name (or it needs a login: hf auth login)"
    if "couldn't connect" in reason or {"LocalEntryNotFoundError", "OfflineModeIsEnabled"} & set(causes):
        return f"there is no folder {path}, and the hub cannot be reached from here, nor has it been loaded before"
    return f"there is no folder {path}, and on the hub: {reason}"


def _context_problems(config: DictConfig, named: str, architecture: Any) -> list[str]:
    """vLLM starts with no longer context than the model was made for."""
    context, row = (
        getattr(architecture, "max_position_embeddings", None),
        config.data.max_prompt_length + config.data.max_response_length,
    )
    stretched = getattr(architecture, "rope_scaling", None) or {}
    if (
        config.actor_rollout_ref.rollout.name != "vllm"
        or not context
        or context >= row
        or stretched.get("rope_type", "default") != "default"
    ):
        return []
    return [
        f"{named} was made for {context} positions, and data.max_prompt_length + data.max_response_length = {row}: vLLM would not start; set "
        "them lower, or another model"
    ]


def _rendered(config: DictConfig, tokenizer: Any, messages: Messages, tokenize: bool) -> Any:
    """A prompt as the agent loops make it."""
    own = config.data.get("apply_chat_template_kwargs") or {}
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=tokenize, **own)
    return found["input_ids"] if hasattr(found, "keys") else found


def _template_problems(
    config: DictConfig, settings: CcpoConfig, tokenizer_of: dict[str, Any], questions: list[str]
) -> list[str]:
    """Chat templates that cannot be rendered, or that leave out what a role is told: it would learn to guess."""
    asked = sorted(set(questions), key=len)[:2]
    own = config.actor_rollout_ref.model.custom_chat_template
    what = "actor_rollout_ref.model.custom_chat_template" if own else "the model's chat template"
    change = "set another one (actor_rollout_ref.model.custom_chat_template), or use another model"
    found: dict[str, None] = {}
    for role in settings.plan.roles:
        for fields in settings.plan.fields[role]:
            template = settings.prompt_sets[role].of(role)[fields]
            prompts = [
                with_persona(
                    render(template, **{name: question if name == "question" else "" for name in fields}),
                    settings.role(role).persona,
                )
                for question in asked
            ]
            try:
                texts = [_rendered(config, tokenizer_of[role], prompt, tokenize=False) for prompt in prompts]
                ids = [_rendered(config, tokenizer_of[role], prompt, tokenize=True) for prompt in prompts]
            except Exception as error:  # a template is a program
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                found[f"{what} cannot render the prompt of {role} ({reason}): {change}"] = None
                continue
            lost = {
                message["role"]
                for prompt, text in zip(prompts, texts, strict=True)
                for message in prompt
                if message["role"] != "assistant" and "".join(message["content"].split()) not in "".join(text.split())
            }
            if lost:
                found[
                    f"{what} leaves out the text of {' and '.join(sorted(lost))} in the prompt of {role}, so the model is not told it: {change}"
                ] = None
            elif "question" in fields and len(asked) > 1 and ids[0] == ids[1]:
                found[
                    f"{what} and the tokenizer make the same tokens of {shown(asked[0])} and {shown(asked[1])} in the prompt of {role}: the "
                    f"questions cannot be told apart; {change}"
                ] = None
    return list(found)


def _budget_problems(
    config: DictConfig, settings: CcpoConfig, tokenizer_of: dict[str, Any], questions: list[str]
) -> list[str]:
    """The longest question must leave room for a thought; the engine must hold prompt and response."""
    found = []
    limit = config.data.max_prompt_length
    longest = sorted(set(questions), key=len)[-8:]  # by characters; tokens of the longest few are counted exactly

    def count(role: str, messages: Messages) -> int:
        return len(_rendered(config, tokenizer_of[role], messages, tokenize=True))

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


def _likelihood_notes(config: DictConfig, settings: CcpoConfig) -> list[str]:
    if not settings.reads_reference:
        return []
    last, rollout = settings.plan.order[-1], config.actor_rollout_ref.rollout
    sampled = settings.role(last).temperature or rollout.temperature
    cut = [f"{name}={rollout[name]}" for name, off in (("top_p", (1,)), ("top_k", (-1, 0))) if rollout[name] not in off]
    if sampled == 1 and not cut:
        return []
    return [
        f"{last} answers at {', '.join([f'temperature {sampled}', *cut])}, and rule {settings.credit.rule} scores the reference answer at 1, with all "
        "tokens: its likelihood is then not the chance to say it, and the credit of what comes before is biased"
    ]


def _greedy(sampling: DictConfig) -> bool:
    return not (sampling.do_sample and sampling.temperature > 0)


def _greedy_notes(config: DictConfig) -> list[str]:
    validation = config.actor_rollout_ref.rollout.val_kwargs
    if validation.n == 1 or not _greedy(validation):
        return []
    return [
        f"validation is greedy: the {validation.n} sessions of a question (actor_rollout_ref.rollout.val_kwargs.n) all say the same, and "
        f"avg@{validation.n} is not what sampled answers are worth; set val_kwargs.do_sample=true and val_kwargs.temperature=1.0, or val_kwargs.n=1"
    ]


def _copies_notes(config: DictConfig, settings: CcpoConfig) -> list[str]:
    validation = config.actor_rollout_ref.rollout.val_kwargs
    plan = settings.plan
    asked = {(settings.role(role).persona, str(settings.prompt_sets[role].of(role))) for role in plan.answers}
    if len(plan.answers) < 2 or plan.heard or len(asked) > 1 or len(settings.policy_list()) > 1:
        return []
    if not _greedy(validation):
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
