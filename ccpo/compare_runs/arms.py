"""Arms of a comparison: runs that differ by nothing but their seed. Their values by question, and differences with two intervals.

Over questions: values of a question are averaged over the seeds, then questions are drawn again with replacement (`ccpo.evaluate.measures`). It
says what other questions of this kind would change, asked of these very trainings. Over seeds: Student's t of one difference a seed, each the mean
over all questions. It says what other trainings would change, asked these very questions. Neither holds both, so a claim about a method
needs the two.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ccpo.compare_runs.validations import Key, Question, Validated, Validation
from ccpo.evaluate.measures import Estimate, estimate, majority_at, mean, pass_at
from ccpo.evaluate.results import RIGHT
from ccpo.report.logged import ReportError
from ccpo.report.means import t_interval
from ccpo.report.runs import ALIKE, groups

DRAWS = 0  # seed of the bootstrap
NO_WIDTH = 1e-12
UNKNOWN = ("?", "None")  # a seed that the configuration does not tell
Values = Mapping[Key, float]
Measure = Callable[[Question], "float | None"]
BySeed = Mapping[Hashable, Values]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Arm:
    """``seeds``: seed -> run. A run whose seed is not known has its folder in place of it, and pairs with none."""

    name: str
    seeds: Mapping[Hashable, Validated]

    def of(self, measure: Measure, keys: Sequence[Key], when: str = "last") -> dict[Hashable, dict[Key, float]]:
        """Seed -> question -> value, where there is one. ``when``: "last" or "first"."""
        found = {}
        for seed, one in self.seeds.items():
            validation: Validation = getattr(one, when)
            values = ((key, measure(validation.questions[key])) for key in keys)
            found[seed] = {key: value for key, value in values if value is not None}
        return found


@dataclass(frozen=True)
class Difference:
    """A minus B. ``seeds``: of those that both have; without any the means over each one's seeds are compared, and ``over_seeds`` is None, as it is
    with a single one."""

    over_questions: Estimate
    over_seeds: Interval | None
    seeds: tuple[Hashable, ...]


def arms_of(found: Sequence[Validated], control: str | None = None) -> list[Arm]:
    """The control first: the arm that is called so, or of the first run. Raises ReportError for a run that is given twice, and for a ``control``
    that is none."""
    for number, one in enumerate(found):
        for other in found[:number]:
            if one.folder.resolve() == other.folder.resolve():
                raise ReportError(
                    f"{one.folder} is given twice ({other.folder}): it would count as two seeds; give it once"
                )
    by_run = {id(one.run): one for one in found}
    arms = []
    for name, members in groups([one.run for one in found]).items():
        seeds: dict[Hashable, Validated] = {}
        for run in members:
            one = by_run[id(run)]
            seed = one.folder if run.seed in UNKNOWN else run.seed
            if seed in seeds:
                raise ReportError(
                    f"{seeds[seed].folder} and {one.folder} have one seed, {seed}, and differ in none of {', '.join(ALIKE)}: they would "
                    "count as two seeds; give one of them"
                )
            seeds[seed] = one
        arms.append(Arm(name, seeds))
    if control is None:
        return arms
    chosen = [arm for arm in arms if arm.name == control] or [arm for arm in arms if control in _words(arm)]
    if len(chosen) != 1:
        names = "; ".join(arm.name for arm in arms)
        raise ReportError(
            f"--control {control} is {'no' if not chosen else 'more than one'} arm; the arms are: {names}"
        )
    return [*chosen, *(arm for arm in arms if arm is not chosen[0])]


def _words(arm: Arm) -> set[str]:
    """What an arm is called by, too: its rule, and its runs' names."""
    return {*re.split(r"[:,] ", arm.name), *(one.run.name for one in arm.seeds.values())}


def common(found: Sequence[Validated]) -> tuple[list[Key], str | None]:
    """(the questions that every validation has with the same text and truth, in order; what differs, in words). Raises ReportError without any."""
    every = [validation for one in found for validation in (one.last, one.first) if validation is not None]
    texts = [{key: question.text for key, question in one.questions.items()} for one in every]
    keys = sorted(key for key, text in texts[0].items() if all(other.get(key) == text for other in texts[1:]))
    if all(len(of_one) == len(keys) for of_one in texts):
        return keys, None
    other = len({key for of_one in texts for key, text in of_one.items() if text != texts[0].get(key, text)})
    counts = Counter((one.run.name, len(one.last.questions)) for one in found)
    differ = ", ".join(f"{name} {count}" for name, count in counts) + (
        f"; {other} with the same number and another text or truth" if other else ""
    )
    if not keys:
        raise ReportError(
            f"the runs were validated on different questions, and none is in all ({differ}): compare runs of one data.val_files"
        )
    return (
        keys,
        f"validated on different questions ({differ}): the {len(keys)} that all have are compared, the others are left out",
    )


def k_of(found: Sequence[Validated]) -> int:
    """Sessions of a question that every validation has."""
    return min(one.last.k for one in found)


def measures_of(arms: Sequence[Arm], keys: Sequence[Key], k: int) -> dict[str, Measure]:
    """Name -> measure: avg, and pass@k and maj@k with k above 1 where every answer is right or wrong."""
    found: dict[str, Measure] = {f"avg@{k}": lambda question: mean(question.values)}
    if k > 1 and all(question.answers is not None for question in _questions(arms, keys)):
        found[f"pass@{k}"] = lambda question: pass_at(question.answers.count(RIGHT), len(question.answers), k)
        found[f"maj@{k}"] = lambda question: majority_at(question.answers, RIGHT, k)
    return found


def contributions_of(arms: Sequence[Arm], keys: Sequence[Key]) -> tuple[dict[str, Measure], list[str]]:
    """(role -> its contribution, of the roles whose removal was replayed in every run; roles without which there is no answer)."""
    named = [{role for question in of_one for role in question.contributions} for of_one in _by_run(arms, keys)]
    roles = [role for role in dict.fromkeys(r for q in _questions(arms, keys) for r in q.contributions)]
    roles = [role for role in roles if all(role in of_one for of_one in named)]

    def needed(role: str) -> bool:
        pairs = [
            (question.contributions[role], mean(question.values))
            for question in _questions(arms, keys)
            if role in question.contributions
        ]
        return all(abs(own - value) < NO_WIDTH for own, value in pairs) and any(value for _, value in pairs)

    always = [role for role in roles if needed(role)]
    return {role: _contribution(role) for role in roles if role not in always}, always


def _contribution(role: str) -> Measure:
    return lambda question: question.contributions.get(role)


def _by_run(arms: Sequence[Arm], keys: Sequence[Key]) -> Iterator[list[Question]]:
    for arm in arms:
        for one in arm.seeds.values():
            for validation in filter(None, (one.last, one.first)):
                yield [validation.questions[key] for key in keys]


def _questions(arms: Sequence[Arm], keys: Sequence[Key]) -> Iterator[Question]:
    for of_one in _by_run(arms, keys):
        yield from of_one


def averaged(members: Sequence[Values]) -> dict[Key, float]:
    """Mean over runs, of the questions that all have."""
    return {key: mean([of_one[key] for of_one in members]) for key in _in_all(members)}


def _in_all(members: Sequence[Values]) -> list[Key]:
    return [key for key in members[0] if all(key in other for other in members[1:])]


def value_of(values: BySeed) -> Estimate | None:
    """Mean over questions of the mean over seeds, with its interval over questions."""
    return estimate(list(averaged(list(values.values())).values()), DRAWS)


def difference(a: BySeed, b: BySeed) -> Difference | None:
    """Paired by question, and by seed where both have one. None without a question that all have."""
    seeds = tuple(seed for seed in a if seed in b)
    first, second = ([side[seed] for seed in seeds or side] for side in (a, b))
    keys = _in_all([*first, *second])
    if not keys:
        return None
    mine, other = averaged(first), averaged(second)
    found = estimate([mine[key] - other[key] for key in keys], DRAWS)
    by_seed = [mean([x[key] - y[key] for key in keys]) for x, y in zip(first, second, strict=False)] if seeds else []
    return Difference(found, t_interval(by_seed), seeds)


def without_width(interval: Interval | None) -> bool:
    return interval is not None and interval[1] - interval[0] < NO_WIDTH


def excludes_0(interval: Interval | None) -> bool:
    """One without width says that all values were the same, not that it is sure."""
    return interval is not None and not without_width(interval) and (interval[0] > 0 or interval[1] < 0)
