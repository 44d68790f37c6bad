"""The ``ccpo:`` node: frozen dataclasses, and every check that needs no files and no hardware.

`CcpoConfig.from_dict` collects ALL mistakes and raises them in one `ConfigError`, each as: what is wrong, why, what to set. The credit
rules' own settings and refusals are in `ccpo.credit`, the teams' in `ccpo.team`.

The parser is ours (`_parse`, `_type_problem`: 85 lines). With pydantic 2.14 in their place the module had 14 lines more: its errors are put
into our words one kind at a time, it makes no object of a node with one mistake, on which the other checks could go on, a 0 is shown
as 0.0, and a team's own refusals and foreign types need rules of their own; 25 of 242 tests failed.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from typing import Any, Union, get_args, get_origin, get_type_hints

from ccpo.credit.base import CreditConfig, HistoryConfig
from ccpo.credit.rules import EACH, RULES, fits, fitting, normalization, partial_problems, refusals, replays_per_prompt
from ccpo.metrics import FAMILIES
from ccpo.prompts import PromptError, Prompts
from ccpo.reward import PROCESSES, TIMEOUT, OwnReward
from ccpo.step import REPLAYS, StepSettings
from ccpo.team.load import BUILT_IN, prompts_of, settings_class, team_class
from ccpo.team.plan import Plan, plan
from ccpo.team.replay import Intervention, called
from ccpo.team.session import Team, TeamError
from ccpo.types import REMOVE, REPLACE, RESAMPLE
from ccpo.user_code import UserCodeError

RESERVED = ("actor", "actor_rollout", "actor_rollout_ref", "critic", "ref", "shared")
"""verl's names for worker groups, and ours: no policy is called so."""
LOOPBACK = "127.0.0.0/8"
RENAMED = {
    "ccpo.topology": "it is ccpo.team now: dyad, vote, package.module:Class or path/to/file.py:Class",
    "ccpo.vote": "settings of the vote itself are ccpo.team_kwargs.{n_voters,tie,rounds,share_reasoning} now; personas, templates, "
    "temperatures, max_tokens and stop are ccpo.roles.<role>.{persona,prompts,temperature,max_tokens,stop}",
    "ccpo.strip_leak": "it is ccpo.team_kwargs.strip_leak now",
    "ccpo.credit.k_solo": "it is ccpo.credit.replays_per_prompt now",
    "ccpo.credit.train_solo": "it is ccpo.credit.train_replays now",
}
"""Keys of earlier versions, and what became of them."""


TIMES = {  # seconds: low, high, why
    "poll_interval": (0.001, 60, "less keeps a core busy with looking, more lets finished sessions wait"),
    "reward_timeout": (0.01, 86400, "no call ends sooner, and one that hangs has to be given up some day"),
    "session_timeout": (0.01, 30 * 86400, "no session ends sooner, and one that hangs has to be given up some day"),
    "stall_timeout": (
        30,
        30 * 86400,
        "the start alone takes about that long, and a job that hangs has to be ended some day",
    ),
}
MOST_SESSIONS = 4096
MOST_PROCESSES = 64
MOST_KEPT = 4096
KEPT_MB = (0.01, 10_000)
WIDEST_NETWORK = 8  # bits: 10.0.0.0/8 is the widest that is anybody's own


class ConfigError(ValueError):
    """All configuration mistakes of one job, in one message."""

    def __init__(self, problems: list[str]):
        self.problems = list(problems)
        lines = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(self.problems, 1))
        super().__init__(f"the configuration has {len(self.problems)} problem(s); nothing was started:\n{lines}")

    def __reduce__(self):
        return type(self), (self.problems,)


@dataclass(frozen=True)
class RoleConfig:
    """How one role is asked and decodes. None: what the job says for all.

    temperature: sampling temperature in training. max_tokens: longest response. stop: strings that end the response.
    persona:     text added to the role's system message. prompts: name of its own set of prompts; None: ``ccpo.prompts``.
    model:       model of the role's policy, a folder or a hub id; None: actor_rollout_ref.model.path. Needs ``policies: per_role``.
    policy:      name of the role's policy; roles with one name share it. None: the role's own name. Needs ``policies: per_role``.
    """

    temperature: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    persona: str = ""
    prompts: str | None = None
    model: str | None = None
    policy: str | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the settings that were made: a null that is written down overrides a pattern's value, too."""
        made = self.__dict__.get("_given")
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != f.default) if made is None else made


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
class CcpoConfig:
    """The ``ccpo:`` node.

    team:              a built-in team, package.module:Class or path/to/file.py:Class (`ccpo.team.load`)
    team_kwargs:       its settings: fields of the class, if it is a dataclass
    prompts:           name of one of the team's sets of prompts; file.yaml or file.yaml:name; or role -> templates
    reward:            what an answer is worth: None: the verifier; package.module:function or path/to/file.py:function (`ccpo.reward`)
    reward_timeout:    seconds after which a call of an own reward is given up, and its session dropped
    reward_processes:  processes for an own reward that is no coroutine, per agent loop worker
    policies:          "shared": one policy plays every role. "per_role": see `RoleConfig.policy`
    seed:              None: the rollout engine samples freely; an int: every request gets a seed from (seed, prompt,
                       session, role, step), so samples do not depend on arrival order
    poll_interval:     seconds between looks for finished sessions (verl's fixed 2.0 s can be most of a step); nine times as long as a
                       look takes, if that is more, up to 2 s
    max_dropped_rate:  stop when more than this share of a step's sessions was dropped
    session_timeout:   seconds after which a session counts as dropped
    stall_timeout:     seconds without progress of the trainer after which the job stops
    validation_replays: what validation asks of every role besides the team's own answer: "remove" it, "replace" its turns with nothing
    keep_sessions:     how many sessions of a training step are kept in sessions.jsonl, beside all of validation; 0: none, and no file
    keep_sessions_mb:  largest size of that file in MB; what stays of it then: `ccpo.run.session_log`
    gpu_share:         part of every GPU's memory that is this job's; the rest is for other jobs on the same GPUs
    network:           where the job's ports may be reached, as 10.0.0.0/24. None: `LOOPBACK`, on this machine alone
    resume_changed:    go on from a checkpoint of another method: other data, prompts, model, learning rate (`verl_plugin.resuming`)
    roles:             role or pattern ("voter_*") -> settings
    """

    team: str = "dyad"
    team_kwargs: Mapping[str, Any] = field(default_factory=dict)
    prompts: str | Mapping[str, Any] = "math"
    reward: str | None = None
    reward_timeout: float = TIMEOUT
    reward_processes: int = PROCESSES
    policies: str = "shared"
    seed: int | None = None
    poll_interval: float = 0.05
    max_dropped_rate: float = 0.5
    session_timeout: float = 1800.0
    stall_timeout: float = 7200.0
    validation_replays: tuple[str, ...] = (REMOVE, REPLACE)
    keep_sessions: int = 8
    keep_sessions_mb: float = 64.0
    gpu_share: float = 1.0
    network: str | None = None
    resume_changed: bool = False
    credit: CreditConfig = field(default_factory=CreditConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    roles: Mapping[str, RoleConfig] = field(default_factory=dict)

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

    # ---------------------------------------------------------------------------------------------------------- the team

    @cached_property
    def members(self) -> Team:
        """The team. Raises TeamError or ConfigError where it cannot be made."""
        cls = team_class(self.team)
        problems: list[str] = []
        if self.team_kwargs and settings_class(cls) is None:
            raise TeamError(
                f"ccpo.team_kwargs has {', '.join(map(str, self.team_kwargs))}, and {cls.__name__} has no settings: make it a dataclass "
                "with a field for each"
            )
        try:
            team = _parse(cls, self.team_kwargs, "ccpo.team_kwargs", problems) if self.team_kwargs else cls()
        except TeamError as error:
            raise TeamError(f"ccpo.team_kwargs: {error}") from None
        except ConfigError:
            raise
        except Exception as error:
            raise TeamError(
                f"{cls.__name__} cannot be made ({type(error).__name__}: {error}): every field needs a default, and ccpo.team_kwargs values "
                "that it takes"
            ) from None
        if problems:
            raise ConfigError(problems)
        return team

    @cached_property
    def plan(self) -> Plan:
        """What the team's program does. Raises TeamError."""
        return plan(self.members)

    @cached_property
    def prompt_sets(self) -> dict[str, Prompts]:
        """Role -> its prompts. Raises PromptError."""
        cls = type(self.members)
        found = {}
        for role in self.plan.roles:
            own = self.role(role).prompts
            found[role] = prompts_of(cls, own, f"ccpo.roles.{role}.prompts") if own else prompts_of(cls, self.prompts)
        return found

    @cached_property
    def own_reward(self) -> OwnReward | None:
        """The user's own reward; None: the verifier judges. Raises UserCodeError."""
        return None if self.reward is None else OwnReward(self.reward, self.reward_timeout, self.reward_processes)

    def role(self, name: str) -> RoleConfig:
        """A role's settings: those of every pattern that fits, in their order, then those under its name; later ones win."""
        merged: dict[str, Any] = {}
        patterns = [key for key in self.roles if "*" in key and fnmatchcase(name, key)]
        for key in (*patterns, *([name] if name in self.roles else [])):
            merged |= {field: getattr(self.roles[key], field) for field in self.roles[key].given}
        return RoleConfig(**merged)

    # ------------------------------------------------------------------------------------------------------------ credit

    def replays(self, session: int, n: int, validating: bool) -> tuple[Intervention, ...]:
        """What is replayed of a session (its number within the prompt).

        Replays that decode nothing always are. Of those that serve all sessions of a prompt, session j plays the prompt's replay j: the
        group shares them without any talk between sessions.
        """
        plan, rule = self.plan, RULES[self.credit.rule]
        if validating:
            wanted = [
                Intervention(how, role)
                for how in (REMOVE, REPLACE)
                if how in self.validation_replays
                for role in plan.roles
            ]
            return tuple(do for do in wanted if do.how == REMOVE or do.role in plan.heard)
        found = []
        for role in plan.roles:
            removal = plan.replay(REMOVE, role)
            needed = (
                rule.needs is not None and rule.needs[0] == REMOVE and (rule.needs[1] == EACH or role == plan.first)
            )
            if not removal.decodes and not removal.shared:
                wanted = True
            elif removal.shared:
                wanted = (needed or role == plan.first) and session < replays_per_prompt(self.credit, n)
            else:
                wanted = needed
            if wanted:
                found.append(Intervention(REMOVE, role))
            if rule.needs == (RESAMPLE, EACH) and not plan.replay(RESAMPLE, role).shared:
                found += [Intervention(RESAMPLE, role, draw=draw) for draw in range(self.credit.resamples)]
        return tuple(found)

    def replay_names(self) -> dict[tuple[str, str], str]:
        """(how, role) -> what the replay is called in metrics, of validation's replays that decode something."""
        wanted = self.replays(0, 1, validating=True)
        return {
            (do.how, do.role): called(self.members, do) for do in wanted if self.plan.replay(do.how, do.role).decodes
        }

    @cached_property
    def reads_reference(self) -> bool:
        """Whether credit needs the likelihood of the rows' reference answers (and the team has a last speaker to ask)."""
        rule = RULES.get(self.credit.rule)
        return rule is not None and rule.reference and not fits(self.credit.rule, self.plan)

    @property
    def reads_chain(self) -> bool:
        """Whether the reference answer is scored behind the last speaker's own chain, too."""
        return self.reads_reference and self.credit.reference_after == "chain"

    @property
    def trains_reference(self) -> bool:
        """Whether the last speaker is trained on the reference answer instead of its own."""
        return self.reads_reference and self.credit.last_gradient == "exact"

    @property
    def normalization(self) -> str:
        return normalization(self.credit)

    @property
    def step_settings(self) -> StepSettings:
        """What `ccpo.step` needs to know."""
        first = self.plan.first
        spoken = {role for role, _ in self.plan.replay(REMOVE, first).fresh} if first else set()
        return StepSettings(
            self.credit,
            self.history,
            {role: policy.name for policy in self.policy_list() for role in policy.roles},
            first,
            tuple(role for role in self.plan.roles if role in spoken),
        )

    def rows_per_prompt(self, n: int, roles: tuple[str, ...] | None = None) -> int:
        """Trained turns per prompt of these roles (None: of all), at most."""
        mine = self.plan.roles if roles is None else roles
        rows = n * sum(self.plan.most[role] for role in mine)
        if self.credit.train_replays and self.plan.first:
            places = self.plan.replay(REMOVE, self.plan.first).fresh
            rows += replays_per_prompt(self.credit, n) * sum(role in mine for role, _ in places)
        return rows

    # ---------------------------------------------------------------------------------------------------------- policies

    def policy_list(self) -> tuple[Policy, ...]:
        """The job's policies, in the order of their first roles."""
        if self.policies == "shared":
            return (Policy("shared", self.plan.roles),)
        members: dict[str, list[str]] = {}
        for role in self.plan.roles:
            own = f"{role}_policy" if role in RESERVED else role
            members.setdefault(self.role(role).policy or own, []).append(role)
        models = {name: [m for role in roles if (m := self.role(role).model)] for name, roles in members.items()}
        return tuple(Policy(name, tuple(roles), next(iter(models[name]), None)) for name, roles in members.items())

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
            "paper_v1": "paper_v1 pairs every session with an unrelated replay, which adds noise: see "
            "credit/cosine_with_shared in the log",
            "random_reward": "random_reward pays every session a coin: it is a control, and what the team gains with it no credit has taught",
        }
        found = [notes[self.credit.rule]] if self.credit.rule in notes else []
        for pattern in (key for key in self.roles if "*" in key):
            near = difflib.get_close_matches(pattern.replace("*", ""), self.plan.roles, n=1)
            if near and not any(fnmatchcase(role, pattern) for role in self.plan.roles):
                found.append(
                    f"ccpo.roles.{pattern} fits no role of the team ({', '.join(self.plan.roles)}), so nobody gets its settings; {near[0]} is close"
                )
        rule = RULES[self.credit.rule]
        if rule.ballots and not rule.unbiased and self.plan.heard:
            found.append(
                f"rule {self.credit.rule} sees the last vote alone: what a role said earlier moved the others, and its earlier turns share a "
                "credit that takes that as given. removal plays the deliberation again"
            )
        return found

    # ------------------------------------------------------------------------------------------------------------ checks

    def problems(self, n: int) -> list[str]:
        """Every cross-field mistake, given n sessions per prompt."""
        if type(n) is not int:
            return [f"actor_rollout_ref.rollout.n is {n!r}: set a whole number of sessions per prompt, without quotes"]
        if n < 1:
            return [f"actor_rollout_ref.rollout.n is {n}: set at least 1 session per prompt"]
        if n > MOST_SESSIONS:
            return [
                f"actor_rollout_ref.rollout.n is {n}: every prompt's sessions are played at once and lie in memory together; set at most {MOST_SESSIONS}"
            ]
        found, plan = self._team_problems()
        found += refusals(self.credit, self.history, plan, n, _built_in())
        found += [*self._value_problems(), *self._reward_problems(plan)]
        if plan is not None:
            found += [*self._role_problems(), *self._prompt_problems(), *_policy_problems(self)]
        return found

    def _team_problems(self) -> tuple[list[str], Plan | None]:
        try:
            self.members  # noqa: B018
            found = self.plan
        except ConfigError as error:
            return error.problems, None
        except TeamError as error:
            return [f"ccpo.team={self.team}: {error}"], None
        problems = []
        for role in found.roles:
            if role in (*FAMILIES, REPLAYS):
                problems.append(
                    f"role {role!r} has the name of a family of metrics ({', '.join(FAMILIES)}): call it otherwise"
                )
        if not problems and not fitting(found):
            problems.append("no credit rule fits this team")
        return problems, found

    def _reward_problems(self, plan: Plan | None) -> list[str]:
        """Why an own reward cannot be used, or not with this team and rule."""
        if self.reward is None:
            changed = [
                name
                for name in ("reward_timeout", "reward_processes")
                if getattr(self, name) != getattr(CcpoConfig, name)
            ]
            return [
                f"ccpo.{name} is about a reward of your own, and the verifier judges: set ccpo.reward, or drop it"
                for name in changed
            ]
        try:
            reward = self.own_reward
        except UserCodeError as error:
            return [f"ccpo.reward={self.reward}: {error}"]
        found, said = [], f"ccpo.reward={self.reward}"
        if plan is not None and plan.tie is not None and not reward.names_answers:
            found.append(
                f"{said}: the team's outcome is a plurality, which counts equal answers as one, and the reward does not say which are equal; "
                "give the function an attribute label (answer -> its one spelling) or same (two answers -> whether they mean the same)"
            )
        if reward.partial:
            found += [f"{said} gives partial credit: {why}" for why in partial_problems(self.credit.rule, plan)]
        return found

    def _value_problems(self) -> list[str]:
        """Single values out of range."""
        found = [
            *_one_of("ccpo.policies", self.policies, ("shared", "per_role")),
            *_one_of("ccpo.schedule.mode", self.schedule.mode, ("together", "alternate")),
        ]
        for how in self.validation_replays:
            found += _one_of("ccpo.validation_replays", how, (REMOVE, REPLACE))
        if self.network is not None:
            found += _network_problems(self.network)
        if not 1 <= self.reward_processes <= MOST_PROCESSES:
            found.append(
                f"ccpo.reward_processes is {self.reward_processes}: every agent loop worker has so many; set 1..{MOST_PROCESSES}"
            )
        for name in TIMES:
            value, (low, high, why) = getattr(self, name), TIMES[name]
            if value <= 0:
                found.append(f"ccpo.{name} is {value}: set it above 0 seconds")
            elif not low <= value <= high:
                found.append(f"ccpo.{name} is {value} seconds: {why}; set it in [{low}, {high}]")
        if not 0 <= self.keep_sessions <= MOST_KEPT:
            found.append(
                f"ccpo.keep_sessions is {self.keep_sessions}: it is a number of sessions a step, 0 to keep none; set it in [0, {MOST_KEPT}]"
            )
        if not KEPT_MB[0] <= self.keep_sessions_mb <= KEPT_MB[1]:
            found.append(
                f"ccpo.keep_sessions_mb is {self.keep_sessions_mb}: it is the largest size of sessions.jsonl in MB, and must hold some "
                f"sessions; set it in [{KEPT_MB[0]}, {KEPT_MB[1]}] (ccpo.keep_sessions=0 keeps none)"
            )
        if not 0 < self.gpu_share <= 1:
            found.append(
                f"ccpo.gpu_share is {self.gpu_share}: it is the part of every GPU's memory that this job takes; set it above 0 and up to 1"
            )
        if self.seed is not None and not 0 <= self.seed < 2**32:
            found.append(
                f"ccpo.seed is {self.seed}: like every seed of the job it is in [0, 4294967295]; set one, or null (requests without seeds)"
            )
        if self.history.floor > 1:
            found.append(
                f"ccpo.history.floor is {self.history.floor}: rewards lie in [0, 1], so no deviation is above 1, and credit would always be divided "
                "by this instead; set at most 1, for example 0.05"
            )
        waits = [("poll_interval", "session_timeout"), ("session_timeout", "stall_timeout")]
        if self.reward is not None:
            waits.append(("reward_timeout", "session_timeout"))
        for shorter, longer in waits:
            if 0 < getattr(self, longer) < getattr(self, shorter):
                found.append(
                    f"ccpo.{shorter}={getattr(self, shorter)} is more than ccpo.{longer}={getattr(self, longer)}: the job would be given up before "
                    "what it waits for may take that long; set it lower"
                )
        if not 0 <= self.max_dropped_rate <= 1:
            found.append(f"ccpo.max_dropped_rate is {self.max_dropped_rate}: it is a share; set it in [0, 1]")
        for role, setting in self.roles.items():
            if setting.temperature is not None and setting.temperature <= 0:
                found.append(
                    f"ccpo.roles.{role}.temperature is {setting.temperature}: greedy samples cannot be compared; set it above 0"
                )
            elif setting.temperature is not None and not 0.01 <= setting.temperature <= 100:
                found.append(
                    f"ccpo.roles.{role}.temperature is {setting.temperature}: samples would be copies of the likeliest one, or noise; set it in "
                    "[0.01, 100]"
                )
            if setting.max_tokens is not None and setting.max_tokens < 1:
                found.append(f"ccpo.roles.{role}.max_tokens is {setting.max_tokens}: set at least 1, or null")
            for name in ("prompts", "model", "policy"):
                if getattr(setting, name) == "":
                    found.append(f"ccpo.roles.{role}.{name} is empty: set a name, or null")
            if "" in setting.stop:
                found.append(f"ccpo.roles.{role}.stop has an empty text, which stands in every response: drop it")
        return found

    def _role_problems(self) -> list[str]:
        """Settings of roles that the team does not have. (A pattern may fit none: a task states lengths for several teams.)"""
        found = []
        last = self.plan.order[-1] if self.reads_reference else None
        if last and self.role(last).stop:
            found.append(
                f"ccpo.roles.{last}.stop ends its turns with a text, and rule {self.credit.rule} asks how likely the reference answer is with its end "
                "token: drop stop, or set another ccpo.credit.rule"
            )
        for role in self.roles:
            if "*" not in role and role not in self.plan.roles:
                near = difflib.get_close_matches(role, self.plan.roles, n=1)
                found.append(
                    f"ccpo.roles.{role}: the team has no such role"
                    + (f"; did you mean {near[0]}?" if near else "")
                    + f" It has {', '.join(self.plan.roles)}. (What a role says in a replay is decoded with the role's own settings.)"
                )
        return found

    def _prompt_problems(self) -> list[str]:
        """Roles without a template for what they hear, in the session or in any replay; templates of roles that there are not."""
        try:
            sets = self.prompt_sets
        except PromptError as error:
            return [str(error)]
        strangers = {
            f"prompts {found.name!r} have templates of {name}, which is no role of the team: it has {', '.join(self.plan.roles)}"
            for found in sets.values()
            for name in found.templates
            if "*" not in name and name not in self.plan.roles
        }
        return (
            [*sorted(strangers)]
            + [
                sets[role].missing(role, heard)
                for role in self.plan.roles
                for heard in sorted(self.plan.fields[role], key=sorted)
                if heard not in sets[role].of(role)
            ]
            + [
                sets[role].missing(role, heard)
                for role, heard in self._cut_prompts()
                if heard not in {*sets[role].of(role), *self.plan.fields[role]}
            ]
        )

    def _cut_prompts(self) -> list[tuple[str, frozenset[str]]]:
        """(role, fields) of the prompts that only a rule with a reference answer makes."""
        return [(self.plan.order[-1], heard) for heard in self.plan.cuts] if self.reads_reference else []


@cache
def _built_in() -> dict[str, Plan]:
    """Name -> plan of every built-in team, as it is without settings."""
    return {name: plan(team_class(name)()) for name in BUILT_IN}


def _parse(cls: type, data: Any, path: str, problems: list[str]) -> Any:
    """Build dataclass ``cls`` from a mapping; appends to ``problems`` instead of raising."""
    if not isinstance(data, Mapping):
        problems.append(f"{path} is {data!r}: it must be a section with the keys {[f.name for f in fields(cls)]}")
        return cls()
    known, values = {f.name for f in fields(cls) if f.init}, {}
    try:
        hints = get_type_hints(cls)
    except Exception as error:  # of a user's own team
        problems.append(
            f"{path}: the annotations of {cls.__name__} cannot be read ({error}): import what they name at the top of its file"
        )
        return cls()
    for key, value in data.items():
        name = f"{path}.{key}"
        if name in RENAMED:
            problems.append(f"{name}: {RENAMED[name]}")
        elif key not in known:
            inner = {
                f.name: f"{section}.{f.name}"
                for section in known
                if is_dataclass(hints[section])
                for f in fields(hints[section])
            }
            places = inner | {own: own for own in known}
            near = difflib.get_close_matches(str(key), places, n=1)
            hint = f"did you mean {path}.{places[near[0]]}?" if near else f"known keys: {sorted(known)}"
            problems.append(f"{name} is not a setting: {hint}")
        elif is_dataclass(hints[key]):
            values[key] = _parse(hints[key], value, name, problems)
        elif hints[key] == Mapping[str, RoleConfig]:
            values[key] = _parse_roles(value, name, problems)
        elif hints[key] in (Mapping[str, Any], str | Mapping[str, Any]) and isinstance(value, Mapping):
            values[key] = dict(value)
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
    parsed = {str(role): _parse(RoleConfig, value, f"{path}.{role}", problems) for role, value in data.items()}
    known = {f.name for f in fields(RoleConfig)}
    for role, value in data.items():
        if isinstance(value, Mapping):
            parsed[str(role)].__dict__["_given"] = tuple(name for name in value if name in known)
    return parsed


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
    if hint == Mapping[str, Any]:
        return "a section"
    choices = get_args(hint) if isinstance(hint, types.UnionType) or get_origin(hint) is Union else (hint,)
    if value is None:
        return None if type(None) in choices else "a value: this one cannot be null"
    known = [choice for choice in choices if choice in _KINDS]
    if not known:
        return None  # a type of a user's own team: its business
    kinds, words = _KINDS[known[0]]
    fits = isinstance(value, kinds) and (not isinstance(value, bool) or kinds is bool)
    if fits and isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    return None if fits else words


def _network_problems(network: str) -> list[str]:
    try:
        bits = ipaddress.ip_network(network, strict=False).prefixlen
        if bits >= WIDEST_NETWORK:
            return []
        wide = (
            "every address"
            if bits == 0
            else f"more than anybody's own network (its first {bits} bits; private ones name 8 and more)"
        )
        return [
            f"ccpo.network is {network}, which is {wide}: whoever reaches a port of the job can run commands; name the machines' own network"
        ]
    except ValueError as error:
        return [
            f"ccpo.network is {network!r} ({error}): set an address and how many of its bits name the network, as 10.0.0.0/24"
        ]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> list[str]:
    if value in allowed:
        return []
    near = difflib.get_close_matches(value, allowed, n=1)
    return [
        f"{name} is {value!r}: " + (f"did you mean {near[0]!r}? " if near else "") + f"allowed: {', '.join(allowed)}"
    ]


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
    spoken = config.step_settings.also_spoken
    players = {policy.name for policy in policies for role in spoken if role in policy.roles}
    if config.credit.train_replays and len(players) > 1:
        found.append(
            f"train_replays trains what {', '.join(spoken)} say in one replay, and they have {len(players)} policies, whose advantages are "
            "scaled apart: let them share a policy (ccpo.roles.<role>.policy), or set train_replays=false"
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
