"""TransferQueue's rows become sessions by key, whatever the order in which they come."""

from __future__ import annotations

import json
import random

import pytest

pytest.importorskip("transfer_queue")

from dataclasses import asdict, replace  # noqa: E402

import numpy as np  # noqa: E402
from tensordict import NonTensorStack, TensorDict  # noqa: E402
from transfer_queue import KVBatchMeta  # noqa: E402

from ccpo.types import REMOVE, ReplayRecord, SessionRecord, StepResult, TurnRecord  # noqa: E402
from ccpo.verl_plugin import rows as step_rows  # noqa: E402

THINK, REASON = "think", "reason"


@pytest.fixture
def stored(monkeypatch):
    """key -> facts: what TransferQueue holds. Its answer keeps the order of the keys, as the real one does."""
    store: dict[str, dict] = {}

    def kv_batch_get(keys, partition_id, select_fields):
        assert (partition_id, select_fields) == ("train", ["ccpo"])
        return TensorDict({"ccpo": NonTensorStack(*(store[key] for key in keys))}, batch_size=[len(keys)])

    monkeypatch.setattr(step_rows.tq, "kv_batch_get", kv_batch_get)
    return store


def facts(role, reward, prompt, replay=None, session=None, kept=None):
    record = session and asdict(session)
    text = kept and json.dumps(kept)
    return {
        "role": role,
        "reward": reward,
        "prompt": ("data", prompt),
        "replay": replay,
        "session": record,
        "kept": text,
    }


def record(value, replays=()):
    return SessionRecord(("data", 0), 0, value, (TurnRecord(THINK), TurnRecord(REASON, parsed=True)), tuple(replays))


def step(uids: list[str]) -> dict[str, dict]:
    """Two prompts of two sessions, the first with a trained replay; uids are what verl draws at random. Rewards tell the rows apart."""
    rows = {}
    for prompt, uid in enumerate(uids):
        for session in (0, 1):
            value = prompt + session / 10
            replays = [ReplayRecord(REMOVE, THINK, value / 2, True, 1)] if session == 0 else []
            rows[f"{uid}_{session}_0"] = facts(THINK, value, prompt, session=record(value, replays))
            rows[f"{uid}_{session}_1"] = facts(REASON, value, prompt)
            if replays:
                rows[f"{uid}_{session}_2"] = facts(REASON, value / 2, prompt, replay=0)
    return rows


def read(keys, padding=()):
    tags = [{"is_padding": True} if key in padding else {"status": "success"} for key in keys]
    return step_rows.read_rows(KVBatchMeta(keys=list(keys), tags=tags, partition_id="train"))


def test_order_depends_neither_on_arrival_nor_on_uids(stored):
    tables = []
    for seed in range(5):
        uids = [f"{random.Random(seed * 9 + i).getrandbits(60):x}-a_b" for i in range(2)]
        rows = step(uids)
        stored.update(rows)
        keys = sorted(rows, key=lambda key, seed=seed: random.Random(f"{seed}{key}").random())
        found = read(keys)
        assert {row.uid for row in found} == set(uids), "a uid may have underscores of its own"
        tables.append([(row.facts["prompt"], row.session, row.index, row.role, row.facts["reward"]) for row in found])
    assert all(table == tables[0] for table in tables)
    assert tables[0][:3] == [
        (("data", 0), 0, 0, THINK, 0.0),
        (("data", 0), 0, 1, REASON, 0.0),
        (("data", 0), 0, 2, REASON, 0.0),
    ]


def test_one_prompt_drawn_twice_stays_two_groups(stored):
    rows = {f"{uid}_0_0": facts(THINK, reward, 3, session=record(reward)) for uid, reward in (("u", 0.0), ("v", 1.0))}
    stored.update(rows)
    sessions = step_rows.to_sessions(read(rows), (THINK, REASON), None)
    assert sessions.prompts == ("u", "v") and sessions.value_S.tolist() == [0.0, 1.0]


def test_padding_is_skipped(stored):
    rows = step(["u", "v"])
    stored.update(rows)
    stored["padx_0_0"] = rows["u_0_0"]  # a copy of row 0, as verl makes it
    assert [row.key for row in read([*rows, "padx_0_0"], padding=["padx_0_0"])] == [row.key for row in read(rows)]


def test_sessions_and_indices_are_ordered_as_numbers(stored):
    rows = {f"u_{session}_0": facts(THINK, 0.0, 0, session=record(0.0)) for session in (10, 9, 2)}
    stored.update(rows)
    assert [row.session for row in read(rows)] == [2, 9, 10]


def test_rows_become_sessions_in_their_order(stored):
    rows = step(["u", "v"])
    stored.update(rows)
    sessions = step_rows.to_sessions(read(rows), (THINK, REASON), None)
    assert sessions.prompts == ("u", "v")
    assert list(zip(sessions.prompt_S, sessions.session_S, sessions.value_S, strict=True)) == [
        (0, 0, 0.0), (0, 1, 0.1), (1, 0, 1.0), (1, 1, 1.1),
    ]  # fmt: skip
    assert sessions.value_P.tolist() == [0.0, 0.5]
    assert sessions[2].turns == (TurnRecord(THINK), TurnRecord(REASON, parsed=True))
    assert sessions[2].replays == (ReplayRecord(REMOVE, THINK, 0.5, True, 1),)


def test_ballots_come_back_with_their_truth(stored):
    cast = SessionRecord(
        ("data", 0), 0, 1.0, (TurnRecord("voter_0"), TurnRecord("voter_1")), (), {"voter_0": "7", "voter_1": None}, "7"
    )
    stored["u_0_0"] = facts("voter_0", 1.0, 0, session=cast)
    sessions = step_rows.to_sessions(read(stored), ("voter_0", "voter_1"), "fail")
    assert sessions.ballot_SV.tolist() == [[0, -1]] and sessions.tie == "fail"


def test_a_step_whose_sessions_were_all_dropped_has_no_rows(monkeypatch):
    """The trainer then names the dropped rate; TransferQueue would only complain about missing keys."""

    def kv_batch_get(keys, **_):
        raise ValueError("keys are not found")

    monkeypatch.setattr(step_rows.tq, "kv_batch_get", kv_batch_get)
    assert read([]) == []


def test_every_turn_of_a_role_gets_its_advantage_and_a_replays_rows_get_the_replays(stored):
    rows = step(["u", "v"])
    stored.update(rows)
    found = read(rows)
    sessions = step_rows.to_sessions(found, (THINK, REASON), None)
    advantage_SV, advantage_P = np.arange(8.0).reshape(4, 2), np.array([-1.0, -2.0])
    result = StepResult(advantage_SV, advantage_SV, advantage_P, None)
    assert step_rows.advantages(found, sessions, result) == {
        "u_0_0": 0.0, "u_0_1": 1.0, "u_0_2": -1.0, "u_1_0": 2.0, "u_1_1": 3.0,
        "v_0_0": 4.0, "v_0_1": 5.0, "v_0_2": -2.0, "v_1_0": 6.0, "v_1_1": 7.0,
    }  # fmt: skip


def test_kept_sessions_come_with_their_credit_and_no_more_than_are_asked_for(stored):
    rows = step(["u", "v"])
    for key in ("u_0_0", "u_1_0", "v_0_0"):
        rows[key]["kept"] = json.dumps({"text": key, "odd": "\u2028\ud800"})
    stored.update(rows)
    found = read(rows)
    sessions = step_rows.to_sessions(found, (THINK, REASON, "mute"), None)
    result = StepResult(np.arange(12.0).reshape(4, 3), -np.arange(12.0).reshape(4, 3), np.zeros(2), None)
    kept = step_rows.kept_sessions(found, 8, 0, 5, sessions, result)
    assert [one["text"] for one in kept] == ["u_0_0", "u_1_0", "v_0_0"]
    assert kept[1]["credit"] == {THINK: 3.0, REASON: 4.0} and kept[1]["odd"] == "\u2028\ud800"
    assert kept[2]["advantage"] == {THINK: -6.0, REASON: -7.0}
    assert [one["likelihood"] for one in kept] == [None] * 3
    likely = replace(sessions, likelihood_T=np.arange(8) / 8, behind_S=np.array([0.5, np.nan, 0.25, np.nan]))
    divided = replace(result, answer_S=np.array([-2.0, np.nan, 0.5, np.nan]))
    assert [one["likelihood"] for one in step_rows.kept_sessions(found, 8, 0, 5, likely, divided)] == [
        {"before": [0.0, 0.125], "behind": 0.5, "answer_advantage": -2.0},
        {"before": [0.25, 0.375], "behind": None, "answer_advantage": None},
        {"before": [0.5, 0.625], "behind": 0.25, "answer_advantage": 0.5},
    ]
    two = {one["text"] for one in step_rows.kept_sessions(found, 2, 0, 5, sessions, result)}
    assert two == {"u_0_0", "v_0_0"}, "a prompt's first session comes before its second"
    assert step_rows.kept_sessions(found, 0, 0, 5, sessions, result) == []
    assert [one["credit"] for one in step_rows.validation_sessions(found)] == [None] * 3


def test_the_last_speakers_answer_has_its_own_advantage(stored):
    """Of sessions with a border, and of their own turns: a replay's answer has none."""
    rows = step(["u", "v"])
    for key, length in (("u_0_0", 3), ("v_1_0", 0), ("v_0_0", None)):
        rows[key]["reference"] = {"behind": None if length is None else {"length": length}}
    for row in rows.values():
        row.setdefault("reference", None)
    stored.update(rows)
    found = read(rows)
    sessions = step_rows.to_sessions(found, (THINK, REASON), None)
    result = StepResult(np.zeros((4, 2)), np.zeros((4, 2)), np.zeros(2), None, {}, np.array([1.0, np.nan, np.nan, 4.0]))
    assert step_rows.answers(found, sessions, result) == {"u_0_1": (3, 1.0), "v_1_1": (0, 4.0)}
    assert step_rows.answers(found, sessions, replace(result, answer_S=None)) == {}


def test_turns_of_several_rounds_share_their_roles_advantage(stored):
    turns = tuple(TurnRecord(f"voter_{i}") for i in (0, 1)) * 2
    whole = SessionRecord(("data", 0), 0, 1.0, turns, (), {"voter_0": "a", "voter_1": "b"}, "a")
    for index, turn in enumerate(turns):
        stored[f"u_0_{index}"] = facts(turn.role, 1.0, 0, session=None if index else whole)
    found = read(dict(stored))
    sessions = step_rows.to_sessions(found, ("voter_0", "voter_1"), "expected")
    result = StepResult(np.zeros((1, 2)), np.array([[2.0, -1.0]]), np.zeros(0), None)
    assert step_rows.advantages(found, sessions, result) == {"u_0_0": 2.0, "u_0_1": -1.0, "u_0_2": 2.0, "u_0_3": -1.0}


def test_what_sessions_waited_for():
    def row(role, seconds, replay=None, whole=None):
        return step_rows.Row(
            "k", "u", 0, 0, {"role": role, "replay": replay, "seconds": seconds, "session_seconds": whole}
        )

    rows = [
        row("think", 1.0, whole={"verify": 0.5, "replays": 3.0}),
        row("reason", 2.0),
        row("think", 3.0, whole={"verify": 0.1, "replays": 0.0}),
        row("reason", 9.0, replay=0),  # counted where its session says so
    ]
    assert step_rows.timings(rows) == {
        "decode/think": 2.0,
        "decode/reason": 2.0,
        "decode/replays": 1.5,
        "verify": 0.3,
    }
    assert step_rows.timings([]) == {}


def test_tokens_are_counted_by_session_with_its_replays():
    def row(whole=None):
        return step_rows.Row("k", "u", 0, 0, {"session_tokens": whole})

    rows = [row({"turns": 30, "replays": 12}), row(), row({"turns": 5, "replays": 0}), row()]
    assert step_rows.generated(rows) == {"generated_tokens": 47.0, "replay_tokens": 12.0}
    assert step_rows.generated([]) == {"generated_tokens": 0.0, "replay_tokens": 0.0}
