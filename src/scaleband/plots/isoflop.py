"""isoFLOP slices: loss against size at fixed budgets, bands of the stacked laws, observed losses, the best size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from scaleband.errors import UserError
from scaleband.labels import flops_label
from scaleband.laws.loss import Covariates
from scaleband.laws.loss.draws import LossDraws
from scaleband.laws.loss.table import LossTable, covariates
from scaleband.plots.canvas import COLOURS, INK, MARKERS, log_x, loss_label, own_axes, span, title_lines
from scaleband.predict import interval
from scaleband.predict.allocation import Limits, allocate
from scaleband.predict.comparison import own_sparsity

Array = NDArray[np.float64]

_NEAR = 0.12  # decades: observations this close to a budget belong to its slice


@dataclass(frozen=True)
class IsoflopData:
    """Slices of one group.

    Attributes
    ----------
    group, kind, mass
        Whose laws; what their loss is; probability inside the bands.
    flops (slice,)
        Budgets.
    n_active (slice, point)
        Sizes along each slice.
    band (bound, slice, point)
        Median, lower, upper of the law's loss.
    best (bound, slice)
        Median, lower, upper of the best size.
    best_loss (slice,)
        Loss at the best size, median.
    seen
        Per slice the observed (n_active, loss) near it, each (observation, 2): moved along the law from its own tokens,
        repeats, sparsity and batch to the line's, so that a dot's distance from the line is its residual.
    """

    group: str
    kind: str
    mass: float
    flops: Array
    n_active: Array
    band: Array
    best: Array
    best_loss: Array
    seen: tuple[Array, ...]


def group_rows(draws: LossDraws, group: str) -> NDArray[np.int64]:
    """Observations of a group.

    Raises
    ------
    UserError
        The group was not fitted.
    """
    at = np.flatnonzero(np.array(draws.table.groups()) == group)
    if not len(at):
        raise UserError(f"{group} was not fitted; choose among {', '.join(draws.groups())}")
    return at


def group_runs(draws: LossDraws, group: str) -> tuple[LossTable, Array]:
    """Observations of a group and the compute of each, FLOP. Raises UserError as `group_rows`."""
    own = draws.table.take(group_rows(draws, group))
    return own, 6 * own.cells.n_active * own.cells.n_tokens


def budgets_beyond(compute: Array, decades: float, n_points: int) -> Array:
    """Budgets from the smallest observed compute to `decades` beyond the largest: (point,), FLOP."""
    return np.geomspace(compute.min(), compute.max() * 10**decades, n_points)


def own_budgets(compute: Array, most: int = 5) -> list[float]:
    """Budgets that runs cluster at, cut at gaps of 0.1 decade; evenly spread ones where runs do not cluster."""
    order = np.sort(compute)
    clusters = np.split(order, np.flatnonzero(np.diff(np.log10(order)) > 0.1) + 1)
    middles = np.array([np.median(c) for c in clusters])
    wide = max(np.log10(c[-1] / c[0]) for c in clusters)
    if len(middles) < 3 or wide > 2 * _NEAR or len(middles) > len(order) / 3:
        return np.geomspace(np.quantile(compute, 0.1), compute.max(), most).tolist()
    return middles[np.unique(np.linspace(0, len(middles) - 1, most).round().astype(int))].tolist()


def isoflop_data(
    draws: LossDraws, group: str, flops: Sequence[float] | None = None, *, mass: float = 0.9, n_points: int = 61
) -> IsoflopData:
    """What the picture shows.

    Parameters
    ----------
    draws
        Fitted loss laws.
    group
        A fitted source/arch/data.
    flops
        Budgets, FLOP; by default five across the fitted runs and one ten times the largest.
    mass
        Probability inside the bands.
    n_points
        Points along a slice, half a decade and more to both sides of the best size.
    """
    own, compute = group_runs(draws, group)
    if flops is None:
        flops = [*own_budgets(compute), 10 * float(compute.max())]
    budgets = np.sort(np.asarray(flops, float))
    law, ref = draws.law_log_loss(group), draws.reference
    sparsity = own_sparsity(draws, group)

    def logs_at(n: Array, c: float) -> Array:
        d = np.log(c / 6 / n / ref.n_tokens)[:, None]
        return law(Covariates(np.log(n / ref.n_active)[:, None], d, np.log(sparsity), np.nan, d))

    x = covariates(own.cells, ref, own.batch_tokens, own.unique_tokens)
    own_logs = law(Covariates(*(v[:, None] for v in x)))
    sizes, bands, best, best_loss, seen = [], [], [], [], []
    for c in budgets:
        found = allocate(draws, group, float(c), Limits(sparsity=sparsity))
        at = np.abs(np.log10(compute / c)) < _NEAR
        n = np.asarray(own.cells.n_active)[at]
        moved = np.median(logs_at(n, float(c)) - own_logs[at], axis=1) if at.any() else np.zeros(0)
        seen.append(np.stack([n, np.exp(own.log_loss[at] + moved)], axis=1))
        middle = np.median(found.n_active)
        low, high = span(np.append(seen[-1][:, 0], [middle / 4, middle * 4]), margin=0.0)
        n = np.geomspace(low, high, n_points)
        logs = logs_at(n, float(c))
        sizes.append(n)
        bands.append(np.exp(np.stack(interval(logs.T, mass))))
        best.append(np.stack(interval(found.n_active, mass)))
        best_loss.append(float(np.median(found.loss)))
    return IsoflopData(
        group, own.kind[0], mass, budgets, np.array(sizes), np.stack(bands, axis=1), np.stack(best, axis=1),
        np.array(best_loss), tuple(seen),
    )  # fmt: skip


def draw_isoflop(data: IsoflopData, ax: Axes | None = None) -> Axes:
    """Draw: one line and band per budget, markers for what was observed, a bar for the best size."""
    ax = own_axes(ax, 7.2, 5.0)
    for k, c in enumerate(data.flops):
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        middle, lower, upper = data.band[:, k]
        ax.fill_between(data.n_active[k], lower, upper, color=colour, alpha=0.2, lw=0)
        ax.plot(data.n_active[k], middle, color=colour, lw=1.8, label=f"{flops_label(c)} FLOP")
        ax.plot(data.seen[k][:, 0], data.seen[k][:, 1], marker, color=colour, ms=4.5, mec="white", mew=0.4)
        ax.plot(data.best[1:, k], [data.best_loss[k]] * 2, color=INK, lw=2.4, solid_capstyle="butt")
        ax.plot(data.best[0, k], data.best_loss[k], "|", color=INK, ms=9, mew=1.6)
    log_x(ax, *span(data.n_active))
    ax.set_xlabel("active parameters")
    ax.set_ylabel(loss_label(data.kind))
    share = f"{100 * data.mass:.0f} %"
    title = f"{data.group}: isoFLOP slices, {share} bands; black: the best size"
    ax.set_title(title_lines(title), fontsize="medium")
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_isoflop(
    draws: LossDraws, group: str, flops: Sequence[float] | None = None, *, mass: float = 0.9, ax: Axes | None = None
) -> Axes:
    """isoFLOP slices as a picture; parameters as in `isoflop_data`."""
    return draw_isoflop(isoflop_data(draws, group, flops, mass=mass), ax)
