"""The hierarchical model of the optimum: one flat `with pm.Model`.

    x*_c        cell optimum:   N(X (mean + factor scale b), (scatter ratio of its source)^2), b ~ N(0, I)
    log h_c     curvatures:     N(law, scatter)
    t_c, s_c    angles, skews:  N(law, scatter)
    L_c         level:          N(law, scatter of its source)
    100 log loss ~ StudentT(nu, L_c + trunk + excess, sqrt(sigma^2 + se^2 + (rho excess)^2))

Coefficients b and states are computed from nearly standard normal variables, in the coordinates of
`bayes.coordinates`, and their density written out. Everything that depends on the table, the form or the prior is
`pm.Data`, so the same compiled model serves other rows, other forms and other priors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from scaleband.bayes.basin import excess, rate_at, sliced, straight
from scaleband.bayes.beliefs import OWN, SHARED, SHARED_INDEX, Beliefs, role_index
from scaleband.bayes.coordinates import ORDER, coordinates
from scaleband.bayes.inputs import ModelInputs
from scaleband.bayes.mode import information
from scaleband.bayes.one_batch import rate_to_first_order
from scaleband.laws import (
    ANGLE,
    CURVATURE,
    HYPERPARAMETERS,
    LEVEL,
    RESPONSES,
    ROLES,
    SKEW,
    SPONTANEOUS,
    along_rate,
)

_HALF_LOG_2PI = 0.5 * float(np.log(2 * np.pi))
# From so many cells on, the laws of all but `FACTORED` are settled (`settled_law`): cheaper by a third there, while
# in a table of 17 cells, whose scatters are learned from few, half the effective draws were lost.
MANY_CELLS = 100
FACTORED = (0, 1, LEVEL)
"""Responses whose laws are factored even then: the offset scales of rate and batch are learned, and the coefficients of
levels are as good as free while every source has a scatter of its own."""


def factored(weight, design):  # type: ignore[no-untyped-def]
    """Inverse Cholesky factors of I + design^T diag(weight) design, and half their log determinants, response by
    response: weight (response, cell), design (response, cell, coefficient)."""
    size = design.shape[2]
    turned = design.transpose(0, 2, 1)
    chol = pt.linalg.cholesky(pt.eye(size)[None] + pt.matmul(turned, weight[:, :, None] * design))
    inverse = pt.linalg.solve_triangular(chol, pt.eye(size), lower=True, b_ndim=2)
    return inverse, pt.log(pt.diagonal(chol, axis1=1, axis2=2)).sum(axis=1)


def pooled_law(std, prior, design, inverse, share, precision, slope):  # type: ignore[no-untyped-def]
    """A response's coefficients and their pull on the cells, from standard normals `std`.

    The runs' message about the response's distance from a reference is `precision z = slope` (cell,); its law is
    prior + design @ coefficients, plus scatter; share = 1 + precision scatter^2; inverse out of `factored`, at
    weights precision / share. If the message is right, N(0, I) turns into the posterior.
    """
    right = pt.dot(design.T, (slope - precision * prior) / share)
    coefficient = pt.dot(inverse.T, pt.dot(inverse, right) + std)
    return coefficient, prior + pt.dot(design, coefficient)


def settled_law(std, prior, design, share, precision, slope, start, axes, squares):  # type: ignore[no-untyped-def]
    """As `pooled_law` for a law whose scales are not learned, nearly, and without a matrix to factor.

    The columns of `axes` are the eigenvectors of design^T diag(weight) design at typical weights precision / share, and
    `squares` (k, cell) each cell's design along them, squared: what the weights of now tell along each axis is exact,
    and that the axes turn a little is left out. As any choice of coordinates this changes no posterior; and the
    coefficients start at `start`, their guess at typical weights, so that little goes through what is left out.
    Also gives half the log determinant of what stands for `factored`'s matrix.
    """
    right = pt.dot(design.T, (slope - precision * (prior + pt.dot(design, start))) / share) - start
    shrink = 1 / (1 + pt.dot(squares, precision / share))
    coefficient = start + pt.dot(axes, shrink * pt.dot(axes.T, right) + pt.sqrt(shrink) * std)
    return coefficient, prior + pt.dot(design, coefficient), -0.5 * pt.log(shrink).sum()


def _mixed(value, cells, turn):  # type: ignore[no-untyped-def]
    """`value` (cell,) with those of `cells` turned; the others stay."""
    return pt.set_subtensor(value[cells], pt.dot(turn, value[cells]))


def _run_logp(value, mean, scale, nu, censored, counts):  # type: ignore[no-untyped-def]
    """StudentT density of a finished run; a smooth 'at least this high' for a censored one; 0 for padding."""
    u = (value - mean) / scale
    density = (
        pt.gammaln((nu + 1) / 2)
        - pt.gammaln(nu / 2)
        - 0.5 * pt.log(nu * np.pi)
        - pt.log(scale)
        - (nu + 1) / 2 * pt.log(1 + u * u / nu)
    )
    above = pt.log(SPONTANEOUS + (1 - SPONTANEOUS) * pt.sigmoid(-u))
    return counts * pt.switch(censored, above, density)


def _run_random(mean, scale, nu, censored, counts, rng=None, size=None):  # type: ignore[no-untyped-def]
    return mean + scale * rng.standard_t(nu, size=mean.shape)


def _settled(inputs: ModelInputs) -> bool:
    return len(inputs.cells) >= MANY_CELLS


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
    A model whose free variables are `shared_std` (shared), `log_sigma_std` and `log_scatter_level_std`
    (source), `state_std` (response, cell) and `law_std` (response, coefficient) in the coordinates of
    `bayes.coordinates`; where there are several sources, `log_scatter_ratio_std` (hyperparameter, source); and when
    runs share trunks, `log_trunk_std` and `trunk_std` (trunk). `state` (response, cell), `coefficient` (response,
    coefficient; in units of its prior) and `trunk_effect` (trunk) are computed from them.
    """
    data = model_data(inputs, beliefs)
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
        rho = pt.exp(shared[SHARED_INDEX["log_rho"]])
        nu = 1 + pt.exp(shared[SHARED_INDEX["log_nu_minus_1"]])
        start = SHARED_INDEX["log_scatter_log_lr"]
        scatter = [shared[start + r] for r in range(4)]  # log_lr, log_batch, log_curvature_1, log_curvature_2
        if inputs.several_sources:
            mean, sd, _ = OWN["log_scatter_ratio"]
            ratio = mean + sd * pm.Normal("log_scatter_ratio_std", 0, 1, dims=("hyperparameter", "source"))
            scatter[:2] = [scatter[h] + ratio[h, d["cell_source"]] for h in range(len(HYPERPARAMETERS))]
        mean, sd, _ = OWN["log_scatter_level"]
        scatter.append((mean + sd * pm.Normal("log_scatter_level_std", 0, 1, dims="source"))[d["cell_source"]])
        scatter += [shared[SHARED_INDEX[f"log_scatter_{name}"]] for name in ("angle", "angle", "skew", "skew")]
        spread = pt.exp(pt.stack([s * pt.ones(len(inputs.cells)) for s in scatter]))  # (response, cell)
        if inputs.some_one_batch:
            spread = spread * d["scatter_share"]
        start = SHARED_INDEX["log_offset_source_log_lr"]
        offset = pt.exp(shared[start : start + 2 * n_roles].reshape((2, n_roles)))

        mean, sd, _ = OWN["log_sigma"]
        sigma = pt.exp(mean + sd * pm.Normal("log_sigma_std", 0, 1, dims="source"))

        # (hyperparameter, coefficient): learned offset scale where the coefficient is pooled, else 1
        scale = pt.switch(d["pooled"][None, :], offset[:, d["role"]], 1.0)
        # Coefficients and states, response after response, in the coordinates of `bayes.coordinates`: Flat, because
        # their prior is written below and what NUTS moves in is N(0, I) only where the runs pin a state linearly.
        unit = pm.Flat("state_std", shape=(len(RESPONSES), len(inputs.cells)))
        law_std = pm.Flat("law_std", shape=(len(RESPONSES), len(inputs.design.columns)))
        # How much more or less the runs say than under the noise for which the messages were worked out.
        variance = pt.dot(d["shares"], sigma**2) + d["far"] * rho**2
        trunk_sd: Any = None
        if inputs.n_trunks:
            mean, sd, _ = OWN["log_trunk"]
            trunk_sd = pt.exp(mean + sd * pm.Normal("log_trunk_std", 0, 1))
            variance = variance + d["trunked"] * trunk_sd**2
        some_tied, some_sliced = len(inputs.tied) > 0, inputs.some_one_batch
        told = d["typical_variance"] / variance * information(nu) / d["typical_information"]
        precision = told * d["precision"]
        share = 1 + precision * spread**2
        design = pt.concatenate([d["design"][:2] * scale[:, None, :], d["design"][2:]])
        anew = FACTORED if _settled(inputs) else tuple(range(len(RESPONSES)))
        inverse, log_det = factored((precision / share)[list(anew)], design[list(anew)])
        state: dict[str, Any] = {}
        away: dict[int, Any] = {}
        coefficients: dict[int, Any] = {}
        for r in ORDER:
            name = RESPONSES[r]
            shift: Any = None  # between a state and what it is at the anchor
            if name == "log_lr":
                shift = straight(state, d["anchor"][1])
                if some_sliced:
                    best = rate_at(state, d)
                    shift = pt.switch(d["one_batch"], best, shift)
            elif name == "level":
                seen = sliced(state, d, best) if some_sliced else state
                shift = excess(seen, d["anchor"][0], d["anchor"][1])
            turned, side = shift, sum(d["lean"][r, m] * away[m] for m in away)
            if some_tied:
                # Of cells that are told only together, `turn` makes the mixtures that the messages are about.
                t = d["tied"]
                if shift is not None:
                    turned = _mixed(shift, t, d["turn"][r].T)
                if away:
                    side = pt.inc_subtensor(side[t], sum(pt.dot(d["lean_tied"][r, m], away[m][t]) for m in away))
            slope = told[r] * (d["slope"][r] - side)
            prior = d["prior"][r] if shift is None else d["prior"][r] + turned
            if r in anew:
                k = anew.index(r)
                half_log_det = log_det[k]
                coefficient, pull = pooled_law(law_std[r], prior, design[r], inverse[k], share[r], precision[r], slope)
            else:
                coefficient, pull, half_log_det = settled_law(
                    law_std[r], prior, design[r], share[r], precision[r], slope,
                    d["law_start"][r], d["law_axes"][r], d["law_squares"][r],
                )  # fmt: skip
            z = (slope * spread[r] ** 2 + pull) / share[r] + spread[r] * unit[r] / pt.sqrt(share[r])
            pm.Potential(
                f"law_{name}",
                # log N(coefficient; 0, I) N(z; pull, spread^2) and the Jacobian of both
                -0.5 * (coefficient**2 + 2 * _HALF_LOG_2PI).sum()
                - 0.5 * (((z - pull) / spread[r]) ** 2 + pt.log(share[r]) + 2 * _HALF_LOG_2PI).sum()
                - half_log_det,
            )
            away[r] = _mixed(z, t, d["turn"][r]) if some_tied else z
            state[name] = away[r] + d["reference"][r] - (0.0 if shift is None else shift)
            coefficients[r] = coefficient
        pm.Deterministic("state", pt.stack([state[name] for name in RESPONSES]))
        pm.Deterministic("coefficient", pt.stack([coefficients[r] for r in range(len(RESPONSES))]))

        cell = d["row_cell"]
        run_excess = excess(seen, d["row_log_lr"], d["row_log_batch"], cell)
        base = state["level"][cell]
        if inputs.n_trunks:
            # The runs of one trunk pin its error beside the cells' mean loss there.
            rest = ((d["y"] - base - run_excess)[d["trunk_row"]] * d["trunk_weight"]).sum(axis=1)
            heard = d["trunk_precision"] / sigma[d["trunk_source"]] ** 2
            part = 1 + heard * trunk_sd**2
            trunk = rest * (1 - 1 / part) + trunk_sd * pm.Flat("trunk_std", shape=inputs.n_trunks) / pt.sqrt(part)
            pm.Deterministic("trunk_effect", trunk)
            pm.Potential("trunks", (-0.5 * (trunk / trunk_sd) ** 2 - _HALF_LOG_2PI - 0.5 * pt.log(part)).sum())
            base = base + pt.concatenate([trunk, pt.zeros(1)])[d["row_trunk"]]
        # A censored row is judged at its threshold: noise there is that of an excess of the threshold's size.
        at = pt.switch(d["censored"], d["y"] - base, run_excess)
        variance = sigma[d["row_source"]] ** 2 + d["y_se"] ** 2 + (rho * at) ** 2
        if inputs.n_trunks:
            variance = variance + d["row_alone"] * trunk_sd**2
        pm.CustomDist(
            "log_loss",
            base + run_excess,
            pt.sqrt(variance),
            nu,
            d["censored"],
            d["row_counts"],
            logp=_run_logp,
            random=_run_random,
            signature="(r),(r),(),(r),(r)->(r)",
            observed=d["y"],
        )
    return model


def padded_length(n: int) -> int:
    """Rows that a table of n runs is padded to: few lengths, at most an eighth more. For every new number of rows JAX
    compiles anew, for as long as a refit takes."""
    step = max(16, 2 ** (n.bit_length() - 4))
    return -(-n // step) * step


def _padding(inputs: ModelInputs) -> ModelInputs:
    """`inputs` with its first run again and again up to `padded_length`, free of trunks."""
    at = np.concatenate([np.arange(len(inputs.y)), np.zeros(padded_length(len(inputs.y)) - len(inputs.y), np.int64)])
    trunk = np.where(np.arange(len(at)) < len(inputs.y), inputs.trunk[at], inputs.n_trunks)
    names = ("log_lr", "log_batch", "y", "y_se", "censored", "cell", "source", "alone")
    return replace(inputs, trunk=trunk, **{name: getattr(inputs, name)[at] for name in names})


def model_data(inputs: ModelInputs, beliefs: Beliefs) -> dict[str, np.ndarray]:
    """Everything in the model that is data: pass it to `with_data` to fit other rows, forms or priors.

    Rows are padded (`padded_length`); `row_counts` is 1 for a run and 0 for padding.
    """
    where, n_rows = coordinates(inputs, beliefs), len(inputs.y)
    inputs = _padding(inputs)
    design, prior = inputs.scaled_design(beliefs), inputs.prior_mean(beliefs) - where.reference
    t, more = where.tied, dict[str, np.ndarray]()
    if t.size:
        design = design.copy()
        design[:, t] = where.turn.transpose(0, 2, 1) @ design[:, t]
        prior[:, t] = np.einsum("rcm,rc->rm", where.turn, prior[:, t])
        more |= {"tied": t, "turn": where.turn, "lean_tied": where.lean_tied}
    if inputs.n_trunks:
        more |= {
            "row_trunk": inputs.trunk,
            "row_alone": inputs.alone.astype(float),
            "trunked": where.trunked,
            "trunk_row": where.trunk_row,
            "trunk_weight": where.trunk_weight,
            "trunk_precision": where.trunk_precision,
            "trunk_source": where.trunk_source,
        }
    if inputs.some_one_batch:
        z = where.reference
        along = along_rate(z[ANGLE], np.exp(z[CURVATURE]), z[SKEW])
        rate, rate_slope = rate_to_first_order(z, inputs.one_batch)
        more |= {
            "one_batch": np.isfinite(inputs.one_batch),
            "scatter_share": inputs.scatter_share,
            "thin": inputs.thin,
            "rate": rate,
            "rate_slope": rate_slope,
            "slice": np.stack([along.log_h, along.skew]),
            "slice_slope": np.stack([along.log_h_slope, along.skew_slope]),
        }
    if _settled(inputs):
        weight = where.precision / (1 + where.precision * where.scatter**2)
        axes = np.linalg.eigh(np.einsum("rck,rc,rcm->rkm", design, weight, design))[1]
        more |= {
            "law_start": where.law,
            "law_axes": axes,
            "law_squares": np.einsum("rck,rkm->rmc", design, axes) ** 2,
        }
    return more | {
        "row_counts": (np.arange(len(inputs.y)) < n_rows).astype(float),
        "row_log_lr": inputs.log_lr,
        "row_log_batch": inputs.log_batch,
        "y": inputs.y,
        "y_se": inputs.y_se,
        "censored": inputs.censored,
        "row_cell": inputs.cell,
        "row_source": inputs.source,
        "cell_source": inputs.cell_source,
        "shared_mean": beliefs.shared_mean,
        "shared_factor": beliefs.shared_factor,
        "pooled": beliefs.pooled,
        "role": role_index(inputs.design),
        "design": design,
        "prior": prior,
        "reference": where.reference,
        "precision": where.precision,
        "slope": where.slope,
        "lean": where.lean,
        "anchor": where.anchor,
        "far": where.far,
        "shares": where.shares,
        "typical_variance": where.variance,
        "typical_information": np.asarray(information(where.nu)),
    }


def initial_point(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Where chains start, whatever the table: close to the origin of `bayes.coordinates`, where every cell is at what
    its runs say.

    Close, not at it: NUTS refuses a start where a gradient is exactly zero, as a prior's is at its mean.
    """
    rng = np.random.default_rng(seed)
    return {name: 0.1 * rng.standard_normal(shape) for name, shape in shapes.items()}
