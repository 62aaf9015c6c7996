"""Loss laws: L(size, tokens, ...) in one formula each, for NumPy and PyTensor alike.

Adding a law is one file with a `LAW`, and its line here.
"""

from scaleband.laws.loss import (
    bending,
    chinchilla,
    farseer,
    interaction,
    kaplan,
    moe,
    overtraining,
    own_exponents,
    repetition,
    three_term,
)
from scaleband.laws.loss.form import Covariates, LossLaw, Parameter
from scaleband.laws.loss.optimum import minimise_each

LAWS: dict[str, LossLaw] = {
    module.LAW.name: module.LAW
    for module in (
        chinchilla, kaplan, interaction, farseer, overtraining, bending, moe, three_term, repetition, own_exponents
    )
}
"""Every law by its name."""

GENERAL = ("chinchilla", "kaplan", "interaction", "farseer", "overtraining")
"""Laws in size and tokens alone, which any table can be asked about: what is stacked by default."""

LOCAL = ("bending",)
"""Laws without a floor, stacked too where cells of a sweep are fitted: those span few scales, and are asked nearby."""

__all__ = ["GENERAL", "LAWS", "LOCAL", "Covariates", "LossLaw", "Parameter", "minimise_each"]
