"""What a run achieved, for people: tables of its metrics, and a page with its curves and sessions."""

from ccpo.report.logged import (
    AUX,
    SESSIONS,
    TEAM,
    TEAM_ACCURACY,
    TEAM_IN_TRAINING,
    ReportError,
    load,
    measured,
    score,
    series,
    sources_of,
    summarize,
    validations,
)
from ccpo.report.report import show
from ccpo.report.side_by_side import before_and_after
from ccpo.report.table import last_scores, row, score_text, table

__all__ = [
    "AUX",
    "SESSIONS",
    "TEAM",
    "TEAM_ACCURACY",
    "TEAM_IN_TRAINING",
    "ReportError",
    "before_and_after",
    "last_scores",
    "load",
    "measured",
    "row",
    "score",
    "score_text",
    "series",
    "show",
    "sources_of",
    "summarize",
    "table",
    "validations",
]
