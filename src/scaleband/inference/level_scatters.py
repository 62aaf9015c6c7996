"""Scatters of the sources' levels, with the law of levels integrated out.

Several teams share the law of levels, and each has a scatter of its own: the law can hold one team's levels fast and
scatter around the other's, or the other way round. Given the law, neither scatter can move far, and given the scatters
the law cannot: NUTS and one-at-a-time moves change sides once in thousands of draws. Given the *levels*, the law is
Gaussian and can be integrated out, and the scatters walk from one side to the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes.beliefs import OWN

Array = NDArray[np.float64]

STEPS = 6
"""Walks in a round; in every other one two sources exchange their scatters too."""
_SIZES = (0.2, 0.6, 1.8)
"""Of the walks, in standard deviations of the prior."""


@dataclass(frozen=True)
class LevelScatters:
    """What a table says of them, but for a draw's levels.

    Attributes
    ----------
    by_source (source, cell)
        1 where a cell is the source's, else 0.
    design (cell, coefficient)
        Of the levels' law, its coefficients standard normal.
    gram (source, coefficient, coefficient)
        The design's squares.
    """

    by_source: Array
    design: Array
    gram: Array

    @classmethod
    def of(cls, design: Array, source: NDArray[np.int64]) -> LevelScatters:
        """design (cell, coefficient); source (cell,)."""
        design = design[:, np.abs(design).sum(axis=0) > 0]
        by_source = (source == np.arange(source.max() + 1)[:, None]).astype(float)
        return cls(by_source, design, np.einsum("sc,ck,cl->skl", by_source, design, design))

    def log_density(self, std: Array, slope: Array, squares: Array) -> Array:
        """Log density of levels and scatters, up to a constant of the draw: (draw,).

        Parameters
        ----------
        std (draw, source)
            Log scatters, in standard deviations of their prior.
        slope (draw, source, coefficient), squares (draw, source)
            Of the levels less their prior mean: their products with the design and with themselves.
        """
        mean, sd, _ = OWN["log_scatter_level"]
        log_scatter = mean + sd * std
        weight = np.exp(-2 * log_scatter)
        k = self.design.shape[1]
        # The law's precision, bordered by slope and squares: the root's last corner is what the law leaves of these.
        bordered = np.empty((len(std), k + 1, k + 1))
        bordered[:, :k, :k] = np.tensordot(weight, self.gram, 1) + np.eye(k)
        bordered[:, k, :k] = bordered[:, :k, k] = np.einsum("ds,dsk->dk", weight, slope)
        bordered[:, k, k] = (weight * squares).sum(axis=1)
        root = np.diagonal(np.linalg.cholesky(bordered), axis1=1, axis2=2)
        left = root[:, k] ** 2 + (std**2).sum(axis=1)
        return -log_scatter @ self.by_source.sum(axis=1) - np.log(root[:, :k]).sum(axis=1) - 0.5 * left

    def moved(self, std: Array, levels: Array, rng: np.random.Generator) -> Array:
        """`std` (draw, source) after random walks, given levels less their prior mean (draw, cell)."""
        slope = np.einsum("dc,sc,ck->dsk", levels, self.by_source, self.design, optimize=True)
        squares = levels**2 @ self.by_source.T
        now = self.log_density(std, slope, squares)
        for step in range(STEPS):
            walked = rng.random(std.shape) < 0.5
            trial = std + rng.choice(_SIZES, (len(std), 1)) * walked * rng.standard_normal(std.shape)
            if step % 2:  # to the other side in one go
                pair = rng.permuted(np.tile(np.arange(std.shape[1]), (len(std), 1)), axis=1)[:, :2]
                np.put_along_axis(trial, pair, np.take_along_axis(trial, pair[:, ::-1], axis=1), axis=1)
            then = self.log_density(trial, slope, squares)
            taken = np.log(rng.random(now.shape)) < then - now
            std, now = np.where(taken[:, None], trial, std), np.where(taken, then, now)
        return std
