"""Reproducible text generation on the CPU: continuous batching around any transformers decoder.

A request's tokens depend on weights, prompt, sampling parameters and seed alone. The order of arrival, the other
requests in the batch and the padding change nothing:

* the forward pass runs in float64, so that another batch shape moves the logits by about 1e-15 instead of 1e-7; it can
  change a token only when a uniform number falls that close to an edge between two tokens;
* every request draws its own uniforms from a counter-based generator (Philox) keyed with its seed, one per token, and
  turns them into tokens by inverting the cumulative distribution;
* logits are ordered on a grid, so that tied tokens stay tied, and log-probabilities are reported on a grid.

Our construction; neither verl nor vLLM gives this guarantee.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
)

ATTENTION = "ccpo_float64"
LOGIT_GRID = 2.0**-30  # far above float64 noise (1e-15), far below anything that matters for sampling
LOG_PROB_GRID = 2.0**-18  # 4e-6; multiples of it are exact in float32, in which verl stores log-probabilities
COLDEST = 1e-100  # temperature; logits that are divided by less overflow, and the step of all requests fails
PROMPT_CACHE_BYTES = 1 << 28
WIDTH_STEP = 64  # tokens by which the key-value pool widens


@dataclass(frozen=True)
class SamplingParams:
    """One request's sampling parameters, with the names and the meaning that vLLM gives them.

    temperature: 0 is greedy. top_k: 0 or -1 keeps all tokens; applied before top_p. stop: strings looked for in the
    generated text without special tokens; the tokens that complete one are kept. stop_token_ids: kept as well.
    seed: in [0, 2**63); None draws from the generator's own seed and the request's number.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        checks = {
            "max_tokens must be at least 1": self.max_tokens >= 1,
            "temperature must be finite and at least 0": 0 <= self.temperature < math.inf,
            f"temperature must be 0, or at least {COLDEST}": not 0 < self.temperature < COLDEST,
            "top_p must be in (0, 1]": 0 < self.top_p <= 1,
            "top_k must be at least 1, or 0 or -1 for no limit": self.top_k >= -1,
            "seed must be in [0, 2**63), or None": self.seed is None or 0 <= self.seed < 2**63,
        }
        wrong = [text for text, ok in checks.items() if not ok]
        if wrong:
            raise ValueError(f"bad sampling parameters {self}: {'; '.join(wrong)}")

    @classmethod
    def from_dict(
        cls, params: Mapping[str, Any], max_tokens: int, room: int, ignore_eos: bool = False
    ) -> SamplingParams:
        """Read the dict that verl hands to a rollout server.

        Args:
            params: keys as verl passes them to vLLM; `max_new_tokens` is `max_tokens`; `logprobs` is left to the
                caller, because log-probabilities are always computed.
            max_tokens: used when the dict has no limit.
            room: tokens that still fit into the context; no request gets more.
            ignore_eos: used when the dict does not say.

        Raises:
            ValueError: a key is unknown or has a value that this server cannot honour.
        """
        given = {key: value for key, value in params.items() if value is not None}
        given.pop("logprobs", None)
        if given.pop("repetition_penalty", 1.0) != 1.0:
            raise ValueError("repetition_penalty is not supported by the hf_cpu rollout: leave it at 1.0")
        new_tokens = given.pop("max_new_tokens", max_tokens)
        fields: dict[str, Any] = {
            "max_tokens": min(int(given.pop("max_tokens", new_tokens)), room),
            "ignore_eos": bool(given.pop("ignore_eos", ignore_eos)),
        }
        stop = given.pop("stop", ())
        fields["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
        fields["stop_token_ids"] = tuple(given.pop("stop_token_ids", ()))
        for key, kind in {"temperature": float, "top_p": float, "top_k": int, "seed": int}.items():
            if key in given:
                fields[key] = kind(given.pop(key))
        if given:
            known = "temperature, top_p, top_k, max_tokens, max_new_tokens, stop, stop_token_ids, seed, ignore_eos"
            raise ValueError(f"unknown sampling parameters {sorted(given)}: hf_cpu knows {known} and logprobs")
        return cls(**fields)


@dataclass
class Request:
    """One prompt on its way to a completion; `finish_reason` is None until it has one.

    prompt [L] and token_ids [T] are token ids; the token that ended the request is included. log_probs [T] are natural
    logarithms under the distribution that was sampled from: after temperature, top_k and top_p, like vLLM's
    `processed_logprobs`; for greedy requests under the unscaled softmax. finish_reason: `stop`, `length` or `abort`.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    uniforms: np.ndarray
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: str | None = None


def sample(logits_BV: torch.Tensor, params_B: Sequence[SamplingParams], uniforms_B: Sequence[float]):
    """Draw one token per row, each with its own uniform number in [0, 1).

    Args:
        logits_BV: float64.

    Returns:
        token ids [B] and log-probabilities [B], both as lists.
    """
    assert logits_BV.dtype == torch.float64 and len(logits_BV) == len(params_B) == len(uniforms_B)
    logits_BV = (logits_BV / LOGIT_GRID).round() * LOGIT_GRID
    scale_B = [p.temperature or 1.0 for p in params_B]
    scaled_BV = logits_BV / torch.tensor(scale_B, dtype=torch.float64)[:, None]
    filtered = [row for row, p in enumerate(params_B) if p.temperature and (p.top_k > 0 or p.top_p < 1)]
    if filtered:
        scaled_BV[filtered] = _keep_top(scaled_BV[filtered], [params_B[row] for row in filtered])
    log_probs_BV = scaled_BV.log_softmax(-1)
    cdf_BV = log_probs_BV.exp().cumsum(-1)
    total_B1 = cdf_BV[:, -1:].contiguous()
    uniforms_B1 = torch.tensor(np.asarray(uniforms_B, dtype=np.float64))[:, None]
    token_B1 = torch.searchsorted(cdf_BV, uniforms_B1 * total_B1, right=True)
    # u * total may round up to total: the last token with any probability is then the one
    token_B1 = torch.minimum(token_B1, torch.searchsorted(cdf_BV, total_B1))
    greedy_B1 = torch.tensor([p.temperature == 0 for p in params_B])[:, None]
    token_B1 = torch.where(greedy_B1, logits_BV.argmax(-1, keepdim=True), token_B1)
    log_probs_B1 = (log_probs_BV.gather(-1, token_B1) / LOG_PROB_GRID).round() * LOG_PROB_GRID
    return token_B1[:, 0].tolist(), log_probs_B1[:, 0].tolist()


def _keep_top(scaled_RV: torch.Tensor, params_R: Sequence[SamplingParams]) -> torch.Tensor:
    """Set to -inf what top_k and then top_p (on the renormalized rest) drop; the likeliest token always stays."""
    sorted_RV, order_RV = scaled_RV.sort(dim=-1, descending=True, stable=True)
    vocab = scaled_RV.shape[-1]
    top_k_R1 = torch.tensor([p.top_k if p.top_k > 0 else vocab for p in params_R])[:, None]
    top_p_R1 = torch.tensor([p.top_p for p in params_R], dtype=torch.float64)[:, None]
    sorted_RV = sorted_RV.masked_fill(torch.arange(vocab) >= top_k_R1, -math.inf)
    probs_RV = sorted_RV.softmax(-1)
    before_RV = probs_RV.cumsum(-1) - probs_RV
    dropped_RV = (before_RV >= top_p_R1) & (top_p_R1 < 1)
    sorted_RV = sorted_RV.masked_fill(dropped_RV, -math.inf)
    return torch.empty_like(scaled_RV).scatter_(-1, order_RV, sorted_RV)


def build_model(config: PretrainedConfig) -> PreTrainedModel:
    """An uninitialized float64 model of this architecture, ready for BatchGenerator.

    Raises:
        ValueError: a layer is not plain full attention (sliding windows, state-space layers), or the rotary embedding
            of a request would depend on the others.
    """
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
    if kinds != {"full_attention"}:
        raise ValueError(f"the hf_cpu rollout needs full attention in every layer, {config.model_type} has {kinds}")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in ("dynamic", "longrope"):
        raise ValueError(f"rope_type {rope!r} depends on the longest request of the batch: not reproducible")
    config = copy.deepcopy(config)  # the model keeps it and reads its attention implementation from it
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation=ATTENTION).eval()
    for module in model.modules():
        if type(module).__name__.endswith(("Norm", "RotaryEmbedding")):
            module.forward = partial(_call_in_float64, module.forward)
    return model


class _KeepFloat64(TorchFunctionMode):
    """transformers computes norms and rotary angles in float32 whatever the model's type. float32 results depend on the
    position of an element in its buffer (vector code and its scalar tail round differently), that is on the batch."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.float or (func is torch.Tensor.to and torch.float32 in (*args, *kwargs.values())):
            if args[0].dtype is torch.float64:
                return args[0]
        if func in (torch.Tensor.cos, torch.Tensor.sin):
            args = (args[0].double(),)
        return func(*args, **kwargs)


def _call_in_float64(forward: Callable, *args, **kwargs):
    with _KeepFloat64():
        return forward(*args, **kwargs)


def _attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """transformers' attention interface. One query token against the pool: plain float64 matmuls, which need no copy
    of grouped heads; the softmax of transformers' own `eager` is float32 and would move logits by 1e-7."""
    B, H, L, D = query.shape
    KV = key.shape[1]
    if attention_mask is None:  # prefill: causal, and padding is on the right, where no real token looks
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=KV != H)
        return out.transpose(1, 2), None
    weights = torch.matmul(query.reshape(B, KV, H // KV, D) * (scaling or D**-0.5), key.transpose(2, 3))
    out = torch.matmul(weights.add_(attention_mask).softmax(-1), value)
    return out.reshape(B, 1, H, D), None


AttentionInterface.register(ATTENTION, _attention)


class _Pool(Cache):
    """Keys and values of the running rows: [2 * layers, rows, kv heads, width, head dim], row r filled to its length.

    Rows 0..B-1 are in use. As the `past_key_values` of a decode step it writes the new token behind each row's last.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.store: torch.Tensor | None = None
        self.lengths_B = torch.empty(0, dtype=torch.long)
        self.width = 0

    def reserve(self, kv: torch.Tensor, rows: int, width: int) -> None:
        """Make room for `rows` rows of `width` tokens shaped like kv [2 * layers, kv heads, L, head dim]."""
        old = self.store
        have_rows, have_width = (0, 0) if old is None else (old.shape[1], old.shape[3])
        if rows <= have_rows and width <= have_width:
            return
        rows = max(have_rows, 1 << (rows - 1).bit_length())
        width = max(have_width, -(-width // WIDTH_STEP) * WIDTH_STEP)
        # zeros, because a masked position still multiplies its value by 0, and 0 * nan is nan
        self.store = kv.new_zeros(kv.shape[0], rows, kv.shape[1], width, kv.shape[3])
        if old is not None:
            self.store[:, :have_rows, :, :have_width] = old

    def write(self, row: int, kv: torch.Tensor) -> None:
        self.store[:, row, :, : kv.shape[2]] = kv

    def move(self, source: int, target: int) -> None:
        self.store[:, target] = self.store[:, source]

    def start_step(self, lengths_B: torch.Tensor) -> torch.Tensor:
        """Returns: additive mask [B, 1, 1, W] over each row's tokens, the new one included."""
        self.lengths_B = lengths_B
        self.width = int(lengths_B.max()) + 1
        self.reserve(self.store[:, 0], len(lengths_B), self.width)
        mask_BW = torch.zeros(len(lengths_B), self.width, dtype=torch.float64)
        return mask_BW.masked_fill_(torch.arange(self.width) > lengths_B[:, None], -math.inf)[:, None, None]

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        B = len(self.lengths_B)
        rows_B = torch.arange(B)
        result = []
        for part, states in enumerate((key_states, value_states)):
            layer = self.store[2 * layer_idx + part]
            layer[rows_B, :, self.lengths_B] = states[:, :, 0]
            result.append(layer[:B, :, : self.width])
        return tuple(result)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.width


class BatchGenerator:
    """Generates for many requests at once; a request joins at the next decode step and leaves when it is done.

    Args:
        model: from build_model.
        eos_token_ids: end a request unless it ignores them.
        tokenizer: only for `stop` strings.
        max_batch: rows decoded together.
        max_prefill_tokens: tokens, padding included, of one prefill pass.
        seed: for requests that bring none; those are reproducible only in the same order of arrival.

    Not thread-safe.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_token_ids: Iterable[int] = (),
        tokenizer: Any = None,
        max_batch: int = 256,
        max_prefill_tokens: int = 8192,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.eos_token_ids = frozenset(eos_token_ids)
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.max_prefill_tokens = max_prefill_tokens
        self.seed = seed
        self._unseeded = 0
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._pool = _Pool()
        # prompt -> its keys and values [2 * layers, kv heads, L, head dim] and next-token logits [V]
        self._prompts: OrderedDict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = OrderedDict()
        self._prompt_bytes = 0

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, prompt: Sequence[int], params: SamplingParams) -> Request:
        """Queue a request. step() moves it on."""
        if not prompt:
            raise ValueError("the prompt is empty: there is nothing to continue")
        if params.stop and self.tokenizer is None:
            raise ValueError("`stop` strings need a tokenizer: use stop_token_ids, or load the model's tokenizer")
        if params.seed is None:
            key = (self.seed + 1 << 64) + self._unseeded  # the upper half keeps it apart from every seed
            self._unseeded += 1
        else:
            key = params.seed
        uniforms = np.random.Generator(np.random.Philox(key=key)).random(params.max_tokens)
        request = Request(tuple(prompt), params, uniforms)
        self._waiting.append(request)
        return request

    @torch.inference_mode()
    def step(self) -> list[Request]:
        """Prefill what waits, then decode one token for every running row.

        Returns: the requests that finished.
        """
        finished = self._admit()
        if self._running:
            finished += self._decode()
        return finished

    def generate(self, requests: Iterable[tuple[Sequence[int], SamplingParams]]) -> list[Request]:
        """Add all of them and run until none is left. Returns: them, in the given order."""
        added = [self.add(prompt, params) for prompt, params in requests]
        while self.busy:
            self.step()
        return added

    def abort(self) -> list[Request]:
        """End every request with what it has. Returns: them."""
        ended = [*self._waiting, *self._running]
        for request in ended:
            request.finish_reason = "abort"
        self._waiting.clear()
        self._running.clear()
        return ended

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Replace all weights; no request may be on its way.

        Raises:
            ValueError: a weight is missing or unknown to the model, or requests are running.
        """
        if self.busy:
            raise ValueError("weights may not change under running requests: finish or abort them first")
        own = self.model.state_dict()
        result = self.model.load_state_dict(weights, strict=False)
        loaded = {own[name].data_ptr() for name in weights if name in own}
        missing = [name for name in result.missing_keys if own[name].data_ptr() not in loaded]  # tied ones are not
        if missing or result.unexpected_keys:
            raise ValueError(f"weights do not fit the model: missing {missing}, unknown {result.unexpected_keys}")
        self._prompts.clear()
        self._prompt_bytes = 0

    def _admit(self) -> list[Request]:
        new = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.max_batch - len(self._running)))]
        if not new:
            return []
        prefilled = self._prefill({request.prompt for request in new})
        self._take_tokens(new, torch.stack([prefilled[request.prompt][1] for request in new]))
        joining = [request for request in new if request.finish_reason is None]
        if joining:
            rows = len(self._running) + len(joining)
            width = max(len(request.prompt) for request in joining)
            self._pool.reserve(prefilled[joining[0].prompt][0], rows, width)
            for request in joining:
                self._pool.write(len(self._running), prefilled[request.prompt][0])
                self._running.append(request)
        return [request for request in new if request.finish_reason is not None]

    def _prefill(self, prompts: set[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]]:
        """Keys, values and next-token logits of each prompt, from memory where it was seen since the last weights."""
        found = {}
        fresh = []
        for prompt in prompts:
            if prompt in self._prompts:
                self._prompts.move_to_end(prompt)
                found[prompt] = self._prompts[prompt]
            else:
                fresh.append(prompt)
        fresh.sort(key=len)
        while fresh:
            count = 1
            while count < len(fresh) and (count + 1) * len(fresh[count]) <= self.max_prefill_tokens:
                count += 1
            chunk, fresh = fresh[:count], fresh[count:]
            for prompt, entry in zip(chunk, self._prefill_pass(chunk), strict=True):
                found[prompt] = self._prompts[prompt] = entry
                self._prompt_bytes += entry[0].nbytes + entry[1].nbytes
        while self._prompt_bytes > PROMPT_CACHE_BYTES:
            kv, logits = self._prompts.popitem(last=False)[1]
            self._prompt_bytes -= kv.nbytes + logits.nbytes
        return found

    def _prefill_pass(self, prompts: list[tuple[int, ...]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        width = max(map(len, prompts))
        ids = torch.tensor([prompt + (0,) * (width - len(prompt)) for prompt in prompts])
        last = torch.tensor([len(prompt) - 1 for prompt in prompts])
        keep, column = last.unique(return_inverse=True)
        cache = DynamicCache()
        positions = torch.arange(width)[None]
        output = self.model(
            input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=keep
        )
        kv = torch.stack([states for layer in cache.layers for states in (layer.keys, layer.values)])
        logits = output.logits.double()[torch.arange(len(prompts)), column]
        return [(kv[:, row, :, : len(prompt)].clone(), logits[row].clone()) for row, prompt in enumerate(prompts)]

    def _decode(self) -> list[Request]:
        # the newest token of a row is not in the pool yet: this step writes it there
        lengths_B = torch.tensor([len(request.prompt) + len(request.token_ids) - 1 for request in self._running])
        output = self.model(
            input_ids=torch.tensor([request.token_ids[-1:] for request in self._running]),
            position_ids=lengths_B[:, None],
            attention_mask=self._pool.start_step(lengths_B),
            past_key_values=self._pool,
            use_cache=True,
        )
        self._take_tokens(self._running, output.logits[:, -1].double())
        finished = []
        for row in range(len(self._running) - 1, -1, -1):
            if self._running[row].finish_reason is not None:
                finished.append(self._running[row])
                last = self._running.pop()
                if row < len(self._running):  # close the gap with the last row
                    self._running[row] = last
                    self._pool.move(len(self._running), row)
        return finished

    def _take_tokens(self, requests: Sequence[Request], logits_BV: torch.Tensor) -> None:
        """Sample the next token of each request and note why it ends, if it does."""
        uniforms_B = [request.uniforms[len(request.token_ids)] for request in requests]
        tokens, log_probs = sample(logits_BV, [request.params for request in requests], uniforms_B)
        for request, token, log_prob in zip(requests, tokens, log_probs, strict=True):
            request.token_ids.append(token)
            request.log_probs.append(log_prob)
            if self._stops(request):
                request.finish_reason = "stop"
            elif len(request.token_ids) == request.params.max_tokens:
                request.finish_reason = "length"

    def _stops(self, request: Request) -> bool:
        params, token = request.params, request.token_ids[-1]
        if token in params.stop_token_ids or (token in self.eos_token_ids and not params.ignore_eos):
            return True
        if not params.stop:
            return False
        text = self.tokenizer.decode(request.token_ids, skip_special_tokens=True)
        return any(stop in text for stop in params.stop)
