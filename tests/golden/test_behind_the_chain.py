"""The likelihood behind the sampled chain, by enumeration of tokens: the dyad's program, the rule and the border, on a table of token probabilities.

Think says one token, Reason a chain and an answer. For every logit of every token, with the advantages that the tokens get,

    E[sum over tokens of (what was sampled - its probability) x advantage] = d E[R] / d logit
"""

from __future__ import annotations

import asyncio
import itertools
import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from ccpo.credit.base import CreditConfig
from ccpo.credit.history import HistoryState
from ccpo.reference import Behind, answer_part, behind
from ccpo.step import StepSettings, compute_advantages
from ccpo.team.dyad import Dyad
from ccpo.team.plan import plan
from ccpo.team.replay import play
from ccpo.team.session import Decoded, Scene
from ccpo.types import SessionRecord, Sessions
from ccpo.verifier.spelling import last_boxed

EXACT, CLEARLY = 1e-12, 1e-3
PLAN = plan(Dyad())
ROLES = PLAN.roles
ROOM = 8
"""Tokens that Reason may say."""

SPELLED = ("<end>", "a", "b", "\\boxed", "{", "1", "0", "}", "}.", " 1", "\\boxed{1", "{2")
END, A, B, BOX, OPEN, ONE, ZERO, CLOSE, FULL_STOP, SPACED, ALL_IN_ONE, TWO = range(len(SPELLED))
NEXT = {
    None: (A, B, BOX, ALL_IN_ONE, END),
    A: (A, BOX, ALL_IN_ONE),
    B: (BOX, END),
    BOX: (OPEN, TWO, A),
    OPEN: (ONE, ZERO, SPACED),
    ONE: (CLOSE, FULL_STOP, ZERO),
    ZERO: (CLOSE,),
    SPACED: (CLOSE,),
    TWO: (CLOSE,),
    ALL_IN_ONE: (CLOSE, ZERO),
    CLOSE: (END, BOX),
    FULL_STOP: (END,),
}
"""What may follow a token: answers in several spellings and endings, a border inside a token, a second box, none at all, and chains that leave no room."""


class Tokenizer:
    """The longest spelling first would take the answer and its border as one token; a table says otherwise, as a tokenizer's merges do."""

    def encode(self, text, add_special_tokens):
        assert text == "\\boxed{1}" and not add_special_tokens
        return [BOX, OPEN, ONE, CLOSE]

    def decode(self, ids, clean_up_tokenization_spaces):
        return "".join(SPELLED[number] for number in ids)


TOKENIZER, REFERENCE = Tokenizer(), "\\boxed{1}"
Logit = tuple[str, tuple, tuple, int]
"""(role, what it hears, tokens that it said before, a token that may come)."""


def chances(role: str, heard: tuple, said: tuple) -> dict[int, float]:
    """Next token -> its probability: another distribution in every place."""
    allowed = (A, B) if role == "think" else NEXT[said[-1] if said else None]
    weights = [1 + zlib.crc32(repr((role, heard, said, token)).encode()) % 1009 for token in allowed]
    return {token: weight / sum(weights) for token, weight in zip(allowed, weights, strict=True)}


def continued(role: str, heard: tuple, said: tuple, ids: Sequence[int]) -> float:
    """Probability of these tokens."""
    found = 1.0
    for token in ids:
        found *= chances(role, heard, said).get(token, 0.0)
        said = (*said, token)
    return found


@dataclass(frozen=True)
class Path:
    """One session. ``said``: role -> (what it heard, its tokens)."""

    probability: float
    record: SessionRecord
    said: dict[str, tuple[tuple, tuple[int, ...]]]
    border: Behind | None


class Judge:
    async def verify(self, text):
        answer = (last_boxed(text) or "").strip()
        return SimpleNamespace(answer=answer, reward=float(answer == "1"), parsed=bool(answer))


def over(role: str, said: tuple) -> bool:
    return len(said) == 1 if role == "think" else len(said) == ROOM or said[-1:] == (END,)


async def every_path() -> list[Path]:
    found, todo = [], [()]
    while todo:
        prefix, drawn, chance, turns = todo.pop(), [], [1.0], {}

        async def decode(role, heard, label, prefix=prefix, drawn=drawn, chance=chance, turns=turns):
            said = ()
            while not over(role, said):
                options = chances(role, heard, said)
                if len(drawn) < len(prefix):
                    token = prefix[len(drawn)]
                else:
                    token, *others = options
                    todo.extend((*drawn, other) for other in others)
                drawn.append(token)
                chance[0] *= options[token]
                said = (*said, token)
            turns[role] = (heard, said)
            return Decoded(TOKENIZER.decode([token for token in said if token != END], False), said[-1] != END)

        scene = Scene("q", decode, lambda role, fields: tuple(sorted(fields.items())), Judge())
        played = await play(Dyad(), scene, PLAN, (), cuts=True)
        heard, said = turns["reason"]
        border = behind(TOKENIZER, REFERENCE, said, ROOM)
        alone = [continued("reason", cut, (), (BOX, OPEN, ONE, CLOSE, END)) for cut in played.cuts]
        kept = said[: border.length] if border else ()
        record = replace(
            played.record("q", 0),
            likelihoods=tuple(alone),
            behind=continued("reason", heard, kept, border.answer) if border else None,
            said=border is not None and border.said,
        )
        found.append(Path(chance[0], record, turns, border))
    assert math.isclose(sum(path.probability for path in found), 1)
    return found


PATHS = asyncio.run(every_path())


def gradient(weighted, advantage: Callable[[Path, int, str, int], float]) -> dict[Logit, float]:
    """``advantage``: (path, number of its session, role, place of the token in the turn) -> what the token's score is multiplied with."""
    total: dict[Logit, float] = defaultdict(float)
    for number, (probability, path) in enumerate(weighted):
        for role, (heard, said) in path.said.items():
            for place, token in enumerate(said):
                weight = probability * advantage(path, number, role, place)
                for other, p in chances(role, heard, said[:place]).items():
                    total[role, heard, said[:place], other] += weight * ((token == other) - p)
    return dict(total)


ALONE = [(path.probability, path) for path in PATHS]
TRUE = gradient(ALONE, lambda path, *_: path.record.value)


def places() -> dict[str, set[Logit]]:
    """The logits by what their tokens are: of a thought, a chain, an answer, or a turn without a border."""
    found = defaultdict(set)
    for path in PATHS:
        for role, (heard, said) in path.said.items():
            for place in range(len(said)):
                kind = "thought"
                if role == "reason":
                    kind = "none" if path.border is None else "chain" if place < path.border.length else "answer"
                found[kind] |= {(role, heard, said[:place], other) for other in chances(role, heard, said[:place])}
    return found


PLACES = places()


def gap(got: dict[Logit, float], kind: str) -> float:
    assert set(got) == set(TRUE)
    return max(abs(got[logit] - TRUE[logit]) for logit in PLACES[kind])


def credited(groups: Sequence[Sequence[Path]], state: HistoryState | None = None, normalize: str = "none"):
    records = [
        replace(path.record, prompt=g, session=s) for g, group in enumerate(groups) for s, path in enumerate(group)
    ]
    settings = StepSettings(CreditConfig("likelihood", normalize, reference_after="chain"))
    return compute_advantages(Sessions.from_records(records, ROLES), settings, state)


def as_trained(result) -> Callable[[Path, int, str, int], float]:
    def advantage(path: Path, number: int, role: str, place: int) -> float:
        if role == "reason" and path.border is not None and place >= path.border.length:
            return result.answer_S[number]
        return result.advantage_SV[number, ROLES.index(role)]

    return advantage


# ------------------------------------------------------------------------------------------------------------ what there is


def test_the_enumeration_holds_every_case():
    right = [path for path in PATHS if path.record.value == 1]
    texts = {TOKENIZER.decode(path.said["reason"][1], False) for path in right}
    assert {"\\boxed{1}<end>", "a\\boxed{1}.<end>", "b\\boxed{ 1}<end>"} <= texts
    assert any(path.border and not path.record.said for path in right), "right in another spelling, or in a later box"
    assert any(path.border and path.record.said and path.record.value == 0 for path in PATHS), "goes on: {10}"
    without = {TOKENIZER.decode(path.said["reason"][1], False) for path in PATHS if path.border is None}
    assert {"<end>", "b<end>", "\\boxed{1}<end>"} <= without, "no box, and a border inside a token"
    assert any("\\boxed" in text and "\\boxed{1" not in text for text in without), "no room for the answer"
    assert all(abs(TRUE[logit]) < 1 for logit in TRUE) and len(TRUE) > 200
    assert all(max(abs(TRUE[logit]) for logit in PLACES[kind]) > CLEARLY for kind in PLACES)
    assert answer_part(TOKENIZER, REFERENCE) == ("\\boxed", (OPEN, ONE))


# ----------------------------------------------------------------------------------------------------------------- the proof


@pytest.mark.parametrize("kind", ["thought", "chain", "answer", "none"])
def test_every_token_gets_its_true_gradient(kind: str):
    """Without a history: thought and chain by R + Q - [said], the answer by R - Q, a turn without a border by R alone."""
    result = credited([(path,) for path in PATHS])
    assert gap(gradient(ALONE, as_trained(result)), kind) < EXACT


def test_the_fitted_coefficients_leave_it_unbiased():
    """Those of a history, on two sessions of a prompt: the first of each pair, whose other is one of the likeliest."""
    names = "weight mean_v mean_s vv vs ss vu su".split()
    sums = dict(zip(names, (1, 0.3, 0.2, 0.1, 0.02, 0.05, 0.03, 0.02), strict=True))
    joints = {f"{role}/likelihood": sums for role in ROLES} | {"/answer": {"weight": 0.5, "dd": 0.1, "dr": 0.07}}
    others = sorted(PATHS, key=lambda path: -path.probability)[:30]
    groups = list(itertools.product(PATHS, others))
    result = credited(groups, HistoryState(joints=joints))
    mass = sum(path.probability for path in others)
    chance = [first.probability * second.probability / mass for first, second in groups]
    weighted = [(p, path) for p, group in zip(chance, groups, strict=True) for path in group]
    weighted[1::2] = [(0.0, path) for _, path in weighted[1::2]]
    got = gradient(weighted, as_trained(result))
    for kind in PLACES:
        assert gap(got, kind) < EXACT, kind
    assert result.metrics["credit/answer_coefficient"] == pytest.approx(0.7, rel=1e-3)
    assert 0 < result.metrics["think/likelihood_coefficient"] != result.metrics["reason/others_coefficient"] > 0


def value(gamma: float) -> Callable[[Path], float]:
    return lambda path: path.record.value + (gamma * (path.record.behind - path.record.said) if path.border else 0)


def variance(found: Sequence[Path], of: Callable[[Path], float]) -> float:
    p, x = np.array([path.probability for path in found]), np.array([of(path) for path in found])
    return p @ x**2 - (p @ x) ** 2


def test_where_the_reference_alone_is_right_the_value_is_its_likelihood(monkeypatch):
    neat = {None: (A, B, BOX), A: (BOX,), B: (A, BOX), BOX: (OPEN,), OPEN: (ONE, ZERO), ONE: (CLOSE,), CLOSE: (END,)}
    for token, following in neat.items():
        monkeypatch.setitem(NEXT, token, following)
    found = asyncio.run(every_path())
    assert len(found) > 10 and all(path.record.value == path.record.said for path in found)
    assert [value(1)(path) for path in found] == pytest.approx([path.record.behind for path in found])
    assert variance(found, value(1)) < 0.3 * variance(found, value(0))


def test_where_it_is_not_the_coefficient_is_fitted():
    """This Reason has other spellings, further boxes, and goes on behind the reference's answer: a coefficient of 1 would add noise."""
    often, history = [path for path in PATHS for _ in range(round(2000 * path.probability))], None
    for _ in range(2):
        result = credited([(path,) for path in often], history)
        history = result.state
    gamma = result.metrics["credit/answer_coefficient"]
    assert 0.1 < gamma < 0.9
    assert variance(PATHS, value(gamma)) < variance(PATHS, value(0)) < variance(PATHS, value(1))


# -------------------------------------------------------------------------------------- what would be wrong, and is not done


def test_one_number_for_the_whole_turn_teaches_the_answer_nothing():
    result = credited([(path,) for path in PATHS])
    got = gradient(ALONE, lambda path, number, role, place: result.advantage_SV[number, ROLES.index(role)])
    assert gap(got, "thought") < EXACT and gap(got, "answer") > CLEARLY


def test_the_chance_to_open_the_answer_is_not_scored():
    """The opener was sampled: a likelihood that counts it again is smaller than the chance to be right."""

    def again(path: Path, number: int, role: str, place: int) -> float:
        if path.border is None:
            return path.record.value
        heard, said = path.said["reason"]
        opened = chances("reason", heard, said[: path.border.length - 1])[BOX]
        return path.record.value + opened * path.record.behind - path.record.said

    assert gap(gradient(ALONE, again), "chain") > CLEARLY


def test_a_border_that_looks_ahead_is_biased():
    """Of the last box instead of the first: that no other follows is known only later."""

    def last(path: Path, number: int, role: str, place: int) -> float:
        heard, said = path.said["reason"]
        starts = [i for i, token in enumerate(said) if token == BOX and i + 3 <= ROOM]
        if not starts:
            return path.record.value
        kept = said[: starts[-1] + 1]
        on = said[starts[-1] + 1 :][:2] == (OPEN, ONE)
        return path.record.value + continued("reason", heard, kept, (OPEN, ONE)) - on

    assert gap(gradient(ALONE, last), "thought") > CLEARLY
