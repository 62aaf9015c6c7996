"""Fit the far surface (`laws.far`) to what the basins leave of their runs: a second stage, six numbers.

Each cell's runs are placed in the basin that the *law* foretells at that cell (its curvatures, angles and skews),
around the cell's own optimum and level: what has to be predicted later is a new cell, whose shape only the law knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaleband.laws import ANGLE, CENSOR_ABOVE, CURVATURE, LEVEL, REFERENCE, SKEW, LawDraws, linex
from scaleband.laws.far import (
    BELIEFS,
    LENGTHS,
    FarDraws,
    Place,
    far_excess,
    field_scale,
    kernel,
    towards_family,
)
from scaleband.runs import cell_index, cell_table

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

ENOUGH = (3, 60)
"""Cells and completed runs below which there is no far surface to speak of."""

_SIGMA, _SHARE, _ROBUST = 0.15, 0.15, 1.5
"""Scale of a residual, 0.15 % and 15 % of the excess (assumption: about the basins' own misfit); where tails begin."""


_AMPLITUDE, _POINTS, _FIELD_DRAWS = 0.9, 600, 200
"""Size of the field in units of its scale; how many points it stands on; draws of it that are kept."""

_OWN, _OWN_LENGTH, _NOISE = 0.35, 1.6, 0.55
"""What a cell has for itself, over rate and batch, and what a run has, in units of what basins miss. As `LENGTHS`,
round numbers near the maximum of the marginal likelihood on Step Law's dense cells."""


def far_places(draws: LawDraws, runs: pd.DataFrame) -> tuple[Place, Array, Array, Array, NDArray[np.int64]]:
    """Place, log steps at the best batch, log rate, observed excess (percent) and cell of every usable run."""
    from scaleband.bayes import cells_of

    runs = runs[(runs["status"] == "completed") & runs["lr_peak"].notna() & runs["batch_tokens"].notna()]
    runs = runs.reset_index(drop=True)
    table = cell_table(runs)
    cells, index = cells_of(table), np.asarray(cell_index(runs, table), dtype=np.int64)
    known = np.array([draws.matching_cell(cells, c) is not None for c in range(len(cells))], dtype=bool)
    several = np.array([len(set(runs["batch_tokens"][index == c])) > 2 for c in range(len(cells))], dtype=bool)
    own = np.median(draws.at(cells), axis=0)
    # Cells as if they were new: without their own runs' word on the shape, and nearer to their family's mean.
    new = draws.without_scatter().at(cells, as_new=True)
    law = np.median(towards_family(draws, cells, new, as_new=True), axis=0)
    x = np.log(runs["lr_peak"].to_numpy(float) / REFERENCE["lr_peak"]) - own[0, index]
    z = np.log(runs["batch_tokens"].to_numpy(float) / REFERENCE["batch_tokens"]) - own[1, index]
    angle, skew = law[ANGLE][:, index], law[SKEW][:, index]
    curvature = np.exp(np.clip(law[CURVATURE], -20, 20))[:, index]
    terms = [linex(np.cos(angle[j]) * x + np.sin(angle[j]) * z, curvature[j], skew[j]) for j in (0, 1)]
    log_steps = np.log(runs["n_tokens"].to_numpy(float) / runs["batch_tokens"].to_numpy(float))
    seen = 100 * np.log(runs["loss"].to_numpy(float)) - own[LEVEL, index]
    use = (known & several)[index] & (seen < CENSOR_ABOVE)
    place = Place(terms[0][use], terms[1][use], log_steps[use], x[use], z[use])
    return place, (log_steps + z)[use], np.log(runs["lr_peak"].to_numpy(float))[use], seen[use], index[use]


def fit_far(draws: LawDraws, runs: pd.DataFrame, *, n_draws: int = 1000, seed: int = 0) -> FarDraws | None:
    """Posterior of the far surface: mode under robust errors, Gaussian with runs of a cell counted together.

    Residuals of one cell are not independent, so the covariance is the sandwich clustered by cell, the belief's
    information added once.

    Parameters
    ----------
    draws
        The basin fit.
    runs
        The validated table it was fitted to.
    n_draws, seed
        Of the Gaussian.

    Returns
    -------
    Draws, or None for a table with too few cells or runs.
    """
    from scipy.optimize import least_squares

    at, best, log_lr, seen, cell = far_places(draws, runs)
    if len(set(cell.tolist())) < ENOUGH[0] or len(seen) < ENOUGH[1]:
        return None
    mean, sd = (np.array([b[k] for b in BELIEFS.values()], float) for k in (0, 1))
    scale = np.hypot(_SIGMA, _SHARE * np.maximum(seen, 0.0))

    def residual(theta: Array) -> Array:
        rest = (far_excess(theta, at, best) - seen) / scale
        # soft L1, written as a square so that the belief stays Gaussian
        robust = np.sign(rest) * np.sqrt(2 * _ROBUST**2 * (np.sqrt(1 + (rest / _ROBUST) ** 2) - 1))
        return np.concatenate([robust, (theta - mean) / sd])

    found = least_squares(residual, mean, max_nfev=300)
    jacobian, rest = found.jac[: len(seen)], found.fun[: len(seen)]
    belief = np.diag(sd**-2.0)
    bread = np.linalg.inv(jacobian.T @ jacobian + belief)
    by_cell = np.stack([(jacobian[cell == c] * rest[cell == c, None]).sum(0) for c in np.unique(cell)])
    covariance = bread @ (by_cell.T @ by_cell + belief) @ bread
    rng = np.random.default_rng(seed)
    unit = rng.standard_normal((n_draws, len(mean)))
    theta = found.x + unit @ np.linalg.cholesky(covariance + 1e-12 * np.eye(len(mean))).T
    middle = far_excess(found.x, at, best)
    place = np.stack([at.log_rate, at.log_batch, log_lr, at.log_steps], axis=-1)
    points, weights = fit_field(place, middle, seen, cell, seed=seed)
    return FarDraws(theta, points, weights)


def spread_points(place: Array, count: int) -> Array:
    """`count` of the rows, each as far as can be from those chosen before it: (point, coordinate)."""
    scaled = place / LENGTHS
    chosen = [int(((scaled - np.median(scaled, axis=0)) ** 2).sum(1).argmin())]
    away = ((scaled - scaled[chosen[0]]) ** 2).sum(1)
    while len(chosen) < min(count, len(place)) and away.max() > 1e-4:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, ((scaled - scaled[chosen[-1]]) ** 2).sum(1))
    return place[chosen]


def fit_field(
    place: Array, middle: Array, seen: Array, cell: NDArray[np.int64], *, n_draws: int = _FIELD_DRAWS, seed: int = 0
) -> tuple[Array, Array]:
    """The field's points and draws of its weights: conjugate, given the middle of the rest.

    Runs of one cell share what the cell has for itself; counted as news each, they would teach the field that cell.

    Parameters
    ----------
    place (run, coordinate)
        As `FarDraws.points`.
    middle, seen, cell (run,)
        Excess without the field, and observed, percent; the run's cell.
    n_draws, seed
        Of the Gaussian.
    """
    points = spread_points(place, _POINTS)
    features, left = field_scale(middle)[:, None] * kernel(place, points), seen - middle
    scale = np.hypot(_SIGMA, 0.2 * np.maximum(middle, 0.0))
    for c in np.unique(cell):
        own = np.flatnonzero(cell == c)
        common = _OWN**2 * kernel(place[own, :2], place[own, :2], np.full(2, _OWN_LENGTH))
        covariance = (common + _NOISE**2 * np.eye(len(own))) * scale[own, None] * scale[own]
        white = np.linalg.inv(np.linalg.cholesky(covariance))
        features[own], left[own] = white @ features[own], white @ left[own]
    inner = kernel(points, points) / _AMPLITUDE**2 + 1e-6 * np.eye(len(points))
    factor = np.linalg.cholesky(inner + features.T @ features)
    mean = np.linalg.solve(factor.T, np.linalg.solve(factor, features.T @ left))
    unit = np.random.default_rng(seed + 1).standard_normal((len(points), n_draws))
    return points, mean + np.linalg.solve(factor.T, unit).T
