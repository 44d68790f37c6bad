"""Settings that fit the GPU: where the configuration says null, a value is computed from the model, the GPU and the team.

    actor.ppo_max_token_len_per_gpu       tokens of a pack: few large ones are faster, since small kernels wait to be launched
    model.enable_gradient_checkpointing   off where the packs are large enough without it: it computes every layer twice
    rollout.gpu_memory_utilization        the engines' share: what is left beside the resting actor
    rollout.max_num_seqs, max_model_len   requests that can come at once, and the longest
    rollout.engine_kwargs.vllm.kv_cache_memory_bytes   an engine's cache, where other jobs are on the GPU (ccpo.gpu_share)
    actor.fsdp_config.*_offload           the actor waits in host memory where several policies, or a large one, leave no room
    model.override_config.attn_implementation   packed attention, or sdpa for a model that it does not know

Any value that is set stays. `memory.py` has the arithmetic; a job that does not fit is refused before a weight is loaded.
"""

from __future__ import annotations

import os
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ccpo.config import CcpoConfig
from ccpo.verl_gpu import attention, memory
from ccpo.verl_gpu.host import replica_size
from ccpo.verl_gpu.memory import GIB, Shape

LARGEST_SDPA_PACK = 16_384  # whose cost is quadratic in the pack
SMALLEST_SHARE, LARGEST_SHARE = 0.1, 0.9
SPARE = 1.5  # of what the engines use at most: what they keep of earlier prompts
ENGINES = "rollout.gpu_memory_utilization"
CAUTIOUS = {  # where nothing is known about the GPU or the model; what is wrong with them is named elsewhere
    "actor.ppo_max_token_len_per_gpu": 16_384,
    "model.enable_gradient_checkpointing": True,
    ENGINES: 0.5,
    "rollout.max_num_seqs": 256,
    "actor.fsdp_config.param_offload": False,
    "actor.fsdp_config.optimizer_offload": False,
    "model.override_config.attn_implementation": "sdpa",
}


def settle(config: DictConfig, gpu: float | None = None) -> tuple[list[str], list[str]]:
    """Put a value where the configuration has none.

    Args:
        config: the whole configuration; changed.
        gpu: bytes of a GPU; None: this machine's first. Of them the job takes ``ccpo.gpu_share``.

    Returns:
        (lines of the plan, to be shown; why the job does not fit). Both are empty on another device than a GPU, and where the model or
        the GPU are not there: cautious values are taken then, and the checks say what is missing.
    """
    if config.trainer.device != "cuda":
        return [], []
    try:
        plan = _Plan(config, gpu or gpu_bytes())
        lines, problems = plan.decide()
    except Exception:  # of whatever a wrong configuration makes transformers raise: the checks name it
        lines, problems = [], []
        for name, value in CAUTIOUS.items():
            _fill(config, name, value * _share(config) if name == ENGINES else value)
    return lines, problems


def _share(config: DictConfig) -> float:
    """This job's part of a GPU, 1 where the configuration has nothing that could be one."""
    part = config.ccpo.get("gpu_share")
    return part if isinstance(part, (int, float)) and 0 < part <= 1 else 1.0


def gpu_bytes() -> float:
    """Of the first GPU, read without a context on it, which would stay for as long as this process."""
    import pynvml

    pynvml.nvmlInit()
    try:
        first = (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0].strip()
        handle = (
            pynvml.nvmlDeviceGetHandleByIndex(int(first))
            if first.isdigit()
            else pynvml.nvmlDeviceGetHandleByUUID(first)
        )
        return float(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    finally:
        pynvml.nvmlShutdown()


def _fill(config: DictConfig, name: str, value: Any) -> Any:
    """Set ``actor_rollout_ref.name`` unless it has a value; return what it has."""
    *path, last = name.split(".")
    section = config.actor_rollout_ref
    for key in path:
        section = section[key]
    if section.get(last) is None:
        with open_dict(section):
            section[last] = value
    return section[last]


def lora_settings(model: DictConfig) -> dict[str, Any] | None:
    """What verl makes the adapter of, as arguments of peft.LoraConfig; None where the model's own weights learn."""
    if not model.lora_rank:
        return None
    names = ("target_modules", "target_parameters", "exclude_modules")
    values = OmegaConf.to_container(model, resolve=True)
    return {"task_type": "CAUSAL_LM", "r": model.lora_rank, **{name: values.get(name) for name in names}}


class _Plan:
    def __init__(self, config: DictConfig, gpu: float) -> None:
        from transformers import AutoConfig

        self.config, self.whole, self.gpu = config, gpu, gpu * config.ccpo.gpu_share
        node = OmegaConf.to_container(config.ccpo, resolve=True)
        self.settings = CcpoConfig.from_dict(node, config.actor_rollout_ref.rollout.n)
        model, trainer = config.actor_rollout_ref.model, config.trainer
        self.gpus = trainer.n_gpus_per_node * trainer.nnodes
        self.row = config.data.max_prompt_length + config.data.max_response_length
        self.policies = self.settings.policy_list()
        self.models = {
            policy.name: AutoConfig.from_pretrained(
                os.path.expanduser(str(policy.model or model.path)), trust_remote_code=model.trust_remote_code
            )
            for policy in self.policies
        }
        self.shapes: dict[str, Shape] = {
            name: memory.shape_of(found, lora_settings(model)) for name, found in self.models.items()
        }
        self.size = replica_size(config.actor_rollout_ref.rollout)
        self.room = memory.room(self.gpu)

    def decide(self) -> tuple[list[str], list[str]]:
        problems = self._attention()
        problems += self._actor()
        problems += self._engines()
        return self._lines(), problems

    def _attention(self) -> list[str]:
        refusals = {name: attention.refusal(model) for name, model in self.models.items()}
        refused = {name: why for name, why in refusals.items() if why}
        self.note = [
            f"attention sdpa: torch's packed attention does not fit {name}: {why}" for name, why in refused.items()
        ]
        chosen = "sdpa" if refused else attention.NAME
        own = self.config.actor_rollout_ref.model.override_config.get("attn_implementation")
        _fill(self.config, "model.override_config.attn_implementation", chosen)
        if own is not None:
            self.note = []
            if own == attention.NAME and refused:
                return [
                    f"actor_rollout_ref.model.override_config.attn_implementation={own} does not fit policy {name}: {why}; set sdpa, or null"
                    for name, why in refused.items()
                ]
        return []

    def _actor(self) -> list[str]:
        """Packs and checkpointing: one setting for all policies, so the largest model decides."""
        many = len(self.policies) > 1
        self.largest = max(self.shapes.values(), key=lambda shape: memory.fixed(shape, self.gpus))
        fits = (self.largest, self.gpus, self.room)
        twice = memory.needs_checkpointing(*fits, self.row)
        self.checkpointing = bool(_fill(self.config, "model.enable_gradient_checkpointing", twice))
        packed = self.config.actor_rollout_ref.model.override_config.attn_implementation != "sdpa"
        most = memory.LARGEST_PACK if packed else LARGEST_SDPA_PACK
        pack = memory.chosen_pack(*fits, self.checkpointing, self.row, most)
        self.pack = int(_fill(self.config, "actor.ppo_max_token_len_per_gpu", pack))
        needed = memory.update(self.largest, self.gpus, self.row, self.checkpointing)
        crowded = many or memory.resting(self.largest, self.gpus) + self._least_engine() > self.room
        waits = [_fill(self.config, f"actor.fsdp_config.{what}_offload", crowded) for what in ("param", "optimizer")]
        self.offload = all(waits)
        if self.pack < self.row or needed <= self.room:
            return []
        short = "" if self.checkpointing else "; actor_rollout_ref.model.enable_gradient_checkpointing=true needs less"
        return [
            f"the model does not fit: {self.largest.parameters / 1e9:.2f} billion parameters take {needed / GIB:.1f} GiB of each of {self.gpus} "
            f"GPU(s) while they learn ({memory.state(self.largest, self.gpus) / GIB:.1f} for weights, gradients and Adam's moments in float32, the "
            f"rest for one row of {self.row} tokens), and {self.room / GIB:.1f} of {self.gpu / GIB:.1f} GiB can be used: take more GPUs (N_GPUS), a "
            f"smaller MODEL, or shorter rows (data.max_prompt_length, data.max_response_length){short}"
        ]

    def _least_engine(self) -> float:
        return self._engine(memory.FEW_ROWS)

    def _engine(self, rows: int) -> float:
        """Bytes of a GPU for all engines: weights, and a cache for some of the longest rows each."""
        return sum(memory.engine(shape, self.size, rows * self.row) for shape in self.shapes.values())

    def _engines(self) -> list[str]:
        rollout, data = self.config.actor_rollout_ref.rollout, self.config.data
        sessions = -(-data.train_batch_size * rollout.n // max(1, self.gpus // self.size))
        turns = max(1, len(self.settings.plan.roles) if not self.settings.plan.heard else 1)
        at_once = 1 << max(0, (2 * sessions * turns - 1).bit_length())  # twice: replays run beside
        requests = _fill(self.config, "rollout.max_num_seqs", min(memory.MOST_REQUESTS, max(32, at_once)))
        _fill(self.config, "rollout.max_model_len", self.row)
        self.resting = 0.0 if self.offload else sum(memory.resting(s, self.gpus) for s in self.shapes.values())
        # No more than can be used: every step wakes the whole cache.
        useful = SPARE * self._engine(requests)
        left = min(self.room - self.resting, useful) / self.gpu
        share = round(min(LARGEST_SHARE, max(SMALLEST_SHARE, left)) * self.gpu / self.whole, 3)
        self.share = float(_fill(self.config, ENGINES, share))  # vLLM counts in whole GPUs
        if self.config.ccpo.gpu_share < 1:
            self._cache()
        least = self._least_engine()
        if self.share * self.whole >= least:
            return []
        return [
            f"the rollout engines do not fit: they need {least / GIB:.1f} GiB of each GPU (weights in bfloat16, and a cache for eight rows of {self.row} "
            f"tokens), and get {self.share * self.whole / GIB:.1f} (actor_rollout_ref.rollout.gpu_memory_utilization={self.share}) beside "
            f"{self.resting / GIB:.1f} of the resting actor: take more GPUs, a smaller MODEL, or shorter rows"
        ]

    def _cache(self) -> None:
        """Give vLLM the bytes of an engine's cache. It would take what is free after a trial, and fails where another job frees memory meanwhile."""
        cache = (self.share * self.whole - self._engine(0)) / len(self.policies)  # one setting for all engines
        _fill(self.config, "rollout.engine_kwargs.vllm.kv_cache_memory_bytes", max(1, int(cache)))

    def _lines(self) -> list[str]:
        """The plan as a table of GiB."""
        shape, gpus = self.largest, self.gpus
        rows: list[tuple[str, float]] = [
            ("weights, gradients, moments (float32)", memory.state(shape, gpus)),
            ("gathered weights, output layer", memory.fixed(shape, gpus) - memory.state(shape, gpus)),
            (f"a pack of {self.pack:,} tokens", self.pack * memory.per_token(shape, self.checkpointing)),
        ]
        learning = sum(value for _, value in rows)
        weights = sum(2 * s.parameters / self.size for s in self.shapes.values())
        decoding = [
            ("resting actor" + (" (in host memory)" if self.offload else ""), self.resting),
            (f"engine weights x {len(self.shapes)}", weights),
            ("engine caches and workspace", max(0.0, self.share * self.whole - weights)),
        ]
        total = sum(value for _, value in decoding)
        entry, part = self.config.actor_rollout_ref, self.config.ccpo.gpu_share
        share = f" (ccpo.gpu_share={part:g} of {self.whole / GIB:.1f})" if part != 1 else ""
        head = (
            f"plan for {gpus} GPU(s) of {self.gpu / GIB:.1f} GiB{share}, {len(self.shapes)} policy(ies) of up to {shape.parameters / 1e9:.3g} billion "
            "parameters"
            + (f", a LoRA adapter of {shape.adapter / 1e6:.3g} million learns" if shape.adapter else "")
            + "; GiB of a GPU:"
        )
        lines = [head]
        for title, part, whole in (("while it learns", rows, learning), ("while it decodes", decoding, total)):
            lines.append(f"  {title:<42}{(whole + memory.OUTSIDE) / GIB:>6.1f}")
            lines += [f"    {name:<40}{value / GIB:>6.1f}" for name, value in part]
            lines.append(f"    {'contexts, sleeping engine':<40}{memory.OUTSIDE / GIB:>6.1f}")
        lines.append(
            f"  gradient checkpointing {'on' if self.checkpointing else 'off'}, at most {entry.rollout.max_num_seqs} requests at once of "
            f"{entry.rollout.max_model_len} tokens, attention {entry.model.override_config.attn_implementation}"
        )
        return [*lines, *(f"  {note}" for note in self.note)]
