"""Names that a job looks up long after its start: a module, a file, a class in one. Each is looked up here first, as verl will, without Ray.

Names of verl's own lists are in `values.py` (CHOICES).
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig

from ccpo.verl_gpu import memory
from ccpo.verl_plugin import loggers
from ccpo.verl_plugin.faults import cause_of
from ccpo.verl_plugin.fit import lora_settings
from ccpo.verl_plugin.values import LOGGERS

MODEL = "actor_rollout_ref.model"
ROLLOUT = "actor_rollout_ref.rollout"


def problems(config: DictConfig) -> list[str]:
    """Every name in a composed configuration that leads nowhere."""
    return [
        *_optimizer(config.actor_rollout_ref.actor.optim),
        *_dataset_class(config.data),
        *_libraries(config.actor_rollout_ref.model),
        *_adapter(config.actor_rollout_ref.model),
        *_attention(config.actor_rollout_ref.model),
        *_rollout(config.actor_rollout_ref.rollout),
        *_sampler(config.trainer.v1.sampler.get("custom_sampler") or {}),
        *_logins(config.trainer.get("logger")),
    ]


def _tried(look_up: Callable[[], Any]) -> str | None:
    """What goes wrong when a name is looked up; None if nothing does."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            look_up()
    except Exception as error:  # a user's own module may raise anything
        return cause_of(error)
    return None


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (
        ImportError,
        ValueError,
        AttributeError,
    ):  # a package above it is missing; an empty name; a module that is no package
        return False


def _optimizer(optim: DictConfig) -> Iterator[str]:
    """verl makes it in every worker; here of one number."""
    import torch
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config.optimizer import build_optimizer

    def make() -> None:
        build_optimizer([torch.nn.Parameter(torch.zeros(1))], omega_conf_to_dataclass(optim))

    name = "actor_rollout_ref.actor.optim"
    if not _is_module(optim.optimizer_impl):
        yield f"{name}.optimizer_impl is {optim.optimizer_impl!r}: there is no such module; set torch.optim, or install it"
    elif why := _tried(make):
        yield (
            f"{name}: {optim.optimizer_impl}.{optim.optimizer} cannot be made ({why}): set optimizer to a class of that module (AdamW of "
            "torch.optim), and override_optimizer_config to what it takes"
        )


def _dataset_class(data: DictConfig) -> Iterator[str]:
    from verl.utils.dataset.rl_dataset import get_dataset_class

    own = data.get("custom_cls") or {}
    if own.get("name") and not own.get("path"):
        yield f"data.custom_cls.name is {own['name']!r}, and without data.custom_cls.path it is not read: set the path, or drop it"
    elif own.get("path") and (why := _tried(lambda: get_dataset_class(data))):
        yield (
            f"data.custom_cls: {own['name']} of {own['path']} cannot be loaded ({why}): set path to a Python file or pkg://module, and name to a "
            "torch Dataset in it"
        )


def _libraries(model: DictConfig) -> Iterator[str]:
    for name in _names(model.external_lib):
        if not (isinstance(name, str) and _is_module(name)):
            yield (
                f"{MODEL}.external_lib has {name!r}: there is no such module, and every worker would end with its import; name one that Python "
                "finds, or set null"
            )


def _adapter(model: DictConfig) -> Iterator[str]:
    """Modules that an adapter is put on, or an adapter to go on from."""
    path, setting = model.get("lora_adapter_path"), f"{MODEL}.lora_adapter_path"
    if path and not os.path.isdir(os.path.expanduser(str(path))):
        yield f"{setting} is {path!r}: there is no such folder; set one with adapter_config.json, or null"
    elif path:
        yield from _saved_adapter(os.path.expanduser(str(path)), model.lora_rank)
    elif model.lora_rank and (why := _tried(lambda: _with_adapter(model))):
        yield (
            f"{MODEL}.target_modules is {model.target_modules}: a LoRA adapter cannot be put on {model.path} ({why}); set all-linear, or names "
            "of its linear layers"
        )


def _with_adapter(model: DictConfig) -> None:
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(
            os.path.expanduser(str(model.path)), trust_remote_code=model.trust_remote_code
        )
    except Exception:  # of a model that is not there, which is named elsewhere
        return
    memory.shape_of(found, lora_settings(model))


def _saved_adapter(folder: str, rank: int) -> Iterator[str]:
    """What verl's checkpoints cannot say of an adapter would be lost in its export: they know rank and alpha alone."""
    from peft import LoraConfig

    setting = f"{MODEL}.lora_adapter_path is {folder!r}"
    found: list[LoraConfig] = []
    if why := _tried(lambda: found.append(LoraConfig.from_pretrained(folder))):
        yield f"{setting}, whose adapter_config.json cannot be read ({why}): set a folder that peft has saved, or null"
        return
    (adapter,) = found
    odd = [
        name
        for name in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save")
        if getattr(adapter, name, None)
    ]
    if odd:
        yield (
            f"{setting}, which has {', '.join(odd)}: verl's checkpoints keep rank and alpha of an adapter alone, so that it could not be exported; "
            "set a plain LoRA adapter, or null"
        )
    if adapter.r != rank:
        yield f"{setting}, of rank {adapter.r}, and {MODEL}.lora_rank is {rank}: the rollout takes the latter for it; set lora_rank={adapter.r}"


def _names(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, ListConfig)) else [] if value is None else [value]


def _attention(model: DictConfig) -> Iterator[str]:
    """The way of attending, of transformers or registered by a library of the job's."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as REGISTERED
    from transformers.utils import import_utils
    from verl.utils.import_utils import import_external_libs

    setting = f"{MODEL}.override_config.attn_implementation"
    given = (model.get("override_config") or {}).get("attn_implementation")
    name = "flash_attention_2" if given is None else given  # verl's
    says = f"{setting} is {name!r}" if given is not None else f"{setting} is not set, and verl takes {name}"
    if not isinstance(name, str):
        yield f"{says}: set text, for example sdpa"
        return
    if "/" in name:  # a kernel of the hub's
        if not import_utils.is_kernels_available():
            yield f"{says}, a kernel of the hub's: that needs the package kernels (pip install kernels); set sdpa"
        return
    if name != "eager" and name not in REGISTERED:
        _tried(
            lambda: import_external_libs([lib for lib in _names(model.external_lib) if isinstance(lib, str)] or None)
        )
    known = ["eager", *REGISTERED.keys()]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        yield f"{says}: neither transformers nor a module of {MODEL}.external_lib has such an attention; {guess}known: {', '.join(known)}"
    elif name.rpartition("|")[2].startswith("flash_attention_"):
        here = getattr(import_utils, f"is_flash_attn_{name[-1]}_available", None)
        if here is not None and not (here() or import_utils.is_kernels_available()):
            yield f"{says}, whose package is not installed: set sdpa, or install flash-attn"


def _rollout(rollout: DictConfig) -> Iterator[str]:
    from verl.utils.import_utils import load_class_from_fqn

    if rollout.router_config_path and (why := _tried(lambda: _router(rollout.router_config_path, load_class_from_fqn))):
        yield (
            f"{ROLLOUT}.router_config_path={rollout.router_config_path} cannot be used ({why}): set it to a YAML file with router_class, or null"
        )
    manager = rollout.agent.get("agent_loop_manager_class")
    if manager and (why := _tried(lambda: load_class_from_fqn(manager))):
        yield f"{ROLLOUT}.agent.agent_loop_manager_class is {manager!r}, which cannot be loaded ({why}): set package.module.Class, or null"


def _sampler(sampler: Any) -> Iterator[str]:
    """A module of another name may bring the buffer, too: the tests' do, with more."""
    if not sampler or not isinstance(sampler, DictConfig):  # `relations.py` asks for one
        return
    path = sampler.get("path")
    module = path.removeprefix("pkg://") if isinstance(path, str) and path.startswith("pkg://") else None
    if not (_is_module(module) if module else isinstance(path, str) and os.path.isfile(path)):
        yield (
            f"trainer.v1.sampler.custom_sampler.path is {path!r}, which leads to no module: set pkg://ccpo.verl_plugin.faults and WatchedBuffer"
        )


def _logins(names: Any) -> Iterator[str]:
    """Of loggers that are installed; `values.py` names the others."""
    for name in dict.fromkeys(_names(names)):
        package = LOGGERS.get(name) if isinstance(name, str) else None
        if package and _is_module(package) and (why := loggers.problem(name)):
            yield f"trainer.logger has {name}: {why}; or drop it from trainer.logger (ccpo writes metrics.jsonl itself)"


def _router(path: str, load: Callable[[str], type]) -> None:
    from verl.workers.rollout.router import _load_router_yaml

    load(_load_router_yaml(path)["router_class"])
