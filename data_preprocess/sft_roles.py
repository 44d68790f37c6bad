"""Lessons that teach a model the roles of teams, and what is left of GSM8K for reinforcement learning.

    python -m data_preprocess.sft_roles --out data/gsm8k_roles --teams dyad vote --source FOLDER

    OUT/sft_train.parquet, sft_val.parquet         lessons, for recipe/run_sft_roles.sh
    OUT/train.parquet, dev.parquet, test.parquet   rows as of data_preprocess.gsm8k, for recipe/run_ccpo.sh: DATA=OUT TASK=gsm8k
    OUT/manifest.json                              counts, overlaps, SHA-256 of the sources and of these files

A training question is on one side, by a hash of its own text, blanks and case aside: what was taught is never rewarded. Test questions
are on neither. A lesson is the chat that a role of the team is asked with, and its reply, cut from the worked solution
(data_preprocess/role_targets.py); the same chat for two teams is one lesson. No lesson is dropped silently: manifest.json counts them.
--variants N adds each question of sft_train and of train with other numbers, up to N times, where that can be done; --practice N adds N single lines of
taught solutions with other numbers (data_preprocess/variants.py). --most-steps N leaves longer questions out of train, where a small model
would always fail; of what is taught, of dev and of test nothing is left out.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ccpo.data import MANIFEST, sha256, shown, text_problem
from ccpo.prompts import PromptError, Prompts
from ccpo.team.load import prompts_of, team_class
from ccpo.team.session import TeamError
from ccpo.verifier import verify
from data_preprocess import gsm8k
from data_preprocess.base_rates import boxed
from data_preprocess.folder import replace_folder
from data_preprocess.role_targets import ALONE, LESSONS, REASONS, STEP, Solved, draw, normal
from data_preprocess.schema import Row, summary, write_dataset
from data_preprocess.sources import ANSWER, Record, built_rows, field, parser, positive, read, share
from data_preprocess.variants import Line, lines, variants

NAME = "gsm8k_roles"
SFT_TRAIN, SFT_VAL = "sft_train.parquet", "sft_val.parquet"
TRAIN, DEV, TEST = "train", "dev", "test"
MOST_VARIANTS = 100
MOST_PRACTICE = 9_999_999
PRACTICE, PRACTICE_LINES = "practice", 10
DEV_SOURCE = "gsm8k_dev"
"""Data source of the dev rows, so that metrics and row ids tell them from the test's."""
VARIANT = 1_000_000
"""Index of variant n of a source's row: n times this more than the row's own."""
REPO = Path(__file__).resolve().parents[1]

LESSON = pa.schema(
    {
        "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),  # the last is the reply
        "team": pa.string(),  # teams with this very chat, by a blank
        "role": pa.string(),
        "heard": pa.string(),  # names of the fields that the role hears, by a blank; an empty text has a minus
        "index": pa.int64(),  # row of the source; of a variant `VARIANT` more, 2 x more, ...; of practice -1, -2, ...
    }
)


def side_of(question: str, teach: float, held: float, salt: str) -> str:
    """The file that a training question belongs to: by its own text alone."""
    taught = draw(question, f"{salt}/side") < teach
    held_out = draw(question, f"{salt}/held") < held
    return (SFT_VAL if held_out else SFT_TRAIN) if taught else (DEV if held_out else TRAIN)


class Teacher:
    """The lessons of some teams on one solved question, in a set of their prompts.

    Raises ValueError for a team that has no lessons, TeamError or PromptError for one that cannot be loaded.
    """

    def __init__(self, teams: Sequence[str], prompts: str, reason: str) -> None:
        if unknown := [team for team in teams if team not in LESSONS]:
            raise ValueError(
                f"--teams {' '.join(unknown)}: nobody has said what its roles are to say; known are {', '.join(LESSONS)}. Add a function to "
                "data_preprocess/role_targets.py"
            )
        self._prompts: dict[str, Prompts] = {
            team: prompts_of(team_class(str(REPO / team) if ".py" in team else team), prompts, "--prompts")
            for team in dict.fromkeys(teams)
        }
        self._reason = reason

    def lessons(self, solved: Solved, index: int) -> Iterator[dict[str, Any]]:
        """Rows of `LESSON`. Raises ValueError for a reply that is no text, or has to be right and is not."""
        for team, prompts in self._prompts.items():
            for lesson in LESSONS[team](solved, self._reason):
                if problem := text_problem(lesson.reply):
                    raise ValueError(f"what {lesson.role} would be taught {problem}")
                if lesson.answers and verify(lesson.reply, solved.truth, "number").reward != 1.0:
                    raise ValueError(
                        f"what {lesson.role} would be taught is not right for the verifier: {shown(lesson.reply)}, the truth is {solved.truth}"
                    )
                asked = prompts.messages(lesson.role, lesson.fields)
                yield {
                    "messages": [*asked, {"role": "assistant", "content": lesson.reply}],
                    "team": team,
                    "role": lesson.role,
                    "heard": " ".join(name if text else f"-{name}" for name, text in lesson.fields.items()),
                    "index": index,
                }

    def practice(self, lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
        """Rows of `LESSON` in which some lines of solutions are finished, and the last result is the answer. The first has index -1, the next -2."""
        for start in range(0, len(lines), PRACTICE_LINES):
            some = lines[start : start + PRACTICE_LINES]
            question = "\n".join(("Finish each line.", *(line.begun for line in some)))
            reply = "\n".join((*(line.whole for line in some), boxed(some[-1].result)))
            for team, prompts in self._prompts.items():
                asked = prompts.messages(ALONE[team], {"question": question})
                yield {
                    "messages": [*asked, {"role": "assistant", "content": reply}],
                    "team": team,
                    "role": ALONE[team],
                    "heard": PRACTICE,
                    "index": -1 - start // PRACTICE_LINES,
                }


def merged(lessons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lessons with the same messages are one, of all their teams."""
    found: dict[str, dict[str, Any]] = {}
    for lesson in lessons:
        key = json.dumps(lesson["messages"])
        if key in found and lesson["team"] not in found[key]["team"].split(" "):
            found[key]["team"] += f" {lesson['team']}"
        found.setdefault(key, dict(lesson))
    return list(found.values())


# --- command ----------------------------------------------------------------------------------------------------------


def build(options: argparse.Namespace) -> tuple[dict[str, list[Row]], dict[str, list[dict]], dict[str, Any]]:
    """(split -> rows for reinforcement learning, file -> lessons, facts for `write`). Raises ValueError."""
    teacher = Teacher(options.teams, options.prompts, options.reason)
    if options.source and not options.source.is_dir():
        raise ValueError(f"--source {options.source} is not a folder")
    revisions = dict(text.rsplit("=", 1) if "=" in text else (text, "") for text in options.revision)
    if options.source and revisions:
        raise ValueError("--revision names a state of the hub and means nothing with --source; give one of them")
    if not set(revisions) <= {gsm8k.TRAIN.hub} or not all(revisions.values()):
        raise ValueError(f"--revision must be {gsm8k.TRAIN.hub}=COMMIT; got {options.revision}")
    found: dict[str, list[Any]] = {}
    origins, skipped = [], []
    solved: dict[int, Solved] = {}
    taught_by: dict[int, list[dict[str, Any]]] = {}

    def train_row(record: Record, index: int) -> Row:
        row = gsm8k.train_row(record, index)
        one = Solved.of(row["extra_info"]["question"], field(record, ANSWER), row["reward_model"]["ground_truth"])
        taught_by[index] = list(teacher.lessons(one, index))  # a row that cannot be taught is bad on either side
        solved[index] = one
        return row

    for key, source, make in ((TRAIN, gsm8k.TRAIN, train_row), (TEST, gsm8k.TEST, gsm8k.test_row)):
        records, origin = read(source, options.source, revisions.get(source.hub, source.revision))
        origins.append(origin)
        found[key] = built_rows(records, make, options, skipped, options.source)
    if options.variants and max(solved, default=0) >= VARIANT:
        raise ValueError(
            f"--variants: a source of more than {VARIANT:,} rows has too many: their indexes would be variants' as well"
        )
    rows, lessons, counts = _on_their_sides(options, found, solved, taught_by, teacher)
    practised = lines(
        [solved[one] for one in {lesson["index"]: None for lesson in lessons[SFT_TRAIN]}],
        options.practice,
        options.salt,
    )
    if len(practised) < options.practice:
        raise ValueError(
            f"--practice {options.practice}: the taught solutions have {len(practised)} such lines; set that or less"
        )
    lessons[SFT_TRAIN] += teacher.practice(practised)
    for file, taught in lessons.items():
        kept = merged(taught)
        counts[f"lessons_said_twice/{file}"] = len(taught) - len(kept)
        lessons[file] = kept
    for name, listed in {**rows, **lessons}.items():
        if not listed:
            raise ValueError(
                f"of {len(found[TRAIN])} training questions none are left for {name}: give more rows, or set --teach, --held, --salt or --most-steps"
            )
    roles = {
        "teams": list(dict.fromkeys(options.teams)),
        "prompts": options.prompts,
        "reason": options.reason,
        "split": {"teach": options.teach, "held": options.held, "salt": options.salt},
        "variants": options.variants,
        "practice": options.practice,
        "most_steps": options.most_steps,
        "counts": dict(sorted(counts.items())),
        "lessons": {file: _by_role(taught) for file, taught in lessons.items()},
        "shared_questions": shared_questions(rows, lessons, solved),
    }
    return rows, lessons, {"sources": origins, "skipped": skipped, "roles": roles}


def _on_their_sides(
    options: argparse.Namespace,
    found: Mapping[str, list[Row]],
    solved: dict[int, Solved],
    taught_by: Mapping[int, list[dict[str, Any]]],
    teacher: Teacher,
) -> tuple[dict[str, list[Row]], dict[str, list[dict]], Counter[str]]:
    """(split -> rows, file -> lessons, counts). Variants are added to ``solved``."""
    tested = {normal(row["extra_info"]["question"]) for row in found[TEST]}
    known = tested | {normal(row["extra_info"]["question"]) for row in found[TRAIN]}
    rows: dict[str, list[Row]] = {TRAIN: [], DEV: [], TEST: found[TEST]}
    lessons: dict[str, list[dict]] = {SFT_TRAIN: [], SFT_VAL: []}
    counts: Counter[str] = Counter()
    for row in found[TRAIN]:
        question, index = row["extra_info"]["question"], row["extra_info"]["index"]
        if normal(question) in tested:
            counts["questions_left_out_as_test_questions"] += 1
            continue
        side = side_of(question, options.teach, options.held, options.salt)
        if side == TRAIN and options.most_steps and len(solved[index].steps) > options.most_steps:
            counts["questions_left_out_for_their_steps"] += 1
            continue
        counts[f"questions/{side}"] += 1
        if side in lessons:
            counts[f"one_step_questions/{side}"] += len(solved[index].steps) == 1
            lessons[side] += taught_by[index]
        elif side == DEV:
            rows[DEV].append({**row, "data_source": DEV_SOURCE, "extra_info": {**row["extra_info"], "split": "test"}})
        else:
            rows[TRAIN].append(row)
        if side not in (SFT_TRAIN, TRAIN):
            continue
        for number, one in enumerate(variants(solved[index], options.variants), 1):
            if normal(one.question) in known:
                counts["variants_left_out_as_known_questions"] += 1
                continue
            known.add(normal(one.question))
            counts[f"variants/{side}"] += 1
            at = index + number * VARIANT
            solved[at] = one
            if side == TRAIN:
                rows[TRAIN].append(gsm8k.row_of(one.question, one.truth, "train", at))
            else:
                lessons[side] += teacher.lessons(one, at)
    return rows, lessons, counts


def _by_role(lessons: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return dict(sorted(Counter(f"{lesson['role']}({lesson['heard']})" for lesson in lessons).items()))


def shared_questions(
    rows: Mapping[str, list], lessons: Mapping[str, list], solved: Mapping[int, Solved]
) -> dict[str, int]:
    """'a, b' -> questions in both files, as they are compared: counted in what is written, not taken from how it was split."""
    questions = {key: {normal(row["extra_info"]["question"]) for row in listed} for key, listed in rows.items()}
    questions |= {
        key: {normal(solved[one["index"]].question) for one in listed if one["heard"] != PRACTICE}
        for key, listed in lessons.items()
    }
    names = list(questions)
    return {f"{a}, {b}": len(questions[a] & questions[b]) for i, a in enumerate(names) for b in names[i + 1 :]}


def write(
    out: Path,
    rows: Mapping[str, list[Row]],
    lessons: Mapping[str, list[dict]],
    facts: Mapping[str, Any],
    name: str = NAME,
    schema: pa.Schema = LESSON,
) -> dict:
    """Replace the folder ``out`` as a whole; returns the manifest. Raises ValueError where it holds anything but the dataset ``name``."""
    manifest: dict[str, Any] = {}

    def fill(folder: Path) -> None:
        inner = folder / "rows"
        manifest.update(write_dataset(inner, rows, name=name, sources=facts["sources"], skipped=facts["skipped"]))
        for path in inner.iterdir():
            path.rename(folder / path.name)
        inner.rmdir()
        manifest["roles"] = facts["roles"]
        for file, taught in lessons.items():
            pq.write_table(pa.Table.from_pylist(list(taught), schema=schema), folder / file)
            manifest["roles"].setdefault("files", {})[file] = {
                "lessons": len(taught),
                "sha256": sha256((folder / file).read_bytes()),
            }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    replace_folder(out, lambda folder: _ours(folder, name), fill)
    return manifest


def _ours(out: Path, name: str) -> set[str]:
    """Files of the dataset ``name`` in ``out``. Raises ValueError for another one's."""
    try:
        old = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        files = {*old["files"], *(old["roles"]["files"] if old["name"] == name else ())}
        old_name = old["name"]
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{out / MANIFEST} is not a manifest of {name}; choose another --out or delete it") from None
    if old_name != name:
        raise ValueError(f"{out} already holds dataset {old_name!r}; choose another --out or delete that folder")
    return {*files, MANIFEST}


def lesson_lines(out: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """What a data command says of its lessons."""
    for file, counts in manifest["roles"]["lessons"].items():
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        yield f"{out / file}: {manifest['roles']['files'][file]['lessons']} lessons: {listed}"
    shared = [f"{count} in {names}" for names, count in manifest["roles"]["shared_questions"].items() if count]
    yield f"questions in two files: {'; '.join(shared) or 'none'}"


def up_to(most: int) -> Callable[[str], int]:
    """A whole number from 0 to ``most``, as argparse's type."""

    def number(text: str) -> int:
        if not re.fullmatch(rf"\d{{1,{len(str(most))}}}", text, re.ASCII) or int(text) > most:
            raise argparse.ArgumentTypeError(f"{text!r}: set a whole number from 0 to {most}")
        return int(text)

    return number


def add_split(options: argparse.ArgumentParser, salt: str) -> None:
    """The options that say which question is on which side. ``salt``: what another word changes."""
    options.add_argument(
        "--teach", type=share, default=0.5, help="share of the training questions that are taught (default: 0.5)"
    )
    options.add_argument(
        "--held", type=share, default=0.07, help="share of either side that is held out: sft_val, dev (default: 0.07)"
    )
    options.add_argument("--salt", default="", help=f"another word, {salt}")


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    options = parser(__doc__, (gsm8k.TRAIN, gsm8k.TEST))
    options.prog = "python -m data_preprocess.sft_roles"
    options.add_argument("--teams", nargs="+", required=True, metavar="TEAM", help=f"of {', '.join(LESSONS)}")
    options.add_argument("--prompts", default="math", help="set of the teams' prompts (default: math, as TASK=gsm8k)")
    options.add_argument(
        "--reason",
        choices=REASONS,
        default=STEP,
        help="dyad: behind a thought, Reason writes the last step and the box, or the box alone",
    )
    add_split(options, "another split")
    options.add_argument(
        "--variants",
        type=up_to(MOST_VARIANTS),
        metavar="N",
        default=0,
        help=f"of each question that is taught or trained on, up to N with other numbers, 0 to {MOST_VARIANTS} (default: 0)",
    )
    options.add_argument(
        "--most-steps",
        type=positive,
        metavar="N",
        help="rows of train.parquet whose solution has at most N steps, for a small model (default: all)",
    )
    options.add_argument(
        "--practice",
        type=up_to(MOST_PRACTICE),
        metavar="N",
        default=0,
        help="lines of taught solutions with other numbers, to be finished, ten a lesson (default: 0)",
    )
    return options.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    try:
        rows, lessons, facts = build(options)
        manifest = write(options.out, rows, lessons, facts)
    except (ValueError, OSError, TeamError, PromptError) as error:
        sys.exit(f"{NAME}: {error}")
    print(summary(options.out, manifest))
    print(*lesson_lines(options.out, manifest), sep="\n")


if __name__ == "__main__":
    main()
