"""verl reduces a metric by substrings of its name: no name of ours may contain one that means something else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ccpo.config import DYAD_RULES, CcpoConfig
from ccpo.credit.advantage import compute_advantages
from ccpo.credit.history import HistoryState
from ccpo.metrics import reducible, session_rates, validation_scores
from ccpo.types import EMPTIED, REASON, SOLO, THINK, CreditTable

TRAINER = Path(__file__).parents[2] / "ccpo" / "verl_plugin" / "trainer.py"
ROWS = [
    (group, session, role, float((group + session) % 2 if role != SOLO else group))
    for group in range(3)
    for session in range(2)
    for role in (THINK, REASON, SOLO)
]

VOTES = CreditTable.from_rows(
    [
        ("prompt", session, f"voter_{i}", 0.5, ballot, "a")
        for session in (0, 1)
        for i, ballot in enumerate("aab" if session else "abb")
    ]
)


def step_metrics() -> set[str]:
    """Of two steps of every rule, with and without trained solo answers."""
    names: set[str] = set()
    for rule in DYAD_RULES:
        for train_solo in (False, True):
            if train_solo and rule in ("paper_v1", "event_v2"):
                continue
            config = CcpoConfig.from_dict({"credit": {"rule": rule, "train_solo": train_solo}}, n=2)
            state = HistoryState()
            for _ in range(2):
                result = compute_advantages(CreditTable.from_rows(ROWS), config, state)
                state = result.state
                names |= set(result.metrics)
    vote = CcpoConfig.from_dict({"topology": "vote", "credit": {"rule": "leave_one_out"}}, n=2)
    return names | set(compute_advantages(VOTES, vote, HistoryState()).metrics)


def session_metrics() -> set[str]:
    flags = dict.fromkeys(("parsed", "truncated", "leaked", "cut"), False)
    return set(
        session_rates([{"role": role, "session": 0, **flags} for role in (THINK, SOLO, EMPTIED, REASON, "voter_0")], 1)
    )


def validation_metrics() -> set[str]:
    fact = {"session": 0, "reward": 1.0, "final": True, "ballot": "a", "truth": "a"}
    teams = ((THINK, SOLO, EMPTIED, REASON), ("voter_0", "voter_1"))
    return {
        f"/{name}"
        for team in teams
        for name in validation_scores([{**fact, "role": role} for role in team], "expected")
    }


def trainer_names() -> set[str]:
    """Fixed parts of every ``a/{b}/c`` in the trainer."""
    tree = ast.parse(TRAINER.read_text())
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {part.value for text in texts for part in ast.walk(text) if isinstance(part, ast.Constant)}
    return {part for part in parts if isinstance(part, str) and " " not in part}


NAMES = sorted({f"ccpo/{name}" for name in step_metrics() | session_metrics()} | validation_metrics() | trainer_names())


def test_the_names_were_found():
    for name in (
        "ccpo/think/advantage_std",
        "ccpo/credit/cosine_with_shared/reason",
        "ccpo/credit/gate",
        "ccpo/credit/baseline_coefficient",
        "ccpo/history/think/credit/mean",
        "ccpo/history/paper_delta/std",
        "ccpo/contribution/help_rate",
        "ccpo/sessions/dropped_rate",
        "ccpo/emptied/parse_failure_rate",
        "/team_accuracy",
        "/voter_0_accuracy",
        "ccpo/vote/pivotal_rate",
        "ccpo/vote/credit_wrong",
        "/marginal_contribution",
    ):
        assert name in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_no_second_meaning(name):
    assert reducible(name)


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
