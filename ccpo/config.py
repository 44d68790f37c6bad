"""The ``ccpo:`` node: frozen dataclasses, and every check that needs no files and no hardware.

`CcpoConfig.from_dict` collects ALL mistakes and raises them in one `ConfigError`, each as: what is wrong, why, what to set.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from ccpo.plurality import TIES
from ccpo.prompts import DYAD, VOTE
from ccpo.types import REASON, SOLO, THINK, is_voter, voter_role

TOPOLOGIES = ("dyad", "vote")
DYAD_RULES = ("counterfactual", "shared", "shared_history", "paper_v1", "event_v2")
VOTE_RULES = ("leave_one_out", "resampled", "marginal", "shapley", "own_correctness", "shared", "shared_history")
RESERVED = ("actor", "actor_rollout", "actor_rollout_ref", "critic", "ref", "shared")
"""verl's names for worker groups, and ours: no policy is called so."""
MAX_SHAPLEY_VOTERS = 10  # the cost doubles with each
RECOMBINES = ("marginal", "resampled")
"""Rules that compare a voter's ballot with its ballots in the prompt's other sessions."""
PUBLISHED = ("paper_v1", "event_v2")
NEEDS_SOLO = ("counterfactual", *PUBLISHED)
NORMALIZATIONS = ("history", "group", "history+group", "none")
NATURAL_NORMALIZATION = {
    "counterfactual": "history",
    "shared": "group",
    "shared_history": "history",
    "paper_v1": "history+group",
    "event_v2": "group",
    "leave_one_out": "history",
    "resampled": "history",
    "marginal": "history",
    "shapley": "history",
    "own_correctness": "group",
}
"""What ``normalize: null`` means. A rule and its normalization belong together: see `_rule_problems`."""


class ConfigError(ValueError):
    """All configuration mistakes of one job, in one message."""

    def __init__(self, problems: list[str]):
        self.problems = list(problems)
        lines = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1))
        super().__init__(f"the configuration has {len(self.problems)} problem(s); nothing was started:\n{lines}")

    def __reduce__(self):
        return type(self), (self.problems,)


@dataclass(frozen=True)
class CreditConfig:
    """Which credit every trajectory gets.

    rule:        one of DYAD_RULES or VOTE_RULES, as the topology says
    normalize:   one of NORMALIZATIONS; None: the rule's own (NATURAL_NORMALIZATION); "none": the credit as it is
    k_solo:      solo answers per prompt, 0..n; None: what the rule needs (`CcpoConfig.solo_count`)
    coefficient: beta of the counterfactual baseline in (0, 1]; None: fitted from the history
    shaping:     "none", or "tanh": Think's normalized credit becomes tanh(alpha A), which bounds it and changes the objective
    alpha:       slope of the tanh
    train_solo:  also train the solo answers' own tokens, weight 1 - g, the joint answer's with weight g
    eta:         slope of the gate g = sigmoid(eta mu_delta / sigma_delta)
    """

    rule: str = "counterfactual"
    normalize: str | None = None
    k_solo: int | None = None
    coefficient: float | None = None
    shaping: str = "none"
    alpha: float = 1.0
    train_solo: bool = False
    eta: float = 1.0

    @property
    def normalization(self) -> str:
        return self.normalize or NATURAL_NORMALIZATION[self.rule]


@dataclass(frozen=True)
class HistoryConfig:
    """decay: EMA decay in [0, 1). floor: smallest standard deviation to divide by, in reward units."""

    decay: float = 0.9
    floor: float = 0.05


@dataclass(frozen=True)
class RoleConfig:
    """How one role decodes. None: what the rollout section says.

    temperature: sampling temperature. max_tokens: longest response. stop: strings that end the response. (Voters: `VoteConfig`.)
    model:       model of the role's policy, a folder or a hub id; None: actor_rollout_ref.model.path. Needs ``policies: per_role``.
    policy:      name of the role's policy; roles with one name share it. None: the role's own name. Needs ``policies: per_role``.
    """

    temperature: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    model: str | None = None
    policy: str | None = None


@dataclass(frozen=True)
class ScheduleConfig:
    """Which policies learn when.

    mode:  "together": every policy at every step. "alternate": one after another, the others rest with unchanged weights.
    every: steps that one policy learns before the next one does.
    first: name of the policy that begins; None: the first role's.
    """

    mode: str = "together"
    every: int = 10
    first: str | None = None


@dataclass(frozen=True)
class Policy:
    """One set of weights with its optimizer, rollout servers and checkpoint folder.

    name: unique. roles: those that it plays and that get credit. model: folder or hub id; None: actor_rollout_ref.model.path.
    """

    name: str
    roles: tuple[str, ...]
    model: str | None = None


@dataclass(frozen=True)
class VoteConfig:
    """The N voters of ``topology: vote``. Lists have one entry per voter, or none.

    n_voters:        2 to 64
    tie:             what a tie is worth, one of `ccpo.plurality.TIES`
    rounds:          1: everyone votes once, unseen; more: each voter sees the others' last answers before it votes again
    share_reasoning: the others' whole texts are shown, not their answers alone
    personas:        text added to the voter's system message
    templates:       template set of `ccpo.prompts.VOTE` for this voter; empty: ``ccpo.prompts`` for all
    temperatures:    sampling temperature in training; empty: the rollout section's
    max_tokens:      longest response; None: the rollout section's
    stop:            strings that end a response
    """

    n_voters: int = 3
    tie: str = "expected"
    rounds: int = 1
    share_reasoning: bool = False
    personas: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    temperatures: tuple[float, ...] = ()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class CcpoConfig:
    """The ``ccpo:`` node.

    topology:          one of TOPOLOGIES
    policies:          "shared": one policy plays every role. "per_role": see `RoleConfig.policy`
    prompts:           name of the template set in `ccpo.prompts`
    strip_leak:        remove a final answer that Think leaks before Reason reads the thought
    seed:              None: the rollout engine samples freely; an int: every request gets a seed from (seed, prompt,
                       session, role, step), so samples do not depend on arrival order
    poll_interval:     seconds between looks for finished sessions (verl's fixed 2.0 s can be most of a step)
    max_dropped_rate:  stop when more than this share of a step's sessions was dropped
    session_timeout:   seconds after which a session counts as dropped
    stall_timeout:     seconds without progress of the trainer after which the job stops
    """

    topology: str = "dyad"
    policies: str = "shared"
    prompts: str = "math"
    strip_leak: bool = False
    seed: int | None = None
    poll_interval: float = 0.05
    max_dropped_rate: float = 0.5
    session_timeout: float = 1800.0
    stall_timeout: float = 7200.0
    credit: CreditConfig = field(default_factory=CreditConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    roles: Mapping[str, RoleConfig] = field(
        default_factory=lambda: {role: RoleConfig() for role in (THINK, REASON, SOLO)}
    )
    vote: VoteConfig = field(default_factory=VoteConfig)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], n: int) -> CcpoConfig:
        """Parse and check the node.

        Args:
            data: the plain ``ccpo:`` mapping.
            n: sessions per prompt (verl: actor_rollout_ref.rollout.n).

        Raises:
            ConfigError: with every problem.
        """
        problems: list[str] = []
        config = _parse(cls, data, "ccpo", problems)
        problems += config.problems(n)
        if problems:
            raise ConfigError(problems)
        return config

    def problems(self, n: int) -> list[str]:
        """Every cross-field mistake, given n sessions per prompt."""
        if n < 1:
            return [f"actor_rollout_ref.rollout.n is {n}: set at least 1 session per prompt"]
        if self.topology == "vote":
            return [*_value_problems(self, n), *_policy_problems(self), *_vote_problems(self, n)]
        found = [*_value_problems(self, n), *_policy_problems(self), *_dyad_only_problems(self)]
        return found + _rule_problems(self.credit, n)

    def solo_count(self, n: int) -> int:
        """Solo answers per prompt. Few are enough for a fitted baseline; the published rules pair or average n of them."""
        credit = self.credit
        if self.topology == "vote":
            return 0
        if credit.k_solo is not None:
            return credit.k_solo
        if credit.rule in PUBLISHED:
            return n
        if credit.rule in NEEDS_SOLO or credit.train_solo:
            return min(2, n)
        return 0

    def credited_roles(self) -> tuple[str, ...]:
        """Roles that appear in the CreditTable."""
        if self.topology == "vote":
            return tuple(voter_role(index) for index in range(self.vote.n_voters))
        return (THINK, REASON, SOLO)

    def trained_roles(self) -> tuple[str, ...]:
        return tuple(role for role in self.credited_roles() if role != SOLO or self.credit.train_solo)

    def rows_per_prompt(self, n: int, roles: tuple[str, ...] | None = None) -> int:
        """Trained trajectories per prompt of these roles (None: of all) when no session is dropped."""
        turns = self.vote.rounds if self.topology == "vote" else 1
        return sum(
            self.solo_count(n) if role == SOLO else n * turns
            for role in self.trained_roles()
            if roles is None or role in roles
        )

    def policy_list(self) -> tuple[Policy, ...]:
        """The job's policies, in the order of their first roles. ``solo`` is Reason without a thought: Reason's policy plays it."""
        if self.policies == "shared":
            return (Policy("shared", self.credited_roles()),)
        members: dict[str, list[str]] = {}
        for role in self.credited_roles():
            player = REASON if role == SOLO else role
            members.setdefault(self.role(player).policy or player, []).append(role)
        models = {name: [m for role in roles if (m := self.role(role).model)] for name, roles in members.items()}
        return tuple(Policy(name, tuple(roles), next(iter(models[name]), None)) for name, roles in members.items())

    def role(self, name: str) -> RoleConfig:
        return self.roles.get(name, RoleConfig())

    def learns(self, policy: str, step: int) -> bool:
        """Whether a policy is trained at a step (1, 2, ...): a pure function, so a resumed job needs nothing else."""
        if self.schedule.mode == "together":
            return True
        names = [p.name for p in self.policy_list()]
        start = names.index(self.schedule.first) if self.schedule.first else 0
        return names[(start + (step - 1) // self.schedule.every) % len(names)] == policy

    def warnings(self) -> list[str]:
        """Allowed, but the user should know."""
        notes = {
            "event_v2": "event_v2's advantage is exactly 1.1 x (or 1.0 x) the centred shared reward's inside every group: see "
            "credit/cosine_with_shared in the log (below 1 only because GRPO also divides by the group's deviation)",
            "paper_v1": "paper_v1 pairs every session with an unrelated solo answer, which adds noise: see "
            "credit/cosine_with_shared in the log",
        }
        return [notes[self.credit.rule]] if self.credit.rule in notes else []


def _parse(cls: type, data: Any, path: str, problems: list[str]) -> Any:
    """Build dataclass ``cls`` from a mapping; appends to ``problems`` instead of raising."""
    if not isinstance(data, Mapping):
        problems.append(f"{path} is {data!r}: it must be a section with the keys {[f.name for f in fields(cls)]}")
        return cls()
    hints, known, values = get_type_hints(cls), {f.name for f in fields(cls)}, {}
    for key, value in data.items():
        name = f"{path}.{key}"
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {path}.{near[0]}?" if near else f"known keys: {sorted(known)}"
            problems.append(f"{name} is not a setting: {hint}")
        elif is_dataclass(hints[key]):
            values[key] = _parse(hints[key], value, name, problems)
        elif hints[key] == Mapping[str, RoleConfig]:
            values[key] = _parse_roles(value, name, problems)
        elif (problem := _type_problem(hints[key], value)) is not None:
            problems.append(
                f"{name} is {value!r}: set {problem}"
            )  # the default stands in, so that other checks can go on
        else:
            listed = hints[key] in (tuple[str, ...], tuple[float, ...])
            values[key] = tuple([value] if isinstance(value, str) else value) if listed else value
    return cls(**values)


def _parse_roles(data: Any, path: str, problems: list[str]) -> dict[str, RoleConfig]:
    if not isinstance(data, Mapping):
        problems.append(f"{path} is {data!r}: it must be a section with roles")
        return {}
    known = [role for role in data if role in (THINK, REASON, SOLO) or is_voter(str(role))]
    for role in data:
        if role not in known:
            problems.append(f"{path}.{role} is no role: roles are {THINK}, {REASON}, {SOLO}, voter_0, voter_1, ...")
    defaults = {role: RoleConfig() for role in (THINK, REASON, SOLO)}
    return defaults | {role: _parse(RoleConfig, data[role], f"{path}.{role}", problems) for role in known}


_KINDS = {
    str: (str, "text"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    bool: (bool, "true or false"),
}


def _type_problem(hint: Any, value: Any) -> str | None:
    """What to set instead when a leaf does not fit its annotation (str, int, float, bool, ``X | None``, tuple of str)."""
    if hint == tuple[str, ...]:
        fits = isinstance(value, str) or (
            isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
        )
        return None if fits else "a list of strings"
    if hint == tuple[float, ...]:
        fits = isinstance(value, (list, tuple)) and all(_type_problem(float, item) is None for item in value)
        return None if fits else "a list of numbers"
    choices = get_args(hint) or (hint,)
    if value is None:
        return None if type(None) in choices else "a value: this one cannot be null"
    types, words = _KINDS[next(choice for choice in choices if choice is not type(None))]
    fits = isinstance(value, types) and (not isinstance(value, bool) or types is bool)
    if fits and isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    return None if fits else words


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> list[str]:
    if value in allowed:
        return []
    near = difflib.get_close_matches(value, allowed, n=1)
    return [
        f"{name} is {value!r}: " + (f"did you mean {near[0]!r}? " if near else "") + f"allowed: {', '.join(allowed)}"
    ]


def _value_problems(config: CcpoConfig, n: int) -> list[str]:
    """Single values out of range."""
    credit, history = config.credit, config.history
    found = [
        *_one_of("ccpo.topology", config.topology, TOPOLOGIES),
        *_one_of("ccpo.policies", config.policies, ("shared", "per_role")),
        *_one_of("ccpo.schedule.mode", config.schedule.mode, ("together", "alternate")),
        *_one_of("ccpo.prompts", config.prompts, tuple(VOTE if config.topology == "vote" else DYAD)),
        *_one_of("ccpo.credit.rule", credit.rule, VOTE_RULES if config.topology == "vote" else DYAD_RULES),
        *_one_of("ccpo.credit.shaping", credit.shaping, ("none", "tanh")),
    ]
    if credit.normalize is not None:
        found += _one_of("ccpo.credit.normalize", credit.normalize, NORMALIZATIONS)
    if not 0 <= history.decay < 1:
        found.append(f"ccpo.history.decay is {history.decay}: 1 would never learn; set it in [0, 1), for example 0.9")
    if history.floor <= 0:
        found.append(
            f"ccpo.history.floor is {history.floor}: credit is divided by it; set it above 0, for example 0.05"
        )
    if credit.coefficient is not None and not 0 < credit.coefficient <= 1:
        why = "0 would be shared_history" if credit.coefficient == 0 else "the baseline would add variance"
        found.append(f"ccpo.credit.coefficient is {credit.coefficient}: {why}; set it in (0, 1], or null to fit it")
    if credit.k_solo is not None and not 0 <= credit.k_solo <= n:
        found.append(
            f"ccpo.credit.k_solo is {credit.k_solo} with n = {n} sessions per prompt: a session decodes at most one solo "
            f"answer; set 0..{n}, or raise actor_rollout_ref.rollout.n"
        )
    for name, low in (("alpha", credit.alpha), ("eta", credit.eta)):
        if low <= 0:
            found.append(f"ccpo.credit.{name} is {low}: 0 would switch the shaping off; set it above 0")
    for name in ("poll_interval", "session_timeout", "stall_timeout"):
        value = getattr(config, name)
        if value <= 0:
            found.append(f"ccpo.{name} is {value}: set it above 0 seconds")
    if not 0 <= config.max_dropped_rate <= 1:
        found.append(f"ccpo.max_dropped_rate is {config.max_dropped_rate}: it is a share; set it in [0, 1]")
    for role in (THINK, REASON, SOLO):
        setting = config.role(role)
        if setting.temperature is not None and setting.temperature <= 0:
            found.append(
                f"ccpo.roles.{role}.temperature is {setting.temperature}: greedy samples cannot be compared; set it above 0"
            )
        if setting.max_tokens is not None and setting.max_tokens < 1:
            found.append(f"ccpo.roles.{role}.max_tokens is {setting.max_tokens}: set at least 1, or null")
    return found


def _dyad_only_problems(config: CcpoConfig) -> list[str]:
    """Settings of a vote that would do nothing. (A task may state every topology's lengths.)"""
    names = (f.name for f in fields(VoteConfig) if f.name not in ("max_tokens", "stop"))
    changed = [name for name in names if getattr(config.vote, name) != getattr(VoteConfig(), name)]
    return [
        f"ccpo.vote.{name} is set, and the topology is dyad: set ccpo.topology=vote (config ccpo_vote), or drop it"
        for name in changed
    ]


def _vote_problems(config: CcpoConfig, n: int) -> list[str]:
    """Settings of a vote that cannot work."""
    vote, credit, found = config.vote, config.credit, []
    if not 2 <= vote.n_voters <= 64:
        found.append(
            f"ccpo.vote.n_voters is {vote.n_voters}: one voter is no vote, and more than 64 were never tried; set 2..64"
        )
    found += _one_of("ccpo.vote.tie", vote.tie, TIES)
    if vote.rounds < 1:
        found.append(f"ccpo.vote.rounds is {vote.rounds}: set at least 1")
    if vote.share_reasoning and vote.rounds == 1:
        found.append(
            "ccpo.vote.share_reasoning needs a second round, in which it is read: set ccpo.vote.rounds >= 2, or drop it"
        )
    for name in ("personas", "templates", "temperatures"):
        if (got := len(getattr(vote, name))) not in (0, vote.n_voters):
            found.append(f"ccpo.vote.{name} has {got} entries for {vote.n_voters} voters: give one per voter, or none")
    for value in vote.templates:
        found += _one_of("ccpo.vote.templates", value, tuple(VOTE))
    for value in vote.temperatures:
        if value <= 0:
            found.append(f"ccpo.vote.temperatures has {value}: greedy samples cannot be compared; set it above 0")
    if vote.max_tokens is not None and vote.max_tokens < 1:
        found.append(f"ccpo.vote.max_tokens is {vote.max_tokens}: set at least 1, or null")
    for name in ("k_solo", "coefficient", "shaping", "alpha", "train_solo", "eta"):
        if getattr(credit, name) != getattr(CreditConfig(), name):
            found.append(f"ccpo.credit.{name} belongs to the dyad's rules: leave it at its default for a vote")
    if config.strip_leak:
        found.append("ccpo.strip_leak is about the dyad's thought: leave it false for a vote")
    rule = credit.rule
    if rule not in VOTE_RULES or (credit.normalize is not None and credit.normalize not in NORMALIZATIONS):
        return found
    how = credit.normalization
    if rule in RECOMBINES and n < 2:
        found.append(
            f"{rule} compares a voter's ballots over the sessions of one prompt, and n = {n}: every credit would be 0; "
            "set actor_rollout_ref.rollout.n >= 2, or ccpo.credit.rule=leave_one_out"
        )
    if rule == "resampled" and vote.rounds > 1:
        found.append(
            "rule resampled recombines ballots of different sessions, which needs voters that answer independently, and with "
            f"ccpo.vote.rounds={vote.rounds} they see each other; set ccpo.vote.rounds=1, or ccpo.credit.rule=leave_one_out"
        )
    if rule == "shapley" and vote.n_voters > MAX_SHAPLEY_VOTERS:
        found.append(
            f"rule shapley is exact up to {MAX_SHAPLEY_VOTERS} voters, got {vote.n_voters}: its cost doubles with each; "
            "set ccpo.credit.rule=leave_one_out or resampled"
        )
    return found + _shared_problems(rule, how, n)


def _shared_problems(rule: str, how: str, n: int) -> list[str]:
    """What is wrong with a rule's normalization in either topology."""
    found = []
    if "group" in how and n < 2:
        found.append(
            f"{rule} with normalize '{how}' compares the sessions of one prompt, and n = {n}: every advantage would be 0; "
            "set actor_rollout_ref.rollout.n >= 2, or a rule with ccpo.credit.normalize=history"
        )
    if rule == "shared" and how == "history":
        found.append("rule shared with normalize 'history' is another rule: set ccpo.credit.rule=shared_history")
    if rule == "shared" and how == "history+group":
        found.append(
            "rule shared with normalize 'history+group' equals shared with 'group': the history is affine inside a step and the "
            "group z-score removes it; set ccpo.credit.normalize=group"
        )
    if rule == "shared_history" and how != "history":
        found.append(
            f"rule shared_history is normalized by the history, not '{how}': leave ccpo.credit.normalize=null, or use rule shared"
        )
    return found


def _policy_problems(config: CcpoConfig) -> list[str]:
    """Maps of roles to policies, and schedules, that cannot work."""
    found = []
    for role, setting in config.roles.items():
        given = [name for name in ("model", "policy") if getattr(setting, name) is not None]
        if not given:
            continue
        if config.policies == "shared":
            found.append(
                f"ccpo.roles.{role}.{given[0]} is set, and one policy plays every role: set ccpo.policies=per_role, or drop it"
            )
        elif role == SOLO:
            found.append(
                f"ccpo.roles.solo.{given[0]} is set, and solo is Reason without a thought: set it for ccpo.roles.reason"
            )
        elif role not in config.credited_roles():
            found.append(
                f"ccpo.roles.{role}.{given[0]} is set, and this job has no such role: it has {', '.join(config.credited_roles())}"
            )
        if is_voter(role) and (setting.temperature is not None or setting.max_tokens is not None or setting.stop):
            found.append(
                f"ccpo.roles.{role}: voters decode as ccpo.vote says; set ccpo.vote.temperatures, max_tokens and stop"
            )
    if config.policies not in ("shared", "per_role"):
        return found
    policies = config.policy_list()
    for policy in policies:
        bad = not re.fullmatch(r"[a-z][a-z0-9_]*", policy.name) or policy.name in RESERVED
        if bad and config.policies == "per_role":
            found.append(
                f"{policy.name!r} cannot name a policy: use lower-case letters, digits and _, and none of {', '.join(RESERVED)}"
            )
        models = {m for role in policy.roles if (m := config.role(role).model)}
        if len(models) > 1:
            found.append(
                f"policy {policy.name} has {len(models)} models, {', '.join(sorted(models))}: a policy is one set of weights; set one"
            )
    schedule, names = config.schedule, [policy.name for policy in policies]
    if schedule.every < 1:
        found.append(f"ccpo.schedule.every is {schedule.every}: set at least 1 step")
    if schedule.mode == "alternate" and len(policies) < 2:
        found.append(
            "ccpo.schedule.mode is alternate, and there is one policy: set ccpo.policies=per_role, or together"
        )
    if schedule.first is not None and schedule.first not in names:
        found.append(f"ccpo.schedule.first is {schedule.first!r}: the policies are {', '.join(names)}")
    return found


def _rule_problems(credit: CreditConfig, n: int) -> list[str]:
    """Combinations that cannot work, or whose credit provably equals the shared reward (docs/method.md)."""
    if credit.rule not in DYAD_RULES or (credit.normalize is not None and credit.normalize not in NORMALIZATIONS):
        return []
    rule, how = credit.rule, credit.normalization
    found = _shared_problems(rule, how, n)
    if rule == "counterfactual" and (how == "group" or (how == "history+group" and credit.shaping == "none")):
        found.append(
            f"rule counterfactual with normalize '{how}' equals the shared reward: the solo baseline is one constant inside a "
            "prompt's group, and centring the group removes it; set ccpo.credit.normalize=history (or null)"
        )
    if rule == "counterfactual" and credit.k_solo == 0:
        found.append(
            "rule counterfactual with k_solo=0 has no counterfactual: it equals shared_history; set ccpo.credit.k_solo >= 1 "
            "(null: 2), or ccpo.credit.rule=shared_history"
        )
    if rule in PUBLISHED and how != NATURAL_NORMALIZATION[rule]:
        found.append(
            f"rule {rule} is published with '{NATURAL_NORMALIZATION[rule]}' normalization, not '{how}': leave ccpo.credit.normalize=null"
        )
    if rule == "paper_v1" and credit.k_solo not in (None, n):
        found.append(
            f"rule paper_v1 pairs every session with a solo answer: set ccpo.credit.k_solo={n} (or null), not {credit.k_solo}"
        )
    if rule == "event_v2" and credit.k_solo == 0:
        found.append("rule event_v2 compares with the prompt's solo answers: set ccpo.credit.k_solo >= 1 (null: n)")
    if rule in PUBLISHED and (credit.train_solo or credit.shaping != "none" or credit.coefficient is not None):
        found.append(
            f"rule {rule} is reproduced exactly: train_solo, shaping and coefficient would change it; leave them at their "
            "defaults, or set ccpo.credit.rule=counterfactual"
        )
    if rule in ("shared", "shared_history") and (credit.shaping != "none" or credit.coefficient is not None):
        found.append(
            f"rule {rule} has no counterfactual to shape: set ccpo.credit.rule=counterfactual, or drop shaping and coefficient"
        )
    if credit.train_solo and credit.k_solo == 0:
        found.append("train_solo with k_solo=0 has nothing to train: set ccpo.credit.k_solo >= 1, or train_solo=false")
    if credit.train_solo and "group" in how and credit.k_solo == 1:
        found.append(
            f"train_solo with normalize '{how}' compares a prompt's solo answers: set ccpo.credit.k_solo >= 2 (null: 2)"
        )
    return found
