"""Coordinates for the sampler: what each cell's runs say of its state, as Gaussian messages.

A choice of coordinates, not of the model: any value gives the same posterior (but for `reference` at cells with one
batch, see `bayes.one_batch`). The model draws the law's coefficients and the cells' states from the Gaussian that they
would follow if the runs pinned each state linearly, given the sampled scatters, offset scales and noise. What NUTS
moves in is then nearly N(0, I) whatever those are: cells that their runs pin are centred, cells without runs follow
their law, and everything between is between.

Within a cell the nine responses are pinned only together (a turned axis moves the optimum), so they are taken one after
another, in `ORDER`; each message is that of the runs with the later responses integrated out.

Runs pin nothing linearly that lies far from them, so the rate and the level of a cell are taken *at its anchor*, the
mean setting of its best runs: the best rate at the anchor's batch and the loss at the anchor itself. A sweep with one
batch pins the first, and a handful of runs the second, whatever the optimum is.

Where runs branch off common trunks, their shared errors tie the cells together: what the runs pin of a response are
then not the cells but orthogonal mixtures of them (differences of cells far better than their mean), and all of the
above holds for the mixtures. Later responses are then integrated out with their laws: cells that are tied leave a law
nothing but what they have in common. The same is done for cells that ran one batch each: of the six numbers of a
basin's shape they tell two, so what a cell says of its angles depends on how well the *laws* of curvatures are known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes.beliefs import Beliefs
from scaleband.bayes.inputs import ModelInputs
from scaleband.bayes.mode import Law, Rows, at_anchor, information, joint_mode, measured, tied, typical
from scaleband.laws import LEVEL, RESPONSES

Array = NDArray[np.float64]

ORDER = tuple(
    RESPONSES.index(name)
    for name in (
        "skew_1", "skew_2", "angle_1", "angle_2", "log_curvature_1", "log_curvature_2", "log_batch", "log_lr", "level",
    )
)  # fmt: skip
"""From what runs say least about to what they pin best."""

_MORE = 1.2
"""By how much rho is raised to see how a message changes with it."""

_ROUNDS = 40
"""Of measuring noise and scatters, and finding the mode under them."""


@dataclass(frozen=True)
class Coordinates:
    """What the runs say, to second order around `reference`; log_lr and level are those at the anchor.

    Attributes
    ----------
    reference (response, cell)
        Near the joint mode of all cells.
    scatter (response, cell), law (response, coefficient)
        Typical scatter of the cells around their law, and the law's coefficients at that mode, in units of their prior.
    tied (k,)
        Cells that are told only together (`ModelInputs.tied`): entry i of what follows is, at tied[i], about the i-th
        mixture of them, and about the cell itself elsewhere.
    turn (response, k, k)
        Orthogonal, from mixtures to tied cells.
    precision, slope (response, mixture), lean (response, response, mixture), lean_tied (response, response, k, k)
        With z the distance from the reference and t = turn^T z, the message about response r is
        `precision_r t_r = slope_r - sum_m lean_rm z_m`, m before r in `ORDER`; precision 0 says nothing. `lean` is 0
        at tied cells, where `lean_tied` (from cells to mixtures) takes its place.
    anchor (2, cell)
        log_lr and log_batch of the module's head.
    far, trunked, variance (response, mixture), shares (response, mixture, source)
        Squared excess of the runs behind the message as far as it answers to rho, how much of the trunks' variance is
        in it, its typical variance in all, and which sources' noise: with these the noise, and so the message, scales.
    nu
        Degrees of freedom at which the messages were worked out: they scale with a run's `information` too.
    trunk_row, trunk_weight (trunk, k), trunk_precision, trunk_source (trunk,)
        Rows that branch off each trunk, their weights in the trunk's mean (zero in padding and for censored rows), the
        precision of that mean at typical noise times the variance of its source, and the trunk's source.
    """

    reference: Array
    scatter: Array
    law: Array
    tied: NDArray[np.int64]
    turn: Array
    precision: Array
    slope: Array
    lean: Array
    lean_tied: Array
    anchor: Array
    far: Array
    trunked: Array
    variance: Array
    shares: Array
    nu: float
    trunk_row: NDArray[np.int64]
    trunk_weight: Array
    trunk_precision: Array
    trunk_source: NDArray[np.int64]


def _messages(runs: Array, slope: Array, away: Array, scatter: Array) -> tuple[Array, Array, Array]:
    """Precision, slope and lean of `Coordinates` by eliminating the responses from the last to the first.

    runs (cell, response, response) and slope (cell, response): the log likelihood's to second order; away (response,
    cell): the law's prediction minus the reference; scatter (response, cell). A response is integrated out under its
    law.
    """
    n_cells, n = slope.shape
    runs, slope = runs.copy(), slope.copy()
    precision, lean = np.zeros((n, n_cells)), np.zeros((n, n, n_cells))
    for k in range(n - 1, -1, -1):
        r, before = ORDER[k], list(ORDER[:k])
        precision[r] = np.maximum(runs[:, r, r], 0.0)
        lean[r, before] = runs[:, r, before].T
        weight = scatter[r] ** -2.0  # (cell,)
        up = runs[:, before, r] / (precision[r] + weight)[:, None]
        runs[np.ix_(range(n_cells), before, before)] -= up[:, :, None] * runs[:, r, before][:, None, :]
        slope[:, before] -= up * (slope[:, r] + weight * away[r])[:, None]
    return precision, slope.T, lean


def _dense_messages(
    runs: Array, slope: Array, pull: Array, precisions: Array, low: Array, alike: NDArray[np.int64]
) -> tuple[Array, Array, Array, Array]:
    """Turn, precision, slope and lean where cells are tied together: as `_messages`, with a matrix over the cells in
    place of each number, and the later responses' laws integrated out too. runs (response, cell, response, cell),
    slope (response, cell); the law's pull on the cells, and its precision as in `Law`. Only cells that are `alike` are
    mixed, since only they have one scatter."""
    n, n_cells = slope.shape
    runs, pulled = runs.copy(), slope - pull
    slope = slope.copy()
    turn, precision = np.zeros((n, n_cells, n_cells)), np.zeros((n, n_cells))
    told, lean = np.zeros((n, n_cells)), np.zeros((n, n, n_cells, n_cells))
    for k in range(n - 1, -1, -1):
        r, before = ORDER[k], list(ORDER[:k])
        own = 0.5 * (runs[r, :, r] + runs[r, :, r].T)
        for s in np.unique(alike):
            block = np.ix_(alike == s, alike == s)
            precision[r, alike == s], turn[r][block] = np.linalg.eigh(own[block])
        precision[r], told[r] = np.maximum(precision[r], 0.0), turn[r].T @ slope[r]
        prior = np.diag(precisions[r]) - low[r] @ low[r].T
        inverse = np.linalg.inv(own + prior)
        side = {m: runs[r, :, m].copy() for m in before}
        for m in before:
            lean[r, m] = turn[r].T @ side[m]
            up = side[m].T @ inverse
            slope[m] -= up @ pulled[r]
            pulled[m] -= up @ pulled[r]
            for other in before:
                runs[m, :, other] -= up @ side[other]
    return turn, precision, told, lean


def _trunks(
    inputs: ModelInputs, rows: Rows, keep: NDArray[np.bool_], weight: Array
) -> tuple[NDArray[np.int64], Array, Array, NDArray[np.int64]]:
    """`trunk_row`, `trunk_weight`, `trunk_precision` and `trunk_source` of `Coordinates`."""
    heavy = np.zeros(len(inputs.y))
    heavy[keep] = weight
    members = [np.flatnonzero(inputs.trunk == t) for t in range(inputs.n_trunks)]
    width = -(-max((len(r) for r in members), default=0) // 8) * 8
    index, weights = np.zeros((inputs.n_trunks, width), np.int64), np.zeros((inputs.n_trunks, width))
    for t, mine in enumerate(members):
        index[t, : len(mine)], weights[t, : len(mine)] = mine, heavy[mine]
    total = weights.sum(axis=1)
    source = np.array([inputs.source[mine[0]] if mine.size else 0 for mine in members], dtype=np.int64)
    precision = total * rows.typical.sigma[source] ** 2
    return index, weights / np.maximum(total, 1e-300)[:, None], precision, source


def coordinates(inputs: ModelInputs, beliefs: Beliefs) -> Coordinates:
    """Coordinates for the cells of a table; a cell without rows gets empty messages."""
    at = typical(beliefs, inputs)
    law, keep = Law(inputs, beliefs, at), ~inputs.censored
    rows = Rows.of(inputs, at)
    start = law.mean.copy()
    start[[0, 1, LEVEL]] = inputs.best.T
    mode, errors = joint_mode(rows, law, start, np.zeros(inputs.n_trunks + 1))
    for _ in range(_ROUNDS):
        before, rows = rows.typical, measured(rows, law, mode, errors, at)
        law = Law(inputs, beliefs, rows.typical)
        mode, errors = joint_mode(rows, law, mode, errors)
        if np.abs(np.log(rows.typical.scatter / before.scatter)).max() < 0.02:
            break
    at = rows.typical

    anchor = inputs.best[:, :2].T.copy()
    anchor[1] = np.where(np.isfinite(inputs.one_batch), inputs.one_batch, anchor[1])
    reference, away = at_anchor(mode, anchor, inputs.one_batch), law.predicted(mode) - mode
    mean, e = rows.predicted(reference, anchor)
    resid, jacobian, own = rows.y - mean, rows.jacobian(reference, anchor), rows.own_variance(e)
    weight = rows.weight(resid - errors[rows.trunk], own)
    runs = rows.precision(jacobian, weight)
    # Reweighted least squares at the mode says more than a Student-t's information.
    less = information(at.nu) * at.nu / (at.nu + 1)
    shares = np.zeros((len(RESPONSES), len(inputs.cells), len(inputs.sources)))
    shares[:, np.arange(len(inputs.cells)), inputs.cell_source] = 1.0

    pull = less * rows.by_cell((weight * resid)[:, None] * jacobian)
    precision, slope, lean = _messages(less * runs, pull, away, at.scatter)
    # How a message changes with rho: after the others are integrated out, not that of any one run.
    more = replace(rows, typical=replace(at, rho=at.rho * _MORE))
    louder = more.weight(resid - errors[rows.trunk], more.own_variance(e))
    less_told = _messages(less * rows.precision(jacobian, louder), pull, away, at.scatter)[0]
    part = np.log(np.maximum(precision, 1e-9) / np.maximum(less_told, 1e-9)) / (2 * np.log(_MORE))
    part = np.clip(part, 0.01, 0.99)
    # Of runs alone on their trunks the trunks' variance is in their noise.
    alone = rows.by_cell(weight * rows.alone) / np.maximum(rows.by_cell(weight), 1e-300)
    trunked = np.repeat(alone[None], len(part), axis=0)
    far = part / (1 - part) * (shares @ at.sigma**2 + at.trunk**2 * trunked) / at.rho**2

    t = inputs.tied
    turn, lean_tied = np.zeros((len(RESPONSES), len(t), len(t))), np.zeros((len(RESPONSES),) * 2 + (len(t),) * 2)
    if t.size:
        dense, told = tied(rows, jacobian, less * weight, resid)
        dense, told = dense[:, t][:, :, :, t], told[:, t]
        turn, precision[:, t], slope[:, t], lean_tied = _dense_messages(
            dense, told, law.pull(mode)[:, t], law.precision[:, t], law.low[:, t], law.alike[t]
        )
        lean[:, :, t] = 0.0
        inverse = np.linalg.inv(runs + law.by_itself())
        leverage = weight * np.einsum("ir,irs,is->i", jacobian, inverse[rows.cell], jacobian)
        typical_far = (rows.by_cell(leverage * e**2) / np.maximum(rows.by_cell(leverage), 1e-300))[t]
        far[:, t] = np.einsum("rcm,c->rm", turn**2, typical_far)
        shares[:, t] = np.einsum("rcm,rcs->rms", turn**2, shares[:, t])
        trunked[:, t] = np.einsum("rcm,c->rm", turn**2, alone[t])
        noise = shares[:, t] @ at.sigma**2 + at.rho**2 * far[:, t] + at.trunk**2 * trunked[:, t]
        free = np.einsum("rcm,cr->rm", turn**2, less * np.diagonal(runs, axis1=1, axis2=2)[t])
        kept = np.einsum("rcm,rcd,rdm->rm", turn, np.einsum("rcrd->rcd", dense), turn)
        trunked[:, t] += np.clip(free / np.maximum(kept, 1e-9) - 1, 0.0, 1e3) * noise / at.trunk**2
    variance = shares @ at.sigma**2 + at.rho**2 * far + at.trunk**2 * trunked
    return Coordinates(
        reference, at.scatter, law.coefficients(mode), t, turn, precision, slope, lean, lean_tied, anchor, far,
        trunked, variance, shares, at.nu, *_trunks(inputs, rows, keep, weight),
    )  # fmt: skip
