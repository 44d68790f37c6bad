"""What an evaluation says, for people: tables in a terminal or a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from ccpo.types import REMOVE, REPLACE, SHUFFLE

WORDS = {REMOVE: "removed", REPLACE: "says nothing", SHUFFLE: "from another question"}
Found = Mapping[str, Any]


def show(result: Found, file: TextIO, indispensable: frozenset[str] = frozenset()) -> None:
    """Print all tables of a result. ``indispensable``: roles without which there is no answer."""
    _print(file, *(table for table in (_team(result), _roles(result, indispensable), _tokens(result)) if table.rows))
    for line in notes(result, indispensable):
        print(line, file=file)


def show_comparison(found: Found, file: TextIO) -> None:
    from rich.table import Table

    table = _new(f"A and B on the {found['pairs']} questions that both have", "A", "B", "A minus B")
    assert isinstance(table, Table)
    for row in found["rows"]:
        table.add_row(row["what"], f"{row['a']:.3f}", f"{row['b']:.3f}", text_of(row["difference"], signed=True))
    _print(file, table)
    left = [f"{found[key]} only in {side}" for key, side in (("only_a", "A"), ("only_b", "B")) if found[key]]
    if found["other_text"]:
        left.append(f"{found['other_text']} with the same number and another text")
    print(f"{found['pairs']} questions pair" + (f"; left out: {', '.join(left)}" if left else ""), file=file)


def text_of(found: Found | None, signed: bool = False) -> str:
    """0.512 [0.451, 0.572]"""
    if not found:
        return ""
    sign = "+" if signed else ""
    interval = "" if found["low"] is None else f" [{found['low']:{sign}.3f}, {found['high']:{sign}.3f}]"
    return f"{found['value']:{sign}.3f}{interval}"


def _new(title: str, *columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _print(file: TextIO, *tables: Any) -> None:
    from rich.console import Console

    console = Console(file=file, markup=False, highlight=False, width=None if file.isatty() else 120)
    with console.capture() as printed:
        console.print(*tables, sep="\n")
    print("\n".join(line.rstrip() for line in printed.get().splitlines()), file=file)


def _team(result: Found) -> Any:
    settings, measures = result["settings"], result["measures"]
    k = settings["k"]
    table = _new(
        f"{settings['team']['name']}, {len(result['questions'])} questions, {k} session{'s' * (k > 1)} each",
        "value [95 %]",
        "team minus it",
    )

    def rows(label: str, found: Found) -> None:
        table.add_row(f"{label}, avg@{k}", text_of(found["avg"]), text_of(found.get("team_minus"), signed=True))
        for name in ("pass", "maj"):
            for size, each in found.get(name, {}).items():
                if size != "1":
                    table.add_row(f"{label}, {name}@{size}", text_of(each), "")

    rows("team", measures["team"])
    controls = measures["controls"]
    if "single" in controls:
        rows("one agent", controls["single"])
    voting = controls.get("self_consistency")
    if voting and "avg" in voting:
        table.add_row(
            f"one agent, voting with {voting['samples']:.3g}",
            text_of(voting["avg"]),
            text_of(voting["team_minus"], signed=True),
        )
    return table


def _roles(result: Found, indispensable: frozenset[str]) -> Any:
    table = _new("Roles", "team's value then", "contribution [95 %]", "helped", "hurt")
    for role, found in result["measures"]["roles"].items():
        for how, measured in found.items():
            if how == REMOVE and role in indispensable:
                continue
            table.add_row(
                f"{role} {WORDS[how]}",
                f"{measured['without']['value']:.3f}",
                text_of(measured["contribution"], signed=True),
                f"{measured['helped']['value']:.3f}",
                f"{measured['hurt']['value']:.3f}",
            )
    return table


def _tokens(result: Found) -> Any:
    table = _new("Tokens", "turns", "prompt", "completion")
    for part, label in (("sessions", ""), ("replays", " in replays"), ("controls", ", the control")):
        for role, counts in result["ledger"][part].items():
            table.add_row(
                f"{role}{label}", *(f"{counts[name]:,}" for name in ("turns", "prompt_tokens", "completion_tokens"))
            )
    return table


def notes(result: Found, indispensable: frozenset[str]) -> Iterator[str]:
    """What a reader must know beside the numbers, line by line."""
    for role in sorted(indispensable):
        yield f"{role}: without it there is no answer, so its removal is worth all that the team has"
    for role, found in result["measures"]["roles"].items():
        worth = [measured["contribution"] for measured in found.values()]
        if (
            role not in indispensable
            and worth
            and all(each["low"] is not None and each["low"] <= 0 <= each["high"] for each in worth)
        ):
            yield f"{role}: no contribution was found, as every interval holds 0: it may be a free-rider, or the questions are too few"
    if note := result["measures"]["team"].get("note"):
        yield f"{note}: not shown"
    for name, label in (("team", "the team"), ("single", "one agent"), ("self_consistency", "one agent, voting")):
        cost = result["cost"].get(name)
        if cost and cost["completion_tokens"] is not None:
            yield f"an answer of {label}: {cost['completion_tokens']:.1f} completion tokens, {cost['tokens']:.1f} with its prompts"
    unknown = sum(counts["unknown"] for part in result["ledger"].values() for counts in part.values())
    if unknown:
        yield f"{unknown} turns have no token counts: the server does not say"
    words = {"session": "sessions", "shuffle": "sessions with turns exchanged", "single": "answers of one agent"}
    for kind, label in words.items():
        counts = result["bad"].get(kind)
        if counts and counts["played"] < counts["wanted"]:
            why = ", ".join(f"{reason}: {number}" for reason, number in counts["dropped"].items())
            yield (
                f"{counts['wanted'] - counts['played']} of {counts['wanted']} {label} are missing ({why}) and left out of all numbers; the same "
                "command tries them again"
            )
    odd = ("truncated", "empty", "unparsed", "leaked")
    for role, counts in {**result["bad"]["roles"], **result["bad"]["controls"]}.items():
        listed = [f"{counts[name]} {name}" for name in odd if counts[name]]
        if listed:
            yield f"{role}: of {counts['turns']} turns {', '.join(listed)}"
    if flat := min(_without_width(result["measures"]), default=0):
        yield (
            f"an interval without width says that all questions had the same value, not that it is sure: of other questions up to "
            f"{1 - 0.05 ** (1 / flat):.1%} may differ"
        )
    if len(result["questions"]) < 20:
        yield f"{len(result['questions'])} questions are few: intervals are too narrow"


def _without_width(measures: Found) -> Iterator[int]:
    """Over how many questions the shown estimates are whose questions have one value: drawing them again gives no other."""
    for name, found in measures.items():
        if isinstance(found, Mapping) and name not in ("without", "helped", "hurt"):
            if "low" not in found:
                yield from _without_width(found)
            elif found["low"] is not None and found["high"] - found["low"] < 1e-12:
                yield found["questions"]
