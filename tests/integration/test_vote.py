"""One vote around fakes: who is asked what and when, how answers become ballots, and what comes back."""

from __future__ import annotations

import asyncio

import pytest

from ccpo.config import CcpoConfig
from ccpo.prompts import VotePrompts
from ccpo.topology.session import PromptBudget, Turn
from ccpo.topology.vote import Voter, run_vote, voters_of
from ccpo.verifier import Verdict, label, same_answer

PROMPTS = VotePrompts(
    vote=(("system", "Vote."), ("user", "{question}")),
    again=(("system", "Vote."), ("user", "{question} | {others}")),
)
TRUTH = "4"


class Team:
    """Voters that say ``answers[round][seat]``: "= x" is an answer, anything else cannot be read; exceptions are raised."""

    def __init__(self, answers, limit=1000, personas=None, **options):
        self.answers, self.options = answers, options
        self.prompts: list[tuple[int, str, list[dict]]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.cancelled: list[str] = []
        self.voters = [Voter(PROMPTS, persona) for persona in (personas or [""] * len(answers[0]))]
        self.budget = PromptBudget(
            lambda messages: len(messages[-1]["content"].split()), lambda text, n: " ".join(text.split()[n:]), limit
        )

    async def generate(self, role, messages, round=0):
        self.prompts.append((round, role, messages))
        answer = self.answers[round][int(role.rpartition("_")[2])]
        if isinstance(answer, Exception):
            raise answer
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(role)
            raise
        return answer if isinstance(answer, Turn) else Turn(answer, False)

    async def judge(self, text):
        _, found, answer = text.rpartition("= ")
        return Verdict(answer, float(answer in (TRUTH, "8/2")), True) if found else Verdict(None, 0.0, False)

    async def same(self, a, b):
        return {a, b} == {"a half", ".5"}

    async def start(self):
        return await run_vote(
            "2 + 2?",
            voters=self.voters,
            truth=TRUTH,
            generate=self.generate,
            judge=self.judge,
            label=lambda answer: answer.strip(),
            same=self.same,
            budgets=[self.budget] * len(self.voters),
            **self.options,
        )

    def asked(self, round: int) -> list[str]:
        return [messages[-1]["content"] for number, _, messages in self.prompts if number == round]


def run(answers, **options):
    async def main():
        team = Team(answers, **options)
        return team, await team.start()

    return asyncio.run(main())


def ballots(result):
    return [scored.ballot for _, scored in result]


def test_all_voters_are_asked_before_any_has_answered():
    async def main():
        team = Team([["= 4", "= 4", "= 5"]])
        team.open.clear()
        task = asyncio.create_task(team.start())
        for _ in range(20):
            await asyncio.sleep(0)
        assert [role for _, role, _ in team.prompts] == ["voter_0", "voter_1", "voter_2"]
        team.open.set()
        return await task

    result = asyncio.run(main())
    assert [role for role, _ in result] == ["voter_0", "voter_1", "voter_2"]


@pytest.mark.parametrize(
    ("answers", "tie", "value"),
    [
        (["= 4", "= 4", "= 5"], "expected", 1.0),
        (["= 4", "= 5", "= 6"], "expected", 1 / 3),
        (["= 4", "= 5", "= 6"], "fail", 0.0),
        (["= 5", "= 4", "no idea"], "optimistic", 1.0),
        (["= 5", "= 4", "no idea"], "first", 0.0),
        (["= 5", "= 5", "= 4"], "expected", 0.0),
        (["no", "no", "no"], "expected", 0.0),
    ],
)
def test_every_row_carries_the_value_of_the_vote(answers, tie, value):
    _, result = run([answers], tie=tie)
    assert {scored.reward for _, scored in result} == {value}


def test_ballots_are_grouped_by_meaning_and_the_unreadable_abstain():
    _, result = run([["= 8/2", "= 4", "= a half", "= .5", "hm", "= 9"]])
    assert ballots(result) == ["4", "4", "a half", "a half", None, "9"]
    assert [scored.parsed for _, scored in result] == [True, True, True, True, False, True]
    assert {scored.truth for _, scored in result} == {"4"}


def test_a_truncated_response_is_an_abstention_even_if_it_states_the_answer():
    _, result = run([[Turn("= 4", True), "= 5"]])
    assert ballots(result) == [None, "5"]
    assert [scored.reward for _, scored in result] == [0.0, 0.0]


def test_a_wrong_answer_spelled_like_the_truth_is_not_the_truth():
    async def main():
        team = Team([["= 4 ", "= 5"]])

        async def judge(text):
            return Verdict("4", 0.0, True)

        team.judge = judge
        return await team.start()

    result = asyncio.run(main())
    assert TRUTH not in ballots(result)
    assert result[0][1].reward == 0.0


def test_a_persona_is_part_of_the_system_message_of_its_voter_alone():
    team, _ = run([["= 4", "= 4"]], personas=["", "You are careful."])
    assert [messages[0]["content"] for _, _, messages in team.prompts] == ["Vote.", "Vote. You are careful."]


def test_in_a_second_round_each_voter_reads_the_others_answers_and_the_last_vote_counts():
    team, result = run([["so = 5", "so = 5", "hm"], ["= 4", "= 4", "= 5"]], rounds=2)
    assert team.asked(0) == ["2 + 2?"] * 3
    assert team.asked(1)[0] == "2 + 2? | Voter 2: 5\nVoter 3: no answer"
    assert team.asked(1)[2] == "2 + 2? | Voter 1: 5\nVoter 2: 5"
    assert [role for role, _ in result] == ["voter_0", "voter_1", "voter_2"] * 2
    assert [scored.final for _, scored in result] == [False] * 3 + [True] * 3
    assert ballots(result) == ["5", "5", None, "4", "4", "5"]
    assert {scored.reward for _, scored in result} == {1.0}, "earlier turns earn the value of the last vote"


def test_shared_reasoning_is_cut_from_the_left_until_the_prompt_fits():
    said = [["one two three four = 5", "= 6", "= 7"], ["= 4", "= 4", "= 4"]]
    whole, result = run(said, rounds=2, share_reasoning=True)
    assert "Voter 1: one two three four = 5" in whole.asked(1)[1]
    assert not any(scored.cut for _, scored in result)
    short, result = run(said, rounds=2, share_reasoning=True, limit=12)
    assert all(len(text.split()) <= 12 for text in short.asked(1))
    assert short.asked(1)[1].startswith("2 + 2? | Voter 1: four = 5\nVoter 3: ")
    assert [scored.cut for _, scored in result] == [False, False, False, False, True, True]


def test_bare_answers_that_do_not_fit_are_an_error_that_says_what_to_set():
    with pytest.raises(ValueError, match="data.max_prompt_length"):
        run([["= 4", "= 4"], ["= 4", "= 4"]], rounds=2, limit=5)


def test_a_failed_voter_ends_the_session_and_cancels_the_others():
    async def main():
        team = Team([["= 4", "= 4", RuntimeError("server gone")]])
        team.open.clear()
        with pytest.raises(RuntimeError, match="server gone"):
            await team.start()
        await asyncio.sleep(0)
        return team.cancelled

    assert asyncio.run(main()) == ["voter_0", "voter_1"]


def test_the_configuration_makes_the_team():
    node = {"n_voters": 2, "personas": ["Be bold.", "Be careful."], "templates": ["math", "choice"]}
    config = CcpoConfig.from_dict({"topology": "vote", "credit": {"rule": "resampled"}, "vote": node}, n=4)
    first, second = voters_of(config.vote, config.prompts)
    assert (first.persona, second.persona) == ("Be bold.", "Be careful.")
    assert first.prompts != second.prompts
    same = CcpoConfig.from_dict({"topology": "vote", "credit": {"rule": "resampled"}, "prompts": "toy"}, n=4)
    assert len(set(voters_of(same.vote, same.prompts))) == 1


def test_real_answers_meet_under_the_real_verifier():
    """Equivalent wrong answers share a label through the same functions that the agent loop uses."""
    assert label("1/2", "boxed") == label("\\frac{1}{2}", "boxed") == label("0.5", "boxed")
    assert same_answer("x+1", "1+x", "boxed")
    assert not same_answer("x+1", "x+2", "boxed")
