"""docs/cpu_vllm.md: the real vLLM on the CPU, in a whole job. Skipped without requirements-cpu-vllm.txt."""

from __future__ import annotations

import importlib.util
import re

import pytest
from jobs import ROOT, STEPS, TEAM, finish, numbers


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="requirements-cpu-vllm.txt is not installed")
def test_a_dyad_learns_with_what_the_page_says(start, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    page = (ROOT / "docs" / "cpu_vllm.md").read_text()
    overrides = re.findall(r"^    (\+?actor_rollout_ref\.\S+)$", page, re.MULTILINE)
    assert len(overrides) == 5
    out = tmp_path / "job"
    finish(start(out, "dyad", *overrides), out)
    found = numbers(out)
    assert found[STEPS, "val"][TEAM] >= found[0, "val"][TEAM] + 0.10
    assert all(abs(found[step, "train"]["rollout_corr/kl"]) < 1e-5 for step in range(1, STEPS + 1))
