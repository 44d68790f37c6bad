"""A run -> numbers, and the tidy file of all of them."""

from __future__ import annotations

import csv
import io
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ccpo.compare_rules.runs import OWN, Key
from ccpo.run.json_file import write_atomic

COSTS = {
    "generations": "ccpo/generations",
    "replay_generations": "ccpo/replay_generations",
    "tokens": "ccpo/generated_tokens",
    "replay_tokens": "ccpo/replay_tokens",
}
COLUMNS = ("team", "task", "rule", "seed", "split", "score", "value")
ACCURACY = "ccpo/sessions/team_accuracy"


def scores(found: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one run.

    Of the last validation, which is at the end of the budget where there is one: ``team``, accuracy; of every role what it contributes, its own
    accuracy and abstention where it votes, and the accuracy of every replay that is worth a name, each over all sessions, and by source
    (``team/<source>``, ...); ``abstention``: mean of the roles'; what the task adds. ``before``: ``team`` of the first validation.

    Of training: ``auc``, mean accuracy of the batches, where a budget is set over all of it (`batches`); ``steps``; ``generations`` (decoded
    turns) and ``tokens``, those of replays included, which are also by themselves: ``replay_...``. ``cosine``: of the advantages with shared
    credit's, mean over steps.

    Of the gradients, role by role and of ``all`` roles, where they were measured: ``snr_start/<role>``, signal over noise at the starting weights;
    ``snr/<role>``: mean signal over mean noise of the training steps that were measured, at weights which differ from rule to rule.
    `ccpo.compact.signal` defines both.
    """
    entries = found["entries"]
    validations = [entry["metrics"] for entry in entries if entry["kind"] == "val"]
    training = [entry["metrics"] for entry in entries if entry["kind"] == "train"]
    last = validations[-1]
    weighted = batches(found)
    auc = sum(weight * accuracy for weight, accuracy in weighted) / sum(weight for weight, _ in weighted)
    out = {"team": over_sources(last)["team_accuracy"], "before": over_sources(validations[0])["team_accuracy"]}
    out |= {"auc": auc, "steps": float(len(training))}
    out |= {name: sum(metrics[metric] for metrics in training) for name, metric in COSTS.items()}
    cosines = [metrics[name] for metrics in training if (name := "ccpo/credit/cosine_with_shared/all") in metrics]
    if cosines:
        out["cosine"] = statistics.fmean(cosines)
    out |= ratios("snr_start", [entry["metrics"] for entry in entries if entry["kind"] == "start"])
    out |= ratios("snr", training)
    out |= named(over_sources(last), "")
    for source in sources(last):
        out[f"team/{source}"] = last[f"val-core/{source}/team_accuracy"]
        out |= named(of_source(last, source), f"/{source}")
    return out | {name.removeprefix(OWN): value for name, value in last.items() if name.startswith(OWN)}


def batches(found: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(what a training batch took of the budget, 1 each without one; its accuracy).

    While it was decoded the team was as good as that, so the weighted mean is the area under accuracy over what was decoded. The batch that would
    have passed the budget was not trained on, and counts with what was left: or else rules with dear steps would lack the end, where they are best.
    """
    metric, most = COSTS.get(found.get("unit") or ""), found.get("most")
    out = []
    for entry in found["entries"]:
        if entry["kind"] in ("train", "beyond"):
            cost = entry["metrics"][metric] if metric else 1.0
            left = most - sum(weight for weight, _ in out) if entry["kind"] == "beyond" else cost
            out.append((min(cost, left), entry["metrics"][ACCURACY]))
    return [one for one in out if one[0]]


def ratios(name: str, measured: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """``<name>/<role>``: sum of its signal over sum of its noise."""
    signal, noise = defaultdict(float), defaultdict(float)
    for metrics in measured:
        for metric, value in metrics.items():
            if metric.startswith("ccpo/signal/"):
                role = metric.removeprefix("ccpo/signal/")
                signal[role] += value
                noise[role] += metrics[f"ccpo/noise/{role}"]
    return {f"{name}/{role}": signal[role] / noise[role] for role in signal if noise[role]}


def named(own: Mapping[str, float], end: str) -> dict[str, float]:
    """Of a validation, what is a score."""
    out = {
        f"{name}{end}": value
        for name, value in own.items()
        if name != "team_accuracy" and name.endswith(("_accuracy", "/accuracy", "/contribution", "/abstention_rate"))
    }
    silent = [value for name, value in own.items() if name.endswith("/abstention_rate")]
    return out | ({f"abstention{end}": statistics.fmean(silent)} if silent else {})


def sources(metrics: Mapping[str, float]) -> list[str]:
    return sorted(name[len("val-core/") : -len("/team_accuracy")] for name in metrics if name.startswith("val-core/"))


def of_source(metrics: Mapping[str, float], source: str) -> dict[str, float]:
    start = f"val-aux/{source}/"
    return {name.removeprefix(start): value for name, value in metrics.items() if name.startswith(start)}


def over_sources(metrics: Mapping[str, float]) -> dict[str, float]:
    """Of all validated sessions: every number that the sources have, weighted by their sessions."""
    listed, total, weight = sources(metrics), defaultdict(float), defaultdict(float)
    for source in listed:
        own = of_source(metrics, source)
        for name, value in [*own.items(), ("team_accuracy", metrics[f"val-core/{source}/team_accuracy"])]:
            total[name] += own["sessions"] * value
            weight[name] += own["sessions"]
    return {name: total[name] / weight[name] for name in total if weight[name]}


def write_scores(path: Path, team: str, task: str, splits: Mapping[str, Mapping[Key, Mapping[str, float]]]) -> None:
    """A line for every score of every run. ``splits``: "all", or "choose" and "confirm" -> (rule, seed) -> scores."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for split, values in splits.items():
        for (rule, seed), found in values.items():
            writer.writerows([team, task, rule, seed, split, name, value] for name, value in found.items())
    write_atomic(path, stream.getvalue())
