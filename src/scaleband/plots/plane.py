"""EVSI over the candidate plane: which cell would teach the target most, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scaleband.design import Candidates, gain_of, greedy_batch, repeats_of, screen, settings_of
from scaleband.labels import flops_label, percent, quantity
from scaleband.laws import Cells, LawDraws
from scaleband.plots.canvas import INK, figure_of, log_x, log_y, own_axes, span, title_lines
from scaleband.plots.selection import cell_label, one_cell

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

_PER_CELL = 4  # bundles of a cell that are evaluated in full, after screening


@dataclass(frozen=True)
class PlaneData:
    """The best bundle of every candidate cell.

    Attributes
    ----------
    label
        The target in words.
    target (2,)
        Its n_tokens and n_params.
    n_tokens, n_params (cell,)
        Where the cells are.
    evsi, error (cell,)
        EVSI of the cell's best bundle and its Monte-Carlo error, 100 log loss; never below 0.
    flops (cell,)
        What that bundle costs, in the unit of `price`.
    n_runs (cell,)
        Its runs.
    evpi
        Expected regret now, 100 log loss; once the pending runs are in, if there are any.
    n_pending
        Runs that were taken as known.
    """

    label: str
    target: Array
    n_tokens: Array
    n_params: Array
    evsi: Array
    error: Array
    flops: Array
    n_runs: NDArray[np.int64]
    evpi: float
    n_pending: int = 0


def plane_data(
    draws: LawDraws,
    target: Cells,
    candidates: Candidates,
    *,
    per_flop: bool = True,
    seed: int = 0,
    pending: Candidates | None = None,
    made: pd.DataFrame | None = None,
    price: Array | None = None,
) -> PlaneData:
    """What the picture shows.

    Parameters
    ----------
    draws, target
        Fit, and the one cell that the setting is for.
    candidates
        From `design.grid_candidates` or a table.
    per_flop
        A cell's best bundle has the most EVSI per FLOP; else the most EVSI.
    seed
        Of the outcome draws.
    pending, made, price
        As in `design.propose`.
    """
    target = one_cell(target, 0)
    now = greedy_batch(
        draws, target, candidates, budget_flops=0.0, n_runs=0, seed=seed, pending=pending, made=made, price=price
    )
    candidates, outcomes, decision, base = now.candidates, now.outcomes, now.decision, now.start
    setting = settings_of(candidates)
    rough = screen(decision, base, outcomes, candidates, range(len(candidates)))
    cost = candidates.bundle_cost(now.price)
    merit = rough / cost if per_flop else rough
    home = np.array([candidates.cell[b[0]] for b in candidates.bundles])
    cells = np.unique(home)
    best = np.zeros((4, len(cells)))  # EVSI, its error, cost, runs
    for k, c in enumerate(cells):
        own = np.flatnonzero(home == c)
        own = own[np.argsort(-merit[own], kind="stable")][:_PER_CELL]
        out = now.pending[candidates.cell[now.pending] == c]
        again = repeats_of(setting, out, out[:0])
        found = []
        for b in own:
            runs = candidates.bundles[b]
            repeats = repeats_of(setting, runs, out)
            gain = gain_of(decision, base, outcomes, candidates, runs, repeats, out, again, summaries=len(out) > 0)
            value = max(gain.evsi, 0.0)
            found.append((value / cost[b] if per_flop else value, value, gain.error, cost[b], len(runs)))
        best[:, k] = max(found)[1:]
    own_cells = candidates.cells
    return PlaneData(
        label=cell_label(target),
        target=np.array([target.n_tokens[0], target.n_params[0]]),
        n_tokens=own_cells.n_tokens[cells],
        n_params=own_cells.n_params[cells],
        evsi=best[0],
        error=best[1],
        flops=best[2],
        n_runs=best[3].astype(np.int64),
        evpi=base.risk,
        n_pending=len(now.pending),
    )


def draw_plane(data: PlaneData, ax: Axes | None = None) -> Axes:
    """A disc for each cell: colour, what its best bundle teaches; number, how many runs; ringed, the most per FLOP."""
    alone = ax is None
    ax = own_axes(ax, 7.2, 5.2)
    floor = 1e-3 * data.evpi
    colours = colormaps["YlGnBu"]
    share = 100 * data.evsi / data.evpi
    norm = Normalize(0.0, max(float(share.max()), 1e-3))
    discs = ax.scatter(data.n_tokens, data.n_params, c=share, cmap=colours, norm=norm, s=170, edgecolors=INK, lw=0.8,
                       zorder=3)  # fmt: skip
    for x, y, n, v in zip(data.n_tokens, data.n_params, data.n_runs, share, strict=True):
        ink = "white" if norm(v) > 0.55 else INK
        ax.annotate(str(n), (x, y), ha="center", va="center", fontsize="small", color=ink, zorder=4)
    if (data.evsi > floor).any():
        k = int(np.argmax(data.evsi / data.flops))
        best = f"most per FLOP: {percent(float(data.evsi[k]))} for {flops_label(data.flops[k])} FLOP"
        ax.scatter(data.n_tokens[k], data.n_params[k], s=380, facecolors="none", edgecolors="#D55E00", lw=2.2, zorder=5,
                   label=best)  # fmt: skip
    ax.plot(*data.target, "*", ms=16, mfc="#D55E00", mec="white", zorder=6, label="target")
    log_x(ax, *span(data.n_tokens, data.target[:1], margin=0.1))
    log_y(ax, *span(data.n_params, data.target[1:], margin=0.12), quantity)
    ax.set_xlabel("training tokens")
    ax.set_ylabel("parameters")
    bar = figure_of(ax).colorbar(discs, ax=ax, pad=0.02)
    n = data.n_pending
    now = "now" if not n else f"once the {n} pending runs are in" if n > 1 else "once the pending run is in"
    bar.set_label(f"EVSI of the cell's best bundle (% of the regret {now if not n else 'then'})")
    title = f"{title_lines(data.label)}\nexpected regret {now} {percent(data.evpi)}; in the discs: runs of the bundle"
    ax.set_title(title, fontsize="medium")
    if alone:
        figure_of(ax).legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return ax


def plot_plane(draws: LawDraws, target: Cells, candidates: Candidates, **given: Any) -> Figure:
    """EVSI over the candidate plane as a figure; parameters as in `plane_data`."""
    return figure_of(draw_plane(plane_data(draws, target, candidates, **given)))
