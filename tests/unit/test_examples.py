"""The examples: short enough to be read at once, and ready to be trained with every rule that fits them."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

from ccpo.config import CcpoConfig
from ccpo.credit.base import CreditConfig
from ccpo.credit.rules import fitting
from ccpo.team.load import prompt_sets

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples").glob("*.py"))
TEAMS = {file.stem: file.stem.capitalize() for file in FILES}
FIT = {
    "chain": [
        "counterfactual",
        "removal",
        "resampling",
        "likelihood",
        *("shared", "shared_history", "shrinkage", "random_reward"),
    ],
    "panel": [
        *("counterfactual", "removal", "leave_one_out", "resampling"),
        *("shared", "shared_history", "shrinkage", "random_reward"),
    ],
    "single": ["removal", "resampling", "likelihood", "shared", "shared_history", "shrinkage", "random_reward"],
}


def config(name: str, **settings) -> CcpoConfig:
    return CcpoConfig(team=f"{ROOT}/examples/{name}.py:{TEAMS[name]}", **settings)


def code_lines(text: str) -> int:
    """Lines with code: without blank ones, comments and docstrings."""
    nodes = (
        node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Module, ast.ClassDef, ast.AsyncFunctionDef))
    )
    docs = {
        line
        for node in nodes
        if ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in silent
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - docs)


def test_lines_of_code_are_counted():
    text = '"""Doc.\n\nMore."""\n\nx = 1  # one\n# none\ny = """a\nb"""\n\n\nclass A:\n    """Doc."""\n\n    z = (\n        3\n    )\n'
    assert code_lines(text) == 1 + 2 + 1 + 3


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_is_one_short_file_that_says_how_to_run_it(file):
    text = file.read_text()
    assert code_lines(text) <= 40
    assert f"    TEAM=examples/{file.name}:{TEAMS[file.stem]} bash recipe/run_ccpo.sh" in ast.get_docstring(
        ast.parse(text)
    )
    imported = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"__future__", "dataclasses", "ccpo.team"}, "a user needs nothing else"


@pytest.mark.parametrize("name", TEAMS)
def test_every_rule_that_fits_is_accepted_with_every_set_of_prompts(name):
    team = config(name)
    assert fitting(team.plan) == FIT[name]
    sets = prompt_sets(type(team.members))
    assert {"math", "toy"} <= set(sets)
    for prompts in sets:
        for rule in FIT[name]:
            assert config(name, prompts=prompts, credit=CreditConfig(rule=rule)).problems(4) == []


@pytest.mark.parametrize("name", TEAMS)
def test_every_template_is_needed(name):
    """A template for what no role hears, in the session or a replay, would be a riddle to its reader."""
    for prompts in prompt_sets(type(config(name).members)):
        team = config(name, prompts=prompts)
        for role, sets in team.prompt_sets.items():
            assert set(sets.of(role)) == team.plan.fields[role], (prompts, role)


@pytest.mark.parametrize("prompts", ["math", "choice"])
def test_a_single_agent_is_asked_what_a_taught_model_answers_alone(prompts):
    asked = config("single", prompts=prompts).prompt_sets["solver"].messages("solver", {"question": "q"})
    for team, role in (("dyad", "reason"), ("vote", "voter_0")):
        sets = CcpoConfig(team=team, prompts=prompts).prompt_sets
        assert asked == sets[role].messages(role, {"question": "q"}), team


def test_the_panel_speaks_the_words_of_the_embedded_model():
    asked = config("panel", prompts="toy").prompt_sets
    dyad = CcpoConfig(prompts="toy").prompt_sets
    alone, told = {"question": "q"}, {"question": "q", "thought": "t"}
    assert asked["think"].messages("think", alone) == dyad["think"].messages("think", alone)
    for role in ("reason_0", "reason_2"):
        for fields in (alone, told):
            assert asked[role].messages(role, fields) == dyad["reason"].messages("reason", fields)
