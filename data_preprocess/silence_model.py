"""Build the voter of the embedded task ``silence``: the embedded model of ``last_digit``, taught when it may say nothing. Always the same bits.

It learns to vote on clean copies, and on a smudged one either to abstain, with a word of its own for each mark, or to answer as if the digit were
right. Half of each: both are tried from the first step on, and training finds out which pays. A gate measures it on held-out problems. One number
decides whether anything can be learned: a voter that does not tell the two marks apart cannot treat them apart, whatever credit it gets. It
shows in the words of its abstentions. Our construction.

    python -m data_preprocess.silence_model --out data/silence/model
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ccpo.prompts import Messages
from ccpo.verifier import verify
from data_preprocess.silence import KINDS, Copy, smudged
from data_preprocess.toy import Problem, draw_problems
from data_preprocess.toy_lessons import CLEAN, CORRUPT, NOT_SURE, VOTE, Lesson, Mistakes, vote_reply
from data_preprocess.toy_model import (
    CHAT_TEMPLATE,
    VOTE_TOKENS,
    Encoder,
    Recipe,
    one_seeded_thread,
    sample,
)
from data_preprocess.toy_taught import build_taught, taught

WORDS = {"~": NOT_SURE, "^": "Pass."}
"""Mark -> what an abstention says."""
DEFAULT_SEED = 0

SURE = replace(CLEAN, vote_guesses=0.1)
UNSURE = replace(CORRUPT, vote_abstains=0.06, vote_guesses=0.1, vote_wrong_step=0.05, vote_wrong_answer=0.03)
"""Mistakes of a voter with a clean copy, in the first lessons and in the last."""


@dataclass(frozen=True)
class SilenceRecipe:
    """Everything that decides the weights besides the base model, the seed and the torch version."""

    clean_steps: int = 300
    last_steps: int = 100
    lessons: int = 48  # per step
    lr: float = 2e-3
    smudged: float = 0.5  # share of lessons on a smudged copy
    abstains: float = 0.5  # share of those that say nothing
    clean: Mistakes = SURE
    last: Mistakes = UNSURE


@dataclass(frozen=True)
class SilenceNumbers:
    """Sampled at temperature 1 on held-out problems."""

    clean_right: float  # ballots on clean copies: share that is right
    abstains: dict[str, float]  # mark -> share of smudged copies
    own_word: dict[str, float]  # mark -> share of its abstentions that use its own word

    def failures(self) -> list[str]:
        """Why training could not work from here; empty if it can."""
        found = []
        if self.clean_right < 0.75:
            found.append(
                f"a voter is right on {self.clean_right:.3f} of clean copies, needs 0.75: from .50 on nobody learned to be silent"
            )
        for mark, share in self.abstains.items():
            if not 0.3 <= share <= 0.7:
                found.append(
                    f"it abstains on {share:.3f} of the copies marked {mark}, not 0.3 to 0.7: one of the two would never be tried"
                )
        for mark, share in self.own_word.items():
            if share < 0.9:
                found.append(
                    f"{share:.3f} of the abstentions on {mark} use its word, needs 0.9: it does not tell the marks apart"
                )
        return found


def messages(copy: Copy) -> Messages:
    return VOTE.messages("voter_0", {"question": copy.question})


def draw_lesson(problem: Problem, recipe: SilenceRecipe, mistakes: Mistakes, rng: random.Random) -> Lesson:
    """A lesson on a copy of ``problem``, clean or with either mark."""
    if rng.random() >= recipe.smudged:
        return Lesson(messages(Copy(problem)), vote_reply(problem, mistakes, rng))
    mark = rng.choice(list(WORDS))
    copy = smudged(problem, mark, 0.4, rng)
    if rng.random() < recipe.abstains:
        return Lesson(messages(copy), WORDS[mark])
    return Lesson(messages(copy), vote_reply(copy.problem, replace(mistakes, vote_abstains=0.0), rng))


def teach(tokenizer: PreTrainedTokenizerFast, recipe: SilenceRecipe, seed: int) -> LlamaForCausalLM:
    """The embedded model after ``recipe``. The same arguments give the same bits on one machine and torch version."""
    warmup = Recipe().warmup_steps

    def batches(encoder: Encoder, rng: random.Random) -> list:
        lessons = [
            draw_lesson(problem, recipe, mistakes, rng)
            for steps, mistakes in ((recipe.clean_steps, recipe.clean), (recipe.last_steps, recipe.last))
            for problem in draw_problems("train", steps * recipe.lessons, rng)
        ]
        return encoder.lessons(lessons, recipe.lessons)

    def rate(step: int, steps: int) -> float:
        warm, decay = min(1.0, (step + 1) / warmup), max(0.05, 1 - step / steps)
        return recipe.lr * warm * decay

    return taught(tokenizer, seed, batches, rate)


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, problem_count: int = 512, seed: int = 1
) -> SilenceNumbers:
    """On ``problem_count`` held-out problems, the same ones for every model: a clean copy and one with each mark."""
    rng = random.Random(0)
    problems = draw_problems("test", problem_count, rng)
    with one_seeded_thread(seed):
        replies = sample(model, tokenizer, [messages(Copy(problem)) for problem in problems], VOTE_TOKENS)
        verdicts = [verify(reply, str(problem.answer)) for reply, problem in zip(replies, problems, strict=True)]
        spoken = [verdict.reward for verdict in verdicts if verdict.answer is not None]
        abstains, own_word = {}, {}
        for kind in KINDS.values():
            copies = [smudged(problem, kind.mark, kind.right, rng) for problem in problems]
            replies = sample(model, tokenizer, list(map(messages, copies)), VOTE_TOKENS)
            silent = Counter(reply for reply in replies if verify(reply, "0").answer is None)
            abstains[kind.mark] = silent.total() / len(replies)
            own_word[kind.mark] = silent[WORDS[kind.mark]] / max(1, silent.total())
    return SilenceNumbers(sum(spoken) / max(1, len(spoken)), abstains, own_word)


def build(out: str | Path, recipe: SilenceRecipe | None = None, seed: int = DEFAULT_SEED) -> dict:
    """Write the model folder ``out`` as `data_preprocess.toy_model.build` does, with the same errors."""
    recipe = recipe or SilenceRecipe()
    return build_taught(
        out,
        recipe,
        seed,
        facts(),
        train=lambda tokenizer, seed: teach(tokenizer, recipe, seed),
        measure=lambda model, tokenizer: measure(model, tokenizer),
    )


def facts() -> list:
    """What the lessons are made of besides the recipe."""
    kinds = {name: asdict(kind) for name, kind in KINDS.items()}
    return [VOTE.of("voter_0")[frozenset({"question"})], CHAT_TEMPLATE, WORDS, kinds]


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the model of the embedded task silence. No network, no GPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; complete ones are left alone")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="first seed to try")
    arguments = parser.parse_args()
    build(arguments.out, seed=arguments.seed)


if __name__ == "__main__":
    main()
