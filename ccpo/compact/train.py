"""The loop: play, credit, update. One thread, so that two runs with one configuration are the same to the last bit."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from ccpo.compact.budget import Budget, costs
from ccpo.compact.likelihood import likelihoods
from ccpo.compact.policy import Policy
from ccpo.compact.rollout import PlayedRow, play_rows
from ccpo.compact.settings import Settings
from ccpo.compact.signal import Signal
from ccpo.compact.update import TrainedTurn, update
from ccpo.credit.history import HistoryState
from ccpo.data import id_problem, parquet_rows, read_files, row_problem
from ccpo.metrics import session_rates, validation_scores
from ccpo.reference import border_problem, reference_problem
from ccpo.step import compute_advantages
from ccpo.types import REMOVE, Sessions, StepResult

Entry = dict[str, Any]
"""``{"step", "kind", "metrics"}``, kind "train", "val", "start" or "beyond": a line of a run's log, with the names that the verl trainer logs."""
ACCURACY = "ccpo/sessions/team_accuracy"


def train(
    settings: Settings,
    look: Callable[[Sequence[PlayedRow]], Mapping[str, float]] = lambda sessions: {},
    budget: Budget | None = None,
    signal_batches: int = 0,
    signal_every: int = 0,
) -> Iterator[Entry]:
    """Train, and tell of every step and validation.

    Args:
        settings: the run.
        look: what else to note of a validation, as metrics.
        budget: instead of ``settings.steps``: training ends before the first step that would pass it.
        signal_batches: how many batches are played at the starting weights to measure the gradients' signal and noise (`ccpo.compact.signal`):
            the prompts of the first steps, with samples of their own. Nothing is trained on them, and training is the same to the last bit.
        signal_every: steps between measurements of the training batches themselves; 0: none.

    Yields:
        Entries in the order of their steps; a validation follows its step. The measurement at the starting weights is a "start"; what is known of
        the batch that would have passed the budget, and was not trained, a "beyond".

    Raises:
        ValueError: the budget does not pay a single step, or nothing was decoded of it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums split over threads round differently
    gc.collect()
    gc.freeze()  # sessions are many small objects: every full collection would look at all of torch again, half of a step's time
    try:
        yield from _train(settings, look, budget, signal_batches, signal_every)
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)


def _train(
    settings: Settings,
    look: Callable[[Sequence[PlayedRow]], Mapping[str, float]],
    budget: Budget | None,
    signal_batches: int,
    signal_every: int,
) -> Iterator[Entry]:
    config = settings.ccpo
    rows, questions = dataset(settings.train_files, "train"), dataset(settings.val_files, "test")
    for row in rows if config.reads_reference else ():
        if why := reference_problem(row, config.plan.order[-1], config.reward is not None, config.reads_chain):
            raise ValueError(f"the training row {_named(row)}: {why}")
    listed = config.policy_list()
    policies = {policy.name: Policy(policy.name, policy.model or settings.model, settings) for policy in listed}
    players = {role: policies[policy.name] for policy in listed for role in policy.roles}
    if config.reads_chain:
        last, every = config.plan.order[-1], (row["extra_info"]["reference"] for row in rows)
        if why := border_problem(players[last].tokenizer, every, last):
            raise ValueError(why)

    def validate(step: int) -> Entry:
        played = play_rows(questions, players, settings, step, validating=True)
        return {"step": step, "kind": "val", "metrics": {**validation_metrics(played, settings), **look(played)}}

    def credited(played: Sequence[PlayedRow], history: HistoryState) -> tuple[Sessions, StepResult]:
        sessions = to_sessions(played, settings)
        if config.reads_reference:
            sessions = replace(sessions, **likelihoods(played, players[config.plan.order[-1]]))
        return sessions, compute_advantages(sessions, config.step_settings, history)

    yield validate(0)
    if signal_batches:
        signal, history, batches = Signal(), HistoryState(), prompt_batches(rows, settings)
        for number in range(1, signal_batches + 1):
            played = play_rows(next(batches), players, settings, -number, validating=False)
            sessions, result = credited(played, history)
            history = result.state
            signal.add(prompts_of(played), trained_turns(played, sessions, result, settings), players)
        yield {"step": 0, "kind": "start", "metrics": signal.metrics()}

    batches, history = prompt_batches(rows, settings), HistoryState()
    validated, spent = 0, 0.0
    for step in count(1):
        if step > settings.steps if budget is None else spent >= budget.most:
            break
        played = play_rows(next(batches), players, settings, step, validating=False)
        cost = costs(played)
        if budget is not None:
            spent += budget.cost(cost)
            if spent > budget.most:
                accuracy = float(to_sessions(played, settings).value_S.mean())
                yield {"step": step, "kind": "beyond", "metrics": {ACCURACY: accuracy, **cost}}
                break
            if not budget.cost(cost):
                raise ValueError(f"step {step} decoded nothing: no budget of {budget.unit} would ever be spent")
        sessions, result = credited(played, history)
        history = result.state
        metrics = {f"ccpo/{name}": value for name, value in result.metrics.items()}
        metrics |= {f"ccpo/{name}": value for name, value in session_rates(sessions, len(sessions)).items()}
        metrics |= {ACCURACY: float(sessions.value_S.mean()), **cost}
        turns = trained_turns(played, sessions, result, settings)
        if signal_every and step % signal_every == 0:
            signal = Signal()
            signal.add(prompts_of(played), turns, players)
            metrics |= signal.metrics()
        learning = [policy for policy in policies.values() if config.learns(policy.name, step)]
        for policy in learning:
            own = update(policy, [turn for _, role, turn in turns if players[role] is policy])
            prefix = f"{policy.name}/" if len(policies) > 1 else ""
            metrics |= {f"{prefix}actor/{name}": value for name, value in own.items()}
            policy.publish()
        yield {"step": step, "kind": "train", "metrics": metrics}
        if settings.test_every and step % settings.test_every == 0:
            yield validate(step)
            validated = step
    last = step - 1
    if not last:
        raise ValueError(
            f"a budget of {budget.most:g} {budget.unit} does not pay the first step, which takes {spent:g}, so nothing would be trained: set a "
            "higher one; where it is what a reference run took, set that one's trainer.total_training_steps higher"
        )
    if validated < last:
        yield validate(last)


def dataset(files: Sequence[str], split: str) -> list[dict[str, Any]]:
    """The rows of parquet files. Raises ValueError naming the first that is wrong."""
    found, seen = [], {}
    for path, content in read_files([Path(file) for file in files]).items():
        if isinstance(content, str):
            raise ValueError(content)
        for number, row in enumerate(parquet_rows(content)):
            place = f"{path}, row {number}"
            if isinstance(row, ValueError):
                raise ValueError(f"{place}: {row}")
            if problem := row_problem(row, split) or id_problem(seen, row, place):
                raise ValueError(f"{place}: {problem}")
            found.append(row)
    return found


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['extra_info']['index']} of {row['data_source']}"


def prompt_batches(rows: Sequence[dict[str, Any]], settings: Settings) -> Iterator[list[dict[str, Any]]]:
    """Batches without end, in the order in which verl's trainer takes them (`create_rl_sampler`); what is left of a pass is dropped."""
    if len(rows) < settings.prompts:
        raise ValueError(
            f"{len(rows)} training rows are fewer than data.train_batch_size={settings.prompts}: no step would run"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        count = len(rows)
        order = torch.randperm(count, generator=generator).tolist() if settings.shuffle else range(count)
        for start in range(0, count - settings.prompts + 1, settings.prompts):
            yield [rows[i] for i in order[start : start + settings.prompts]]


def prompts_of(played: Sequence[PlayedRow]) -> list[tuple[str, int]]:
    return list(dict.fromkeys(one.prompt for one in played))


def to_sessions(played: Sequence[PlayedRow], settings: Settings) -> Sessions:
    """What credit needs of sessions, in their order."""
    plan = settings.ccpo.plan
    return Sessions.from_records([one.record for one in played], plan.roles, plan.tie or "expected")


def trained_turns(
    played: Sequence[PlayedRow], sessions: Sessions, result: StepResult, settings: Settings
) -> list[tuple[tuple[str, int], str, TrainedTurn]]:
    """(prompt, role, turn) of what the step trains: the sessions' turns, and those of the replays that are trained."""
    code = {role: i for i, role in enumerate(sessions.roles)}
    found = []
    for s, one in enumerate(played):
        said = [(turn, result.advantage_SV[s, code[turn.role]]) for turn in one.played.turns]
        if settings.ccpo.credit.train_replays:
            first = sessions.replay_offset[s]
            said += [
                (turn, result.advantage_P[first + number])
                for number, replay in enumerate(one.played.replays)
                if replay.shared and replay.intervention.how == REMOVE
                for turn in replay.decoded
            ]
        for turn, advantage in said:
            prompt, response = turn.payload
            if (
                settings.ccpo.trains_reference
                and turn.role == settings.ccpo.plan.order[-1]
                and turn in one.played.turns
            ):
                response = one.reference
            if one.behind is not None and turn is one.played.turns[-1]:  # its answer has an advantage of its own
                length = one.behind.length
                kept, response = response[:length], response[length:]
                found.append((one.prompt, turn.role, TrainedTurn(tuple(prompt), tuple(kept), float(advantage))))
                prompt, advantage = [*prompt, *kept], result.answer_S[s]
            found.append((one.prompt, turn.role, TrainedTurn(tuple(prompt), tuple(response), float(advantage))))
    return found


def validation_metrics(played: Sequence[PlayedRow], settings: Settings) -> dict[str, float]:
    """Scores per data source, under the names of the verl trainer."""
    by_source: dict[str, list[PlayedRow]] = defaultdict(list)
    for one in played:
        by_source[one.prompt[0]].append(one)
    rates = session_rates(to_sessions(played, settings), len(played))
    metrics = {f"val-aux/{name}": value for name, value in rates.items()}
    for source, own in by_source.items():
        for name, value in validation_scores(to_sessions(own, settings), settings.ccpo.replay_names()).items():
            metrics[f"{'val-core' if name == 'team_accuracy' else 'val-aux'}/{source}/{name}"] = value
    return metrics
