"""What runs see of a cell that ran one batch, in NumPy: one LINEX along the rate.

Such runs tell four numbers: the best rate at that batch, the loss there, and curvature and skew along the rate. Fitted
with the whole basin, its other numbers would stand in for each other along curved ridges. So curvature and skew are
taken to first order in the state's shape around a reference, the joint mode. The best rate is the basin's own, in full;
but where three rates were all (`ModelInputs.thin`) it is taken to first order too: a hundred such cells, far from the
best batch, would tell laws of shapes apart by how those bend.

Inside the model the level of these cells is the loss at their batch. `asked` turns states into what answers are made
of, `heard` turns them back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes.inputs import SHAPE, ModelInputs
from scaleband.laws import (
    ANGLE,
    CENSOR_ABOVE,
    CURVATURE,
    LEVEL,
    RESPONSES,
    SKEW,
    along_rate,
    conditional_log_lr,
    ends,
    excess,
)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

BENDS = (RESPONSES.index("log_batch"), *SHAPE)
"""Responses that say how far the best rate at a batch is from the optimum's."""

_STEP = 1e-4


def curvature(z: Array) -> Array:
    """Curvatures of states (response, ...), kept where numbers stay finite."""
    return np.exp(np.clip(z[CURVATURE], -6, 6))


def _away(z: Array, one_batch: Array) -> Array:
    return np.where(np.isfinite(one_batch), one_batch - z[1], 0.0)


def best_at(z: Array, one_batch: Array) -> Array:
    """Best log rate at the one batch that a cell ran minus the optimum's: (..., cell), 0 where it ran several.

    z (response, ..., cell); `one_batch` (cell,) as in `ModelInputs`.
    """
    return conditional_log_lr(_away(z, one_batch), z[ANGLE], curvature(z), z[SKEW])


def cost_at(best: Array, z: Array, one_batch: Array) -> Array:
    """What that batch costs at its `best` rate, percent of the loss: (..., cell), 0 where a cell ran several.

    Straight above the height at which a run is lost, as `predict` has it: nothing says how far below its runs an
    optimum lies whose batch is so far from theirs, and by an exponential a few draws came out at -1e6.
    """
    h, skew = curvature(z), z[SKEW]
    return excess(best, _away(z, one_batch), z[ANGLE], h, skew, ends(CENSOR_ABOVE, h, skew))


def rate_to_first_order(around: Array, one_batch: Array) -> tuple[Array, Array]:
    """`best_at`'s log rate at `around` (response, cell), and its slopes in `BENDS`: (cell,), (7, cell)."""
    slopes = []
    for r in BENDS:
        up, down = around.copy(), around.copy()
        up[r] += _STEP
        down[r] -= _STEP
        slopes.append((best_at(up, one_batch) - best_at(down, one_batch)) / (2 * _STEP))
    return best_at(around, one_batch), np.stack(slopes)


def _bends(best: Array, z: Array, one_batch: Array, around: Array, thin: Mask) -> Array:
    """What the first order leaves out of the `best` rate at a thin cell's batch, 0 elsewhere: (..., cell)."""
    if not thin.any():
        return np.zeros_like(best)
    value, slope = rate_to_first_order(around, one_batch)
    moved = np.moveaxis(z, 0, -2)[..., BENDS, :] - around[list(BENDS)]
    straight = value + np.einsum("jc,...jc->...c", slope, moved)
    return np.where(thin, best - straight, 0.0)


def sliced(z: Array, one_batch: Array, around: Array | None = None, thin: Mask | None = None) -> Array:
    """States as their runs see them: where a cell ran one batch, one LINEX along the rate (`laws.along_rate`) around
    the best rate at that batch.

    z (response, ..., cell); `one_batch`, `thin` (cell,) as in `ModelInputs`. With `around` (response, cell), what the
    module's head says is taken to first order around it, as the model does; without, around the states themselves.
    """
    one = np.isfinite(one_batch)
    if not one.any():
        return z
    seen, best = z.copy(), best_at(z, one_batch)
    seen[0] = z[0] + best
    if around is None:
        around = z
    elif thin is not None:
        seen[0] -= _bends(best, z, one_batch, around, thin)
    own = along_rate(around[ANGLE], curvature(around), around[SKEW])
    moved = np.moveaxis(z, 0, -2)[..., SHAPE, :] - np.moveaxis(around, 0, -2)[..., SHAPE, :]
    seen[1] = one_batch
    seen[2] = own.log_h + np.einsum("j...c,...jc->...c", own.log_h_slope, moved)
    seen[7] = own.skew + np.einsum("j...c,...jc->...c", own.skew_slope, moved)
    seen[5], seen[6] = 0.0, np.pi / 2
    return np.where(one, seen, z)


def asked(z: Array, inputs: ModelInputs, around: Array) -> Array:
    """From the model's states (response, ..., cell) to those that answers are made of: level and rate of the optimum,
    such that what its runs said is the answer to a question about the batch that a cell ran."""
    out, best = z.copy(), best_at(z, inputs.one_batch)
    out[LEVEL] -= cost_at(best, z, inputs.one_batch)
    out[0] -= _bends(best, z, inputs.one_batch, around, inputs.thin)
    return out


def heard(z: Array, inputs: ModelInputs, around: Array) -> Array:
    """The inverse of `asked`."""
    out, best = z.copy(), best_at(z, inputs.one_batch)
    out[LEVEL] += cost_at(best, z, inputs.one_batch)
    out[0] += _bends(best, z, inputs.one_batch, around, inputs.thin)
    return out
