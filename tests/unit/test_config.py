"""Every refusal of the ``ccpo:`` node: one case each, and what a good node becomes."""

from __future__ import annotations

import pickle

import pytest

from ccpo.config import DYAD_RULES, PUBLISHED, VOTE_RULES, CcpoConfig, ConfigError, CreditConfig


def _problems(node: object, n: int = 4) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        CcpoConfig.from_dict(node, n)
    return caught.value.problems


def _credit(**settings) -> dict:
    return {"credit": settings}


# ----------------------------------------------------------------------------------------------------------- good nodes


def test_empty_node_is_the_default():
    assert CcpoConfig.from_dict({}, n=4) == CcpoConfig()


def test_every_leaf_is_read():
    node = {
        "topology": "dyad",
        "policies": "shared",
        "prompts": "choice",
        "strip_leak": True,
        "seed": 7,
        "poll_interval": 1,
        "max_dropped_rate": 0.25,
        "session_timeout": 60,
        "stall_timeout": 600,
        "credit": {
            "rule": "counterfactual",
            "normalize": "history",
            "k_solo": 3,
            "coefficient": 1,
            "shaping": "tanh",
            "alpha": 2,
            "train_solo": True,
            "eta": 0.5,
        },
        "history": {"decay": 0.5, "floor": 0.1},
        "roles": {
            "think": {"temperature": 1, "max_tokens": 64, "stop": ["</think>", "END"]},
            "reason": {"stop": "###"},
        },
    }
    config = CcpoConfig.from_dict(node, n=4)
    assert config.credit == CreditConfig("counterfactual", "history", 3, 1.0, "tanh", 2.0, True, 0.5)
    assert (config.seed, config.strip_leak, config.max_dropped_rate, config.prompts) == (7, True, 0.25, "choice")
    assert (config.history.decay, config.history.floor) == (0.5, 0.1)
    assert config.role("think").stop == ("</think>", "END")
    assert config.role("reason").stop == ("###",)
    assert (config.role("think").temperature, config.role("solo").temperature) == (1.0, None)
    assert (config.poll_interval, config.session_timeout, config.stall_timeout) == (1, 60, 600)


def test_null_is_allowed_where_it_has_a_meaning():
    node = {
        "seed": None,
        "credit": {"normalize": None, "k_solo": None, "coefficient": None},
        "roles": {"think": {"temperature": None, "max_tokens": None}},
    }
    assert CcpoConfig.from_dict(node, n=4) == CcpoConfig()


@pytest.mark.parametrize(
    "rule, normalization, solo",
    [
        ("counterfactual", "history", 2),
        ("shared", "group", 0),
        ("shared_history", "history", 0),
        ("paper_v1", "history+group", 4),
        ("event_v2", "group", 4),
    ],
)
def test_what_null_means_for_each_rule(rule: str, normalization: str, solo: int):
    config = CcpoConfig.from_dict(_credit(rule=rule), n=4)
    assert config.credit.normalization == normalization
    assert config.solo_count(4) == solo
    assert config.rows_per_prompt(4) == 8
    assert config.trained_roles() == ("think", "reason")


def test_solo_answers_that_are_trained_are_counted():
    config = CcpoConfig.from_dict(_credit(rule="shared", train_solo=True), n=4)
    assert (config.solo_count(4), config.rows_per_prompt(4)) == (2, 10)
    assert config.trained_roles() == ("think", "reason", "solo")
    assert CcpoConfig().solo_count(1) == 1


@pytest.mark.parametrize("rule", DYAD_RULES)
def test_only_the_published_rules_warn(rule: str):
    assert bool(CcpoConfig.from_dict(_credit(rule=rule), n=4).warnings()) is (rule in PUBLISHED)


def test_one_session_per_prompt_is_allowed_with_the_history():
    CcpoConfig.from_dict({}, n=1)
    CcpoConfig.from_dict(_credit(rule="shared_history"), n=1)


# ------------------------------------------------------------------------------------------------------ shape and types


@pytest.mark.parametrize(
    "node, words",
    [
        ({"credits": {}}, "ccpo.credits is not a setting: did you mean ccpo.credit?"),
        (_credit(rulle="shared"), "ccpo.credit.rulle is not a setting: did you mean ccpo.credit.rule?"),
        (
            {"roles": {"think": {"max_token": 3}}},
            "ccpo.roles.think.max_token is not a setting: did you mean ccpo.roles.think.max_tokens?",
        ),
        ({"zzz": 1}, "ccpo.zzz is not a setting: known keys:"),
        ([], "ccpo is []: it must be a section"),
        ({"credit": "shared"}, "ccpo.credit is 'shared': it must be a section"),
        ({"roles": {"think": None}}, "ccpo.roles.think is None: it must be a section"),
        ({"topology": 3}, "ccpo.topology is 3: set text"),
        ({"strip_leak": "yes"}, "ccpo.strip_leak is 'yes': set true or false"),
        ({"strip_leak": 1}, "ccpo.strip_leak is 1: set true or false"),
        ({"seed": 1.5}, "ccpo.seed is 1.5: set a whole number"),
        ({"seed": True}, "ccpo.seed is True: set a whole number"),
        ({"poll_interval": "fast"}, "ccpo.poll_interval is 'fast': set a number"),
        ({"poll_interval": True}, "ccpo.poll_interval is True: set a number"),
        ({"poll_interval": None}, "ccpo.poll_interval is None: set a value: this one cannot be null"),
        (_credit(rule=None), "ccpo.credit.rule is None: set a value: this one cannot be null"),
        (_credit(k_solo="2"), "ccpo.credit.k_solo is '2': set a whole number"),
        (_credit(train_solo=None), "ccpo.credit.train_solo is None: set a value: this one cannot be null"),
        ({"roles": {"reason": {"stop": [1]}}}, "ccpo.roles.reason.stop is [1]: set a list of strings"),
        ({"roles": {"reason": {"stop": 5}}}, "ccpo.roles.reason.stop is 5: set a list of strings"),
    ],
)
def test_shape_and_types(node: object, words: str):
    problems = _problems(node)
    assert len(problems) == 1
    assert words in problems[0]


# -------------------------------------------------------------------------------------------------------- single values


@pytest.mark.parametrize(
    "node, words",
    [
        ({"topology": "dyed"}, "ccpo.topology is 'dyed': did you mean 'dyad'? allowed: dyad"),
        ({"policies": "many"}, "ccpo.policies is 'many': allowed: shared, per_role"),
        ({"prompts": "maths"}, "ccpo.prompts is 'maths': did you mean 'math'?"),
        (_credit(rule="counterfactal"), "did you mean 'counterfactual'? allowed: counterfactual, shared"),
        (_credit(shaping="sigmoid"), "ccpo.credit.shaping is 'sigmoid': allowed: none, tanh"),
        (_credit(normalize="histroy"), "ccpo.credit.normalize is 'histroy': did you mean 'history'?"),
        ({"history": {"decay": 1.0}}, "ccpo.history.decay is 1.0: 1 would never learn"),
        ({"history": {"decay": -0.1}}, "ccpo.history.decay is -0.1"),
        ({"history": {"floor": 0.0}}, "ccpo.history.floor is 0.0: credit is divided by it"),
        (_credit(coefficient=0), "0 would be shared_history"),
        (_credit(coefficient=1.5), "ccpo.credit.coefficient is 1.5: the baseline would add variance"),
        (_credit(coefficient=-0.5), "ccpo.credit.coefficient is -0.5"),
        (_credit(k_solo=5), "ccpo.credit.k_solo is 5 with n = 4"),
        (_credit(k_solo=-1), "ccpo.credit.k_solo is -1"),
        (_credit(alpha=0), "ccpo.credit.alpha is 0:"),
        (_credit(eta=-1), "ccpo.credit.eta is -1:"),
        ({"poll_interval": 0}, "ccpo.poll_interval is 0: set it above 0 seconds"),
        ({"session_timeout": -1}, "ccpo.session_timeout is -1: set it above 0 seconds"),
        ({"stall_timeout": 0}, "ccpo.stall_timeout is 0: set it above 0 seconds"),
        ({"max_dropped_rate": 1.1}, "ccpo.max_dropped_rate is 1.1"),
        ({"max_dropped_rate": -0.1}, "ccpo.max_dropped_rate is -0.1"),
        ({"roles": {"think": {"temperature": 0}}}, "ccpo.roles.think.temperature is 0: greedy"),
        ({"roles": {"reason": {"temperature": -1}}}, "ccpo.roles.reason.temperature is -1: greedy"),
        ({"roles": {"solo": {"max_tokens": 0}}}, "ccpo.roles.solo.max_tokens is 0: set at least 1"),
    ],
)
def test_single_values(node: dict, words: str):
    problems = _problems(node)
    assert len(problems) == 1
    assert words in problems[0]


@pytest.mark.parametrize(
    "path",
    [
        "poll_interval",
        "session_timeout",
        "stall_timeout",
        "max_dropped_rate",
        "credit.coefficient",
        "credit.alpha",
        "credit.eta",
        "history.decay",
        "history.floor",
        "roles.think.temperature",
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(path: str, value: float):
    """YAML reads .nan and .inf as numbers, and nan passes a comparison like ``x <= 0``."""
    node: dict = {}
    *sections, leaf = path.split(".")
    inner = node
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[leaf] = value
    assert any(path in problem for problem in _problems(node))


# --------------------------------------------------------------------------------------------------------- combinations


@pytest.mark.parametrize(
    "credit, n, words",
    [
        (dict(rule="shared"), 1, "compares the sessions of one prompt, and n = 1"),
        (dict(rule="event_v2"), 1, "compares the sessions of one prompt, and n = 1"),
        (dict(rule="paper_v1"), 1, "compares the sessions of one prompt, and n = 1"),
        (
            dict(rule="counterfactual", normalize="history+group", shaping="tanh"),
            1,
            "compares the sessions of one prompt",
        ),
        (dict(rule="shared", normalize="history"), 4, "set ccpo.credit.rule=shared_history"),
        (dict(rule="shared", normalize="history+group"), 4, "equals shared with 'group'"),
        (
            dict(rule="shared_history", normalize="group"),
            4,
            "rule shared_history is normalized by the history, not 'group'",
        ),
        (
            dict(rule="shared_history", normalize="none"),
            4,
            "rule shared_history is normalized by the history, not 'none'",
        ),
        (dict(rule="counterfactual", normalize="group"), 4, "equals the shared reward"),
        (dict(rule="counterfactual", normalize="group", shaping="tanh"), 4, "equals the shared reward"),
        (dict(rule="counterfactual", normalize="history+group"), 4, "equals the shared reward"),
        (dict(rule="counterfactual", k_solo=0), 4, "it equals shared_history"),
        (dict(rule="paper_v1", normalize="history"), 4, "rule paper_v1 is published with 'history+group'"),
        (dict(rule="event_v2", normalize="none"), 4, "rule event_v2 is published with 'group'"),
        (dict(rule="paper_v1", k_solo=2), 4, "set ccpo.credit.k_solo=4"),
        (dict(rule="event_v2", k_solo=0), 4, "rule event_v2 compares with the prompt's solo answers"),
        (dict(rule="paper_v1", train_solo=True), 4, "rule paper_v1 is reproduced exactly"),
        (dict(rule="paper_v1", shaping="tanh"), 4, "rule paper_v1 is reproduced exactly"),
        (dict(rule="event_v2", coefficient=0.5), 4, "rule event_v2 is reproduced exactly"),
        (dict(rule="shared", shaping="tanh"), 4, "rule shared has no counterfactual to shape"),
        (dict(rule="shared_history", coefficient=0.5), 4, "rule shared_history has no counterfactual to shape"),
        (dict(rule="shared", train_solo=True, k_solo=0), 4, "train_solo with k_solo=0 has nothing to train"),
        (dict(rule="shared", train_solo=True, k_solo=1), 4, "set ccpo.credit.k_solo >= 2"),
        (dict(normalize="history+group", shaping="tanh", train_solo=True, k_solo=1), 4, "set ccpo.credit.k_solo >= 2"),
    ],
)
def test_combinations(credit: dict, n: int, words: str):
    problems = _problems({"credit": credit}, n)
    assert len(problems) == 1, problems
    assert words in problems[0]


# ------------------------------------------------------------------------------------------------------ several at once


def test_all_value_mistakes_are_reported_together():
    node = {
        "topology": "star",
        "history": {"decay": 2.0, "floor": 0.0},
        "credit": {"rule": "counterfactual", "normalize": "group"},
    }
    problems = _problems(node)
    assert [
        name
        for name in ("topology", "decay", "floor", "normalize 'group'")
        if not any(name in problem for problem in problems)
    ] == []
    assert len(problems) == 4


def test_all_shape_mistakes_are_reported_together():
    problems = _problems(
        {"topologie": "dyad", "seed": "one", "roles": {"think": {"stop": 3}}, "credit": {"train_solo": 1}}
    )
    assert len(problems) == 4


def test_shape_and_value_mistakes_are_reported_together():
    problems = _problems(
        {"topologie": "dyad", "history": {"floor": 0.0}, "credit": {"rule": "shared", "normalize": "history"}}
    )
    assert len(problems) == 3


def test_the_message_lists_and_counts_the_problems_and_survives_ray():
    with pytest.raises(ConfigError) as caught:
        CcpoConfig.from_dict({"topologie": "dyad", "seed": "one"}, 4)
    text = str(caught.value)
    assert "2 problem(s)" in text and "  1. ccpo.topologie" in text and "  2. ccpo.seed" in text
    assert isinstance(caught.value, ValueError)
    restored = pickle.loads(pickle.dumps(caught.value))
    assert (type(restored), str(restored)) == (ConfigError, text)


# ------------------------------------------------------------------------------------------------------------------- votes


def vote(n=4, rule="leave_one_out", normalize=None, **settings) -> CcpoConfig:
    credit = {"rule": rule, "normalize": normalize}
    return CcpoConfig.from_dict({"topology": "vote", "credit": credit, "vote": settings}, n)


@pytest.mark.parametrize("rule", VOTE_RULES)
def test_every_vote_rule_is_accepted_with_its_own_normalization(rule):
    config = vote(rule=rule)
    assert config.trained_roles() == config.credited_roles() == ("voter_0", "voter_1", "voter_2")
    assert config.rows_per_prompt(4) == 12 and config.solo_count(4) == 0


def test_every_round_of_every_voter_is_trained():
    assert vote(n_voters=5, rounds=3).rows_per_prompt(2) == 2 * 5 * 3


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"n_voters": 1}, "n_voters is 1: one voter is no vote"),
        ({"n_voters": 65}, "set 2..64"),
        ({"tie": "expect"}, "did you mean 'expected'?"),
        ({"rounds": 0}, "rounds is 0: set at least 1"),
        ({"share_reasoning": True}, "share_reasoning needs a second round"),
        ({"personas": ["bold"]}, "personas has 1 entries for 3 voters"),
        ({"temperatures": [1.0, 0.0, 1.0]}, "temperatures has 0.0: greedy samples"),
        ({"temperatures": ["hot"] * 3}, "set a list of numbers"),
        ({"templates": ["math", "toy", "chess"]}, "templates is 'chess'"),
        ({"max_tokens": 0}, "max_tokens is 0: set at least 1"),
        (
            {"rule": "resampled", "n": 1},
            "resampled compares a voter's ballots over the sessions of one prompt, and n = 1",
        ),
        ({"rule": "resampled", "rounds": 2}, "needs voters that answer independently"),
        ({"rule": "shapley", "n_voters": 11}, "shapley is exact up to 10 voters, got 11"),
        ({"rule": "own_correctness", "n": 1}, "every advantage would be 0"),
        ({"rule": "shared", "normalize": "history"}, "set ccpo.credit.rule=shared_history"),
        ({"rule": "counterfactual"}, "allowed: leave_one_out"),
    ],
)
def test_impossible_votes_are_refused(settings, expected):
    with pytest.raises(ConfigError) as error:
        vote(**settings)
    assert expected in str(error.value)


def test_settings_of_the_other_topology_are_refused():
    with pytest.raises(ConfigError, match="ccpo.credit.k_solo belongs to the dyad's rules"):
        CcpoConfig.from_dict({"topology": "vote", "credit": {"rule": "resampled", "k_solo": 1}}, 4)
    with pytest.raises(ConfigError, match="ccpo.vote.n_voters is set, and the topology is dyad"):
        CcpoConfig.from_dict({"vote": {"n_voters": 5}}, 4)
    with pytest.raises(ConfigError, match="leave_one_out"):
        CcpoConfig.from_dict({"credit": {"rule": "leave_one_out"}}, 4)
