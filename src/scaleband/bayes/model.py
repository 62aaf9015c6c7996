"""The hierarchical model of the optimum: one flat `with pm.Model`.

    x*_c        cell optimum:   N(X (mean + factor scale b), scatter^2), b ~ N(0, I) integrated out
    log h_c     curvatures:     N(law, scatter)
    t_c, s_c    angles, skews:  N(law, scatter)
    L_c         level:          N(law, scatter)
    100 log loss ~ StudentT(nu, L_c + trunk + excess, sqrt(sigma^2 + se^2 + (rho excess)^2))

Given x* the coefficients above it are Gaussian, so they are marginalised here (Woodbury: the covariance is
diagonal plus low rank) and drawn afterwards by `inference`. Everything that depends on the table, the form or
the prior is `pm.Data`, so the same compiled model serves other rows, other forms and other priors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from scaleband.bayes.beliefs import OWN, SHARED, Beliefs, role_index
from scaleband.bayes.coordinates import ORDER, coordinates
from scaleband.bayes.inputs import ModelInputs
from scaleband.laws import HYPERPARAMETERS, RESPONSES, ROLES, SPONTANEOUS

_HALF_LOG_2PI = 0.5 * float(np.log(2 * np.pi))


def _linex(v, h, s):  # type: ignore[no-untyped-def]
    """`laws.linex` in PyTensor; the series branch keeps value and gradient finite at s v = 0."""
    a = pt.minimum(s * v, 40.0)
    small = pt.abs(a) < 1e-2
    safe = pt.switch(small, 1.0, a)
    ratio = pt.switch(small, 0.5 + a / 6 + a * a / 24, (pt.exp(safe) - 1 - safe) / (safe * safe))
    return h * v * v * ratio


def marginal_law(r, design, scatter, count, std):  # type: ignore[no-untyped-def]
    """log N(r; 0, scatter^2 I + design design^T), and coefficients b | r drawn by the standard normal `std`.

    `r` and the rows of `design` are zero where a cell is not informed; `count` is the number of those that are.
    """
    w = design / scatter
    chol = pt.linalg.cholesky(pt.eye(w.shape[1]) + pt.dot(w.T, w))
    b = pt.linalg.solve_triangular(chol, pt.dot(w.T, r) / scatter, lower=True)
    log_det = pt.log(pt.diag(chol)).sum() + count * pt.log(scatter)
    logp = -0.5 * (pt.dot(r, r) / scatter**2 - pt.dot(b, b)) - log_det - count * _HALF_LOG_2PI
    return logp, pt.linalg.solve_triangular(chol.T, b + std, lower=False)


def fixed_law(r, basis, width, scatter, count, std):  # type: ignore[no-untyped-def]
    """The same for design = basis width with orthonormal (or zero) columns: Woodbury is then diagonal."""
    v = scatter**2
    projected = pt.dot(basis.T, r)
    total = v + width**2
    quadratic = (pt.dot(r, r) - (projected**2 * width**2 / total).sum()) / v
    log_det = 0.5 * pt.log1p(width**2 / v).sum() + count * pt.log(scatter)
    logp = -0.5 * quadratic - log_det - count * _HALF_LOG_2PI
    return logp, width / total * projected + pt.sqrt(v / total) * std


def _anchor_shift(state, anchor):  # type: ignore[no-untyped-def]
    """`coordinates.anchor_shift` in PyTensor, over cells."""
    h = [pt.exp(state[f"log_curvature_{j}"]) for j in (1, 2)]
    c = [pt.cos(state[f"angle_{j}"]) for j in (1, 2)]
    s = [pt.sin(state[f"angle_{j}"]) for j in (1, 2)]
    db = anchor - state["log_batch"]
    dx = -(h[0] * c[0] * s[0] + h[1] * c[1] * s[1]) / (h[0] * c[0] ** 2 + h[1] * c[1] ** 2) * db
    return dx, sum(_linex(c[j] * dx + s[j] * db, h[j], state[f"skew_{j + 1}"]) for j in (0, 1))


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
    `state_std` (response, cell) and `law_std` (response, coefficient) in the coordinates of `bayes.coordinates` and,
    when runs share trunks, `log_trunk_std` and `trunk_std` (trunk); `state` (response, cell) and `trunk_effect`
    (trunk) are computed from them.
    """
    data = model_data(inputs, beliefs)
    index = {name: k for k, name in enumerate(SHARED)}
    n_roles = len(ROLES) - 1
    coords = {
        "shared": list(SHARED),
        "hyperparameter": list(HYPERPARAMETERS),
        "cell": np.arange(len(inputs.cells)),
        "source": list(inputs.sources),
    }
    with pm.Model(coords=coords) as model:
        d = {name: pm.Data(name, value) for name, value in data.items()}

        shared_std = pm.Normal("shared_std", 0, 1, dims="shared")
        shared = d["shared_mean"] + pt.dot(d["shared_factor"], shared_std)
        rho = pt.exp(shared[index["log_rho"]])
        nu = 1 + pt.exp(shared[index["log_nu_minus_1"]])
        start = index["log_scatter_log_lr"]
        scatter = pt.exp(shared[start : start + 4])  # log_lr, log_batch, log_curvature_1, log_curvature_2
        scatter_shape = {name: pt.exp(shared[index[f"log_scatter_{name}"]]) for name in ("angle", "skew")}
        start = index["log_offset_source_log_lr"]
        offset = pt.exp(shared[start : start + 2 * n_roles].reshape((2, n_roles)))

        mean, sd, _ = OWN["log_sigma"]
        sigma = pt.exp(mean + sd * pm.Normal("log_sigma_std", 0, 1, dims="source"))
        mean, sd, _ = OWN["log_scatter_level"]
        scatter_level = pt.exp(mean + sd * pm.Normal("log_scatter_level_std", 0, 1))

        # (hyperparameter, coefficient): learned offset scale where the coefficient is pooled, else 1
        scale = pt.switch(d["pooled"][None, :], offset[:, d["role"]], 1.0)
        # The cells' states, response after response, in the coordinates of `bayes.coordinates`.
        unit = pm.Flat("state_std", shape=(len(RESPONSES), len(inputs.cells)))
        if inputs.n_trunks:
            unit = pt.dot(unit, d["blend"].T)
        law_std = pm.Normal("law_std", 0, 1, shape=(len(RESPONSES), len(inputs.design.columns)))
        informed = d["informed"]
        pm.Potential("uninformed", -0.5 * pt.switch(informed, 0.0, unit**2 + 2 * _HALF_LOG_2PI).sum())
        state: dict[str, Any] = {}
        shift: dict[str, Any] = {}
        away: dict[int, Any] = {}
        for r in ORDER:
            name = RESPONSES[r]
            own = d["own"][r] * unit[r] + sum(d["lean"][r, m] * away[m] for m in away)
            if name == "log_lr":  # from the best rate and the level at the anchor to those of the optimum
                shift = dict(zip(("log_lr", "level"), _anchor_shift(state, d["anchor"]), strict=True))
            centre = d["centre"][r] - shift.get(name, 0.0)
            pinned = centre + own
            spread = scatter_level if name == "level" else scatter[r] if r < 4 else scatter_shape[name[:-2]]
            prior_mean, count = d["prior_mean"][r], informed[r].sum()
            resid = pt.switch(informed[r], pinned - prior_mean, 0.0)
            if r < len(HYPERPARAMETERS):
                reach = d["design"][r] * scale[r]
                seen = pt.switch(informed[r][:, None], reach, 0.0)
                logp, coefficient = marginal_law(resid, seen, spread, count, law_std[r])
            else:
                reach = d["reach"][r - len(HYPERPARAMETERS)]
                basis, width = d["basis"][r - len(HYPERPARAMETERS)], d["width"][r - len(HYPERPARAMETERS)]
                logp, coefficient = fixed_law(resid, basis, width, spread, count, law_std[r])
            pm.Potential(f"law_{name}", logp)
            state[name] = pt.switch(informed[r], pinned, prior_mean + pt.dot(reach, coefficient) + spread * unit[r])
            away[r] = state[name] - centre
        pm.Deterministic("state", pt.stack([state[name] for name in RESPONSES]))

        cell = d["row_cell"]
        dx_lr, dx_batch = d["row_log_lr"] - state["log_lr"][cell], d["row_log_batch"] - state["log_batch"][cell]
        excess = 0.0
        for j in (1, 2):
            # Sine and cosine per cell, not per run: a run table has fifty times as many runs.
            c, s = pt.cos(state[f"angle_{j}"])[cell], pt.sin(state[f"angle_{j}"])[cell]
            v = c * dx_lr + s * dx_batch
            excess = excess + _linex(v, pt.exp(state[f"log_curvature_{j}"])[cell], state[f"skew_{j}"][cell])
        base = state["level"][cell]
        if inputs.n_trunks:
            mean, sd, _ = OWN["log_trunk"]
            trunk_sd = pt.exp(mean + sd * pm.Normal("log_trunk_std", 0, 1))
            # The runs of one trunk pin its mean loss; its error is what remains beside the cells' mean loss there.
            rest = ((d["y"] - base - excess)[d["trunk_row"]] * d["trunk_weight"]).sum(axis=1)
            trunk = rest + 0.05 * pm.Flat("trunk_std", shape=inputs.n_trunks)
            pm.Deterministic("trunk_effect", trunk)
            pm.Potential("trunks", (-0.5 * (trunk / trunk_sd) ** 2 - pt.log(trunk_sd) - _HALF_LOG_2PI).sum())
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


def model_data(inputs: ModelInputs, beliefs: Beliefs) -> dict[str, np.ndarray]:
    """Everything in the model that is data: pass it to `with_data` to fit other rows, forms or priors."""
    design, mean = inputs.scaled_design(beliefs), inputs.prior_mean(beliefs)
    where = coordinates(inputs)
    fixed = [_orthogonal(w, seen) for w, seen in zip(design[2:], where.informed[2:], strict=True)]
    trunk = {}
    if inputs.n_trunks:
        trunk = {
            "row_trunk": inputs.trunk,
            "blend": where.blend,
            "trunk_row": where.trunk_row,
            "trunk_weight": where.trunk_weight,
        }
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
        "prior_mean": mean,
        "informed": where.informed,
        "centre": where.centre,
        "own": where.own,
        "lean": where.lean,
        "anchor": where.anchor,
        "basis": np.stack([basis for basis, _, _ in fixed]),
        "width": np.stack([width for _, width, _ in fixed]),
        "reach": np.stack([reach for _, _, reach in fixed]),
    }


def _orthogonal(design: np.ndarray, informed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients turned so that those given the informed cells are independent.

    design (cell, coefficient) -> basis (cell, k) with orthonormal columns, or zero where informed cells say nothing;
    width (k,); reach (cell, k), the design in the turned coefficients.
    """
    seen = np.where(informed[:, None], design, 0.0)
    values, turned = np.linalg.eigh(seen.T @ seen)
    said = values > 1e-12 * max(values.max(), 1e-300)
    width = np.where(said, np.sqrt(np.maximum(values, 0.0)), 0.0)
    basis = np.where(said, (seen @ turned) / np.where(said, width, 1.0), 0.0)
    return basis, width, design @ turned


def initial_point(
    inputs: ModelInputs, shapes: Mapping[str, tuple[int, ...]], seed: int
) -> dict[str, np.ndarray]:
    """Where chains start: each cell at its best runs, everything else close to its prior mean.

    Close, not at it: NUTS refuses a start where a gradient is exactly zero, as a prior's is at its mean.
    """
    rng = np.random.default_rng(seed)
    return {name: 0.1 * rng.standard_normal(shape) for name, shape in shapes.items()}
