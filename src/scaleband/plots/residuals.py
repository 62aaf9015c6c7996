"""What the loss laws leave: observed over expected loss, cell by cell, along size, tokens and compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scaleband.labels import flops_label, quantity
from scaleband.laws.loss.draws import LossDraws
from scaleband.laws.loss.table import trunk_names
from scaleband.plots.canvas import COLOURS, GREY, INK, MARKERS, log_x, new_figure, span
from scaleband.predict import interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ResidualData:
    """Residuals of fitted observations.

    Attributes
    ----------
    groups
        Names, sorted.
    group, n_active, n_tokens (observation,)
        Whose and where.
    percent, lower, upper (observation,)
        100 log(observed / expected): median, and the band of one observation around the law, ends as residuals.
    mass
        Probability inside the band.
    """

    groups: tuple[str, ...]
    group: NDArray[np.int64]
    n_active: Array
    n_tokens: Array
    percent: Array
    lower: Array
    upper: Array
    mass: float

    def inside(self) -> NDArray[np.bool_]:
        """(observation,) whether zero lies in the band around the residual."""
        return np.asarray((self.percent >= self.lower) & (self.percent <= self.upper))


def residual_data(draws: LossDraws, *, mass: float = 0.9) -> ResidualData:
    """What the picture shows: every fitted observation against the law, its size's and trunk's effects left out.

    Parameters
    ----------
    draws
        Fitted loss laws.
    mass
        Probability inside the bands.
    """
    table = draws.table
    names = tuple(draws.groups())
    group = np.array([names.index(g) for g in table.groups()], dtype=np.int64)
    told, spread = (
        draws.log_loss(
            table.cells, batch_tokens=table.batch_tokens, unique_tokens=table.unique_tokens, trunk=trunk_names(table),
            new_run=new,
        )
        for new in (False, True)
    )  # fmt: skip
    middle, band = np.median(told, axis=0), interval(spread, mass)
    return ResidualData(
        names, group, np.asarray(table.cells.n_active), np.asarray(table.cells.n_tokens),
        100 * (table.log_loss - middle), 100 * (band.lower - middle), 100 * (band.upper - middle), mass,
    )  # fmt: skip


def draw_residuals(data: ResidualData) -> Figure:
    """Three panels; dots outside their band are filled, a grey bar is the median band."""
    figure = new_figure(10.2, 4.0)
    axes = figure.subplots(1, 3, sharey=True)
    along = (("active parameters", data.n_active), ("training tokens", data.n_tokens),
             ("training compute, FLOP", 6 * data.n_active * data.n_tokens))  # fmt: skip
    outside = ~data.inside()
    for ax, (label, x) in zip(axes, along, strict=True):
        ax.axhline(0, color=INK, lw=0.8)
        ax.axhspan(float(np.median(data.lower)), float(np.median(data.upper)), color=GREY, alpha=0.15, lw=0)
        for k, name in enumerate(data.groups):
            colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
            own = data.group == k
            ax.plot(x[own & ~outside], data.percent[own & ~outside], marker, ms=4, mfc="none", mec=colour, mew=1.0)
            ax.plot(x[own & outside], data.percent[own & outside], marker, ms=5, color=colour)
            if ax is axes[0]:
                ax.plot([], [], marker, ms=4, mfc="none", mec=colour, label=name)
        low, high = span(x)
        log_x(ax, low, high, flops_label if "FLOP" in label else quantity)
        ax.tick_params(axis="x", labelsize="small")
        ax.set_xlabel(label)
    axes[0].set_ylabel("100 log(observed / expected)")
    if len(data.groups) <= 8:
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    figure.suptitle(
        f"Residuals of the loss laws; filled: outside their own {100 * data.mass:.0f} % band ({outside.sum()} of "
        f"{len(outside)}); grey: the median band", fontsize="medium",
    )  # fmt: skip
    return figure


def plot_residuals(draws: LossDraws, *, mass: float = 0.9) -> Figure:
    """Residuals by cell as a picture; parameters as in `residual_data`."""
    return draw_residuals(residual_data(draws, mass=mass))
