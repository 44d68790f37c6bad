"""What the voters of a run do with each kind of copy: how often they abstain, how often their ballots are right. From all its validations.

    python scripts/copy_scores.py outputs/my_run data/partial_gsm8k
    python scripts/copy_scores.py outputs/*/ data/partial_gsm8k --json

RUN is the folder of a run of the vote (it holds sessions.jsonl), DATA that of its data set, silence or partial_gsm8k.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

from ccpo.run.folder import SESSIONS
from ccpo.run.json_file import Damaged
from ccpo.run.output import until_cut
from ccpo.run.session_log import VAL, read_sessions
from ccpo.run.texts import digest_of
from data_preprocess import partial_gsm8k, silence

SCORES = {
    silence.NAME: silence.copy_scores,
    partial_gsm8k.NAME: partial_gsm8k.copy_scores,
    partial_gsm8k.DEV_NAME: partial_gsm8k.copy_scores,
}
"""First part of a row's data source -> what its copies are scored by."""


class Mistake(Exception):
    """What is wrong with the arguments, in words."""


def rows_of(data: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """(data source, index) -> the validation row, of every file of a data set. Raises Mistake."""
    import pyarrow.parquet as pq

    found = {}
    for path in sorted(data.glob("*.parquet")):
        table = pq.ParquetFile(path).read()
        if "data_source" in table.column_names:  # else lessons
            rows = (row for row in table.to_pylist() if row["extra_info"]["split"] == "test")
            found |= {(row["data_source"], row["extra_info"]["index"]): row for row in rows}
    if not found:
        raise Mistake(f"{data} has no parquet files with validation rows: give the folder of the run's data set")
    return found


def scores_of(run: Path, rows: Mapping[tuple[str, int], dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Step -> measure -> value, of each validation. ``team/KIND`` is the team's mean value. Raises Mistake, and Damaged where the
    sessions cannot be read."""
    if not (run / SESSIONS).exists():
        raise Mistake(f"{run} has no {SESSIONS}: give the folder of a run (ccpo.keep_sessions=0 keeps none)")
    steps: dict[int, list[dict]] = defaultdict(list)
    for one in read_sessions(run / SESSIONS):
        if one["kind"] == VAL:
            steps[one["step"]].append(one)
    return {step: dict(_scores(run, listed, rows)) for step, listed in sorted(steps.items())}


def _scores(run: Path, sessions: list[dict], rows: Mapping[tuple[str, int], dict]) -> Iterator[tuple[str, float]]:
    values, played = defaultdict(list), defaultdict(list)
    for one in sessions:
        row = rows.get((one["source"], one["index"]))
        name, _, kind = one["source"].partition("/")
        if (
            row is None
            or digest_of({"question": row["prompt"][-1]["content"]}) != digest_of(one)
            or name not in SCORES
            or not isinstance(one.get("ballots"), dict)
        ):
            raise Mistake(
                f"{run} validated row {one['index']} of {one['source']}, and DATA has no such row with copies, or the session no ballots: give the "
                f"data set of this run, of {', '.join(SCORES)}, and a run of the vote"
            )
        values[kind].append(one["value"])
        played[SCORES[name]].append((row, one["ballots"]))
    for kind, listed in sorted(values.items()):
        yield f"team/{kind}", fmean(listed)
    for score, listed in played.items():
        yield from sorted(score(listed).items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--json", action="store_true", help="one JSON object: run -> step -> measure -> value")
    options = parser.parse_args()
    try:
        rows = rows_of(options.data)
        found = {str(run): scores_of(run, rows) for run in options.run}
    except (Mistake, Damaged) as mistake:
        sys.exit(f"error: {mistake}")
    if options.json:
        print(json.dumps(found))
        return
    for run, steps in found.items():
        titles = [f"step {step}" for step in steps]
        names = list(dict.fromkeys(name for scores in steps.values() for name in scores))
        print(f"{run}\n{'':36}{''.join(f'{name:>11}' for name in titles)}")
        for name in names:
            cells = "".join(f"{steps[step][name]:>11.3f}" if name in steps[step] else f"{'-':>11}" for step in steps)
            print(f"{name:<36}{cells}")


if __name__ == "__main__":
    sys.exit(until_cut(main))
