"""The Think-Reason dyad: one session.

    question --> THINK --> thought --+
       |                             +--> REASON --> team answer --> R_joint
       +-------------------------------^
       +--> SOLO (Reason without a thought) --> solo answer --> R_solo        decodes while Think does
       +--> EMPTIED (Reason with an empty thought), validation only           decodes while Think does

Source: the paper's dyad; the solo answer is requested as early as its input exists, never in a second pass (our construction).
"""

from __future__ import annotations

from ccpo.prompts import DyadPrompts, Messages, render
from ccpo.topology.session import Generate, Judge, PromptBudget, Scored, all_or_nothing
from ccpo.types import EMPTIED, REASON, SOLO, THINK
from ccpo.verifier import looks_like_answer, strip_answer


def fit_thought(prompts: DyadPrompts, question: str, thought: str, budget: PromptBudget) -> tuple[str, bool]:
    """Cut the thought from the left until Reason's prompt fits.

    Returns (thought, whether it was cut). Raises ValueError when the prompt does not fit even with an empty thought.
    """
    whole = thought
    while (over := budget.count(render(prompts.reason, question=question, thought=thought)) - budget.limit) > 0:
        if not thought:
            raise ValueError(
                f"Reason's prompt is {over} tokens over its budget of {budget.limit} even without a thought: "
                "set data.max_prompt_length higher, or drop the long questions from the dataset"
            )
        shorter = budget.cut(thought, over)
        thought = shorter if len(shorter) < len(thought) else ""
    return thought, thought != whole


async def run_dyad(
    question: str,
    *,
    prompts: DyadPrompts,
    generate: Generate,
    judge: Judge,
    budget: PromptBudget,
    solo: bool,
    emptied: bool = False,
    strip_leak: bool = False,
) -> dict[str, Scored]:
    """Run one session; requests go out as soon as their input exists.

    Args:
        question: what the user asks.
        prompts: template set.
        generate: decodes one response for a role; an exception ends the session and cancels its other requests.
        judge: verifies a text against the ground truth.
        budget: see `PromptBudget`.
        solo: also decode a solo answer.
        emptied: also decode Reason's answer to an empty thought (validation).
        strip_leak: remove a leaked final answer from the thought before Reason reads it.

    Returns:
        role -> Scored in the order think, solo, emptied, reason: the team answer is last. A truncated answer earns 0, as in the
        authors' code.
    """

    async def answer(role: str, messages: Messages) -> Scored:
        turn = await generate(role, messages)
        verdict = await judge(turn.text)
        return Scored(turn, 0.0 if turn.truncated else verdict.reward, parsed=verdict.parsed)

    async def team() -> tuple[Scored, Scored]:
        think = await generate(THINK, render(prompts.think, question=question))
        leaked = looks_like_answer(think.text)
        thought = strip_answer(think.text) if leaked and strip_leak else think.text
        thought, cut = fit_thought(prompts, question, thought, budget)
        reason = await answer(REASON, render(prompts.reason, question=question, thought=thought))
        return Scored(think, reason.reward, leaked=leaked, cut=cut), reason

    alone = {}
    if solo:
        alone[SOLO] = answer(SOLO, render(prompts.solo, question=question))
    if emptied:
        alone[EMPTIED] = answer(EMPTIED, render(prompts.reason, question=question, thought=""))
    (think, reason), *answers = await all_or_nothing(team(), *alone.values())
    return {THINK: think, **dict(zip(alone, answers, strict=True)), REASON: reason}
