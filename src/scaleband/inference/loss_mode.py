"""Mode and curvature of a loss model's posterior, in NumPy: coordinates for the sampler."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from scaleband.bayes.loss_model import LEVEL_BELIEF, SCALES, Layout, log_density

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


def _gradient(theta: Array, layout: Layout, arrays: dict[str, Any], step: Array) -> Array:
    each = np.diag(step)
    up, down = log_density(np, theta + each, layout, arrays), log_density(np, theta - each, layout, arrays)
    return np.asarray((up - down) / (2 * step))


def mode_and_factor(layout: Layout, arrays: dict[str, Any], start: Array | None = None) -> tuple[Array, Array]:
    """Posterior mode (entry,) and a Cholesky factor of the inverse negative Hessian there (entry, entry).

    Directions that the quadratic does not bound get a wide scale, which only costs the sampler steps.
    """
    theta = start_of(layout, arrays) if start is None else start
    width = np.array([0.02 if n.startswith("level:") else 0.3 for n in layout.names])
    step = 1e-4 * width

    def value(z: Array) -> tuple[float, Array]:
        at = theta + width * z
        found = float(log_density(np, at, layout, arrays))
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
