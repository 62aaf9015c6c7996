"""Coordinates for the sampler: which way each cell's posterior is stretched, and what its runs say nothing about.

A choice of coordinates, not of the model: any value gives the same posterior. Two things make a plain choice slow.
Inside one cell the runs pin the nine responses only together (a turned axis moves the optimum); and where the runs
say little about a response, that response moves with its law, together with all other cells that lean on it. So
the responses of a cell are taken one after another, in `ORDER`, and each is one of two kinds:

    informed    state_r = centre_r + sum_m R_rm (state_m - centre_m) + own_r u_r     m before r; the runs pin it
    else        state_r = its law given the informed cells + scatter u_r             sampled from the law

R and `own` come from a Gauss-Newton fit of the cell's own runs under stated widths. The rate and the level of an
informed cell are those at the batch that it was run at (`anchor`): a sweep with one batch pins these, not the rate
and the level at its unknown best batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes.inputs import ModelInputs
from scaleband.laws import RESPONSES, excess, excess_gradient, linex, noise_scale

Array = NDArray[np.float64]

ORDER = tuple(
    RESPONSES.index(name)
    for name in (
        "skew_1", "skew_2", "angle_1", "angle_2", "log_curvature_1", "log_curvature_2", "log_batch", "log_lr", "level",
    )
)  # fmt: skip
"""From what runs say least about to what they pin best."""

# Typical spread of each response around its law (what the Step Law sweeps show); only efficiency depends on it.
_WIDTH = np.array([0.12, 0.12, 0.2, 0.12, 1.0, 0.07, 0.07, 0.25, 0.25])
_WIDE = np.array([0.3, 0.3, 0.6, 0.6, 1.0, 0.2, 0.2, 0.8, 0.8])
_SIGMA, _RHO, _NU = 0.1, 0.15, 4.0


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of the cells' states; in `centre` and `lean` log_lr and level are those at the anchor.

    Attributes
    ----------
    informed (response, cell)
        True where the cell's runs say more about the response than its law's scatter does.
    centre, own (response, cell)
        A point near each cell's posterior mode; the spread given the responses before.
    lean (response, response, cell)
        R of the module's head; zero unless the second response comes before the first in `ORDER`.
    anchor (cell,)
        log_batch at which the cell was run.
    blend (cell, cell)
        Orthogonal; u of the module's head is blend @ what is sampled. Cells whose runs branch off common trunks
        share those trunks' errors, so they move together far more easily than against each other: there the mean
        and the differences are sampled. Elsewhere the identity.
    trunk_row, trunk_weight (trunk, k)
        Rows that branch off each trunk, and their weights in the trunk's mean (zero in padding and for censored rows).
    """

    informed: NDArray[np.bool_]
    centre: Array
    own: Array
    lean: Array
    anchor: Array
    blend: Array
    trunk_row: NDArray[np.int64]
    trunk_weight: Array


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


def _cell(inputs: ModelInputs, c: int, start: Array, width: Array) -> tuple[Array, Array | None]:
    """Mode of one cell's state by damped, reweighted Gauss-Newton, and the runs' precision there (None: no runs)."""
    rows = (inputs.cell == c) & ~inputs.censored
    x, b, y, y_se = (v[rows] for v in (inputs.log_lr, inputs.log_batch, inputs.y, inputs.y_se))
    prior = np.diag(width**-2.0)
    if not rows.any():
        return start, None

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
    return z, precision - prior


def anchor_shift(z: Array, anchor: float) -> Array:
    """What lies between the cell's optimum and the best rate at `anchor`: log rate, and the level (to second order)."""
    h, angle, skew = np.exp(z[2:4]), z[5:7], z[7:9]
    db = anchor - z[1]
    c, s = np.cos(angle), np.sin(angle)
    dx = -(h * c * s).sum() / (h * c * c).sum() * db
    return np.array([dx, excess(dx, db, angle, h, skew)])


def _sequence(mode: Array, runs: Array, anchor: float, little: float) -> tuple[Array, Array, Array]:
    """Informed, own and lean of one cell from the runs' precision at its mode.

    A response is informed if runs add more than `little` of the law's own precision.
    """
    turn = np.eye(9)  # the plain state as a function of the anchored one
    for m in (1, 2, 3, 5, 6, 7, 8):
        step = np.zeros(9)
        step[m] = 1e-4
        turn[[0, 4], m] = -(anchor_shift(mode + step, anchor) - anchor_shift(mode - step, anchor)) / 2e-4
    precision = turn.T @ runs @ turn + np.diag(_WIDTH**-2.0)
    order = np.array(ORDER)
    chol = np.linalg.cholesky(np.linalg.inv(precision)[np.ix_(order, order)])
    own, lean = np.empty(9), np.zeros((9, 9))
    own[order] = np.diag(chol)
    unit = chol / np.diag(chol)
    lean[np.ix_(order, order)] = np.eye(9) - np.linalg.inv(unit)
    return own < _WIDTH / np.sqrt(1 + little), own, lean


def _shapes_of_groups(inputs: ModelInputs, modes: Array, informed: NDArray[np.bool_], start: Array) -> Array:
    """Where each cell's curvatures, angles and skews lie if it is like its group's informed cells: (9, cell).

    A group is a source and a family; a group that knows nothing takes what all cells know, then the stated beliefs.
    """
    out = start.copy()
    labels = [f"{s}/{f}" for s, f in zip(inputs.cells.source, inputs.cells.labels("family"), strict=True)]
    for r in (2, 3, 5, 6, 7, 8):
        known = informed[r]
        if known.any():
            out[r] = np.median(modes[r, known])
        for label in set(labels):
            mine = np.array([other == label for other in labels])
            if (known & mine).any():
                out[r, mine] = np.median(modes[r, known & mine])
    return out


def _blend(inputs: ModelInputs) -> Array:
    """Mean and differences over the cells that are linked by trunks."""
    from scipy.fft import dct
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(inputs.cells)
    blend = np.eye(n)
    rows = inputs.trunk < inputs.n_trunks
    links = coo_array(
        (np.ones(rows.sum()), (inputs.cell[rows], n + inputs.trunk[rows])), shape=(n + inputs.n_trunks,) * 2
    )
    _, label = connected_components(links, directed=False)
    for k in np.unique(label[:n]):
        cells = np.flatnonzero(label[:n] == k)
        blend[np.ix_(cells, cells)] = dct(np.eye(len(cells)), axis=0, norm="ortho").T
    return blend


def _trunk_rows(inputs: ModelInputs) -> tuple[NDArray[np.int64], Array]:
    rows = [np.flatnonzero(inputs.trunk == t) for t in range(inputs.n_trunks)]
    width = max((len(r) for r in rows), default=0)
    index, weight = np.zeros((inputs.n_trunks, width), np.int64), np.zeros((inputs.n_trunks, width))
    for t, mine in enumerate(rows):
        away = inputs.y[mine] - inputs.best[inputs.cell[mine], 2]
        heavy = np.where(inputs.censored[mine], 0.0, 1 / (_SIGMA**2 + (_RHO * away) ** 2))
        index[t, : len(mine)], weight[t, : len(mine)] = mine, heavy / max(heavy.sum(), 1e-300)
    return index, weight


def coordinates(inputs: ModelInputs) -> Coordinates:
    """Coordinates for the cells of a table; in a cell without rows nothing is informed."""
    n = len(inputs.cells)
    start = np.empty((9, n))
    start[:2], start[4] = inputs.best[:, :2].T, inputs.best[:, 2]
    start[[2, 3, 5, 6, 7, 8]] = np.array([0.6, 0.2, -1.0, 0.3, 0.5, 0.5])[:, None]  # near the stated beliefs
    # Twice: first each cell by itself with wide widths, then around what the cells of its group have in common.
    for width in (_WIDE, _WIDTH):
        informed, centre, own, lean = np.zeros((9, n), bool), start.copy(), np.ones((9, n)), np.zeros((9, 9, n))
        for c in range(n):
            # Many cells that lean on one law move together along it; a few are better sampled where their runs are.
            little = np.clip(inputs.cells.source.count(inputs.cells.source[c]) / 50, 0.02, 1.0)
            centre[:, c], precision = _cell(inputs, c, start[:, c], width)
            if precision is not None:
                informed[:, c], own[:, c], lean[:, :, c] = _sequence(
                    centre[:, c], precision, centre[1, c], little
                )
        start = _shapes_of_groups(inputs, centre, informed, start)
    return Coordinates(informed, centre, own, lean, centre[1].copy(), _blend(inputs), *_trunk_rows(inputs))
