"""What a command prints: nothing that a terminal would obey; and when its reader has enough (``| head``), it ends without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

CUT = 141
"""Exit status that a shell gives a command which SIGPIPE has ended."""


def printable(text: str, keep: str = "") -> str:
    """Without what a terminal would obey, or could not show, but for the signs in ``keep``: what stands in a run's files may be anything."""
    return "".join(sign if sign.isprintable() or sign in keep else ascii(sign)[1:-1] for sign in text)


def until_cut(main: Callable[[], int | None]) -> int | None:
    """What ``main`` returns, or `CUT`. For sys.exit."""
    try:
        status = main()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        return CUT
