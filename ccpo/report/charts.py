"""The charts of a page as Vega-Lite specifications: one quantity an axis, named and with its unit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ccpo.report.logged import (
    CONTRIBUTION,
    MANY_ROLES,
    MANY_SESSIONS,
    SESSIONS,
    TEAM,
    TEAM_IN_TRAINING,
    Measured,
    indispensable,
    mean,
    measured,
    scores,
    series,
    sources_of,
    spelt,
    trained_roles,
    validations,
    wilson,
)
from ccpo.report.means import t_interval
from ccpo.report.runs import Run, differences, over_seeds, questions
from ccpo.run.step_times import PARTS, STEP, part_seconds
from ccpo.team.replay import Intervention
from ccpo.types import REMOVE, REPLACE

MOST_CURVES = 8  # more accuracies, and those of silenced roles, then of all single roles, are in the table only
MOST_BANDS = 3  # more accuracies, and only the team's has a band
HEIGHT = 230  # pixels
ACCURACY, ROLES, BATCHES = "Accuracy", "What each role contributes", "Training batches"
HISTORY, RESOURCES = "History and fitted coefficient", "Time and memory"
SHARE = "share of sessions"
MINUS = "Accuracy with the role minus without it"
Row = dict[str, Any]
Chart = dict[str, Any]
"""{"title", "note", "spec"}"""


def chart(title: str, spec: dict | None, note: str = "") -> list[Chart]:
    """A chart, or none where there is nothing to draw."""
    return [{"title": title, "note": note, "spec": spec}] if spec is not None else []


def lines(rows: list[Row], quantity: str, order: Sequence[str], zero: bool = False) -> dict | None:
    """Curves of ``value`` over ``step``, one colour a ``series``, with bands from ``low`` to ``high`` where they are known; thin lines for
    rows that have a ``run``. ``order``: of all series of the page, so that each keeps its colour. ``zero``: with a line at 0."""
    if not rows:
        return None
    present = [name for name in order if any(row["series"] == name for row in rows)]
    x = {"field": "step", "type": "quantitative", "title": "training step", "axis": {"tickMinStep": 1, "format": "d"}}
    x["scale"] = {"nice": False, "domain": _domain([row["step"] for row in rows])}
    colour = {
        "field": "series",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(order)},
        "legend": {"values": present},
    }
    y = {"type": "quantitative", "title": quantity, "scale": {"zero": False, "nice": True}, "axis": {"format": ".4~g"}}
    single = len({row["step"] for row in rows}) == 1
    tips = [
        {"field": "series", "title": "of"},
        {"field": "step", "title": "step"},
        {"field": "value", "title": quantity, "format": ".3~f"},
    ]
    if any("low" in row for row in rows):
        tips += [{"field": name, "title": f"95 % {name}", "format": ".3~f"} for name in ("low", "high")]
    if any("seeds" in row for row in rows):
        tips.append({"field": "seeds", "title": "seeds"})
    band = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "rule", "strokeWidth": 2} if single else {"type": "area", "opacity": 0.16},
        "encoding": {"x": x, "color": colour, "y": {"field": "low", **y}, "y2": {"field": "high"}},
    }
    curve = {
        "transform": [{"filter": "!isValid(datum.run)"}],
        "mark": {"type": "line", "point": len(rows) <= 40 * len(present), "strokeWidth": 2},
        "encoding": {"x": x, "color": colour, "y": {"field": "value", **y}, "tooltip": tips},
    }
    thin = {
        "transform": [{"filter": "isValid(datum.run)"}],
        "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.45},
        "encoding": {"x": x, "color": colour, "y": {"field": "value", **y}, "detail": {"field": "run"}},
    }
    layers = [band] if any("low" in row for row in rows) else []
    layers += [thin] if any("run" in row for row in rows) else []
    if zero:
        layers.append({"mark": {"type": "rule", "strokeDash": [3, 3]}, "encoding": {"y": {"datum": 0}}})
    return {"width": "container", "height": HEIGHT, "data": {"values": rows}, "layer": [*layers, curve]}


def stacked(rows: list[Row], quantity: str, order: Sequence[str]) -> dict | None:
    """One bar a step of its parts."""
    if not rows:
        return None
    present = [name for name in order if any(row["series"] == name for row in rows)]
    ranked = [{**row, "rank": present.index(row["series"])} for row in rows]
    return {
        "width": "container",
        "height": HEIGHT,
        "data": {"values": ranked},
        "mark": {"type": "bar"},
        "encoding": {
            "x": {
                "field": "step",
                "type": "ordinal",
                "title": "training step",
                "axis": {"labelOverlap": "greedy", "labelAngle": 0},
            },
            "y": {"field": "value", "type": "quantitative", "title": quantity},
            "color": {"field": "series", "type": "nominal", "title": None, "scale": {"domain": present}},
            "order": {"field": "rank"},
            "tooltip": [
                {"field": "series", "title": "part"},
                {"field": "step", "title": "step"},
                {"field": "value", "title": quantity, "format": ".3~f"},
            ],
        },
    }


def _domain(steps: Sequence[int]) -> list[float]:
    """With some room for a run of one step."""
    low, high = min(steps), max(steps)
    return [low, high] if low < high else [low - 1, high + 1]


def thinned(entries: list[dict], points: int) -> list[dict]:
    """The entries of about so many steps, the last one among them, and of as many validations."""
    steps = sorted({entry["step"] for entry in entries if entry["kind"] == "train"})
    every = -(-len(steps) // points) or 1
    kept = {*steps[::every], *steps[-1:]}
    seen = sorted({entry["step"] for entry in entries if entry["kind"] == "val"})
    every = -(-len(seen) // points) or 1
    validated = {*seen[::every], *seen[-1:]}
    return [entry for entry in entries if entry["step"] in (kept if entry["kind"] == "train" else validated)]


# --- one run --------------------------------------------------------------------------------------------------------


def of_run(run: Run, points: int) -> dict[str, list[Chart]]:
    """Heading -> its charts, of one run, each with at most about so many steps."""
    run = replace(run, entries=thinned(run.entries, points))
    found: dict[str, list[Chart]] = {
        ACCURACY: [],
        ROLES: [],
        BATCHES: _training(run),
        HISTORY: _history(run),
        RESOURCES: [*_times(run), *_memory(run)],
    }
    sources = sources_of(run.entries)
    for source in sources:
        name = f": {source}" if len(sources) > 1 else ""
        found[ACCURACY] += _accuracies(run, source, name)
        found[ROLES] += _roles(run, source, name)
    return found


def order_of(runs: Iterable[Run]) -> list[str]:
    """All curves' names, the team's first and then the roles'."""
    names, roles, others = [TEAM], [], []
    for run in runs:
        for source in sources_of(run.entries):
            known = measured(run.entries, source)
            roles += known.roles
            others += [known.label(name) for name in known.accuracies if name != TEAM]
        roles += trained_roles(run.entries)
    return list(dict.fromkeys([*names, *roles, *others]))


def _accuracies(run: Run, source: str, name: str) -> list[Chart]:
    known, order = measured(run.entries, source), order_of([run])
    shown = _shown(known)
    team: list[Row] = []
    roles: list[Row] = []
    for entry in validations(run.entries, source):
        trials = _trials(run, entry, source)
        for rows, metrics in (
            (team, {known.label(accuracy): known.accuracies[accuracy] for accuracy in shown}),
            (roles, _each(known, "accuracy")),
        ):
            for label, metric in metrics.items():
                if metric in entry["metrics"]:
                    rows.append(_share(entry["step"], entry["metrics"][metric], label, trials))
    if len(shown) > MOST_BANDS:
        team = [row if row["series"] == TEAM else _without_band(row) for row in team]
    note = _bands(run, source)
    spec = lines(team, "accuracy", order)
    found = chart(f"Accuracy of the team and of its replays{name}", spec, f"{note}{_replays(run, shown)}")
    spec = lines(_together(roles, known), "accuracy", _named(order, known))
    return found + chart(f"Accuracy of each role{name}", spec, note)


def _replays(run: Run, shown: Sequence[str]) -> str:
    """What the replays are that have names of the team's own, as the sessions say."""
    names = {
        replay["name"]: spelt(replay["how"], replay["role"])
        for entry in run.sessions
        for replay in entry["replays"]
        if replay["name"] in shown and replay["how"] in (REMOVE, REPLACE)
    }
    own = {name: words for name, words in names.items() if name.replace("_", " ") != words}
    return f" {'; '.join(f'{name}: {words}' for name, words in own.items())}." if own else ""


def _without_band(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in ("low", "high")}


def _shown(known: Measured) -> list[str]:
    """Accuracies that are drawn."""
    shown = list(known.accuracies)
    for how in (REPLACE, REMOVE):
        if len(shown) > MOST_CURVES:
            shown = [name for name in shown if name not in {Intervention(how, role).name for role in known.roles}]
    return shown[:MOST_CURVES]


def _roles(run: Run, source: str, name: str) -> list[Chart]:
    known = measured(run.entries, source)
    seen, needed = validations(run.entries, source), _needed(run, source)
    order = _named(order_of([run]), known)
    rows: dict[str, list[Row]] = defaultdict(list)
    for entry in seen:
        kept = run.validated(entry["step"], source, entry["metrics"].get(SESSIONS.format(source=source)))
        trials = _trials(run, entry, source)
        for what in (CONTRIBUTION, "help_rate", "hurt_rate"):
            for role, metric in _each(known, what).items():
                if role in needed or metric not in entry["metrics"]:
                    continue
                row = _share(entry["step"], entry["metrics"][metric], role, trials)
                if what == CONTRIBUTION:
                    bounds = t_interval(differences(kept, role))
                    row = _without_band(row)
                    row |= {"low": bounds[0], "high": bounds[1]} if bounds else {}
                rows[what].append(row)
    left_out = "".join(f" Without {role} there is no answer, so it is left out." for role in needed)
    texts = {
        CONTRIBUTION: (
            "Contribution",
            CONTRIBUTION,
            f"{MINUS}, in validation; bands: 95 % t intervals over questions, where all sessions were kept.{left_out}",
        ),
        "help_rate": (
            "Helped: right with the role, wrong without",
            SHARE,
            _bands(run, source),
        ),
        "hurt_rate": (
            "Hurt: wrong with the role, right without",
            SHARE,
            _bands(run, source),
        ),
    }
    found: list[Chart] = []
    for what, (title, quantity, note) in texts.items():
        spec = lines(_together(rows[what], known), quantity, order, zero=what == CONTRIBUTION)
        found += chart(title + name, spec, note)
    return found


def _each(known: Measured, what: str) -> dict[str, str]:
    """Role -> the metric of a number."""
    return {role: numbers[what] for role, numbers in known.roles.items() if what in numbers}


def _together(rows: list[Row], known: Measured) -> list[Row]:
    """Of many roles the mean, without a band: an interval of it would need their correlation."""
    if len(known.roles) <= MANY_ROLES:
        return rows
    values: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        values[row["step"]].append(row["value"])
    return [{"step": step, "value": mean(found), "series": _many(known)} for step, found in values.items()]


def _many(known: Measured) -> str:
    return f"mean of {len(known.roles)} roles"


def _named(order: list[str], known: Measured) -> list[str]:
    return order if len(known.roles) <= MANY_ROLES else [*order, _many(known)]


def _trials(run: Run, entry: dict, source: str) -> int:
    """How many questions a validation's shares are counted on; the number of sessions where they are not known; 0: neither is."""
    count = entry["metrics"].get(SESSIONS.format(source=source), 0)
    kept = run.validated(entry["step"], source, count)
    return len(questions(kept)) or (int(count) if 1 <= count < MANY_SESSIONS else 0)


def _bands(run: Run, source: str) -> str:
    """What the bands of a source's shares say."""
    seen = validations(run.entries, source)
    whole = all(run.validated(one["step"], source, one["metrics"].get(SESSIONS.format(source=source))) for one in seen)
    over = "questions" if whole else "sessions as if they were independent (not all were kept)"
    return f"Validation; bands: 95 % Wilson intervals over {over}."


def _share(step: int, value: float, name: str, trials: int) -> Row:
    low, high = wilson(value, trials) if trials else (None, None)
    return {"step": step, "value": value, "series": name, **({"low": low, "high": high} if trials else {})}


def _training(run: Run) -> list[Chart]:
    train, order = _train(run), order_of([run])
    found = chart(
        "Team accuracy",
        lines(_rows(train, {TEAM: TEAM_IN_TRAINING}), "accuracy", order),
        "Of each step's own sessions, before its update.",
    )
    needed = needed_roles(run)
    roles = {role: numbers for role, numbers in trained_roles(run.entries).items() if role not in needed}
    known = Measured({}, roles)
    rows = _rows(train, {role: numbers[CONTRIBUTION] for role, numbers in roles.items() if CONTRIBUTION in numbers})
    spec = lines(_together(rows, known), CONTRIBUTION, _named(order, known), zero=True)
    return found + chart("Contribution", spec, f"{MINUS}, in each step's own sessions: noisy.")


def needed_roles(run: Run) -> list[str]:
    """Roles without which there is no answer, on any data: that removing them changes a verdict says nothing."""
    return sorted({role for source in sources_of(run.entries) for role in _needed(run, source)})


def _needed(run: Run, source: str) -> list[str]:
    """Roles without which there is no answer."""
    seen = validations(run.entries, source)
    return indispensable(scores(entry, source, measured(run.entries, source)) for entry in seen) if seen else []


def _history(run: Run) -> list[Chart]:
    train = _train(run)
    names = sorted({name for entry in train for name in entry["metrics"]})
    found: list[Chart] = []
    for what, title in (("mean", "Mean in the history"), ("std", "Standard deviation in the history")):
        streams = {
            name.removeprefix("ccpo/history/").removesuffix(f"/{what}"): name
            for name in names
            if name.startswith("ccpo/history/") and name.endswith(f"/{what}")
        }
        rows = _merged(_rows(train, streams))
        spec = lines(rows, f"{what} (units of R)", list(dict.fromkeys(row["series"] for row in rows)))
        found += chart(title, spec, "What credit is normalized with: moving averages over the steps so far.")
    ending = "/baseline_coefficient"
    fitted = {
        "all roles" if name == f"ccpo/credit{ending}" else name.removeprefix("ccpo/").removesuffix(ending): name
        for name in names
        if name.startswith("ccpo/") and name.endswith(ending)
    }
    rows = _merged(_rows(train, fitted))
    spec = lines(rows, "coefficient", list(dict.fromkeys(row["series"] for row in rows)))
    note = "How much of the value without the role is taken off R: 0 nothing, 1 all."
    return found + chart("Fitted coefficient", spec, note)


def _merged(rows: list[Row]) -> list[Row]:
    """Curves that are equal as one, with all their names: one would hide the other."""
    curves: dict[str, list[tuple]] = defaultdict(list)
    for row in rows:
        curves[row["series"]].append((row["step"], row["value"]))
    names: dict[tuple, list[str]] = defaultdict(list)
    for name, points in curves.items():
        names[tuple(points)].append(name)
    return [
        {"step": step, "value": value, "series": ", ".join(found)}
        for points, found in names.items()
        for step, value in points
    ]


def _times(run: Run) -> list[Chart]:
    timed = [(entry["step"], seconds) for entry in _train(run) if STEP in (seconds := part_seconds(entry["metrics"]))]
    later = timed[1:] if len(timed) > 2 else timed
    rows = [
        {"step": step, "value": max(seconds[name], 0.0), "series": label}
        for step, seconds in later
        for name, label in PARTS.items()
        if name in seconds
    ]
    note = "Without the first step, in which much starts only once." if later is not timed else ""
    return chart("Time of a step", stacked(rows, "seconds", list(PARTS.values())), note)


def _memory(run: Run) -> list[Chart]:
    train = _train(run)
    names = sorted({name for entry in train for name in entry["metrics"] if "perf/" in name and name.endswith("_gb")})
    labels = {name.replace("perf/", "").removesuffix("_gb").replace("_", " "): name for name in names}
    return chart("Memory", lines(_rows(train, labels), "GB", list(labels)), "As verl logs it, of one process.")


def _train(run: Run) -> list[dict]:
    return [entry for entry in run.entries if entry["kind"] == "train"]


def _rows(entries: list[dict], names: Mapping[str, str]) -> list[Row]:
    """Rows of metrics, by the names of their curves."""
    return [
        {"step": step, "value": value, "series": label}
        for label, metric in names.items()
        for step, value in zip(*series(entries, metric), strict=True)
    ]


# --- several runs ---------------------------------------------------------------------------------------------------


def of_groups(found: Mapping[str, Sequence[Run]]) -> list[Chart]:
    """Means over the seeds of each group with 95 % t intervals, and every run as a thin line."""
    sources = sorted({source for runs in found.values() for run in runs for source in sources_of(run.entries)})
    charts: list[Chart] = []
    note = "Thick: mean over the seeds of a kind; bands: 95 % t intervals over seeds; thin: each run. Validation."
    for source in sources:
        name = f": {source}" if len(sources) > 1 else ""
        validated = [run for runs in found.values() for run in runs if source in sources_of(run.entries)]
        needed = {role for run in validated for role in _needed(run, source)}
        roles = list(dict.fromkeys(role for run in validated for role in measured(run.entries, source).roles))
        rows = _of_all(found, source, lambda known: known.accuracies.get(TEAM), 0.0)
        charts += chart(f"Accuracy of the team{name}", lines(rows, "accuracy", list(found)), note)
        for role in roles if len(roles) <= MANY_ROLES else ():
            if role not in needed:
                rows = _of_all(
                    found, source, lambda known, role=role: known.roles.get(role, {}).get(CONTRIBUTION), -1.0
                )
                charts += chart(
                    f"Contribution of {role}{name}", lines(rows, CONTRIBUTION, list(found), zero=True), note
                )
    return charts


def _of_all(
    found: Mapping[str, Sequence[Run]], source: str, metric_of: Callable[[Measured], str | None], least: float
) -> list[Row]:
    """Rows of a metric that is at least ``least`` and at most 1: the mean over the seeds of each group, and each run."""
    return [row for label, runs in found.items() for row in _over_seeds(label, runs, source, metric_of, least)]


def _over_seeds(label: str, runs: Sequence[Run], source: str, metric_of: Callable, least: float) -> list[Row]:
    values: dict[int, list[float]] = defaultdict(list)
    rows: list[Row] = []
    for number, run in enumerate(runs):
        metric = metric_of(measured(run.entries, source))
        for step, value in zip(*series(validations(run.entries, source), metric), strict=True) if metric else ():
            values[step].append(value)
            if len(runs) > 1:
                rows.append({"step": step, "value": value, "series": label, "run": f"{number} {run.name}"})
    for step, own in sorted(values.items()):
        bounds = over_seeds(own, runs)
        row = {"step": step, "value": mean(own), "series": label, "seeds": len(own)}
        rows.append(row | ({"low": max(bounds[0], least), "high": min(bounds[1], 1.0)} if bounds else {}))
    return rows
