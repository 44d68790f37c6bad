"""Write the policies of a checkpoint as Hugging Face models, each with a model card.

    python scripts/export_model.py outputs/dyad exported                  # newest complete checkpoint of a run
    python scripts/export_model.py outputs/dyad/global_step_20 exported   # this one

One policy is written to OUT itself, several to OUT/<policy>. The weights are those of the checkpoint, bit for bit, in its own number
format (verl trains and saves float32 unless told otherwise); a LoRA adapter is merged into them. OUT appears when it is complete.

Nothing that a run's folder says is run. The card is written from the team's program, and a team that is not built in is imported for it: say
which one, --team examples/panel.py:Panel. Shards are read as plain data (ccpo/verl_plugin/loading.py); a model with code of its own needs
--trust-remote-code.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

from ccpo import report  # noqa: E402
from ccpo.config import RENAMED, CcpoConfig  # noqa: E402
from ccpo.credit.rules import RULES  # noqa: E402
from ccpo.prompts import Messages, render, with_persona  # noqa: E402
from ccpo.run.checkpoint import damage, fingerprint, finished_steps  # noqa: E402
from ccpo.run.folder import ACTOR, JOB, MARKER, METRICS, policy_folder, step_folder, step_name, step_of  # noqa: E402
from ccpo.run.run_log import read_run_log  # noqa: E402
from ccpo.team.load import BUILT_IN  # noqa: E402

LAYOUT = "fsdp_config.json"  # verl's file beside the shards
TAG = "ccpo"  # in every card: how an earlier export is known
CARD = "README.md"
EXAMPLE = {"question": "What is the last digit of (3+4)*5?"}  # text of a field
SAID = "3+4=7"  # and of any other, which are mostly what somebody said
OPTIONS = "\nA. 0\nB. 3\nC. 5\nD. 7"  # end the example question where a prompt asks for an option
CHOICE = "multiple-choice"
MERGER = "python -m verl.model_merger merge --backend fsdp --local_dir {folder} --target_dir OUT"  # verl's own: rounds to bfloat16


class ExportError(ValueError):
    """Something the user can mend; its text says how."""


@dataclass(frozen=True)
class ExportedPolicy:
    """One policy to export: its name, its folder in the checkpoint, the roles it plays, and the model it began as."""

    name: str
    folder: Path
    roles: tuple[str, ...]
    base: str


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint and the job that wrote it."""

    run: Path
    step: int
    job: DictConfig  # the composed configuration
    ccpo: CcpoConfig

    @property
    def policies(self) -> list[ExportedPolicy]:
        folder, policies = step_folder(self.run, self.step), self.ccpo.policy_list()
        common = str(self.job.actor_rollout_ref.model.path)
        return [
            ExportedPolicy(
                policy.name,
                policy_folder(folder, policy.name, alone=len(policies) == 1),
                policy.roles,
                policy.model or common,
            )
            for policy in policies
        ]


# --- checkpoint -----------------------------------------------------------------------------------------------------


def open_checkpoint(path: Path, team: str | None = None) -> Checkpoint:
    """The checkpoint ``path``, a folder ``global_step_N`` or a run's, whose newest complete one is taken.

    Args:
        team: the run's, in the caller's words; needed for a team that is not built in, whose program runs.

    Raises ExportError when it is not complete, or its configuration is missing or another job's.
    """
    path = path.resolve()
    if not path.is_dir():
        raise ExportError(f"{path} is no folder: name a run (trainer.default_local_dir) or its global_step_N")
    if (step := step_of(path.name)) is not None:
        run = path.parent
        if not (path / MARKER).exists():
            raise ExportError(
                f"{path} has no {MARKER}: its save was not finished, or the job went back to an earlier step. Complete "
                f"steps of this run: {finished_steps(run) or 'none'}"
            )
    else:
        run, steps = path, finished_steps(path)
        if not steps:
            raise ExportError(
                f"{path} has no complete checkpoint (a folder global_step_N with {MARKER}): train with trainer.save_freq > 0, "
                "or name another run"
            )
        step = steps[-1]
    if what := damage(step_folder(run, step), contents=True):
        raise ExportError(
            f"{step_folder(run, step)} is damaged: {what}; copy it again, or name another step of {finished_steps(run)}"
        )
    job = _job(run)
    if old := [name for name in RENAMED if OmegaConf.select(job, name) is not None]:
        folders = sorted(layout.parent for layout in step_folder(run, step).glob(f"*/{LAYOUT}"))
        commands = "; ".join(MERGER.format(folder=folder) for folder in folders or [step_folder(run, step) / ACTOR])
        raise ExportError(
            f"{_job_file(run)} is of an earlier version of ccpo (it has {old[0]}), whose teams this one does not know, so that it cannot "
            f"write a card. The weights are whole; verl's own merger makes a model of them, in bfloat16: {commands}"
        )
    section = OmegaConf.to_container(job.ccpo, resolve=True)
    for name in [name for name in section if name.startswith("reward")]:
        del section[name]  # a program that the run's folder names, and nothing here needs it
    ccpo = CcpoConfig.from_dict(
        _from_here(section | {"team": _trusted(section["team"], team, _job_file(run))}), _n(job)
    )
    saved = json.loads((step_folder(run, step) / MARKER).read_text())["fingerprint"]
    now = fingerprint(ccpo, _n(job))
    if differing := [name for name in now if name in saved and saved[name] != now[name]]:
        listed = "; ".join(f"{name}={saved[name]!r}, not {now[name]!r}" for name in differing)
        raise ExportError(
            f"{step_name(step)} was trained with {listed} as {_job_file(run)} says: another job was started in this folder, and the model "
            "card would be wrong; put the old configuration back"
        )
    return Checkpoint(run, step, job, ccpo)


def _trusted(recorded: Any, stated: str | None, file: Path) -> str:
    """The team that the caller wants to be imported. Raises ExportError when only a file of the run says so."""
    if stated is not None:
        return stated
    if recorded in BUILT_IN:
        return recorded
    raise ExportError(
        f"{file} names the team {recorded}, whose program has to run for the card, and whoever can write there can name any: if it is "
        f"the one that you mean, say so with --team {recorded}"
    )


def _job_file(run: Path) -> Path:
    return run / JOB


def _job(run: Path) -> DictConfig:
    if not _job_file(run).exists():
        raise ExportError(
            f"{_job_file(run)} is missing: it says which roles the model plays and how it was trained; copy it along with the "
            "checkpoint, to the same place"
        )
    return OmegaConf.load(_job_file(run))


def _from_here(section: dict[str, Any]) -> dict[str, Any]:
    """The ``ccpo`` section; the team's and the prompts' files as seen from the repository's root, where the job started, if they are there."""
    found = dict(section)
    for key in ("team", "prompts"):
        value = section.get(key)
        if isinstance(value, str) and (ROOT / value.partition(":")[0]).is_file():
            found[key] = str(ROOT / value)
    return found


def _n(job: DictConfig) -> int:
    return job.actor_rollout_ref.rollout.n


def check_files(policy: ExportedPolicy) -> None:
    """Raises ExportError naming what the policy's folder lacks, or what in it is not data."""
    from ccpo.verl_plugin.loading import CONVERT, more_than_data

    layout = policy.folder / LAYOUT
    if not layout.exists():
        raise ExportError(f"{layout} is missing: it says how many shards there are; copy the checkpoint again, whole")
    world_size = json.loads(layout.read_text())["world_size"]
    shards = [f"model_world_size_{world_size}_rank_{rank}.pt" for rank in range(world_size)]
    if missing := [name for name in shards if not (policy.folder / name).exists()]:
        raise ExportError(
            f"{policy.folder} lacks {len(missing)} of its {world_size} weight shards ({', '.join(missing[:4])}"
            f"{', ...' if len(missing) > 4 else ''}): gather the shards of all machines in one folder"
        )
    if not (policy.folder / "huggingface" / "config.json").exists():
        raise ExportError(
            f"{policy.folder / 'huggingface'} has no config.json: verl saves the model's configuration and tokenizer there; "
            "copy the checkpoint again, or put the base model's files there"
        )
    if found := more_than_data(policy.folder / name for name in shards):
        raise ExportError(f"{'; '.join(found)}. If it is yours: {CONVERT.format(folder=policy.folder)}")


# --- weights --------------------------------------------------------------------------------------------------------


def write_model(policy: ExportedPolicy, target: Path, trust_remote_code: bool) -> None:
    """Merge the shards with verl's merger; writes weights, configuration, generation configuration and tokenizer.

    verl facts: its FSDP merger rounds every weight to bfloat16 and declares that type, and reads shards as pickles, which run code when
    they are read: all of that is overridden.
    """
    import torch
    from transformers import AutoConfig
    from verl.model_merger.base_model_merger import ModelMergerConfig
    from verl.model_merger.fsdp_model_merger import DTensor, FSDPModelMerger, merge_non_dtensor_shards

    load = partial(torch.load, map_location="cpu", weights_only=True, mmap=True)

    class ExactMerger(FSDPModelMerger):
        def _load_rank_zero_state_dict(self, world_size):
            return load(policy.folder / f"model_world_size_{world_size}_rank_0.pt")

        def _load_and_merge_state_dicts(self, world_size, total_shards, mesh_shape, mesh_dim_names):
            names = [policy.folder / f"model_world_size_{world_size}_rank_{rank}.pt" for rank in range(total_shards)]
            shards = [load(name) for name in names]
            return {key: self._merged(key, [shard[key] for shard in shards]) for key in shards[0]}

        def _merged(self, key, parts):
            if not isinstance(parts[0], DTensor):
                return merge_non_dtensor_shards(key, parts)
            placement = parts[0].placements[-1]  # the ones before it replicate
            return self._merge_by_placement([part.to_local() for part in parts], placement)

        def save_hf_model_and_tokenizer(self, state_dict):
            kinds = [tensor.dtype for tensor in state_dict.values() if tensor.is_floating_point()]
            super().save_hf_model_and_tokenizer(state_dict)
            merge_adapter(self.get_transformers_auto_model_class(), target, reduce(torch.promote_types, kinds))
            config = AutoConfig.from_pretrained(target, trust_remote_code=trust_remote_code)
            config.dtype = reduce(torch.promote_types, kinds)
            config.save_pretrained(target)
            for weights in target.glob("*.safetensors"):  # which are written for the owner alone
                shutil.copymode(target / "config.json", weights)

    merger = ExactMerger(
        ModelMergerConfig(
            operation="merge",
            backend="fsdp",
            local_dir=str(policy.folder),
            hf_model_config_path=str(policy.folder / "huggingface"),
            target_dir=str(target),
            trust_remote_code=trust_remote_code,
        )
    )
    # verl saves the attention that the job trained with, which may be the plugin's own: it is no property of the model.
    merger.model_config._attn_implementation = None
    merger.merge_and_save()


def merge_adapter(model_class: Any, target: Path, dtype: Any) -> None:
    """Where the actor was LoRA's, verl's merger writes the base model and a folder beside it, which who loads the model passes over."""
    adapter = target / "lora_adapter"
    if not adapter.exists():
        return
    from peft import PeftModel
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        if other := [name for name in file.keys() if not name.endswith((".lora_A.weight", ".lora_B.weight"))]:
            raise ExportError(
                f"the adapter has more than LoRA's two matrices ({', '.join(other[:3])}), and verl's checkpoint does not say how they are used: it "
                "cannot be exported; the shards are whole"
            )
    model = model_class.from_pretrained(target, dtype=dtype)
    PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True).save_pretrained(target)
    shutil.rmtree(adapter)


# --- card -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Playbook:
    """How a role is asked, the template with the most fields first: (fields, messages with placeholders); and how long and until what it
    speaks. ``example``: messages of the first template, filled."""

    prompts: tuple[tuple[tuple[str, ...], Messages], ...]
    example: Messages
    max_tokens: int
    stop: tuple[str, ...]


def playbook(checkpoint: Checkpoint, role: str) -> Playbook:
    """The prompts and limits of a role in this job: the templates that its program uses, in sessions or in their replays."""
    config, longest = checkpoint.ccpo, checkpoint.job.data.max_response_length
    settings, templates = config.role(role), config.prompt_sets[role].of(role)

    def filled(fields: Sequence[str], text: dict[str, str]) -> Messages:
        return with_persona(render(templates[frozenset(fields)], **text), settings.persona)

    heard = sorted(map(sorted, config.plan.fields[role]), key=lambda fields: (-len(fields), fields))
    prompts = tuple((tuple(fields), filled(fields, {name: f"{{{name}}}" for name in fields})) for fields in heard)
    example = {name: EXAMPLE.get(name, SAID) for name in heard[0]}
    if "question" in example and any(CHOICE in message["content"] for message in prompts[0][1]):
        example["question"] += OPTIONS
    return Playbook(
        prompts, filled(heard[0], example), min(settings.max_tokens or longest, longest), tuple(settings.stop)
    )


def team_name(config: CcpoConfig) -> str:
    return config.team if config.team in BUILT_IN else type(config.members).__name__


def team_words(config: CcpoConfig) -> str:
    """What the team's author says of it: the first paragraph above its module."""
    text = inspect.getdoc(inspect.getmodule(type(config.members))) or inspect.getdoc(type(config.members)) or ""
    return " ".join(text.split("\n\n")[0].split())


def part(config: CcpoConfig, role: str) -> str:
    """What a role does in the team's program, in one sentence."""
    plan = config.plan
    heard = [
        other
        for other in plan.roles
        if any(other == by for spot in plan.turns if spot[0] == role for by, _ in plan.hears[spot])
    ]
    times = "once" if plan.most[role] == 1 else f"up to {plan.most[role]} times"
    hears = f"hears {_listed(heard)}" if heard else "hears no other role"
    ends = ""
    if role in plan.answers:
        ends = (
            ", and gives the team's answer"
            if plan.tie is None
            else ", and casts a ballot: the plurality is the team's answer"
        )
    return f"speaks {times} in a session, {hears}{ends}"


def card(checkpoint: Checkpoint, policy: ExportedPolicy) -> str:
    """The model card of a policy. Absolute paths lose their front, because a card is made to be published."""
    config, job = checkpoint.ccpo, checkpoint.job
    base, name = policy.base, team_name(checkpoint.ccpo)
    alike: dict[str, tuple[Playbook, list[str]]] = {}
    for role in policy.roles:
        book = playbook(checkpoint, role)
        alike.setdefault(repr((book, part(config, role))), (book, []))[1].append(role)
    others = [f"{other.name} ({', '.join(other.roles)})" for other in checkpoint.policies if other.name != policy.name]
    words = team_words(config)
    return "\n".join(
        [
            "---",
            _front_matter(base),
            "---",
            "",
            f"# {Path(base).name}, trained with {TAG} ({name}, step {checkpoint.step})",
            "",
            f"Team: `{name}`, with the roles {_listed(config.plan.roles)}." + (f" {words}" if words else ""),
            "",
            f"This policy, `{policy.name}`, plays {_listed(policy.roles)}."
            + (f" The team's other policies: {'; '.join(others)}." if others else ""),
            "",
            "## Use",
            "",
            "Each role has its own prompts, those of its training: the one is used that has exactly the fields which the role hears. Sampling "
            "is that of the run's validation.",
            "",
            *_code(_setup(job)),
            *(line for book, roles in alike.values() for line in _role_section(config, book, roles)),
            "## Results",
            "",
            *_results(checkpoint),
            "",
            "## Training",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in _facts(checkpoint, base)),
            "",
            "The base model's licence holds for these weights too.",
            "",
        ]
    )


def _front_matter(base: str) -> str:
    """Metadata that the hub reads; it wants a base model of its own, so a local folder is left out."""
    data: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": [TAG, "verl"]}
    try:
        validate_repo_id(base)
        if not any((at / base).exists() for at in (Path.cwd(), ROOT)):
            data["base_model"] = base
    except HFValidationError:
        pass
    return ModelCardData(**data).to_yaml().strip()


def _setup(job: DictConfig) -> str:
    sampling = job.actor_rollout_ref.rollout.val_kwargs
    if sampling.do_sample and sampling.temperature > 0:
        top_k = max(0, sampling.top_k)  # vLLM: -1 is all tokens; transformers: 0
        how = f"do_sample=True, temperature={sampling.temperature}, top_k={top_k}, top_p={sampling.top_p}"
    else:
        how = "do_sample=False"
    template = OmegaConf.to_container(job.data.get("apply_chat_template_kwargs") or OmegaConf.create())
    extra = "".join(f", {name}={value!r}" for name, value in template.items())
    remote = ", trust_remote_code=True" if job.actor_rollout_ref.model.trust_remote_code else ""
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file is
tokenizer = AutoTokenizer.from_pretrained(folder{remote})
model = AutoModelForCausalLM.from_pretrained(folder{remote})


def ask(messages, **limits):
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False{extra})
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt", return_token_type_ids=False)
    sampling = dict({how}, repetition_penalty=1.0)
    output = model.generate(**inputs, **sampling, **limits, tokenizer=tokenizer)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)"""


def _role_section(config: CcpoConfig, book: Playbook, roles: Sequence[str]) -> list[str]:
    what = part(config, roles[0])
    lines = [f"### {', '.join(roles)}", "", f"{what[0].upper()}{what[1:]}.", ""]
    for fields, messages in book.prompts:
        lines += [f"Prompt with {_listed(fields)}:" if len(book.prompts) > 1 else "Prompt:", "", "```text"]
        lines += [*(f"[{message['role']}] {message['content']}" for message in messages), "```", ""]
    limits = f"max_new_tokens={book.max_tokens}" + (f", stop_strings={list(book.stop)}" if book.stop else "")
    said = "".join(f"    {json.dumps(message, ensure_ascii=False)},\n" for message in book.example)
    return [*lines, *_code(f"messages = [\n{said}]\nprint(ask(messages, {limits}))")]


def _results(checkpoint: Checkpoint) -> list[str]:
    """The last validation up to the checkpoint's step, with the report's names and intervals."""
    log = checkpoint.run / METRICS
    entries = [entry for entry in (read_run_log(log) if log.exists() else []) if entry["step"] <= checkpoint.step]
    lines = []
    for source, ends in report.summarize(entries)["sources"].items():
        last = ends["after"]
        when = f"step {last['step']}" + (", before this checkpoint" if last["step"] < checkpoint.step else "")
        lines += [f"| `{source}` at {when} | value [95 % interval] |", "|---|---|"]
        lines += [f"| {label} | {text} |" for label, text in report.last_scores(entries, source)]
        sessions = last["sessions"] or "An unknown number of"
        lines += [
            "",
            f"{sessions} validated sessions, sampled as above. A contribution is the team's accuracy minus what the team gets without that "
            "role. One run, one seed: see Training.",
            "",
        ]
    return lines[:-1] or ["No validation was logged up to this step."]


def _facts(checkpoint: Checkpoint, base: str) -> list[tuple[str, str]]:
    config, job = checkpoint.ccpo, checkpoint.job
    credit, history = config.credit, config.history
    rows: list[tuple[str, Any]] = [
        ("base model", _shown(base)),
        ("training data", ", ".join(map(_shown, _files(job.data.train_files)))),
        ("validation data", ", ".join(map(_shown, _files(job.data.val_files)))),
        ("steps", f"{checkpoint.step} of {job.trainer.total_training_steps or 'all epochs'}"),
        ("prompts per step, sessions per prompt", f"{job.data.train_batch_size}, {_n(job)}"),
        ("learning rate", job.actor_rollout_ref.actor.optim.lr),
        *_lora(job.actor_rollout_ref.model),
        ("team", _plain(config.team)),
        *((f"ccpo.team_kwargs.{name}", value) for name, value in config.team_kwargs.items()),
        ("prompt set", _plain(config.prompts) if isinstance(config.prompts, str) else "the job's own, above"),
        ("credit rule, normalization", f"{credit.rule}, {config.normalization}"),
        ("credit of a role", f"{RULES[credit.rule].equation} ({RULES[credit.rule].source})"),
        ("history decay, floor", f"{history.decay}, {history.floor}"),
    ]
    shown = ("rule", "normalize")  # have a row of their own
    sections = {"credit": credit, **{f"roles.{role}": section for role, section in config.roles.items()}}
    for path, section in sections.items():
        rows += [(f"ccpo.{path}.{name}", value) for name, value in _changed(section).items() if name not in shown]
    rows.append(("seeds", f"sampling (ccpo.seed) {config.seed}, data order (data.seed) {job.data.seed}"))
    return [(name, str(_plain(value)).replace("|", "\\|").replace("\n", " ")) for name, value in rows]


def _lora(model: DictConfig) -> list[tuple[str, Any]]:
    if not model.get("lora_rank"):
        return []
    return [
        (
            "LoRA rank, alpha, modules; merged into these weights",
            f"{model.lora_rank}, {model.lora_alpha}, {model.target_modules}",
        )
    ]


def _changed(section: Any) -> dict[str, Any]:
    """Settings that are not at their defaults."""
    default, mine = asdict(type(section)()), asdict(section)
    return {name: value for name, value in mine.items() if value != default[name]}


def _files(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _shown(path: str) -> str:
    return f"`{'/'.join(Path(path).parts[-2:]) if Path(path).is_absolute() else path}`"


def _plain(value: Any) -> Any:
    """A setting; a path in it loses its front."""
    return _shown(value) if isinstance(value, str) and Path(value).is_absolute() else value


def _listed(roles: Sequence[str]) -> str:
    return ", ".join(f"`{role}`" for role in roles)


def _code(text: str) -> list[str]:
    return ["```python", text, "```", ""]


# --- command --------------------------------------------------------------------------------------------------------


def export(
    checkpoint: Path, out: Path, force: bool = False, team: str | None = None, trust_remote_code: bool = False
) -> list[Path]:
    """Write the checkpoint's policies; returns their folders.

    Args:
        team: the run's team, if it is not built in. trust_remote_code: run the Python files that the checkpoint keeps of its model.

    Raises ExportError when the checkpoint is not complete, or ``out`` is in the way: with ``force`` an earlier export
    makes room, nothing else.
    """
    return export_opened(open_checkpoint(Path(checkpoint), team), out, force, trust_remote_code)


def export_opened(opened: Checkpoint, out: Path, force: bool = False, trust_remote_code: bool = False) -> list[Path]:
    """The same, of a checkpoint that is open already."""
    out = Path(out).resolve()
    if opened.job.actor_rollout_ref.model.trust_remote_code and not trust_remote_code:
        raise ExportError(
            f"{_job_file(opened.run)} says that the model has code of its own (trust_remote_code), which would run from the checkpoint's "
            "folder: look at it, and say --trust-remote-code"
        )
    for policy in opened.policies:
        check_files(policy)
    _check_target(out, force)
    new, old = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    single = len(opened.policies) == 1
    try:
        for policy in opened.policies:
            target = new if single else new / policy.name
            target.mkdir(parents=True)
            write_model(policy, target, trust_remote_code)
            (target / CARD).write_text(card(opened, policy), encoding="utf-8")
        if out.exists():
            out.rename(old)
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return [out if single else out / policy.name for policy in opened.policies]


def _check_target(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{out} is a file: name a folder to write")
    if not any(out.iterdir()):
        return
    if not force:
        raise ExportError(f"{out} is not empty: name another folder, or replace an earlier export with --force")
    models = [out] if (out / CARD).exists() else list(out.iterdir())
    if not all((model / CARD).exists() and f"\n- {TAG}\n" in (model / CARD).read_text() for model in models):
        raise ExportError(
            f"{out} holds something else than an earlier export, so --force does not delete it: name another"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the policies of a checkpoint as Hugging Face models.")
    parser.add_argument(
        "checkpoint", type=Path, help="RUN_DIR (its newest complete checkpoint) or RUN_DIR/global_step_N"
    )
    parser.add_argument("out", type=Path, help="folder to write; several policies: one folder in it for each")
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    parser.add_argument("--team", help="the run's team, if it is not built in: its program runs, to write the card")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the model's own Python files, too")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module=r"verl\.")  # of engines that are not installed
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)  # shards need no process group here
    try:
        folders = export(
            arguments.checkpoint, arguments.out, arguments.force, arguments.team, arguments.trust_remote_code
        )
    except ValueError as error:  # ours, or the configuration's
        sys.exit(f"error: {error}")
    for folder in folders:
        print(f"wrote {folder}")


if __name__ == "__main__":
    main()
