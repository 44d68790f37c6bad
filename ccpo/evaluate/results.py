"""All numbers of an evaluation, from what was played: a table with one entry for each question, and what follows from it.

An entry of the table, which `ccpo.evaluate.compare` pairs with another evaluation's:

    {"source", "index", "question": digest of its text,
     "values": [R of each session], "labels": [code of each session's answer] or None,
     "replays": {how: {role: [value of each session's replay]}},
     "single": {"values", "labels"}, "self_consistency": [value of each vote]}      the last two where controls were played

A list counts sessions from 0 on, with None where a session was dropped. A code is 0 for a right answer, -1 for none, else 1, 2, ... as the
verifier tells answers apart within the question. Labels are None where sessions have no answer that is right or wrong: a reward between 0 and 1,
or a role that casts several ballots. A vote that is tied draws one of the tied answers, by the seed, since that is what a tie is worth.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from ccpo.evaluate.controls import completion_tokens, groups
from ccpo.evaluate.data import Question, Row, question_of
from ccpo.evaluate.measures import Estimate, estimate, majority_at, mean, pass_at, sizes
from ccpo.evaluate.sessions import Record
from ccpo.evaluate.store import SESSION, SHUFFLED, SINGLE, Store
from ccpo.judge import OwnJudge, RowJudge, judge_of
from ccpo.plurality import vote_value
from ccpo.reward import OwnReward, RewardError

RIGHT, NO_ANSWER = 0, -1
NOT_BINARY = (
    "pass@k, maj@k and votes need answers that are right or wrong and can be told apart: these values lie between, or the reward has no label "
    "and no same, or these failed"
)
Entry = dict[str, Any]


def identity(row: Row) -> Entry:
    """What an entry says of which row it is."""
    source, index = question_of(row)
    text = row["prompt"][-1]["content"]
    return {"source": source, "index": index, "question": hashlib.sha256(text.encode()).hexdigest()[:16]}


class NoLabels(ValueError):
    """A session has no answer that is right or wrong."""


def answer_of(record: Record, tie: str | None, seed: int) -> str | int | None:
    """RIGHT, the text of a wrong answer, or None without an answer. ``tie``: of the team's plurality, None if it has none. Raises NoLabels."""
    if tie is None:
        if record["value"] == 1.0:
            return RIGHT
        if record["value"] != 0.0:
            raise NoLabels
        return record["answer"]
    if record["ballots"] is None:
        raise NoLabels
    cast = [RIGHT if label == record["truth"] else label for label in record["ballots"].values() if label is not None]
    counts = Counter(cast)
    tied = [label for label in counts if counts[label] == max(counts.values())]  # in the order of the ballots
    if not tied or (tie == "fail" and len(tied) > 1):
        return None
    if tie == "optimistic" and RIGHT in tied:
        return RIGHT
    if tie == "expected":
        place = (seed, record["source"], record["index"], record["session"])
        return random.Random(repr(place)).choice(tied)
    return tied[0]


async def codes_of(answers: Sequence[str | int | None], judge: RowJudge | OwnJudge) -> list[int]:
    """Codes of one question's answers: equal ones, as the verifier sees it, have one."""
    known: list[str] = []
    codes: dict[str, int] = {}
    for answer in answers:
        if isinstance(answer, str) and answer not in codes:
            if isinstance(judge, OwnJudge) and judge.reward.has("label"):
                judge.labels[answer] = await judge.reward.label(answer)
            label = judge.label(answer)
            for number, other in enumerate(known, 1):
                if other == label or await judge.same(other, label):
                    codes[answer] = number
                    break
            else:
                known.append(label)
                codes[answer] = len(known)
    return [RIGHT if answer == RIGHT else NO_ANSWER if answer is None else codes[answer] for answer in answers]


async def labels_of(
    records: Sequence[Record | None], tie: str | None, judge: RowJudge | OwnJudge, seed: int
) -> list[int | None] | None:
    """A code for each session, None for one that was dropped; None for all where they have none."""
    if isinstance(judge, OwnJudge) and not judge.reward.names_answers:
        return None
    try:
        answers = [answer_of(record, tie, seed) for record in records if record is not None]
        codes = iter(await codes_of(answers, judge))
    except NoLabels:
        return None
    except RewardError as error:  # all is played by now, and the rest of the numbers needs no labels
        logging.getLogger(__name__).warning("%s", error)
        return None
    return [None if record is None else next(codes) for record in records]


async def table_of(
    rows: Sequence[Row],
    store: Store,
    k: int,
    tie: str | None,
    samples: Fraction | None,
    seed: int,
    reward: OwnReward | None = None,
) -> list[Entry]:
    """One entry for each question. ``samples``: m of self-consistency (`ccpo.evaluate.controls`), None without it. ``reward``: the user's own."""
    table = []
    for row in rows:
        question, judge = question_of(row), judge_of(row, reward)
        sessions = [store.records[SESSION].get((question, number)) for number in range(k)]
        entry: Entry = {
            **identity(row),
            "values": [None if record is None else record["value"] for record in sessions],
            "labels": await labels_of(sessions, tie, judge, seed),
            "replays": _replays(question, sessions, store),
        }
        votes = groups(samples or Fraction(1), k)
        singles = [store.records[SINGLE].get((question, number)) for number in range(votes[-1].stop)]
        if any(record is not None for record in singles):
            labels = await labels_of(singles, None, judge, seed)
            entry["single"] = {
                "values": [None if record is None else record["value"] for record in singles[:k]],
                "labels": labels[:k] if labels else None,
            }
            if samples is not None and labels is not None:
                entry["self_consistency"] = [_vote([labels[number] for number in vote]) for vote in votes]
        table.append(entry)
    return table


def _replays(question: Question, sessions: Sequence[Record | None], store: Store) -> dict[str, dict[str, list]]:
    found: dict[str, dict[str, list]] = {}
    for number, record in enumerate(sessions):
        if record is None:
            continue
        shuffled = store.records[SHUFFLED].get((question, number), {"replays": []})
        for replay in (*record["replays"], *shuffled["replays"]):
            values = found.setdefault(replay["how"], {}).setdefault(replay["role"], [None] * len(sessions))
            values[number] = replay["value"]
    return found


def _vote(codes: Sequence[int | None]) -> float | None:
    """Value of the plurality of these answers; None if there are none."""
    ballots = [None if code == NO_ANSWER else code for code in codes if code is not None]
    return vote_value(ballots, RIGHT) if ballots else None


# --- measures ---------------------------------------------------------------------------------------------------------


def team_measures(values: Sequence[Sequence], labels: Sequence[Sequence | None], k: int, seed: int) -> dict[str, Any]:
    """avg, pass@k and maj@k of sessions. ``values``, ``labels``: of each question."""
    found: dict[str, Any] = {"avg": _of(estimate([mean(of_one) for of_one in values], seed))}
    if any(of_one is None for of_one in labels):
        return found | {"note": NOT_BINARY}
    there = [[code for code in of_one if code is not None] for of_one in labels]
    ballots = [[None if code == NO_ANSWER else code for code in of_one] for of_one in there]
    at = sizes(k)
    return found | {
        "pass": {str(j): _of(estimate([pass_at(o.count(RIGHT), len(o), j) for o in there], seed)) for j in at},
        "maj": {str(j): _of(estimate([majority_at(o, RIGHT, j) for o in ballots], seed)) for j in at},
    }


def replay_measures(entries: Sequence[Entry], how: str, role: str, seed: int) -> dict[str, Any] | None:
    """Paired within sessions: value without the role, contribution, helped, hurt. None where no such replay was played."""
    pairs = [
        [
            (value, other)
            for value, other in zip(entry["values"], entry["replays"].get(how, {}).get(role, ()), strict=False)
            if value is not None and other is not None
        ]
        for entry in entries
    ]
    if not any(pairs):
        return None
    return {
        "without": _of(estimate([mean([other for _, other in of_one]) for of_one in pairs], seed)),
        "contribution": _of(estimate([mean([value - other for value, other in of_one]) for of_one in pairs], seed)),
        "helped": _of(estimate([mean([float(value > other) for value, other in of_one]) for of_one in pairs], seed)),
        "hurt": _of(estimate([mean([float(value < other) for value, other in of_one]) for of_one in pairs], seed)),
    }


def measures_of(
    entries: Sequence[Entry], roles: Sequence[str], hows: Sequence[str], k: int, samples: Fraction | None, seed: int
) -> dict[str, Any]:
    """All measures of the table."""
    found: dict[str, Any] = {
        "team": team_measures([entry["values"] for entry in entries], [entry["labels"] for entry in entries], k, seed),
        "roles": {
            role: {how: measured for how in hows if (measured := replay_measures(entries, how, role, seed))}
            for role in roles
        },
        "controls": {},
    }
    alone = [entry for entry in entries if "single" in entry]
    if alone:
        single = team_measures([e["single"]["values"] for e in alone], [e["single"]["labels"] for e in alone], k, seed)
        pairs = [_difference(entry["values"], entry["single"]["values"]) for entry in alone]
        found["controls"]["single"] = single | {"team_minus": _of(estimate(pairs, seed))}
    voting = [entry for entry in entries if "self_consistency" in entry]
    if voting:
        pairs = [_difference(entry["values"], entry["self_consistency"]) for entry in voting]
        found["controls"]["self_consistency"] = {
            "samples": float(samples),
            "avg": _of(estimate([mean(entry["self_consistency"]) for entry in voting], seed)),
            "team_minus": _of(estimate(pairs, seed)),
        }
    elif samples is not None and alone:
        found["controls"]["self_consistency"] = {"samples": float(samples), "note": NOT_BINARY}
    return found


def _difference(a: Sequence, b: Sequence) -> float | None:
    first, second = mean(a), mean(b)
    return None if first is None or second is None else first - second


def _of(found: Estimate | None) -> dict[str, Any] | None:
    return found.as_dict() if found else None


# --- tokens and bad answers -------------------------------------------------------------------------------------------


def tokens_of(turns: Iterable[Record]) -> dict[str, dict[str, int]]:
    """role -> {"turns", "prompt_tokens", "completion_tokens", "unknown": turns whose tokens the server did not count}."""
    found: dict[str, Counter] = defaultdict(Counter)
    for turn in turns:
        counts = turn["prompt_tokens"], turn["completion_tokens"]
        found[turn["role"]] += Counter(
            turns=1, prompt_tokens=counts[0] or 0, completion_tokens=counts[1] or 0, unknown=int(None in counts)
        )
    names = ("turns", "prompt_tokens", "completion_tokens", "unknown")
    return {role: {name: found[role][name] for name in names} for role in sorted(found)}


def ledger_of(store: Store) -> dict[str, Any]:
    """Tokens per role: of sessions, of what was decoded for replays, and of one agent alone."""
    sessions, shuffled, singles = (list(store.records[kind].values()) for kind in (SESSION, SHUFFLED, SINGLE))
    return {
        "sessions": tokens_of(turn for record in sessions for turn in record["turns"]),
        "replays": tokens_of(
            turn for record in (*sessions, *shuffled) for replay in record["replays"] for turn in replay["turns"]
        ),
        "controls": tokens_of(turn for record in singles for turn in record["turns"]),
    }


def cost_of(store: Store, samples: Fraction | None) -> dict[str, dict[str, float | None]]:
    """Tokens of one answer, on average: of the team, of one agent, and of its vote."""
    found = {"team": _per_answer(store.records[SESSION].values())}
    if store.records[SINGLE]:
        found["single"] = _per_answer(store.records[SINGLE].values())
        if samples is not None:
            found["self_consistency"] = {
                name: None if value is None else value * float(samples) for name, value in found["single"].items()
            }
    return found


def _per_answer(records: Iterable[Record]) -> dict[str, float | None]:
    completion, everything = [], []
    for record in records:
        prompts = [turn["prompt_tokens"] for turn in record["turns"]]
        written = completion_tokens(record)
        if written is None or None in prompts:
            return {"completion_tokens": None, "tokens": None}
        completion.append(written)
        everything.append(written + sum(prompts))
    return {"completion_tokens": mean(sorted(completion)), "tokens": mean(sorted(everything))}


def bad_answers(store: Store, wanted: Mapping[str, int]) -> dict[str, Any]:
    """What is missing or odd. ``wanted``: how many of each kind there should be."""
    kinds = {
        kind: {
            "wanted": count,
            "played": len(store.records[kind]),
            "dropped": dict(sorted(Counter(store.dropped[kind].values()).items())),
        }
        for kind, count in wanted.items()
    }
    return {
        **kinds,
        "roles": _odd_turns(store.records[SESSION].values()),
        "controls": _odd_turns(store.records[SINGLE].values()),
    }


def _odd_turns(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """role -> how many of its turns were cut by the limit, empty, asked for an answer that could not be read, or gave one unasked."""
    roles: dict[str, Counter] = defaultdict(Counter)
    for turn in (turn for record in records for turn in record["turns"]):
        roles[turn["role"]] += Counter(
            turns=1,
            truncated=int(turn["truncated"]),
            empty=int(not turn["text"].strip()),
            unparsed=int(turn["parsed"] is False and not turn["truncated"]),
            leaked=int(turn["leaked"]),
        )
    names = ("turns", "truncated", "empty", "unparsed", "leaked")
    return {role: {name: roles[role][name] for name in names} for role in sorted(roles)}
