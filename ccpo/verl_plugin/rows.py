"""TransferQueue rows <-> the pure code's sessions.

Rows are keyed ``{uid}_{session}_{index}`` by verl, padded with copies of row 0 (tag ``is_padding``) and reordered: everything here
goes by key. uids are random, so the order of rows is made canonical by the dataset's own prompt id: the same job gives the same
batches whatever order the sessions finished in.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from ccpo.run.session_log import place_in_line
from ccpo.types import ReplayRecord, SessionRecord, Sessions, StepResult, TurnRecord
from ccpo.verl_plugin.trajectory import COLUMN


@dataclass(frozen=True)
class Row:
    """One trajectory: verl's key, taken apart, and the facts written by `trajectory.RoleOutput`."""

    key: str
    uid: str
    session: int
    index: int
    facts: dict[str, Any]

    @property
    def role(self) -> str:
        return self.facts["role"]

    @property
    def source(self) -> str:
        return self.facts["prompt"][0]

    @property
    def order(self) -> tuple:
        return (*self.facts["prompt"], self.session, self.index, self.uid)


def read_rows(batch: KVBatchMeta) -> list[Row]:
    """All real rows of a batch in canonical order (prompt, session, position in the session)."""
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    if not keys:  # every session was dropped
        return []
    column = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=[COLUMN])[COLUMN]
    rows = []
    for key, facts in zip(keys, list(column), strict=True):
        uid, session, index = key.rsplit("_", 2)
        rows.append(Row(key, uid, int(session), int(index), dict(getattr(facts, "data", facts))))
    return sorted(rows, key=lambda row: row.order)


def to_sessions(rows: Sequence[Row], roles: Sequence[str], tie: str | None) -> Sessions:
    """The sessions of these rows, in their order; a session's first row carries its record."""
    records = [_record(row) for row in rows if row.facts["session"] is not None]
    return Sessions.from_records(records, roles, tie or "expected")


def kept_sessions(
    rows: Sequence[Row], keep: int, seed: int | None, step: int, sessions: Sessions, result: StepResult
) -> list[dict[str, Any]]:
    """The facts of the ``keep`` sessions of a training step that are kept, in the rows' order, with what credit they got."""
    number = _numbers(sessions)
    found = [row for row in rows if row.facts["kept"] is not None]
    first = sorted(found, key=lambda row: place_in_line(seed, row.facts["prompt"], row.session, step))[:keep]
    kept = []
    for row in sorted(first, key=lambda row: row.order):
        s = number[row.uid, row.session]
        spoke = [(i, role) for i, role in enumerate(sessions.roles) if sessions.spoke_SV[s, i]]
        kept.append(
            {
                **json.loads(row.facts["kept"]),
                "credit": {role: float(result.credit_SV[s, i]) for i, role in spoke},
                "advantage": {role: float(result.advantage_SV[s, i]) for i, role in spoke},
                "likelihood": _likelihood(sessions, result, s),
            }
        )
    return kept


def _likelihood(sessions: Sessions, result: StepResult, s: int) -> dict[str, Any] | None:
    """As `ccpo.run.session_log` says; None where credit asked for none."""
    record = sessions[s]
    if record.likelihoods is None:
        return None
    divided = result.answer_S is not None and not np.isnan(result.answer_S[s])
    answer = float(result.answer_S[s]) if divided else None
    return {"before": list(record.likelihoods), "behind": record.behind, "answer_advantage": answer}


def validation_sessions(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The facts of every validation session, in the rows' order."""
    found = [json.loads(row.facts["kept"]) for row in rows if row.facts["kept"] is not None]
    return [{**facts, "credit": None, "advantage": None, "likelihood": None} for facts in found]


def timings(rows: Sequence[Row]) -> dict[str, float]:
    """What sessions waited for, logged as verl's ``timing_s/...``: ``decode/<role>``, mean seconds of a role's turn; ``decode/replays``
    and ``verify``, mean seconds of a session (replays of a session may run at once: their seconds are added)."""
    spent: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.facts["replay"] is None:
            spent[f"decode/{row.role}"].append(row.facts["seconds"])
        if whole := row.facts["session_seconds"]:
            spent["verify"].append(whole["verify"])
            spent["decode/replays"].append(whole["replays"])
    return {name: sum(values) / len(values) for name, values in spent.items()}


def generated(rows: Sequence[Row]) -> dict[str, float]:
    """Response tokens that a step's sessions decoded, whoever learns from them: ``generated_tokens``, those of replays included, and
    ``replay_tokens``. Those of a session that was dropped are not known. The compact trainer's names (`ccpo.compact.budget`)."""
    told = [row.facts["session_tokens"] for row in rows if row.facts["session_tokens"]]
    turns, replays = (float(sum(one[part] for one in told)) for part in ("turns", "replays"))
    return {"generated_tokens": turns + replays, "replay_tokens": replays}


def _record(row: Row) -> SessionRecord:
    """As it was written, under verl's names of prompt and session."""
    facts = row.facts["session"]
    return SessionRecord(
        **{
            **facts,
            "prompt": row.uid,
            "session": row.session,
            "turns": tuple(TurnRecord(**turn) for turn in facts["turns"]),
            "replays": tuple(ReplayRecord(**replay) for replay in facts["replays"]),
        }
    )


def advantages(rows: Sequence[Row], sessions: Sessions, result: StepResult) -> dict[str, float]:
    """Row key -> advantage: a role's in its session, or a replay's."""
    number = _numbers(sessions)
    code = {role: i for i, role in enumerate(sessions.roles)}
    out = {}
    for row in rows:
        s, replay = number[row.uid, row.session], row.facts["replay"]
        if replay is None:
            out[row.key] = float(result.advantage_SV[s, code[row.role]])
        else:
            out[row.key] = float(result.advantage_P[sessions.replay_offset[s] + replay])
    return out


def answers(rows: Sequence[Row], sessions: Sessions, result: StepResult) -> dict[str, tuple[int, float]]:
    """Row key -> (its first token behind the last speaker's chain, what the tokens from there on are multiplied with)."""
    if result.answer_S is None or not len(sessions):
        return {}
    number, last = _numbers(sessions), sessions.roles[sessions.role_T[-1]]
    border = {
        (row.uid, row.session): found["behind"]["length"]
        for row in rows
        if (found := row.facts["reference"]) is not None and found["behind"] is not None
    }
    return {
        row.key: (border[name], float(result.answer_S[number[name]]))
        for row in rows
        if row.role == last and row.facts["replay"] is None and (name := (row.uid, row.session)) in border
    }


def _numbers(sessions: Sessions) -> dict[tuple[Hashable, int], int]:
    """(uid, session) -> its number in the columns."""
    named = zip(sessions.prompt_S.tolist(), sessions.session_S.tolist(), strict=True)
    return {(sessions.prompts[prompt], session): s for s, (prompt, session) in enumerate(named)}
