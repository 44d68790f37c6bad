"""One self-contained HTML page of one or several runs: tables, curves, and sessions to search. Nothing of it is loaded from a network.

What a model said reaches the page as JSON in a script element that is no program, with every < escaped, and is shown as text only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

from ccpo.report.charts import ACCURACY, BATCHES, RESOURCES, needed_roles, of_groups, of_run, thinned
from ccpo.report.logged import TEAM, ReportError, mean, measured, sources_of, summarize, validations
from ccpo.report.runs import Run, groups, over_seeds
from ccpo.report.table import Table, accuracy_tables, duration, time_table, training_tables
from ccpo.run.session_log import TRAIN, VAL, as_json, rank
from ccpo.run.texts import has_texts

MOST_BYTES = 4_900_000  # of a page
MOST_TEXT = 20_000  # characters of one turn; the file has all
MOST_POINTS, LEAST_POINTS = (
    400,
    30,
)  # of a curve: of one run, and of one of very many; of a longer run every 2nd, 3rd, ... step is drawn
ASSETS = resources.files("ccpo.report")


def page(runs: Sequence[Run], title: str) -> str:
    """The page, of at most `MOST_BYTES` in UTF-8. Raises ReportError where the curves alone are more."""
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_asset("page.html"))
    parts = {
        "title": _plain(title),
        "css": _asset("page.css"),
        "licenses": _asset("licenses.txt"),
        "library": _library(),
        "program": _asset("page.js"),
    }
    points = max(LEAST_POINTS, MOST_POINTS // len(runs))
    data = {"runs": [_run(run, points) for run in runs], "together": _together(runs, points)}
    left = MOST_BYTES - len(template.render(**parts, data=_json(data)).encode())
    if left < 0:
        raise ReportError(
            f"the page of {len(runs)} runs would be larger than {MOST_BYTES / 1e6:.1f} MB without any session: report fewer at once"
        )
    for run, shown in zip(runs, data["runs"], strict=True):
        shown["sessions"] = _sample(run.sessions, left // len(runs))
    return template.render(**parts, data=_json(data))


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed, 0.9 MB; put together within a second."""
    from vl_convert import javascript_bundle

    return javascript_bundle()


def _asset(name: str) -> str:
    return ASSETS.joinpath(name).read_text(encoding="utf-8")


def _plain(text: str) -> str:
    """A folder's name may hold bytes that are no text."""
    return text.encode("utf-8", "replace").decode()


def _json(data: Any) -> str:
    """JSON that stands in a script element of any page: ASCII, and without a character that HTML could read."""
    return as_json(data).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _run(run: Run, points: int) -> dict[str, Any]:
    """What the page shows of a run, without its sessions."""
    summary = summarize(run.entries)
    seconds = summary["seconds"]
    tables = {
        ACCURACY: accuracy_tables(run.entries, summary),
        BATCHES: training_tables(summary),
        RESOURCES: [time_table(seconds)] if seconds else [],
    }
    sections = [
        {"heading": heading, "tables": [_table(table) for table in tables.get(heading, [])], "charts": charts}
        for heading, charts in of_run(run, points).items()
    ]
    return {
        "name": _plain(run.name),
        "label": _plain(run.label),
        "seed": run.seed,
        "steps": summary["steps"],
        "time": duration(seconds) if seconds else "",
        "sections": [section for section in sections if section["tables"] or section["charts"]],
        "needed": needed_roles(run),
        "kept": len(run.sessions),
        "bare": sum(not has_texts(entry) for entry in run.sessions),
        "sessions": [],
    }


def _table(table: Table) -> dict[str, Any]:
    return {"head": table.head, "rows": table.rows, "notes": table.notes}


def _together(runs: Sequence[Run], points: int) -> dict[str, Any] | None:
    """Several runs: what they got last, and means over the seeds."""
    if len(runs) < 2:
        return None
    found = groups([replace(run, entries=thinned(run.entries, points)) for run in runs])
    rows = [
        (label, source, *_last(members, source))
        for label, members in found.items()
        for source in sorted({source for run in members for source in sources_of(run.entries)})
    ]
    head = ("runs", "data", "seeds", "first validation", "last validation", "change")
    notes = ("accuracy of the team; +- is half of the 95 % t interval over seeds",)
    return {"table": _table(Table(head, rows, notes)), "charts": of_groups(found)}


def _last(runs: Sequence[Run], source: str) -> tuple[str, ...]:
    ends = []
    for run in runs:
        if seen := validations(run.entries, source):
            metric = measured(run.entries, source).accuracies[TEAM]
            ends.append((seen[0]["metrics"][metric], seen[-1]["metrics"][metric]))
    seeds = ", ".join(run.seed for run in runs)
    columns = [[first for first, _ in ends], [last for _, last in ends], [last - first for first, last in ends]]
    return f"{len(ends)} ({seeds})", *(_spread(values, runs) for values in columns)


def _spread(values: Sequence[float], runs: Sequence[Run]) -> str:
    bounds = over_seeds(values, runs)
    return f"{mean(list(values)):.3f}" + (f" +- {(bounds[1] - bounds[0]) / 2:.3f}" if bounds else "")


# --- sessions -------------------------------------------------------------------------------------------------------


def _sample(sessions: Sequence[dict], most_bytes: int) -> list[dict]:
    """As many sessions as fit, chosen by chance: training sessions one by one, validation sessions by their question, so that one that is
    shown is there before and after training. Those whose texts were kept, at every step, come before others."""
    bare = {_place(entry) for entry in sessions if not has_texts(entry)}
    blocks: dict[tuple, list[dict]] = {}
    for entry in sessions:
        source, index, _, kind, step = _place(entry)
        blocks.setdefault((_place(entry) in bare, source, index, kind, step), []).append(entry)
    kept: list[dict] = []
    for name in sorted(blocks, key=lambda name: (name[0], rank(*name[1:]))):
        shown = [_shown(entry) for entry in blocks[name]]
        size = len(_json(shown))
        if size <= most_bytes:
            most_bytes -= size
            kept += shown
    return sorted(kept, key=lambda one: (one["step"], one["kind"] == VAL, one["source"], one["index"], one["session"]))


def _place(entry: Mapping[str, Any]) -> tuple:
    """The same for one session of all validations."""
    step = entry["step"] if entry["kind"] == TRAIN else VAL
    return entry["source"], entry["index"], entry["session"], entry["kind"], step


def _shown(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A session as the page needs it; what is false or unknown is left out, and so are texts that were not kept."""
    replays = [
        {
            **_filled(replay, ("how", "role", "name", "value")),
            "turns": [_turn(turn) for turn in (replay["turns"] if has_texts(entry) else ())],
        }
        for replay in entry["replays"]
    ]
    names = ("step", "kind", "source", "index", "session", "value", "credit", "advantage", "likelihood")
    question = {"question": _cut(entry["question"])} if has_texts(entry) else {"bare": True}
    texts = {**question, "truth": _cut(str(entry.get("truth", ""))), **_answer(entry)}
    if isinstance(ballots := entry.get("ballots"), dict):
        texts["ballots"] = {role: None if label is None else _cut(str(label)) for role, label in ballots.items()}
    return {**_filled(entry, names), **texts, "turns": [_turn(turn) for turn in entry["turns"]], "replays": replays}


def _turn(turn: Mapping[str, Any]) -> dict[str, Any]:
    found = {**_filled(turn, ("role", "reward")), **_answer(turn)}
    marks = [name for name in ("truncated", "cut", "leaked") if turn.get(name)]
    text = {"text": _cut(turn["text"])} if "text" in turn else {}
    return {**found, **text, **({"marks": marks} if marks else {})}


def _answer(found: Mapping[str, Any]) -> dict[str, str]:
    return {"answer": _cut(str(found["answer"]))} if found.get("answer") is not None else {}


def _filled(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: found[name] for name in names if found.get(name) is not None}


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} ... ({len(text) - MOST_TEXT} more characters)"
