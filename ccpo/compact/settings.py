"""What the compact trainer reads of a job's configuration: the one that recipe/main_ccpo.py would get (``profile=cpu``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ccpo.config import CcpoConfig, ConfigError


@dataclass(frozen=True)
class Sampling:
    """temperature, top_p and top_k as a server gets them; n: sessions of a prompt."""

    n: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1


@dataclass(frozen=True)
class Settings:
    """One run.

    ccpo: the method. model: folder of the policies that name none. train_files, val_files: parquet files.
    prompts: of a step. training, validation: how it is sampled. prompt_tokens, response_tokens: most of each.
    steps: of training. test_every: steps between validations, beside the first and the last; 0: only those.
    """

    ccpo: CcpoConfig
    model: str
    train_files: tuple[str, ...]
    val_files: tuple[str, ...]
    prompts: int
    training: Sampling
    validation: Sampling
    prompt_tokens: int
    response_tokens: int
    steps: int
    test_every: int
    seed: int
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    shuffle: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Settings:
        """Of a composed configuration as plain data.

        Raises:
            ConfigError: mistakes in ``ccpo:``, or settings of an update that is not made here.
        """
        role, data, trainer = config["actor_rollout_ref"], config["data"], config["trainer"]
        actor, rollout = role["actor"], role["rollout"]
        if problems := _refused(config):
            raise ConfigError(problems)
        return cls(
            ccpo=CcpoConfig.from_dict(config["ccpo"], rollout["n"]),
            model=str(role["model"]["path"]),
            train_files=_files(data["train_files"]),
            val_files=_files(data["val_files"]),
            prompts=data["train_batch_size"],
            training=_sampling(rollout),
            validation=_sampling(rollout["val_kwargs"]),
            prompt_tokens=data["max_prompt_length"],
            response_tokens=data["max_response_length"],
            steps=trainer["total_training_steps"],
            test_every=max(0, trainer["test_freq"]),
            seed=data["seed"],
            lr=actor["optim"]["lr"],
            betas=tuple(actor["optim"]["betas"]),
            weight_decay=actor["optim"]["weight_decay"],
            grad_clip=actor["grad_clip"],
            shuffle=data["shuffle"],
        )


def _files(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _sampling(rollout: Mapping[str, Any]) -> Sampling:
    greedy = not rollout["do_sample"]
    return Sampling(rollout["n"], 0.0 if greedy else rollout["temperature"], rollout["top_p"], rollout["top_k"])


def _refused(config: Mapping[str, Any]) -> list[str]:
    """Settings that the compact trainer would silently not obey."""
    role, trainer = config["actor_rollout_ref"], config["trainer"]
    actor, optim = role["actor"], role["actor"]["optim"]
    wanted = {
        "actor_rollout_ref.actor.loss_agg_mode": (actor["loss_agg_mode"], "token-mean"),
        "actor_rollout_ref.actor.policy_loss.loss_mode": (actor["policy_loss"]["loss_mode"], "vanilla"),
        "actor_rollout_ref.actor.ppo_epochs": (actor["ppo_epochs"], 1),
        "actor_rollout_ref.actor.use_kl_loss": (actor["use_kl_loss"], False),
        "actor_rollout_ref.actor.entropy_coeff": (actor["entropy_coeff"], 0),
        "actor_rollout_ref.actor.optim.optimizer": (optim["optimizer"], "AdamW"),
        "actor_rollout_ref.actor.optim.lr_scheduler_type": (optim["lr_scheduler_type"], "constant"),
        "data.train_max_samples": (config["data"].get("train_max_samples", -1), -1),
        "data.val_max_samples": (config["data"].get("val_max_samples", -1), -1),
        "algorithm.adv_estimator": (config["algorithm"]["adv_estimator"], "ccpo"),
        "algorithm.use_kl_in_reward": (config["algorithm"]["use_kl_in_reward"], False),
    }
    found = [
        f"{name} is {value!r}: the compact trainer takes all rows and makes one step of AdamW a batch on the mean over tokens; set {right!r}, or use verl's"
        for name, (value, right) in wanted.items()
        if value != right
    ]
    if max(optim["lr_warmup_steps"], optim["lr_warmup_steps_ratio"]) > 0:
        found.append(
            "actor_rollout_ref.actor.optim.lr_warmup_steps is set: the compact trainer's rate is constant; set 0"
        )
    if actor["ppo_mini_batch_size"] < config["data"]["train_batch_size"]:
        found.append(
            f"actor_rollout_ref.actor.ppo_mini_batch_size is {actor['ppo_mini_batch_size']}: the compact trainer makes one step a batch; set "
            f"data.train_batch_size, {config['data']['train_batch_size']}"
        )
    if not trainer["total_training_steps"]:
        found.append("trainer.total_training_steps is not set: the compact trainer needs it")
    return found
