"""What a command prints when its reader has enough (``| head``): the command ends, without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

CUT = 141
"""Exit status that a shell gives a command which SIGPIPE has ended."""


def until_cut(main: Callable[[], int | None]) -> int | None:
    """What ``main`` returns, or `CUT`. For sys.exit."""
    try:
        status = main()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        return CUT
