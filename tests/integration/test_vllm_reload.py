"""The real vLLM on the CPU samples from the weights it was given last. Skipped without requirements-cpu-vllm.txt."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
import ccpo.verl_cpu.platform
from safetensors.torch import load_file
from vllm import LLM, SamplingParams
from ccpo.verl_cpu.vllm import reload_model

if __name__ == "__main__":
    folder = sys.argv[1]
    llm = LLM(folder, load_format="dummy", enforce_eager=True, dtype="float32", max_model_len=128, gpu_memory_utilization=0.3)
    chat = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "What is the last digit of (3+4)*5?\\nThought: 3+4=7"}]
    answer = lambda: llm.chat(chat, SamplingParams(temperature=0, max_tokens=8))[0].outputs[0].text
    print("before:", answer())
    runner = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    reload_model(runner, list(load_file(folder + "/model.safetensors").items()))
    print("after:", answer())
"""


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="requirements-cpu-vllm.txt is not installed")
def test_a_tied_output_layer_is_reloaded_too(tmp_path):
    script = tmp_path / "reload.py"
    script.write_text(SCRIPT)
    settings = {
        "PYTHONPATH": str(ROOT),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "ccpo.verl_cpu.platform",
    }
    command = [sys.executable, str(script), str(ROOT / "data_preprocess/last_digit_model")]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=300)
    assert "after: \\boxed{5}" in done.stdout, done.stdout + done.stderr[-2000:]
    assert "before: \\boxed{5}" not in done.stdout, "random weights answered already: the test shows nothing"
