"""Sample one loss law: coordinates, compile once, refit other rows without compiling."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes.loss_model import Layout, build_loss_model, layout_for, model_arrays, sheared
from scaleband.inference.loss_mode import importance_sample
from scaleband.inference.sampler import SamplerSettings, all_draws
from scaleband.laws.loss import LossLaw
from scaleband.laws.loss.table import LossTable

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CompiledLoss:
    """A law compiled for one table's dims; rows may be weighted or replaced by as many others."""

    layout: Layout
    arrays: dict[str, Any]
    centre: Array
    factor: Array
    code: Any


def compile_loss(table: LossTable, law: LossLaw) -> CompiledLoss:
    """Find the mode, build the model around it and compile it (JAX, seconds)."""
    os.environ.setdefault("JAX_ENABLE_X64", "true")
    import jax
    import nutpie

    layout = layout_for(table, law)
    arrays = model_arrays(table, layout)
    pilot = importance_sample(layout, arrays, rounds=8, count=8000)
    centre, factor = pilot.centre, pilot.factor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTensor says that JAX drops a shape assertion
        jax.config.update("jax_enable_x64", True)
        code = nutpie.compile_pymc_model(
            build_loss_model(layout, arrays, centre, factor), freeze_model=False, jitter_rvs=set(),
            initial_points={"theta_std": np.full(len(centre), 0.05)}, backend="jax", gradient_backend="jax",
        )  # fmt: skip
    return CompiledLoss(layout, arrays, centre, factor, code)


def sample_loss(
    compiled: CompiledLoss, settings: SamplerSettings, *, weight: Array | None = None
) -> tuple[Array, NDArray[np.bool_]]:
    """NUTS draws of the parameter vector (chain, draw, entry), and where they diverged (chain, draw).

    Parameters
    ----------
    weight
        1 for rows that count, 0 for rows that are left out.
    """
    import nutpie
    from threadpoolctl import threadpool_limits

    code, centre, factor = compiled.code, compiled.centre, compiled.factor
    if weight is not None:
        arrays = compiled.arrays | {"weight": np.asarray(weight, float)}
        pilot = importance_sample(compiled.layout, arrays, start=centre)
        centre, factor = pilot.centre, pilot.factor
        code = code.with_data(weight=arrays["weight"], centre=centre, factor=factor)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        running = nutpie.sample(
            code, draws=settings.draws, tune=settings.tune, chains=settings.chains,
            cores=min(settings.chains, os.cpu_count() or 1), seed=settings.seed,
            target_accept=settings.target_accept, progress_bar=False, save_warmup=False,
            blocking=False,
        )  # fmt: skip
        tree = all_draws(running)
    unit = tree["posterior"]["theta_std"].to_numpy()
    diverging = tree["sample_stats"]["diverging"].to_numpy().astype(bool)
    return sheared(np, centre + unit @ factor.T, compiled.layout), diverging


def quick(settings: SamplerSettings) -> SamplerSettings:
    """Shorter chains for refits that only feed scores."""
    return replace(settings, draws=min(settings.draws, 400), tune=min(settings.tune, 300))
