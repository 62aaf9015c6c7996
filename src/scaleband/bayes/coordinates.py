"""Coordinates for the sampler: where each cell's state lies, and which way its posterior is stretched.

A choice of coordinates, not of the model: any value gives the same posterior. Inside one cell the runs pin the nine
responses only together: a turned axis moves the optimum. So a cell's state is sampled in units of its own spread,

    state_c = centre_c + F_c u_c

with centre and F (a Cholesky factor of the covariance) from a Gauss-Newton fit of the cell's own runs under stated
widths. Without this a transition takes 150 steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes.inputs import ModelInputs
from scaleband.laws import excess, excess_gradient, linex, noise_scale

Array = NDArray[np.float64]

# Typical spread of each response around its law (what the Step Law sweeps show); only efficiency depends on it.
_WIDTH = np.array([0.12, 0.12, 0.2, 0.12, 1.0, 0.07, 0.07, 0.25, 0.25])
_SIGMA, _RHO, _NU = 0.1, 0.15, 4.0


@dataclass(frozen=True)
class Coordinates:
    """Affine coordinates of the cells' states.

    Attributes
    ----------
    centre (response, cell)
        A point near each cell's posterior mode.
    factor (cell, response, response)
        F of the module's head, lower triangular.
    """

    centre: Array
    factor: Array


def _jacobian(x: Array, b: Array, z: Array) -> tuple[Array, Array]:
    """Excess and its derivative in the nine responses, (row,) and (row, 9)."""
    h, angle, skew = np.exp(z[2:4]), z[5:7], z[7:9]
    dx, db = x - z[0], b - z[1]
    gradient, _ = excess_gradient(dx, db, angle, h, skew)
    columns = [-gradient[0], -gradient[1]]
    turn, lean = [], []
    for j in (0, 1):
        c, s = np.cos(angle[j]), np.sin(angle[j])
        v = c * dx + s * db
        columns.append(linex(v, h[j], skew[j]))
        step = 1e-4
        slope = (linex(v + step, h[j], skew[j]) - linex(v - step, h[j], skew[j])) / (2 * step)
        turn.append(slope * (-s * dx + c * db))
        lean.append((linex(v, h[j], skew[j] + step) - linex(v, h[j], skew[j] - step)) / (2 * step))
    return excess(dx, db, angle, h, skew), np.stack(
        [*columns, np.ones_like(dx), *turn, *lean], axis=1
    )


def _cell(inputs: ModelInputs, c: int, start: Array) -> tuple[Array, Array]:
    """Mode and precision of one cell's state by damped, reweighted Gauss-Newton."""
    rows = (inputs.cell == c) & ~inputs.censored
    x, b, y, y_se = (v[rows] for v in (inputs.log_lr, inputs.log_batch, inputs.y, inputs.y_se))
    prior = np.diag(_WIDTH**-2.0)
    if not rows.any():
        return start, prior

    def parts(z: Array) -> tuple[float, Array, Array]:
        e, jacobian = _jacobian(x, b, z)
        resid = y - z[4] - e
        scale2 = noise_scale(e, _SIGMA, _RHO, y_se) ** 2
        weight = (_NU + 1) / (_NU + resid**2 / scale2) / scale2
        away = z - start
        loss = float((0.5 * (_NU + 1) * np.log1p(resid**2 / scale2 / _NU) + 0.5 * np.log(scale2)).sum())
        slope = jacobian.T @ (weight * resid) - prior @ away
        return loss + 0.5 * float(away @ prior @ away), slope, jacobian.T @ (weight[:, None] * jacobian) + prior

    z = start
    loss, slope, precision = parts(z)
    for _ in range(30):
        step = np.clip(np.linalg.solve(precision, slope), -0.5, 0.5)
        size = 1.0
        while size > 1e-3:
            trial = parts(z + size * step)
            if trial[0] < loss:
                break
            size /= 2
        else:
            break
        gain = loss - trial[0]
        z, (loss, slope, precision) = z + size * step, trial
        if gain < 1e-3:
            break
    return z, precision


def coordinates(inputs: ModelInputs) -> Coordinates:
    """Coordinates for the cells of a table; a cell without rows gets the typical widths alone."""
    shape = (-1.0, 0.3, 0.5, 0.5)  # the stated beliefs about angles and skews
    n = len(inputs.cells)
    centre, factor = np.empty((9, n)), np.empty((n, 9, 9))
    for c in range(n):
        start = np.array([inputs.best[c, 0], inputs.best[c, 1], 0.6, 0.2, inputs.best[c, 2], *shape])
        mode, precision = _cell(inputs, c, start)
        centre[:, c] = mode
        factor[c] = np.linalg.cholesky(np.linalg.inv(precision))
    return Coordinates(centre, factor)
