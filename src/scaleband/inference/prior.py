"""Start from a released posterior: beliefs, overlap with its runs, and conflict with new data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes import SHARED, Beliefs, default_beliefs
from scaleband.bayes.beliefs import SHARED_INDEX, role_index
from scaleband.bayes.simulate import prior_draws
from scaleband.errors import UserError
from scaleband.inference.fitting import DEFAULT_FORM, Fit, prepared, run_id_digests
from scaleband.inference.gate import Gate
from scaleband.laws import (
    FORMS,
    HYPERPARAMETERS,
    LEVEL,
    RESPONSES,
    ROLES,
    SCATTER_RATIO_SD,
    Design,
    Form,
    LawDraws,
)

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

CONFLICT_P = 0.01
"""Holm-adjusted p below which a disagreement of prior and data is reported."""


_LEFT_OUT = 1e-5
"""Standard deviation of a coefficient that a form leaves out, at most: a posterior as a prior has 1e-6 there."""


def _tempered(draws: Array, mean: Array, sd: Array, trust: float, wider: Array | None = None) -> tuple[Array, Array]:
    """Normal prior from draws: mean, and a triangular root of the covariance.

    What the released runs said counts `trust` times (a power prior, Ibrahim and Chen 2000): the posterior is the stated
    normal times their likelihood, so precisions are weighed, trust of the posterior's and the rest of the stated one.

    Parameters
    ----------
    draws (sample, parameter)
        Of the released posterior.
    mean, sd (parameter,)
        The stated beliefs; an sd of 0 has nothing to say.
    trust
        0 < trust <= 1.
    wider (parameter,)
        Variance that the new table has beyond the posterior's.
    """
    # A form that leaves a coefficient out has no variance there; the factor's row is then (almost) zero.
    covariance = np.atleast_2d(np.cov(draws.T)) + 1e-12 * np.eye(draws.shape[1])
    if wider is not None:
        covariance += np.diag(wider)
    if trust == 1:
        return draws.mean(0), np.linalg.cholesky(covariance)
    unit = np.sqrt(np.diag(covariance))  # variances differ by ten decades
    told = trust * np.linalg.inv(covariance / np.outer(unit, unit))
    stated = (1 - trust) * np.where(sd > 0, (unit / np.where(sd > 0, sd, 1.0)) ** 2, 0.0)
    mixed = np.linalg.inv(told + np.diag(stated))
    centre = mixed @ (told @ (draws.mean(0) / unit) + stated * mean / unit)
    return unit * centre, unit[:, None] * np.linalg.cholesky((mixed + mixed.T) / 2)


def _scatters(draws: LawDraws, design: Design) -> tuple[Array, Array]:
    """Shared parameters as draws about the new table, (sample, shared), and the variance to add, (shared,).

    The scatter of rate and batch is a source's own: what several sources share, times the source's ratio. What a model
    says of other teams' cells is that much less sure of a new one's; a known team brings its own.
    """
    shared, wider = draws.shared.copy(), np.zeros(draws.shared.shape[1])
    sources = [name.removeprefix("source:") for name in design.columns if name.startswith("source:")]
    index = [SHARED_INDEX[f"log_scatter_{name}"] for name in HYPERPARAMETERS]
    if len(sources) > 1:  # the new table has ratios of its own
        wider[index] = SCATTER_RATIO_SD**2 * (len(draws.sources) == 1)
    elif sources[0] in draws.sources:
        shared[:, index] = np.log(draws.cell_scatter(sources[0])[:, : len(index)])
    else:
        wider[index] = SCATTER_RATIO_SD**2 * (1 + (len(draws.sources) == 1))
    return shared, wider


def _known_columns(design: Design, draws: LawDraws) -> tuple[list[int], list[int]]:
    """Positions in `design` and in the model of the coefficients that both have; sizes stay the table's own."""
    index = {name: k for k, name in enumerate(draws.design.columns)}
    both = [
        (k, index[name])
        for k, (name, role) in enumerate(zip(design.columns, design.roles, strict=True))
        if role != "size" and name in index
    ]
    return [a for a, _ in both], [b for _, b in both]


def beliefs_from(draws: LawDraws, design: Design, form: Form, trust: float = 1.0) -> Beliefs:
    """A released posterior as the prior of a new table.

    Shared parameters and every coefficient of optimum and curvature that the model knows (features, families,
    and groups of the same name) become jointly normal; the released runs count `trust` times, so where they say much
    the covariance is divided by it, and where they say little the stated beliefs are left. Offsets of new groups
    keep their learned pooling, and so do small deviations of their exponents, whatever the form: a model of one team
    is surer of its exponents than of another team's, and of the scatter of its cells. The loss level keeps the stated
    beliefs, because levels are never compared.

    Parameters
    ----------
    draws
        The released model.
    design, form
        Columns of the new table; the form matters only where the model says nothing. What is fitted is of the model's
        form, and the beliefs say so.
    trust
        0 (the stated beliefs) to 1 (as if the released runs were one's own).

    Raises
    ------
    UserError
        Trust outside 0 to 1.
    """
    if not 0 <= trust <= 1:
        raise UserError(f"trust = {trust:g} is outside 0 to 1; 1 takes the model at its word, 0 ignores it")
    if trust == 0:
        return default_beliefs(design, form)
    if draws.shared.shape[1] != len(SHARED):
        raise UserError("the model comes from a version with other shared parameters; refit it to use it as a prior")
    stated = default_beliefs(design, replace(form, lr=form.lr | {"exponent"}, batch=form.batch | {"exponent"}))
    shared, wider = _scatters(draws, design)
    shared_mean, shared_factor = _tempered(
        shared, stated.shared_mean, np.diag(stated.shared_factor), trust, wider
    )  # fmt: skip
    here, there = _known_columns(design, draws)
    mean, factor, pooled = stated.law_mean.copy(), stated.law_factor.copy(), stated.pooled.copy()
    # What the model knows and the form leaves out is weighed against the stated beliefs of a form that has it: against
    # none, little trust would leave it anywhere.
    known = np.zeros(mean.shape, bool)
    known[:, here] = draws.law[:, :, there].std(axis=0) > _LEFT_OUT
    whole = np.diagonal(default_beliefs(design, FORMS["quadratic-exponents"]).law_factor, axis1=1, axis2=2)
    sd = np.diagonal(factor, axis1=1, axis2=2).copy()
    sd = np.where((sd == 0) & known, whole, sd)
    # offsets whose scale is learned: the scale's stated median
    sd[:2, pooled] *= _offset_medians()[:, role_index(design)][:, pooled]
    pooled[here] = False
    for r in (r for r in range(len(RESPONSES)) if r != LEVEL):
        block_mean, block = _tempered(draws.law[:, r][:, there], stated.law_mean[r, here], sd[r, here], trust)
        mean[r, here] = block_mean
        factor[r][here, :] = 0.0
        factor[r][np.ix_(here, here)] = block
    name = draws.meta.get("name", "a fit")
    return replace(
        stated,
        shared_mean=shared_mean,
        shared_factor=shared_factor,
        law_mean=mean,
        law_factor=factor,
        pooled=pooled,
        origin=f"{name}, trust {trust:g}",
        form=str(draws.meta.get("form", "")),
    )


def prior_of(
    frame: pd.DataFrame, *, form: str = DEFAULT_FORM, beliefs: Callable[[Any], Beliefs] | None = None,
    n_draws: int = 1000, seed: int = 1,
) -> LawDraws:
    """What is believed of a table's cells before its losses are looked at: the prior that `fit` would use, as draws.

    Every question that a fit answers can be put to them: `predict.dataset` for the optimum, curvature and regrets that
    these beliefs expect, `predict.contrasts` for the losses at the table's settings, `plots.plot_contrasts` for both
    beside the runs. Levels of loss are as good as free.

    Parameters
    ----------
    frame
        Run table (`RunTable.frame`). Its cells and settings count, not its losses.
    form, beliefs
        As in `fit`: `beliefs=lambda design: beliefs_from(model, design, FORMS[form], trust)` starts from a model.
    n_draws, seed
        Independent draws, and their generator's seed.

    Returns
    -------
    Draws whose cells are the table's; in `meta` the gate is passed, since nothing was sampled in chains.

    Raises
    ------
    UserError
        Unknown form, or a table without a completed run.
    """
    _, table, stated, inputs = prepared(frame, form, beliefs)
    never = (float("nan"), "drawn, not sampled")
    gate = Gate(True, never, never, never, 0, ())
    meta: dict[str, object] = {
        "name": f"prior: {stated.origin}", "prior": stated.origin, "form": form, "n_runs": 0, "n_cells": len(table),
        "conventions": {}, "gate": gate.as_dict(),
    }  # fmt: skip
    return Fit(prior_draws(inputs, stated, n_draws, seed), {}, inputs, stated, gate, meta).draws()


def _offset_medians() -> Array:
    """Stated medians of the offset scales: (hyperparameter, role without `shared`)."""
    start = SHARED_INDEX[f"log_offset_{ROLES[1]}_{HYPERPARAMETERS[0]}"]
    means = np.array([mean for mean, _, _ in SHARED.values()])[start:]
    return np.exp(means.reshape(len(HYPERPARAMETERS), len(ROLES) - 1))


def overlapping_runs(draws: LawDraws, run_ids: Sequence[str]) -> list[str]:
    """Run ids that the released model was fitted to: using them again would count them twice."""
    known = draws.meta.get("run_ids_sha256", [])
    known = set(known) if isinstance(known, list) else set()
    return [run_id for run_id in run_ids if run_id_digests([run_id])[0] in known]


def prior_data_conflict(fitted: Fit) -> list[str]:
    """Where the data pulled a parameter further from its prior than the prior allows; one sentence each.

    For a normal prior the move of the posterior mean has variance (prior - posterior), so
    z = move / sqrt(prior variance - posterior variance) is about N(0, 1) when prior and data agree
    (Box 1980; Evans and Moshonov 2006). Parameters that the data did not sharpen say nothing. p is Holm-adjusted.
    """
    from scipy.stats import norm

    beliefs = fitted.beliefs
    prior_sd = np.sqrt((beliefs.shared_factor**2).sum(1))
    checks = [
        (name, beliefs.shared_mean[k], prior_sd[k], fitted.posterior["shared"][..., k].ravel())
        for k, name in enumerate(SHARED)
    ]
    for r, response in enumerate(RESPONSES):
        if r == LEVEL:
            continue
        sds = np.sqrt((beliefs.law_factor[r] ** 2).sum(1))
        for k, column in enumerate(fitted.inputs.design.columns):
            if not beliefs.pooled[k] and sds[k] > 1e-5:
                draws = fitted.posterior["law"][..., r, k].ravel()
                checks.append((f"{response}: {column}", beliefs.law_mean[r, k], sds[k], draws))
    found = []
    for name, mean, sd, draws in checks:
        gained = sd**2 - draws.var()
        if gained > 0.05 * sd**2:
            z = (draws.mean() - mean) / np.sqrt(gained)
            found.append((2 * float(norm.sf(abs(z))), name, mean, sd, float(draws.mean())))
    found.sort()
    out, worst = [], 0.0
    for k, (p, name, mean, sd, now) in enumerate(found):
        worst = max(worst, min(1.0, p * (len(found) - k)))
        if worst < CONFLICT_P:
            out.append(
                f"{name}: the prior ({beliefs.origin}) says {mean:.3g} +- {sd:.2g}, these runs pull it to {now:.3g} "
                f"(p = {worst:.2g}); lower --trust, or check units and conventions"
            )
    return out
