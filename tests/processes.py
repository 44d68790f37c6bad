"""Other processes, as tests look at them: each of them may end at any moment."""

import psutil


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; empty for one that has ended, whether or not its parent waited for it."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # also of a zombie
        return []
