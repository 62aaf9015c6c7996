"""Do one training in its own folder, whatever happens: the result is written down and never an exception."""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaleband.errors import UserError
from scaleband.training.protocol import (
    JSON_BYTES_AT_MOST,
    RESULT_FILE,
    SAFE_RUN_ID,
    SPEC_FILE,
    Adapter,
    Limits,
    RunResult,
    RunSpec,
    failed,
    result_from_json,
    spec_from_json,
    to_json,
)


def run_one(adapter: Adapter, spec: RunSpec, folder: str | Path) -> RunResult:
    """Run one training and keep its specification and result beside each other.

    A folder that already holds a completed or diverged result of the very same specification, limits apart, is not
    trained again: a task that an engine starts twice ends once. A failed one is tried again.

    Parameters
    ----------
    adapter
        What trains.
    spec
        What to train.
    folder
        This run's own; made if absent.

    Returns
    -------
    The result. A failed training, an exception in the adapter and a result that contradicts itself are all
    `status = "failed"` with a reason; only Ctrl-C passes through.
    """
    folder = Path(folder).absolute()
    started = time.perf_counter()
    try:
        if unsafe := unsafe_id(spec):
            return failed(spec, unsafe)
        folder.mkdir(parents=True, exist_ok=True)
        earlier = finished(spec, folder)
        if earlier is not None:
            return earlier
        write_whole(folder / SPEC_FILE, to_json(spec))
        (folder / RESULT_FILE).unlink(missing_ok=True)
        result = adapter.run(spec, folder)
        reason = contradiction(spec, result, folder)
        if reason:
            result = failed(spec, reason)
    except (Exception, SystemExit) as error:
        result = failed(
            spec,
            reason_for(error),
            log_tail=traceback.format_exc()[-4000:],
            wall_seconds=time.perf_counter() - started,
        )
    return kept(spec, result, folder)


def kept(spec: RunSpec, result: RunResult, folder: Path) -> RunResult:
    """Write a result into the run's folder; the result, or the failure to write it."""
    try:
        write_whole(folder / RESULT_FILE, to_json(result))
    except OSError as error:
        return failed(spec, f"the result could not be written into {folder.name}: {error.strerror or error}")
    return result


def unsafe_id(spec: RunSpec) -> str:
    """Why a run cannot have this name; "" if it can."""
    if SAFE_RUN_ID.fullmatch(spec.run_id):
        return ""
    return (
        f"run_id {spec.run_id!r:.160} cannot name a folder or an argument; use letters, digits and _.,=+@%- "
        "(at most 150, starting with a letter, a digit or _)"
    )


def finished(spec: RunSpec, folder: Path) -> RunResult | None:
    """The completed or diverged result of this very specification, limits apart, in `folder`, if there is one."""
    try:
        # a training that ended is the same whatever it was allowed to use
        made = spec_from_json(read_small(folder / SPEC_FILE))
        if replace(made, limits=Limits()) != replace(spec, limits=Limits()):
            return None
        result = result_from_json(read_small(folder / RESULT_FILE))
    except (OSError, UserError):
        return None
    return result if result.status != "failed" and result.run_id == spec.run_id else None


def contradiction(spec: RunSpec, result: Any, folder: Path) -> str:
    """What is wrong with a result that an adapter gave; "" if nothing is."""
    if not isinstance(result, RunResult):
        return f"the adapter gave a {type(result).__name__}, not a RunResult"
    if result.run_id != spec.run_id:
        return f"the result is of another run: run_id {result.run_id!r:.160}"
    if result.status == "completed" and abs(result.n_tokens - spec.n_tokens) > max(
        spec.batch_tokens, 0.01 * spec.n_tokens
    ):
        return f"the result says completed after {result.n_tokens} tokens; asked: {spec.n_tokens}, to a step or 1 %"
    return outside(result.curve, folder)


def outside(name: str, folder: Path) -> str:
    """Why a file that a result names cannot be taken: it is not inside the run's folder, or not there."""
    if not name:
        return ""
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            return f"the result names {name!r:.160}, a file outside the run's folder"
        if not path.is_file():
            return f"the result names {name!r:.160}, which is not a file in the run's folder"
    except (OSError, ValueError, RuntimeError) as error:
        return f"the result names {name!r:.160}, which cannot be looked at: {error}"
    return ""


def reason_for(error: BaseException) -> str:
    """One sentence for an exception; running out of memory is named as such."""
    text = " ".join(str(error).split())
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if memory or "DefaultCPUAllocator" in text:
        return f"out of memory: {text[:300] or type(error).__name__}; a smaller micro-batch may fit"
    if isinstance(error, UserError):
        return text[:1000]
    return f"{type(error).__name__}: {text[:500]}"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever reads half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_small(path: Path) -> str:
    """The text of a JSON file, refused when it is larger than any specification or result is."""
    with path.open("rb") as file:
        found = file.read(JSON_BYTES_AT_MOST + 1)
    if len(found) > JSON_BYTES_AT_MOST:
        raise UserError(f"{path.name} is larger than {JSON_BYTES_AT_MOST:,} bytes")
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not text in UTF-8 ({error.reason})") from None
