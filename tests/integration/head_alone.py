"""An update and log-probabilities of our worker with verl's output layer on all tokens, and on those that are read: prints what test_head.py looks at.

Not a test itself.
"""

from __future__ import annotations

import json

from worker_alone import Alone, most  # isort: skip  (it sets up the environment)

import torch
from verl.models.transformers import dense_common
from verl.utils.experimental import torch_functional
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from ccpo.verl_gpu import head

MODEL = "actor_rollout_ref.model"
PACKED = (f"{MODEL}.use_remove_padding=true", f"{MODEL}.use_fused_kernels=true")


def found(ours: bool, *overrides: str) -> dict:
    """What an update gives, and how many tokens went through the output layer."""
    theirs = dense_common.forward_with_torch_backend, FSDPEngineWithLMHead.prepare_model_inputs
    install = head.install
    if not ours:
        head.install = lambda: None
    tokens, apply = [], torch_functional._fused_linear_for_ppo_fwd
    torch_functional._fused_linear_for_ppo_fwd = lambda hidden_states, **more: (
        tokens.append(len(hidden_states)) or apply(hidden_states=hidden_states, **more)
    )
    try:
        torch.manual_seed(0)  # of a new adapter
        alone = Alone(*PACKED, *overrides)
        log_probs, before = alone.log_probs(), alone.weights()
        asked = sum(tokens)
        metrics, after = alone.update()
    finally:
        head.install = install
        torch_functional._fused_linear_for_ppo_fwd = apply
        dense_common.forward_with_torch_backend, FSDPEngineWithLMHead.prepare_model_inputs = theirs
    rows = alone.rows
    return {
        "log_probs": log_probs.values(),
        "before": before,
        "after": after,
        "metrics": {name: metrics[name] for name in ("grad_norm", "actor/pg_loss", "actor/entropy_loss")},
        "tokens": [asked, sum(tokens) - asked],
        "responses": len(rows["responses"].values()),
        "all": len(rows["input_ids"].values()),
    }


def compared(*overrides: str) -> dict:
    theirs, ours = found(False, *overrides), found(True, *overrides)
    return {
        "log_probs": float((theirs["log_probs"] - ours["log_probs"]).abs().max()),
        "smallest": float(ours["log_probs"].abs().min()),
        "moved": most(theirs["before"], theirs["after"]),
        "apart": most(theirs["after"], ours["after"]),
        **{
            f"{name}_{who}": one[name]
            for who, one in (("theirs", theirs), ("ours", ours))
            for name in ("metrics", "tokens")
        },
        "responses": ours["responses"],
        "all": ours["all"],
    }


if __name__ == "__main__":
    adapter = (f"{MODEL}.lora_rank=4", f"{MODEL}.lora.merge=true")
    parts = (
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=100",
        "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=100",
    )
    print("RESULT " + json.dumps({"whole": compared(), "parts": compared(*parts), "adapter": compared(*adapter)}))
