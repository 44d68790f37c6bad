"""Where does credit for each role help, and where does it fail? Regimes that differ from a base setting in one thing, each under a few credit rules.

    python scripts/regimes.py --list
    python scripts/regimes.py --out outputs/regimes --seeds 0-7
    python scripts/regimes.py --out outputs/regimes --only dyad dyad_n2 --seeds 0-15 trainer.total_training_steps=20

What is run, its data and its starts stand in scripts/regime_list.py; a run is one of scripts/compare_credit.py, on the compact trainer. A run is
written when it is over, to OUT/NAME/runs; the same command goes on with those that are missing. Seeds are the outer order: what is stopped early has
all regimes on some seeds. Then OUT/scores.csv (regime, rule, seed, score, value), OUT/starts.json (how able each start is), OUT/regimes.md (tables)
and OUT/team.png and OUT/auc.png: differences to the first rule with the same seed, with 95 % t intervals.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]  # so that it runs from any folder

import compare_credit  # noqa: E402
from regime_list import Regime, compose, make_data, make_start, regimes  # noqa: E402

from ccpo.compare_rules import runs  # noqa: E402
from ccpo.compare_rules.runs import Extra, Mistake  # noqa: E402
from ccpo.compare_rules.scores import scores  # noqa: E402
from ccpo.report.means import half_width, t_interval  # noqa: E402
from ccpo.run.json_file import write_atomic  # noqa: E402
from ccpo.run.lock import run_lock  # noqa: E402
from ccpo.run.output import until_cut  # noqa: E402

SHOWN = {"team": "team accuracy at the end", "auc": "mean team accuracy in training"}
"""Scores of `ccpo.compare_rules.scores` that are compared."""
COLOURS = (
    "#1b6ca8",
    "#d1602f",
    "#2a8a57",
    "#c2356b",
    "#7a4fa3",
    "#b07d12",
    "#3aa6a6",
    "#555555",
    "#8c4a2f",
    "#6b8e23",
    "#e07ab0",
    "#0b3d66",
)
MARKERS = "osD^vP"
FAR = 0.2
"""A difference beyond it would make all others in the picture look like none."""
ALONE = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Environment of a run: one thread, and no bars of loading weights."""


class Job(NamedTuple):
    regime: str
    rule: str
    seed: int

    def __str__(self) -> str:
        return f"{self.regime}, {short(self.rule)}, seed {self.seed}"


Scores = Mapping[Job, Mapping[str, float]]


def short(rule: str) -> str:
    return rule.replace("ccpo.credit.", "")


# --- what is run ------------------------------------------------------------------------------------------------------


def configurations(
    chosen: Sequence[Regime], seeds: Sequence[int], folder: Path, more: Sequence[str], jobs: int
) -> dict[Job, dict[str, Any]]:
    """Job -> its configuration, seeds outermost, and within one the regimes that take longest first.

    Args:
        folder: of data and starts.
        more: overrides of every run.
        jobs: processes that compose.

    Raises:
        Mistake: there is no such configuration.
    """
    found = {}
    with _pool(min(jobs, len(chosen))) as pool:
        composed = {regime: pool.submit(compose, regime, seeds, folder, more) for regime in chosen}
        for regime, future in composed.items():
            try:
                made = future.result()
            except Mistake as error:
                pool.shutdown(wait=False, cancel_futures=True)
                raise Mistake(f"regime {regime.name}: {error}") from None
            found |= {Job(regime.name, rule, seed): config for (rule, seed), config in made.items()}
    seconds = {regime.name: regime.seconds for regime in chosen}
    place = {seed: number for number, seed in enumerate(seeds)}
    return dict(sorted(found.items(), key=lambda item: (place[item[0].seed], -seconds[item[0].regime])))


def run_path(out: Path, job: Job) -> Path:
    return runs.run_path(out / job.regime, job.rule, job.seed)


def finished(out: Path, configs: Mapping[Job, dict[str, Any]]) -> dict[Job, dict[str, Any]]:
    """The runs that are over."""
    found = {job: runs.finished(run_path(out, job), runs.fingerprint(configs[job])) for job in configs}
    return {job: run for job, run in found.items() if run is not None}


def prepare(chosen: Sequence[Regime], folder: Path, jobs: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Make what is missing of data and starts; returns start -> its gate's numbers, and start -> why there is none."""
    for name in dict.fromkeys(regime.data for regime in chosen):
        make_data(name, folder)
    names = list(dict.fromkeys(start for regime in chosen for start in regime.starts))
    gates, failed = {}, {}
    (folder / "models").mkdir(parents=True, exist_ok=True)
    with _pool(min(jobs, len(names))) as pool:
        made = {name: pool.submit(make_start, name, folder) for name in names}
        for name, future in made.items():
            try:
                gates[name] = future.result()
            except RuntimeError as error:  # the gate's
                failed[name] = str(error)
    return gates, failed


def _pool(jobs: int) -> ProcessPoolExecutor:
    os.environ.update(ALONE)
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=runs.end_with_parent)


def run_missing(
    tasks: Mapping[str, str],
    configs: Mapping[Job, dict[str, Any]],
    missing: Sequence[Job],
    out: Path,
    jobs: int,
    minutes: float,
) -> dict[Job, str]:
    """Run ``missing``; returns those that failed and why. ``tasks``: regime -> task. No run begins after ``minutes``."""
    failed: dict[Job, str] = {}
    if not missing:
        return failed
    for name in {job.regime for job in missing}:
        (out / name / "runs").mkdir(parents=True, exist_ok=True)
    started, todo, done = time.monotonic(), iter(missing), 0
    pool, running = _pool(jobs), {}
    try:
        for job in _until(todo, started + 60 * minutes):
            running[_submit(pool, tasks, configs, job, out)] = job
            if len(running) < jobs:
                continue
            done += _collect(running, failed, done, len(missing), started)
        while running:
            done += _collect(running, failed, done, len(missing), started)
        pool.shutdown()
    except BrokenProcessPool:
        raise Mistake("a run's process was ended: memory? Set fewer --jobs; what is over is kept") from None
    finally:
        pool.shutdown(cancel_futures=True)  # while the folder is still locked
    return failed


def _until(jobs: Iterator[Job], end: float) -> Iterator[Job]:
    for job in jobs:
        if time.monotonic() >= end:
            print("the time is over: nothing else begins", flush=True)
            return
        yield job


def _submit(
    pool: ProcessPoolExecutor, tasks: Mapping[str, str], configs: Mapping[Job, Any], job: Job, out: Path
) -> Future:
    look = compare_credit.LOOKS.get(tasks[job.regime])
    return pool.submit(runs.run, job.rule, job.seed, configs[job], Extra(), run_path(out, job), look)


def _collect(running: dict[Future, Job], failed: dict[Job, str], done: int, total: int, started: float) -> int:
    """Take what is over out of ``running``, at least one; returns how many."""
    over, _ = wait(running, return_when=FIRST_COMPLETED)
    for number, future in enumerate(over, done + 1):
        job = running.pop(future)
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            raise error
        if error is not None:
            failed[job] = f"{type(error).__name__}: {error}"
        left = (time.monotonic() - started) / number * (total - number) / 60
        said = failed[job] if error is not None else f"{future.result():.0f} s"
        print(f"[{number}/{total}] {job}: {said}; {left:.1f} min left", flush=True)
    return len(over)


# --- what came of it --------------------------------------------------------------------------------------------------


def differences(values: Scores, regime: str, rule: str, reference: str, score: str) -> list[float]:
    """A rule minus the reference with the same seed, for the seeds that have both."""
    seeds = [job.seed for job in values if (job.regime, job.rule) == (regime, rule)]
    pairs = [(values[Job(regime, rule, seed)], values.get(Job(regime, reference, seed), {})) for seed in seeds]
    return [own[score] - other[score] for own, other in pairs if score in own and score in other]


def excludes_zero(found: Sequence[float]) -> bool:
    """Whether the 95 % interval of the mean lies on one side of 0. Never, where there is no interval."""
    interval = t_interval(found)
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def cell(found: Sequence[float]) -> str:
    """A mean difference with its interval, bold where that excludes 0."""
    if not found:
        return ""
    text = f"{statistics.fmean(found):+.3f}" + (f" +- {half_width(found):.3f}" if len(found) > 1 else "")
    return f"**{text}**" if excludes_zero(found) else text


def absolute(found: Sequence[float]) -> str:
    return f"{statistics.fmean(found):.3f}" + (f" +- {half_width(found):.3f}" if len(found) > 1 else "")


def families(chosen: Sequence[Regime]) -> dict[str, list[Regime]]:
    """Base -> its regimes and itself, in their order."""
    found: dict[str, list[Regime]] = {}
    for regime in chosen:
        found.setdefault(regime.base or regime.name, []).append(regime)
    return found


def tables(values: Scores, chosen: Sequence[Regime], gates: Mapping[str, Any]) -> str:
    """Markdown: for each base the differences to both controls, which are its first two rules; and a table of the starts."""
    parts, counts = [], Counter()
    for base, own in families(chosen).items():
        rules = list(dict.fromkeys(rule for regime in own for rule in regime.rules))
        parts.append(f"## {base}")
        parts.append(_differences(values, own, rules[0], rules[1:], counts))
        if rules[2:]:
            parts.append(_differences(values, own, rules[1], rules[2:], counts))
    parts.append(
        f"Each cell: {' / '.join(SHOWN.values())}; differences to the rule named in the fourth column with the same seed, mean +- half of the 95 % t "
        f"interval. Bold: the interval excludes 0, in {counts['bold']} of {counts['intervals']}; were there no differences at all, about "
        f"{0.05 * counts['intervals']:.0f} would by chance."
    )
    lines = ["## Starts", "", _row(["start", "its gate's numbers"]), _row(["---", "---"])]
    lines += [_row([f"`{name}`", ", ".join(_numbers(gate))]) for name, gate in gates.items()]
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def _differences(
    values: Scores, own: Sequence[Regime], reference: str, others: Sequence[str], counts: Counter[str]
) -> str:
    """A table: regimes by rule, minus ``reference``. ``counts``: intervals, and those that are bold; added to."""
    head = ["regime", "what differs", "seeds", f"{reference}: end / training", *map(short, others)]
    lines = [_row(head), _row(["---"] * len(head))]
    for regime in own:
        seeds = [job.seed for job in values if (job.regime, job.rule) == (regime.name, reference)]
        if not seeds:
            continue
        mine = [[values[Job(regime.name, reference, seed)][score] for seed in seeds] for score in SHOWN]
        cells = [f"`{regime.name}`", regime.says, str(len(seeds)), " / ".join(map(absolute, mine))]
        for rule in others:
            found = [differences(values, regime.name, rule, reference, score) for score in SHOWN]
            cells.append(" / ".join(filter(None, map(cell, found))))
            counts["intervals"] += sum(len(one) > 1 for one in found)
            counts["bold"] += sum(map(excludes_zero, found))
        lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _numbers(gate: Mapping[str, Any], of: str = "") -> Iterator[str]:
    for name, value in gate.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{of}{name} ")
        else:
            yield f"{of}{name} {value:.3g}"


def write_scores(path: Path, values: Scores) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["regime", "rule", "seed", "score", "value"])
    for job, found in values.items():
        writer.writerows([*job, name, value] for name, value in found.items())
    write_atomic(path, stream.getvalue())


def draw(path: Path, values: Scores, chosen: Sequence[Regime], score: str) -> None:
    """A forest plot (PNG): regimes by rule, difference to the first rule with the same seed. Full marks: the interval excludes 0."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    reference = chosen[0].rules[0]
    rules = [rule for rule in dict.fromkeys(rule for regime in chosen for rule in regime.rules) if rule != reference]
    look = {rule: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, rule in enumerate(rules)}
    ran = {(job.regime, job.rule) for job in values}
    groups = [
        [(regime, [rule for rule in regime.rules if rule in look and (regime.name, rule) in ran]) for regime in own]
        for own in families(chosen).values()
    ]
    groups = [kept for own in groups if (kept := [(regime, listed) for regime, listed in own if listed])]
    if not groups:
        return
    rows = [sum(len(listed) + 1.2 for _, listed in own) for own in groups]
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False}
    with plt.rc_context(style):
        height = 0.115 * sum(rows) + 0.95 * len(groups) + 0.4
        figure, panels = plt.subplots(
            len(groups), 1, figsize=(4.6, height), squeeze=False, height_ratios=rows, layout="constrained"
        )
        for panel, own in zip(panels[:, 0], groups, strict=True):
            place, ticks, seen = 0.0, [], set()
            for number, (regime, listed) in enumerate(own):
                if number % 2 == 0:
                    panel.axhspan(place - 0.6, place + len(listed) - 0.4, color="#f3f3f3", linewidth=0)
                ticks.append((place + (len(listed) - 1) / 2, regime.name.removeprefix(f"{regime.base}_")))
                for rule in listed:
                    found = differences(values, regime.name, rule, reference, score)
                    colour, marker = look[rule]
                    if found:
                        seen.add(rule)
                        _mark(panel, found, place, marker, colour)
                    place += 1
                place += 1.2
            panel.axvline(0, color="#333333", linewidth=0.8)
            panel.set_yticks(
                [at for at, _ in ticks], [name.replace("_", "\n", 1) if len(name) > 12 else name for _, name in ticks]
            )
            panel.tick_params(axis="y", length=0)
            panel.tick_params(axis="x", labelbottom=True)
            panel.set_ylim(place - 1.2, -0.8)
            handles = [
                Line2D([], [], color=look[rule][0], marker=look[rule][1], markersize=4, label=short(rule))
                for rule in rules
                if rule in seen
            ]
            panel.legend(
                handles=handles, frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(-0.3, 1.0)
            )
            above = 8 + 13 * math.ceil(len(handles) / 2)
            panel.set_title(own[0][0].base or own[0][0].name, x=-0.3, loc="left", pad=above, fontsize=10, weight="bold")
        panels[-1, 0].set_xlabel(f"{SHOWN[score]}\nminus {reference}, 95 % interval; full: without 0")
        figure.savefig(path, dpi=160, metadata={"Software": None})
        plt.close(figure)


def _mark(panel: Any, found: Sequence[float], place: float, marker: str, colour: str) -> None:
    """A mean difference with its interval; one that is `FAR` off stands at the border, with its number."""
    mean, half = statistics.fmean(found), half_width(found)
    if abs(mean) > FAR:
        side = math.copysign(FAR, mean)
        panel.plot([side], [place], marker="<" if mean < 0 else ">", color=colour, markersize=5)
        panel.annotate(
            f"{mean:+.2f}", (side, place), (8 if mean < 0 else -8, 0), textcoords="offset points", va="center",
            ha="left" if mean < 0 else "right", fontsize=7, color=colour,
        )  # fmt: skip
        return
    low, high = max(-FAR, mean - half), min(FAR, mean + half)
    panel.plot([low, high], [place, place], color=colour, linewidth=1.2)
    face = colour if excludes_zero(found) else "white"
    panel.plot([mean], [place], marker=marker, color=colour, markersize=4, markerfacecolor=face)


def listing(chosen: Sequence[Regime], seeds: Sequence[int]) -> str:
    """What would be run."""
    width = max(len(regime.name) for regime in chosen)
    lines = [f"{'regime':<{width}}  {'runs':>5} {'s a run':>8}  what differs"]
    for regime in chosen:
        count = len(regime.rules) * len(seeds)
        what = f"{regime.says}: {', '.join(map(short, regime.rules))}"
        lines.append(f"{regime.name:<{width}}  {count:>5} {regime.seconds:>8.0f}  {what}")
    runs = sum(len(regime.rules) for regime in chosen) * len(seeds)
    hours = sum(len(regime.rules) * regime.seconds for regime in chosen) * len(seeds) / 3600
    return "\n".join([*lines, f"{runs} runs, about {hours:.1f} hours of one core"])


# --- the command ------------------------------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Regimes that differ in one thing, each under a few credit rules.")
    parser.add_argument("--out", type=Path, default=Path("outputs/regimes"), help="folder of runs and tables")
    parser.add_argument(
        "--data", type=Path, default=Path("data/regimes"), help="folder of data sets and starts, made once"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these regimes (default all)")
    parser.add_argument(
        "--seeds", type=compare_credit.seed_list, default=list(range(8)), help="0-7, or 0,3,7 (default 0-7)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: processors)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no run begins after so many")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="say what would be run")
    what.add_argument("--prepare", action="store_true", help="make data, starts and configurations, run nothing")
    what.add_argument(
        "--tables", action="store_true", help="tables and pictures of the runs that are over, run nothing"
    )
    parser.add_argument("overrides", nargs="*", help="of every run: trainer.total_training_steps=2")
    known, rest = parser.parse_known_args(argv)
    if wrong := [word for word in [*known.overrides, *rest] if "=" not in word or word.startswith("--")]:
        parser.error(f"{wrong[0]} is no argument of this command")
    names = [name for name in known.only or () if "=" not in name]  # overrides that follow --only are read as names
    known.overrides = [*(name for name in known.only or () if "=" in name), *known.overrides, *rest]
    every = regimes()
    if unknown := [name for name in names if name not in every]:
        parser.error(f"--only {unknown[0]}: there is no such regime; set some of {', '.join(every)}")
    known.chosen = [regime for name, regime in every.items() if not names or name in names]
    if known.jobs < 1:
        parser.error(f"--jobs is {known.jobs}: set at least 1")
    if not known.minutes > 0:
        parser.error(f"--minutes is {known.minutes}: set more than 0")
    return known


def main(argv: Sequence[str] | None = None) -> None:
    known = arguments(argv)
    if known.list:
        print(listing(known.chosen, known.seeds))
        return
    known.out = known.out.absolute()
    os.chdir(ROOT)  # as everywhere, paths in the configuration are seen from here
    try:
        gates, unmade = prepare(known.chosen, known.data, known.jobs)
        for name, why in unmade.items():
            print(f"start {name}: {why}", file=sys.stderr)
        chosen = [regime for regime in known.chosen if not set(regime.starts) & set(unmade)]
        if not chosen:
            sys.exit("error: no regime has its start")
        configs = configurations(chosen, known.seeds, known.data, known.overrides, known.jobs)
        if known.prepare:
            sys.exit(f"error: {len(unmade)} starts were not made" if unmade else None)
        with run_lock(known.out):
            over = finished(known.out, configs)
            missing = [job for job in configs if job not in over] if not known.tables else []
            tasks = {regime.name: regime.task for regime in chosen}
            try:
                failed = run_missing(tasks, configs, missing, known.out, known.jobs, known.minutes)
            finally:
                write_all(known.out, finished(known.out, configs), chosen, gates)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    print((known.out / "regimes.md").read_text(encoding="utf-8"))
    for job, why in failed.items():
        print(f"failed: {job}: {why}", file=sys.stderr)
    if failed or unmade:
        sys.exit(f"error: {len(failed)} runs failed, {len(unmade)} starts were not made")


def write_all(out: Path, over: Mapping[Job, Any], chosen: Sequence[Regime], gates: Mapping[str, Any]) -> None:
    values = {job: scores(found) for job, found in over.items()}
    write_scores(out / "scores.csv", values)
    write_atomic(out / "starts.json", json.dumps(gates, indent=2) + "\n")
    write_atomic(out / "regimes.md", tables(values, chosen, gates))
    for score in SHOWN:
        draw(out / f"{score}.png", values, chosen, score)


if __name__ == "__main__":
    sys.exit(until_cut(main))
