"""A local law: log loss falls with log size and log tokens, ever more slowly; no floor is claimed."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaleband.laws.loss.form import Covariates, LossLaw, Parameter, Values, power

SIZE = Parameter(
    "size_rate", float(np.log(0.07)), 0.5, "exp", False, "the loss falls by 0.03-0.16 % per percent of size"
)  # fmt: skip
TOKENS = Parameter("tokens_rate", float(np.log(0.06)), 0.5, "exp", False, "and by 0.02-0.14 % per percent of tokens")
SIZE_BEND = Parameter("size_flattening", float(np.log(0.008)), 0.7, "exp", False, "a rate that falls by 0.2-3 points "
                      "per e-fold of size")  # fmt: skip
TOKENS_BEND = Parameter("tokens_flattening", float(np.log(0.008)), 0.7, "exp", False, "and of tokens")
CROSS = Parameter(
    "size_by_tokens", 0.0, 0.008, "identity", False, "larger models gain a little more, or less, from tokens"
)  # fmt: skip

_REACH = 3.0  # e-folds over which size and tokens may interact; further out the product stands still


def fallen(xp: Any, rate: Any, bend: Any, x: Any) -> Any:
    """(s^2 / f) log(1 + f x / s): s x - f x^2 / 2 near the reference, its slope s / (1 + f x / s) never below zero."""
    return rate**2 / bend * xp.log1p(xp.maximum(bend / rate * x, -0.9))


def relative(xp: Any, p: Values, x: Covariates) -> Any:
    """e^(-S(n) - T(d) - c n d), the product bounded: quadratic in the logs near the runs, monotone beyond them."""
    size = fallen(xp, p["size_rate"], p["size_flattening"], x.n)
    tokens = fallen(xp, p["tokens_rate"], p["tokens_flattening"], x.d)
    cross = p["size_by_tokens"] * _REACH**2 * xp.tanh(x.n / _REACH) * xp.tanh(x.d / _REACH)
    return power(xp, -size - tokens - cross)


LAW = LossLaw(
    name="bending",
    meaning="(1 + f log N / s)^(-s^2 / f) (1 + g log D / t)^(-t^2 / g) e^(-c log N log D)",
    source="a log-quadratic surface whose rates fall without changing sign; derived here",
    parameters=(SIZE, TOKENS, SIZE_BEND, TOKENS_BEND, CROSS),
    relative=relative,
)
