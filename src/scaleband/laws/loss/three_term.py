"""Three terms: size, steps and batch: E + A N^-alpha + B K^-beta + C B^-gamma. A batch may be far from its best."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaleband.laws.loss.form import (
    ALPHA,
    BALANCE,
    REDUCIBLE,
    Array,
    Covariates,
    LossLaw,
    Parameter,
    Values,
    power,
)

STEPS_SHARE = Parameter(
    "steps_share", 0.0, 1.0, "logistic", True, "of what size does not remove, the steps' share; the batch's is the rest"
)
STEPS = Parameter("steps_exponent", float(np.log(0.6)), 0.5, "exp", False, "exponent on optimizer steps")
BATCH = Parameter("batch_exponent", float(np.log(0.6)), 0.5, "exp", False, "exponent on tokens per step")


def relative(xp: Any, p: Values, x: Covariates) -> Any:
    """1 - r + r (w e^(-alpha n) + (1 - w) (v e^(-beta k) + (1 - v) e^(-gamma b))), steps k = d - b."""
    r, w, v = p["reducible"], p["balance"], p["steps_share"]
    data = v * power(xp, -p["steps_exponent"] * (x.d - x.b)) + (1 - v) * power(xp, -p["batch_exponent"] * x.b)
    return 1 - r + r * (w * power(xp, -p["alpha"] * x.n) + (1 - w) * data)


def optimal_batch(p: Values, d: Array) -> Array:
    """Best log batch at fixed tokens: (beta d + log(gamma (1 - v) / (beta v))) / (beta + gamma).

    The best batch grows as D^(beta / (beta + gamma)); with it the loss falls as D^(-beta gamma / (beta + gamma)).
    """
    beta, gamma, v = p["steps_exponent"], p["batch_exponent"], p["steps_share"]
    return np.asarray((beta * d + np.log(gamma * (1 - v) / (beta * v))) / (beta + gamma))


LAW = LossLaw(
    name="three-term",
    meaning="E + A N^-alpha + B K^-beta + C B^-gamma, K optimizer steps, B tokens per step",
    source="after the abstract of Schaipp 2026, arXiv 2607.01487; the exact form is derived here",
    parameters=(REDUCIBLE, BALANCE, ALPHA, STEPS_SHARE, STEPS, BATCH),
    relative=relative,
    needs=frozenset("b"),
    optimal_batch=optimal_batch,
)
