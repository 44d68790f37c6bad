"""Two rewards for one digit in a box: with partial credit, and for a vote."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ccpo.reward import Reward

BOX = re.compile(r"\\boxed\{(\d)\}")


async def close(text: str, truth: str, row: Mapping[str, Any]) -> Reward:
    """1 for the right digit, less the further off, as far as the row's tolerance. A coroutine: it might ask a model here."""
    found = BOX.search(text)
    if found is None:
        return Reward(0.0)
    off = abs(int(found[1]) - int(truth))
    return Reward(max(0.0, 1 - off / row["extra_info"]["tolerance"]), found[1])


close.partial = True


def exact(text: str, truth: str, row: Mapping[str, Any]) -> Reward:
    """1 for the right digit, else 0: a vote's ballots are right or wrong."""
    found = BOX.search(text)
    return Reward(float(found[1] == truth), found[1]) if found else Reward(0.0)


exact.label = str.strip
