"""The dyad's agent loop inside verl's own worker: real dataset, tokenizer and post-processing.

Only the rollout server and TransferQueue's put are replaced.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
import shutil
from pathlib import Path

import pytest

pytest.importorskip("verl")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transfer_queue as tq  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from torch.utils.data import Subset  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from verl.trainer.ppo.utils import create_rl_dataset  # noqa: E402
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ  # noqa: E402
from verl.utils import tensordict_utils as tu  # noqa: E402
from verl.utils.dataset.rl_dataset import collate_fn  # noqa: E402
from verl.workers.rollout.replica import TokenOutput  # noqa: E402

from ccpo.config import CcpoConfig  # noqa: E402
from ccpo.seeds import request_seed  # noqa: E402
from ccpo.step import compute_advantages  # noqa: E402
from ccpo.verl_plugin import agent_loops  # noqa: E402
from ccpo.verl_plugin import rows as step_rows  # noqa: E402
from ccpo.verl_plugin.policies import PolicyClient  # noqa: E402
from data_preprocess.toy import dataset_rows  # noqa: E402

ROOT = Path(__file__).parents[2]
THINK, REASON, SOLO, EMPTIED = "think", "reason", "solo", "emptied"  # the last two: Reason in a replay
RIGHT, WRONG = "\\boxed{%s}", "\\boxed{none}"
Worker = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class Server:
    """Answers by role. ``reply``: (role, number of the request) -> text, or an exception, or a TokenOutput."""

    def __init__(self, tokenizer, reply):
        self.tokenizer, self.reply = tokenizer, reply
        self.requests: list[tuple[str, str, dict]] = []  # role, prompt, sampling parameters

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        prompt = self.tokenizer.decode(prompt_ids)
        if "Vote" in prompt:
            role = "vote"
        elif "Think." in prompt:
            role = THINK
        elif "Thought: " not in prompt:
            role = SOLO
        else:
            role = EMPTIED if "Thought: <|im_end|>" in prompt else REASON
        self.requests.append((role, prompt, sampling_params))
        answer = self.reply(role)
        if isinstance(answer, Exception):
            raise answer
        await asyncio.sleep(random.random() / 100)  # sessions finish in any order
        if isinstance(answer, TokenOutput):
            return answer
        ids = self.tokenizer.encode(answer, add_special_tokens=False)[: sampling_params["max_tokens"] - 1]
        ids.append(self.tokenizer.eos_token_id)
        versions = {"global_steps": 7, "min_global_steps": 6, "max_global_steps": 7}
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids), stop_reason="completed", extra_fields=versions)

    def sent(self, name: str, role: str) -> list:
        return [params.get(name) for who, _, params in self.requests if who == role]


class Rollout:
    """What one call of the worker put into TransferQueue: rows, and every prompt's last status."""

    def __init__(self):
        self.keys, self.tags, self.columns, self.partitions, self.status = [], [], [], set(), {}

    async def put(self, keys, fields, tags, partition_id):
        self.keys += keys
        self.tags += tags
        self.columns += [sorted(fields.keys())] * len(keys)
        self.partitions.add(partition_id)
        self.fields = getattr(self, "fields", []) + [fields[i] for i in range(len(keys))]

    async def put_status(self, key, partition_id, tag):
        self.status[key] = tag["status"]

    def column(self, name: str) -> list:
        return [
            getattr(row[name], "data", row[name]) if not torch.is_tensor(row[name]) else row[name]
            for row in self.fields
        ]

    def sessions(self) -> dict[int, list[str]]:
        """session -> roles in the order of the rows' indices (of a rollout with one prompt)"""
        found: dict[int, list[str]] = {}
        for key, facts in sorted(zip(self.keys, self.column("ccpo"), strict=True), key=lambda pair: pair[0].split("_")):
            found.setdefault(int(key.split("_")[1]), []).append(facts["role"])
        return found

    def records(self) -> dict[int, dict]:
        """session -> its record (of a rollout with one prompt)"""
        pairs = zip(self.keys, self.column("ccpo"), strict=True)
        return {int(key.split("_")[1]): facts["session"] for key, facts in pairs if facts["session"] is not None}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(dataset_rows(split, 3, seed=0)), folder / f"{split}.parquet")
    return folder


@pytest.fixture
def rollout(cpu_config, files, monkeypatch):
    """rollout(reply, split, prompts, step, settings) -> (Rollout, Server): one batch through verl's worker."""

    def run(reply=lambda role: WRONG, split="train", prompts=(0,), step=5, settings=None, client=None):
        config = copy.deepcopy(cpu_config)
        config.actor_rollout_ref.model.external_lib = (
            None  # patches torch for CPU workers; nothing of it is needed here
        )
        config.actor_rollout_ref.rollout.agent.agent_loop_config_path = str(
            ROOT / "recipe" / "config" / "agent_loops.yaml"
        )
        config.actor_rollout_ref.rollout.temperature = 0.9
        config.actor_rollout_ref.rollout.val_kwargs.temperature = 0.7
        for name, value in (settings or {}).items():
            OmegaConf.update(config, name, value, force_add=True)
        done = Rollout()
        monkeypatch.setattr(tq, "init", lambda *args: None)
        monkeypatch.setattr(tq, "async_kv_put", done.put_status)
        monkeypatch.setattr(tq, "async_kv_batch_put", done.put)

        async def main():
            worker = Worker(config, llm_client=None)
            worker.llm_client = server = Server(worker.tokenizer, reply)
            if client is not None:
                worker.llm_client = client(config, reply)
            path = str(files / f"{split}.parquet")
            dataset = create_rl_dataset(path, config.data, worker.tokenizer, None, is_train=split == "train")
            columns = collate_fn([Subset(dataset, prompts)[i] for i in range(len(prompts))])
            columns["uid"] = np.array([f"uid{i}" for i in prompts], dtype=object)
            batch = tu.get_tensordict(columns)
            tu.assign_non_tensor_data(batch, "global_steps", step)
            if split == "test":
                tu.assign_non_tensor_data(batch, "validate", True)
            await worker.generate_sequences(batch)
            await asyncio.gather(*worker.background_tasks)
            return server

        return done, asyncio.run(main())

    return run


def truth(prompt: int, split: str = "train") -> str:
    return dataset_rows(split, 3, seed=0)[prompt]["reward_model"]["ground_truth"]


@pytest.mark.parametrize("k, with_solo", [(None, {0, 1}), (4, {0, 1, 2, 3}), (1, {0})])
def test_the_first_k_sessions_decode_an_answer_without_think(rollout, k, with_solo):
    done, server = rollout(settings={"ccpo.credit.replays_per_prompt": k})
    assert done.sessions() == dict.fromkeys(range(4), [THINK, REASON]), "what nobody trains is no row"
    assert len(server.sent("seed", SOLO)) == len(with_solo)
    shared = {s: [p for p in record["replays"] if p["shared"]] for s, record in done.records().items()}
    assert {s for s, replays in shared.items() if replays} == with_solo
    assert all((p["how"], p["role"], p["decoded"]) == ("remove", THINK, 1) for ps in shared.values() for p in ps)
    assert done.partitions == {"train"} and done.status == {"uid0": "finished"}
    told = [facts["session_tokens"] for facts in done.column("ccpo") if facts["session_tokens"] is not None]
    said = [int(mask.sum()) for mask in done.column("response_mask")]
    assert len(told) == 4 and sum(one["turns"] for one in told) == sum(said)
    answer = said[[facts["role"] for facts in done.column("ccpo")].index(REASON)]  # all that it is asked for is as long
    assert sorted(one["replays"] for one in told) == [0] * (4 - len(with_solo)) + [answer] * len(with_solo)


OWN = """
from ccpo.reward import Reward


async def reward(text, truth, row):
    assert sorted(row) == ["ability", "data_source", "extra_info", "prompt", "reward_model"], sorted(row)
    assert row["prompt"][-1]["content"] == row["extra_info"]["question"] and truth == row["reward_model"]["ground_truth"]
    return Reward(0.25, text.strip()) if {works} else 1 / 0
"""


def test_an_own_reward_sees_the_datas_columns_and_what_it_gives_is_the_value(rollout, tmp_path):
    (tmp_path / "mine.py").write_text(OWN.replace("{works}", "True"))
    done, _ = rollout(settings={"ccpo.reward": f"{tmp_path}/mine.py:reward"})
    assert [record["value"] for record in done.records().values()] == [0.25] * 4
    assert {p["value"] for record in done.records().values() for p in record["replays"] if p["decoded"]} == {0.25}


def test_a_session_whose_reward_fails_is_dropped_and_says_why(rollout, tmp_path, caplog):
    (tmp_path / "mine.py").write_text(OWN.replace("{works}", "False"))
    done, _ = rollout(settings={"ccpo.reward": f"{tmp_path}/mine.py:reward"})
    assert done.keys == [] and done.status == {"uid0": "finished"}
    assert "mine.py:reward raised ZeroDivisionError: division by zero (line 8)" in caplog.text


def test_replays_that_are_trained_are_rows(rollout):
    done, _ = rollout(settings={"ccpo.credit.train_replays": True})
    assert done.sessions() == {s: [THINK, REASON, *[REASON] * (s < 2)] for s in range(4)}
    assert [facts["replay"] for facts in done.column("ccpo") if facts["replay"] is not None] == [0, 0]


def test_references_are_scored_where_credit_reads_them(rollout):
    """Each session's first row says what Reason would be asked without and with the thought, and the answer with its end."""
    settings = {"ccpo.credit.rule": "likelihood"}
    done, server = rollout(lambda role: "3+4=7" if role == THINK else WRONG, settings=settings)
    assert len(server.requests) == 4 * 2, "nothing is decoded for it"
    found = [facts["reference"] for facts in done.column("ccpo") if facts["reference"] is not None]
    assert len(found) == 4 and sum(facts["session"] is not None for facts in done.column("ccpo")) == 4
    tokenizer = server.tokenizer
    asked = {role: prompt for role, prompt, _ in server.requests}
    for facts in found:
        alone, heard = map(tokenizer.decode, facts["prompts"])
        assert heard == asked[REASON] and alone == heard.replace("\nThought: 3+4=7", "")
        assert tokenizer.decode(facts["answer"]) == RIGHT % truth(0) + "<|im_end|>"
    assert [facts["behind"] for facts in found] == [None] * 4
    validated, _ = rollout(split="test", settings=settings)
    assert all(facts["reference"] is None for facts in validated.column("ccpo"))
    others, _ = rollout()
    assert all(facts["reference"] is None for facts in others.column("ccpo"))


@pytest.mark.parametrize("said", [True, False])
def test_what_was_said_before_the_answer_is_scored_where_credit_reads_it(rollout, said):
    settings = {"ccpo.credit.rule": "likelihood", "ccpo.credit.reference_after": "chain"}
    settings["ccpo.roles"] = {"reason*": {"max_tokens": 12}}
    answer = RIGHT % truth(0) if said else WRONG
    done, server = rollout(lambda role: "3+4=7" if role == THINK else f"7*5=5, {answer}", settings=settings)
    (row,) = {index for index, facts in enumerate(done.column("ccpo")) if facts["reference"] is not None and index < 2}
    behind, tokenizer = done.column("ccpo")[row]["reference"]["behind"], server.tokenizer
    asked = {role: prompt for role, prompt, _ in server.requests}
    assert tokenizer.decode(behind["chain"]) == asked[REASON] + "7*5=5, \\boxed{"
    assert tokenizer.decode(behind["answer"]) == truth(0) and behind["said"] == said
    assert tokenizer.decode(tokenizer.encode(f"7*5=5, {answer}")[: behind["length"]]) == "7*5=5, \\boxed{"
    without, _ = rollout(lambda role: "Not sure.", settings=settings)
    assert {facts["reference"] and facts["reference"]["behind"] for facts in without.column("ccpo")} == {None}


def test_validation_asks_without_each_role_and_with_an_empty_thought(rollout):
    done, server = rollout(split="test")
    assert done.sessions() == {0: [THINK, REASON, REASON, REASON]}
    replays = [(p["how"], p["role"], p["decoded"]) for p in done.records()[0]["replays"]]
    assert replays == [("remove", THINK, 1), ("remove", REASON, 0), ("replace", THINK, 1)]
    assert done.partitions == {"val"}
    assert server.sent("temperature", THINK) == [0.7]
    assert len(server.sent("seed", SOLO)) == len(server.sent("seed", EMPTIED)) == 1


def test_role_settings_reach_the_server(rollout):
    done, server = rollout(
        settings={
            "ccpo.roles.think.temperature": 0.5,
            "ccpo.roles.reason.stop": ["}"],
            "ccpo.roles.reason.max_tokens": 99,
        }
    )
    assert set(server.sent("max_tokens", THINK)) == {16}
    assert set(server.sent("max_tokens", REASON)) == {16}, "never more than data.max_response_length"
    assert set(server.sent("temperature", THINK)) == {0.5}
    assert set(server.sent("temperature", SOLO)) == set(server.sent("temperature", REASON)) == {0.9}
    assert server.sent("stop", REASON) == [["}"]] * 4 and server.sent("stop", THINK) == [None] * 4
    assert server.sent("stop", SOLO) == [["}"]] * 2, "a role speaks in a replay as it does in the session"


def test_settings_by_pattern_reach_the_server(rollout):
    """The task's own: reason* has room for the boxed answer alone."""
    _, server = rollout()
    assert set(server.sent("max_tokens", REASON)) == set(server.sent("max_tokens", SOLO)) == {6}


def test_validation_keeps_its_own_temperature_and_reasons_other_settings(rollout):
    _, server = rollout(split="test", settings={"ccpo.roles.think.temperature": 0.5, "ccpo.roles.reason.max_tokens": 5})
    assert server.sent("temperature", THINK) == [0.7]
    assert server.sent("max_tokens", EMPTIED) == server.sent("max_tokens", REASON) == [5]


def test_prompts_are_the_rendered_templates(rollout):
    _, server = rollout(lambda role: "3+4=7" if role == THINK else WRONG)
    question = dataset_rows("train", 3, seed=0)[0]["extra_info"]["question"]
    prompts = {role: prompt for role, prompt, _ in server.requests}
    assert (
        prompts[SOLO]
        == f"<|im_start|>system\nAnswer.<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert f"{question}\nThought: 3+4=7<|im_end|>" in prompts[REASON]


def test_seeds_differ_by_prompt_session_role_step_and_split(rollout):
    seeds = []
    for options in ({"prompts": (0, 1)}, {"step": 6}, {"split": "test"}):
        _, server = rollout(settings={"ccpo.credit.replays_per_prompt": 4}, **options)
        seeds += [params["seed"] for _, _, params in server.requests]
    assert len(seeds) == 2 * 12 + 12 + 4
    assert len(set(seeds)) == len(seeds)


def test_seeds_are_the_same_in_every_process_and_run(rollout):
    assert request_seed(0, ("toy/last_digit", 0), 0, THINK, 5, "train") == 1771425528
    assert all(0 <= request_seed(3, i) < 2**31 for i in range(100))
    _, first = rollout()
    assert 1771425528 in first.sent("seed", THINK)
    _, second = rollout()
    assert sorted(first.sent("seed", REASON)) == sorted(second.sent("seed", REASON))
    _, other = rollout(settings={"ccpo.seed": 1})
    assert not set(first.sent("seed", THINK)) & set(other.sent("seed", THINK))
    _, free = rollout(settings={"ccpo.seed": None})
    assert free.sent("seed", THINK) == [None] * 4


def test_every_row_keeps_its_own_role_and_reward(rollout):
    right = RIGHT % truth(0)
    settings = {"ccpo.credit.train_replays": True}
    done, _ = rollout(lambda role: right if role == SOLO else "1+1=2" if role == THINK else WRONG, settings=settings)
    for facts, scores, extra in zip(
        done.column("ccpo"), done.column("rm_scores"), done.column("extra_fields"), strict=True
    ):
        expected = float(facts["replay"] is not None)
        assert facts["reward"] == expected
        assert float(scores.sum()) == float(scores[-1]) == expected
        assert extra["reward_extra_info"] == {"acc": expected}
    assert {record["value"] for record in done.records().values()} == {0.0}
    done, _ = rollout(lambda role: right if role == REASON else WRONG, settings=settings)
    rewards = {(facts["role"], facts["replay"]): facts["reward"] for facts in done.column("ccpo")}
    assert rewards == {(THINK, None): 1.0, (REASON, None): 1.0, (REASON, 0): 0.0}


def kept(done):
    pairs = zip(done.keys, done.column("ccpo"), strict=True)
    return {key: json.loads(facts["kept"]) for key, facts in pairs if facts["kept"] is not None}


def test_validation_sessions_and_some_of_training_carry_what_was_said(rollout):
    right = RIGHT % truth(0, "test")
    done, _ = rollout(lambda role: right if role == REASON else "\0\u2028</script>", split="test", prompts=(0, 1))
    assert set(kept(done)) == {"uid0_0_0", "uid1_0_0"}, "a session's first row carries them, the others nothing"
    facts = kept(done)["uid0_0_0"]
    assert facts["question"] == dataset_rows("test", 3, seed=0)[0]["extra_info"]["question"] and facts["value"] == 1.0
    assert [(turn["role"], turn["text"]) for turn in facts["turns"]][1] == (REASON, right)
    assert "</script>" in facts["turns"][0]["text"]
    done, _ = rollout(prompts=(0, 1))
    assert set(kept(done)) == {"uid0_0_0", "uid1_0_0"}, (
        "one of each prompt, since a step has more prompts than are kept"
    )
    done, _ = rollout(prompts=(0, 1), settings={"data.train_batch_size": 4})
    assert set(kept(done)) == {f"uid{prompt}_{session}_0" for prompt in (0, 1) for session in (0, 1)}


@pytest.mark.parametrize("split", ["train", "test"])
def test_nothing_is_carried_where_nothing_is_kept(rollout, split):
    done, server = rollout(split=split, settings={"ccpo.keep_sessions": 0})
    assert kept(done) == {}
    seeds = [seed for _, _, seed in sorted((role, prompt, params["seed"]) for role, prompt, params in server.requests)]
    _, other = rollout(split=split, settings={"ccpo.keep_sessions": 100})
    assert seeds == [s for _, _, s in sorted((role, prompt, params["seed"]) for role, prompt, params in other.requests)]


def test_rows_have_the_same_columns_and_verls_tags(rollout):
    done, _ = rollout(lambda role: "3+4=7" if role == THINK else WRONG, prompts=(0, 1))
    assert len(done.keys) == 2 * 2 * 4
    assert all(columns == done.columns[0] for columns in done.columns)
    assert {"ccpo", "rm_scores", "rollout_log_probs", "response_mask", "extra_fields", "uid", "reward_model"} <= set(
        done.columns[0]
    )
    for tag, extra, facts in zip(done.tags, done.column("extra_fields"), done.column("ccpo"), strict=True):
        assert (tag["min_global_steps"], tag["max_global_steps"], tag["global_steps"]) == (6, 7, 5)
        assert (extra["min_global_steps"], extra["max_global_steps"]) == (6, 7)
        assert facts["prompt"] in {("toy/last_digit", 0), ("toy/last_digit", 1)}
    for responses, mask in zip(done.column("responses"), done.column("response_mask"), strict=True):
        assert mask.tolist() == [1] * len(responses)


def test_what_the_worker_puts_is_what_the_step_reads(rollout, monkeypatch):
    right = RIGHT % truth(1)
    settings = {"ccpo.credit.train_replays": True}
    done, _ = rollout(lambda role: right if role == REASON else WRONG, prompts=(1, 0), settings=settings)
    facts = dict(zip(done.keys, done.column("ccpo"), strict=True))
    monkeypatch.setattr(step_rows.tq, "kv_batch_get", lambda keys, **_: {"ccpo": [facts[key] for key in keys]})
    rows = step_rows.read_rows(tq.KVBatchMeta(keys=done.keys, tags=done.tags, partition_id="train"))
    order = [(row.facts["prompt"][1], row.session) for row in rows]
    assert order == sorted(order)
    config = CcpoConfig.from_dict({"credit": {"train_replays": True}}, 4)
    sessions = step_rows.to_sessions(rows, config.plan.roles, config.plan.tie)
    assert [sessions.value_S[sessions.prompt_S == p].mean() for p in range(2)] == [0.0, 1.0]
    result = compute_advantages(sessions, config.step_settings)
    advantage = step_rows.advantages(rows, sessions, result)
    assert advantage.keys() == set(done.keys)
    for row in rows:
        right_one = row.facts["prompt"][1] == 1
        if row.facts["replay"] is None:
            assert (advantage[row.key] > 0) == right_one, "R - beta b, with b = 0 everywhere"


def test_a_truncated_answer_is_marked_and_earns_nothing(rollout):
    def cut_off(role):
        ids = [5] * (6 if role != THINK else 3)
        return TokenOutput(token_ids=ids, stop_reason="completed") if role != SOLO else WRONG

    done, _ = rollout(cut_off)
    for record in done.records().values():
        assert [turn["truncated"] for turn in record["turns"]] == [False, True]
        assert [turn["parsed"] for turn in record["turns"]] == [None, False]
        assert not any(replay["truncated"] for replay in record["replays"])


def test_a_truncated_thought_ends_the_session_under_the_papers_rule(rollout):
    def cut_off(role):
        return TokenOutput(token_ids=[5] * 16, stop_reason="completed") if role == THINK else WRONG

    done, server = rollout(cut_off, settings={"ccpo.credit.rule": "paper_v1"})
    assert done.sessions() == dict.fromkeys(range(4), [THINK])
    assert len(server.sent("seed", SOLO)) == 4 and not server.sent("seed", REASON)
    done, server = rollout(cut_off)
    assert done.sessions() == dict.fromkeys(range(4), [THINK, REASON])


def test_an_answer_that_ends_at_the_limit_with_another_end_token_is_whole(rollout):
    def at_the_limit(role):
        ids = [5] * 5 + [0]
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * 6, stop_reason="completed") if role == REASON else WRONG

    done, server = rollout(at_the_limit)
    assert server.tokenizer.convert_ids_to_tokens(0) == "<|endoftext|>" != server.tokenizer.eos_token
    turns = [turn for record in done.records().values() for turn in record["turns"]]
    assert len(turns) == 8 and not any(turn["truncated"] for turn in turns)


ABORTED = TokenOutput(token_ids=[5], stop_reason="aborted")
EMPTY = TokenOutput(token_ids=[], stop_reason="completed")


@pytest.mark.parametrize(
    "failure", [RuntimeError("server lost"), ABORTED, EMPTY], ids=["raises", "aborts", "says nothing"]
)
@pytest.mark.parametrize("role", [THINK, REASON])
def test_a_failed_session_is_dropped_and_its_siblings_stay(rollout, failure, role):
    failures = iter([failure])
    done, _ = rollout(lambda who: next(failures, WRONG) if who == role else WRONG)
    assert len(done.sessions()) == 3
    assert done.status == {"uid0": "finished"}, "a failed group would be thrown away whole"


def test_sessions_that_take_too_long_are_dropped(rollout, monkeypatch):
    async def never(self, *args, **kwargs):
        await asyncio.sleep(3600)

    monkeypatch.setattr(Server, "generate", never)
    done, _ = rollout(settings={"ccpo.session_timeout": 0.05})
    assert done.keys == [] and done.status == {"uid0": "finished"}


def test_the_configuration_is_parsed_once_per_process(rollout):
    agent_loops._PARSED.clear()
    rollout(prompts=(0, 1))
    assert len(agent_loops._PARSED) == 1


def test_a_long_thought_is_cut_to_reasons_budget(rollout):
    done, server = rollout(
        lambda role: "1+2=3 4+5=6" if role == THINK else WRONG, settings={"data.max_prompt_length": 31}
    )
    question = dataset_rows("train", 3, seed=0)[0]["extra_info"]["question"]
    prompts = [prompt for role, prompt, _ in server.requests if role == REASON]
    assert len(prompts) == 4
    for prompt in prompts:
        assert f"{question}\nThought: " in prompt and "1+2" not in prompt and "6<|im_end|>" in prompt
    lengths = zip(done.column("prompts"), done.column("ccpo"), strict=True)
    assert [len(ids) for ids, facts in lengths if facts["role"] == REASON] == [31] * 4
    assert all([turn["cut"] for turn in record["turns"]] == [False, True] for record in done.records().values())


# ------------------------------------------------------------------------------------------------------------------ votes

VOTE = {"ccpo.team": "vote", "ccpo.credit.rule": "leave_one_out"}


def test_a_session_is_one_row_per_voter_and_its_record_has_ballots_and_removals(rollout):
    answers = {0: RIGHT % truth(0), 1: "3+4=7, " + RIGHT % truth(0), 2: WRONG}
    count = iter(range(100))
    done, server = rollout(lambda role: answers[next(count) % 3], settings=VOTE)
    assert done.sessions() == {session: ["voter_0", "voter_1", "voter_2"] for session in range(4)}
    assert len(server.requests) == 12, "a vote is taken again without decoding"
    assert all(columns == done.columns[0] for columns in done.columns)
    for facts, scores in zip(done.column("ccpo"), done.column("rm_scores"), strict=True):
        assert facts["reward"] == pytest.approx(float(scores.sum()))
    for record in done.records().values():
        assert record["truth"] == truth(0)
        assert set(record["ballots"]) == {"voter_0", "voter_1", "voter_2"}
        assert set(record["ballots"].values()) <= {truth(0), "none"}
        assert [(p["how"], p["role"], p["decoded"]) for p in record["replays"]] == [
            ("remove", f"voter_{i}", 0) for i in range(3)
        ]


def test_voters_have_their_own_seeds_temperatures_and_personas(rollout):
    settings = {
        **VOTE,
        "ccpo.roles.voter_0.temperature": 0.5,
        "ccpo.roles.voter_1": {"temperature": 1.0, "persona": "Vote boldly."},
        "ccpo.roles.voter_2": {"temperature": 1.5, "persona": "Vote slowly."},
    }
    _, server = rollout(settings=settings)
    assert len(set(server.sent("seed", "vote"))) == 12
    by_persona = {
        persona: {
            params["temperature"] for _, prompt, params in server.requests if persona in prompt.partition("user")[0]
        }
        for persona in ("Vote. Vote boldly.", "Vote. Vote slowly.")
    }
    assert by_persona == {"Vote. Vote boldly.": {1.0}, "Vote. Vote slowly.": {1.5}}
    _, server = rollout(settings=settings, split="test")
    assert server.sent("temperature", "vote") == [0.7] * 3, "validation keeps its own"


def test_a_deliberation_is_played_again_without_each_voter(rollout):
    settings = {**VOTE, "ccpo.credit.rule": "removal", "ccpo.team_kwargs": {"rounds": 2, "n_voters": 2}}
    done, server = rollout(lambda role: RIGHT % "3", settings=settings)
    assert done.sessions() == {session: ["voter_0", "voter_1"] * 2 for session in range(4)}
    assert sum("Votes: Voter 2: 3" in prompt for _, prompt, _ in server.requests) == 4
    assert len(server.requests) == 4 * (4 + 2), "without one of two, the other votes again unseen"
    assert len(set(server.sent("seed", "vote"))) == 24


def test_a_session_with_a_failed_voter_is_dropped_whole(rollout):
    failures = iter([RuntimeError("server lost")])
    done, _ = rollout(lambda role: next(failures, WRONG), settings=VOTE)
    assert len(done.sessions()) == 3 and all(len(roles) == 3 for roles in done.sessions().values())


def test_verls_warning_about_the_token_builder_comes_once(rollout, caplog):
    rollout(settings=VOTE)
    assert sum("Continuous Token builder" in record.getMessage() for record in caplog.records) <= 1


# --------------------------------------------------------------------------------------------------------------- policies


def test_every_role_speaks_with_the_server_and_the_tokenizer_of_its_policy(rollout, cpu_config, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(cpu_config.actor_rollout_ref.model.path, other)
    template = (other / "chat_template.jinja").read_text()
    (other / "chat_template.jinja").write_text(template.replace("<|im_start|>assistant", "<|im_start|>player"))
    servers = {}

    def client(config, reply):
        routing = PolicyClient.__new__(PolicyClient)
        routing.clients, routing.policy_of = servers, {THINK: "think", REASON: "reason"}
        for policy, path in (("think", config.actor_rollout_ref.model.path), ("reason", other)):
            own = copy.deepcopy(config)
            own.actor_rollout_ref.model.path = str(path)
            servers[policy] = Server(AutoTokenizer.from_pretrained(str(path)), reply)
            servers[policy].config = own
        return routing

    agent_loops._MODELS.clear()
    done, _ = rollout(lambda role: "3+4=7" if role == THINK else WRONG, client=client)
    assert done.sessions() == dict.fromkeys(range(4), [THINK, REASON])
    assert {role for role, _, _ in servers["think"].requests} == {THINK}
    assert {role for role, _, _ in servers["reason"].requests} == {SOLO, REASON}
    assert all(prompt.endswith("<|im_start|>assistant\n") for _, prompt, _ in servers["think"].requests)
    assert all(prompt.endswith("<|im_start|>player\n") for _, prompt, _ in servers["reason"].requests)
    agent_loops._MODELS.clear()


def test_a_prompt_becomes_tokens_once():
    """Counted and sent, by every session; who gets it may change its list."""
    built = []

    class Builder:
        def build_initial_tokens(self, messages):
            built.append(messages)
            return [len(messages), len(messages[0]["content"])]

    prompts = agent_loops._Prompts(Builder())
    question = [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+1?"}]
    prompts.of(question).append("changed")
    assert prompts.of(copy.deepcopy(question)) == [2, 6] and built == [question]
    assert prompts.of([{"role": "user", "content": "Think."}]) == [1, 6] and len(built) == 2
    for number in range(prompts.MOST + 1):
        prompts.of([{"role": "user", "content": str(number)}])
    prompts.of(question)
    assert len(built) == 2 + prompts.MOST + 1 + 1, "the least used ones are forgotten"
