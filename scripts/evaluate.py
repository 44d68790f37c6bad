"""Evaluate a team of agents: how good it is, who contributes, what it costs, and whether one agent would do.

    python scripts/evaluate.py --model outputs/my_run --data data/math --k 4 --out results/mine              a checkpoint of ours
    python scripts/evaluate.py --team dyad --model Qwen/Qwen2.5-1.5B-Instruct --data data/math --out results/base
    python scripts/evaluate.py --team examples/panel.py:Panel --endpoint https://host/v1 --model NAME --data data/math --out results/api
    python scripts/evaluate.py --compare results/mine results/base

The key of an endpoint stands in the environment variable OPENAI_API_KEY, or in the one that --key-env names. The same command goes on after
an interruption. How to read the numbers: docs/evaluate.md.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import inspect
import json
import logging
import math
import os
import re
import shlex
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict, dataclass, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # so that it runs from any folder

from ccpo.config import CcpoConfig, ConfigError, RoleConfig  # noqa: E402
from ccpo.evaluate import EvaluationError, servers  # noqa: E402
from ccpo.evaluate.client import Client, Endpoint  # noqa: E402
from ccpo.evaluate.compare import compare  # noqa: E402
from ccpo.evaluate.controls import CONTROLS, NONE, last_speaker, single_limit, single_prompt, single_stage  # noqa: E402
from ccpo.evaluate.data import Rows, read_rows  # noqa: E402
from ccpo.evaluate.job import Job, run  # noqa: E402
from ccpo.evaluate.measures import MOST  # noqa: E402
from ccpo.evaluate.sessions import Speaker, Stage  # noqa: E402
from ccpo.evaluate.store import opened, read_result, write_result  # noqa: E402
from ccpo.evaluate.tables import show, show_comparison  # noqa: E402
from ccpo.prompts import Messages, matching, with_persona  # noqa: E402
from ccpo.run.folder import JOB, MARKER, step_folder, step_of  # noqa: E402
from ccpo.team.load import BUILT_IN  # noqa: E402
from ccpo.types import REMOVE, REPLACE, SHUFFLE  # noqa: E402

HOWS = (REMOVE, REPLACE, SHUFFLE)
ENDING = (signal.SIGTERM, signal.SIGHUP)
EVERY = ""  # of a table by role: what holds for all that have nothing of their own
AT_ONCE, AT_ONCE_VLLM = 64, 256  # requests: to endpoints and the CPU, and where a GPU of ours decodes
MAX_TOKENS, TEMPERATURE = 1024, 1.0  # without a checkpoint that says otherwise
UNUSED_DAYS = 7  # after which an exported checkpoint is removed from the cache
CHANGING = "dtype kv-cache-dtype quantization".split()  # options of vllm serve that change what a model says
SPENDING = "block-size cpu-offload-gb enforce-eager gpu-memory-utilization kv-cache-memory-bytes max-num-batched-tokens max-num-seqs".split()
FIELDS = "model messages max_tokens max_completion_tokens temperature top_p stop seed n stream".split()  # of a request
ByRole = dict[str, str]


# --- what is asked for ------------------------------------------------------------------------------------------------


def fields_of_requests(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError('it is a JSON object, as {"reasoning_effort": "low"}')
    if ours := sorted(set(found) & set(FIELDS)):
        raise argparse.ArgumentTypeError(
            f"{', '.join(ours)}: options and the team decide that for each request, and results would say other than what was sent"
        )
    return found


def options_of_vllm(text: str) -> tuple[tuple[str, ...], ...]:
    """Options of vllm serve, each with its value: those that change memory, speed or precision, and none that opens a port or holds a secret."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no command line: {error}") from None
    found: list[tuple[str, ...]] = []
    for word in words:
        if word.startswith("-") and not re.fullmatch(r"-[0-9.]+", word):
            if _option(word) not in CHANGING + SPENDING:
                raise argparse.ArgumentTypeError(
                    f"{word}: it takes --{', --'.join(CHANGING + SPENDING)}; for others serve the model yourself and name the server in --endpoint"
                )
            found.append((word,))
        elif found:
            found[-1] += (word,)
    if not found or not words[0].startswith("--"):
        raise argparse.ArgumentTypeError(
            "it is options of vllm serve in one word: --vllm='--gpu-memory-utilization 0.3'"
        )
    return tuple(found)


def _option(word: str) -> str:
    """The name in --NAME or --NAME=VALUE."""
    return word.split("=")[0].removeprefix("--")


def arguments_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Evaluate a team of agents.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join((__doc__ or "").split("\n")[2:]),
    )
    what = parser.add_argument_group("what is evaluated")
    what.add_argument(
        "--model",
        action="append",
        metavar="[ROLE=]MODEL",
        help="a run's folder or its global_step_N, a Hugging Face folder or id, or a model's name at the endpoint; for some roles alone: "
        "ROLE=MODEL, or a pattern as voter_*=MODEL",
    )
    what.add_argument("--endpoint", action="append", metavar="[ROLE=]URL", help="an OpenAI-compatible API, up to /v1")
    what.add_argument("--key-env", action="append", metavar="[ROLE=]NAME", help="environment variable with its key")
    what.add_argument("--team", help="dyad, vote, package.module:Class or file.py:Class; default: the checkpoint's")
    what.add_argument("--prompts", help="one of the team's sets, or file.yaml:NAME; default: the checkpoint's")
    what.add_argument(
        "settings",
        nargs="*",
        metavar="OVERRIDE",
        help="settings of the team as in training: ccpo.team_kwargs.n_voters=5 'ccpo.roles.voter_*.max_tokens=64'",
    )
    data = parser.add_argument_group("on what")
    data.add_argument("--data", type=Path, help="a prepared set: its folder (test.parquet) or one of its files")
    data.add_argument("--limit", type=int, help="a sample of so many questions, drawn by --seed; default: all")
    data.add_argument("--k", type=int, default=4, help="sessions of each question (default 4)")
    data.add_argument("--seed", type=int, default=0, help="of the sample, of every request and of the intervals")
    how = parser.add_argument_group("how")
    how.add_argument("--temperature", type=float, help="of all roles; default: the checkpoint's, else 1.0")
    how.add_argument("--top-p", type=float, help="default: the checkpoint's, else all tokens")
    how.add_argument("--max-tokens", type=int, help="longest answer; default: the checkpoint's, else 1024")
    how.add_argument(
        "--single-max-tokens",
        type=int,
        help="longest answer of one agent alone; default: what the whole team may write",
    )
    how.add_argument(
        "--replays", nargs="*", choices=HOWS, default=list(HOWS), help="what is done to each role (default: all)"
    )
    how.add_argument(
        "--controls", choices=CONTROLS, default="all", help="one agent; all: voting with itself, too (default)"
    )
    how.add_argument(
        "--body",
        type=fields_of_requests,
        default={},
        metavar="JSON",
        help="more fields of every request; written into the results",
    )
    how.add_argument("--no-request-seeds", action="store_true", help="for an endpoint that refuses the field seed")
    work = parser.add_argument_group("with what")
    work.add_argument(
        "--backend", choices=servers.BACKENDS, help="of local models; default: vllm where there are a GPU and vLLM"
    )
    work.add_argument(
        "--vllm",
        type=options_of_vllm,
        default=(),
        metavar="'--NAME VALUE ...'",
        help=f"options of vllm serve for every local model: --{', --'.join(CHANGING + SPENDING)}",
    )
    work.add_argument("--max-model-len", type=int, help="of local models: longest prompt with its answer, in tokens")
    work.add_argument(
        "--concurrency",
        type=int,
        help=f"requests at a time (default {AT_ONCE}; {AT_ONCE_VLLM} where all models are local and vLLM serves them on a GPU)",
    )
    work.add_argument("--retries", type=int, default=5, help="of a request that failed (default 5)")
    work.add_argument("--timeout", type=float, default=600.0, help="seconds for one request (default 600)")
    work.add_argument("--cache", type=Path, help="where checkpoints are exported to; default: ~/.cache/ccpo/exported")
    parser.add_argument("--out", type=Path, help="folder of the results; an interrupted evaluation in it goes on")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="pair two results by question")
    given = parser.parse_intermixed_args(words)
    if given.compare is None:
        missing = [name for name in ("model", "data", "out") if getattr(given, name) is None]
        if missing:
            parser.error(f"{', '.join(f'--{name}' for name in missing)}: needed (or --compare A B)")
    return given


def check_numbers(given: argparse.Namespace) -> None:
    """Raise EvaluationError for a number out of range, before anything is read."""
    for name in ("limit", "k", "max_tokens", "single_max_tokens", "max_model_len", "concurrency"):
        if (value := getattr(given, name)) is not None and value < 1:
            raise EvaluationError(f"--{name.replace('_', '-')} is {value}: set at least 1")
    if given.k > MOST:
        raise EvaluationError(f"--k is {given.k}: set at most {MOST}")
    if given.retries < 0 or not 0 <= given.seed < 2**32:
        raise EvaluationError("--retries is at least 0, --seed a whole number from 0 to 4294967295")
    for name, low, high in (("temperature", 0, 100), ("top_p", 1e-9, 1), ("timeout", 1e-9, 86400)):
        value = getattr(given, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise EvaluationError(f"--{name.replace('_', '-')} is {value}: set it in [{low:g}, {high}]")


def by_role(words: Iterable[str] | None, option: str) -> ByRole:
    """role or pattern -> value; EVERY for a value that names none. Raises EvaluationError for two values of one."""
    found: ByRole = {}
    for word in words or ():
        named = None if Path(word).exists() else re.fullmatch(r"([a-z*][a-z0-9_*]*)=(.+)", word, re.DOTALL)
        role, value = (named[1], named[2]) if named else (EVERY, word)
        if role in found:
            raise EvaluationError(f"{option} is given twice{f' for {role}' if role else ''}: {found[role]} and {value}")
        found[role] = value
    return found


def of_role(table: Mapping[str, str], role: str) -> str | None:
    return matching({key: value for key, value in table.items() if key}, role) or table.get(EVERY)


def check_roles(tables: Mapping[str, ByRole], roles: Sequence[str]) -> None:
    """Raise EvaluationError for a role or pattern that fits none of the team's."""
    for option, table in tables.items():
        for key in table:
            if key and not any(matching({key: True}, role) for role in roles):
                raise EvaluationError(f"{option} {key}=...: the team has no such role; it has {', '.join(roles)}")


# --- checkpoints ------------------------------------------------------------------------------------------------------


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a run's folder, or a checkpoint in one."""
    return path.is_dir() and (step_of(path.resolve().name) is not None or (path / JOB).exists())


def open_checkpoints(models: Iterable[str], team: str | None) -> dict[str, Any]:
    """model -> its checkpoint, of those that are one."""
    import export_model

    warnings.filterwarnings("ignore", module=r"verl\.")  # of engines that are not installed
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)  # shards need no process group here
    found = {}
    for model in dict.fromkeys(models):
        if is_checkpoint(Path(model)):
            own = _recorded_team(Path(model)) in BUILT_IN  # else it has to be named, since its program runs
            found[model] = export_model.open_checkpoint(Path(model), None if own else team)
            if found[model].job.actor_rollout_ref.model.trust_remote_code:
                raise EvaluationError(
                    f"{model} needs code of its own (trust_remote_code): export it with scripts/export_model.py, serve it yourself, and name "
                    "the server in --endpoint"
                )
    return found


def _recorded_team(path: Path) -> str | None:
    from omegaconf import OmegaConf

    job = (path.resolve().parent if step_of(path.resolve().name) is not None else path) / JOB
    return OmegaConf.select(OmegaConf.load(job), "ccpo.team") if job.exists() else None


def exported(checkpoint: Any, cache: Path) -> dict[str, Path]:
    """Role -> the Hugging Face folder of the policy that plays it, from the cache where this very checkpoint was exported before.

    The folder's name has a digest of the checkpoint's marker, which holds the digests of all its files. Exports that nobody used for
    `UNUSED_DAYS` are removed, and what an export that was killed has left.
    """
    import export_model

    marker = step_folder(checkpoint.run, checkpoint.step) / MARKER
    out = cache / f"ccpo-{hashlib.sha256(marker.read_bytes()).hexdigest()[:24]}"
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.iterdir():
        ours = re.fullmatch(r"ccpo-[0-9a-f]{24}|\.ccpo-[0-9a-f]{24}\.[0-9]+\.(tmp|old)", old.name)
        if ours and old != out and time.time() - old.stat().st_mtime > UNUSED_DAYS * 86400:
            shutil.rmtree(old, ignore_errors=True)
    policies = checkpoint.policies
    if not out.exists():
        print(f"exporting {step_folder(checkpoint.run, checkpoint.step)} to {out}", file=sys.stderr)
        with redirect_stdout(sys.stderr):  # verl says what it does; the tables are what this command says
            export_model.export_opened(checkpoint, out)
    os.utime(out)
    return {role: out if len(policies) == 1 else out / policy.name for policy in policies for role in policy.roles}


# --- the team ---------------------------------------------------------------------------------------------------------


def team_of(given: argparse.Namespace, checkpoint: Any | None) -> CcpoConfig:
    """The team with its prompts and its roles' settings: the checkpoint's, then the options', then ``ccpo.NAME=VALUE``. Raises ConfigError."""
    section: dict[str, Any] = {}
    if checkpoint is not None:
        ccpo = checkpoint.ccpo
        section = {"team": ccpo.team, "prompts": ccpo.prompts}
        if given.team in (None, ccpo.team):  # another team has other settings and roles
            section["team_kwargs"] = dict(ccpo.team_kwargs)
            section["roles"] = {role: _settings(setting) for role, setting in ccpo.roles.items()}
    if given.team is not None:
        section["team"] = given.team
    if given.prompts is not None:
        section["prompts"] = given.prompts
    if "team" not in section:
        raise EvaluationError("--team is needed: only a checkpoint of ours says which team it was trained for")
    for word in given.settings:
        _set(section, word)
    trained = checkpoint.job.ccpo.get("reward") if checkpoint is not None else None
    if (
        trained is not None and "reward" not in section
    ):  # its program would run, and whoever can write there can name any
        raise EvaluationError(
            f"the run was trained with a reward of its own, {trained}: if it is the one that you mean, say ccpo.reward={trained}; to let the "
            "verifier judge, ccpo.reward=null"
        )
    section["validation_replays"] = [how for how in (REMOVE, REPLACE) if how in given.replays]
    section["credit"] = {
        "rule": "shared",
        "normalize": "none",
    }  # nothing is credited here: what fits every team and any --k
    return CcpoConfig.from_dict(section, given.k)


def _settings(setting: RoleConfig) -> dict[str, Any]:
    """How a role is asked; which policy plays it is another matter here."""
    return {name: getattr(setting, name) for name in setting.given if name not in ("model", "policy")}


def _set(section: dict[str, Any], word: str) -> None:
    """Take ``ccpo.NAME=VALUE`` into the section."""
    import yaml

    name, equals, value = word.partition("=")
    first, *path = name.split(".")
    allowed = ("team_kwargs", "roles", "prompts", "reward", "reward_timeout", "reward_processes")
    if first != "ccpo" or not equals or not path or path[0] not in allowed:
        raise EvaluationError(
            f"{word!r} is no setting: what evaluation takes is ccpo.{{{','.join(allowed)}}}... =VALUE, spelt as in training"
        )
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise EvaluationError(f"{word!r}: {value!r} is no readable value (YAML)") from None
    at = section
    for key in path[:-1]:
        at = at.setdefault(key, {})
        if not isinstance(at, dict):
            raise EvaluationError(f"{word!r}: {key} is no section")
    at[path[-1]] = parsed


def sampling_of(given: argparse.Namespace, config: CcpoConfig, checkpoint: Any | None) -> dict[str, dict[str, Any]]:
    """Role -> how it decodes: the option, else the role's own, else that of the checkpoint's validation."""
    longest, temperature, top_p, top_k = given.max_tokens or MAX_TOKENS, TEMPERATURE, given.top_p, None
    if checkpoint is not None:
        validation = checkpoint.job.actor_rollout_ref.rollout.val_kwargs
        longest = given.max_tokens or int(checkpoint.job.data.max_response_length)
        temperature = float(validation.temperature) if validation.do_sample else 0.0
        top_p = validation.top_p if top_p is None else top_p
        top_k = validation.top_k if validation.top_k > 0 else None
    found = {}
    for role in config.plan.roles:
        own = config.role(role)
        chosen = own.temperature if own.temperature is not None else temperature
        found[role] = {
            "max_tokens": min(own.max_tokens or longest, longest),
            "temperature": chosen if given.temperature is None else given.temperature,
            "top_p": None if top_p == 1 else top_p,
            "top_k": top_k,
            "stop": list(own.stop) or None,
        }
    return found


def body_of(given: argparse.Namespace, checkpoint: Any | None) -> dict[str, Any]:
    """More fields of every request: the chat template's settings of the checkpoint, and the option's."""
    template = checkpoint.job.data.get("apply_chat_template_kwargs") if checkpoint is not None else None
    if not template:
        return given.body
    from omegaconf import OmegaConf

    return {"chat_template_kwargs": OmegaConf.to_container(template, resolve=True)} | given.body


# --- who speaks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Voice:
    """What speaks for a role: a model at an endpoint, or a local one, in ``folder`` (a folder or a hub id). ``what``: for the settings."""

    what: Mapping[str, Any]
    model: str
    url: str | None = None
    key_env: str | None = None
    folder: str | None = None


def voices_of(
    roles: Sequence[str], tables: Mapping[str, ByRole], checkpoints: Mapping[str, Any], cache: Path
) -> dict[str, Voice]:
    """Role -> what speaks for it. Raises EvaluationError where nothing does."""
    exports: dict[str, dict[str, Path]] = {}
    found = {}
    for role in roles:
        model, url = (of_role(tables[option], role) for option in ("--model", "--endpoint"))
        if model is None:
            raise EvaluationError(
                f"no model speaks for {role}: give --model MODEL for all roles, or --model {role}=MODEL"
            )
        if url is not None:
            what = {"endpoint": url.rstrip("/"), "model": model}
            found[role] = Voice(what, model, url, of_role(tables["--key-env"], role))
        elif model in checkpoints:
            checkpoint = checkpoints[model]
            if model not in exports:
                exports[model] = exported(checkpoint, cache)
            folders = set(exports[model].values())
            folder = exports[model].get(role) or (folders.pop() if len(folders) == 1 else None)
            if folder is None:
                raise EvaluationError(
                    f"{model} has {len(checkpoint.policies)} policies, for {', '.join(exports[model])}, and none for {role}: name one of the "
                    f"exported models in --model {role}=..."
                )
            what = {"run": checkpoint.run.name, "step": checkpoint.step, "policy": folder.relative_to(cache).as_posix()}
            found[role] = Voice(what, model, folder=str(folder))
        else:
            found[role] = Voice(_local(model), model, folder=_folder(model))
    return found


def _folder(model: str) -> str:
    """A folder as an absolute path, or a hub id. Raises EvaluationError for a folder that is none."""
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise EvaluationError(
                f"--model {model} is a folder without config.json, and without a checkpoint of ours: name a Hugging Face folder, a run "
                "(trainer.default_local_dir), or its global_step_N"
            )
        return str(path.resolve())
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or model.startswith("."):
        raise EvaluationError(f"--model {model}: there is no such folder, and it is no Hugging Face id either")
    if "/" not in model or (ROOT / model).parent.is_dir() or Path(model).parent.is_dir():
        raise EvaluationError(
            f"--model {model}: there is no such folder; an id of a Hugging Face model is owner/name, and a model at an endpoint needs --endpoint URL"
        )
    return model


def _local(model: str) -> dict[str, Any]:
    """What a local model is, so that another one in the same place is noticed."""
    path = Path(model).expanduser()
    if not path.is_dir():
        return {"model": model}
    files = sorted(file for file in path.iterdir() if file.is_file())
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {"model": model, "files": hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]}


def settings_of(
    given: argparse.Namespace,
    config: CcpoConfig,
    rows: Rows,
    voices: Mapping[str, Voice],
    sampling: Mapping[str, Mapping[str, Any]],
    body: Mapping[str, Any],
) -> dict[str, Any]:
    """All that the results depend on; two results in one folder have the same."""
    team = config.members
    sets = {
        role: repr(sorted((sorted(k), v) for k, v in config.prompt_sets[role].of(role).items()))
        for role in config.plan.roles
    }
    source = inspect.getsourcefile(type(team))
    found: dict[str, Any] = {
        "data": {
            "file": "/".join(rows.path.resolve().parts[-2:]),
            "sha256": rows.sha256,
            "rows": rows.total,
            "limit": given.limit,
        },
        "k": given.k,
        "seed": given.seed,
        "request_seeds": not given.no_request_seeds,
        "replays": [how for how in HOWS if how in given.replays],
        "controls": given.controls,
        "team": {
            "name": config.team,
            "settings": asdict(team) if is_dataclass(team) else {},
            "program": hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16] if source else None,
            "prompts": config.prompts if isinstance(config.prompts, str) else "of the configuration",
        },
        "roles": {
            role: {
                **voices[role].what,
                **sampling[role],
                "persona": config.role(role).persona,
                "templates": hashlib.sha256(sets[role].encode()).hexdigest()[:16],
            }
            for role in config.plan.roles
        },
        "body": dict(body),
        "reward": None if config.own_reward is None else {"name": config.reward, "program": config.own_reward.digest},
    }
    if changing := [list(words) for words in given.vllm if _option(words[0]) in CHANGING]:
        found["vllm"] = changing
    if given.controls != NONE:
        role = last_speaker(config)
        template = [list(part) for part in single_prompt(config)]
        found["one agent"] = {"as": role, "max_tokens": _single_limit(given, config, sampling), "template": template}
    return found


def _single_limit(given: argparse.Namespace, config: CcpoConfig, sampling: Mapping[str, Mapping[str, Any]]) -> int:
    return given.single_max_tokens or single_limit(config, sampling)


# --- command ----------------------------------------------------------------------------------------------------------


def bar(what: str, total: int, done: int) -> Any:
    """A progress bar on standard error; in a pipe a line now and then."""
    from tqdm import tqdm

    live = sys.stderr.isatty()
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit="",
        dynamic_ncols=live,
        mininterval=0.2 if live else 15,
        file=sys.stderr,
    )


def evaluate(given: argparse.Namespace) -> None:
    check_numbers(given)
    tables = {
        option: by_role(getattr(given, option.strip("-").replace("-", "_")), option)
        for option in ("--model", "--endpoint", "--key-env")
    }
    named = [model for key, model in tables["--model"].items() if of_role(tables["--endpoint"], key) is None]
    checkpoints = open_checkpoints(named, given.team) if any(is_checkpoint(Path(model)) for model in named) else {}
    teams = {repr((c.ccpo.team, c.ccpo.team_kwargs, c.ccpo.prompts)) for c in checkpoints.values()}
    if len(teams) > 1 and given.team is None:
        raise EvaluationError(
            f"the checkpoints are of {len(teams)} different teams or prompts: say which one plays, --team and --prompts"
        )
    checkpoint = next(iter(checkpoints.values()), None)
    config = team_of(given, checkpoint)
    roles = config.plan.roles
    check_roles(tables, roles)
    rows = read_rows(given.data, given.limit, given.seed, config.members.columns, config.reward is not None)
    if given.limit is not None and given.limit < rows.total:
        print(f"a sample of {given.limit} of {rows.total} questions, drawn by seed {given.seed}", file=sys.stderr)
    cache = (
        given.cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ccpo" / "exported"
    ).absolute()
    voices = voices_of(roles, tables, checkpoints, cache)
    sampling, body = sampling_of(given, config, checkpoint), body_of(given, checkpoint)
    settings = settings_of(given, config, rows, voices, sampling, body)
    remote = {
        voice: Endpoint.of(voice.url, voice.model, voice.key_env, given.body)
        for voice in map(_hashable, voices.values())
        if voice.url is not None
    }
    local = sorted({voice.folder for voice in voices.values() if voice.folder is not None})
    if given.vllm and not local:
        raise EvaluationError("--vllm: only endpoints speak here, and their servers are not started by this command")
    serving = serving_of(given) if local else None
    with ExitStack() as stack:
        store = stack.enter_context(opened(given.out, settings))
        started = stack.enter_context(_served(serving, local, body)) if local else {}
        endpoints = {
            role: started[voice.folder] if voice.folder is not None else remote[_hashable(voice)]
            for role, voice in voices.items()
        }
        if config.own_reward is not None:
            stack.callback(config.own_reward.close)
        many = at_once(given, endpoints.values(), serving)
        result = asyncio.run(_until_ended(_run(given, config, rows, sampling, endpoints, many, store)))
        path = write_result(given.out, result)
    needed = frozenset(
        role
        for role in config.plan.answers
        if config.plan.tie is None
        and (m := result["measures"]["roles"][role].get(REMOVE))
        and m["without"]["value"] == 0
    )
    show(result, sys.stdout, needed)
    print(f"numbers: {path}; what was said: {store.path}")


def _hashable(voice: Voice) -> Voice:
    return Voice((), voice.model, voice.url, voice.key_env, voice.folder)


def at_once(given: argparse.Namespace, endpoints: Iterable[Endpoint], serving: servers.Serving | None) -> int:
    """Requests at a time, of all servers together. ``serving``: of those that are ours."""
    ours = serving is not None and all(endpoint.local for endpoint in endpoints)
    return given.concurrency or (AT_ONCE_VLLM if ours and serving.gpus and serving.backend == servers.VLLM else AT_ONCE)


def serving_of(given: argparse.Namespace) -> servers.Serving:
    gpus = servers.gpus_here()
    backend = given.backend or servers.backend_here(gpus)
    if given.vllm and backend != servers.VLLM:
        raise EvaluationError("--vllm: no vLLM serves here, but the CPU server, which has no such options")
    return servers.Serving(backend, given.max_model_len, given.seed, gpus, tuple(chain.from_iterable(given.vllm)))


def _served(serving: servers.Serving, models: Sequence[str], body: Mapping[str, Any]) -> Any:
    print(f"starting {len(models)} server{'s' * (len(models) > 1)} ({serving.backend})", file=sys.stderr)
    return servers.served(models, serving, body)


async def _run(
    given: argparse.Namespace,
    config: CcpoConfig,
    rows: Rows,
    sampling: Mapping[str, Mapping[str, Any]],
    endpoints: Mapping[str, Endpoint],
    many: int,
    store: Any,
) -> dict[str, Any]:
    gate = asyncio.Semaphore(many)
    clients: dict[tuple, Client] = {}
    speakers = {}
    for role, endpoint in endpoints.items():
        place = endpoint.url, endpoint.model, endpoint.key
        if place not in clients:
            clients[place] = Client(endpoint, gate, given.retries, given.timeout)
        speakers[role] = Speaker(clients[place], sampling[role])

    def rendered(role: str, fields: Mapping[str, str]) -> Messages:
        return with_persona(config.prompt_sets[role].messages(role, fields), config.role(role).persona)

    seeded = not given.no_request_seeds
    stage = Stage(config.members, config.plan, rendered, speakers, given.seed, seeded, config.own_reward)
    single = None
    if given.controls != NONE:
        role = last_speaker(config)
        limit = {"max_tokens": _single_limit(given, config, sampling)}
        single = single_stage(config, Speaker(speakers[role].client, sampling[role] | limit), given.seed, seeded)
    hows = tuple(how for how in HOWS if how in given.replays)
    return await run(
        Job(config, rows, given.k, given.seed, hows, given.controls, stage, single, many, bar),
        store,
    )


class Ended(SystemExit):
    """By a signal: a reward that calls sys.exit is another matter (ccpo/reward.py)."""


def _ended(number: int, _: Any) -> None:
    raise Ended(128 + number)


async def _until_ended(work: Coroutine) -> Any:
    """``work``, cancelled by a signal: what a handler raises may be raised in a finalizer, where Python passes over it."""
    loop, task, got = asyncio.get_running_loop(), asyncio.current_task(), []
    ours = [number for number in ENDING if signal.getsignal(number) is _ended]

    def end(number: int) -> None:
        got.append(number)
        task.cancel()

    for number in ours:
        loop.add_signal_handler(number, end, number)
    try:
        return await work
    except asyncio.CancelledError:
        if got:
            raise Ended(128 + got[0]) from None
        raise
    finally:
        for number in ours:
            loop.remove_signal_handler(number)
            signal.signal(number, _ended)


def main(words: Sequence[str] | None = None) -> None:
    given = arguments_of(words)
    try:
        if given.compare is not None:
            show_comparison(compare(*map(read_result, given.compare)), sys.stdout)
        else:
            evaluate(given)
    except KeyboardInterrupt:
        sys.exit(f"interrupted: what was played is kept in {given.out}; the same command goes on")
    except ConfigError as error:
        sys.exit("error: " + "; ".join(error.problems))
    except (ValueError, OSError) as error:  # ours, and those of checkpoints and teams
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    for signal_number in ENDING:
        signal.signal(signal_number, _ended)  # so that servers end and the folder is let go
    main()
