"""The rule likelihood: numbers by hand, which teams it fits, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from ccpo.config import CcpoConfig, ConfigError
from ccpo.credit.base import CreditConfig, HistoryConfig
from ccpo.credit.history import HistoryState
from ccpo.credit.likelihood import likelihood
from ccpo.credit.rules import fits, refusals
from ccpo.step import StepSettings, compute_advantages
from ccpo.team import Team
from ccpo.team.dyad import Dyad
from ccpo.team.plan import plan
from ccpo.team.vote import Vote
from ccpo.types import SessionRecord, Sessions, TurnRecord

ROLES = ("think", "reason")
PROMPTS = {"two": {"one": [{"user": "{question}"}], "two": [{"user": "{question}{said}"}]}}


def session(prompt: str, number: int, value: float, *likelihoods: float, roles=ROLES, **behind) -> SessionRecord:
    return SessionRecord(prompt, number, value, tuple(map(TurnRecord, roles)), likelihoods=likelihoods, **behind)


STEP = [
    session("a", 0, 1.0, 0.5, 0.75),
    session("a", 1, 0.0, 0.5, 0.25),
    session("b", 0, 1.0, 0.0, 0.5),
]


def step(records=STEP, roles=ROLES, state=None, normalize="none", **options):
    settings = StepSettings(CreditConfig("likelihood", normalize, **options), policy_of=dict.fromkeys(roles, "one"))
    return compute_advantages(Sessions.from_records(records, roles), settings, state)


def test_credits_by_hand_and_they_add_up_to_what_the_team_adds_to_its_last_speaker():
    found = step().credit_SV
    assert found.tolist() == [[0.25, 0.25], [-0.25, -0.25], [0.5, 0.5]]
    assert found.sum(axis=1).tolist() == [record.value - record.likelihoods[0] for record in STEP]


def test_a_chain_by_hand():
    roles = ("one", "two", "three")
    found = step([session("a", 0, 1.0, 0.125, 0.5, 0.25, roles=roles)], roles)
    assert found.credit_SV.tolist() == [[0.375, -0.25, 0.75]]


def test_a_negative_slope_scales_what_earlier_turns_take_away_alone():
    assert step(negative_slope=0.25).credit_SV.tolist() == [[0.25, 0.25], [-0.0625, -0.25], [0.5, 0.5]]
    assert step(negative_slope=0).credit_SV.tolist() == [[0.25, 0.25], [0, -0.25], [0.5, 0.5]]


def test_roles_of_one_policy_are_divided_by_one_scale():
    """First batch: u and R - v are 1/4, -1/4, 1/2 both: mean 1/6, variance 7/72."""
    found = step(normalize="history").advantage_SV
    wanted = (np.array([0.25, -0.25, 0.5]) - 1 / 6) / (7 / 72) ** 0.5
    np.testing.assert_allclose(found, np.stack([wanted, wanted], axis=1))


def test_the_second_step_uses_the_first_ones_coefficients():
    """First batch: v = 1/2, 1/2, 0; u = 1/4, -1/4, 1/2; the other session's u = -1/4, 1/4, none. Sums of products about the means, over 3:
    vv = 1/18, vs = 0, ss = 1/24, vu = -1/18, su = -1/24."""
    first = likelihood(Sessions.from_records(STEP, ROLES), HistoryState(), CreditConfig("likelihood"), HistoryConfig())
    assert (first.credit_SV == first.residual_SV).all()
    assert first.metrics["think/likelihood_coefficient"] == first.metrics["think/others_coefficient"] == 0
    records = [session("a", 0, 1.0, 0.5, 1.0), session("a", 1, 1.0, 0.5, 0.75), session("c", 0, 1.0, 0.25, 0.5)]
    second = likelihood(Sessions.from_records(records, ROLES), first.state, CreditConfig("likelihood"), HistoryConfig())
    beta_v, beta_s = -1 / 18 / (1 / 18 + 1e-4), -1 / 24 / (1 / 24 + 1e-4)
    assert second.metrics["think/likelihood_coefficient"] == pytest.approx(beta_v)
    assert second.metrics["think/others_coefficient"] == pytest.approx(beta_s)
    wanted = [
        0.5 - beta_v * (0.5 - 1 / 3) - beta_s * 0.25,
        0.25 - beta_v * (0.5 - 1 / 3) - beta_s * 0.5,
        0.25 - beta_v * (0.25 - 1 / 3),  # alone in its prompt: no other session
    ]
    assert second.residual_SV[:, 0].tolist() == pytest.approx(wanted)
    assert second.residual_SV[:, 1].tolist() == [0, 0.25, 0.5], "the last speaker has no controls"


def test_one_session_a_prompt_is_enough():
    state, records = None, [session(str(i), 0, float(i % 2), i / 10, i / 9) for i in range(8)]
    for _ in range(3):
        result = step(records, state=state, normalize="history")
        state = result.state
    assert result.metrics["think/others_coefficient"] == 0 != result.metrics["think/likelihood_coefficient"]
    assert np.isfinite(result.advantage_SV).all()


def test_what_is_logged():
    metrics = step().metrics
    assert metrics["credit/likelihood_alone"] == pytest.approx(1 / 3)
    assert metrics["credit/likelihood_heard"] == pytest.approx(0.5)
    assert metrics["credit/likelihood_gap"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([SessionRecord("a", 0, 1.0, (TurnRecord("think"),))], "these sessions do not say"),
        ([SessionRecord("a", 0, 1.0, (), likelihoods=()), *STEP], "two sessions"),
        ([SessionRecord("z", 0, 1.0, (), likelihoods=()), *STEP], "or have no turns"),
        ([*STEP, SessionRecord("c", 0, 1.0, (TurnRecord("think"),))], "some sessions have no likelihoods"),
        ([session("a", 0, 1.0, 0.5)], "not one per turn"),
        ([session("a", 0, 1.0, 0.5, 1.5)], r"before turn number 1 is 1\.5: it must be in \[0, 1\]"),
        ([session("a", 0, 1.0, float("nan"), 0.5)], "before turn number 0 is nan"),
    ],
)
def test_sessions_without_usable_likelihoods_are_refused(records, why):
    with pytest.raises(ValueError, match=why):
        step(records)


# ------------------------------------------------------------------------------------------------------- behind the chain

CHAINS = [
    session("a", 0, 1.0, 0.5, 0.75, behind=0.75, said=True),
    session("a", 1, 0.0, 0.5, 0.25, behind=0.5),
    session("b", 0, 1.0, 0.0, 0.5, behind=0.25),  # right in another spelling
    session("c", 0, 1.0, 0.0, 0.5),  # no border: what was sampled decides
]


def test_the_verdicts_chance_is_taken_out_by_hand():
    found = step(CHAINS, reference_after="chain")
    assert found.advantage_SV.tolist() == [[0.75, 0.75], [0.5, 0.5], [1.25, 1.25], [1.0, 1.0]]
    np.testing.assert_equal(found.answer_S, [0.25, -0.5, 0.75, np.nan])
    told = {name: value for name, value in found.metrics.items() if name.startswith("credit/") and "cosine" not in name}
    assert told == pytest.approx(
        {
            "credit/likelihood_alone": 0.25,
            "credit/likelihood_heard": 0.5,
            "credit/likelihood_behind": 0.5,
            "credit/likelihood_gap": (0.25 - 0.5 - 0.25) / 3,
            "credit/fallback_rate": 0.25,
            "credit/zero_rate": 0.0,
            "credit/answer_coefficient": 1.0,
        }
    )


def test_the_second_steps_coefficients_by_hand():
    """First step: [said] - Q = 1/4, -1/2, -1/4 of R = 1, 0, 1: mean square 1/8, covariance (1/4 1/3 + 1/2 2/3 - 1/4 1/3) / 3 = 1/9. So gamma is
    1/9 / (1/8 + 1e-4). Without it the values are 3/4, 1/2, 5/4, 1, with v before Think 1/2, 1/2, 0, 0: vv = 1/16, vu = -1/16."""
    config, history = CreditConfig("likelihood", reference_after="chain"), HistoryConfig()
    first = likelihood(Sessions.from_records(CHAINS, ROLES), HistoryState(), config, history)
    records = [session("d", 0, 1.0, 0.5, 0.75, behind=0.75, said=True), session("e", 0, 0.0, 0.25, 0.5)]
    second = likelihood(Sessions.from_records(records, ROLES), first.state, config, history)
    gamma = 1 / 9 / (1 / 8 + 1e-4)
    assert second.metrics["credit/answer_coefficient"] == pytest.approx(gamma)
    vv, vs, ss = 1 / 16, 0.0, 1 / 4 * (1 / 8) ** 2 * 2
    vu, su = -1 / 16, (-1 / 8 * (3 / 4 - 7 / 8) + 1 / 8 * (1 / 2 - 7 / 8)) / 4
    beta = np.linalg.solve([[vv + 1e-4, vs], [vs, ss + 1e-4]], [vu, su]).clip(-1, 1)
    assert [second.metrics[f"think/{name}_coefficient"] for name in ("likelihood", "others")] == pytest.approx(beta)
    value = np.array([1 - gamma / 4, 0.0])
    baseline = (
        beta[0] * np.array([0.5, 0.25]) + beta[1] * 5 / 8
    )  # alone in their prompts: the others' mean of the first step
    assert second.credit_SV[:, 0] == pytest.approx(value - baseline)
    assert second.residual_SV[:, 0] == pytest.approx(value - beta[0] * (np.array([0.5, 0.25]) - 0.25))
    last = [second.metrics[f"reason/{name}_coefficient"] for name in ("likelihood", "others")] @ np.array([0.75, 5 / 8])
    assert second.answer_S[0] == pytest.approx(1 - gamma * 0.75 - (1 - gamma) * last) and np.isnan(second.answer_S[1])


def test_chain_and_answer_have_one_scale_and_a_step_without_a_border_is_none():
    found = step(CHAINS, reference_after="chain", normalize="history")
    answer, value = np.array([0.25, -0.5, 0.75]), np.array([0.75, 0.5, 1.25, 1.0])
    scale = ((2 * value.var() + answer.var()) / 3) ** 0.5
    np.testing.assert_allclose(found.answer_S[:3], (answer - answer.mean()) / scale)
    np.testing.assert_allclose(found.advantage_SV[:, 1], (value - value.mean()) / scale)
    nobody = step(CHAINS[3:], reference_after="chain", normalize="history", state=found.state)
    assert np.isnan(nobody.answer_S).all() and nobody.metrics["credit/fallback_rate"] == 1
    assert nobody.state.joints["/answer"] == found.state.joints["/answer"] != {}
    assert step(CHAINS, normalize="history").answer_S is None


def test_a_role_called_answer_keeps_the_history_that_another_rule_left():
    """A run that goes on with another rule (ccpo.resume_changed) reads the same history."""
    roles = ("think", "answer")
    removal = StepSettings(CreditConfig("removal"), policy_of=dict.fromkeys(roles, "one"))
    table = Sessions.from_table([("a", i, float(i), {"think": 0.0, "answer": 0.0}) for i in range(2)])
    before = compute_advantages(table, removal).state
    assert "answer" in before.joints
    chains = [
        session("a", 0, 1.0, 0.5, 0.75, roles=roles, behind=0.75, said=True),
        session("a", 1, 0.0, 0.5, 0.25, roles=roles, behind=0.5),
    ]
    found = step(chains, roles, before, normalize="history", reference_after="chain")
    assert found.metrics["credit/answer_coefficient"] == 1 and found.state.joints["answer"] == before.joints["answer"]


def test_likelihoods_behind_a_chain_must_be_some():
    with pytest.raises(ValueError, match=r"behind the chain of session number 1 is 1\.5"):
        step([CHAINS[0], session("a", 1, 0.0, 0.5, 0.25, behind=1.5)], reference_after="chain")


def test_sessions_know_their_likelihoods():
    assert [Sessions.from_records(CHAINS, ROLES)[s].behind for s in range(4)] == [0.75, 0.5, 0.25, None]
    assert [Sessions.from_records(CHAINS, ROLES)[s].said for s in range(4)] == [True, False, False, False]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"reference_after": "chian"}, "ccpo.credit.reference_after is 'chian': did you mean 'chain'?"),
        ({"normalize": "group"}, "the last speaker's chain and its answer have two credits"),
        ({"normalize": "centred"}, "set ccpo.credit.normalize=history"),
        ({"last_gradient": "exact"}, "set ccpo.credit.last_gradient=sampled"),
        ({"negative_slope": 0.5}, "does not read ccpo.credit.negative_slope=0.5"),
    ],
)
def test_what_does_not_go_together_with_a_chain(options, why):
    config = CreditConfig("likelihood", **{"reference_after": "chain", **options})
    (found,) = refusals(config, HistoryConfig(), plan(Dyad()), 4)
    assert why in found
    assert not refusals(CreditConfig("likelihood", reference_after="chain"), HistoryConfig(), plan(Dyad()), 1)
    (other,) = refusals(CreditConfig("shared", reference_after="chain"), HistoryConfig(), plan(Dyad()), 4)
    assert "rule shared does not read ccpo.credit.reference_after" in other


# ------------------------------------------------------------------------------------------------------ which teams it fits


class Two(Team):
    roles, prompts = ("one", "two"), PROMPTS

    async def play(self, s):
        return s.answer(await s.say("two", question=s.question, said=await s.say("one", question=s.question)))


class Backwards(Two):
    roles = ("two", "one")


class Comment(Two):
    async def play(self, s):
        answer = await s.say("one", question=s.question)
        await s.say("two", question=s.question, said=answer)
        return s.answer(answer)


class Twice(Two):
    async def play(self, s):
        first = await s.say("two", question=s.question, said=await s.say("one", question=s.question))
        return s.answer(await s.say("two", said=first) if first else None)


class Early(Two):
    samples = {"one": ("stop", "go")}

    async def play(self, s):
        said = await s.say("one", question=s.question)
        return s.answer(said if said and said.text == "stop" else await s.say("two", question=s.question, said=said))


class Chance(Two):
    async def play(self, s):
        said = await s.say("one", question=s.question)
        return s.answer(await s.say("two", question=s.random.choice("ab"), said=said))


class Silent(Two):
    """Asks nobody if the first says nothing."""

    async def play(self, s):
        said = await s.say("one", question=s.question)
        return s.answer(await s.say("two", question=s.question, said=said) if said else None)


class Fragile(Team):
    """Takes one silent role, not two."""

    roles = ("one", "two", "three")

    async def play(self, s):
        a, b = await s.all(s.say("one", question=s.question), s.say("two", question=s.question))
        return s.answer(await s.say("three", question=s.question, said=(a or b).text, other=b if a else None))


@pytest.mark.parametrize(
    ("team", "why"),
    [
        (Vote(3), "outcome is a plurality"),
        (Backwards(), "not declared in the order in which they speak: one, two"),
        (Comment(), "two speaks after the answer of one"),
        (Twice(), "each speak once, in one order"),
        (Early(), "each speak once, in one order"),
        (Chance(), "each speak once, in one order"),
        (Silent(), "the program does not ask two: take None"),
        (Fragile(), "the program does not ask three: take None"),
    ],
)
def test_other_teams_are_refused_with_the_reason(team, why):
    assert why in fits("likelihood", plan(team))
    assert any(why in text for text in refusals(CreditConfig("likelihood"), HistoryConfig(), plan(team), 4))


def test_teams_that_fit():
    assert fits("likelihood", plan(Dyad())) is None and fits("likelihood", plan(Two())) is None


def test_a_stop_text_of_the_last_speaker_is_refused():
    node = {"team": "dyad", "credit": {"rule": "likelihood"}, "roles": {"reason": {"stop": ["."]}}}
    with pytest.raises(ConfigError, match="ccpo.roles.reason.stop ends its turns with a text"):
        CcpoConfig.from_dict(node, 4)
    CcpoConfig.from_dict({**node, "roles": {"think": {"stop": ["."]}}}, 4)


def test_the_exact_gradients_weight_is_divided_and_not_centred():
    found = step(normalize="history", last_gradient="exact")
    assert found.credit_SV[:, 1].tolist() == [0.25, -0.25, 0.5], "what is told is R - v all the same"
    scale = ((np.var([0.25, -0.25, 0.5]) + np.var([0.75, 0.25, 0.5])) / 2) ** 0.5
    np.testing.assert_allclose(found.advantage_SV[:, 1], np.array([0.75, 0.25, 0.5]) / scale)
    np.testing.assert_allclose(found.advantage_SV[:, 0].mean(), 0, atol=1e-12)


@pytest.mark.parametrize("normalize", ["group", "centred", "none"])
def test_the_exact_gradient_is_normalized_by_the_history_alone(normalize):
    config = CreditConfig("likelihood", normalize, last_gradient="exact")
    (found,) = refusals(config, HistoryConfig(), plan(Dyad()), 4)
    assert "the reference answer was not sampled" in found and "normalize=history" in found


def test_an_unknown_gradient_is_refused():
    (found,) = refusals(CreditConfig("likelihood", last_gradient="exct"), HistoryConfig(), plan(Dyad()), 4)
    assert "ccpo.credit.last_gradient is 'exct': did you mean 'exact'?" in found


@pytest.mark.parametrize("slope", [-0.1, 1.1])
def test_a_slope_is_a_share(slope):
    found = refusals(CreditConfig("likelihood", negative_slope=slope), HistoryConfig(), plan(Dyad()), 4)
    assert len(found) == 1 and "ccpo.credit.negative_slope" in found[0]


def test_other_rules_do_not_read_the_slope():
    (found,) = refusals(CreditConfig("shared", negative_slope=0.5), HistoryConfig(), plan(Dyad()), 4)
    assert "does not read ccpo.credit.negative_slope" in found and "likelihood" in found
