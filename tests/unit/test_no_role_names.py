"""What serves any team names none: outside the teams themselves, no code knows a role of the paper's two, or what its replays are called."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH = r"vote|think|reason"  # words of sentences, too
NAMES = re.compile(rf"\b(?:{ENGLISH}|dyad|solo|emptied)\b|\bvoter_")
IN_SENTENCES = re.compile(r"\b(?:dyad|solo|emptied)\b|\bvoter_")
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in (
        "ccpo/config.py",
        "ccpo/step.py",
        "ccpo/metrics.py",
        "ccpo/credit/rules.py",
        "ccpo/report/*.py",
        "ccpo/run/*.py",
        "ccpo/evaluate/*.py",
        "ccpo/verl_plugin/*.py",
        "scripts/quickstart.py",
        "scripts/report.py",
        "scripts/export_model.py",
        "recipe/main_ccpo.py",
    )
    for path in ROOT.glob(pattern)
)
ALLOWED = {
    "ccpo/config.py": {
        "dyad",  # the team that a node without one has
    }
}
"""Whole literals. What became of renamed keys is allowed beside: the texts of ``RENAMED`` name what a user has written."""


def docstrings(tree: ast.AST) -> set[int]:
    """Ids of constants that are docstrings or stand as statements of their own."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def renamed(tree: ast.AST) -> set[int]:
    """Ids of the constants in the table of renamed keys."""
    return {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "RENAMED" for t in node.targets)
        for part in ast.walk(node.value)
    }


def named(source: str, allowed: frozenset[str] | set[str] = frozenset()) -> Iterator[str]:
    """'line: literal' of each string that is such a name or begins with ``voter_``, or of an f-string's part that has one as a word."""
    tree = ast.parse(source)
    skipped = docstrings(tree) | renamed(tree)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in skipped:
            continue
        text = node.value
        if id(node) in parts:
            found = (IN_SENTENCES if " " in text else NAMES).search(text)
        else:
            found = text.startswith("voter_") or NAMES.fullmatch(text)
        if found and text not in allowed:
            yield f"{node.lineno}: {text!r}"


@pytest.mark.parametrize(
    "source",
    [
        "x = 'dyad'",
        "x = {'think': 1}",
        "x = role == 'reason'",
        "x = f'{i}/solo/accuracy'",
        "x = f'{kind}/think'",
        "x = f'voter_{i}'",
        "x = f'the solo answers of {i}'",
        "x = 'voter_*'",
        "def f(team='vote'): pass",
        "match role:\n    case 'emptied': pass",
    ],
)
def test_the_probe_notices_a_name(source):
    assert len(list(named(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "'''think'''",
        "def f():\n    '''dyad'''",
        "x = 'a rule for the vote'",
        "x = f'{i} is no reasonable {vote}'",
        "x = f'stop reason {reason}'",
        "think = reason",
        "RENAMED = {'ccpo.vote': 'solo'}",
    ],
)
def test_the_probe_lets_other_text_pass(source):
    assert list(named(source)) == []


def test_exceptions_are_needed():
    for file, literals in ALLOWED.items():
        found = " ".join(named((ROOT / file).read_text()))
        assert all(repr(literal) in found for literal in literals)


def test_all_that_serves_any_team_is_looked_at():
    assert len(FILES) >= 18 and {"ccpo/config.py", "ccpo/verl_plugin/trainer.py", "scripts/report.py"} <= set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_no_role_is_named(file):
    assert list(named((ROOT / file).read_text(encoding="utf-8"), ALLOWED.get(file, set()))) == []
