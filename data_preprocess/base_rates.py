"""What a text that says nothing of the question earns, so that a reward can be told from none.

A constant answer earns its base rate; a text without an answer earns nothing, whatever it repeats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ccpo.verifier import LETTERS, OWN, label, verify

CANDIDATES = 3
"""Of the most frequent truths, how many are judged: the verifier may call more of them equal than their labels do."""


def best_constant(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The one ``answer`` that earns most, and the ``share`` of rows on which the verifier calls it right; None where it judges none."""
    rows = [row for row in rows if row["extra_info"]["answer_type"] != OWN]
    if not rows:
        return None
    counts: Counter[str] = Counter()
    spelling: dict[str, str] = {}
    for row in rows:
        truth, kind = row["reward_model"]["ground_truth"], row["extra_info"]["answer_type"]
        key = label(verify(boxed(truth), truth, kind, row["extra_info"].get("options") or ()).answer or truth, kind)
        spelling.setdefault(key, truth)
        counts[key] += 1
    shares = {spelling[key]: share(rows, boxed(spelling[key])) for key, _ in counts.most_common(CANDIDATES)}
    best = max(shares, key=shares.get)
    return {"answer": best, "share": round(shares[best], 6)}


def share(rows: Sequence[Mapping[str, Any]], text: str) -> float:
    """What ``text`` earns on ``rows``, on average."""
    return sum(_reward(text, row) for row in rows) / len(rows)


def _reward(text: str, row: Mapping[str, Any]) -> float:
    info = row["extra_info"]
    return verify(text, row["reward_model"]["ground_truth"], info["answer_type"], info.get("options") or ()).reward


def boxed(answer: str) -> str:
    """``answer`` in a form that every answer type reads."""
    return f"\\boxed{{{answer}}}"


def fixed_texts(question: str, options: Sequence[str] = ()) -> dict[str, str]:
    """What it is -> a text that answers no question, made of what a model has been shown. Each must earn 0."""
    texts = {
        "nothing": "",
        "blanks": " \n",
        "a refusal": "I am sorry, but I cannot answer this question.",
        "a promise": "Let us think step by step.",
        "an empty box": boxed(""),
        "the question": question,
        "the question, boxed": boxed(question),
    }
    if options:
        letters = LETTERS[: len(options)]
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True))
        texts["all options"] = listed
        texts["all options, boxed"] = boxed(listed)
        texts["all letters"] = " ".join(f"({letter})" for letter in letters)
        texts["all letters, boxed"] = boxed(", ".join(letters))
    return texts


def earned(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What each of the `fixed_texts` earns on ``rows``, on average, from the verifier."""
    total: Counter[str] = Counter()
    for row in rows:
        for name, text in fixed_texts(row["extra_info"]["question"], row["extra_info"]["options"]).items():
            total[name] += _reward(text, row)
    return {name: total[name] / len(rows) for name in total}
