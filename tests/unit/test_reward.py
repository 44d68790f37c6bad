"""A reward of a user's own: it is loaded, called with a limit, and gives a value in [0, 1] or an error, never a silent 0."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from processes import words_of

from ccpo.judge import OwnJudge, RowJudge, judge_of
from ccpo.reward import OwnReward, Reward, RewardError, checked
from ccpo.user_code import UserCodeError

ROOT = Path(__file__).parents[2]
ROW = {
    "data_source": "own",
    "prompt": [{"role": "user", "content": "q"}],
    "reward_model": {"style": "rule", "ground_truth": "7"},
    "extra_info": {"split": "train", "index": 0, "answer_type": "own", "question": "q", "options": [], "weight": 0.5},
}


@pytest.fixture
def load(tmp_path):
    """load(code, name, **settings) -> the reward of a file with this code; its processes end with the test."""
    made = []

    def of(code: str, name: str = "reward", **settings) -> OwnReward:
        path = tmp_path / "mine.py"
        path.write_text("from ccpo.reward import Reward\n" + textwrap.dedent(code))
        made.append(OwnReward(f"{path}:{name}", **settings))
        return made[-1]

    yield of
    for reward in made:
        reward.close()


EVAL = """\
import numpy
from ccpo.reward import Reward


def said(text, truth, row):
    return eval(text)


async def waiting(text, truth, row):
    return said(text, truth, row)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """A reward that returns what the text says, as a function and as a coroutine."""
    path = tmp_path_factory.mktemp("said") / "said.py"
    path.write_text(EVAL)
    made = [OwnReward(f"{path}:{name}", processes=1) for name in ("said", "waiting")]
    yield made
    made[0].close()


def verdict(reward: OwnReward, text: str = "t", row: dict = ROW):
    return asyncio.run(judge_of(row, reward).verify(text))


def failure(reward: OwnReward, text: str = "t") -> str:
    with pytest.raises(RewardError) as caught:
        verdict(reward, text)
    return str(caught.value)


KINDS = pytest.mark.parametrize("kind", ["def", "async def"])


# -------------------------------------------------------------------------------------------------------------- values


@KINDS
def test_it_is_given_the_text_the_truth_and_the_row(load, kind):
    reward = load(
        f"""
        {kind} reward(text, truth, row):
            assert row["prompt"][0]["content"] == "q" and row["reward_model"]["ground_truth"] == truth == "7"
            return Reward(row["extra_info"]["weight"], text.upper())
        """
    )
    assert (
        verdict(reward, "\u00e9\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")).answer
        == "\u00c9\U0001f600"
    )
    found = verdict(reward, "a")
    assert (found.answer, found.reward, found.parsed) == ("A", 0.5, True)


def test_verls_columns_are_not_shown_and_the_prompt_is_as_in_the_data(load):
    reward = load("def reward(text, truth, row): return Reward(1.0, ' '.join(sorted(row)))")
    in_verl = {name: value for name, value in ROW.items() if name != "prompt"} | {
        "raw_prompt": ROW["prompt"],
        "uid": "u",
        "session_id": 1,
        "global_steps": 3,
        "dummy_tensor": object(),
        "index": 0,
    }
    assert verdict(reward, row=in_verl).answer == verdict(reward).answer == "data_source extra_info prompt reward_model"


@pytest.mark.parametrize(
    "returned, reward, answer, parsed",
    [
        ("0.25", 0.25, None, True),
        ("1", 1.0, None, True),
        ("True", 1.0, None, True),
        ("Reward(0.0)", 0.0, None, False),
        ("Reward(0.3, 'a')", 0.3, "a", True),
        ("numpy.float32(0.5)", 0.5, None, True),
        ("numpy.bool_(True)", 1.0, None, True),
    ],
)
def test_what_it_may_return(said, returned, reward, answer, parsed):
    for own in said:
        found = verdict(own, returned)
        assert (found.reward, found.answer, found.parsed) == (reward, answer, parsed)


@pytest.mark.parametrize(
    "returned, says",
    [
        ("None", "returned None"),
        ("'1.0'", "type str ('1.0'), not a number in [0, 1] or a Reward"),
        ("(1.0, 'a')", "type tuple"),
        ("float('nan')", "nan, which is not in [0, 1]"),
        ("-0.01", "-0.01, which is not in [0, 1]"),
        ("1.0000001", "not in [0, 1]"),
        ("float('inf')", "not in [0, 1]"),
        ("1j", "type complex"),
        ("lambda: 1", "type function"),
        ("Reward('1')", "type str"),
        ("Reward(1.0, 5)", "the answer of type int (5)"),
        ("Reward(1.0, '')", "set a text, or None where nothing was read"),
        ("Reward(1.0, '\\ud800')", "no valid Unicode"),
        ("1 / 0", "raised ZeroDivisionError: division by zero (line 6)"),
        ("exit(3)", "raised SystemExit: 3 (line 6)"),
        ("[][1]", "raised IndexError: list index out of range (line 6)"),
    ],
)
def test_whatever_is_no_value_is_an_error_that_names_the_reward(said, returned, says):
    for reward in said:
        if "exit" in returned and reward.reference.endswith(":waiting"):
            continue  # it ends the process, as anywhere on its event loop
        found = failure(reward, returned)
        assert f"the reward {reward.reference}" in found and says in found


def test_a_coroutine_that_is_not_declared_is_named(load):
    found = failure(load("async def other(): return 1.0\ndef reward(text, truth, row): return other()"))
    assert "define it with async def" in found


def test_what_a_coroutine_does_to_its_row_nobody_else_sees(load):
    reward = load(
        """
        async def reward(text, truth, row):
            row["extra_info"]["weight"] += 0.25
            return row["extra_info"]["weight"]
        """
    )
    judge = judge_of(ROW, reward)
    assert [asyncio.run(judge.verify(text)).reward for text in "ab"] == [0.75, 0.75] and ROW["extra_info"][
        "weight"
    ] == 0.5


def test_a_reward_that_stands_in_no_file_has_a_digest():
    assert len(OwnReward("builtins:max").digest) == 16


def test_labels_and_same():
    assert checked("label", "a") == "a" and checked("same", True) is True
    for part, wrong in (("label", ""), ("label", 3), ("same", 1), ("same", None)):
        with pytest.raises(ValueError):
            checked(part, wrong)


# -------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    "body",
    [
        "import time; time.sleep(60)",
        "import re; re.match(r'(a+)+$', 'a' * 40 + 'b')",  # holds the interpreter: a thread's clock would not ring
        pytest.param("while True: pass", marks=pytest.mark.slow),  # it keeps less from happening than the two above
    ],
)
def test_a_call_that_hangs_is_ended_and_others_are_not(load, body):
    reward = load(
        f"""
        def reward(text, truth, row):
            if text == "hang":
                {body}
            return 1.0
        """,
        timeout=1.0,
    )

    others = _processes()

    async def both() -> tuple[list, int]:
        judge, ticks = judge_of(ROW, reward), 0

        async def clock():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        task = asyncio.ensure_future(clock())
        texts = ["hang", "a", "hang", "b", "hang"]
        found = await asyncio.gather(*(judge.verify(text) for text in texts), return_exceptions=True)
        task.cancel()
        return found, ticks

    found, ticks = asyncio.run(both())
    assert ["took more than 1 seconds" in str(f) for f in found] == [True, False, True, False, True]
    assert found[1].reward == found[3].reward == 1.0
    assert ticks > 20, "the event loop went on"
    assert len(_processes() - others) <= reward.processes
    reward.close()
    assert _processes() <= others


def _processes() -> set[psutil.Process]:
    """Of the pools of this process."""
    return {child for child in psutil.Process().children() if "--multiprocessing-fork" in words_of(child)}


def test_a_child_of_another_test_that_has_ended_is_no_process_of_a_pool():
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert child.pid not in {process.pid for process in _processes()}
    finally:
        child.wait(10)


@pytest.mark.parametrize("body", ["await asyncio.sleep(60)", "await deaf()"])
def test_a_coroutine_that_waits_too_long_is_given_up(load, body):
    reward = load(
        f"""
        import asyncio
        async def deaf():
            for _ in range(100):
                try:
                    await asyncio.sleep(0.2)
                except asyncio.CancelledError:
                    return
        async def reward(text, truth, row):
            {body}
        """,
        timeout=0.2,
    )
    start = time.monotonic()
    assert "took more than 0.2 seconds (ccpo.reward_timeout)" in failure(reward)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_reward_that_exits_ends_nothing_else(load, kind):
    reward = load(
        f"""
        import sys
        {kind} reward(text, truth, row):
            sys.exit("no such option")
        """
    )
    assert "raised SystemExit: no such option (line 5)" in failure(reward)
    reward.close()


def test_a_signal_that_comes_in_a_coroutine_is_obeyed(load, caplog):
    reward = load(
        """
        class Signal(SystemExit):
            pass
        async def reward(text, truth, row):
            raise Signal(143)
        """
    )
    with pytest.raises(SystemExit):
        failure(reward)
    gc.collect()
    # An "exception was never retrieved" is logged in the middle of whatever runs then; its traceback uses ast,
    # so that another ast.parse fails (CPython 3.11: "AST constructor recursion depth mismatch").
    assert not caplog.records


def test_a_process_that_dies_is_an_error_and_the_next_call_works(load):
    reward = load(
        """
        import os
        def reward(text, truth, row):
            if text == "die":
                os._exit(3)
            return 1.0
        """
    )
    assert "ended its process" in failure(reward, "die")
    assert verdict(reward).reward == 1.0


def test_a_session_that_is_cancelled_ends_its_call(load):
    reward = load("def reward(text, truth, row):\n    while True: pass", processes=1)

    async def given_up():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(judge_of(ROW, reward).verify("t"), 1.0)

    asyncio.run(given_up())
    deadline = time.monotonic() + 20
    while any(p.is_running() and p.cpu_times().user > 5 for p in _processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert time.monotonic() < deadline


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_nothing_is_left_of_a_process_that_was_killed(tmp_path):
    (tmp_path / "mine.py").write_text("def reward(text, truth, row):\n    while True: pass\n")
    program = f"""
import asyncio, os, sys
from ccpo.reward import OwnReward
async def main():
    task = asyncio.ensure_future(OwnReward({str(tmp_path / "mine.py")!r} + ":reward", processes=2).value("t", "", {{}}))
    await asyncio.sleep(1.5)
    print("ready", flush=True)
    await task
if __name__ == "__main__":
    asyncio.run(main())
"""
    (tmp_path / "main.py").write_text(program)
    job = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")], stdout=subprocess.PIPE, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    try:
        assert job.stdout.readline() == b"ready\n"
        children = psutil.Process(job.pid).children(recursive=True)
        assert children
    finally:
        job.kill()
        job.wait(10)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not [process for process in alive if "--multiprocessing-fork" in words_of(process)]


# ------------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize(
    "code, name, says",
    [
        ("def rewrad(text, truth, row): return 1", "reward", "did you mean rewrad? functions there: rewrad"),
        ("reward = 5", "reward", "is of type int, no function"),
        ("class Mine: pass", "Mine", "is of type type, no function"),
        (
            "def reward(text, truth): return 1",
            "reward",
            "cannot be called with 3 arguments: it takes (text, truth, row)",
        ),
        ("def reward(t, g, r): return 1\nreward.label = 5", "reward", "reward.label in"),
        ("def reward(t, g, r): return 1\nreward.same = len", "reward", "reward.same in"),
        ("def reward(t, g, r): return 1\nreward.partial = 'no'", "reward", "set True or False"),
        ("1 / 0", "reward", "cannot be imported: ZeroDivisionError: division by zero (line 2)"),
        ("def (", "reward", "cannot be imported: SyntaxError"),
    ],
)
def test_a_reference_that_leads_to_no_reward(load, code, name, says):
    with pytest.raises(UserCodeError) as caught:
        load(code, name)
    assert says in str(caught.value)


@pytest.mark.parametrize("reference", ["reward", "", "a.b:", "a.py", ":f", "a.py:b c"])
def test_what_is_no_reference(reference):
    with pytest.raises(UserCodeError, match="names no reward: set package.module:function"):
        OwnReward(reference)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(UserCodeError, match="the reward's file .*no.py does not exist"):
        OwnReward(f"{tmp_path}/no.py:reward")


@KINDS
def test_an_object_with_methods_is_a_reward(load, kind):
    reward = load(
        f"""
        class Graded:
            partial = True
            {kind} __call__(self, text, truth, row): return Reward(0.5, text)
            def label(self, answer): return answer.lower()
        graded = Graded()
        """,
        "graded",
    )
    assert reward.partial and reward.names_answers
    judge = judge_of(ROW, reward)
    found = asyncio.run(judge.verify("ABC"))
    assert found.reward == 0.5 and judge.label(found.answer) == "abc"


def test_who_judges():
    assert isinstance(judge_of(ROW, OwnReward(f"{ROOT}/examples/own/reward.py:close")), OwnJudge)
    boxed = {**ROW, "extra_info": {**ROW["extra_info"], "answer_type": "boxed"}}
    assert judge_of(boxed) == RowJudge.of(boxed)
    with pytest.raises(ValueError, match="only a reward of your own can judge the row; set ccpo.reward"):
        judge_of(ROW)
    assert Reward(1.0) == Reward(1.0, None)
