"""The loss of a run that has not been made, and posterior checks of those that have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaleband.laws import ANGLE, CURVATURE, REFERENCE, SKEW, LawDraws, linex, noise_scale
from scaleband.laws.far import FarDraws, Place, towards_family
from scaleband.laws.loss.draws import LossDraws
from scaleband.predict.optimum import regret
from scaleband.predict.repeats import cost_of_repeats
from scaleband.predict.targets import Basins

Array = NDArray[np.float64]


def with_loss_law(draws: LawDraws, b: Basins, laws: LossDraws, unique_tokens: Array | None = None) -> Basins:
    """Basins whose level comes from fitted loss laws; cells that were fitted keep their own.

    The two fits are paired draw by draw at random: a cell's level is pinned by its own runs, so level and optimum of
    a new cell are as good as independent. The scatter of cells around the law is included, and so is what repeats cost
    where the targets have but `unique_tokens` (target,) distinct ones (NaN: no repeats).
    """
    level = np.array(b.level)
    pick = np.random.default_rng(0).permutation(laws.n_samples)[np.arange(len(level)) % laws.n_samples]
    optimum_batch = np.median(b.batch_tokens(), axis=0)
    told = laws.log_loss(b.cells, batch_tokens=optimum_batch, new_run=True)
    for t in range(len(b.cells)):
        if draws.matching_cell(b.cells, t) is None:
            level[:, t] = 100 * told[pick, t]
    if unique_tokens is not None:
        level += 100 * cost_of_repeats(laws, b.cells, unique_tokens, optimum_batch)[pick]
    return replace(b, level=level)


def far_shape(draws: LawDraws, b: Basins) -> Basins:
    """Basins for the far surface: new cells get a shape nearer to their family's (`laws.far.towards_family`)."""
    state = np.concatenate([b.optimum, np.log(b.curvature), b.level[:, None], b.angle, b.skew], axis=1)
    state = towards_family(draws, b.cells, state)
    return replace(b, curvature=np.exp(state[:, CURVATURE]), angle=state[:, ANGLE], skew=state[:, SKEW])


def far_regret(b: Basins, far: FarDraws, lr_peak: ArrayLike, batch_tokens: ArrayLike) -> Array:
    """Regret of a setting with the far surface in it: slower walls, and what too few steps cost.

    Parameters
    ----------
    b
        Basins at the targets, as `far_shape` gives them.
    far
        Draws of the far surface, paired with the basins' in order.
    lr_peak, batch_tokens (target,)
        The setting of each target.

    Returns
    -------
    Percent of the loss, (sample, target); zero at the optimum.
    """
    x = np.log(np.asarray(lr_peak, float) / REFERENCE["lr_peak"]) - b.optimum[:, 0]
    z = np.log(np.asarray(batch_tokens, float) / REFERENCE["batch_tokens"]) - b.optimum[:, 1]
    terms = [
        linex(np.cos(b.angle[:, j]) * x + np.sin(b.angle[:, j]) * z, b.curvature[:, j], b.skew[:, j]) for j in (0, 1)
    ]
    log_steps = np.broadcast_to(np.log(b.cells.n_tokens / np.asarray(batch_tokens, float)), x.shape)
    place = Place(terms[0], terms[1], log_steps, x, z)
    return far.excess(place, log_steps + z, np.log(np.broadcast_to(np.asarray(lr_peak, float), x.shape[1:])))


def predict_log_loss(
    draws: LawDraws,
    b: Basins,
    lr_peak: ArrayLike | None = None,
    batch_tokens: ArrayLike | None = None,
    *,
    mean: bool = False,
    seed: int = 0,
    far: FarDraws | None = None,
) -> Array:
    """Draws of log loss, (sample, target).

    Parameters
    ----------
    draws, b
        Fit and the basins at its targets.
    lr_peak, batch_tokens
        The setting of each target; NaN or left out means the target's own optimum.
    mean
        The expected loss instead of one new run's: cell effect included, its noise and its trunk's error left out.
    seed
        Of the noise.
    far
        The far surface, where the fit has one.
    """
    excess_loss = np.zeros_like(b.level)
    if lr_peak is not None and batch_tokens is not None:
        lr, batch = np.broadcast_arrays(np.asarray(lr_peak, float), np.asarray(batch_tokens, float))
        given = np.isfinite(lr) & np.isfinite(batch)
        # a setting that was left out is any one here: its cost is not looked at
        lr, batch = np.where(given, lr, REFERENCE["lr_peak"]), np.where(given, batch, REFERENCE["batch_tokens"])
        cost = regret(b, lr, batch) if far is None else far_regret(far_shape(draws, b), far, lr, batch)
        excess_loss = np.where(given, cost, 0.0)
    value = b.level + excess_loss
    if not mean:
        rng = np.random.default_rng(seed)
        sigma, trunk = np.empty_like(value), np.empty_like(value)
        for t, source in enumerate(b.cells.source):
            sigma[:, t], trunk[:, t] = draws.run_noise(source, rng)
        scale = noise_scale(np.maximum(excess_loss, 0.0), sigma, draws.rho[:, None])
        value = value + scale * rng.standard_t(draws.nu[:, None], size=value.shape)
        if trunk.any():
            value = value + trunk * rng.standard_normal(value.shape)
    return value / 100
