"""Seconds of a step and memory of a GPU, predicted for models and numbers of GPUs that are not at hand, beside what was measured.

    python benchmarks/scaling.py                                             the tables of docs/scaling.md
    python benchmarks/scaling.py --write docs/scaling.md                     put them there, in place of the old ones
    python benchmarks/scaling.py --model-shape qwen2.5-7b --gpus 32          one job: memory, every part, what to change
    python benchmarks/scaling.py --row outputs/run --model-shape qwen2.5-1.5b --gpu h200    a run as a line for measured/steps.json

The equations and their constants, measured and assumed, stand in step_model.py. No GPU, no model, no package but the method's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import step_model as model
import yaml
from shapes import SHAPES, sizes

from ccpo.config import CcpoConfig
from ccpo.credit.base import CreditConfig
from ccpo.run.folder import JOB, METRICS
from ccpo.run.run_log import read_run_log
from ccpo.run.step_times import step_times
from ccpo.verl_gpu import memory
from ccpo.verl_gpu.memory import GIB

MEASURED = Path(__file__).parent / "measured" / "steps.json"
TABLE_SHAPES = [name for name in SHAPES if name.startswith("qwen2.5")]
TABLE_GPUS = (1, 2, 8, 32, 256)
PER_GPU = 16  # prompts, in the table where the batch grows
PARTS = ("gen", "adv", "update_actor", "update_weights", "other", "step")
MATH_STEPS = 7495 // 64  # of an epoch of the default recipe
JOBS = [
    ("qwen2.5-0.5b", 1, "h100"),
    ("qwen2.5-1.5b", 1, "h100"),
    ("qwen2.5-1.5b", 2, "h100"),
    ("qwen2.5-1.5b", 1, "h200"),
    ("qwen2.5-3b", 1, "h100"),
    ("qwen2.5-7b", 2, "h200"),
    ("qwen2.5-7b", 8, "h100"),
]


def main() -> int:
    options = _options()
    if options.row:
        print(json.dumps(measured_row(options), indent=1))
    elif options.model_shape:
        print("\n".join(detail(options)))
    elif options.write:
        options.write.write_text(with_tables(options.write.read_text(), options))
    else:
        for title, lines in tables(options):
            print(f"{title}\n\n" + "\n".join(lines) + "\n")
    return 0


def _options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-shape", choices=SHAPES, help="one model in detail; without it: the tables")
    parser.add_argument("--gpus", type=int, default=1, help="of the job in detail (default %(default)s)")
    parser.add_argument(
        "--gpu", choices=model.GPUS, default="h200", help="kind (default %(default)s; tables: all kinds)"
    )
    parser.add_argument("--team", default="dyad", help="dyad, vote, or path/to/file.py:Class (default %(default)s)")
    parser.add_argument("--kwargs", nargs="*", default=[], metavar="NAME=VALUE", help="the team's settings")
    parser.add_argument("--rule", default="removal", help="of credit: what is replayed (default %(default)s)")
    parser.add_argument("--prompts", type=int, default=64, help="a step (default %(default)s)")
    parser.add_argument("--sessions", type=int, default=4, help="of a prompt (default %(default)s)")
    parser.add_argument("--prompt", type=int, default=200, help="tokens of a question (default %(default)s)")
    parser.add_argument(
        "--response", type=int, nargs=2, default=(500, 2048), metavar=("MEAN", "LONGEST"), help="tokens of a turn"
    )
    parser.add_argument("--allowed", type=int, default=6144, help="longest row of the settings (default %(default)s)")
    parser.add_argument("--row", type=Path, metavar="RUN_DIR", help="what a run measured, as JSON")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page that has them")
    parser.add_argument("--command", default="", help="with --row: what started the run")
    options = parser.parse_args(argv)
    if options.row and not options.model_shape:
        parser.error("--row needs --model-shape and --gpu: what the run trained, and on what")
    if options.row and not (options.row / METRICS).is_file():
        parser.error(f"--row {options.row}: a run's folder has a {METRICS}, and this one has none")
    if options.gpus < 1 or (options.gpus > model.NODE and options.gpus % model.NODE):
        parser.error(f"--gpus {options.gpus}: up to {model.NODE}, or whole nodes of {model.NODE}")
    return options


def _config(team: str, kwargs: Mapping, rule: str) -> CcpoConfig:
    return CcpoConfig(team=team, team_kwargs=kwargs, credit=CreditConfig(rule=rule))


def work(options: argparse.Namespace, prompts: int) -> model.Work:
    kwargs = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in options.kwargs)}
    config = _config(options.team, kwargs, options.rule)
    return model.work_of(config, prompts, options.sessions, options.prompt, *options.response, options.allowed)


# --- tables ---------------------------------------------------------------------------------------------------------


def tables(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """(title, lines) of every table that docs/scaling.md shows; the first one stands in README.md, too."""
    head = ["model", "GPUs", "GiB of a GPU, least", "s a step", "hours an epoch", "GB a checkpoint"]
    yield "What a job takes", _markdown(head, [_job(*job, work(options, options.prompts)) for job in JOBS])
    yield "Constants", _markdown(["constant", "value", "what it is", "measured or assumed"], _constants())
    yield "Predicted and measured", _markdown(["job", *PARTS, "role"], _comparison())
    head = ["model", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in TABLE_GPUS)]
    seen: set[str] = set()
    for gpu in model.GPUS.values():
        for title, per_gpu in ((f"{options.prompts} prompts a step", 0), (f"{PER_GPU} prompts a GPU", PER_GPU)):
            asked = [(gpus, work(options, per_gpu * gpus or options.prompts)) for gpus in TABLE_GPUS]
            rows = []
            for shape in TABLE_SHAPES:
                cells = [_whole(shape, gpu, gpus, wanted) for gpus, wanted in asked]
                seen |= {cause for _, cause in cells}
                rows.append([shape, *(cause if step is None else f"{step:.0f} s, {cause}" for step, cause in cells)])
            yield f"{gpu.name}, {title}", _markdown(head, rows)
    rows = [[cause, *text] for cause, text in model.CAUSES.items() if cause in seen]
    yield "What takes most", _markdown(["word", "what it is", "what helps"], rows)


def _job(name: str, gpus: int, kind: str, wanted: model.Work) -> list[str]:
    """A row: memory, time and disk of the default recipe on these GPUs."""
    shape, gpu = sizes(name), model.GPUS[kind]
    found = model.fit(shape, gpu, gpus, wanted)
    if found.missing:
        return [name, f"{gpus} {gpu.name}", f"no room: {found.missing}", "", "", ""]
    step = sum(model.seconds(shape, gpu, gpus, wanted).values())
    hours, disk = f"{step * MATH_STEPS / 3600:.1f}", f"{memory.resting(shape, 1) / 1e9:.0f}"
    return [name, f"{gpus} {gpu.name}", f"{max(found.learns, found.decodes) / GIB:.0f}", f"{step:.0f}", hours, disk]


def _whole(shape: str, gpu: model.Gpu, gpus: int, wanted: model.Work) -> tuple[float | None, str]:
    """(seconds of a step, what takes most of them); (None, what there is no room for)."""
    if missing := model.fit(sizes(shape), gpu, gpus, wanted).missing:
        return None, f"no room: {missing}"
    parts = model.seconds(sizes(shape), gpu, gpus, wanted)
    return sum(parts.values()), next(iter(model.causes(parts)))


def with_tables(page: str, options: argparse.Namespace) -> str:
    """A page with these tables in place of its own: all that it has. A table is known by its head, and those with one head by their order."""
    lines, at = page.splitlines(), 0
    found = [table for _, table in tables(options) if table[0] in lines]
    if not found:
        raise SystemExit("the page has none of the tables: put the head of one where it is to stand")
    for table in found:
        at = lines.index(table[0], at)
        end = next((i for i in range(at, len(lines)) if not lines[i].startswith("|")), len(lines))
        lines[at:end] = table
        at += len(table)
    return "\n".join(lines) + "\n"


def _constants() -> Iterable[list[str]]:
    for name, constant in vars(model).items():
        if isinstance(constant, model.Constant):
            yield [
                name,
                f"{float(constant):.3g}",
                constant.what,
                f"{'measured' if constant.measured else 'assumed'}: {constant.source}",
            ]


def _comparison() -> Iterable[list[str]]:
    for row in json.loads(MEASURED.read_text()):
        found = model.by_part(predicted(row))
        cells = [f"{found[part]:.2f} / {row['seconds'][part]:.2f}" for part in PARTS]
        job = f"{row['model']}, {row['gpus']} {row['gpu'].upper()}, {row['team']}, {row['prompts']} x {row['sessions']}"
        yield [job, *cells, "calibration" if row["calibration"] else "test"]


def predicted(row: Mapping) -> dict[str, float]:
    """`model.seconds` of a measured job."""
    config, tokens = _config(row["team"], row["team_kwargs"], row["rule"]), row["tokens"]
    plain = model.work_of(
        config, row["prompts"], row["sessions"], tokens["prompt"], tokens["response"], 0, tokens["allowed"]
    )
    wanted = replace(plain, **tokens)
    return model.seconds(sizes(row["model"]), model.GPUS[row["gpu"]], row["gpus"], wanted)


def _markdown(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


# --- one job --------------------------------------------------------------------------------------------------------


def detail(options: argparse.Namespace) -> Iterable[str]:
    """Memory and time of one job, and what to change."""
    shape, gpu, gpus = sizes(options.model_shape), model.GPUS[options.gpu], options.gpus
    wanted = work(options, options.prompts)
    found = model.fit(shape, gpu, gpus, wanted)
    yield f"{options.model_shape}, {shape.parameters / 1e9:.3g} billion parameters, {gpus} x {gpu.name}"
    yield (
        f"{options.team}, {options.prompts} prompts x {options.sessions} sessions: {wanted.turns:,.0f} turns, {wanted.rows:,} rows trained, "
        f"{wanted.rows * (wanted.prompt + wanted.response):,.0f} tokens"
    )
    yield f"memory of a GPU, least, GiB of {gpu.bytes / GIB:.0f}: {found.learns / GIB:.0f} to learn, {found.decodes / GIB:.0f} to decode"
    if found.missing:
        yield f"does not fit: there is no room for the {found.missing}; take more GPUs (N_GPUS) or a smaller MODEL"
        return
    yield (
        f"engines of {found.size} GPU(s), packs of {found.pack:,} tokens, gradient checkpointing {'on' if found.checkpointing else 'off'}"
        + (", the actor waits in host memory" if found.offload else "")
    )
    parts = model.seconds(shape, gpu, gpus, wanted)
    whole = sum(parts.values())
    yield f"\nseconds of a step {whole:>27.1f}"
    for cause, value in model.causes(parts).items():
        if value >= whole / 200:
            yield f"  {model.CAUSES[cause][0]:<36}{value:>7.1f}{value / whole:>6.0%}"
    others = [
        f"{size}: {sum(model.seconds(shape, gpu, gpus, wanted, size).values()):.0f}"
        for size in model.engine_sizes(gpus)
        if not model.fit(shape, gpu, gpus, wanted, size).missing
    ]
    yield f"\nGPUs of an engine: seconds of a step    {', '.join(others)}"
    first = next(iter(model.causes(parts)))
    yield f"most of it: {model.CAUSES[first][0]}\nwhat helps: {model.CAUSES[first][1]}"


# --- a run as a measurement -----------------------------------------------------------------------------------------


def measured_row(options: argparse.Namespace) -> dict:
    """What a run's folder says, in the form of measured/steps.json: means over the steps after the first."""
    from omegaconf import OmegaConf

    job = OmegaConf.load(options.row / JOB)
    node = OmegaConf.to_container(job.ccpo, resolve=True)
    sessions, limits = job.actor_rollout_ref.rollout.n, (job.data.max_prompt_length, job.data.max_response_length)
    config = CcpoConfig.from_dict(node, sessions)
    train = [entry for entry in read_run_log(options.row / METRICS) if entry["kind"] == "train"]
    parts = {name: part.mean for name, part in step_times(train, 0).items() if part.mean is not None}
    later = [entry["metrics"] for entry in train[1:]]
    if not later:
        raise SystemExit(f"{options.row / METRICS} has no step after the first, which takes longer than others")
    known = {part: parts.get(part, 0.0) for part in PARTS if part != "step"}
    known["other"] += sum(parts.get(name, 0.0) for name in ("read_rows", "old_log_prob", "ref"))

    def mean(name: str) -> float:
        return sum(metrics[name] for metrics in later) / len(later)

    depth = model.depths(config.plan)
    most = mean("response_length/max")
    ends = {role: min(config.role(role).max_tokens or limits[1], most) for role in config.plan.roles}
    longest = {level: max(ends[role] for (role, _), at in depth.items() if at == level) for level in depth.values()}
    return {
        "model": options.model_shape,
        "gpu": options.gpu,
        "gpus": job.trainer.n_gpus_per_node * job.trainer.nnodes,
        "team": config.team,
        "team_kwargs": dict(config.team_kwargs),
        "rule": config.credit.rule,
        "prompts": job.data.train_batch_size,
        "sessions": sessions,
        "tokens": {
            "prompt": round(mean("prompt_length/mean"), 1),
            "response": round(mean("response_length/mean"), 1),
            "decode_steps": round(sum(longest.values())),
            "longest": round(min(sum(limits), mean("prompt_length/max") + most)),
            "allowed": sum(limits),
        },
        "seconds": {name: round(value, 3) for name, value in (known | {"step": sum(known.values())}).items()},
        "calibration": False,
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
        ).stdout.strip(),
        "command": options.command,
    }


if __name__ == "__main__":
    sys.exit(main())
