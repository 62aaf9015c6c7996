"""Warnings about numbers that were given as flags: probable slips of units, and batches far from the best one."""

from __future__ import annotations

import math
from collections.abc import Iterable

from scaleband.cli.printing import say
from scaleband.slips import (
    HIGHEST_RATE,
    MOST_SEQUENCES,
    SEQUENCES,
    SEQUENCES_REMEDY,
    TOO_HIGH,
    TOO_HIGH_REMEDY,
)

FAR_FROM_BEST = 2.0
"""E-folds from the best batch beyond which a basin, fitted near its optimum, is stretched (assumption)."""


def doubt_batch(flag: str, given: float | Iterable[float] | None, best: float = math.inf) -> None:
    """Say if the batch of a flag, or one of several, looks like sequences; not where so few tokens are the best."""
    low = [v for v in _listed(given) if v <= MOST_SEQUENCES < best]
    if low:
        say(f"warning: {flag}: {min(low):g} {SEQUENCES}; {SEQUENCES_REMEDY}")


def doubt_rate(flag: str, given: float | Iterable[float] | None) -> None:
    """Say if the rate of a flag, or one of several, is above 1."""
    high = [v for v in _listed(given) if v > HIGHEST_RATE]
    if high:
        say(f"warning: {flag}: {max(high):g} {TOO_HIGH}; {TOO_HIGH_REMEDY}")


def doubt_distance(batch_tokens: float, best: float, what: str) -> None:
    """Say if a batch is so far from the best one that `what` is a guess."""
    folds = math.log(batch_tokens / best)
    if abs(folds) > FAR_FROM_BEST:
        say(f"warning: the batch lies {abs(folds):.1f} e-folds {'above' if folds > 0 else 'below'} the best one: the "
            f"basin was fitted near its optimum, take {what} as a guess")  # fmt: skip


def _listed(given: float | Iterable[float] | None) -> list[float]:
    if given is None:
        return []
    return list(given) if isinstance(given, Iterable) else [given]
