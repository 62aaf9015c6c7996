"""Which program works in a run's folder: kept by its starter, written down, recognised later, and ended.

A worker that is killed cannot end its program. A keeper beside the program does (`keeper.py`); and the folder holds a
mark of the program, so that a new start there ends what is left of an earlier one. Two programs never share a folder.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scaleband.errors import UserError
from scaleband.training.running import read_small, write_whole

PROGRAM_FILE = "program.json"
POLL_SECONDS = 0.02
_KEEPER = Path(__file__).with_name("keeper.py")
_KILLED_WITHIN = 5.0


def keep(group: int, grace_seconds: float) -> subprocess.Popen[bytes] | None:
    """Start a keeper for a process group; None where no Python can be started. Kill it once the group has ended."""
    try:
        # a session of its own: what ends this process's group must not end the keeper first
        return subprocess.Popen(  # noqa: S603  our own script
            [sys.executable, "-I", "-S", str(_KEEPER), str(group), repr(grace_seconds)], cwd="/",
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError):
        return None


def dismiss(keeper: subprocess.Popen[bytes] | None) -> None:
    """End a keeper without its doing anything."""
    if keeper is not None:
        keeper.kill()
        keeper.communicate()


def mark(folder: Path, pid: int) -> str:
    """Write down that this process leads the group that works in `folder`; gives the mark, "" without /proc."""
    begun = _begun(pid)
    if not begun:
        return ""
    text = json.dumps({"place": _place(), "pid": pid, "begun": begun})
    write_whole(folder / PROGRAM_FILE, text)
    return text


def unmark(folder: Path, own: str) -> bool:
    """Remove one's own mark; False if another start has put its mark there."""
    path = folder / PROGRAM_FILE
    try:
        if own and read_small(path) != own:
            return False
        path.unlink(missing_ok=True)
    except (OSError, UserError):
        pass  # the program emptied its folder
    return True


def end_earlier(folder: Path, grace_seconds: float) -> None:
    """End the program that an earlier start left running in `folder`.

    Only if it is the very process that was written down: on this machine, since this start of it, under this number,
    begun at that time. A number of another machine means nothing here.
    """
    try:
        found = json.loads(read_small(folder / PROGRAM_FILE))
        place, pid, begun = (found[name] for name in ("place", "pid", "begun"))
        if place != _place() or not isinstance(pid, int) or os.getpgid(pid) != pid or pid == os.getpgrp():
            return
    except (OSError, OverflowError, UserError, ValueError, TypeError, KeyError):
        return

    def gone() -> bool:
        return _begun(pid) != begun

    if not gone():
        # first, so that whoever waits for the program knows why it ended and does not try again
        write_whole(folder / PROGRAM_FILE, json.dumps({"place": place, "pid": 0, "begun": ""}))
        end_group(pid, gone, grace_seconds)
        deadline = time.perf_counter() + _KILLED_WITHIN
        while not gone() and time.perf_counter() < deadline:
            time.sleep(POLL_SECONDS)


def end_group(group: int, gone: Callable[[], bool], grace_seconds: float) -> None:
    """SIGTERM to a process group; SIGKILL once its leader is gone, or after the grace period."""
    if not gone() and _signal(group, signal.SIGTERM):
        deadline = time.perf_counter() + grace_seconds
        while not gone() and time.perf_counter() < deadline:
            time.sleep(POLL_SECONDS)
    _signal(group, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> bool:
    """Whether the group was still there."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _begun(pid: int) -> str:
    """When a process began, in the kernel's ticks; "" if it has ended, or there is no /proc."""
    try:
        # the name, in parentheses, may hold anything; after it come the state and 19 further fields
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def _place() -> str:
    """Where and since when process numbers mean what they do here: host, boot, and container."""
    boot, names = "", ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        names = os.readlink("/proc/self/ns/pid")
    except OSError:
        pass
    return f"{socket.gethostname()} {boot} {names}"
