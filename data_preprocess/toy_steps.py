"""Build a dyad of the embedded task whose Reason writes a step before its answer. Always the same bits.

It is the embedded model with another habit: what Reason is asked stays, and it answers ``7*5=5, \\boxed{5}`` where it answered ``\\boxed{5}``. So a
thought's worth passes through a chain that is sampled. First done right, then with the mistakes that training shall remove: thoughts that say
nothing or are wrong, steps that are wrong, answers that are not the step's. A gate measures the team on held-out problems. Our construction, for
credit behind a chain (docs/method.md).

    python -m data_preprocess.toy_steps --out data/last_digit_steps
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from data_preprocess.toy import Problem, boxed, draw_problems, thought_text
from data_preprocess.toy_lessons import (
    CLEAN,
    CORRUPT,
    DYAD,
    NOT_SURE,
    Lesson,
    Mistakes,
    reason_messages,
    solo_messages,
    think_messages,
)
from data_preprocess.toy_model import CHAT_TEMPLATE, THOUGHT_TOKENS, Encoder, accuracy, one_seeded_thread, sample
from data_preprocess.toy_taught import build_taught, taught, warmed

STEP_TOKENS = 12
"""Of ``7*5=5, \\boxed{5}`` with its end, and a few to spare."""
SEED = 5  # 3 and 4 fail the gate: how much a perfect thought is worth varies
SHARES = {"think": 0.25, "reason": 0.6, "solo": 0.15}
WRONG_STEP = 0.25
"""Share of steps with a random digit as their result, where mistakes are taught."""


@dataclass(frozen=True)
class StepsRecipe:
    """Everything that decides the weights besides the base model, the seed and the torch version."""

    clean: Mistakes = CLEAN
    corrupt: Mistakes = replace(CORRUPT, wrong_answer=0.3)  # of the answer behind the step
    clean_steps: int = 300
    corrupt_steps: int = 120
    lessons: int = 32  # per step
    lr: float = 2e-3
    warmup_steps: int = 40


@dataclass(frozen=True)
class StepsNumbers:
    """Accuracies on held-out problems, sampled at temperature 1."""

    joint: float  # Reason with Think's thought
    solo: float  # Reason without
    perfect_thought: float  # Reason with the perfect thought
    steps: float  # share of Reason's turns that hold a step

    def failures(self) -> list[str]:
        """Why training could not work from here; empty if it can."""
        found = []
        if self.steps < 0.7:
            found.append(f"Reason writes a step in {self.steps:.3f} of its turns, needs 0.7")
        if not 0.25 <= self.joint <= 0.6:
            found.append(f"joint accuracy {self.joint:.3f} is not within 0.25 to 0.6")
        if self.perfect_thought < self.joint + 0.1:
            found.append(
                f"a perfect thought is worth {self.perfect_thought:.3f}, the team {self.joint:.3f}: nothing to learn"
            )
        return found


def draw_lesson(problem: Problem, mistakes: Mistakes, wrong_step: float, rng: random.Random) -> Lesson:
    """One lesson on ``problem`` in a random role."""
    role = rng.choices(list(SHARES), list(SHARES.values()))[0]
    vague, wrong = mistakes.vague_thought, mistakes.wrong_thought
    if role == "reason":
        vague, wrong = mistakes.vague_note, mistakes.wrong_note
    draw, claimed = rng.random(), problem.first_result
    if role != "solo" and problem.level > 1 and vague <= draw < vague + wrong:
        claimed = rng.randrange(10)
    thought = NOT_SURE if draw < vague else thought_text(problem, claimed)
    if role == "think":
        return Lesson(think_messages(problem), thought)
    result = problem.answer_from(claimed)
    if rng.random() < wrong_step:
        result = rng.randrange(10)
    answer = rng.randrange(10) if rng.random() < mistakes.wrong_answer else result
    reply = f"{step_text(problem, claimed, result)}{boxed(answer)}"
    return Lesson(solo_messages(problem) if role == "solo" else reason_messages(problem, thought), reply)


def step_text(problem: Problem, first_result: int, result: int) -> str:
    """The last operation, on the result of the first; nothing where there is only one."""
    return "" if problem.level == 1 else f"{first_result}{problem.operators[1]}{problem.digits[2]}={result}, "


def teach(tokenizer: PreTrainedTokenizerFast, recipe: StepsRecipe, seed: int) -> LlamaForCausalLM:
    """The embedded model after ``recipe``. The same arguments give the same bits on one machine and torch version."""
    phases = ((recipe.clean_steps, recipe.clean, 0.0), (recipe.corrupt_steps, recipe.corrupt, WRONG_STEP))

    def batches(encoder: Encoder, rng: random.Random) -> list:
        return [
            batch
            for steps, mistakes, wrong_step in phases
            for batch in encoder.lessons(
                [
                    draw_lesson(problem, mistakes, wrong_step, rng)
                    for problem in draw_problems("train", steps * recipe.lessons, rng)
                ],
                recipe.lessons,
            )
        ]

    return taught(tokenizer, seed, batches, warmed(recipe))


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, problem_count: int = 512, seed: int = 1
) -> StepsNumbers:
    """Accuracies on ``problem_count`` held-out problems, the same ones for every model."""
    problems = draw_problems("test", problem_count, random.Random(0))

    def right(conversations: list) -> float:
        return accuracy(model, tokenizer, problems, conversations, STEP_TOKENS)

    with one_seeded_thread(seed):
        thoughts = sample(model, tokenizer, list(map(think_messages, problems)), THOUGHT_TOKENS)
        asked = list(map(reason_messages, problems, thoughts))
        said = sample(model, tokenizer, asked, STEP_TOKENS)
        return StepsNumbers(
            joint=right(asked),
            solo=right(list(map(solo_messages, problems))),
            perfect_thought=right([reason_messages(problem, thought_text(problem)) for problem in problems]),
            steps=sum("=" in text and "\\boxed" in text for text in said) / len(said),
        )


def build(out: str | Path, recipe: StepsRecipe | None = None, seed: int = SEED) -> dict:
    """Write the model folder ``out`` as `data_preprocess.toy_model.build` does, with the same errors."""
    recipe = recipe or StepsRecipe()
    templates = {role: list(DYAD.of(role).values()) for role in ("think", "reason")}
    return build_taught(
        out,
        recipe,
        seed,
        [templates, CHAT_TEMPLATE, SHARES, WRONG_STEP],
        train=lambda tokenizer, seed: teach(tokenizer, recipe, seed),
        measure=lambda model, tokenizer: measure(model, tokenizer),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Build the dyad whose Reason writes a step before its answer. No network, no GPU."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; complete ones are left alone")
    parser.add_argument("--seed", type=int, default=SEED, help="first seed to try")
    arguments = parser.parse_args()
    build(arguments.out, seed=arguments.seed)


if __name__ == "__main__":
    main()
