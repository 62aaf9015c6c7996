"""Whole data sets from the prior, in flat NumPy: the model told a second time, forwards.

Draws of the stated beliefs (the `prior` group of a fit), and sweeps with a known truth for recovery and
simulation-based calibration. Nothing here is shared with `model.py` but the numbers in `beliefs.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes.beliefs import OWN, SHARED, Beliefs, offsets_in_use, role_index
from scaleband.bayes.inputs import ModelInputs
from scaleband.laws import (
    ANGLE,
    CENSOR_ABOVE,
    CURVATURE,
    HYPERPARAMETERS,
    LEVEL,
    RESPONSES,
    ROLES,
    SKEW,
    Cells,
    Design,
    excess,
    noise_scale,
)

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

_HIGHEST = 700.0  # 100 log loss written into a table: a loss of 1,097, far above any threshold


def _own(name: str, rng: np.random.Generator, *shape: int) -> Array:
    mean, sd, _ = OWN[name]
    return np.exp(mean + sd * rng.standard_normal(shape))


def simulate_states(
    cells: Cells, design: Design, beliefs: Beliefs, rng: np.random.Generator, n: int, *, n_trunks: int = 0,
    scatter_share: Array | None = None,
) -> dict[str, Array]:
    """Draws of everything above the runs.

    Parameters
    ----------
    cells, design
        The cells, and the columns of their law. A design with more columns than the cells need is allowed.
    beliefs
        Prior of that design.
    rng, n
        Generator and number of draws.
    n_trunks
        Trunks that several runs share.
    scatter_share (response, cell)
        How much of the scatter a cell has (`ModelInputs.scatter_share`); all of it by default.

    Returns
    -------
    The names and dims of `inference.unpack.unpack`, with one leading dim (n,) for (chain, draw).
    """
    sources = sorted(set(cells.source))
    shared = beliefs.shared_mean + rng.standard_normal((n, len(SHARED))) @ beliefs.shared_factor.T
    named = dict(zip(SHARED, shared.T, strict=True))
    # The first source's from the stream itself and the others' beside it, so that a seed's truth, but for their levels
    # and what follows from ratios, does not depend on how many sources there are.
    first, (others, of_ratios) = _own("log_scatter_level", rng, n, 1), rng.spawn(2)
    scatter_level = np.column_stack([first, _own("log_scatter_level", others, n, len(sources) - 1)])
    scatter = np.column_stack(
        [np.exp(named[f"log_scatter_{r}"]) for r in RESPONSES[:4]]
        + [np.exp(np.log(scatter_level).mean(axis=1))]
        + [np.exp(named[f"log_scatter_{r[:-2]}"]) for r in RESPONSES[5:]]
    )
    offset = np.empty((n, len(HYPERPARAMETERS), len(ROLES) - 1))
    for h, hyper in enumerate(HYPERPARAMETERS):
        for k, role in enumerate(ROLES[1:]):
            offset[:, h, k] = np.exp(named[f"log_offset_{role}_{hyper}"])

    x, role_of = design.matrix(cells), role_index(design)
    law = np.empty((n, len(RESPONSES), len(design.columns)))
    for r in range(len(RESPONSES)):
        z = rng.standard_normal((n, len(design.columns)))
        if r < len(HYPERPARAMETERS):
            z = np.where(beliefs.pooled, offset[:, r, role_of] * z, z)
        law[:, r] = beliefs.law_mean[r] + z @ beliefs.law_factor[r].T
    noise = rng.standard_normal((n, len(RESPONSES), len(cells)))
    place = [sources.index(s) for s in cells.source]
    noise[:, LEVEL] *= scatter_level[:, place] / scatter[:, [LEVEL]]
    if len(sources) > 1:
        ratio = _own("log_scatter_ratio", of_ratios, n, len(HYPERPARAMETERS), len(sources))
        noise[:, : len(HYPERPARAMETERS)] *= ratio[:, :, place]
    state = law @ x.T + scatter[:, :, None] * noise * (1.0 if scatter_share is None else scatter_share)
    out = {
        "angle": state[:, ANGLE].mean(axis=2),
        "skew": state[:, SKEW].mean(axis=2),
        "rho": np.exp(named["log_rho"]),
        "nu": 1 + np.exp(named["log_nu_minus_1"]),
        "sigma": _own("log_sigma", rng, n, len(sources)),
        "scatter": scatter,
        "scatter_level": scatter_level,
        "offset_scale": offset * offsets_in_use(design, beliefs),
        "state": state,
        "law": law,
        "shared": shared,
    }
    if len(sources) > 1:
        out["scatter_ratio"] = ratio
    if n_trunks:
        out["trunk_scale"] = _own("log_trunk", rng, n)
        out["trunk_effect"] = out["trunk_scale"][:, None] * rng.standard_normal((n, n_trunks))
    return out


def simulate_state(
    cells: Cells, design: Design, beliefs: Beliefs, rng: np.random.Generator, *, n_trunks: int = 0
) -> dict[str, Array]:
    """One truth: `simulate_states` with a single draw, its leading dim left out."""
    draws = simulate_states(cells, design, beliefs, rng, 1, n_trunks=n_trunks)
    return {name: value[0] for name, value in draws.items()}


def prior_draws(inputs: ModelInputs, beliefs: Beliefs, n: int, seed: int) -> dict[str, Array]:
    """The stated beliefs as draws: the `prior` group of a fit.

    Returns
    -------
    The names and dims of the posterior, with chain = 1: (1, n, ...).
    """
    rng = np.random.default_rng([seed, 11])
    draws = simulate_states(
        inputs.cells, inputs.design, beliefs, rng, n, n_trunks=inputs.n_trunks, scatter_share=inputs.scatter_share
    )
    return {name: value[None] for name, value in draws.items()}


def simulate_losses(inputs: ModelInputs, truth: Mapping[str, Array], rng: np.random.Generator) -> Array:
    """100 log loss of every row of `inputs` under one truth, before any censoring: (row,)."""
    state = truth["state"][:, inputs.cell]
    above = excess(
        inputs.log_lr - state[0],
        inputs.log_batch - state[1],
        state[ANGLE],
        np.exp(state[CURVATURE]),
        state[SKEW],
    )
    base = state[LEVEL]
    if inputs.n_trunks:
        base = base + np.append(truth["trunk_effect"], 0.0)[inputs.trunk]
    se = inputs.own_se(truth["trunk_scale"]) if inputs.n_trunks else inputs.y_se
    scale = noise_scale(above, truth["sigma"][inputs.source], truth["rho"], se)
    return base + above + scale * rng.standard_t(float(truth["nu"]), size=above.shape)


def with_losses(inputs: ModelInputs, y: Array, *, censor_above: float = CENSOR_ABOVE) -> ModelInputs:
    """`inputs` with other losses; rows more than `censor_above` above their cell's best are censored there.

    The model's likelihood of a censored row is a smooth stand-in for 'at least that high' at a threshold which
    the data choose. Only `censor_above=inf` follows the model to the letter.
    """
    best = np.full((len(inputs.cells), 3), np.nan)
    for c in np.unique(inputs.cell):
        rows = np.flatnonzero(inputs.cell == c)
        top = rows[np.argsort(y[rows])[:3]]
        best[c] = inputs.log_lr[top].mean(), inputs.log_batch[top].mean(), y[top[0]]
    best = np.where(np.isnan(best), np.nanmean(best, axis=0), best)
    threshold = best[inputs.cell, 2] + censor_above
    censored = y > threshold
    return replace(
        inputs,
        y=np.where(censored, threshold, y),
        censored=censored,
        y_se=np.where(censored, 0.0, inputs.y_se),
        alone=inputs.alone & ~censored,
        best=best,
    )


def simulate_runs(
    inputs: ModelInputs,
    truth: Mapping[str, Array],
    rng: np.random.Generator,
    *,
    censor_above: float = CENSOR_ABOVE,
) -> ModelInputs:
    """The same settings run again under `truth`: see `simulate_losses` and `with_losses`."""
    return with_losses(inputs, simulate_losses(inputs, truth, rng), censor_above=censor_above)


def with_simulated_losses(
    frame: pd.DataFrame, inputs: ModelInputs, truth: Mapping[str, Array], rng: np.random.Generator
) -> pd.DataFrame:
    """A run table with its losses replaced by simulated ones.

    Parameters
    ----------
    frame
        The run table that `inputs` was made from; its `loss_se` is kept as a share of the loss.
    inputs, truth, rng
        As in `simulate_losses`.

    Returns
    -------
    A copy. Losses stop at e^7, which is far above every cell's threshold for 'at least that high'.
    """
    y = dict(zip(inputs.run_ids, simulate_losses(inputs, truth, rng), strict=True))
    out = frame.copy()
    loss = np.exp(np.minimum(np.array([y.get(i, np.nan) for i in frame["run_id"]]), _HIGHEST) / 100)
    out["loss_se"] = frame["loss_se"].to_numpy() / frame["loss"].to_numpy() * loss
    out["loss"] = loss
    return out
