"""Every refusal of the ``ccpo:`` node: one case each, and what a good node becomes."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest

from ccpo.config import RENAMED, CcpoConfig, ConfigError, CreditConfig, Policy, RoleConfig
from ccpo.credit.rules import RULES
from ccpo.team.replay import Intervention
from ccpo.types import REMOVE, REPLACE, RESAMPLE

ROOT = Path(__file__).parents[2]
DYAD_RULES = (
    *("counterfactual", "removal", "resampling", "likelihood", "shared", "shared_history"),
    *("shrinkage", "random_reward", "paper_v1", "event_v2"),
)
VOTE_RULES = (
    *("removal", "leave_one_out", "resampling", "shared", "shared_history", "shrinkage", "random_reward"),
    *("resampled", "marginal", "shapley", "own_correctness"),
)


def make(n: int = 4, **node) -> CcpoConfig:
    return CcpoConfig.from_dict(node, n)


def vote(n: int = 4, rule: str = "leave_one_out", **node) -> CcpoConfig:
    return make(n, team="vote", credit={"rule": rule, **node.pop("credit", {})}, **node)


def _problems(node: object, n: int = 4) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        CcpoConfig.from_dict(node, n)
    return caught.value.problems


def _credit(**settings) -> dict:
    return {"credit": settings}


def team_file(folder: Path, body: str, roles: str = '("first", "last")') -> str:
    """A team of two in a file: the reference to it."""
    path = folder / "team.py"
    path.write_text(
        "from dataclasses import dataclass\nfrom ccpo.team import Team\n\n\n@dataclass(frozen=True)\nclass Mine(Team):\n"
        f"    roles = {roles}\n    prompts = {{'math': {{'*': [{{'user': '{{q}}'}}, {{'user': '{{q}} {{said}}'}}]}}}}\n{body}\n"
    )
    return f"{path}:Mine"


# ----------------------------------------------------------------------------------------------------------- good nodes


def test_a_session_may_end_before_a_reward_that_there_is_none_of_would():
    assert make(session_timeout=10).session_timeout == 10


def test_empty_node_is_the_default():
    assert make() == CcpoConfig()
    assert make().plan.roles == ("think", "reason")


def test_every_leaf_is_read():
    node = {
        "team": "dyad",
        "team_kwargs": {"strip_leak": True},
        "policies": "per_role",
        "prompts": "choice",
        "seed": 7,
        "poll_interval": 1,
        "max_dropped_rate": 0.25,
        "session_timeout": 60,
        "stall_timeout": 600,
        "validation_replays": ["replace"],
        "keep_sessions": 0,
        "keep_sessions_mb": 2,
        "gpu_share": 0.5,
        "credit": {
            "rule": "counterfactual",
            "normalize": "history",
            "coefficient": 1,
            "replays_per_prompt": 3,
            "shaping": "tanh",
            "alpha": 2,
            "train_replays": True,
            "eta": 0.5,
        },
        "history": {"decay": 0.5, "floor": 0.1},
        "schedule": {"mode": "alternate", "every": 5, "first": "reason"},
        "roles": {
            "think": {
                **{"temperature": 1, "max_tokens": 64, "stop": ["</think>", "END"], "persona": "Be brief."},
                **{"prompts": "math", "model": "small", "policy": "thinker"},
            },
            "reason": {"stop": "###"},
        },
    }
    config = CcpoConfig.from_dict(node, n=4)
    assert config.credit == CreditConfig("counterfactual", "history", 1.0, 3, 1, "tanh", 2.0, True, 0.5)
    assert (config.seed, config.members.strip_leak, config.max_dropped_rate, config.prompts) == (
        7,
        True,
        0.25,
        "choice",
    )
    assert (config.history.decay, config.history.floor) == (0.5, 0.1)
    assert (config.schedule.mode, config.schedule.every, config.schedule.first) == ("alternate", 5, "reason")
    assert config.role("think") == RoleConfig(1, 64, ("</think>", "END"), "Be brief.", "math", "small", "thinker")
    assert config.role("reason") == RoleConfig(stop=("###",))
    assert (config.poll_interval, config.session_timeout, config.stall_timeout) == (1, 60, 600)
    assert config.validation_replays == ("replace",)
    assert (config.keep_sessions, config.keep_sessions_mb, config.gpu_share) == (0, 2, 0.5)
    assert {role: prompts.name for role, prompts in config.prompt_sets.items()} == {"think": "math", "reason": "choice"}


def test_null_is_allowed_where_it_has_a_meaning():
    node = {
        "seed": None,
        "credit": {"normalize": None, "replays_per_prompt": None, "coefficient": None},
        "schedule": {"first": None},
        "roles": {"think": dict.fromkeys(("temperature", "max_tokens", "prompts", "model", "policy"))},
    }
    assert CcpoConfig.from_dict(node, n=4) == CcpoConfig(roles={"think": RoleConfig()})


def test_prompts_may_be_given_in_the_node():
    own = {"think": {"user": "T {question}"}, "reason": [{"user": "R {question}"}, {"user": "R {question} {thought}"}]}
    sets = make(prompts=own).prompt_sets
    assert sets["reason"].messages("reason", {"question": "q", "thought": "t"}) == [
        {"role": "user", "content": "R q t"}
    ]


@pytest.mark.parametrize(
    "rule, normalization, replayed",
    [
        ("counterfactual", "history", 2),
        ("removal", "history", 2),
        ("resampling", "history", 0),
        ("likelihood", "history", 0),
        ("shared", "group", 0),
        ("shared_history", "history", 0),
        ("shrinkage", "history", 0),
        ("random_reward", "group", 0),
        ("paper_v1", "history+group", 4),
        ("event_v2", "centred", 4),
    ],
)
def test_what_null_means_for_each_rule(rule: str, normalization: str, replayed: int):
    config = make(credit={"rule": rule})
    assert config.normalization == normalization
    removed = [Intervention(REMOVE, "think") in config.replays(session, 4, False) for session in range(4)]
    assert removed == [session < replayed for session in range(4)], "session j plays the prompt's replay j"
    assert config.rows_per_prompt(4) == 8


def test_the_rules_of_the_cases_are_all_that_fit():
    """A new rule needs a line in the table above."""
    for team, rules in (("dyad", DYAD_RULES), ("vote", VOTE_RULES)):
        taken = []
        for rule in RULES:
            try:
                make(team=team, credit={"rule": rule})
            except ConfigError:
                continue
            taken.append(rule)
        assert taken == [rule for rule in RULES if rule in rules]


@pytest.mark.parametrize("rule", DYAD_RULES)
def test_only_the_published_rules_and_the_coin_warn(rule: str):
    assert bool(make(credit={"rule": rule}).warnings()) is (rule in ("paper_v1", "event_v2", "random_reward"))


@pytest.mark.parametrize("rule", VOTE_RULES)
def test_rules_that_see_the_last_vote_alone_warn_when_there_was_an_earlier_one(rule: str):
    assert bool(vote(rule=rule).warnings()) is (rule == "random_reward")
    if not RULES[rule].recombines:
        later = vote(rule=rule, team_kwargs={"rounds": 2}).warnings()
        assert bool(later) is (rule in ("shapley", "own_correctness", "random_reward"))


def test_a_price_is_centred_by_itself_and_may_be_scaled_by_the_history():
    assert vote(rule="own_correctness").normalization == "group"
    assert vote(rule="own_correctness", credit={"wrong_price": 1}).normalization == "centred"
    for how in ("history", "none"):
        assert vote(rule="own_correctness", credit={"wrong_price": 0.5, "normalize": how}).normalization == how


def test_siblings_cost_no_replay():
    plain, both = (make(credit={"rule": "removal", "siblings": on}) for on in (False, True))
    assert [plain.replays(s, 4, False) for s in range(4)] == [both.replays(s, 4, False) for s in range(4)]


def test_one_session_per_prompt_is_allowed_with_the_history():
    make(n=1, credit={"rule": "shrinkage"})
    make(n=1)
    make(n=1, credit={"rule": "shared_history"})


# ------------------------------------------------------------------------------------------------------ shape and types


@pytest.mark.parametrize(
    "node, words",
    [
        ({"credits": {}}, "ccpo.credits is not a setting: did you mean ccpo.credit?"),
        (_credit(rulle="shared"), "ccpo.credit.rulle is not a setting: did you mean ccpo.credit.rule?"),
        ({"teem": "dyad"}, "ccpo.teem is not a setting: did you mean ccpo.team?"),
        (
            {"roles": {"think": {"max_token": 3}}},
            "ccpo.roles.think.max_token is not a setting: did you mean ccpo.roles.think.max_tokens?",
        ),
        (
            {"team_kwargs": {"strip_leaks": True}},
            "ccpo.team_kwargs.strip_leaks is not a setting: did you mean ccpo.team_kwargs.strip_leak?",
        ),
        ({"rule": "shared"}, "ccpo.rule is not a setting: did you mean ccpo.credit.rule?"),
        ({"normalise": "group"}, "ccpo.normalise is not a setting: did you mean ccpo.credit.normalize?"),
        ({"zzz": 1}, "ccpo.zzz is not a setting: known keys:"),
        ([], "ccpo is []: it must be a section"),
        ({"credit": "shared"}, "ccpo.credit is 'shared': it must be a section"),
        ({"roles": {"think": None}}, "ccpo.roles.think is None: it must be a section"),
        ({"roles": ["think"]}, "ccpo.roles is ['think']: it must be a section with roles"),
        ({"team_kwargs": "n_voters=3"}, "ccpo.team_kwargs is 'n_voters=3': set a section"),
        ({"team": 3}, "ccpo.team is 3: set text"),
        ({"team_kwargs": {"strip_leak": "yes"}}, "ccpo.team_kwargs.strip_leak is 'yes': set true or false"),
        ({"team_kwargs": {"strip_leak": 1}}, "ccpo.team_kwargs.strip_leak is 1: set true or false"),
        (
            {"team": "vote", "team_kwargs": {"n_voters": 3.0}, **_credit(rule="shared")},
            "n_voters is 3.0: set a whole number",
        ),
        ({"seed": 1.5}, "ccpo.seed is 1.5: set a whole number"),
        ({"seed": True}, "ccpo.seed is True: set a whole number"),
        ({"poll_interval": "fast"}, "ccpo.poll_interval is 'fast': set a number"),
        ({"poll_interval": True}, "ccpo.poll_interval is True: set a number"),
        ({"poll_interval": None}, "ccpo.poll_interval is None: set a value: this one cannot be null"),
        ({"prompts": 3}, "ccpo.prompts is 3: set text"),
        ({"prompts": None}, "ccpo.prompts is None: set a value: this one cannot be null"),
        ({"validation_replays": [1]}, "ccpo.validation_replays is [1]: set a list of strings"),
        (_credit(rule=None), "ccpo.credit.rule is None: set a value: this one cannot be null"),
        (_credit(replays_per_prompt="2"), "ccpo.credit.replays_per_prompt is '2': set a whole number"),
        (_credit(train_replays=None), "ccpo.credit.train_replays is None: set a value: this one cannot be null"),
        ({"roles": {"reason": {"stop": [1]}}}, "ccpo.roles.reason.stop is [1]: set a list of strings"),
        ({"roles": {"reason": {"stop": 5}}}, "ccpo.roles.reason.stop is 5: set a list of strings"),
        ({"roles": {"reason": {"persona": None}}}, "ccpo.roles.reason.persona is None: set a value"),
    ],
)
def test_shape_and_types(node: object, words: str):
    problems = _problems(node)
    assert len(problems) == 1, problems
    assert words in problems[0]


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("topology", "dyad", "it is ccpo.team now"),
        ("vote", {"n_voters": 3}, "ccpo.team_kwargs.{n_voters,tie,rounds,share_reasoning}"),
        ("vote", {"personas": ["a"]}, "ccpo.roles.<role>.{persona,prompts,temperature,max_tokens,stop}"),
        ("strip_leak", True, "it is ccpo.team_kwargs.strip_leak now"),
        ("credit.k_solo", 2, "it is ccpo.credit.replays_per_prompt now"),
        ("credit.train_solo", True, "it is ccpo.credit.train_replays now"),
    ],
)
def test_keys_of_earlier_versions_are_refused_with_what_became_of_them(key: str, value: object, words: str):
    assert f"ccpo.{key}" in RENAMED
    section, _, leaf = key.rpartition(".")
    (problem,) = _problems({section: {leaf: value}} if section else {leaf: value})
    assert problem.startswith(f"ccpo.{key}: ") and words in problem


def test_a_role_of_an_earlier_version_is_refused_with_where_its_settings_went():
    (problem,) = _problems({"roles": {"solo": {"max_tokens": 6}}})
    assert "ccpo.roles.solo: the team has no such role" in problem
    assert "decoded with the role's own settings" in problem


# -------------------------------------------------------------------------------------------------------- single values


@pytest.mark.parametrize(
    "node, words",
    [
        ({"team": "dyed"}, "ccpo.team=dyed: 'dyed' names no team: did you mean 'dyad'? set dyad, vote"),
        ({"policies": "many"}, "ccpo.policies is 'many': allowed: shared, per_role"),
        ({"prompts": "maths"}, "ccpo.prompts is 'maths': did you mean 'math'?"),
        ({"roles": {"think": {"prompts": "tow"}}}, "ccpo.roles.think.prompts is 'tow': did you mean 'toy'?"),
        (_credit(rule="counterfactal"), "did you mean 'counterfactual'? allowed: counterfactual, removal"),
        (_credit(shaping="sigmoid"), "ccpo.credit.shaping is 'sigmoid': allowed: none, tanh"),
        (_credit(normalize="histroy"), "ccpo.credit.normalize is 'histroy': did you mean 'history'?"),
        ({"history": {"decay": 1.0}}, "ccpo.history.decay is 1.0: 1 would never learn"),
        ({"history": {"decay": -0.1}}, "ccpo.history.decay is -0.1"),
        ({"history": {"floor": 0.0}}, "ccpo.history.floor is 0.0: credit is divided by it"),
        (_credit(coefficient=0), "0 would be shared_history"),
        (_credit(coefficient=1.5), "ccpo.credit.coefficient is 1.5: the baseline would add variance"),
        (_credit(coefficient=-0.5), "ccpo.credit.coefficient is -0.5"),
        (_credit(replays_per_prompt=5), "ccpo.credit.replays_per_prompt is 5 with n = 4"),
        (_credit(replays_per_prompt=-1), "ccpo.credit.replays_per_prompt is -1"),
        (_credit(rule="resampling", resamples=0), "ccpo.credit.resamples is 0: set at least 1"),
        (_credit(shaping="tanh", alpha=0), "ccpo.credit.alpha is 0:"),
        (
            {"team": "vote", **_credit(rule="own_correctness", wrong_price=-0.5)},
            "ccpo.credit.wrong_price is -0.5: a wrong",
        ),
        ({"team": "vote", **_credit(rule="own_correctness", wrong_price=float("inf"))}, "set a finite number"),
        (
            {"team": "vote", **_credit(rule="own_correctness", wrong_price=1e308)},
            "nobody is ever that sure; set it in [0, 100]",
        ),
        (_credit(siblings=1), "ccpo.credit.siblings is 1: set true or false"),
        (_credit(train_replays=True, eta=-1), "ccpo.credit.eta is -1:"),
        ({"poll_interval": 0}, "ccpo.poll_interval is 0: set it above 0 seconds"),
        ({"session_timeout": -1}, "ccpo.session_timeout is -1: set it above 0 seconds"),
        ({"stall_timeout": 0}, "ccpo.stall_timeout is 0: set it above 0 seconds"),
        ({"max_dropped_rate": 1.1}, "ccpo.max_dropped_rate is 1.1"),
        ({"max_dropped_rate": -0.1}, "ccpo.max_dropped_rate is -0.1"),
        ({"validation_replays": ["remov"]}, "ccpo.validation_replays is 'remov': did you mean 'remove'?"),
        ({"keep_sessions": -1}, "ccpo.keep_sessions is -1: it is a number of sessions a step, 0 to keep none"),
        ({"keep_sessions": 1e9}, "ccpo.keep_sessions is 1000000000.0: set a whole number"),
        ({"keep_sessions_mb": 0}, "ccpo.keep_sessions_mb is 0: it is the largest size of sessions.jsonl"),
        ({"keep_sessions_mb": 1e9}, "set it in [0.01, 10000] (ccpo.keep_sessions=0 keeps none)"),
        ({"roles": {"think": {"temperature": 0}}}, "ccpo.roles.think.temperature is 0: greedy"),
        ({"roles": {"reason": {"temperature": -1}}}, "ccpo.roles.reason.temperature is -1: greedy"),
        ({"roles": {"reason": {"max_tokens": 0}}}, "ccpo.roles.reason.max_tokens is 0: set at least 1"),
        ({"roles": {"thinker": {}}}, "ccpo.roles.thinker: the team has no such role; did you mean think?"),
        ({"schedule": {"mode": "together", "every": 0}}, "ccpo.schedule.every is 0: set at least 1 step"),
    ],
)
def test_single_values(node: dict, words: str):
    problems = _problems(node)
    assert len(problems) == 1, problems
    assert words in problems[0]


def test_no_session_at_all():
    assert _problems({}, n=0) == ["actor_rollout_ref.rollout.n is 0: set at least 1 session per prompt"]


@pytest.mark.parametrize(
    "path",
    [
        "poll_interval",
        "session_timeout",
        "stall_timeout",
        "max_dropped_rate",
        "keep_sessions_mb",
        "gpu_share",
        "credit.coefficient",
        "credit.alpha",
        "credit.eta",
        "history.decay",
        "history.floor",
        "roles.think.temperature",
        "roles.*.temperature",
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
    assert any(path in problem and "a finite number" in problem for problem in _problems(node))


# --------------------------------------------------------------------------------------------------------- combinations


@pytest.mark.parametrize(
    "credit, n, words",
    [
        (dict(rule="shared"), 1, "compares the sessions of one prompt, and n = 1"),
        (dict(rule="event_v2"), 1, "compares the sessions of one prompt, and n = 1"),
        (dict(rule="paper_v1"), 1, "compares the sessions of one prompt, and n = 1"),
        (dict(rule="resampling"), 1, "compares the first speaker with the prompt's other sessions, and n = 1"),
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
        (dict(rule="counterfactual", normalize="centred"), 4, "equals the shared reward"),
        (dict(rule="counterfactual", normalize="group", shaping="tanh"), 4, "equals the shared reward"),
        (dict(rule="counterfactual", normalize="history+group"), 4, "equals the shared reward"),
        (dict(rule="counterfactual", replays_per_prompt=0), 4, "it equals shared_history"),
        (dict(rule="removal", replays_per_prompt=0), 4, "it equals shared_history"),
        (dict(rule="removal", normalize="group"), 4, "gives think the shared reward"),
        (dict(rule="removal", normalize="group", siblings=True), 4, "gives think the shared reward"),
        (dict(rule="removal", siblings=True, coefficient=0.5), 4, "fits two coefficients at once"),
        (dict(rule="counterfactual", siblings=True), 1, "the prompt's other sessions, and n = 1"),
        (
            dict(rule="shared", siblings=True),
            4,
            "does not read ccpo.credit.siblings: drop it, or set ccpo.credit.rule=",
        ),
        (dict(rule="event_v2", siblings=True), 4, "rule event_v2 is reproduced exactly"),
        (dict(rule="shared", wrong_price=1), 4, "rule shared does not read ccpo.credit.wrong_price: drop it"),
        (
            dict(rule="shrinkage", normalize="group"),
            4,
            "rule shrinkage with normalize 'group' equals the shared reward",
        ),
        (dict(rule="shrinkage", normalize="centred"), 4, "affine in R"),
        (dict(rule="shrinkage", normalize="history+group"), 4, "rule shrinkage is not normalized by 'history+group'"),
        (dict(rule="random_reward", normalize="history+group"), 4, "equals random_reward with 'group'"),
        (dict(rule="random_reward"), 1, "compares the sessions of one prompt, and n = 1"),
        (dict(rule="random_reward", train_replays=True), 4, "what the team really got"),
        (dict(rule="resampling", normalize="history+group"), 4, "equals resampling with 'group'"),
        (dict(rule="paper_v1", normalize="history"), 4, "rule paper_v1 is published with 'history+group'"),
        (dict(rule="event_v2", normalize="none"), 4, "rule event_v2 is published with 'centred'"),
        (dict(rule="paper_v1", replays_per_prompt=2), 4, "set ccpo.credit.replays_per_prompt=4"),
        (dict(rule="event_v2", replays_per_prompt=0), 4, "rule event_v2 compares with the prompt's replays"),
        (dict(rule="paper_v1", train_replays=True), 4, "rule paper_v1 is reproduced exactly"),
        (dict(rule="paper_v1", shaping="tanh"), 4, "rule paper_v1 is reproduced exactly"),
        (dict(rule="event_v2", coefficient=0.5), 4, "rule event_v2 is reproduced exactly"),
        (dict(rule="shared", shaping="tanh"), 4, "rule shared does not read ccpo.credit.shaping"),
        (dict(rule="shared_history", coefficient=0.5), 4, "rule shared_history does not read ccpo.credit.coefficient"),
        (
            dict(rule="removal", resamples=2),
            4,
            "rule removal does not read ccpo.credit.resamples: drop it, or set ccpo.credit.rule=",
        ),
        (dict(alpha=2.0), 4, "the slope of a shaping that is off"),
        (dict(eta=2.0), 4, "the slope of a gate that is not used"),
        (
            dict(rule="shared", train_replays=True, replays_per_prompt=0),
            4,
            "train_replays with replays_per_prompt=0 has nothing",
        ),
        (dict(rule="shared", train_replays=True, replays_per_prompt=1), 4, "set ccpo.credit.replays_per_prompt >= 2"),
        (
            dict(rule="leave_one_out"),
            4,
            "rule leave_one_out does not fit this team: it is the paper's name for removal",
        ),
    ],
)
def test_combinations(credit: dict, n: int, words: str):
    problems = _problems({"credit": credit}, n)
    assert len(problems) == 1, problems
    assert words in problems[0]


def test_the_histories_constants_are_not_the_published_rules():
    assert "ccpo.history.decay" in _problems({"history": {"decay": 0.5}, **_credit(rule="paper_v1")})[0]


# ------------------------------------------------------------------------------------------------------ several at once


def test_all_value_mistakes_are_reported_together():
    node = {
        "policies": "some",
        "history": {"decay": 2.0, "floor": 0.0},
        "credit": {"rule": "counterfactual", "normalize": "group"},
        "prompts": "chess",
        "roles": {"thimk": {}},
    }
    problems = _problems(node)
    wanted = ("policies", "decay", "floor", "normalize 'group'", "'chess'", "thimk")
    assert [name for name in wanted if not any(name in problem for problem in problems)] == []
    assert len(problems) == len(wanted)


def test_a_broken_team_does_not_hide_other_mistakes():
    problems = _problems({"team": "star", "policies": "some", **_credit(rule="sharde"), "seed": "one"})
    assert len(problems) == 4


def test_all_shape_mistakes_are_reported_together():
    problems = _problems(
        {"topologie": "dyad", "seed": "one", "roles": {"think": {"stop": 3}}, "credit": {"train_replays": 1}}
    )
    assert len(problems) == 4


def test_shape_and_value_mistakes_are_reported_together():
    problems = _problems(
        {"teams": "dyad", "history": {"floor": 0.0}, "credit": {"rule": "shared", "normalize": "history"}}
    )
    assert len(problems) == 3


def test_the_message_lists_and_counts_the_problems_and_survives_ray():
    with pytest.raises(ConfigError) as caught:
        make(teams="dyad", seed="one")
    text = str(caught.value)
    assert "2 problem(s)" in text and "  1. ccpo.teams" in text and "  2. ccpo.seed" in text
    assert isinstance(caught.value, ValueError)
    restored = pickle.loads(pickle.dumps(caught.value))
    assert (type(restored), str(restored)) == (ConfigError, text)


# ------------------------------------------------------------------------------------------------------------------ teams


@pytest.mark.parametrize("rule", VOTE_RULES)
def test_every_vote_rule_is_accepted_with_its_own_normalization(rule):
    config = vote(rule=rule)
    assert config.plan.roles == ("voter_0", "voter_1", "voter_2")
    assert config.rows_per_prompt(4) == 12
    assert config.normalization == RULES[rule].natural


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"team_kwargs": {"n_voters": 1}}, "n_voters is 1: one voter is no vote"),
        ({"team_kwargs": {"n_voters": 65}}, "set 2..64"),
        ({"team_kwargs": {"tie": "expect"}}, "did you mean 'expected'?"),
        ({"team_kwargs": {"rounds": 0}}, "rounds is 0: set at least 1"),
        ({"team_kwargs": {"share_reasoning": True}}, "share_reasoning needs a second round"),
        ({"roles": {"voter_3": {"persona": "bold"}}}, "ccpo.roles.voter_3: the team has no such role"),
        ({"roles": {"voter_1": {"temperature": 0.0}}}, "ccpo.roles.voter_1.temperature is 0.0: greedy samples"),
        ({"roles": {"voter_*": {"temperature": "hot"}}}, "set a number"),
        ({"roles": {"voter_2": {"prompts": "chess"}}}, "ccpo.roles.voter_2.prompts is 'chess'"),
        ({"roles": {"voter_*": {"max_tokens": 0}}}, "max_tokens is 0: set at least 1"),
        (
            {"rule": "resampled", "n": 1},
            "resampled compares a role's ballots over the sessions of one prompt, and n = 1",
        ),
        ({"rule": "resampled", "team_kwargs": {"rounds": 2}}, "needs roles that answer independently"),
        ({"rule": "shapley", "team_kwargs": {"n_voters": 11}}, "it is exact up to 10 voters, and this team has 11"),
        ({"rule": "own_correctness", "n": 1}, "every advantage would be 0"),
        (
            {"rule": "own_correctness", "credit": {"wrong_price": 0.5, "normalize": "group"}},
            "own_correctness with wrong_price=0.5 and normalize 'group' loses its price",
        ),
        (
            {"rule": "own_correctness", "credit": {"wrong_price": 0.5, "normalize": "history+group"}},
            "set ccpo.credit.normalize=centred (or null)",
        ),
        (
            {"rule": "removal", "credit": {"siblings": True, "normalize": "centred"}},
            "siblings=true with normalize 'centred'",
        ),
        ({"rule": "leave_one_out", "credit": {"siblings": True}}, "drop it, or set ccpo.credit.rule=removal"),
        ({"rule": "leave_one_out", "credit": {"coefficient": 0.5}}, "drop it, or set ccpo.credit.rule=removal"),
        ({"rule": "shared", "credit": {"normalize": "history"}}, "set ccpo.credit.rule=shared_history"),
        ({"rule": "counterfactual"}, "rule counterfactual does not fit this team"),
        ({"rule": "resampled", "credit": {"replays_per_prompt": 1}}, "no removal of this team does: drop it"),
        ({"rule": "shared", "credit": {"train_replays": True}}, "no removal of this team does: drop it"),
    ],
)
def test_impossible_votes_are_refused(node, expected):
    with pytest.raises(ConfigError) as error:
        vote(**node)
    assert expected in str(error.value)


def test_settings_of_another_team_are_refused():
    assert "ccpo.team_kwargs.n_voters is not a setting" in _problems({"team_kwargs": {"n_voters": 5}})[0]


def test_settings_of_a_team_without_any_are_refused():
    (problem,) = _problems({"team": f"{ROOT}/examples/panel.py:Panel", "team_kwargs": {"n": 3}})
    assert "ccpo.team_kwargs has n, and Panel has no settings: make it a dataclass" in problem


def test_a_team_whose_settings_have_no_default_says_so(tmp_path):
    team = team_file(tmp_path, "    size: int\n    async def play(self, s):\n        return s.answer(None)")
    assert "every field needs a default" in _problems({"team": team})[0]


def test_a_team_of_ones_own_is_configured_like_the_built_in_ones(tmp_path):
    body = (
        "    question: str = 'q'\n    loud: bool = False\n\n    async def play(self, s):\n"
        "        said = await s.say('first', q=self.question)\n"
        "        return s.answer(await s.say('last', q=self.question, said=said))"
    )
    config = make(team=team_file(tmp_path, body), team_kwargs={"loud": True}, credit={"rule": "removal"})
    assert config.members.loud is True and config.plan.first == "first"
    assert "ccpo.team_kwargs.loud is 3" in _problems({"team": config.team, "team_kwargs": {"loud": 3}})[0]


@pytest.mark.parametrize("name", ["credit", "history", "plurality", "replays", "sessions"])
def test_no_role_is_called_like_a_family_of_metrics(name, tmp_path):
    body = (
        f"    async def play(self, s):\n        said = await s.say('{name}', q=s.question)\n"
        "        return s.answer(await s.say('last', q=s.question, said=said))"
    )
    problems = _problems({"team": team_file(tmp_path, body, f"('{name}', 'last')")})
    assert any(f"role {name!r} has the name of a family of metrics" in problem for problem in problems)


def test_a_tie_rule_of_a_team_is_checked(tmp_path):
    body = (
        "    async def play(self, s):\n        said = await s.say('first', q=s.question)\n"
        "        return s.plurality([said, await s.say('last', q=s.question)], 'frist')"
    )
    problems = _problems({"team": team_file(tmp_path, body), **_credit(rule="shared")})
    assert len(problems) == 1 and "tie is 'frist'" in problems[0] and "did you mean 'first'?" in problems[0]


def test_a_missing_template_is_named_with_its_fields():
    own = {"think": {"user": "T {question}"}, "reason": {"user": "R {question} {thought}"}}
    (problem,) = _problems({"prompts": own})
    assert "no template for reason that hears {question}" in problem and "{question, thought}" in problem


def test_a_role_without_any_template_is_named():
    (problem,) = _problems({"prompts": {"think": {"user": "{question}"}}, **_credit(rule="shared")})[:1]
    assert "no template for reason" in problem and "its templates have the fields none" in problem


# ------------------------------------------------------------------------------------------------------------------ roles


def test_a_pattern_sets_all_its_roles_and_a_name_overrides_it_key_by_key():
    roles = {"voter_*": {"temperature": 0.7, "max_tokens": 9, "persona": "Be brief."}, "voter_1": {"temperature": 1.3}}
    config = vote(roles=roles)
    assert config.role("voter_0") == RoleConfig(0.7, 9, (), "Be brief.")
    assert config.role("voter_1") == RoleConfig(1.3, 9, (), "Be brief.")
    assert config.role("nobody") == RoleConfig()


def test_a_name_overrides_a_pattern_that_stands_after_it():
    config = vote(roles={"voter_1": {"max_tokens": 3}, "voter_*": {"max_tokens": 9}})
    assert [config.role(f"voter_{i}").max_tokens for i in range(3)] == [9, 3, 9]


def test_a_pattern_may_fit_no_role():
    """A task states the lengths of several teams."""
    assert make(roles={"voter_*": {"max_tokens": 9}, "reason*": {"max_tokens": 6}}).role("reason").max_tokens == 6


# --------------------------------------------------------------------------------------------------------------- policies


def test_one_policy_plays_every_role():
    assert make().policy_list() == (Policy("shared", ("think", "reason")),)


def test_every_role_has_a_policy_of_its_own_or_one_that_it_names():
    assert make(policies="per_role").policy_list() == (Policy("think", ("think",)), Policy("reason", ("reason",)))
    partial = {"voter_0": {"policy": "crowd", "model": "small"}, "voter_2": {"policy": "crowd"}}
    assert vote(policies="per_role", roles=partial).policy_list() == (
        Policy("crowd", ("voter_0", "voter_2"), "small"),
        Policy("voter_1", ("voter_1",)),
    )


def test_a_pattern_can_name_a_policy():
    roles = {"voter_*": {"policy": "crowd"}, "voter_1": {"policy": "loner"}}
    names = [policy.name for policy in vote(policies="per_role", roles=roles).policy_list()]
    assert names == ["crowd", "loner"]


@pytest.mark.parametrize(
    "node, words",
    [
        ({"roles": {"think": {"policy": "a"}}}, "ccpo.roles.think.policy is set, and one policy plays every role"),
        ({"roles": {"think*": {"model": "a"}}}, "ccpo.roles.think*.model is set, and one policy plays every role"),
        ({"policies": "per_role", "roles": {"think": {"policy": "critic"}}}, "'critic' cannot name a policy"),
        ({"policies": "per_role", "roles": {"think": {"policy": "Big Model"}}}, "'Big Model' cannot name a policy"),
        (
            {
                "policies": "per_role",
                "roles": {"*": {"policy": "a"}, "think": {"model": "x"}, "reason": {"model": "y"}},
            },
            "policy a has 2 models, x, y",
        ),
        ({"schedule": {"mode": "alternate"}}, "ccpo.schedule.mode is alternate, and there is one policy"),
        ({"schedule": {"mode": "altern"}}, "did you mean 'alternate'?"),
        ({"policies": "per_role", "schedule": {"first": "solo"}}, "the policies are think, reason"),
    ],
)
def test_policies_that_cannot_work(node, words):
    problems = _problems(node)
    assert len(problems) == 1, problems
    assert words in problems[0]


def test_policies_learn_together_or_in_turn():
    both = make(policies="per_role")
    assert all(both.learns(name, step) for name in ("think", "reason") for step in (1, 2, 30))
    turns = make(policies="per_role", schedule={"mode": "alternate", "every": 2, "first": "reason"})
    assert [
        "".join(name[0] for name in ("think", "reason") if turns.learns(name, step)) for step in range(1, 8)
    ] == list("rrttrrt")


# ---------------------------------------------------------------------------------------------------------- what is played


def test_rows_of_a_prompt():
    assert vote(team_kwargs={"n_voters": 5, "rounds": 3}).rows_per_prompt(2) == 2 * 5 * 3
    assert make().rows_per_prompt(4) == 8
    assert make().rows_per_prompt(4, ("think",)) == 4
    trained = make(credit={"rule": "shared", "train_replays": True})
    assert trained.rows_per_prompt(4) == 10, "two replays a prompt are trained, too"
    assert trained.rows_per_prompt(4, ("think",)) == 4, "Think does not speak in them"
    assert trained.rows_per_prompt(4, ("reason",)) == 6
    assert make(n=1, credit={"rule": "shared_history", "train_replays": True}).rows_per_prompt(1) == 3


def replayed(config: CcpoConfig, session: int, n: int = 4, validating: bool = False) -> list[tuple[str, str, int]]:
    return [(do.how, do.role, do.draw) for do in config.replays(session, n, validating)]


def test_replays_that_decode_nothing_are_always_played():
    assert replayed(make(credit={"rule": "shared"}), 0) == [(REMOVE, "reason", 0)]
    every = [(REMOVE, f"voter_{i}", 0) for i in range(3)]
    assert replayed(vote(rule="shared"), 3) == replayed(vote(), 0) == every


def test_replays_that_decode_are_played_where_the_rule_needs_them():
    deliberation = {"team_kwargs": {"rounds": 2}}
    assert replayed(vote(rule="shared", **deliberation), 0) == []
    assert replayed(vote(rule="removal", **deliberation), 3) == [(REMOVE, f"voter_{i}", 0) for i in range(3)]


def test_shared_replays_are_played_by_the_first_sessions_of_a_prompt():
    config = make(credit={"replays_per_prompt": 3})
    assert [(REMOVE, "think", 0) in replayed(config, session) for session in range(4)] == [True, True, True, False]
    shared = make(credit={"rule": "shared", "replays_per_prompt": 1})
    assert [(REMOVE, "think", 0) in replayed(shared, session) for session in range(2)] == [True, False]


def test_roles_speak_again_where_the_prompts_other_sessions_do_not_tell():
    config = make(credit={"rule": "resampling", "resamples": 2})
    assert replayed(config, 3) == [(REMOVE, "reason", 0), (RESAMPLE, "reason", 0), (RESAMPLE, "reason", 1)]


def test_validation_removes_every_role_and_empties_those_that_are_heard():
    assert replayed(make(), 0, 1, True) == [(REMOVE, "think", 0), (REMOVE, "reason", 0), (REPLACE, "think", 0)]
    assert replayed(make(validation_replays="remove"), 0, 1, True) == [(REMOVE, "think", 0), (REMOVE, "reason", 0)]
    assert replayed(make(validation_replays=[]), 0, 1, True) == []


def test_names_of_validations_replays():
    assert make().replay_names() == {(REMOVE, "think"): "solo", (REPLACE, "think"): "emptied"}
    assert vote().replay_names() == {}, "nothing is decoded"
    chain = make(team=f"{ROOT}/examples/chain.py:Chain")
    assert chain.replay_names() == {
        (REMOVE, "proposer"): "without_proposer",
        (REMOVE, "critic"): "without_critic",
        (REPLACE, "proposer"): "proposer_emptied",
        (REPLACE, "critic"): "critic_emptied",
    }


def test_what_a_step_needs_to_know():
    settings = make(policies="per_role", roles={"think": {"policy": "idea"}}, history={"decay": 0.5}).step_settings
    assert settings.policy_of == {"think": "idea", "reason": "reason"}
    assert (settings.first, settings.also_spoken, settings.history.decay) == ("think", ("reason",), 0.5)
    assert settings.credit.rule == "counterfactual"
    voting = vote().step_settings
    assert (voting.first, voting.also_spoken) == (None, ())
    assert voting.policy_of == dict.fromkeys(("voter_0", "voter_1", "voter_2"), "shared")


@dataclass
class _Strange:
    pass


def test_types_of_a_users_own_are_its_business():
    from ccpo.config import _type_problem

    assert _type_problem(_Strange, object()) is None
    assert _type_problem(_Strange | None, None) is None


# ------------------------------------------------------------------------------------------------ values nobody would type


def _own(tmp_path, body: str, head: str = "") -> dict:
    text = f"""
from __future__ import annotations
from dataclasses import dataclass, field
from ccpo.team import Team
{head}

@dataclass(frozen=True)
class Mine(Team):
{body}
    roles = ("a",)
    prompts = {{"math": {{"a": {{"user": "{{question}}"}}}}}}

    async def play(self, s):
        return s.answer(await s.say("a", question=s.question))
"""
    (tmp_path / "mine.py").write_text(text)
    return {"team": f"{tmp_path}/mine.py:Mine", "credit": {"rule": "shared"}}


@pytest.mark.parametrize("error", ["ValueError", "AssertionError", "ZeroDivisionError", "TypeError"])
def test_a_team_that_refuses_its_settings_in_any_way(tmp_path, error):
    body = f"    size: int = 1\n    def __post_init__(self):\n        if self.size > 1: raise {error}('too large')\n"
    node = _own(tmp_path, body)
    CcpoConfig.from_dict(node, 4)
    (problem,) = _problems({**node, "team_kwargs": {"size": 2}})
    assert "Mine cannot be made" in problem and "too large" in problem


def test_annotations_that_are_not_there_at_run_time(tmp_path):
    head = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from decimal import Decimal"
    node = _own(tmp_path, "    price: Decimal | None = None\n", head)
    (problem,) = _problems({**node, "team_kwargs": {"price": 1}})
    assert "annotations of Mine cannot be read" in problem and "Decimal" in problem


def test_lists_of_a_teams_own_are_its_business(tmp_path):
    node = _own(tmp_path, "    temps: list[float] = field(default_factory=list)\n    pair: tuple[int, int] = (0, 0)\n")
    config = CcpoConfig.from_dict({**node, "team_kwargs": {"temps": [0.5, 1], "pair": [1, 2]}}, 4)
    assert (config.members.temps, config.members.pair) == ([0.5, 1], [1, 2])


def test_a_null_under_a_roles_name_wins_over_its_pattern_and_patterns_add_up():
    roles = {
        "*": {"max_tokens": 5, "temperature": 2.0},
        "voter_*": {"temperature": 0.7, "persona": "P"},
        "voter_0": {"temperature": None, "persona": ""},
    }
    config = CcpoConfig.from_dict({"team": "vote", "credit": {"rule": "shared"}, "roles": roles}, 4)
    assert (config.role("voter_0").temperature, config.role("voter_0").persona) == (None, "")
    assert (config.role("voter_1").temperature, config.role("voter_1").persona) == (0.7, "P")
    assert config.role("voter_0").max_tokens == config.role("voter_1").max_tokens == 5


@pytest.mark.parametrize(
    "node, says",
    [
        ({"roles": {"think": {"stop": [""]}}}, "ccpo.roles.think.stop has an empty text"),
        ({"roles": {"think": {"prompts": ""}}}, "ccpo.roles.think.prompts is empty"),
        ({"prompts": {"think": {"user": "{question!r}"}, "reason": {"user": "{question}"}}}, "has a format"),
        ({"prompts": {"think": {"user": "{question:>20}"}, "reason": {"user": "{question}"}}}, "has a format"),
    ],
)
def test_what_would_do_something_else_is_refused(node, says):
    assert any(says in problem for problem in _problems(node))


def test_a_template_for_a_role_that_there_is_not():
    prompts = {
        "think": {"user": "{question}"},
        "rason": {"user": "{question}"},
        "reason": [{"user": "{question} {thought}"}, {"user": "{question}"}],
    }
    (problem,) = _problems({"prompts": prompts})
    assert "templates of rason, which is no role of the team: it has think, reason" in problem


def test_a_role_with_a_name_that_verl_uses_has_a_policy_of_another():
    chain = {"team": "examples/chain.py:Chain", "prompts": "toy", "policies": "per_role", "credit": {"rule": "removal"}}
    names = [policy.name for policy in CcpoConfig.from_dict(chain, 4).policy_list()]
    assert names == ["proposer", "critic_policy", "refiner"]


@pytest.mark.parametrize(
    "n, says",
    [
        (True, "is True: set a whole number"),
        ("8", "is '8': set a whole number of sessions per prompt, without quotes"),
        (8.0, "is 8.0: set a whole number"),
        (None, "is None: set a whole number"),
        ([4], "is [4]: set a whole number"),
        (10**6, "lie in memory together; set at most 4096"),
    ],
)
def test_a_number_of_sessions_that_is_none(n, says):
    (found,) = _problems({}, n=n)
    assert found.startswith("actor_rollout_ref.rollout.n ") and says in found


@pytest.mark.parametrize("temperature", [1e-9, 1e9])
def test_temperatures_of_copies_and_noise(temperature):
    (found,) = _problems({"roles": {"think": {"temperature": temperature}}})
    assert "copies of the likeliest one, or noise; set it in [0.01, 100]" in found


@pytest.mark.parametrize("pattern, noted", [("reasn*", True), ("reason*", False), ("voter_*", False), ("*", False)])
def test_a_pattern_that_just_misses_a_role_is_noted(pattern, noted):
    """Others are of tasks, which state lengths for several teams."""
    notes = CcpoConfig.from_dict({"roles": {pattern: {"max_tokens": 4}}}, 4).warnings()
    assert [f"ccpo.roles.{pattern} fits no role" in note for note in notes] == ([True] if noted else [])
