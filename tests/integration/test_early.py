"""The agent loop worker makes our loop once and writes a prompt's rows at once; what the queue gets is what verl would have written."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

import torch  # noqa: E402
from verl.trainer.ppo.v1 import agent_loop_tq  # noqa: E402

from ccpo.verl_plugin import early  # noqa: E402
from ccpo.verl_plugin.trajectory import RoleOutput  # noqa: E402

TRAJECTORY = {"step": 1, "sample_index": 0, "rollout_n": 0, "validate": False, "number": 7}


@pytest.fixture
def worker(monkeypatch):
    made = []

    class Loop:
        def __init__(self, **given):
            made.append(given)

        async def run(self, sampling_params, **row):
            await asyncio.sleep(0)
            if row["session_id"] == "fails":
                raise ValueError("of a session")
            return [row["session_id"]]

    async def verls(self, sampling_params, trajectory, *, agent_name, trace=True, **row):
        return "verl's", agent_name

    async def put(self, sessions, validate):
        written.append((sessions, validate))

    written = []
    monkeypatch.setattr(early, "TeamAgentLoop", Loop)
    monkeypatch.setattr(agent_loop_tq.AgentLoopWorkerTQ.__ray_metadata__.modified_class, "_run_agent_loop", verls)
    monkeypatch.setattr(early.EarlyAgentLoopWorker, "_put", put)
    monkeypatch.setitem(early._agent_loop_registry, "ccpo_team", {"_target_": early.OURS})
    monkeypatch.setitem(early._agent_loop_registry, "theirs", {"_target_": "package.Loop"})
    worker = bare_worker()
    for name in ("llm_client", "tokenizer", "hf_model_type", "dataset_cls"):
        setattr(worker, name, name)
    return worker, made, written


def bare_worker():
    """One that has begun, without what verl makes of a whole configuration."""
    worker = early.EarlyAgentLoopWorker()
    worker._under_way, worker._finished = defaultdict(int), defaultdict(list)
    worker.config, worker.processor, worker.distillation_enabled = SimpleNamespace(data={}), None, False
    worker.reward_loop_worker_handles = None
    return worker


def run(worker, *names):
    async def sessions():
        given = {"agent_name": "ccpo_team"}
        runs = (worker._run_agent_loop({}, TRAJECTORY, **given, uid=uid, session_id=i) for uid, i in names)
        return await asyncio.gather(*runs, return_exceptions=True)

    return asyncio.run(sessions())


def test_one_loop_of_ours_serves_all_sessions_and_a_prompts_rows_are_put_at_once(worker):
    worker, made, written = worker
    run(worker, *(("a", i) for i in range(4)), ("b", 0))
    assert len(made) == 1 and made[0]["tokenizer"] == "tokenizer" and made[0]["server_manager"] == "llm_client"
    assert sorted([rows for _, rows in sessions] for sessions, _ in written) == [[[0]], [[0], [1], [2], [3]]]
    assert not worker._under_way and not worker._finished


def test_a_session_that_fails_keeps_nobodys_rows_back(worker):
    worker, _, written = worker
    found = run(worker, ("a", 0), ("a", "fails"), ("a", 2))
    assert isinstance(found[1], ValueError) and found[0] is None
    assert [[rows for _, rows in sessions] for sessions, _ in written] == [[[0], [2]]]


def test_another_loop_is_verls_affair(worker):
    worker, made, _ = worker
    for name in ("theirs", "unknown"):
        assert asyncio.run(worker._run_agent_loop({}, TRAJECTORY, agent_name=name)) == ("verl's", name)
    assert not made


@pytest.mark.parametrize("validate", [False, True])
def test_the_queue_gets_what_verl_would_have_written(monkeypatch, validate):
    """verl's own writing of each session, and ours of all: every key, tag and column is the same, but for columns that nobody reads."""

    def sessions():
        return [
            (
                {
                    "uid": "u",
                    "session_id": session,
                    "global_steps": 3,
                    "data_source": "toy",
                    "extra_info": {"index": 1},
                    "reward_model": {"ground_truth": "4"},
                },
                rows,
            )
            for session, rows in enumerate(([output(5, 2, "a"), output(7, 3, "b")], [], [output(4, 4, "a")]))
        ]

    def queue(into):
        async def put(keys, partition_id, fields=None, tags=None):
            for i, (key, tag) in enumerate(zip(keys, tags, strict=True)):
                assert key not in into
                into[key] = partition_id, tag, {name: plain(fields[name][i]) for name in fields.keys()}  # noqa: SIM118

        return put

    worker, theirs, ours = bare_worker(), {}, {}
    monkeypatch.setattr(agent_loop_tq.tq, "async_kv_batch_put", queue(theirs))
    for row, rows in sessions():
        asyncio.run(worker._agent_loop_postprocess(rows, validate, **row))
    monkeypatch.setattr(early.tq, "async_kv_batch_put", queue(ours))
    asyncio.run(worker._put(sessions(), validate))
    assert set(ours) == {"u_0_0", "u_0_1", "u_2_0"} and ours["u_0_0"][0] == ("val" if validate else "train")
    unread = {"session_id", "global_steps", "data_source", "extra_info", "metrics"}
    for key, (partition, tag, columns) in theirs.items():
        assert unread <= columns.keys()
        assert ours[key] == (partition, tag, {name: columns[name] for name in columns.keys() - unread})


def output(prompt: int, response: int, role: str) -> RoleOutput:
    said = SimpleNamespace(
        token_ids=list(range(response)), log_probs=None, extra_fields={"min_global_steps": 2, "max_global_steps": 3}
    )
    turn = SimpleNamespace(role=role, payload=(list(range(prompt)), said, 0.5))
    return RoleOutput.build(turn, 0.25, prompt_id=("toy", 1), has_log_probs=True)


def plain(value):
    return value.tolist() if isinstance(value, torch.Tensor) else getattr(value, "data", value)
