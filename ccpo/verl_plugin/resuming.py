"""Going on from a checkpoint with other settings than it was made with: what changes the method is refused, the rest is said.

Each checkpoint holds what its job was started with (`checkpoint.keep_settings`): every setting, resolved, and sums of what some of them name.
What gives the history its meaning is compared by `checkpoint.restore`, and cannot be changed at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ccpo.config import CcpoConfig
from ccpo.data import shown
from ccpo.run import checkpoint
from ccpo.run.folder import FOLDERS
from ccpo.verl_plugin.values import leaves

ASKED_FOR = "ccpo.resume_changed"
NOT_COMPARED = (
    *(ASKED_FOR, "trainer.resume_mode", "trainer.resume_from_path", *FOLDERS),
    *("*.agent.agent_loop_config_path", "*.router_config_path"),  # of this folder's recipe
    *("data.train_files", "data.val_files", "ccpo.prompts*", "ccpo.reward"),  # what is in them, instead
    "ccpo.roles.*.prompts*",
    *(
        "ccpo.team",
        "ccpo.team_kwargs.*",
        "ccpo.policies",
        "ccpo.schedule.*",
        "ccpo.credit.*",
        "ccpo.history.*",
    ),  # restore
    *(
        "*.rollout.prompt_length",
        "*.rollout.response_length",
        "*.rollout_n",
        "*.served_model_name",
    ),  # other names of what is compared
)
OPERATION = (  # of sections that are otherwise the method
    *(f"ccpo.{name}" for name in ("poll_interval", "session_timeout", "stall_timeout", "max_dropped_rate", "network")),
    *("ccpo.reward_timeout", "ccpo.reward_processes", "ccpo.keep_sessions", "ccpo.keep_sessions_mb", "ccpo.gpu_share"),
    *("ccpo.validation_replays", "*.optim.total_training_steps"),
)
ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
METHOD = (
    *("seed", "*.seed", "*.data_loader_seed", "ccpo.*", "algorithm.*", "reward.custom_reward_function.*"),
    *("reward.reward_manager.*", "content of data.train_files", "content of ccpo.*"),
    *(f"data.{name}" for name in ("train_batch_size", "gen_batch_size", "max_prompt_length", "max_response_length")),
    *(f"data.{name}" for name in ("train_max_samples", "truncation", "shuffle", "filter_overlong_prompts")),
    *("data.apply_chat_template_kwargs*", "data.custom_cls.*", "data.sampler.*"),
    *(f"{MODEL}.{name}" for name in ("path", "tokenizer_path", "hf_config_path", "custom_chat_template", "lora*")),
    *(f"{MODEL}.{name}" for name in ("target_modules", "target_parameters", "exclude_modules")),
    *(f"{ACTOR}.{name}" for name in ("optim.*", "clip_*", "tau_*", "loss_*", "policy_loss.*", "kl_*", "use_kl_loss")),
    *(f"{ACTOR}.{name}" for name in ("entropy_coeff", "grad_clip", "ppo_mini_batch_size", "ppo_epochs", "shuffle")),
    f"{ACTOR}.freeze_vision_tower",
    *(f"{ROLLOUT}.{name}" for name in ("n", "temperature", "top_p", "top_k", "do_sample", "repetition_penalty")),
    f"{ROLLOUT}.quantization",
)
"""What the weights are made by. The rest is when, where and how fast."""
MODELS = (*(f"{MODEL}.{name}" for name in ("path", "tokenizer_path", "hf_config_path")), "ccpo.roles.*.model")
CONTENT = "content of "
SECRET = ("*key*", "*token", "*secret*", "*password*", "*proxy*")
COLUMNS = ("data.*_key",)
"""Names of the data's columns: what verl calls a key there is none."""
HORIZON = ("trainer.total_training_steps", "trainer.total_epochs")


def settings(config: DictConfig) -> dict[str, Any]:
    """Setting -> value of all that is compared, as JSON gives it back. For a configuration that every check has passed."""
    found = {name: value for name, value in leaves(OmegaConf.to_container(config, resolve=True))}
    for name, path in found.items():
        if _fits(name, MODELS) and isinstance(path, str) and os.path.isdir(os.path.expanduser(path)):
            found[name] = os.path.realpath(os.path.expanduser(path))
    job = CcpoConfig.from_dict(OmegaConf.to_container(config.ccpo, resolve=True), config.actor_rollout_ref.rollout.n)
    found |= {f"{CONTENT}data.{name}": _sums(config.data[name]) for name in ("train_files", "val_files")}
    found |= {f"{CONTENT}ccpo.team": _code(job.team), f"{CONTENT}ccpo.reward": _code(job.reward) or job.reward}
    found[f"{CONTENT}ccpo.prompts"] = _prompts(job)
    kept = {name: value for name, value in found.items() if not _fits(name, NOT_COMPARED)}
    return json.loads(json.dumps(kept, default=str))


def compare(folder: Path, config: DictConfig) -> tuple[list[str], list[str]]:
    """What differs between the settings of a checkpoint and of the job that goes on from it.

    Returns:
        (problems, notes): differences of the method are a problem unless they are asked for; both are empty for equal settings.
    """
    then = checkpoint.kept_settings(folder)
    if then is None:
        return [], [
            f"{folder} does not say what settings it was made with (an earlier version saved it): whether they are this job's is not checked"
        ]
    now, raw = settings(config), dict(leaves(OmegaConf.to_container(config, resolve=False)))
    names = sorted(
        name for name in then.keys() | now.keys() if not _fits(name, NOT_COMPARED)
    )  # an earlier version's too
    changed = {name: _change(name, then, now) for name in names}
    changed = {name: text for name, text in changed.items() if text}
    own = {name: text for name, text in changed.items() if changed.get(_reference(raw.get(name))) != text}
    method = [f"{name} {text}" for name, text in own.items() if _is_method(name)]
    rest = [f"{name} {text}" for name, text in own.items() if not _is_method(name)]
    notes = [f"{folder} was made with other settings: {'; '.join(rest)}"] if rest else []
    if any(name in changed for name in HORIZON) and (curve := _curve(config.actor_rollout_ref.actor.optim)):
        notes.append(
            f"the learning rate follows {curve} over the job's steps, of which there are others now: it goes on along another curve"
        )
    if not method:
        return [], notes
    if config.ccpo.get("resume_changed", False) is True:
        return [], [f"{folder} was made by another method, as {ASKED_FOR} allows: {'; '.join(method)}", *notes]
    return [
        f"{folder} was made by another method: {'; '.join(method)}. What comes out would be of neither; set them back, or start in another "
        f"folder (OUT, trainer.default_local_dir), or go on all the same with {ASKED_FOR}=true"
    ], notes


def _is_method(name: str) -> bool:
    return _fits(name, METHOD) and not _fits(name, OPERATION)


@lru_cache(maxsize=16384)
def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _change(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    old, new = (made.get(name, _defaults().get(name)) for made in (then, now))
    if old == new or (name.startswith(CONTENT) and name not in then):  # an earlier version kept no sum of it
        return ""
    if name.startswith(CONTENT):
        return "differs"
    if _fits(name.lower(), SECRET) and not _fits(name, COLUMNS):
        return "differs (not shown)"
    return f"was {shown(old)}, is {shown(new)}"


@cache
def _defaults() -> dict[str, Any]:
    """What a setting of ours was where a record has none: an earlier version did not know it."""
    return dict(leaves(asdict(CcpoConfig()), "ccpo"))


def _reference(value: Any) -> str | None:
    """The setting whose value another one takes (${seed})."""
    found = re.fullmatch(r"\$\{(?:oc\.select:)?([\w.]+)(?:,[^}]*)?\}", value) if isinstance(value, str) else None
    return found and found[1]


def _curve(optim: DictConfig) -> str:
    """What of the learning rate's schedule depends on how many steps there are."""
    parts = [optim.lr_scheduler_type] if optim.lr_scheduler_type != "constant" else []
    if optim.lr_warmup_steps in (None, -1) and optim.lr_warmup_steps_ratio:
        parts.append(f"a warm-up of {optim.lr_warmup_steps_ratio}")
    return " and ".join(parts)


def _sums(files: Any) -> list[str]:
    names = [files] if isinstance(files, str) else list(files or [])
    return [_sum(path, path.stat().st_mtime_ns) for path in (Path(os.path.expanduser(name)) for name in names)]


@lru_cache(maxsize=64)
def _sum(path: Path, _changed_at: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _code(reference: str | None) -> str | None:
    """Of the user's file that a reference leads to, with the name in it; None where it leads to none."""
    where, _, name = (reference or "").rpartition(":")
    return f"{_sums(where)[0]}:{name}" if where.endswith(".py") else None


def _prompts(job: CcpoConfig) -> str:
    """Of what every role is told, wherever the templates stand."""
    told = {
        role: sorted((sorted(names), template) for names, template in found.of(role).items())
        for role, found in job.prompt_sets.items()
    }
    return hashlib.sha256(json.dumps(told, default=str, sort_keys=True).encode()).hexdigest()
