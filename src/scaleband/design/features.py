"""What a bundle's losses say, as numbers that a rule for the decision may be linear in.

Any function of the outcomes gives a valid (lower) bound on EVSI, so these are chosen for what they catch: contrasts
between the runs of a cell (a lone loss says little where the level is unknown), the same compressed (a wall is no ten
times better news than a slope), where the best runs lie, and products of contrasts (slope times curvature).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SOFT = (0.15, 0.8)  # percent: runs this much worse than the best still count in where the best ones lie
_FLOOR = 1e-12


def standardised(value: Array, reach: float = 5.0) -> Array:
    """Columns centred at their mean with unit mean deviation, cut at `reach`: (sample, ...)."""
    centred = value - value.mean(0)
    scale = np.abs(centred).mean(0)
    return np.clip(centred / np.maximum(scale, _FLOOR), -reach, reach)


def single_features(y: Array) -> Array:
    """Features of lone runs: y (sample, run) -> (2, sample, run), compressed loss and its square."""
    z = np.arcsinh(standardised(y, np.inf))
    return np.stack([z, z * z])


def sweep_features(y: Array, x: Array) -> Array:
    """Features of the runs of one cell.

    Parameters
    ----------
    y (sample, run)
        Outcomes, percent, at least two runs.
    x (run, 2)
        Where they are, log units.

    Returns
    -------
    (sample, feature)
    """
    n_runs = y.shape[1]
    best = y.min(1)
    contrast = y - y.mean(1, keepdims=True)
    parts = [np.arcsinh(standardised(y.mean(1), np.inf))[:, None], standardised(contrast[:, :-1])]
    spread = np.median(np.abs(contrast))
    parts.append(standardised(np.arcsinh((y - best[:, None]) / max(0.3 * spread, 0.1))))
    if n_runs > 2:
        parts += [_best_place(y, x, width) for width in _SOFT]
        _, _, axes = np.linalg.svd(standardised(contrast), full_matrices=False)
        lead = standardised(standardised(contrast) @ axes[: min(3, n_runs - 1)].T)
        i, j = np.triu_indices(lead.shape[1])
        parts.append(lead[:, i] * lead[:, j])
    else:
        parts.append(parts[1] ** 2)
    return np.concatenate(parts, axis=1)


def sweep_summaries(y: Array, x: Array) -> Array:
    """Features of three runs or more of one cell, whose number does not grow with theirs: the most telling first.

    Where the best runs lie (by two widths), their leading contrasts, their mean, products of contrasts; parameters as
    in `sweep_features`.

    Returns
    -------
    (sample, 14), fewer for three runs.
    """
    contrast = y - y.mean(1, keepdims=True)
    _, _, axes = np.linalg.svd(standardised(contrast), full_matrices=False)
    lead = standardised(standardised(contrast) @ axes[: min(3, y.shape[1] - 1)].T)
    i, j = np.triu_indices(lead.shape[1])
    parts = [_best_place(y, x, width) for width in reversed(_SOFT)]
    parts += [lead, np.arcsinh(standardised(y.mean(1), np.inf))[:, None], lead[:, i] * lead[:, j]]
    return np.concatenate(parts, axis=1)


def _best_place(y: Array, x: Array, width: float) -> Array:
    """Where the best runs lie, (sample, 2)."""
    weight = np.exp(-(y - y.min(1)[:, None]) / width)
    return standardised(weight @ x / weight.sum(1, keepdims=True))
