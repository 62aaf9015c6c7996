"""The law across cells: optimal rate and batch against tokens (or size), one line and band per size (or tokens)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from scaleband.errors import UserError
from scaleband.labels import quantity
from scaleband.laws import REFERENCE, ROLES, Cells, LawDraws, published_optimum
from scaleband.plots.canvas import (
    COLOURS,
    GREY,
    MARKERS,
    figure_of,
    log_x,
    log_y,
    new_figure,
    rate_label,
    span,
    title_lines,
)
from scaleband.predict import interval
from scaleband.runs import group_label

Array = NDArray[np.float64]
Along = Literal["n_tokens", "n_params"]

_UNITS = np.array([REFERENCE["lr_peak"], REFERENCE["batch_tokens"]])
_AT_MOST = len(MARKERS)


@dataclass(frozen=True)
class LawData:
    """Lines of the law of one group, and its fitted cells.

    Attributes
    ----------
    group, along, mass
        Whose law, the axis ("n_tokens" or "n_params"), probability inside bands and bars.
    x (point,)
        The axis, tokens or parameters.
    lines (line,)
        The other quantity of each line, parameters or tokens.
    n_values
        How many values of it the group has: only six become lines.
    band (bound, hyperparameter, line, point)
        Median, lower, upper of a new cell's optimum: lr_peak, then batch_tokens.
    cell_x, cell_line (cell,)
        Where each fitted cell lies and the index of its line.
    cell_band (bound, hyperparameter, cell)
        Its own optimum.
    published (hyperparameter, line, point)
        Published Step Law.
    """

    group: str
    along: Along
    mass: float
    x: Array
    lines: Array
    band: Array
    cell_x: Array
    cell_line: NDArray[np.int64]
    cell_band: Array
    published: Array
    n_values: int


def law_data(
    draws: LawDraws,
    *,
    source: str,
    arch: str = "dense",
    data: str,
    along: Along = "n_tokens",
    mass: float = 0.9,
    reach: float = 3.0,
    n_points: int = 40,
) -> LawData:
    """The law of one fitted group, its cells, and the band of a cell that has not been run.

    Parameters
    ----------
    draws
        Fit.
    source, arch, data
        A group with fitted cells.
    along
        The axis; each value of the other quantity is a line (six at most, evenly chosen).
    mass
        Probability inside bands and bars.
    reach
        Factor by which the lines go on beyond the fitted cells.
    n_points
        Points of a line.

    Raises
    ------
    UserError
        No fitted cell has this group, or `along` is neither quantity.
    """
    own = draws.cells
    groups = list(zip(own.source, own.arch, own.data, strict=True))
    if along not in ("n_tokens", "n_params"):
        raise UserError(f"along = {along!r} is no axis of the law; choose n_tokens or n_params")
    mine = np.flatnonzero([g == (source, arch, data) for g in groups])
    if not mine.size:
        known = ", ".join(sorted({group_label(*g) for g in groups}))
        raise UserError(f"no fitted cell belongs to {group_label(source, arch, data)}; the fit has {known}")

    other = own.n_params if along == "n_tokens" else own.n_tokens
    axis = own.n_tokens if along == "n_tokens" else own.n_params
    lines = np.unique([float(f"{v:.3g}") for v in other[mine]])  # 2.15e9 and 2.151e9 are one size for the eye
    n_values = len(lines)
    if n_values > _AT_MOST:
        lines = lines[np.linspace(0, len(lines) - 1, _AT_MOST).round().astype(int)]
    line = np.array([int(np.abs(np.log(lines / v)).argmin()) for v in other[mine]])
    drawn = np.abs(np.log(lines[line] / other[mine])) < 0.01
    mine, line = mine[drawn], line[drawn]
    x = np.geomspace(axis[mine].min() / reach, axis[mine].max() * reach, n_points)

    grid_line, grid_x = (v.ravel() for v in np.meshgrid(lines, x, indexing="ij"))
    n, d = (grid_line, grid_x) if along == "n_tokens" else (grid_x, grid_line)
    # Parameters used per token: the share of the nearest fitted size.
    nearest = np.abs(np.log(n[:, None] / own.n_params[mine])).argmin(1)
    share = (own.n_active / own.n_params)[mine][nearest]
    count = len(n)
    cells = Cells((source,) * count, (arch,) * count, (data,) * count, n, n * share, d)
    optimum = _new_cells(draws, cells)
    band = np.stack(interval(_UNITS[:, None] * np.exp(optimum), mass))
    state = draws.state[:, :2, mine]
    return LawData(
        group=group_label(source, arch, data),
        along=along,
        mass=mass,
        x=x,
        lines=lines,
        band=band.reshape(3, 2, len(lines), n_points),
        cell_x=axis[mine],
        cell_line=line,
        cell_band=np.stack(interval(_UNITS[:, None] * np.exp(state), mass)),
        published=np.stack(published_optimum(n, d)).reshape(2, len(lines), n_points),
        n_values=n_values,
    )


def _new_cells(draws: LawDraws, cells: Cells) -> Array:
    """log optimum of new cells, (sample, hyperparameter, cell), with one luck per draw along all lines.

    `LawDraws.at` draws every cell's effect and every new size's offset apart; quantiles of finitely many draws
    would then be ragged along a line. One draw for all has the same distribution at each point.
    """
    size = ROLES.index("size")
    offset = draws.offset_scale.copy()
    offset[:, :, size] = 0.0
    law = replace(draws.without_scatter(), offset_scale=offset).at(cells, as_new=True)
    new_size = np.array([bool(level) for level in draws.design.missing(cells, "size")])
    effect = draws.cell_scatter(cells.source[0]) * draws.standard_normal("cell", "along a line")
    shape = draws.offset_scale[:, :, size] * draws.standard_normal("size", "along a line")
    return (law + effect[:, :, None] + shape[:, :, None] * new_size)[:, :2]


def draw_law(data: LawData, axes: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
    """Draw rate (left) and batch (right)."""
    alone = axes is None
    if axes is None:
        left, right = new_figure(9.6, 4.9).subplots(1, 2, sharex=True)
        axes = (left, right)
    unit = "tokens" if data.along == "n_tokens" else "parameters"
    other = "parameters" if data.along == "n_tokens" else "tokens"
    # Cells of one token count and several sizes share an x: they are set apart, by little of the axis.
    apart = 0.007 * np.log(data.x[-1] / data.x[0])
    for h, (ax, label) in enumerate(zip(axes, ("peak learning rate", "batch (tokens per step)"), strict=True)):
        middle, lower, upper = data.band[:, h]
        for k in range(len(data.lines)):
            colour, marker = COLOURS[k], MARKERS[k]
            ax.fill_between(data.x, lower[k], upper[k], color=colour, alpha=0.13, linewidth=0)
            ax.plot(data.x, middle[k], color=colour, lw=1.6)
            ax.plot(data.x, data.published[h, k], color=colour, lw=1.1, ls="--")
            at = data.cell_line == k
            own, low, high = data.cell_band[:, h, at]
            x = data.cell_x[at] * np.exp(apart * (k - (len(data.lines) - 1) / 2))
            ax.errorbar(
                x, own, yerr=[own - low, high - own], fmt=marker, color=colour, ms=5, mec="white", mew=0.5,
                elinewidth=1.4, zorder=4,
            )  # fmt: skip
        log_x(ax, *span(data.x, margin=0.0))
        values = span(data.band[:, h], data.cell_band[:, h], data.published[h])
        log_y(ax, *values, rate_label if h == 0 else quantity)
        ax.set_xlabel(f"training {unit}" if data.along == "n_tokens" else unit)
        ax.set_ylabel(label)
        ax.grid(color=GREY, alpha=0.2, lw=0.5)
    sizes = [
        Line2D([], [], color=COLOURS[k], marker=MARKERS[k], mec="white", label=f"{quantity(v)} {other}")
        for k, v in enumerate(data.lines)
    ]
    share = f"{100 * data.mass:g} %"
    kinds = [
        Line2D([], [], color=GREY, marker="o", ls="", label=f"optimum of a fitted cell, {share}; set apart sideways"),
        Line2D([], [], color=GREY, alpha=0.35, lw=7, label=f"optimum of a new cell, {share}"),
        Line2D([], [], color=GREY, ls="--", lw=1.1, label="published Step Law"),
    ]
    style: dict[str, Any] = {"fontsize": "small", "frameon": False}
    if alone:
        title = f"Optimum against {unit}: {data.group}"
        if data.n_values > len(data.lines):
            title += f"; {len(data.lines)} of {data.n_values} {'sizes' if other == 'parameters' else 'token counts'}"
        title = title_lines(title, 115)
        figure = axes[0].figure
        figure.legend(handles=sizes, loc="outside upper center", ncols=_AT_MOST, title=title, **style)
        figure.legend(handles=kinds, loc="outside lower center", ncols=3, **style)
    else:
        axes[0].legend(handles=sizes + kinds, fontsize="x-small", loc="best")
    return axes


def plot_law(
    draws: LawDraws, *, source: str, arch: str = "dense", data: str, along: Along = "n_tokens", mass: float = 0.9
) -> Figure:
    """The law of one group as a figure; parameters as in `law_data`."""
    left, _ = draw_law(law_data(draws, source=source, arch=arch, data=data, along=along, mass=mass))
    return figure_of(left)
