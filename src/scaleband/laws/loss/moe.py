"""Mixture of experts: Chinchilla in an effective size between active and total parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaleband.laws.loss.form import (
    ALPHA, BALANCE, BETA, REDUCIBLE, Array, Covariates, LossLaw, Parameter, Values, power,
)  # fmt: skip

TOTAL_SHARE = Parameter(
    "total_share", 0.0, 1.0, "logistic", False, "0: only active parameters count; 1: only the total does"
)


def relative(xp: Any, p: Values, x: Covariates) -> Any:
    """Chinchilla with N_eff = N_active^(1 - q) N_total^q, so log N_eff = n + q s."""
    r, w = p["reducible"], p["balance"]
    size = power(xp, -p["alpha"] * (x.n + p["total_share"] * x.s))
    return 1 - r + r * (w * size + (1 - w) * power(xp, -p["beta"] * x.d))


def optimal_size(p: Values, c: Array, s: float = 0.0) -> Array:
    """Best log *active* size at a fixed compute (6 active parameters tokens) and sparsity s."""
    alpha, beta, w = p["alpha"], p["beta"], p["balance"]
    amplitude = np.log(w * alpha / ((1 - w) * beta)) - alpha * p["total_share"] * s
    return np.asarray((beta * c + amplitude) / (alpha + beta))


LAW = LossLaw(
    name="moe",
    meaning="E + A (N_active^(1-q) N_total^q)^-alpha + B D^-beta",
    source="effective parameters as in Clark et al. 2022, arXiv 2202.01169, in Hoffmann's form; derived here",
    parameters=(REDUCIBLE, BALANCE, ALPHA, BETA, TOTAL_SHARE),
    relative=relative,
    needs=frozenset("s"),
)
