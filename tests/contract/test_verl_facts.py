"""What ccpo takes for granted about verl 0.9.1, one fact a test: a new pin of verl fails here first.

Behaviour is run where it is cheap; what only happens inside a job is looked up in verl's source. (Its facts about CPUs:
test_cpu_platform.py.)
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import random
import re
import time
from pathlib import Path

import pytest

pytest.importorskip("verl")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transfer_queue as tq  # noqa: E402
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput  # noqa: E402
from verl.protocol import DataProto  # noqa: E402
from verl.trainer import main_ppo  # noqa: E402
from verl.trainer.ppo import core_algos, padding_utils  # noqa: E402
from verl.trainer.ppo import utils as ppo_utils  # noqa: E402
from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls, register_trainer, trainer_base, trainer_sync  # noqa: E402
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ  # noqa: E402
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer  # noqa: E402
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories  # noqa: E402
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path  # noqa: E402
from verl.utils.tensordict_utils import list_of_dict_to_tensordict  # noqa: E402
from verl.workers.rollout import router  # noqa: E402
from verl.workers.rollout.llm_server import LLMServerClient, LLMServerManager  # noqa: E402

Trainer = trainer_base.PPOTrainer
Worker = AgentLoopWorkerTQ.__ray_metadata__.modified_class


def source(thing) -> str:
    return inspect.getsource(thing)


def in_order(text: str, *parts: str) -> bool:
    """Whether the parts occur one after the other."""
    return re.search(".*?".join(map(re.escape, parts)), text, re.DOTALL) is not None


def test_the_pin():
    assert importlib.metadata.version("verl") == "0.9.1"


# --------------------------------------------------------------------------------------------------------------- start


def test_the_task_runner_can_be_subclassed_and_handed_over():
    runner = main_ppo.TaskRunnerV1.__ray_metadata__.modified_class
    assert list(inspect.signature(runner.run).parameters)[:2] == ["self", "config"]
    assert list(inspect.signature(main_ppo.run_ppo).parameters) == ["config", "task_runner_class"]
    assert in_order(source(main_ppo.run_ppo), "ray.init(", "task_runner_class.remote()", "runner.run.remote(config)")


def test_the_trainer_is_looked_up_in_the_task_runner_before_anything_else():
    text = source(main_ppo.TaskRunnerV1.__ray_metadata__.modified_class.run)
    assert in_order(text, "get_trainer_cls(config.trainer.v1.trainer_mode)", "tq.init(", "trainer_cls(config=config)")


def test_trainers_are_registered_by_name(monkeypatch):
    monkeypatch.setattr(trainer_base, "TRAINER_REGISTRY", {})
    cls = register_trainer("mine")(type("Mine", (PPOTrainerSync,), {}))
    assert get_trainer_cls("mine") is cls


def test_trainer_mode_is_a_switch_on_the_word_sync():
    text = source(trainer_base)
    assert len(re.findall(r'trainer_mode [!=]= "sync"', text)) == 6
    assert "self.trainer_mode = self.config.trainer.v1.trainer_mode" in source(Trainer.__init__)


def test_v1_is_the_default(compose):
    assert compose().trainer.use_v1 is True


def test_hydra_finds_verls_configuration_in_its_package(compose):
    hydra = pytest.importorskip("hydra")
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        own = hydra.compose("ppo_trainer")
    assert set(own) < set(compose()) and "ccpo" not in own


# --------------------------------------------------------------------------------------------------------------- step


def test_the_replay_buffer_sleeps_poll_interval_between_looks():
    assert inspect.signature(ReplayBuffer.__init__).parameters["poll_interval"].default == 2.0
    assert "time.sleep(self.poll_interval)" in source(ReplayBuffer)
    assert "poll_interval" not in source(Trainer._build_replay_buffer), "no configuration key sets it"


def test_nobody_reads_the_columns_that_our_rows_leave_out():
    """`early.OF_THE_DATASET`, `early.NOBODY_READS`. verl's validation, which is not ours, reads more, and so does its reward model, which is
    refused (tests/integration/test_mistakes.py)."""
    from ccpo.verl_plugin import early
    from ccpo.verl_plugin.trainer import CcpoTrainer

    methods = {name: method for name, method in vars(Trainer).items() if inspect.isfunction(method)}
    unused = {"_validate", "_compute_reward_colocate"}
    assert "_validate" in vars(CcpoTrainer) and unused <= methods.keys()
    texts = [source(method) for name, method in methods.items() if name not in unused] + [source(ReplayBuffer)]
    lists = r"(?:fields = \[|select_fields=\[|fields\.append\(|fields\.extend\()(.*?)[\])]"
    found = [part for text in texts for part in re.findall(lists, text, re.DOTALL)]
    read = {name for part in found for name in re.findall(r'"(\w+)"', part)}
    known = {"uid", "rm_scores", "response_mask", "reward_model", "num_turns", "extra_fields"}
    assert known | {"rollout_log_probs", "token_level_rewards", "rollout_is_weights"} <= read, "lists were found"
    assert set(early.OF_THE_DATASET) <= read
    assert not read & {"data_source", "extra_info", "raw_prompt", "agent_name", "session_id", *early.NOBODY_READS}


def test_a_request_takes_a_server_and_gives_it_back_by_two_methods():
    """`servers.DirectClient` overrides both; `servers.nobody` stands in for the class of a router."""
    steps = (
        "await self._acquire_server(",
        "try:",
        "await server.generate.remote(",
        "finally:",
        "self._release_server(",
    )
    assert in_order(source(LLMServerClient.generate), *steps)
    assert "isinstance(cls, ray.actor.ActorClass)" in source(router._create_plugin_extension)
    assert "self.global_load_balancer = get_router_handle(" in source(LLMServerManager._init_global_load_balancer)
    assert "ray.get" not in source(LLMServerManager), "nobody waits for the router"


def test_a_step_calls_the_methods_we_override_in_this_order():
    text = source(Trainer._step_once)
    calls = ("_balance_batch", "_compute_old_log_prob", "_compute_ref_log_prob", "_compute_advantage", "_update_actor")
    assert in_order(text, "replay_buffer.sample(", *(f"batch = self.{name}(batch, metrics=metrics)" for name in calls))


def test_our_overrides_have_verls_signatures():
    from ccpo.verl_plugin.trainer import CcpoTrainer

    for name in ("_compute_advantage", "_compute_metrics", "_validate", "_save_checkpoint", "_load_checkpoint"):
        ours, verls = (list(inspect.signature(getattr(cls, name)).parameters) for cls in (CcpoTrainer, PPOTrainerSync))
        assert ours == verls, name
    assert list(inspect.signature(Trainer._balance_batch).parameters)[:3] == ["self", "batch", "metrics"]


def test_metrics_of_a_step_end_in_compute_metrics():
    text = source(Trainer.fit)
    assert in_order(
        text,
        "self.step(",
        "self._save_checkpoint()",
        "self._validate()",
        "metrics.update(val_metrics)",
        "self._compute_metrics(",
    )
    assert "global_steps=self.global_steps, epoch=current_epoch" in text


def test_a_mini_batch_is_a_number_of_rows():
    assert re.search(
        r"ppo_mini_batch_size \* self\.config\.actor_rollout_ref\.rollout\.n", source(Trainer._update_actor)
    )
    assert re.search(
        r"actor_global_mini_batch_size \*= self\.config\.actor_rollout_ref\.rollout\.n",
        source(Trainer._get_required_batch_multiple),
    )
    assert "_get_required_batch_multiple(dp_size)" in source(Trainer._balance_batch)


def test_a_loss_is_divided_by_two_numbers_that_come_with_the_rows():
    """Which worker.loss sets where rows that would add nothing are not there."""
    from verl.trainer.ppo.core_algos import agg_loss
    from verl.workers.utils.losses import ppo_loss

    told = [name for name in re.findall(r'data\["(\w+)"\]', source(ppo_loss)) if "batch" in name]
    assert set(told) == {"batch_num_tokens", "global_batch_size"}
    loss, mask = torch.tensor([[2.0, 4.0], [6.0, 0.0]]), torch.tensor([[1, 1], [1, 0]])
    silent = torch.cat([loss, torch.zeros(1, 2)]), torch.cat([mask, torch.tensor([[1, 1]])])
    for mode in ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean"):
        whole = {"loss_agg_mode": mode, "dp_size": 1, "batch_num_tokens": 5, "global_batch_size": 3}
        assert agg_loss(loss, mask, **whole) == agg_loss(*silent, **whole), mode


def test_padding_copies_row_0_and_is_tagged_masked_and_128_tokens_long(monkeypatch):
    row = {
        "uid": "u", "ccpo": {"role": "think"}, "responses": torch.tensor([5, 6]), "response_mask": torch.tensor([1, 1]),
        "rm_scores": torch.ones(2), "position_ids": torch.arange(4),
    }  # fmt: skip
    monkeypatch.setattr(
        padding_utils.tq, "kv_batch_get", lambda keys, partition_id: [row] if keys == ["u_0_0"] else None
    )
    put = {}
    monkeypatch.setattr(padding_utils.tq, "kv_batch_put", lambda **arguments: put.update(arguments))
    tags = [{"seq_len": 4, "status": "success"}, {"seq_len": 9}, {"seq_len": 7}]
    batch = tq.KVBatchMeta(keys=["u_0_0", "u_0_1", "u_1_0"], tags=tags, partition_id="train")
    padding_utils.upsample_batch_to_divisible_size(batch, 4, eos_token_id=2)
    assert put["keys"][0].startswith("pad") and len(put["keys"]) == 1
    (tag,) = put["tags"]
    assert tag["is_padding"] is True and tag["seq_len"] == 128 and tag["prompt_len"] == 127
    fields = put["fields"][0]
    assert fields["response_mask"].tolist() == [0] and fields["rm_scores"].tolist() == [0.0]
    assert len(fields["input_ids"]) == 128
    assert fields["ccpo"] == {"role": "think"}, "our facts are copied too: padding is known by its tag alone"


# ---------------------------------------------------------------------------------------------------- rows of a session


def output(reward, **extra) -> AgentLoopOutput:
    fields = {"min_global_steps": 1, "max_global_steps": 2, "reward_extra_info": {"acc": reward}, **extra}
    return AgentLoopOutput(
        prompt_ids=[1, 2],
        response_ids=[3],
        response_mask=[1],
        reward_score=reward,
        metrics=AgentLoopMetrics(),
        extra_fields=fields,
    )


def put_by_worker(outputs, monkeypatch) -> dict:
    """What verl's worker stores for one session."""
    put = {}

    async def async_kv_batch_put(**arguments):
        put.update(arguments)

    monkeypatch.setattr(tq, "async_kv_batch_put", async_kv_batch_put)
    worker = Worker.__new__(Worker)
    worker.processor, worker.distillation_enabled, worker.reward_loop_worker_handles = None, False, None
    asyncio.run(worker._agent_loop_postprocess(outputs, False, uid="u-1", session_id=3, global_steps=7))
    return put


def test_rows_are_keyed_uid_session_index(monkeypatch):
    put = put_by_worker([output(0.0), output(1.0)], monkeypatch)
    assert put["keys"] == ["u-1_3_0", "u-1_3_1"] and put["partition_id"] == "train"
    assert [(tag["min_global_steps"], tag["max_global_steps"]) for tag in put["tags"]] == [(1, 2)] * 2


def test_the_last_reward_replaces_its_siblings_before_as_dict(monkeypatch):
    put = put_by_worker([output(0.0), output(1.0)], monkeypatch)
    assert put["fields"]["rm_scores"].flatten().tolist() == [1.0, 1.0]


def test_a_reward_without_extra_info_is_an_error(monkeypatch):
    last = output(1.0)
    del last.extra_fields["reward_extra_info"]
    with pytest.raises(KeyError, match="reward_extra_info"):
        put_by_worker([output(0.0), last], monkeypatch)


def test_an_empty_session_is_skipped(monkeypatch):
    assert put_by_worker([], monkeypatch) == {}


def test_a_session_that_raises_fails_its_whole_group():
    assert in_order(
        source(Worker._run_prompt), "if session_errors:", 'status = "failure"', "else:", 'status = "finished"'
    )


def test_the_first_row_decides_on_the_columns():
    assert set(list_of_dict_to_tensordict([{"a": 1}, {"a": 2, "b": 3}]).keys()) == {"a"}
    with pytest.raises(KeyError):
        list_of_dict_to_tensordict([{"a": 1, "b": 2}, {"a": 3}])


def test_run_gets_the_dataset_row_but_not_whether_it_validates():
    text = source(Worker._run_agent_loop)
    assert "agent_loop.run(sampling_params, **kwargs)" in text
    assert 'self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)' in text
    assert "session_id=i, **prompt" in source(Worker._run_prompt)


def test_an_agent_loop_has_what_ours_uses():
    text = source(AgentLoopBase.__init__)
    for name in ("config", "rollout_config", "server_manager", "tokenizer", "continuous_token_builder", "loop"):
        assert f"self.{name} = " in text, name
    assert inspect.iscoroutinefunction(AgentLoopBase.ct_build_initial_tokens)


def test_validation_keeps_the_last_row_of_a_session_only():
    text = source(Trainer._validate)
    assert in_order(text, 'key.rsplit("_", 2)', "index > session_max[session_key][0]", "final_keys")


def test_validation_is_submitted_as_we_do_it():
    text = source(Trainer._validate)
    calls = (
        'batch_dict["uid"] = ',
        "tu.get_tensordict(batch_dict)",
        '"validate", True',
        '"is_prompt": True, "status": "pending"',
    )
    assert in_order(
        text,
        *calls,
        'partition_id="val"',
        "agent_loop_manager.generate_sequences(batch)",
        "replay_buffer.sample(",
        "tq.kv_clear(",
    )


# ----------------------------------------------------------------------------------------------------------- advantages


def test_an_estimator_gets_rewards_mask_config_and_uids_only(monkeypatch):
    calls = []

    def estimator(**arguments):
        calls.append(arguments)
        return arguments["response_mask"], arguments["response_mask"]

    monkeypatch.setitem(core_algos.ADV_ESTIMATOR_REGISTRY, "probe", estimator)
    ones = torch.ones(2, 3)
    data = DataProto.from_dict(
        tensors={"token_level_rewards": ones, "response_mask": ones, "old_log_probs": ones},
        non_tensors={"uid": np.array(["u", "v"], dtype=object), "role": np.array(["think", "solo"], dtype=object)},
    )
    compute_advantage_for_multi_trajectories(
        data, batch_keys=["u_0_0", "v_0_0"], adv_estimator="probe", config={"a": 1}
    )
    assert set(calls[0]) == {"token_level_rewards", "response_mask", "config", "index"}
    assert calls[0]["index"].tolist() == ["u", "v"] and calls[0]["config"] == {"a": 1}


def test_the_estimator_sees_the_batch_in_the_order_of_its_keys():
    text = source(Trainer._compute_advantage)
    assert in_order(
        text, "tq.kv_batch_get(keys=batch.keys", "compute_advantage_for_multi_trajectories(", "batch_keys=batch.keys"
    )


# ---------------------------------------------------------------------------------------------------------- checkpoints


def test_saving_ends_with_the_tracker():
    text = source(Trainer._save_checkpoint)
    assert in_order(
        text,
        "save_checkpoint(",
        "self.train_dataloader.state_dict()",
        "latest_checkpointed_iteration.txt",
        'open(local_latest_checkpointed_iteration, "w")',
    )
    assert "max_ckpt_to_keep=max_actor_ckpt_to_keep" in text, "None: verl itself prunes nothing"


def test_auto_resume_follows_the_tracker(tmp_path):
    for step in (5, 10):
        (tmp_path / f"global_step_{step}").mkdir()
    assert find_latest_ckpt_path(str(tmp_path)) is None
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("5")
    assert find_latest_ckpt_path(str(tmp_path)) == str(tmp_path / "global_step_5")


def test_loading_sets_the_step_from_the_folder():
    text = source(Trainer._load_checkpoint)
    assert in_order(text, "self.global_steps = 0", 'split("global_step_")', "self.train_dataloader.load_state_dict(")
    assert in_order(source(Trainer._setup), "self._load_checkpoint()")
    assert "update_weights(self.global_steps)" in source(trainer_sync.PPOTrainerSync.on_init_end)


def test_the_order_of_prompts_survives_a_resume():
    from omegaconf import OmegaConf
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader():
        sampler = ppo_utils.create_rl_sampler(OmegaConf.create({"shuffle": True, "seed": 3}), range(10))
        return StatefulDataLoader(list(range(10)), batch_size=2, sampler=sampler, num_workers=0)

    whole = [batch.tolist() for batch in loader()]
    first = loader()
    batches = iter(first)
    seen = [next(batches).tolist() for _ in range(2)]
    state = first.state_dict()
    again = loader()
    again.load_state_dict(state)
    assert seen + [batch.tolist() for batch in again] == whole != [[i, i + 1] for i in range(0, 10, 2)]


# ------------------------------------------------------------------------------------------------- several policies


def test_further_actors_can_join_between_the_pools_and_the_worker_class():
    text = source(Trainer._setup)
    assert in_order(
        text,
        "self._init_dataloader()",
        "self._init_resource_pool_mgr()",
        "self.resource_pool_to_cls = {pool: {}",
        "self.resource_pool_to_cls[actor_rollout_resource_pool][str(actor_role)]",
        "in self.resource_pool_to_cls.items()",
        "create_colocated_worker_cls(class_dict=class_dict)",
        "self.actor_rollout_wg.init_model()",
        "LLMServerManager.create(",
        "self.checkpoint_manager.sleep_replicas()",
        "self._load_checkpoint()",
    )


def test_servers_are_told_apart_by_replica_rank():
    import verl
    from verl.workers.rollout import llm_server, replica

    assert "start_rank" in inspect.signature(llm_server.LLMServerManager.__init__).parameters
    text = source(replica.RolloutReplica.init_hybrid)
    assert "self.world_size * self.replica_rank : self.world_size * (self.replica_rank + 1)" in text
    adapter = (Path(verl.__file__).parent / "workers/rollout/vllm_rollout/vllm_rollout.py").read_text()
    assert "replica_rank: int = -1," in adapter and "replica-{self.replica_rank}-rank-" in adapter


def test_the_steps_of_the_base_class_take_a_part_of_the_batch():
    for name in ("_balance_batch", "_compute_old_log_prob", "_compute_ref_log_prob", "_update_actor"):
        assert list(inspect.signature(getattr(Trainer, name)).parameters)[:3] == ["self", "batch", "metrics"], name
    for name in ("_compute_old_log_prob", "_update_actor"):
        assert "self.actor_rollout_wg." in source(getattr(Trainer, name)), name
    for name in ("update_weights", "sleep_replicas"):
        assert f"self.checkpoint_manager.{name}(" in source(trainer_sync.PPOTrainerSync), name


# --- what ccpo.verl_plugin.faults rests on ---------------------------------------------------------------------------


def test_the_replay_buffer_says_what_the_watched_one_looks_for():
    """The words are verl 0.9.1's; a version that changes them must change `WatchedBuffer.sample`."""
    assert "no materializable trajectories" in source(ReplayBuffer)
    assert "self._wait_for_next_poll(" in source(ReplayBuffer.sample)


def test_transfer_queue_keeps_the_handles_of_its_actors():
    """Private names; without them the watchdog would not see their deaths."""
    from transfer_queue import interface

    assert {"_TQ_CONTROLLER", "_TQ_STORAGE"} <= vars(interface).keys()
    assert '_TQ_STORAGE["SimpleStorage"].values()' in source(interface)


def test_what_imports_vllm_in_a_process_without_a_server():
    """ccpo/verl_plugin/lean.py stands in for two modules."""
    import verl

    folder = Path(verl.__file__).parent
    text = (folder / "checkpoint_engine" / "__init__.py").read_text()
    assert (
        "try:\n    from .hccl_checkpoint_engine import HCCLCheckpointEngine" in text
        and "except ImportError as e:" in text
    )
    assert (
        'vs.parse(package_version) >= vs.parse("0.18.0"):\n    vllm_version = package_version\n    VLLM_SLEEP_LEVEL = 2'
        in ((folder / "third_party" / "vllm" / "__init__.py").read_text())
    )
    wanted = set()
    for path in folder.rglob("*.py"):
        for names in re.findall(r"^ *from verl\.third_party\.vllm import (.+)$", path.read_text(), re.M):
            wanted |= set(names.split(", "))
    assert wanted == {"VLLM_SLEEP_LEVEL", "get_version"}


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_rows_are_balanced_as_verl_would_from_plain_numbers(parts, record_property):
    """The same partitions, ties included; what it takes is shown."""
    from verl.trainer.ppo.v1 import trainer_base
    from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

    from ccpo.verl_plugin import trainer

    draw = random.Random(0)
    rows = calculate_workload(torch.tensor([draw.randint(150, 250) for _ in range(768)]))
    begun = time.perf_counter()
    theirs = get_seqlen_balanced_partitions(rows, k_partitions=parts, equal_size=True)
    between = time.perf_counter()
    ours = trainer_base.get_seqlen_balanced_partitions(rows, k_partitions=parts, equal_size=True)
    assert ours == theirs and trainer_base.get_seqlen_balanced_partitions is trainer.balanced
    taken = f"{between - begun:.3f} {time.perf_counter() - between:.3f}"
    record_property(f"768 rows in {parts} part(s), seconds, verl's and ours", taken)
