"""Does the fit describe the runs? Residuals against excess with the model's own band, and PIT values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr
from scipy.stats import binom

from scaleband.errors import UserError
from scaleband.labels import counted
from scaleband.laws import CENSOR_ABOVE, LawDraws, noise_scale
from scaleband.plots.canvas import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    MARKERS,
    figure_of,
    log_x,
    new_figure,
    percent_label,
)
from scaleband.plots.selection import some_draws
from scaleband.predict import basins, regret
from scaleband.predict.contrasts import positions
from scaleband.runs import usable

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

_FLOOR = 0.02  # percent: a smaller excess is drawn here, the axis is logarithmic
_DRAWS = 400
_ERRORS = 2000  # of trunks, over all draws of a run


@dataclass(frozen=True)
class PredictiveData:
    """Every run with a loss under the fit that has its cell. Losses are 100 log loss: percent.

    Attributes
    ----------
    excess, residual, pit (run,)
        Posterior median of the predicted excess; 100 log loss minus its predicted median; probability that the
        fit gives to a smaller loss (uniform on 0 to 1 if the fit is right).
    cell, source (run,)
        Index into the fit's cells and sources.
    sources
        Names.
    band_excess (point,), band (source, point)
        Half width of the band that holds `mass` of the noise, by excess.
    mass
        Of that band and of the one in the PIT histogram.
    n_censored, n_unknown
        Runs left out: diverged or far up the wall; of a cell that the fit does not have.
    """

    excess: Array
    residual: Array
    pit: Array
    cell: NDArray[np.int64]
    source: NDArray[np.int64]
    sources: tuple[str, ...]
    band_excess: Array
    band: Array
    mass: float
    n_censored: int
    n_unknown: int

    def inside(self) -> float:
        """Share of the runs inside their central interval of `mass`."""
        return float((np.abs(self.pit - 0.5) <= self.mass / 2).mean())


def predictive_data(draws: LawDraws, runs: pd.DataFrame, *, mass: float = 0.9) -> PredictiveData:
    """Residuals and PIT values of runs; pass some rows of the table to look at one cell or one group.

    Runs that the fit has seen sit a little too close to its middle, since each cell's optimum and level bent
    towards them: a mild hump in the PIT histogram is normal, a heavy edge is not. Errors that runs share with
    others off their trunk are not subtracted: they are part of the noise, as of a new run's.

    Parameters
    ----------
    draws
        Fit.
    runs
        Run table (`RunTable.frame`): the fitted runs, or new runs of fitted cells.
    mass
        Probability inside the bands.

    Raises
    ------
    UserError
        No run of the table has a loss and a fitted cell.
    """
    rows = usable(runs)
    at = positions(rows, draws.cells)
    known = rows[at >= 0].reset_index(drop=True)
    cell = at[at >= 0]
    y = 100 * np.log(known["loss"].where(known["status"] == "completed").to_numpy(float))
    lowest = np.full(len(draws.cells), np.inf)
    np.fmin.at(lowest, cell, y)
    kept = y <= lowest[cell] + CENSOR_ABOVE  # False for a run without a loss
    if not kept.any():
        raise UserError("no completed run of the table belongs to a fitted cell; give the table that was fitted")
    done, cell, y = known[kept], cell[kept], y[kept]

    some = some_draws(draws, _DRAWS)
    b = basins(some, draws.cells.take(cell))
    excess = regret(b, done["lr_peak"].to_numpy(float), done["batch_tokens"].to_numpy(float))
    source = np.array([draws.sources.index(s) for s in done["source"]], dtype=np.int64)
    se = 100 * (done["loss_se"] / done["loss"]).to_numpy(float) if "loss_se" in done else 0.0
    scale = noise_scale(excess, some.sigma[:, source], some.rho[:, None], se)
    centre, trunk = b.level + excess, some.trunk_error()[:, source]
    band_excess = np.geomspace(_FLOOR, 1.2 * max(float(np.median(excess, axis=0).max()), 1.0), 60)
    return PredictiveData(
        excess=np.median(excess, axis=0),
        residual=y - np.median(centre, axis=0),
        pit=_smaller(y - centre, scale, trunk, some.nu[:, None]),
        cell=cell,
        source=source,
        sources=draws.sources,
        band_excess=band_excess,
        band=_band(some, band_excess, mass),
        mass=mass,
        n_censored=int((~kept).sum()),
        n_unknown=len(rows) - len(known),
    )


def _smaller(away: Array, scale: Array, trunk: Array, nu: Array) -> Array:
    """Probability of a smaller loss, (run,): of a Student t and, where there is a trunk, its normal error."""
    out = stdtr(nu, away / scale).mean(0)
    has = trunk.any(axis=0)
    if has.any():
        # Averaged over the error, one value out of each of `n` parts of equal probability a draw.
        n, rng = -(-_ERRORS // len(away)), np.random.default_rng(1)
        out[has] = 0.0
        for k in range(n):
            error = trunk[:, has] * ndtri((k + rng.random((len(away), int(has.sum())))) / n)
            out[has] += stdtr(nu, (away[:, has] - error) / scale[:, has]).mean(0) / n
    return out


def _band(draws: LawDraws, excess: Array, mass: float) -> Array:
    """Half width of the central interval of the noise, (source, point), posterior draws mixed."""
    # The same draws at every excess, so that the edge is smooth; their size alone, because the noise is symmetric.
    rng = np.random.default_rng(0)
    t = rng.standard_t(draws.nu, size=(50, draws.n_samples))[:, :, None]
    z, trunk = rng.standard_normal(t.shape), draws.trunk_error()
    return np.stack(
        [
            np.quantile(
                np.abs(t * noise_scale(excess, draws.sigma[:, [s]], draws.rho[:, None]) + z * trunk[:, [s]]),
                mass, axis=(0, 1),
            )
            for s in range(len(draws.sources))
        ]
    )  # fmt: skip


def draw_predictive(data: PredictiveData, axes: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
    """Draw residuals (left) and the PIT histogram (right)."""
    alone = axes is None
    if axes is None:
        left, right = new_figure(9.6, 4.6).subplots(1, 2, width_ratios=(1.5, 1))
        axes = (left, right)
    left, right = axes
    present = np.unique(data.source)
    for k, s in enumerate(present):
        at = data.source == s
        shape: dict[str, Any] = {"marker": MARKERS[k % len(MARKERS)], "color": COLOURS[k % len(COLOURS)]}
        x = np.maximum(data.excess[at], _FLOOR)
        left.plot(x, data.residual[at], ls="", ms=3.5, alpha=0.5, mew=0, label=f"runs, {data.sources[s]}", **shape)
        for sign in (-1, 1):
            left.plot(
                data.band_excess, sign * data.band[s], color=INK, lw=1.3, ls=DASHES[k % len(DASHES)],
                label=f"{100 * data.mass:g} % of the noise, {data.sources[s]}" if sign > 0 else None,
            )  # fmt: skip
    left.axhline(0, color=GREY, lw=0.8)
    log_x(left, _FLOOR / 1.15, float(data.band_excess[-1]), percent_label)
    limit = 1.3 * max(float(np.abs(data.residual).max()), float(data.band[present].max()))
    # Linear near zero, logarithmic beyond: residuals span decades on both sides.
    left.set_yscale("asinh", linear_width=0.15)
    ticks = [v for v in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0) if v <= limit]
    left.set_yticks([-v for v in ticks[::-1]] + [0.0, *ticks], minor=False)
    left.set_yticklabels([f"{v:g}" for v in [-v for v in ticks[::-1]] + [0.0, *ticks]])
    left.set_yticks([], minor=True)
    left.set_ylim(-limit, limit)
    left.set_xlabel(f"predicted excess loss (%); below {_FLOOR} drawn at {_FLOOR}")
    left.set_ylabel("observed minus predicted (%)")
    left.set_title(_left_out(data), fontsize="small")
    if alone:  # nothing may lie over the data
        handles = left.get_legend_handles_labels()
        figure_of(left).legend(*handles, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    else:
        left.legend(loc="upper left", fontsize="small", frameon=False)

    n_bins = 20
    n = len(data.pit)
    right.hist(data.pit, bins=n_bins, range=(0, 1), color=COLOURS[0], edgecolor="white", lw=0.5)
    low, high = binom.ppf([(1 - data.mass) / 2, (1 + data.mass) / 2], n, 1 / n_bins)
    right.axhspan(low, high, color=GREY, alpha=0.3, lw=0, label=f"{100 * data.mass:g} % of bins if the fit is right")
    right.axhline(n / n_bins, color=INK, lw=1, ls="--")
    right.set_xlim(0, 1)
    right.set_ylim(0, 1.25 * max(high, right.get_ylim()[1]))  # room for the legend
    right.set_xlabel("probability the fit gives to a smaller loss (PIT)")
    right.set_ylabel("runs")
    inside = f"{100 * data.inside():.0f} % of runs inside their {100 * data.mass:g} % interval"
    right.set_title(inside, fontsize="small")
    right.legend(loc="upper center", fontsize="small", frameon=False)
    return left, right


def _left_out(data: PredictiveData) -> str:
    text = counted(len(data.residual), "run")
    if data.n_censored:
        text += f"; {data.n_censored} diverged or far up the wall, not shown"
    if data.n_unknown:
        text += f"; {data.n_unknown} of cells that were not fitted"
    return text


def plot_predictive(draws: LawDraws, runs: pd.DataFrame, *, mass: float = 0.9) -> Figure:
    """Residuals and PIT as a figure; parameters as in `predictive_data`."""
    return figure_of(draw_predictive(predictive_data(draws, runs, mass=mass))[0])
