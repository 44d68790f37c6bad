"""Build an embedded task, train a team on it with verl's trainer on the CPU, and report. Started by quickstart.sh."""

from __future__ import annotations

import argparse
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
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import compare  # noqa: E402
import compare_credit  # noqa: E402

from ccpo import report  # noqa: E402
from ccpo.config import CcpoConfig, ConfigError  # noqa: E402
from ccpo.credit.rules import RULES, fits, fitting  # noqa: E402
from ccpo.run.checkpoint import finished_steps  # noqa: E402
from ccpo.run.folder import LOCK, METRICS, PREPARE_LOG, QUICKSTART, SESSIONS, TRAIN_LOG  # noqa: E402
from ccpo.run.json_file import Damaged, read_object, write_atomic  # noqa: E402
from ccpo.run.lock import Hold, handed_on, run_lock  # noqa: E402
from ccpo.run.run_log import read_run_log  # noqa: E402
from ccpo.run.session_log import read_sessions  # noqa: E402
from ccpo.team.load import BUILT_IN  # noqa: E402
from ccpo.team.session import TeamError  # noqa: E402
from ccpo.user_code import absolute  # noqa: E402
from data_preprocess import silence  # noqa: E402

TASKS = {"last_digit": "data_preprocess.toy", silence.NAME: "data_preprocess.silence"}
"""Embedded task -> the command that writes its data."""
DEFAULT_TASK = next(iter(TASKS))
DATA = Path("data")
CONFIGS = ROOT / "recipe" / "config"
TRAINER = [sys.executable, "recipe/main_ccpo.py"]
DEFAULT_TEAM = next(iter(BUILT_IN))
SETTINGS = ("task", "team", "rule", "seed", "overrides")  # of QUICKSTART, which marks our runs
GRACE = 30.0  # seconds the trainer has to end after an interrupt
PATIENCE = 10.0  # seconds its daemons have to follow it
POLL = 0.5  # seconds between looks at the metrics
PLAIN_EVERY = 5  # steps per line where there is no terminal for a bar
OWN_OPTIONS = {
    "trainer.total_training_steps": "--steps",
    "trainer.default_local_dir": "--out",
    "task": "--task",
    "ccpo.team": "--team",
    "ccpo.credit.rule": "--rule",
    "seed": "--seed",
}


SILENCE_RULES = (
    *("shared", "own_correctness", "own_correctness ccpo.credit.wrong_price=1"),
    *("leave_one_out", "resampled", "shapley"),
)
SEEDS = 5


class QuickstartError(Exception):
    """Something the user can mend; its text says how."""


def main(argv: list[str] | None = None, trainer: list[str] | None = None) -> int:
    """Run the command; exit status 0: done, 1: failed, 130: interrupted. Tests pass their own ``trainer``."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # SIGINT too: a job in the background ignores it otherwise
        signal.signal(number, _interrupt)
    try:
        options = _options(sys.argv[1:] if argv is None else argv)
        os.chdir(ROOT)
        if options.compare:
            return _compare_on_seeds(options) if options.task == silence.NAME else _compare(options, trainer)
        return _run(options, trainer)
    except (QuickstartError, report.ReportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ConfigError as error:  # the folder's
        print(f"error: {'; '.join(error.problems)}", file=sys.stderr)
        return 1
    except OSError as error:
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
                _prepare(out, options.task)
            if status := train(_command(options, trainer), out, options.steps, options.lock):
                return status
        report.show([out])
        sys.stdout.reconfigure(errors="backslashreplace")  # a model may say what the terminal cannot show
        print()
        print(report.before_and_after(read_sessions(out / SESSIONS), colour=sys.stdout.isatty()))
        return 0


def _compare(options: argparse.Namespace, trainer: list[str] | None) -> int:
    """Train the same unequal voters once per rule, and compare. Rules that are finished are not trained again."""
    folders = {rule: compare.run_folder(options.out, options.task, rule, options.seed) for rule in compare.RULES}
    runs = {
        rule: argparse.Namespace(**{**vars(options), "rule": rule, "given_rule": rule, "out": out})
        for rule, out in folders.items()
    }
    for run in runs.values():  # all first: after minutes of training is late to refuse one, or to delete what is old
        with _run_folder(run):
            run.fresh = False
    if trainer is None and not all(map(_finished, runs.values())):
        _prepare(folders[compare.RULES[0]], options.task, voters=True)
    for number, (rule, run) in enumerate(runs.items(), 1):
        with _run_folder(run) as out:
            if _finished(run):
                _say(f"--- {rule} ({number} of {len(runs)}): finished (anew: --fresh)")
                continue
            _say(f"--- {rule} ({number} of {len(runs)})")
            if status := train(_command(run, trainer), out, run.steps, run.lock):
                return status
    compare.show(folders, options.out / f"{options.task}-compare-seed{options.seed}.png")
    return 0


def _compare_on_seeds(options: argparse.Namespace) -> int:
    """Credit rules on the same seeds, with the compact trainer: scripts/compare_credit.py. What is over is not run again."""
    _prepare(options.out, options.task)
    seeds = f"{options.seed}-{options.seed + SEEDS - 1}"
    own = ["ccpo.validation_replays=[]", "trainer.test_freq=-1", f"trainer.total_training_steps={options.steps}"]
    _say(f"{len(SILENCE_RULES)} rules on seeds {seeds}, with the compact trainer; about ten minutes on two cores")
    compare_credit.main(
        ["--team", options.team, "--task", options.task, "--seeds", seeds, "--out", str(options.out)]
        + ["--rules", *SILENCE_RULES, "--", *own, *options.overrides]
    )
    return 0


def _finished(options: argparse.Namespace) -> bool:
    logged = min(_last_step(options.out, kind) for kind in ("train", "val"))
    return options.steps in finished_steps(options.out) and logged >= options.steps


def _command(options: argparse.Namespace, trainer: list[str] | None) -> list[str]:
    config = ["--config-name", _config_name(options.team)]  # hydra wants it before the overrides
    return [*(trainer or TRAINER), *config, *_overrides(options)]


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


# --- options --------------------------------------------------------------------------------------------------------


def _options(argv: list[str]) -> argparse.Namespace:
    steps = {task: _task(task)["trainer"]["total_training_steps"] for task in TASKS}
    parser = argparse.ArgumentParser(
        prog="bash scripts/quickstart.sh",
        description="Train a team on an embedded task with the real trainer, on the CPU. "
        "The same command after an interruption goes on from the last checkpoint.",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of data order and samples (default 0)")
    parser.add_argument(
        "--team",
        default=DEFAULT_TEAM,
        help=f"{', '.join(BUILT_IN)}, package.module:Class or path/to/file.py:Class, whose prompts have a set for this task "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        default=DEFAULT_TASK,
        help="last_digit: arithmetic in two steps; silence: voters of whom some had better say nothing (default %(default)s)",
    )
    parser.add_argument("--topology", help=argparse.SUPPRESS)  # what --team was called
    parser.add_argument(
        "--rule", help=f"credit rule that fits the team (default: the team's in recipe/config): {', '.join(RULES)}"
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help=f"with --team {compare.TEAM}: three voters of unequal skill, each with a policy of its own, once with each of the rules "
        + ", ".join(compare.RULES)
        + f"; with --task {silence.NAME}: {len(SILENCE_RULES)} rules on {SEEDS} seeds, in one process each",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help=f"training steps (default {', '.join(map(str, steps.values()))}; with --compare {compare.STEPS})",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the run (default outputs/TASK[-TEAM]-RULE-seedSEED); with --compare, the folder in which "
        "every rule gets its own (default outputs)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="delete the folder of the run first (of all compared runs)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="-- OVERRIDE", help="further verl overrides, name=value, after --"
    )
    options = parser.parse_args(argv)
    if options.topology is not None:
        parser.error(f"--topology is called --team now: --team {options.topology}")
    if options.compare and (options.team != compare.TEAM or options.rule):
        parser.error(f"--compare runs its own rules on voters: it needs --team {compare.TEAM}, and takes no --rule")
    on_seeds = options.compare and options.task == silence.NAME
    if on_seeds and options.fresh:
        parser.error(
            "--fresh is for runs of verl's trainer: to compare anew on this task, delete the folder, or set another --out"
        )
    if options.steps is None:
        options.steps = compare.STEPS if options.compare and not on_seeds else steps[options.task]
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, got {options.steps}")
    if options.seed < 0:
        parser.error(f"--seed must not be negative, got {options.seed}")
    for override in options.overrides:
        if why := _refused(override):
            parser.error(why)
    options.team = _from_root(options.team)
    if on_seeds:
        options.out = (options.out or ROOT / "outputs" / f"{options.task}-compare-seed{options.seed}").absolute()
        return options
    if options.task == silence.NAME:
        options.overrides = [*silence.OVERRIDES.get(options.team, ()), *options.overrides]
    options.given_rule = options.rule
    options.rule = options.rule or _settings(_config_name(options.team)).credit.rule
    if why := _misfit(options):
        parser.error(f"argument --rule: {why}")
    if options.compare:
        options.overrides = [*compare.OVERRIDES, *options.overrides]
        options.out = (options.out or ROOT / "outputs").absolute()
        return options
    run = f"{options.task}{_team_part(options.team)}-{options.rule}-seed{options.seed}"
    options.out = (options.out or ROOT / "outputs" / run).absolute()
    if os.path.realpath(options.out) == os.path.realpath(
        ROOT / DATA
    ):  # writers lock the folder that they write into, and so do runs
        parser.error(
            f"--out {options.out} is where the dataset is made, which a run cannot hold at the same time: choose another"
        )
    return options


def _refused(override: str) -> str | None:
    """Why an override is none for this command."""
    name, equals, _ = override.lstrip("+~").partition("=")
    name = name.partition("@")[0].strip()  # Hydra's package of a group
    if name in OWN_OPTIONS:
        return f"{override}: use {OWN_OPTIONS[name]} instead, this command needs to know it"
    if not equals or not name:
        return f"{override!r} is no override, which reads name=value; options go before --"
    if name == "profile":
        return f"{override}: this command trains an embedded task on the CPU; for others see recipe/run_ccpo_dyad.sh"
    for own, option in OWN_OPTIONS.items():
        if own.startswith(f"{name}."):
            return (
                f"{override}: {name} holds {own}, for which there is {option}, and this command needs to know it; set the others one by one, "
                f"{name}.KEY=VALUE"
            )
        if name.startswith(f"{own}."):
            return f"{override}: {own} has no parts; use {option}"
    return None


def _from_root(team: str) -> str:
    """A team's file as seen from the repository's root, where the trainer starts; from anywhere if it is elsewhere."""
    where, colon, name = absolute(team).rpartition(":")
    inside = Path(where).is_relative_to(ROOT) if where.endswith(".py") else False
    return f"{Path(where).relative_to(ROOT) if inside else where}{colon}{name}"


def _team_part(team: str) -> str:
    """What the team adds to the name of a run's folder."""
    if team == DEFAULT_TEAM:
        return ""
    return "-" + re.sub(r"[^a-z0-9_]+", "_", team.rpartition(":")[2].lower())


def _task(name: str) -> dict:
    return yaml.safe_load((CONFIGS / "task" / f"{name}.yaml").read_text())


def _config_name(team: str) -> str:
    return f"ccpo_{team}" if team in BUILT_IN else "ccpo"


def _settings(config_name: str) -> DictConfig:
    """The ``ccpo`` section of a configuration and of those of ours that it extends, without verl's."""
    data = OmegaConf.load(CONFIGS / f"{config_name}.yaml")
    ours = [name for name in data.get("defaults", ()) if isinstance(name, str) and (CONFIGS / f"{name}.yaml").exists()]
    return OmegaConf.merge(*map(_settings, ours), data.get("ccpo") or {})


def _misfit(options: argparse.Namespace) -> str | None:
    """Why the rule is none for the team. Raises QuickstartError where there is no such team, or its program is wrong."""
    given = [text for override in options.overrides if (text := override.lstrip("+~")).startswith("ccpo.team_kwargs")]
    try:
        overridden = OmegaConf.from_dotlist(given).get("ccpo", {}).get("team_kwargs", {})
        kwargs = OmegaConf.merge(_settings(_config_name(options.team)).team_kwargs, overridden)
        plan = CcpoConfig(team=options.team, team_kwargs=OmegaConf.to_container(kwargs)).plan
    except (TeamError, ConfigError) as error:
        text = "; ".join(error.problems) if isinstance(error, ConfigError) else str(error)
        raise QuickstartError(f"--team {options.team}: {' '.join(text.split())}") from None
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise QuickstartError(f"{' '.join(given)} cannot be read: {' '.join(str(error).split())}") from None
    rule, listed = options.rule, f"Rules that fit: {', '.join(fitting(plan))}"
    if rule not in RULES:
        return f"there is no rule {rule!r}. {listed}"
    why = fits(rule, plan)
    return f"{rule} does not fit this team: {why}. {listed}" if why else None


def _overrides(options: argparse.Namespace) -> list[str]:
    return [
        "profile=cpu",
        f"task={options.task}",
        f"trainer.default_local_dir={_hydra_quoted(options.out)}",
        f"trainer.total_training_steps={options.steps}",
        *([f"ccpo.team={_hydra_quoted(options.team)}"] if options.team not in BUILT_IN else []),
        *([f"ccpo.credit.rule={options.given_rule}"] if options.given_rule else []),
        f"seed={options.seed}",
        *options.overrides,
    ]


def _hydra_quoted(text: Path | str) -> str:
    """A text as it stands, whatever Hydra would read it as. In its quotes, a quote needs a backslash, and so does every backslash before one."""
    if "${" in (text := str(text)):
        raise QuickstartError(
            f"{text}: a name with ${{ cannot be used, verl puts another value in its place; rename it"
        )
    quoted = re.sub(r"(\\*)'", lambda found: 2 * found[1] + "\\'", text)
    quoted += quoted[len(quoted.rstrip("\\")) :]
    return f"'{quoted}'"


# --- the folder of the run ------------------------------------------------------------------------------------------


@contextmanager
def _run_folder(options: argparse.Namespace):
    """Make or check the folder, and hold it from here on; the trainer gets the same lock, so nothing else writes there, even if it outlives
    this process."""
    out, marker = options.out, options.out / QUICKSTART
    settings = {name: getattr(options, name) for name in SETTINGS}
    with run_lock(out) as options.lock:
        ours = marker.is_file()
        entries = [entry for entry in out.iterdir() if entry.name not in (LOCK, QUICKSTART)]
        if not ours and (entries or os.path.lexists(marker)):
            raise QuickstartError(
                f"{out} exists and is no folder of this command (it has no {QUICKSTART}); choose another --out"
            )
        if ours and not options.fresh:
            _same_settings(marker, settings)
        else:
            for entry in entries:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            write_atomic(marker, json.dumps(settings) + "\n")
        yield out


def _same_settings(marker: Path, settings: dict) -> None:
    """Raises QuickstartError where the folder was begun with others."""
    out = marker.parent
    try:
        before = read_object(marker, {})
        if before and "team" not in before:
            raise QuickstartError(
                f"{out} was begun by an earlier version of this command, whose checkpoints this one does not resume. Choose another "
                "--out, or delete it with --fresh"
            )
        read_object(marker, {name: type(value) for name, value in settings.items()})
    except Damaged as error:
        raise QuickstartError(
            f"{out} cannot be gone on with, since it is not known what it was started with: {error}. Choose another --out, or delete it with "
            f"--fresh; what it has so far: {sys.executable} scripts/report.py {shlex.quote(str(out))}"
        ) from None
    differing = [
        f"{name} {before[name]!r}, not {settings[name]!r}" for name in settings if before[name] != settings[name]
    ]
    if differing:
        raise QuickstartError(
            f"{out} was started with {'; '.join(differing)}. Choose another --out, or delete it with --fresh"
        )


def _last_step(out: Path, kind: str = "train") -> int:
    """Last step of a kind that was logged."""
    entries = read_run_log(out / METRICS) if (out / METRICS).exists() else []
    return max((entry["step"] for entry in entries if entry["kind"] == kind), default=0)


# --- stages ---------------------------------------------------------------------------------------------------------


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


def _prepare(out: Path, task: str, voters: bool = False) -> None:
    """Write the dataset of ``task``, and the models of unequal ``voters``. (The other model is the one in the repository.)"""
    log = out / PREPARE_LOG
    out.mkdir(parents=True, exist_ok=True)
    made = {"dataset": (TASKS[task], DATA / task)}
    if voters:
        made["voters of unequal skill"] = ("data_preprocess.toy_voters", compare.MODELS)
    with log.open("w") as stream:
        for what, (module, folder) in made.items():
            command = [sys.executable, "-m", module, "--out", str(folder)]
            done = subprocess.run(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=_environment())
            if done.returncode:
                raise QuickstartError(
                    f"{shlex.join(command)} did not work:\n{what_went_wrong(log.read_text())}\nThe whole log: {log}"
                )
            _say(f"{what}: {folder}")


def train(command: list[str], out: Path, steps: int, lock: Hold) -> int:
    """Run the trainer as a child and show its progress; returns as `main`. Nothing it started outlives this call."""
    resumed = max(finished_steps(out), default=0)
    metrics, log = out / METRICS, out / TRAIN_LOG
    log_start = log.stat().st_size if log.exists() else 0
    if resumed:
        _say(f"going on from the checkpoint of step {resumed}")
    with log.open("ab") as stream:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**_environment(), **handed_on(lock)},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process only, and everything the trainer starts can be found
            pass_fds=lock.descriptors,
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
    """What the team and its named replays got in the last validation, and the team in the last training batch."""
    parts = []
    for source in report.sources_of(entries)[:1]:
        known, last = report.measured(entries, source), report.validations(entries, source)[-1]
        values = {name: last["metrics"].get(known.accuracies[name]) for name in (report.TEAM, *known.replays)}
        shown = " ".join(f"{known.label(name)} {value:.3f}" for name, value in values.items() if value is not None)
        parts.append(f"validation at {last['step']}: {shown}")
    if rewards := report.series(entries, report.TEAM_IN_TRAINING)[1]:
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
