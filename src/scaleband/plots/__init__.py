"""Pictures: for each one a function that computes, one that draws, and `plot_...` that does both.

    basin        one cell: regret over rate and batch, its runs, optimum, recommendation, plateau
    campaign     band and expected regret against the FLOPs spent
    law          the optimum across cells, with bands
    predictive   residuals and PIT of runs under the fit
    contrasts    what prior and posterior expect of the runs: excess over the cell's best
    prior        what the data said: prior against posterior
    plane        EVSI over the candidate cells of a proposal
    batch        what the next batch of runs would teach
    isoflop      loss against size at fixed budgets
    frontier     loss against compute, group by group
    residuals    what the loss laws leave, cell by cell
    weights      which loss law, and how much it matters
    allocation   the best split of a budget

`..._data` returns a frozen dataclass, `draw_...` takes it and an optional matplotlib Axes. No pyplot state is
touched: figures show themselves in a notebook, `save` writes them elsewhere. matplotlib is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaleband.plots.allocation import AllocationData, allocation_data, draw_allocation, plot_allocation
    from scaleband.plots.basin import BasinData, basin_data, draw_basin, plot_basin
    from scaleband.plots.batch import BatchData, batch_data, draw_batch, plot_batch
    from scaleband.plots.campaign import CampaignData, campaign_data, draw_campaign, plot_campaign
    from scaleband.plots.canvas import save
    from scaleband.plots.contrasts import ContrastData, contrast_data, draw_contrasts, plot_contrasts
    from scaleband.plots.frontier import FrontierData, draw_frontier, frontier_data, plot_frontier
    from scaleband.plots.isoflop import IsoflopData, draw_isoflop, isoflop_data, plot_isoflop
    from scaleband.plots.law import LawData, draw_law, law_data, plot_law
    from scaleband.plots.plane import PlaneData, draw_plane, plane_data, plot_plane
    from scaleband.plots.predictive import PredictiveData, draw_predictive, plot_predictive, predictive_data
    from scaleband.plots.prior import PriorData, draw_prior, plot_prior, prior_data
    from scaleband.plots.residuals import ResidualData, draw_residuals, plot_residuals, residual_data
    from scaleband.plots.weights import WeightData, draw_weights, plot_weights, weight_data

_HOME = {
    "AllocationData": "allocation",
    "BasinData": "basin",
    "BatchData": "batch",
    "CampaignData": "campaign",
    "ContrastData": "contrasts",
    "FrontierData": "frontier",
    "IsoflopData": "isoflop",
    "LawData": "law",
    "PlaneData": "plane",
    "PredictiveData": "predictive",
    "PriorData": "prior",
    "ResidualData": "residuals",
    "WeightData": "weights",
    "allocation_data": "allocation",
    "basin_data": "basin",
    "batch_data": "batch",
    "campaign_data": "campaign",
    "contrast_data": "contrasts",
    "draw_allocation": "allocation",
    "draw_basin": "basin",
    "draw_batch": "batch",
    "draw_campaign": "campaign",
    "draw_contrasts": "contrasts",
    "draw_frontier": "frontier",
    "draw_isoflop": "isoflop",
    "draw_law": "law",
    "draw_plane": "plane",
    "draw_predictive": "predictive",
    "draw_prior": "prior",
    "draw_residuals": "residuals",
    "draw_weights": "weights",
    "frontier_data": "frontier",
    "isoflop_data": "isoflop",
    "law_data": "law",
    "plane_data": "plane",
    "plot_allocation": "allocation",
    "plot_basin": "basin",
    "plot_batch": "batch",
    "plot_campaign": "campaign",
    "plot_contrasts": "contrasts",
    "plot_frontier": "frontier",
    "plot_isoflop": "isoflop",
    "plot_law": "law",
    "plot_plane": "plane",
    "plot_predictive": "predictive",
    "plot_prior": "prior",
    "plot_residuals": "residuals",
    "plot_weights": "weights",
    "predictive_data": "predictive",
    "prior_data": "prior",
    "residual_data": "residuals",
    "save": "canvas",
    "weight_data": "weights",
}

__all__ = [
    "AllocationData",
    "BasinData",
    "BatchData",
    "CampaignData",
    "ContrastData",
    "FrontierData",
    "IsoflopData",
    "LawData",
    "PlaneData",
    "PredictiveData",
    "PriorData",
    "ResidualData",
    "WeightData",
    "allocation_data",
    "basin_data",
    "batch_data",
    "campaign_data",
    "contrast_data",
    "draw_allocation",
    "draw_basin",
    "draw_batch",
    "draw_campaign",
    "draw_contrasts",
    "draw_frontier",
    "draw_isoflop",
    "draw_law",
    "draw_plane",
    "draw_predictive",
    "draw_prior",
    "draw_residuals",
    "draw_weights",
    "frontier_data",
    "isoflop_data",
    "law_data",
    "plane_data",
    "plot_allocation",
    "plot_basin",
    "plot_batch",
    "plot_campaign",
    "plot_contrasts",
    "plot_frontier",
    "plot_isoflop",
    "plot_law",
    "plot_plane",
    "plot_predictive",
    "plot_prior",
    "plot_residuals",
    "plot_weights",
    "predictive_data",
    "prior_data",
    "residual_data",
    "save",
    "weight_data",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
