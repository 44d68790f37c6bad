"""How likely the last speaker finds the reference answers: which prompts are scored, by whom, and that the numbers are the model's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from transfer_queue import KVBatchMeta  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from ccpo.config import CcpoConfig  # noqa: E402
from ccpo.reference import answer_ids, end_token  # noqa: E402
from ccpo.verl_plugin import reference  # noqa: E402
from ccpo.verl_plugin.rows import Row  # noqa: E402
from ccpo.verl_plugin.update import NOT_ASKED  # noqa: E402
from data_preprocess.toy import dataset_rows  # noqa: E402

ALONE = Path(__file__).with_name("reference_alone.py")
MODEL = Path(__file__).parents[2] / "data_preprocess" / "last_digit_model"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


# --------------------------------------------------------------------------------------------------------- the numbers


@pytest.fixture(scope="module")
def scored(in_cpu_fork):
    done = in_cpu_fork([ALONE, "1", "2"], ALONE.parent)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[-1].removeprefix("RESULT "))


def test_likelihoods_are_those_of_a_plain_forward_pass(scored):
    for found in scored:
        assert found["found"] == pytest.approx(found["plain"], abs=1e-5)
        assert 0 < min(found["found"]) < 0.2 < 0.4 < max(found["found"]) < 1


def test_likelihoods_behind_a_chain_are_those_of_a_plain_forward_pass(scored):
    for found in scored:
        assert found["behind"][::3] == [None] * 5 == found["plain_behind"][::3], "no answer, no border"
        assert found["behind"][1::3] == pytest.approx(found["plain_behind"][1::3], abs=1e-5)
        assert 0 < min(found["behind"][1::3]) < max(found["behind"][1::3]) < 1


def test_every_row_is_scored_once_and_nothing_stays_in_the_queue(scored):
    one, two = scored
    assert [one["scored"], one["most"], one["left"]] == [20, 20, 0], (
        "alone, with two different thoughts, and behind one chain, of five questions"
    )
    assert [two["scored"], two["most"], two["left"]] == [20, 20, 0]


# ------------------------------------------------------------------------------------------------- rows and their order


def row(*prompts, answer=(7, 8)):
    return SimpleNamespace(facts={"reference": reference.facts(prompts, answer)})


def test_equal_prompts_are_one_row_unless_their_references_differ():
    rows = [row([1, 2], [3]), SimpleNamespace(facts={"reference": None}), row([1, 2], [4]), row([1, 2], answer=(9,))]
    pairs, of_turn, behind = reference.distinct(rows)
    assert of_turn.tolist() == [0, 1, 0, 2, 3] and len(pairs) == 4 and behind.tolist() == [-1, -1, -1]
    found = reference.columns(pairs)
    assert [part.tolist() for part in found["input_ids"].unbind()] == [[1, 2, 7, 8], [3, 7, 8], [4, 7, 8], [1, 2, 9]]
    assert [part.tolist() for part in found["position_ids"].unbind()] == [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    assert [part.tolist() for part in found["response_mask"].unbind()] == [[1, 1], [1, 1], [1, 1], [1]]
    assert sorted(found.keys()) == sorted(reference.COLUMNS)


def test_tokens_of_large_vocabularies_survive():
    pairs, *_ = reference.distinct([row([151_935, 2**31 - 1])])
    assert reference.columns(pairs)["prompts"].unbind()[0].tolist() == [151_935, 2**31 - 1]


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_workers_get_equal_parts(workers):
    lengths = [5, 9, 1, 7, 3, 2, 8]
    order = reference.dealt(lengths, workers)
    assert len(order) % workers == 0 and set(order) == set(range(7)) and len(order) < 7 + workers
    assert sum(i == 2 for i in order) == 1 + len(order) - 7, "the shortest stands in for what is missing"
    parts = [sum(lengths[i] for i in part) for part in np.array_split(order, workers)]
    assert max(parts) - min(parts) <= max(lengths)


def test_no_rows_are_no_pass():
    assert reference.likelihoods([SimpleNamespace(facts={"reference": None})], None)[1] == 0


@pytest.mark.parametrize("damaged", ["chain", "prompt"])
def test_a_likelihood_that_is_no_number_is_no_missing_border(monkeypatch, damaged):
    from ccpo.reference import Behind

    facts = reference.facts([[1], [1, 2]], [7, 8], [1, 2, 5], Behind(1, (7,), True))
    found = {"chain": [-1.0, -1.0, np.nan], "prompt": [-1.0, np.nan, -1.0]}[damaged]
    monkeypatch.setattr(reference, "_log_likelihoods", lambda pairs, workers: np.array(found))
    with pytest.raises(ValueError, match="1 of 3 likelihoods of reference answers are not numbers"):
        reference.likelihoods([SimpleNamespace(facts={"reference": facts})], None)


def test_a_step_without_likelihoods_ends_the_job_with_what_is_whole(monkeypatch, tmp_path):
    from ccpo.verl_plugin import trainer

    def none(metrics):
        raise ValueError("1 of 3 likelihoods are not numbers")

    job = SimpleNamespace(
        ccpo=SimpleNamespace(reads_reference=True), _score_references=none, global_steps=4, run_dir=tmp_path
    )
    monkeypatch.setattr(trainer, "what_is_whole", lambda run_dir: "Step 3 is whole.")
    with pytest.raises(
        trainer.JobStopped, match="credit of step 4 cannot be computed: 1 of 3 likelihoods.*Step 3 is whole"
    ):
        trainer.CcpoTrainer._compute_advantage(job, None, {})


def test_the_last_speakers_rows_hold_the_reference_where_it_is_trained_on(monkeypatch):
    put = {}
    monkeypatch.setattr(reference.tq, "kv_batch_put", lambda **given: put.update(given))
    found = reference.facts([[1], [1, 2, 3]], [7, 8])
    rows = [
        Row("u_0_0", "u", 0, 0, {"role": "think", "replay": None, "reference": found, "reward": 1.0}),
        Row("u_0_1", "u", 0, 1, {"role": "reason", "replay": None, "reference": None, "reward": 1.0}),
        Row("u_0_2", "u", 0, 2, {"role": "reason", "replay": 0, "reference": None, "reward": 0.0}),
    ]
    tags = [{"seq_len": 9, "prompt_len": 3, "response_len": 6, "status": "success"} for _ in rows]
    batch = KVBatchMeta(keys=[row.key for row in rows], tags=tags, partition_id="train")
    reference.in_place(rows, batch, "reason", has_log_probs=True)
    assert put["keys"] == ["u_0_1"] and put["partition_id"] == "train"
    columns = {name: put["fields"][name].unbind()[0].tolist() for name in put["fields"].keys()}
    assert columns == {
        "input_ids": [1, 2, 3, 7, 8], "position_ids": [0, 1, 2, 3, 4], "prompts": [1, 2, 3], "responses": [7, 8],
        "response_mask": [1, 1], "loss_mask": [1, 1], "rm_scores": [0, 1], "rollout_log_probs": [NOT_ASKED] * 2,
    }  # fmt: skip
    assert batch.tags[1] == put["tags"][0] == {"seq_len": 5, "prompt_len": 3, "response_len": 2, "status": "success"}
    assert batch.tags[0] == batch.tags[2] == tags[2], "a replay's turn stays what was said"


# ------------------------------------------------------------------------------------------------------- end of a turn


def test_a_reference_ends_as_a_turn_does(tokenizer):
    ids = answer_ids(tokenizer, "\\boxed{7}")
    assert tokenizer.decode(ids) == "\\boxed{7}<|im_end|>"


def test_the_end_is_the_chat_templates_where_it_is_not_the_end_of_text(tokenizer):
    other = AutoTokenizer.from_pretrained(MODEL)
    other.eos_token = "<|endoftext|>"
    assert other.decode([end_token(other)]) == "<|im_end|>"
    other.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    assert other.decode([end_token(other)]) == "<|endoftext|>", "the template names none"


# ------------------------------------------------------------------------------------------------------ before training


@pytest.fixture
def problems(cpu_config, tokenizer, tmp_path):
    """problems(change, **ccpo) -> what is said of four training rows, the second of which was changed."""

    def run(change=None, **ccpo):
        rows = dataset_rows("train", 4, seed=0)
        if change is not None:
            for one in rows:
                one["extra_info"] |= {"reference": one["extra_info"]["reference"]}
            rows[1]["extra_info"]["reference"] = change
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
        cpu_config.data.train_files = str(tmp_path / "train.parquet")
        settings = CcpoConfig.from_dict({"team": "dyad", "prompts": "toy", "credit": {"rule": "likelihood"}, **ccpo}, 4)
        return reference.problems(cpu_config, settings, tokenizer)

    return run


def test_the_embedded_tasks_references_are_good(problems):
    assert problems() == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("", "extra_info.reference is empty or blank"),
        ("\\boxed{}", "which the verifier does not find right (the truth is"),
        ("I do not know", "which the verifier does not find right"),
        ("\\boxed{1\0}", "extra_info.reference holds a NUL"),
    ],
)
def test_a_bad_reference_is_named_with_its_row(problems, change, why):
    (found,) = problems(change)
    assert "train.parquet, row 1: " in found and why in found


def test_rows_without_references_are_refused(problems, tmp_path, monkeypatch):
    monkeypatch.setitem(
        globals(),
        "dataset_rows",
        lambda *a, **k: [{**r, "extra_info": without(r["extra_info"])} for r in _rows(*a, **k)],
    )
    (found,) = problems()
    assert (
        "row 0: no extra_info.reference, the text that reason says when it is right, and the credit rule asks" in found
    )


_rows = dataset_rows


def without(info):
    return {name: value for name, value in info.items() if name != "reference"}


def test_a_reference_that_does_not_fit_a_response_is_refused(problems):
    (found,) = problems(roles={"reason": {"max_tokens": 3}})
    assert "reason may say 3: it could never be right; set ccpo.roles.reason.max_tokens" in found


def test_training_on_references_needs_one_update_a_step(problems, cpu_config):
    credit = {"rule": "likelihood", "last_gradient": "exact"}
    assert problems(credit=credit) == []
    cpu_config.actor_rollout_ref.actor.ppo_mini_batch_size = 8
    (found,) = problems(credit=credit)
    assert "ccpo.credit.last_gradient=exact trains on answers that were not sampled" in found and problems() == []


def test_behind_a_chain_a_reference_needs_a_box(problems, tmp_path):
    credit = {"rule": "likelihood", "reference_after": "chain"}
    assert problems(credit=credit) == []
    (tmp_path / "mine.py").write_text("def reward(text, truth, row):\n    return 1.0\n")
    own = {"credit": credit, "reward": f"{tmp_path}/mine.py:reward", "roles": {"reason": {"max_tokens": 16}}}
    (found,) = problems("so 3", **own)
    assert "train.parquet, row 1: extra_info.reference is 'so 3', without \\boxed{...}" in found
    assert "where another answer begins is not known" in found and "or set reference_after=prompt" in found


def test_an_own_reward_is_not_asked(problems, tmp_path):
    (tmp_path / "mine.py").write_text("def reward(text, truth, row):\n    return 1.0\n")
    assert problems("anything", reward=f"{tmp_path}/mine.py:reward", roles={"reason": {"max_tokens": 16}}) == []
