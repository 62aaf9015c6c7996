"""A script beside a training program: ends the program's process group when whoever started it is gone.

It runs on its own (`python -I -S keeper.py GROUP GRACE`), so that no way to end a worker, SIGKILL among them, leaves a
program behind. Its stdin is a pipe that the starter alone holds and never writes to.
"""

import os
import signal
import sys
import time


def end(group: int, grace_seconds: float) -> None:
    """SIGTERM, and after the grace period SIGKILL, to a process group."""
    try:
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)
    except OSError:
        return  # nothing is left of it


if __name__ == "__main__":
    os.read(0, 1)
    end(int(sys.argv[1]), float(sys.argv[2]))
