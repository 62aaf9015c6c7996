"""The loss of a run that has not been made, and posterior checks of those that have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaleband.laws import LawDraws, noise_scale
from scaleband.laws.loss.draws import LossDraws
from scaleband.predict.optimum import regret
from scaleband.predict.targets import Basins

Array = NDArray[np.float64]


def with_loss_law(draws: LawDraws, b: Basins, laws: LossDraws) -> Basins:
    """Basins whose level comes from fitted loss laws; cells that were fitted keep their own.

    The two fits are paired draw by draw at random: a cell's level is pinned by its own runs, so level and optimum of
    a new cell are as good as independent. The scatter of cells around the law is included.
    """
    level = np.array(b.level)
    pick = np.random.default_rng(0).permutation(laws.n_samples)[np.arange(len(level)) % laws.n_samples]
    optimum_batch = np.median(b.batch_tokens(), axis=0)
    told = laws.log_loss(b.cells, batch_tokens=optimum_batch, new_run=True)
    for t in range(len(b.cells)):
        if draws.matching_cell(b.cells, t) is None:
            level[:, t] = 100 * told[pick, t]
    return replace(b, level=level)


def predict_log_loss(
    draws: LawDraws,
    b: Basins,
    lr_peak: ArrayLike | None = None,
    batch_tokens: ArrayLike | None = None,
    *,
    mean: bool = False,
    seed: int = 0,
) -> Array:
    """Draws of log loss, (sample, target).

    Parameters
    ----------
    draws, b
        Fit and the basins at its targets.
    lr_peak, batch_tokens
        The setting of each target; NaN or left out means the target's own optimum.
    mean
        The expected loss instead of one new run's: cell effect included, noise left out.
    seed
        Of the noise.
    """
    excess_loss = np.zeros_like(b.level)
    if lr_peak is not None and batch_tokens is not None:
        lr, batch = np.broadcast_arrays(np.asarray(lr_peak, float), np.asarray(batch_tokens, float))
        given = np.isfinite(lr) & np.isfinite(batch)
        cost = regret(b, np.where(given, lr, 1e-3), np.where(given, batch, 524_288.0))
        excess_loss = np.where(given, cost, 0.0)
    value = b.level + excess_loss
    if not mean:
        rng = np.random.default_rng(seed)
        sigma = np.empty_like(value)
        for t, source in enumerate(b.cells.source):
            known = source in draws.sources
            # A source never seen has the noise of any of those that were.
            column = (
                np.full(len(value), draws.sources.index(source))
                if known
                else rng.integers(len(draws.sources), size=len(value))
            )
            sigma[:, t] = draws.sigma[np.arange(len(value)), column]
        scale = noise_scale(excess_loss, sigma, draws.rho[:, None])
        value = value + scale * rng.standard_t(draws.nu[:, None], size=value.shape)
    return value / 100
