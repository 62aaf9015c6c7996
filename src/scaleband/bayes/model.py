"""The hierarchical model of the optimum: one flat `with pm.Model`.

    x*_c        cell optimum:   N(X (mean + factor scale b), scatter^2), b ~ N(0, I) integrated out
    log h_c     curvatures:     N(law, scatter)                     (partly centred: see `centring`)
    L_c         level:          N(law, scatter)                     (centred: the runs pin it)
    100 log loss ~ StudentT(nu, L_c + trunk + excess, sqrt(sigma^2 + se^2 + (rho excess)^2))

Given x* the coefficients above it are Gaussian, so they are marginalised here (Woodbury: the covariance is
diagonal plus low rank) and drawn afterwards by `inference`. Everything that depends on the table, the form or
the prior is `pm.Data`, so the same compiled model serves other rows, other forms and other priors.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from scaleband.bayes.beliefs import OWN, SHARED, Beliefs, role_index
from scaleband.bayes.inputs import ModelInputs
from scaleband.laws import HYPERPARAMETERS, ROLES, SPONTANEOUS, linex

_HALF_LOG_2PI = 0.5 * float(np.log(2 * np.pi))


def _linex(v, h, s):  # type: ignore[no-untyped-def]
    """`laws.linex` in PyTensor; the series branch keeps value and gradient finite at s v = 0."""
    a = pt.minimum(s * v, 40.0)
    small = pt.abs(a) < 1e-2
    safe = pt.switch(small, 1.0, a)
    ratio = pt.switch(small, 0.5 + a / 6 + a * a / 24, (pt.exp(safe) - 1 - safe) / (safe * safe))
    return h * v * v * ratio


def _marginal_law_logp(value, mean, design, scatter):  # type: ignore[no-untyped-def]
    """log N(value; mean, scatter^2 I + design design^T)."""
    r = (value - mean) / scatter
    w = design / scatter
    chol = pt.linalg.cholesky(pt.eye(w.shape[1]) + pt.dot(w.T, w))
    b = pt.linalg.solve_triangular(chol, pt.dot(w.T, r), lower=True)
    log_det = pt.log(pt.diag(chol)).sum() + value.shape[0] * pt.log(scatter)
    return -0.5 * (pt.dot(r, r) - pt.dot(b, b)) - log_det - value.shape[0] * _HALF_LOG_2PI


def _marginal_law_random(mean, design, scatter, rng=None, size=None):  # type: ignore[no-untyped-def]
    b = rng.standard_normal(design.shape[-1])
    return mean + design @ b + scatter * rng.standard_normal(mean.shape)


def _run_logp(value, mean, scale, nu, censored):  # type: ignore[no-untyped-def]
    """StudentT density of a finished run; a smooth 'at least this high' for a censored one."""
    u = (value - mean) / scale
    density = (
        pt.gammaln((nu + 1) / 2)
        - pt.gammaln(nu / 2)
        - 0.5 * pt.log(nu * np.pi)
        - pt.log(scale)
        - (nu + 1) / 2 * pt.log(1 + u * u / nu)
    )
    above = pt.log(SPONTANEOUS + (1 - SPONTANEOUS) * pt.sigmoid(-u))
    return pt.switch(censored, above, density)


def _run_random(mean, scale, nu, censored, rng=None, size=None):  # type: ignore[no-untyped-def]
    return mean + scale * rng.standard_t(nu, size=mean.shape)


def build_model(inputs: ModelInputs, beliefs: Beliefs) -> pm.Model:
    """The model for one table, form and prior.

    Parameters
    ----------
    inputs
        Arrays of the table; the number of cells, trunks, sources and columns fixes the model's dims, the
        number of rows does not.
    beliefs
        Prior; replaceable through `model_data` without building anew.

    Returns
    -------
    A model whose free variables are `shared_std` (shared), `log_sigma_std` (source), `log_scatter_level_std`,
    `log_lr` and `log_batch` (cell), `law_std_*` (basis), `effect_*` (cell), `level` (cell) and, when runs
    share trunks, `log_trunk_std` and `trunk_effect` (trunk).
    """
    data = model_data(inputs, beliefs)
    index = {name: k for k, name in enumerate(SHARED)}
    n_roles = len(ROLES) - 1
    coords = {
        "shared": list(SHARED),
        "hyperparameter": list(HYPERPARAMETERS),
        "cell": np.arange(len(inputs.cells)),
        "source": list(inputs.sources),
        "basis": np.arange(data["basis_level"].shape[1]),
    }
    with pm.Model(coords=coords) as model:
        d = {name: pm.Data(name, value) for name, value in data.items()}

        shared_std = pm.Normal("shared_std", 0, 1, dims="shared")
        shared = d["shared_mean"] + pt.dot(d["shared_factor"], shared_std)
        half_gap = shared[index["angle_gap"]] / 2
        angle = [shared[index["angle_mid"]] - half_gap, shared[index["angle_mid"]] + half_gap]
        skew = [shared[index["skew_1"]], shared[index["skew_2"]]]
        rho = pt.exp(shared[index["log_rho"]])
        nu = 1 + pt.exp(shared[index["log_nu_minus_1"]])
        start = index["log_scatter_log_lr"]
        scatter = pt.exp(shared[start : start + 4])  # log_lr, log_batch, log_curvature_1, log_curvature_2
        start = index["log_offset_source_log_lr"]
        offset = pt.exp(shared[start : start + 2 * n_roles].reshape((2, n_roles)))

        mean, sd, _ = OWN["log_sigma"]
        sigma = pt.exp(mean + sd * pm.Normal("log_sigma_std", 0, 1, dims="source"))
        mean, sd, _ = OWN["log_scatter_level"]
        scatter_level = pt.exp(mean + sd * pm.Normal("log_scatter_level_std", 0, 1))

        # (hyperparameter, coefficient): learned offset scale where the coefficient is pooled, else 1
        scale = pt.switch(d["pooled"][None, :], offset[:, d["role"]], 1.0)
        optimum = [
            pm.CustomDist(
                name,
                d["mean_optimum"][h],
                d["design"][h] * scale[h],
                scatter[h],
                logp=_marginal_law_logp,
                random=_marginal_law_random,
                signature="(c),(c,k),()->(c)",
                support_point=lambda rv, size, mean, design, scatter: mean,
                dims="cell",
            )
            for h, name in enumerate(HYPERPARAMETERS)
        ]
        curvature = []
        for j in (1, 2):
            law = d[f"mean_curvature_{j}"] + pt.dot(
                d[f"basis_curvature_{j}"], pm.Normal(f"law_std_curvature_{j}", 0, 1, dims="basis")
            )
            # Partly centred, cell by cell: 1 where the runs pin the curvature, 0 where the law does.
            centring, sd = d["centring"][j - 1], scatter[1 + j]
            effect = pm.Normal(f"effect_curvature_{j}", centring * law, sd**centring, dims="cell")
            curvature.append(pt.exp(law + sd ** (1 - centring) * (effect - centring * law)))
        law = d["mean_level"] + pt.dot(d["basis_level"], pm.Normal("law_std_level", 0, 1, dims="basis"))
        level = pm.Normal("level", law, scatter_level, dims="cell")

        cell = d["row_cell"]
        dx_lr, dx_batch = d["row_log_lr"] - optimum[0][cell], d["row_log_batch"] - optimum[1][cell]
        excess = sum(
            _linex(pt.cos(angle[j]) * dx_lr + pt.sin(angle[j]) * dx_batch, curvature[j][cell], skew[j])
            for j in (0, 1)
        )
        base = level[cell]
        if inputs.n_trunks:
            mean, sd, _ = OWN["log_trunk"]
            trunk_sd = pt.exp(mean + sd * pm.Normal("log_trunk_std", 0, 1))
            # Centred: the several runs of one trunk pin what they share.
            trunk = pm.Normal("trunk_effect", 0, trunk_sd, shape=inputs.n_trunks)
            base = base + pt.concatenate([trunk, pt.zeros(1)])[d["row_trunk"]]
        # A censored row is judged at its threshold: noise there is that of an excess of the threshold's size.
        at = pt.switch(d["censored"], d["y"] - base, excess)
        noise = pt.sqrt(sigma[d["row_source"]] ** 2 + d["y_se"] ** 2 + (rho * at) ** 2)
        pm.CustomDist(
            "log_loss",
            base + excess,
            noise,
            nu,
            d["censored"],
            logp=_run_logp,
            random=_run_random,
            signature="(r),(r),(),(r)->(r)",
            observed=d["y"],
        )
    return model


def law_basis(design: np.ndarray) -> np.ndarray:
    """Orthogonal columns B with B B^T = design design^T, (cell, basis): the same Gaussian law, no redundancy.

    The number of columns is min(cell, coefficient) whatever the rank, so that dims stay fixed.
    """
    u, s, _ = np.linalg.svd(design, full_matrices=False)
    return u * s


def centring(inputs: ModelInputs) -> np.ndarray:
    """How much the runs of a cell say about its two curvatures against its law: (2, cell), 0 to 1.

    A choice of coordinates for the sampler, not of the model: any value gives the same posterior. It compares
    the information in the runs, at the stated beliefs about the basin, with a scatter of 0.16 and 0.06 (what
    the Step Law sweeps show).
    """
    shared = {name: value[0] for name, value in SHARED.items()}
    dx = inputs.row_offsets()
    information = np.zeros((2, len(inputs.cells)))
    for j, sign in enumerate((-0.5, 0.5)):
        angle = shared["angle_mid"] + sign * shared["angle_gap"]
        excess = linex(np.cos(angle) * dx[0] + np.sin(angle) * dx[1], 2.0, shared[f"skew_{j + 1}"])
        told = np.where(inputs.censored, 0.0, excess / np.hypot(0.1, 0.15 * excess))
        np.add.at(information[j], inputs.cell, 0.1 * told**2)  # 0.1: the optimum and level are unknown too
    return information / (information + 1 / np.array([[0.16], [0.06]]) ** 2)


def model_data(inputs: ModelInputs, beliefs: Beliefs) -> dict[str, np.ndarray]:
    """Everything in the model that is data: pass it to `with_data` to fit other rows, forms or priors."""
    design, mean = inputs.scaled_design(beliefs), inputs.prior_mean(beliefs)
    trunk = {"row_trunk": inputs.trunk} if inputs.n_trunks else {}
    return trunk | {
        "row_log_lr": inputs.log_lr,
        "row_log_batch": inputs.log_batch,
        "y": inputs.y,
        "y_se": inputs.y_se,
        "censored": inputs.censored,
        "row_cell": inputs.cell,
        "row_source": inputs.source,
        "shared_mean": beliefs.shared_mean,
        "shared_factor": beliefs.shared_factor,
        "pooled": beliefs.pooled,
        "role": role_index(inputs.design),
        "design": design[:2],
        "mean_optimum": mean[:2],
        "centring": centring(inputs),
        "basis_curvature_1": law_basis(design[2]),
        "mean_curvature_1": mean[2],
        "basis_curvature_2": law_basis(design[3]),
        "mean_curvature_2": mean[3],
        "basis_level": law_basis(design[4]),
        "mean_level": mean[4],
    }


def initial_point(
    inputs: ModelInputs, shapes: Mapping[str, tuple[int, ...]], seed: int
) -> dict[str, np.ndarray]:
    """Where chains start: each cell at its best runs, everything else close to its prior mean.

    Close, not at it: NUTS refuses a start where a gradient is exactly zero, as a prior's is at its mean.
    """
    rng = np.random.default_rng(seed)
    point = {
        name: 0.1 * rng.standard_normal(shape)
        for name, shape in shapes.items()
        if "_std" in name or name == "trunk_effect"
    }
    for j in (0, 1):  # at a curvature of about 2 % per squared log unit
        point[f"effect_curvature_{j + 1}"] = 0.5 * centring(inputs)[j] + 0.05 * rng.standard_normal(len(inputs.best))
    return point | {name: inputs.best[:, k].copy() for k, name in enumerate((*HYPERPARAMETERS, "level"))}
