"""The training loop: what can be trained, checkpoints, limits, the held-out loss; one run or a stack of them.

A stack is several runs of one shape and one batch size, with other rates and seeds: the state of every run is a
row, and a run's losses are those it would have alone.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scaleband.errors import UserError
from scaleband.training.conventions import SEQ_LEN, convention_problems
from scaleband.training.curves import write_curve
from scaleband.training.protocol import Limits, RunResult, RunSpec, failed, to_json
from scaleband.training.shapes import Shape, count, layout, shape_for
from scaleband.training.shares import SharedSteps, steps_of
from scaleband.training.steps import State, Steps, fresh, own_stream, why_lost
from scaleband.training.tokens import TokenData, fingerprint, held_out, known
from scaleband.training.transformer import losses, views

CHECKPOINT_FILE = "checkpoint.pt"
CHUNK_SECONDS = 0.5  # between two looks at the clock on a GPU, about


@dataclass(frozen=True)
class Settings:
    """How to train, apart from what: none of this should move the loss beyond rounding.

    Attributes
    ----------
    device
        "cpu", "cuda", "cuda:1", ...; "" takes a GPU if there is one.
    precision
        "float32" or "bfloat16", of the matrix products; parameters and optimizer stay in float32.
    micro_tokens
        Tokens of one forward pass, over all runs of a stack; a larger batch is accumulated.
    compile
        Whether to use torch.compile (needs a C++ compiler on a CPU).
    validation_sequences
        Held-out sequences of the final loss.
    checkpoint_seconds
        Time between checkpoints, seconds; 0 is after every step, infinity only when a limit is met.
    curve_points
        Points of the loss curve, about.
    graph
        Whether a GPU replays a recorded step (a CUDA graph), instead of being sent each operation again. Where a step
        cannot be recorded (a mixture of experts in float32) it is not.
    """

    device: str = ""
    precision: str = "float32"
    micro_tokens: int = 65_536
    compile: bool = False
    validation_sequences: int = 256
    checkpoint_seconds: float = 60.0
    curve_points: int = 100
    graph: bool = True

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"precision = {self.precision!r} is neither float32 nor bfloat16")


@dataclass(frozen=True)
class Checkpoint:
    """The file of a training's state, and the training that it belongs to."""

    path: Path
    key: str

    def save(self, state: State) -> None:
        """Write it whole, or leave the one before."""
        part = self.path.with_name(f".{self.path.name}")
        torch.save({"key": self.key, **{f.name: getattr(state, f.name) for f in dataclasses.fields(state)}}, part)
        part.replace(self.path)

    def resumed(self, device: torch.device) -> State | None:
        """The state, if a checkpoint of this very training is there; one that cannot be read is passed over."""
        try:
            # weights_only: tensors and plain values, never code
            found: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
            return State(**found) if found.pop("key", None) == self.key else None
        except Exception:  # absent, half written, of another version, or not a checkpoint: all mean to begin anew
            return None


def _key(specs: Sequence[RunSpec], data: Sequence[TokenData], shape: Shape) -> str:
    """What a checkpoint belongs to: these runs whatever their limits, these tokens, parameters that lie like this."""
    runs = [to_json(dataclasses.replace(spec, limits=Limits())) for spec in specs]
    return "".join([*runs, *map(fingerprint, data), str(layout(shape))])


def train(
    specs: Sequence[RunSpec],
    data: Sequence[TokenData],
    settings: Settings,
    folder: Path,
    run_folders: Sequence[Path],
) -> list[RunResult]:
    """Train one specification, or a stack of them as one program.

    Parameters
    ----------
    specs
        One, or several that differ only in `run_id`, `seed`, `data` and what concerns the rate.
    data
        Where the tokens of each come from.
    settings
        See `Settings`.
    folder
        Holds the checkpoint; a training that finds its own one there goes on from it.
    run_folders
        Where each run's loss curve goes.

    Returns
    -------
    A result per specification.

    Raises
    ------
    UserError
        The specifications cannot be trained, or not together.
    """
    first = specs[0]
    shape = shape_for(first.arch, first.n_params, data[0].vocab_size, dict(first.shape))
    seq_len = _checked(specs, data, first.seq_len or SEQ_LEN)
    for tokens in {id(each): each for each in data}.values():  # now, and not when all is trained
        known(held_out(tokens.validation, settings.validation_sequences, seq_len), shape.vocab_size)
    device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    checkpoint = Checkpoint(folder / CHECKPOINT_FILE, _key(specs, data, shape))
    limit = min((s.limits.wall_seconds for s in specs if s.limits.wall_seconds is not None), default=math.inf)
    with own_stream(device):
        state = checkpoint.resumed(device) or fresh(shape, specs, device)
        micro = max(1, min(first.batch_tokens, settings.micro_tokens // len(specs)) // seq_len)
        before = state.step, state.seconds
        with steps_of(
            state, shape, specs, data, seq_len, micro=micro, dtype=dtype, compiled=settings.compile,
            recorded=settings.graph,
        ) as steps:  # fmt: skip
            ended = _to_the_end(steps, state, first.steps, settings, checkpoint, limit)
        if not ended:
            return [_stopped(spec, state, r, before, limit, shape, device) for r, spec in enumerate(specs)]
        found = validation(state.weights, shape, data, settings, seq_len, dtype)
        results = [
            _result(spec, state, r, found[r], shape, device, run_folders[r]) for r, spec in enumerate(specs)
        ]  # fmt: skip
    checkpoint.path.unlink(missing_ok=True)
    return results


def _to_the_end(
    steps: Steps | SharedSteps, state: State, total: int, settings: Settings, checkpoint: Checkpoint, limit: float
) -> bool:
    """Train until `total` steps are done or every run has diverged; False where `limit` seconds came first."""
    keep_every = max(1, total // settings.curve_points)
    longest = steps.longest if settings.checkpoint_seconds else 1
    chunk, begun, before = 1, time.perf_counter(), state.seconds
    saved = now = begun
    while state.step < total and bool(state.alive.any()):
        done, looked = state.step, now
        reached = zip(*steps.advance(min(chunk, total - done)), strict=True)
        for step, (loss, rates) in enumerate(reached, done + 1):
            if step % keep_every == 0 or step == total:
                state.curve.append([step, *loss, *rates])
        now = time.perf_counter()
        chunk = min(2 * chunk, longest) if now - looked < CHUNK_SECONDS else max(1, chunk // 2)
        state.seconds = before + now - begun
        out_of_time = now - begun > limit  # of this start: one that goes on has all of it again
        if out_of_time or now - saved > settings.checkpoint_seconds:
            checkpoint.save(state)
            saved = now
        if out_of_time and state.step < total:
            return False
    return True


def _stopped(
    spec: RunSpec, state: State, row: int, before: tuple[int, float], limit: float, shape: Shape, device: torch.device
) -> RunResult:
    """A run that its limit stopped. It says what this start has trained, since `before`: earlier ones said theirs."""
    steps = max(0, min(state.step, int(state.ended[row])) - before[0])
    n_tokens = steps * spec.batch_tokens
    return failed(
        spec, f"ran past its limit of {limit:g} s at step {state.step} of {spec.steps}; start it again to go on",
        steps=steps, n_tokens=n_tokens, flops=6.0 * count(shape).n_active * n_tokens,
        wall_seconds=(state.seconds - before[1]) / len(state.alive), device=str(device),
    )  # fmt: skip


def validation(
    weights: Tensor,
    shape: Shape,
    data: Sequence[TokenData],
    settings: Settings,
    seq_len: int,
    dtype: torch.dtype,
) -> list[tuple[float, float]]:
    """Held-out loss and its standard error for each run, nats per token.

    The error is that of a mean over sequences, which are apart from each other in the text; runs of one data
    folder share the sequences, so between them a good part of it cancels.
    """
    sets = [held_out(each.validation, settings.validation_sequences, seq_len) for each in data]
    longest = max(map(len, sets))
    # a short set is filled up by going round, and only its own first sequences count
    filled = [np.resize(found, (longest, *found.shape[1:])) for found in sets]
    rows = torch.from_numpy(np.stack(filled)).to(weights.device)
    parts = []
    with torch.no_grad():
        for part in rows.split(max(1, settings.micro_tokens // (seq_len * len(weights))), 1):
            parts.append(losses(views(weights, shape), shape, part, dtype)[0])
    found = []
    for row, own in zip(torch.cat(parts, 1).double(), sets, strict=True):
        each = row[: len(own)]
        found.append((float(each.mean()), float(each.std()) / math.sqrt(len(own)) if len(own) > 1 else 0.0))
    return found


def _checked(specs: Sequence[RunSpec], data: Sequence[TokenData], seq_len: int) -> int:
    """The sequence length, after everything that the data or the other runs could forbid."""
    first, problems = specs[0], []
    own = {"run_id", "seed", "data", "lr_peak", "lr_final", "limits", "trunk"}
    for spec in specs[1:]:
        problems += [
            f"{spec.run_id}: {f.name} is not that of {first.run_id}; a stack shares all but {', '.join(sorted(own))}"
            for f in dataclasses.fields(spec)
            if f.name not in own and getattr(spec, f.name) != getattr(first, f.name)
        ]
    if first.batch_tokens % seq_len:
        problems.append(
            f"batch_tokens = {first.batch_tokens} is not a whole number of sequences of seq_len = {seq_len}"
        )
    for spec, tokens in zip(specs, data, strict=True):
        problems += [
            f"the {name} text has {len(part)} tokens, fewer than two sequences of seq_len = {seq_len}; give more text"
            for name, part in (("training", tokens.train), ("validation", tokens.validation))
            if len(part) <= 2 * seq_len
        ]
        problems += convention_problems(spec, tokens.tokenizer)
    if len({(tokens.vocab_size, tokens.merges or tokens.tokenizer) for tokens in data}) > 1:
        problems.append("the data folders of a stack were cut by different tokenizers; train them apart, "
                        "or cut the texts alike: write_tokens(..., like=FOLDER)")  # fmt: skip
    problems = list(dict.fromkeys(problems))
    if problems:
        raise UserError(problems)
    return seq_len


def _result(
    spec: RunSpec,
    state: State,
    row: int,
    loss: tuple[float, float],
    shape: Shape,
    device: torch.device,
    folder: Path,
) -> RunResult:
    sizes, runs = count(shape), len(state.alive)
    steps = int(state.ended[row])
    points = [
        (p[0], p[0] * spec.batch_tokens, p[1 + row], p[1 + runs + row])
        for p in state.curve
        if p[0] <= steps and math.isfinite(p[1 + row])
    ]
    alive = bool(state.alive[row]) and math.isfinite(loss[0])
    n_tokens = steps * spec.batch_tokens
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    why = "" if alive else "the held-out loss was not finite"
    if not state.alive[row]:
        why = why_lost(state, row, math.log(shape.vocab_size))
    return RunResult(
        run_id=spec.run_id,
        status="completed" if alive else "diverged",
        loss=loss[0] if alive else None,
        loss_se=loss[1] if alive else 0.0,
        loss_se_shared=True,
        n_tokens=n_tokens,
        steps=steps,
        wall_seconds=state.seconds / runs,  # a stack's time is shared out evenly
        tokens_per_second=n_tokens * runs / max(state.seconds, 1e-9),
        device=f"{name}, {runs} runs at once" if runs > 1 else name,
        flops=6.0 * sizes.n_active * n_tokens,
        curve=write_curve(folder, points),
        reason=why and f"{why}, at step {steps} of {spec.steps}",
        n_params=sizes.n_params,
        n_active=sizes.n_active,
    )
