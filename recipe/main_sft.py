"""Teach a model the roles of teams: compose the configuration, check it, run verl's SFT trainer, export the model.

In the folder of the job (trainer.default_local_dir, OUT):

    model/          the taught model, for actor_rollout_ref.model.path; it appears when it is complete, and is never written again; with
                    model.lora_rank the adapter is in model/adapter, and merged into the weights
    sft.json        what was taught to which model, the last losses, the SHA-256 of the weights
    metrics.jsonl   verl's metrics, a line a step
    unfinished/     only while a job is on its way; what a killed one has left is removed when the same command begins anew
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hydra

HERE = Path(__file__).resolve().parent

if importlib.util.find_spec("ccpo") is None:
    sys.exit(f"error: ccpo is not on PYTHONPATH: start with recipe/run_sft_roles.sh, or set PYTHONPATH={HERE.parent}")

# verl reads its platform when it is first imported, and composing the configuration imports it (pkg://verl.trainer.config).
if "profile=cpu" in [word.lstrip("+").replace("'", "").replace('"', "") for word in sys.argv]:  # as Hydra reads them
    from ccpo.verl_cpu import ENVIRONMENT

    os.environ.update(ENVIRONMENT)

from ccpo.data import MANIFEST, sha256  # noqa: E402

MODEL, PART, FACTS, METRICS = "model", "unfinished", "sft.json", "metrics.jsonl"
SDPA = "sdpa"

READ_OTHERWISE = {
    "model.lora_adapter_path": None,
    "data.train_max_samples": -1,
    "data.val_max_samples": -1,
    "data.messages_key": "messages",
    "data.custom_cls.path": None,
    "data.apply_chat_template_kwargs": {},
    "trainer.nnodes": 1,
}
"""Settings of verl's trainer that change nothing here -> what they have to be."""
OTHERWISE = {
    "data": "lessons are read and tokenized here, not by verl, so that it would change nothing; leave it out, and make the lessons as they are to be taught",
    "model": "a new adapter is taught; leave it out, or teach a model into which recipe/merge_adapter.py has merged the old one",
    "trainer": "the processes of a job are those of one machine; leave it out",
}

LAUNCH = """
from ccpo.verl_plugin.network import bind_stores
bind_stores()
from torch.distributed.run import main
main()
"""
"""torchrun, whose store listens on the loopback address: it reads what comes there as pickles."""


class TeachError(ValueError):
    """A job that cannot be run; the text says why and what to set."""


# --- checks -----------------------------------------------------------------------------------------------------------


def begun(out: Path) -> bool:
    """Whether an earlier job in ``out`` was ended before it was done. Raises TeachError where nothing may be written."""
    from sft_worker import TOKENS

    if (out / MODEL).exists():
        raise TeachError(
            f"{out / MODEL} is a taught model already, and nothing is written over it: go on with it, or choose another folder "
            "(OUT, trainer.default_local_dir)"
        )
    if out.exists() and not out.is_dir():
        raise TeachError(f"{out} is a file: choose another folder (OUT, trainer.default_local_dir)")
    ours = {MODEL, PART, FACTS, METRICS, "run.lock"}
    others = sorted(path.name for path in out.iterdir() if path.name not in ours) if out.exists() else []
    if others:
        raise TeachError(
            f"{out} also holds {', '.join(others[:5])}, which this command did not write: choose another folder (OUT, trainer.default_local_dir)"
        )
    part = out / PART
    folder = part.is_dir() and not part.is_symlink()
    theirs = any(part.iterdir()) and not (part / TOKENS).exists() if folder else os.path.lexists(part)
    if theirs:
        raise TeachError(
            f"{part} is there, and no job of this command made it: move it away, or choose another folder (OUT)"
        )
    return part.exists()


def fill(config: Any, model_config: Any, gpu_bytes: float) -> list[str]:
    """Put a value where profile=gpu has none, as ``ccpo/verl_plugin/fit.py`` does for a team's job; returns what to say of it.

    ``model_config``: the model's, of transformers. ``gpu_bytes``: of a GPU. Raises TeachError for a model that does not fit.
    """
    from ccpo.verl_gpu import attention, memory
    from ccpo.verl_plugin.fit import LARGEST_SDPA_PACK, lora_settings

    model, data, gpus = config.model, config.data, config.trainer.n_gpus_per_node
    lines = []
    refused = attention.refusal(model_config)
    if model.override_config.attn_implementation is None:
        model.override_config.attn_implementation = SDPA if refused else attention.NAME
        lines += [f"attention {SDPA}: {refused}"] if refused else []
    elif model.override_config.attn_implementation == attention.NAME and refused:
        raise TeachError(
            f"model.override_config.attn_implementation={attention.NAME} does not fit: {refused}; set sdpa"
        )
    shape, room = memory.shape_of(model_config, lora_settings(model)), memory.room(gpu_bytes)
    if model.enable_gradient_checkpointing is None:
        model.enable_gradient_checkpointing = memory.needs_checkpointing(shape, gpus, room, data.max_length)
    if data.max_token_len_per_gpu is None:
        most = memory.LARGEST_PACK if model.override_config.attn_implementation == attention.NAME else LARGEST_SDPA_PACK
        data.max_token_len_per_gpu = memory.chosen_pack(
            shape, gpus, room, model.enable_gradient_checkpointing, data.max_length, most
        )
    needed = memory.update(shape, gpus, data.max_length, model.enable_gradient_checkpointing)
    if needed > room:
        raise TeachError(
            f"the model does not fit: learning one lesson takes {needed / memory.GIB:.1f} GiB of each of {gpus} GPU(s), and "
            f"{room / memory.GIB:.1f} can be used: take more GPUs (N_GPUS), a smaller MODEL, or a shorter data.max_length"
        )
    return lines


def gpu_memory(gpus: int) -> float:
    """Bytes of this machine's first GPU. Raises TeachError where there are fewer than ``gpus``."""
    import torch

    from ccpo.verl_plugin.fit import (
        gpu_bytes,  # without a context on the GPU, which would stay for as long as this process
    )

    if (found := torch.cuda.device_count()) < gpus:
        raise TeachError(
            f"{gpus} GPU(s) are asked for and {found} are there: set N_GPUS (trainer.n_gpus_per_node), or teach without one, profile=cpu"
        )
    return gpu_bytes()


def check_end(tokenizer: Any, generation: Any) -> str:
    """The token that ends a turn, as text. Raises TeachError where a rollout would not stop on it."""
    from ccpo.reference import end_token

    end = end_token(tokenizer)
    stops = getattr(generation, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])} - {None}
    if end not in stops:
        raise TeachError(
            f"the chat template ends a turn with {tokenizer.decode([end])!r}, and a rollout of this model stops on "
            f"{', '.join(repr(tokenizer.decode([stop])) for stop in sorted(stops)) or 'nothing'}: it would learn an end that ends nothing; set "
            "eos_token of the tokenizer, or eos_token_id in generation_config.json"
        )
    return tokenizer.decode([end])


def check_settings(config: Any) -> None:
    """Raises TeachError for what verl's trainer could do, and a job of this command cannot, or would not heed."""
    from omegaconf import OmegaConf

    rank, alpha = config.model.lora_rank, config.model.lora_alpha
    if type(rank) is not int or rank < 0:  # True is an int
        raise TeachError(f"model.lora_rank={rank}: set a whole number, 0 for no adapter")
    if rank and (type(alpha) is not int or not 1 <= alpha <= 1024 * rank):  # verl rounds it
        raise TeachError(
            f"model.lora_alpha={alpha}: what the adapter adds is scaled by lora_alpha / lora_rank; set a whole number from 1 to {1024 * rank}"
        )
    verls = Path(importlib.util.find_spec("verl").origin).parent / "trainer" / "config" / "model" / "hf_model.yaml"
    theirs = OmegaConf.load(verls).lora
    if changed := [name for name, value in config.model.lora.items() if value != theirs.get(name)]:
        raise TeachError(
            f"model.lora.{changed[0]}: those are Megatron's settings, which change nothing here; set model.lora_rank, lora_alpha, target_modules"
        )
    for name, only in READ_OTHERWISE.items():
        if (value := OmegaConf.select(config, name)) != only:
            raise TeachError(f"{name}={value}: {OTHERWISE[name.split('.')[0]]}")
    for name, needed, why in (
        ("trainer.logger", "file", "the last losses are read from verl's log in a file"),
        ("checkpoint.save_contents", "hf_model", "the taught model is made of it"),
    ):
        value = OmegaConf.select(config, name)
        if needed not in ([value] if isinstance(value, str) else value or ()):
            raise TeachError(f"{name}={value} has no {needed}, and {why}: add it, or leave the setting out")


def check_adapter(model: Any, model_config: Any) -> int:
    """Parameters of the adapter that model.lora_rank asks for. Raises TeachError where it cannot be put on the model, or not be merged."""
    import torch
    from merge_adapter import ends_of, on_the_ends
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from ccpo.verl_plugin.fit import lora_settings

    settings = lora_settings(model)
    said = "model.target_modules, exclude_modules, target_parameters: an adapter"
    try:
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(model_config, trust_remote_code=model.trust_remote_code)
        modules, ends = [name for name, _ in base.named_modules()], ends_of(base)
        whole = get_peft_model(base, LoraConfig(**settings))
    except (ValueError, TypeError, AttributeError, re.error) as error:
        why = " ".join(str(error).split())[:200]
        raise TeachError(
            f"{said} cannot be put on {model.path} ({why}); leave them out, or name linear layers of the model"
        ) from None
    for setting in ("target_modules", "exclude_modules"):
        listed = settings[setting] if isinstance(settings[setting], list) else []
        if unknown := [name for name in listed if not any(f".{one}".endswith(f".{name}") for one in modules)]:
            raise TeachError(
                f"model.{setting} names {unknown[0]!r}, which is no layer of {model.path}: mend the name, or leave it out"
            )
    learned = {name: weight.numel() for name, weight in whole.named_parameters() if weight.requires_grad}
    if bad := on_the_ends(ends, learned):
        raise TeachError(
            f"{said} on {bad[0]} would change an embedding or the output layer, which may be one tensor, so that it could not be merged; leave them "
            "out, or name other linear layers"
        )
    return sum(learned.values())


def check_steps(config: Any, rows: dict[str, int]) -> int:
    """Steps of the job. ``rows``: file -> lessons. Raises TeachError."""
    batch, gpus, epochs = config.data.train_batch_size, config.trainer.n_gpus_per_node, config.trainer.total_epochs
    for name, value in (("trainer.n_gpus_per_node (N_GPUS)", gpus), ("trainer.total_epochs", epochs)):
        if not isinstance(value, int) or value < 1:
            raise TeachError(f"{name}={value}: set a whole number from 1 on")
    if not isinstance(batch, int) or batch < 1 or batch % gpus:
        raise TeachError(
            f"data.train_batch_size={batch} is no multiple of the {gpus} process(es) that share it: set one"
        )
    for file, count in rows.items():
        if count < batch:
            raise TeachError(
                f"{file} has {count} lessons, fewer than data.train_batch_size={batch}, and verl drops what does not fill a batch: set it to {count} "
                "at most, or make more lessons"
            )
    steps = rows[config.data.train_files] // batch * epochs
    asked = config.trainer.total_training_steps
    if asked is not None and not (isinstance(asked, int) and 1 <= asked <= steps):
        raise TeachError(
            f"trainer.total_training_steps={asked}: {epochs} epoch(s) have {steps} steps; set 1 to {steps}, or null for all"
        )
    return asked or steps


class Plan(NamedTuple):
    """What is to be done: ``tokens`` are the lessons of "train" and "val", ``facts`` for sft.json, ``lines`` to be shown."""

    tokens: dict[str, list[tuple[list[int], list[int]]]]
    facts: dict[str, Any]
    lines: list[str]


def check(config: Any) -> Plan:
    """Look at everything that a job needs before it starts; fills the configuration. Raises TeachError, LessonError."""
    from sft_worker import tokenized
    from transformers import AutoConfig
    from verl.utils import hf_tokenizer
    from verl.utils.model import get_generation_config

    check_settings(config)
    path = str(config.model.path)
    if "/" in path and path.count("/") != 1 and not Path(path).is_dir():
        raise TeachError(f"model.path (MODEL) is {path}: there is no such folder")
    try:
        shape = AutoConfig.from_pretrained(path, trust_remote_code=config.model.trust_remote_code)
        tokenizer = hf_tokenizer(path, trust_remote_code=config.model.trust_remote_code)
        generation = get_generation_config(path, trust_remote_code=config.model.trust_remote_code)
    except Exception as error:  # of a wrong name, a missing file, no network: transformers has a type for each
        raise TeachError(
            f"model.path (MODEL) is {path}, which cannot be loaded: {str(error).splitlines()[0]}"
        ) from None
    if not tokenizer.chat_template:
        raise TeachError(
            f"model.path (MODEL) is {path}: its tokenizer has no chat template, and roles are asked in chats"
        )
    room = getattr(shape.get_text_config(), "max_position_embeddings", None)
    if room and config.data.max_length > room:
        raise TeachError(
            f"data.max_length={config.data.max_length} is more than the {room} positions of the model: set it to {room} at most"
        )
    try:
        if generation is not None:
            generation.validate(strict=True)
    except ValueError as error:
        why = " ".join(str(error).split())[:200]
        raise TeachError(
            f"model.path (MODEL) is {path}: its generation_config.json could not be saved again ({why}); mend it first"
        ) from None
    end = check_end(tokenizer, generation)
    files = (config.data.train_files, config.data.val_files)
    for file in files:
        if not isinstance(file, str) or not Path(file).is_file():
            raise TeachError(f"there is no file of lessons {file}: make it with data_preprocess.sft_roles, or set DATA")
    taught = {file: tokenized(file, tokenizer, shape.model_type, config.data.max_length) for file in files}
    steps = check_steps(config, {file: len(lessons) for file, lessons in taught.items()})
    adapter = check_adapter(config.model, shape) if config.model.lora_rank else 0
    cuda = config.trainer.device == "cuda"
    lines = fill(config, shape, gpu_memory(config.trainer.n_gpus_per_node)) if cuda else []
    train = taught[files[0]]
    replies = sum(len(lesson.reply) for lesson in train)
    total = sum(len(lesson.prompt) for lesson in train) + replies
    facts = {
        "model": path,
        "data": {file: sha256(Path(file).read_bytes()) for file in files},
        "lessons": len(train),
        "tokens_per_epoch": total,
        "learned_tokens_per_epoch": replies,
        "end_of_turn": end,
        "lr": config.optim.lr,
        "epochs": config.trainer.total_epochs,
        "lessons_per_step": config.data.train_batch_size,
        "steps": steps,
        "attention": config.model.override_config.attn_implementation,
    }
    if adapter:
        facts |= {"lora_rank": config.model.lora_rank, "lora_alpha": config.model.lora_alpha}
        lines.append(
            f"an adapter of {adapter:,} parameters, rank {config.model.lora_rank}; the model's own weights stay"
        )
        config.checkpoint.save_contents = []  # the adapter is saved instead
    longest = max(len(lesson.reply) for lessons in taught.values() for lesson in lessons)
    lines += [
        f"{len(train)} lessons, {total:,} tokens an epoch, {replies:,} of them learned; the longest reply has {longest}; a turn ends with {end}",
        f"{steps} steps of {config.data.train_batch_size} lessons, {config.trainer.total_epochs} epoch(s), learning rate {config.optim.lr:g}",
        f"attention {facts['attention']}, packs of {config.data.max_token_len_per_gpu:,} tokens"
        f"{', gradient checkpointing' if config.model.enable_gradient_checkpointing else ''}",
    ]
    tokens = {
        name: [tuple(lesson) for lesson in taught[file]] for name, file in zip(("train", "val"), files, strict=True)
    }
    return Plan(tokens, facts, lines)


# --- the job ----------------------------------------------------------------------------------------------------------


def end_with_parent() -> None:
    """A killed parent must not leave a trainer behind (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def remove(part: Path) -> None:
    """Remove what an earlier job has left. That it was one is told by its tokens, which go last: the removal may be interrupted, too."""
    from sft_worker import TOKENS

    for path in sorted(part.iterdir(), key=lambda path: path.name == TOKENS) if part.exists() else ():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if part.exists():
        part.rmdir()


def launched(worker: Path, config_file: Path, processes: int) -> tuple[list[str], dict[str, str]]:
    """The command that runs ``worker`` in so many processes, and its environment: nothing listens outside this machine."""
    from ccpo.config import LOOPBACK
    from ccpo.verl_plugin.network import address_in

    interface, address = address_in(LOOPBACK)
    command = [
        *(sys.executable, "-c", LAUNCH, "--standalone", f"--local-addr={address}"),
        *(f"--nproc_per_node={processes}", str(worker), str(config_file)),
    ]
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    return command, {
        **os.environ,
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": f"={interface}",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    }


def train(config: Any, tokens: Any, part: Path) -> None:
    """Run the trainer in the new folder ``part``. Raises TeachError when it fails."""
    import torch
    from omegaconf import OmegaConf
    from sft_worker import TOKENS

    part.mkdir(parents=True)
    torch.save(tokens, part / TOKENS)
    config.trainer.default_local_dir = str(part)
    (part / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    command, environment = launched(HERE / "sft_worker.py", part / "config.yaml", config.trainer.n_gpus_per_node)
    environment["VERL_FILE_LOGGER_PATH"] = str(part / METRICS)
    process = subprocess.Popen(command, env=environment, preexec_fn=end_with_parent)
    try:
        status = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if status:
        raise TeachError(
            f"the trainer ended with status {status}; what it said stands above. {part.parent} has no model; the same command begins anew"
        )


def export(part: Path, target: Path, step: int, model: str, trust_remote_code: bool = False) -> dict[str, str]:
    """Make the last checkpoint's model the folder ``target``; returns file -> SHA-256 of its weights. Raises TeachError.

    Args:
        model: what was taught. An adapter is merged into it, and goes along.
    """
    import torch
    from merge_adapter import WEIGHTS, merge
    from safetensors import SafetensorError, safe_open
    from sft_worker import ADAPTER
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    made = part / f"global_step_{step}" / "huggingface"
    if made.exists() and (part / ADAPTER).exists():
        try:
            merge(model, part / ADAPTER, made, trust_remote_code)
        except (ValueError, OSError, SafetensorError) as error:
            hint = ": the model is useless, set a lower optim.lr" if "NaN" in str(error) else ""
            raise TeachError(f"the adapter cannot be merged: {' '.join(str(error).split())[:300]}{hint}") from None
        (part / ADAPTER).rename(made / ADAPTER)
    weights = sorted(made.glob("*.safetensors"))
    if not weights:
        raise TeachError(f"{made} has no weights: the trainer ended without its last checkpoint")
    for file in weights:
        with safe_open(file, "pt") as tensors:
            if bad := [name for name in tensors.keys() if not torch.isfinite(tensors.get_tensor(name)).all()]:
                raise TeachError(
                    f"{bad[0]} is not finite after training, so the model is useless: set a lower optim.lr"
                )
    # verl writes the attention that the job trained with, and names a number format that the weights are not in: neither is the model's.
    ask = {"trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(made, **ask)
    config._attn_implementation = None
    config.dtype = torch.float32
    config.save_pretrained(made)
    AutoTokenizer.from_pretrained(made, **ask)
    AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32, **ask)
    for path in filter(Path.is_file, made.rglob("*")):  # a tokenizer with several chat templates has a folder of them
        path.chmod(0o644)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    weights += made.glob(f"{ADAPTER}/{WEIGHTS}")
    sums = {str(file.relative_to(made)): sha256(file.read_bytes()) for file in weights}
    made.rename(target)
    return sums


def last_losses(metrics: Path) -> dict[str, float]:
    """The last train/loss and val/loss of verl's log."""
    found: dict[str, float] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        data = json.loads(line)["data"]
        found |= {name: data[name] for name in ("train/loss", "val/loss") if name in data}
    return found


def teach(config: Any) -> None:
    """Everything, in the folder of the job. Raises TeachError, LessonError, ConfigError."""
    from ccpo.run.folder import run_folder
    from ccpo.run.lock import run_lock

    out = run_folder(config.trainer.default_local_dir)
    begun(out)  # before the lock makes the folder
    with run_lock(out):
        anew = begun(out)
        plan = check(config)
        facts = plan.facts
        print(*plan.lines, sep="\n")
        print(
            f"the folder is {out}"
            + (": an earlier job in it was ended before it was done, this one begins anew" if anew else ""),
            flush=True,
        )
        remove(out / PART)
        began = time.perf_counter()
        train(config, plan.tokens, out / PART)
        facts |= (losses := last_losses(out / PART / METRICS))
        if bad := [name for name, value in losses.items() if value is None or not math.isfinite(value)]:
            raise TeachError(f"{bad[0]} is not a number at the end, so the model is useless: set a lower optim.lr")
        facts["seconds"] = round(time.perf_counter() - began, 1)
        (out / PART / METRICS).replace(out / METRICS)
        staged = out / PART / "exported"
        facts["weights"] = export(
            out / PART, staged, facts["steps"], str(config.model.path), config.model.trust_remote_code
        )
        (out / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        staged.rename(out / MODEL)  # the last thing: the model is there when all is
        shutil.rmtree(out / PART, ignore_errors=True)
    print(*closing(out, config.data.train_files, facts), sep="\n", flush=True)


def closing(out: Path, lessons: str, facts: dict[str, Any]) -> Sequence[str]:
    """What to know of a taught model, and the commands that go on with it."""
    data = Path(lessons).parent
    try:
        roles = json.loads((data / MANIFEST).read_text(encoding="utf-8"))["roles"]
        teams = [f"TEAM={shlex.quote(team)} " for team in roles["teams"]]
        task, prompts, *overrides = roles.get("start") or (
            "gsm8k",
            "math",
        )  # the task, its own prompts, what else it needs
        overrides += [] if roles["prompts"] == prompts else [f"ccpo.prompts={roles['prompts']}"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # lessons of one's own
        teams, task, overrides = [""], "gsm8k", []
    environment = f"MODEL={shlex.quote(str(out / MODEL))} DATA={shlex.quote(str(data))} TASK={shlex.quote(task)}"
    words = "".join(f" {shlex.quote(word)}" for word in overrides)
    losses = ", ".join(f"{name} {facts[name]:.3f}" for name in ("train/loss", "val/loss") if name in facts)
    return [
        f"taught in {facts['seconds']:.0f} s: {losses}",
        *(f"sha256 {digest} {out / MODEL / name}" for name, digest in facts["weights"].items()),
        "go on with:",
        *(f"    {team}{environment} bash recipe/run_ccpo.sh{words}" for team in teams),
    ]


@hydra.main(config_path="sft", config_name="sft", version_base=None)
def main(config) -> None:
    from omegaconf import open_dict
    from sft_worker import LessonError

    from ccpo.config import ConfigError

    with open_dict(config):
        try:
            teach(config)
        except (TeachError, LessonError, ConfigError) as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit("interrupted: the same command begins anew")


if __name__ == "__main__":
    main()
