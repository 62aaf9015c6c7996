"""Start from a released posterior: beliefs, overlap with its runs, and conflict with new data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes import SHARED, Beliefs, default_beliefs
from scaleband.errors import UserError
from scaleband.inference.fitting import Fit, run_id_digests
from scaleband.laws import LEVEL, RESPONSES, Design, Form, LawDraws

Array = NDArray[np.float64]

CONFLICT_P = 0.01
"""Holm-adjusted p below which a disagreement of prior and data is reported."""


def _moments(draws: Array, trust: float) -> tuple[Array, Array]:
    """Mean and Cholesky factor of the covariance divided by the trust."""
    mean = draws.mean(0)
    covariance = np.atleast_2d(np.cov(draws.T)) / trust
    # A form that leaves a coefficient out has no variance there; the factor's row is then (almost) zero.
    return mean, np.linalg.cholesky(covariance + 1e-12 * np.eye(len(mean)))


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
    and groups of the same name) become jointly normal, covariance divided by `trust`; offsets of new groups
    keep their learned pooling, and so do small deviations of their exponents, whatever the form: a model of one team
    is surer of its exponents than of another team's. The loss level keeps the stated beliefs, because levels are
    never compared.

    Parameters
    ----------
    draws
        The released model.
    design, form
        Columns of the new table; the form matters only where the model says nothing.
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
    shared_mean, shared_factor = _moments(draws.shared, trust)
    here, there = _known_columns(design, draws)
    mean, factor, pooled = stated.law_mean.copy(), stated.law_factor.copy(), stated.pooled.copy()
    pooled[here] = False
    for r in (r for r in range(len(RESPONSES)) if r != LEVEL):
        block_mean, block = _moments(draws.law[:, r][:, there], trust)
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
    )


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
