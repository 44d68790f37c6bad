"""Where the time goes between the command and the end of the first step."""

from __future__ import annotations

import time


class StartTimes:
    """The parts of a start, one after another."""

    def __init__(self, **parts: float) -> None:
        """``parts``: name -> when it began (seconds since the epoch), of those before there was a task runner, in their order."""
        self._begun = list(parts.items())

    def mark(self, part: str) -> None:
        """The part before is over, and ``part`` begins; the first step's own parts are one."""
        name = "first step" if " of step " in part else part.removeprefix("the ")
        self._begun.append((name, time.time()))

    def parts(self) -> dict[str, float]:
        """Name -> seconds, in order; what began twice is added. The last part ends now."""
        ends = [when for _, when in self._begun[1:]] + [time.time()]
        found: dict[str, float] = {}
        for (part, begun), end in zip(self._begun, ends, strict=True):
            found[part] = found.get(part, 0.0) + end - begun
        return found


def line(parts: dict[str, float]) -> str:
    """One line for a reader; parts of under half a second are left out."""
    shown = ", ".join(f"{part} {seconds:.0f}" for part, seconds in parts.items() if seconds >= 0.5)
    return f"from the command to the end of the first step: {sum(parts.values()):.0f} s ({shown})"
