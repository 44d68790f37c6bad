"""Every rule against the second implementation, on ragged tables and over several steps."""

from __future__ import annotations

import importlib.util
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from ccpo.config import DYAD_RULES, NORMALIZATIONS, CcpoConfig, ConfigError, CreditConfig, HistoryConfig
from ccpo.credit.advantage import compute_advantages
from ccpo.credit.history import HistoryState
from ccpo.types import CreditTable

_spec = importlib.util.spec_from_file_location("reference_credit", Path(__file__).with_name("reference_credit.py"))
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

STEPS = 6
TOLERANCE = 1e-9  # a group of equal values is rounding noise (1e-16) over the z-score's epsilon (1e-6)


def _allowed(n: int = 4) -> list[CcpoConfig]:
    """Every combination of rule, normalization, coefficient, shaping and train_solo that the configuration accepts."""
    found = []
    for rule in DYAD_RULES:
        for normalize in NORMALIZATIONS:
            for coefficient in (None, 0.4, 1.0):
                for shaping, alpha in (("none", 1.0), ("tanh", 0.7)):
                    for train_solo, eta in ((False, 1.0), (True, 1.5)):
                        credit = CreditConfig(
                            rule,
                            normalize,
                            coefficient=coefficient,
                            shaping=shaping,
                            alpha=alpha,
                            train_solo=train_solo,
                            eta=eta,
                        )
                        config = CcpoConfig(credit=credit)
                        if not config.problems(n):
                            found.append(config)
    return found


def _name(config: CcpoConfig) -> str:
    credit = config.credit
    return f"{credit.rule}-{credit.normalize}-beta_{credit.coefficient}-{credit.shaping}" + (
        "-train_solo" if credit.train_solo else ""
    )


ALLOWED = _allowed()


def _rows(draw: random.Random, config: CcpoConfig, n: int, prompts: int, step: int, ragged: bool) -> list[tuple]:
    """A step's rows: accuracies differ by prompt and drift with the step; ragged tables lose sessions and solo answers.

    paper_v1 refuses a session without its solo answer, so there only whole sessions are lost.
    """
    k_solo, solo_loss = config.solo_count(n), 0.0 if config.credit.rule == "paper_v1" else 0.2
    rows = []
    for prompt in range(prompts):
        group = f"{step}/{prompt}"
        accuracy = draw.betavariate(1.2, 1.2)
        for session in range(n):
            if ragged and draw.random() < 0.2:
                continue  # a dropped session
            joint = float(draw.random() < min(0.95, accuracy + 0.03 * step))
            rows += [(group, session, "think", joint), (group, session, "reason", joint)]
            if session < k_solo and not (ragged and draw.random() < solo_loss):
                rows.append((group, session, "solo", float(draw.random() < 0.8 * accuracy)))
    draw.shuffle(rows)
    if rows and k_solo and not any(role == "solo" for _, _, role, _ in rows):
        rows.append((*rows[0][:2], "solo", 1.0))  # a step without any solo answer is refused, and tested below
    return rows


def _run(rows: list[tuple], config: CcpoConfig, state: HistoryState) -> tuple[dict, HistoryState]:
    result = compute_advantages(CreditTable.from_rows(rows), config, state)
    assert result.advantage_R.shape == (len(rows),)
    return {row[:3]: float(value) for row, value in zip(rows, result.advantage_R, strict=True)}, result.state


def _assert_same(ours: dict, theirs: dict, where: str) -> None:
    assert ours.keys() == theirs.keys()
    worst = max(ours, key=lambda key: abs(ours[key] - theirs[key]), default=None)
    if worst is not None:
        assert abs(ours[worst] - theirs[worst]) <= TOLERANCE, (
            f"{where}, row {worst}: ccpo {ours[worst]}, reference {theirs[worst]}"
        )


def test_every_rule_is_covered():
    assert {config.credit.rule for config in ALLOWED} == set(DYAD_RULES)
    assert {config.credit.normalization for config in ALLOWED} == set(NORMALIZATIONS)


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("config", ALLOWED, ids=_name)
def test_six_steps_equal_the_reference(config: CcpoConfig, ragged: bool):
    draw = random.Random(f"{_name(config)}/{ragged}")
    state, memory = HistoryState(), {}
    moved = 0.0
    for step in range(STEPS):
        rows = _rows(draw, config, n=4, prompts=5, step=step, ragged=ragged)
        ours, state = _run(rows, config, state)
        theirs, memory = reference.reference_step(rows, config, memory)
        _assert_same(ours, theirs, f"step {step}")
        moved += sum(map(abs, ours.values()))
    assert moved > 1, "all advantages are zero: the comparison says nothing"


def _shapes() -> list[tuple]:
    """(config, n, k_solo) for every n in 1..8 and k_solo in 0..n that the configuration accepts."""
    found = []
    for n in range(1, 9):
        for k_solo in range(n + 1):
            for rule in DYAD_RULES:
                for train_solo in (False, True):
                    config = CcpoConfig(credit=CreditConfig(rule, k_solo=k_solo, train_solo=train_solo))
                    if not config.problems(n):
                        found.append((config, n, k_solo))
    return found


def test_every_shape_equals_the_reference():
    for config, n, k_solo in _shapes():
        draw = random.Random(f"{n}/{k_solo}/{_name(config)}")
        config = replace(
            config, history=HistoryConfig(decay=draw.choice([0.0, 0.5, 0.97]), floor=draw.choice([0.01, 0.3]))
        )
        state, memory = HistoryState(), {}
        for step in range(STEPS):
            rows = _rows(draw, config, n, prompts=draw.randint(1, 4), step=step, ragged=draw.random() < 0.7)
            ours, state = _run(rows, config, state)
            theirs, memory = reference.reference_step(rows, config, memory)
            _assert_same(ours, theirs, f"{_name(config)}, n {n}, k_solo {k_solo}, {config.history}, step {step}")


@pytest.mark.parametrize("config", ALLOWED, ids=_name)
def test_order_of_rows_does_not_matter(config: CcpoConfig):
    draw = random.Random(3)
    state, shuffled_state = HistoryState(), HistoryState()
    for step in range(STEPS):
        rows = _rows(draw, config, n=4, prompts=4, step=step, ragged=True)
        shuffled = draw.sample(rows, len(rows))
        ours, state = _run(rows, config, state)
        again, shuffled_state = _run(shuffled, config, shuffled_state)
        _assert_same(ours, again, f"step {step}")


@pytest.mark.parametrize("config", ALLOWED, ids=_name)
def test_the_given_state_is_not_modified(config: CcpoConfig):
    draw = random.Random(4)
    state = HistoryState()
    for step in range(3):
        rows = _rows(draw, config, n=4, prompts=4, step=step, ragged=True)
        before = json.dumps(state.to_dict(), sort_keys=True)
        first, after = _run(rows, config, state)
        assert json.dumps(state.to_dict(), sort_keys=True) == before
        assert _run(rows, config, state)[0] == first
        state = after


@pytest.mark.parametrize("config", ALLOWED, ids=_name)
def test_a_restored_state_continues_identically(config: CcpoConfig):
    draw = random.Random(5)
    state = restored = HistoryState()
    for step in range(STEPS):
        rows = _rows(draw, config, n=4, prompts=4, step=step, ragged=True)
        straight, state = _run(rows, config, state)
        resumed, restored = _run(rows, config, HistoryState.from_dict(json.loads(json.dumps(restored.to_dict()))))
        assert straight == resumed
        assert restored.to_dict() == state.to_dict()


@pytest.mark.parametrize("config", ALLOWED, ids=_name)
def test_an_empty_table_changes_nothing(config: CcpoConfig):
    rows = _rows(random.Random(6), config, n=4, prompts=4, step=0, ragged=False)
    after_one, state = _run(rows, config, HistoryState())
    nothing, after_empty = _run([], config, state)
    assert nothing == {}
    assert _run(rows, config, after_empty)[0] == _run(rows, config, state)[0]
    assert _run(rows, config, _run([], config, HistoryState())[1])[0] == after_one


def test_paper_v1_refuses_an_unpaired_session():
    rows = [("a", 0, "think", 1.0), ("a", 0, "reason", 1.0), ("b", 0, "solo", 1.0)]
    with pytest.raises(ValueError, match="session 0 of prompt a has none: set k_solo"):
        _run(rows, CcpoConfig(credit=CreditConfig("paper_v1")), HistoryState())


@pytest.mark.parametrize("rule", ["counterfactual", "paper_v1", "event_v2"])
def test_a_step_without_any_solo_answer_is_refused(rule):
    with pytest.raises(ValueError, match="this step has none"):
        _run([("a", 0, "think", 1.0), ("a", 0, "reason", 1.0)], CcpoConfig(credit=CreditConfig(rule)), HistoryState())


def test_refused_combinations_are_not_in_the_list():
    with pytest.raises(ConfigError):
        CcpoConfig.from_dict({"credit": {"rule": "counterfactual", "normalize": "group"}}, n=4)
    assert not any(
        config.credit.rule == "counterfactual" and config.credit.normalization == "group" for config in ALLOWED
    )
