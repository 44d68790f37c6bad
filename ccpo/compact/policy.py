"""One set of weights: a transformers model in float32 that learns, and the CPU profile's sampler beside it, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ccpo.compact.settings import Settings
from ccpo.prompts import Messages
from ccpo.verl_cpu.generation import BatchGenerator, build_model

ROWS = 512  # decoded together: memory against time. What a request gets does not depend on the others


class Policy:
    """name: as in the configuration. path: the model's folder."""

    def __init__(self, name: str, path: str, settings: Settings) -> None:
        self.name = name
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").train()
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)  # a step without any advantage still moves by momentum
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.grad_clip, self.temperature = settings.grad_clip, settings.training.temperature
        config = AutoConfig.from_pretrained(path)
        ends = self.model.generation_config.eos_token_id
        self.sampler = BatchGenerator(
            build_model(config),
            eos_token_ids={self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None},
            tokenizer=self.tokenizer,
            max_batch=ROWS,
            max_prefill_tokens=ROWS * 4,
        )
        self.special = frozenset(self.tokenizer.all_special_ids)
        self.room = config.max_position_embeddings
        self._prompts: dict[tuple, list[int]] = {}
        self.publish()

    def publish(self) -> None:
        """Let the sampler use the weights as they are now."""
        self.sampler.load_weights({name: weight.detach() for name, weight in self.model.state_dict().items()})

    def prompt(self, messages: Messages) -> list[int]:
        """Token ids of a request."""
        key = tuple((message["role"], message["content"]) for message in messages)
        if key not in self._prompts:
            self._prompts[key] = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        return self._prompts[key]

    def cut(self, text: str, tokens: int) -> str:
        """Without its first ``tokens`` tokens."""
        return self.tokenizer.decode(
            self.tokenizer.encode(text, add_special_tokens=False)[tokens:], skip_special_tokens=True
        )

    def text(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)
