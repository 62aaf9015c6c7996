"""Chinchilla with an interaction: E + A N^-alpha + B D^-beta + C N^-alpha D^-beta."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaleband.laws.loss.form import ALPHA, BALANCE, BETA, REDUCIBLE, Covariates, LossLaw, Parameter, Values, power

INTERACTION = Parameter(
    "interaction", float(np.log(0.9)), 0.5, "exp", False,
    "0.9 + the product's term over the sum of the other two, at the reference: from -0.5 to 1.1 of it",
)  # fmt: skip


def relative(xp: Any, p: Values, x: Covariates) -> Any:
    """1 - r + r (w e^(-alpha n) + (1 - w) e^(-beta d) + k e^(-alpha n - beta d)) / (1 + k), k > -0.9.

    Below zero the product says that what size and tokens mend overlaps; it then vanishes at scale, while far below
    the runs the loss would no longer fall with size: not a law for much smaller models.
    """
    r, w, k = p["reducible"], p["balance"], p["interaction"] - 0.9
    size, tokens = power(xp, -p["alpha"] * x.n), power(xp, -p["beta"] * x.d)
    return 1 - r + r * (w * size + (1 - w) * tokens + k * size * tokens) / (1 + k)


LAW = LossLaw(
    name="interaction",
    meaning="E + A N^-alpha + B D^-beta + C N^-alpha D^-beta",
    source="Hoffmann et al. 2022 with the product of its two terms; derived here",
    parameters=(REDUCIBLE, BALANCE, ALPHA, BETA, INTERACTION),
    relative=relative,
)
