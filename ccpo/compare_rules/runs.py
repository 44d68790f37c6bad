"""A run for every rule and seed, several at a time, each in a process of its own and written when it is over.

With a budget, the first rule is the reference: it trains its steps, and every other rule with the same seed may decode as much as it did.
The batch and the constant learning rate stay, so that a step is the same step for everybody and the number of steps differs; fewer sessions
a step would change every rule's noise and GRPO's groups. A step that would pass the budget is not made: nobody decodes more than the reference.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ccpo.run.json_file import write_atomic

Key = tuple[str, int]
"""(rule, seed)."""
Look = tuple[str, Callable[[Iterable[tuple[Mapping[str, Any], Mapping[str, Any] | None]]], Mapping[str, float]]]
"""Name of a task's own scores, and (row, ballots) of every validated session -> scores. Another process has to find the function."""
LAYOUT = 2
"""Of a run's file and of what its numbers mean. Another one is another run."""
OWN = "val-own/"
"""Before the names of a task's own scores."""
SIGNAL_EVERY = 5
"""Steps between measurements of the training batches' gradients, where they are asked for."""


class Mistake(ValueError):
    """What the user has to change."""


@dataclass(frozen=True)
class Extra:
    """What a run does beside its configuration. ``unit``: of the budget, None: its steps are the configuration's. ``most``: the budget, None for
    the reference, which sets it. ``signal``: batches at the starting weights whose gradients are measured; 0: none, and none in training."""

    unit: str | None = None
    most: float | None = None
    signal: int = 0


def fingerprint(config: Mapping[str, Any], extra: Extra | None = None) -> str:
    """Of a run: its configuration, what it does beside, its data and the weights that it starts from."""
    named = [config["data"]["train_files"], config["data"]["val_files"]]
    models = [config["actor_rollout_ref"]["model"]["path"]]
    models += [role["model"] for role in config["ccpo"]["roles"].values() if role.get("model")]
    whole = {"layout": LAYOUT, "config": config, **asdict(extra or Extra())}
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode())
    for path in [*map(Path, named), *(file for model in models for file in sorted(Path(model).glob("*.safetensors")))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def run(rule: str, seed: int, config: dict[str, Any], extra: Extra, path: Path, look: Look | None) -> float:
    """One run; returns its seconds. Raises Mistake, naming it."""
    from ccpo.compact import Budget, Settings, train

    started = time.perf_counter()
    budget = None if extra.most is None else Budget(extra.unit, extra.most)
    every = SIGNAL_EVERY if extra.signal else 0
    try:
        entries = list(train(Settings.of(config), partial(_seen, look), budget, extra.signal, every))
    except ValueError as error:
        raise Mistake(f"{rule}, seed {seed}: {error}") from error
    seconds = time.perf_counter() - started
    found = {"rule": rule, "seed": seed, "fingerprint": fingerprint(config, extra), **asdict(extra)}
    write_atomic(path, json.dumps(found | {"seconds": seconds, "entries": entries}))
    return seconds


def _seen(look: Look | None, sessions: Sequence[Any]) -> dict[str, float]:
    if look is None:
        return {}
    found = look[1]((one.row, one.played.ballots) for one in sessions)
    return {f"{OWN}{look[0]}/{name}": value for name, value in found.items()}


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
            f"{path} was run with other settings, data, weights, budget or measurements, or by another version, and would be compared with "
            "runs of these: set another --out, or delete that folder"
        )
    return found


def run_all(
    configs: Mapping[Key, dict[str, Any]], out: Path, jobs: int, extra: Extra | None = None, look: Look | None = None
) -> dict[Key, dict[str, Any]]:
    """Run what is missing; returns all runs, in the order of ``configs``, whose first rule is the reference.

    Raises:
        Mistake: two rules are one, a run of another job is in the folder, or a run cannot be made.
    """
    extra, reference = extra or Extra(), next(iter(configs))[0]
    paths = {key: run_path(out, *key) for key in configs}
    if len(set(paths.values())) < len(paths):
        raise Mistake("two of the --rules are the same")
    done: dict[Key, dict[str, Any]] = {}

    def own(key: Key) -> Extra | None:
        """Its ``extra``; None as long as its budget is not known."""
        if extra.unit is None or key[0] == reference:
            return extra
        return replace(extra, most=spent(done[reference, key[1]], extra.unit)) if (reference, key[1]) in done else None

    def keep(keys: Iterable[Key]) -> None:
        for key in keys:
            mine = own(key)
            if mine and (found := finished(paths[key], fingerprint(configs[key], mine))) is not None:
                done[key] = found

    keep(sorted(configs, key=lambda key: key[0] != reference))
    missing = [key for key in configs if key not in done]
    (out / "runs").mkdir(parents=True, exist_ok=True)
    if missing:
        os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # of loading weights, in the middle of ours
        context = multiprocessing.get_context("spawn")
        pool, running = ProcessPoolExecutor(jobs, mp_context=context, initializer=end_with_parent), {}
        try:
            with progress(len(done), len(configs)) as tell:
                while missing or running:
                    for key in [key for key in missing if own(key)][: jobs - len(running)]:
                        missing.remove(key)
                        running[pool.submit(run, *key, configs[key], own(key), paths[key], look)] = key
                    for task in wait(running, return_when=FIRST_COMPLETED).done:
                        key = running.pop(task)
                        tell(f"{key[0]} seed {key[1]}", task.result())
                        keep([key])
                        if key not in done:  # nobody could go on without it
                            raise Mistake(
                                f"{paths[key]} was written and is gone: leave the folder alone, and begin again"
                            )
            pool.shutdown()
        except BrokenProcessPool:
            raise Mistake("a run's process was ended: memory? Set fewer --jobs; what is over is kept") from None
        finally:
            pool.shutdown(cancel_futures=True)  # while the folder is still locked
    return {key: done[key] for key in configs}


def spent(found: Mapping[str, Any], unit: str) -> float:
    """What a run's training decoded."""
    from ccpo.compact import UNITS

    return sum(entry["metrics"][UNITS[unit]] for entry in found["entries"] if entry["kind"] == "train")


def end_with_parent() -> None:
    """A run whose comparison was killed would go on, and be written into a folder that another one may use by then. Ctrl-C, which all of a
    terminal's processes get, ends it without a word: the comparison says what there is to say."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextmanager
def progress(done: int, total: int) -> Iterator[Callable[[str, float], None]]:
    """tell(name, seconds) of every run that is over: a bar in a terminal, else a line each."""
    started, first = time.perf_counter(), done
    if sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(*columns) as bar:
            task = bar.add_task("", total=total, completed=done)
            yield lambda name, seconds: bar.update(task, advance=1, description=f"{name}: {seconds:.0f} s")
        return

    def tell(name: str, seconds: float) -> None:
        nonlocal done
        done += 1
        minutes = (time.perf_counter() - started) / (done - first) * (total - done) / 60
        print(f"[{done}/{total}] {name}: {seconds:.0f} s; {minutes:.1f} min left", flush=True)

    yield tell
