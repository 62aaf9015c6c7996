"""What the data said: prior against posterior, one small panel per parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.stats import gaussian_kde

from scaleband.errors import UserError
from scaleband.plots.canvas import COLOURS, GREY, figure_of, new_figure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PriorData:
    """Densities of prior and posterior, most learned parameter first.

    Attributes
    ----------
    names (parameter,)
        As given.
    x (parameter, point)
        Values of the parameter, in its own unit.
    prior, posterior (parameter, point)
        Densities, per unit.
    learned (parameter,)
        1 - posterior variance / prior variance: 0, the data said nothing; 1, they said it all.
    """

    names: tuple[str, ...]
    x: Array
    prior: Array
    posterior: Array
    learned: Array


def prior_data(
    prior: Mapping[str, ArrayLike], posterior: Mapping[str, ArrayLike], *, n_points: int = 200
) -> PriorData:
    """Compare draws by name.

    Parameters
    ----------
    prior, posterior
        Name -> draws (sample,), any unit; the two may differ in their number of draws. Names that only one has
        are left out.
    n_points
        Points of a density.

    Raises
    ------
    UserError
        They share no name, or draws are not finite.
    """
    names = [name for name in posterior if name in prior]
    if not names:
        raise UserError(f"prior and posterior share no name: {sorted(prior)} and {sorted(posterior)}")
    before = {name: np.ravel(np.asarray(prior[name], float)) for name in names}
    after = {name: np.ravel(np.asarray(posterior[name], float)) for name in names}
    bad = [name for name in names if not np.isfinite(np.concatenate([before[name], after[name]])).all()]
    if bad:
        raise UserError(f"draws of {', '.join(bad)} are not finite; look at the fit's gate")
    learned = np.array([1 - after[name].var() / max(before[name].var(), 1e-300) for name in names])
    order = np.argsort(-learned, kind="stable")
    x = np.stack([_grid(before[names[k]], after[names[k]], n_points) for k in order])
    return PriorData(
        names=tuple(names[k] for k in order),
        x=x,
        prior=np.stack([_density(before[names[k]], x[i]) for i, k in enumerate(order)]),
        posterior=np.stack([_density(after[names[k]], x[i]) for i, k in enumerate(order)]),
        learned=learned[order],
    )


def _grid(before: Array, after: Array, n_points: int) -> Array:
    """Points over the central 99 % of both; dense inside the posterior, which may be a spike."""
    low, high = np.quantile(np.concatenate([before, after]), [0.005, 0.995])
    low, high = min(low, after.min()), max(high, after.max())
    wide = np.linspace(low, high, n_points - n_points // 2)
    return np.sort(np.concatenate([wide, np.linspace(after.min(), after.max(), n_points // 2)]))


def _density(draws: Array, x: Array) -> Array:
    """Kernel density at x; zero everywhere for a constant (a parameter that the form switches off)."""
    return np.zeros_like(x) if np.ptp(draws) == 0 else gaussian_kde(draws)(x)


def draw_prior(data: PriorData, axes: list[Axes] | None = None, *, columns: int = 4) -> list[Axes]:
    """Draw the panels; `axes` holds at least one per parameter."""
    count = len(data.names)
    alone = axes is None
    if axes is None:
        rows = -(-count // columns)
        figure = new_figure(2.6 * min(columns, count), 1.75 * rows + 0.5)
        axes = list(figure.subplots(rows, min(columns, count), squeeze=False).ravel())
        for spare in axes[count:]:
            spare.remove()
        axes = axes[:count]
    if len(axes) < count:
        raise ValueError(f"{count} parameters need as many axes, not {len(axes)}")
    for k, ax in enumerate(axes[:count]):
        ax.fill_between(data.x[k], data.posterior[k], color=COLOURS[0], alpha=0.35, lw=0)
        ax.plot(data.x[k], data.posterior[k], color=COLOURS[0], lw=1.5, label="posterior")
        ax.plot(data.x[k], data.prior[k], color=GREY, lw=1.3, ls="--", label="prior")
        ax.set_title(f"{data.names[k]}\nlearned {100 * max(data.learned[k], 0.0):.0f} %", fontsize="small")
        ax.set_yticks([])
        ax.set_ylim(bottom=0)
        ax.margins(x=0)
        ax.tick_params(labelsize="small")
        ax.locator_params(axis="x", nbins=4)
        for side in ("top", "left", "right"):
            ax.spines[side].set_visible(False)
    if alone:
        handles, labels = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return axes[:count]


def plot_prior(prior: Mapping[str, ArrayLike], posterior: Mapping[str, ArrayLike]) -> Figure:
    """Prior against posterior as a figure; parameters as in `prior_data`."""
    return figure_of(draw_prior(prior_data(prior, posterior))[0])
