"""What a team's program may do. A program is ``async def play(self, s: Session) -> Outcome``:

    class Dyad(Team):
        roles = ("think", "reason")

        async def play(self, s):
            thought = await s.say("think", question=s.question)
            return s.answer(await s.say("reason", question=s.question, thought=thought))

It hears what the dataset row asks and what its agents say, never the truth. Decoding and judging are injected (`Scene`), so the same
program runs on verl's servers, on a fake, on any chat API, and without a model (`ccpo.team.plan`). It has to be a function of what it
hears: the same turns must lead it the same way, since a counterfactual is the program run again. Source: our construction.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ccpo.plurality import check_tie, vote_value
from ccpo.prompts import Messages


class TeamError(ValueError):
    """A program that cannot be run, or a team that is not one; the text says what is wrong and what to set."""


@dataclass(frozen=True)
class Decoded:
    """One response. ``truncated``: cut by the token limit. ``payload``: the decoder's own record of the request."""

    text: str
    truncated: bool = False
    payload: Any = None


@dataclass(frozen=True, eq=False)
class Turn:
    """What a role said. ``number``: 0 for its first turn of the run. ``cut``: something that it read lost its left end."""

    role: str
    number: int
    text: str
    truncated: bool = False
    cut: bool = False
    payload: Any = None


@dataclass(frozen=True)
class Quote:
    """What another role is shown of a turn: ``prefix`` and ``text``. ``short`` stands in where the text does not fit the prompt; None: the
    text loses its left end. A text without ``short`` that is not to be cut is passed as plain text."""

    turn: Turn
    text: str
    prefix: str = ""
    short: str | None = None


@dataclass(frozen=True)
class Outcome:
    """The team's answer. ``turns``: one, or the ballots of a plurality, whose ties are worth what ``tie`` says (None: no plurality)."""

    turns: tuple[Turn, ...]
    tie: str | None = None


class Team:
    """A team: the names of its roles, and the program that they play. Settings are the fields of a dataclass.

    roles:   names, in the order in which tables show them.
    prompts: set name -> role or pattern (``voter_*``) -> templates (`ccpo.prompts`); None: a YAML file beside the module.
    columns: columns of the dataset row that the program reads (``s.row``): what only some roles are to see. Never the truth.
    aliases: replay -> what it is called in metrics, for example ``{"without_think": "solo"}``.
    samples: role -> texts that `plan` lets it say, where the program's way depends on them; else a marked stand-in.
    """

    roles: tuple[str, ...] = ()
    prompts: Mapping[str, Mapping[str, Any]] | None = None
    columns: tuple[str, ...] = ()
    aliases: Mapping[str, str] = {}
    samples: Mapping[str, Sequence[str]] = {}
    max_turns: int = 256

    async def play(self, s: Session) -> Outcome:
        raise NotImplementedError


@dataclass(frozen=True)
class PromptBudget:
    """How to keep a prompt inside its budget by cutting what other agents said, never the question.

    count:  messages -> prompt tokens
    cut:    (text, tokens) -> the text without its first ``tokens`` tokens
    limit:  prompt tokens allowed
    """

    count: Callable[[Messages], int]
    cut: Callable[[str, int], str]
    limit: int


class Judge(Protocol):
    """The verifier, with the truth that the program does not see."""

    truth: str

    def verify(self, text: str) -> Awaitable[Any]:
        """A verdict: ``answer`` (what was read, or None), ``reward`` in [0, 1], ``parsed`` (without an answer: it was judged as a whole)."""

    def label(self, answer: str) -> str:
        """Canonical spelling of an answer."""

    def same(self, a: str, b: str) -> Awaitable[bool]:
        """Whether two answers mean the same."""


@dataclass(frozen=True)
class Scene:
    """Where a session takes place, and for whom.

    question: what the user asks. row: the dataset row's columns. number: the session's number within its prompt.
    decode:   (role, messages, label) -> Decoded; ``label`` names the request: the role, (role, turn) or a replay's. An exception ends
              the session. render: (role, fields) -> messages. budget: role -> its prompt budget, or None.
    judge:    see `Judge`. seed: of ``Session.random``.
    end_when_truncated: a turn that was cut ends the run, worth 0 (as the published dyad does).
    """

    question: str
    decode: Callable[[str, Messages, Hashable], Awaitable[Decoded]]
    render: Callable[[str, Mapping[str, str]], Messages]
    judge: Judge
    budget: Callable[[str], PromptBudget | None] = lambda role: None
    row: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0
    seed: Hashable = 0
    end_when_truncated: bool = False


class Ended(Exception):
    """The run is over without an answer."""


Key = tuple[str, tuple, int]
"""(role, what it hears, how often it was asked the same before)."""


class Memory:
    """The turns of a session, by what their role heard, for those who replay it; a turn may still be decoding."""

    def __init__(self) -> None:
        self._turns: dict[Key, asyncio.Future] = {}
        self._closed = False

    def slot(self, key: Key) -> asyncio.Future:
        """The turn, as soon as the session speaks it; None once the session is over without it."""
        if key not in self._turns:
            self._turns[key] = asyncio.get_running_loop().create_future()
            if self._closed:
                self._turns[key].set_result(None)
        return self._turns[key]

    def close(self) -> None:
        """The session is over: whoever still waits for a turn learns that there is none."""
        self._closed = True
        for turn in self._turns.values():
            if not turn.done():
                turn.set_result(None)


class Session:
    """One run of a program: the session itself, or a replay of it (`ccpo.team.replay`).

    question: what the user asks. row: the dataset row's columns that the team declares.
    """

    def __init__(self, team: Team, scene: Scene, answers: Answers, memory: Memory | None = None) -> None:
        self.question = scene.question
        self.row: Mapping[str, Any] = Row(team, scene.row)
        self.turns: list[Turn] = []
        self.answers = answers
        self.asked: set[Turn] = set()  # turns that this run asked for an answer
        self._team, self._scene = team, scene
        self._memory = memory
        self._asked: Counter = Counter()
        self._spoken: Counter = Counter()

    @property
    def random(self) -> random.Random:
        """Chance of the session's own, the same in its replays. A team that uses it is not the same for all sessions of a prompt."""
        if not hasattr(self, "_random"):
            self._random = random.Random(repr(self._scene.seed))
        return self._random

    async def say(self, role: str, **fields: Any) -> Turn | None:
        """Let a role speak; it hears the fields that are not None, through the template that has exactly these.

        Args:
            role: one of the team's.
            fields: text, a turn, a quote, or a list of turns and quotes (lines; an empty list is None).

        Returns:
            The turn; None where this run removes the role.
        """
        if role not in self._team.roles:
            raise TeamError(
                f"the program lets {role!r} speak, which is no role of {type(self._team).__name__}: it declares "
                f"{', '.join(self._team.roles) or 'none'}; add it to roles"
            )
        heard = {name: value for name, given in fields.items() if (value := _present(given)) is not None}
        number = self._spoken[role]
        self._spoken[role] += 1
        if sum(self._spoken.values()) > self._team.max_turns:
            raise TeamError(
                f"the program of {type(self._team).__name__} does not end: it asked for more than {self._team.max_turns} turns; "
                "let it stop, or raise max_turns of the team"
            )
        what = self._identity(heard)
        key = (role, what, self._asked[role, what])
        self._asked[role, what] += 1
        turn = await self._speak(role, number, heard, key)
        if turn is not None:
            self.turns.append(turn)
            if turn.truncated and self._scene.end_when_truncated:
                raise Ended
        return turn

    async def all(self, *parts: Coroutine) -> list:
        """Results of coroutines that run at the same time; the first failure is raised at once and cancels the rest."""
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def read(self, turn: Turn | None) -> str | None:
        """The answer that stands in a turn, as the verifier reads it; None if it cannot, or if nobody spoke."""
        return (await self.answers.verdict(self._said(turn, "s.read"))).answer if turn is not None else None

    def without_answer(self, turn: Turn | None) -> Turn | Quote | None:
        """The turn as others may hear it, without a final answer that it states."""
        return self.answers.stripped(turn) if turn is not None else None

    def answer(self, turn: Turn | None) -> Outcome:
        """This turn is the team's answer; None: there is none, worth 0."""
        return Outcome(() if turn is None else (self._said(turn, "s.answer"),))

    def plurality(self, turns: Sequence[Turn | None], tie: str = "expected") -> Outcome:
        """The answer that most of these turns give; equal answers count as one, and what cannot be read is no ballot."""
        try:
            check_tie(tie)
        except ValueError as error:
            raise TeamError(str(error)) from None
        said = [self._said(turn, "s.plurality") for turn in turns if turn is not None]
        # In the order of the roles, so that whose ballot comes first (tie "first") is the same for the value and for the credit.
        return Outcome(tuple(sorted(said, key=lambda turn: (self._team.roles.index(turn.role), turn.number))), tie)

    def _said(self, turn: Any, call: str) -> Turn:
        if not isinstance(turn, Turn):
            raise TeamError(f"{call} takes turns that s.say returned, not {type(turn).__name__} {str(turn)[:40]!r}")
        self.asked.add(turn)
        return turn

    # ------------------------------------------------------------------------------------------- what a replay changes

    async def _speak(self, role: str, number: int, heard: dict[str, Any], key: Key) -> Turn | None:
        slot = self._memory.slot(key)
        turn = await self._decode(role, number, heard, (role, number) if number else role)
        if not slot.done():  # the run ended before this branch of it
            slot.set_result(turn)
        return turn

    async def _decode(self, role: str, number: int, heard: dict[str, Any], label: Hashable) -> Turn:
        messages, cut = fitted(role, heard, self._scene.render, self._scene.budget(role))
        said = await self._scene.decode(role, messages, label)
        return Turn(role, number, said.text, said.truncated, cut, said.payload)

    def _identity(self, heard: dict[str, Any]) -> tuple:
        """What a role hears, comparable between the runs of one session."""
        return tuple(sorted((name, _text(value)) for name, value in heard.items()))


class Row(Mapping):
    """The columns that a team declares, of the row itself or of its ``extra_info``; everything else is refused."""

    def __init__(self, team: Team, row: Mapping[str, Any]) -> None:
        self._team, self._row = team, row

    def __getitem__(self, name: str) -> Any:
        if name not in self._team.columns:
            raise TeamError(
                f"the program reads column {name!r}, which {type(self._team).__name__} does not declare: add it to columns, so that "
                "every row can be checked for it before training"
            )
        if name not in (found := visible(self._row)):
            raise TeamError(f"the dataset row has no column {name!r}: it has {', '.join(found)}")
        return found[name]

    def __iter__(self):
        return iter(self._team.columns)

    def __len__(self) -> int:
        return len(self._team.columns)


HIDDEN = ("reward_model", "ground_truth", "truth", "answer", "solution", "reference", "extra_info")
"""Columns that say the truth: no program sees them."""


def visible(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that a program may read: its own and those of ``extra_info``, never the truth."""
    extra = row.get("extra_info")
    columns = {**row, **(extra if isinstance(extra, Mapping) else {})}
    return {name: value for name, value in columns.items() if name not in HIDDEN}


@dataclass(frozen=True)
class PlainVerdict:
    """A verdict that no verifier gave."""

    answer: str | None = None
    reward: float = 0.0
    parsed: bool = False


UNREAD = PlainVerdict()


class Answers:
    """What the turns of a session and of its replays are worth; a text is judged once."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._verdicts: dict[str, asyncio.Future] = {}
        self._wrong: list[str] = []
        self._labels: dict[Turn, str | None] = {}

    async def verdict(self, turn: Turn) -> Any:
        """What the verifier says of a turn. One that was cut is not read: it may have been about to say something else."""
        if turn.truncated:
            return UNREAD
        if turn.text not in self._verdicts:
            self._verdicts[turn.text] = asyncio.ensure_future(self._judge.verify(turn.text))
        return await asyncio.shield(self._verdicts[turn.text])  # others may wait for the same

    def stripped(self, turn: Turn) -> Turn | Quote:
        from ccpo.verifier import looks_like_answer, strip_answer

        return Quote(turn, strip_answer(turn.text)) if looks_like_answer(turn.text) else turn

    async def value(self, outcome: Outcome) -> float:
        """R of an outcome: 0 without an answer, or for one that was cut."""
        if outcome.tie is None:
            if not outcome.turns:
                return 0.0
            return float((await self.verdict(outcome.turns[0])).reward)
        return vote_value([await self.ballot(turn) for turn in outcome.turns], self._judge.truth, outcome.tie)

    async def ballot(self, turn: Turn) -> str | None:
        """The turn's label: the truth if it is right, that of the first equivalent wrong answer, None if it was cut or cannot be read."""
        if turn not in self._labels:
            self._labels[turn] = await self._label(turn)
        return self._labels[turn]

    async def _label(self, turn: Turn) -> str | None:
        verdict, truth = await self.verdict(turn), self._judge.truth
        if verdict.answer is None and verdict.parsed:
            raise TeamError(
                "a vote counts answers, and the reward gave a bare number: let it return ccpo.reward.Reward(value, answer)"
            )
        if verdict.answer is None:
            return None
        if 0 < verdict.reward < 1:
            raise TeamError(
                f"a vote is worth 1 where its answer is right and 0 where it is wrong, and the reward gave the answer {verdict.answer[:40]!r} "
                f"{verdict.reward:g}: let it give ballots 0 or 1, or let one turn be the team's answer (s.answer)"
            )
        if verdict.reward == 1.0:
            return truth
        own = self._judge.label(verdict.answer)
        if own == truth:  # spelled like the truth and yet judged wrong
            own = f"not {own}"
        for seen in self._wrong:
            if seen == own or await self._judge.same(seen, own):
                return seen
        self._wrong.append(own)
        return own


# ----------------------------------------------------------------------------------------------------- what a role hears


def _present(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [item for item in value if item is not None] or None
    return value


def _text(value: Any) -> str:
    if isinstance(value, (Turn, Quote)):
        return (value.prefix if isinstance(value, Quote) else "") + value.text
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    return str(value)


def fitted(
    role: str,
    heard: Mapping[str, Any],
    render: Callable[[str, Mapping[str, str]], Messages],
    budget: PromptBudget | None,
) -> tuple[Messages, bool]:
    """(the role's messages, whether what it hears was cut to fit).

    What other roles said loses its left end, each of them as much, until the prompt fits; plain text is never cut. Raises TeamError if
    the prompt does not fit even so.
    """

    def filled() -> Messages:
        return render(role, {name: _text(value) for name, value in heard.items()})

    messages, cut = filled(), False
    if budget is None:
        return messages, cut
    heard = dict(heard)
    while (over := budget.count(messages) - budget.limit) > 0:
        parts = [
            (name, i)
            for name, value in heard.items()
            for i, item in enumerate(value if isinstance(value, list) else [value])
            if isinstance(item, (Turn, Quote)) and item.text and item.text != getattr(item, "short", None)
        ]
        if not parts:
            raise TeamError(
                f"the prompt of {role} is {over} tokens over its budget of {budget.limit} even without what others said: set "
                "data.max_prompt_length higher, or drop the long questions from the dataset"
            )
        for name, i in parts:
            value = heard[name]
            if isinstance(value, list):
                heard[name] = [*value[:i], _shorter(value[i], -(-over // len(parts)), budget), *value[i + 1 :]]
            else:
                heard[name] = _shorter(value, -(-over // len(parts)), budget)
        messages, cut = filled(), True
    return messages, cut


def _shorter(item: Turn | Quote, tokens: int, budget: PromptBudget) -> Quote:
    quote = item if isinstance(item, Quote) else Quote(item, item.text)
    text = budget.cut(quote.text, tokens)
    if not text or len(text) >= len(quote.text):
        text = quote.short or ""
    return Quote(quote.turn, text, quote.prefix, quote.short)
