"""Which law is right: stacking weights, and how far the forms stand apart as compute grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scaleband.labels import flops_label
from scaleband.laws.loss.draws import LossDraws
from scaleband.plots.canvas import COLOURS, DASHES, GREY, INK, log_x, new_figure, title_lines
from scaleband.plots.isoflop import budgets_beyond, group_runs
from scaleband.predict.allocation import Limits, allocate, share_of_form
from scaleband.predict.comparison import own_sparsity

Array = NDArray[np.float64]


@dataclass(frozen=True)
class WeightData:
    """Weights of the forms and what they say along the frontier of one group.

    Attributes
    ----------
    group, laws
        Whose frontier; forms, heaviest first, those without weight too.
    weight (law,)
        Sum 1.
    flops (point,)
        Budgets.
    apart (law, point)
        100 log of each form's median loss at the best split over the stack's; NaN for forms without draws.
    share (point,)
        Share of the loss band's variance that is between forms.
    fitted
        Largest observed compute of the group, FLOP.
    """

    group: str
    laws: tuple[str, ...]
    weight: Array
    flops: Array
    apart: Array
    share: Array
    fitted: float


def weight_data(draws: LossDraws, group: str, *, decades: float = 2.0, n_points: int = 17) -> WeightData:
    """What the picture shows.

    Parameters
    ----------
    draws
        Fitted loss laws.
    group
        A fitted source/arch/data.
    decades
        How far beyond the largest observed compute.
    n_points
        Budgets.
    """
    _, compute = group_runs(draws, group)
    flops, limits = budgets_beyond(compute, decades, n_points), Limits(sparsity=own_sparsity(draws, group))
    stated: dict[str, float] = {}
    given = draws.meta.get("weights")
    if isinstance(given, dict):
        stated = {str(k): float(v) for k, v in given.items()}
    else:
        stated = {p.law.name: len(p.theta) / draws.n_samples for p in draws.parts}
    laws = tuple(sorted(stated, key=lambda name: -stated[name]))
    apart, share = np.full((len(laws), n_points), np.nan), np.empty(n_points)
    for k, c in enumerate(flops):
        found = allocate(draws, group, float(c), limits)
        logs = np.log(found.loss)
        share[k] = share_of_form(logs, found.law_of_sample)
        for j, name in enumerate(laws):
            mine = found.law_of_sample == name
            if mine.any():
                apart[j, k] = 100 * (np.median(logs[mine]) - np.median(logs))
    return WeightData(group, laws, np.array([stated[n] for n in laws]), flops, apart, share, float(compute.max()))


def draw_weights(data: WeightData) -> Figure:
    """Left: bars of the weights. Right: each form beside the stack along compute; its title: the band's share."""
    figure = new_figure(10.0, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.7])
    place = np.arange(len(data.laws))[::-1]
    colours = [COLOURS[k % len(COLOURS)] for k in range(len(data.laws))]
    left.barh(place, data.weight, color=colours, height=0.6)
    for y, w in zip(place, data.weight, strict=True):
        left.annotate(f"{w:.2f}", (w, y), (4, 0), textcoords="offset points", va="center", fontsize="small", color=INK)
    left.set_yticks(place, labels=list(data.laws))
    left.set_ylim(-0.6, max(len(data.laws), 4) - 0.4)  # one law alone is a bar too
    left.set_xlim(0, 1.2 * float(data.weight.max()))
    left.set_xlabel("stacking weight")
    for k, name in enumerate(data.laws):
        if np.isfinite(data.apart[k]).any():
            right.plot(data.flops, data.apart[k], color=colours[k], ls=DASHES[k % len(DASHES)], lw=1.8, label=name)
    right.axvspan(data.fitted, data.flops[-1], color=GREY, alpha=0.1, lw=0)
    right.axhline(0, color=INK, lw=0.8)
    log_x(right, float(data.flops[0]), float(data.flops[-1]), flops_label)
    right.set_xlabel("training compute, FLOP (grey: beyond the runs)")
    right.set_ylabel("loss over the stack's, %")
    right.legend(frameon=False, fontsize="small", ncols=2)
    now = float(np.interp(np.log(data.fitted), np.log(data.flops), data.share))
    right.set_title(
        f"form's share of the band: {100 * now:.0f} % at the largest run, "
        f"{100 * data.share[-1]:.0f} % at {flops_label(data.flops[-1])} FLOP", fontsize="small",
    )  # fmt: skip
    figure.suptitle(title_lines(f"{data.group}: which law, and how much it matters", 110), fontsize="medium")
    return figure


def plot_weights(draws: LossDraws, group: str, *, decades: float = 2.0) -> Figure:
    """Weights of the laws as a picture; parameters as in `weight_data`."""
    return draw_weights(weight_data(draws, group, decades=decades))
