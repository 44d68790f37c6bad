"""What a run achieved: a table and RUN_DIR/curves.png, from RUN_DIR/metrics.jsonl.

    python scripts/report.py outputs/dyad
    python scripts/report.py outputs/dyad --json

"before" is the first validation, "after" the last one. Accuracies carry 95 % Wilson intervals over the scored sessions, which counts
them as independent; with several sessions per prompt the truth is wider. (The mean over the ballots of a session counts once per
session: they answer the same question.) A role's contribution is the team's accuracy minus what the team gets without that role; it is
the rate at which the role helped minus the rate at which it hurt. Which roles and which replays a run has is read off the names of its
metrics. Equal metrics give equal lines, except for the lines on time.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

from ccpo.run.folder import CURVES, METRICS
from ccpo.run.run_log import read_run_log
from ccpo.run.step_times import STEP, step_times
from ccpo.team.replay import Intervention
from ccpo.types import REMOVE, REPLACE

TEAM = "team"
TEAM_ACCURACY = "val-core/{source}/team_accuracy"
AUX = "val-aux/{source}/"
SESSIONS = AUX + "sessions"
ACCURACY = "_accuracy"
TEAM_IN_TRAINING = "ccpo/sessions/team_accuracy"
BALLOTS = {"ballot": "ballots (mean of all)", "oracle": "oracle (any ballot right)"}
"""Accuracies of a plurality that are no replay's."""
CONTRIBUTION = "contribution"
ROLE_NUMBERS = {
    "accuracy": "accuracy",
    CONTRIBUTION: "contribution",
    "help_rate": "helped (right with it only)",
    "hurt_rate": "hurt (wrong with it only)",
}
"""What is known of a role, in validation and in training."""
TRAINING = {
    TEAM_IN_TRAINING: "team",
    "ccpo/plurality/pivotal_rate": "pivotal rate (ballot decides)",
    "ccpo/plurality/tie_rate": "tie rate",
    "ccpo/plurality/abstention_rate": "abstention rate (no readable answer)",
    "ccpo/plurality/agreement": "agreement (pairs with equal ballots)",
    "ccpo/plurality/outvoted_rate": "outvoted rate (one right, team wrong)",
    "ccpo/credit/cosine_with_shared/all": "cosine of advantages with shared credit",
}
"""Of the training batches, noisy."""
MANY_SESSIONS = 10**9
RATE_STEPS = 5  # train batches at each end over which noisy numbers are averaged
MANY_ROLES = 6  # more roles are told together
TEAM_COLOUR, GREYS = "#1b6ca8", ("#4d4d4d", "#8a8a8a", "#b5b5b5")
ROLE_COLOURS = ("#d1602f", "#2a8a57", "#7a4fa3", "#b07d12", "#c2356b", "#3aa6a6")
LINES = (("-", "s"), ("--", "^"))  # of a role removed, and of one that says nothing
MANY_CURVES = 9  # more accuracies, and what a role that says nothing leaves stands in the table only
BANDS = 3  # more curves than these, and only the team's has a band
PLOT_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


class ReportError(ValueError):
    """There is nothing to report yet."""


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % Wilson score interval of a share observed on ``count`` > 0 trials (Wilson, 1927)."""
    share = min(max(share, 0.0), 1.0)  # a log may have been edited
    centre = share + z * z / (2 * count)
    spread = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def load(run_dir: Path) -> list[dict]:
    """Entries of the run's metrics; ReportError when there are none."""
    path = Path(run_dir) / METRICS
    if not path.exists():
        raise ReportError(
            f"{path} does not exist: {run_dir} is no folder of a run (trainer.default_local_dir), or nothing "
            "was logged yet"
        )
    try:
        entries = read_run_log(path)
    except OSError as error:
        raise ReportError(
            f"{path} cannot be read ({error.strerror}): {run_dir} is no folder of a run, or belongs to somebody else"
        ) from None
    if not entries:
        raise ReportError(f"{path} has no whole line yet; wait for the first validation or step")
    return entries


# --- what was measured ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What the metrics of a data source's validations are about, each in the order of its first appearance.

    accuracies: name -> metric, the team's first. roles: role -> what is known of it -> metric.
    """

    accuracies: Mapping[str, str]
    roles: Mapping[str, Mapping[str, str]]

    @property
    def replays(self) -> list[str]:
        """Names of the replays that have an accuracy of their own."""
        return [name for name in self.accuracies if name != TEAM and name not in BALLOTS]

    def label(self, name: str) -> str:
        """An accuracy in words: a replay's own name, which says whom it removes or empties."""
        spelt = {
            Intervention(how, role).name: Intervention(how, "*").name.replace("_", " ").replace("*", role)
            for role in self.roles
            for how in (REMOVE, REPLACE)
        }
        return BALLOTS.get(name) or spelt.get(name, name)


def sources_of(entries: list[dict]) -> list[str]:
    """Data sources that were validated, in alphabetical order. (A source's name may contain slashes.)"""
    start, end = TEAM_ACCURACY.split("{source}")
    names = {name for entry in entries if entry["kind"] == "val" for name in entry["metrics"]}
    return sorted(name[len(start) : -len(end)] for name in names if name.startswith(start) and name.endswith(end))


def measured(entries: list[dict], source: str) -> Measured:
    """What was validated on a data source."""
    start = AUX.format(source=source)
    longer = tuple(AUX.format(source=other) for other in sources_of(entries) if other.startswith(f"{source}/"))
    accuracies, roles = {TEAM: TEAM_ACCURACY.format(source=source)}, {}
    for metric in _names(entries, "val"):
        if not metric.startswith(start) or metric.startswith(longer):
            continue
        role, slash, what = metric.removeprefix(start).rpartition("/")
        if slash and what in ROLE_NUMBERS:
            roles.setdefault(role, {})[what] = metric
        elif not slash and what.endswith(ACCURACY):
            accuracies[what.removesuffix(ACCURACY)] = metric
    last = {name: accuracies.pop(name) for name in BALLOTS if name in accuracies}
    return Measured(accuracies | last, roles)


def trained_roles(entries: list[dict]) -> dict[str, dict[str, str]]:
    """Role -> what is known of it -> metric, of the training batches."""
    roles: dict[str, dict[str, str]] = {}
    for metric in _names(entries, "train"):
        first, *role, what = metric.split("/") if metric.count("/") == 2 else ("", "")
        if first == "ccpo" and metric not in TRAINING and what in ROLE_NUMBERS:
            roles.setdefault(role[0], {})[what] = metric
    return roles


def _names(entries: list[dict], kind: str) -> dict[str, None]:
    """Names of metrics, in the order of their first appearance."""
    return dict.fromkeys(name for entry in entries if entry["kind"] == kind for name in entry["metrics"])


# --- numbers --------------------------------------------------------------------------------------------------------


def summarize(entries: list[dict]) -> dict:
    """All numbers of the report.

    Returns:
        ``steps``: last trained step. ``sources``: per data source ``before`` and ``after``, see `scores`. ``training``: ``team`` and others
        by their metric's name without ``ccpo/``, and ``roles``: role -> number; each ``before`` and ``after``, means over the first and
        last `RATE_STEPS` steps that have it. ``seconds``: wall time of steps and validations, and the parts of a step
        (`ccpo.run.step_times`); None without a step. What was not measured is absent.
    """
    train = [entry for entry in entries if entry["kind"] == "train"]
    sources = {}
    for source in sources_of(entries):
        known = measured(entries, source)
        seen = validations(entries, source)
        sources[source] = {"before": scores(seen[0], source, known), "after": scores(seen[-1], source, known)}
    training: dict = {}
    for metric in TRAINING:
        if ends := _ends(train, metric):
            training[metric.removeprefix("ccpo/")] = ends
    roles = {
        role: {what: _ends(train, numbers[what]) for what in ROLE_NUMBERS if what in numbers}
        for role, numbers in trained_roles(entries).items()
    }
    return {
        "steps": max((entry["step"] for entry in train), default=0),
        "sources": sources,
        "training": training | ({"roles": roles} if roles else {}),
        "seconds": _seconds(train),
    }


def validations(entries: list[dict], source: str) -> list[dict]:
    """The entries that validated a data source."""
    team = TEAM_ACCURACY.format(source=source)
    return [entry for entry in entries if entry["kind"] == "val" and team in entry["metrics"]]


def scores(entry: dict, source: str, known: Measured) -> dict:
    """One validation: ``step``; ``sessions`` (None if not logged); ``accuracies``: name -> `score`; ``roles``: role -> number, of which
    ``accuracy`` is a `score`."""
    metrics = entry["metrics"]
    sessions = _sessions(metrics, source)
    roles = {
        role: {
            what: score(metrics[names[what]], sessions) if what == "accuracy" else metrics[names[what]]
            for what in ROLE_NUMBERS
            if names.get(what) in metrics
        }
        for role, names in known.roles.items()
    }
    return {
        "step": entry["step"],
        "sessions": sessions,
        "accuracies": {
            name: score(metrics[metric], sessions) for name, metric in known.accuracies.items() if metric in metrics
        },
        "roles": {role: numbers for role, numbers in roles.items() if numbers},
    }


def _sessions(metrics: Mapping[str, float], source: str) -> int | None:
    count = metrics.get(SESSIONS.format(source=source), 0)
    return int(count) if 1 <= count < MANY_SESSIONS else None


def score(value: float, sessions: int | None) -> dict:
    """An accuracy with its interval; bounds None without ``sessions``."""
    low, high = wilson(value, sessions) if sessions else (None, None)
    return {"value": value, "low": low, "high": high}


def _ends(train: list[dict], metric: str) -> dict | None:
    values = series(train, metric)[1]
    return {"before": _mean(values[:RATE_STEPS]), "after": _mean(values[-RATE_STEPS:])} if values else None


def _seconds(train: list[dict]) -> dict | None:
    parts = step_times(train, MANY_ROLES)
    if not parts:
        return None
    return {
        "steps": sum(series(train, "timing_s/step")[1]),
        "validation": sum(series(train, "timing_s/testing")[1]),
        "parts": {name: asdict(part) for name, part in parts.items()},
    }


def series(entries: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the entries that have ``name``."""
    found = [(entry["step"], entry["metrics"][name]) for entry in entries if name in entry["metrics"]]
    return [step for step, _ in found], [value for _, value in found]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


# --- table ----------------------------------------------------------------------------------------------------------

Rows = list[tuple[str, str, "float | dict", "float | dict"]]
"""(what, label, before, after); ``what`` is "accuracy" or a number of `ROLE_NUMBERS`."""


def table(entries: list[dict]) -> str:
    """The numbers as text."""
    summary = summarize(entries)
    lines = []
    for source, ends in summary["sources"].items():
        before, after = ends["before"], ends["after"]
        known = measured(entries, source)
        head = f"{source}, {after['sessions']} sessions" if after["sessions"] else source
        lines += [row(head, f"step {before['step']}", f"step {after['step']}", "change"), "-" * 96]
        both = [name for name in known.accuracies if name in before["accuracies"] and name in after["accuracies"]]
        lines += _rows(
            [("accuracy", known.label(name), before["accuracies"][name], after["accuracies"][name]) for name in both]
        )
        needed = indispensable(ends.values())
        lines += _rows(_role_rows(before["roles"], after["roles"], needed))
        lines += [f"{role}: without it there is no answer" for role in needed]
        lines.append("")
    if not summary["sources"]:
        lines += ["no validation was logged (trainer.test_freq, trainer.val_before_train)", ""]
    training = dict(summary["training"])
    if training:
        roles = training.pop("roles", {})
        lines += [row("in training", f"first {RATE_STEPS} steps", f"last {RATE_STEPS} steps", "change"), "-" * 96]
        lines += _rows([("", TRAINING[f"ccpo/{name}"], end["before"], end["after"]) for name, end in training.items()])
        first, last = (
            {role: {what: end[when] for what, end in numbers.items()} for role, numbers in roles.items()}
            for when in ("before", "after")
        )
        needed = [role for ends in summary["sources"].values() for role in indispensable(ends.values())]
        lines += [*_rows(_role_rows(first, last, needed)), ""]
    lines.append(f"steps: {summary['steps']}")
    if seconds := summary["seconds"]:
        lines.append(
            f"time: {_duration(seconds['steps'])} in steps, {_duration(seconds['validation'])} in validation, "
            "without start-up"
        )
        lines += ["", *_time_rows(seconds["parts"])]
    return "\n".join(lines)


def indispensable(validated: Iterable[dict]) -> list[str]:
    """Roles whose contribution is all that the team has: without the last speaker there is no answer."""
    validated = list(validated)
    found = []
    for role in validated[-1]["roles"]:
        pairs = [(end["roles"].get(role, {}).get(CONTRIBUTION), end["accuracies"][TEAM]["value"]) for end in validated]
        if all(own is not None and math.isclose(own, team) for own, team in pairs) and any(team for _, team in pairs):
            found.append(role)
    return found


def _role_rows(before: dict, after: dict, needed: Iterable[str]) -> Rows:
    """Rows on every role; of more than `MANY_ROLES` the mean. Of roles that are ``needed`` for an answer, what removal says is left out."""
    ends = {
        role: {what: (before[role][what], numbers[what]) for what in numbers if what in before.get(role, {})}
        for role, numbers in after.items()
    }
    for role in needed:
        ends[role] = {what: end for what, end in ends.get(role, {}).items() if what == "accuracy"}
    rows = [
        (what, f"{role}: {ROLE_NUMBERS[what]}", *numbers[what])
        for role, numbers in ends.items()
        for what in ROLE_NUMBERS
        if what in numbers
    ]
    if len(ends) <= MANY_ROLES:
        return rows
    whats = [what for what in ROLE_NUMBERS if any(what == row[0] for row in rows)]
    return [_together(what, [row for row in rows if row[0] == what]) for what in whats]


def _together(what: str, rows: Rows) -> tuple:
    """The mean of what is known of many roles; an interval of it would need their correlation."""
    before, after = (_mean([_value(row[end]) for row in rows]) for end in (2, 3))
    return what, f"{len(rows)} roles: {ROLE_NUMBERS[what]}", before, after


def _rows(rows: Rows) -> list[str]:
    return [
        row(label, score_text(before, what), score_text(after, what), f"{_value(after) - _value(before):+.3f}")
        for what, label, before, after in rows
    ]


def row(label: str, *cells: str) -> str:
    return f"{label:<40}{cells[0]:<23}{cells[1]:<23}{cells[2]}".rstrip()


def _value(scored: float | dict) -> float:
    return scored["value"] if isinstance(scored, dict) else scored


def score_text(scored: float | dict, what: str = "") -> str:
    """A number, with its interval if it is known."""
    if not isinstance(scored, dict):
        return f"{scored:+.3f}" if what == CONTRIBUTION else f"{scored:.3f}"
    interval = f" [{scored['low']:.3f}, {scored['high']:.3f}]" if scored["low"] is not None else ""
    return f"{scored['value']:.3f}{interval}"


def last_scores(entries: list[dict], source: str) -> list[tuple[str, str]]:
    """(label, text) of everything that the last validation says."""
    known, seen = measured(entries, source), validations(entries, source)
    last = scores(seen[-1], source, known)
    found = [(known.label(name), score_text(scored)) for name, scored in last["accuracies"].items()]
    needed = indispensable(scores(entry, source, known) for entry in seen)
    rows = _role_rows(last["roles"], last["roles"], needed)
    return [*found, *((label, score_text(after, what)) for what, label, _, after in rows)]


def _time_rows(parts: Mapping[str, Mapping]) -> list[str]:
    """The parts of a step, the first one apart: what starts only once would hide what the others take."""
    later = parts[STEP]["steps"] if STEP in parts else 0
    head = [f"{later} later step{'s' * (later > 1)}", "share of them"] if later else ["", ""]
    lines = [_time_row("seconds", "first step", *head), "-" * 96]
    for part in parts.values():
        if part["mean"] is None:
            cells = ["", ""]
        else:
            spread = f" +- {_seconds_text(part['std'], part['mean'])}" if part["std"] is not None else ""
            some = f" ({part['steps']} steps)" if part["steps"] < later else ""
            share = f"{part['share']:.0%}" if part["share"] is not None else ""
            cells = [_seconds_text(part["mean"]) + spread + some, share]
        first = "" if part["first"] is None else _seconds_text(part["first"])
        lines.append(_time_row("  " * part["depth"] + part["label"], first, *cells))
    return [*lines, "sessions run beside each other: means of turns, replays and verdicts do not add up to gen"]


def _time_row(label: str, *cells: str) -> str:
    return f"{label:<44}{cells[0]:<13}{cells[1]:<26}{cells[2]}".rstrip()


def _seconds_text(seconds: float, like: float | None = None) -> str:
    """With as many digits as ``like`` has, itself if None."""
    return f"{seconds:.3f}" if (seconds if like is None else like) < 10 else f"{seconds:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"


# --- picture --------------------------------------------------------------------------------------------------------


def draw(entries: list[dict], path: Path, title: str) -> None:
    """Write the curves of a run to ``path`` (PNG): accuracies above, what each role contributes below. Of several data sources the first
    one is drawn. A role keeps its colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    train = [entry for entry in entries if entry["kind"] == "train"]
    sources = sources_of(entries)
    known = measured(entries, sources[0]) if sources else Measured({}, {})
    val = validations(entries, sources[0]) if sources else []
    trained = trained_roles(entries)
    colours = _colours([*known.roles, *(role for role in trained if role not in known.roles)])
    ends = [scores(entry, sources[0], known) for entry in val]
    shown = [role for role in colours if role not in (indispensable(ends) if ends else [])]
    with plt.rc_context(PLOT_STYLE):
        shape = {"figsize": (11, 6.4), "height_ratios": (3, 2), "sharex": True, "layout": "constrained"}
        figure, (top, bottom) = plt.subplots(2, 1, **shape)
        steps, values = series(train, TEAM_IN_TRAINING)
        if values:
            top.plot(steps, values, color=TEAM_COLOUR, alpha=0.35, linewidth=1, label="team, training batches")
        for name, looks in _looks(known, colours).items():
            band = name == TEAM or len(known.accuracies) <= BANDS
            _accuracy_curve(top, val, sources[0], known.accuracies[name], known.label(name), looks, band)
        many = len(colours) > MANY_ROLES
        for role, colour in colours.items():
            label = f"each of the {len(colours)} roles" if many else role
            numbers = known.roles.get(role, {})
            if "accuracy" in numbers:
                steps, values = series(val, numbers["accuracy"])
                top.plot(steps, values, color=colour, linewidth=1, label=f"{label}: accuracy", zorder=1.9)
            if role not in shown:
                continue
            steps, values = series(train, trained.get(role, {}).get(CONTRIBUTION, ""))
            if values and not many:
                bottom.plot(steps, values, color=colour, alpha=0.35, linewidth=1)
            steps, values = series(val, numbers.get(CONTRIBUTION, ""))
            if values:
                bottom.plot(steps, values, color=colour, marker="o", markersize=5, linewidth=2, label=label)
        top.set_ylabel("accuracy")
        top.set_title(f"{title}: {sources[0]}" if sources else title, loc="left", fontweight="bold")
        bottom.axhline(0, color="black", linewidth=0.8)
        bottom.set_ylabel("contribution")
        bottom.set_xlabel("step")
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
        thin = "" if many else "\n(thin: training)"
        for axis, heading in ((top, None), (bottom, f"team with the role\nminus team without{thin}")):
            handles, labels = axis.get_legend_handles_labels()
            once = dict(zip(labels, handles, strict=True))
            if once:
                looks = {"frameon": False, "fontsize": 9, "loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
                axis.legend(once.values(), once, **looks, title=heading, title_fontsize=9, alignment="left")
        figure.savefig(path, dpi=130, metadata={"Software": None})
        plt.close(figure)


def _colours(roles: list[str]) -> dict[str, str]:
    """A colour for every role; one for all if they are too many to tell apart."""
    if len(roles) > MANY_ROLES:
        return dict.fromkeys(roles, GREYS[-1])
    return dict(zip(roles, ROLE_COLOURS, strict=False))


def _looks(known: Measured, colours: Mapping[str, str]) -> dict[str, dict]:
    """How each accuracy is drawn: a replay that bears a role's name in the role's colour, others in grey. What would fill the picture is
    left out."""
    if not known.accuracies:
        return {}
    owners = {
        Intervention(how, role).name: (role, *line)
        for role in known.roles
        for how, line in zip((REMOVE, REPLACE), LINES, strict=True)
    }
    many, own = len(colours) > MANY_ROLES, sum("accuracy" in numbers for numbers in known.roles.values())
    crowded = len(known.accuracies) + own > MANY_CURVES
    looks, greys = {}, iter(zip(GREYS, ("s", "^", "D"), ("-", "--", ":"), strict=True))
    for name in known.accuracies:
        if name == TEAM:
            looks[name] = {"color": TEAM_COLOUR, "marker": "o", "linewidth": 2.5, "zorder": 3}
        elif name in owners:
            role, line, marker = owners[name]
            if not (many or (crowded and name == Intervention(REPLACE, role).name)):
                looks[name] = {"color": colours[role], "marker": marker, "linestyle": line, "linewidth": 1.5}
        else:
            colour, marker, line = next(greys, (GREYS[-1], "v", "-."))
            looks[name] = {"color": colour, "marker": marker, "linestyle": line, "linewidth": 1.5}
    return looks


def _accuracy_curve(axis, val: list[dict], source: str, metric: str, label: str, looks: dict, band: bool) -> None:
    steps, values = series(val, metric)
    axis.plot(steps, values, **looks, markersize=5, label=label)
    counts = [_sessions(entry["metrics"], source) for entry in val if metric in entry["metrics"]]
    if band and all(counts):
        bounds = [wilson(value, number) for value, number in zip(values, counts, strict=True)]
        axis.fill_between(steps, *zip(*bounds, strict=True), color=looks["color"], alpha=0.12, linewidth=0)


# --- command --------------------------------------------------------------------------------------------------------


def show(run_dir: Path) -> None:
    """Print the table and write the picture."""
    entries = load(run_dir)
    print(table(entries))
    picture = Path(run_dir) / CURVES
    try:
        draw(entries, picture, Path(run_dir).resolve().name)
    except OSError as error:
        raise ReportError(f"{picture} cannot be written ({error.strerror}); the table above is whole") from None
    print(f"curves: {picture}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Table and curves of a run.")
    parser.add_argument("run_dir", type=Path, help="trainer.default_local_dir of the run")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON, draw nothing")
    arguments = parser.parse_args()
    try:
        if arguments.json:
            print(json.dumps(summarize(load(arguments.run_dir)), indent=2))
        else:
            show(arguments.run_dir)
    except ReportError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
