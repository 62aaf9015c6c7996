"""Random walks of log scales, given squares that have these scales: all draws at once, as `gibbs` needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes.beliefs import OWN

Array = NDArray[np.float64]

_STEPS = 8


def log_scale_move(
    x: Array, squares: Array, n: int, lean: Array, own: float, rng: np.random.Generator, *,
    more: Callable[[Array], Array] | None = None, n_more: int = 0,
) -> Array:
    """How far log scales `x` (draw,) move, given the sum of `n` squares that have this scale.

    The prior is normal: moving by m changes its log density by -(lean m + own m^2 / 2). `more`, if any, is the log
    density of `n_more` runs that the scale is told by too, at moved scales.
    """

    def density(m: Array) -> Array:
        told = -n * (x + m) - 0.5 * squares * np.exp(-2 * (x + m)) - lean * m - 0.5 * own * m * m
        return told if more is None else told + more(x + m)

    moved = np.zeros_like(x)
    now = density(moved)
    for _ in range(_STEPS):
        trial = moved + 2.4 / np.sqrt(2 * (n + n_more) + own) * rng.standard_normal(x.shape)
        then = density(trial)
        taken = np.log(rng.random(x.shape)) < then - now
        moved, now = np.where(taken, trial, moved), np.where(taken, then, now)
    return moved


def own_scale_move(name: str, std: Array, squares: Array, n: int, rng: np.random.Generator, **told: Any) -> Array:
    """A scale of `OWN`, in units of its belief, moved by `log_scale_move`."""
    mean, sd, _ = OWN[name]
    return std + log_scale_move(mean + sd * std, squares, n, std / sd, sd**-2.0, rng, **told) / sd
