"""Coordinates for the sampler: what each cell's runs say of its state, as Gaussian messages.

A choice of coordinates, not of the model: any value gives the same posterior. The model draws the law's coefficients
and the cells' states from the Gaussian that they would follow if the runs pinned each state linearly, given the
sampled scatters, offset scales and noise. What NUTS moves in is then nearly N(0, I) whatever those are: cells that
their runs pin are centred, cells without runs follow their law, and everything between is between.

Within a cell the nine responses are pinned only together (a turned axis moves the optimum), so they are taken one after
another, in `ORDER`; each message is that of the runs with the later responses integrated out.

Runs pin nothing linearly that lies far from them, so the rate and the level of a cell are taken *at its anchor*, the
mean setting of its best runs: the best rate at the anchor's batch and the loss at the anchor itself. A sweep with one
batch pins the first, and a handful of runs the second, whatever the optimum is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes.beliefs import OWN, SHARED, Beliefs, role_index
from scaleband.bayes.inputs import ModelInputs
from scaleband.laws import ANGLE, CURVATURE, RESPONSES, ROLES, SKEW, excess, noise_scale

Array = NDArray[np.float64]

ORDER = tuple(
    RESPONSES.index(name)
    for name in (
        "skew_1", "skew_2", "angle_1", "angle_2", "log_curvature_1", "log_curvature_2", "log_batch", "log_lr", "level",
    )
)  # fmt: skip
"""From what runs say least about to what they pin best."""

_STEP = 1e-4
_ITERATIONS = 40


@dataclass(frozen=True)
class Typical:
    """Central values of the beliefs, where the messages are worked out.

    Attributes
    ----------
    scatter (response,)
        Of the cells around their law.
    offset (hyperparameter, role)
        Scales of offsets, `shared` left out.
    sigma, rho, nu, trunk
        Noise of runs, percent; its growth with the excess; degrees of freedom; a trunk's error, percent.
    """

    scatter: Array
    offset: Array
    sigma: float
    rho: float
    nu: float
    trunk: float


def typical(beliefs: Beliefs) -> Typical:
    """Medians of the shared parameters and of a table's own."""
    at = dict(zip(SHARED, beliefs.shared_mean, strict=True))
    own = {name: float(np.exp(mean)) for name, (mean, _, _) in OWN.items()}
    scatter = [
        own["log_scatter_level"] if r == "level" else np.exp(at[f"log_scatter_{r if k < 4 else r[:-2]}"])
        for k, r in enumerate(RESPONSES)
    ]
    offset = [[np.exp(at[f"log_offset_{role}_{hyper}"]) for role in ROLES[1:]] for hyper in RESPONSES[:2]]
    return Typical(
        np.array(scatter), np.array(offset), own["log_sigma"], float(np.exp(at["log_rho"])),
        float(1 + np.exp(at["log_nu_minus_1"])), own["log_trunk"],
    )  # fmt: skip


@dataclass(frozen=True)
class Coordinates:
    """What the runs say, to second order around `reference`; log_lr and level are those at the anchor.

    Attributes
    ----------
    reference (response, cell)
        Joint mode of all cells under the typical beliefs.
    precision, slope (response, cell), lean (response, response, cell)
        With z the distance from the reference, the message about response r is
        `precision_r z_r = slope_r - sum_m lean_rm z_m`, m before r in `ORDER`; precision 0 says nothing.
    anchor (2, cell)
        log_lr and log_batch of the module's head.
    far, trunked, variance (cell,)
        Squared excess that is typical of the runs behind the message, the share of them that branch off a trunk, and
        their typical variance in all: with these the noise, and so the message, scales.
    blend (cell, cell)
        Orthogonal; cells whose runs branch off common trunks share those trunks' errors, so they move together far
        more easily than against each other: there the mean and the differences are sampled. Elsewhere the identity.
    trunk_row, trunk_weight (trunk, k), trunk_precision, trunk_source (trunk,)
        Rows that branch off each trunk, their weights in the trunk's mean (zero in padding and for censored rows), the
        precision of that mean at typical noise, and the trunk's source.
    """

    reference: Array
    precision: Array
    slope: Array
    lean: Array
    anchor: Array
    far: Array
    trunked: Array
    variance: Array
    blend: Array
    trunk_row: NDArray[np.int64]
    trunk_weight: Array
    trunk_precision: Array
    trunk_source: NDArray[np.int64]


def _excess(x: Array, b: Array, z: Array) -> Array:
    return excess(x - z[0], b - z[1], z[ANGLE], np.exp(np.clip(z[CURVATURE], -6, 6)), z[SKEW])


def plain(z: Array, anchor: Array) -> Array:
    """From a state with rate and level at the anchor to the state: (response, ...) for anchor (2, ...)."""
    z = z.copy()
    h, c, s = np.exp(z[CURVATURE]), np.cos(z[ANGLE]), np.sin(z[ANGLE])
    z[0] += (h * c * s).sum(0) / (h * c * c).sum(0) * (anchor[1] - z[1])
    z[4] -= _excess(anchor[0], anchor[1], z)
    return z


def at_anchor(z: Array, anchor: Array) -> Array:
    """The inverse of `plain`."""
    z = z.copy()
    z[4] += _excess(anchor[0], anchor[1], z)
    h, c, s = np.exp(z[CURVATURE]), np.cos(z[ANGLE]), np.sin(z[ANGLE])
    z[0] -= (h * c * s).sum(0) / (h * c * c).sum(0) * (anchor[1] - z[1])
    return z


@dataclass(frozen=True)
class _Rows:
    """The rows that are not censored, and what of the beliefs they need."""

    x: Array
    b: Array
    y: Array
    y_se: Array
    cell: NDArray[np.int64]
    trunk: Array
    n_cells: int
    typical: Typical

    def predicted(self, z: Array, anchor: Array | None) -> tuple[Array, Array]:
        """100 log loss and excess of every row for a state (response, cell), at the anchor or plain."""
        own = z[:, self.cell] if anchor is None else plain(z, anchor)[:, self.cell]
        e = _excess(self.x, self.b, own)
        return own[4] + e, e

    def variance(self, e: Array) -> Array:
        """Variance of a row; the error of its trunk counts as its own."""
        t = self.typical
        return noise_scale(e, t.sigma, t.rho, self.y_se) ** 2 + self.trunk**2

    def jacobian(self, z: Array, anchor: Array | None = None) -> Array:
        """Slope of the predicted rows in their cell's state: (row, response)."""
        columns = []
        for r in range(len(z)):
            up, down = z.copy(), z.copy()
            up[r] += _STEP
            down[r] -= _STEP
            columns.append((self.predicted(up, anchor)[0] - self.predicted(down, anchor)[0]) / (2 * _STEP))
        return np.stack(columns, axis=1)

    def loss(self, z: Array) -> float:
        """Minus the log likelihood, up to a constant."""
        mean, e = self.predicted(z, None)
        nu, variance = self.typical.nu, self.variance(e)
        t2 = (self.y - mean) ** 2 / variance
        return float((0.5 * (nu + 1) * np.log1p(t2 / nu) + 0.5 * np.log(variance)).sum())

    def by_cell(self, values: Array) -> Array:
        """Sums over the rows of each cell: (row, ...) -> (cell, ...)."""
        out = np.zeros((self.n_cells, *values.shape[1:]))
        np.add.at(out, self.cell, values)
        return out

    def pull(self, z: Array, anchor: Array | None = None) -> tuple[Array, Array, Array, Array, Array]:
        """Slope (cell, response) and precision (cell, response, response) of the log likelihood by reweighted least
        squares; excess, weight and Jacobian of every row."""
        mean, e = self.predicted(z, anchor)
        jacobian, variance, nu = self.jacobian(z, anchor), self.variance(e), self.typical.nu
        resid = self.y - mean
        weight = (nu + 1) / (nu + resid**2 / variance) / variance
        slope = self.by_cell((weight * resid)[:, None] * jacobian)
        precision = self.by_cell(weight[:, None, None] * jacobian[:, :, None] * jacobian[:, None, :])
        return slope, precision, e, weight, jacobian


class _Law:
    """The law integrated out: per response N(mean, scatter^2 I + w w^T) over the cells."""

    def __init__(self, inputs: ModelInputs, beliefs: Beliefs, typical: Typical) -> None:
        self.mean = inputs.prior_mean(beliefs)
        scale = np.ones((len(RESPONSES), len(inputs.design.columns)))
        scale[:2] = np.where(beliefs.pooled, typical.offset[:, role_index(inputs.design)], 1.0)
        self.w = inputs.scaled_design(beliefs) * scale[:, None, :]
        self.precision = typical.scatter**-2.0
        inner = np.eye(self.w.shape[2]) + self.precision[:, None, None] * (self.w.transpose(0, 2, 1) @ self.w)
        self.factor = np.linalg.cholesky(inner)
        # precision of the law = diag(1 / scatter^2) - low low^T
        self.low = self.precision[:, None, None] * np.linalg.solve(self.factor, self.w.transpose(0, 2, 1)).transpose(
            0, 2, 1
        )

    def pull(self, z: Array) -> Array:
        """Precision times (z - mean): (response, cell)."""
        away = z - self.mean
        return self.precision[:, None] * away - np.einsum(
            "rck,rk->rc", self.low, np.einsum("rck,rc->rk", self.low, away)
        )

    def predicted(self, z: Array) -> Array:
        """What the law says of every cell, given all states (response, cell)."""
        return z - self.pull(z) / self.precision[:, None]

    def newton(self, z: Array, slope: Array, runs: Array) -> Array:
        """Newton step from z: slope (response, cell) and precision (cell, response, response) of the runs."""
        n_responses, n_cells, k = self.low.shape
        block = np.linalg.inv(runs + np.diag(self.precision))
        right = (slope - self.pull(z)).T
        first = np.einsum("crs,cs->cr", block, right)
        turned = np.einsum("crs,sck->crsk", block, self.low).reshape(n_cells, n_responses, -1)
        inner = np.eye(n_responses * k) - np.einsum("rck,crm->rkm", self.low, turned).reshape(n_responses * k, -1)
        inside = np.linalg.solve(inner, np.einsum("rck,cr->rk", self.low, first).ravel())
        return (first + turned @ inside).T


def _mode(rows: _Rows, law: _Law, start: Array) -> Array:
    """Joint mode of all cells' states by damped, reweighted Gauss-Newton."""

    def objective(z: Array) -> float:
        away = z - law.mean
        return rows.loss(z) + 0.5 * float((away * law.pull(z)).sum())

    z, now = start, objective(start)
    for _ in range(_ITERATIONS):
        slope, runs, *_ = rows.pull(z)
        step = np.clip(law.newton(z, slope.T, runs), -0.5, 0.5)
        size = 1.0
        while size > 1e-3:
            trial = z + size * step
            after = objective(trial)
            if after < now:
                break
            size /= 2
        else:
            break
        gain, z, now = now - after, trial, after
        if gain < 1e-2:
            break
    return z


def _messages(runs: Array, slope: Array, away: Array, scatter: Array) -> tuple[Array, Array, Array]:
    """Precision, slope and lean of `Coordinates` by eliminating the responses from the last to the first.

    runs (cell, response, response) and slope (cell, response): the log likelihood's to second order; away (response,
    cell): the law's prediction minus the reference. A response is integrated out under its law.
    """
    n_cells, n = slope.shape
    runs, slope = runs.copy(), slope.copy()
    precision, lean = np.zeros((n, n_cells)), np.zeros((n, n, n_cells))
    for k in range(n - 1, -1, -1):
        r, before = ORDER[k], list(ORDER[:k])
        precision[r] = np.maximum(runs[:, r, r], 0.0)
        lean[r, before] = runs[:, r, before].T
        weight = scatter[r] ** -2.0
        up = runs[:, before, r] / (precision[r] + weight)[:, None]
        runs[np.ix_(range(n_cells), before, before)] -= up[:, :, None] * runs[:, r, before][:, None, :]
        slope[:, before] -= up * (slope[:, r] + weight * away[r])[:, None]
    return precision, slope.T, lean


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


def _trunks(inputs: ModelInputs, at: Typical) -> tuple[NDArray[np.int64], Array, Array, NDArray[np.int64]]:
    """`trunk_row`, `trunk_weight`, `trunk_precision` and `trunk_source` of `Coordinates`."""
    rows = [np.flatnonzero(inputs.trunk == t) for t in range(inputs.n_trunks)]
    width = max((len(r) for r in rows), default=0)
    index, weight = np.zeros((inputs.n_trunks, width), np.int64), np.zeros((inputs.n_trunks, width))
    for t, mine in enumerate(rows):
        away = inputs.y[mine] - inputs.best[inputs.cell[mine], 2]
        index[t, : len(mine)] = mine
        weight[t, : len(mine)] = np.where(inputs.censored[mine], 0.0, noise_scale(away, at.sigma, at.rho) ** -2.0)
    total = weight.sum(axis=1)
    source = np.array([inputs.source[mine[0]] if mine.size else 0 for mine in rows], dtype=np.int64)
    return index, weight / np.maximum(total, 1e-300)[:, None], total, source


def coordinates(inputs: ModelInputs, beliefs: Beliefs) -> Coordinates:
    """Coordinates for the cells of a table; a cell without rows gets empty messages."""
    at = typical(beliefs)
    law, keep = _Law(inputs, beliefs, at), ~inputs.censored
    trunk = np.where(inputs.trunk[keep] < inputs.n_trunks, at.trunk, 0.0)
    rows = _Rows(
        inputs.log_lr[keep], inputs.log_batch[keep], inputs.y[keep], inputs.y_se[keep], inputs.cell[keep], trunk,
        len(inputs.cells), at,
    )  # fmt: skip
    start = law.mean.copy()
    start[[0, 1, 4]] = inputs.best.T
    mode = _mode(rows, law, start)

    anchor = inputs.best[:, :2].T.copy()
    reference = at_anchor(mode, anchor)
    slope, runs, e, weight, jacobian = rows.pull(reference, anchor)
    # Reweighted least squares at the mode says more than a Student-t's information.
    less = at.nu / (at.nu + 3)
    precision, slope, lean = _messages(less * runs, less * slope, law.predicted(mode) - mode, at.scatter)
    inverse = np.linalg.inv(runs + np.diag(at.scatter**-2.0))
    leverage = weight * np.einsum("ir,irs,is->i", jacobian, inverse[rows.cell], jacobian)
    total = np.maximum(rows.by_cell(leverage), 1e-300)
    far, trunked = rows.by_cell(leverage * e**2) / total, rows.by_cell(leverage * (trunk > 0)) / total
    variance = at.sigma**2 + at.rho**2 * far + at.trunk**2 * trunked
    return Coordinates(
        reference, precision, slope, lean, anchor, far, trunked, variance, _blend(inputs), *_trunks(inputs, at)
    )
