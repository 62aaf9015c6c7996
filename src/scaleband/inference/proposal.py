"""What is proposed to a cell in `gibbs`: a Student-t of the precision and centre that its law gives with its runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FREEDOM = 12.0
"""Of the Student-t proposals; on Step Law's cells two thirds are accepted."""

_AS_PRIOR = 20.0
"""Draws' worth of no correlation in what proposals are fitted to."""


@dataclass(frozen=True)
class Proposal:
    """What the draws show that runs say of every cell, as a Gaussian: precision `told` (cell, response, response) and
    `slope` (cell, response), so that with a law of precision p a state is N((told + p)^-1 (slope + p law), ...)."""

    told: Array
    slope: Array

    @classmethod
    def of(cls, state: Array, law: Array, spread: Array) -> Proposal:
        """From draws of states, laws and scatters (draw, response, cell)."""
        n, weight = len(state), spread**-2.0
        # The precision that a state has given its law (by regression), less what the law itself adds to that.
        x, y = ((v - v.mean(0)).transpose(2, 0, 1) for v in (law, state))
        unit = x.std(axis=1, keepdims=True) + 1e-9
        x = x / unit
        turned, eye = x.transpose(0, 2, 1), np.eye(x.shape[2])
        left = y - x @ np.linalg.solve(turned @ x + _AS_PRIOR * eye, turned @ y)
        squares = left.transpose(0, 2, 1) @ left
        own = np.einsum("crr->cr", squares)[:, :, None] / n + 1e-12
        precision = np.linalg.inv((squares + _AS_PRIOR * own * eye) / (n + _AS_PRIOR))
        mean_weight = weight.mean(0).T
        root = np.sqrt(mean_weight)
        scaled = precision / (root[:, :, None] * root[:, None, :]) - eye
        values, vectors = np.linalg.eigh(scaled)
        scaled = (vectors * np.maximum(values, 0.0)[:, None, :]) @ vectors.transpose(0, 2, 1)
        told = scaled * root[:, :, None] * root[:, None, :]
        slope = np.einsum("crs,sc->cr", told, state.mean(0)) + (weight * (state - law)).mean(0).T
        return cls(told, slope)

    def factor(self, spread: Array) -> Array:
        """L with L L^T = (told + p)^-1 for scatters (draw, response, cell): (draw, cell, response, response)."""
        weight = spread.transpose(0, 2, 1) ** -2.0
        precision = self.told + weight[..., None] * np.eye(weight.shape[2])
        return np.linalg.inv(np.linalg.cholesky(precision)).swapaxes(2, 3)

    def centre(self, factor: Array, law: Array, spread: Array) -> Array:
        """For laws and scatters (draw, response, cell): (draw, cell, response)."""
        right = self.slope + (law / spread**2).transpose(0, 2, 1)
        return (factor @ (factor.swapaxes(2, 3) @ right[..., None]))[..., 0]


def student(old: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Student-t steps in place of `old` (..., k), both in units of the proposal, and log q(old) - log q(new)."""
    new = rng.standard_normal(old.shape) * np.sqrt(_FREEDOM / rng.chisquare(_FREEDOM, (*old.shape[:-1], 1)))
    far = np.log((_FREEDOM + (new**2).sum(axis=-1)) / (_FREEDOM + (old**2).sum(axis=-1)))
    return new, 0.5 * (_FREEDOM + old.shape[-1]) * far
