"""The laws in NumPy: the basin, the law of the optimum, and the draws that speak for them.

These functions are the oracle of the tests; `bayes` states the same laws in PyMC.
"""

from scaleband.laws.basin import Ends, along_rate, conditional_log_lr, ends, excess, excess_gradient, linex
from scaleband.laws.design import (
    ANGLE,
    CURVATURE,
    FEATURES,
    FORMS,
    HYPERPARAMETERS,
    LEVEL,
    REFERENCE,
    RESPONSES,
    ROLES,
    SCATTER_RATIO_SD,
    SKEW,
    STACK,
    STACKED,
    Cells,
    Design,
    Form,
    design_for,
)
from scaleband.laws.draws import DRAWN, LawDraws
from scaleband.laws.likelihood import CENSOR_ABOVE, SPONTANEOUS, noise_scale, run_log_density
from scaleband.laws.simulated import SimulatedSweep, simulated_sweep
from scaleband.laws.steplaw import published_optimum

__all__ = [
    "ANGLE",
    "CENSOR_ABOVE",
    "CURVATURE",
    "DRAWN",
    "FEATURES",
    "FORMS",
    "HYPERPARAMETERS",
    "LEVEL",
    "REFERENCE",
    "RESPONSES",
    "ROLES",
    "SCATTER_RATIO_SD",
    "SKEW",
    "SPONTANEOUS",
    "STACK",
    "STACKED",
    "Cells",
    "Design",
    "Ends",
    "Form",
    "LawDraws",
    "SimulatedSweep",
    "along_rate",
    "conditional_log_lr",
    "design_for",
    "ends",
    "excess",
    "excess_gradient",
    "linex",
    "noise_scale",
    "published_optimum",
    "run_log_density",
    "simulated_sweep",
]
