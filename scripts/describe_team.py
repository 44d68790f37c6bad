"""What a team is, before anything is trained: who hears whom, what each credit rule costs, and its longest prompts. Needs no model.

python scripts/describe_team.py dyad
python scripts/describe_team.py vote --kwargs n_voters=5 rounds=2 --prompts choice
python scripts/describe_team.py path/to/file.py:Class -n 4
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

import yaml

from ccpo.config import CcpoConfig, ConfigError
from ccpo.credit.base import CreditConfig
from ccpo.credit.rules import RULES, fits
from ccpo.prompts import PromptError, Prompts
from ccpo.run.output import until_cut
from ccpo.team.load import prompt_sets, prompts_of
from ccpo.team.plan import Plan
from ccpo.team.session import TeamError

WIDTH = 100
QUESTION = "question"
"""The field in which programs pass on what the user asks."""


def drawing(plan: Plan) -> Iterator[str]:
    """A matrix: one line per turn, one column per turn that is heard."""
    number = {spot: i for i, spot in enumerate(plan.turns, 1)}
    heard = sorted({number[spot] for spots in plan.hears.values() for spot in spots})
    names = {spot: spot[0] + (f", turn {spot[1] + 1}" if plan.most[spot[0]] > 1 else "") for spot in plan.turns}
    name_width, digits = max(map(len, names.values())), len(str(len(plan.turns)))
    outcome = "=> answer" if plan.tie is None else f"=> plurality ({plan.tie})"
    wide = digits + name_width + 14 + len(heard) * (digits + 2) + len(outcome) > WIDTH
    titles = ["", *("" if wide else f"  {i:>{digits}}" for i in heard)]
    yield f"{'':{digits}}  {'':{name_width}}  {QUESTION}{''.join(titles)}{'  turns' if wide and heard else ''}".rstrip()
    for spot, i in number.items():
        asks = any(QUESTION in fields for fields in plan.fields[spot[0]])
        heard_here = {number[other] for other in plan.hears[spot]}
        marks = (
            "  " + _ranges(heard_here)
            if wide
            else "".join(f"  {'x' if j in heard_here else '.':>{digits}}" for j in heard)
        )
        last = spot[0] in plan.answers and spot[1] == plan.most[spot[0]] - 1
        asked = f"{'x' if asks else '.':^{len(QUESTION)}}"
        yield f"{i:>{digits}}  {names[spot]:{name_width}}  {asked}{marks}{'  ' + outcome if last else ''}".rstrip()


def _ranges(numbers: set[int]) -> str:
    """1-3, 5"""
    parts: list[list[int]] = []
    for i in sorted(numbers):
        if parts and parts[-1][-1] == i - 1:
            parts[-1].append(i)
        else:
            parts.append([i])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def costs(config: CcpoConfig, n: int) -> Iterator[str]:
    """A table of the rules that fit, then those that do not, with the reason."""
    plan = config.plan
    yield f"{'rule':<16} {'rows':>5} {'replayed':>8}  {'unbiased':<8}  tells the roles apart"
    reasons = {name: fits(name, plan) for name in RULES}
    for name, rule in RULES.items():
        if reasons[name] is None:
            ruled = CcpoConfig(team=config.team, team_kwargs=config.team_kwargs, credit=CreditConfig(rule=name))
            ruled.__dict__["plan"] = plan  # it is the same for every rule
            rows = Fraction(ruled.rows_per_prompt(n), n)
            scored = Fraction((len(plan.roles) - 1) * n + 1, n)
            cost = f" Scores the reference answer behind {scored} prompts a session, at most." if rule.reference else ""
            first, *rest = textwrap.wrap(rule.apart + cost, WIDTH - 43)
            yield f"{name:<16} {rows!s:>5} {decodes(ruled, n)!s:>8}  {'yes' if rule.unbiased else 'no':<8}  {first}"
            yield from (" " * 43 + line for line in rest)
    if none := {name: reason for name, reason in reasons.items() if reason is not None}:
        yield ""
        yield "Rules that do not fit:"
        for name, reason in none.items():
            yield from textwrap.wrap(f"{name:<16} {reason}", WIDTH, subsequent_indent=" " * 17)


def decodes(config: CcpoConfig, n: int) -> Fraction:
    """Turns decoded for replays per session, on top of the session's own, at most."""
    replays = (do for session in range(n) for do in config.replays(session, n, validating=False))
    return Fraction(sum(config.plan.replay(do.how, do.role).decodes for do in replays), n)


def longest_prompts(plan: Plan, prompts: Prompts) -> Iterator[str]:
    """Every role's template with the most fields, and what is missing; roles that are told the same stand together."""
    told: dict[tuple, list[str]] = {}
    for role in plan.roles:
        if templates := prompts.of(role):
            fields = max(templates, key=lambda names: (len(names), sorted(names)))
            messages = prompts.messages(role, {name: f"<{name}>" for name in fields})
            told.setdefault(tuple((m["role"], m["content"]) for m in messages), []).append(role)
    for messages, roles in told.items():
        yield from textwrap.wrap(", ".join(roles), WIDTH)
        for chat, text in messages:
            lines = [part for line in text.split("\n") for part in textwrap.wrap(line, WIDTH - 13) or [""]]
            yield from (f"  {chat if i == 0 else '':<9}  {line}".rstrip() for i, line in enumerate(lines))
    for role in plan.roles:
        for fields in sorted(plan.fields[role] - set(prompts.of(role)), key=sorted):
            yield from textwrap.wrap("missing: " + prompts.missing(role, fields), WIDTH, subsequent_indent="  ")


def describe(team: str, kwargs: dict[str, object], chosen: str | None, n: int) -> Iterator[str]:
    """The page, line by line. Raises TeamError, ConfigError or PromptError."""
    config = CcpoConfig(team=team, team_kwargs=kwargs)
    cls, plan = type(config.members), config.plan
    settings = ", ".join(f"{name}={value}" for name, value in kwargs.items())
    yield f"{cls.__name__}{f' ({settings})' if settings else ''}: {_many(len(plan.roles), 'role')}, {_many(plan.rows, 'turn')} a session"
    yield ""
    yield "Who hears whom"
    yield from drawing(plan)
    yield ""
    yield from textwrap.wrap(
        f"Credit rules with n={n}: rows to train on per session, and turns decoded for replays per session besides its own, at most",
        WIDTH,
    )
    yield from costs(config, n)
    yield ""
    if chosen is None:
        sets = list(prompt_sets(cls))
        if not sets:
            yield f"{cls.__name__} has no prompts of its own: give --prompts path/to/prompts.yaml:NAME"
            return
        chosen = config.prompts if config.prompts in sets else sets[0]
    prompts = prompts_of(cls, chosen)
    yield f"Longest prompts of the set {prompts.name}"
    yield from longest_prompts(plan, prompts)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _setting(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is no name=value")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text!r} has no readable value") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of sessions: set at least 1")
    return int(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(1, f"error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _Parser(description="Describe a team, without a model.")
    parser.add_argument("team", metavar="TEAM", help="dyad, vote, package.module:Class or path/to/file.py:Class")
    parser.add_argument(
        "--kwargs",
        nargs="+",
        type=_setting,
        default=[],
        metavar="name=value",
        help="settings of the team, as ccpo.team_kwargs",
    )
    parser.add_argument(
        "--prompts", help="name of a set of prompts, file.yaml or file.yaml:NAME (default: math, or the first)"
    )
    parser.add_argument("-n", type=_count, default=8, help="sessions per prompt (default: 8)")
    given = parser.parse_args(arguments)
    try:
        lines = list(describe(given.team, dict(given.kwargs), given.prompts, given.n))
    except ConfigError as error:
        lines = ["; ".join(error.problems)]
    except (TeamError, PromptError) as error:
        lines = [str(error)]
    else:
        print("\n".join(lines))
        return 0
    print("error: " + " ".join(lines[0].split()), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(until_cut(main))
