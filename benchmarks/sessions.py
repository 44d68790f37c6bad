"""What a team's sessions cost the rollout server: replays beside them, after them, or not at all; and plain vLLM on the same requests. On a GPU.

    .venv/bin/python benchmarks/sessions.py --model MODEL --dump FOLDER/2.jsonl --job SECONDS

The requests are those of a validation: run a job with trainer.validation_data_dir=FOLDER, and give a file of it, and the seconds that the job took
for it (timing_s/testing). Every request decodes as many tokens as it did there. The texts are encoded again, so that prompts
lack their special tokens.

    beside     a session's turns one after another, its replays as soon as what they hear exists: as the agent loops do
    after      all sessions, and then all replays
    without    the sessions alone
    plain      LLM.generate on the first turns and the replays that hear nothing, then on the second turns, ...

With --prompts 1 4 16, the same of the first prompt, the first 4 and the first 16: what replays cost depends on how many requests there are already.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

from evidence import ROOT, Evidence, table

ENGINE = {
    "dtype": "bfloat16",
    "load_format": "dummy",
    "max_num_seqs": 1024,
    "enable_sleep_mode": True,
    "disable_log_stats": True,
    "gpu_memory_utilization": 0.4,
}


WAYS = ("plain", "beside", "after", "without")
RATIOS = (
    ("replays cost (beside / without)", "beside", "without"),
    ("overlapping gains (after / beside)", "after", "beside"),
    ("loops over plain vLLM (beside / plain)", "beside", "plain"),
    ("job over plain vLLM", "job", "plain"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id; its weights are made up")
    parser.add_argument("--dump", type=Path, required=True, help="a file of trainer.validation_data_dir")
    parser.add_argument("--job", type=float, nargs="+", default=[], help="seconds of such validations in the job")
    parser.add_argument(
        "--replayed",
        type=int,
        help="only these sessions of a prompt are replayed (default: all; rules that share replays: 2)",
    )
    parser.add_argument("--prompts", type=int, nargs="+", help="only the first prompts of the file (default: all)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="what is measured (default: all)")
    parser.add_argument("--engine", type=json.loads, default={}, metavar="JSON", help="arguments of vLLM's engine")
    parser.add_argument("--repeat", type=int, default=4, help="the first is not counted (default %(default)s)")
    parser.add_argument("--result", type=Path, default=ROOT / "outputs" / "bench" / "sessions.json")
    options = parser.parse_args()
    if options.repeat < 2:
        parser.error("--repeat must be at least 2: the first is not counted")
    if options.job and (options.replayed is not None or options.prompts):
        parser.error("--job is the time of all prompts and replays: leave --replayed and --prompts out")
    if not options.dump.is_file():
        parser.error(f"--dump {options.dump} is no file: a job writes STEP.jsonl into its trainer.validation_data_dir")
    evidence = Evidence(vars(options))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    sessions = read(options.dump, options.model, options.replayed)
    prompts = list(dict.fromkeys(session["prompt"] for session in sessions))
    if options.prompts and max(options.prompts) > len(prompts):
        parser.error(f"--prompts {max(options.prompts)}: {options.dump} has {len(prompts)}")
    parts = []
    for number in options.prompts or [len(prompts)]:
        chosen = set(prompts[:number])
        parts.append([session for session in sessions if session["prompt"] in chosen])
    longest = max(len(ids) + tokens for session in sessions for ids, tokens in requests(session)) + 8
    seconds = plain(parts, longest, options) if "plain" in options.ways else [{} for _ in parts]
    loops = [way for way in options.ways if way != "plain"]
    if loops:
        found = asyncio.run(of_loops(parts, loops, longest, options))
        seconds = [one | other for one, other in zip(seconds, found, strict=True)]
    if options.job:
        seconds[0]["job"] = options.job
    import torch

    cases = [case(part, taken) for part, taken in zip(parts, seconds, strict=True)]
    evidence.write(options.result, {"gpu": torch.cuda.get_device_name(), "cases": cases})
    rows = [["sessions", "replays", "way", "mean", "each"]]
    for found in cases:
        for way, values in found["seconds"].items():
            mean, each = f"{sum(values) / len(values):.3f}", " ".join(f"{value:.2f}" for value in values)
            rows.append([found["sessions"], found["replays"], way, mean, each])
    print(table(rows))
    for found in cases:
        print(found["sessions"], "sessions:", ", ".join(f"{name} {value}" for name, value in found["ratios"].items()))
    return 0


def requests(session: dict) -> list[tuple[list[int], int]]:
    return session["turns"] + session["replays"]


def case(sessions: list[dict], seconds: dict[str, list[float]]) -> dict:
    """What is written of these sessions; ``seconds``: way -> one for each repeat."""
    means = {way: sum(values) / len(values) for way, values in seconds.items()}
    return {
        "sessions": len(sessions),
        "requests": sum(len(requests(session)) for session in sessions),
        "replays": sum(len(session["replays"]) for session in sessions),
        "tokens": sum(tokens for session in sessions for _, tokens in requests(session)),
        "replayed tokens": sum(tokens for session in sessions for _, tokens in session["replays"]),
        "seconds": {way: [round(value, 3) for value in values] for way, values in seconds.items()},
        "ratios": {
            name: round(means[way] / means[other], 3) for name, way, other in RATIOS if way in means and other in means
        },
    }


def read(dump: Path, model: str, replayed: int | None = None) -> list[dict]:
    """The sessions of a dump: their prompt's name, turns in their order, and replays, each as (prompt's token ids, tokens to decode).

    Args:
        replayed: of how many sessions of a prompt the replays are kept; None: all.
    """
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(model)
    found: dict[str, dict] = defaultdict(lambda: {"turns": [], "replays": []})
    for line in dump.read_text().splitlines():
        row = json.loads(line)
        request = (words.encode(row["input"]), len(words.encode(row["output"])) + 1)
        session = row["uid"].rsplit("_", 1)[0]
        found[session]["prompt"] = session.rsplit("_", 1)[0]
        if row["replay"] is None:
            found[session]["turns"].append(request)
        elif replayed is None or int(session.rsplit("_", 1)[1]) < replayed:
            found[session]["replays"].append(request)
    return list(found.values())


def plain(parts: list[list[dict]], longest: int, options: argparse.Namespace) -> list[dict[str, list[float]]]:
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    engine = LLM(model=options.model, max_model_len=longest, **ENGINE | options.engine)
    seconds: list[dict[str, list[float]]] = [{"plain": []} for _ in parts]
    for repeat in range(options.repeat):
        for taken, sessions in zip(seconds, parts, strict=True):
            depth = max(len(session["turns"]) for session in sessions)
            waves = [[s["turns"][i] for s in sessions if i < len(s["turns"])] for i in range(depth)]
            waves[0] += [replay for session in sessions for replay in session["replays"]]
            begun = time.monotonic()
            for wave in waves:
                engine.generate(
                    [TokensPrompt(prompt_token_ids=fresh(ids, repeat)) for ids, _ in wave],
                    [SamplingParams(max_tokens=tokens, temperature=1.0, ignore_eos=True) for _, tokens in wave],
                    use_tqdm=False,
                )
            taken["plain"].append(time.monotonic() - begun)
    return [{"plain": taken["plain"][1:]} for taken in seconds]


def fresh(ids: list[int], repeat: int) -> list[int]:
    """The same number of ids, which no cache of prefixes knows from the last repeat."""
    return [(ids[0] + repeat + 1) % 1000, *ids[1:]]


async def of_loops(
    parts: list[list[dict]], ways: list[str], longest: int, options: argparse.Namespace
) -> list[dict[str, list[float]]]:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    given = {"logprobs_mode": "processed_logprobs", "distributed_executor_backend": "mp"} | ENGINE | options.engine
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=options.model, max_model_len=longest, **given))
    asked = {"temperature": 1.0, "ignore_eos": True, "detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY}
    count = number = 0

    async def answer(request: tuple[list[int], int]) -> None:
        nonlocal count
        count += 1
        prompt = TokensPrompt(prompt_token_ids=fresh(request[0], number))
        wanted = SamplingParams(max_tokens=request[1], **asked)
        async for _ in engine.generate(prompt=prompt, sampling_params=wanted, request_id=str(count)):
            pass

    async def turns(session: dict) -> None:
        for request in session["turns"]:
            await answer(request)

    async def beside(sessions: list[dict]) -> None:
        await asyncio.gather(*(turns(s) for s in sessions), *(answer(r) for s in sessions for r in s["replays"]))

    async def without(sessions: list[dict]) -> None:
        await asyncio.gather(*(turns(s) for s in sessions))

    async def after(sessions: list[dict]) -> None:
        await without(sessions)
        await asyncio.gather(*(answer(r) for s in sessions for r in s["replays"]))

    ask = {way.__name__: way for way in (beside, after, without)}
    seconds: list[dict[str, list[float]]] = [{way: [] for way in ways} for _ in parts]
    for _ in range(options.repeat):  # in turns: what warms up or drifts does so for all ways alike
        for taken, sessions in zip(seconds, parts, strict=True):
            for way in ways:
                number += 1
                begun = time.monotonic()
                await ask[way](sessions)
                taken[way].append(time.monotonic() - begun)
    engine.shutdown()
    return [{way: values[1:] for way, values in taken.items()} for taken in seconds]


if __name__ == "__main__":
    sys.exit(main())
