"""The best size at a fixed compute, by search: constraints and inference leave no closed form. Where a law has one
without them (`LossLaw.optimal_size`) the search is tested against it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def minimise_each(
    value: Callable[[Array], Array], low: Array, high: Array, *, n_grid: int = 48, n_steps: int = 34
) -> Array:
    """Where each of many functions of one variable is smallest: a grid, then golden sections around its best point.

    Parameters
    ----------
    value
        From positions (..., sample) to values of the same shape: function `sample` at its own position.
    low, high (sample,)
        Ends of the search.

    Returns
    -------
    (sample,), within (high - low) * 1e-8 of a local minimum that is the lowest on the grid.
    """
    share = np.linspace(0, 1, n_grid)[:, None]
    grid = low + share * (high - low)
    best = value(grid).argmin(0)
    at = np.arange(grid.shape[1])
    a, b = grid[np.maximum(best - 1, 0), at], grid[np.minimum(best + 1, n_grid - 1), at]
    ratio = (np.sqrt(5) - 1) / 2
    x1, x2 = b - ratio * (b - a), a + ratio * (b - a)
    f1, f2 = value(x1), value(x2)
    for _ in range(n_steps):
        left = f1 < f2
        a, b = np.where(left, a, x1), np.where(left, x2, b)
        new = np.where(left, b - ratio * (b - a), a + ratio * (b - a))
        f = value(new)
        x1, x2, f1, f2 = (
            np.where(left, new, x2), np.where(left, x1, new), np.where(left, f, f2), np.where(left, f1, f)
        )  # fmt: skip
    return np.asarray((a + b) / 2)
