"""Any training program as an adapter: an argument list with placeholders, never a shell.

The program finds its specification in `{spec}` (JSON), writes its result to `{result}` (JSON, by renaming a whole
file), and exits 0. Every scalar field of the specification is a placeholder too: `{lr_peak}`, `{batch_tokens}`,
`{seed}`, ... and `{steps}`, `{folder}`, and `{shape.NAME}` for each number of the shape.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scaleband.errors import UserError
from scaleband.training.groups import end_earlier
from scaleband.training.processes import Ended, run_process
from scaleband.training.protocol import SPEC_FILE, RunResult, RunSpec, failed, result_from_json
from scaleband.training.running import read_small

COMMAND_RESULT_FILE = "command-result.json"
LOG_FILE = "log-tail.txt"
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([a-z_][A-Za-z0-9_.]*)\}|[{}]")
_SCALARS = tuple(f.name for f in dataclasses.fields(RunSpec) if f.name not in {"shape", "limits"})
_PLACES = ("spec", "result", "folder", "steps")


@dataclass(frozen=True)
class CommandAdapter:
    """Runs a program for each training.

    Attributes
    ----------
    command
        The program and its arguments; `{name}` inside an argument is replaced, `{{` and `}}` are braces.
    environment
        Variables set beside the inherited ones.
    retries
        How often a failed run is started again; one that met its limit is not.
    diverged_exit_code
        An exit code by which the program says that the loss diverged; None: only the result says so.
    grace_seconds
        Between the polite signal and the final one, seconds.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    retries: int = 0
    diverged_exit_code: int | None = None
    grace_seconds: float = 5.0

    def __post_init__(self) -> None:
        if isinstance(self.command, str) or not self.command or not self.command[0]:
            raise UserError("command: a list of a program and its arguments is needed, not one string")
        object.__setattr__(self, "command", tuple(map(str, self.command)))
        problems = [
            f"command: {found.group()!r} in {argument!r} is no placeholder; known: {', '.join(_PLACES + _SCALARS)}, "
            "shape.NAME; a brace is written twice"
            for argument in self.command
            for found in _PLACEHOLDER.finditer(argument)
            if found.group() not in {"{{", "}}"} and not _known(found.group(1))
        ]
        named = {f.group(1) for argument in self.command for f in _PLACEHOLDER.finditer(argument)}
        if not problems and not named & {"spec", "result", "folder"}:
            problems.append(
                f"command: no argument of {self.command[0]!r} names a place for the result; add {{result}} (the "
                "program writes a JSON file there, {\"loss\": 2.71} is enough), or {folder} or {spec} beside it"
            )
        if self.retries < 0:
            problems.append(f"retries = {self.retries}: at least 0 is needed")
        if self.diverged_exit_code == 0:
            problems.append("diverged_exit_code = 0 is what a completed run says")
        if problems:
            raise UserError(problems)

    def arguments(self, spec: RunSpec, folder: Path) -> list[str]:
        """The argument list for one run. Raises UserError if the shape lacks a number that it names."""
        values = {name: _text(getattr(spec, name)) for name in _SCALARS}
        values["n_active"] = _text(spec.active)
        values |= {f"shape.{name}": str(number) for name, number in spec.shape.items()}
        values |= {
            "spec": str(folder / SPEC_FILE),
            "result": str(folder / COMMAND_RESULT_FILE),
            "folder": str(folder),
            "steps": str(spec.steps),
        }

        def value(found: re.Match[str]) -> str:
            if found.group() in {"{{", "}}"}:
                return found.group()[0]
            if found.group(1) not in values:
                raise UserError(f"the command names {found.group()}, which the run's shape does not have")
            return values[found.group(1)]

        filled = [_PLACEHOLDER.sub(value, argument) for argument in self.command]
        if any("\0" in argument for argument in filled):
            raise UserError("an argument of the command would hold a NUL character")
        return filled

    def run(self, spec: RunSpec, folder: Path) -> RunResult:
        """See `Adapter.run`. The program runs inside `folder`."""
        arguments = self.arguments(spec, folder)
        result = failed(spec, "never started")
        begun = time.perf_counter()
        end_earlier(folder, self.grace_seconds)  # of a worker that was lost: it would write the same files
        for attempt in range(1, self.retries + 2):
            left = spec.limits.wall_seconds
            if left is not None:
                left -= time.perf_counter() - begun
                if left <= 0:
                    break
            (folder / COMMAND_RESULT_FILE).unlink(missing_ok=True)
            ended = run_process(
                arguments, folder, dict(self.environment), left, spec.limits.output_bytes, self.grace_seconds
            )
            (folder / LOG_FILE).write_text(ended.tail, encoding="utf-8")
            result = dataclasses.replace(self._judge(spec, folder, ended), attempts=attempt)
            if result.status != "failed" or ended.stopped:
                break
        if result.status == "failed":  # what earlier tries trained was trained too
            result = dataclasses.replace(result, wall_seconds=time.perf_counter() - begun)
        return result

    def _judge(self, spec: RunSpec, folder: Path, ended: Ended) -> RunResult:
        def lost(reason: str) -> RunResult:
            return failed(spec, reason, log_tail=ended.tail, wall_seconds=ended.wall_seconds)

        if ended.stopped:
            return lost(ended.stopped)
        if ended.code == self.diverged_exit_code:
            return RunResult(
                run_id=spec.run_id, status="diverged", wall_seconds=ended.wall_seconds,
                reason=f"the program ended with exit code {ended.code}",
            )  # fmt: skip
        if ended.code != 0:
            return lost(f"the program ended with {ended.meaning}")
        path = folder / COMMAND_RESULT_FILE
        if path.is_symlink() or not path.is_file():
            return lost("the program ended well but wrote no result to the path given as {result}")
        whole = spec.steps * spec.batch_tokens
        try:
            result = result_from_json(
                read_small(path), where="the program's result", run_id=spec.run_id, status="completed",
                wall_seconds=ended.wall_seconds, device="not stated",
            )  # fmt: skip
        except UserError as error:
            return lost(" ".join(error.problems))
        if result.status == "completed":
            steps = result.steps or (round(result.n_tokens / spec.batch_tokens) or spec.steps)
            n_tokens = result.n_tokens or (result.steps * spec.batch_tokens or whole)
            result = dataclasses.replace(
                result,
                steps=steps,
                n_tokens=n_tokens,
                flops=result.flops or 6.0 * (result.n_active or spec.active) * n_tokens,
                tokens_per_second=result.tokens_per_second or n_tokens / max(result.wall_seconds, 1e-9),
            )
        return result


def _known(name: str | None) -> bool:
    return name is not None and (name in _PLACES or name in _SCALARS or name.startswith("shape."))


def _text(value: object) -> str:
    return "" if value is None else str(value)
