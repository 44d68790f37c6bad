"""A training step of ours and of verl's own GRPO, as pip installs it: the same model, questions, sampling and batch. On GPUs.

    .venv/bin/python benchmarks/stock.py --model MODEL --data data/gsm8k

Both train a team of one (benchmarks/solo.py), which has nothing to replay, so that what is generated is what is trained. The arms:

    stock             verl's defaults, and what it cannot start without: sdpa, since there is no flash-attn, rows padded, 8 of them a micro-batch
    stock, tuned      the best that its settings give without flash-attn: packed rows, fused log-probabilities, dynamic batches, no gradient
                      checkpointing, more requests and agent loop workers
    stock, no pass    tuned, and the clipped ratio is taken to the rollout's probabilities, which saves the pass but changes the method
    ours              profile=gpu as it is
    ours as stock     our trainer with the settings of stock

Answers end where the model ends them, so that tokens differ a little between arms: the ratio is that of seconds for a trained token.
Every arm is a job of its own on one GPU; several GPUs run several arms beside each other, each with its part of the processors.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import threading
from pathlib import Path

from evidence import ROOT, Evidence, job_environment, table
from solo import SYSTEM

PARTS = ("step", "gen", "old_log_prob", "adv", "update_actor", "update_weights")
WORKER = "actor_rollout_ref"
PADDED = [
    f"{WORKER}.model.use_remove_padding=False",
    f"{WORKER}.model.use_fused_kernels=False",
    f"{WORKER}.model.enable_gradient_checkpointing=True",
    f"{WORKER}.model.override_config.attn_implementation=sdpa",
    f"{WORKER}.actor.use_dynamic_bsz=False",
    f"{WORKER}.actor.ppo_micro_batch_size_per_gpu=8",
    f"{WORKER}.rollout.log_prob_micro_batch_size_per_gpu=8",
    f"{WORKER}.rollout.gpu_memory_utilization=0.5",
    f"{WORKER}.rollout.max_num_seqs=256",
]
TUNED = [
    f"{WORKER}.model.use_remove_padding=True",
    f"{WORKER}.model.use_fused_kernels=True",
    f"{WORKER}.model.enable_gradient_checkpointing=False",
    f"+{WORKER}.model.override_config.attn_implementation=sdpa",
    f"{WORKER}.actor.strategy=fsdp2",
    f"{WORKER}.actor.use_dynamic_bsz=True",
    f"{WORKER}.actor.ppo_max_token_len_per_gpu=16384",
    f"{WORKER}.rollout.gpu_memory_utilization=0.6",
    f"{WORKER}.rollout.max_num_seqs=1024",
    f"{WORKER}.rollout.agent.num_workers=16",
]
NO_PASS = ["algorithm.rollout_correction.bypass_mode=True", f"{WORKER}.rollout.calculate_log_probs=True"]
ARMS = {
    "stock": ["stock", *(word.replace(f"{WORKER}.model.override", f"+{WORKER}.model.override") for word in PADDED)],
    "stock, tuned": ["stock", *TUNED],
    "stock, no pass": ["stock", *TUNED, *NO_PASS],
    "ours": ["ours"],
    "ours as stock": ["ours", *PADDED, f"{WORKER}.actor.strategy=fsdp"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--data", type=Path, required=True, help="folder that python -m data_preprocess.gsm8k has made")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--gpus", nargs="+", default=["0"], help="an arm at a time on each (default %(default)s)")
    parser.add_argument("--prompts", type=int, default=16, help="a step (default %(default)s)")
    parser.add_argument("--sessions", type=int, default=16, help="of a prompt (default %(default)s)")
    parser.add_argument("--response", type=int, default=320, help="tokens of an answer at most (default %(default)s)")
    parser.add_argument("--steps", type=int, default=7, help="the first two are not counted (default %(default)s)")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for one arm (default %(default)s)")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "bench" / "stock")
    parser.add_argument("--result", type=Path, default=ROOT / "outputs" / "bench" / "stock.json")
    options = parser.parse_args()
    if options.steps < 4:
        parser.error("--steps must be at least 4: the first two are not counted")
    if not (options.data / "train.parquet").is_file():
        parser.error(
            f"{options.data} has no train.parquet: make it with python -m data_preprocess.gsm8k --out {options.data}"
        )
    evidence = Evidence(vars(options))
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    stock_data(options.data, options.work / "stock.parquet")

    waiting: queue.Queue[str] = queue.Queue()
    for arm in options.arms:
        waiting.put(arm)
    done: queue.Queue[tuple[str, dict]] = queue.Queue()
    for i, gpu in enumerate(options.gpus):
        threading.Thread(target=run_arms, args=(waiting, done, i, gpu, options), daemon=True).start()
    found: dict[str, dict] = {}
    for _ in options.arms:  # written after each: the slowest may take longer than somebody waits
        arm, figure = done.get()
        found[arm] = figure
        figures = {arm: found[arm] for arm in options.arms if arm in found}
        evidence.write(options.result, {"arms": figures})
        print(table(rows_of(figures)), flush=True)
    return 0 if all("seconds" in figure for figure in found.values()) else 1


def stock_data(folder: Path, to: Path) -> None:
    """The questions as verl's own trainer wants them: with the prompt that our team's only role is given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(folder / "train.parquet").read().to_pylist()
    system = {"role": "system", "content": SYSTEM.format()}
    keep = [
        {
            "data_source": "openai/gsm8k",
            "prompt": [system, *row["prompt"]],
            "ability": row["ability"],
            "reward_model": row["reward_model"],
            "extra_info": {"index": row["extra_info"]["index"]},
        }
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(keep), to)


def command(arm: str, options: argparse.Namespace) -> list[str]:
    kind, *settings = ARMS[arm]
    shared = [
        f"data.train_batch_size={options.prompts}",
        "data.max_prompt_length=512",
        f"data.max_response_length={options.response}",
        f"{WORKER}.model.path={options.model}",
        f"{WORKER}.actor.ppo_mini_batch_size={options.prompts}",
        f"{WORKER}.actor.optim.lr=1e-6",
        f"{WORKER}.rollout.n={options.sessions}",
        "trainer.logger=[console,file]",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        f"trainer.total_training_steps={options.steps}",
        "trainer.n_gpus_per_node=1",
    ]
    if kind == "ours":
        team = f"ccpo.team={ROOT / 'benchmarks' / 'solo.py'}:Solo"
        own = ["profile=gpu", "task=gsm8k", team, "ccpo.credit.rule=shared"]
        files = [
            f"data.train_files={options.data / 'train.parquet'}",
            f"data.val_files={options.data / 'test.parquet'}",
        ]
        head = [sys.executable, str(ROOT / "recipe" / "main_ccpo.py"), "--config-name", "ccpo"]
    else:
        own = [
            "algorithm.adv_estimator=grpo",
            f"{WORKER}.rollout.name=vllm",
            f"{WORKER}.rollout.tensor_model_parallel_size=1",
            "trainer.resume_mode=disable",
        ]
        data = options.work / "stock.parquet"
        files = [f"data.train_files={data}", f"data.val_files={data}"]
        head = [sys.executable, "-m", "verl.trainer.main_ppo"]
    folder = f"trainer.default_local_dir={options.work / name_of(arm)}"
    return [*head, *own, *files, *shared, folder, *settings]


def name_of(arm: str) -> str:
    return arm.replace(",", "").replace(" ", "_")


def run_arms(waiting: queue.Queue, done: queue.Queue, lane: int, gpu: str, options: argparse.Namespace) -> None:
    """Run arms that wait on one GPU, with a part of the processors, until none waits."""
    cores = sorted(os.sched_getaffinity(0))
    part = len(cores) // len(options.gpus)
    own = ",".join(map(str, cores[lane * part : (lane + 1) * part]))
    while True:
        try:
            arm = waiting.get_nowait()
        except queue.Empty:
            return
        log = options.work / f"{name_of(arm)}.jsonl"
        log.unlink(missing_ok=True)
        environment = job_environment(CUDA_VISIBLE_DEVICES=gpu, VERL_FILE_LOGGER_PATH=str(log))
        words = ["taskset", "-c", own, "timeout", "--kill-after=30", str(options.timeout), *command(arm, options)]
        with log.with_suffix(".txt").open("w") as text:
            code = subprocess.run(words, stdout=text, stderr=subprocess.STDOUT, env=environment, cwd=ROOT).returncode
        done.put((arm, figures_of(log) if code == 0 else {"exit_status": code, "log": str(log.with_suffix(".txt"))}))


def figures_of(log: Path) -> dict:
    """Means over the counted steps."""
    steps = [json.loads(text)["data"] for text in log.read_text().splitlines()][2:]
    seconds = {part: [step.get(f"timing_s/{part}", 0.0) for step in steps] for part in PARTS}
    tokens = [step["perf/total_num_tokens"] for step in steps]
    per_token = [s / t for s, t in zip(seconds["step"], tokens, strict=True)]
    return {
        "steps": len(steps),
        "tokens": round(statistics.mean(tokens)),
        "response_tokens": round(statistics.mean(step["response_length/mean"] for step in steps), 1),
        "seconds": {part: round(statistics.mean(values), 3) for part, values in seconds.items()},
        "sd": {part: round(statistics.stdev(values), 3) for part, values in seconds.items()},
        "s_per_100k_tokens": round(1e5 * statistics.mean(per_token), 3),
        "s_per_100k_tokens_sd": round(1e5 * statistics.stdev(per_token), 3),
    }


def rows_of(figures: dict[str, dict]) -> list[list[object]]:
    ours = figures.get("ours", {}).get("s_per_100k_tokens")
    rows: list[list[object]] = [["arm", *PARTS, "tokens", "s / 100,000 tokens", "times ours"]]
    for arm, figure in figures.items():
        if "seconds" not in figure:
            rows.append([arm, f"exit status {figure['exit_status']}", *[None] * (len(PARTS) + 2)])
            continue
        per = figure["s_per_100k_tokens"]
        times = f"{per / ours:.2f}" if ours else None
        parts = [f"{figure['seconds'][part]:.2f}" for part in PARTS]
        rows.append([arm, *parts, figure["tokens"], f"{per:.2f} +- {figure['s_per_100k_tokens_sd']:.2f}", times])
    return rows


if __name__ == "__main__":
    sys.exit(main())
