"""The report of runs: tables to the terminal, the page to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ccpo.report.logged import ReportError
from ccpo.report.page import page
from ccpo.report.runs import read_run
from ccpo.report.table import table
from ccpo.run.folder import REPORT
from ccpo.run.json_file import write_atomic


def show(folders: Sequence[Path], out: Path | None = None) -> None:
    """Print the table of each run and write their page to ``out``; None: into the folder of the only one. ReportError where nothing can be
    reported, or the page cannot be written."""
    runs = [read_run(folder) for folder in folders]
    for run in runs:
        print(table(run.entries) if len(runs) == 1 else f"=== {run.name}\n{table(run.entries)}\n")
    out = Path(folders[0]) / REPORT if out is None else Path(out)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    try:
        write_atomic(out, page(runs, title))
    except OSError as error:
        raise ReportError(f"{out} cannot be written ({error.strerror}); the table above is whole") from None
    print(f"page: {out}")
