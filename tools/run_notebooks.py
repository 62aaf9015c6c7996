"""Run every notebook from start to end in this environment, and fail on the first cell of each that raises.

The committed files are left alone. Warnings and other stderr of the cells are printed, since a reader would
see them too. `python tools/run_notebooks.py --write out/notebooks` keeps the executed copies.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]


def run(path: Path, *, seconds: float, write_to: Path | None) -> str | None:
    """Execute one notebook in its own folder; the reason why it failed, or None."""
    notebook = nbformat.read(path, as_version=4)
    end = time.monotonic() + seconds
    client = NotebookClient(
        notebook,
        kernel_name="python3",  # whatever the file says: this environment's kernel
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR", "--InteractiveShell.colors=nocolor"],
        timeout_func=lambda cell: max(1, int(end - time.monotonic())),  # one limit for the whole notebook
    )
    reason = None
    try:
        client.execute()
    except CellExecutionError as error:
        reason = str(error)
    except CellTimeoutError:
        reason = f"not finished after {seconds:.0f} s; raise --timeout or make the notebook smaller"
    except DeadKernelError:
        reason = "the kernel died (out of memory?)"
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                print(f"  {path.name}, cell {number}, stderr:\n{output['text'].rstrip()}")
    if write_to is not None:
        write_to.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, write_to / path.name)
    return reason


def timed(path: Path, *, seconds: float, write_to: Path | None) -> str | None:
    """`run`, and a line when it begins and one when it ends."""
    print(f"{path.name} ...", flush=True)
    start = time.monotonic()
    reason = run(path, seconds=seconds, write_to=write_to)
    print(f"{path.name} {'FAILED' if reason else 'ok'} in {time.monotonic() - start:.0f} s", flush=True)
    return reason


def main() -> int:
    """Run them all; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="keep the executed copies there")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for each notebook")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at a time; compiling leaves a core idle")
    arguments = parser.parse_args()

    paths = [path.resolve() for path in arguments.notebooks] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if not paths:
        print("no notebooks found in notebooks/")
        return 0
    with tempfile.TemporaryDirectory(prefix="scaleband-ipython-") as folder:
        os.environ["IPYTHONDIR"] = folder  # nobody's start-up files
        os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
        with ThreadPoolExecutor(arguments.jobs) as pool:
            run_one = partial(timed, seconds=arguments.timeout, write_to=arguments.write)
            failures = {p.name: reason for p, reason in zip(paths, pool.map(run_one, paths), strict=True) if reason}
    for name, reason in failures.items():
        print(f"\n{name}: {reason}", file=sys.stderr)
    print(f"notebooks: {len(paths) - len(failures)} ran, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
