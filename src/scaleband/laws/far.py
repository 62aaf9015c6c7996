"""The surface far from the optimum: walls that rise more slowly than LINEX, and a term in the number of steps.

    excess = m + s(m) f(x),   s(m) = 0.2 m + 0.15 m / (m + 0.3)
    m = T(e_1; k_1) + T(e_2; k_2) + g(S, u) - g(S*, u*),   T(e; k) = k log(1 + e / k)
    g = exp(a - p log(S / 2000)) + exp(b - q log(u / 1000))

e_1, e_2 are the basin's two LINEX terms; S = n_tokens / batch_tokens optimizer steps; u = S lr / lr*, the steps that
the rate is worth at the cell's best rate; S*, u* the same at the optimum, so that the excess there stays zero. Few
steps, or a low rate that makes little of them, leave a model untrained: what the basin, fitted around its optimum,
cannot know. f is what these still miss in all cells alike: a smooth field over the run's log distances from the
optimum, its log rate and its log steps, a Gaussian process on some hundred points; s is about what basins miss, and
zero at the optimum.
Percent of the loss throughout.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaleband.labels import arch_family
from scaleband.laws.design import LEVEL, Cells
from scaleband.laws.draws import LawDraws

Array = NDArray[np.float64]

STEPS, WORTH = 2000.0, 1000.0
"""Where the two terms in steps are centred."""

BELIEFS: dict[str, tuple[float, float, str]] = {
    "log_wall_1": (2.2, 0.2, "an excess of 9 % along the first direction is where its wall stops being exponential"),
    "log_wall_2": (1.7, 0.3, "and 5.5 % along the second: runs above it are bad, seldom twice as bad"),
    "log_steps": (-1.0, 1.0, "at 2,000 steps 0.05-2.7 % are lost to their number"),
    "log_steps_power": (0.5, 0.4, "which falls as steps^-1.6, give or take half as much again"),
    "log_worth": (-1.0, 1.0, "at a worth of 1,000 steps 0.05-2.7 % are lost to a low rate"),
    "log_worth_power": (0.5, 0.4, "which falls alike"),
}
"""Entries of the vector in order: (mean, standard deviation, reason) of a normal belief."""

NAMES = tuple(BELIEFS)


class Place(NamedTuple):
    """Where a run is: LINEX terms along both directions, percent; log steps; log of rate and batch over the best."""

    first: Array
    second: Array
    log_steps: Array
    log_rate: Array
    log_batch: Array


def softened(e: Array, log_k: Array) -> Array:
    """k log(1 + e / k): e where it is small, its logarithm where it is large."""
    k = np.exp(log_k)
    return np.asarray(k * np.log1p(e / k))


def steps_term(theta: Array, log_steps: Array, log_rate: Array) -> Array:
    """g, percent; `theta` (..., 6) with leading dims that broadcast. Capped at e^4 %."""
    a, p, b, q = (theta[..., k] for k in (2, 3, 4, 5))
    own = a - np.exp(p) * (log_steps - np.log(STEPS))
    worth = b - np.exp(q) * (log_steps + log_rate - np.log(WORTH))
    return np.asarray(np.exp(np.clip(own, -30, 4)) + np.exp(np.clip(worth, -30, 4)))


def far_excess(theta: Array, at: Place, log_steps_best: ArrayLike) -> Array:
    """Excess of runs, percent.

    Parameters
    ----------
    theta (..., 6)
        Entries as in `NAMES`; leading dims broadcast with those of the run's place.
    at
        Where the runs are.
    log_steps_best
        Log steps at the cell's best batch.
    """
    walls = softened(at.first, theta[..., 0]) + softened(at.second, theta[..., 1])
    best = np.asarray(log_steps_best, float)
    gained = steps_term(theta, at.log_steps, at.log_rate) - steps_term(theta, best, np.zeros_like(best))
    return np.asarray(walls + gained)


FAMILY_SHARE = 0.25
"""Of a new cell's shape. On Step Law's cells of at most 537M parameters and 40B tokens, left out five at a time, 0.25
foretold whole surfaces better than 0, 0.5 and 1 (docs/architecture.md)."""


def towards_family(draws: LawDraws, cells: Cells, state: Array, *, as_new: bool = False) -> Array:
    """States (sample, response, cell), the shape of every new cell some way to the mean of its family's fitted cells.

    Curvatures, angles and skews follow laws that are weakly known; carried far, they bend walls out of all measure.
    Optimum and level stay what they are; so do cells that were fitted.
    """
    out = np.array(state)
    family = [arch_family(a) for a in draws.cells.arch]
    shape = [k for k in range(state.shape[1]) if k not in (0, 1, LEVEL)]
    for c in range(len(cells)):
        if as_new or draws.matching_cell(cells, c) is None:
            own = np.array([f == arch_family(cells.arch[c]) for f in family], dtype=bool)
            middle = draws.state[:, :, own if own.any() else slice(None)].mean(2)
            out[:, shape, c] += FAMILY_SHARE * (middle[:, shape] - state[:, shape, c])
    return out


LENGTHS = np.array([0.5, 1.0, 1.0, 0.8])
"""How far the field reaches, e-folds: along rate and batch over their best, the rate itself, steps. Round numbers near
the maximum of the marginal likelihood on Step Law's dense cells."""


def kernel(a: Array, b: Array, lengths: Array = LENGTHS) -> Array:
    """exp(-|a - b|^2 / 2) in units of `lengths`: (place, coordinate) and (point, coordinate) to (place, point)."""
    a, b = a / lengths, b / lengths
    far = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
    return np.asarray(np.exp(-0.5 * np.maximum(far, 0.0)))


def field_scale(middle: Array) -> Array:
    """s(m): what the field is in units of, percent."""
    m = np.maximum(middle, 0.0)
    return np.asarray(0.2 * m + 0.15 * m / (m + 0.3))


@dataclass(frozen=True)
class FarDraws:
    """Draws of the far surface.

    Attributes
    ----------
    theta (sample, 6)
        Columns as in `NAMES`.
    points (point, coordinate)
        Where the field stands on: log rate and batch over their best, log rate, log steps. Empty: no field.
    field (sample, point)
        Weights of the kernel at those points.
    """

    theta: Array
    points: Array = dataclasses.field(default_factory=lambda: np.zeros((0, 4)))
    field: Array = dataclasses.field(default_factory=lambda: np.zeros((1, 0)))

    def for_samples(self, count: int) -> Array:
        """(count, 6): draws repeated, or cut, to pair with another fit's."""
        return self.theta[np.arange(count) % len(self.theta)]

    def excess(self, at: Place, log_steps_best: Array, log_lr: Array) -> Array:
        """Excess of runs, percent, (sample, target), field included.

        Parameters
        ----------
        at, log_steps_best
            As in `far_excess`, (sample, target).
        log_lr (target,)
            Natural log of each run's rate.
        """
        middle = far_excess(self.for_samples(len(at.first))[:, None, :], at, log_steps_best)
        if not len(self.points):
            return middle
        # The field is smooth: one place a target, the draws' median, is near enough.
        place = np.stack(
            [np.median(at.log_rate, 0), np.median(at.log_batch, 0), log_lr, np.median(at.log_steps, 0)], axis=-1
        )
        weights = self.field[np.arange(len(middle)) % len(self.field)]
        return np.asarray(middle + field_scale(middle) * (weights @ kernel(place, self.points).T))
