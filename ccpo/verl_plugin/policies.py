"""Which policy plays which roles. A policy is one set of weights with its optimizer, servers and checkpoint folder."""

from __future__ import annotations

from dataclasses import dataclass

from ccpo.config import CcpoConfig


@dataclass(frozen=True)
class Policy:
    name: str
    roles: tuple[str, ...]


def policies_of(config: CcpoConfig) -> tuple[Policy, ...]:
    """The job's policies. ``shared``: one that plays every role."""
    return (Policy("shared", config.credited_roles()),)
