"""Data that is repeated: Chinchilla in effective tokens and effective parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaleband.laws.loss.form import ALPHA, BALANCE, BETA, REDUCIBLE, Covariates, LossLaw, Parameter, Values, power

TOKENS_HALF = Parameter(
    "repeat_decay", float(np.log(10.0)), 0.6, "exp", False, "epochs after which a repeat is worth 1/e: published 15"
)
SIZE_HALF = Parameter(
    "excess_decay", float(np.log(6.0)), 0.6, "exp", False, "the same for parameters beyond what the data can use: 5"
)


def saturating(xp: Any, ratio: Any, decay: Any) -> Any:
    """log of 1 + R* (1 - e^(-R / R*)), R = ratio - 1 >= 0: what `ratio` times the unique amount is worth."""
    extra = xp.maximum(ratio - 1, 0.0)
    return xp.log(1 - decay * xp.expm1(-extra / decay))


def effective(xp: Any, p: Values, x: Covariates) -> tuple[Any, Any]:
    """Effective log size and log tokens, relative to the reference."""
    unique = xp.minimum(x.u, x.d)
    tokens = unique + saturating(xp, power(xp, x.d - unique), p["repeat_decay"])
    # The size for which the unique tokens are compute-optimal: alpha w e^(-alpha n) = beta (1 - w) e^(-beta u).
    alpha, beta, w = p["alpha"], p["beta"], p["balance"]
    fitting = (beta * unique + xp.log(w * alpha / ((1 - w) * beta))) / alpha
    base = xp.minimum(fitting, x.n)
    size = base + saturating(xp, power(xp, x.n - base), p["excess_decay"])
    return size, tokens


def relative(xp: Any, p: Values, x: Covariates) -> Any:
    """Chinchilla at the effective size and tokens; at the reference itself only where nothing saturates there."""
    r, w = p["reducible"], p["balance"]
    n, d = effective(xp, p, x)
    return 1 - r + r * (w * power(xp, -p["alpha"] * n) + (1 - w) * power(xp, -p["beta"] * d))


LAW = LossLaw(
    name="repetition",
    meaning="E + A N'^-alpha + B D'^-beta, N' and D' effective parameters and tokens when data repeats",
    source="Muennighoff et al. 2023, arXiv 2305.16264, equations 5 and 6",
    parameters=(REDUCIBLE, BALANCE, ALPHA, BETA, TOKENS_HALF, SIZE_HALF),
    relative=relative,
    needs=frozenset("u"),
)
