"""What goes into a training and what comes back: two frozen values, as JSON, checked on the way in and out.

Any code that turns a `RunSpec` into a `RunResult` is an adapter. Both are plain JSON objects with a `format`
number, so that a training written in another language can read the one and write the other.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from scaleband.errors import UserError

FORMAT = 1
STATUSES = ("completed", "diverged", "failed")
SPEC_FILE, RESULT_FILE, CURVE_FILE = "spec.json", "result.json", "curve.csv"
CURVE_COLUMNS = ("step", "n_tokens", "loss", "lr")
JSON_BYTES_AT_MOST = 1 << 20

#: A run id becomes a folder name and an argument of a command: it may start no option and leave no folder.
SAFE_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,=+@%-]{0,149}")


@dataclass(frozen=True)
class Limits:
    """What one training may use.

    Attributes
    ----------
    wall_seconds
        Longest time, seconds, > 0; None is no limit. Of one start: a training that goes on where an earlier one was
        stopped has all of it again.
    output_bytes
        What it may print before it is stopped, bytes, > 0.
    """

    wall_seconds: float | None = None
    output_bytes: int = 256 * 1024 * 1024


@dataclass(frozen=True)
class RunSpec:
    """One training to do: the inputs of a run-table row, a shape, and limits.

    Attributes
    ----------
    run_id
        Names the run; see `SAFE_RUN_ID` for what an adapter will run.
    n_params, n_active
        Non-embedding parameters, total and used per token (None: the same), counts.
    n_tokens, batch_tokens, seq_len
        Training tokens, tokens per optimizer step, tokens per sequence (None: the adapter's own).
    lr_peak
        Peak learning rate, > 0.
    source, arch, data
        The group.
    seed
        Whole number >= 0.
    trunk, schedule, lr_final, warmup, optimizer, weight_decay, tokenizer, loss_kind, n_params_kind
        The table's conventions, as text; "" leaves it to the adapter.
    shape
        Whole numbers an adapter may need (`n_layers`, `d_model`, ...); empty: the adapter's own rule.
    limits
        What it may use.
    """

    run_id: str
    n_params: int
    n_tokens: int
    lr_peak: float
    batch_tokens: int
    n_active: int | None = None
    seq_len: int | None = None
    source: str = "own"
    arch: str = "dense"
    data: str = "unknown"
    seed: int = 0
    trunk: str = ""
    schedule: str = ""
    lr_final: str = ""
    warmup: str = ""
    optimizer: str = ""
    weight_decay: str = ""
    tokenizer: str = ""
    loss_kind: str = ""
    n_params_kind: str = ""
    shape: Mapping[str, int] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        problems = [*_type_problems(self), *_spec_problems(self)]
        if problems:
            raise UserError(problems)

    @property
    def active(self) -> int:
        """Parameters used per token."""
        return self.n_params if self.n_active is None else self.n_active

    @property
    def steps(self) -> int:
        """Whole optimizer steps nearest to `n_tokens`, at least one."""
        return max(1, round(self.n_tokens / self.batch_tokens))


@dataclass(frozen=True)
class RunResult:
    """What came of one training.

    Attributes
    ----------
    run_id, status
        Whose result; one of `STATUSES`.
    loss, loss_se
        Final loss and its standard error, nats per token. A loss is there if and only if the run completed;
        a diverged run may give the last one it saw.
    n_tokens, steps
        What was really trained.
    wall_seconds, tokens_per_second
        Time in training, seconds, and its rate.
    device, flops
        What it ran on; FLOP (6 * active parameters * tokens unless the adapter counts better).
    curve
        Name of the loss curve's file inside the run's folder (CSV with `CURVE_COLUMNS`), "" if none.
    reason
        Why it failed or diverged, one sentence; "" if completed.
    log_tail
        The end of what it printed, if it failed.
    attempts
        How often it was tried.
    n_params, n_active
        What was really built, where that differs from what was asked; None: as asked.
    loss_se_shared
        Whether `loss_se` comes from held-out text that all runs of this data share: then it cancels between them,
        and is no noise of a run.
    """

    run_id: str
    status: str
    loss: float | None = None
    loss_se: float = 0.0
    n_tokens: int = 0
    steps: int = 0
    wall_seconds: float = 0.0
    tokens_per_second: float = 0.0
    device: str = ""
    flops: float = 0.0
    curve: str = ""
    reason: str = ""
    log_tail: str = ""
    attempts: int = 1
    n_params: int | None = None
    n_active: int | None = None
    loss_se_shared: bool = False

    @property
    def own_loss_se(self) -> float:
        """The standard error that a comparison of runs has to count, nats per token."""
        return 0.0 if self.loss_se_shared else self.loss_se

    def __post_init__(self) -> None:
        problems = [*_type_problems(self), *_result_problems(self)]
        if problems:
            raise UserError(problems)


@runtime_checkable
class Adapter(Protocol):
    """Turns a specification into a result.

    An adapter is a small value that survives the trip to another process (a frozen dataclass of plain values).
    It writes only under `folder`, which exists, holds `spec.json` and belongs to this run alone, and it may raise:
    `run_one` turns that into a failed result.
    """

    def run(self, spec: RunSpec, folder: Path) -> RunResult:
        """Do the training described by `spec` inside `folder`."""
        ...


def failed(spec: RunSpec, reason: str, **known: Any) -> RunResult:
    """A failed result with its reason; `known` are further fields."""
    return RunResult(run_id=spec.run_id, status="failed", reason=reason, **known)


def table_row(spec: RunSpec, result: RunResult) -> dict[str, Any]:
    """The run-table row of a finished training: what was asked, overwritten by what was really done.

    Columns of the run table plus `steps, wall_seconds, tokens_per_second, device, reason, validation_se`; None is a
    missing value. An error that the runs share is in `validation_se` and not in `loss_se`. Tokens stay as asked where
    whole steps came within 1 % of them, so that the batches of one cell remain in one cell; a run that stopped early
    keeps the cell it was meant for.
    """
    row = {
        f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name not in {"shape", "limits"}
    }
    row["n_active"] = spec.active
    row |= {
        "status": result.status, "loss": result.loss, "loss_se": result.own_loss_se,
        "steps": result.steps, "wall_seconds": result.wall_seconds,
        "tokens_per_second": result.tokens_per_second, "device": result.device, "reason": result.reason,
        "validation_se": result.loss_se,
    }  # fmt: skip
    if result.status == "completed" and abs(result.n_tokens - spec.n_tokens) > 0.01 * spec.n_tokens:
        row["n_tokens"] = result.n_tokens
    if result.n_params is not None:
        row["n_params"] = row["n_active"] = result.n_params
    if result.n_active is not None:
        row["n_active"] = result.n_active
    # a table's cost of a run that stopped early is still what the whole run is priced at, unless it is known
    row["flops"] = result.flops or 6.0 * row["n_active"] * row["n_tokens"]
    return row


def to_json(value: RunSpec | RunResult) -> str:
    """A specification or a result as JSON text with its `format` number."""
    return json.dumps({"format": FORMAT, **dataclasses.asdict(value)}, indent=1, allow_nan=False) + "\n"


def spec_from_json(text: str, *, where: str = "the specification") -> RunSpec:
    """Read a specification; every problem at once, `where` names the place. Raises UserError."""
    fields = _object(text, where)
    if isinstance(fields.get("limits"), dict):
        try:
            fields["limits"] = _build(Limits, fields["limits"], f"{where}, limits")
        except TypeError as error:
            raise UserError(f"{where}: {error}") from None
    return _build(RunSpec, fields, where)


def result_from_json(text: str, *, where: str = "the result", **known: Any) -> RunResult:
    """Read a result; `known` fills in fields that the text leaves out. Raises UserError."""
    return _build(RunResult, known | _object(text, where), where)


def _object(text: str, where: str) -> dict[str, Any]:
    """The fields of a JSON object; NaN, infinities, repeated names and other formats are refused."""

    def refuse(name: str) -> None:
        raise UserError(f"{where}: {name} is not a number JSON knows; a diverged run says status = diverged")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise UserError(f"{where}: a name is given twice ({max(names, key=names.count)})")
        return dict(pairs)

    try:
        found = json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where}: not whole JSON ({error}); write it to another name, then rename") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: a JSON object is needed, not {type(found).__name__}")
    version = found.pop("format", FORMAT)
    if version != FORMAT:
        raise UserError(f"{where}: format {version!r} is not known; this version reads {FORMAT}")
    return found


def _build[Value: (RunSpec, RunResult, Limits)](
    kind: type[Value], fields: dict[str, Any], where: str
) -> Value:
    known = {f.name: f for f in dataclasses.fields(kind)}
    problems = [
        f"{where}: {name!r} is not a field; known: {', '.join(known)}" for name in fields.keys() - known
    ]
    problems += [
        f"{where}: {name} is missing"
        for name, f in known.items()
        if name not in fields
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if problems:
        raise UserError(sorted(problems))
    whole: dict[str, Any] = {
        name: int(value)  # 1e6 is a whole number in everybody's JSON but Python's
        if isinstance(value, float) and value.is_integer() and "int" in str(known[name].type)
        else value
        for name, value in fields.items()
    }
    try:
        return kind(**whole)
    except UserError as error:
        raise UserError([f"{where}: {problem}" for problem in error.problems]) from None


def _type_problems(value: Any) -> list[str]:
    """Fields whose value is not of the type that the class states."""
    problems = []
    for name, stated in typing.get_type_hints(type(value)).items():
        options = typing.get_args(stated) if isinstance(stated, types.UnionType) else (stated,)
        kinds = tuple(typing.get_origin(option) or option for option in options)
        found = getattr(value, name)
        fits = isinstance(found, kinds) or (float in kinds and isinstance(found, int))
        if not fits or (isinstance(found, bool) and bool not in kinds):
            wanted = " or ".join("nothing" if k is type(None) else k.__name__ for k in kinds)
            problems.append(f"{name} = {found!r:.60}: a value of type {wanted} is needed")
    return problems


def _beyond(value: Any, names: str, *, positive: bool) -> list[str]:
    """Numbers among the named fields that are not finite, or not above (not below) zero."""
    found = []
    for name in names.split():
        number = getattr(value, name)
        if isinstance(number, int | float) and not (
            math.isfinite(number) and (number > 0 if positive else number >= 0)
        ):
            found.append(
                f"{name} = {number}: a finite number {'above' if positive else 'of at least'} 0 is needed"
            )
    return found


def _spec_problems(spec: RunSpec) -> list[str]:
    problems = _beyond(spec, "n_params n_active n_tokens seq_len lr_peak batch_tokens", positive=True)
    problems += _beyond(spec, "seed", positive=False)
    if isinstance(spec.limits, Limits):
        problems += [
            *_type_problems(spec.limits),
            *_beyond(spec.limits, "wall_seconds output_bytes", positive=True),
        ]
    if spec.run_id == "":
        problems.append("run_id is empty; give every run a name of its own")
    if isinstance(spec.shape, Mapping):
        problems += [
            f"shape.{name} = {number!r}: a whole number of at least 0 is needed"
            for name, number in spec.shape.items()
            if not isinstance(number, int) or isinstance(number, bool) or number < 0
        ]
    if problems:
        return problems
    if spec.active > spec.n_params:
        problems.append(f"n_active = {spec.n_active} is above n_params = {spec.n_params}")
    if spec.batch_tokens > spec.n_tokens:
        problems.append(
            f"batch_tokens = {spec.batch_tokens} is above n_tokens = {spec.n_tokens}: not one step"
        )
    if spec.seq_len is not None and spec.batch_tokens < spec.seq_len:
        problems.append(
            f"batch_tokens = {spec.batch_tokens} is below seq_len = {spec.seq_len}; multiply by seq_len if it "
            "counts sequences"
        )
    return problems


def _result_problems(result: RunResult) -> list[str]:
    problems = _beyond(result, "loss_se n_tokens steps wall_seconds tokens_per_second flops", positive=False)
    problems += _beyond(result, "attempts n_params n_active", positive=True)
    if result.status not in STATUSES:
        problems.append(f"status = {result.status!r} is not one of {', '.join(STATUSES)}")
    if isinstance(result.loss, int | float) and not math.isfinite(result.loss):
        problems.append(f"loss = {result.loss} is not finite; a diverged run says status = diverged")
    elif result.status == "completed" and isinstance(result.loss, int | float) and result.loss <= 0:
        problems.append(f"loss = {result.loss}: a loss in nats per token is above 0")
    if result.status == "completed" and result.loss is None:
        problems.append("loss is missing, though the run completed")
    if result.status == "failed" and not result.reason:
        problems.append("reason is missing, though the run failed; say why in one sentence")
    return problems
