"""Draws as xarray for notebooks: named dims, units in attributes, no interval taken. Thin wrappers around NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from scaleband.errors import UserError
from scaleband.laws import HYPERPARAMETERS, REFERENCE, Cells, LawDraws, excess
from scaleband.predict.contrasts import contrasts
from scaleband.predict.intervals import INTERVAL_KIND, interval
from scaleband.predict.optimum import (
    PLATEAU,
    Setting,
    optimum_given_batch,
    plateau,
    recommend,
    regret,
    round_to_grid,
)
from scaleband.predict.targets import Basins, basins

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

_DRAWN = ("sample", "target")
_RATE = {"units": "peak learning rate"}
_BATCH = {"units": "tokens per step"}
_LOSS = {"units": "as in the table"}
_REGRET = {"units": "percent of the loss"}
_CURVATURE = {"units": "percent of the loss per squared natural log unit"}


def optimum_draws(
    draws: LawDraws, cells: Cells, *, as_new: bool = False, batch_max: ArrayLike | None = None,
    batch_tokens: ArrayLike | None = None, lr_grid: ArrayLike | None = None, batch_grid: ArrayLike | None = None,
) -> xr.Dataset:
    """Optimum, loss there, curvature, and the regret of the recommended setting: dims (sample, target).

    Parameters
    ----------
    draws, cells
        Fit and targets (`target_cells`).
    as_new
        A fitted cell answers as one that was not.
    batch_max, batch_tokens
        A cap on the batch or a given batch, tokens per step; scalar or (target,), beside a grid a scalar. The optimum
        is then the best rate at each draw's own best batch under the cap, or at that batch.
    lr_grid, batch_grid
        Rates and batches (tokens per step) that the recommended setting is chosen from, 1-D. They leave the optimum
        alone.

    Returns
    -------
    lr_peak, batch_tokens (tokens per step), loss at that optimum (nats or the table's unit),
    curvature (sample, hyperparameter, target): second derivative of the basin along log rate and log batch at its
    bottom, percent of the loss per squared natural log unit;
    recommended_lr_peak and recommended_batch_tokens (target), regret (percent of the loss, of the recommended
    setting, against the optimum without constraints).
    `target` is labelled source/arch/data parameters/tokens, with the active parameters in between where they differ.

    Raises
    ------
    UserError
        Both a cap and a given batch, or a constraint that is not positive; a grid without entries, or none under the
        cap.
    """
    b = basins(draws, cells, as_new=as_new)
    setting = _setting(b, batch_max, batch_tokens, lr_grid, batch_grid, PLATEAU)
    lr, batch, level = b.lr_peak(), b.batch_tokens(), b.level
    if batch_max is not None or batch_tokens is not None:
        # Under a cap, draws whose optimum is below it keep their own.
        batch = np.broadcast_to(np.asarray(batch_tokens, float), batch.shape) if batch_max is None else np.minimum(
            batch, np.asarray(batch_max, float)
        )  # fmt: skip
        lr = optimum_given_batch(b, batch)
        away = (np.log(lr / REFERENCE["lr_peak"]), np.log(batch / REFERENCE["batch_tokens"]))
        level = level + excess(away[0] - b.optimum[:, 0], away[1] - b.optimum[:, 1], *b.shape)
    along = np.stack([np.cos(b.angle), np.sin(b.angle)], axis=1)  # (sample, hyperparameter, direction, target)
    return xr.Dataset(
        {
            "lr_peak": (_DRAWN, lr, _RATE),
            "batch_tokens": (_DRAWN, batch, _BATCH),
            "loss": (_DRAWN, np.exp(level / 100), _LOSS),
            "curvature": (
                ("sample", "hyperparameter", "target"), (b.curvature[:, None] * along**2).sum(axis=2), _CURVATURE
            ),
            "regret": (_DRAWN, regret(b, setting.lr_peak, setting.batch_tokens), _REGRET),
            "recommended_lr_peak": (("target",), setting.lr_peak, _RATE),
            "recommended_batch_tokens": (("target",), setting.batch_tokens, _BATCH),
        },
        coords=_coords(cells) | {"hyperparameter": list(HYPERPARAMETERS)},
    )  # fmt: skip


def regret_draws(
    draws: LawDraws, cells: Cells, lr_peak: ArrayLike, batch_tokens: ArrayLike, *, as_new: bool = False
) -> xr.Dataset:
    """Regret of settings at every target: `regret` (sample, setting, target), percent of the loss.

    Parameters
    ----------
    draws, cells, as_new
        As in `optimum_draws`.
    lr_peak, batch_tokens
        The settings, > 0: (setting,), a scalar for one that all share. Tokens per step.

    Returns
    -------
    With the settings as coordinates `lr_peak` and `batch_tokens` (setting).

    Raises
    ------
    UserError
        A setting that is not positive and finite, or lengths that do not match.
    """
    given = [np.ravel(np.asarray(v, float)) for v in (lr_peak, batch_tokens)]
    if len({len(v) for v in given} - {1}) > 1:
        raise UserError(f"{len(given[0])} rates and {len(given[1])} batches; give as many, or one of either")
    lr, batch = np.broadcast_arrays(*given)
    cost = regret(basins(draws, cells, as_new=as_new), lr[:, None], batch[:, None])
    return xr.Dataset(
        {"regret": (("sample", "setting", "target"), cost, _REGRET)},
        coords=_coords(cells)
        | {"setting": np.arange(len(lr))}
        | {"lr_peak": ("setting", lr, _RATE), "batch_tokens": ("setting", batch, _BATCH)},
    )


def recommendations(
    draws: LawDraws, cells: Cells, *, as_new: bool = False, batch_max: ArrayLike | None = None,
    batch_tokens: ArrayLike | None = None, lr_grid: ArrayLike | None = None, batch_grid: ArrayLike | None = None,
    threshold: float = PLATEAU, n_points: int = 72,
) -> xr.Dataset:
    """The recommended setting of every target and the plateau around it: averages over draws, no sample dim.

    Parameters
    ----------
    draws, cells, as_new, batch_max, batch_tokens, lr_grid, batch_grid
        As in `optimum_draws`.
    threshold
        Regret that bounds the plateau, percent of the loss.
    n_points
        Points on the plateau's edge.

    Returns
    -------
    lr_peak, batch_tokens (tokens per step), expected_regret (percent of the loss), p_within_plateau (probability)
    and at_batch_bound (target): see `Setting`;
    plateau_lr_peak and plateau_batch_tokens (target, point): the edge, not cut at a cap on the batch; NaN where no
    setting's expected regret is within the threshold.

    Raises
    ------
    UserError
        As in `optimum_draws`.
    """
    b = basins(draws, cells, as_new=as_new)
    setting = _setting(b, batch_max, batch_tokens, lr_grid, batch_grid, threshold)
    # A constraint may leave the setting outside the plateau: the edge is then looked for from the free one.
    free, inside = recommend(b, threshold=threshold), setting.expected_regret <= threshold
    centre = Setting(*(
        np.where(inside, getattr(setting, name), getattr(free, name))
        for name in ("lr_peak", "batch_tokens", "expected_regret", "p_within_plateau", "at_batch_bound")
    ))  # fmt: skip
    edge = plateau(b, centre, threshold=threshold, n_points=n_points)
    return xr.Dataset(
        {
            "lr_peak": (("target",), setting.lr_peak, _RATE),
            "batch_tokens": (("target",), setting.batch_tokens, _BATCH),
            "expected_regret": (("target",), setting.expected_regret, _REGRET),
            "p_within_plateau": (("target",), setting.p_within_plateau, {"units": "probability"}),
            "at_batch_bound": (("target",), setting.at_batch_bound),
            "plateau_lr_peak": (("target", "point"), edge[..., 0], _RATE),
            "plateau_batch_tokens": (("target", "point"), edge[..., 1], _BATCH),
        },
        coords=_coords(cells),
        attrs={"threshold": threshold},
    )


def contrast_draws(draws: LawDraws, runs: pd.DataFrame, *, seed: int = 0) -> xr.Dataset:
    """What draws expect of the runs of a table, beside what was recorded: `predict.contrasts` with names and units.

    Parameters
    ----------
    draws
        A fit, or a prior before any run was seen (`inference.prior.prior_of`).
    runs
        Run table (`RunTable.frame`).
    seed
        Of the noise.

    Returns
    -------
    contrast (sample, run) and recorded (run): 100 log of a run's loss over its cell's best run, percent of the loss,
    at most `laws.CENSOR_ABOVE`. Coordinates (run): run_id, cell (index into the draws' cells), lr_peak, batch_tokens.

    Raises
    ------
    UserError
        As in `contrasts`.
    """
    c = contrasts(draws, runs, seed=seed)
    return xr.Dataset(
        {"contrast": (("sample", "run"), c.expected, _REGRET), "recorded": (("run",), c.recorded, _REGRET)},
        coords={
            "run": list(c.run_ids),
            "cell": ("run", c.cell),
            "lr_peak": ("run", c.lr_peak, _RATE),
            "batch_tokens": ("run", c.batch_tokens, _BATCH),
        },
    )


def bands(draws: xr.Dataset, mass: float = 0.9) -> xr.Dataset:
    """Median and equal-tailed interval of every variable with a sample dim: adds a `bound` dim."""
    out = {}
    for name, value in draws.data_vars.items():
        if "sample" in value.dims:
            band = interval(value.transpose("sample", ...).to_numpy(), mass)
            dims = ("bound", *(d for d in value.dims if d != "sample"))
            out[name] = (dims, np.stack(band), value.attrs)
        else:
            out[name] = (value.dims, value.to_numpy(), value.attrs)
    coords = {k: v for k, v in draws.coords.items() if "sample" not in v.dims}
    return xr.Dataset(
        out,
        coords=coords | {"bound": ["median", "lower", "upper"]},
        attrs={"interval": mass, "interval_kind": INTERVAL_KIND},
    )


def _coords(cells: Cells) -> dict[str, Any]:
    """The target dim: a label each, its group and its sizes."""
    sizes = [
        f"{n:.4g}/{d:.4g}" if n == a else f"{n:.4g}/{a:.4g}/{d:.4g}"
        for n, a, d in zip(cells.n_params, cells.n_active, cells.n_tokens, strict=True)
    ]
    groups = zip(cells.source, cells.arch, cells.data, strict=True)
    return {
        "target": [f"{'/'.join(group)} {size}" for group, size in zip(groups, sizes, strict=True)],
        "source": ("target", list(cells.source)),
        "arch": ("target", list(cells.arch)),
        "data": ("target", list(cells.data)),
        "n_params": ("target", cells.n_params, {"units": "parameters"}),
        "n_active": ("target", cells.n_active, {"units": "parameters per token"}),
        "n_tokens": ("target", cells.n_tokens, {"units": "tokens"}),
    }


def _setting(
    b: Basins, batch_max: ArrayLike | None, batch_tokens: ArrayLike | None, lr_grid: ArrayLike | None,
    batch_grid: ArrayLike | None, threshold: float,
) -> Setting:
    """The recommended setting under whatever constraints there are."""
    free = recommend(b, batch_max=batch_max, batch_tokens=batch_tokens, threshold=threshold)
    if lr_grid is None and batch_grid is None:
        return free
    if batch_tokens is not None and batch_grid is not None:
        raise UserError("give a grid of batches or a fixed batch, not both")
    fixed, cap = (None if v is None else np.ravel(np.asarray(v, float)) for v in (batch_tokens, batch_max))
    if any(v is not None and len(v) > 1 for v in (fixed, cap)):
        raise UserError("beside a grid, give one batch (or one cap) for all targets, or ask target by target")
    batches = fixed if batch_grid is None else np.ravel(np.asarray(batch_grid, float))
    if batches is not None and cap is not None:
        batches = batches[batches <= cap * (1 + 1e-9)]
        if not batches.size:
            raise UserError("every batch of the grid is above the cap; add a smaller one")
    rounded = round_to_grid(b, lr_grid, batches, batch_max=batch_max, threshold=threshold)
    return replace(rounded, at_batch_bound=free.at_batch_bound)
