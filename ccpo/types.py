"""The vocabulary of the pure code: what a team's sessions were worth, as columns, and as records that are views of them.

Suffixes of array names: ``_S`` sessions, ``_V`` roles of the team, ``_T`` turns, ``_P`` replays, ``_G`` prompts. An offset array has one
entry more than there are sessions: what belongs to session s stands in ``[offset[s] : offset[s + 1]]``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np

REMOVE, RESAMPLE, REPLACE, SHUFFLE = "remove", "resample", "replace", "shuffle"
INTERVENTIONS = (REMOVE, RESAMPLE, REPLACE, SHUFFLE)
"""What a replay of a session changes about one role (`ccpo.team.replay`)."""
ABSTAINED, NO_BALLOT, RIGHT = -1, -2, 0
"""Codes of ballots: nothing readable was said; this role casts none; the truth. Wrong labels are 1, 2, ... within a prompt."""


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn of a session.

    role:      who spoke.
    truncated: cut by the token limit.
    parsed:    whether the verifier found an answer in it; None: the turn was not asked for one.
    leaked:    it states a final answer without being asked for one.
    cut:       something that it read did not fit its prompt and lost its left end.
    """

    role: str
    truncated: bool = False
    parsed: bool | None = None
    leaked: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True)
class ReplayRecord:
    """The same program run again with one role changed.

    how:     one of INTERVENTIONS. role: whose turns were changed. value: what the team would have got.
    shared:  it reused no turn of the session, so it is as good a counterfactual for every session of the prompt.
    decoded: turns that were decoded for it. truncated: one of them was cut by the token limit.
    """

    how: str
    role: str
    value: float
    shared: bool = False
    decoded: int = 0
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One joint run of the team.

    prompt:  key of the prompt: its sessions are one group. session: number within the group.
    value:   R in [0, 1], what the team's outcome is worth.
    turns:   in order; a role may speak several times, or not at all. replays: its counterfactuals.
    ballots: role -> label of its ballot, None for an abstention, if the outcome is a plurality; ``truth``: label of right ballots.
    likelihoods: one number per turn: how likely the last speaker would find the reference answer, had only the turns before this one been
             heard. None: not known (`ccpo.credit.likelihood` alone reads them).
    behind:  how likely the last speaker found the reference's answer behind the chain that it wrote (`ccpo.reference.behind`); None: not known.
    said:    whether it went on with that answer.
    """

    prompt: Hashable
    session: int
    value: float
    turns: tuple[TurnRecord, ...]
    replays: tuple[ReplayRecord, ...] = ()
    ballots: Mapping[str, Hashable | None] | None = None
    truth: Hashable | None = None
    likelihoods: tuple[float, ...] | None = None
    behind: float | None = None
    said: bool = False


@dataclass(frozen=True)
class Sessions:
    """One step's sessions, one array per field. Groups may be ragged, sessions may come in any order.

    roles:      names; ``role_T``, ``of_P`` and the axis ``_V`` count in this order.
    prompts:    keys; ``prompt_S`` counts in this order.
    prompt_S, session_S: (S,) int, which prompt and which of its sessions. value_S: (S,) float, R.
    turn_offset: (S + 1,) int. role_T: (T,) int. truncated_T, leaked_T, cut_T: (T,) bool. parsed_T: (T,) int: 1, 0, or -1 for None.
    replay_offset: (S + 1,) int. how_P: (P,) int, index into INTERVENTIONS. of_P: (P,) int. value_P: (P,) float. shared_P: (P,) bool.
    decoded_P: (P,) int. truncated_P: (P,) bool.
    ballot_SV:  (S, V) int codes (RIGHT, 1.., ABSTAINED, NO_BALLOT), or None where no outcome is a plurality. tie: what a tie is worth.
    likelihood_T: (T,) float, `SessionRecord.likelihoods`; None where they are not known.
    behind_S, said_S: (S,) float and bool, `SessionRecord.behind` and ``said``; behind is nan where a session has none. None where nobody asked.

    Raises ValueError for a value that is not finite, likelihoods that are none, two sessions with one (prompt, session), or offsets that do not fit.
    """

    roles: tuple[str, ...]
    prompts: tuple[Hashable, ...]
    prompt_S: np.ndarray
    session_S: np.ndarray
    value_S: np.ndarray
    turn_offset: np.ndarray
    role_T: np.ndarray
    truncated_T: np.ndarray
    parsed_T: np.ndarray
    leaked_T: np.ndarray
    cut_T: np.ndarray
    replay_offset: np.ndarray
    how_P: np.ndarray
    of_P: np.ndarray
    value_P: np.ndarray
    shared_P: np.ndarray
    decoded_P: np.ndarray
    truncated_P: np.ndarray
    ballot_SV: np.ndarray | None = None
    tie: str = "expected"
    likelihood_T: np.ndarray | None = None
    behind_S: np.ndarray | None = None
    said_S: np.ndarray | None = None

    def __post_init__(self):
        if self.behind_S is not None:
            bad = np.flatnonzero((self.behind_S < 0) | (self.behind_S > 1))
            if len(bad):
                raise ValueError(
                    f"the likelihood behind the chain of session number {bad[0]} is {self.behind_S[bad[0]]}: it must be in [0, 1], the step is not counted"
                )
        if self.likelihood_T is not None:
            if len(self.likelihood_T) != len(self.role_T):
                raise ValueError(
                    f"there are {len(self.likelihood_T)} likelihoods for {len(self.role_T)} turns: give one per turn, what was likely before it"
                )
            bad = np.flatnonzero(~((self.likelihood_T >= 0) & (self.likelihood_T <= 1)))
            if len(bad):
                raise ValueError(
                    f"the likelihood before turn number {bad[0]} is {self.likelihood_T[bad[0]]}: it must be in [0, 1], the step is not counted"
                )
        for what, values in (("value", self.value_S), ("value of a replay", self.value_P)):
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                raise ValueError(
                    f"the {what} number {bad[0]} is not finite: a verdict must be a number, the step is not counted"
                )
        for name, offset, rows in (("turn", self.turn_offset, self.role_T), ("replay", self.replay_offset, self.of_P)):
            if len(offset) != len(self.value_S) + 1 or (len(offset) and offset[-1] != len(rows)):
                raise ValueError(
                    f"{name}_offset has {len(offset)} entries and ends at {offset[-1] if len(offset) else None}, "
                    f"for {len(self.value_S)} sessions with {len(rows)} {name}s"
                )
        if len(self.value_S):
            order = np.lexsort((self.session_S, self.prompt_S))
            same = (np.diff(self.prompt_S[order]) == 0) & (np.diff(self.session_S[order]) == 0)
            if same.any():
                s = order[int(np.flatnonzero(same)[0])]
                raise ValueError(
                    f"two sessions with (prompt, session) = ({self.prompts[self.prompt_S[s]]!r}, {self.session_S[s]}): "
                    "a session is one run of the team"
                )

    def __len__(self) -> int:
        return len(self.value_S)

    @classmethod
    def from_records(
        cls, records: Iterable[SessionRecord], roles: Sequence[str] = (), tie: str = "expected"
    ) -> Sessions:
        """Columns of these records. ``roles``: the team's; others found in the records follow in order of appearance."""
        records = list(records)
        code = {role: i for i, role in enumerate(roles)}
        prompts: dict[Hashable, int] = {}
        labels: dict[tuple[Hashable, Hashable], int] = {}
        turns = [turn for record in records for turn in record.turns]
        replays = [replay for record in records for replay in record.replays]
        known = [record for record in records if record.likelihoods is not None]
        if known and len(known) < len(records) or any(len(r.likelihoods) != len(r.turns) for r in known):
            raise ValueError(
                "some sessions have no likelihoods, or not one per turn: give every session of a step one for each of its turns"
            )
        if unknown := {replay.how for replay in replays} - set(INTERVENTIONS):
            raise ValueError(
                f"{sorted(unknown)[0]!r} is no intervention: a replay is one of {', '.join(INTERVENTIONS)}"
            )
        for named in (*turns, *replays):
            code.setdefault(named.role, len(code))
        for record in records:
            prompts.setdefault(record.prompt, len(prompts))
            for role in record.ballots or ():
                code.setdefault(role, len(code))
        ballot_SV = None
        if any(record.ballots is not None for record in records):
            ballot_SV = np.full((len(records), len(code)), NO_BALLOT, dtype=np.int32)
            used: dict[Hashable, int] = {}
            for s, record in enumerate(records):
                for role, label in (record.ballots or {}).items():
                    if label is None:
                        number = ABSTAINED
                    elif label == record.truth:
                        number = RIGHT
                    else:
                        key = (record.prompt, label)
                        if key not in labels:
                            labels[key] = used[record.prompt] = used.get(record.prompt, 0) + 1
                        number = labels[key]
                    ballot_SV[s, code[role]] = number
        return cls(
            roles=tuple(code),
            prompts=tuple(prompts),
            prompt_S=np.array([prompts[r.prompt] for r in records], dtype=np.int64),
            session_S=np.array([r.session for r in records], dtype=np.int64),
            value_S=np.array([r.value for r in records], dtype=float),
            turn_offset=_offsets(len(r.turns) for r in records),
            role_T=np.array([code[t.role] for t in turns], dtype=np.int64),
            truncated_T=np.array([t.truncated for t in turns], dtype=bool),
            parsed_T=np.array([-1 if t.parsed is None else t.parsed for t in turns], dtype=np.int8),
            leaked_T=np.array([t.leaked for t in turns], dtype=bool),
            cut_T=np.array([t.cut for t in turns], dtype=bool),
            replay_offset=_offsets(len(r.replays) for r in records),
            how_P=np.array([INTERVENTIONS.index(p.how) for p in replays], dtype=np.int64),
            of_P=np.array([code[p.role] for p in replays], dtype=np.int64),
            value_P=np.array([p.value for p in replays], dtype=float),
            shared_P=np.array([p.shared for p in replays], dtype=bool),
            decoded_P=np.array([p.decoded for p in replays], dtype=np.int64),
            truncated_P=np.array([p.truncated for p in replays], dtype=bool),
            ballot_SV=ballot_SV,
            tie=tie,
            likelihood_T=np.array([v for r in known for v in r.likelihoods], dtype=float) if known else None,
            behind_S=np.array([r.behind for r in known], dtype=float) if known else None,  # None becomes nan
            said_S=np.array([r.said for r in known], dtype=bool) if known else None,
        )

    @classmethod
    def from_table(cls, rows: Iterable[tuple], roles: Sequence[str] = ()) -> Sessions:
        """Columns of plain tuples ``(prompt, session, value, {role: value of the team without it})``: one turn a role, no model needed.

        A role that is removed has spoken; roles that nobody removes are named by ``roles``.
        """
        rows = list(rows)
        names = tuple(dict.fromkeys([*roles, *(role for *_, without in rows for role in without)]))
        return cls.from_records(
            (
                SessionRecord(
                    prompt,
                    session,
                    float(value),
                    tuple(TurnRecord(role) for role in names),
                    tuple(ReplayRecord(REMOVE, role, float(v)) for role, v in without.items()),
                )
                for prompt, session, value, without in rows
            ),
            names,
        )

    def __getitem__(self, s: int) -> SessionRecord:
        """Session s as a record. Ballots come as their codes: 0 is the truth."""
        turns, replays = range(*self.turn_offset[s : s + 2]), range(*self.replay_offset[s : s + 2])
        ballots = None
        if self.ballot_SV is not None:
            cast = zip(self.roles, self.ballot_SV[s].tolist(), strict=True)
            ballots = {role: None if b == ABSTAINED else b for role, b in cast if b != NO_BALLOT}
        return SessionRecord(
            self.prompts[self.prompt_S[s]],
            int(self.session_S[s]),
            float(self.value_S[s]),
            tuple(
                TurnRecord(
                    self.roles[self.role_T[t]],
                    bool(self.truncated_T[t]),
                    None if self.parsed_T[t] < 0 else bool(self.parsed_T[t]),
                    bool(self.leaked_T[t]),
                    bool(self.cut_T[t]),
                )
                for t in turns
            ),
            tuple(
                ReplayRecord(
                    INTERVENTIONS[self.how_P[p]],
                    self.roles[self.of_P[p]],
                    float(self.value_P[p]),
                    bool(self.shared_P[p]),
                    int(self.decoded_P[p]),
                    bool(self.truncated_P[p]),
                )
                for p in replays
            ),
            ballots,
            RIGHT if ballots is not None else None,
            tuple(self.likelihood_T[turns.start : turns.stop].tolist()) if self.likelihood_T is not None else None,
            None if self.behind_S is None or np.isnan(self.behind_S[s]) else float(self.behind_S[s]),
            self.said_S is not None and bool(self.said_S[s]),
        )

    @cached_property
    def session_T(self) -> np.ndarray:
        """(T,) session of each turn."""
        return np.repeat(np.arange(len(self)), np.diff(self.turn_offset))

    @cached_property
    def session_P(self) -> np.ndarray:
        """(P,) session of each replay."""
        return np.repeat(np.arange(len(self)), np.diff(self.replay_offset))

    @cached_property
    def spoke_SV(self) -> np.ndarray:
        """(S, V) bool: the role said something in the session."""
        out = np.zeros((len(self), len(self.roles)), dtype=bool)
        out[self.session_T, self.role_T] = True
        return out

    def replays_of(self, how: str, role: int | None = None, shared: bool | None = None) -> np.ndarray:
        """(K,) indices of replays of a kind, of one role (a code), shared or not."""
        found = self.how_P == INTERVENTIONS.index(how)
        if role is not None:
            found &= self.of_P == role
        if shared is not None:
            found &= self.shared_P == shared
        return np.flatnonzero(found)

    def mean_by_prompt(self, prompt_K: np.ndarray, value_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """((G,) mean of the values per prompt, 0 where there is none; (G,) how many)."""
        count_G = np.bincount(prompt_K, minlength=len(self.prompts))
        total_G = np.bincount(prompt_K, weights=value_K, minlength=len(self.prompts))
        return total_G / np.maximum(count_G, 1), count_G


@dataclass(frozen=True)
class StepResult:
    """What a step's credit says; ``state`` is the history after the step (the argument is unchanged).

    credit_SV:    (S, V) contribution in units of R, before normalization; 0 where the role said nothing
    advantage_SV: (S, V) what the policy gradient multiplies every token of the role's turns in the session with
    advantage_P:  (P,) the same for turns that were decoded for a replay; 0 unless they are trained
    metrics:      scalars about the step, without prefix
    answer_S:     (S,) what the last speaker's tokens behind its chain are multiplied with instead; nan where its whole turn has one advantage.
                  None: nowhere has it two (`ccpo.credit.likelihood`)
    """

    credit_SV: np.ndarray
    advantage_SV: np.ndarray
    advantage_P: np.ndarray
    state: object
    metrics: dict[str, float] = field(default_factory=dict)
    answer_S: np.ndarray | None = None


def _offsets(counts: Iterable[int]) -> np.ndarray:
    return np.array([0, *accumulate(counts)], dtype=np.int64)
