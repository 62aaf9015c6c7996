"""From the sampler's coordinates to the quantities people name, and the law's coefficients given the cells.

The model integrates the coefficients out; here they are drawn from their Gaussian given each posterior draw.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes.beliefs import OWN, SHARED, Beliefs, role_index
from scaleband.bayes.inputs import ModelInputs
from scaleband.bayes.model import centring, law_basis
from scaleband.inference.sampler import RawDraws
from scaleband.laws import RESPONSES, ROLES

Array = NDArray[np.float64]


def _own(name: str, std: Array) -> Array:
    mean, sd, _ = OWN[name]
    return np.exp(mean + sd * std)


def _coefficients_given_cells(r: Array, w: Array, scatter: Array, rng: np.random.Generator) -> Array:
    """b | r for r = w b + scatter e, b ~ N(0, I): r (s, cell), w (s, cell, k), scatter (s,) -> (s, k)."""
    wt = w.transpose(0, 2, 1) / scatter[:, None, None]
    precision = np.eye(w.shape[2]) + wt @ (w / scatter[:, None, None])
    chol = np.linalg.cholesky(precision)
    mean = np.linalg.solve(precision, (wt @ (r / scatter[:, None])[:, :, None]))
    noise = np.linalg.solve(chol.transpose(0, 2, 1), rng.standard_normal((len(r), w.shape[2], 1)))
    return (mean + noise)[:, :, 0]


def _coefficients_given_basis(g: Array, scaled: Array, rng: np.random.Generator) -> Array:
    """b | g for w b = B g, b ~ N(0, I): what the basis leaves open is drawn from the prior. g (s, basis)."""
    _, s, vt = np.linalg.svd(scaled, full_matrices=False)
    vt = vt * (s > 1e-10 * s.max())[:, None]
    free = rng.standard_normal((len(g), scaled.shape[1]))
    return (g - free @ vt.T) @ vt + free


def unpack(raw: RawDraws, inputs: ModelInputs, beliefs: Beliefs, *, seed: int) -> dict[str, Array]:
    """Named posterior, every entry (chain, draw, ...).

    Returns
    -------
    angle, skew (direction); rho, nu; sigma (source); scatter (response); offset_scale (hyperparameter, role);
    state (response, cell); law (response, coefficient); trunk_scale where runs share trunks;
    shared (shared): the unconstrained shared parameters, for use as a prior.
    """
    value = raw.values
    shape = value["shared_std"].shape[:2]
    flat = {name: v.reshape(-1, *v.shape[2:]) for name, v in value.items()}
    shared = beliefs.shared_mean + flat["shared_std"] @ beliefs.shared_factor.T
    named = {name: shared[:, k] for k, name in enumerate(SHARED)}
    rng = np.random.default_rng([seed, 7])

    half = named["angle_gap"] / 2
    scatter = np.stack(
        [np.exp(named[f"log_scatter_{r}"]) for r in RESPONSES[:4]]
        + [_own("log_scatter_level", flat["log_scatter_level_std"])],
        axis=1,
    )
    offset = np.stack(
        [
            np.stack([np.exp(named[f"log_offset_{role}_{h}"]) for role in ROLES[1:]], axis=1)
            for h in RESPONSES[:2]
        ],
        axis=1,
    )
    design, mean = inputs.scaled_design(beliefs), inputs.prior_mean(beliefs)
    scale = np.where(beliefs.pooled, offset[:, :, role_index(inputs.design)], 1.0)

    states, laws = [], []
    for r, name in enumerate(("log_lr", "log_batch")):
        b = _coefficients_given_cells(
            flat[name] - mean[r], design[r][None] * scale[:, r, None, :], scatter[:, r], rng
        )
        laws.append(beliefs.law_mean[r] + (scale[:, r] * b) @ beliefs.law_factor[r].T)
        states.append(flat[name])
    phi = centring(inputs)
    for j in (1, 2):
        g, effect = flat[f"law_std_curvature_{j}"], flat[f"effect_curvature_{j}"]
        law = mean[1 + j] + g @ law_basis(design[1 + j]).T
        sd = scatter[:, 1 + j, None]
        states.append(law + sd ** (1 - phi[j - 1]) * (effect - phi[j - 1] * law))
        b = _coefficients_given_basis(g, design[1 + j], rng)
        laws.append(beliefs.law_mean[1 + j] + b @ beliefs.law_factor[1 + j].T)
    states.append(flat["level"])
    b = _coefficients_given_basis(flat["law_std_level"], design[4], rng)
    laws.append(beliefs.law_mean[4] + b @ beliefs.law_factor[4].T)

    out = {
        "angle": np.stack([named["angle_mid"] - half, named["angle_mid"] + half], axis=1),
        "skew": np.stack([named["skew_1"], named["skew_2"]], axis=1),
        "rho": np.exp(named["log_rho"]),
        "nu": 1 + np.exp(named["log_nu_minus_1"]),
        "sigma": _own("log_sigma", flat["log_sigma_std"]),
        "scatter": scatter,
        "offset_scale": offset,
        "state": np.stack(states, axis=1),
        "law": np.stack(laws, axis=1),
        "shared": shared,
    }
    if "log_trunk_std" in flat:
        out["trunk_scale"] = _own("log_trunk", flat["log_trunk_std"])
        out["trunk_effect"] = flat["trunk_effect"]
    return {name: v.reshape(*shape, *v.shape[1:]) for name, v in out.items()}
