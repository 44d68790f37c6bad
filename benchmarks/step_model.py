"""A model of one training step: what it takes of each GPU's memory, and seconds. Plain arithmetic; `scaling.py` prints what it says.

P parameters, of which Q multiply (an input table that is not also the output layer does not); L layers, q width of all heads, c cache bytes
a token. G GPUs in nodes of 8, each B bytes/s and F flop/s; E = G / t engines of t GPUs. A step decodes D tokens, its longest session S of
them one after the other, reads H tokens as prompts, and trains T tokens in R rows.

    memory   verl_gpu/memory.py: an update with 16 P / G of state, and an engine with 2 P / t of weights beside the resting actor. t is the
             smallest of 1, 2, 4, 8 that fits. An actor that leaves no room waits in host memory
    waves    w = 1, or more where an engine's cache or MOST_REQUESTS does not hold all requests that want to run at once
    gen      S w (HOST_STEP + max(2 P / (t B STREAM), 2 Q r / (t F PRODUCTS)) + 2 L MEETING if t > 1)        r = D / (S w E) requests a step
             + HOST_REQUEST D / E + c (tokens before each decoded one, added) / (G B STREAM)
             + 2 Q H / (G F PRODUCTS) + GEN_ONCE + GEN_TURN turns
    update   z (n L LAUNCH + A (6 Q + 6 q L s) / (F PRODUCTS) + A TRAFFIC b / B) + 32 P / (G B STREAM) + links
             A = T / G tokens of the busiest GPU, at least one longest row; n = A / pack, rounded up; s = T / R; b = bytes that a token
             keeps for its gradient (memory.per_token); z = 4/3 with gradient checkpointing, else 1
    links    n 8 P (G - 1) / G bytes (bfloat16 weights gathered twice, float32 gradients scattered once) / LINK, less what HIDDEN of
             the arithmetic covers
    weights  SYNC_ONCE + 2 P / SYNC + 2 P (G - 1) / (G LINK)
    rows     on the one driver and its queue: ONCE + EACH R, of the advantages, of the rows' way to the update, of all else
    offload  24 P / (G HOST_LINK), to host memory and back, if the resting actor leaves an engine no room

Verdicts and credit are computed beside these or take no time: 2,800 verdicts a second and thread (docs/verifier.md), a million rows of
credit in a second (benchmarks/credit.py). Not modelled: engines that wait for a longer answer elsewhere, prefixes that sessions share, a
GPU that is slower than others, validation and checkpoints. Source: our construction; every constant says where it is from.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from any folder

from ccpo.config import CcpoConfig
from ccpo.team.plan import Plan, Spot
from ccpo.verl_gpu import memory
from ccpo.verl_gpu.memory import GIB, Shape

NODE = 8
ENGINE_SIZES = (1, 2, 4, 8)


class Constant(float):
    """A number of the model, what it is, and where it is from."""

    def __new__(cls, value: float, what: str, source: str, measured: bool = True) -> Constant:
        self = super().__new__(cls, value)
        self.what, self.source, self.measured = what, source, measured
        return self


def assumed(value: float, what: str, why: str) -> Constant:
    return Constant(value, what, why, measured=False)


ROLLOUT = "docs/scaling.md, A decode step: 128 and 256 requests"
ACTOR = "docs/scaling.md, The update: packs of 16,384 and 32,768"
STEP = "measured/steps.json, calibration"
QUEUE = "docs/scaling.md, A model of a step: 64 and 512 rows"

HOST_STEP = Constant(3.52e-3, "s a decode step: the engine's Python, short kernels", ROLLOUT)
HOST_REQUEST = Constant(1.0e-6, "s more for each request in it", ROLLOUT)
LAUNCH = Constant(8.6e-3, "s a pack and layer: kernels that wait to be launched", ACTOR)
TRAFFIC = Constant(12, "times its kept bytes that a token moves in an update", f"{ACTOR}, given PRODUCTS")
GEN_ONCE = Constant(0.3, "s a rollout: begin, end, engines put to sleep", f"{STEP}; GEN_TURN's part is a guess")
GEN_TURN = Constant(0.8e-3, "s more a turn", f"{STEP}; GEN_ONCE's part is a guess")
ADV_ONCE = Constant(0.035, "s of the advantages", QUEUE)
ADV_ROW = Constant(0.37e-3, "s more a row", STEP)
WAY_ONCE = Constant(0.02, "s of the rows' way to the update", QUEUE)
WAY_ROW = Constant(0.7e-3, "s more a row", STEP)
OTHER_ONCE = Constant(0.045, "s of all else on the driver", QUEUE)
OTHER_ROW = Constant(0.49e-3, "s more a row", STEP)
SYNC_ONCE = Constant(0.2, "s of a weight sync", STEP)
PRODUCTS = assumed(0.6, "of F that large matrix products reach", "usual for bfloat16")
STREAM = assumed(0.8, "of B that long reads reach", "usual")
SYNC = assumed(20e9, "bytes/s of weights from actor to engine", "only a small model was measured")
MEETING = assumed(15e-6, "s of an all-reduce in a decode step", "usual over NVLink")
NVLINK = assumed(360e9, "bytes/s of a GPU to others of its node", ".8 of 450 GB/s")
NETWORK = assumed(40e9, "bytes/s of a GPU to other nodes", ".8 of 400 Gb/s a GPU")
HIDDEN = assumed(0.5, "of the arithmetic's time hides gathers", "FSDP2 gathers a layer ahead")
HOST_LINK = assumed(40e9, "bytes/s between a GPU and host memory", ".6 of PCIe 5")


@dataclass(frozen=True)
class Gpu:
    name: str
    bytes: float  # as the driver says
    stream: float  # bytes a second
    flops: float  # bfloat16, dense


GPUS = {
    "h100": Gpu("H100 80GB", 79.2 * GIB, 3.35e12, 989e12),
    "h200": Gpu("H200 141GB", 139.0 * GIB, 4.8e12, 989e12),
}


@dataclass(frozen=True)
class Work:
    """What a step has to do, of all GPUs together.

    turns, rows:       decoded; of them, trained. prompt, response: their mean tokens.
    decode_steps:      tokens that the longest session decodes one after the other.
    at_once:           requests that want to run beside each other, at most.
    allowed, longest:  tokens of the longest row that the configuration allows, and of the longest one that comes.
    """

    turns: float
    rows: int
    prompt: float
    response: float
    decode_steps: int
    at_once: float
    allowed: int
    longest: int


def depths(plan: Plan) -> dict[Spot, int]:
    """Turn -> how many are spoken one after the other until it is."""
    found: dict[Spot, int] = {}
    for spot in plan.turns:  # in the order in which they are asked for
        found[spot] = 1 + max((found[heard] for heard in plan.hears[spot]), default=0)
    return found


def work_of(
    config: CcpoConfig, prompts: int, sessions: int, prompt: float, response: float, most: int, allowed: int
) -> Work:
    """The work of a team's step.

    Args:
        prompts, sessions: prompts a step, and sessions of each.
        prompt: tokens of a question in its template; a role that hears another also reads its answer.
        response, most: tokens of a turn, mean and longest.
        allowed: tokens of a row that the configuration allows.
    """
    plan = config.plan
    depth = depths(plan)
    replays = [plan.replay(do.how, do.role) for j in range(sessions) for do in config.replays(j, sessions, False)]
    own, again = prompts * sessions * plan.rows, prompts * sum(replay.decodes for replay in replays)
    heard = sum(map(len, plan.hears.values())) / len(plan.turns)
    widest = max(list(depth.values()).count(level) for level in depth.values())
    return Work(
        turns=own + again,
        rows=prompts * config.rows_per_prompt(sessions),
        prompt=prompt + heard * response,
        response=response,
        decode_steps=most * max(depth.values()),
        at_once=prompts * sessions * widest + again,
        allowed=allowed,
        longest=min(allowed, round(prompt + heard * response + most)),
    )


@dataclass(frozen=True)
class Memory:
    """How a model lies on each GPU, at least, in bytes. ``missing``: what does not fit, empty if all does."""

    learns: float
    decodes: float
    size: int  # GPUs of an engine
    cache: float  # tokens of an engine's cache
    pack: int
    checkpointing: bool
    offload: bool
    missing: str


def engine_sizes(gpus: int) -> list[int]:
    return [size for size in ENGINE_SIZES if size <= gpus]


def fit(shape: Shape, gpu: Gpu, gpus: int, work: Work, size: int | None = None) -> Memory:
    """The settings that verl_plugin/fit.py would choose. ``size``: GPUs of an engine; None: the fewest that it fits."""
    room = memory.room(gpu.bytes)
    checkpointing = memory.needs_checkpointing(shape, gpus, room, work.allowed)
    pack = memory.chosen_pack(shape, gpus, room, checkpointing, work.allowed)
    learns = memory.update(shape, gpus, work.allowed, True)

    def engine(size: int) -> float:
        return memory.engine(shape, size, memory.FEW_ROWS * work.allowed)

    resting = memory.resting(shape, gpus)
    sizes = [size] if size else engine_sizes(gpus)
    beside = [t for t in sizes if resting + engine(t) <= room]
    alone = [t for t in sizes if engine(t) <= room]
    size, offload = (beside or alone or sizes[-1:])[0], not beside
    if offload:
        resting = 0.0
    cache = max(0.0, room - resting - 2 * shape.parameters / size - memory.WORKSPACE) * size / shape.kv
    missing = "update" if learns > room else "" if alone else "engine"
    return Memory(
        learns + memory.OUTSIDE,
        resting + engine(size) + memory.OUTSIDE,
        size,
        cache,
        pack,
        checkpointing,
        offload,
        missing,
    )


def multiplying(shape: Shape) -> float:
    """Parameters that take part in a product for each token."""
    layer = 2 * shape.hidden * (shape.query + shape.key) + 3 * shape.hidden * shape.inner
    return shape.layers * layer + shape.vocabulary * shape.hidden


def seconds(shape: Shape, gpu: Gpu, gpus: int, work: Work, size: int | None = None) -> dict[str, float]:
    """ "verl's part/cause" -> seconds; they add up to the step."""
    found = fit(shape, gpu, gpus, work, size)
    link = NVLINK if gpus <= NODE else NETWORK
    others = (gpus - 1) / gpus
    return {
        **decoding(shape, gpu, gpus, work, found),
        **learning(shape, gpu, gpus, work, found, others / link),
        "update_weights/sync": SYNC_ONCE + 2 * shape.parameters * (1 / SYNC + others / link),
        "update_weights/offload": found.offload * 2 * memory.resting(shape, gpus) / HOST_LINK,
        "adv/rows": ADV_ONCE + ADV_ROW * work.rows,
        "other/rows": OTHER_ONCE + OTHER_ROW * work.rows,
    }


def decoding(shape: Shape, gpu: Gpu, gpus: int, work: Work, found: Memory) -> dict[str, float]:
    engines = gpus // found.size
    tokens = work.turns * work.response
    most = max(1.0, min(memory.MOST_REQUESTS, found.cache / (work.prompt + work.response)))
    steps = work.decode_steps * max(1.0, work.at_once / engines / most)
    requests = tokens / (steps * engines)
    reading = 2 * shape.parameters / (found.size * gpu.stream * STREAM)
    products = 2 * multiplying(shape) * requests / (found.size * gpu.flops * PRODUCTS)
    seen = tokens * (work.prompt + work.response / 2)
    prefill = 2 * multiplying(shape) * work.turns * work.prompt
    return {
        "gen/host": steps * HOST_STEP + HOST_REQUEST * tokens / engines,
        "gen/weights": steps * reading,
        "gen/products": steps * max(0.0, products - reading),
        "gen/meetings": steps * 2 * shape.layers * MEETING * (found.size > 1),
        "gen/cache": shape.kv * seen / (gpus * gpu.stream * STREAM),
        "gen/prompts": prefill / (gpus * gpu.flops * PRODUCTS),
        "gen/sessions": GEN_ONCE + GEN_TURN * work.turns,
    }


def learning(shape: Shape, gpu: Gpu, gpus: int, work: Work, found: Memory, per_byte: float) -> dict[str, float]:
    """``per_byte``: seconds of the links for a byte of the whole model."""
    row = work.prompt + work.response
    tokens = max(work.rows * row / gpus, work.longest)
    packs = math.ceil(tokens / found.pack)
    passes = 4 / 3 if found.checkpointing else 1
    flops = 6 * multiplying(shape) + 6 * shape.query * shape.layers * row
    kept = memory.per_token(shape, False)
    arithmetic = passes * tokens * (flops / (gpu.flops * PRODUCTS) + TRAFFIC * kept / gpu.stream)
    gathers = packs * 8 * shape.parameters * per_byte
    return {
        "update_actor/arithmetic": arithmetic,
        "update_actor/launches": passes * packs * shape.layers * LAUNCH,
        "update_actor/links": max(0.0, gathers - HIDDEN * arithmetic),
        "update_actor/optimizer": 2 * memory.state(shape, gpus) / (gpu.stream * STREAM),
        "update_actor/rows": WAY_ONCE + WAY_ROW * work.rows,
    }


CAUSES = {  # of the parts of `seconds`: what it is, and what makes it smaller
    "host": (
        "decoding: the engines' host",
        "more sessions a step (data.train_batch_size): a decode step takes nearly the same time; shorter answers",
    ),
    "weights": (
        "decoding: reading weights",
        "engines of more GPUs (actor_rollout_ref.rollout.tensor_model_parallel_size), or more sessions a step (data.train_batch_size)",
    ),
    "products": ("decoding: arithmetic", "more GPUs (N_GPUS), or fewer sessions"),
    "meetings": (
        "decoding: GPUs of an engine",
        "fewer GPUs an engine (actor_rollout_ref.rollout.tensor_model_parallel_size)",
    ),
    "cache": ("decoding: reading the cache", "more GPUs (N_GPUS), shorter prompts and answers"),
    "prompts": ("decoding: reading prompts", "more GPUs (N_GPUS), shorter prompts"),
    "sessions": ("decoding: agent loops", "more of them (actor_rollout_ref.rollout.agent.num_workers)"),
    "arithmetic": ("update: arithmetic", "more GPUs (N_GPUS)"),
    "launches": (
        "update: launches",
        "larger packs (actor_rollout_ref.actor.ppo_max_token_len_per_gpu), or more sessions if a GPU has one pack",
    ),
    "links": (
        "update: links between GPUs",
        "more sessions a step, larger packs, or weights gathered inside a node (actor_rollout_ref.actor.fsdp_config.fsdp_size=8)",
    ),
    "optimizer": ("update: optimizer", "more GPUs (N_GPUS)"),
    "sync": ("weights to the engines", "more sessions a step, so that it comes less often"),
    "offload": ("actor to host memory", "more GPUs (N_GPUS)"),
    "rows": (
        "rows through the driver",
        "fewer and longer rows; transfer_queue.backend.SimpleStorage.num_data_storage_units",
    ),
}


def causes(parts: dict[str, float]) -> dict[str, float]:
    """Cause -> seconds, the largest first."""
    found: dict[str, float] = dict.fromkeys(CAUSES, 0.0)
    for name, value in parts.items():
        found[name.partition("/")[2]] += value
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def by_part(parts: dict[str, float]) -> dict[str, float]:
    """verl's part -> seconds, as metrics.jsonl has them, and the whole step."""
    found: dict[str, float] = {}
    for name, value in parts.items():
        part = name.partition("/")[0]
        found[part] = found.get(part, 0.0) + value
    return found | {"step": sum(parts.values())}
