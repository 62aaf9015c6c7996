"""A loss model's posterior in NumPy: mode, curvature, and importance sampling around them.

Coordinates for NUTS, and the quick refits behind stacking weights (which fall back to NUTS where they do not hold).
All in the coordinates of `bayes.loss_model.sheared`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from scaleband.bayes.loss_model import SCALES, Layout, log_density, sheared
from scaleband.laws.loss.form import LEVEL_BELIEF

Array = NDArray[np.float64]


def start_of(layout: Layout, arrays: dict[str, Any]) -> Array:
    """Prior means, and each group's level at the mean of its observations."""
    theta = np.zeros(len(layout.names))
    for p in layout.law.parameters:
        theta[layout.block(p.name) if p.grouped else layout.at(p.name)] = p.mean
    for k, name in enumerate(layout.names):
        own = name.partition(":")[0]
        if own.startswith("log_"):
            theta[k] = SCALES.get(own, SCALES["log_spread_parameter"])[0]
    start = layout.block("level").start
    for g in range(len(layout.groups)):
        rows = (arrays["group"] == g) & (arrays["weight"] > 0)
        theta[start + g] = np.median(arrays["y"][rows]) if rows.any() else LEVEL_BELIEF[0]
    return theta


def target(z: Array, layout: Layout, arrays: dict[str, Any]) -> Array:
    """Log posterior in sampling coordinates, (..., entry) -> (...)."""
    return np.asarray(log_density(np, sheared(np, z, layout), layout, arrays))


def _gradient(theta: Array, layout: Layout, arrays: dict[str, Any], step: Array) -> Array:
    each = np.diag(step)
    up, down = target(theta + each, layout, arrays), target(theta - each, layout, arrays)
    return np.asarray((up - down) / (2 * step))


def unsheared(theta: Array, layout: Layout) -> Array:
    """The inverse of `bayes.loss_model.sheared`, (..., entry): what it shifts by does not depend on what it shifts."""
    return 2 * theta - sheared(np, theta, layout)


def mode_and_factor(layout: Layout, arrays: dict[str, Any], start: Array | None = None) -> tuple[Array, Array]:
    """Posterior mode (entry,) and a Cholesky factor of the inverse negative Hessian there (entry, entry).

    Directions that the quadratic does not bound get a wide scale, which only costs the sampler steps.
    """
    theta = unsheared(start_of(layout, arrays), layout) if start is None else start
    width = np.array([0.02 if n.startswith("level:") else 0.3 for n in layout.names])
    step = 1e-4 * width

    def value(z: Array) -> tuple[float, Array]:
        at = theta + width * z
        found = float(target(at, layout, arrays))
        slope = _gradient(at, layout, arrays, step) * width
        return (-found, -slope) if np.isfinite(found) else (1e300, np.zeros_like(z))

    best = minimize(value, np.zeros(len(theta)), jac=True, method="BFGS", options={"maxiter": 400, "gtol": 1e-2})
    centre = theta + width * best.x
    step = 1e-3 * width
    hessian = np.stack(
        [
            (_gradient(centre + e, layout, arrays, step) - _gradient(centre - e, layout, arrays, step)) / (2 * s)
            for e, s in zip(np.diag(step), step, strict=True)
        ]
    )
    scaled = -0.5 * (hessian + hessian.T) * np.outer(width, width)
    values, vectors = np.linalg.eigh(scaled)
    values = np.maximum(np.abs(values), 0.05)
    covariance = (vectors / values) @ vectors.T * np.outer(width, width)
    return centre, np.linalg.cholesky(covariance)


@dataclass(frozen=True)
class Sampled:
    """Importance sample of a posterior.

    Attributes
    ----------
    theta (sample, entry)
        Resampled draws of the parameter vector.
    pareto_k
        Shape of the weights' tail; above 0.7 the sample is not to be trusted.
    centre, factor
        Mean and Cholesky factor of the sample's covariance, in sampling coordinates.
    """

    theta: Array
    pareto_k: float
    centre: Array
    factor: Array


_PROPOSAL_DF = 6.0


def tempered(log_weight: Array, least: float) -> Array:
    """Normalised weights, raised to the largest power up to 1 at which at least `least` draws count."""
    low, high = 0.0, 1.0
    for k in range(20):
        power = high if k == 0 else (low + high) / 2
        weight = np.exp(power * (log_weight - log_weight.max()))
        weight /= weight.sum()
        enough = 1 / (weight**2).sum() >= least
        if k == 0 and enough:
            break
        low, high = (power, high) if enough else (low, power)
    return np.asarray(weight)


def importance_sample(
    layout: Layout, arrays: dict[str, Any], *, start: Array | None = None, count: int = 4000, rounds: int = 4,
    seed: int = 0,
) -> Sampled:
    """Adaptive importance sampling: a Student t around the mode, whose mean and covariance follow the sample.

    Weights are tempered while the proposal is still poor, so that no handful of draws decides its next shape.
    """
    from arviz_stats.base import array_stats

    rng = np.random.default_rng(seed)
    centre, factor = mode_and_factor(layout, arrays, start)
    size = len(centre)
    for k in range(rounds):
        stretch = np.sqrt(_PROPOSAL_DF / rng.chisquare(_PROPOSAL_DF, count))
        unit = rng.standard_normal((count, size)) * stretch[:, None]
        z = centre + unit @ factor.T
        log_q = -0.5 * (_PROPOSAL_DF + size) * np.log1p((unit**2).sum(1) / _PROPOSAL_DF)
        log_p = np.concatenate([target(part, layout, arrays) for part in np.array_split(z, max(count // 500, 1))])
        ratio = np.where(np.isfinite(log_p), log_p - log_q, -1e300)
        with np.errstate(all="ignore"):
            smooth, pareto_k = array_stats.psislw(ratio.max() - ratio)  # it takes minus the log weights
        weight = np.exp(smooth - smooth.max())
        weight = weight / weight.sum()
        if k < rounds - 1:
            soft = tempered(ratio, 12.0 * size)
            centre = soft @ z
            away = (z - centre) * np.sqrt(soft)[:, None]
            factor = np.linalg.cholesky(away.T @ away + 1e-10 * np.eye(size))
    mean = weight @ z
    away = (z - mean) * np.sqrt(weight)[:, None]
    spread = np.linalg.cholesky(away.T @ away + 1e-10 * np.eye(size))
    kept = rng.choice(count, count // 2, p=weight)
    return Sampled(sheared(np, z[kept], layout), float(pareto_k), mean, spread)
