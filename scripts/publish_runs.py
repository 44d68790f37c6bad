"""Keep what a comparison of runs needs, small enough to publish: RUN.tar.xz of each run, some 200 kB for 25,000 validation sessions.

    python scripts/publish_runs.py outputs/dyad_* --out docs/runs/my_comparison
    mkdir -p outputs/published/mine && cat docs/runs/my_comparison/*.tar.xz | tar xJi -C outputs/published/mine
    python scripts/compare_runs.py outputs/published/mine/*

An archive has the run's log, its configuration, and the validation sessions that it kept: value, answer, truth, ballots, what each replay was worth, and
a digest that stands for the question. It has no texts and no weights, so what needs those (equations.py, the sessions of a report) is not in it. The
same run gives the same bytes. A run that still trains, or whose first or last validation is not whole, is refused; another
one that is not whole is left out.
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

from ccpo.compare_runs.validations import whole
from ccpo.report.logged import ReportError
from ccpo.report.runs import read_run
from ccpo.run.folder import JOB, METRICS, SESSIONS
from ccpo.run.json_file import open_file, write_atomic
from ccpo.run.output import until_cut
from ccpo.run.session_log import VAL, as_json
from ccpo.run.texts import without_texts


def lean(entry: dict) -> dict[str, Any] | None:
    """A validation session as comparisons read it; None for one of training."""
    if entry["kind"] != VAL:
        return None
    return {name: value for name, value in without_texts(entry).items() if value is not None} | {"turns": []}


def contents(folder: Path) -> dict[str, bytes]:
    """File -> bytes. Raises ReportError for a run that is not whole, or not at its end, or lacks a file."""
    steps = set(whole(folder))
    sessions = [entry for entry in read_run(folder, lean).sessions if entry["step"] in steps]
    files = {SESSIONS: "".join(as_json(entry) + "\n" for entry in sessions).encode()}
    for name in (METRICS, str(JOB)):
        try:
            with open_file(folder / name) as stream:
                files[name] = stream.read()
        except OSError as error:
            raise ReportError(
                f"{folder / name} cannot be read ({error.strerror}): without it an archive could not be compared with others"
            ) from None
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
    for run, name in zip(known.runs, names, strict=True):
        try:
            data = packed(name, contents(run))
        except ReportError as error:
            sys.exit(f"error: {error}")
        try:
            known.out.mkdir(parents=True, exist_ok=True)
            write_atomic(known.out / f"{name}.tar.xz", data)
        except OSError as error:
            sys.exit(f"error: {known.out} cannot be written ({error.strerror}): set --out to a folder that can")
        print(f"{known.out / name}.tar.xz  {len(data) // 1000} kB", flush=True)


if __name__ == "__main__":
    sys.exit(until_cut(main))
