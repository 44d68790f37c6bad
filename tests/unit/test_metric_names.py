"""verl reduces a metric by substrings of its name: no name of ours may contain one that means something else."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest

from ccpo.credit.base import CreditConfig, HistoryConfig
from ccpo.credit.rules import RULES, refusals
from ccpo.metrics import FAMILIES, reducible, session_rates, validation_scores
from ccpo.step import REPLAYS, StepSettings, compute_advantages
from ccpo.team.dyad import Dyad
from ccpo.team.plan import plan
from ccpo.team.vote import Vote
from ccpo.types import REMOVE, REPLACE, RESAMPLE, ReplayRecord, SessionRecord, Sessions, TurnRecord

TRAINER = Path(__file__).parents[2] / "ccpo" / "verl_plugin" / "trainer.py"
TEAMS = {"dyad": plan(Dyad()), "vote": plan(Vote(2))}


def sessions(team: str) -> Sessions:
    """Two sessions of two prompts with everything that a session can have."""
    its, records = TEAMS[team], []
    for prompt in range(2):
        for session in range(2):
            ballots = {role: (None, "T", "x")[(i + session + prompt) % 3] for i, role in enumerate(its.roles)}
            replays = []
            for i, role in enumerate(its.roles):
                shared = team == "dyad" and i == 0
                replays += [
                    ReplayRecord(REMOVE, role, float(prompt), shared, int(shared)),
                    ReplayRecord(RESAMPLE, role, float(session), decoded=1, truncated=True),
                    ReplayRecord(REPLACE, role, 0.0, decoded=1),
                ]
            turns = (TurnRecord(its.roles[0], leaked=True), TurnRecord(its.roles[1], parsed=bool(session)))
            is_vote = team == "vote"
            records.append(
                SessionRecord(
                    prompt,
                    session,
                    float(prompt == session),
                    turns,
                    tuple(replays),
                    ballots if is_vote else None,
                    "T" if is_vote else None,
                    (0.2 * prompt, 0.5 + 0.1 * session),
                )
            )
    return Sessions.from_records(records, its.roles)


def step_metrics() -> set[str]:
    """Of two steps of every rule that fits, with and without trained replays."""
    names: set[str] = set()
    for team, its in TEAMS.items():
        for rule in RULES:
            for train, siblings in itertools.product((False, True), (False, True)):
                credit = CreditConfig(rule, train_replays=train, siblings=siblings)
                if refusals(credit, HistoryConfig(), its, 2):
                    continue
                state, settings = None, StepSettings(credit, first=its.first, also_spoken=("reason",))
                for _ in range(2):
                    result = compute_advantages(sessions(team), settings, state)
                    state = result.state
                    names |= set(result.metrics)
    return names


def session_metrics() -> set[str]:
    return {name for team in TEAMS for name in session_rates(sessions(team), 8)}


def validation_metrics() -> set[str]:
    called = {
        "dyad": {(REMOVE, "think"): "solo", (REPLACE, "think"): "emptied"},
        "vote": {(REMOVE, "voter_0"): "without_voter_0"},
    }
    return {f"/{name}" for team in TEAMS for name in validation_scores(sessions(team), called[team])}


def trainer_names() -> set[str]:
    """Fixed parts of every ``a/{b}/c`` in the trainer."""
    tree = ast.parse(TRAINER.read_text())
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {part.value for text in texts for part in ast.walk(text) if isinstance(part, ast.Constant)}
    return {part for part in parts if isinstance(part, str) and " " not in part}


OURS = step_metrics() | session_metrics()
NAMES = sorted({f"ccpo/{name}" for name in OURS} | validation_metrics() | trainer_names())


def test_the_names_were_found():
    for name in (
        "ccpo/think/advantage_std",
        "ccpo/credit/cosine_with_shared/reason",
        "ccpo/credit/cosine_with_shared/all",
        "ccpo/credit/gate",
        "ccpo/credit/zero_rate",
        "ccpo/credit/baseline_coefficient",
        "ccpo/think/baseline_coefficient",
        "ccpo/credit/siblings_coefficient",
        "ccpo/think/siblings_coefficient",
        "ccpo/credit/variance_ratio",
        "ccpo/think/variance_ratio",
        "ccpo/credit/shrinkage",
        "ccpo/history/think/credit/mean",
        "ccpo/history/replays/credit/std",
        "ccpo/history/paper_delta/std",
        "ccpo/think/help_rate",
        "ccpo/voter_0/hurt_rate",
        "ccpo/replays/decodes_per_session",
        "ccpo/replays/prompts_without_rate",
        "ccpo/sessions/dropped_rate",
        "ccpo/reason/parse_failure_rate",
        "ccpo/think/leak_rate",
        "ccpo/plurality/pivotal_rate",
        "ccpo/plurality/credit_wrong",
        "ccpo/voter_1/accuracy",
        "/team_accuracy",
        "/solo_accuracy",
        "/without_voter_0_accuracy",
        "/voter_0/accuracy",
        "/think/contribution",
    ):
        assert name in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_no_second_meaning(name):
    assert reducible(name)


def test_what_is_not_about_a_role_is_about_a_family_that_no_role_may_be_called():
    first = {name.split("/")[0] for name in OURS}
    assert first == {*FAMILIES, "think", "reason", "voter_0", "voter_1"}
    assert REPLAYS in FAMILIES


def test_names_with_a_second_meaning_are_noticed():
    assert not any(map(reducible, ("ccpo/dominance", "ccpo/Max", "consumption", "totally")))


def test_verl_reduces_by_substring_and_ours_as_averages():
    pytest.importorskip("verl")
    from verl.trainer.ppo.v1.utils import MetricsAggregator

    aggregator = MetricsAggregator()
    for value in (1.0, 3.0):
        aggregator.add_step_metrics(
            dict.fromkeys(["dominance", "climax", "consumption", *NAMES], value), sample_count=1
        )
    found = aggregator.get_aggregated_metrics()
    assert (found["dominance"], found["climax"], found["consumption"]) == (1.0, 3.0, 4.0)
    assert {name for name in NAMES if found[name] != 2.0} == set()
