"""What every adapter promises, as checks that run on yours.

    from scaleband.training import contract

    @pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.name)
    def test_my_adapter(check, tmp_path):
        check(MY_ADAPTER, A_SMALL_SPEC, tmp_path)

or, outside pytest, `contract.outcomes(adapter, spec, folder)`. The specification should complete, in seconds.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleband.training.curves import read_curve
from scaleband.training.executors import local_processes, submit
from scaleband.training.protocol import (
    RESULT_FILE,
    SPEC_FILE,
    STATUSES,
    Adapter,
    RunResult,
    RunSpec,
    result_from_json,
    spec_from_json,
    table_row,
    to_json,
)
from scaleband.training.running import run_one

_SLACK_SECONDS = 0.5
"""What has this little to do may complete under a limit that it had no time to look at."""


class BrokenContract(AssertionError):
    """An adapter broke a promise; the message says which and how."""


@dataclass(frozen=True)
class Check:
    """One promise: call it with an adapter, a specification that completes, and an empty folder.

    Raises `BrokenContract` if the promise is broken.
    """

    name: str
    promise: str
    body: Callable[[Adapter, RunSpec, Path], None]

    def __call__(self, adapter: Adapter, spec: RunSpec, folder: Path) -> None:
        """Check it."""
        try:
            self.body(adapter, spec, Path(folder))
        except BrokenContract as error:
            raise BrokenContract(f"{self.promise} {error}") from None
        except Exception as error:  # whatever an adapter does, it is the adapter's
            raise BrokenContract(f"{self.promise} {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Outcome:
    """What came of one check: `problem` is "" if the promise holds."""

    name: str
    promise: str
    problem: str


def outcomes(adapter: Adapter, spec: RunSpec, folder: Path) -> list[Outcome]:
    """Run every check, each in a folder of its own under `folder`."""
    found = []
    for check in CHECKS:
        place = Path(folder) / check.name
        place.mkdir(parents=True)
        try:
            check(adapter, spec, place)
            problem = ""
        except BrokenContract as error:
            problem = str(error)
        found.append(Outcome(check.name, check.promise, problem))
    return found


def _need(true: bool, otherwise: str) -> None:
    if not true:
        raise BrokenContract(otherwise)


def _completed(adapter: Adapter, spec: RunSpec, folder: Path) -> RunResult:
    result = run_one(adapter, spec, folder)
    _need(
        result.status == "completed",
        f"The run ended {result.status}: {result.reason} {result.log_tail[-500:]}",
    )
    return result


def _facts(adapter: Adapter, spec: RunSpec, folder: Path) -> None:
    result = _completed(adapter, spec, folder / "run")
    _need(result.run_id == spec.run_id, f"It said run_id {result.run_id!r}.")
    _need(result.loss is not None and math.isfinite(result.loss), f"It said loss {result.loss}.")
    _need(result.steps >= 1, f"It said {result.steps} steps.")
    _need(result.flops > 0, f"It said {result.flops} FLOP.")
    _need(bool(result.device), "It named no device.")
    _need(
        abs(result.n_tokens - result.steps * spec.batch_tokens) <= spec.batch_tokens,
        f"{result.steps} steps of {spec.batch_tokens} tokens are not {result.n_tokens} tokens.",
    )
    row = table_row(spec, result)
    _need(row["loss"] == result.loss and row["lr_peak"] == spec.lr_peak, f"The table row became {row}.")


def _files(adapter: Adapter, spec: RunSpec, folder: Path) -> None:
    result = _completed(adapter, spec, folder / "run")
    kept = folder / "run"
    _need(spec_from_json((kept / SPEC_FILE).read_text()) == spec, f"{SPEC_FILE} is another specification.")
    _need(result_from_json((kept / RESULT_FILE).read_text()) == result, f"{RESULT_FILE} is another result.")
    _need(result_from_json(to_json(result)) == result, "The result changes on its way through JSON.")
    if result.curve:
        rows = read_curve(kept / result.curve)
        steps = [row[0] for row in rows]
        _need(steps == sorted(steps), "The curve's steps do not ascend.")
        _need(not steps or steps[-1] <= result.steps, "The curve is longer than the run.")


def _repeats(adapter: Adapter, spec: RunSpec, folder: Path) -> None:
    first, second = (_completed(adapter, spec, folder / name) for name in ("first", "second"))
    # the bits may differ between two runs on one GPU; the loss to six digits may not
    _need(
        math.isclose(first.loss or 0, second.loss or 1, rel_tol=1e-6),
        f"The same specification gave {first.loss} and {second.loss}.",
    )


def _once(adapter: Adapter, spec: RunSpec, folder: Path) -> None:
    first = _completed(adapter, spec, folder / "run")
    before = (folder / "run" / RESULT_FILE).stat().st_mtime_ns
    second = run_one(adapter, spec, folder / "run")
    _need(first == second, "A second start in the same folder gave another result.")
    _need(before == (folder / "run" / RESULT_FILE).stat().st_mtime_ns, "A finished run was trained again.")


def _tidy(adapter: Adapter, spec: RunSpec, folder: Path) -> None:
    before, environment, place = Path.cwd(), dict(os.environ), (folder / "elsewhere").resolve()
    place.mkdir()
    os.chdir(place)
    try:
        result = run_one(adapter, spec, folder.absolute() / "run")
        after = Path.cwd()
    finally:
        os.chdir(before)
    _need(
        result.status == "completed",
        f"From an empty current folder it ended {result.status}: {result.reason} (a worker starts anywhere: name files "
        "by their whole path).",
    )
    _need(after == place, "It changed the working folder.")
    _need(dict(os.environ) == environment, "It changed environment variables.")
    left = sorted(path.name for path in place.iterdir())
    _need(not left, f"It wrote into the current folder: {left}.")
    place.rmdir()
    beside = sorted(path.name for path in folder.iterdir())
    _need(beside == ["run"], f"It wrote beside the run's folder: {beside}.")


def _limit(adapter: Adapter, spec: RunSpec, folder: Path) -> None:
    limits, begun = dataclasses.replace(spec.limits, wall_seconds=0.001), time.perf_counter()
    result = run_one(adapter, dataclasses.replace(spec, limits=limits), folder / "run")
    _need(result.status in STATUSES, f"It ended {result.status}.")
    _need(
        result.status == "completed" or "limit" in result.reason,
        f"It ended {result.status}, and the reason does not speak of the limit: {result.reason}.",
    )
    took = time.perf_counter() - begun
    _need(
        result.status != "completed" or took < _SLACK_SECONDS,
        f"Under a limit of {limits.wall_seconds} s it completed after {took:.2f} s.",
    )


def _depends(adapter: Adapter, spec: RunSpec, folder: Path) -> None:
    first = _completed(adapter, spec, folder / "first")
    # longer, not shorter: a warm-up that is stated in steps has to fit
    changes: list[dict[str, Any]] = [{"lr_peak": spec.lr_peak / 2}, {"n_tokens": 2 * spec.n_tokens}]
    for change in changes:
        (name, value), *_ = change.items()
        other = run_one(adapter, dataclasses.replace(spec, **change), folder / name)
        _need(other.status != "failed", f"With {name} = {value:g} it failed: {other.reason}")
        _need(
            other.loss != first.loss,
            f"The loss is {first.loss} with {name} = {getattr(spec, name):g} and with {name} = {value:g}.",
        )


def _strange_names(adapter: Adapter, spec: RunSpec, folder: Path) -> None:
    for run_id in ("; touch pwned", "$(touch pwned)", "../outside", "-rf", "a\nb"):
        result = run_one(adapter, dataclasses.replace(spec, run_id=run_id), folder / "run")
        _need(result.status == "failed" and "run_id" in result.reason, f"{run_id!r} was run: {result}.")
    _need(not list(folder.rglob("pwned")) and not Path("pwned").exists(), "A run id was executed.")


def _travels(adapter: Adapter, spec: RunSpec, folder: Path) -> None:
    with local_processes(1) as executor:
        away = submit(executor, adapter, spec, folder / "away").result()
    _need(away.status == "completed", f"In another process it ended {away.status}: {away.reason}")
    here = _completed(adapter, spec, folder / "here")
    _need(
        math.isclose(here.loss or 0, away.loss or 1, rel_tol=1e-5),
        f"It gave {here.loss} here and {away.loss} in another process.",
    )


CHECKS = (
    Check("facts", "A completed run states its loss, steps, tokens, device and FLOPs.", _facts),
    Check("files", "Specification, result and curve are files in the run's folder.", _files),
    Check("repeats", "The same specification gives the same loss.", _repeats),
    Check("depends", "The loss is that of the run that was asked for: it depends on rate and tokens.", _depends),
    Check("once", "A finished run is not trained again.", _once),
    Check("tidy", "A run writes into its own folder only.", _tidy),
    Check("limit", "A run that meets its time limit fails and says so.", _limit),
    Check("strange-names", "A run id is never executed, nor a path.", _strange_names),
    Check("travels", "The adapter works in another process.", _travels),
)
"""Every promise, in the order in which they are worth reading."""
