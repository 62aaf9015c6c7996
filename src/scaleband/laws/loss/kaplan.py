"""Kaplan's joint form with an irreducible loss: E + (A N^-a + B D^-b)^gamma."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaleband.laws.loss.form import (
    ALPHA, BALANCE, BETA, REDUCIBLE, Array, Covariates, LossLaw, Parameter, Values, power,
)  # fmt: skip

GAMMA = Parameter(
    "gamma", 0.0, 0.6, "exp", False, "1 is Chinchilla; below 1 the smaller of the two terms counts for less"
)


def relative(xp: Any, p: Values, x: Covariates) -> Any:
    """1 - r + r (w e^(-a n) + (1 - w) e^(-b d))^gamma with a = alpha / gamma, b = beta / gamma.

    alpha and beta are the exponents where one term rules alone, which the runs know better than a and b.
    """
    r, w, gamma = p["reducible"], p["balance"], p["gamma"]
    inner = w * power(xp, -p["alpha"] / gamma * x.n) + (1 - w) * power(xp, -p["beta"] / gamma * x.d)
    return 1 - r + r * inner**gamma


def optimal_size(p: Values, c: Array) -> Array:
    """Chinchilla's, with a and b: the outer power does not move the optimum."""
    a, b, w = p["alpha"] / p["gamma"], p["beta"] / p["gamma"], p["balance"]
    return np.asarray((b * c + np.log(w * a / ((1 - w) * b))) / (a + b))


LAW = LossLaw(
    name="kaplan",
    meaning="E + (A N^-a + B D^-b)^gamma",
    source="Kaplan et al. 2020, arXiv 2001.08361, equation 1.5, with an irreducible loss added",
    parameters=(REDUCIBLE, BALANCE, ALPHA, BETA, GAMMA),
    relative=relative,
    optimal_size=optimal_size,
)
