"""Compare the packed attention of ccpo/verl_gpu/attention.py with padded sdpa: log-probabilities and gradients, on a GPU.

    .venv/bin/python scripts/check_attention.py                    random weights: one kind of heads after the other
    .venv/bin/python scripts/check_attention.py --model MODEL      and a real model

Each model sees the same rows twice: as one pack, rows told apart by their positions, and padded to the longest, with a mask. Both run in
bfloat16 as training does; the same in float32 tells how much of their difference is rounding. A case passes if the gradients' cosine is
above .999, and if the pack is no further from float32 than 1.5 times what padding is (largest and mean log-probability).
Two policies: the two models take turns within one process, as several policies of a job do. One order: with the settings of verl's
full_determinism, every gradient of ten passes over the same pack is the same to the last bit. Exit status 0: every case passed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

# As verl sets it for full_determinism; it is read when cuBLAS is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from ccpo.verl_gpu import attention  # noqa: E402

LENGTHS = (1, 7, 130, 1, 64, 4096, 2, 511)
COSINE, ROUNDING = 0.999, 1.5


def random_model(heads: int, kv_heads: int, head: int, window: int | None = None):
    """A small Llama, or Mistral where a window is asked for."""
    from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

    sizes = dict(
        num_hidden_layers=4,
        hidden_size=heads * head,
        intermediate_size=2 * heads * head,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        vocab_size=1000,
        max_position_embeddings=8192,
    )
    config = MistralConfig(**sizes, sliding_window=window) if window else LlamaConfig(**sizes)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def run(model, rows: list[torch.Tensor], how: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """((tokens that have one before them,) log-probabilities, (parameters,) gradient of their weighted sum)."""
    model.set_attn_implementation(attention.NAME if how == "packed" else "sdpa")
    model.zero_grad()
    device = next(model.parameters()).device
    if how == "packed":
        ids = torch.cat(rows)[None].to(device)
        given = {"position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None].to(device)}
    else:
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        given = {"attention_mask": (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()}
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits = model(input_ids=ids, **given, use_cache=False).logits
    of_row = (
        logits[0].split([len(row) for row in rows])
        if how == "packed"
        else [logits[i, : len(row)] for i, row in enumerate(rows)]
    )
    found = [
        torch.log_softmax(part[:-1].float(), dim=-1).gather(1, row[1:, None].to(device)).squeeze(1)
        for part, row in zip(of_row, rows, strict=True)
    ]
    log_probs = torch.cat(found)
    weight = torch.sin(torch.arange(len(log_probs), device=device).float())  # as advantages: of both signs
    (weight * log_probs).mean().backward()
    gradient = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
    return log_probs.detach(), gradient


def compare(model, rows: list[torch.Tensor], reference: bool = True) -> dict:
    """Figures of one case."""
    packed, own = run(model, rows, "packed", torch.bfloat16)
    padded, theirs = run(model, rows, "padded", torch.bfloat16)
    out = {
        "cosine": torch.nn.functional.cosine_similarity(own, theirs, dim=0).item(),
        "norms": (own.norm() / theirs.norm()).item(),
        "apart_mean": (packed - padded).abs().mean().item(),
        "apart_most": (packed - padded).abs().max().item(),
    }
    out["passed"] = out["cosine"] > COSINE
    if reference:
        exact, true = run(model, rows, "padded", torch.float32)
        for name, log_probs, gradient in (("packed", packed, own), ("padded", padded, theirs)):
            out[f"{name}_from_float32_mean"] = (log_probs - exact).abs().mean().item()
            out[f"{name}_from_float32_most"] = (log_probs - exact).abs().max().item()
            out[f"{name}_cosine_float32"] = torch.nn.functional.cosine_similarity(gradient, true, dim=0).item()
        for kind in ("mean", "most"):
            out["passed"] &= out[f"packed_from_float32_{kind}"] <= ROUNDING * out[f"padded_from_float32_{kind}"] + 1e-6
    return out


def one_order(model, rows: list[torch.Tensor], passes: int = 10) -> dict:
    """How many gradients of the same pack differ from the first: as PyTorch adds them, and with full_determinism."""
    figures = {}
    for name, wanted in (("any_order", False), ("one_order", True)):
        torch.use_deterministic_algorithms(wanted, warn_only=True)
        gradients = [run(model, rows, "packed", torch.bfloat16)[1] for _ in range(passes)]
        figures[f"others_{name}"] = sum(not torch.equal(gradients[0], each) for each in gradients[1:])
    torch.use_deterministic_algorithms(False)
    return {"passed": figures["others_one_order"] == 0, **figures}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id of a real model, too")
    parser.add_argument("--result", type=Path, help="JSON file")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: no GPU: the kernel runs on one alone")
    attention.register()
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, 1000, (length,), generator=draw) for length in LENGTHS]
    cases = {
        "heads 8 of 64": (8, 8, 64, None),
        "grouped heads, 9 of 64 on 3": (9, 3, 64, None),
        "grouped heads, 12 of 128 on 2": (12, 2, 128, None),
        "heads of 80": (4, 4, 80, None),
        "heads of 256 on 1": (4, 1, 256, None),
        "a window of 100": (8, 4, 64, 100),
    }
    found = {}
    for name, shape in cases.items():
        found[name] = compare(random_model(*shape).cuda(), rows)
    two = [random_model(8, 2, 64).cuda(), random_model(4, 4, 128).cuda()]
    short = [rows[:3], rows[2:5]]
    alone = [run(model, part, "packed", torch.bfloat16) for model, part in zip(two, short, strict=True)]
    for _ in range(2):  # taking turns must change nothing
        turns = [run(model, part, "packed", torch.bfloat16) for model, part in zip(two, short, strict=True)]
    found["two policies taking turns"] = {
        "passed": all(torch.equal(a[0], b[0]) for a, b in zip(alone, turns, strict=True)),
        "apart_most": max((a[0] - b[0]).abs().max().item() for a, b in zip(alone, turns, strict=True)),
    }
    found["one order"] = one_order(random_model(9, 3, 64).cuda(), rows)
    if options.model:
        from transformers import AutoModelForCausalLM

        real = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).cuda()
        name = Path(options.model).name
        found[name] = compare(real, [row for row in rows if len(row) < 1000])  # whole logits in float32 are large
        found[f"{name}, a row of {max(LENGTHS)} tokens"] = compare(real, [rows[1], max(rows, key=len)], reference=False)
    for name, case in found.items():
        figures = "  ".join(f"{key} {value:.6g}" for key, value in case.items() if key != "passed")
        print(f"{'passed' if case['passed'] else 'FAILED'}  {name}: {figures}")
    if options.result:
        options.result.write_text(
            json.dumps({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cases": found}, indent=1)
            + "\n"
        )
    return 0 if all(case["passed"] for case in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
