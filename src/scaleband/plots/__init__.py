"""Pictures: for each one a function that computes, one that draws, and `plot_...` that does both.

    basin        one cell: regret over rate and batch, its runs, optimum, recommendation, plateau
    campaign     band and expected regret against the FLOPs spent
    law          the optimum across cells, with bands
    predictive   residuals and PIT of runs under the fit
    prior        what the data said: prior against posterior
    plane        EVSI over the candidate cells of a proposal
    batch        what the next batch of runs would teach

`..._data` returns a frozen dataclass, `draw_...` takes it and an optional matplotlib Axes. No pyplot state is
touched: figures show themselves in a notebook, `save` writes them elsewhere. matplotlib is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaleband.plots.basin import BasinData, basin_data, draw_basin, plot_basin
    from scaleband.plots.batch import BatchData, batch_data, draw_batch, plot_batch
    from scaleband.plots.campaign import CampaignData, campaign_data, draw_campaign, plot_campaign
    from scaleband.plots.canvas import save
    from scaleband.plots.law import LawData, draw_law, law_data, plot_law
    from scaleband.plots.plane import PlaneData, draw_plane, plane_data, plot_plane
    from scaleband.plots.predictive import PredictiveData, draw_predictive, plot_predictive, predictive_data
    from scaleband.plots.prior import PriorData, draw_prior, plot_prior, prior_data

_HOME = {
    "BasinData": "basin",
    "BatchData": "batch",
    "CampaignData": "campaign",
    "LawData": "law",
    "PlaneData": "plane",
    "PredictiveData": "predictive",
    "PriorData": "prior",
    "basin_data": "basin",
    "batch_data": "batch",
    "campaign_data": "campaign",
    "draw_basin": "basin",
    "draw_batch": "batch",
    "draw_campaign": "campaign",
    "draw_law": "law",
    "draw_plane": "plane",
    "draw_predictive": "predictive",
    "draw_prior": "prior",
    "law_data": "law",
    "plane_data": "plane",
    "plot_basin": "basin",
    "plot_batch": "batch",
    "plot_campaign": "campaign",
    "plot_law": "law",
    "plot_plane": "plane",
    "plot_predictive": "predictive",
    "plot_prior": "prior",
    "predictive_data": "predictive",
    "prior_data": "prior",
    "save": "canvas",
}

__all__ = [
    "BasinData",
    "BatchData",
    "CampaignData",
    "LawData",
    "PlaneData",
    "PredictiveData",
    "PriorData",
    "basin_data",
    "batch_data",
    "campaign_data",
    "draw_basin",
    "draw_batch",
    "draw_campaign",
    "draw_law",
    "draw_plane",
    "draw_predictive",
    "draw_prior",
    "law_data",
    "plane_data",
    "plot_basin",
    "plot_batch",
    "plot_campaign",
    "plot_law",
    "plot_plane",
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
