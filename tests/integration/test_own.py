"""examples/own, and what docs/your_own.md shows: data, reward, prompts and team of a user's own, up to the last check before Ray starts."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("verl")

import pyarrow.parquet as pq  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from ccpo.config import CcpoConfig, ConfigError  # noqa: E402
from ccpo.judge import judge_of  # noqa: E402
from ccpo.reward import OwnReward  # noqa: E402
from ccpo.team.replay import Intervention, play  # noqa: E402
from ccpo.team.session import Decoded, Scene, TeamError  # noqa: E402
from ccpo.types import REMOVE  # noqa: E402
from ccpo.user_code import absolute  # noqa: E402
from ccpo.verl_plugin import preflight  # noqa: E402

ROOT = Path(__file__).parents[2]
OWN = "examples/own"
DOC = (ROOT / "docs" / "your_own.md").read_text()
COMMANDS = re.search(r"\n\n((?:    .*\n)+)", DOC)[1].replace("\\\n", " ").strip().splitlines()
SETTINGS = dict(word.split("=", 1) for word in shlex.split(COMMANDS[2]) if re.match(r"(ccpo|data)\.", word))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """What the first command of the page makes."""
    from data_preprocess import custom

    words = shlex.split(COMMANDS[0])
    assert words[:3] == [".venv/bin/python", "-m", "data_preprocess.custom"]
    out = tmp_path_factory.mktemp("own") / "data"
    given = words[3:]
    given[given.index("--out") + 1] = str(out)
    given[given.index("--train") + 1] = str(ROOT / given[given.index("--train") + 1])
    custom.main(given)
    return out


@pytest.fixture
def config(cpu_config, data):
    """The job of the page's third command, with the embedded model."""
    cpu_config.data.train_files, cpu_config.data.val_files = str(data / "train.parquet"), str(data / "test.parquet")
    cpu_config.ccpo.team = str(ROOT / OWN / "team.py:Tutor")
    cpu_config.ccpo.credit.rule = "removal"
    cpu_config.ccpo.roles = {}
    for name, value in SETTINGS.items():
        OmegaConf.update(cpu_config, name, absolute(str(ROOT / value)) if OWN in value else int(value))
    cpu_config.actor_rollout_ref.actor.ppo_mini_batch_size = cpu_config.data.train_batch_size
    return cpu_config


def problem(config) -> str:
    with pytest.raises(ConfigError) as caught:
        preflight.check(config)
    (found,) = caught.value.problems
    return found


def mine(config, tmp_path, code: str) -> None:
    (tmp_path / "mine.py").write_text("from ccpo.reward import Reward\n" + code)
    config.ccpo.reward = f"{tmp_path}/mine.py:reward"


# ------------------------------------------------------------------------------------------------------------- the page


def test_the_pages_example_is_accepted(config, data):
    assert preflight.check(config) == []
    rows = [row for split in ("train", "test") for row in pq.read_table(data / f"{split}.parquet").to_pylist()]
    assert len(rows) == 12 and {"hint", "tolerance"} <= set(rows[0]["extra_info"])


def test_the_team_can_be_described(capsys):
    import runpy

    words = shlex.split(COMMANDS[1])
    main = runpy.run_path(str(ROOT / words[1]))["main"]
    assert main([str(ROOT / word) if OWN in word else word for word in words[2:]]) == 0
    said = capsys.readouterr().out
    assert "Tutor: 2 roles" in said and "<advice>" in said


def test_the_page_shows_what_the_files_hold():
    yaml, team = re.findall(r"```(?:yaml|python)\n# examples/own/\S+\n(.*?)```", DOC, re.DOTALL)
    assert yaml in (ROOT / OWN / "prompts.yaml").read_text()
    assert team.strip() in (ROOT / OWN / "team.py").read_text()
    record = json.loads(re.search(r"```json\n(.*?)```", DOC, re.DOTALL)[1])
    assert record == json.loads((ROOT / OWN / "questions.jsonl").read_text().splitlines()[0])


def test_the_pages_reward_and_row(tmp_path):
    (tmp_path / "my_reward.py").write_text(re.search(r"```python\n# my_reward.py\n(.*?)```", DOC, re.DOTALL)[1])
    row = eval(re.search(r"```python\n(\{.*?)```", DOC, re.DOTALL)[1])
    reward = OwnReward(f"{tmp_path}/my_reward.py:reward", processes=1)
    try:
        judge = judge_of(row, reward)
        found = asyncio.run(judge.verify("I think.\n\\boxed{7}"))  # as the prompts of the page's command ask for it
        assert (found.answer, found.reward) == ("7", 1.0)
        assert asyncio.run(judge.verify("")).answer is None
    finally:
        reward.close()
    from ccpo.data import row_problem

    assert row_problem(row, "train") is None


def test_partial_credit_of_the_example(data):
    reward = OwnReward(f"{ROOT}/{OWN}/reward.py:close")
    row = pq.read_table(data / "test.parquet").to_pylist()[0]
    truth, tolerance = int(row["reward_model"]["ground_truth"]), row["extra_info"]["tolerance"]
    worth = [asyncio.run(judge_of(row, reward).verify(f"\\boxed{{{digit}}}")).reward for digit in range(10)]
    assert worth == [max(0.0, 1 - abs(digit - truth) / tolerance) for digit in range(10)]


# ------------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "code, says",
    [
        ("def reward(t, g, r):\n    return {}[t]\n", "raised KeyError: '\\\\boxed{"),
        ("async def reward(t, g, r):\n    return 2\n", "returned 2.0, which is not in [0, 1]"),
        ("def reward(t, g, r):\n    while True: pass\n", "took more than 1 seconds"),
        ("async def reward(t, g, r):\n    return r['extra_info']['hnit']\n", "raised KeyError: 'hnit' (line 3)"),
    ],
)
def test_a_reward_that_fails_on_the_data(config, tmp_path, code, says):
    mine(config, tmp_path, code)
    config.ccpo.reward_timeout = 1.0
    found = problem(config)
    assert found.startswith(f"ccpo.reward={tmp_path}/mine.py:reward: the reward ") and says in found
    assert "train.parquet, row 0 with the text" in found


def test_a_reward_that_is_not_there(config):
    config.ccpo.reward = f"{ROOT}/{OWN}/reward.py:clsoe"
    assert "did you mean close? functions there: close, exact" in problem(config)


def test_rows_that_nobody_can_judge(config):
    config.ccpo.reward = None
    with pytest.raises(ConfigError) as caught:
        preflight.check(config)
    assert all("answer_type is 'own'" in text and "set ccpo.reward" in text for text in caught.value.problems)


def test_a_vote_needs_answers_that_can_be_told_apart(config, tmp_path):
    config.ccpo.team, config.ccpo.prompts, config.ccpo.credit.rule = "vote", "toy", "leave_one_out"
    config.actor_rollout_ref.rollout.val_kwargs.do_sample = True
    mine(config, tmp_path, "def reward(t, g, r):\n    return Reward(0.0, 'a')\n")
    assert "give the function an attribute label" in problem(config)
    mine(config, tmp_path, "def reward(t, g, r):\n    return 0.0\nreward.label = str.strip\n")
    assert "it gave a bare number" in problem(config) and "ccpo.reward.Reward(value, answer)" in problem(config)
    mine(config, tmp_path, "def reward(t, g, r):\n    return Reward(0.5, 'a')\nreward.label = str.strip\n")
    assert "it gave 0.5" in problem(config) and "give 0 or 1, or let one turn be the team's answer" in problem(config)
    config.ccpo.reward = f"{ROOT}/{OWN}/reward.py:exact"
    assert preflight.check(config) == []


def test_a_rule_of_right_and_wrong_is_refused_before_the_start(config, tmp_path):
    config.ccpo.credit.rule = "event_v2"
    assert "gives partial credit: rule event_v2 is not defined for it" in problem(config)
    mine(config, tmp_path, "async def reward(t, g, r):\n    return 0.5\n")
    assert "it gave 0.5 (tried on" in problem(config) and "rule event_v2 is not defined for it" in problem(config)
    mine(config, tmp_path, "async def reward(t, g, r):\n    return 1\n")
    config.ccpo.credit.rule = "event_v2"
    assert len(preflight.check(config)) == 1, "a warning of the rule's own"


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"reward_timeout": 0}, "ccpo.reward_timeout is 0"),
        ({"reward_timeout": 5000.0}, "ccpo.reward_timeout=5000.0 is more than ccpo.session_timeout=1800.0"),
        ({"reward_processes": 0}, "ccpo.reward_processes is 0"),
        ({"reward_processes": 1000}, "set 1..64"),
        ({"reward": 5}, "ccpo.reward is 5: set text"),
        ({"reward": "grpo"}, "names no reward: set package.module:function"),
        ({"reward": None, "reward_timeout": 5.0}, "ccpo.reward_timeout is about a reward of your own"),
    ],
)
def test_settings_of_the_reward(settings, says):
    with pytest.raises(ConfigError) as caught:
        CcpoConfig.from_dict({"reward": f"{ROOT}/{OWN}/reward.py:close", **settings}, 4)
    assert any(says in text for text in caught.value.problems), caught.value.problems


# -------------------------------------------------------------------------------------------------------------- a vote


def voted(reward: OwnReward, said: list[str], truth: str = "Paris"):
    """A vote of these texts, and its replays without each voter."""
    config = CcpoConfig(team="vote", team_kwargs={"n_voters": len(said)})
    row = {
        "reward_model": {"ground_truth": truth},
        "extra_info": {"answer_type": "own"},
        "prompt": [{"role": "user", "content": "q"}],
    }

    async def decode(role, messages, label):
        return Decoded(said[config.plan.roles.index(role)])

    scene = Scene("q", decode, lambda role, fields: (), judge_of(row, reward))
    replays = [Intervention(REMOVE, role) for role in config.plan.roles]
    return asyncio.run(play(config.members, scene, config.plan, replays))


def own(tmp_path, code: str) -> OwnReward:
    (tmp_path / "mine.py").write_text("from ccpo.reward import Reward\n" + code)
    return OwnReward(f"{tmp_path}/mine.py:reward")


ASYNC = "async def reward(text, truth, row):\n    return Reward(float(text.lower() == truth.lower()), text or None)\n"


@pytest.mark.parametrize(
    "code",
    [
        ASYNC + "async def label(answer): return answer.lower()\nreward.label = label\n",
        ASYNC + "async def same(a, b): return a.lower() == b.lower()\nreward.same = same\n",
    ],
)
def test_a_vote_counts_answers_that_the_reward_calls_equal(tmp_path, code):
    played = voted(own(tmp_path, code), ["Rome", "ROME", "paris", ""])
    assert played.value == 0 and len({played.ballots["voter_0"], played.ballots["voter_1"]}) == 1
    assert played.ballots["voter_2"] == "Paris" and played.ballots["voter_3"] is None
    assert [replay.value for replay in played.replays] == [0.5, 0.5, 0, 0]


def test_a_ballot_with_partial_credit_or_without_an_answer_ends_the_session(tmp_path):
    label = "reward.label = str\n"
    with pytest.raises(TeamError, match="the reward gave the answer 'Rome' 0.25"):
        voted(own(tmp_path, "async def reward(t, g, r): return Reward(0.25, t)\n" + label), ["Rome", "Rome"])
    with pytest.raises(TeamError, match="gave a bare number"):
        voted(own(tmp_path, "async def reward(t, g, r): return 1.0\n" + label), ["Rome", "Rome"])
