"""Build two further voters of the embedded task, a strong and a weak one. Always the same bits.

Each is the embedded model taught its own mistakes; the embedded model itself is the voter between them. Three separate models
and not three personas of one: policies that share weights share what they learn, so nobody could free-ride. A gate measures each
on held-out problems: skills too near to each other would show nothing. Our construction. Models for voting only, not for the dyad.

    python -m data_preprocess.toy_voters --out data/last_digit_voters      writes .../strong and .../weak
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from data_preprocess.toy import draw_problems
from data_preprocess.toy_lessons import UNEQUAL_VOTERS, VOTE, Lesson, Mistakes, vote_messages, vote_reply
from data_preprocess.toy_model import (
    CHAT_TEMPLATE,
    VOTE_TOKENS,
    Encoder,
    accuracy,
    one_seeded_thread,
)
from data_preprocess.toy_taught import build_taught, taught

RANGES = {"strong": (0.65, 0.85), "weak": (0.2, 0.38)}  # of accuracy, around the embedded model's .50


@dataclass(frozen=True)
class VoterRecipe:
    """Everything that decides a voter's weights besides the base model, the seed and the torch version."""

    mistakes: Mistakes
    lowest: float  # accuracy that passes the gate
    highest: float
    steps: int = 80
    lessons: int = 48  # per step
    lr: float = 1e-3


@dataclass(frozen=True)
class VoterNumbers:
    """Accuracy on held-out problems, sampled at temperature 1, and what is wanted."""

    accuracy: float
    lowest: float
    highest: float

    def failures(self) -> list[str]:
        """Why the skill is not as wanted; empty if it is."""
        if self.lowest <= self.accuracy <= self.highest:
            return []
        return [f"accuracy {self.accuracy:.3f} is not within {self.lowest} to {self.highest}"]


def teach(tokenizer: PreTrainedTokenizerFast, recipe: VoterRecipe, seed: int) -> LlamaForCausalLM:
    """The embedded model after ``recipe``. The same arguments give the same bits on one machine and torch version."""

    def batches(encoder: Encoder, rng: random.Random) -> list:
        lessons = [
            Lesson(vote_messages(problem), vote_reply(problem, recipe.mistakes, rng))
            for problem in draw_problems("train", recipe.steps * recipe.lessons, rng)
        ]
        return encoder.lessons(lessons, recipe.lessons)

    return taught(tokenizer, seed, batches, lambda step, steps: recipe.lr)


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: VoterRecipe,
    problem_count: int = 512,
    seed: int = 1,
) -> VoterNumbers:
    """Accuracy on ``problem_count`` held-out problems, the same ones for every voter."""
    problems = draw_problems("test", problem_count, random.Random(0))
    with one_seeded_thread(seed):
        share = accuracy(model, tokenizer, problems, [vote_messages(problem) for problem in problems], VOTE_TOKENS)
    return VoterNumbers(share, recipe.lowest, recipe.highest)


def build(out: str | Path, recipe: VoterRecipe, seed: int = 3) -> dict:
    """Write the model folder ``out`` as `data_preprocess.toy_model.build` does, with the same errors."""
    return build_taught(
        out,
        recipe,
        seed,
        [VOTE.of("voter_0")[frozenset({"question"})], CHAT_TEMPLATE],
        train=lambda tokenizer, seed: teach(tokenizer, recipe, seed),
        measure=lambda model, tokenizer: measure(model, tokenizer, recipe),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Build a strong and a weak voter. No network, no GPU.")
    parser.add_argument("--out", type=Path, required=True, help="where to write strong/ and weak/; complete ones stay")
    parser.add_argument("--seed", type=int, default=3, help="first seed to try")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, mistakes in UNEQUAL_VOTERS.items():
        build(arguments.out / name, VoterRecipe(mistakes, *RANGES[name]), arguments.seed)


if __name__ == "__main__":
    main()
