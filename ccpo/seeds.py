"""A seed of its own for every request: samples then do not depend on what is asked first, nor by whom."""

from __future__ import annotations

import hashlib
from typing import Any


def request_seed(seed: int, *parts: Any) -> int:
    """A 31-bit seed for one request from the job's seed and (prompt, session, label, step): the same in every process and run."""
    digest = hashlib.blake2b(repr((seed, *parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
