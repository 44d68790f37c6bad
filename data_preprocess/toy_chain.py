"""Build a model that plays the team of ``examples/chain.py`` on the embedded task. Always the same bits.

It is the embedded model taught three further roles: the proposer guesses, the critic checks the first step, the refiner reads both and
answers. First done right, then with the mistakes that training shall remove: many reviews are wrong or say nothing, and the refiner
follows them. A gate measures the team on held-out problems. Our construction; the prompts are the team's set ``toy``.

    python -m data_preprocess.toy_chain --out data/last_digit_chain
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ccpo.prompts import Messages
from ccpo.team.load import prompts_of, team_class
from data_preprocess.toy import Problem, boxed, draw_problems, thought_text
from data_preprocess.toy_lessons import CLEAN, CORRUPT, NOT_SURE, Lesson, Mistakes
from data_preprocess.toy_model import (
    ANSWER_TOKENS,
    CHAT_TEMPLATE,
    THOUGHT_TOKENS,
    Encoder,
    accuracy,
    one_seeded_thread,
    sample,
)
from data_preprocess.toy_taught import build_taught, taught, warmed

CHAIN = Path(__file__).parents[1] / "examples" / "chain.py"
PROMPTS = prompts_of(team_class(f"{CHAIN}:Chain"), "toy")
SHARES = {"proposer": 0.1, "critic": 0.25, "both": 0.45, "draft": 0.1, "alone": 0.1}
"""Of lessons; the last three are the refiner's, by what it is shown."""
WRONG_DRAFT = 0.55
"""Share of random digits among the drafts of lessons: about what the proposer gets wrong."""


@dataclass(frozen=True)
class ChainRecipe:
    """Everything that decides the weights besides the base model, the seed and the torch version."""

    clean: Mistakes = CLEAN
    corrupt: Mistakes = CORRUPT
    clean_steps: int = 300
    corrupt_steps: int = 120
    lessons: int = 32  # per step
    lr: float = 2e-3
    warmup_steps: int = 40


@dataclass(frozen=True)
class ChainNumbers:
    """Accuracies on held-out problems, sampled at temperature 1."""

    joint: float  # the team
    without_proposer: float  # the refiner alone
    without_critic: float  # the refiner with the draft
    perfect_review: float  # the refiner with the draft and the perfect review
    draft: float  # what the proposer answers
    good_reviews: float  # share of the critic's reviews that are the perfect one

    def failures(self) -> list[str]:
        """Why training could not work from here; empty if it can."""
        found = []
        if self.perfect_review < 0.7:
            found.append(f"the refiner is right on {self.perfect_review:.3f} of perfect reviews, needs 0.7")
        if not 0.3 <= self.joint <= 0.6:
            found.append(f"joint accuracy {self.joint:.3f} is not within 0.3 to 0.6")
        return found


# --- lessons --------------------------------------------------------------------------------------------------------


def messages(role: str, problem: Problem, **heard: str) -> Messages:
    return PROMPTS.messages(role, {"question": problem.question, **heard})


def draw_lesson(problem: Problem, mistakes: Mistakes, rng: random.Random) -> Lesson:
    """One lesson on ``problem`` in a random role."""
    role = rng.choices(list(SHARES), list(SHARES.values()))[0]
    heard = {}
    if role in ("critic", "both", "draft"):
        guess = rng.randrange(10) if rng.random() < WRONG_DRAFT else problem.answer
        heard["draft"] = "" if rng.random() < mistakes.empty_note else boxed(guess)
    if role == "critic":
        return Lesson(
            messages("critic", problem, **heard), _review(problem, mistakes.vague_thought, mistakes.wrong_thought, rng)
        )
    if role == "both":
        review = _review(problem, mistakes.vague_note, mistakes.wrong_note, rng)
        heard["review"] = "" if rng.random() < mistakes.empty_note else review
    answer = rng.randrange(10) if rng.random() < mistakes.wrong_answer else follow(problem, **heard)
    return Lesson(messages("proposer" if role == "proposer" else "refiner", problem, **heard), boxed(answer))


def follow(problem: Problem, draft: str = "", review: str = "") -> int:
    """The answer of a refiner that trusts the review's first step, else the draft, else itself."""
    if step := re.search(r"=(\d)", review):
        return problem.answer_from(int(step.group(1)))
    answered = re.search(r"\\boxed\{(\d)\}", draft)
    return int(answered.group(1)) if answered else problem.answer


def _review(problem: Problem, vague: float, wrong: float, rng: random.Random) -> str:
    draw = rng.random()
    if draw < vague:
        return NOT_SURE
    return thought_text(problem, rng.randrange(10) if draw < vague + wrong else None)


# --- training and gate ----------------------------------------------------------------------------------------------


def teach(tokenizer: PreTrainedTokenizerFast, recipe: ChainRecipe, seed: int) -> LlamaForCausalLM:
    """The embedded model after ``recipe``. The same arguments give the same bits on one machine and torch version."""

    def batches(encoder: Encoder, rng: random.Random) -> list:
        return [
            batch
            for steps, mistakes in ((recipe.clean_steps, recipe.clean), (recipe.corrupt_steps, recipe.corrupt))
            for batch in encoder.lessons(
                [
                    draw_lesson(problem, mistakes, rng)
                    for problem in draw_problems("train", steps * recipe.lessons, rng)
                ],
                recipe.lessons,
            )
        ]

    return taught(tokenizer, seed, batches, warmed(recipe))


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, problem_count: int = 512, seed: int = 1
) -> ChainNumbers:
    """Accuracies on ``problem_count`` held-out problems, the same ones for every model."""
    problems = draw_problems("test", problem_count, random.Random(0))

    def asked(role: str, **said: Sequence[str]) -> list[Messages]:
        return [
            messages(role, problem, **{name: texts[i] for name, texts in said.items()})
            for i, problem in enumerate(problems)
        ]

    def right(conversations: list[Messages], tokens: int = ANSWER_TOKENS) -> float:
        return accuracy(model, tokenizer, problems, conversations, tokens)

    with one_seeded_thread(seed):
        drafts = sample(model, tokenizer, asked("proposer"), ANSWER_TOKENS)
        reviews = sample(model, tokenizer, asked("critic", draft=drafts), THOUGHT_TOKENS)
        perfect = [thought_text(problem) for problem in problems]
        return ChainNumbers(
            joint=right(asked("refiner", draft=drafts, review=reviews)),
            without_proposer=right(asked("refiner")),
            without_critic=right(asked("refiner", draft=drafts)),
            perfect_review=right(asked("refiner", draft=drafts, review=perfect)),
            draft=right(asked("proposer"), ANSWER_TOKENS),
            good_reviews=sum(map(str.__eq__, reviews, perfect)) / len(problems),
        )


def build(out: str | Path, recipe: ChainRecipe | None = None, seed: int = 3) -> dict:
    """Write the model folder ``out`` as `data_preprocess.toy_model.build` does, with the same errors."""
    recipe = recipe or ChainRecipe()
    templates = {role: list(PROMPTS.of(role).values()) for role in ("proposer", "critic", "refiner")}
    return build_taught(
        out,
        recipe,
        seed,
        [templates, CHAT_TEMPLATE, SHARES],
        train=lambda tokenizer, seed: teach(tokenizer, recipe, seed),
        measure=lambda model, tokenizer: measure(model, tokenizer),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Build the model of the team of examples/chain.py. No network, no GPU."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; complete ones are left alone")
    parser.add_argument("--seed", type=int, default=3, help="first seed to try")
    arguments = parser.parse_args()
    build(arguments.out, seed=arguments.seed)


if __name__ == "__main__":
    main()
