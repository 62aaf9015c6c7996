"""Chinchilla whose exponents are every group's own, partly pooled: recipes that gain differently from scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from scaleband.laws.loss import chinchilla
from scaleband.laws.loss.form import BALANCE, REDUCIBLE, Covariates, LossLaw, Parameter, Values

SIZE = Parameter("size_exponent", float(np.log(0.35)), 0.45, "exp", True, "as alpha of the other laws, a group's own")
TOKENS = Parameter("tokens_exponent", float(np.log(0.35)), 0.45, "exp", True, "as beta of the other laws, likewise")


def relative(xp: Any, p: Values, x: Covariates) -> Any:
    """Chinchilla's, alpha and beta the group's."""
    return chinchilla.relative(xp, {**p, "alpha": p["size_exponent"], "beta": p["tokens_exponent"]}, x)


LAW = LossLaw(
    name="own-exponents",
    meaning="E + A N^-alpha + B D^-beta, alpha and beta of each group its own",
    source="Hoffmann et al. 2022, arXiv 2203.15556, for each group; pooled as all grouped parameters are",
    parameters=(REDUCIBLE, BALANCE, SIZE, TOKENS),
    relative=relative,
)
