"""Numbers of runs -> means over seeds, paired differences to the reference, and which rule is best."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from ccpo.compare_rules.runs import Key, Mistake
from ccpo.report.means import holm, mean_text, p_value

Values = Mapping[Key, Mapping[str, float]]
"""(rule, seed) -> score -> value; the first rule is the reference."""


def rules_of(values: Values) -> list[str]:
    return list(dict.fromkeys(rule for rule, _ in values))


def of_rule(values: Values, rule: str, score: str) -> dict[int, float]:
    """seed -> value."""
    return {seed: found[score] for (named, seed), found in values.items() if named == rule and score in found}


def differences(values: Values, rule: str, score: str) -> list[float]:
    """To the reference, of the seeds that both have."""
    reference = rules_of(values)[0]
    own, its = of_rule(values, rule, score), of_rule(values, reference, score)
    return [value - its[seed] for seed, value in own.items() if seed in its and rule != reference]


def every_score(values: Values) -> list[str]:
    return list(dict.fromkeys(name for found in values.values() for name in found))


def headline(names: Sequence[str]) -> list[str]:
    """Of the whole team, what each role contributes, and signal-to-noise: a line of each fits a table. The file has them all."""
    return [name for name in names if "/" not in name or name.endswith("/contribution") or name.startswith("snr")]


def table(values: Values, names: Sequence[str], intervals: bool = True) -> str:
    """Means over seeds, and differences to the first rule with the same seed.

    Args:
        names: scores.
        intervals: 95 % t intervals, and the p-value of every difference, by Holm adjusted for the rules that are compared in this score; else means
            alone: of seeds that chose a rule neither means what it says.
    """
    rules = rules_of(values)
    chosen = [name for name in every_score(values) if name in names]
    reference, width = rules[0], max(map(len, rules)) + 2
    p_head = ("p (Holm)" if len(rules) > 2 else "p") if intervals else ""
    lines = [f"{'':<{width}}{'seeds':>5}  {'mean':>16}  {'minus ' + reference:>16}  {p_head:>8}".rstrip()]

    def text(numbers: Sequence[float], sign: str = "") -> str:
        return mean_text(numbers if intervals or not numbers else [statistics.fmean(numbers)], sign) if numbers else ""

    for name in chosen:
        lines.append(name)
        pairs = {rule: differences(values, rule, name) for rule in rules}
        tested = {rule: p for rule in rules if (p := p_value(pairs[rule])) is not None} if intervals else {}
        adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
        for rule in rules:
            if own := list(of_rule(values, rule, name).values()):
                p = _p_text(adjusted[rule]) if rule in adjusted else ""
                line = f"  {rule:<{width - 2}}{len(own):>5}  {text(own):>16}  {text(pairs[rule], '+'):>16}  {p:>8}"
                lines.append(line.rstrip())
    return "\n".join(lines)


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def best(values: Values, score: str) -> str:
    """The rule, the reference apart, with the highest mean of a score over the seeds. Raises Mistake where one has no such score."""
    _, *others = rules_of(values)
    if without := [rule for rule in others if not of_rule(values, rule, score)]:
        raise Mistake(f"--by {score}: no run of {without[0]} has it; set one of {', '.join(every_score(values))}")
    return max(others, key=lambda rule: statistics.fmean(of_rule(values, rule, score).values()))
