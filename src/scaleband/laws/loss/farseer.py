"""Farseer: e^(a3 N^gamma + b3) + e^(a2 N^beta + b2) D^(-e^(a1 N^alpha + b1)): the token exponent depends on size."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaleband.laws.loss.form import Covariates, LossLaw, Parameter, Values, power


def stretched(xp: Any, slope: Any, bend: Any, n: Any) -> Any:
    """a N^bend + b as slope (e^(bend n) - 1) / bend: value 0 and derivative `slope` at the reference.

    The series near bend n = 0 keeps value and gradient finite.
    """
    z = xp.clip(bend * n, -8.0, 8.0)
    small = xp.abs(z) < 1e-3
    safe = xp.where(small, 1.0, z)
    return slope * n * xp.where(small, 1 + z / 2 + z * z / 6, (xp.exp(safe) - 1) / safe)


def relative(xp: Any, p: Values, x: Covariates) -> Any:
    """(1 - t) e^(-U(n)) + t e^(-V(n) - b1 e^(W(n)) d), each of U, V, W a stretched power of size."""
    t = p["token_share"]
    floor = power(xp, -stretched(xp, p["size_slope"], p["size_bend"], x.n))
    exponent = p["token_exponent"] * power(xp, stretched(xp, p["exponent_slope"], p["exponent_bend"], x.n))
    amplitude = stretched(xp, p["amplitude_slope"], p["amplitude_bend"], x.n)
    return (1 - t) * floor + t * power(xp, -amplitude - exponent * x.d)


LAW = LossLaw(
    name="farseer",
    meaning="e^(a3 N^gamma + b3) + e^(a2 N^beta + b2) D^(-e^(a1 N^alpha + b1))",
    source="Li et al. 2025, Farseer, arXiv 2506.10972, equation 1",
    parameters=(
        Parameter("token_share", -1.4, 0.8, "logistic", True, "5-50 % of the loss at the reference falls with tokens"),
        Parameter("size_slope", float(np.log(0.06)), 0.6, "exp", False, "what more tokens do not mend falls by "
                  "0.02-0.2 % per percent of size"),
        Parameter("size_bend", -0.2, 0.15, "identity", False, "the larger the model, the less: towards a floor"),
        Parameter("amplitude_slope", 0.05, 0.1, "identity", False, "the token term changes slowly with size"),
        Parameter("amplitude_bend", 0.0, 0.15, "identity", False, "and bends little"),
        Parameter("token_exponent", float(np.log(0.4)), 0.4, "exp", False, "exponent on tokens at the reference size"),
        Parameter("exponent_slope", 0.0, 0.1, "identity", False, "the exponent moves by 0-15 % per e-fold of size"),
        Parameter("exponent_bend", 0.0, 0.15, "identity", False, "and bends little"),
    ),
    relative=relative,
)  # fmt: skip
