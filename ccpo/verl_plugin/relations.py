"""Settings that are fine by themselves and cannot work together: with each other, with ccpo's trainer, or with a model's context."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from ccpo.verl_plugin.estimator import TRAINER_MODE
from ccpo.verl_plugin.values import leaves, verls_defaults

AGENT_LOOP = "ccpo_team"


def problems(config: DictConfig) -> list[str]:
    return [
        *_trainers(config),
        *_unused(config),
        *_seeds(config),
        *_rewards(config),
        *_lora(config),
        *_lengths(config),
        *_batches(config),
        *_shares(config),
    ]


def _trainers(config: DictConfig) -> Iterator[str]:
    """What ccpo's trainer would ignore or get wrong."""
    algorithm, rollout, trainer = config.algorithm, config.actor_rollout_ref.rollout, config.trainer
    if trainer.v1.trainer_mode != TRAINER_MODE:
        yield f"trainer.v1.trainer_mode is {trainer.v1.trainer_mode!r}: roles and history live in ccpo's trainer; set {TRAINER_MODE}"
    for name, value in (
        ("trainer.use_v1", trainer.use_v1),
        ("actor_rollout_ref.hybrid_engine", config.actor_rollout_ref.hybrid_engine),
    ):
        if not value:
            yield f"{name} is false: ccpo's trainer is one of verl's v1 trainers that train and roll out on the same GPUs; set it to true"
    if algorithm.adv_estimator != "ccpo":
        yield (
            f"algorithm.adv_estimator is {algorithm.adv_estimator!r}: it would give every role the last answer's reward; set ccpo "
            "(ccpo.credit.rule=shared is GRPO)"
        )
    if algorithm.use_kl_in_reward:
        yield (
            "algorithm.use_kl_in_reward is true: credit is made of outcome rewards and would ignore it; set "
            "actor_rollout_ref.actor.use_kl_loss=true instead"
        )
    if algorithm.get("norm_adv_by_std_in_grpo", True) is not True:
        yield (
            "algorithm.norm_adv_by_std_in_grpo is false: ccpo normalizes by itself and would ignore it; set ccpo.credit.normalize=centred, "
            "which divides by no deviation, and leave it true"
        )
    if algorithm.filter_groups and algorithm.filter_groups.enable:
        yield "algorithm.filter_groups.enable is true: dropping all-equal groups would bias the reward history; set it to false"
    if config.critic.enable:
        yield "critic.enable is true: credit needs no critic, and none would be asked; set it to null"
    sampler = trainer.v1.sampler.custom_sampler
    sampler = sampler if isinstance(sampler, DictConfig) else {}
    if (name := sampler.get("name")) != "WatchedBuffer":
        yield (
            f"trainer.v1.sampler.custom_sampler.name is {name!r}: ccpo's trainer needs a buffer whose wait for sessions has a limit; set "
            "pkg://ccpo.verl_plugin.faults and WatchedBuffer"
        )
    if trainer.v1.sampler.get("sync_refill_failed_groups", False):
        yield "trainer.v1.sampler.sync_refill_failed_groups is true: dropped sessions are counted, never replaced; set it to false"
    if rollout.agent.default_agent_loop != AGENT_LOOP:
        yield (
            f"actor_rollout_ref.rollout.agent.default_agent_loop is {rollout.agent.default_agent_loop!r}: teams are played by {AGENT_LOOP}; "
            "set that (ccpo.team chooses the team)"
        )
    if trainer.val_only and not trainer.val_before_train:
        yield "trainer.val_only is true and trainer.val_before_train false: verl would train; set both to true to validate alone"


def _unused(config: DictConfig) -> Iterator[str]:
    """What others of verl's trainers do, and this one would pass over or be led astray by."""
    algorithm, rollout, data = config.algorithm, config.actor_rollout_ref.rollout, config.data
    if data.get("prompt_key", "prompt") != "prompt":
        yield f"data.prompt_key is {data.prompt_key!r}: rows are asked what their column prompt says; set prompt, and rename the column"
    if algorithm.get("use_pf_ppo", False):
        yield (
            "algorithm.use_pf_ppo is true: it draws rows anew by their reward, and credit is of the rows that were played; set it to false"
        )
    if config.actor_rollout_ref.actor.fsdp_config.get("forward_only", False):
        yield (
            "actor_rollout_ref.actor.fsdp_config.forward_only is true: the actor would have no optimizer, and nothing would be learned; set it to "
            "false"
        )
    if rollout.get("ignore_eos", False):
        yield (
            "actor_rollout_ref.rollout.ignore_eos is true: every turn would run on to data.max_response_length, and no role learn to stop; set it "
            "to false"
        )
    if rollout.multi_turn.enable:
        yield (
            "actor_rollout_ref.rollout.multi_turn.enable is true: verl's turns with tools; who speaks when is the team's program here "
            "(ccpo.team); set it to false"
        )


def _seeds(config: DictConfig) -> Iterator[str]:
    """verl's determinism of its vLLM server: it gives a request without a seed the server's, the same to all."""
    rollout = config.actor_rollout_ref.rollout
    if rollout.name == "vllm" and rollout.get("full_determinism", False) and config.ccpo.get("seed") is None:
        yield (
            "actor_rollout_ref.rollout.full_determinism is true and ccpo.seed null: verl would give all requests one seed, so that the sessions "
            "of a prompt were equal and none better than another; set ccpo.seed=0, or any number: every request then has a seed of its own"
        )


def _rewards(config: DictConfig) -> Iterator[str]:
    """verl's rewards, by their names and by those of earlier versions of it: none of them is ever asked."""
    sections = ("reward", "custom_reward_function", "reward_model", "sandbox_fusion")
    given = {name: OmegaConf.to_container(config[name], resolve=True) for name in sections if config.get(name)}
    usual = dict(leaves({name: verls_defaults().get(name) or {} for name in sections}))
    changed = [
        f"{name}={value!r}"
        for name, value in leaves(given)
        if not name.endswith("._target_") and name != "reward.num_workers" and value != usual.get(name)
    ]
    if changed:
        yield (
            f"{', '.join(changed[:4])}{' and more' if len(changed) > 4 else ''}: verl's rewards are never asked, since a team's turns are judged while "
            "it plays; leave them as verl ships them, and set ccpo.reward=path/to/file.py:function for a reward of your own, which may also ask a "
            "model (docs/your_own.md)"
        )


def _lora(config: DictConfig) -> Iterator[str]:
    """verl has two sets of settings for it: of the FSDP actor, which is ccpo's, and of Megatron's."""
    name, model = "actor_rollout_ref.model", config.actor_rollout_ref.model
    if model.lora.rank:
        yield (
            f"{name}.lora.rank is {model.lora.rank}: it is Megatron's, and the FSDP actor would train all weights; set {name}.lora_rank"
        )
    if model.get("lora_adapter_path") and not model.lora_rank:
        yield (
            f"{name}.lora_adapter_path is {model.lora_adapter_path!r} and {name}.lora_rank is 0: the adapter would not be loaded; set lora_rank to "
            "its rank"
        )
    if model.lora_rank and not model.lora.merge and config.trainer.device == "cpu":
        yield f"{name}.lora.merge is false: rollouts on the CPU take whole weights; set it to true"


def _lengths(config: DictConfig) -> Iterator[str]:
    """A row must fit wherever it goes."""
    ref, rollout, actor = (config.actor_rollout_ref[name] for name in ("ref", "rollout", "actor"))
    prompt, response = config.data.max_prompt_length, config.data.max_response_length
    row, what = prompt + response, "data.max_prompt_length + data.max_response_length"
    if rollout.max_model_len is not None and rollout.max_model_len < row:
        yield (
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len} is less than {what} = {row}: long sessions would fail; set it to "
            "that, or null"
        )
    for name, own, limit in (
        ("prompt", rollout.prompt_length, prompt),
        ("response", rollout.response_length, response),
    ):
        if own != limit:
            yield (
                f"actor_rollout_ref.rollout.{name}_length={own} is not data.max_{name}_length={limit}: rows are cut by the one and counted by "
                f"the other; set data.max_{name}_length alone"
            )
    passes = (
        ("actor_rollout_ref.actor.ppo_max_token_len_per_gpu", actor.use_dynamic_bsz, actor.ppo_max_token_len_per_gpu),
        (
            "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu",
            rollout.log_prob_use_dynamic_bsz,
            rollout.log_prob_max_token_len_per_gpu,
        ),
        (
            "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu",
            ref.log_prob_use_dynamic_bsz and actor.use_kl_loss,
            ref.log_prob_max_token_len_per_gpu,
        ),
    )
    for name, dynamic, tokens in passes:
        least = -(-row // actor.ulysses_sequence_parallel_size)
        if dynamic and tokens < least:
            yield (
                f"{name}={tokens} is less than {what} = {row}"
                + (f" on {actor.ulysses_sequence_parallel_size} GPUs" if least < row else "")
                + f": a pass over the longest row would fail; set at least {least}"
            )
    if rollout.name == "vllm" and not rollout.enable_chunked_prefill and rollout.max_num_batched_tokens < row:
        yield (
            f"actor_rollout_ref.rollout.max_num_batched_tokens={rollout.max_num_batched_tokens} is less than {what} = {row}, and "
            "enable_chunked_prefill is false: vLLM does not start; set at least that, or enable_chunked_prefill=true"
        )


def _batches(config: DictConfig) -> Iterator[str]:
    """Prompts of a step, of an optimizer step, and rows of a pass."""
    actor, batch = config.actor_rollout_ref.actor, config.data.train_batch_size
    if actor.ppo_mini_batch_size > batch:
        yield (
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size} is more than data.train_batch_size="
            f"{batch}: a mini-batch is a part of a batch; set it to at most that"
        )
    if config.data.gen_batch_size not in (None, batch):
        yield (
            f"data.gen_batch_size={config.data.gen_batch_size} is not data.train_batch_size={batch}: a step would wait for sessions that nobody "
            "plays; set null"
        )
    gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    rows = actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n
    micro = actor.ppo_micro_batch_size_per_gpu
    if not actor.use_dynamic_bsz and micro and rows % (micro * gpus):
        yield (
            f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={micro} on {gpus} GPU(s) does not divide the {rows} rows of a mini-batch "
            f"(ppo_mini_batch_size x rollout.n): the update would fail; set use_dynamic_bsz=true, or a divisor of {rows // gpus or 1}"
        )
    if not actor.use_dynamic_bsz and actor.ppo_micro_batch_size:
        yield (
            f"actor_rollout_ref.actor.ppo_micro_batch_size={actor.ppo_micro_batch_size}: verl has given it up; set "
            "ppo_micro_batch_size_per_gpu, or use_dynamic_bsz=true"
        )


def _shares(config: DictConfig) -> Iterator[str]:
    """GPUs that divide among what runs on them."""
    rollout, actor = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    gpus = config.trainer.n_gpus_per_node * config.trainer.nnodes
    engine = rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
    parts = (
        (
            "actor_rollout_ref.rollout.tensor_model_parallel_size x data_parallel_size x pipeline_model_parallel_size",
            engine,
            "servers",
        ),
        (
            "actor_rollout_ref.actor.ulysses_sequence_parallel_size",
            actor.ulysses_sequence_parallel_size,
            "parts of a row",
        ),
        ("actor_rollout_ref.actor.fsdp_config.fsdp_size", actor.fsdp_config.fsdp_size, "groups of shards"),
    )
    for name, size, what in parts:
        if size > 0 and gpus % size:
            yield (
                f"{name} is {size}, and the job has {gpus} GPU(s) (trainer.n_gpus_per_node x trainer.nnodes): they do not divide into {what}; set "
                f"a divisor of {gpus}"
            )
