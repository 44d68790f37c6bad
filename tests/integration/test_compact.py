"""The compact trainer: the rows, the credit and the gradient of the verl trainer, and two runs with the same bits."""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transfer_queue as tq  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla  # noqa: E402
from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler  # noqa: E402
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ  # noqa: E402
from verl.utils import tensordict_utils as tu  # noqa: E402
from verl.utils.config import omega_conf_to_dataclass  # noqa: E402
from verl.utils.dataset.rl_dataset import collate_fn  # noqa: E402
from verl.workers.rollout.replica import TokenOutput  # noqa: E402

from ccpo.compact import Settings, rollout, train  # noqa: E402
from ccpo.compact.budget import UNITS, Budget, costs  # noqa: E402
from ccpo.compact.likelihood import likelihoods  # noqa: E402
from ccpo.compact.policy import Policy  # noqa: E402
from ccpo.compact.rollout import play_rows  # noqa: E402
from ccpo.compact.signal import ALL, Moments, Signal  # noqa: E402
from ccpo.compact.train import dataset, prompt_batches, prompts_of, to_sessions, trained_turns  # noqa: E402
from ccpo.compact.update import TrainedTurn, policy_loss, update  # noqa: E402
from ccpo.config import ConfigError  # noqa: E402
from ccpo.step import compute_advantages  # noqa: E402
from ccpo.team.session import TeamError  # noqa: E402
from ccpo.verl_cpu.generation import SamplingParams  # noqa: E402
from ccpo.verl_plugin import agent_loops, reference  # noqa: E402
from ccpo.verl_plugin import rows as step_rows  # noqa: E402
from data_preprocess import silence, toy  # noqa: E402
from data_preprocess.schema import write_dataset  # noqa: E402

ROOT = Path(__file__).parents[2]
MODELS = {"last_digit": "last_digit_model", "silence": "silence_voter"}
CHAIN = ("ccpo.credit.rule=likelihood", "ccpo.credit.reference_after=chain")
JOBS = {
    "dyad": ("last_digit", "ccpo_dyad", ()),
    "replays": (
        "last_digit",
        "ccpo_dyad",
        (
            "ccpo.credit.train_replays=true",
            "+ccpo.roles.think={max_tokens: 4, temperature: 0.8}",
            "+ccpo.roles.reason={max_tokens: 3, stop: ['}']}",  # an answer ends where it would be cut
        ),
    ),
    "likelihood": ("last_digit", "ccpo_dyad", ("ccpo.credit.rule=likelihood",)),
    "chain": ("last_digit", "ccpo_dyad", CHAIN),
    "silence": ("silence", "ccpo_vote", (*silence.OVERRIDES["vote"], "ccpo.credit.rule=resampled")),
}
Worker = AgentLoopWorkerTQ.__ray_metadata__.modified_class


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """task -> folder with a few rows"""
    folder = tmp_path_factory.mktemp("data")
    for name, module in (("last_digit", toy), ("silence", silence)):
        rows = {split: module.dataset_rows(split, count, seed=0) for split, count in (("train", 9), ("test", 3))}
        write_dataset(folder / name, rows, name=name)
    return folder


@pytest.fixture(scope="module")
def job(compose, data):
    """job(name, *overrides) -> the composed configuration"""

    def make(name: str, *overrides: str):
        task, file, own = JOBS[name]
        sizes = {
            "actor_rollout_ref.model.path": ROOT / "data_preprocess" / MODELS[task],
            "actor_rollout_ref.rollout.n": 3,
            "data.train_batch_size": 4,
            "data.train_files": data / task / "train.parquet",
            "data.val_files": data / task / "test.parquet",
            "trainer.total_training_steps": 3,
            "trainer.test_freq": 2,
        }
        listed = [f"{key}={value}" for key, value in sizes.items()]
        return compose("profile=cpu", f"task={task}", *own, *listed, *overrides, name=file)

    return make


@pytest.fixture(scope="module")
def plainly(job):
    """What the dyad's job logs when nothing is asked of it beside its training."""
    return entries_of(job("dyad"))


def plain(config) -> dict:
    names = ("actor_rollout_ref", "algorithm", "ccpo", "data", "trainer")
    return {name: OmegaConf.to_container(config[name], resolve=True) for name in names}


def players(settings: Settings) -> dict[str, Policy]:
    listed = settings.ccpo.policy_list()
    return {
        role: policy
        for one in listed
        for policy in [Policy(one.name, one.model or settings.model, settings)]
        for role in one.roles
    }


class Server:
    """A rollout server that samples as the CPU profile's does."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        params = SamplingParams.from_dict(sampling_params, 16, self.policy.room - len(prompt_ids))
        request = self.policy.sampler.add(prompt_ids, params)
        while request.finish_reason is None:
            self.policy.sampler.step()
        return TokenOutput(
            token_ids=request.token_ids,
            log_probs=request.log_probs,
            stop_reason="completed",
            extra_fields={"global_steps": 1, "min_global_steps": 1, "max_global_steps": 1},
        )


def by_agent_loop(config, server: Server, split: str, step: int, monkeypatch) -> list[tuple[step_rows.Row, list, list]]:
    """(row, prompt token ids, response token ids) that verl's agent loop worker puts into TransferQueue, in canonical order."""
    config = copy.deepcopy(config)
    config.actor_rollout_ref.model.external_lib = None  # patches torch for CPU workers; nothing of it is needed here
    config.actor_rollout_ref.rollout.agent.agent_loop_config_path = str(ROOT / "recipe/config/agent_loops.yaml")
    put = []

    async def keep(keys, fields, tags, partition_id):
        put.extend((key, fields[i]) for i, key in enumerate(keys))

    async def status(key, partition_id, tag):
        assert tag["status"] != "failure"

    monkeypatch.setattr(tq, "init", lambda *args: None)
    monkeypatch.setattr(tq, "async_kv_put", status)
    monkeypatch.setattr(tq, "async_kv_batch_put", keep)
    monkeypatch.setattr(agent_loops, "_PARSED", {})

    async def main():
        worker = Worker(config, llm_client=None)
        worker.llm_client = server
        path = config.data.train_files if split == "train" else config.data.val_files
        rows = create_rl_dataset(path, config.data, worker.tokenizer, None, is_train=split == "train")
        columns = collate_fn([rows[i] for i in range(len(rows))])
        columns["uid"] = np.array([f"uid{i}" for i in range(len(rows))], dtype=object)
        batch = tu.get_tensordict(columns)
        tu.assign_non_tensor_data(batch, "global_steps", step)
        if split == "test":
            tu.assign_non_tensor_data(batch, "validate", True)
        await worker.generate_sequences(batch)
        await asyncio.gather(*worker.background_tasks)

    asyncio.run(main())
    found = []
    for key, fields in put:
        uid, session, index = key.rsplit("_", 2)
        facts = getattr(fields["ccpo"], "data", fields["ccpo"])
        row = step_rows.Row(key, uid, int(session), int(index), dict(facts))
        found.append((row, fields["prompts"].tolist(), fields["responses"].tolist()))
    return sorted(found, key=lambda one: one[0].order)


@pytest.mark.parametrize("name", JOBS)
def test_rows_and_advantages_are_the_agent_loops(job, name, monkeypatch):
    config = job(name)
    settings = Settings.of(plain(config))
    policies = players(settings)
    listed = by_agent_loop(config, Server(next(iter(policies.values()))), "train", 5, monkeypatch)
    rows = [row for row, _, _ in listed]
    theirs = step_rows.to_sessions(rows, settings.ccpo.plan.roles, settings.ccpo.plan.tie)
    played = play_rows(dataset(settings.train_files, "train"), policies, settings, 5, validating=False)
    mine = to_sessions(played, settings)
    records = [row.facts["session"] for row in rows if row.facts["session"] is not None]
    assert [asdict(replace(one.record, session=0)) for one in played] == records
    if settings.ccpo.reads_reference:
        scored = likelihoods(played, policies["reason"])
        plainly = by_plain_passes(rows, policies["reason"].model)
        for column, values in scored.items():
            np.testing.assert_allclose(values, plainly[column], atol=1e-5)
        assert np.isnan(scored["behind_S"]).all() == (name == "likelihood")
        mine, theirs = replace(mine, **scored), replace(theirs, **scored)
    result = compute_advantages(mine, settings.ccpo.step_settings)
    credited = compute_advantages(theirs, settings.ccpo.step_settings)
    advantage, answer = (of(rows, theirs, credited) for of in (step_rows.advantages, step_rows.answers))
    wanted = []
    for row, prompt, said in listed:
        first, later = answer.get(row.key, (len(said), 0.0))
        wanted.append((row.role, tuple(prompt), tuple(said[:first]), advantage[row.key]))
        if row.key in answer:
            wanted.append((row.role, (*prompt, *said[:first]), tuple(said[first:]), later))
    assert len(answer) == (np.isfinite(scored["behind_S"]).sum() if name == "chain" else 0)
    turns = trained_turns(played, mine, result, settings)
    assert [(role, turn.prompt, turn.response, turn.advantage) for _, role, turn in turns] == wanted
    assert [prompt for prompt, _, _ in turns] == sorted(prompt for prompt, _, _ in turns)
    cost = costs(played)
    decodes = sum(replay["decoded"] for record in records for replay in record["replays"])
    assert cost["ccpo/generations"] == sum(len(record["turns"]) for record in records) + decodes
    assert cost["ccpo/replay_generations"] == decodes
    if name == "replays":  # all that is decoded is a row of the agent loop's
        assert cost["ccpo/generated_tokens"] == sum(len(said) for _, _, said in listed) and cost["ccpo/replay_tokens"]
    else:
        assert cost["ccpo/generated_tokens"] - cost["ccpo/replay_tokens"] == sum(len(said) for _, _, said in listed)
    assert len(wanted) > 50 and any(one[-1] for one in wanted)
    cut = {turn["role"] for record in records for turn in record["turns"] if turn["truncated"]}
    assert cut == ({"think"} if name == "replays" else set())


def by_plain_passes(rows: list[step_rows.Row], model) -> dict[str, np.ndarray]:
    """What `likelihoods` tells, of what the agent loop would have the actor score."""
    pairs, of_T, of_S = reference.distinct(rows)
    columns, found = reference.columns(pairs), []
    for ids, said in zip(columns["input_ids"].unbind(), columns["responses"].unbind(), strict=True):
        with torch.no_grad():
            logits = model(ids[None]).logits[0, -len(said) - 1 : -1].double()
        found.append(float(logits.log_softmax(-1).gather(-1, said[:, None]).sum().exp()))
    assert 0 < min(found) < 0.2 < 0.5 < max(found) < 1 and len(pairs) < len(of_T) + len(of_S)
    known = [row.facts["reference"] for row in rows if row.facts["reference"] is not None]
    said = [facts["behind"] is not None and facts["behind"]["said"] for facts in known]
    scores = np.array([*found, np.nan])
    return {"likelihood_T": scores[of_T], "behind_S": scores[of_S], "said_S": np.array(said)}


def test_the_last_speaker_may_be_trained_on_the_reference(job):
    settings = Settings.of(plain(job("likelihood", "ccpo.credit.last_gradient=exact")))
    policies = players(settings)
    played = play_rows(dataset(settings.train_files, "train"), policies, settings, 1, validating=False)
    mine = replace(to_sessions(played, settings), **likelihoods(played, policies["reason"]))
    turns = trained_turns(played, mine, compute_advantages(mine, settings.ccpo.step_settings), settings)
    tokenizer = policies["reason"].tokenizer
    wanted = [f"{one.row['extra_info']['reference']}<|im_end|>" for one in played]
    assert [tokenizer.decode(turn.response) for _, role, turn in turns if role == "reason"] == wanted
    assert all(turn.advantage > 0 for _, role, turn in turns if role == "reason")
    said = [tokenizer.decode(turn.response) for _, role, turn in turns if role == "think"]
    assert said == [one.played.turns[0].text + "<|im_end|>" for one in played]


def test_likelihood_trains_and_rows_without_references_are_named(job, tmp_path):
    for options in ((), ("ccpo.credit.last_gradient=exact", "ccpo.policies=per_role"), CHAIN[1:]):
        entries = entries_of(job("likelihood", *options))
        steps = [entry["metrics"] for entry in entries if entry["kind"] == "train"]
        assert len(steps) == 3 and all(0 < found["ccpo/credit/likelihood_alone"] < 1 for found in steps)
    rows = toy.dataset_rows("train", 5, seed=0)
    for row in rows:
        del row["extra_info"]["reference"]
    write_dataset(tmp_path / "bare", {"train": rows}, name="bare")
    with pytest.raises(ValueError, match="the training row 0 of toy/last_digit: no extra_info.reference"):
        entries_of(job("likelihood", f"data.train_files={tmp_path}/bare/train.parquet"))
    for row in rows:
        row["extra_info"]["reference"] = f"The answer is {row['reward_model']['ground_truth']}"
    write_dataset(tmp_path / "words", {"train": rows}, name="words")
    with pytest.raises(
        ValueError, match="reference_after=chain keeps what reason says up to there: where another answer"
    ):
        entries_of(job("chain", f"data.train_files={tmp_path}/words/train.parquet"))


def test_validation_is_the_agent_loops(job, monkeypatch):
    config = job("dyad")
    settings = Settings.of(plain(config))
    policies = players(settings)
    listed = by_agent_loop(config, Server(next(iter(policies.values()))), "test", 0, monkeypatch)
    played = play_rows(dataset(settings.val_files, "test"), policies, settings, 0, validating=True)
    records = [row.facts["session"] for row, _, _ in listed if row.facts["session"] is not None]
    assert [asdict(one.record) for one in played] == records
    assert {replay["how"] for record in records for replay in record["replays"]} == {"remove", "replace"}


def test_prompts_come_in_verls_order(job):
    config = job("dyad")
    rows = [{"number": i} for i in range(9)]
    batches = prompt_batches(rows, Settings.of(plain(config)))
    sampler = create_rl_sampler(config.data, rows)
    loader = StatefulDataLoader(rows, batch_size=4, drop_last=True, sampler=sampler, collate_fn=list)
    for _ in range(3):  # passes
        for wanted in loader:
            assert next(batches) == wanted


# --- the update -------------------------------------------------------------------------------------------------------


def turns_of(model, count: int = 7) -> list[TrainedTurn]:
    """Turns of any length, some with one prompt, one without advantage."""
    generator = torch.Generator().manual_seed(1)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, model.config.vocab_size, (length,), generator=generator).tolist())

    prompts = [ids(9), ids(4), ids(13)]
    lengths = [1, 5, 2, 8, 8, 3, 6][:count]
    advantages = [0.5, -1.25, 0.0, 2.0, -0.75, 1.0, -0.1]
    return [TrainedTurn(prompts[i % 3], ids(n), a) for i, (n, a) in enumerate(zip(lengths, advantages, strict=False))]


def by_verl(
    model, turns: list[TrainedTurn], config, temperature: float, later: dict[int, tuple[int, float]] | None = None
) -> torch.Tensor:
    """verl's loss, every turn encoded by itself. ``later``: number of a turn -> (token, its advantage from there on)."""
    longest = max(len(turn.response) for turn in turns)
    log_prob, advantages, mask = (torch.zeros(len(turns), longest) for _ in range(3))
    for row, turn in enumerate(turns):
        ids = torch.tensor([[*turn.prompt, *turn.response]])
        logits = model(input_ids=ids).logits[0, len(turn.prompt) - 1 : -1] / temperature
        own = logits.log_softmax(-1).gather(-1, torch.tensor(turn.response)[:, None])[:, 0]
        log_prob[row, : len(own)] = own
        advantages[row, : len(own)] = turn.advantage
        if later and row in later:
            first, advantage = later[row]
            advantages[row, first : len(own)] = advantage
        mask[row, : len(own)] = 1
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    actor.global_batch_info["dp_size"] = 1
    actor.global_batch_info["batch_num_tokens"] = mask.sum()
    loss, _ = compute_policy_loss_vanilla(
        old_log_prob=log_prob.detach(),
        log_prob=log_prob,
        advantages=advantages,
        response_mask=mask,
        loss_agg_mode="token-mean",
        config=actor,
    )
    return loss


@pytest.mark.parametrize("count", [7, 1])  # 1: a single token
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_loss_and_its_gradient_are_verls(job, count, temperature):
    config = job("dyad")
    model = AutoModelForCausalLM.from_pretrained(config.actor_rollout_ref.model.path, dtype=torch.float32)
    turns = turns_of(model, count)
    gradients, losses = [], (policy_loss(model, turns, temperature), by_verl(model, turns, config, temperature))
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for loss in losses:
        model.zero_grad()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    mine, theirs = gradients
    assert theirs.norm() > 0.01
    assert (mine - theirs).norm() < 1e-5 * theirs.norm()


def test_a_turn_cut_at_its_border_is_a_row_with_two_advantages(job):
    config = job("chain")
    model = AutoModelForCausalLM.from_pretrained(config.actor_rollout_ref.model.path, dtype=torch.float32)
    turns, later = turns_of(model), {1: (2, 0.75), 3: (7, -0.5)}
    split = []
    for number, turn in enumerate(turns):
        if number not in later:
            split.append(turn)
            continue
        first, advantage = later[number]
        kept, rest = turn.response[:first], turn.response[first:]
        split += [replace(turn, response=kept), TrainedTurn((*turn.prompt, *kept), rest, advantage)]
    gradients = []
    for loss in (policy_loss(model, split), by_verl(model, turns, config, 1.0, later)):
        model.zero_grad()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()


def test_a_batch_without_advantages_moves_by_momentum_alone(job):
    settings = Settings.of(plain(job("dyad")))
    policy = Policy("shared", settings.model, settings)
    turns = turns_of(policy.model)
    nothing = [replace(turn, advantage=0.0) for turn in turns]
    before = [p.detach().clone() for p in policy.model.parameters()]
    assert update(policy, nothing) == {"loss": 0.0, "grad_norm": 0.0, "skipped": 0.0}
    assert all(map(torch.equal, before, policy.model.parameters()))
    update(policy, turns)
    after = [p.detach().clone() for p in policy.model.parameters()]
    update(policy, nothing)
    assert not all(map(torch.equal, after, policy.model.parameters()))


def test_a_gradient_that_is_not_finite_is_no_step(job):
    settings = Settings.of(plain(job("dyad")))
    policy = Policy("shared", settings.model, settings)
    before = [p.detach().clone() for p in policy.model.parameters()]
    bad = [replace(turn, advantage=float("inf")) for turn in turns_of(policy.model)]
    assert update(policy, bad)["skipped"] == 1.0
    assert all(map(torch.equal, before, policy.model.parameters()))


# --- signal and noise of the gradient ---------------------------------------------------------------------------------


def flat_gradient(model, loss: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in found]).double()


def test_signal_and_noise_are_unbiased_over_all_batches_of_three():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0], [3.0, -1.0]])
    chance = [0.1, 0.2, 0.3, 0.4]
    mean = sum(p * vector for p, vector in zip(chance, vectors, strict=True))
    spread = sum(p * float((vector - mean) @ (vector - mean)) for p, vector in zip(chance, vectors, strict=True))
    signal = noise = naive = 0.0
    for batch in itertools.product(range(4), repeat=3):
        moments, weight = Moments(), math.prod(chance[i] for i in batch)
        for i in batch:
            moments.add(vectors[i])
        signal, noise = signal + weight * moments.squared_mean, noise + weight * moments.variance
        naive += weight * float(moments.total @ moments.total) / 9
    assert signal == pytest.approx(float(mean @ mean)) and noise == pytest.approx(spread)
    assert naive == pytest.approx(signal + noise / 3), "what cross terms avoid"


@dataclass
class Player:
    name: str
    model: Any
    temperature: float = 1.0


def test_the_expected_signal_of_a_small_team_is_the_squared_gradient_of_its_value():
    """One role, two prompts, answers of one token, paid 1 for token 2 or 3: every batch of two prompts is enumerated."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, attn_implementation="sdpa"
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    player, prompts = Player("all", model), [(0, 1, 4), (3,)]
    value, cases = 0.0, []  # (probability, prompt, turn)
    for prompt in prompts:
        chance_V = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        value = value + (chance_V[2] + chance_V[3]) / 2
        for token, chance in enumerate(chance_V.tolist()):
            cases.append((chance / 2, TrainedTurn(prompt, (token,), float(token in (2, 3)))))
    exact = flat_gradient(model, value)
    signal = noise = step = 0.0
    for (p, one), (q, other) in itertools.product(cases, repeat=2):
        found = Signal()
        found.add([0, 1], [(0, "solver", one), (1, "solver", other)], {"solver": player})
        metrics = found.metrics()
        assert metrics["ccpo/signal/solver"] == metrics["ccpo/signal/all"]
        signal += p * q * metrics["ccpo/signal/solver"]
        noise += p * q * metrics["ccpo/noise/solver"]
        gradient = -flat_gradient(model, policy_loss(model, [one, other])) if one.advantage or other.advantage else 0.0
        step += p * q * float(((gradient - exact) ** 2).sum())
    assert float(exact @ exact) > 1e-3 and signal == pytest.approx(float(exact @ exact), rel=1e-4)
    assert noise == pytest.approx(step, rel=1e-4), "the variance of a step's gradient"


@pytest.mark.parametrize("policies", ["shared", "per_role"])
def test_signal_and_noise_are_those_of_verls_loss_on_the_same_rows(job, policies):
    config = job("dyad", "ccpo.credit.rule=removal", f"ccpo.policies={policies}")
    settings = Settings.of(plain(config))
    players_ = players(settings)
    played = play_rows(dataset(settings.train_files, "train")[:4], players_, settings, 1, validating=False)
    mine = to_sessions(played, settings)
    turns = trained_turns(played, mine, compute_advantages(mine, settings.ccpo.step_settings), settings)
    found = Signal()
    found.add(prompts_of(played), turns, players_)
    prompts, roles = prompts_of(played), list(players_)
    parts = {}
    for role, policy in players_.items():
        own = [(prompt, who, turn) for prompt, who, turn in turns if players_[who] is policy]
        for prompt in prompts:  # verl's loss of the whole step, with the other rows' advantages at 0
            rows = [
                replace(turn, advantage=turn.advantage if (at, who) == (prompt, role) else 0.0) for at, who, turn in own
            ]
            parts[prompt, role] = len(prompts) * flat_gradient(policy.model, by_verl(policy.model, rows, config, 1.0))

    def check(name: str, vectors: list[torch.Tensor]) -> None:
        n, stacked = len(vectors), torch.stack(vectors)
        products = stacked @ stacked.T
        signal = float(products.sum() - products.trace()) / (n * (n - 1))
        noise = float(((stacked - stacked.mean(0)) ** 2).sum()) / (n - 1) / n
        assert found.metrics()[f"ccpo/signal/{name}"] == pytest.approx(signal, rel=1e-3, abs=1e-5 * noise)
        assert found.metrics()[f"ccpo/noise/{name}"] == pytest.approx(noise, rel=1e-4) and noise > 0

    for role in roles:
        check(role, [parts[prompt, role] for prompt in prompts])
    whole = torch.add if policies == "shared" else lambda a, b: torch.cat([a, b])
    check(ALL, [whole(*(parts[prompt, role] for role in roles)) for prompt in prompts])


def test_measuring_changes_no_bit_of_training(job, plainly):
    settings = Settings.of(plain(job("dyad")))
    measured = list(train(settings, signal_batches=2, signal_every=2))
    start = [entry for entry in measured if entry["kind"] == "start"]
    assert [entry["step"] for entry in start] == [0]
    assert set(start[0]["metrics"]) == {
        f"ccpo/{what}/{who}" for what in ("signal", "noise") for who in ("think", "reason", "all")
    }
    added = set(start[0]["metrics"])
    steps = [entry["step"] for entry in measured if entry["kind"] == "train" and added & set(entry["metrics"])]
    assert steps == [2]
    without = [
        entry | {"metrics": {name: value for name, value in entry["metrics"].items() if name not in added}}
        for entry in measured
        if entry["kind"] != "start"
    ]
    assert without == plainly


def test_a_step_of_one_prompt_has_no_pairs(job):
    settings = Settings.of(
        plain(job("dyad", "data.train_batch_size=1", "actor_rollout_ref.actor.ppo_mini_batch_size=1"))
    )
    entries = list(train(replace(settings, steps=1), signal_batches=1, signal_every=1))
    assert not any(name.startswith("ccpo/signal/") for entry in entries for name in entry["metrics"])


# --- a budget ---------------------------------------------------------------------------------------------------------


def spent(entries: list[dict], unit: str) -> list[float]:
    return [entry["metrics"][UNITS[unit]] for entry in entries if entry["kind"] == "train"]


@pytest.mark.parametrize("unit", UNITS)
def test_a_budget_ends_training_before_the_step_that_would_pass_it(job, plainly, unit):
    settings = Settings.of(plain(job("dyad")))
    budget = sum(spent(plainly, unit))
    assert list(train(settings, budget=Budget(unit, budget))) == plainly, "what it takes by itself"
    fewer = list(train(settings, budget=Budget(unit, budget - 1)))
    assert fewer[:4] == plainly[:4] and [e["step"] for e in fewer if e["kind"] == "train"] == [1, 2]
    beyond, third = fewer[4], plainly[4]
    assert (beyond["kind"], beyond["step"], third["kind"], third["step"]) == ("beyond", 3, "train", 3)
    assert len(beyond["metrics"]) == 5 and beyond["metrics"].items() <= third["metrics"].items()
    assert fewer[5:] == [], "validated where it ended, by test_freq"
    more = list(train(settings, budget=Budget(unit, budget * 1.4)))
    assert len(spent(more, unit)) == 4 > settings.steps
    assert [(e["kind"], e["step"]) for e in more[-2:]] == [("val", 4), ("beyond", 5)]
    rare = list(train(replace(settings, test_every=0), budget=Budget(unit, budget - 1)))
    assert [(e["kind"], e["step"]) for e in rare[-2:]] == [("beyond", 3), ("val", 2)], "validated where it ends"
    with pytest.raises(ValueError, match=f"{unit} does not pay the first step"):
        list(train(settings, budget=Budget(unit, 1)))


@pytest.mark.parametrize(
    "name, rule, per_session, replays",
    [
        ("dyad", "shared", 2, 0),
        ("dyad", "removal", 2, 2 / 3),  # two of a prompt's three sessions play what serves all
        ("dyad", "likelihood", 2, 0),
        ("silence", "shared", 7, 0),
        ("silence", "leave_one_out", 7, 0),  # a ballot is left out, nothing is decoded
    ],
)
def test_what_counts_is_what_was_decoded_whatever_the_rule_and_the_team(job, name, rule, per_session, replays):
    settings = Settings.of(plain(job(name, f"ccpo.credit.rule={rule}")))
    entries = list(train(replace(settings, steps=1)))
    metrics, sessions = entries[1]["metrics"], 12
    assert metrics["ccpo/generations"] == pytest.approx(sessions * (per_session + replays))
    assert metrics["ccpo/replay_generations"] == pytest.approx(sessions * replays)
    assert (metrics["ccpo/replay_tokens"] > 0) == (replays > 0)
    assert metrics["ccpo/replay_generations"] == pytest.approx(sessions * metrics["ccpo/replays/decodes_per_session"])


# --- the loop ---------------------------------------------------------------------------------------------------------


def entries_of(config) -> list[dict]:
    return list(train(Settings.of(plain(config))))


def test_two_runs_have_the_same_bits_and_another_seed_has_not(job, monkeypatch):
    first = entries_of(job("silence"))
    assert [(entry["step"], entry["kind"]) for entry in first] == [
        (0, "val"), (1, "train"), (2, "train"), (2, "val"), (3, "train"), (3, "val"),
    ]  # fmt: skip
    monkeypatch.setattr(rollout, "QUIET", 2)  # smaller batches
    monkeypatch.setattr("ccpo.compact.policy.ROWS", 5)
    assert entries_of(job("silence")) == first
    assert entries_of(job("silence", "seed=1")) != first


def test_a_policy_for_every_role(job):
    entries = entries_of(job("dyad", "ccpo.policies=per_role", "ccpo.schedule.mode=alternate", "ccpo.schedule.every=2"))
    learned = [{name for name in e["metrics"] if name.endswith("/grad_norm")} for e in entries if e["kind"] == "train"]
    assert learned == [{"think/actor/grad_norm"}] * 2 + [{"reason/actor/grad_norm"}]


def test_it_looks_at_validation_with_other_eyes(job):
    noted = train(Settings.of(plain(job("silence"))), lambda played: {"seen": float(len(played))})
    assert next(noted)["metrics"]["seen"] == 3.0


def test_a_voter_without_a_copy_ends_the_run(job):
    with pytest.raises(TeamError, match="7 texts for 9 voters"):
        entries_of(job("silence", "ccpo.team_kwargs.n_voters=9"))


def test_a_program_that_waits_for_ever_ends_the_run(job, tmp_path):
    (tmp_path / "waits.py").write_text(
        "import asyncio\nfrom ccpo.team.vote import Vote\n\n\nclass Waits(Vote):\n    async def play(self, s):\n"
        "        if '<' not in s.question:  # not in the plan\n            await asyncio.Event().wait()\n"
        "        return await super().play(s)\n"
    )
    (tmp_path / "waits.yaml").write_text((ROOT / "ccpo/team/vote.yaml").read_text())
    settings = Settings.of(plain(job("dyad", f"ccpo.team={tmp_path / 'waits.py'}:Waits", "ccpo.credit.rule=shared")))
    with pytest.raises(RuntimeError, match="step 0 did not end within ccpo.session_timeout=0.3 s"):
        list(train(replace(settings, ccpo=replace(settings.ccpo, session_timeout=0.3))))


def test_a_reward_of_the_users_own(job, tmp_path):
    (tmp_path / "own.py").write_text(
        "import asyncio\n\n\nasync def generous(text, truth, row):\n    await asyncio.sleep(0.001)\n    return 1.0\n"
    )
    entries = train(Settings.of(plain(job("dyad", f"ccpo.reward={tmp_path / 'own.py'}:generous"))))
    assert next(entries)["metrics"]["val-core/toy/last_digit/team_accuracy"] == 1.0


@pytest.mark.parametrize(
    "override, says",
    [
        ("actor_rollout_ref.actor.ppo_mini_batch_size=2", "ppo_mini_batch_size is 2"),
        ("actor_rollout_ref.actor.optim.lr_warmup_steps=3", "lr_warmup_steps is set"),
        ("loss=paper_v1", "loss_agg_mode is 'seq-mean-token-mean'"),
        ("actor_rollout_ref.actor.use_kl_loss=true", "use_kl_loss is True"),
        ("data.train_max_samples=4", "train_max_samples is 4"),
        ("trainer.total_training_steps=null", "total_training_steps is not set"),
        ("ccpo.credit.rule=sharde", "sharde"),
    ],
)
def test_what_it_would_not_do_is_refused(job, override, says):
    with pytest.raises(ConfigError, match=says):
        Settings.of(plain(job("dyad", override)))


def test_bad_rows_are_named(tmp_path, job):
    rows = toy.dataset_rows("train", 5, seed=0)
    write_dataset(tmp_path / "few", {"train": rows[:2]}, name="few")
    config = job("dyad", f"data.train_files={tmp_path / 'few' / 'train.parquet'}")
    with pytest.raises(ValueError, match="2 training rows are fewer than data.train_batch_size=4"):
        entries_of(config)
    with pytest.raises(ValueError, match="expected 'test'"):
        entries_of(job("dyad", f"data.val_files={tmp_path / 'few' / 'train.parquet'}"))
    with pytest.raises(ValueError, match="does not exist"):
        entries_of(job("dyad", f"data.train_files={tmp_path / 'none.parquet'}"))
