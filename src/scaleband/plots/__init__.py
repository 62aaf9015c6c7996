"""Pictures: for each one a function that computes, one that draws, and `plot_...` that does both.

    basin        one cell: regret over rate and batch, its runs, optimum, recommendation, plateau
    campaign     band and expected regret against the FLOPs spent
    law          the optimum across cells, with bands
    predictive   residuals and PIT of runs under the fit
    prior        what the data said: prior against posterior

`..._data` returns a frozen dataclass, `draw_...` takes it and an optional matplotlib Axes. No pyplot state is
touched: figures show themselves in a notebook, `save` writes them elsewhere. matplotlib is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaleband.plots.basin import BasinData, basin_data, draw_basin, plot_basin
    from scaleband.plots.campaign import CampaignData, campaign_data, draw_campaign, plot_campaign
    from scaleband.plots.canvas import save
    from scaleband.plots.law import LawData, draw_law, law_data, plot_law
    from scaleband.plots.predictive import PredictiveData, draw_predictive, plot_predictive, predictive_data
    from scaleband.plots.prior import PriorData, draw_prior, plot_prior, prior_data

_HOME = {
    "BasinData": "basin",
    "CampaignData": "campaign",
    "LawData": "law",
    "PredictiveData": "predictive",
    "PriorData": "prior",
    "basin_data": "basin",
    "campaign_data": "campaign",
    "draw_basin": "basin",
    "draw_campaign": "campaign",
    "draw_law": "law",
    "draw_predictive": "predictive",
    "draw_prior": "prior",
    "law_data": "law",
    "plot_basin": "basin",
    "plot_campaign": "campaign",
    "plot_law": "law",
    "plot_predictive": "predictive",
    "plot_prior": "prior",
    "predictive_data": "predictive",
    "prior_data": "prior",
    "save": "canvas",
}

__all__ = [
    "BasinData",
    "CampaignData",
    "LawData",
    "PredictiveData",
    "PriorData",
    "basin_data",
    "campaign_data",
    "draw_basin",
    "draw_campaign",
    "draw_law",
    "draw_predictive",
    "draw_prior",
    "law_data",
    "plot_basin",
    "plot_campaign",
    "plot_law",
    "plot_predictive",
    "plot_prior",
    "predictive_data",
    "prior_data",
    "save",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
