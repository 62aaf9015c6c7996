"""From draws to answers: optimum, recommended setting, regret, plateau. Intervals are taken last.

NumPy inside, so that a command answers in a second; `dataset` wraps the draws in xarray for notebooks.
"""

from scaleband.predict.contrasts import Contrasts, contrasts
from scaleband.predict.intervals import interval
from scaleband.predict.loss import far_regret, predict_log_loss
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
from scaleband.predict.reach import Reach, reach
from scaleband.predict.sensitivity import lr_sensitivity
from scaleband.predict.targets import Basins, Extrapolation, basins, extrapolation, target_cells

__all__ = [
    "PLATEAU",
    "Basins",
    "Contrasts",
    "Extrapolation",
    "Reach",
    "Setting",
    "basins",
    "contrasts",
    "expected_regret",
    "extrapolation",
    "far_regret",
    "interval",
    "joint_level",
    "lr_sensitivity",
    "optimum_given_batch",
    "plateau",
    "predict_log_loss",
    "reach",
    "recommend",
    "regret",
    "round_to_grid",
    "target_cells",
]
