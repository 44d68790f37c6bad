"""A second, slow and plain implementation of a step of credit, to check ``ccpo.step`` and ``ccpo.credit`` against.

Written from the method's description alone: dictionaries and loops, one session at a time, no code shared with the package.
A session is a dict,

    prompt, session, value     its group, its number in it, R
    spoke                      {role: whether one of its turns was cut}, of the roles that said something
    replays                    [(how, role, value, shared, turns that were decoded)]
    ballots                    {role: label or None}, where the outcome is a plurality whose right label is "C"
    likelihoods                one number per turn: the likelihood of the reference answer before it
    behind, said               its likelihood behind the last speaker's chain, None: not known; whether it went on so

A memory is a plain dict of numbers; nothing is changed in place. Settings are a dict, see `reference_step`.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np

_spec = importlib.util.spec_from_file_location("reference_voting", Path(__file__).with_name("reference_voting.py"))
voting = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(voting)

Key = tuple[Any, int, str]
TRUTH = "C"


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def population_variance(values: list[float], about: float | None = None) -> float:
    center = mean(values) if about is None else about
    return sum((value - center) ** 2 for value in values) / len(values)


def sigmoid(x: float) -> float:
    """The argument is clipped to +-20, as the authors do."""
    return 1.0 / (1.0 + math.exp(-max(-20.0, min(20.0, x))))


def zscore_by_group(values: dict[tuple, float], by_std: bool = True) -> dict[tuple, float]:
    """Per (first, last) entry of the key, that is prompt and role: minus the mean, over Bessel's standard deviation + 1e-6. Alone: 0."""
    groups: dict[tuple, list[float]] = {}
    for key, value in values.items():
        groups.setdefault((key[0], key[-1]), []).append(value)
    result = {}
    for key, value in values.items():
        peers = groups[key[0], key[-1]]
        if len(peers) == 1:
            result[key] = 0.0
            continue
        center = mean(peers)
        std = math.sqrt(sum((peer - center) ** 2 for peer in peers) / (len(peers) - 1))
        result[key] = (value - center) / (std + 1e-6) if by_std else value - center
    return result


# -------------------------------------------------------------------------------------------------------------- history


def averaged(memory: dict, name: str, value: float, decay: float) -> float:
    """Update one bias-corrected moving average and return its corrected value."""
    raw, weight = memory.get(name, (0.0, 0.0))
    memory[name] = (decay * raw + (1 - decay) * value, decay * weight + (1 - decay))
    return read(memory, name)


def read(memory: dict, name: str) -> float:
    raw, weight = memory[name]
    return raw / weight


def old_moments(batch: list[float], stream: str, old: dict) -> tuple[float, float]:
    """Mean and variance that a batch is normalized with: the old ones, for the first batch its own."""
    if f"{stream}/mean" in old:
        return read(old, f"{stream}/mean"), read(old, f"{stream}/second")
    return mean(batch), population_variance(batch)


def learn(batch: list[float], stream: str, new: dict, decay: float) -> None:
    center = averaged(new, f"{stream}/mean", mean(batch), decay)
    averaged(new, f"{stream}/second", population_variance(batch, about=center), decay)


def history_normalized(
    streams: dict[str, dict[tuple, float]],
    policy_of: dict[str, str],
    old: dict,
    new: dict,
    decay: float,
    floor: float,
    uncentred: str | None = None,
) -> dict[tuple, float]:
    """Own means (``uncentred``: none is taken from this stream); one scale for the streams of one policy: the root of the mean of their variances."""
    spoken = {name: values for name, values in streams.items() if values}
    moments = {name: old_moments(list(values.values()), name, old) for name, values in spoken.items()}
    result = {}
    for name, values in spoken.items():
        variances = [moments[other][1] for other in spoken if policy_of[other] == policy_of[name]]
        scale = max(math.sqrt(mean(variances)), floor)
        for key, value in values.items():
            result[key] = (value - (0.0 if name == uncentred else moments[name][0])) / scale
        learn(list(values.values()), name, new, decay)
    return result


# ------------------------------------------------------------------------------------------------------------ baselines


def by_prompt(records: list[dict]) -> dict[Any, list[dict]]:
    groups: dict[Any, list[dict]] = {}
    for record in records:
        groups.setdefault(record["prompt"], []).append(record)
    return groups


def replay_values(record: dict, how: str, role: str) -> list[float]:
    return [value for h, r, value, *_ in record["replays"] if (h, r) == (how, role)]


def shared_removals(record: dict) -> list[tuple[str, float]]:
    return [(role, value) for how, role, value, shared, _ in record["replays"] if how == "remove" and shared]


def removal_baseline(records: list[dict], role: str) -> tuple[dict[tuple, float], list[tuple[float, float]]]:
    """({session: b}, [(b, R)] that the coefficient is fitted to): by prompt if a removal of the role is shared, else by session."""
    if any(role == r for record in records for r, _ in shared_removals(record)):
        b, pairs = {}, []
        for prompt, group in by_prompt(records).items():
            found = [value for record in group for r, value in shared_removals(record) if r == role]
            if found:
                pairs.append((mean(found), mean([record["value"] for record in group])))
                for record in group:
                    b[prompt, record["session"]] = mean(found)
        return b, pairs
    b, pairs = {}, []
    for record in records:
        if found := replay_values(record, "remove", role):
            b[record["prompt"], record["session"]] = mean(found)
            pairs.append((mean(found), record["value"]))
    return b, pairs


def minus_removal(
    records: list[dict],
    roles: list[str],
    removed: str,
    fixed: float | None,
    centred: bool,
    old: dict,
    new: dict,
    decay: float,
) -> dict[Key, float]:
    """R - beta b of these roles; with ``centred`` R - beta (b - mu_b), what the history normalizes. A session without b: b = mu_b."""
    b, pairs = removal_baseline(records, removed)
    if not b:
        raise ValueError("this step has none")
    name = f"cv/{removed}"
    beta = fixed
    if fixed is None:
        beta = 0.0
        if f"{name}/cov" in old:
            beta = max(0.0, min(1.0, read(old, f"{name}/cov") / max(read(old, f"{name}/var"), 1e-4)))
    mu_b = read(old, f"{name}/b") if f"{name}/b" in old else mean([x for x, _ in pairs])
    result = {}
    for record in records:
        base = b.get((record["prompt"], record["session"]), mu_b)
        for role in roles:
            if role in record["spoke"]:
                credit = record["value"] - beta * (base - (mu_b if centred else 0.0))
                result[record["prompt"], record["session"], role] = credit
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    averaged(new, f"{name}/b", mean(xs), decay)
    averaged(new, f"{name}/var", population_variance(xs), decay)
    averaged(new, f"{name}/cov", mean([(x - mean(xs)) * (y - mean(ys)) for x, y in pairs]), decay)
    return result


def siblings_of(record: dict, records: list[dict]) -> list[float]:
    return [x["value"] for x in records if x["prompt"] == record["prompt"] and x is not record]


def minus_removal_and_siblings(
    records: list[dict], roles: list[str], removed: str, centred: bool, old: dict, new: dict, decay: float
) -> dict[Key, float]:
    """R minus both baselines of these roles, each times its coefficient of one regression; Cramer's rule, ridge 1e-4, clipped to [0, 1]."""
    b, _ = removal_baseline(records, removed)
    if not b:
        raise ValueError("this step has none")
    name = f"both/{removed}"
    names = ("b", "s", "bb", "ss", "bs", "br", "sr")
    beta_b = beta_s = mu_b = mu_s = 0.0
    if f"{name}/b" in old:
        mu_b, mu_s, bb, ss, bs, br, sr = (read(old, f"{name}/{which}") for which in names)
        bb, ss = bb + 1e-4, ss + 1e-4
        beta_b = max(0.0, min(1.0, (br * ss - sr * bs) / (bb * ss - bs * bs)))
        beta_s = max(0.0, min(1.0, (sr * bb - br * bs) / (bb * ss - bs * bs)))
    result, triples = {}, []
    for record in records:
        peers = siblings_of(record, records)
        key = (record["prompt"], record["session"])
        if peers and key in b:
            triples.append((b[key], mean(peers), record["value"]))
        one, two = b.get(key, mu_b), mean(peers) if peers else mu_s
        for role in roles:
            if role in record["spoke"]:
                off = beta_b * mu_b + beta_s * mu_s if centred else 0.0
                result[(*key, role)] = record["value"] - beta_b * one - beta_s * two + off
    if triples:
        center = [mean([triple[i] for triple in triples]) for i in range(3)]

        def cov(i: int, j: int) -> float:
            return mean([(triple[i] - center[i]) * (triple[j] - center[j]) for triple in triples])

        found = (center[0], center[1], cov(0, 0), cov(1, 1), cov(0, 1), cov(0, 2), cov(1, 2))
        for which, value in zip(names, found, strict=True):
            averaged(new, f"{name}/{which}", value, decay)
    return result


def shrinkage(records: list[dict]) -> dict[Key, float]:
    """Zeng et al.: the prompt's other sessions, shrunk towards the other prompts, with a coefficient that the other prompts give."""
    groups, result = by_prompt(records), {}
    for record in records:
        rest = [[x["value"] for x in group] for prompt, group in groups.items() if prompt != record["prompt"]]
        peers = siblings_of(record, records)
        if not peers and not rest:
            baseline = record["value"]
        elif not rest:
            baseline = mean(peers)
        else:
            target = mean([mean(values) for values in rest])
            weight = 1.0
            if peers:
                # the sample variance of a prompt's mean
                noise = [population_variance(v) / (len(v) - 1) for v in rest if len(v) > 1] or [0.0]
                spread = mean([(mean(values) - target) ** 2 for values in rest])
                weight = 0.0
                if mean(noise) + spread > 1e-12:
                    weight = len(rest) / (len(rest) + 1) * mean(noise) / (mean(noise) + spread)
            baseline = weight * target + ((1 - weight) * mean(peers) if peers else 0.0)
        for role in record["spoke"]:
            result[record["prompt"], record["session"], role] = record["value"] - baseline
    return result


def coins(records: list[dict], steps: int) -> dict[Key, float]:
    """By position in the step."""
    thrown = np.random.default_rng([250610947, steps]).random(len(records))
    return {
        (record["prompt"], record["session"], role): float(coin < 0.5)
        for record, coin in zip(records, thrown, strict=True)
        for role in record["spoke"]
    }


def resampling(records: list[dict], roles: list[str]) -> dict[Key, float]:
    result = {}
    for role in roles:
        decoded = any(replay_values(record, "resample", role) for record in records)
        for group in by_prompt(records).values():
            for record in group:
                if role not in record["spoke"]:
                    continue
                if decoded:
                    others = replay_values(record, "resample", role)
                else:
                    others = [other["value"] for other in group if other is not record]
                key = (record["prompt"], record["session"], role)
                result[key] = record["value"] - mean(others) if others else 0.0
    return result


def behind_the_chain(
    records: list[dict], fitted: bool, old: dict, new: dict, decay: float
) -> tuple[dict[Key, float], dict[Key, float]]:
    """(what every turn gets, what the last one's answer gets): R without the chance of the answer that follows its chain."""
    gamma = 1.0
    if "chain/dd" in old:
        gamma = max(0.0, min(1.0, read(old, "chain/dr") / (read(old, "chain/dd") + 1e-4)))
    bordered = [record for record in records if record["behind"] is not None]
    worth = {
        (r["prompt"], r["session"]): r["value"] - (0.0 if r["behind"] is None else gamma * (r["said"] - r["behind"]))
        for r in records
    }
    if bordered:
        middle = mean([record["value"] for record in bordered])
        gaps = [record["said"] - record["behind"] for record in bordered]
        averaged(new, "chain/dd", mean([gap * gap for gap in gaps]), decay)
        products = [gap * (record["value"] - middle) for gap, record in zip(gaps, bordered, strict=True)]
        averaged(new, "chain/dr", mean(products), decay)
    found: dict[Key, tuple[float, float]] = {}
    for record in records:
        pair = (record["prompt"], record["session"])
        for i, role in enumerate(record["spoke"]):
            found[(*pair, role)] = (record["likelihoods"][i], worth[pair])
    credit, baseline = {}, {}
    for role in {key[2] for key in found}:
        mine = {key[:2]: pair for key, pair in found.items() if key[2] == role}
        for pair, (rest, taken) in two_controls(f"likelihood/{role}", mine, old, new, decay).items():
            baseline[(*pair, role)] = taken
            credit[(*pair, role)] = rest if fitted else worth[pair] - taken
    answer = {}
    for record in bordered:
        key = (record["prompt"], record["session"], list(record["spoke"])[-1])
        answer[key] = record["value"] - gamma * record["behind"] - (1 - gamma) * baseline[key]
    return credit, answer


def likelihood(
    records: list[dict], roles: list[str], slope: float, exact: bool, fitted: bool, old: dict, new: dict, decay: float
) -> dict[Key, float]:
    """What each turn changed; with ``fitted`` minus two controls: the likelihood before it, and the mean change in the other sessions."""
    result: dict[Key, float] = {}
    earlier: dict[str, dict[tuple, tuple[float, float]]] = {role: {} for role in roles}
    for record in records:
        pair, names = (record["prompt"], record["session"]), list(record["spoke"])
        for i, role in enumerate(names):
            if i == len(names) - 1:
                result[(*pair, role)] = (
                    record["likelihoods"][i] if exact else record["value"] - record["likelihoods"][i]
                )
                continue
            change = record["likelihoods"][i + 1] - record["likelihoods"][i]
            earlier[role][pair] = (record["likelihoods"][i], change if change >= 0 else slope * change)
    for role, found in earlier.items():
        for pair, (rest, _) in two_controls(f"likelihood/{role}", found, old, new, decay).items():
            result[(*pair, role)] = rest if fitted else found[pair][1]
    return result


def two_controls(
    name: str, found: dict[tuple, tuple[float, float]], old: dict, new: dict, decay: float
) -> dict[tuple, tuple[float, float]]:
    """(prompt, session) -> (what the likelihood before, and the mean of the other sessions, leave of a value; what they take), of (likelihood,
    value) pairs."""
    if not found:
        return {}
    result = {}
    siblings = {pair: [u for other, (_, u) in found.items() if other[0] == pair[0] and other != pair] for pair in found}
    s = {pair: mean(values) for pair, values in siblings.items() if values}
    v = {pair: before for pair, (before, _) in found.items()}
    u = {pair: change for pair, (_, change) in found.items()}
    mean_v, mean_s = mean(list(v.values())), mean(list(s.values())) if s else 0.0
    m_v, m_s, beta_v, beta_s = mean_v, mean_s, 0.0, 0.0
    if f"{name}/v" in old:
        m_v, m_s = read(old, f"{name}/v"), read(old, f"{name}/s")
        vv, vs, ss, vu, su = (read(old, f"{name}/{pair}") for pair in ("vv", "vs", "ss", "vu", "su"))
        vv, ss = vv + 1e-4, ss + 1e-4
        beta_v, beta_s = (ss * vu - vs * su) / (vv * ss - vs * vs), (vv * su - vs * vu) / (vv * ss - vs * vs)
        beta_v, beta_s = max(-1.0, min(1.0, beta_v)), max(-1.0, min(1.0, beta_s))
        mean_s = mean_s if s else m_s
    for pair in found:
        taken = beta_v * v[pair] + beta_s * s.get(pair, m_s)
        result[pair] = (u[pair] - (taken - beta_v * m_v - beta_s * m_s), taken)
    dv = {pair: v[pair] - mean_v for pair in found}
    ds = {pair: s[pair] - mean_s if pair in s else 0.0 for pair in found}
    du = {pair: u[pair] - mean(list(u.values())) for pair in found}
    averaged(new, f"{name}/v", mean_v, decay)
    averaged(new, f"{name}/s", mean_s, decay)
    for key, (a, b) in {"vv": (dv, dv), "vs": (dv, ds), "ss": (ds, ds), "vu": (dv, du), "su": (ds, du)}.items():
        averaged(new, f"{name}/{key}", mean([a[pair] * b[pair] for pair in found]), decay)
    return result


def from_ballots(records: list[dict], rule: str, tie: str, price: float) -> dict[Key, float]:
    result = {}
    for prompt, group in by_prompt(records).items():
        group = sorted(group, key=lambda record: record["session"])
        votes = [list(record["ballots"].values()) for record in group]
        if rule in ("marginal", "resampled"):
            table = getattr(voting, rule)(votes, TRUTH, tie)
        elif rule == "shapley":
            table = [voting.shapley(vote, TRUTH, tie) for vote in votes]
        else:
            table = [voting.own_correctness(vote, TRUTH, price) for vote in votes]
        for record, row in zip(group, table, strict=True):
            for role, credit in zip(record["ballots"], row, strict=True):
                result[prompt, record["session"], role] = float(credit)
    return result


# ------------------------------------------------------------------------------------------------------ published rules


def paper_v1(records: list[dict], first: str, old: dict, new: dict) -> dict[Key, float]:
    """Alpha, eta, decay and epsilon are the authors', whatever the settings say."""
    alpha = eta = 1.0
    beta, eps = 0.99, 1e-6
    joint = {(r["prompt"], r["session"]): r["value"] for r in records}
    solo = {}
    for record in records:
        (solo[record["prompt"], record["session"]],) = [v for _, v in shared_removals(record)] or _none("pairs")
    delta = {pair: joint[pair] - solo[pair] for pair in joint}
    streams = {"delta": delta, "joint": joint, "solo": solo}

    def moments(name: str) -> tuple[float, float]:
        mu, variance = old[f"paper/{name}"]
        return mu, math.sqrt(variance) if variance > eps else 1.0

    def z(name: str, value: float) -> float:
        mu, sigma = moments(name)
        return (value - mu) / (sigma + eps)

    rewards: dict[Key, float] = {}
    for record in records:
        pair = (record["prompt"], record["session"])
        for role in record["spoke"]:
            if any(record["spoke"].values()):
                shaped = 0.0  # a turn was cut
            elif "paper/delta" not in old:
                shaped = delta[pair] if role == first else joint[pair]
            elif role == first:
                shaped = math.tanh(alpha * z("delta", delta[pair]))
            else:
                mu, sigma = moments("delta")
                g = sigmoid(eta * mu / (sigma + eps))
                shaped = g * z("joint", joint[pair]) + (1 - g) * z("solo", solo[pair])
            rewards[(*pair, role)] = shaped
    for name, values in streams.items():
        batch = list(values.values())
        mu, variance = mean(batch), population_variance(batch)
        if f"paper/{name}" in old:
            old_mu, old_variance = old[f"paper/{name}"]
            mu, variance = beta * old_mu + (1 - beta) * mu, beta * old_variance + (1 - beta) * variance
        new[f"paper/{name}"] = (mu, variance)
    return rewards


def event_v2(records: list[dict], first: str) -> dict[Key, float]:
    """Rewards 0/1 become -1/+1. A prompt without a removal has no event, so no bonus."""
    rewards: dict[Key, float] = {}
    if not any(shared_removals(record) for record in records):
        _none("this step has none")
    for prompt, group in by_prompt(records).items():
        found = [2 * value - 1 for record in group for _, value in shared_removals(record)]
        base = mean(found) if found else 0.0
        for record in group:
            r = 2 * record["value"] - 1
            bonus = (r > 0 and base < 0) - (r < 0 and base > 0)
            for role in record["spoke"]:
                rewards[prompt, record["session"], role] = r + 0.2 * bonus if role == first else r
    return rewards


def _none(what: str) -> list:
    raise ValueError(what)


# ---------------------------------------------------------------------------------------------------------------- a step


def reference_step(
    records: list[dict], settings: dict, memory: dict
) -> tuple[dict[Key, float], dict[tuple, float], dict]:
    """One step of any rule.

    Args:
        records: the step's sessions.
        settings: rule, normalize, coefficient, siblings, wrong_price, negative_slope, last_gradient, shaping, alpha, train_replays, eta,
            decay, floor, tie; roles: all of the team's;
            policy_of: {role: policy}; first: the role whose removal is shared, or None; also_spoken: the roles that speak in that replay.
        memory: what the previous step returned; ``{}`` at the start.

    Returns:
        {(prompt, session, role): advantage} of the roles that spoke, {(prompt, session, number of the replay): advantage} of all
        replays, and the new memory.
    """
    rule, how, roles = settings["rule"], settings["normalize"], settings["roles"]
    decay, floor, first = settings["decay"], settings["floor"], settings["first"]
    old, new = memory, copy.deepcopy(memory)
    new["steps"] = old.get("steps", 0) + 1
    if not records:
        return {}, {}, new

    # credit
    centred = how == "history"
    answers: dict[Key, float] = {}
    if rule in ("shared", "shared_history"):
        credit = {(r["prompt"], r["session"], role): r["value"] for r in records for role in r["spoke"]}
    elif rule == "shrinkage":
        credit = shrinkage(records)
    elif rule == "random_reward":
        credit = coins(records, old.get("steps", 0))
    elif rule in ("counterfactual", "removal") and settings["siblings"]:
        credit = {}
        for role in roles if rule == "removal" else [first]:
            whose = [role] if rule == "removal" else roles
            if any(of in record["spoke"] for record in records for of in whose):
                credit |= minus_removal_and_siblings(records, whose, role, centred, old, new, decay)
    elif rule == "counterfactual":
        credit = minus_removal(records, roles, first, settings["coefficient"], centred, old, new, decay)
    elif rule in ("removal", "leave_one_out"):
        fixed = 1.0 if rule == "leave_one_out" else settings["coefficient"]
        credit = {}
        for role in roles:
            if any(role in record["spoke"] for record in records):
                credit |= minus_removal(records, [role], role, fixed, centred and rule == "removal", old, new, decay)
    elif rule == "likelihood" and settings["reference_after"] == "chain":
        credit, answers = behind_the_chain(records, centred, old, new, decay)
    elif rule == "likelihood":
        exact = settings["last_gradient"] == "exact"
        credit = likelihood(records, roles, settings["negative_slope"], exact, centred, old, new, decay)
    elif rule == "resampling":
        credit = resampling(records, roles)
    elif rule == "paper_v1":
        credit = paper_v1(records, first, old, new)
    elif rule == "event_v2":
        credit = event_v2(records, first)
    else:
        credit = from_ballots(records, rule, settings["tie"], settings["wrong_price"])

    if answers:
        last = next(iter(answers))[2]
        credit |= {(*key[:2], f"{last}/answer"): value for key, value in answers.items()}

    # the replays that are trained: turns decoded for the shared removal, credited with what the team got there
    trained: dict[tuple, float] = {}
    every = {(r["prompt"], r["session"], i): 0.0 for r in records for i in range(len(r["replays"]))}
    if settings["train_replays"]:
        for record in records:
            for i, (kind, _, value, shared, decoded) in enumerate(record["replays"]):
                if kind == "remove" and shared and decoded:
                    trained[record["prompt"], record["session"], i] = value

    # advantage
    if how == "history":
        streams = {role: {key: value for key, value in credit.items() if key[2] == role} for role in roles}
        policies = dict(settings["policy_of"])
        if answers:
            streams[f"{last}/answer"] = {key: value for key, value in credit.items() if key[2] == f"{last}/answer"}
            policies[f"{last}/answer"] = policies[last]
        if settings["train_replays"]:
            streams["replays"] = trained
            policies["replays"] = policies[settings["also_spoken"][0]]
        uncentred = roles[-1] if settings["last_gradient"] == "exact" else None
        found = history_normalized(streams, policies, old, new, decay, floor, uncentred)
        advantages = {key: found[key] for key in credit}
        trained = {key: found[key] for key in trained}
    else:
        advantages = dict(credit)
    if settings["shaping"] == "tanh":
        advantages = {
            key: math.tanh(settings["alpha"] * value) if key[2] == first else value for key, value in advantages.items()
        }
    if how in ("group", "centred", "history+group"):
        advantages = zscore_by_group(advantages, by_std=how != "centred")
        of_prompt = zscore_by_group(
            {(*key, "replay"): value for key, value in trained.items()}, by_std=how != "centred"
        )
        trained = {key[:-1]: value for key, value in of_prompt.items()}

    # the gate
    if settings["train_replays"]:
        g = 0.5
        if "delta/mean" in old:
            g = sigmoid(settings["eta"] * read(old, "delta/mean") / max(math.sqrt(read(old, "delta/second")), floor))
        b, _ = removal_baseline(records, first)
        delta = [r["value"] - b[r["prompt"], r["session"]] for r in records if (r["prompt"], r["session"]) in b]
        if delta:
            learn(delta, "delta", new, decay)
        for key, value in advantages.items():
            if key[2].removesuffix("/answer") in settings["also_spoken"]:
                advantages[key] = g * value
        for prompt, group in by_prompt(records).items():
            mine = [key for key in trained if key[0] == prompt]
            for key in mine:
                trained[key] *= (1 - g) * len(group) / len(mine)
    return advantages, {**every, **trained}, new
