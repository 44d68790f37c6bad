"""Keep what a comparison of runs needs, small enough to publish: RUN.tar.xz of each run, some 200 kB for 25,000 validation sessions.

    python scripts/publish_runs.py outputs/dyad_* --out docs/runs/my_comparison
    mkdir -p outputs/published && cat docs/runs/my_comparison/*.tar.xz | tar xJi -C outputs/published
    python scripts/compare_runs.py outputs/published/*

An archive has the run's log, its configuration, and the validation sessions that it kept: value, answer, truth, ballots, what each replay was worth, and
a digest that stands for the question. It has no texts and no weights, so what needs those (equations.py, the sessions of a report) is not in it. The
same run gives the same bytes. A run that still trains, or whose validations are not whole, is refused.
"""

from __future__ import annotations

import argparse
import io
import lzma
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

from ccpo.compare_runs.validations import read
from ccpo.report.logged import ReportError, sources_of
from ccpo.report.runs import read_run
from ccpo.run.folder import JOB, METRICS, SESSIONS
from ccpo.run.json_file import open_file, write_atomic
from ccpo.run.session_log import VAL, as_json
from ccpo.run.texts import has_texts, without_texts


def lean(entry: dict) -> dict[str, Any] | None:
    """A validation session as comparisons read it; None for one of training."""
    if entry["kind"] != VAL:
        return None
    bare = without_texts(entry) if has_texts(entry) else entry
    return {name: value for name, value in bare.items() if value is not None} | {"turns": []}


def contents(folder: Path) -> dict[str, bytes]:
    """File -> bytes. Raises ReportError for a run that is not whole, or not at its end."""
    run = read_run(folder, lean)
    steps = [entry["step"] for entry in run.entries if entry["kind"] == VAL and sources_of([entry])]
    kept = {entry["step"] for entry in run.sessions}
    for step in [step for step in steps if step in {*steps[:1], *kept, *steps[-1:]}] or [
        None
    ]:  # None: it says what is missing
        if (holder := read(folder, step).holder) is not None:
            raise ReportError(f"{folder} is being trained ({holder}): publish it when it has ended")
    files = {SESSIONS: "".join(as_json(entry) + "\n" for entry in run.sessions).encode()}
    for name in (METRICS, str(JOB)):
        with open_file(folder / name) as stream:
            files[name] = stream.read()
    return files


def packed(name: str, files: Mapping[str, bytes]) -> bytes:
    """A tar.xz with a folder of that name; equal files give equal bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, data in sorted(files.items()):
            member = tarfile.TarInfo(f"{name}/{path}")
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return lzma.compress(out.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where RUN.tar.xz is put")
    known = parser.parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may be no text
    names = [run.resolve().name for run in known.runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        parser.error(f"{', '.join(twice)}: two runs of one name would be one archive; give each a name of its own")
    try:
        for run, name in zip(known.runs, names, strict=True):
            data = packed(name, contents(run))
            known.out.mkdir(parents=True, exist_ok=True)
            write_atomic(known.out / f"{name}.tar.xz", data)
            print(f"{known.out / name}.tar.xz  {len(data) // 1000} kB", flush=True)
    except ReportError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {known.out} cannot be written ({error.strerror}): set --out to a folder that can")


if __name__ == "__main__":
    main()
