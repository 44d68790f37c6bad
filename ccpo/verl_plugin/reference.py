"""How likely the last speaker finds the reference answers: what `ccpo.credit.likelihood` reads, from one forward pass of the actor of its own.

The agent loop makes the prompts that the last speaker is asked in each cut run (`Played.cuts`), and with ``reference_after=chain`` its prompt
with the chain that it wrote (`ccpo.reference.behind`); before credit the trainer puts every distinct (prompt, answer) once into the queue, in a
partition of their own, lets the actor compute log-probabilities, adds them up over the answer's tokens, and clears the partition.

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
from ccpo.reference import Behind, answer_ids, border_problem, reference_problem
from ccpo.verl_plugin.dataset import files
from ccpo.verl_plugin.rows import Row
from ccpo.verl_plugin.update import NOT_ASKED, own_ratio

PARTITION = "reference"
COLUMNS = ["input_ids", "position_ids", "loss_mask", "response_mask", "prompts", "responses"]

Pair = tuple[bytes, bytes]
"""Token ids of what was read, and of the answer to score there."""


# ------------------------------------------------------------------------------------------------- in the agent loop


def facts(
    prompts: Sequence[Sequence[int]], answer: Sequence[int], chain: Sequence[int] = (), border: Behind | None = None
) -> dict[str, Any]:
    """What a session's first row carries: 4 bytes a token.

    Args:
        prompts: what the last speaker would be asked before each turn. answer: the reference's tokens.
        chain: what the last speaker read and said, up to the ``border``; None: it has none, or nobody asked.
    """
    return {
        "prompts": [_ids(ids) for ids in prompts],
        "answer": _ids(answer),
        "behind": border
        and {"chain": _ids(chain), "answer": _ids(border.answer), "length": border.length, "said": border.said},
    }


def _ids(ids: Sequence[int]) -> np.ndarray:
    return np.asarray(ids, dtype=np.int32)


# ------------------------------------------------------------------------------------------------------ in the trainer


def distinct(rows: Sequence[Row]) -> tuple[list[Pair], np.ndarray, np.ndarray]:
    """(each pair once, in the rows' order; (T,) which of them belongs to each turn of the sessions, (S,) which is behind the chain, -1: none)."""
    number: dict[Pair, int] = {}
    of_T, of_S = [], []

    def place(ids: np.ndarray, answer: np.ndarray) -> int:
        return number.setdefault((ids.tobytes(), answer.tobytes()), len(number))

    for found in _found(rows):
        of_T += [place(prompt, found["answer"]) for prompt in found["prompts"]]
        behind = found["behind"]
        of_S.append(-1 if behind is None else place(behind["chain"], behind["answer"]))
    return list(number), np.array(of_T, dtype=np.int64), np.array(of_S, dtype=np.int64)


def _found(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [found for row in rows if (found := row.facts["reference"]) is not None]


def likelihoods(rows: Sequence[Row], workers: Any) -> tuple[dict[str, np.ndarray], int]:
    """(what `Sessions` are told of the rows' sessions: ``likelihood_T``, ``behind_S``, ``said_S``; how many pairs were scored).

    ``workers``: the worker group of the last speaker's policy. Raises ValueError where it says no number: behind a chain it would be taken for
    "no border", and be the advantage of the answer's tokens.
    """
    pairs, of_T, of_S = distinct(rows)
    scores = np.exp(np.minimum(_log_likelihoods(pairs, workers), 0.0)) if pairs else np.zeros(0)
    if bad := np.flatnonzero(np.isnan(scores)).tolist():
        raise ValueError(
            f"{len(bad)} of {len(scores)} likelihoods of reference answers are not numbers: the last speaker's weights are damaged"
        )
    said_S = [found["behind"] is not None and found["behind"]["said"] for found in _found(rows)]
    told = {
        "likelihood_T": scores[of_T],
        "behind_S": np.append(scores, np.nan)[of_S],
        "said_S": np.array(said_S, dtype=bool),
    }
    return told, len(pairs)


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
    longest, last, every = "", settings.plan.order[-1], []
    for path, content in contents.items():
        for number, row in enumerate(parquet_rows(content)):
            if why := reference_problem(row, last, settings.reward is not None, settings.reads_chain):
                return [f"data.train_files: {path}, row {number}: {why}"]
            every.append(row["extra_info"]["reference"])
            longest = max(longest, every[-1], key=len)
    if settings.reads_chain and (why := border_problem(tokenizer, every, last)):
        return [why]
    room = min(settings.role(last).max_tokens or config.data.max_response_length, config.data.max_response_length)
    if (need := len(answer_ids(tokenizer, longest))) > room:
        return [
            f"the reference {shown(longest)} takes {need} tokens with its end, and {last} may say {room}: it could never be right; set "
            f"ccpo.roles.{last}.max_tokens or data.max_response_length to {need}, or set another ccpo.credit.rule"
        ]
    return []
