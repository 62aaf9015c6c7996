"""From the sampler's coordinates to the quantities people name, and the law's coefficients given the cells.

The model integrates the coefficients out; here they are drawn from their Gaussian given each posterior draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes import ModelInputs
from scaleband.bayes.beliefs import (
    OWN,
    SCATTER_NAMES,
    SHARED,
    SHARED_INDEX,
    Beliefs,
    offsets_in_use,
    role_index,
)
from scaleband.bayes.one_batch import asked
from scaleband.laws import ANGLE, HYPERPARAMETERS, LEVEL, RESPONSES, ROLES, SKEW

if TYPE_CHECKING:
    from scaleband.inference.sampler import RawDraws

Array = NDArray[np.float64]


def _own(name: str, std: Array) -> Array:
    mean, sd, _ = OWN[name]
    return np.exp(mean + sd * std)


def own_std(name: str, value: Array) -> Array:
    """A table's own scale (a name of `OWN`) as the sampler's standard normal."""
    mean, sd, _ = OWN[name]
    return (np.log(value) - mean) / sd


def coefficients_given_cells(r: Array, w: Array, scatter: Array, rng: np.random.Generator) -> Array:
    """b | r for r = w b + scatter e, b ~ N(0, I): r (s, cell), w (s, cell, k), scatter (s, cell) -> (s, k)."""
    wt = w.transpose(0, 2, 1) / scatter[:, None, :]
    precision = np.eye(w.shape[2]) + wt @ (w / scatter[:, :, None])
    inverse = np.linalg.inv(np.linalg.cholesky(precision))
    std = inverse @ (wt @ (r / scatter)[:, :, None]) + rng.standard_normal((len(r), w.shape[2], 1))
    return (inverse.transpose(0, 2, 1) @ std)[:, :, 0]


def _offsets(shared: Array) -> Array:
    """Scales of offsets out of the shared parameters (s, shared): (s, hyperparameter, role)."""
    at = [[SHARED_INDEX[f"log_offset_{role}_{hyper}"] for role in ROLES[1:]] for hyper in HYPERPARAMETERS]
    return np.exp(shared[:, at])


def offset_scales(flat: Mapping[str, Array], inputs: ModelInputs, beliefs: Beliefs) -> Array:
    """Learned scale of every coefficient of log rate and log batch, 1 where it is not pooled: (s, 2, coefficient)."""
    offset = _offsets(beliefs.shared_mean + flat["shared_std"] @ beliefs.shared_factor.T)
    return np.where(beliefs.pooled, offset[:, :, role_index(inputs.design)], 1.0)


def scatters(flat: Mapping[str, Array], beliefs: Beliefs) -> dict[str, Array]:
    """`scatter` (s, response), `scatter_level` (s, source) and, where there are several sources, `scatter_ratio`
    (s, hyperparameter, source) of `unpack`."""
    shared = beliefs.shared_mean + flat["shared_std"] @ beliefs.shared_factor.T
    level = _own("log_scatter_level", flat["log_scatter_level_std"])
    every = [np.log(level).mean(axis=1) if n in OWN else shared[:, SHARED_INDEX[n]] for n in SCATTER_NAMES]
    out = {"scatter": np.exp(np.stack(every, axis=1)), "scatter_level": level}
    if "log_scatter_ratio_std" in flat:
        out["scatter_ratio"] = _own("log_scatter_ratio", flat["log_scatter_ratio_std"])
    return out


def scatters_of_cells(named: Mapping[str, Array], inputs: ModelInputs) -> Array:
    """What `scatters` gives (other entries of `named` are not looked at), for every cell: (s, response, cell)."""
    out = named["scatter"][:, :, None] * inputs.scatter_share
    out[:, LEVEL] = named["scatter_level"][:, inputs.cell_source]
    if inputs.several_sources:
        out[:, : len(HYPERPARAMETERS)] *= named["scatter_ratio"][:, :, inputs.cell_source]
    return out


def unpack(raw: RawDraws, inputs: ModelInputs, beliefs: Beliefs, *, seed: int) -> dict[str, Array]:
    """Named posterior, every entry (chain, draw, ...).

    Returns
    -------
    angle, skew (direction): means over the fitted cells; rho, nu; sigma and scatter_level (source);
    scatter (response), of levels the geometric mean of the sources'; scatter_ratio (hyperparameter, source) where
    there are several sources: each one's scatter over that; offset_scale (hyperparameter, role);
    state (response, cell); law (response, coefficient); trunk_scale where runs share trunks;
    shared (shared): the unconstrained shared parameters, for use as a prior.
    """
    value = raw.values
    shape = value["shared_std"].shape[:2]
    flat = {name: v.reshape(-1, *v.shape[2:]) for name, v in value.items()}
    shared = beliefs.shared_mean + flat["shared_std"] @ beliefs.shared_factor.T
    named = {name: shared[:, k] for k, name in enumerate(SHARED)}
    rng = np.random.default_rng([seed, 7])
    scatter = scatters(flat, beliefs)
    offset = _offsets(shared)
    design, mean = inputs.scaled_design(beliefs), inputs.prior_mean(beliefs)
    scale, tau = offset_scales(flat, inputs, beliefs), scatters_of_cells(scatter, inputs)

    state = flat["state"]
    law = np.empty((len(shared), len(RESPONSES), design.shape[2]))
    for r in range(len(RESPONSES)):
        pooled = scale[:, r] if r < len(HYPERPARAMETERS) else np.ones_like(scale[:, 0])
        b = coefficients_given_cells(state[:, r] - mean[r], design[r][None] * pooled[:, None, :], tau[:, r], rng)
        law[:, r] = beliefs.law_mean[r] + (pooled * b) @ beliefs.law_factor[r].T

    if inputs.some_one_batch:
        assert raw.reference is not None
        state = asked(state.transpose(1, 0, 2), inputs, raw.reference).transpose(1, 0, 2)

    out = {
        "angle": state[:, ANGLE].mean(axis=2),
        "skew": state[:, SKEW].mean(axis=2),
        "rho": np.exp(named["log_rho"]),
        "nu": 1 + np.exp(named["log_nu_minus_1"]),
        "sigma": _own("log_sigma", flat["log_sigma_std"]),
        "offset_scale": offset * offsets_in_use(inputs.design, beliefs),
        "state": state,
        "law": law,
        "shared": shared,
    } | scatter
    if "log_trunk_std" in flat:
        out["trunk_scale"] = _own("log_trunk", flat["log_trunk_std"])
        out["trunk_effect"] = flat["trunk_effect"]
    return {name: v.reshape(*shape, *v.shape[1:]) for name, v in out.items()}
