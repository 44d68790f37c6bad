"""GSM8K for a vote in which a voter's copy of the problem may lack a sentence, so that it had better say nothing, or not. Lessons and rows.

    python -m data_preprocess.partial_gsm8k --out data/partial_gsm8k --source FOLDER

    OUT/sft_train.parquet, sft_val.parquet         lessons, for recipe/run_sft_roles.sh: DATA=OUT
    OUT/train.parquet, dev.parquet, test.parquet   rows, for recipe/run_ccpo_vote.sh: TASK=partial_gsm8k
    OUT/manifest.json                              counts, overlaps, SHA-256 of the sources and of these files

A copy has a mark in the place of the missing sentence. There are two kinds of prompt, told apart by the mark:

    same_gap    one voter reads the whole problem; all others lack the SAME sentence. Their guesses coincide, so they outvote the one that knows: a
                voter with a gap should be silent.
    own_gaps    every copy has a mark, and each voter a gap of its OWN. Guesses scatter, right answers add up: everybody should speak.

A gap is either needed (the solution comes to another answer without the sentence: data_preprocess/gaps.py), or harmless: nothing of the problem is
missing where the mark stands. In both kinds it is harmless equally often, so a voter with a gap is right equally often, and no rule that
looks at one voter alone can have the right price of a wrong ballot. A voter that can see whether its gap is needed is better off than that.

An abstention says so in words. An answer is what is boxed, nothing else: "Each costs 5 dollars. I can't tell." is an abstention (answer_type
"boxed"; of "number" it would be a ballot for 5). The row's ``copies`` are what voters read, its ``gaps`` what each copy lacks, and the question that it
states is the whole one. Sides of questions are those of data_preprocess.sft_roles. Our construction.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import pyarrow as pa

from ccpo.data import text_problem
from ccpo.plurality import vote_value
from ccpo.prompts import PromptError, Prompts
from ccpo.team.load import prompts_of, team_class
from ccpo.team.session import TeamError
from ccpo.verifier import label, verify
from data_preprocess import gsm8k, sft_roles
from data_preprocess.gaps import Problem
from data_preprocess.role_targets import Solved, draw, normal
from data_preprocess.schema import Row, make_row, reference, summary
from data_preprocess.sft_roles import DEV, SFT_TRAIN, SFT_VAL, TEST, TRAIN, side_of
from data_preprocess.sources import ANSWER, Record, built_rows, field, parser, positive, read, share

NAME = "partial_gsm8k"
DEV_NAME = "partial_gsm8k_dev"
"""In the data source of the dev rows, so that metrics and row ids tell them from the test's."""
PROMPTS = "partial"
"""The vote's prompts in recipe/config/task/partial_gsm8k.yaml."""
COPIES, GAPS = "copies", "gaps"
WHOLE, NEEDED, HARMLESS = "whole", "needed", "harmless"
SOLUTION, GUESS, ABSTENTION = "solution", "guess", "abstention"


@dataclass(frozen=True)
class Kind:
    """``mark``: in the place of a missing sentence. ``abstention``: what is said instead of an answer; its first word is the kind's own, so that
    the two are learned apart. ``common``: all who lack a sentence lack the same one; else every copy has a mark."""

    mark: str
    abstention: str
    common: bool


KINDS = {
    "same_gap": Kind("[most copies lack a sentence here]", "Most copies lack it: I can't tell.", True),
    "own_gaps": Kind("[this copy lacks a sentence here]", "This copy lacks it: I can't tell.", False),
}

LESSON = sft_roles.LESSON.append(pa.field("copy", pa.string())).append(pa.field("says", pa.string()))
"""``copy``: whole, or a kind and what its gap is (same_gap/needed). ``says``: solution, guess or abstention."""


@dataclass(frozen=True)
class Gaps:
    """Who lacks what. ``whole``: voters of same_gap that read the whole problem. ``harmless``: of the voters of own_gaps, those whose gap is
    harmless; in same_gap the common gap is harmless in ``harmless / voters`` of the prompts. Raises ValueError where that is no such vote."""

    voters: int = 5
    whole: int = 1
    harmless: int = 2

    def __post_init__(self) -> None:
        if not 3 <= self.voters <= 64:
            raise ValueError(
                f"--voters {self.voters}: with fewer than 3 nobody is outvoted, and a vote has at most 64; set 3 to 64"
            )
        if not 1 <= self.whole or 2 * self.whole >= self.voters:
            raise ValueError(
                f"--whole {self.whole}: of {self.voters} voters at least 1 must read the whole problem, and fewer than half, or those with a gap "
                f"could not outvote them; set 1 to {(self.voters - 1) // 2}"
            )
        if not 1 <= self.harmless < self.voters:
            raise ValueError(
                f"--harmless {self.harmless}: without a harmless gap a guess is never right, and with no other nobody should be silent; set 1 to "
                f"{self.voters - 1}"
            )


def overrides(gaps: Gaps) -> tuple[str, ...]:
    """What the vote needs beside recipe/config/task/partial_gsm8k.yaml, which fits every team."""
    return f"ccpo.team_kwargs.n_voters={gaps.voters}", f"ccpo.team_kwargs.copies={COPIES}"


# --- copies -----------------------------------------------------------------------------------------------------------


def fit(problem: Problem) -> bool:
    """Whether a problem can be of either kind: two of its sentences are needed, and different answers come out without them."""
    return len({guess.answer for guess in problem.needed.values()}) > 1


def kind_of(question: str, salt: str) -> str:
    return list(KINDS)[int(draw(question, f"{salt}/kind") * len(KINDS))]


def harmless(problem: Problem, mark: str, salt: str) -> str:
    """The whole problem, with ``mark`` before one of the sentences that could be missing."""
    places = problem.hideable
    return problem.with_mark(places[int(draw(problem.solved.question, f"{salt}/place") * len(places))], mark)


def copies(problem: Problem, name: str, gaps: Gaps, salt: str) -> tuple[list[str], list[str]]:
    """(what each voter reads, what its copy lacks: whole, needed or harmless) of a problem that is `fit`. The same question and salt, the same
    copies."""
    question, kind = problem.solved.question, KINDS[name]
    order = sorted(range(gaps.voters), key=lambda voter: draw(question, f"{salt}/voter{voter}"))
    needed = sorted(problem.needed, key=lambda number: draw(question, f"{salt}/sentence{number}"))
    found: dict[int, tuple[str, str]] = {}
    if kind.common:
        none_is_needed = draw(question, f"{salt}/harmless") < gaps.harmless / gaps.voters
        common = (
            (harmless(problem, kind.mark, salt), HARMLESS)
            if none_is_needed
            else (problem.without(needed[0], kind.mark), NEEDED)
        )
        for place, voter in enumerate(order):
            found[voter] = (question, WHOLE) if place < gaps.whole else common
    else:
        for place, voter in enumerate(order):
            if place < gaps.harmless:
                found[voter] = harmless(problem, kind.mark, f"{salt}/voter{voter}"), HARMLESS
            else:
                found[voter] = problem.without(needed[place % len(needed)], kind.mark), NEEDED
    listed = [found[voter] for voter in range(gaps.voters)]
    return [text for text, _ in listed], [gap for _, gap in listed]


# --- lessons ----------------------------------------------------------------------------------------------------------


class Teacher:
    """The lessons of a voter on one problem. ``abstains``: share of the lessons on a copy with a gap that say nothing; the others go on without the
    sentence. Both are alive when reinforcement learning begins, and equally so whether the gap is needed or not."""

    def __init__(self, prompts: Prompts, abstains: float, salt: str) -> None:
        self._prompts, self._abstains, self._salt = prompts, abstains, salt

    def lessons(self, problem: Problem, index: int) -> Iterator[dict[str, Any]]:
        """Rows of `LESSON`: one on the whole problem, and where a sentence is needed one on a needed and on a harmless gap of each kind. Raises
        ValueError for a reply that is no text, or is not judged as it should be."""
        solved = problem.solved
        yield self._lesson(solved, index, solved.question, solved.whole, WHOLE, SOLUTION, solved.truth)
        for name, kind in KINDS.items() if problem.needed else ():
            salt = f"{self._salt}/lesson/{name}"
            number = list(problem.needed)[int(draw(solved.question, f"{salt}/sentence") * len(problem.needed))]
            guess = problem.needed[number]
            for gap, copy, says, reply, answer in (
                (NEEDED, problem.without(number, kind.mark), GUESS, guess.reply, guess.answer),
                (HARMLESS, harmless(problem, kind.mark, salt), SOLUTION, solved.whole, solved.truth),
            ):
                if draw(solved.question, f"{salt}/{gap}") < self._abstains:
                    says, reply, answer = ABSTENTION, kind.abstention, None
                yield self._lesson(solved, index, copy, reply, f"{name}/{gap}", says, answer)

    def _lesson(
        self, solved: Solved, index: int, copy: str, reply: str, what: str, says: str, answer: str | None
    ) -> dict[str, Any]:
        if problem := text_problem(reply):
            raise ValueError(f"what a voter would be taught {problem}")
        verdict = verify(reply, answer or solved.truth, "boxed")
        if verdict.parsed != (answer is not None) or verdict.reward != float(answer is not None):
            raise ValueError(
                f"what a voter would be taught is read as {verdict.answer} by the verifier, not as {answer}: {reply!r}"
            )
        asked = self._prompts.messages("voter_0", {"question": copy})
        return {
            "messages": [*asked, {"role": "assistant", "content": reply}],
            "team": "vote",
            "role": "voter_0",
            "heard": "question",
            "index": index,
            "copy": what,
            "says": says,
        }


# --- what voters do ---------------------------------------------------------------------------------------------------


def copy_scores(sessions: Iterable[tuple[Row, Mapping[str, str | None]]]) -> dict[str, float]:
    """What voters do with whole copies, and with the gaps of each kind.

    Args:
        sessions: the row of each, and its ballots: voter -> label, None for an abstention.

    Returns:
        ``same_gap/whole/abstention_rate``, ``.../accuracy`` (of its ballots), and the same for ``same_gap/needed``, ``same_gap/harmless``,
        ``own_gaps/needed`` and ``own_gaps/harmless``; ``.../coincidence``: of two wrong ballots on needed gaps of one session, how often they are
        equal. Where nothing was cast there is no accuracy.
    """
    abstained, right, equal = defaultdict(list), defaultdict(list), defaultdict(list)
    for row, ballots in sessions:
        kind, truth = row["data_source"].rpartition("/")[2], label(row["reward_model"]["ground_truth"], "boxed")
        wrong = []
        for gap, ballot in zip(row["extra_info"][GAPS], ballots.values(), strict=False):
            what = f"{kind}/{gap}"
            abstained[what].append(ballot is None)
            if ballot is not None:
                right[what].append(ballot == truth)
                wrong += [ballot] if gap == NEEDED and ballot != truth else []
        equal[f"{kind}/{NEEDED}"] += [a == b for a, b in combinations(wrong, 2)]
    rates = {f"{what}/abstention_rate": fmean(values) for what, values in abstained.items()}
    rates |= {f"{what}/accuracy": fmean(values) for what, values in right.items()}
    return rates | {f"{what}/coincidence": fmean(values) for what, values in equal.items() if values}


def worth(rows: Iterable[tuple[Row, Problem]]) -> dict[str, dict[str, float]]:
    """What the team would be worth if voters did as they are taught, without a mistake.

    Returns:
        kind -> ``speak``: everybody answers, who lacks a needed sentence with what comes out without it; ``silent``: who has a gap abstains;
        ``right``: how often a voter that has a gap and answers is right.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for row, problem in rows:
        name, truth = row["data_source"].rpartition("/")[2], problem.solved.truth
        guesses = {problem.without(number, KINDS[name].mark): guess.answer for number, guess in problem.needed.items()}
        lacks = row["extra_info"][GAPS]
        said = [guesses.get(copy, truth) for copy in row["extra_info"][COPIES]]
        values = found.setdefault(name, {"speak": [], "silent": [], "right": []})
        values["speak"].append(vote_value(said, truth))
        values["silent"].append(vote_value([truth if gap == WHOLE else None for gap in lacks], truth))
        values["right"].append(fmean(one == truth for one, gap in zip(said, lacks, strict=True) if gap != WHOLE))
    return {name: {what: fmean(each) for what, each in values.items()} for name, values in sorted(found.items())}


# --- command ----------------------------------------------------------------------------------------------------------


def build(options: argparse.Namespace) -> tuple[dict[str, list[Row]], dict[str, list[dict]], dict[str, Any]]:
    """(split -> rows, file -> lessons, facts for `sft_roles.write`). Raises ValueError."""
    gaps = Gaps(options.voters, options.whole, options.harmless)
    teacher = Teacher(prompts_of(team_class("vote"), options.prompts, "--prompts"), options.abstain, options.salt)
    if options.source and not options.source.is_dir():
        raise ValueError(f"--source {options.source} is not a folder")
    revisions = dict(text.rsplit("=", 1) if "=" in text else (text, "") for text in options.revision)
    if options.source and revisions:
        raise ValueError("--revision names a state of the hub and means nothing with --source; give one of them")
    if not set(revisions) <= {gsm8k.TRAIN.hub} or not all(revisions.values()):
        raise ValueError(f"--revision must be {gsm8k.TRAIN.hub}=COMMIT; got {options.revision}")
    problems: dict[str, dict[int, Problem]] = {TRAIN: {}, TEST: {}}
    taught_by: dict[int, list[dict[str, Any]]] = {}
    found: dict[str, list[Row]] = {}
    origins, skipped = [], []

    def make(key: str) -> Any:
        def row_of(record: Record, index: int) -> Row:
            row = (gsm8k.train_row if key == TRAIN else gsm8k.test_row)(record, index)
            one = Solved.of(row["extra_info"]["question"], field(record, ANSWER), row["reward_model"]["ground_truth"])
            problems[key][index] = problem = Problem(one)
            fit(problem)  # what cannot be read is an error of this row
            if key == TRAIN:
                taught_by[index] = list(
                    teacher.lessons(problem, index)
                )  # a row that cannot be taught is bad on either side
            return row

        return row_of

    for key, source in ((TRAIN, gsm8k.TRAIN), (TEST, gsm8k.TEST)):
        records, origin = read(source, options.source, revisions.get(source.hub, source.revision))
        origins.append(origin)
        found[key] = built_rows(records, make(key), options, skipped, options.source)
    tested = {normal(row["extra_info"]["question"]) for row in found[TEST]}
    rows: dict[str, list[Row]] = {TRAIN: [], DEV: [], TEST: []}
    lessons: dict[str, list[dict]] = {SFT_TRAIN: [], SFT_VAL: []}
    counts: Counter[str] = Counter()
    for key, listed in found.items():
        for row in listed:
            question, index = row["extra_info"]["question"], row["extra_info"]["index"]
            if key == TRAIN and normal(question) in tested:
                counts["questions_left_out_as_test_questions"] += 1
                continue
            side = TEST if key == TEST else side_of(question, options.teach, options.held, options.salt)
            problem = problems[key][index]
            counts[f"questions/{side}"] += 1
            counts[f"fit/{side}"] += fit(problem)
            if side in lessons:
                lessons[side] += taught_by[index]
            elif fit(problem) and (options.most_steps is None or problem.steps <= options.most_steps):
                rows[side].append(partial_row(row, problem, side, gaps, options.salt))
    for file, taught in lessons.items():
        lessons[file] = sft_roles.merged(taught)
        counts[f"lessons_said_twice/{file}"] = len(taught) - len(lessons[file])
    for name, listed in {**rows, **lessons}.items():
        if not listed:
            raise ValueError(
                f"of {len(found[TRAIN])} training and {len(found[TEST])} test questions none are left for {name}: a question needs two sentences "
                "without which other answers come out; give more rows, or set --most-steps, --teach, --held or --salt"
            )
    facts = {
        "teams": ["vote"],
        "prompts": options.prompts,
        "start": [NAME, PROMPTS, *overrides(gaps)],
        "split": {"teach": options.teach, "held": options.held, "salt": options.salt},
        "gaps": {**vars(gaps), "abstain": options.abstain, "most_steps": options.most_steps},
        "counts": dict(sorted(counts.items())),
        "rows": {key: _by_kind(listed) for key, listed in rows.items()},
        "lessons": {
            file: dict(sorted(Counter(f"{one['copy']} {one['says']}" for one in taught).items()))
            for file, taught in lessons.items()
        },
        "worth": worth((row, problems[TEST][row["extra_info"]["index"]]) for row in rows[TEST]),
        "shared_questions": sft_roles.shared_questions(
            rows, lessons, {index: problem.solved for index, problem in problems[TRAIN].items()}
        ),
    }
    return rows, lessons, {"sources": origins, "skipped": skipped, "roles": facts}


def partial_row(row: Row, problem: Problem, side: str, gaps: Gaps, salt: str) -> Row:
    """A row of GSM8K with a copy for every voter; its question and truth are as they were."""
    question, truth = row["extra_info"]["question"], row["reward_model"]["ground_truth"]
    name = kind_of(question, salt)
    read_by, lacks = copies(problem, name, gaps, salt)
    source = f"{DEV_NAME if side == DEV else NAME}/{name}"
    split = "train" if side == TRAIN else "test"
    extra = {**reference(truth), COPIES: read_by, GAPS: lacks}
    return make_row(source, question, truth, "boxed", split, row["extra_info"]["index"], extra=extra)


def _by_kind(rows: Sequence[Row]) -> dict[str, int]:
    return dict(sorted(Counter(f"{row['data_source'].rpartition('/')[2]}" for row in rows).items()))


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    options = parser(__doc__, (gsm8k.TRAIN, gsm8k.TEST))
    options.prog = f"python -m data_preprocess.{NAME}"
    gaps = Gaps()
    options.add_argument("--voters", type=positive, default=gaps.voters, help="copies of a row (default: %(default)s)")
    options.add_argument(
        "--whole", type=positive, default=gaps.whole, help="same_gap: voters that read the whole problem (%(default)s)"
    )
    options.add_argument(
        "--harmless",
        type=positive,
        default=gaps.harmless,
        help="own_gaps: voters whose gap is harmless; same_gap: so many of --voters are the prompts with a harmless gap (%(default)s)",
    )
    options.add_argument(
        "--most-steps", type=positive, help="rows with at most N calculations alone, for a small model (default: all)"
    )
    options.add_argument(
        "--abstain", type=share, default=0.5, help="share of the lessons on a gap that abstain (default: 0.5)"
    )
    options.add_argument(
        "--prompts", default=PROMPTS, help="set of the vote's prompts (default: %(default)s, the task's)"
    )
    sft_roles.add_split(options, "another split, other kinds and copies")
    return options.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    try:
        rows, lessons, facts = build(options)
        manifest = sft_roles.write(options.out, rows, lessons, facts, NAME, LESSON)
    except (ValueError, OSError, TeamError, PromptError) as error:
        sys.exit(f"{NAME}: {error}")
    print(summary(options.out, manifest))
    for key, found in manifest["roles"]["rows"].items():
        print(f"{options.out / key}.parquet: {', '.join(f'{count} {name}' for name, count in found.items())}")
    for name, values in manifest["roles"]["worth"].items():
        print(
            f"{TEST}, {name}, by voters that do as they are taught: {values['speak']:.3f} if all answer, {values['silent']:.3f} if those with a gap "
            f"are silent; with a gap one is right on {values['right']:.3f}"
        )
    print(*sft_roles.lesson_lines(options.out, manifest), sep="\n")


if __name__ == "__main__":
    main()
