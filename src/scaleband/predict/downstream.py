"""Downstream error from loss, a second stage: err = eps - k exp(-gamma loss), every draw carried through.

No table of this project holds downstream errors; the stage is shown on simulated ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaleband.errors import UserError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DownstreamDraws:
    """Draws of the second stage, each (sample,): error = eps - k exp(-gamma loss), noise sigma (absolute)."""

    eps: Array
    k: Array
    gamma: Array
    sigma: Array

    def error(self, loss: ArrayLike, *, seed: int | None = None) -> Array:
        """Error at draws of the loss (sample, ...): constants of the same sample; with `seed` noise too."""
        loss = np.asarray(loss, float)
        pick = np.arange(len(loss)) % len(self.eps)
        shape = (-1,) + (1,) * (loss.ndim - 1)
        eps, k, gamma, sigma = (v[pick].reshape(shape) for v in (self.eps, self.k, self.gamma, self.sigma))
        value = eps - k * np.exp(-gamma * loss)
        if seed is not None:
            value = value + sigma * np.random.default_rng(seed).standard_normal(value.shape)
        return np.clip(value, 0.0, 1.0)


def fit_downstream(loss: ArrayLike, error: ArrayLike, *, n_draws: int = 2000, seed: int = 0) -> DownstreamDraws:
    """Posterior of the second stage from pairs of loss and error.

    gamma runs over a grid under the belief LogNormal(log 1, 0.6); given it, (eps, k) and the noise have their conjugate
    posterior under a prior that is flat over the errors which they foretell of these runs: no sampler is needed, and
    the draws are exact up to the grid. (Flat over k it would favour a small gamma, whose curve takes a large k.)

    Parameters
    ----------
    loss, error (run,)
        Nats per token; error as a share, 0 to 1.

    Raises
    ------
    UserError
        Fewer than five runs, lengths that do not match, a number that is missing, errors outside 0 to 1, or losses that
        are all alike.

    References
    ----------
    Gadre et al. 2024, arXiv 2403.08540, equation 5.
    """
    x, y = np.asarray(loss, float), np.asarray(error, float)
    if x.ndim != 1 or x.shape != y.shape:
        raise UserError(f"downstream error needs one loss and one error a run, not {x.size} losses and {y.size} errors")
    if missing := int((~np.isfinite(x) | ~np.isfinite(y)).sum()):
        raise UserError(f"{missing} of {len(x)} runs have no finite loss and downstream error; leave these runs out")
    if len(x) < 5 or np.ptp(x) < 1e-6:
        raise UserError("downstream error needs at least five runs of different loss")
    if ((y < 0) | (y > 1)).any():
        raise UserError("downstream errors are shares between 0 and 1; divide percentages by 100")
    grid = np.exp(np.linspace(np.log(0.05), np.log(20.0), 241))
    centre, n = float(x.mean()), len(x)
    log_weight, fits = np.empty(len(grid)), []
    for j, gamma in enumerate(grid):
        design = np.stack([np.ones(n), -np.exp(-gamma * (x - centre))], axis=1)
        gram = design.T @ design
        beta = np.linalg.solve(gram, design.T @ y)
        rest = float(((y - design @ beta) ** 2).sum()) + 1e-12
        belief = -0.5 * (np.log(gamma) / 0.6) ** 2
        log_weight[j] = belief - (n - 2) / 2 * np.log(rest)  # the flat prior takes the determinant of gram away
        fits.append((beta, np.linalg.cholesky(np.linalg.inv(gram)), rest))
    weight = np.exp(log_weight - log_weight.max())
    rng = np.random.default_rng(seed)
    pick = rng.choice(len(grid), n_draws, p=weight / weight.sum())
    sigma = np.sqrt(np.array([fits[j][2] for j in pick]) / rng.chisquare(n - 2, n_draws))
    beta = np.stack([fits[j][0] + s * fits[j][1] @ rng.standard_normal(2) for j, s in zip(pick, sigma, strict=True)])
    gamma = grid[pick]
    return DownstreamDraws(beta[:, 0], beta[:, 1] * np.exp(gamma * centre), gamma, sigma)
