"""The loss that compute buys: the compute-optimal frontier of each group, with bands and what was observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from scaleband.errors import UserError
from scaleband.labels import flops_label
from scaleband.laws.loss.draws import LossDraws
from scaleband.plots.canvas import COLOURS, DASHES, GREY, MARKERS, log_x, loss_label, own_axes, span
from scaleband.plots.isoflop import budgets_beyond, group_runs
from scaleband.predict import interval
from scaleband.predict.comparison import frontier, own_sparsity

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FrontierData:
    """Frontiers of several groups.

    Attributes
    ----------
    groups, kind, mass
        Whose; what their loss is (one kind); probability inside the bands.
    flops (point,)
        Budgets.
    band (bound, group, point)
        Median, lower, upper of the loss at each budget's best split.
    seen
        Per group the observed (flops, loss), each (observation, 2).
    fitted
        Largest observed compute, FLOP.
    """

    groups: tuple[str, ...]
    kind: str
    mass: float
    flops: Array
    band: Array
    seen: tuple[Array, ...]
    fitted: float


def frontier_data(
    draws: LossDraws, groups: Sequence[str] | None = None, *, mass: float = 0.9, decades: float = 1.0,
    n_points: int = 25,
) -> FrontierData:
    """What the picture shows.

    Parameters
    ----------
    draws
        Fitted loss laws.
    groups
        Fitted groups of one loss kind; by default up to six of the first group's kind.
    mass
        Probability inside the bands.
    decades
        How far beyond the largest observed compute.
    n_points
        Budgets.

    Raises
    ------
    UserError
        Groups of two loss kinds, whose losses cannot share an axis.
    """
    kind = dict(zip(draws.table.groups(), draws.table.kind, strict=True))
    if groups is None:
        groups = [g for g in draws.groups() if kind[g] == kind[draws.groups()[0]]][: len(MARKERS)]
    seen = []
    for g in groups:
        own, own_compute = group_runs(draws, g)
        seen.append(np.stack([own_compute, np.exp(own.log_loss)], axis=1))
    if len({kind[g] for g in groups}) > 1:
        raise UserError("losses of two kinds cannot share an axis; draw groups of one loss_kind at a time")
    compute = np.concatenate([s[:, 0] for s in seen])
    flops = budgets_beyond(compute, decades, n_points)
    logs = [frontier(draws, g, flops, own_sparsity(draws, g)) for g in groups]
    bands = np.stack([np.exp(np.stack(interval(v, mass))) for v in logs], axis=1)
    return FrontierData(tuple(groups), kind[groups[0]], mass, flops, bands, tuple(seen), float(compute.max()))


def draw_frontier(data: FrontierData, ax: Axes | None = None) -> Axes:
    """Draw: one line and band per group; grey: beyond the runs."""
    ax = own_axes(ax, 7.2, 4.8)
    for k, group in enumerate(data.groups):
        colour = COLOURS[k % len(COLOURS)]
        middle, lower, upper = data.band[:, k]
        ax.plot(data.seen[k][:, 0], data.seen[k][:, 1], MARKERS[k % len(MARKERS)], color=colour, ms=3.5, alpha=0.55)
        ax.fill_between(data.flops, lower, upper, color=colour, alpha=0.22, lw=0)
        ax.plot(data.flops, middle, color=colour, ls=DASHES[k % len(DASHES)], lw=2, label=group)
    ax.axvspan(data.fitted, data.flops[-1], color=GREY, alpha=0.1, lw=0)
    low, high = float(data.flops[0]), float(data.flops[-1])
    log_x(ax, low, high, flops_label)
    ax.set_yscale("log")
    bottom, top = span(data.band, *(s[:, 1] for s in data.seen), margin=0.04)
    ticks = _loss_ticks(bottom, top)
    ax.set_ylim(bottom, top)
    ax.set_yticks(ticks, labels=[f"{t:g}" for t in ticks])
    ax.set_yticks([], minor=True)
    ax.set_xlabel("training compute, FLOP (grey: beyond the runs)")
    ax.set_ylabel(loss_label(data.kind))
    ax.set_title(f"Loss at the best split of each budget, {100 * data.mass:.0f} % bands", fontsize="medium")
    ax.legend(frameon=False, fontsize="small")
    return ax


def _loss_ticks(low: float, high: float) -> list[float]:
    """Round losses between two bounds, about six."""
    for step in (0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0):
        ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
        if len(ticks) <= 8:
            break
    return [round(float(t), 3) for t in ticks]


def plot_frontier(
    draws: LossDraws, groups: Sequence[str] | None = None, *, mass: float = 0.9, decades: float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """Loss against compute as a picture; parameters as in `frontier_data`."""
    return draw_frontier(frontier_data(draws, groups, mass=mass, decades=decades), ax)
