"""Global-history-aware normalization: statistics over all steps so far, instead of over one prompt's group.

Per stream, with decay d, batch x and corrected values m, s:

    c <- d c + (1 - d)                                weight seen so far (bias correction)
    M <- d M + (1 - d) mean(x)             m = M / c
    S <- d S + (1 - d) mean((x - m)^2)     s = S / c  second moment about the EMA mean, so drift of the mean counts
    normalized = (x - m_old) / max(sqrt(s_old), floor)

Values are normalized with the OLD state, then the state is updated; the first batch, which has no history, is normalized with
its own mean and standard deviation. "Global history" is thus an average over the last 1 / (1 - d) batches or so, ten by default.

Streams of one policy share one scale, s = mean of their s: with a scale each, the update would be the sum over roles of
grad_i / sqrt(s_i), which is the gradient of no objective. Their means stay their own (a mean is a baseline, a scale is not).
Source: the paper's section on global-history-aware normalization; bias correction, moment about the EMA mean, the floor and the shared
scale are our construction. `paper_v1` keeps the authors' form (`published.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Stream:
    """EMA moments of one stream: the uncorrected c, M and S above. ``weight`` 0: nothing seen yet."""

    weight: float = 0.0
    first: float = 0.0
    second: float = 0.0

    @property
    def mean(self) -> float:
        return self.first / self.weight if self.weight else 0.0

    @property
    def std(self) -> float:
        return (self.second / self.weight) ** 0.5 if self.weight else 0.0

    def updated(self, values: np.ndarray, decay: float) -> Stream:
        weight = decay * self.weight + (1 - decay)
        first = decay * self.first + (1 - decay) * float(values.mean())
        second = decay * self.second + (1 - decay) * float(((values - first / weight) ** 2).mean())
        return Stream(weight, first, second)


@dataclass(frozen=True)
class HistoryState:
    """Everything the method remembers between steps. A value: functions take one and return another.

    streams: moments by name, for example ``think/credit``
    joints:  per baseline, EMA sums with their weight for its fitted coefficient (`removal.py`)
    paper:   the authors' EMA streams (`published.py`), name -> (mean, variance)
    steps:   number of batches that were counted
    """

    streams: Mapping[str, Stream] = field(default_factory=dict)
    joints: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    paper: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    steps: int = 0

    def with_stream(self, name: str, stream: Stream) -> HistoryState:
        return replace(self, streams={**self.streams, name: stream})

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; floats survive exactly."""
        return {
            "streams": {name: asdict(stream) for name, stream in self.streams.items()},
            "joints": {name: dict(sums) for name, sums in self.joints.items()},
            "paper": {name: list(pair) for name, pair in self.paper.items()},
            "steps": self.steps,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HistoryState:
        """Inverse of `to_dict`. Raises ValueError when keys are missing or unknown."""
        if set(data) != {"streams", "joints", "paper", "steps"}:
            raise ValueError(f"not a history state: keys {sorted(data)}; expected joints, paper, steps, streams")
        for name, stream in data["streams"].items():
            if set(stream) != {f.name for f in fields(Stream)}:
                raise ValueError(f"not a history state: stream {name!r} has keys {sorted(stream)}")
        return cls(
            streams={name: Stream(**stream) for name, stream in data["streams"].items()},
            joints={name: dict(sums) for name, sums in data["joints"].items()},
            paper={name: (pair[0], pair[1]) for name, pair in data["paper"].items()},
            steps=int(data["steps"]),
        )


def normalize_by_history(
    values: Mapping[str, np.ndarray],
    state: HistoryState,
    scale_of: Mapping[str, Hashable] | None = None,
    decay: float = 0.9,
    floor: float = 0.05,
    uncentred: Collection[str] = (),
) -> tuple[dict[str, np.ndarray], HistoryState]:
    """Normalize one batch of every stream by its history; return it with the updated state.

    Args:
        values: stream -> (K,) finite numbers, any K >= 0; an empty batch changes nothing.
        state: history before this batch; not modified.
        scale_of: stream -> name of its scale; streams with one name share it. None: every stream has its own.
        decay: EMA decay d in [0, 1); the memory is about 1 / (1 - d) batches.
        floor: smallest standard deviation to divide by, in units of the values. Keeps a stream of equal values
            (all right, all wrong) from blowing up rounding noise.
        uncentred: streams whose mean is not taken away.

    Returns:
        (stream -> (K,) normalized values, new state).

    Raises:
        ValueError: non-finite values (the state is then not touched), decay or floor out of range.

    Source: equation at the top of this module.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"history decay is {decay}: set it in [0, 1); 1 would never learn")
    if floor <= 0:
        raise ValueError(f"history floor is {floor}: set it above 0, it is what a constant stream is divided by")
    arrays = {name: np.asarray(batch, dtype=float) for name, batch in values.items()}
    for name, batch in arrays.items():
        if not np.isfinite(batch).all():
            raise ValueError(f"stream {name!r} got non-finite values: this batch is not counted")
    moments: dict[str, tuple[float, float]] = {}
    variances: dict[Hashable, list[float]] = {}
    for name, batch in arrays.items():
        if not batch.size:
            continue
        old = state.streams.get(name, Stream())
        moments[name] = (old.mean, old.std**2) if old.weight else (float(batch.mean()), float(batch.var()))
        variances.setdefault((scale_of or {}).get(name, ("own", name)), []).append(moments[name][1])
        state = state.with_stream(name, old.updated(batch, decay))
    scale = {key: max(float(np.mean(found)) ** 0.5, floor) for key, found in variances.items()}
    out = {}
    for name, batch in arrays.items():
        out[name] = batch
        if batch.size:
            out[name] = (batch - (0.0 if name in uncentred else moments[name][0])) / scale[
                (scale_of or {}).get(name, ("own", name))
            ]
    return out, state
