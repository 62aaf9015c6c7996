"""The allocation frontier: best size, tokens and tokens per parameter against the budget, with bands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scaleband.labels import flops_label
from scaleband.laws.loss.draws import LossDraws
from scaleband.plots.canvas import (
    COLOURS,
    GREY,
    INK,
    log_x,
    log_y,
    new_figure,
    percent_label,
    span,
    title_lines,
)
from scaleband.plots.isoflop import budgets_beyond, group_runs
from scaleband.predict import interval
from scaleband.predict.allocation import Limits, allocate
from scaleband.predict.comparison import own_sparsity

Array = NDArray[np.float64]


@dataclass(frozen=True)
class AllocationData:
    """Best splits of one group along compute.

    Attributes
    ----------
    group, mass
        Whose; probability inside the bands.
    flops (point,)
        Budgets.
    n_params, n_tokens, ratio (bound, point)
        Median, lower, upper of the best size, tokens, tokens per parameter.
    chosen (2, point)
        The one split for all draws: n_params, n_tokens.
    fitted
        Largest observed compute of the group, FLOP.
    """

    group: str
    mass: float
    flops: Array
    n_params: Array
    n_tokens: Array
    ratio: Array
    chosen: Array
    fitted: float


def allocation_data(
    draws: LossDraws, group: str, *, mass: float = 0.9, decades: float = 2.0, n_points: int = 17,
    limits: Limits | None = None,
) -> AllocationData:
    """What the picture shows.

    Parameters
    ----------
    draws
        Fitted loss laws.
    group
        A fitted source/arch/data.
    mass
        Probability inside the bands.
    decades
        How far beyond the largest observed compute.
    n_points
        Budgets.
    limits
        Constraints, as in `predict.allocation.allocate`; by default models as sparse as the group's own.
    """
    _, compute = group_runs(draws, group)
    limits = limits or Limits(sparsity=own_sparsity(draws, group))
    flops = budgets_beyond(compute, decades, n_points)
    found = [allocate(draws, group, float(c), limits) for c in flops]
    size, tokens, ratio = (
        np.stack([np.stack(interval(v, mass)) for v in values], axis=1)
        for values in (
            [f.n_params for f in found], [f.n_tokens for f in found], [f.n_tokens / f.n_params for f in found]
        )
    )  # fmt: skip
    chosen = np.array([f.chosen for f in found]).T
    return AllocationData(group, mass, flops, size, tokens, ratio, chosen, float(compute.max()))


def draw_allocation(data: AllocationData) -> Figure:
    """Three panels over compute; dashed: the one split that is recommended; dotted: 20 tokens per parameter."""
    figure = new_figure(10.4, 3.9)
    axes = figure.subplots(1, 3)
    panels = (
        ("parameters", data.n_params, data.chosen[0]), ("training tokens", data.n_tokens, data.chosen[1]),
        ("tokens per parameter", data.ratio, data.chosen[1] / data.chosen[0]),
    )  # fmt: skip
    for k, (ax, (label, band, chosen)) in enumerate(zip(axes, panels, strict=True)):
        middle, lower, upper = band
        ax.axvspan(data.fitted, data.flops[-1], color=GREY, alpha=0.1, lw=0)
        ax.fill_between(data.flops, lower, upper, color=COLOURS[k], alpha=0.22, lw=0)
        ax.plot(data.flops, middle, color=COLOURS[k], lw=2)
        ax.plot(data.flops, chosen, color=INK, ls="--", lw=1)
        log_x(ax, float(data.flops[0]), float(data.flops[-1]), flops_label)
        if k == 2:
            ax.axhline(20, color=GREY, ls=":", lw=1.2)
            log_y(ax, *span(band, [20.0]), percent_label)
        else:
            log_y(ax, *span(band))
        ax.set_title(label, fontsize="medium")
    figure.supxlabel("training compute, FLOP (grey: beyond the runs)", fontsize="medium")
    share = f"{100 * data.mass:.0f} % bands"
    title = f"{data.group}: how to split a budget, {share}; dashed: recommended; dotted: 20 tokens per parameter"
    figure.suptitle(title_lines(title, 115), fontsize="medium")
    return figure


def plot_allocation(
    draws: LossDraws, group: str, *, mass: float = 0.9, decades: float = 2.0, limits: Limits | None = None
) -> Figure:
    """The allocation frontier as a picture; parameters as in `allocation_data`."""
    return draw_allocation(allocation_data(draws, group, mass=mass, decades=decades, limits=limits))
