"""Build starts of the dyad in which one thing is out of the ordinary: who errs, how long a thought is, how an answer is spelled. Always the same bits.

Each is the embedded model of ``last_digit`` taught further, in the roles of the dyad alone. A gate measures every role on held-out problems, so
that "lazy" is a number; it stands in the folder's manifest. Our construction.

    python -m data_preprocess.toy_starts --out data/starts          writes .../noisy_reason, .../lazy_think, ...
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ccpo.prompts import Messages
from ccpo.verifier import verify
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
from data_preprocess.toy_model import ANSWER_TOKENS, CHAT_TEMPLATE, one_seeded_thread, sample
from data_preprocess.toy_taught import build_taught, taught, warmed

LONG = "I begin with what the brackets hold: "
"""What a long thought says first: words that the tokenizer spells letter by letter."""
LONGEST_THOUGHT = 56
"""Room for a long thought, in tokens."""
SPELLINGS: dict[str, Callable[[int], str]] = {
    "plain": boxed,
    "decimal": lambda digit: f"\\boxed{{{digit}.0}}",
    "fraction": lambda digit: f"\\boxed{{{digit}/1}}",
    "sum": lambda digit: f"\\boxed{{{digit}+0}}",
}
"""Of one answer: the verifier finds all of them right, the data's reference is the first."""


@dataclass(frozen=True)
class StartRecipe:
    """Everything that decides a start's weights besides the base model, the seed and the torch version.

    mistakes: what Think says, and what Reason is shown and does.
    opening: what every thought says first. spelling: ``plain``; ``any``: one of `SPELLINGS`, whatever was said; ``told``: as a decimal where
    the thought names a step, plain elsewhere. wanted: name of a number -> the lowest and the highest that pass.
    """

    wanted: Mapping[str, tuple[float, float]]
    mistakes: Mistakes = CORRUPT
    opening: str = ""
    spelling: str = "plain"
    clean_steps: int = 0  # first, with the mistakes of `CLEAN`
    steps: int = 100
    lessons: int = 48  # per step
    lr: float = 1e-3
    warmup_steps: int = 10


_USABLE = {"perfect_thought": (0.7, 1.0)}
"""A Reason that does not follow a right thought can teach Think nothing."""
STARTS: dict[str, StartRecipe] = {
    "noisy_reason": StartRecipe(
        {"perfect_thought": (0.4, 0.65), "joint": (0.2, 0.4)},
        replace(CORRUPT, wrong_answer=0.5),
    ),
    "lazy_think": StartRecipe(
        _USABLE | {"vague_thoughts": (0.85, 0.97), "good_thoughts": (0.02, 0.12)},
        replace(CORRUPT, vague_thought=0.91, wrong_thought=0.04),
    ),
    "misleading_think": StartRecipe(
        _USABLE | {"wrong_thoughts": (0.5, 0.75), "vague_thoughts": (0.02, 0.15)},
        replace(CORRUPT, vague_thought=0.08, wrong_thought=0.85),
    ),
    "long_thoughts": StartRecipe(
        _USABLE | {"thought_tokens": (30.0, 48.0), "thought_over_answer": (7.5, 9.5)},
        opening=LONG,
        clean_steps=300,
        lr=2e-3,
    ),
    "many_spellings": StartRecipe(
        _USABLE | {"plain_when_told": (0.15, 0.35), "plain_alone": (0.15, 0.35)},
        spelling="any",
        clean_steps=100,
    ),
    "spelling_by_thought": StartRecipe(
        _USABLE | {"plain_when_told": (0.0, 0.1), "plain_alone": (0.9, 1.0)},
        spelling="told",
        clean_steps=100,
    ),
}


@dataclass(frozen=True)
class StartNumbers:
    """On held-out problems, sampled at temperature 1; ``wanted``: see `StartRecipe`.

    joint: right with Think's thought; solo: without; perfect_thought: with the perfect one. good_thoughts, vague_thoughts, wrong_thoughts: shares of
    Think's: the perfect one, "Not sure.", the rest. thought_tokens, answer_tokens: means, with the end token. plain_when_told, plain_alone: share
    of the right answers, after the perfect thought to a problem of two steps and without any, that are spelled as the reference.
    """

    joint: float
    solo: float
    perfect_thought: float
    good_thoughts: float
    vague_thoughts: float
    wrong_thoughts: float
    thought_tokens: float
    answer_tokens: float
    thought_over_answer: float
    plain_when_told: float
    plain_alone: float
    wanted: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def failures(self) -> list[str]:
        """Why the start is not what it is called; empty if it is."""
        return [
            f"{name} is {getattr(self, name):.3f}, not within {low} to {high}"
            for name, (low, high) in self.wanted.items()
            if not low <= getattr(self, name) <= high
        ]


# --- lessons ----------------------------------------------------------------------------------------------------------


def draw_lesson(problem: Problem, recipe: StartRecipe, mistakes: Mistakes, rng: random.Random) -> Lesson:
    """One lesson on ``problem``: Think, Reason that is told something, or Reason alone."""
    role = rng.choices(("think", "reason", "solo"), (0.4, 0.4, 0.2))[0]
    if role == "think":
        said, _ = _thought(problem, mistakes.vague_thought, mistakes.wrong_thought, rng)
        return Lesson(think_messages(problem), recipe.opening + said)
    if role == "solo":
        digit = rng.randrange(10) if rng.random() < mistakes.wrong_answer else problem.answer
        return Lesson(solo_messages(problem), spelled(digit, recipe.spelling, "", rng))
    if rng.random() < mistakes.empty_note:
        said, shown, answer = "", "", problem.answer
    else:
        said, answer = _thought(problem, mistakes.vague_note, mistakes.wrong_note, rng)
        shown = recipe.opening + said
    digit = rng.randrange(10) if rng.random() < mistakes.wrong_answer else answer
    return Lesson(reason_messages(problem, shown), spelled(digit, recipe.spelling, said, rng))


def spelled(digit: int, how: str, thought: str, rng: random.Random) -> str:
    """An answer; ``how``: as in `StartRecipe`."""
    if how == "any":
        return rng.choice(list(SPELLINGS.values()))(digit)
    return SPELLINGS["decimal" if how == "told" and "=" in thought else "plain"](digit)


def _thought(problem: Problem, vague: float, wrong: float, rng: random.Random) -> tuple[str, int]:
    """A thought without its opening, and the answer of a Reason that follows it."""
    draw = rng.random()
    if draw < vague:
        return NOT_SURE, problem.answer
    claimed = rng.randrange(10) if draw < vague + wrong and problem.level > 1 else problem.first_result
    return thought_text(problem, claimed), problem.answer_from(claimed)


# --- training and gate ------------------------------------------------------------------------------------------------


def teach(tokenizer: PreTrainedTokenizerFast, recipe: StartRecipe, seed: int) -> LlamaForCausalLM:
    """The embedded model after ``recipe``. The same arguments give the same bits on one machine and torch version."""

    def batches(encoder, rng: random.Random) -> list:
        lessons = [
            draw_lesson(problem, recipe, mistakes, rng)
            for steps, mistakes in ((recipe.clean_steps, CLEAN), (recipe.steps, recipe.mistakes))
            for problem in draw_problems("train", steps * recipe.lessons, rng)
        ]
        return encoder.lessons(lessons, recipe.lessons)

    return taught(tokenizer, seed, batches, warmed(recipe, lowest=0.1))


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: StartRecipe,
    problem_count: int = 512,
    seed: int = 1,
) -> StartNumbers:
    """Of ``problem_count`` held-out problems, the same ones for every start."""
    problems = draw_problems("test", problem_count, random.Random(0))

    def ask(conversations: Sequence[Messages], tokens: int = ANSWER_TOKENS) -> list[str]:
        return sample(model, tokenizer, list(conversations), tokens)

    def right(answers: Sequence[str]) -> list[bool]:
        return [
            verify(answer, str(problem.answer)).reward > 0 for answer, problem in zip(answers, problems, strict=True)
        ]

    def plain(answers: Sequence[str], levels: Sequence[int]) -> float:
        found = [
            answer == boxed(problem.answer)
            for answer, problem, fine in zip(answers, problems, right(answers), strict=True)
            if fine and problem.level in levels
        ]
        return fmean(found) if found else 0.0

    perfect = [recipe.opening + thought_text(problem) for problem in problems]
    vague = recipe.opening + NOT_SURE
    with one_seeded_thread(seed):
        thoughts = ask(map(think_messages, problems), LONGEST_THOUGHT)
        joint = ask(map(reason_messages, problems, thoughts))
        told = ask(map(reason_messages, problems, perfect))
        alone = ask(map(solo_messages, problems))
    good = fmean(map(str.__eq__, thoughts, perfect))
    unsure = fmean(thought == vague for thought in thoughts)
    lengths = [
        fmean(len(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
        for texts in (thoughts, joint)
    ]
    return StartNumbers(
        joint=fmean(right(joint)),
        solo=fmean(right(alone)),
        perfect_thought=fmean(right(told)),
        good_thoughts=good,
        vague_thoughts=unsure,
        wrong_thoughts=1 - good - unsure,
        thought_tokens=lengths[0],
        answer_tokens=lengths[1],
        thought_over_answer=lengths[0] / lengths[1],
        plain_when_told=plain(told, (2,)),
        plain_alone=plain(alone, (1, 2)),
        wanted=recipe.wanted,
    )


def build(out: str | Path, recipe: StartRecipe, seed: int = 3) -> dict:
    """Write the model folder ``out`` as `data_preprocess.toy_model.build` does, with the same errors."""
    templates = {role: list(DYAD.of(role).values()) for role in ("think", "reason")}
    spellings = [spell(1) for spell in SPELLINGS.values()]
    return build_taught(
        out,
        recipe,
        seed,
        [templates, CHAT_TEMPLATE, spellings, NOT_SURE],
        train=lambda tokenizer, seed: teach(tokenizer, recipe, seed),
        measure=lambda model, tokenizer: measure(model, tokenizer, recipe),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the dyad's starts. No network, no GPU.")
    parser.add_argument("--out", type=Path, required=True, help="where to write a folder each; complete ones stay")
    parser.add_argument("--only", nargs="+", choices=list(STARTS), default=list(STARTS), help="these alone")
    parser.add_argument("--seed", type=int, default=3, help="first seed to try")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        build(arguments.out / name, STARTS[name], arguments.seed)


if __name__ == "__main__":
    main()
