"""What a team's sessions cost the rollout server: replays beside them, after them, or not at all; and plain vLLM on the same requests. On a GPU.

    .venv/bin/python benchmarks/sessions.py --model MODEL --dump FOLDER/2.jsonl --job SECONDS

The requests are those of a validation: run a job with trainer.validation_data_dir=FOLDER, and give a file of it, and the seconds that the job took
for it (timing_s/testing). Every request decodes as many tokens as it did there. The texts are encoded again, so that prompts
lack their special tokens.

    beside     a session's turns one after another, its replays as soon as what they hear exists: as the agent loops do
    after      all sessions, and then all replays
    without    the sessions alone
    plain      LLM.generate on the first turns and the replays that hear nothing, then on the second turns, ...
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
    parser.add_argument("--repeat", type=int, default=4, help="the first is not counted (default %(default)s)")
    parser.add_argument("--result", type=Path, default=ROOT / "outputs" / "bench" / "sessions.json")
    options = parser.parse_args()
    if options.repeat < 2:
        parser.error("--repeat must be at least 2: the first is not counted")
    if options.job and options.replayed is not None:
        parser.error("--job is the time of all replays: leave --replayed out")
    if not options.dump.is_file():
        parser.error(f"--dump {options.dump} is no file: a job writes STEP.jsonl into its trainer.validation_data_dir")
    evidence = Evidence(vars(options))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    sessions = read(options.dump, options.model, options.replayed)
    requests = [request for session in sessions for request in session["turns"] + session["replays"]]
    longest = max(len(prompt) + tokens for prompt, tokens in requests) + 8
    seconds = {"plain": plain(sessions, longest, options)}
    seconds |= asyncio.run(ways(sessions, longest, options))
    if options.job:
        seconds["job"] = options.job
    means = {way: sum(values) / len(values) for way, values in seconds.items()}
    import torch

    evidence.write(
        options.result,
        {
            "gpu": torch.cuda.get_device_name(),
            "sessions": len(sessions),
            "requests": len(requests),
            "replays": sum(len(session["replays"]) for session in sessions),
            "tokens": sum(tokens for _, tokens in requests),
            "seconds": {way: [round(value, 3) for value in values] for way, values in seconds.items()},
            "ratios": {
                "replays cost (beside / without)": round(means["beside"] / means["without"], 3),
                "overlapping gains (after / beside)": round(means["after"] / means["beside"], 3),
                "loops over plain vLLM (beside / plain)": round(means["beside"] / means["plain"], 3),
                **({"job over plain vLLM": round(means["job"] / means["plain"], 3)} if options.job else {}),
            },
        },
    )
    rows = [["way", "seconds", "each"]]
    rows += [[way, f"{means[way]:.3f}", " ".join(f"{value:.2f}" for value in seconds[way])] for way in seconds]
    print(table(rows))
    return 0


def read(dump: Path, model: str, replayed: int | None = None) -> list[dict]:
    """The sessions of a dump: turns in their order, and replays, each as (prompt's token ids, tokens to decode).

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
        if row["replay"] is None:
            found[session]["turns"].append(request)
        elif replayed is None or int(session.rsplit("_", 1)[1]) < replayed:
            found[session]["replays"].append(request)
    return list(found.values())


def plain(sessions: list[dict], longest: int, options: argparse.Namespace) -> list[float]:
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    engine = LLM(model=options.model, max_model_len=longest, **ENGINE)
    depth = max(len(session["turns"]) for session in sessions)
    waves = [[session["turns"][i] for session in sessions if i < len(session["turns"])] for i in range(depth)]
    waves[0] += [replay for session in sessions for replay in session["replays"]]
    seconds = []
    for repeat in range(options.repeat):
        begun = time.monotonic()
        for wave in waves:
            engine.generate(
                [TokensPrompt(prompt_token_ids=fresh(ids, repeat)) for ids, _ in wave],
                [SamplingParams(max_tokens=tokens, temperature=1.0, ignore_eos=True) for _, tokens in wave],
                use_tqdm=False,
            )
        seconds.append(time.monotonic() - begun)
    return seconds[1:]


def fresh(ids: list[int], repeat: int) -> list[int]:
    """The same number of ids, which no cache of prefixes knows from the last repeat."""
    return [(ids[0] + repeat + 1) % 1000, *ids[1:]]


async def ways(sessions: list[dict], longest: int, options: argparse.Namespace) -> dict[str, list[float]]:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=options.model,
            max_model_len=longest,
            logprobs_mode="processed_logprobs",
            distributed_executor_backend="mp",
            **ENGINE,
        )
    )
    asked = {"temperature": 1.0, "ignore_eos": True, "detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY}
    count = 0

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

    async def beside() -> None:
        await asyncio.gather(*(turns(s) for s in sessions), *(answer(r) for s in sessions for r in s["replays"]))

    async def without() -> None:
        await asyncio.gather(*(turns(s) for s in sessions))

    async def after() -> None:
        await without()
        await asyncio.gather(*(answer(r) for s in sessions for r in s["replays"]))

    seconds: dict[str, list[float]] = {"beside": [], "after": [], "without": []}
    number = 100
    for _ in range(options.repeat):  # in turns: what warms up or drifts does so for all ways alike
        for way in (beside, after, without):
            number += 1
            begun = time.monotonic()
            await way()
            seconds[way.__name__].append(time.monotonic() - begun)
    engine.shutdown()
    return {way: values[1:] for way, values in seconds.items()}


if __name__ == "__main__":
    sys.exit(main())
