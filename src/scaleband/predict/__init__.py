"""From draws to answers: optimum, recommended setting, regret, plateau. Intervals are taken last.

NumPy inside, so that a command answers in a second; `dataset` wraps the draws in xarray for notebooks.
"""

from scaleband.predict.intervals import interval
from scaleband.predict.loss import predict_log_loss
from scaleband.predict.optimum import (
    PLATEAU,
    Setting,
    expected_regret,
    joint_level,
    optimum_given_batch,
    plateau,
    recommend,
    regret,
    round_to_grid,
)
from scaleband.predict.targets import Basins, Extrapolation, basins, extrapolation, target_cells

__all__ = [
    "PLATEAU",
    "Basins",
    "Extrapolation",
    "Setting",
    "basins",
    "expected_regret",
    "extrapolation",
    "interval",
    "joint_level",
    "optimum_given_batch",
    "plateau",
    "predict_log_loss",
    "recommend",
    "regret",
    "round_to_grid",
    "target_cells",
]
