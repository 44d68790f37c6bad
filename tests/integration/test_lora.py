"""LoRA through verl's own settings: the adapter alone learns, and the rollout gets the policy that learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("verl")

ALONE = Path(__file__).with_name("lora_alone.py")


@pytest.fixture(scope="module")
def found(in_cpu_fork):
    done = in_cpu_fork([ALONE], ALONE.parent)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[-1].removeprefix("RESULT "))


def test_the_adapter_alone_learns(found):
    changed = found["learned"]["changed"]
    assert changed and all(".lora_" in name for name in changed)


def test_the_rollout_gets_whole_weights_with_the_adapter_merged_and_nothing_rounded(found):
    learned = found["learned"]
    assert learned["whole"] and learned["names"]
    assert learned["apart"] < 1e-6 < 1e-4 < learned["from_base"]
    assert learned["from_bfloat16"] > 1e-4, "the case would not show rounding"


def test_the_actor_has_its_own_weights_back(found):
    assert found["learned"]["disturbed"] == 0


def test_an_adapter_that_was_saved_goes_on(found):
    assert found["went_on"] < 1e-6


def test_an_adapter_that_the_rollout_would_not_get_is_refused(found):
    """verl merges FSDP2's parts but the root, where the output layer is."""
    assert "target_modules" in found["refused"] and "lm_head" in found["refused"] and "q_proj" not in found["refused"]
