"""Build the embedded task, train a team on it with verl's trainer on the CPU, and report. Started by quickstart.sh."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import yaml
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import compare  # noqa: E402
import report  # noqa: E402

from ccpo.config import DYAD_RULES, TOPOLOGIES, VOTE_RULES  # noqa: E402
from ccpo.run.checkpoint import finished_steps  # noqa: E402
from ccpo.run.folder import METRICS, PREPARE_LOG, QUICKSTART, TRAIN_LOG  # noqa: E402
from ccpo.run.run_log import RunLog, read_run_log  # noqa: E402
from data_preprocess.toy_lessons import UNEQUAL_VOTERS  # noqa: E402

TASK = "last_digit"
DATA = Path("data") / TASK
TASK_CONFIG = ROOT / "recipe" / "config" / "task" / f"{TASK}.yaml"
TRAINER = [sys.executable, "recipe/main_ccpo.py"]
RULES = {"dyad": DYAD_RULES, "vote": VOTE_RULES}  # the first is the default
COMPARED = ("shared", "leave_one_out", "resampled", "shapley", "own_correctness")  # rules of --compare
COMPARE_STEPS = 30
VOTER_MODELS = Path("data") / f"{TASK}_voters"
STRONG, WEAK = UNEQUAL_VOTERS
# Of --compare, each a policy of its own; the medium one starts from the embedded model.
VOTERS = (STRONG, "medium", WEAK)
COMPARE_OVERRIDES = [
    "ccpo.policies=per_role",
    f"ccpo.roles.voter_0.model={VOTER_MODELS / STRONG}",
    f"ccpo.roles.voter_2.model={VOTER_MODELS / WEAK}",
    "actor_rollout_ref.rollout.n=6",  # more sessions a prompt, and shared credit is less noisy: the voters differ less
]
SETTINGS = ("topology", "rule", "seed", "overrides")  # of QUICKSTART, which marks our runs
GRACE = 30.0  # seconds the trainer has to end after an interrupt
PATIENCE = 10.0  # seconds its daemons have to follow it
POLL = 0.5  # seconds between looks at the metrics
PLAIN_EVERY = 5  # steps per line where there is no terminal for a bar
OWN_OPTIONS = {
    "trainer.total_training_steps": "--steps",
    "trainer.default_local_dir": "--out",
    "ccpo.topology": "--topology",
    "ccpo.credit.rule": "--rule",
    "data.seed": "--seed",
}


class QuickstartError(Exception):
    """Something the user can mend; its text says how."""


def main(argv: list[str] | None = None, trainer: list[str] | None = None) -> int:
    """Run the command; exit status 0: done, 1: failed, 130: interrupted. Tests pass their own ``trainer``."""
    options = _options(sys.argv[1:] if argv is None else argv)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # SIGINT too: a job in the background ignores it otherwise
        signal.signal(number, _interrupt)
    os.chdir(ROOT)
    try:
        return _compare(options, trainer) if options.compare else _run(options, trainer)
    except (QuickstartError, report.ReportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped before training; run the same command to go on", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, trainer: list[str] | None) -> int:
    """Train one team, unless it is finished, and report."""
    with _run_folder(options) as out:
        if _finished(options):
            print(
                f"This run is finished. Start anew with --fresh, or elsewhere with --out; "
                f"go on with --steps {2 * options.steps}.\n"
            )
        else:
            if trainer is None:
                _prepare(out)
            if status := train(_command(options, trainer), out, options.steps, options.lock):
                return status
        report.show(out)
        return 0


def _compare(options: argparse.Namespace, trainer: list[str] | None) -> int:
    """Train the same unequal voters once per rule, and compare. Rules that are finished are not trained again."""
    folders = {rule: compare.run_folder(options.out, TASK, rule, options.seed) for rule in COMPARED}
    runs = {rule: argparse.Namespace(**{**vars(options), "rule": rule, "out": out}) for rule, out in folders.items()}
    for run in runs.values():  # all first: after minutes of training is late to refuse one, or to delete what is old
        with _run_folder(run):
            run.fresh = False
    if trainer is None and not all(map(_finished, runs.values())):
        _prepare(folders[COMPARED[0]], voters=True)
    for number, (rule, run) in enumerate(runs.items(), 1):
        with _run_folder(run) as out:
            if _finished(run):
                _say(f"--- {rule} ({number} of {len(runs)}): finished (anew: --fresh)")
                continue
            _say(f"--- {rule} ({number} of {len(runs)})")
            if status := train(_command(run, trainer), out, run.steps, run.lock):
                return status
    compare.show(folders, VOTERS, options.out / f"{TASK}-compare-seed{options.seed}.png")
    return 0


def _finished(options: argparse.Namespace) -> bool:
    return options.steps in finished_steps(options.out) and _last_step(options.out) >= options.steps


def _command(options: argparse.Namespace, trainer: list[str] | None) -> list[str]:
    config = ["--config-name", f"ccpo_{options.topology}"]  # hydra wants it before the overrides
    return [*(trainer or TRAINER), *config, *_overrides(options)]


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


# --- options --------------------------------------------------------------------------------------------------------


def _options(argv: list[str]) -> argparse.Namespace:
    default_steps = yaml.safe_load(TASK_CONFIG.read_text())["trainer"]["total_training_steps"]
    parser = argparse.ArgumentParser(
        prog="bash scripts/quickstart.sh",
        description="Train a Think-Reason dyad or voters on the embedded task with the real trainer, on the CPU. "
        "The same command after an interruption goes on from the last checkpoint.",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of data order and samples (default 0)")
    parser.add_argument("--topology", choices=TOPOLOGIES, default=TOPOLOGIES[0], help="the team (default %(default)s)")
    rules = "; ".join(f"{topology}: {', '.join(names)}" for topology, names in RULES.items())
    parser.add_argument("--rule", help=f"credit rule ({rules}; default: the first)")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="with --topology vote: three voters of unequal skill, each with a policy of its own, once with each of the rules "
        + ", ".join(COMPARED),
    )
    parser.add_argument(
        "--steps", type=int, help=f"training steps (default {default_steps}; with --compare {COMPARE_STEPS})"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help=f"folder of the run (default outputs/{TASK}[-vote]-RULE-seedSEED); with --compare, the folder in which "
        "every rule gets its own (default outputs)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="delete the folder of the run first (of all compared runs)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="-- OVERRIDE", help="further verl overrides, name=value, after --"
    )
    options = parser.parse_args(argv)
    if options.compare and (options.topology != "vote" or options.rule):
        parser.error("--compare runs its own rules on voters: it needs --topology vote, and takes no --rule")
    if options.steps is None:
        options.steps = COMPARE_STEPS if options.compare else default_steps
    rules = RULES[options.topology]
    options.rule = options.rule or rules[0]
    if options.rule not in rules:
        parser.error(f"argument --rule: invalid choice: {options.rule!r} ({options.topology}: {', '.join(rules)})")
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")
    if options.seed < 0:
        parser.error(f"--seed must not be negative, got {options.seed}")
    for override in options.overrides:
        name = override.lstrip("+~").split("=")[0]
        if name in OWN_OPTIONS:
            parser.error(f"{override}: use {OWN_OPTIONS[name]} instead, this command needs to know it")
        if "=" not in override:
            parser.error(f"{override!r} is no override, which reads name=value; options go before --")
    if options.compare:
        options.overrides = [*COMPARE_OVERRIDES, *options.overrides]
        options.out = (options.out or ROOT / "outputs").absolute()
        return options
    team = TASK if options.topology == "dyad" else f"{TASK}-{options.topology}"
    options.out = (options.out or ROOT / "outputs" / f"{team}-{options.rule}-seed{options.seed}").absolute()
    return options


def _overrides(options: argparse.Namespace) -> list[str]:
    seeds = [
        "data.seed",
        "ccpo.seed",
        "actor_rollout_ref.actor.data_loader_seed",
        "actor_rollout_ref.actor.fsdp_config.seed",
    ]
    return [
        "profile=cpu",
        f"task={TASK}",
        f"trainer.default_local_dir={_hydra_quoted(options.out)}",
        f"trainer.total_training_steps={options.steps}",
        f"ccpo.credit.rule={options.rule}",
        *(f"{name}={options.seed}" for name in seeds),
        *options.overrides,
    ]


def _hydra_quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


# --- the folder of the run ------------------------------------------------------------------------------------------


@contextmanager
def _run_folder(options: argparse.Namespace):
    """Make or check the folder, and hold it: the trainer inherits the lock, so no second one can write there."""
    out = options.out
    settings = {name: getattr(options, name) for name in SETTINGS}
    ours = (out / QUICKSTART).exists()
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise QuickstartError(
            f"{out} exists and is no folder of this command (it has no {QUICKSTART}); choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    with (out / QUICKSTART).open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise QuickstartError(
                f"another process is training in {out}; wait for it, or choose another --out"
            ) from None
        if options.fresh:
            for entry in out.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.name != QUICKSTART:
                    entry.unlink()
            stream.truncate(0)
        stream.seek(0)
        text = stream.read()
        before = {"topology": "dyad", **json.loads(text)} if text else settings  # runs from before votes name none
        differing = [
            f"{name} {before[name]!r}, not {settings[name]!r}" for name in settings if before[name] != settings[name]
        ]
        if differing:
            raise QuickstartError(
                f"{out} was started with {'; '.join(differing)}. Choose another --out, or delete it with --fresh"
            )
        if not text:
            stream.write(json.dumps(settings) + "\n")
            stream.flush()
        options.lock = stream.fileno()
        yield out


def _last_step(out: Path) -> int:
    """Last trained step that was logged."""
    entries = read_run_log(out / METRICS) if (out / METRICS).exists() else []
    return max((entry["step"] for entry in entries if entry["kind"] == "train"), default=0)


# --- stages ---------------------------------------------------------------------------------------------------------


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


def _prepare(out: Path, voters: bool = False) -> None:
    """Write the dataset, and the models of unequal ``voters``. (The other model is the one in the repository.)"""
    log = out / PREPARE_LOG
    made = {"dataset": ("data_preprocess.toy", DATA)}
    if voters:
        made["voters of unequal skill"] = ("data_preprocess.toy_voters", VOTER_MODELS)
    with log.open("w") as stream:
        for what, (module, folder) in made.items():
            command = [sys.executable, "-m", module, "--out", str(folder)]
            done = subprocess.run(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=_environment())
            if done.returncode:
                raise QuickstartError(
                    f"{shlex.join(command)} did not work:\n{what_went_wrong(log.read_text())}\nThe whole log: {log}"
                )
            _say(f"{what}: {folder}")


def train(command: list[str], out: Path, steps: int, lock: int) -> int:
    """Run the trainer as a child and show its progress; returns as `main`. Nothing it started outlives this call."""
    resumed = max(finished_steps(out), default=0)
    metrics, log = out / METRICS, out / TRAIN_LOG
    RunLog(metrics).rewind(resumed)  # the trainer does the same, but only after its start-up
    log_start = log.stat().st_size if log.exists() else 0
    if resumed:
        _say(f"going on from the checkpoint of step {resumed}")
    with log.open("ab") as stream:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process only, and everything the trainer starts can be found
            pass_fds=(lock,),
        )
    try:
        _follow(child, metrics, log, resumed, steps)
    except KeyboardInterrupt:
        _interrupt_child(child)
        step, saved = _last_step(out), max(finished_steps(out), default=0)
        _say(f"stopped at step {step}; run the same command to resume from the checkpoint of step {saved}")
        return 130
    finally:
        _end_session(child)
    if child.returncode:
        with log.open("rb") as stream:
            stream.seek(log_start)
            text = stream.read().decode(errors="replace")
        _say(f"error: training ended with status {child.returncode}:\n{what_went_wrong(text)}\nThe whole log: {log}")
        return 1
    _say("")
    return 0


def _environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**os.environ, **ours}


# --- progress -------------------------------------------------------------------------------------------------------


def _follow(child: subprocess.Popen, metrics: Path, log: Path, resumed: int, steps: int) -> None:
    """Show progress until the child ends."""
    _say(f"starting Ray and the trainer (about a minute; log: {log}) ... ", end="")
    started, size = time.monotonic(), _size(metrics)
    while child.poll() is None and _size(metrics) == size:
        time.sleep(POLL)
    _say("failed" if child.poll() else f"{time.monotonic() - started:.0f} s")
    if child.poll():
        return
    terminal = sys.stderr.isatty()
    shown = (-1, -1)
    with tqdm(total=steps, initial=resumed, unit="step", disable=not terminal, dynamic_ncols=True) as bar:
        running = True
        while running:
            running = child.poll() is None  # before the last look, so that nothing is missed
            entries = read_run_log(metrics) if metrics.exists() else []
            step = max([resumed, *(entry["step"] for entry in entries if entry["kind"] == "train")])
            validated = max([-1, *(entry["step"] for entry in entries if entry["kind"] == "val")])
            bar.update(step - bar.n)
            bar.set_postfix_str(progress_text(entries))
            if not terminal and (validated > shown[1] or step >= shown[0] + PLAIN_EVERY or not running):
                if (step, validated) != shown:
                    _say(f"step {step}/{steps}  {progress_text(entries)}")
                shown = step, validated
            if running:
                time.sleep(POLL)


def progress_text(entries: list[dict]) -> str:
    """Accuracies of the last validation, and the team's reward in the last training batch."""
    parts = []
    topology = report.topology_of(entries)
    for source in report.sources_of(entries)[:1]:
        names = {name: curve.metric.format(source=source) for name, curve in topology.accuracies.items()}
        last = [entry for entry in entries if names["team"] in entry["metrics"]][-1]
        scores = " ".join(f"{name} {last['metrics'][key]:.3f}" for name, key in names.items() if key in last["metrics"])
        parts.append(f"validation at {last['step']}: {scores}")
    rewards = [entry["metrics"][topology.team] for entry in entries if topology.team in entry["metrics"]]
    if rewards:
        parts.append(f"train: team {rewards[-1]:.3f}")
    return " | ".join(parts)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# --- the child's end ------------------------------------------------------------------------------------------------


def _interrupt_child(child: subprocess.Popen) -> None:
    """Ask the child to end and wait; another Ctrl-C ends the wait. `_end_session` does the rest."""
    _say(f"\nstopping (up to {GRACE:.0f} s; Ctrl-C again: at once) ...")
    try:
        os.killpg(child.pid, signal.SIGINT)
        child.wait(GRACE)
    except (ProcessLookupError, subprocess.TimeoutExpired, KeyboardInterrupt):
        pass


def _end_session(child: subprocess.Popen) -> None:
    """Kill what is left of the child's session. (Ray's daemons leave the process group, but not the session.)"""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # takes at most PATIENCE, and must not be left half done
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    deadline = time.monotonic() + PATIENCE
    while left := _session(child.pid):
        if time.monotonic() > deadline:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        time.sleep(0.1)
    signal.signal(signal.SIGINT, handler)


def _session(leader: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (OSError, psutil.Error):
            continue  # gone, or another user's
    return found


def what_went_wrong(log: str) -> str:
    """The lines of a failed log that say why: our own error text, or the first exception, or else the last lines."""
    lines = [re.sub(r"\x1b\[[0-9;]*m|^\(\w+ pid=\d+[^)]*\) ?", "", line.replace("\r", "")) for line in log.splitlines()]
    ours = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if ours:
        return "\n".join(lines[ours[-1] :][:40])
    traceback = next(
        (number for number, line in enumerate(lines) if line.startswith("Traceback (most recent")), len(lines)
    )
    raised = [
        line
        for line in lines[traceback:]
        if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Exit)(\([\w.]+\))?(: |$)", line)
    ]
    causes = [line for line in raised if "RayTaskError" not in line]  # Ray repeats the cause below its own line
    return "\n".join((causes or raised)[:1] or lines[-10:])


if __name__ == "__main__":
    sys.exit(main())
