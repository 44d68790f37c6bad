"""Build the embedded model of ``data_preprocess.toy``: tokenizer, warm start, gate. Offline, always the same bits.

A Llama of about 180,000 parameters learns in three phases: one-step facts, every role done right, every role with
mistakes (``data_preprocess.toy_lessons``). A gate then measures it on held-out problems: a warm start that did not take
is replaced by the next seed, because training cannot repair it. Our construction.

    python -m data_preprocess.toy_model --out data/toy/model
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ccpo.data import sha256
from ccpo.prompts import Messages
from ccpo.verifier import verify
from data_preprocess.folder import refuse_others, replace_folder
from data_preprocess.toy import Problem, draw_problems, thought_text
from data_preprocess.toy_lessons import (
    CLEAN,
    CLEAN_MIX,
    CORRUPT,
    CORRUPT_MIX,
    DYAD,
    VOTE,
    Lesson,
    Mistakes,
    RoleMix,
    draw_facts,
    draw_lesson,
    reason_messages,
    solo_messages,
    think_messages,
    vote_messages,
)

MANIFEST = "warm_start.json"
WEIGHTS = "model.safetensors"
PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Room for the reply of each role: an answer has no room for a step of its own.
THOUGHT_TOKENS = 16
ANSWER_TOKENS = 6
VOTE_TOKENS = 16

_IGNORED = -100  # label of a token that is not learned
_SEEDS_TRIED = 4
DEFAULT_SEED = 2  # of the seeds tried, the one nearest to the numbers wanted: joint .43, solo .37, perfect thought .8


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights besides the seed and the torch version."""

    hidden_size: int = 64
    layers: int = 3  # two did not learn the roles
    heads: int = 2
    ffn_size: int = 192
    initializer_range: float = 0.06  # at 0.1 a seed failed the gate
    drill_steps: int = 600  # at most
    drill_batch: int = 16
    drill_facts: int = 10  # per sequence
    drill_lr: float = 1.5e-3
    drill_target_loss: float = 0.05  # running mean at which the drill stops
    clean_steps: int = 600  # below 500, Reason may not learn to read: steps count here, not the batch
    corrupt_steps: int = 200
    role_batch: int = 32
    role_lr: float = 2e-3  # 3e-3 fails
    warmup_steps: int = 40
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    clean: Mistakes = CLEAN
    clean_mix: RoleMix = CLEAN_MIX
    corrupt: Mistakes = CORRUPT
    corrupt_mix: RoleMix = CORRUPT_MIX


class Gate(Protocol):
    """Measured numbers, a dataclass, that know whether they are good enough."""

    def failures(self) -> list[str]: ...


@dataclass(frozen=True)
class GateNumbers:
    """Accuracies on held-out problems, sampled at temperature 1."""

    joint: float  # Reason with Think's thought
    solo: float  # Reason without
    perfect_thought: float  # Reason with the perfect thought
    vote: float  # one voter
    good_thoughts: float  # share of Think's thoughts that are the perfect one

    def failures(self) -> list[str]:
        """Why training could not work from here; empty if it can."""
        found = []
        if self.perfect_thought < 0.7:
            found.append(f"Reason is right on {self.perfect_thought:.3f} of perfect thoughts, needs 0.7")
        if not 0.3 <= self.joint <= 0.6:
            found.append(f"joint accuracy {self.joint:.3f} is not within 0.3 to 0.6")
        return found


# --- tokenizer ------------------------------------------------------------------------------------------------------


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the task's own text.

    Digits, operators, line breaks and ``\\boxed{`` stand alone; a fixed phrase such as ``What is the last digit of ``
    is one token, so prompts stay short. Any other text falls back to bytes and round-trips.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\\boxed\{|[\d+*=()\n]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,  # more than the phrases need: training ends when every phrase is one token
        special_tokens=[PAD, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_text(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        additional_special_tokens=[TURN_START],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _tokenizer_text() -> Iterator[str]:
    """The task's texts, without the special tokens, which would merge into their neighbours."""
    rng = random.Random(0)
    yield "assistant"
    for problem in draw_problems("train", 400, rng):
        messages, reply = draw_lesson(problem, CORRUPT_MIX, CORRUPT, rng)
        yield reply
        for message in messages:
            yield from message.values()


# --- lessons to tensors ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """``input_ids`` and ``labels``, both [sequences, tokens], padded on the right."""

    input_ids: torch.Tensor
    labels: torch.Tensor


class Encoder:
    """Turns lessons into batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._equals = tokenizer.convert_tokens_to_ids("=")

    def prompts(self, conversations: Sequence[Messages]) -> list[str]:
        return self._tokenizer.apply_chat_template(list(conversations), tokenize=False, add_generation_prompt=True)

    def lessons(self, lessons: Sequence[Lesson], batch_size: int) -> list[Batch]:
        """Batches in the given order; only replies, with their end of turn, are learned."""
        prompts = self._ids(self.prompts([lesson.messages for lesson in lessons]))
        replies = self._ids([lesson.reply + TURN_END for lesson in lessons])
        rows = [
            (prompt + reply, [_IGNORED] * len(prompt) + reply) for prompt, reply in zip(prompts, replies, strict=True)
        ]
        return [self._batch(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]

    def facts(self, texts: Sequence[str]) -> Batch:
        """One batch; only the digit after each ``=`` is learned."""
        return self._batch([(row, self._results(row)) for row in self._ids(texts)])

    def _results(self, row: list[int]) -> list[int]:
        return [_IGNORED] + [token if before == self._equals else _IGNORED for before, token in pairwise(row)]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]

    def _batch(self, rows: Sequence[tuple[list[int], list[int]]]) -> Batch:
        length = max(len(ids) for ids, _ in rows)
        pad = self._tokenizer.pad_token_id
        return Batch(
            torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in rows]),
            torch.tensor([labels + [_IGNORED] * (length - len(labels)) for _, labels in rows]),
        )


# --- training -------------------------------------------------------------------------------------------------------


def new_model(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> LlamaForCausalLM:
    """An untrained model; its weights come from torch's global generator."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.ffn_size,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            head_dim=recipe.hidden_size // recipe.heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=recipe.initializer_range,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )


def warm_start(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> LlamaForCausalLM:
    """Train a new model with ``recipe``. The same arguments give the same bits on one machine and torch version."""
    with one_seeded_thread(seed):
        model = new_model(tokenizer, recipe)
        encoder, rng = Encoder(tokenizer), random.Random(seed)
        _drill(model, encoder, recipe, rng)
        _teach_roles(model, encoder, recipe, rng)
    return model.eval()


def _drill(model: LlamaForCausalLM, encoder: Encoder, recipe: Recipe, rng: random.Random) -> None:
    optimizer = new_optimizer(model, recipe)
    running_loss = None
    for step in range(recipe.drill_steps):
        batch = encoder.facts([draw_facts(recipe.drill_facts, rng) for _ in range(recipe.drill_batch)])
        loss = train_step(model, optimizer, batch, recipe, recipe.drill_lr * _warmup(step, recipe))
        running_loss = loss if running_loss is None else 0.9 * running_loss + 0.1 * loss
        if running_loss < recipe.drill_target_loss:
            break


def _teach_roles(model: LlamaForCausalLM, encoder: Encoder, recipe: Recipe, rng: random.Random) -> None:
    batches = [
        batch
        for steps, mix, mistakes in (
            (recipe.clean_steps, recipe.clean_mix, recipe.clean),
            (recipe.corrupt_steps, recipe.corrupt_mix, recipe.corrupt),
        )
        for batch in _role_batches(encoder, steps * recipe.role_batch, recipe.role_batch, mix, mistakes, rng)
    ]
    optimizer = new_optimizer(model, recipe)
    for step, batch in enumerate(batches):
        decay = max(0.05, 1 - step / len(batches))
        train_step(model, optimizer, batch, recipe, recipe.role_lr * _warmup(step, recipe) * decay)


def _role_batches(
    encoder: Encoder, count: int, batch_size: int, mix: RoleMix, mistakes: Mistakes, rng: random.Random
) -> list[Batch]:
    problems = draw_problems("train", count, rng)
    return encoder.lessons([draw_lesson(problem, mix, mistakes, rng) for problem in problems], batch_size)


def new_optimizer(model: LlamaForCausalLM, recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True)


def _warmup(step: int, recipe: Recipe) -> float:
    return min(1.0, (step + 1) / recipe.warmup_steps)


def train_step(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: Batch, recipe: Recipe, lr: float
) -> float:
    """One step on the mean loss of the learned tokens; returns that loss.

    No attention mask: attention is causal and padding is on the right. Logits are computed for learned tokens alone.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    hidden = model.model(input_ids=batch.input_ids[:, :-1], use_cache=False).last_hidden_state
    targets = batch.labels[:, 1:]
    learned = targets != _IGNORED
    loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[learned]), targets[learned])
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
    optimizer.step()
    return loss.item()


@contextmanager
def one_seeded_thread(seed: int) -> Iterator[None]:
    """One thread, because sums split over threads round differently; the caller's generator and threads come back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


# --- gate -----------------------------------------------------------------------------------------------------------


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, problem_count: int = 512, seed: int = 1
) -> GateNumbers:
    """Accuracies on ``problem_count`` held-out problems, the same ones for every model."""
    problems = draw_problems("test", problem_count, random.Random(0))

    def right(conversations: list[Messages], tokens: int) -> float:
        return accuracy(model, tokenizer, problems, conversations, tokens)

    with one_seeded_thread(seed):
        thoughts = sample(model, tokenizer, list(map(think_messages, problems)), THOUGHT_TOKENS)
        perfect = [thought_text(problem) for problem in problems]
        return GateNumbers(
            joint=right(list(map(reason_messages, problems, thoughts)), ANSWER_TOKENS),
            solo=right(list(map(solo_messages, problems)), ANSWER_TOKENS),
            perfect_thought=right(list(map(reason_messages, problems, perfect)), ANSWER_TOKENS),
            vote=right(list(map(vote_messages, problems)), VOTE_TOKENS),
            good_thoughts=sum(map(str.__eq__, thoughts, perfect)) / len(problems),
        )


def accuracy(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Problem],
    conversations: Sequence[Messages],
    max_new_tokens: int,
) -> float:
    """Share of right replies, one `sample` per conversation; each is about its problem."""
    replies = sample(model, tokenizer, conversations, max_new_tokens)
    rewards = [verify(reply, str(problem.answer)).reward for reply, problem in zip(replies, problems, strict=True)]
    return sum(rewards) / len(rewards)


def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Messages], max_new_tokens: int
) -> list[str]:
    """One reply per conversation, sampled at temperature 1 from torch's global generator."""
    prompts = Encoder(tokenizer).prompts(conversations)
    inputs = tokenizer(prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    output = model.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
    )
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


# --- model folder ---------------------------------------------------------------------------------------------------


def build(out: str | Path, seed: int = DEFAULT_SEED, recipe: Recipe | None = None) -> dict:
    """Write the model folder ``out`` and return its manifest, ``warm_start.json``. A complete folder is left alone.

    Seeds ``seed`` to ``seed + 3`` are tried until one passes the gate. Raises ValueError if ``out`` is something else
    than a model folder, RuntimeError if no seed passes.
    """
    recipe = recipe or Recipe()
    return write_first_passing(
        out,
        fingerprint=_fingerprint(recipe, seed),
        recipe=recipe,
        first_seed=seed,
        tokenizer=build_tokenizer,
        train=lambda tokenizer, seed: warm_start(tokenizer, recipe, seed),
        measure=lambda model, tokenizer: measure(model, tokenizer),
    )


def write_first_passing(
    out: str | Path,
    *,
    fingerprint: str,
    recipe: object,
    first_seed: int,
    tokenizer: Callable[[], PreTrainedTokenizerFast],
    train: Callable[[PreTrainedTokenizerFast, int], LlamaForCausalLM],
    measure: Callable[[LlamaForCausalLM, PreTrainedTokenizerFast], Gate],
) -> dict:
    """Write the folder of the first model that passes its gate, as `build` does; ``recipe``: a dataclass to note down."""
    out = Path(out)
    existing = _existing_manifest(out)
    if existing.get("fingerprint") == fingerprint and _complete(out, existing):
        print(f"{out} is complete: {existing['gate']}")
        return existing
    if existing:
        refuse_others(out, _ours(out))  # before the minutes of training
    made = tokenizer()
    model, found = _first_passing(first_seed, lambda seed: train(made, seed), lambda model: measure(model, made))
    manifest = {"fingerprint": fingerprint, **found, "recipe": asdict(recipe)}
    manifest["files"] = _save(out, model, made, manifest)
    print(f"wrote {out}: {manifest['gate']} in {manifest['seconds']} s")
    return manifest


def _first_passing(
    first_seed: int, train: Callable[[int], LlamaForCausalLM], measure: Callable[[LlamaForCausalLM], Gate]
) -> tuple[LlamaForCausalLM, dict]:
    started, cpu_started = time.perf_counter(), _cpu_seconds()
    for seed in range(first_seed, first_seed + _SEEDS_TRIED):
        model = train(seed)
        numbers = measure(model)
        if not (failures := numbers.failures()):
            return model, {
                "seed_asked": first_seed,
                "seed": seed,
                "gate": asdict(numbers),
                "seconds": round(time.perf_counter() - started, 1),
                "cpu_seconds": round(_cpu_seconds() - cpu_started, 1),
                "parameters": model.num_parameters(),
                "torch": torch.__version__,
            }
        print(f"seed {seed} failed the gate, trying the next one: {'; '.join(failures)}")
    raise RuntimeError(
        f"no warm start of seeds {first_seed} to {first_seed + _SEEDS_TRIED - 1} passed the gate, the last because "
        f"{'; '.join(failures)}; training from such a model teaches nothing: set another --seed or use the pinned torch"
    )


def _fingerprint(recipe: Recipe, seed: int) -> str:
    alone, told = frozenset({"question"}), frozenset({"question", "thought"})
    dyad = {"think": DYAD.of("think")[alone], "reason": DYAD.of("reason")[told], "solo": DYAD.of("reason")[alone]}
    facts = [asdict(recipe), seed, torch.__version__, dyad, VOTE.of("voter_0")[alone], CHAT_TEMPLATE]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _existing_manifest(out: Path) -> dict:
    """The manifest of ``out``, empty if there is nothing in it. Raises ValueError if it is not ours to replace."""
    if not out.exists() or not any(out.iterdir()):
        return {}
    if not (out / MANIFEST).exists():
        raise ValueError(f"{out} has files but no {MANIFEST}, so it is not ours to replace; set another --out")
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        dict(manifest), dict(manifest.get("files", {}))
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{out / MANIFEST} is damaged; set another --out, or delete that folder") from None
    return manifest


def _complete(out: Path, manifest: dict) -> bool:
    """Whether the files are as they were written. (The manifests of earlier versions have no checksums.)"""
    files = manifest.get("files", {})
    return (out / WEIGHTS).exists() and all(
        (out / name).is_file() and sha256((out / name).read_bytes()) == wanted for name, wanted in files.items()
    )


def _save(out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, manifest: dict) -> dict[str, str]:
    """Replace ``out`` as a whole, the manifest last; returns the checksums of the other files."""
    files: dict[str, str] = {}

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files.update({path.name: sha256(path.read_bytes()) for path in sorted(folder.iterdir())})
        text = json.dumps({**manifest, "files": files}, indent=2)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    replace_folder(out, _ours, write)
    return files


def _ours(out: Path) -> set[str]:
    """Names of the files in a model folder that may go."""
    manifest = _existing_manifest(out)
    named = manifest.get("files", [path.name for path in out.iterdir()] if manifest else [])
    return {*named, MANIFEST}


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the model of the embedded task last_digit. No network, no GPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; complete ones are left alone")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="first seed to try")
    arguments = parser.parse_args()
    build(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
