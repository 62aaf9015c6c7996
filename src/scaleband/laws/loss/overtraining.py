"""A law in compute and tokens per parameter: E + (a M^eta + b M^-eta) C^-eta, M = D / N."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaleband.laws.loss.form import BALANCE, REDUCIBLE, Array, Covariates, LossLaw, Parameter, Values, power

ETA = Parameter("eta", float(np.log(0.17)), 0.45, "exp", False, "half of Chinchilla's common exponent: 0.05 to 0.35")


def relative(xp: Any, p: Values, x: Covariates) -> Any:
    """1 - r + r e^(-eta c) (w e^(eta m) + (1 - w) e^(-eta m)) with c = n + d, m = d - n."""
    r, w, eta = p["reducible"], p["balance"], p["eta"]
    c, m = x.n + x.d, x.d - x.n
    return 1 - r + r * (w * power(xp, eta * (m - c)) + (1 - w) * power(xp, -eta * (m + c)))


def optimal_size(p: Values, c: Array) -> Array:
    """(c - m*) / 2 with tokens per parameter m* = log((1 - w) / w) / (2 eta), whatever the compute."""
    w = p["balance"]
    return np.asarray((c - np.log((1 - w) / w) / (2 * p["eta"])) / 2)


LAW = LossLaw(
    name="overtraining",
    meaning="E + (a M^eta + b M^-eta) C^-eta, M tokens per parameter",
    source="Gadre et al. 2024, arXiv 2403.08540, equation 4",
    parameters=(REDUCIBLE, BALANCE, ETA),
    relative=relative,
    optimal_size=optimal_size,
)
