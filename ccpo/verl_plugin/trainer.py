"""verl's synchronous trainer with roles, credit and policies. Every override is the smallest method that has the seam."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from omegaconf import OmegaConf, open_dict
from ray.exceptions import RayTaskError
from transfer_queue import KVBatchMeta, interface
from verl.single_controller.ray import RayWorkerGroup
from verl.trainer.distillation import is_distillation_enabled
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer, trainer_base
from verl.utils import tensordict_utils as tu

from ccpo.config import CcpoConfig
from ccpo.credit.history import HistoryState
from ccpo.metrics import session_rates, validation_scores
from ccpo.run import checkpoint
from ccpo.run.folder import METRICS, SESSIONS, Moved
from ccpo.run.run_log import CLOCKS, RunLog
from ccpo.run.session_log import SessionLog
from ccpo.step import compute_advantages
from ccpo.types import Sessions
from ccpo.verl_plugin import early, start_times
from ccpo.verl_plugin.estimator import TRAINER_MODE, step_context
from ccpo.verl_plugin.faults import (
    BATCH_GRACE,
    JobStopped,
    UpdateWatch,
    Watchdog,
    all_dropped,
    cause_of,
    is_death,
    what_is_whole,
)
from ccpo.verl_plugin.loading import CONVERT, more_than_data
from ccpo.verl_plugin.loggers import settings_to_tensorboard
from ccpo.verl_plugin.network import meeting_ports
from ccpo.verl_plugin.plain_names import plain_names
from ccpo.verl_plugin.policies import (
    PolicyCheckpoints,
    PolicyClient,
    PolicyRuntime,
    PolicySyncs,
    attach,
    by_role,
    fit_mini_batch,
    gpus_of,
    row_unit,
    runtimes_of,
    use_model,
    worker_class,
)
from ccpo.verl_plugin.reference import in_place, likelihoods
from ccpo.verl_plugin.rows import (
    Row,
    advantages,
    answers,
    generated,
    kept_sessions,
    read_rows,
    timings,
    to_sessions,
    validation_sessions,
)
from ccpo.verl_plugin.servers import client_of
from ccpo.verl_plugin.update import (
    MAX_ROLLOUT_KL,
    Whole,
    WrongWeights,
    needed,
    odd_gaps,
    own_ratio,
    silent_rows_add_nothing,
)
from ccpo.verl_plugin.worker import WHOLE, PolicyWorker

logger = logging.getLogger(__name__)

READ = ["input_ids", "position_ids", "loss_mask", "response_mask", "prompts", "responses"]
"""Columns that every pass of the actor reads."""


_partitions = trainer_base.get_seqlen_balanced_partitions


def balanced(lengths: torch.Tensor, **given: Any) -> list[list[int]]:
    """verl's partitions of rows by their length, which it computes with numbers of torch: half a second for 768 rows, of which plain ones take 15 ms."""
    return _partitions(lengths.tolist(), **given)


trainer_base.get_seqlen_balanced_partitions = balanced


@register_trainer(TRAINER_MODE)
class CcpoTrainer(PPOTrainerSync):
    """PPOTrainerSync for teams: role-aware credit, a list of policies, history in every checkpoint."""

    watchdog: Watchdog  # of the task runner in whose process this is (recipe/main_ccpo.py): it watches before there is a trainer, too

    def __init__(self, config):
        # The base class branches on this string, not on the registry (verl 0.9.1, trainer_base.py: == "sync" in six places).
        config.trainer.v1.trainer_mode = "sync"
        self.n = config.actor_rollout_ref.rollout.n
        self.ccpo = CcpoConfig.from_dict(OmegaConf.to_container(config.ccpo, resolve=True), self.n)
        self.runtimes: list[PolicyRuntime] = []  # filled when the number of steps is known
        self._parts: list[tuple[PolicyRuntime, KVBatchMeta]] = []
        self.own_ratio = own_ratio(config)
        self.history = HistoryState()
        self.run_dir = Path(config.trainer.default_local_dir).absolute()
        self.run_log = RunLog(self.run_dir / METRICS)
        most = int(self.ccpo.keep_sessions_mb * 1e6)
        self.session_log = SessionLog(self.run_dir / SESSIONS, most, self.run_log.check_place)
        # verl prunes inside the save, before our marker makes the new checkpoint complete: pruning is `checkpoint.prune`'s.
        self.keep = config.trainer.max_actor_ckpt_to_keep
        config.trainer.max_actor_ckpt_to_keep = None
        # Policy 0 is verl's own actor, whose tokenizer is loaded before anything else; agent loop workers read this object.
        self._common_model = deepcopy(config.actor_rollout_ref.model)
        use_model(config, self.ccpo.policy_list()[0], self._common_model)
        super().__init__(config)
        self.replay_buffer.poll_interval = self.ccpo.poll_interval
        self.replay_buffer.run_dir, self.replay_buffer.limit = self.run_dir, self.ccpo.session_timeout + BATCH_GRACE
        self.watchdog.actors |= self._queue_processes()
        self.update_watch = UpdateWatch(self.run_dir)
        self._rows: list[Row] = []  # of this step
        self._sessions: Sessions | None = None
        self._heard: set[str] = set()  # keys of rows that have an advantage
        self._taken: tuple[KVBatchMeta, dict] | None = None  # the step: its rows and what it measured
        for note in self.ccpo.warnings():
            logger.warning(note)

    def fit(self, agent_loop_manager):
        """As verl's. Raises JobStopped where the job cannot go on (faults.py says when)."""
        self._only_finish()
        if self.ccpo.reads_reference and by_role(self.runtimes)[self.ccpo.plan.order[-1]].processor is not None:
            raise JobStopped(
                f"rule {self.ccpo.credit.rule} scores texts, and the model of {self.ccpo.plan.order[-1]} has a processor for pictures: set another "
                "ccpo.credit.rule, or a model of text"
            )
        self.watchdog.actors |= {
            f"agent loop worker {i}": w for i, w in enumerate(agent_loop_manager.agent_loop_workers)
        }
        self.watchdog.beat("the first step")
        settings_to_tensorboard(self.config)
        with self.watchdog.explaining():
            super().fit(agent_loop_manager)

    def _only_finish(self) -> None:
        """A job that was ended between its last save and its last log line has nothing to train: it validates, if it had not yet, and ends."""
        trainer, step = self.config.trainer, self.global_steps
        if not 0 < self.total_training_steps <= step or trainer.get("val_only", False):
            return
        print(f"step {step} of {self.total_training_steps} is saved: nothing is left to train", flush=True)
        wanted = trainer.test_freq > 0 or trainer.get("val_before_train", True)
        checkpoint.prune(self.run_dir, step, self.keep)
        trainer.val_before_train = wanted and not self.run_log.has(step, "val")

    def _processes(self) -> dict[str, Any]:
        """Name -> Ray actor of everything that a set-up job runs besides TransferQueue and the agent loop workers."""
        found = {f"training worker {i}": worker for i, worker in enumerate(self.actor_rollout_wg.workers)}
        for runtime in self.runtimes:
            for replica in runtime.servers.get_replicas():
                for i, server in enumerate(replica.servers):
                    found[f"rollout server {replica.replica_rank}.{i} of policy {runtime.policy.name}"] = server
        return found

    def _queue_processes(self) -> dict[str, Any]:
        units = interface._TQ_STORAGE.get("SimpleStorage", {}).values()
        found = {f"TransferQueue's storage {i}": unit for i, unit in enumerate(units)}
        return {"TransferQueue's controller": interface._TQ_CONTROLLER} | found

    def _init_dataloader(self):
        self.watchdog.beat("the reading of the data")
        with plain_names(self.config.data):
            super()._init_dataloader()

    # ------------------------------------------------------------------------------------------------ several policies
    def _init_resource_pool_mgr(self):
        self.watchdog.beat("the start of the training workers and rollout servers")
        early.import_server(self.config)
        trainer_base.RayWorkerGroup = partial(RayWorkerGroup, master_port_range=meeting_ports())
        super()._init_resource_pool_mgr()
        self.runtimes = runtimes_of(self.config, self.ccpo, self.total_training_steps, self._common_model)
        self.config.actor_rollout_ref = self.runtimes[0].config.actor_rollout_ref  # policy 0 is verl's own actor
        (self._actor_role,) = self.role_worker_mapping
        self.role_worker_mapping[self._actor_role] = ray.remote(PolicyWorker)

    @property
    def resource_pool_to_cls(self):
        return self._resource_pool_to_cls

    @resource_pool_to_cls.setter
    def resource_pool_to_cls(self, pools):
        """verl assigns this before it makes one worker class of each pool's entries: further policies join here."""
        for runtime in self.runtimes[1:]:
            pool = pools[self.resource_pool_manager.get_resource_pool(self._actor_role)]
            pool[runtime.policy.name] = worker_class(
                runtime, self.role_worker_mapping[self._actor_role], str(self._actor_role)
            )
        self._resource_pool_to_cls = pools

    def _attach_policies(self) -> None:
        first = self.runtimes[0]
        first.workers, first.servers, first.sync = (
            self.actor_rollout_wg,
            self.llm_server_manager,
            self.checkpoint_manager,
        )
        first.tokenizer, first.processor = self.tokenizer, self.processor
        for runtime in self.runtimes[1:]:
            attach(runtime, self.actor_rollout_wg)
        if len(self.runtimes) > 1:
            self.checkpoint_manager = PolicySyncs(self.runtimes)

    def get_llm_client(self):
        return PolicyClient(self.runtimes) if len(self.runtimes) > 1 else client_of(self.llm_server_manager)

    @contextmanager
    def _as(self, runtime: PolicyRuntime) -> Iterator[None]:
        """Inside, every method of the base class sees this policy as the actor."""
        view = {
            "config": runtime.config,
            "actor_rollout_wg": runtime.workers,
            "ref_policy_wg": runtime.workers,
            "tokenizer": runtime.tokenizer,
            "processor": runtime.processor,
        }
        saved = {name: self.__dict__[name] for name in view if name in self.__dict__}
        self.__dict__.update(view)
        try:
            yield
        finally:
            for name in view.keys() - saved.keys():
                del self.__dict__[name]
            self.__dict__.update(saved)

    def _each(
        self, method: Callable[[KVBatchMeta, dict], KVBatchMeta], metrics: dict, columns: list[str] | None = None
    ) -> KVBatchMeta:
        """Run a step of the base class for every policy that learns, on its own rows; metrics are named POLICY/... if several.

        ``columns``: what the step's worker reads of the rows; None: all.
        """
        parts = []
        for runtime, part in self._parts:
            self.watchdog.beat(f"{method.__name__.strip('_')} of step {self.global_steps}")
            own: dict = {}
            part.fields = columns and [*columns, *(["multi_modal_inputs"] if runtime.processor else [])]
            with self._as(runtime):
                parts.append((runtime, _fresh(method(part, own))))
            prefix = f"{runtime.policy.name}/" if len(self.runtimes) > 1 else ""
            metrics.update({prefix + name: value for name, value in own.items()})
        self._parts = parts
        return _joined([part for _, part in parts])

    # ------------------------------------------------------------------------------------------------ one step
    def step(self, metrics: dict, timing_raw: dict) -> KVBatchMeta:
        batch = super().step(metrics, timing_raw)
        self._taken = (batch, metrics)
        return batch

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict, **kwargs) -> KVBatchMeta:
        """Read every row once, forget those that are not trained, and go on with the rest in canonical order."""
        start = time.perf_counter()
        self._rows = read_rows(batch)
        self._sessions = to_sessions(self._rows, self.ccpo.plan.roles, self.ccpo.plan.tie)
        metrics.update(self._session_metrics(self._sessions, self.config.data.train_batch_size * self.n))
        metrics.update({f"ccpo/{name}": value for name, value in generated(self._rows).items()})
        self.timing_raw |= {**timings(self._rows), "read_rows": time.perf_counter() - start}
        if self.ccpo.trains_reference:
            has_log_probs = self.config.actor_rollout_ref.rollout.calculate_log_probs
            in_place(self._rows, batch, self.ccpo.plan.order[-1], has_log_probs)
        learning = [r for r in self.runtimes if self.ccpo.learns(r.policy.name, self.global_steps)]
        trained = {role for runtime in learning for role in runtime.policy.roles}
        unused = [row.key for row in self._rows if row.role not in trained]
        if unused:  # what nobody learns from this step; credit was read above
            tq.kv_clear(keys=unused, partition_id=batch.partition_id)
        self._parts = []
        for runtime in learning:
            keys = [row.key for row in self._rows if row.role in runtime.policy.roles]
            if keys:
                fit_mini_batch(runtime, len(keys), self.config.data.train_batch_size, self.n)
                self._parts.append((runtime, batch.select_keys(keys)))
        balance = super()._balance_batch

        def balance_batch(part, own):
            return balance(part, own, **kwargs)

        return self._each(balance_batch, metrics)

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        return batch if self.own_ratio else self._each(super()._compute_old_log_prob, metrics, READ)

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        return self._each(super()._compute_ref_log_prob, metrics, READ)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        whole = self._parts
        self._parts = [(runtime, self._that_teach(runtime, part)) for runtime, part in whole]
        try:
            self._each(super()._update_actor, metrics, self._learned_columns())
        except WrongWeights as error:
            raise self._wrong_weights(error.kl) from error
        self._parts = whole  # verl measures all rows, and clears them
        if self.own_ratio:  # under the names that the pass would have used
            _move(metrics, "actor/rollout_kl", metrics, "rollout_corr/kl")
            _move(metrics, "actor/entropy_loss", metrics, "actor/entropy")
        _move(metrics, "actor/train_seconds", self.timing_raw, "train")  # without the rows' way to the actor
        metrics["ccpo/skipped_updates"] = self.update_watch.check(metrics)
        return batch

    def _that_teach(self, runtime: PolicyRuntime, part: KVBatchMeta) -> KVBatchMeta:
        """The rows of a policy that its update needs (`update.needed`), dealt to its GPUs."""
        actor = runtime.config.actor_rollout_ref.actor
        if not (self.own_ratio and silent_rows_add_nothing(actor)) or self.ccpo.trains_reference:
            return _fresh(part)
        rows = {row.key: row for row in self._rows}
        silent = {key for key in part.keys if key not in self._heard}
        first = {key for key in part.keys if key in rows and rows[key].session == 0}
        kept = needed(part.keys, silent, first, row_unit(self.n, gpus_of(runtime)))
        tokens = {key: tag["response_len"] for key, tag in zip(part.keys, part.tags, strict=True) if key in rows}
        told = Whole.of(actor.ppo_mini_batch_size * self.n, tokens, silent, kept, actor.loss_agg_mode)
        fit_mini_batch(runtime, len(kept), self.config.data.train_batch_size, self.n)
        with self._as(runtime):
            part = super()._balance_batch(part.select_keys(kept), {})
        part.extra_info = {**part.extra_info, WHOLE: told._asdict()}
        return part

    def _learned_columns(self) -> list[str] | None:
        """What the update reads: every other column would be fetched, copied and cut into micro-batches for nothing. None: all."""
        if is_distillation_enabled(self.config.get("distillation")):
            return None
        weighted = (self.config.algorithm.get("rollout_correction") or {}).get("rollout_is")
        optional = {
            "old_log_probs": not self.own_ratio,
            "rollout_log_probs": self.own_ratio and self.config.actor_rollout_ref.rollout.calculate_log_probs,
            "rollout_is_weights": bool(weighted),
            "ref_log_prob": self.use_reference_policy,
        }
        return [*READ, "advantages", *(name for name, needed in optional.items() if needed)]

    def on_init_end(self):
        self.watchdog.beat("the first weight update")
        super().on_init_end()
        self.watchdog.beat("the start of the agent loop workers")

    def on_sample_begin(self):
        self.watchdog.beat(f"the rollout of step {self.global_steps}")
        super().on_sample_begin()

    def on_step_end(self):
        self.watchdog.beat(f"the weight update of step {self.global_steps}")
        super().on_step_end()
        if self.watchdog.start_times is not None:
            parts = self.watchdog.start_times.parts()
            self.watchdog.start_times = None
            print(start_times.line(parts), flush=True)
            self.timing_raw |= {f"start/{part.replace(' ', '_')}": seconds for part, seconds in parts.items()}

    def _session_metrics(self, sessions: Sessions, expected: int) -> dict[str, float]:
        rates = session_rates(sessions, expected)
        self._check_dropped(rates)
        rates["sessions/team_accuracy"] = float(sessions.value_S.mean())
        return {f"ccpo/{name}": value for name, value in rates.items()}

    def _check_dropped(self, rates: dict[str, float]) -> None:
        dropped = rates["sessions/dropped_rate"]
        if dropped >= 1:
            raise JobStopped(all_dropped(self.global_steps, self.run_dir))
        if dropped > self.ccpo.max_dropped_rate:
            raise JobStopped(
                f"{dropped:.0%} of step {self.global_steps}'s sessions were dropped, more than ccpo.max_dropped_rate="
                f"{self.ccpo.max_dropped_rate:.0%}: the agent loop workers' log above has each one's error. {what_is_whole(self.run_dir)}"
            )

    def _score_references(self, metrics: dict) -> None:
        """Let the last speaker's policy say how likely the reference answers are; into this step's sessions."""
        self.watchdog.beat(f"the likelihoods of step {self.global_steps}")
        start = time.perf_counter()
        runtime = by_role(self.runtimes)[self.ccpo.plan.order[-1]]
        told, scored = likelihoods(self._rows, runtime.workers)
        self._sessions = replace(self._sessions, **told)
        metrics["ccpo/credit/likelihood_rows"] = float(scored)
        self.timing_raw["likelihood"] = time.perf_counter() - start

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        try:
            if self.ccpo.reads_reference:
                self._score_references(metrics)
            start = time.perf_counter()
            result = compute_advantages(self._sessions, self.ccpo.step_settings, self.history)
            self.timing_raw["credit"] = time.perf_counter() - start
        except ValueError as error:
            raise JobStopped(
                f"the credit of step {self.global_steps} cannot be computed: {error}. {what_is_whole(self.run_dir)}"
            ) from error
        own, behind = (of(self._rows, self._sessions, result) for of in (advantages, answers))
        self._heard = {key for key, value in own.items() if value or behind.get(key, (0, 0.0))[1]}
        with step_context(batch.keys, own, behind), self._comparison_later():
            batch = super()._compute_advantage(batch, metrics)
        kl = metrics.get("rollout_corr/kl", 0.0)
        if not kl <= MAX_ROLLOUT_KL:  # not a number: neither
            raise self._wrong_weights(kl)
        self.history = result.state
        # Before the save, which tells that the step is whole: what is dropped on a resume and what comes again then meet at its number.
        kept = kept_sessions(
            self._rows, self.ccpo.keep_sessions, self.ccpo.seed, self.global_steps, self._sessions, result
        )
        self.session_log.write(self.global_steps, "train", kept)
        metrics.update({f"ccpo/{name}": value for name, value in result.metrics.items()})
        return batch

    @contextmanager
    def _comparison_later(self) -> Iterator[None]:
        """Inside, verl does not compare the rollout's log-probabilities with those of a pass that was not made: the update does."""
        algorithm = self.config.algorithm
        correction = algorithm.get("rollout_correction")
        try:
            if self.own_ratio:
                with open_dict(algorithm):
                    algorithm.rollout_correction = None
            yield
        finally:
            with open_dict(algorithm):
                algorithm.rollout_correction = correction

    def _wrong_weights(self, kl: float) -> JobStopped:
        return JobStopped(
            f"the rollout server's distribution is {kl:.1f} nats per token away from the actor's (rollout_corr/kl): it samples from other "
            "weights, so its rows would teach nonsense. Check the weight update of "
            f"actor_rollout_ref.rollout.name={self.config.actor_rollout_ref.rollout.name}, and role temperatures far from the rollout's. "
            f"{what_is_whole(self.run_dir)}"
        )

    def _compute_metrics(self, batch, metrics, timing_raw, global_steps, epoch):
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        for line in odd_gaps(metrics, global_steps):
            print(line, flush=True)
        self.run_log.write(global_steps, "train", {k: v for k, v in metrics.items() if not k.startswith("val-")})

    # ------------------------------------------------------------------------------------------------ validation
    def _validate(self) -> dict[str, float]:
        """Accuracies per data source. (The base class keeps each session's last row only.)"""
        by_source: dict[str, list[Row]] = defaultdict(list)
        prompts, plan = 0, self.ccpo.plan
        for columns in self.val_dataloader:
            prompts += len(columns["raw_prompt"])
            done = self._generate_validation(columns)
            rows = read_rows(done)
            for row in rows:
                by_source[row.source].append(row)
            self._record_generations(rows, done.partition_id)
            tq.kv_clear(keys=done.keys, partition_id=done.partition_id)
        every = to_sessions([row for rows in by_source.values() for row in rows], plan.roles, plan.tie)
        rates = session_rates(every, prompts * self.config.actor_rollout_ref.rollout.val_kwargs.n)
        self._check_dropped(rates)
        metrics = {f"val-aux/{name}": value for name, value in rates.items()}
        for source, rows in by_source.items():
            scores = validation_scores(to_sessions(rows, plan.roles, plan.tie), self.ccpo.replay_names())
            for name, value in scores.items():
                metrics[f"{'val-core' if name == 'team_accuracy' else 'val-aux'}/{source}/{name}"] = value
        every_row = sorted((row for rows in by_source.values() for row in rows), key=lambda row: row.order)
        self.session_log.write(self.global_steps, "val", validation_sessions(every_row))
        self.run_log.write(self.global_steps, "val", metrics)
        return metrics

    def _generate_validation(self, columns: dict) -> KVBatchMeta:
        """Send one validation batch through the agent loops and wait for it (same steps as the base class)."""
        self.watchdog.beat(f"the validation at step {self.global_steps}")
        columns["uid"] = np.array([str(uuid.uuid4()) for _ in range(len(columns["raw_prompt"]))], dtype=object)
        batch = tu.get_tensordict(columns)
        tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        tu.assign_non_tensor_data(batch, "validate", True)
        tag = {"is_prompt": True, "status": "pending", "global_steps": self.global_steps}
        tq.kv_batch_put(keys=list(batch["uid"]), partition_id="val", tags=[dict(tag) for _ in range(len(batch))])
        self.agent_loop_manager.generate_sequences(batch)
        done, _ = self.replay_buffer.sample(global_steps=self.global_steps, partition_id="val", batch_size=len(batch))
        return done

    def _record_generations(self, rows: list[Row], partition_id: str) -> None:
        """verl's two ways to look at validation texts: trainer.log_val_generations and trainer.validation_data_dir."""
        folder = self.config.trainer.get("validation_data_dir", None)
        if not rows or not (folder or self.config.trainer.log_val_generations):
            return
        keys = [row.key for row in rows]
        data = tq.kv_batch_get(
            keys=keys, partition_id=partition_id, select_fields=["prompts", "responses", "reward_model"]
        )
        runtime_of = by_role(self.runtimes)
        texts = {
            name: [
                runtime_of[row.role].tokenizer.decode(ids, skip_special_tokens=True)
                for row, ids in zip(rows, data[name].unbind(), strict=True)
            ]
            for name in ("prompts", "responses")
        }
        scores = [row.facts["reward"] for row in rows]
        self._maybe_log_val_generations(inputs=texts["prompts"], outputs=texts["responses"], scores=scores)
        if folder:
            self._dump_generations(
                inputs=texts["prompts"],
                outputs=texts["responses"],
                gts=[item["ground_truth"] for item in list(data["reward_model"])],
                scores=scores,
                reward_extra_infos_dict={
                    "role": [row.role for row in rows],
                    "replay": [row.facts["replay"] for row in rows],
                    "uid": keys,
                },
                dump_path=folder,
            )

    def _log_rollout_data(self, batch, timing_raw, rollout_data_dir):
        """verl's trainer.rollout_data_dir; every policy's rows are decoded with its own tokenizer."""
        for runtime, part in self._parts:
            with self._as(runtime):
                folder = (
                    str(Path(rollout_data_dir) / runtime.policy.name) if len(self.runtimes) > 1 else rollout_data_dir
                )
                super()._log_rollout_data(part, timing_raw, folder)

    # ------------------------------------------------------------------------------------------------ checkpoints
    @contextmanager
    def _folders(self) -> Iterator[None]:
        """Inside, verl saves and loads every policy; a single one keeps verl's own folder name."""
        workers = self.actor_rollout_wg
        if len(self.runtimes) > 1:
            self.actor_rollout_wg = PolicyCheckpoints(self.runtimes)
        try:
            yield
        finally:
            self.actor_rollout_wg = workers

    def _save_checkpoint(self):
        self.watchdog.beat(f"the save of step {self.global_steps}")
        line = self._log_line()
        self.run_log.check_place()  # the driver sees only within a second that the folder was moved: another job may have its name by now
        try:
            checkpoint.begin(self.run_dir, self.global_steps)
            with self._folders():
                super()._save_checkpoint()
            self.run_log.check_place()
            checkpoint.keep_metrics(self.run_dir, self.global_steps, line)
            checkpoint.keep_settings(self.run_dir, self.global_steps)
            checkpoint.commit(self.run_dir, self.global_steps, self.ccpo, self.n, self.history)
        except Moved:  # nothing more is written or removed there
            raise
        except (OSError, RuntimeError, RayTaskError) as error:  # torch wraps what the disk says in errors of its own
            if is_death(error) or isinstance(error, JobStopped):  # the watchdog's
                raise
            with suppress(OSError):  # without its marker it counts for nothing
                checkpoint.begin(self.run_dir, self.global_steps)
            raise JobStopped(
                f"the checkpoint of step {self.global_steps} could not be saved ({cause_of(error)}), and what was written of it is removed. "
                f"Make room in {self.run_dir}, or keep fewer (trainer.max_actor_ckpt_to_keep). {what_is_whole(self.run_dir)}"
            ) from error
        checkpoint.prune(self.run_dir, self.global_steps, self.keep)

    def _log_line(self) -> dict[str, Any]:
        """What verl will log of this step, without times, which are not over: it counts rows only after the save and the validation."""
        batch, measured = self._taken
        metrics, watch = dict(measured), deepcopy(self._rollout_moe_lb_metrics_accumulator)
        epoch = (self.global_steps - 1) // self.steps_per_epoch
        timing = {**self.timing_raw, "step": math.inf}
        super()._compute_metrics(batch, metrics, timing, global_steps=self.global_steps, epoch=epoch)
        self._rollout_moe_lb_metrics_accumulator = watch  # it counts this step when it is logged
        return {name: value for name, value in metrics.items() if not name.startswith(CLOCKS)}

    def _load_checkpoint(self):
        self._attach_policies()  # verl calls this last in its set-up, when policy 0 is up and asleep
        self.watchdog.actors |= self._processes()
        self.watchdog.beat("the loading of the checkpoint")
        folder = checkpoint.to_resume(self.config.trainer, contents=True)
        if folder is not None:
            named = self.config.trainer.resume_mode == "resume_path"  # then nothing of it is read yet
            self.history = checkpoint.restore(folder, self.ccpo, self.n, contents=named)
            if found := more_than_data(sorted(folder.rglob("*.pt"))):
                raise JobStopped(
                    f"{'; '.join(found)}: {folder} is not resumed. Go on from another checkpoint (trainer.resume_from_path). If it is yours: "
                    f"{CONVERT.format(folder=folder / 'POLICY')}"
                )
        if self.config.trainer.resume_mode == "auto":
            checkpoint.point_tracker_at(self.run_dir, folder)
        elif folder is not None:
            self.config.trainer.resume_from_path = str(folder)  # verl reads the step off its end, and knows no ~
        try:
            with self._folders():
                super()._load_checkpoint()
        except Exception as error:
            # Whatever files of another model make torch raise, here or in a worker.
            if folder is None or is_death(error):
                raise
            raise JobStopped(
                f"{folder} cannot be loaded ({cause_of(error)}): its files are those that were saved, so the model is another one than "
                "that of the checkpoint, or torch is another one. Set the model back, or go on from another checkpoint (move this one out of "
                "trainer.default_local_dir, or set trainer.resume_mode=resume_path and trainer.resume_from_path)"
            ) from error
        checkpoint.rewind(self.run_dir, self.global_steps)
        self.run_log.rewind(self.global_steps)
        self.session_log.rewind(self.global_steps, self.run_log.steps("val"))
        own = folder is not None and folder.parent.resolve() == self.run_dir.resolve()
        if own and not self.run_log.has(self.global_steps, "train"):  # ended between the save and the log line
            self.run_log.write(self.global_steps, "train", checkpoint.kept_metrics(folder))


def _fresh(batch: KVBatchMeta) -> KVBatchMeta:
    """The same rows without the list of columns, which hides those that are added later."""
    return KVBatchMeta(
        keys=list(batch.keys), tags=list(batch.tags), partition_id=batch.partition_id, extra_info=batch.extra_info
    )


def _move(metrics: dict, name: str, to: dict, new: str) -> None:
    """Give every policy's metric ``name`` another name, in ``to``; its prefix (`CcpoTrainer._each`) stays."""
    for found in [key for key in metrics if key.endswith(name)]:
        to[found.removesuffix(name) + new] = metrics.pop(found)


def _joined(parts: list[KVBatchMeta]) -> KVBatchMeta:
    """One batch of several policies' parts."""
    return KVBatchMeta(
        keys=[key for part in parts for key in part.keys],
        tags=[tag for part in parts for tag in part.tags],
        partition_id=parts[0].partition_id,
        extra_info=parts[0].extra_info,
    )
