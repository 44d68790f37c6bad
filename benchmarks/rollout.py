"""What a decode step of the rollout server costs: as verl asks for answers, and as we do (ccpo/verl_gpu/server.py). On a GPU.

    .venv/bin/python benchmarks/rollout.py --model MODEL

The engine is vLLM's, started as verl starts it. Requests of random prompts come all at once and decode the same number of tokens, so that
the time divided by it is that of a step. What is asked for differs: verl wants every token as it comes, its text and its
log-probability; an answer that comes once, when it is done; without its text; without log-probabilities, as all sessions of a
prompt but the first are asked; with a seed for each request.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from pathlib import Path

from evidence import ROOT, Evidence, table

GRAPHS_ONLY = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id; its weights are made up")
    parser.add_argument("--requests", type=int, nargs="+", default=[128, 256], help="at once (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=200, help="decoded by each (default %(default)s)")
    parser.add_argument("--prompt", type=int, nargs=2, default=(100, 250), metavar=("LEAST", "MOST"), help="tokens")
    parser.add_argument("--executor", choices=("mp", "uni"), default="mp", help="verl's is mp, a process for the model")
    parser.add_argument("--no-compile", action="store_true", help="whole graphs of decode steps, and no torch.compile")
    parser.add_argument("--repeat", type=int, default=2, help="the first is not counted (default %(default)s)")
    parser.add_argument("--result", type=Path, default=ROOT / "outputs" / "bench" / "rollout.json")
    options = parser.parse_args()
    if options.repeat < 2:
        parser.error("--repeat must be at least 2: the first is not counted")
    evidence = Evidence(vars(options))
    started, cases = asyncio.run(measure(options))
    import torch

    evidence.write(options.result, {"gpu": torch.cuda.get_device_name(), "engine_start_s": started, "cases": cases})
    print(
        table(
            [
                ["requests", "asked for", "seconds", "ms a step"],
                *([c["requests"], c["what"], c["seconds"], c["ms"]] for c in cases),
            ]
        )
    )
    print(f"engine ready after {started:.1f} s")
    return 0


async def measure(options: argparse.Namespace) -> tuple[float, list[dict]]:
    """(seconds of the engine's start, cases)."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    begun = time.monotonic()
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=options.model,
            dtype="bfloat16",
            load_format="dummy",
            max_model_len=options.prompt[1] + options.tokens + 8,
            max_num_seqs=1024,
            enable_sleep_mode=True,
            logprobs_mode="processed_logprobs",
            gpu_memory_utilization=0.4,
            disable_log_stats=True,
            distributed_executor_backend=options.executor,
            compilation_config=GRAPHS_ONLY if options.no_compile else {"cudagraph_mode": "FULL_AND_PIECEWISE"},
        )
    )
    started = time.monotonic() - begun
    once = {"output_kind": RequestOutputKind.FINAL_ONLY}
    asked = {
        "as verl: every token, its text, its log-probability": {"logprobs": 0},
        "one answer, its text, log-probabilities": {"logprobs": 0, **once},
        "one answer, log-probabilities": {"logprobs": 0, "detokenize": False, **once},
        "one answer": {"detokenize": False, **once},
        "one answer, a seed each": {"detokenize": False, **once, "seed": 0},
    }
    draw, cases = random.Random(0), []
    for number in options.requests:
        for what, given in asked.items():
            for repeat in range(options.repeat):
                prompts = [[draw.randrange(1000) for _ in range(draw.randint(*options.prompt))] for _ in range(number)]
                begun = time.monotonic()
                await asyncio.gather(
                    *(
                        _answer(engine, ids, f"{number}-{what}-{repeat}-{i}", options.tokens, given, i)
                        for i, ids in enumerate(prompts)
                    )
                )
                seconds = time.monotonic() - begun
            cases.append(
                {
                    "requests": number,
                    "what": what,
                    "seconds": round(seconds, 3),
                    "ms": round(1e3 * seconds / options.tokens, 2),
                }
            )
            print(cases[-1], flush=True)
    engine.shutdown()
    return started, cases


async def _answer(engine, ids: list[int], name: str, tokens: int, given: dict, number: int) -> None:
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    given = {**given, **({"seed": number} if "seed" in given else {})}
    wanted = SamplingParams(max_tokens=tokens, temperature=1.0, ignore_eos=True, **given)
    prompt = TokensPrompt(prompt_token_ids=ids)
    answers = [answer async for answer in engine.generate(prompt=prompt, sampling_params=wanted, request_id=name)]
    assert len(answers[-1].outputs[0].token_ids) == tokens


if __name__ == "__main__":
    sys.exit(main())
