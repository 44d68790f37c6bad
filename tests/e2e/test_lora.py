"""LoRA with verl's own settings: adapters learn, the rollout follows, and what is saved goes on and is exported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from jobs import ROOT, finish, log_of, numbers

from ccpo.run.folder import policy_folder, step_folder

MODEL = ROOT / "data_preprocess" / "last_digit_model"
RANK, ALPHA = 8, 16
LORA = [f"actor_rollout_ref.model.{name}" for name in (f"lora_rank={RANK}", f"lora_alpha={ALPHA}")]
ALWAYS = ("trainer.save_freq=1", "trainer.max_actor_ckpt_to_keep=null")


def saved(out, step: int, policy: str, alone: bool) -> dict:
    """A policy's weights in a checkpoint, by the model's own names and the adapter's."""
    import torch

    folder = policy_folder(step_folder(out, step), policy, alone=alone)
    state = torch.load(folder / "model_world_size_1_rank_0.pt", weights_only=False)
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): getattr(value, "_local_tensor", value)
        for name, value in state.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("policies", ["shared", "per_role"])
def test_adapters_learn_go_on_and_are_exported(start, tmp_path, policies):
    import torch
    from transformers import AutoModelForCausalLM

    out, names, alone = tmp_path / "run", ["think", "reason"], policies == "shared"
    names = ["shared"] if alone else names
    settings = (*LORA, *ALWAYS, f"ccpo.policies={policies}")
    finish(start(out, "dyad", *settings, steps=2), out)
    finish(start(out, "dyad", *settings, steps=3), out)
    assert f"Resuming from {out}/global_step_2" in log_of(out)

    logged = numbers(out)
    base = AutoModelForCausalLM.from_pretrained(MODEL).state_dict()
    command = [sys.executable, "scripts/export_model.py", str(out), str(tmp_path / "exported")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    last = {}
    for name in names:
        first, before, weights = (saved(out, step, name, alone) for step in (1, 2, 3))
        adapter = {key for key in weights if "lora_" in key}
        assert adapter and weights.keys() - adapter == base.keys()
        assert all(torch.equal(weights[key], base[key]) for key in base), "the model's own weights rest"
        assert all(not torch.equal(weights[key], before[key]) for key in adapter)
        assert all(not torch.equal(first[key], before[key]) for key in adapter)
        prefix = "" if alone else f"{name}/"
        for step in (1, 2, 3):  # of which the first rollout is the base model's, the third that of a resumed job
            assert abs(logged[step, "train"][f"{prefix}rollout_corr/kl"]) < 1e-6, "sampled from other weights"

        merged = {key: base[key].clone() for key in base}
        for key in adapter:
            if key.endswith(".lora_A.default.weight"):
                up = weights[key.replace("lora_A", "lora_B")]
                merged[key.replace("lora_A.default.", "")] += ALPHA / RANK * up @ weights[key]
        folder = tmp_path / "exported" / ("" if alone else name)
        exported = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        assert all(torch.allclose(exported[key], merged[key], rtol=0, atol=1e-6) for key in merged)
        assert any(not torch.allclose(exported[key], base[key], rtol=0, atol=1e-4) for key in base)
        assert not list(folder.glob("*adapter*"))
        last[name] = weights
    if not alone:
        assert any(not torch.equal(last["think"][key], last["reason"][key]) for key in adapter)
