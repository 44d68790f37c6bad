"""Two evaluations, paired by question: same data, same index, same text. Only what both have measured is compared.

Differences are A minus B, with bootstrap intervals over the questions that pair (`ccpo.evaluate.measures`): what is hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ccpo.evaluate import EvaluationError
from ccpo.evaluate.measures import estimate, majority_at, mean, pass_at, sizes
from ccpo.evaluate.results import NO_ANSWER, RIGHT, Entry

Pairs = Sequence[tuple[Entry, Entry]]


def paired(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[list[tuple[Entry, Entry]], int]:
    """(the entries of both that are the same question, how many have the same number and another text)."""
    theirs = {(entry["source"], entry["index"]): entry for entry in b["questions"]}
    same = [
        (entry, other)
        for entry in a["questions"]
        if (other := theirs.get((entry["source"], entry["index"]))) is not None
    ]
    pairs = [(entry, other) for entry, other in same if entry["question"] == other["question"]]
    return pairs, len(same) - len(pairs)


def _data(result: Mapping[str, Any]) -> str:
    names = sorted({str(entry["source"]) for entry in result["questions"]})
    return f"{len(result['questions'])} of {', '.join(names)}"


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of both and their paired differences.

    Returns:
        {"pairs", "only_a", "only_b", "other_text", "rows": [{"what", "a", "b", "difference": estimate}, ...]}

    Raises:
        EvaluationError: they have no question in common.
    """
    pairs, other_text = paired(a, b)
    if not pairs:
        raise EvaluationError(
            f"no question of A ({_data(a)}) is in B ({_data(b)}): evaluate both on the same --data, with the same --limit and --seed"
        )
    seed = int(a["settings"]["seed"])
    rows: list[dict[str, Any]] = []

    def row(what: str, first: Sequence[float | None], second: Sequence[float | None]) -> None:
        both = [(x, y) for x, y in zip(first, second, strict=True) if x is not None and y is not None]
        found = estimate([x - y for x, y in both], seed)
        if found is not None:
            means = (mean([pair[side] for pair in both]) for side in (0, 1))
            rows.append({"what": what, "a": next(means), "b": next(means), "difference": found.as_dict()})

    row("team, avg", *([mean(pair[side]["values"]) for pair in pairs] for side in (0, 1)))
    k = min(int(result["settings"]["k"]) for result in (a, b))
    if all(pair[side]["labels"] is not None for pair in pairs for side in (0, 1)):
        codes = [[[c for c in pair[side]["labels"] if c is not None] for pair in pairs] for side in (0, 1)]
        for j in sizes(k)[1:]:
            row(
                f"team, pass@{j}",
                *([pass_at(of_one.count(RIGHT), len(of_one), j) for of_one in side] for side in codes),
            )
        for j in sizes(k)[1:]:
            row(f"team, maj@{j}", *([majority_at(_ballots(of_one), RIGHT, j) for of_one in side] for side in codes))
    for how, role in _replays(pairs):
        row(
            f"{role}: contribution ({how})",
            *([_contribution(pair[side], how, role) for pair in pairs] for side in (0, 1)),
        )
    for name, values in (("one agent", _single), ("one agent, voting", _voting)):
        if all(any(values(pair[side]) for pair in pairs) for side in (0, 1)):
            row(f"{name}, avg", *([mean(values(pair[side])) for pair in pairs] for side in (0, 1)))
    return {
        "pairs": len(pairs),
        "only_a": len(a["questions"]) - len(pairs) - other_text,
        "only_b": len(b["questions"]) - len(pairs) - other_text,
        "other_text": other_text,
        "rows": rows,
    }


def _ballots(codes: Sequence[int]) -> list[int | None]:
    return [None if code == NO_ANSWER else code for code in codes]


def _replays(pairs: Pairs) -> list[tuple[str, str]]:
    """(how, role) of the replays that both have, in A's order."""
    sides = [
        dict.fromkeys((how, role) for pair in pairs for how, roles in pair[side]["replays"].items() for role in roles)
        for side in (0, 1)
    ]
    return [key for key in sides[0] if key in sides[1]]


def _contribution(entry: Entry, how: str, role: str) -> float | None:
    others = entry["replays"].get(how, {}).get(role, ())
    return mean([x - y for x, y in zip(entry["values"], others, strict=False) if x is not None and y is not None])


def _single(entry: Entry) -> Sequence[float | None]:
    return entry.get("single", {}).get("values", ())


def _voting(entry: Entry) -> Sequence[float | None]:
    return entry.get("self_consistency", ())
