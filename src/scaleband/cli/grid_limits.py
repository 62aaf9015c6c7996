"""Limits of a generated grid of candidate runs: `--sizes`, `--lengths`, `--run-max`, `--batch-max` and their like."""

from __future__ import annotations

import argparse
from typing import Any

from scaleband.cli.arguments import batch, between, count, grid, n_params, n_tokens
from scaleband.cli.verb import UsageError

flops = between(1e9, 1e32, "FLOP", "write a budget such as 5e19")

SHARE_OF_TARGET = 0.1
"""One run of a generated grid costs at most this share of the target run unless --run-max says otherwise."""

_LIMITS = ("sizes", "lengths", "run_max", "batch_multiple", "batch_max", "device_memory")


def add_limits(parser: argparse.ArgumentParser, *, otherwise: str = "") -> None:
    """Flags; `otherwise` ends the help of sizes and lengths: what they are when left out."""
    limits = parser.add_argument_group("without --candidates: a grid inside these limits")
    limits.add_argument("--sizes", type=grid(n_params), metavar="N,N,...", help=f"sizes that exist{otherwise}")
    limits.add_argument("--lengths", type=grid(n_tokens), metavar="D,D,...", help=f"training tokens{otherwise}")
    limits.add_argument("--run-max", type=flops, metavar="FLOPS",
                        help="the most one run may cost; a tenth of the target")  # fmt: skip
    limits.add_argument("--batch-multiple", type=batch, metavar="TOKENS", help="batches are powers of two of it; 65536")
    limits.add_argument("--batch-max", type=batch, metavar="TOKENS", help="the largest batch that fits; 8388608")
    limits.add_argument("--device-memory", type=count, metavar="BYTES",
                        help="memory for 16 bytes a parameter (Adam in mixed precision)")  # fmt: skip


def refuse_limits_of_a_table(asked: argparse.Namespace) -> None:
    """A table of candidates and limits of a grid say two things.

    Raises
    ------
    UsageError
        Both were given.
    """
    if asked.candidates is not None and any(getattr(asked, name) is not None for name in _LIMITS):
        raise UsageError("--candidates says what can be run, so limits of a grid mean nothing; leave one of them out")


def run_max(asked: argparse.Namespace, target_flops: float) -> float:
    """The most that one run may cost, FLOP."""
    return min(asked.budget, SHARE_OF_TARGET * target_flops if asked.run_max is None else asked.run_max)


def of_batch_and_memory(asked: argparse.Namespace) -> dict[str, Any]:
    """Those of `design.Limits` that were given, beside sizes, tokens and the price."""
    out: dict[str, Any] = {}
    if asked.batch_multiple is not None:
        out |= {"batch_multiple": asked.batch_multiple, "batch_min": asked.batch_multiple}
    if asked.batch_max is not None:
        out["batch_max"] = asked.batch_max
    if asked.device_memory is not None:
        out["device_memory_bytes"] = asked.device_memory
    return out
