"""Draws as xarray for notebooks: named dims, units in attributes, no interval taken."""

from __future__ import annotations

import numpy as np
import xarray as xr

from scaleband.laws import Cells, LawDraws
from scaleband.predict.intervals import INTERVAL_KIND, interval
from scaleband.predict.optimum import recommend, regret
from scaleband.predict.targets import Basins, basins


def optimum_draws(draws: LawDraws, cells: Cells, *, as_new: bool = False) -> xr.Dataset:
    """Optimum, level and regret of the recommended setting: dims (sample, target), `target` labelled.

    Returns
    -------
    lr_peak, batch_tokens (tokens per step), loss (nats or the table's unit), recommended_lr_peak and
    recommended_batch_tokens (target), regret (percent, of the recommended setting).
    """
    b: Basins = basins(draws, cells, as_new=as_new)
    setting = recommend(b)
    dims = ("sample", "target")
    labels = [
        f"{s}/{a}/{g} {n:.4g}/{d:.4g}"
        for s, a, g, n, d in zip(
            cells.source, cells.arch, cells.data, cells.n_params, cells.n_tokens, strict=True
        )
    ]
    out = xr.Dataset(
        {
            "lr_peak": (dims, b.lr_peak()),
            "batch_tokens": (dims, b.batch_tokens(), {"units": "tokens per step"}),
            "loss": (dims, np.exp(b.level / 100), {"units": "as in the table"}),
            "regret": (dims, regret(b, setting.lr_peak, setting.batch_tokens), {"units": "percent of the loss"}),
            "recommended_lr_peak": (("target",), setting.lr_peak),
            "recommended_batch_tokens": (("target",), setting.batch_tokens, {"units": "tokens per step"}),
        },
        coords={
            "target": labels,
            "n_params": ("target", cells.n_params),
            "n_tokens": ("target", cells.n_tokens),
        },
    )
    return out


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
