"""Likelihoods of reference answers by our worker, alone in a process on the CPU, with a queue of dictionaries: prints them as JSON.

Not a test itself.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from types import SimpleNamespace

from worker_alone import Alone, nested  # isort: skip  (it sets up the environment)

import torch
from tensordict import TensorDict
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.utils import tensordict_utils as tu

from ccpo import reference as of_reference
from ccpo.verl_plugin import reference
from data_preprocess.toy import draw_problems
from data_preprocess.toy_lessons import reason_messages, solo_messages


class Queue:
    """What `reference` uses of TransferQueue."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict] = {}
        self.most = 0

    def kv_batch_put(self, keys, partition_id, fields, tags):
        for i, key in enumerate(keys):
            self.rows[partition_id, key] = {name: fields[name].unbind()[i] for name in fields.keys()}
        self.most = max(self.most, len(self.rows))

    def kv_batch_get(self, keys, partition_id, select_fields):
        found = [self.rows[partition_id, key] for key in keys]
        return TensorDict({name: nested([row[name] for row in found]) for name in select_fields}, batch_size=len(keys))

    def kv_clear(self, keys, partition_id):
        for key in keys:
            del self.rows[partition_id, key]


@dataclass
class Workers:
    """Our worker as the trainer calls it, in one process that stands for ``world_size``."""

    alone: Alone
    queue: Queue
    world_size: int

    def compute_log_prob(self, batch):
        rows = self.queue.kv_batch_get(batch.keys, batch.partition_id, batch.fields)
        for part, keys in zip(rows.chunk(self.world_size), chunks(batch.keys, self.world_size), strict=True):
            part = TensorDict({name: nested(part[name].unbind()) for name in part.keys()}, batch_size=len(keys))
            for name, value in batch.extra_info.items():
                tu.assign_non_tensor_data(part, name, value)
            out = self.alone.worker.compute_log_prob(part)
            for key, values in zip(keys, out["log_probs"].unbind(), strict=True):
                self.queue.rows[batch.partition_id, key]["log_probs"] = values


def chunks(items, count):
    size = len(items) // count
    return [items[i * size : (i + 1) * size] for i in range(count)]


def main(world_size: int) -> dict:
    alone, queue = Alone(), Queue()
    reference.tq = queue
    path = str(alone.config.actor_rollout_ref.model.path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    rows, plain = [], []
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def exact(prompt, answer) -> float:
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        return float(torch.log_softmax(logits.double(), -1)[range(len(answer)), answer].sum().exp())

    behind = []
    for problem in draw_problems("train", 5, random.Random(3)):
        text = f"\\boxed{{{problem.answer}}}"
        answer = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.convert_tokens_to_ids("<|im_end|>")]
        for thought in ("Not sure.", "1+1=2", "Not sure."):  # twice the same: scored once
            prompts = [
                tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
                for messages in (solo_messages(problem), reason_messages(problem, thought))
            ]
            said = tokenizer.encode(f"{thought}, {text}" if "=" in thought else thought, add_special_tokens=False)
            border = of_reference.behind(tokenizer, text, said, 16)
            chain = [*prompts[1], *said[: border.length]] if border else ()
            facts = reference.facts(prompts, reference.answer_ids(tokenizer, text), chain, border)
            behind.append(exact(chain, border.answer) if border else None)
            rows.append(SimpleNamespace(facts={"reference": facts}))
            rows.append(SimpleNamespace(facts={"reference": None}))
            plain += [exact(prompt, answer) for prompt in prompts]
    told, scored = reference.likelihoods(rows, Workers(alone, queue, world_size))
    found = told["likelihood_T"]
    assert told["said_S"].tolist() == [value is not None for value in behind]
    told_behind = [None if value != value else value for value in told["behind_S"].tolist()]
    return {
        "found": found.tolist(),
        "plain": plain,
        "behind": told_behind,
        "plain_behind": behind,
        "scored": scored,
        "left": len(queue.rows),
        "most": queue.most,
    }


if __name__ == "__main__":
    print("RESULT " + json.dumps([main(int(size)) for size in sys.argv[1:]]))
