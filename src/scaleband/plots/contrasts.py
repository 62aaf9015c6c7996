"""What beliefs expect of a table's runs, before and after they are seen: excess over the cell's best run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scaleband.errors import UserError
from scaleband.labels import counted, quantity
from scaleband.laws import CENSOR_ABOVE, Cells, LawDraws
from scaleband.plots.canvas import COLOURS, GREY, INK, MARKERS, figure_of, log_x, new_figure, percent_label
from scaleband.plots.selection import some_draws
from scaleband.predict.contrasts import contrasts

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

MASSES = (0.5, 0.9)
"""Of the bands and of the intervals whose coverage is shown."""

_FLOOR = 0.02  # percent: the axis is logarithmic, the best run of a cell lies below it
_DRAWS = 400
_NAMED = 24  # cells whose names can be read one below the other


@dataclass(frozen=True)
class ContrastData:
    """Runs and what several sets of draws expect of them.

    Attributes
    ----------
    names
        Of the sets of draws, as given.
    excess (point,)
        100 log of the loss over the cell's best run's, percent.
    recorded (point,)
        Share of the recorded runs that lie at most so high, 0 to 1.
    expected (set, bound, point)
        The same share among a draw's own runs: its 5, 25, 50, 75 and 95 % quantiles over draws.
    cells (cell,)
        Labels of the cells that have runs to compare.
    n_runs (cell,)
        How many.
    inside (set, mass, cell)
        Share of a cell's runs whose excess lies in its central interval of 50 and 90 %.
    covered (set, mass)
        The same share of all runs.
    """

    names: tuple[str, ...]
    excess: Array
    recorded: Array
    expected: Array
    cells: tuple[str, ...]
    n_runs: NDArray[np.int64]
    inside: Array
    covered: Array


def contrast_data(runs: pd.DataFrame, sets: Mapping[str, LawDraws], *, n_points: int = 120) -> ContrastData:
    """Compare recorded runs with what draws expect at the same settings.

    Parameters
    ----------
    runs
        Run table (`RunTable.frame`).
    sets
        Name -> draws of the table's cells: a prior (`inference.prior.prior_of`), a fit, or several of either. A
        posterior has seen the runs and holds a little more of them than it says.
    n_points
        Points along the excess.

    Raises
    ------
    UserError
        No draws, draws that differ in their cells, or no cell with two runs to compare.
    """
    if not sets:
        raise UserError("there are no draws to compare the runs with; give a prior, a fit, or both")
    each = [contrasts(some_draws(draws, _DRAWS), runs) for draws in sets.values()]
    cells = next(iter(sets.values())).cells
    if any(e.run_ids != each[0].run_ids or (e.cell != each[0].cell).any() for e in each):
        raise UserError(f"{', '.join(sets)} do not have the same cells of the table; give the table that all are about")
    at = np.geomspace(_FLOOR, CENSOR_ABOVE * (1 - 1e-9), n_points)  # what is lost lies beyond the last point
    found, number = np.unique(each[0].cell, return_inverse=True)
    inside = np.array([[e.inside(mass) for mass in MASSES] for e in each])
    n_runs = np.bincount(number)
    return ContrastData(
        names=tuple(sets),
        excess=at,
        recorded=_share_below(each[0].recorded, at),
        expected=np.stack(
            [
                np.quantile([_share_below(row, at) for row in e.expected], (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)
                for e in each
            ]
        ),
        cells=_labels(cells, found),
        n_runs=n_runs,
        inside=np.array([[np.bincount(number, weights=i) / n_runs for i in own] for own in inside]),
        covered=inside.mean(axis=2),
    )


def _share_below(values: Array, at: Array) -> Array:
    return np.searchsorted(np.sort(values), at, side="right") / len(values)


def _labels(cells: Cells, shown: NDArray[np.int64]) -> tuple[str, ...]:
    """Size and tokens of each cell, after whatever of its group is not the same everywhere."""
    groups = [(cells.source[c], cells.arch[c], cells.data[c]) for c in shown]
    differs = [len(set(names)) > 1 for names in zip(*groups, strict=True)]
    return tuple(
        " ".join([*(g for g, d in zip(group, differs, strict=True) if d), quantity(cells.n_params[c])])
        + f", {quantity(cells.n_tokens[c])}"
        for group, c in zip(groups, shown, strict=True)
    )


def draw_contrasts(data: ContrastData, axes: tuple[Axes, Axes] | None = None) -> tuple[Axes, Axes]:
    """Draw the distribution of the excess (left) and, cell by cell, how many runs lie in their intervals (right)."""
    if axes is None:
        figure = new_figure(10.2, min(max(4.3, 1.6 + 0.2 * len(data.cells)), 7.5))
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        axes = (left, right)
    left, right = axes
    shares = [f"{100 * mass:g}" for mass in MASSES]
    for k, name in enumerate(data.names):
        colour, (lowest, low, middle, high, highest) = COLOURS[k % len(COLOURS)], data.expected[k]
        left.fill_between(data.excess, lowest, highest, color=colour, alpha=0.15, lw=0)
        left.fill_between(data.excess, low, high, color=colour, alpha=0.25, lw=0)
        label = f"{name}: median, {' and '.join(shares)} % band"
        left.plot(data.excess, middle, color=colour, lw=1.3, ls="--", label=label)
    left.plot(data.excess, data.recorded, color=INK, lw=1.8, label="recorded")
    log_x(left, _FLOOR, CENSOR_ABOVE, percent_label)
    left.set_ylim(0, 1)
    left.set_xlabel(f"excess over the cell's best run (%); above {CENSOR_ABOVE:.0f} a run counts as lost")
    left.set_ylabel("share of the runs that lie at most so high")
    left.set_title(f"{counted(int(data.n_runs.sum()), 'run')} in {counted(len(data.cells), 'cell')}", fontsize="small")
    left.legend(loc="upper left", fontsize="small", frameon=False)

    y = np.arange(len(data.cells))
    for k, name in enumerate(data.names):
        shape: dict[str, Any] = {"marker": MARKERS[k % len(MARKERS)], "color": COLOURS[k % len(COLOURS)], "ms": 4.5}
        above = y + 0.15 * (k - (len(data.names) - 1) / 2)
        for m, fill in enumerate(("none", "full")):
            label = f"{name}, {shares[m]} %: {100 * data.covered[k, m]:.0f} % of all"
            right.plot(data.inside[k, m], above, ls="", fillstyle=fill, label=label, **shape)
    for mass in MASSES:
        right.axvline(mass, color=GREY, lw=1, ls="--")
    right.set_xlim(-0.03, 1.03)
    right.set_ylim(len(data.cells) - 0.4, -0.6)
    every = -(-len(data.cells) // _NAMED)
    right.set_yticks(y[::every], data.cells[::every], fontsize="small")
    right.set_xlabel("share of the cell's runs inside their interval")
    right.set_title("cells: parameters, tokens" + (f"; one in {every} is named" if every > 1 else ""), fontsize="small")
    figure_of(right).legend(
        *right.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small", frameon=False
    )  # fmt: skip
    return left, right


def plot_contrasts(runs: pd.DataFrame, sets: Mapping[str, LawDraws]) -> Figure:
    """Prior and posterior predictive check as a figure; parameters as in `contrast_data`."""
    return figure_of(draw_contrasts(contrast_data(runs, sets))[0])
