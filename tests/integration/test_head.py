"""ccpo/verl_gpu/head.py: the same log-probabilities and the same update, with the output layer on the tokens that are read alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("verl")

import torch  # noqa: E402
from tensordict import TensorDict  # noqa: E402

ALONE = Path(__file__).with_name("head_alone.py")


def jagged(*rows: list[int]) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


@pytest.fixture(scope="module")
def results(in_cpu_fork):
    done = in_cpu_fork([ALONE], ALONE.parent)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[-1].removeprefix("RESULT "))


@pytest.fixture(params=["whole", "parts", "adapter"])
def result(request, results):
    """Of all weights with one pack, with several, and of an adapter."""
    return results[request.param]


def test_log_probabilities_are_the_same(result):
    assert result["log_probs"] < 1e-5 and result["smallest"] > 0


def test_the_update_is_the_same(result):
    assert result["moved"] > 1e-4 and result["apart"] < 1e-5
    for name, value in result["metrics_theirs"].items():
        assert result["metrics_ours"][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_the_output_layer_sees_the_responses_alone(result):
    """In the pass for log-probabilities, and in the update."""
    assert result["tokens_theirs"] == [result["all"]] * 2
    assert result["tokens_ours"] == [result["responses"]] * 2 and result["responses"] < result["all"]


def test_the_places_are_those_that_verl_reads():
    from verl.workers.utils.padding import response_from_nested

    from ccpo.verl_gpu.head import places_read

    ids = jagged([0] * 7, [0] * 4, [0] * 5)
    for lengths in ((3, 1, 2), (1, 3, 4), (6, 1, 1)):
        mask = jagged(*([1] * length for length in lengths))
        places = places_read(TensorDict({"input_ids": ids, "loss_mask": mask}, batch_size=3))
        numbered = torch.nested.nested_tensor_from_jagged(torch.arange(16), ids.offsets())
        assert places.tolist() == response_from_nested(numbered, mask).values().tolist()


def test_of_lessons_they_are_those_before_a_learned_token():
    from ccpo.verl_gpu.head import places_read

    masks = [0, 0, 1, 1], [0, 1, 0], [0, 0, 0, 1]
    batch = {"input_ids": jagged([0] * 4, [0] * 3, [0] * 4), "loss_mask": jagged(*masks)}
    assert places_read(TensorDict(batch, batch_size=3)).tolist() == [1, 2, 4, 9]
