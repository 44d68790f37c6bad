"""TransferQueue's rows become the credit table by key, whatever the order in which they come."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("transfer_queue")

import numpy as np  # noqa: E402
from tensordict import NonTensorStack, TensorDict  # noqa: E402
from transfer_queue import KVBatchMeta  # noqa: E402

from ccpo.types import REASON, SOLO, THINK  # noqa: E402
from ccpo.verl_plugin import credit_table  # noqa: E402

NO_VOTE = {"final": True, "ballot": None, "truth": None}


@pytest.fixture
def stored(monkeypatch):
    """key -> facts: what TransferQueue holds. Its answer keeps the order of the keys, as the real one does."""
    store: dict[str, dict] = {}

    def kv_batch_get(keys, partition_id, select_fields):
        assert (partition_id, select_fields) == ("train", ["ccpo"])
        return TensorDict({"ccpo": NonTensorStack(*(store[key] for key in keys))}, batch_size=[len(keys)])

    monkeypatch.setattr(credit_table.tq, "kv_batch_get", kv_batch_get)
    return store


def step(uids: list[str]) -> dict[str, dict]:
    """Two prompts of ragged sessions; uids are what verl draws at random. Rewards tell the rows apart."""
    roles = {0: (THINK, SOLO, REASON), 1: (THINK, REASON)}
    rows = {}
    for prompt, uid in enumerate(uids):
        for session, members in roles.items():
            for index, role in enumerate(members):
                rows[f"{uid}_{session}_{index}"] = {
                    "role": role,
                    "reward": prompt + session / 10 + index / 100,
                    **NO_VOTE,
                    "prompt": ("data", prompt),
                }
    return rows


def read(keys, padding=()):
    tags = [{"is_padding": True} if key in padding else {"status": "success"} for key in keys]
    return credit_table.read_rows(KVBatchMeta(keys=list(keys), tags=tags, partition_id="train"))


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
    assert tables[0][:3] == [(("data", 0), 0, i, role, i / 100) for i, role in enumerate((THINK, SOLO, REASON))]


def test_one_prompt_drawn_twice_stays_two_groups(stored):
    rows = {
        f"{uid}_0_0": {"role": REASON, "reward": reward, "prompt": ("data", 3), **NO_VOTE}
        for uid, reward in (("u", 0.0), ("v", 1.0))
    }
    stored.update(rows)
    assert credit_table.to_table(read(rows)).group_means(REASON) == {"u": 0.0, "v": 1.0}


def test_padding_is_skipped(stored):
    rows = step(["u", "v"])
    stored.update(rows)
    stored["padx_0_0"] = rows["u_0_0"]  # a copy of row 0, as verl makes it
    assert [row.key for row in read([*rows, "padx_0_0"], padding=["padx_0_0"])] == [row.key for row in read(rows)]


def test_sessions_and_indices_are_ordered_as_numbers(stored):
    rows = {
        f"u_{session}_0": {"role": REASON, "reward": 0.0, "prompt": ("data", 0), **NO_VOTE} for session in (10, 9, 2)
    }
    stored.update(rows)
    assert [row.session for row in read(rows)] == [2, 9, 10]


def test_rows_become_a_table_in_their_order(stored):
    rows = step(["u", "v"])
    stored.update(rows)
    found = read(rows)
    table = credit_table.to_table(found)
    assert list(table.group_R) == [row.uid for row in found]
    assert list(table.role_R) == [row.role for row in found]
    assert list(table.session_R) == [row.session for row in found]
    assert list(table.reward_R) == [row.facts["reward"] for row in found]


def test_a_step_whose_sessions_were_all_dropped_has_no_rows(monkeypatch):
    """The trainer then names the dropped rate; TransferQueue would only complain about missing keys."""

    def kv_batch_get(keys, **_):
        raise ValueError("keys are not found")

    monkeypatch.setattr(credit_table.tq, "kv_batch_get", kv_batch_get)
    assert read([]) == []


def test_earlier_turns_of_a_role_share_its_last_turns_advantage(stored):
    facts = {"prompt": ("data", 0), "reward": 1.0, "ballot": "a", "truth": "a"}
    for index, (role, final) in enumerate(
        [("voter_0", False), ("voter_1", False), ("voter_0", True), ("voter_1", True)]
    ):
        stored[f"u_0_{index}"] = {**facts, "role": role, "final": final}
    rows = read(dict(stored))
    final = [row for row in rows if row.facts["final"]]
    spread = credit_table.spread(rows, final, np.array([2.0, -1.0]))
    assert spread == {"u_0_0": 2.0, "u_0_1": -1.0, "u_0_2": 2.0, "u_0_3": -1.0}
