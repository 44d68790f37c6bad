"""A second, slow and plain implementation of the dyad's credit rules, to check ``ccpo.credit`` against.

Written from the method's description alone: dictionaries and loops, one row at a time, no code shared with the package.
A row is ``(group, session, role, reward)``; a memory is a plain dict of numbers; nothing is changed in place.
"""

from __future__ import annotations

import copy
import math
from typing import Any

Row = tuple[Any, int, str, float]
Key = tuple[Any, int, str]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def population_variance(values: list[float], about: float | None = None) -> float:
    center = mean(values) if about is None else about
    return sum((value - center) ** 2 for value in values) / len(values)


def sigmoid(x: float) -> float:
    """The argument is clipped to +-20, as the authors do."""
    return 1.0 / (1.0 + math.exp(-max(-20.0, min(20.0, x))))


def zscore_by_group(values: dict[Key, float], by_std: bool = True) -> dict[Key, float]:
    """Per (prompt, role): minus the mean, over Bessel's standard deviation + 1e-6. A row alone: 0."""
    groups: dict[tuple, list[float]] = {}
    for (group, _, role), value in values.items():
        groups.setdefault((group, role), []).append(value)
    result = {}
    for key, value in values.items():
        peers = groups[key[0], key[2]]
        if len(peers) == 1:
            result[key] = 0.0
            continue
        center = mean(peers)
        std = math.sqrt(sum((peer - center) ** 2 for peer in peers) / (len(peers) - 1))
        result[key] = (value - center) / (std + 1e-6) if by_std else value - center
    return result


def averaged(memory: dict, name: str, value: float, decay: float) -> float:
    """Update one bias-corrected moving average and return its corrected value."""
    raw, weight = memory.get(name, (0.0, 0.0))
    memory[name] = (decay * raw + (1 - decay) * value, decay * weight + (1 - decay))
    return read(memory, name)


def read(memory: dict, name: str) -> float:
    raw, weight = memory[name]
    return raw / weight


def history_normalized(
    values: dict[Key, float], stream: str, old: dict, new: dict, decay: float, floor: float
) -> dict[Key, float]:
    """With the old mean and deviation (the first batch: its own); then the new memory learns the batch."""
    if not values:
        return {}
    batch = list(values.values())
    if f"{stream}/mean" in old:
        center, variance = read(old, f"{stream}/mean"), read(old, f"{stream}/second")
    else:
        center, variance = mean(batch), population_variance(batch)
    center_after = averaged(new, f"{stream}/mean", mean(batch), decay)
    averaged(new, f"{stream}/second", population_variance(batch, about=center_after), decay)
    return {key: (value - center) / max(math.sqrt(variance), floor) for key, value in values.items()}


def solo_means(rows: list[Row]) -> dict[Any, float]:
    groups: dict[Any, list[float]] = {}
    for group, _, role, reward in rows:
        if role == "solo":
            groups.setdefault(group, []).append(reward)
    return {group: mean(rewards) for group, rewards in groups.items()}


def joint_means(rows: list[Row]) -> dict[Any, float]:
    groups: dict[Any, list[float]] = {}
    for group, _, role, reward in rows:
        if role == "reason":
            groups.setdefault(group, []).append(reward)
    return {group: mean(rewards) for group, rewards in groups.items()}


# ------------------------------------------------------------------------------------------------------ published rules


def paper_v1(rows: list[Row], old: dict, new: dict) -> dict[Key, float]:
    alpha = eta = 1.0
    beta, eps = 0.99, 1e-6
    joint = {(g, s): r for g, s, role, r in rows if role == "reason"}
    solo = {(g, s): r for g, s, role, r in rows if role == "solo"}
    delta = {pair: joint[pair] - solo[pair] for pair in joint}  # KeyError: a session without its solo answer
    streams = {"delta": delta, "joint": joint, "solo": solo}

    def moments(name: str) -> tuple[float, float]:
        mu, variance = old[f"paper/{name}"]
        return mu, math.sqrt(variance) if variance > eps else 1.0

    def z(name: str, value: float) -> float:
        mu, sigma = moments(name)
        return (value - mu) / (sigma + eps)

    first = "paper/delta" not in old
    rewards: dict[Key, float] = {}
    for pair, r_joint in joint.items():
        if first:
            rewards[(*pair, "think")] = delta[pair]
            rewards[(*pair, "reason")] = r_joint
            continue
        mu, sigma = moments("delta")
        g = sigmoid(eta * mu / (sigma + eps))
        rewards[(*pair, "think")] = math.tanh(alpha * z("delta", delta[pair]))
        rewards[(*pair, "reason")] = g * z("joint", r_joint) + (1 - g) * z("solo", solo[pair])
    for name, values in streams.items():
        batch = list(values.values())
        if not batch:
            continue
        mu, variance = mean(batch), population_variance(batch)
        if f"paper/{name}" in old:
            old_mu, old_variance = old[f"paper/{name}"]
            mu, variance = beta * old_mu + (1 - beta) * mu, beta * old_variance + (1 - beta) * variance
        new[f"paper/{name}"] = (mu, variance)
    return zscore_by_group(rewards)


def event_v2(rows: list[Row]) -> dict[Key, float]:
    """Rewards 0/1 become -1/+1. Without a solo answer there is no event, so no bonus."""
    signed = [(g, s, role, 2 * r - 1) for g, s, role, r in rows]
    b = solo_means(signed)
    rewards = {}
    for group, session, role, r in signed:
        if role == "solo":
            continue
        base = b.get(group, 0.0)
        bonus = (r > 0 and base < 0) - (r < 0 and base > 0)
        rewards[(group, session, role)] = r + 0.2 * bonus if role == "think" else r
    return zscore_by_group(rewards, by_std=False)


# ------------------------------------------------------------------------------------------------------------ our rules


def coefficient_of(old: dict, fixed: float | None) -> float:
    """The fitted coefficient of the old memory. Nothing seen, or a solo reward that never varied: 0."""
    if fixed is not None:
        return fixed
    if "cv/cov" not in old or read(old, "cv/var") <= 0:
        return 0.0
    return max(0.0, min(1.0, read(old, "cv/cov") / read(old, "cv/var")))


def reference_step(rows: list[Row], config: Any, memory: dict) -> tuple[dict[Key, float], dict]:
    """One step of any rule.

    Args:
        rows: the step's trajectories.
        config: a CcpoConfig, read for its settings only.
        memory: what the previous step returned; ``{}`` at the start.

    Returns:
        the advantage of every row, and the new memory.
    """
    credit, decay, floor = config.credit, config.history.decay, config.history.floor
    how = credit.normalization
    old, new = memory, copy.deepcopy(memory)
    advantages: dict[Key, float] = {(g, s, role): 0.0 for g, s, role, _ in rows}
    if credit.rule == "paper_v1":
        return {**advantages, **paper_v1(rows, old, new)}, new
    if credit.rule == "event_v2":
        return {**advantages, **event_v2(rows)}, new

    b = solo_means(rows)
    residual = {(g, s, role): r for g, s, role, r in rows if role != "solo" or credit.train_solo}
    if credit.rule == "counterfactual":
        beta = coefficient_of(old, credit.coefficient)
        mu_b = read(old, "cv/b") if "cv/b" in old else mean(list(b.values())) if b else 0.0
        center = 0.0 if how == "none" else mu_b  # the raw credit is R_joint - beta b
        for key in residual:
            if key[2] != "solo":
                residual[key] -= beta * (b.get(key[0], mu_b) - center)  # a prompt without solo answers: b = mu_b
        joint = joint_means(rows)
        both = [group for group in b if group in joint]
        if both:
            averaged(new, "cv/b", mean([b[group] for group in both]), decay)
            x, y = [b[group] for group in both], [joint[group] for group in both]
            covariance = mean([(p - mean(x)) * (q - mean(y)) for p, q in zip(x, y, strict=True)])
            averaged(new, "cv/cov", covariance, decay)
            averaged(new, "cv/var", population_variance(x), decay)

    result = dict(residual)
    if "history" in how:
        for role in ("think", "reason", "solo"):
            values = {key: value for key, value in residual.items() if key[2] == role}
            result.update(history_normalized(values, role, old, new, decay, floor))
    if credit.shaping == "tanh":
        result = {key: math.tanh(credit.alpha * value) if key[2] == "think" else value for key, value in result.items()}
    if "group" in how:
        result = zscore_by_group(result)

    if credit.train_solo:
        delta = {(g, s, role): r - b[g] for g, s, role, r in rows if role == "reason" and g in b}
        g = 0.5
        if "delta/mean" in old:
            g = sigmoid(credit.eta * read(old, "delta/mean") / max(math.sqrt(read(old, "delta/second")), floor))
        history_normalized(delta, "delta", old, new, decay, floor)
        weight = {"think": 1.0, "reason": g, "solo": 1 - g}
        result = {key: value * weight[key[2]] for key, value in result.items()}
    return {**advantages, **result}, new
