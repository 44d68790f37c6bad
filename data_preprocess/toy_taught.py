"""The embedded model of ``last_digit`` taught something further: what the models made from it have in common. Always the same bits."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from data_preprocess.toy_model import (
    WEIGHTS,
    Encoder,
    Gate,
    Recipe,
    new_optimizer,
    one_seeded_thread,
    train_step,
    write_first_passing,
)

BASE = Path(__file__).with_name("last_digit_model")


def taught(
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    batches: Callable[[Encoder, random.Random], Sequence[Any]],
    rate: Callable[[int, int], float],
) -> LlamaForCausalLM:
    """The embedded model after one step on each batch. The same arguments give the same bits on one machine and torch version.

    Args:
        seed: of torch's generator, and of the one that ``batches`` draws from.
        batches: batches of lessons, from `Encoder.lessons`.
        rate: (step from 0, number of steps) -> learning rate.
    """
    base = Recipe()  # clipping and weight decay are as in its training
    with one_seeded_thread(seed):
        model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        model.train()
        drawn = batches(Encoder(tokenizer), random.Random(seed))
        optimizer = new_optimizer(model, base)
        for step, batch in enumerate(drawn):
            train_step(model, optimizer, batch, base, rate(step, len(drawn)))
    return model.eval()


def warmed(recipe: Any, lowest: float = 0.05) -> Callable[[int, int], float]:
    """The learning rate of `taught`: ``recipe.lr`` after ``recipe.warmup_steps``, then down in a line to the share ``lowest`` of it."""
    return lambda step, steps: recipe.lr * min(1.0, (step + 1) / recipe.warmup_steps) * max(lowest, 1 - step / steps)


def build_taught(
    out: str | Path,
    recipe: Any,
    seed: int,
    facts: Sequence[Any],
    train: Callable[[PreTrainedTokenizerFast, int], LlamaForCausalLM],
    measure: Callable[[LlamaForCausalLM, PreTrainedTokenizerFast], Gate],
) -> dict:
    """Write the model folder ``out`` as `data_preprocess.toy_model.build` does, with the same errors. ``recipe``, ``facts``: see `fingerprint`."""
    return write_first_passing(
        out,
        fingerprint=fingerprint(recipe, seed, facts),
        recipe=recipe,
        first_seed=seed,
        tokenizer=lambda: AutoTokenizer.from_pretrained(BASE),
        train=train,
        measure=measure,
    )


def fingerprint(recipe: Any, seed: int, facts: Sequence[Any]) -> str:
    """Of all that decides the weights: ``recipe``, a dataclass; the seed; torch; the base model; and ``facts``, what the lessons are made of."""
    weights = hashlib.sha256((BASE / WEIGHTS).read_bytes()).hexdigest()
    known = [asdict(recipe), seed, torch.__version__, weights, *facts]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
