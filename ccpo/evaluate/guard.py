"""Runs a command that ends with its parent, however that ends: python guard.py COMMAND...

The parent holds the other end of this process's standard input and never writes to it. When it closes, because the parent says so or was
killed, the command and everything that it has started get SIGTERM, and after `GRACE_S` seconds SIGKILL. Imports nothing of ccpo.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0


def end(process: subprocess.Popen) -> None:
    """End the command's whole process group."""
    for number, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 1.0)):
        try:
            os.killpg(process.pid, number)
            until = time.monotonic() + patience
            while time.monotonic() < until:
                process.poll()  # a leader that has ended stays in its group until it is waited for
                os.killpg(process.pid, 0)
                time.sleep(0.05)
        except (ProcessLookupError, PermissionError):
            return


def main(command: list[str]) -> int:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def watch() -> None:
        while os.read(0, 1024):
            pass
        end(process)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: end(process))
    threading.Thread(target=watch, daemon=True).start()
    status = process.wait()
    end(process)  # what it has left behind
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
