"""A LoRA actor alone in a process on the CPU: what it learns and what the rollout would get. Prints what test_lora.py looks at, as JSON.

Not a test itself.
"""

from __future__ import annotations

import json

from worker_alone import Alone, most

RANK, ALPHA = 4, 12
LORA = [f"actor_rollout_ref.model.{name}" for name in (f"lora_rank={RANK}", f"lora_alpha={ALPHA}")]


def plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def learned() -> dict:
    alone = Alone(*LORA)
    before = alone.weights()
    own = alone.log_probs()
    _, after = alone.update(old_log_probs=own)
    changed = {name for name in before if not before[name].equal(after[name])}
    wanted = {plain(name): weight.clone() for name, weight in after.items() if "lora_" not in name}
    for name in after:
        if name.endswith(".lora_A.default.weight"):
            up = after[name.replace("lora_A", "lora_B")]
            wanted[plain(name).replace("lora_A.default.", "")] += ALPHA / RANK * up @ after[name]
    sent, peft_config = alone.engine.get_per_tensor_param(base_sync_done=True)
    sent = list(sent)  # what is sent must stay what it was when the actor has its own weights back
    base = {plain(name): weight for name, weight in before.items() if "lora_" not in name}
    return {
        "changed": sorted(changed),
        "names": sorted(name for name, _ in sent) == sorted(wanted),
        "apart": most(dict(sent), wanted),
        "from_base": most(dict(sent), base),
        "from_bfloat16": most(dict(sent), {name: weight.bfloat16().float() for name, weight in wanted.items()}),
        "whole": peft_config is None,
        "disturbed": most(after, alone.weights()),
    }


def refused() -> str:
    try:
        Alone(*LORA, "actor_rollout_ref.model.target_modules=[q_proj,lm_head]")
    except ValueError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    print("RESULT " + json.dumps({"learned": learned(), "refused": refused()}))
