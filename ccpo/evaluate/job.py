"""All of an evaluation: what is missing is played, until nothing is; then the numbers are written.

First the sessions with the replays that need no other session; then those in which a role's turns are exchanged, since they need the texts
of other sessions; then the controls, since how many answers of one agent the team's tokens pay for is known only then.
"""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from ccpo.config import CcpoConfig
from ccpo.evaluate import EvaluationError
from ccpo.evaluate.client import OVERFLOW, Probed, Refused, RequestFailed, one_line
from ccpo.evaluate.controls import ALL, NONE, affordable, groups
from ccpo.evaluate.data import Question, Row, Rows, question_of
from ccpo.evaluate.results import bad_answers, cost_of, ledger_of, measures_of, table_of
from ccpo.evaluate.sessions import Key, Record, Stage, donors_of, played_session, shuffled_session
from ccpo.evaluate.store import FORMAT, SESSION, SESSIONS, SHUFFLED, SINGLE, Store
from ccpo.reward import RewardError
from ccpo.types import SHUFFLE

ROOT = Path(__file__).resolve().parents[2]
IN_A_ROW = 20
"""Sessions that may fail one after another before the evaluation stops: something is wrong that more of them do not mend."""
OF_QUESTIONS = 5
"""Of so many questions they must be, or of all: one that is refused fails in all of its sessions, however many, each time anew."""


class Bar(Protocol):
    """Progress of one part."""

    def update(self, n: int = 1) -> Any: ...
    def close(self) -> Any: ...


@dataclass(frozen=True)
class Job:
    """What is evaluated.

    config: the team and its replays, of which remove and replace are `CcpoConfig.validation_replays`. hows: all interventions.
    stage, single: where the team and the control are played; single is None without controls. k: sessions a question.
    concurrency: sessions at a time. bar: (what, total, done) -> its progress.
    """

    config: CcpoConfig
    rows: Rows
    k: int
    seed: int
    hows: tuple[str, ...]
    controls: str
    stage: Stage
    single: Stage | None
    concurrency: int
    bar: Callable[[str, int, int], Bar]


Todo = list[tuple[Row, int]]
Play = Callable[[Row, int], Awaitable[Record]]


async def run(job: Job, store: Store) -> dict[str, Any]:
    """Play what the store lacks; the result as it is written. Raises EvaluationError where nothing can be played."""
    try:
        reported = await _probe(job)
        await _sessions(job, store)
        if not store.records[SESSION]:
            raise EvaluationError(f"no session could be played: {_reasons(store)}; see {store.path}")
        shuffles = await _shuffles(job, store) if SHUFFLE in job.hows else 0
        samples = await _singles(job, store) if job.controls != NONE else None
    finally:
        for client in {
            speaker.client for stage in (job.stage, job.single) if stage for speaker in stage.speakers.values()
        }:
            await client.close()
    questions = len(job.rows.rows)
    wanted = {SESSION: questions * job.k}
    if SHUFFLE in job.hows:
        wanted[SHUFFLED] = shuffles
    if job.controls != NONE:
        wanted[SINGLE] = questions * groups(samples or Fraction(1), job.k)[-1].stop
    table = await table_of(job.rows.rows, store, job.k, job.config.plan.tie, samples, job.seed, job.stage.reward)
    return {
        "format": FORMAT,
        "settings": store.settings,
        "reported": reported,
        "versions": versions(),
        "hardware": hardware(),
        "sessions_file": SESSIONS,
        "bad": bad_answers(store, wanted),
        "measures": measures_of(table, job.config.plan.roles, job.hows, job.k, samples, job.seed),
        "cost": cost_of(store, samples),
        "ledger": ledger_of(store),
        "questions": table,
    }


async def _probe(job: Job) -> dict[str, str | None]:
    """Endpoint -> the model that it says it has. Every way in which it will be sampled is tried once."""
    speakers = [*job.stage.speakers.values(), *(job.single.speakers.values() if job.single else ())]
    distinct = {(speaker.client.name, repr(speaker.sampling)): speaker for speaker in speakers}
    found: dict[str, Probed] = {}
    for (name, _), speaker in distinct.items():
        found[name] = await speaker.client.probe(speaker.sampling, job.seed if job.stage.seeded else None)
    if job.controls == ALL and (silent := [name for name, probed in found.items() if not probed.usage]):
        raise EvaluationError(
            f"{', '.join(silent)} does not count tokens, so how many answers the team's tokens pay for is unknown: set --controls single or none"
        )
    remote = {speaker.client.name for speaker in speakers if not speaker.client.endpoint.local}
    return {name: probed.model for name, probed in found.items() if name in remote}


async def _sessions(job: Job, store: Store) -> None:
    async def played(row: Row, number: int) -> Record:
        return await played_session(job.stage, row, number, job.config.replays(number, job.k, validating=True))

    todo = [(row, number) for row in job.rows.rows for number in range(job.k)]
    await _play(job, store, SESSION, "sessions", todo, played)


async def _shuffles(job: Job, store: Store) -> int:
    """How many sessions have a role whose turns can be exchanged."""
    heard = [role for role in job.config.plan.roles if role in job.config.plan.heard]
    records = store.records[SESSION]
    donors = donors_of(records, heard, job.seed)

    async def played(row: Row, number: int) -> Record:
        key = question_of(row), number
        return await shuffled_session(job.stage, row, records[key], donors[key])

    todo = [(row, n) for row in job.rows.rows for n in range(job.k) if (question_of(row), n) in donors]
    await _play(job, store, SHUFFLED, "turns exchanged", todo, played)
    return len(donors)


async def _singles(job: Job, store: Store) -> Fraction | None:
    """How many answers of one agent cost what a session of the team does; None where that is not asked, or unknown."""

    async def played(row: Row, number: int) -> Record:
        return await played_session(job.single, row, number, ())

    async def up_to(count: int) -> None:
        todo = [(row, number) for row in job.rows.rows for number in range(count)]
        await _play(job, store, SINGLE, "one agent", todo, played)

    await up_to(job.k)
    if job.controls != ALL:
        return None
    first = [record for key, record in store.records[SINGLE].items() if key[1] < job.k]  # the same after a resume
    samples = affordable(store.records[SESSION].values(), first)
    if samples is not None:
        await up_to(groups(samples, job.k)[-1].stop)
    return samples


async def _play(job: Job, store: Store, kind: str, what: str, wanted: Todo, play: Play) -> None:
    """Play what the store lacks of ``wanted``."""
    todo = [(row, number) for row, number in wanted if (question_of(row), number) not in store.records[kind]]
    bar = job.bar(what, len(wanted), len(wanted) - len(todo))
    waiting: Iterator[tuple[Row, int]] = iter(todo)
    failed: list[Question] = []  # since the last that did not
    several = min(OF_QUESTIONS, len({question_of(row) for row, _ in wanted}))

    async def worker() -> None:
        for row, number in waiting:
            key: Key = (question_of(row), number)
            try:
                record = await play(row, number)
            except Refused as error:
                raise EvaluationError(
                    f"{error}. What was played is kept in {store.path.parent}; the same command goes on"
                ) from None
            except Exception as error:  # of the request, or of a team's own program
                failure = _kind(error)
                why = one_line(str(error))
                store.drop(kind, key, failure, why)
                if failure != OVERFLOW:  # that is about the question
                    failed.append(key[0])
                if len(failed) >= IN_A_ROW and len(set(failed)) >= several:
                    raise EvaluationError(
                        f"{len(failed)} sessions failed one after another, the last with: {why}. What was played is kept in {store.path.parent}; the "
                        "same command goes on"
                    ) from None
            else:
                store.add(kind, record)
                failed.clear()
            bar.update()

    workers = [asyncio.ensure_future(worker()) for _ in range(min(job.concurrency, len(todo)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for each in workers:
            each.cancel()
        await asyncio.gather(*workers, return_exceptions=True)  # none writes after this
        bar.close()


def _kind(error: Exception) -> str:
    """Whose fault it was, in few words."""
    if isinstance(error, RequestFailed):
        return error.kind
    return "the reward" if isinstance(error, RewardError) else f"the team's program ({type(error).__name__})"


def _reasons(store: Store) -> str:
    return ", ".join(sorted(set(store.dropped[SESSION].values()))) or "there is none"


def versions() -> dict[str, str | None]:
    """Of what the numbers depend on."""

    def of(package: str) -> str | None:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    packages = ("openai", "numpy", "torch", "transformers", "vllm")
    return {"python": platform.python_version(), "ccpo": of("ccpo") or _declared(), "commit": commit()} | {
        name: of(name) for name in packages
    }


def _declared() -> str | None:
    """The version of a repository that is not installed."""
    file = ROOT / "pyproject.toml"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return next((line.split('"')[1] for line in lines if line.startswith('version = "')), None)


def commit() -> str | None:
    """The repository's commit, with + if files were changed since; None outside of one."""
    if not (ROOT / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=30, check=True
        ).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """The machine that asked; what an endpoint runs on is not known here."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=60
        )
        gpus = done.stdout.split("\n")[:-1] if done.returncode == 0 else []
    except (OSError, subprocess.SubprocessError):
        gpus = []
    return {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count(), "gpus": gpus}
