"""Intervals, taken last: equal-tailed, with their mass always said."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

INTERVAL_KIND = "eti"


class Band(NamedTuple):
    """Median and equal-tailed bounds."""

    median: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


def interval(draws: ArrayLike, mass: float = 0.9) -> Band:
    """Median and equal-tailed interval over the leading (sample) dim.

    Parameters
    ----------
    draws
        (sample, ...), any unit.
    mass
        Probability inside, 0 to 1.

    Raises
    ------
    ValueError
        `mass` is not between 0 and 1.
    """
    if not 0 < mass < 1:
        raise ValueError(f"interval mass must be between 0 and 1, not {mass}")
    tail = (1 - mass) / 2
    lower, median, upper = np.quantile(np.asarray(draws, float), [tail, 0.5, 1 - tail], axis=0)
    return Band(median, lower, upper)
