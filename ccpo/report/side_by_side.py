"""Two questions' sessions before and after training, beside each other in a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from ccpo.report.logged import spelt
from ccpo.run.output import printable
from ccpo.run.session_log import VAL
from ccpo.run.texts import NOT_KEPT, has_texts

CHANGED = "the first that went from wrong to right"
OTHER = "the first other one"
WIDEST = 110  # columns
MOST_TEXT = 300  # characters of a turn
MOST_REPLAYS = 4
_safe = partial(printable, keep="\n")


def chosen(sessions: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping, Mapping]]:
    """(why, before, after) of the questions that are shown: by rule, none by hand. Empty unless the first and the last validation were kept. Those
    without texts only where there are no others."""
    steps = [entry["step"] for entry in sessions if entry["kind"] == VAL]
    if not steps or min(steps) == max(steps):
        return []
    first, last = (
        {
            (entry["source"], entry["index"], entry["session"]): entry
            for entry in sessions
            if entry["kind"] == VAL and entry["step"] == step
        }
        for step in (min(steps), max(steps))
    )
    pairs = [(first[name], last[name]) for name in sorted(first.keys() & last.keys())]
    pairs = [pair for pair in pairs if all(map(has_texts, pair))] or pairs
    turned = next((pair for pair in pairs if pair[0]["value"] <= 0 and pair[1]["value"] >= 1), None)
    other = [(OTHER, *pair) for pair in pairs if pair is not turned][:1]
    return ([(CHANGED, *turned)] if turned else []) + other


def before_and_after(sessions: Sequence[Mapping[str, Any]], width: int | None = None, colour: bool = False) -> str:
    """The text, at most ``width`` columns wide (None: the terminal's, 80 where there is none)."""
    found = chosen(sessions)
    if not found:
        return (
            "no sessions of two validations were kept (ccpo.keep_sessions), so none are shown before and after training"
        )
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, force_terminal=colour or None, highlight=False)
    console.width = min(console.width, WIDEST)
    console.print("validation questions before and after training, chosen by rule")
    if found[0][0] != CHANGED:
        console.print("(none went from wrong to right)")
    for why, before, after in found:
        console.print(f"\n{why}:")
        console.print(_beside(before, after))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def _beside(before: Mapping, after: Mapping) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    question = Text(f"{_safe(before.get('question', NOT_KEPT))}  (truth: {_safe(str(before.get('truth')))})")
    table = Table(box=box.ASCII2, expand=True, title=question, title_justify="left", title_style="bold", safe_box=True)
    for one in (before, after):
        table.add_column(f"step {one['step']}", ratio=1, overflow="fold")
    rows = [[*_said(one), ("team", one["value"], None)] for one in (before, after)]
    rows = [[*own, *_replayed(one)] for own, one in zip(rows, (before, after), strict=True)]
    for number in range(max(map(len, rows))):
        table.add_row(*(_cell(own[number]) if number < len(own) else "" for own in rows))
    return table


Said = tuple[str, "float | None", "str | None"]
"""Who, the verdict and the text, each if there is one."""


def _said(one: Mapping) -> list[Said]:
    return [(turn["role"], None, turn.get("text", NOT_KEPT)) for turn in one["turns"]]


def _replayed(one: Mapping) -> Iterable[Said]:
    """What the team got in replays: all that decoded something, or took another vote; without texts it is not known which, so all."""
    found = [replay for replay in one["replays"] if replay.get("turns", True) or one.get("ballots")]
    for replay in found[:MOST_REPLAYS]:
        yield (
            spelt(replay["how"], replay["role"]),
            replay["value"],
            replay["turns"][-1]["text"] if replay.get("turns") else None,
        )
    if len(found) > MOST_REPLAYS:
        yield f"and {len(found) - MOST_REPLAYS} more replays", None, None


def _cell(said: Said) -> Any:
    from rich.text import Text

    who, value, text = said
    cell = Text(_safe(who), style="bold")
    if value is not None:
        word = "right" if value >= 1 else "wrong" if value <= 0 else f"worth {value:.3g}"
        cell.append(": ", style="not bold").append(word, style="not bold green" if value >= 1 else "not bold red")
    if text is not None:
        cell.append(
            f"{': ' if value is None else ', '}{_safe(text[:MOST_TEXT])}{' ...' if len(text) > MOST_TEXT else ''}",
            style="not bold",
        )
    return cell
