"""What a run is called where its configuration gives no name: by what tells it from others, so that two baselines never meet in one folder.

dyad-counterfactual-one_policy-Qwen2.5-1.5B-Instruct-math-seed0
vote-n_voters5-resampled-per_role-Qwen2.5-1.5B-Instruct-logiqa-seed3
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ccpo.team.load import settings_class, team_class
from ccpo.team.session import TeamError

LONGEST = 40  # characters of a part
LONGEST_NAME = 110  # and of all of them, before a sum: wandb takes 128 of a name, file systems 255


def name_run(config: DictConfig) -> None:
    """Give the job the name that its configuration leaves open (null); its folder is called after it. For a readable configuration."""
    if config.trainer.get("experiment_name") is None:
        with open_dict(config.trainer):
            config.trainer.experiment_name = run_name(config)


def run_name(config: DictConfig) -> str:
    """Team with the settings that are not its own defaults, rule, policies, models, data and seed. Wrong values are named by the checks.

    Where something of them has no place in a name, a sum of all ends it, so that it still tells runs apart.
    """
    team, data = OmegaConf.to_container(config.ccpo, resolve=True), config.data.train_files
    files = [data] if isinstance(data, str) else list(data or [])
    parts = [
        str(team.get("team")).rpartition(":")[2],
        *_settings(team),
        _of(team.get("credit"), "rule"),
        {"shared": "one_policy"}.get(team.get("policies"), team.get("policies")),
        "+".join(dict.fromkeys(_models(config, team.get("roles")))),
        os.path.basename(os.path.dirname(os.path.abspath(str(files[0])))) if files else "",
        f"seed{config.get('seed')}",
    ]
    texts = ["" if part is None else str(part) for part in parts]
    name = "-".join(found for text in texts if (found := _plain(text)))
    if len(name) <= LONGEST_NAME and all(text.isascii() and len(text) <= LONGEST for text in texts):
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(repr(texts).encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def _of(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, Mapping) else None


def _settings(team: Mapping[str, Any]) -> Iterator[str]:
    given, defaults = team.get("team_kwargs"), {}
    try:
        own = settings_class(team_class(str(team.get("team"))))
        defaults = {field.name: field.default for field in fields(own)} if own else {}
    except TeamError:
        pass
    for name, value in given.items() if isinstance(given, Mapping) else ():
        if name not in defaults or defaults[name] != value:
            yield f"{name}{value}"


def _models(config: DictConfig, roles: Any) -> Iterator[str]:
    """The job's model, and those that roles have instead."""
    own = {f"{role}.": _of(settings, "model") for role, settings in roles.items()} if isinstance(roles, Mapping) else {}
    for whose, model in {"": config.actor_rollout_ref.model.path, **own}.items():
        if isinstance(model, str):
            yield f"{whose}{os.path.basename(os.path.abspath(os.path.expanduser(model)))}"


def _plain(text: str) -> str:
    """What any file system takes, and a shell without quotes."""
    return re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII).strip("_.+")[:LONGEST]
