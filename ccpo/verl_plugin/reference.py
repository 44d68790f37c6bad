"""How likely the last speaker finds the reference answers: what `ccpo.credit.likelihood` reads, from one forward pass of the actor of its own.

The agent loop makes the prompts that the last speaker is asked in each cut run (`Played.cuts`); before
credit the trainer puts every distinct (prompt, reference) once into the queue, in a partition of their own, lets the actor compute
log-probabilities, adds them up over the reference's tokens, and clears the partition.

At temperature 1: the distribution that the policy learns and that users sample from. A rollout at another temperature is told
(`preflight`), since the chance to be right there is another number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.workers.utils.padding import response_from_nested

from ccpo.config import CcpoConfig
from ccpo.data import parquet_rows, read_files, shown
from ccpo.reference import answer_ids, reference_problem
from ccpo.verl_plugin.dataset import files
from ccpo.verl_plugin.rows import Row
from ccpo.verl_plugin.update import NOT_ASKED, own_ratio

PARTITION = "reference"
COLUMNS = ["input_ids", "position_ids", "loss_mask", "response_mask", "prompts", "responses"]

Pair = tuple[bytes, bytes]
"""Token ids of a prompt and of a reference."""


# ------------------------------------------------------------------------------------------------- in the agent loop


def facts(prompts: Sequence[Sequence[int]], answer: Sequence[int]) -> dict[str, Any]:
    """What a session's first row carries: 4 bytes a token."""
    return {
        "prompts": [np.asarray(ids, dtype=np.int32) for ids in prompts],
        "answer": np.asarray(answer, dtype=np.int32),
    }


# ------------------------------------------------------------------------------------------------------ in the trainer


def distinct(rows: Sequence[Row]) -> tuple[list[Pair], np.ndarray]:
    """(each (prompt, reference) once, in the rows' order; (T,) which of them belongs to each turn of the sessions)."""
    number: dict[Pair, int] = {}
    of_turn = []
    for row in rows:
        if (found := row.facts["reference"]) is not None:
            answer = found["answer"].tobytes()
            of_turn += [number.setdefault((prompt.tobytes(), answer), len(number)) for prompt in found["prompts"]]
    return list(number), np.array(of_turn, dtype=np.int64)


def likelihoods(rows: Sequence[Row], workers: Any) -> tuple[np.ndarray, int]:
    """((T,) likelihood of the reference before each turn of the rows' sessions, how many prompts were scored).

    ``workers``: the worker group of the last speaker's policy.
    """
    pairs, of_turn = distinct(rows)
    if not pairs:
        return np.zeros(0), 0
    return np.exp(np.minimum(_log_likelihoods(pairs, workers), 0.0))[of_turn], len(pairs)


def columns(pairs: Sequence[Pair]) -> TensorDict:
    """The rows as verl's agent loop would store them, had the reference been said."""
    prompts, responses = (
        [torch.from_numpy(np.frombuffer(ids, dtype=np.int32).astype(np.int64)) for ids in part]
        for part in zip(*pairs, strict=True)
    )
    whole = [torch.cat(pair) for pair in zip(prompts, responses, strict=True)]
    mask = [torch.ones_like(ids) for ids in responses]
    found = {
        "input_ids": whole,
        "position_ids": [torch.arange(len(ids)) for ids in whole],
        "loss_mask": mask,
        "response_mask": mask,
        "prompts": prompts,
        "responses": responses,
    }
    return TensorDict(
        {name: torch.nested.as_nested_tensor(parts, layout=torch.jagged) for name, parts in found.items()},
        batch_size=len(pairs),
    )


def _log_likelihoods(pairs: Sequence[Pair], workers: Any) -> np.ndarray:
    """(len(pairs),) log-probability of each reference behind its prompt."""
    order = dealt([len(prompt) + len(answer) for prompt, answer in pairs], workers.world_size)
    keys = [f"{PARTITION}_{place}" for place in range(len(order))]
    fields = columns([pairs[number] for number in order])
    lengths = fields["input_ids"].offsets().diff().tolist()
    try:
        tq.kv_batch_put(keys=keys, partition_id=PARTITION, fields=fields, tags=[{"seq_len": n} for n in lengths])
        settings = {"calculate_entropy": False, "compute_loss": False, "temperature": 1.0}
        batch = KVBatchMeta(
            keys=keys,
            tags=[{"seq_len": n} for n in lengths],
            partition_id=PARTITION,
            fields=list(COLUMNS),
            extra_info=settings,
        )
        workers.compute_log_prob(batch)
        data = tq.kv_batch_get(keys=keys, partition_id=PARTITION, select_fields=["log_probs", "response_mask"])
    finally:
        tq.kv_clear(keys=keys, partition_id=PARTITION)
    found = np.zeros(len(pairs))
    parts = response_from_nested(data["log_probs"], data["response_mask"]).unbind()
    for number, part in zip(order, parts, strict=True):
        found[number] = float(part.double().sum())
    return found


def in_place(rows: Sequence[Row], batch: KVBatchMeta, last: str, has_log_probs: bool) -> None:
    """Let the last speaker's rows hold the reference instead of what it said: it is trained on that (`CreditConfig.last_gradient`).

    ``batch``: the rows' keys and tags, whose lengths change. ``has_log_probs``: see `trajectory.RoleOutput.build`.
    """
    pair_of = {
        (row.uid, row.session): (found["prompts"][-1].tobytes(), found["answer"].tobytes())
        for row in rows
        if (found := row.facts["reference"]) is not None
    }
    own = [row for row in rows if row.role == last and row.facts["replay"] is None]
    if not own:
        return
    fields = columns([pair_of[row.uid, row.session] for row in own])
    masks = fields["response_mask"].unbind()
    scores = [torch.zeros(len(mask)) for mask in masks]
    for row, score in zip(own, scores, strict=True):
        score[-1] = row.facts["reward"]
    fields["rm_scores"] = torch.nested.as_nested_tensor(scores, layout=torch.jagged)
    if has_log_probs:
        none = [torch.full((len(mask),), NOT_ASKED) for mask in masks]
        fields["rollout_log_probs"] = torch.nested.as_nested_tensor(none, layout=torch.jagged)
    place, tags = {key: i for i, key in enumerate(batch.keys)}, []
    for row, ids, mask in zip(own, fields["input_ids"].unbind(), masks, strict=True):
        tags.append({**batch.tags[place[row.key]], "seq_len": len(ids), "response_len": len(mask)})
        batch.tags[place[row.key]] = tags[-1]
    tq.kv_batch_put(keys=[row.key for row in own], partition_id=batch.partition_id, fields=fields, tags=tags)


def dealt(lengths: Sequence[int], workers: int) -> list[int]:
    """Numbers of the rows so that equal parts of about equal length go to each worker, the shortest row again where one is missing."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    order += [order[-1]] * (-len(order) % workers)
    return [order[i] for worker in range(workers) for i in range(worker, len(order), workers)]


# ----------------------------------------------------------------------------------------------------- before training


def problems(config: DictConfig, settings: CcpoConfig, tokenizer: Any) -> list[str]:
    """What is wrong with the references of the training rows. ``tokenizer``: of the last speaker."""
    if settings.trains_reference and not own_ratio(config):
        return [
            "ccpo.credit.last_gradient=exact trains on answers that were not sampled, which has a meaning for the first update of a step alone: set "
            "actor_rollout_ref.actor.ppo_mini_batch_size to data.train_batch_size and ppo_epochs=1, without a correction of the rollout, or "
            "last_gradient=sampled"
        ]
    contents = read_files([Path(path) for path in files(config.data.train_files)])
    longest, last = "", settings.plan.order[-1]
    for path, content in contents.items():
        for number, row in enumerate(parquet_rows(content)):
            if why := reference_problem(row, last, settings.reward is not None):
                return [f"data.train_files: {path}, row {number}: {why}"]
            longest = max(longest, row["extra_info"]["reference"], key=len)
    room = min(settings.role(last).max_tokens or config.data.max_response_length, config.data.max_response_length)
    if (need := len(answer_ids(tokenizer, longest))) > room:
        return [
            f"the reference {shown(longest)} takes {need} tokens with its end, and {last} may say {room}: it could never be right; set "
            f"ccpo.roles.{last}.max_tokens or data.max_response_length to {need}, or set another ccpo.credit.rule"
        ]
    return []
