"""Ctrl-C that nothing can swallow.

A compiler between us and the sampler may drop a KeyboardInterrupt (raised inside a callback of C code, Python only
prints it) and go on with half of its work done. What was interrupted must never be written.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupts() -> Iterator[Callable[[], None]]:
    """Remember an interrupt; the block ends with KeyboardInterrupt if there was one, whatever came of it.

    Yields
    ------
    A function to call now and then, from any thread: it interrupts the main thread anew if the first was swallowed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread may have signal handlers, and only it is interrupted
        return
    caught = False

    def remember(number: int, frame: object) -> None:
        nonlocal caught
        caught = True
        raise KeyboardInterrupt

    def insist() -> None:
        if caught:
            _thread.interrupt_main()

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield insist
    except Exception:
        if caught:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt
