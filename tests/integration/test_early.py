"""The agent loop worker makes our loop once, and somebody else's for every session, as verl does."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ  # noqa: E402

from ccpo.verl_plugin import early  # noqa: E402

TRAJECTORY = {"step": 1, "sample_index": 0, "rollout_n": 0, "validate": False, "number": 7}


@pytest.fixture
def worker(monkeypatch):
    made = []

    class Loop:
        def __init__(self, **given):
            made.append(given)

        async def run(self, sampling_params, **row):
            return [row["session_id"]]

    async def verls(self, sampling_params, trajectory, *, agent_name, trace=True, **row):
        return "verl's", agent_name

    async def written(self, output, validate, **row):
        return output, validate

    monkeypatch.setattr(early, "TeamAgentLoop", Loop)
    monkeypatch.setattr(AgentLoopWorkerTQ.__ray_metadata__.modified_class, "_run_agent_loop", verls)
    monkeypatch.setattr(early.EarlyAgentLoopWorker, "_agent_loop_postprocess", written)
    monkeypatch.setitem(early._agent_loop_registry, "ccpo_team", {"_target_": early.OURS})
    monkeypatch.setitem(early._agent_loop_registry, "theirs", {"_target_": "package.Loop"})
    worker = early.EarlyAgentLoopWorker()
    worker._loops, worker.config = {}, SimpleNamespace(data={})
    for name in ("llm_client", "tokenizer", "processor", "hf_model_type", "dataset_cls"):
        setattr(worker, name, name)
    return worker, made


def test_one_loop_of_ours_serves_all_sessions(worker):
    worker, made = worker

    async def sessions():
        runs = (worker._run_agent_loop({}, TRAJECTORY, agent_name="ccpo_team", session_id=i) for i in range(5))
        return await asyncio.gather(*runs)

    assert asyncio.run(sessions()) == [([i], False) for i in range(5)]
    assert len(made) == 1 and made[0]["tokenizer"] == "tokenizer" and made[0]["server_manager"] == "llm_client"


def test_another_loop_is_verls_affair(worker):
    worker, made = worker
    for name in ("theirs", "unknown"):
        assert asyncio.run(worker._run_agent_loop({}, TRAJECTORY, agent_name=name)) == ("verl's", name)
    assert not made
