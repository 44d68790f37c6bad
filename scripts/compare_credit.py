"""Which credit rule helps: the same job once per rule and seed, on the compact trainer (`ccpo.compact`), several at a time.

    python scripts/compare_credit.py --team vote --task silence --rules shared own_correctness resampled --seeds 0-4 --out outputs/silence
    python scripts/compare_credit.py --task last_digit --rules shared counterfactual --seeds 0-9 --out outputs/dyad trainer.total_training_steps=30

A rule may bring settings of its own, in quotes: "own_correctness ccpo.credit.normalize=centred". Overrides at the end are every run's.

Every run is written when it is over, to OUT/runs; the same command goes on with those that are missing, and a run that was ended begins anew. Then
OUT/scores.csv (rule, seed, score, value), OUT/curves.png and a table: means over seeds with 95 % t intervals, and differences to the first rule
with the same seed. All runs of a seed are asked the same prompts in the same order, with as many sessions: rules whose replays decode cost more (``tokens``).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

from ccpo.config import ConfigError  # noqa: E402
from ccpo.report.means import half_width, mean_text  # noqa: E402
from ccpo.run.json_file import write_atomic  # noqa: E402
from ccpo.run.lock import run_lock  # noqa: E402
from ccpo.team.load import BUILT_IN  # noqa: E402
from data_preprocess import silence  # noqa: E402

SECTIONS = ("actor_rollout_ref", "algorithm", "ccpo", "data", "trainer")
"""Of the composed configuration, what a run depends on."""
DATA = {"last_digit": "data_preprocess.toy", silence.NAME: "data_preprocess.silence"}
"""Task -> module that writes data/TASK."""


COLOURS = ("#8a8a8a", "#1b6ca8", "#2a8a57", "#c2356b", "#d1602f", "#7a4fa3", "#b07d12", "#3aa6a6")


class Mistake(ValueError):
    """What the user has to change."""


# --- what is run ------------------------------------------------------------------------------------------------------


def configurations(
    team: str, task: str, rules: Sequence[str], seeds: Sequence[int], overrides: Sequence[str]
) -> dict[tuple[str, int], dict[str, Any]]:
    """(rule, seed) -> the composed configuration, as plain data. Raises Mistake where there is none, or the compact trainer would not obey it."""
    import hydra
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from ccpo.compact import Settings

    name, own = (f"ccpo_{team}", []) if team in BUILT_IN else ("ccpo", [f"ccpo.team={json.dumps(team)}"])
    if task == silence.NAME:
        own += silence.OVERRIDES.get(team, ())
    composed = {}
    with hydra.initialize_config_dir(str(ROOT / "recipe" / "config"), version_base=None):
        for rule in rules:
            word, *settings = rule.split()
            chosen = ["profile=cpu", f"task={task}", *own, f"ccpo.credit.rule={word}", *overrides, *settings]
            try:
                composed[rule] = hydra.compose(name, chosen)
            except (hydra.errors.HydraException, OmegaConfBaseException) as error:
                raise Mistake(f"{rule}: {' '.join(str(error).split())}") from None
    found = {}
    for seed in seeds:  # in this order: what is stopped early has all rules on some seeds
        for rule, config in composed.items():
            config.seed = seed
            found[rule, seed] = {key: OmegaConf.to_container(config[key], resolve=True) for key in SECTIONS}
    for rule in composed:
        try:
            Settings.of(found[rule, seeds[0]])
        except ConfigError as error:
            raise Mistake(f"{rule}: {error}") from None
    return found


def fingerprint(config: Mapping[str, Any]) -> str:
    """Of a run: its configuration, its data and the weights that it starts from."""
    named = [config["data"]["train_files"], config["data"]["val_files"]]
    models = [config["actor_rollout_ref"]["model"]["path"]]
    models += [role["model"] for role in config["ccpo"]["roles"].values() if role.get("model")]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for path in [*map(Path, named), *(file for model in models for file in sorted(Path(model).glob("*.safetensors")))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def run(task: str, rule: str, seed: int, config: dict[str, Any], path: Path) -> float:
    """One run, in a process of its own; returns its seconds."""
    from ccpo.compact import Settings, train

    started = time.perf_counter()
    entries = list(train(Settings.of(config), look_of(task)))
    seconds = time.perf_counter() - started
    found = {"rule": rule, "seed": seed, "fingerprint": fingerprint(config), "seconds": seconds, "entries": entries}
    write_atomic(path, json.dumps(found))
    return seconds


def look_of(task: str) -> Any:
    """What else a validation of a task is asked."""
    if task != silence.NAME:
        return lambda sessions: {}

    def look(sessions: Sequence[Any]) -> dict[str, float]:
        found = silence.copy_scores((one.row, one.played.ballots) for one in sessions)
        return {f"val-copies/{name}": value for name, value in found.items()}

    return look


def run_path(out: Path, rule: str, seed: int) -> Path:
    return out / "runs" / f"{re.sub(r'[^A-Za-z0-9_=.,-]+', '+', rule)}-seed{seed}.json"


def finished(path: Path, wanted: str) -> dict[str, Any] | None:
    """A run that is over; None if it is not. Raises Mistake for one of another job."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        same = found["fingerprint"] == wanted
    except (ValueError, KeyError, TypeError):
        raise Mistake(f"{path} is damaged: delete it, and it is run again") from None
    if not same:
        raise Mistake(
            f"{path} was run with other settings, data or weights, and would be compared with runs of these: set another --out, or delete that "
            "folder"
        )
    return found


def run_all(task: str, configs: Mapping[tuple[str, int], dict[str, Any]], out: Path, jobs: int) -> None:
    """Run what is missing."""
    paths = {key: run_path(out, *key) for key in configs}
    if len(set(paths.values())) < len(paths):
        raise Mistake("two of the --rules are the same")
    missing = [key for key in configs if finished(paths[key], fingerprint(configs[key])) is None]
    (out / "runs").mkdir(parents=True, exist_ok=True)
    if not missing:
        return
    done, total, started = len(configs) - len(missing), len(configs), time.perf_counter()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        tasks = {pool.submit(run, task, *key, configs[key], paths[key]): key for key in missing}
        for number, task_done in enumerate(as_completed(tasks), 1):
            rule, seed = tasks[task_done]
            seconds = task_done.result()
            left = (time.perf_counter() - started) / number * (len(missing) - number)
            print(
                f"[{done + number}/{total}] {rule} seed {seed}: {seconds:.0f} s; {left / 60:.1f} min left", flush=True
            )
        pool.shutdown()
    except BrokenProcessPool:
        raise Mistake("a run's process was ended: memory? Set fewer --jobs; what is over is kept") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# --- what came of it --------------------------------------------------------------------------------------------------


def scores(found: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one run.

    ``team``: accuracy of the last validation, over all prompts; ``before``: of the first; ``auc``: mean accuracy of the training batches;
    ``tokens``: decoded in training; ``team/<source>``; every other accuracy, contribution and abstention of the last validation by source and what
    the task adds; ``cosine``: of the advantages with shared credit's, mean over steps.
    """
    validations = [entry["metrics"] for entry in found["entries"] if entry["kind"] == "val"]
    training = [entry["metrics"] for entry in found["entries"] if entry["kind"] == "train"]
    last = validations[-1]
    out = {"team": team_accuracy(last), "before": team_accuracy(validations[0])}
    out["auc"] = statistics.fmean(metrics["ccpo/sessions/team_accuracy"] for metrics in training)
    out["tokens"] = sum(metrics["ccpo/generated_tokens"] for metrics in training)
    cosines = [
        value for metrics in training if (value := metrics.get("ccpo/credit/cosine_with_shared/all")) is not None
    ]
    if cosines:
        out["cosine"] = statistics.fmean(cosines)
    for source in sources(last):
        out[f"team/{source}"] = last[f"val-core/{source}/team_accuracy"]
        start = f"val-aux/{source}/"
        mine = {name[len(start) :]: value for name, value in last.items() if name.startswith(start)}
        for name, value in mine.items():
            if name.endswith("_accuracy") or name.endswith("/contribution"):
                out[f"{name}/{source}"] = value
        silent = [value for name, value in mine.items() if name.endswith("/abstention_rate")]
        if silent:
            out[f"abstention/{source}"] = statistics.fmean(silent)
    out |= {name.removeprefix("val-"): value for name, value in last.items() if name.startswith("val-copies/")}
    return out


def sources(metrics: Mapping[str, float]) -> list[str]:
    return sorted(name[len("val-core/") : -len("/team_accuracy")] for name in metrics if name.startswith("val-core/"))


def team_accuracy(metrics: Mapping[str, float]) -> float:
    """Of all validated sessions."""
    weights = {source: metrics[f"val-aux/{source}/sessions"] for source in sources(metrics)}
    right = sum(weight * metrics[f"val-core/{source}/team_accuracy"] for source, weight in weights.items())
    return right / sum(weights.values())


def write_scores(path: Path, values: Mapping[tuple[str, int], Mapping[str, float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["rule", "seed", "score", "value"])
        for (rule, seed), found in values.items():
            writer.writerows([rule, seed, name, value] for name, value in found.items())


def table(values: Mapping[tuple[str, int], Mapping[str, float]], names: Sequence[str] = ()) -> str:
    """Means over seeds with 95 % intervals, and differences to the first rule with the same seed. ``names``: scores; empty: all."""
    rules = list(dict.fromkeys(rule for rule, _ in values))
    every = dict.fromkeys(name for found in values.values() for name in found)
    chosen = [name for name in every if name in names] if names else list(every)
    reference, width = rules[0], max(map(len, rules)) + 2
    lines = [f"{'':<{width}}{'seeds':>5}  {'mean':>16}  {'minus ' + reference:>16}"]
    for name in chosen:
        lines.append(name)
        for rule in rules:
            own = {seed: found[name] for (named, seed), found in values.items() if named == rule and name in found}
            if not own:
                continue
            pairs = [
                value - values[reference, seed][name]
                for seed, value in own.items()
                if rule != reference and name in values.get((reference, seed), {})
            ]
            difference = mean_text(pairs, "+") if pairs else ""
            lines.append(f"  {rule:<{width - 2}}{len(own):>5}  {mean_text(list(own.values())):>16}  {difference:>16}")
    return "\n".join(lines)


def draw(path: Path, runs: Mapping[tuple[str, int], Mapping[str, Any]]) -> None:
    """Team accuracy in training, and what the last validation says of every source: means over seeds with 95 % intervals (PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rules = list(dict.fromkeys(rule for rule, _ in runs))
    last = {key: scores(found) for key, found in runs.items()}
    shown = [name for name in next(iter(last.values())) if name.split("/")[0] in ("team", "abstention")]
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
        for number, rule in enumerate(rules):
            seeds = [key for key in runs if key[0] == rule]
            curves = [
                [e["metrics"]["ccpo/sessions/team_accuracy"] for e in runs[key]["entries"] if e["kind"] == "train"]
                for key in seeds
            ]
            steps = range(1, len(curves[0]) + 1)
            means, halves = zip(
                *((statistics.fmean(at), half_width(at)) for at in map(_around(curves), steps)), strict=True
            )
            colour = COLOURS[number % len(COLOURS)]
            left.plot(steps, means, color=colour, linewidth=2, label=f"{rule} ({len(seeds)})")
            low, high = ([mean + sign * half for mean, half in zip(means, halves, strict=True)] for sign in (-1, 1))
            left.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
            found = [[last[key][name] for key in seeds] for name in shown]
            places = [i + (number - (len(rules) - 1) / 2) * 0.8 / len(rules) for i in range(len(shown))]
            bars = list(map(half_width, found))
            right.errorbar(list(map(statistics.fmean, found)), places, xerr=bars, fmt="o", color=colour, markersize=4)
        left.set(xlabel="step", ylabel="team accuracy on training batches, mean of three steps", ylim=(-0.02, 1.02))
        left.legend(frameon=False, fontsize=9, title="credit rule (seeds)", loc="best")
        right.set(xlabel="last validation", yticks=range(len(shown)), yticklabels=shown, xlim=(-0.02, 1.02))
        right.invert_yaxis()
        figure.savefig(path, dpi=130, metadata={"Software": None})
        plt.close(figure)


def _around(curves: Sequence[Sequence[float]]) -> Callable[[int], list[float]]:
    """step (1, 2, ...) -> every curve's mean over it and its neighbours."""
    return lambda step: [statistics.fmean(curve[max(0, step - 2) : step + 1]) for curve in curves]


# --- the command ------------------------------------------------------------------------------------------------------


def seed_list(text: str) -> list[int]:
    """``0-4`` or ``0,3,7``."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise argparse.ArgumentTypeError(f"{text!r} names no seeds: set 0-4, or 0,3,7")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(found))


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="The same job once per credit rule and seed, and a table over the seeds."
    )
    parser.add_argument("--team", default="dyad", help="dyad, vote, path/to/file.py:Class (default dyad)")
    parser.add_argument("--task", default="last_digit", help=f"{' or '.join(DATA)} (default last_digit)")
    parser.add_argument(
        "--rules", nargs="+", required=True, help="credit rules; the first is what others are compared with"
    )
    parser.add_argument("--seeds", type=seed_list, default=[0, 1, 2], help="0-4, or 0,3,7 (default 0-2)")
    parser.add_argument("--out", type=Path, required=True, help="folder of this comparison")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: processors)")
    parser.add_argument("--scores", nargs="+", default=(), help="scores of the table (default all)")
    parser.add_argument(
        "overrides",
        nargs="*",
        help="of every run: trainer.total_training_steps=30; paths are seen from the repository's root",
    )
    known, rest = parser.parse_known_args(argv)
    if wrong := [word for word in rest if "=" not in word or word.startswith("--")]:
        parser.error(f"{wrong[0]} is no argument of this command")
    moved = []  # what follows --rules or --scores is read as one of them
    for name in ("rules", "scores"):
        given = getattr(known, name)
        moved += [word for word in given if "=" in word.split()[0]]
        setattr(known, name, [word for word in given if word not in moved])
    known.overrides = [*known.overrides, *moved, *rest]
    if known.jobs < 1:
        parser.error(f"--jobs is {known.jobs}: set at least 1")
    return known


def ensure_data(config: Mapping[str, Any], task: str) -> None:
    for name in ("train_files", "val_files"):
        path = Path(config["data"][name])
        if not path.exists():
            hint = f"python -m {DATA[task]} --out {path.parent}" if task in DATA else "a command of data_preprocess"
            raise Mistake(f"data.{name} is {path}, which does not exist: make it with {hint}")


def main(argv: Sequence[str] | None = None) -> None:
    known = arguments(argv)
    known.out = known.out.absolute()
    os.chdir(ROOT)  # as everywhere, paths in the configuration are seen from here
    try:
        configs = configurations(known.team, known.task, known.rules, known.seeds, known.overrides)
        ensure_data(next(iter(configs.values())), known.task)
        with run_lock(known.out):
            run_all(known.task, configs, known.out, known.jobs)
            runs = {key: finished(run_path(known.out, *key), fingerprint(config)) for key, config in configs.items()}
            values = {key: scores(found) for key, found in runs.items()}
            write_scores(known.out / "scores.csv", values)
            draw(known.out / "curves.png", runs)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    every = dict.fromkeys(name for found in values.values() for name in found)
    if unknown := [name for name in known.scores if name not in every]:
        sys.exit(f"error: --scores {unknown[0]}: no run has it; set some of {', '.join(every)}")
    print(table(values, known.scores))
    print(f"every score of every run: {known.out / 'scores.csv'}; curves: {known.out / 'curves.png'}")


if __name__ == "__main__":
    main()
