"""The basin of one cell: expected regret over rate and batch, its runs, the optimum and the recommendation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from warnings import catch_warnings, filterwarnings

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scaleband.labels import percent, quantity
from scaleband.laws import Cells, LawDraws, published_optimum
from scaleband.plots.canvas import (
    INK,
    figure_of,
    log_x,
    log_y,
    own_axes,
    percent_label,
    rate_label,
    span,
    title_lines,
)
from scaleband.plots.selection import cell_label, one_cell, runs_of, some_basins
from scaleband.predict import PLATEAU, Setting, basins, plateau, recommend, regret

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

LEVELS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
"""Percent of the loss at which the map changes its colour."""
HIGH_LEVELS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 400.0, 900.0)
"""Where even the best setting is expected to lose more than `HIGH`: the map would be of one colour."""
HIGH = 10.0
_MAP_DRAWS = 1000  # enough for a map whose colours span decades
_REACH = float(np.log(30.0))  # e-folds around the recommendation; a run beyond is drawn at the edge


@dataclass(frozen=True)
class BasinData:
    """Everything the picture of a basin shows. Rates are lr_peak, batches tokens per step, regrets 100 log loss.

    Attributes
    ----------
    label
        The cell in words.
    lr (rate,), batch (batch,), regret (batch, rate)
        The grid and its regret: posterior mean, or median (`statistic`), over at most a thousand draws.
    optimum (sample, 2), ellipse (point, 2)
        Draws of the optimum (rate, batch), and the edge of the ellipse that holds `mass` of them.
    recommended (2,), expected_regret, p_within_plateau
        The recommended setting and what it costs.
    plateau (point, 2), threshold
        Edge of the settings whose expected regret is at most `threshold`; NaN where there are none.
    published (2,)
        Published Step Law at this size and token count.
    batch_limit
        The cap on the batch, or the given batch; None without.
    runs (run, 2), runs_excess (run,), runs_diverged (run,)
        The cell's own runs and how far their loss lies above the fitted level (posterior median); NaN for
        diverged runs.
    """

    label: str
    lr: Array
    batch: Array
    regret: Array
    statistic: str
    optimum: Array
    ellipse: Array
    mass: float
    recommended: Array
    expected_regret: float
    p_within_plateau: float
    plateau: Array
    threshold: float
    published: Array
    batch_limit: float | None
    runs: Array
    runs_excess: Array
    runs_diverged: NDArray[np.bool_]


def basin_data(
    draws: LawDraws,
    cells: Cells,
    c: int = 0,
    *,
    runs: pd.DataFrame | None = None,
    batch_max: float | None = None,
    batch_tokens: float | None = None,
    setting: Setting | None = None,
    threshold: float = PLATEAU,
    mass: float = 0.9,
    statistic: Literal["mean", "median"] = "mean",
    n_grid: int = 60,
) -> BasinData:
    """What the picture of target `c` shows.

    Parameters
    ----------
    draws, cells, c
        Fit, targets, and which of them; a target without runs is drawn from the law.
    runs
        Run table (`RunTable.frame`); those of this cell are shown.
    batch_max, batch_tokens
        As in `predict.recommend`.
    setting
        What is shown as recommended, say on a grid; by default `predict.recommend`'s.
    threshold
        Regret that bounds the plateau, percent.
    mass
        Of the ellipse.
    statistic
        Regret of the map: its posterior mean (what the recommendation minimises) or median.
    n_grid
        Points along each axis.
    """
    target = one_cell(cells, c)
    b = basins(draws, target)
    setting = setting or recommend(b, batch_max=batch_max, batch_tokens=batch_tokens, threshold=threshold)
    # The plateau is the same region whatever limits the batch; rays from its middle trace it evenly.
    edge = plateau(b, recommend(b), threshold=threshold, n_points=120)[0]
    optimum = np.stack([b.lr_peak()[:, 0], b.batch_tokens()[:, 0]], axis=1)
    ellipse = _ellipse(optimum, mass)
    best = np.array([setting.lr_peak[0], setting.batch_tokens[0]])
    published = np.array([v[0] for v in published_optimum(target.n_params, target.n_tokens)])

    own = runs_of(runs, target)
    points = np.stack([own["lr_peak"].to_numpy(float), own["batch_tokens"].to_numpy(float)], axis=1)
    diverged = (own["status"] == "diverged").to_numpy(bool)
    loss = np.where(diverged, np.nan, own["loss"].to_numpy(float))

    # The optimum is what the picture is about: however wide its band, and however far a grid or a cap is from it.
    middle = np.exp(np.median(np.log(optimum), axis=0))
    near = [_near(points, best), _near(published[None], best), _near(edge, middle)]
    shown = np.concatenate([*near, ellipse, best[None]])
    lr, batch = (np.geomspace(*span(shown[:, k]), n_grid) for k in (0, 1))
    summary = np.mean if statistic == "mean" else np.median
    some = some_basins(b, _MAP_DRAWS)
    # One batch at a time: (sample, rate) stays small.
    surface = np.stack([summary(regret(some, lr[:, None], size)[:, :, 0], axis=0) for size in batch])
    return BasinData(
        label=cell_label(target),
        lr=lr,
        batch=batch,
        regret=surface,
        statistic=statistic,
        optimum=optimum,
        ellipse=ellipse,
        mass=mass,
        recommended=best,
        expected_regret=float(setting.expected_regret[0]),
        p_within_plateau=float(setting.p_within_plateau[0]),
        plateau=edge,
        threshold=threshold,
        published=published,
        batch_limit=batch_max if batch_max is not None else batch_tokens,
        runs=points,
        runs_excess=100 * np.log(loss) - float(np.median(b.level[:, 0])),
        runs_diverged=diverged,
    )


def _near(points: Array, centre: Array) -> Array:
    """Settings (point, 2), those far from `centre` moved to the edge of what is near it."""
    return centre * np.exp(np.clip(np.log(points / centre), -_REACH, _REACH))


def _ellipse(points: Array, mass: float, n_points: int = 90) -> Array:
    """Edge of the ellipse, in logs, that holds `mass` of positive points (sample, 2): (point, 2)."""
    logs = np.log(points)
    centre, spread = logs.mean(0), np.atleast_2d(np.cov(logs.T)) + 1e-12 * np.eye(2)
    centred = logs - centre
    distance = np.einsum("si,ij,sj->s", centred, np.linalg.inv(spread), centred)
    around = np.linspace(0, 2 * np.pi, n_points)
    circle = np.stack([np.cos(around), np.sin(around)])
    return np.exp(centre + np.sqrt(np.quantile(distance, mass)) * (np.linalg.cholesky(spread) @ circle).T)


def draw_basin(data: BasinData, ax: Axes | None = None) -> Axes:
    """Draw it; a run whose dot has the colour of its ground has the loss that the fit says."""
    alone = ax is None
    ax = own_axes(ax, 7.6, 5.6)
    figure = figure_of(ax)
    # Pale where it is good, dark where it is bad: the order survives a grey print.
    levels = LEVELS if data.regret.min() <= _units(HIGH) else HIGH_LEVELS
    bounds = [_units(v) for v in levels]
    colours = ListedColormap(colormaps["YlGnBu"](np.linspace(0.02, 0.8, len(levels) + 1)))
    norm = BoundaryNorm(bounds, colours.N, extend="both")
    surface = np.clip(data.regret, 1e-6, None)
    ground = ax.contourf(data.lr, data.batch, surface, levels=bounds, cmap=colours, norm=norm, extend="both")
    with catch_warnings():
        filterwarnings("ignore", "No contour levels", UserWarning)  # all of it above the highest one
        ax.contour(data.lr, data.batch, surface, levels=bounds, colors="white", linewidths=0.6)
    bar = figure.colorbar(ground, ax=ax, ticks=bounds, pad=0.02)
    bar.ax.set_yticklabels([percent_label(v) for v in levels])
    word = "expected" if data.statistic == "mean" else "median"
    bar.set_label(f"{word} regret{'; dots: excess loss of the run' if len(data.runs) else ''} (%)")

    thin = data.optimum[:: max(1, len(data.optimum) // 400)]
    ax.scatter(
        thin[:, 0], thin[:, 1], s=4, color=INK, alpha=0.35, linewidths=0, label="optimum, draws", zorder=3
    )
    ax.plot(*data.ellipse.T, color=INK, lw=1.2, ls="--", label=f"optimum, {100 * data.mass:g} %", zorder=4)
    if np.isfinite(data.plateau).all():
        closed = np.concatenate([data.plateau, data.plateau[:1]])
        label = f"plateau, regret ≤ {percent_label(data.threshold)} %"
        ax.plot(*closed.T, color=INK, lw=1.8, label=label, zorder=4)
    if len(data.runs):
        _draw_runs(ax, data, colours, norm)
    if data.batch_limit is not None:
        ax.axhline(data.batch_limit, color=INK, lw=1.2, ls=":", label="limit on the batch", zorder=4)
    low, high = np.array([data.lr[0], data.batch[0]]), np.array([data.lr[-1], data.batch[-1]])
    published = np.clip(data.published, low, high)  # far away, it is at the edge
    ax.plot(*published, "D", clip_on=False, ms=7, mfc="white", mec=INK, mew=1.4, label="published Step Law", zorder=6)
    ax.plot(*data.recommended, "*", ms=13, mfc="#D55E00", mec="white", mew=0.9, label="recommended", zorder=7)

    log_x(ax, data.lr[0], data.lr[-1], rate_label)
    log_y(ax, data.batch[0], data.batch[-1])
    ax.set_xlabel("peak learning rate")
    ax.set_ylabel("batch (tokens per step)")
    ax.set_title(f"{title_lines(data.label)}\n{_verdict(data)}", fontsize="medium")
    if alone:  # nothing may lie over the data
        figure.legend(loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    else:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, fontsize="small", frameon=False)
    return ax


def _units(percent_of_loss: float) -> float:
    """Percent of the loss in the unit of a regret, 100 log loss."""
    return 100 * math.log1p(percent_of_loss / 100)


def _verdict(data: BasinData) -> str:
    """The recommendation in one line."""
    text = (
        f"recommended: {rate_label(data.recommended[0])} at {quantity(round(data.recommended[1]))} tokens a step, "
        f"expected regret {percent(data.expected_regret)}"
    )
    if np.isnan(data.plateau).any():
        text += f"\nno setting is expected to be within {percent_label(data.threshold)} %: too little is known here"
    return text


def _draw_runs(ax: Axes, data: BasinData, colours: ListedColormap, norm: BoundaryNorm) -> None:
    """The cell's runs; one outside the picture sits at its edge."""
    low, high = np.array([data.lr[0], data.batch[0]]), np.array([data.lr[-1], data.batch[-1]])
    x, y = np.clip(data.runs, low, high).T
    done, lost = ~data.runs_diverged, data.runs_diverged
    excess = np.clip(data.runs_excess[done], 1e-6, None)
    style: dict[str, Any] = {"zorder": 5, "clip_on": False, "snap": False}
    # A white rim below the ink keeps them visible on pale and on dark ground.
    ax.scatter(x[done], y[done], s=75, color="white", linewidths=0, **style)
    ax.scatter(
        x[done], y[done], c=excess, cmap=colours, norm=norm, s=42, edgecolors=INK, linewidths=0.9, label="run", **style
    )
    if lost.any():
        ax.scatter(x[lost], y[lost], marker="x", s=60, color="white", linewidths=4, **style)
        ax.scatter(x[lost], y[lost], marker="x", s=46, color=INK, linewidths=1.6, label="diverged run", **style)


def plot_basin(
    draws: LawDraws,
    cells: Cells,
    c: int = 0,
    *,
    runs: pd.DataFrame | None = None,
    batch_max: float | None = None,
    batch_tokens: float | None = None,
    setting: Setting | None = None,
    mass: float = 0.9,
) -> Figure:
    """The basin of target `c` as a figure; parameters as in `basin_data`."""
    data = basin_data(
        draws, cells, c, runs=runs, batch_max=batch_max, batch_tokens=batch_tokens, setting=setting, mass=mass
    )
    return figure_of(draw_basin(data))
