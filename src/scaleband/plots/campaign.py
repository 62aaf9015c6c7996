"""How a campaign went: the band around the optimum and the expected regret against the FLOPs spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scaleband.errors import UserError
from scaleband.labels import quantity
from scaleband.plots.canvas import (
    COLOURS,
    GREY,
    INK,
    figure_of,
    in_percent,
    log_y,
    new_figure,
    percent_label,
    rate_label,
    span,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CampaignData:
    """A campaign's steps as arrays.

    Attributes
    ----------
    spent_flops (step,)
        FLOP spent at each step whose posterior is known; the first is the start.
    lr_peak, batch_tokens (step, 3)
        Median, lower and upper end of the optimum's interval; tokens per optimizer step.
    recommended (step, 2)
        The setting of least expected regret: rate, batch.
    expected_regret (step,)
        Its expected regret, 100 log loss.
    told_flops, told_diverged (run,)
        FLOP spent when each run was told; whether it diverged.
    mass
        Of the intervals.
    budget_flops
        The whole budget, FLOP; NaN where it is not shown.
    """

    spent_flops: Array
    lr_peak: Array
    batch_tokens: Array
    recommended: Array
    expected_regret: Array
    told_flops: Array
    told_diverged: NDArray[np.bool_]
    mass: float
    budget_flops: float


def campaign_data(
    steps: Sequence[Mapping[str, Any]], *, mass: float = 0.9, budget_flops: float = float("nan")
) -> CampaignData:
    """Arrays out of a campaign's steps.

    Parameters
    ----------
    steps
        As in `scaleband campaign status --json`: run_id, state, spent_flops, and where a posterior is known
        lr_peak, batch_tokens (median, lower, upper) and recommended (lr_peak, batch_tokens, expected_regret).
    mass
        Of the intervals in them.
    budget_flops
        To mark it; left out: not marked.

    Raises
    ------
    UserError
        No step has a band.
    """
    known = [s for s in steps if s["lr_peak"] is not None]
    if not known:
        raise UserError("no step of the campaign has a band; let `status` sample one (--fill latest)")
    told = [s for s in steps if s["run_id"]]

    def band(name: str) -> Array:
        return np.array([[s[name][k] for k in ("median", "lower", "upper")] for s in known], float)

    return CampaignData(
        spent_flops=np.array([s["spent_flops"] for s in known], float),
        lr_peak=band("lr_peak"),
        batch_tokens=band("batch_tokens"),
        recommended=np.array(
            [[s["recommended"][k] for k in ("lr_peak", "batch_tokens")] for s in known], float
        ),
        expected_regret=np.array([s["recommended"]["expected_regret"] for s in known], float),
        told_flops=np.array([s["spent_flops"] for s in told], float),
        told_diverged=np.array([s["state"] == "diverged" for s in told], bool),
        mass=mass,
        budget_flops=budget_flops,
    )


def draw_campaign(data: CampaignData, axes: tuple[Axes, Axes, Axes] | None = None) -> tuple[Axes, Axes, Axes]:
    """Draw rate, batch and expected regret against the FLOPs spent, one above the other."""
    alone = axes is None
    if axes is None:
        top, middle, bottom = new_figure(7.2, 7.2).subplots(3, 1, sharex=True)
        axes = (top, middle, bottom)
    x = data.spent_flops
    for ax, band, name, k, label in (
        (axes[0], data.lr_peak, "peak learning rate", 0, rate_label),
        (axes[1], data.batch_tokens, "batch (tokens per step)", 1, quantity),
    ):
        ax.fill_between(x, band[:, 1], band[:, 2], color=COLOURS[0], alpha=0.2, lw=0, step=None,
                        label=f"optimum, {100 * data.mass:g} % interval")  # fmt: skip
        # One moment alone has no area: its interval is a line.
        ax.vlines(x, band[:, 1], band[:, 2], color=COLOURS[0], alpha=0.35, lw=1.2)
        ax.plot(x, band[:, 0], color=COLOURS[0], lw=1.2, marker="o", ms=3.5, label="optimum, median")
        ax.plot(
            x,
            data.recommended[:, k],
            color=COLOURS[1],
            lw=1.2,
            ls="--",
            marker="s",
            ms=3.5,
            label="recommended",
        )
        log_y(ax, *span(band, data.recommended[:, k]), label)
        ax.set_ylabel(name)
    last = axes[2]
    regret = in_percent(data.expected_regret)
    last.plot(x, regret, color=INK, lw=1.2, marker="o", ms=3.5)
    log_y(last, *span(regret), percent_label)
    last.set_ylabel("expected regret (%)")
    last.set_xlabel("FLOP spent; ticks are runs told, crosses diverged")
    low = last.get_ylim()[0]
    for diverged, mark in ((False, "|"), (True, "x")):
        at = data.told_flops[data.told_diverged == diverged]
        last.plot(at, np.full(len(at), low), ls="", marker=mark, ms=7, color=GREY, clip_on=False)
    spent = max(float(x.max()), float(data.told_flops.max(initial=0.0)))
    if not spent:  # nothing was bought yet: the axis is the budget
        last.set_xlim(0, data.budget_flops if np.isfinite(data.budget_flops) else 1.0)
    elif np.isfinite(data.budget_flops) and data.budget_flops <= 1.5 * spent:
        for ax in axes:
            ax.axvline(data.budget_flops, color=GREY, lw=1, ls=":", label="budget" if ax is axes[0] else None)
    if alone:  # nothing may lie over the bands
        handles = axes[0].get_legend_handles_labels()
        figure_of(last).legend(*handles, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
    else:
        axes[0].legend(loc="upper right", fontsize="small", frameon=False)
    return axes


def plot_campaign(
    steps: Sequence[Mapping[str, Any]], *, mass: float = 0.9, budget_flops: float = float("nan")
) -> Figure:
    """A campaign's history as a figure; parameters as in `campaign_data`."""
    return figure_of(draw_campaign(campaign_data(steps, mass=mass, budget_flops=budget_flops))[0])
