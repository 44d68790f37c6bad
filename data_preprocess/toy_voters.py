"""Build the model of three voters of unequal skill: the embedded model, taught one persona for each. Always the same bits.

One policy plays all voters; the persona in the system message tells it whose mistakes to make. A gate measures every voter
on held-out problems: skills too near to each other, or a weak voter with nothing to say, would show nothing. Our
construction. The model has only these voters' lessons: it is not for the dyad.

    python -m data_preprocess.toy_voters --out data/last_digit_voters
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from ccpo.prompts import VOTE
from data_preprocess.toy import draw_problems
from data_preprocess.toy_lessons import VOTERS, Lesson, Mistakes, vote_messages, vote_reply
from data_preprocess.toy_model import (
    CHAT_TEMPLATE,
    VOTE_TOKENS,
    WEIGHTS,
    Encoder,
    Recipe,
    accuracy,
    new_optimizer,
    one_seeded_thread,
    train_step,
    write_first_passing,
)

BASE = Path(__file__).with_name("last_digit_model")
RANGES = ((0.65, 0.85), (0.42, 0.6), (0.25, 0.41))  # of the voters' accuracies, strongest first


@dataclass(frozen=True)
class VoterRecipe:
    """Everything that decides the weights besides the base model, the seed and the torch version."""

    steps: int = 150
    lessons: int = 16  # per voter and step
    lr: float = 1e-3  # falls linearly to nothing
    voters: dict[str, Mistakes] = field(default_factory=lambda: dict(VOTERS))


@dataclass(frozen=True)
class VoterNumbers:
    """Accuracy of every persona on held-out problems, sampled at temperature 1."""

    accuracy: dict[str, float]

    def failures(self) -> list[str]:
        """Whose skill is not as wanted; empty if all are."""
        return [
            f"{persona!r} has accuracy {value:.3f}, not within {low} to {high}"
            for (persona, value), (low, high) in zip(self.accuracy.items(), RANGES, strict=True)
            if not low <= value <= high
        ]


def teach_voters(tokenizer: PreTrainedTokenizerFast, recipe: VoterRecipe, seed: int) -> LlamaForCausalLM:
    """The embedded model after ``recipe``. The same arguments give the same bits on one machine and torch version."""
    base = Recipe()  # clipping and weight decay are as in its training
    with one_seeded_thread(seed):
        model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        model.train()
        encoder, rng = Encoder(tokenizer), random.Random(seed)
        personas = list(recipe.voters) * (recipe.steps * recipe.lessons)
        lessons = [
            Lesson(vote_messages(problem, persona), vote_reply(problem, recipe.voters[persona], rng))
            for persona, problem in zip(personas, draw_problems("train", len(personas), rng), strict=True)
        ]
        batches = encoder.lessons(lessons, recipe.lessons * len(recipe.voters))
        optimizer = new_optimizer(model, base)
        for step, batch in enumerate(batches):
            train_step(model, optimizer, batch, base, recipe.lr * (1 - step / len(batches)))
    return model.eval()


def measure_voters(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    personas: tuple[str, ...] = tuple(VOTERS),
    problem_count: int = 512,
    seed: int = 1,
) -> VoterNumbers:
    """Accuracies on ``problem_count`` held-out problems, the same ones for every voter and model."""
    problems = draw_problems("test", problem_count, random.Random(0))
    with one_seeded_thread(seed):
        return VoterNumbers(
            {
                persona: accuracy(
                    model, tokenizer, problems, [vote_messages(problem, persona) for problem in problems], VOTE_TOKENS
                )
                for persona in personas
            }
        )


def build(out: str | Path, seed: int = 0, recipe: VoterRecipe | None = None) -> dict:
    """Write the model folder ``out`` as `data_preprocess.toy_model.build` does, with the same errors."""
    recipe = recipe or VoterRecipe()
    return write_first_passing(
        out,
        fingerprint=_fingerprint(recipe, seed),
        recipe=recipe,
        first_seed=seed,
        tokenizer=lambda: AutoTokenizer.from_pretrained(BASE),
        train=lambda tokenizer, seed: teach_voters(tokenizer, recipe, seed),
        measure=lambda model, tokenizer: measure_voters(model, tokenizer, tuple(recipe.voters)),
    )


def _fingerprint(recipe: VoterRecipe, seed: int) -> str:
    weights = hashlib.sha256((BASE / WEIGHTS).read_bytes()).hexdigest()
    facts = [asdict(recipe), seed, torch.__version__, weights, VOTE["toy"].vote, CHAT_TEMPLATE]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Build three voters of unequal skill. No network, no GPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; complete ones are left alone")
    parser.add_argument("--seed", type=int, default=0, help="first seed to try")
    arguments = parser.parse_args()
    build(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
