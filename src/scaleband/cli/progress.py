"""Progress of long work on stderr: a bar on a terminal, a few plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from scaleband.cli.interrupts import interrupts
from scaleband.cli.printing import on_terminal, say

Report = Callable[[str, int, int], None]

STEPS = 5
"""Plain lines per stage at most."""


@contextmanager
def progress(quiet: bool) -> Iterator[Report]:
    """A function (stage, done, total) that shows how far the work is. The sampler calls it from its own thread."""
    if quiet:
        yield lambda stage, done, total: None
    elif on_terminal(sys.stderr):
        with _bar() as report:
            yield report
    else:
        yield _lines()


@contextmanager
def interruptible(quiet: bool) -> Iterator[Report]:
    """`progress` of work that may swallow Ctrl-C: every report insists on one (`interrupts`)."""
    with interrupts() as insist, progress(quiet) as report:

        def each_step(stage: str, done: int, total: int) -> None:
            insist()
            report(stage, done, total)

        yield each_step


def _lines() -> Report:
    said: dict[str, int] = {}
    lock = Lock()

    def report(stage: str, done: int, total: int) -> None:
        step = STEPS * done // max(total, 1)
        with lock:
            if step <= said.get(stage, -1):
                return
            said[stage] = step
        say(f"{stage} ..." if done == 0 else f"{stage}: {100 * done // max(total, 1)} %")

    return report


@contextmanager
def _bar() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=None)
            # A stage of one step (compiling) has no share to show: the bar pulses.
            bars.update(tasks[stage], completed=done, total=total if total > 1 else None)

        yield report
