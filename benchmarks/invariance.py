"""Does what is asked beside a request change its answer? The same requests in another order, in two halves, and alone. On a GPU.

    .venv/bin/python benchmarks/invariance.py --model MODEL

The engine is vLLM's, without graphs; each request has a prompt, and a seed where it is sampled. A first round fills the engine's cache of prompts. Then
all is asked to compare with, the same again, backwards, in two halves, and the first few alone; "before" is the first round, which computes its
prompts. Equal are answers of the same tokens; to the last bit those whose log-probabilities are equal, too. VLLM_BATCH_INVARIANT=1 is vLLM's own
way to make them so.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from evidence import ROOT, Evidence, table

ALONE = 3
Answer = tuple[tuple[int, ...], tuple[float, ...]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data" / "gsm8k_taught" / "test.parquet", help="whose questions are asked"
    )
    parser.add_argument("--requests", type=int, default=48, help="(default %(default)s)")
    parser.add_argument("--tokens", type=int, default=96, help="of each answer (default %(default)s)")
    parser.add_argument("--attention", help="vLLM's name of a backend; default: its choice")
    parser.add_argument("--no-prefix-cache", action="store_true")
    parser.add_argument("--memory", type=float, default=0.2, help="of the GPU (default %(default)s)")
    parser.add_argument("--result", type=Path, default=ROOT / "outputs" / "bench" / "invariance.json")
    options = parser.parse_args()
    if options.requests < 2 * ALONE:
        parser.error(f"--requests must be at least {2 * ALONE}")
    if importlib.util.find_spec("vllm") is None:
        sys.exit("error: there is no vLLM here: bash scripts/setup.sh gpu installs it")
    if not options.data.is_file():
        sys.exit(f"error: there is no {options.data}: make it with data_preprocess, or set --data")
    evidence = Evidence(vars(options))
    cases = measure(options)
    evidence.write(options.result, {"invariant": os.environ.get("VLLM_BATCH_INVARIANT", "0"), "cases": cases})
    print(
        table(
            [
                ["answers", "asked", "requests", "equal", "to the last bit", "largest difference of a log-probability"],
                *([*case.values()] for case in cases),
            ]
        )
    )
    return 0


def measure(options: argparse.Namespace) -> list[dict]:
    import pyarrow.parquet as pq
    from vllm import LLM, SamplingParams

    chats = pq.ParquetFile(options.data).read(["prompt"]).column("prompt").to_pylist()[: options.requests]
    if len(chats) < 2 * ALONE:
        sys.exit(f"error: {options.data} has {len(chats)} questions, and {2 * ALONE} are needed")
    engine = LLM(
        options.model,
        dtype="bfloat16",
        gpu_memory_utilization=options.memory,
        max_model_len=1024,
        enforce_eager=True,
        enable_prefix_caching=not options.no_prefix_cache,
        disable_log_stats=True,
        seed=0,
        **({"attention_backend": options.attention} if options.attention else {}),
    )

    def ask(numbers: Sequence[int], sampled: bool) -> dict[int, Answer]:
        wanted = [
            SamplingParams(
                temperature=float(sampled),
                seed=number if sampled else None,
                max_tokens=options.tokens,
                ignore_eos=True,
                logprobs=0,
            )
            for number in numbers
        ]
        said = engine.chat([chats[number] for number in numbers], wanted, use_tqdm=False)
        return {number: _answer(one.outputs[0]) for number, one in zip(numbers, said, strict=True)}

    every = list(range(len(chats)))
    half = len(every) // 2
    cases, cold = [], ask(every, False)
    for sampled in (False, True):
        first = ask(every, sampled)
        asked = {} if sampled else {"before": cold}
        asked |= {
            "again": ask(every, sampled),
            "backwards": ask(every[::-1], sampled),
            "in two halves": ask(every[:half], sampled) | ask(every[half:], sampled),
            "alone": {number: answer for one in every[:ALONE] for number, answer in ask([one], sampled).items()},
        }
        cases += [
            {"answers": "sampled" if sampled else "greedy", **compared(how, first, found)}
            for how, found in asked.items()
        ]
    return cases


def _answer(output) -> Answer:
    given = [step[token].logprob for token, step in zip(output.token_ids, output.logprobs, strict=True)]
    return tuple(output.token_ids), tuple(given)


def compared(how: str, first: dict[int, Answer], found: dict[int, Answer]) -> dict:
    """Of ``found`` those that are as in ``first``. The difference: of answers of the same tokens."""
    equal = [number for number in found if found[number][0] == first[number][0]]
    apart = [abs(a - b) for number in equal for a, b in zip(found[number][1], first[number][1], strict=True)]
    return {
        "asked": how,
        "requests": len(found),
        "equal": len(equal),
        "bits": sum(found[number] == first[number] for number in found),
        "apart": float(f"{max(apart, default=0.0):.2g}"),
    }


if __name__ == "__main__":
    sys.exit(main())
