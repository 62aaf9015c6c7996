"""The joint mode of all cells' states under their law, and the runs' likelihood to second order: plain NumPy.

The choice of coordinates (`bayes.coordinates`) rests on it. Answers do not, but for one thing: what is taken to first
order around this mode where a cell ran one batch (`bayes.one_batch`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes.beliefs import OWN, SCATTER_NAMES, SHARED, Beliefs, role_index
from scaleband.bayes.inputs import ModelInputs
from scaleband.bayes.one_batch import best_at, curvature, sliced
from scaleband.laws import ANGLE, HYPERPARAMETERS, LEVEL, RESPONSES, ROLES, SKEW, excess, noise_scale

Array = NDArray[np.float64]

_STEP = 1e-4
_ITERATIONS = 40


@dataclass(frozen=True)
class Typical:
    """Central values of the beliefs, where the messages are worked out.

    Attributes
    ----------
    scatter (response, cell), scatter_sd (response,)
        Of the cells around their law, for rate, batch and levels each source's own; standard deviation of the belief
        about its logarithm.
    offset (hyperparameter, role)
        Scales of offsets, `shared` left out.
    sigma (source,), rho, rho_sd, nu, trunk
        Noise of runs, percent; its growth with the excess, and the standard deviation of the belief about the
        logarithm of that; degrees of freedom; a trunk's error, percent.
    """

    scatter: Array
    scatter_sd: Array
    offset: Array
    sigma: Array
    rho: float
    rho_sd: float
    nu: float
    trunk: float


def typical(beliefs: Beliefs, inputs: ModelInputs) -> Typical:
    """Medians of the shared parameters and of a table's own."""
    at = dict(zip(SHARED, beliefs.shared_mean, strict=True))
    sds = dict(zip(SHARED, np.sqrt((beliefs.shared_factor**2).sum(axis=1)), strict=True))
    own = {name: float(np.exp(mean)) for name, (mean, _, _) in OWN.items()}
    scatter = [own[name] if name in own else np.exp(at[name]) for name in SCATTER_NAMES]
    scatter_sd = [OWN[name][1] if name in own else sds[name] for name in SCATTER_NAMES]
    offset = [[np.exp(at[f"log_offset_{role}_{hyper}"]) for role in ROLES[1:]] for hyper in RESPONSES[:2]]
    return Typical(
        np.array(scatter)[:, None] * inputs.scatter_share, np.array(scatter_sd), np.array(offset),
        np.full(len(inputs.sources), own["log_sigma"]),
        float(np.exp(at["log_rho"])), float(sds["log_rho"]), float(1 + np.exp(at["log_nu_minus_1"])), own["log_trunk"],
    )  # fmt: skip


def information(nu: Any) -> Any:
    """Fisher information about its mean of one Student-t run, in units of 1 / scale^2 (Lange, Little & Taylor 1989)."""
    return (nu + 1) / (nu + 3)


def _excess(x: Array, b: Array, z: Array) -> Array:
    return excess(x - z[0], b - z[1], z[ANGLE], curvature(z), z[SKEW])


def _rate_shift(z: Array, anchor: Array, one_batch: Array) -> Array:
    """Best log rate at the anchor's batch minus the optimum's: exact where a cell ran one batch, else first order."""
    h, c, s = curvature(z), np.cos(z[ANGLE]), np.sin(z[ANGLE])
    straight = -(h * c * s).sum(0) / (h * c * c).sum(0) * (anchor[1] - z[1])
    one = np.isfinite(one_batch)
    return np.where(one, best_at(z, one_batch), straight) if one.any() else straight


def plain(z: Array, anchor: Array, one_batch: Array) -> Array:
    """From a state with rate and level at the anchor to the state: (response, cell) for anchor (2, cell)."""
    z = z.copy()
    z[0] -= _rate_shift(z, anchor, one_batch)
    z[LEVEL] -= _excess(anchor[0], anchor[1], sliced(z, one_batch))
    return z


def at_anchor(z: Array, anchor: Array, one_batch: Array) -> Array:
    """The inverse of `plain`."""
    z = z.copy()
    z[LEVEL] += _excess(anchor[0], anchor[1], sliced(z, one_batch))
    z[0] += _rate_shift(z, anchor, one_batch)
    return z


@dataclass(frozen=True)
class Rows:
    """The rows that are not censored, and the noise that they are taken to have. A row whose trunk is `n_trunks`
    shares it with no other; `alone` (row,) and `one_batch` (cell,) as in `ModelInputs`."""

    x: Array
    b: Array
    y: Array
    y_se: Array
    cell: NDArray[np.int64]
    source: NDArray[np.int64]
    trunk: NDArray[np.int64]
    alone: NDArray[np.bool_]
    one_batch: Array
    n_cells: int
    n_trunks: int
    typical: Typical

    @classmethod
    def of(cls, inputs: ModelInputs, typical: Typical) -> Rows:
        """Of a table."""
        keep = ~inputs.censored
        return cls(
            inputs.log_lr[keep], inputs.log_batch[keep], inputs.y[keep], inputs.y_se[keep], inputs.cell[keep],
            inputs.source[keep], inputs.trunk[keep], inputs.alone[keep], inputs.one_batch, len(inputs.cells),
            inputs.n_trunks, typical,
        )  # fmt: skip

    def predicted(self, z: Array, anchor: Array | None) -> tuple[Array, Array]:
        """100 log loss and excess of every row for a state (response, cell), at the anchor or plain."""
        own = sliced(z if anchor is None else plain(z, anchor, self.one_batch), self.one_batch)[:, self.cell]
        e = _excess(self.x, self.b, own)
        return own[LEVEL] + e, e

    def own_variance(self, e: Array) -> Array:
        """Variance of a row beside the error of a trunk that it shares."""
        se = np.hypot(self.y_se, self.typical.trunk * self.alone)
        return noise_scale(e, self.typical.sigma[self.source], self.typical.rho, se) ** 2

    def weight(self, resid: Array, variance: Array) -> Array:
        """Weight of reweighted least squares under Student-t noise."""
        nu = self.typical.nu
        return (nu + 1) / (nu + resid**2 / variance) / variance

    def trunk_errors(self, resid: Array, weight: Array) -> Array:
        """Best guess of each trunk's error, 0 for the last, which is none: (trunk + 1,)."""
        guess = self.by_trunk(weight * resid) / (self.by_trunk(weight) + self.typical.trunk**-2.0)
        guess[-1] = 0.0
        return guess

    def jacobian(self, z: Array, anchor: Array | None = None) -> Array:
        """Slope of the predicted rows in their cell's state: (row, response)."""
        columns = []
        for r in range(len(z)):
            up, down = z.copy(), z.copy()
            up[r] += _STEP
            down[r] -= _STEP
            columns.append((self.predicted(up, anchor)[0] - self.predicted(down, anchor)[0]) / (2 * _STEP))
        return np.stack(columns, axis=1)

    def precision(self, jacobian: Array, weight: Array) -> Array:
        """Of each cell's state, no trunk counted: (cell, response, response)."""
        return self.by_cell(weight[:, None, None] * jacobian[:, :, None] * jacobian[:, None, :])

    def loss(self, z: Array, errors: Array) -> float:
        """Minus the log likelihood given the trunks' errors, up to a constant."""
        mean, e = self.predicted(z, None)
        nu, variance = self.typical.nu, self.own_variance(e)
        t2 = (self.y - mean - errors[self.trunk]) ** 2 / variance
        return float((0.5 * (nu + 1) * np.log1p(t2 / nu) + 0.5 * np.log(variance)).sum())

    def by_cell(self, values: Array) -> Array:
        """Sums over the rows of each cell: (row, ...) -> (cell, ...)."""
        out = np.zeros((self.n_cells, *values.shape[1:]))
        np.add.at(out, self.cell, values)
        return out

    def by_trunk(self, values: Array) -> Array:
        """Sums over the rows of each trunk, the last for rows that share none: (row,) -> (trunk + 1,)."""
        return np.bincount(self.trunk, values, self.n_trunks + 1)


class Law:
    """The law integrated out: per response N(mean, diag(scatter^2) + w w^T) over the cells."""

    def __init__(self, inputs: ModelInputs, beliefs: Beliefs, typical: Typical) -> None:
        self.mean = inputs.prior_mean(beliefs)
        scale = np.ones((len(RESPONSES), len(inputs.design.columns)))
        scale[:2] = np.where(beliefs.pooled, typical.offset[:, role_index(inputs.design)], 1.0)
        w = inputs.scaled_design(beliefs) * scale[:, None, :]
        turned = w.transpose(0, 2, 1)
        self.precision, self.source, self.share = typical.scatter**-2.0, inputs.cell_source, inputs.scatter_share
        # Cells with one scatter in every response: the same source and the same share of it.
        self.alike = np.unique(np.vstack([self.source, self.share]), axis=1, return_inverse=True)[1].ravel()
        self.w = w
        factor = np.linalg.cholesky(np.eye(w.shape[2]) + turned @ (self.precision[:, :, None] * w))
        # precision of the law = diag(1 / scatter^2) - low low^T
        self.low = self.precision[:, :, None] * np.linalg.solve(factor, turned).transpose(0, 2, 1)

    def pull(self, z: Array) -> Array:
        """Precision times (z - mean): (response, cell)."""
        away = z - self.mean
        return self.precision * away - np.einsum(
            "rck,rk->rc", self.low, np.einsum("rck,rc->rk", self.low, away)
        )

    def predicted(self, z: Array) -> Array:
        """What the law says of every cell, given all states (response, cell)."""
        return z - self.pull(z) / self.precision

    def coefficients(self, z: Array) -> Array:
        """Mean of the law's coefficients given all states, in units of their prior: (response, coefficient)."""
        right = np.einsum("rck,rc->rk", self.w, self.precision * (z - self.mean))
        inner = np.eye(self.w.shape[2]) + np.einsum("rck,rc,rcm->rkm", self.w, self.precision, self.w)
        return np.linalg.solve(inner, right[:, :, None])[:, :, 0]

    def by_itself(self) -> Array:
        """Precision of each cell's state around what the law says of it: (cell, response, response)."""
        return self.precision.T[:, :, None] * np.eye(len(self.precision))

    def newton(self, z: Array, slope: Array, runs: Array) -> Array:
        """Newton step from z: slope (response, cell) and precision (cell, response, response) of the runs."""
        n_responses, n_cells, k = self.low.shape
        block = np.linalg.inv(runs + self.by_itself())
        right = (slope - self.pull(z)).T
        first = np.einsum("crs,cs->cr", block, right)
        turned = np.einsum("crs,sck->crsk", block, self.low).reshape(n_cells, n_responses, -1)
        inner = np.eye(n_responses * k) - np.einsum("rck,crm->rkm", self.low, turned).reshape(n_responses * k, -1)
        inside = np.linalg.solve(inner, np.einsum("rck,cr->rk", self.low, first).ravel())
        return (first + turned @ inside).T

    def tied_newton(self, z: Array, slope: Array, runs: Array) -> Array:
        """The same where trunks tie cells together: runs (response, cell, response, cell)."""
        n_responses, n_cells, _ = self.low.shape
        runs = runs.copy()
        for r in range(n_responses):
            runs[r, :, r] += np.diag(self.precision[r]) - self.low[r] @ self.low[r].T
        size = n_responses * n_cells
        return np.linalg.solve(runs.reshape(size, size), (slope - self.pull(z)).ravel()).reshape(z.shape)


def joint_mode(rows: Rows, law: Law, start: Array, errors: Array) -> tuple[Array, Array]:
    """Joint mode of all cells' states and the trunks' errors (trunk + 1,) by damped, reweighted Gauss-Newton."""

    def objective(z: Array, errors: Array) -> float:
        away = z - law.mean
        prior = (away * law.pull(z)).sum() + (errors**2).sum() / rows.typical.trunk**2
        return rows.loss(z, errors) + 0.5 * float(prior)

    z, now = start, objective(start, errors)
    for _ in range(_ITERATIONS):
        mean, e = rows.predicted(z, None)
        jacobian, resid = rows.jacobian(z), rows.y - mean
        weight = rows.weight(resid - errors[rows.trunk], rows.own_variance(e))
        if rows.n_trunks:
            runs, slope = tied(rows, jacobian, weight, resid)
            step = np.clip(law.tied_newton(z, slope, runs), -0.5, 0.5)
        else:
            slope = rows.by_cell((weight * resid)[:, None] * jacobian)
            step = np.clip(law.newton(z, slope.T, rows.precision(jacobian, weight)), -0.5, 0.5)
        moved = np.einsum("ir,ri->i", jacobian, step[:, rows.cell])
        towards = rows.trunk_errors(resid - moved, weight) - errors
        size = 1.0
        while size > 1e-3:
            trial = z + size * step, errors + size * towards
            after = objective(*trial)
            if after < now:
                break
            size /= 2
        else:
            break
        gain, (z, errors), now = now - after, trial, after
        if gain < 1e-2:
            break
    return z, errors


def tied(rows: Rows, jacobian: Array, weight: Array, resid: Array) -> tuple[Array, Array]:
    """Precision (response, cell, response, cell) and slope (response, cell) of the runs, errors of trunks integrated
    out."""
    n, t = jacobian.shape[1], rows.n_trunks
    heavy = weight[:, None] * jacobian
    dense = np.zeros((rows.n_cells, n, rows.n_cells, n))
    cells = np.arange(rows.n_cells)
    dense[cells, :, cells, :] = rows.by_cell(heavy[:, :, None] * jacobian[:, None, :])
    push = np.zeros((t + 1, rows.n_cells, n))
    np.add.at(push, (rows.trunk, rows.cell), heavy)
    shared = push[:t].reshape(t, n * rows.n_cells)
    total, pulled = rows.by_trunk(weight)[:t], rows.by_trunk(weight * resid)[:t]
    give = 1 / (rows.typical.trunk**-2.0 + total)
    left = dense.reshape(rows.n_cells * n, -1) - (shared * give[:, None]).T @ shared
    slope = rows.by_cell(heavy * resid[:, None]).ravel() - shared.T @ (give * pulled)
    shape = (rows.n_cells, n)
    return left.reshape(*shape, *shape).transpose(1, 0, 3, 2), slope.reshape(shape).T


def measured(rows: Rows, law: Law, z: Array, errors: Array, believed: Typical) -> Rows:
    """`rows` with noise and scatters of cells and trunks as a mode shows them under the beliefs.

    One step of expectation maximisation: squares at the mode, and what runs, cells and law leave open.
    """
    at = rows.typical
    mean, e = rows.predicted(z, None)
    left, variance = rows.y - mean - errors[rows.trunk], rows.own_variance(e)
    jacobian, weight = rows.jacobian(z), rows.weight(left, variance)
    if rows.n_trunks:
        runs = np.einsum("rcsc->crs", tied(rows, jacobian, weight, rows.y - mean)[0])
    else:
        runs = rows.precision(jacobian, weight)
    inverse = np.linalg.inv(runs + law.by_itself())
    unknown = np.diagonal(inverse, axis1=1, axis2=2).T + at.scatter**4 * (law.low**2).sum(axis=2)
    squares, median = ((z - law.predicted(z)) ** 2 + unknown) / law.share**2, believed.scatter[:, 0] / law.share[:, 0]
    scatter = _scale(squares, median, believed.scatter_sd[:, None])[:, None] * law.share
    every = np.unique(law.source)
    for s in every:
        own = law.source == s
        scatter[LEVEL, own] = _scale(squares[LEVEL, own], median[LEVEL], believed.scatter_sd[LEVEL])
        for h in range(len(HYPERPARAMETERS)) if len(every) > 1 else ():
            scatter[h, own] = _scale(squares[h, own], scatter[h, own][0], OWN["log_scatter_ratio"][1])
    give = np.append(1 / (at.trunk**-2.0 + rows.by_trunk(weight)[: rows.n_trunks]), 0.0)
    trunk = at.trunk
    if rows.n_trunks:
        trunk = float(_scale((errors**2 + give)[:-1], believed.trunk, OWN["log_trunk"][1]))
    spread = np.einsum("ir,irs,is->i", jacobian, inverse[rows.cell], jacobian) + give[rows.trunk]
    # A row's variance is sigma^2 + own_se^2 + (rho excess)^2: each part gets its share of the row's square.
    squares, sigma = weight * variance * (left**2 + spread), at.sigma.copy()
    base = sigma[rows.source] ** 2
    mine = base / variance
    told = mine**2 * squares + (1 - mine) * base
    for s in np.unique(rows.source):
        sigma[s] = _scale(told[rows.source == s], believed.sigma[s], OWN["log_sigma"][1])
    part = np.maximum(at.rho * e, 1e-6) ** 2
    mine = part / variance
    rho = float(_scale((mine**2 * squares + (1 - mine) * part) * at.rho**2 / part, believed.rho, believed.rho_sd))
    return replace(rows, typical=replace(at, sigma=sigma, trunk=trunk, scatter=scatter, rho=rho))


def _scale(squares: Array, believed: Any, sd: Any) -> Any:
    """Scale of squares along the last axis, under a log-normal belief of standard deviation sd."""
    n = squares.shape[-1]
    told = 0.5 * np.log(np.maximum(squares.mean(axis=-1), 1e-8))
    weight = np.squeeze(np.asarray(sd)) ** -2.0
    return np.exp((2 * n * told + weight * np.log(believed)) / (2 * n + weight))
