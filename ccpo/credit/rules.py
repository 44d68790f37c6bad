"""The registry: one row per credit rule, and what is refused for which team.

A row says what the rule computes, where it comes from, whether it tells the roles apart, which replays it needs and how it is
normalized. `fits` says why a rule is none for a team, `refusals` what is wrong with its settings; each reason says what to set.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ccpo.credit.ballots import (
    MAX_SHAPLEY_VOTERS,
    marginal_credit,
    own_correctness_credit,
    resampled_credit,
    shapley_credit,
)
from ccpo.credit.base import Credit, CreditConfig, HistoryConfig
from ccpo.credit.likelihood import likelihood
from ccpo.credit.normalize import NORMALIZATIONS
from ccpo.credit.published import event_v2, paper_v1
from ccpo.credit.removal import counterfactual, leave_one_out, removal
from ccpo.credit.resampling import resampling
from ccpo.credit.shared import random_reward, shared
from ccpo.credit.siblings import shrinkage
from ccpo.types import REMOVE, RESAMPLE

if TYPE_CHECKING:
    from ccpo.team.plan import Plan

EACH, FIRST = "each", "first"
"""Whose replays a rule needs: those of every role, or of the role whose removal serves all sessions of a prompt."""
ANY_SCALE = ("history", "group", "centred", "none")
DEAREST = 100
"""Highest price of a wrong ballot: with it a voter should speak where it is right with more than .99."""
PRICED = ("centred", "history", "none")
"""What own_correctness with a price may be normalized by: a group's deviation would take the price away (`ballots.py`)."""


@dataclass(frozen=True)
class Rule:
    """One credit rule.

    credit:    (sessions, history state, credit settings, history settings) -> Credit.
    equation:  in one line. source: paper, or our construction. apart: one sentence, whether it tells the roles apart.
    unbiased:  for the gradient of the team's value E[R], before normalization.
    normalize: what it may be normalized by; the first is its own.
    needs:     (how, EACH or FIRST): the replays it compares with.
    reads:     settings of `CreditConfig` that it reads.
    ballots:   it reads the ballots of a plurality, one of every role. recombines: those of different sessions.
    published: reproduced exactly: a team of two, and every session has its replay.
    end_when_truncated: a turn that was cut ends its session.
    binary:    it is defined for R of 0 and 1 alone (a tie's worth aside); why, in words.
    reference: it reads how likely the last speaker finds the row's reference answer: forward passes, no decodes.
    """

    credit: Callable[..., Credit]
    equation: str
    source: str
    apart: str
    unbiased: bool
    normalize: tuple[str, ...]
    needs: tuple[str, str] | None = None
    reads: tuple[str, ...] = ()
    ballots: bool = False
    recombines: bool = False
    published: bool = False
    end_when_truncated: bool = False
    binary: str = ""
    reference: bool = False

    @property
    def natural(self) -> str:
        return self.normalize[0]


_OURS = "our construction"
_SAME = "Does not tell the roles apart: every role gets the same number."
RULES: dict[str, Rule] = {
    "counterfactual": Rule(
        counterfactual,
        "R - beta b, b: the prompt's runs without the first speaker",
        "the paper's removal; fitted control variate: our construction",
        _SAME + " Their removals are the metric `contribution`.",
        True,
        ("history", "none"),
        (REMOVE, FIRST),
        ("coefficient", "shaping", "alpha", "siblings"),
    ),
    "removal": Rule(
        removal,
        "R - beta_i b_i, b_i: the team without role i",
        "the paper's removal; fitted control variate: our construction",
        "Tells the roles apart, as far as their removals differ. Where the outcome is one answer, its speaker's removal is worth 0: its credit is R.",
        True,
        ANY_SCALE,
        (REMOVE, EACH),
        ("coefficient", "siblings"),
    ),
    "leave_one_out": Rule(
        leave_one_out,
        "R - R(without i)",
        "the paper's voting counterfactual",
        "Tells the voters apart: only votes that decide get credit.",
        True,
        ANY_SCALE,
        (REMOVE, EACH),
    ),
    "resampling": Rule(
        resampling,
        "R - mean R(i speaks again)",
        _OURS,
        "Tells the roles apart: every role is compared with other turns of its own.",
        True,
        ANY_SCALE,
        (RESAMPLE, EACH),
        ("resamples",),
    ),
    "likelihood": Rule(
        likelihood,
        "v_(i+1) - v_i, v_i: likelihood of the reference answer after i turns; the last speaker's: R - v",
        _OURS,
        "Tells the roles apart: their credits add up to R - v_0. Reads the reference answer's text. Unbiased for the last speaker, and for the "
        "one before it where the last answers at once and in one spelling; with reference_after=chain for all roles, which then share one value.",
        False,
        ANY_SCALE,
        reads=("negative_slope", "last_gradient", "reference_after"),
        reference=True,
    ),
    "shared": Rule(shared, "R", "GRPO", _SAME, True, ("group", "centred", "none")),
    "shared_history": Rule(shared, "R", _OURS, _SAME, True, ("history",)),
    "shrinkage": Rule(
        shrinkage,
        "R - (1 - lambda) mean R(the prompt's other sessions) - lambda mean R(the other prompts)",
        "Zeng et al., ICML 2026, arXiv 2511.03710",
        _SAME,
        True,
        ("history", "none"),
    ),
    "resampled": Rule(
        resampled_credit,
        "Q_i(b_i) - mean Q_i(i's other ballots), Q_i: mean of R over recombined co-voters",
        _OURS,
        "Tells the voters apart: a ballot is worth what it changes in many recombined votes.",
        True,
        ANY_SCALE,
        ballots=True,
        recombines=True,
    ),
    "marginal": Rule(
        marginal_credit,
        "R(b) - mean R(i's other ballots, b_-i)",
        _OURS + " (COMA's baseline)",
        "Tells the voters apart: a ballot is compared with the voter's ballots in other sessions.",
        True,
        ANY_SCALE,
        ballots=True,
        recombines=True,
    ),
    "shapley": Rule(
        shapley_credit,
        "mean over orders of joining of R(S + i) - R(S)",
        _OURS + " (Shapley, 1953)",
        "Tells the voters apart, and follows another gradient than the team's; sees the last vote alone.",
        False,
        ANY_SCALE,
        ballots=True,
    ),
    "own_correctness": Rule(
        own_correctness_credit,
        "1[b_i = truth] - wrong_price 1[b_i is wrong]",
        "control",
        "Tells the voters apart by their own answers: there is no team in it; sees the last vote alone.",
        False,
        ("group", "history", "centred", "none"),
        reads=("wrong_price",),
        ballots=True,
    ),
    "random_reward": Rule(
        random_reward,
        "a fair coin",
        "control (Shao et al., arXiv 2506.10947)",
        "Does not tell the roles apart, nor right from wrong: nothing is to be learned from it.",
        False,
        ("group", "history", "centred", "none"),
    ),
    "paper_v1": Rule(
        paper_v1,
        "tanh z(R - R_solo); g z(R) + (1 - g) z(R_solo)",
        "authors' code of the paper's first version",
        "Gives the two roles different numbers, most of whose difference is noise (docs/method.md).",
        False,
        ("history+group",),
        (REMOVE, FIRST),
        published=True,
        end_when_truncated=True,
    ),
    "event_v2": Rule(
        event_v2,
        "R + 0.2 bonus; R",
        "authors' code of later versions",
        "Does not tell the roles apart: the first speaker's number is the other's times 1.1 or 1.0.",
        False,
        ("centred",),
        (REMOVE, FIRST),
        published=True,
        binary="its bonus is for what is right with the first speaker and wrong without, or the reverse",
    ),
}


def fits(name: str, plan: Plan) -> str | None:
    """Why a rule is none for this team; None if it is."""
    rule = RULES[name]
    if rule.needs == (REMOVE, FIRST) and plan.first is None:
        return "it needs one role whose removal changes all the others, so that one replay serves all sessions of a prompt; there is none"
    pair = len(plan.roles) == 2 and plan.tie is None and plan.first not in plan.answers and plan.rows == 2
    if rule.published and not pair:
        return (
            "it is published for two roles that speak once each, of which the second answers, and this team has "
            f"{len(plan.roles)} with {plan.rows} turns"
        )
    if name == "leave_one_out" and plan.tie is None:
        return (
            "it is the paper's name for removal from a plurality, and this team's outcome is one answer: take removal"
        )
    if rule.reference and (reason := _no_last_speaker(plan)):
        return reason
    if rule.ballots:
        if plan.tie is None:
            return "it reads the ballots of a plurality, and this team's outcome is one answer"
        for role in plan.roles:
            least, most = plan.always[role], plan.ballots.get(role, 0)
            if (least, most) != (1, 1):
                return f"it needs one ballot of every role, and {role} casts {most if least == most else f'{least} to {most}'}"
    if rule.recombines and (plan.heard or plan.rows > len(plan.roles)):
        return "it recombines ballots of different sessions, which needs roles that answer independently, and here they hear each other"
    if rule.recombines and plan.varies:
        return "it recombines ballots of different sessions, and this team draws by chance what a session's roles see (s.random)"
    if name == "shapley" and len(plan.roles) > MAX_SHAPLEY_VOTERS:
        return f"it is exact up to {MAX_SHAPLEY_VOTERS} voters, and this team has {len(plan.roles)}: its cost doubles with each"
    return None


def _no_last_speaker(plan: Plan) -> str | None:
    """Why the likelihood of an answer after each turn is not defined; None if it is."""
    why = "it asks the last speaker how likely the reference answer is after every turn before"
    if plan.tie is not None:
        return f"{why}, and this team's outcome is a plurality"
    if plan.order is None or plan.varies:
        return f"{why}, which needs roles that each speak once, in one order whatever is said"
    if plan.answers != plan.order[-1:]:
        return f"{why}, and here {plan.order[-1]} speaks after the answer of {', '.join(plan.answers)}"
    if len(plan.cuts) < len(plan.order):
        return f"{why}, and where several roles are silent the program does not ask {plan.order[-1]}: take None for each turn"
    if plan.order != plan.roles:
        return f"{why}, and the team's roles are not declared in the order in which they speak: {', '.join(plan.order)}"
    return None


def partial_problems(name: str, plan: Plan | None) -> list[str]:
    """Why values of R between 0 and 1, which no tie made, cannot be used with a rule and a team (None: whatever it is)."""
    found = []
    if name in RULES and RULES[name].binary:
        others = [other for other in (fitting(plan) if plan else RULES) if not RULES[other].binary]
        found.append(
            f"rule {name} is not defined for it: {RULES[name].binary}; set ccpo.credit.rule to one of {', '.join(others)}, or give 0 or 1"
        )
    if plan is not None and plan.tie is not None:
        found.append(
            "the team's outcome is a plurality, which is worth 1 where its answer is right and 0 where it is wrong; give 0 or 1, or let one turn be "
            "the team's answer (s.answer)"
        )
    return found


def fitting(plan: Plan) -> list[str]:
    """Names of the rules that fit a team."""
    return [name for name in RULES if fits(name, plan) is None]


def normalization(config: CreditConfig) -> str:
    """What ``normalize: null`` means is the rule's own. Unknown names are refused elsewhere."""
    return config.normalize or _scales(config)[0]


def _scales(config: CreditConfig) -> tuple[str, ...]:
    """What the rule with these settings may be normalized by; the first is its own."""
    return PRICED if _priced(config) else RULES[config.rule].normalize


def _priced(config: CreditConfig) -> bool:
    return config.wrong_price > 0 and "wrong_price" in RULES[config.rule].reads


def replays_per_prompt(config: CreditConfig, n: int) -> int:
    """Shared removals per prompt. Few are enough for a fitted baseline; the published rules pair or average n of them."""
    if config.replays_per_prompt is not None:
        return config.replays_per_prompt
    rule = RULES[config.rule]
    if rule.published:
        return n
    needed = rule.needs is not None and rule.needs[0] == REMOVE
    return min(2, n) if needed or config.train_replays else 0


def refusals(
    config: CreditConfig, history: HistoryConfig, plan: Plan | None, n: int, others: Mapping[str, Plan] | None = None
) -> list[str]:
    """Everything wrong with a rule and its settings.

    Args:
        config, history: the settings.
        plan: the team's; None where the team itself is broken: what depends on it is not checked.
        n: sessions per prompt.
        others: name -> plan of well-known teams, to be named where the rule fits them instead.
    """
    found = _values(config, history, n)
    if config.rule not in RULES:
        near = difflib.get_close_matches(config.rule, RULES, n=1)
        listed = ", ".join(fitting(plan) if plan else RULES)
        return [
            f"ccpo.credit.rule is {config.rule!r}: "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"allowed: {listed}",
            *found,
        ]
    if plan is not None and (reason := fits(config.rule, plan)):
        teams = [name for name, other in (others or {}).items() if fits(config.rule, other) is None]
        return [
            f"rule {config.rule} does not fit this team: {reason}. Rules that fit: {', '.join(fitting(plan))}"
            + (f". Teams that {config.rule} fits: {', '.join(teams)}" if teams else ""),
            *found,
        ]
    if config.normalize is not None and config.normalize not in NORMALIZATIONS:
        return found
    return [*found, *_normalization(config, plan, n), *_options(config, history, plan, n)]


def _values(config: CreditConfig, history: HistoryConfig, n: int) -> list[str]:
    """Single values out of range."""
    found = []
    for name, value, allowed in (
        ("normalize", config.normalize, NORMALIZATIONS),
        ("shaping", config.shaping, ("none", "tanh")),
        ("last_gradient", config.last_gradient, ("sampled", "exact")),
        ("reference_after", config.reference_after, ("prompt", "chain")),
    ):
        if value is not None and value not in allowed:
            near = difflib.get_close_matches(value, allowed, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            found.append(f"ccpo.credit.{name} is {value!r}: {hint}allowed: {', '.join(allowed)}")
    if not 0 <= history.decay < 1:
        found.append(f"ccpo.history.decay is {history.decay}: 1 would never learn; set it in [0, 1), for example 0.9")
    if history.floor <= 0:
        found.append(
            f"ccpo.history.floor is {history.floor}: credit is divided by it; set it above 0, for example 0.05"
        )
    if config.coefficient is not None and not 0 < config.coefficient <= 1:
        why = "0 would be shared_history" if config.coefficient == 0 else "the baseline would add variance"
        found.append(f"ccpo.credit.coefficient is {config.coefficient}: {why}; set it in (0, 1], or null to fit it")
    k = config.replays_per_prompt
    if k is not None and not 0 <= k <= n:
        found.append(
            f"ccpo.credit.replays_per_prompt is {k} with n = {n} sessions per prompt: a session decodes at most one of them; set 0..{n}, "
            "or raise actor_rollout_ref.rollout.n"
        )
    if not 0 <= config.wrong_price <= DEAREST:
        why = "a wrong ballot would be paid for" if config.wrong_price < 0 else "nobody is ever that sure"
        found.append(
            f"ccpo.credit.wrong_price is {config.wrong_price}: {why}; set it in [0, {DEAREST}], for example 0.5"
        )
    if not 0 <= config.negative_slope <= 1:
        found.append(
            f"ccpo.credit.negative_slope is {config.negative_slope}: it is the part that counts of what a turn takes away; set it in [0, 1], 1 for "
            "an unbiased rule"
        )
    if config.resamples < 1:
        found.append(f"ccpo.credit.resamples is {config.resamples}: set at least 1")
    for name, low in (("alpha", config.alpha), ("eta", config.eta)):
        if low <= 0:
            found.append(f"ccpo.credit.{name} is {low}: 0 would switch the shaping off; set it above 0")
    return found


def _normalization(config: CreditConfig, plan: Plan | None, n: int) -> list[str]:
    rule, how, name = RULES[config.rule], normalization(config), config.rule
    found = []
    if how in ("group", "centred", "history+group") and n < 2:
        found.append(
            f"{name} with normalize '{how}' compares the sessions of one prompt, and n = {n}: every advantage would be 0; "
            "set actor_rollout_ref.rollout.n >= 2, or a rule with ccpo.credit.normalize=history"
        )
    if how not in _scales(config):
        if _priced(config):
            found.append(
                f"{name} with wrong_price={config.wrong_price} and normalize '{how}' loses its price: in a prompt's group whose ballots are wrong or "
                "abstain, the credit over the group's deviation is the same for every price; set ccpo.credit.normalize=centred (or null)"
            )
        elif rule.published:
            found.append(
                f"rule {name} is published with '{rule.natural}' normalization, not '{how}': leave ccpo.credit.normalize=null"
            )
        elif name == "shared" and how == "history":
            found.append("rule shared with normalize 'history' is another rule: set ccpo.credit.rule=shared_history")
        elif name == "shared_history":
            found.append(
                f"rule shared_history is normalized by the history, not '{how}': leave ccpo.credit.normalize=null, or use rule shared"
            )
        elif name == "counterfactual":
            found.append(
                f"rule counterfactual with normalize '{how}' equals the shared reward: the baseline is one constant inside a prompt's group, "
                "and centring the group removes it (with tanh, too, where R has two values); set ccpo.credit.normalize=history (or null)"
            )
        elif name == "shrinkage" and how != "history+group":
            found.append(
                f"rule shrinkage with normalize '{how}' equals the shared reward, prompt by prompt: inside a group its baseline is affine in R, and "
                "centring the group removes it; set ccpo.credit.normalize=history (or null)"
            )
        elif name == "shrinkage":
            found.append(f"rule shrinkage is not normalized by '{how}': set one of {', '.join(rule.normalize)}")
        elif how == "history+group":
            found.append(
                f"rule {name} with normalize 'history+group' equals {name} with 'group': the history is affine inside a step and the "
                "group z-score removes it; set ccpo.credit.normalize=group"
            )
        else:
            found.append(f"rule {name} is not normalized by '{how}': set one of {', '.join(rule.normalize)}")
    elif plan is not None and name == "removal" and how in ("group", "centred"):
        if constant := [role for role in plan.roles if (r := plan.replay(REMOVE, role)).shared and r.decodes]:
            found.append(
                f"rule removal with normalize '{how}' gives {constant[0]} the shared reward: its removal is one constant inside a prompt's "
                "group, and centring the group removes it; set ccpo.credit.normalize=history (or null)"
            )
    if not found and config.siblings and "siblings" in rule.reads and how in ("group", "centred"):
        found.append(
            f"siblings=true with normalize '{how}' does nothing of its own: inside a prompt's group the mean of the other sessions is affine in R, and "
            "centring the group removes it; set ccpo.credit.normalize=history (or null), or siblings=false"
        )
    if rule.reference and config.last_gradient == "exact" and how != "history":
        found.append(
            f"rule {name} with last_gradient=exact is not normalized by '{how}': the reference answer was not sampled, so that no mean may be taken "
            "from its weight; set ccpo.credit.normalize=history (or null)"
        )
    if rule.reference and config.reference_after == "chain" and how in ("group", "centred"):
        found.append(
            f"rule {name} with reference_after=chain is not normalized by '{how}': the last speaker's chain and its answer have two credits, which only "
            "the history puts on one scale; set ccpo.credit.normalize=history (or null)"
        )
    if rule.recombines and n < 2:
        found.append(
            f"{name} compares a role's ballots over the sessions of one prompt, and n = {n}: every credit would be 0; "
            "set actor_rollout_ref.rollout.n >= 2, or ccpo.credit.rule=leave_one_out"
        )
    if plan is not None and name == "resampling" and n < 2 and any(plan.replay(RESAMPLE, r).shared for r in plan.roles):
        found.append(
            f"rule resampling compares the first speaker with the prompt's other sessions, and n = {n}: its credit would be 0; "
            "set actor_rollout_ref.rollout.n >= 2"
        )
    return found


def _options(config: CreditConfig, history: HistoryConfig, plan: Plan | None, n: int) -> list[str]:
    """Settings that the rule does not read, or that contradict each other."""
    rule, name, found = RULES[config.rule], config.rule, []
    default = CreditConfig()
    changed = [f.name for f in fields(CreditConfig) if getattr(config, f.name) != getattr(default, f.name)]
    if rule.published:
        ours = [key for key in changed if key not in ("rule", "normalize", "replays_per_prompt")]
        found += [f"ccpo.credit.{key}" for key in ours]
        found += [f"ccpo.history.{f.name}" for f in fields(history) if getattr(history, f.name) != f.default]
        if found:
            found = [
                f"rule {name} is reproduced exactly, with constants of its own: {', '.join(found)} would do nothing or change it; leave "
                "them at their defaults, or set ccpo.credit.rule=counterfactual"
            ]
        k = config.replays_per_prompt
        if name == "paper_v1" and k not in (None, n):
            found.append(
                f"rule paper_v1 pairs every session with a replay: set ccpo.credit.replays_per_prompt={n} (or null), not {k}"
            )
        if name == "event_v2" and k == 0:
            found.append(
                "rule event_v2 compares with the prompt's replays: set ccpo.credit.replays_per_prompt >= 1 (null: n)"
            )
        return found
    always = {"rule", "normalize", "replays_per_prompt", "train_replays", "eta", *rule.reads}
    for key in changed:
        if key not in always:
            readers = [
                other
                for other, row in RULES.items()
                if key in row.reads and (plan is None or fits(other, plan) is None)
            ]
            found.append(
                f"rule {name} does not read ccpo.credit.{key}: drop it"
                + (f", or set ccpo.credit.rule={readers[0]}" if readers else "")
            )
    if config.siblings and "siblings" in rule.reads:
        if config.coefficient is not None:
            found.append(
                f"siblings=true fits two coefficients at once, and ccpo.credit.coefficient={config.coefficient} fixes one of them: set it to null, or "
                "siblings=false"
            )
        if n < 2:
            found.append(
                f"siblings=true compares with the prompt's other sessions, and n = {n}: there are none; set actor_rollout_ref.rollout.n >= 2, or "
                "siblings=false"
            )
    if config.reference_after == "chain" and "reference_after" in rule.reads:
        if config.last_gradient == "exact":
            found.append(
                "reference_after=chain with last_gradient=exact: behind its chain the last speaker is trained on what it said, since the reference there is "
                "only the part that every right answer in its spelling shares; set ccpo.credit.last_gradient=sampled, or reference_after=prompt"
            )
        if config.negative_slope != 1:
            found.append(
                f"reference_after=chain does not read ccpo.credit.negative_slope={config.negative_slope}: a turn is compared with a fitted baseline there, "
                "not with the run without it; drop it, or set reference_after=prompt"
            )
    if config.train_replays and name == "random_reward":
        found.append(
            "train_replays with rule random_reward would train the replays on what the team really got, and the control is to learn nothing: set "
            "ccpo.credit.train_replays=false"
        )
    if config.alpha != default.alpha and config.shaping == "none" and "alpha" in rule.reads:
        found.append(
            "ccpo.credit.alpha is the slope of a shaping that is off: set ccpo.credit.shaping=tanh, or drop it"
        )
    if config.eta != default.eta and not config.train_replays:
        found.append(
            "ccpo.credit.eta is the slope of a gate that is not used: set ccpo.credit.train_replays=true, or drop it"
        )
    k, how = config.replays_per_prompt, normalization(config)
    if plan is not None and plan.first is None:
        for key in ("replays_per_prompt", "train_replays"):
            if key in changed:
                found.append(
                    f"ccpo.credit.{key} is about the replay that serves all sessions of a prompt, and no removal of this team does: drop it"
                )
        return found
    needed = rule.needs is not None and rule.needs[0] == REMOVE
    if needed and k == 0:
        found.append(
            f"rule {name} with replays_per_prompt=0 has no counterfactual: it equals shared_history; set ccpo.credit.replays_per_prompt >= 1 "
            "(null: 2), or ccpo.credit.rule=shared_history"
        )
    if config.train_replays and k == 0:
        found.append(
            "train_replays with replays_per_prompt=0 has nothing to train: set ccpo.credit.replays_per_prompt >= 1, or train_replays=false"
        )
    if config.train_replays and how in ("group", "centred") and k == 1:
        found.append(
            f"train_replays with normalize '{how}' compares a prompt's replays: set ccpo.credit.replays_per_prompt >= 2 (null: 2)"
        )
    return found
