"""TransferQueue rows <-> the pure code's CreditTable.

Rows are keyed ``{uid}_{session}_{index}`` by verl, padded with copies of row 0 (tag ``is_padding``) and reordered: everything here
goes by key. uids are random, so the order of rows is made canonical by the dataset's own prompt id: the same job gives the same
batches whatever order the sessions finished in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from ccpo.types import CreditTable
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


def to_table(rows: list[Row]) -> CreditTable:
    """The CreditTable of these rows, same order."""
    return CreditTable.from_rows(
        [(row.uid, row.session, row.role, row.facts["reward"], row.facts["ballot"], row.facts["truth"]) for row in rows]
    )


def spread(rows: list[Row], final: list[Row], advantage_R: np.ndarray) -> dict[str, float]:
    """Row key -> advantage, from those of the ``final`` rows: a role's earlier turns of a session share its last one's."""
    of_role = {(row.uid, row.session, row.role): float(a) for row, a in zip(final, advantage_R, strict=True)}
    return {row.key: of_role[row.uid, row.session, row.role] for row in rows}
