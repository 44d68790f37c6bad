"""What training took, as far as a run's log says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TOKENS, REPLAY_TOKENS = "ccpo/generated_tokens", "ccpo/replay_tokens"
SECONDS, VALIDATION = "timing_s/step", "timing_s/testing"
START = "timing_s/start/validation_at_step_0"
ALL, RESPONSE, PROMPT = (
    "perf/total_num_tokens",
    "response_length/mean",
    "prompt_length/mean",
)  # verl's, of the trained rows


@dataclass(frozen=True)
class Costs:
    """Of all training steps. ``tokens``: generated, those of replays included; ``trained``: of the turns that were trained alone. Seconds of steps
    and of validations. None where some step's log does not say."""

    steps: int
    tokens: float | None
    replay_tokens: float | None
    trained: float | None
    seconds: float | None
    validation: float | None


def costs_of(entries: Sequence[Mapping], last: int) -> Costs:
    """Of the steps up to ``last``. ``entries``: of the run log."""
    steps = [entry["metrics"] for entry in entries if entry["kind"] == "train" and entry["step"] <= last]

    def every(name: str) -> float | None:
        return sum(step[name] for step in steps) if steps and all(name in step for step in steps) else None

    validation = [step[name] for step in steps for name in (VALIDATION, START) if name in step]
    return Costs(
        len(steps),
        every(TOKENS),
        every(REPLAY_TOKENS),
        _trained(steps),
        every(SECONDS),
        sum(validation) if validation else None,
    )


def _trained(steps: Sequence[Mapping[str, float]]) -> float | None:
    """verl logs the tokens of all rows, prompts included, and the mean lengths of both parts."""
    if not steps or not all(
        {ALL, RESPONSE, PROMPT} <= set(step) and step[RESPONSE] + step[PROMPT] > 0 for step in steps
    ):
        return None
    return sum(step[ALL] * step[RESPONSE] / (step[RESPONSE] + step[PROMPT]) for step in steps)
