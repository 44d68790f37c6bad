"""A LoRA actor alone in a process on the CPU: what it learns and what the rollout would get. Prints what test_lora.py looks at, as JSON.

Not a test itself.
"""

from __future__ import annotations

import json
import tempfile

from worker_alone import CPU_MODEL, Alone, most

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


def went_on() -> float:
    """How far what the rollout gets is from the model of an adapter that peft has saved, before any step."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(CPU_MODEL), made)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        alone = Alone(LORA[0], f"actor_rollout_ref.model.lora_adapter_path={folder}")
    return most(dict(alone.engine.get_per_tensor_param(base_sync_done=True)[0]), model.merge_and_unload().state_dict())


def refused() -> str:
    try:
        Alone(*LORA, "actor_rollout_ref.model.target_modules=[q_proj,lm_head]")
    except ValueError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    print("RESULT " + json.dumps({"learned": learned(), "went_on": went_on(), "refused": refused()}))
