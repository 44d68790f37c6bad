"""Prompt templates: one named set per topology, every role's messages in one place.

A template is a tuple of (chat role, text with named fields). ``math`` and ``choice`` are for instruction-tuned models,
``toy`` is what the embedded model of ``data_preprocess.toy`` was taught. Field ``question`` is the last user message of the
dataset row, ``thought`` is Think's text, ``others`` what the other voters said in the round before. Texts: our construction (the paper prints none).
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

Messages = list[dict[str, str]]
Template = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DyadPrompts:
    """Templates of the Think-Reason dyad. ``solo`` is Reason without a thought: the counterfactual."""

    think: Template  # fields: question
    reason: Template  # fields: question, thought
    solo: Template  # fields: question


_BOXED = "Put your final answer within \\boxed{{}}."
_LETTER = "Answer the multiple-choice question. End with the letter of your choice as \\boxed{{letter}}."

DYAD: dict[str, DyadPrompts] = {
    "math": DyadPrompts(
        think=(
            (
                "system",
                "You help a colleague solve a problem. Work out the key ideas, the relevant facts and a short plan, and check "
                "the risky steps. Do not state the final answer.",
            ),
            ("user", "{question}"),
        ),
        reason=(
            ("system", f"Solve the problem step by step. {_BOXED}"),
            (
                "user",
                "{question}\n\nNotes from a colleague, which may be incomplete or wrong:\n{thought}\n\n"
                f"Use what is right in the notes. {_BOXED}",
            ),
        ),
        solo=(("system", f"Solve the problem step by step. {_BOXED}"), ("user", "{question}\n\n" + _BOXED)),
    ),
    "choice": DyadPrompts(
        think=(
            (
                "system",
                "You help a colleague answer a multiple-choice question. Weigh every option briefly against the text. Do not "
                "state which option is correct.",
            ),
            ("user", "{question}"),
        ),
        reason=(
            ("system", _LETTER),
            ("user", "{question}\n\nNotes from a colleague, which may be incomplete or wrong:\n{thought}"),
        ),
        solo=(
            ("system", _LETTER),
            ("user", "{question}"),
        ),
    ),
    "toy": DyadPrompts(
        think=(("system", "Think."), ("user", "{question}")),
        reason=(("system", "Answer."), ("user", "{question}\nThought: {thought}")),
        solo=(("system", "Answer."), ("user", "{question}")),
    ),
}


@dataclass(frozen=True)
class VotePrompts:
    """Templates of a voter. ``again`` is used from the second round on."""

    vote: Template  # fields: question
    again: Template  # fields: question, others


_OTHERS = "{question}\n\nThis is what the other members of your team answered:\n{others}\n\n"

VOTE: dict[str, VotePrompts] = {
    "math": VotePrompts(
        vote=(("system", f"Solve the problem step by step. {_BOXED}"), ("user", "{question}\n\n" + _BOXED)),
        again=(
            ("system", f"Solve the problem step by step. {_BOXED}"),
            ("user", _OTHERS + f"They may be wrong: check, then give your own answer. {_BOXED}"),
        ),
    ),
    "choice": VotePrompts(
        vote=(("system", _LETTER), ("user", "{question}")),
        again=(("system", _LETTER), ("user", _OTHERS + "They may be wrong: check, then choose yourself.")),
    ),
    "toy": VotePrompts(
        vote=(("system", "Vote."), ("user", "{question}")),
        again=(("system", "Vote."), ("user", "{question}\nVotes: {others}")),
    ),
}


def with_persona(messages: Messages, persona: str) -> Messages:
    """The messages with ``persona`` added to the system message, which is made if there is none."""
    if not persona:
        return messages
    system = next((message for message in messages if message["role"] == "system"), None)
    if system is None:
        return [{"role": "system", "content": persona}, *messages]
    return [{**m, "content": f"{m['content']} {persona}"} if m is system else m for m in messages]


def render(template: Template, **fields: str) -> Messages:
    """Fill a template. Field values are inserted verbatim: braces in them are text, never fields.

    Returns the chat messages ``[{"role", "content"}, ...]``. Raises KeyError naming the field that is missing.
    """
    return [{"role": role, "content": _fill(text, fields)} for role, text in template]


def _fill(text: str, fields: dict[str, str]) -> str:
    parts = []
    for literal, name, _, _ in Formatter().parse(text):
        parts.append(literal)
        if name is not None:
            if name not in fields:
                raise KeyError(f"template needs the field {name!r}, got {sorted(fields)}")
            parts.append(fields[name])
    return "".join(parts)
