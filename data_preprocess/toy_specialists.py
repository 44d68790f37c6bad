"""Build five voters of the embedded task of whom each knows a fifth of the questions. Always the same bits.

Voter i knows the questions whose last digit shown is 2i or 2i + 1; of the others it guesses half, and abstains from the other half. So one voter
knows every question, and the guesses of the others may outvote it. Separate models: voters who share weights would share what they know. A
gate measures each on held-out problems. Our construction.

    python -m data_preprocess.toy_specialists --out data/specialists      writes .../voter_0 to .../voter_4
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ccpo.verifier import verify
from data_preprocess.toy import Problem, boxed, draw_problems
from data_preprocess.toy_lessons import NOT_SURE, UNEQUAL_VOTERS, VOTE, Lesson, Mistakes, vote_messages, vote_reply
from data_preprocess.toy_model import CHAT_TEMPLATE, VOTE_TOKENS, Encoder, one_seeded_thread, sample
from data_preprocess.toy_taught import build_taught, taught, warmed

VOTERS = 5


@dataclass(frozen=True)
class SpecialistRecipe:
    """Everything that decides a voter's weights besides the base model, the seed and the torch version. voter: 0 to 4."""

    voter: int
    known: Mistakes = UNEQUAL_VOTERS["strong"]
    abstains: float = 0.5  # share of the lessons on questions that it does not know
    steps: int = 400
    lessons: int = 48  # per step
    lr: float = 2e-3
    warmup_steps: int = 10


@dataclass(frozen=True)
class SpecialistNumbers:
    """Sampled at temperature 1: shares of right ballots, and of abstentions from questions that it does not know."""

    known: float
    unknown: float
    abstains: float

    def failures(self) -> list[str]:
        """Why it is no specialist; empty if it is."""
        found = []
        if self.known < 0.6:
            found.append(f"it is right on {self.known:.3f} of the questions that it knows, needs 0.6")
        if self.unknown > 0.3:
            found.append(f"it is right on {self.unknown:.3f} of those that it does not know, needs at most 0.3")
        if not 0.3 <= self.abstains <= 0.7:
            found.append(
                f"it abstains from {self.abstains:.3f} of those, not 0.3 to 0.7: one of the two would never be tried"
            )
        return found


def knows(voter: int, problem: Problem) -> bool:
    return problem.digits[-1] // 2 == voter


def draw_lesson(problem: Problem, recipe: SpecialistRecipe, rng: random.Random) -> Lesson:
    if knows(recipe.voter, problem):
        return Lesson(vote_messages(problem), vote_reply(problem, recipe.known, rng))
    silent = rng.random() < recipe.abstains
    return Lesson(vote_messages(problem), NOT_SURE if silent else boxed(rng.randrange(10)))


def teach(tokenizer: PreTrainedTokenizerFast, recipe: SpecialistRecipe, seed: int) -> LlamaForCausalLM:
    """The embedded model after ``recipe``. The same arguments give the same bits on one machine and torch version."""

    def batches(encoder: Encoder, rng: random.Random) -> list:
        count = recipe.steps * recipe.lessons
        drawn = draw_problems("train", 3 * count, rng)
        mine = [problem for problem in drawn if knows(recipe.voter, problem)]
        lessons = [  # half of each: a fifth would be little to keep what is known
            draw_lesson(rng.choice(mine) if rng.random() < 0.5 else problem, recipe, rng) for problem in drawn[:count]
        ]
        return encoder.lessons(lessons, recipe.lessons)

    return taught(tokenizer, seed, batches, warmed(recipe))


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: SpecialistRecipe,
    problem_count: int = 731,
    seed: int = 1,
) -> SpecialistNumbers:
    """On ``problem_count`` held-out problems, the same ones for every voter."""
    problems = draw_problems("test", problem_count, random.Random(0))
    with one_seeded_thread(seed):
        replies = sample(model, tokenizer, [vote_messages(problem) for problem in problems], VOTE_TOKENS)
    verdicts = [verify(reply, str(problem.answer)) for reply, problem in zip(replies, problems, strict=True)]
    right, silent = {True: [], False: []}, []
    for verdict, problem in zip(verdicts, problems, strict=True):
        known = knows(recipe.voter, problem)
        if verdict.answer is not None:
            right[known].append(verdict.reward)
        if not known:
            silent.append(verdict.answer is None)
    shares = {known: sum(values) / max(1, len(values)) for known, values in right.items()}
    return SpecialistNumbers(shares[True], shares[False], sum(silent) / max(1, len(silent)))


def build(out: str | Path, recipe: SpecialistRecipe, seed: int = 3) -> dict:
    """Write the model folder ``out`` as `data_preprocess.toy_model.build` does, with the same errors."""
    return build_taught(
        out,
        recipe,
        seed,
        [VOTE.of("voter_0")[frozenset({"question"})], CHAT_TEMPLATE, NOT_SURE],
        train=lambda tokenizer, seed: teach(tokenizer, recipe, seed),
        measure=lambda model, tokenizer: measure(model, tokenizer, recipe),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Build five voters who each know a fifth of the questions. No network, no GPU."
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="where to write voter_0/ to voter_4/; complete ones stay"
    )
    parser.add_argument("--seed", type=int, default=3, help="first seed to try")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for voter in range(VOTERS):
        build(arguments.out / f"voter_{voter}", SpecialistRecipe(voter), arguments.seed)


if __name__ == "__main__":
    main()
