"""One at a time, across processes: a file lock beside an SQLite file, an advisory lock in PostgreSQL.

Both are held by a connection of the process and end with it: a process that is killed leaves no lock behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_IN_PROCESS: dict[str, threading.RLock] = {}
_GUARD = threading.Lock()


def _thread_lock(key: str) -> threading.RLock:
    with _GUARD:
        return _IN_PROCESS.setdefault(key, threading.RLock())


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, a file that holds nothing and is never removed."""
    with _thread_lock(str(path)):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)  # lets go of the lock


@contextmanager
def advisory_lock(engine: Any, name: str) -> Iterator[None]:
    """Hold PostgreSQL's session lock of this name."""
    import sqlalchemy

    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    with _thread_lock(name), engine.connect() as connection:
        held = connection.execution_options(isolation_level="AUTOCOMMIT")
        held.execute(sqlalchemy.text("select pg_advisory_lock(:key)"), {"key": key})
        try:
            yield
        finally:
            # a pooled connection lives on, so the lock is let go by hand
            held.execute(sqlalchemy.text("select pg_advisory_unlock(:key)"), {"key": key})
