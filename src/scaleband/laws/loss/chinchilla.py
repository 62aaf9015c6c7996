"""Chinchilla: E + A N^-alpha + B D^-beta."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaleband.laws.loss.form import ALPHA, BALANCE, BETA, REDUCIBLE, Array, Covariates, LossLaw, Values, power


def relative(xp: Any, p: Values, x: Covariates) -> Any:
    """1 - r + r (w e^(-alpha n) + (1 - w) e^(-beta d))."""
    r, w = p["reducible"], p["balance"]
    return 1 - r + r * (w * power(xp, -p["alpha"] * x.n) + (1 - w) * power(xp, -p["beta"] * x.d))


def optimal_size(p: Values, c: Array) -> Array:
    """(beta c + log(w alpha / ((1 - w) beta))) / (alpha + beta): Hoffmann et al., equation 4, in logs."""
    alpha, beta, w = p["alpha"], p["beta"], p["balance"]
    return np.asarray((beta * c + np.log(w * alpha / ((1 - w) * beta))) / (alpha + beta))


def from_published(
    e: float, a: float, b: float, alpha: float, beta: float, n_ref: float, d_ref: float
) -> tuple[float, dict[str, float]]:
    """Loss at the reference, and the parameters, of a law given as E, A, B, alpha, beta."""
    size, tokens = a * n_ref**-alpha, b * d_ref**-beta
    level = e + size + tokens
    return level, {
        "reducible": (size + tokens) / level, "balance": size / (size + tokens), "alpha": alpha, "beta": beta
    }  # fmt: skip


def to_published(level: Array, p: Values, n_ref: float, d_ref: float) -> dict[str, Array]:
    """E, A, B, alpha, beta from the loss at the reference and the parameters; dims of the draws."""
    r, w = np.asarray(p["reducible"]), np.asarray(p["balance"])
    return {
        "E": level * (1 - r),
        "A": level * r * w * n_ref ** p["alpha"],
        "B": level * r * (1 - w) * d_ref ** p["beta"],
        "alpha": np.asarray(p["alpha"]),
        "beta": np.asarray(p["beta"]),
    }


LAW = LossLaw(
    name="chinchilla",
    meaning="E + A N^-alpha + B D^-beta",
    source="Hoffmann et al. 2022, arXiv 2203.15556, approach 3; replication: Besiroglu et al. 2024, arXiv 2404.10102",
    parameters=(REDUCIBLE, BALANCE, ALPHA, BETA),
    relative=relative,
    optimal_size=optimal_size,
)
