"""Run one program under limits: its own process group, its output bounded, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaleband.training import groups

TAIL_BYTES = 8_000


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes
    ----------
    code
        Exit code; negative is a signal.
    stopped
        Why it was stopped from here, one sentence; "" if it ended by itself.
    tail
        The last `TAIL_BYTES` that it printed (stdout and stderr together), readable.
    wall_seconds
        How long it ran.
    """

    code: int
    stopped: str
    tail: str
    wall_seconds: float

    @property
    def meaning(self) -> str:
        """The exit code in words."""
        number = -self.code if self.code < 0 else self.code - 128
        if number in signal.valid_signals() and number > 0:
            why = ": the kernel or the scheduler killed it, most often for memory" if number == 9 else ""
            return f"exit code {self.code} (signal {signal.Signals(number).name}{why})"
        return f"exit code {self.code}"


class _Output:
    """Reads a pipe to its end, keeping its size and its tail."""

    def __init__(self, pipe: int) -> None:
        self.size, self.tail = 0, b""
        self.thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self.thread.start()

    def _read(self, pipe: int) -> None:
        try:
            while chunk := os.read(pipe, 1 << 16):
                self.size += len(chunk)
                self.tail = (self.tail + chunk)[-TAIL_BYTES:]
        finally:
            os.close(pipe)


def run_process(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    wall_seconds: float | None,
    output_bytes: int,
    grace_seconds: float,
) -> Ended:
    """Run a program in `folder` and wait for it. It ends with this process, however that ends.

    Parameters
    ----------
    arguments
        The program, looked up on PATH if it holds no "/", and its arguments; no shell is involved.
    folder
        Its working folder.
    environment
        Variables beside the inherited ones.
    wall_seconds, output_bytes
        It is stopped when it runs longer (None: never) or prints more.
    grace_seconds
        Between SIGTERM and SIGKILL, which go to its whole process group.
    """
    begun = time.perf_counter()
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603  an argument list that the user gave, no shell
            list(arguments), cwd=folder, env=os.environ | environment, stdin=subprocess.DEVNULL,
            stdout=writing, stderr=writing, start_new_session=True, close_fds=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        os.close(reading)
        return Ended(127, f"the program {arguments[0]!r} could not be started: {error}", "", 0.0)
    finally:
        os.close(writing)
    output = _Output(reading)
    stopped, mark, keeper = "", "", None
    try:
        keeper = groups.keep(process.pid, grace_seconds)
        mark = groups.mark(folder, process.pid)
        while process.poll() is None:
            if wall_seconds is not None and time.perf_counter() - begun > wall_seconds:
                stopped = f"ran past its limit of {wall_seconds:.3g} s and was stopped"
            elif output.size > output_bytes:
                stopped = f"printed more than its limit of {output_bytes:,} bytes and was stopped"
            if stopped:
                break
            time.sleep(groups.POLL_SECONDS)
    finally:
        # also what the program left running behind itself, and on Ctrl-C here
        groups.end_group(process.pid, lambda: process.poll() is not None, grace_seconds)
        process.wait()
        groups.dismiss(keeper)
        alone = groups.unmark(folder, mark)
    if not alone:
        stopped = "was ended by a later start of the same run in the same folder"
    output.thread.join(timeout=2.0)
    if not stopped and output.size > output_bytes:
        stopped = f"printed more than its limit of {output_bytes:,} bytes"
    tail = output.tail.decode("utf-8", errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return Ended(process.returncode, stopped, tail, time.perf_counter() - begun)
