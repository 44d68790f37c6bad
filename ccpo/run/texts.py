"""A session without its texts: what statistics read of it stays. The one place that says what goes, how it is seen, and what stands for a question.

Questions and truths of two runs are told apart by what `digest_of` and `shortened` give, which are the same with texts and without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

LONGEST = 200  # characters of an answer, a ballot or a truth; a longer one is a text
BEGINNING = 40  # of which this many stay
NOT_KEPT = "text not kept"


def without_texts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a session (`ccpo.run.sessions`) without what was asked, said and decoded for replays. ``digest`` is in the question's place; of
    turns and replays what is false or None is left out, and what is longer than `LONGEST` is shortened everywhere."""
    found = {name: value for name, value in facts.items() if name != "question"}
    if isinstance(ballots := facts.get("ballots"), Mapping):
        found["ballots"] = {role: shortened(one) for role, one in ballots.items()}
    return found | {
        "digest": digest_of(facts),
        "truth": shortened(facts.get("truth")),
        "answer": shortened(facts.get("answer")),
        "turns": [_true(turn, "text") for turn in facts["turns"]],
        "replays": [_true(replay, "turns") for replay in facts["replays"]],
    }


def _true(facts: Mapping[str, Any], text: str) -> dict[str, Any]:
    kept = {name: shortened(value) for name, value in facts.items() if name != text}
    return {name: value for name, value in kept.items() if value is not None and value is not False}


def has_texts(entry: Mapping[str, Any]) -> bool:
    return "question" in entry


def digest_of(entry: Mapping[str, Any]) -> str:
    """16 letters that stand for the question, whether its text was kept or not."""
    return _digest(entry["question"]) if has_texts(entry) else entry["digest"]


def shortened(value: Any) -> Any:
    """Itself, or, where it is longer than `LONGEST`, its beginning and a digest of all: equal values stay equal, others different."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return value if len(text) <= LONGEST else f"{text[:BEGINNING]}... {_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.blake2b(json.dumps(text).encode(), digest_size=8).hexdigest()  # as JSON: a text may hold half a pair
