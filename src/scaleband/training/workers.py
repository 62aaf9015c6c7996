"""Inside a worker process: what signals mean there, what it sees of the machine, and that it does not outlive its use.

A terminal sends Ctrl-C, and its end, to every process of its group; whether a training ends is the decision of whoever
started the worker, told by SIGTERM.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

_AT_WORK = threading.Event()
_LOOK_SECONDS = 0.2


def begin(gpu: str | None, threads: int | None) -> None:
    """In a fresh worker, before torch is imported: its signals, which GPU it sees, how many CPU threads it uses."""
    leave_to_the_parent()
    # SIGTERM must unwind the stack, so that a program which the training has started ends too
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_without_parent, name="scaleband-parent", daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(threads)


def leave_to_the_parent() -> None:
    """Do nothing on Ctrl-C and on the terminal's end."""
    for number in (signal.SIGINT, signal.SIGHUP):
        # handled, not ignored: what is ignored stays so in the programs that a training starts; nohup wants just that
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def dask_setup(worker: object) -> None:
    """The same for a Dask worker that we start, whose own answer to Ctrl-C is to end (`preload` calls this there)."""
    leave_to_the_parent()


def work(fn: Callable[..., Any], *args: Any) -> Any:
    """Call a function, a training, in the worker."""
    _AT_WORK.set()
    try:
        return fn(*args)
    finally:
        _AT_WORK.clear()


def _end(*_: object) -> None:
    if _AT_WORK.is_set():
        raise KeyboardInterrupt
    os._exit(0)


def _end_without_parent() -> None:
    """End an idle worker that nobody can give work to; a training that is under way is paid for, and ends first."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    multiprocessing.connection.wait([parent.sentinel])
    while _AT_WORK.is_set():
        time.sleep(_LOOK_SECONDS)
    os._exit(0)
