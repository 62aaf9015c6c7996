"""Density of one run's loss around its basin, in NumPy: scores, posterior checks, the oracle of the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

CENSOR_ABOVE = 100 * float(np.log(1.5))
"""Runs this far above their cell's best (a loss 1.5 times as high), and diverged ones, say only 'at least
that high': up there the loss depends on when the run blew up, not on the basin."""

SPONTANEOUS = 0.01
"""Share of runs that end above the censoring threshold for reasons other than rate and batch (assumption)."""


def noise_scale(excess: ArrayLike, sigma: ArrayLike, rho: ArrayLike, y_se: ArrayLike = 0.0) -> Array:
    """sqrt(sigma^2 + se^2 + (rho excess)^2), in 100 log units: noise, and misfit that grows with the excess."""
    return np.sqrt(np.square(sigma) + np.square(y_se) + np.square(np.multiply(rho, excess)))


def run_log_density(
    y: ArrayLike, base: ArrayLike, excess: ArrayLike, sigma: ArrayLike, rho: ArrayLike, nu: ArrayLike,
    censored: ArrayLike = False, y_se: ArrayLike = 0.0,
) -> Array:
    """log p(100 log loss | level, excess), all arguments broadcast.

    Parameters
    ----------
    y
        100 log loss; for a censored run its threshold.
    base
        The cell's level, trunk effect included, 100 log units.
    excess, sigma, rho, nu
        Percent; noise near the optimum, percent; misfit per unit of excess; degrees of freedom.
    censored
        True where only 'at least y' is known: then log P(at least y), smooth, with a floor (`SPONTANEOUS`).
    y_se
        Standard error of y, percent.

    Returns
    -------
    Log density (natural), the broadcast dims.
    """
    from scipy.special import expit, gammaln  # half a second that a recommendation does not need

    y, base, excess, nu = (np.asarray(v, float) for v in (y, base, excess, nu))
    censored = np.asarray(censored, bool)
    scale = noise_scale(np.where(censored, y - base, excess), sigma, rho, y_se)
    u = (y - base - excess) / scale
    density = (
        gammaln((nu + 1) / 2)
        - gammaln(nu / 2)
        - 0.5 * np.log(nu * np.pi)
        - np.log(scale)
        - (nu + 1) / 2 * np.log(1 + u * u / nu)
    )
    return np.where(censored, np.log(SPONTANEOUS + (1 - SPONTANEOUS) * expit(-u)), density)
