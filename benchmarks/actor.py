"""The actor alone: verl's worker with our settings on made-up rows, beside a plain transformers loop. Seconds, tokens a second, peak memory.

    .venv/bin/python benchmarks/actor.py --model MODEL                   on a GPU; --shape qwen2.5-1.5b: random weights
    .venv/bin/python benchmarks/actor.py --cpu                           the embedded model, to see that it runs
    ... --packs 16384 32768 --checkpointing off on --passes              memory and time of each; what the plan of settings is checked with
    ... --shape qwen2.5-3b --cap 70                                      as on a GPU of 70 GiB: is the plan right that it fits, or does not?

No Ray, no queue, no rollout: one process, one GPU. The plain loop has the same packs, attention, precision, optimizer and clipping, and
computes the loss of the same response tokens from whole logits, in pieces.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import sys
import time
from pathlib import Path

from evidence import ROOT, Evidence, table

from ccpo.verl_gpu.memory import GIB, OUTSIDE

PIECE = 4096  # tokens whose logits the plain loop makes at once
CPU_MODEL = ROOT / "data_preprocess" / "last_digit_model"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id")
    parser.add_argument(
        "--shape", help="random weights in this shape (benchmarks/shapes.py); --model then gives the tokenizer"
    )
    parser.add_argument("--cpu", action="store_true", help="the embedded model on the CPU")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--prompt", type=int, nargs=2, default=(100, 250), metavar=("LEAST", "MOST"), help="tokens")
    parser.add_argument("--response", type=int, nargs=2, default=(60, 320), metavar=("LEAST", "MOST"), help="tokens")
    parser.add_argument("--packs", type=int, nargs="+", help="tokens a micro-batch (default: the configuration's)")
    parser.add_argument(
        "--checkpointing",
        nargs="+",
        choices=("off", "on"),
        help="gradient checkpointing (default: the configuration's)",
    )
    parser.add_argument("--passes", action="store_true", help="time the log-probability pass, too")
    parser.add_argument("--plain", action="store_true", help="time the plain loop, too")
    parser.add_argument("--cap", type=float, help="GiB: plan for a GPU of this size, and allocate no more")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("outputs/bench/models"), help="folder for random weights")
    parser.add_argument("--result", type=Path, default=ROOT / "outputs" / "bench" / "actor.json")
    parser.add_argument("overrides", nargs="*", metavar="-- OVERRIDE", help="further verl overrides")
    options = parser.parse_args()
    evidence = Evidence(vars(options))

    import torch

    if options.cpu:
        model = CPU_MODEL
    elif options.shape:
        from shapes import write

        model = write(options.shape, options.work.resolve() / options.shape, options.model)
    else:
        model = options.model
    if options.cap:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (options.cap * GIB - OUTSIDE) / whole))
    config = configuration(str(model), options)  # before fit, which imports verl
    from ccpo.verl_plugin import fit

    lines, refused = fit.settle(config, options.cap and options.cap * GIB)
    print(*lines, *refused, sep="\n")
    worker = build(config)
    rows = made_up_rows(config, options)
    tokens = int(rows["input_ids"].values().numel())
    packs = options.packs or [config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu]
    modes = options.checkpointing or ["on" if config.actor_rollout_ref.model.enable_gradient_checkpointing else "off"]
    found = []
    for mode in modes:
        use_checkpointing(worker, mode == "on")
        for pack in packs:
            for name in ["update_actor"] + ["compute_log_prob"] * options.passes:
                found.append(
                    {"what": name, "checkpointing": mode, "pack": pack}
                    | measure(worker, rows, name, pack, config, options.repeat)
                )
                print(found[-1], flush=True)
    if options.plain:
        del worker
        free()
        found.append(
            {"what": "plain loop", "checkpointing": modes[0], "pack": packs[0]}
            | plain(str(model), rows, packs[0], config, options.repeat)
        )
    for case in found:
        if case.get("seconds"):
            case["tokens_per_s"] = round(tokens / case["seconds"])
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    evidence.write(
        options.result,
        {
            "gpu": gpu,
            "model": str(model),
            "shape": options.shape,
            "rows": options.rows,
            "tokens": tokens,
            "refused": refused,
            "cases": found,
        },
    )
    head = ["what", "checkpointing", "pack", "seconds", "peak_gib", "tokens_per_s"]
    print(table([head, *([case.get(name) for name in head] for case in found)]))
    return 0


def configuration(model: str, options: argparse.Namespace):
    """What recipe/main_ccpo.py would compose, sized to the rows."""
    import hydra

    if options.cpu:  # read when verl is imported, which composing does
        os.environ |= {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "ccpo.verl_cpu.platform"}
    with hydra.initialize_config_dir(str(ROOT / "recipe" / "config"), version_base=None):
        profile = ["profile=cpu", "task=last_digit"] if options.cpu else ["profile=gpu", "task=gsm8k"]
        config = hydra.compose(
            "ccpo_dyad",
            [
                *profile,
                f"actor_rollout_ref.model.path={model}",
                f"data.max_prompt_length={options.prompt[1]}",
                f"data.max_response_length={options.response[1]}",
                *options.overrides,
            ],
        )
    return config


def build(config):
    """Our worker with an actor alone, in this process."""
    from verl.utils.device import auto_set_device

    from ccpo.verl_plugin.worker import PolicyWorker

    auto_set_device(config)
    with socket.socket() as free_port:
        free_port.bind(("127.0.0.1", 0))
        port = free_port.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    worker = PolicyWorker(config.actor_rollout_ref, "actor")
    worker.init_model()
    return worker


def made_up_rows(config, options: argparse.Namespace):
    """Rows as verl's queue gives them to the actor, of lengths drawn evenly between the bounds."""
    import torch
    from tensordict import TensorDict

    draw = torch.Generator().manual_seed(0)

    def lengths(bounds):
        return torch.randint(bounds[0], bounds[1] + 1, (options.rows,), generator=draw).tolist()

    prompts, responses, columns = lengths(options.prompt), lengths(options.response), {}
    nested = lambda parts: torch.nested.as_nested_tensor(parts, layout=torch.jagged)  # noqa: E731
    ids = [torch.randint(0, 1000, (p + r,), generator=draw) for p, r in zip(prompts, responses, strict=True)]
    if options.cpu:
        ids = [part % 50 for part in ids]
    columns["input_ids"] = nested(ids)
    columns["position_ids"] = nested([torch.arange(len(part)) for part in ids])
    columns["prompts"] = nested([part[:p] for part, p in zip(ids, prompts, strict=True)])
    columns["responses"] = nested([part[p:] for part, p in zip(ids, prompts, strict=True)])
    columns["response_mask"] = columns["loss_mask"] = nested([torch.ones(r, dtype=torch.int64) for r in responses])
    columns["advantages"] = nested([torch.full((r,), 1.0 if i % 2 else -1.0) for i, r in enumerate(responses)])
    return TensorDict(columns, batch_size=options.rows)


def use_checkpointing(worker, on: bool) -> None:
    module = worker.actor.engine.module
    if on:
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        module.gradient_checkpointing_disable()


def measure(worker, rows, name: str, pack: int, config, repeat: int) -> dict:
    """Median seconds of ``repeat`` calls after one that is not counted, and the allocator's peak over them."""
    import torch
    from verl.utils import tensordict_utils as tu

    actor, gpu = config.actor_rollout_ref.actor, torch.cuda.is_available()
    common = {"temperature": 1.0, "max_token_len_per_gpu": pack, "use_dynamic_bsz": True}
    if name == "update_actor":
        size = len(rows)
        own = {
            "mini_batch_size": size,
            "global_batch_size": size,
            "epochs": 1,
            "seed": 0,
            "dataloader_kwargs": {"shuffle": False},
        }
        own["calculate_entropy"] = actor.calculate_entropy
    else:
        own = {"calculate_entropy": True, "compute_loss": False}
    seconds = []
    try:
        for i in range(repeat + 1):
            data = rows.clone()
            for key, value in (common | own).items():
                tu.assign_non_tensor_data(data, key, value)
            if gpu:
                torch.cuda.synchronize()
                if i == 0:
                    torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            getattr(worker, name)(data)
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    except torch.cuda.OutOfMemoryError:
        worker.actor.engine.optimizer.zero_grad()
        free()
        return {"seconds": None, "out_of_memory": True}
    peak = torch.cuda.max_memory_allocated() / GIB if gpu else None
    reserved = torch.cuda.max_memory_reserved() / GIB if gpu else None
    free()
    return {
        "seconds": round(statistics.median(seconds[1:]), 4),
        "first_s": round(seconds[0], 3),
        "peak_gib": peak and round(peak, 2),
        "reserved_gib": reserved and round(reserved, 2),
    }


def plain(model: str, rows, pack: int, config, repeat: int) -> dict:
    """The same update, written down as transformers and torch alone."""
    import torch
    from torch.utils.checkpoint import checkpoint
    from transformers import AutoModelForCausalLM

    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    attention = config.actor_rollout_ref.model.override_config.attn_implementation
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation=attention).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6)
    sequences = [
        (ids, len(answer), float(advantage[0]))
        for ids, answer, advantage in zip(
            rows["input_ids"].unbind(), rows["responses"].unbind(), rows["advantages"].unbind(), strict=True
        )
    ]
    packs, size = [[]], 0
    for row in sequences:
        if size + len(row[0]) > pack and packs[-1]:
            packs, size = [*packs, []], 0
        packs[-1].append(row)
        size += len(row[0])
    if not gpu:  # sdpa knows no rows: one row a pack
        packs = [[row] for row in sequences]
    total = sum(answer for _, answer, _ in sequences)
    seconds = []
    for i in range(repeat + 1):
        if gpu:
            torch.cuda.synchronize()
            if i == 0:
                torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        optimizer.zero_grad()
        for part in packs:
            ids = torch.cat([row[0] for row in part]).to(device)
            positions = torch.cat([torch.arange(len(row[0])) for row in part]).to(device)
            where, weight, end = [], [], 0
            for row, answer, advantage in part:
                end += len(row)
                where.append(torch.arange(end - answer - 1, end - 1))
                weight.append(torch.full((answer,), advantage / total))
            where, weight = torch.cat(where).to(device), torch.cat(weight).to(device)
            with torch.autocast(device, dtype=dtype, enabled=gpu):
                hidden = net.model(
                    input_ids=ids[None], position_ids=positions[None], use_cache=False
                ).last_hidden_state[0]
                spoken, target = hidden[where], ids[where + 1]
                loss = 0.0
                for at in range(0, len(spoken), PIECE):  # whole logits of a pack would be large
                    part = slice(at, at + PIECE)
                    nll = checkpoint(_nll, net.lm_head, spoken[part], target[part], use_reentrant=False)
                    loss = loss + (weight[part] * nll).sum()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / GIB if gpu else None
    return {
        "seconds": round(statistics.median(seconds[1:]), 4),
        "first_s": round(seconds[0], 3),
        "peak_gib": peak and round(peak, 2),
    }


def _nll(head, hidden, target):
    import torch

    return torch.nn.functional.cross_entropy(head(hidden).float(), target, reduction="none")


def free() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
