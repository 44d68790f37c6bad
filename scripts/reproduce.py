"""The commands behind the numbers of docs/runs, as they stand in its pages.

    python scripts/reproduce.py                                the pages, and how many commands each has
    python scripts/reproduce.py cpu_silence                    its commands, numbered
    python scripts/reproduce.py cpu_silence --run              all of them, one after the other; ends with the first that fails
    python scripts/reproduce.py cpu_silence --run 1 3          these
    python scripts/reproduce.py PAGE --run --beside 4 --gpus 0,1     up to four at a time, two on each GPU

A page's commands are its indented blocks, so what is shown is what is run. Commands of one block do not need each other; a blank line or a line of
text ends a block, and the next one begins when all of it is done. So a command that reads what another writes stands below a blank line, and one that
is timed is alone in its block. A command for several GPUs is run without --gpus.

Commands are run from the repository's root, with the Python of .venv where there is one. With --beside N above 1, what a command prints goes to
outputs/reproduce/PAGE/NUMBER.log, behind what an earlier run has left there. A command that was interrupted goes on when it is run again, if the
script that it calls does.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

from ccpo.run.output import until_cut  # noqa: E402

PAGES = ROOT / "docs" / "runs"
PATIENCE = 60.0  # seconds for what was interrupted to end by itself
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Command(NamedTuple):
    text: str
    block: int  # of the page, counted from 0


def commands(text: str) -> list[Command]:
    """A page's commands, in its order: indented by four spaces; a line that ends in a backslash goes on."""
    found: list[Command] = []
    block, before = -1, ""
    for line in text.splitlines():
        here = line[4:] if line.startswith("    ") and line.strip() else ""
        if here and before.endswith("\\"):
            found[-1] = Command(f"{found[-1].text}\n{here}", block)
        elif here:
            block += not before
            found.append(Command(here, block))
        before = here
    return found


def pages() -> dict[str, Path]:
    return {path.stem: path for path in sorted(PAGES.glob("*.md"))}


def title(page: Path) -> str:
    return re.sub(r"^#+ *", "", page.read_text(encoding="utf-8").splitlines()[0])


class Running(NamedTuple):
    number: int
    process: subprocess.Popen
    gpu: str | None
    begun: float


def start(number: int, command: Command, gpu: str | None, log: Path | None) -> Running:
    """Run a command as a process group of its own. ``log``: for what it prints; None: where this command's own output goes."""
    own = ROOT / ".venv" / "bin"
    path = os.environ.get("PATH", os.defpath)
    path = f"{own}{os.pathsep}{path}" if own.is_dir() else path
    environment = {**os.environ, "PATH": path} | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    name = f"[{number}]" + ("" if gpu is None else f" GPU {gpu}:")
    print(name, command.text if log is None else f"begins, see {log}", flush=True)
    with ExitStack() as stack:
        stream = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(log.open("a", encoding="utf-8"))
            print(name, command.text, file=stream, flush=True)
        process = subprocess.Popen(
            ["bash", "-c", command.text],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    return Running(number, process, gpu, time.monotonic())


def run(
    chosen: Sequence[tuple[int, Command]], beside: int, gpus: Sequence[str], log: Callable[[int], Path | None]
) -> None:
    """Run these commands (number, command), block after block. ``log``: a command's file, None for this command's own output.

    Exits with the status of the first that fails, when those that ran beside it have ended. A signal ends all (`end`) and raises KeyboardInterrupt.
    """
    signals: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, lambda got, _: signals.append(got))
    running: list[Running] = []
    failed = 0
    try:
        for _, group in itertools.groupby(chosen, key=lambda one: one[1].block):
            waiting = [] if failed else list(group)
            while running or (waiting and not failed):
                while waiting and len(running) < beside and not failed and not signals:
                    number, command = waiting.pop(0)
                    used = [one.gpu for one in running]
                    running.append(start(number, command, min(gpus, key=used.count, default=None), log(number)))
                time.sleep(0.02)
                if signals:
                    raise KeyboardInterrupt
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    status = one.process.returncode
                    how = "done" if status == 0 else f"ended with {status}"
                    print(f"[{one.number}] {how} after {time.monotonic() - one.begun:.0f} s", flush=True)
                    failed = failed or (status if status >= 0 else 128 - status)
    finally:
        end(running, signals)
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed:
        sys.exit(failed)


def end(running: Sequence[Running], signals: Sequence[int]) -> None:
    """Pass a signal on to the commands with all their processes, and wait for them: `PATIENCE`, or until a second one comes; then kill them."""
    for number, patience in ((signals[0] if signals else signal.SIGTERM, PATIENCE), (signal.SIGKILL, 10.0)):
        for one in running:
            _signal(one, number)
        until = time.monotonic() + patience
        while any(map(_lives, running)) and time.monotonic() < until and (number == signal.SIGKILL or len(signals) < 2):
            time.sleep(0.02)


def _lives(one: Running) -> bool:
    """Whether a command's process group has a process."""
    one.process.poll()
    return _signal(one, 0)


def _signal(one: Running, number: int) -> bool:
    try:
        os.killpg(one.process.pid, number)
    except ProcessLookupError:
        return False
    return True


def shown(numbered: Mapping[int, Command]) -> str:
    """The commands, with a blank line between blocks."""
    blocks = itertools.groupby(numbered.items(), key=lambda one: one[1].block)
    return "\n\n".join("\n".join(f"[{number}] {command.text}" for number, command in block) for _, block in blocks)


def names(text: str) -> list[str]:
    """GPUs as CUDA_VISIBLE_DEVICES has them, numbers or names: an argparse type."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has a GPU without a name: set 0,1 or what nvidia-smi -L calls them")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", help="a page of docs/runs, without .md")
    parser.add_argument("--run", nargs="*", type=int, metavar="NUMBER", help="run its commands: all, or these")
    parser.add_argument("--beside", type=int, default=1, metavar="N", help="commands of a block at a time (default: 1)")
    parser.add_argument(
        "--gpus", type=names, default=[], metavar="0,1", help="a command sees one of these: the one that fewest run on"
    )
    known = parser.parse_args(argv)
    found = pages()
    if known.beside < 1:
        parser.error(f"--beside {known.beside}: set at least 1")
    if known.page is None:
        if known.run is not None:
            parser.error(f"--run needs a page: one of {', '.join(found)}")
        for name, path in found.items():
            print(f"{name:28} {len(commands(path.read_text(encoding='utf-8'))):3} commands  {title(path)}")
        return
    if known.page not in found:
        near = difflib.get_close_matches(known.page, found, n=1)
        parser.error(f"{known.page}: {f'did you mean {near[0]}? ' if near else ''}pages: {', '.join(found)}")
    numbered = dict(enumerate(commands(found[known.page].read_text(encoding="utf-8")), 1))
    if known.run is None:
        print(f"{title(found[known.page])}\n\n{shown(numbered)}")
        return
    if wrong := [number for number in known.run if number not in numbered]:
        parser.error(f"--run {wrong[0]}: {known.page} has commands 1 to {len(numbered)}")
    logs = Path("outputs", "reproduce", known.page)
    try:
        run(
            [(number, numbered[number]) for number in dict.fromkeys(known.run or numbered)],
            known.beside,
            known.gpus,
            lambda number: ROOT / logs / f"{number}.log" if known.beside > 1 else None,
        )
    except OSError as error:
        sys.exit(f"what ran was ended: {error}; mend that, and the same command goes on")


if __name__ == "__main__":
    try:
        sys.exit(until_cut(main))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
