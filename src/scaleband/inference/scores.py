"""Scores of a form: how well it foretells a cell that it has not seen, on that cell's contrasts.

The cell's loss level is integrated out under a flat prior, so that only differences between its runs count. The
score is joint over the cell's runs: they share one optimum, and a pointwise score would count it 120 times.

Given everything else in a draw, the state of cell c is Gaussian (the law is marginalised), so

    p(runs of c | the rest) = integral of p(runs of c | state) N(state; law's conditional) d state

is an importance sum around the cell's own posterior. Over draws of a fit that saw the cell, 1 / p are the weights
that take it out again (Pareto-smoothed); over draws of a fit that did not, p is averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from scaleband.bayes import Beliefs, ModelInputs
from scaleband.bayes.beliefs import role_index
from scaleband.bayes.coordinates import coordinates
from scaleband.bayes.one_batch import heard, sliced
from scaleband.inference.unpack import scatters_of_cells
from scaleband.laws import ANGLE, CURVATURE, LEVEL, SKEW, excess, run_log_density

Array = NDArray[np.float64]

BASIN = (0, 1, 2, 3, 5, 6, 7, 8)
"""Responses that make up a cell's basin: all but its level."""

_PROPOSAL_DF = 6.0


@dataclass(frozen=True)
class LawGivenOthers:
    """Mean and variance of every cell's state but its level (`BASIN`), given the other cells.

    Both (sample, 8, cell).
    """

    mean: Array
    variance: Array


def states_of_the_model(posterior: dict[str, Array], inputs: ModelInputs, beliefs: Beliefs) -> dict[str, Array]:
    """A posterior with its states as the model has them, and not as answers are made of them (`bayes.one_batch`): the
    level of cells with one batch is the loss there, and thin ones follow their law. `inputs` are the fit's own."""
    if not inputs.some_one_batch:
        return posterior
    state = np.moveaxis(posterior["state"], -2, 0)  # (response, ..., cell)
    return posterior | {"state": np.moveaxis(heard(state, inputs, coordinates(inputs, beliefs).reference), 0, -2)}


def law_given_others(flat: dict[str, Array], inputs: ModelInputs, beliefs: Beliefs) -> LawGivenOthers:
    """Leave-one-out conditionals of the marginal law, by Woodbury; `flat` has a leading sample dim, and its states are
    the model's."""
    design, prior = inputs.scaled_design(beliefs), inputs.prior_mean(beliefs)
    n, n_cells = len(flat["rho"]), len(inputs.cells)
    mean, variance = np.empty((n, len(BASIN), n_cells)), np.empty((n, len(BASIN), n_cells))
    role, scatter = role_index(inputs.design), scatters_of_cells(flat, inputs)
    for k, r in enumerate(BASIN):
        tau2 = scatter[:, r] ** 2
        if r < 2:
            scale = np.where(beliefs.pooled, flat["offset_scale"][:, r][:, role], 1.0)
        else:
            scale = np.ones((n, design.shape[2]))
        resid = flat["state"][:, r] - prior[r]
        for s in range(n):
            w = design[r] * scale[s]
            a = np.eye(w.shape[1]) + (w.T / tau2[s]) @ w
            half = np.linalg.solve(np.linalg.cholesky(a), w.T)
            precision = (1 - (half**2).sum(0) / tau2[s]) / tau2[s]
            alpha = (resid[s] - half.T @ (half @ (resid[s] / tau2[s]))) / tau2[s]
            mean[s, k] = flat["state"][s, r] - alpha / precision
            variance[s, k] = 1 / precision
    return LawGivenOthers(mean, variance)


@dataclass(frozen=True)
class _Proposal:
    """Student-t points for a cell's state, draw by draw: where its runs and that draw's law put it.

    One cloud for all draws will not do: a law of small scatter is narrower than the spread of a cell's draws.

    Attributes
    ----------
    middle (sample, response), chol (sample, response, response)
        Of the Student-t.
    unit (point, response), log_unit (point,)
        Standard points and their log density.
    """

    middle: Array
    chol: Array
    unit: Array
    log_unit: Array

    @classmethod
    def of(cls, own: Array, mean: Array, variance: Array, n: int, rng: np.random.Generator) -> _Proposal:
        """From draws of the cell's state (any, response), and the law's conditionals (sample, 8)."""
        size, middle = own.shape[1], own.mean(0)
        covariance = np.cov(own.T)
        law, pull = np.zeros((len(mean), size)), np.zeros((len(mean), size))
        law[:, list(BASIN)] = 1 / variance
        pull[:, list(BASIN)] = (mean - middle[list(BASIN)]) / variance
        # What the runs alone say, to second order: the draws less the law. They say nothing where that is negative.
        scale = np.sqrt(np.diag(covariance))
        rest = np.linalg.inv(covariance / np.outer(scale, scale)) - np.diag(law.mean(0) * scale**2)
        values, vectors = np.linalg.eigh(rest)
        kept = vectors[:, values > 0]
        told = kept * values[values > 0] @ kept.T / np.outer(scale, scale)
        slope = -(kept @ (kept.T @ (pull.mean(0) * scale))) / scale
        inner = np.linalg.inv(told + law[:, :, None] * np.eye(size) + 1e-9 * np.eye(size))
        unit = rng.standard_normal((n, size)) / np.sqrt(rng.chisquare(_PROPOSAL_DF, (n, 1)) / _PROPOSAL_DF)
        log_unit = (
            gammaln((_PROPOSAL_DF + size) / 2)
            - gammaln(_PROPOSAL_DF / 2)
            - size / 2 * np.log(_PROPOSAL_DF * np.pi)
            - (_PROPOSAL_DF + size) / 2 * np.log1p((unit**2).sum(1) / _PROPOSAL_DF)
        )
        at = middle + np.einsum("srt,st->sr", inner, pull + slope)
        return cls(at, np.linalg.cholesky(1.3 * inner), unit, log_unit)

    def points(self, s: int) -> tuple[Array, Array]:
        """Points (point, response) for one draw, and their log density."""
        log_det = np.log(np.diag(self.chol[s])).sum()
        return self.middle[s] + self.unit @ self.chol[s].T, self.log_unit - log_det


def cell_log_density(
    flat: dict[str, Array], law: LawGivenOthers, inputs: ModelInputs, c: int, own: Array, *, n_points: int, seed: int
) -> Array:
    """log p(contrasts of cell c | each draw's law and basin), (sample,).

    Parameters
    ----------
    flat, law
        Draws with a leading sample dim, and the law's conditionals for the same draws.
    inputs
        With the rows of cell `c`.
    own (sample, response)
        Posterior draws of the cell's state from any fit that saw it: where to put the points.
    """
    proposal = _Proposal.of(own, law.mean[:, :, c], law.variance[:, :, c], n_points, np.random.default_rng([seed, c]))
    rows = inputs.cell == c
    log_lr, log_batch = inputs.log_lr[rows], inputs.log_batch[rows]
    y, censored, se = inputs.y[rows], inputs.censored[rows], inputs.y_se[rows]
    source, one_batch = inputs.source[rows][0] if rows.any() else 0, inputs.one_batch[[c]]
    out = np.empty(len(flat["rho"]))
    for s in range(len(out)):
        points, log_q = proposal.points(s)
        z = sliced(points.T[:, :, None], one_batch)  # (response, point, 1)
        e = excess(log_lr - z[0], log_batch - z[1], z[ANGLE], np.exp(z[CURVATURE]), z[SKEW])
        base = points[:, LEVEL, None]
        if "trunk_effect" in flat:
            base = base + np.append(flat["trunk_effect"][s], 0.0)[inputs.trunk[rows]]
            se = inputs.own_se(flat["trunk_scale"][s])[rows]
        fit = run_log_density(
            y, base, e, flat["sigma"][s, source], flat["rho"][s], flat["nu"][s], censored, se
        ).sum(1)
        m, v = law.mean[s, :, c], law.variance[s, :, c]
        prior = -0.5 * (((points[:, list(BASIN)] - m) ** 2 / v) + np.log(2 * np.pi * v)).sum(1)
        out[s] = logsumexp(fit + prior - log_q) - np.log(n_points)
    return out


def thin(posterior: dict[str, Array], n: int) -> dict[str, Array]:
    """Chains stacked, `n` evenly spaced draws of each variable."""
    some = next(iter(posterior.values()))
    total = some.shape[0] * some.shape[1]
    keep = np.linspace(0, total - 1, min(n, total)).round().astype(int)
    return {k: v.reshape(total, *v.shape[2:])[keep] for k, v in posterior.items()}


@dataclass(frozen=True)
class CellScores:
    """Leave-one-cell-out scores.

    Attributes
    ----------
    log_density (cell,)
        log p(contrasts of the cell | all other runs).
    pareto_k (cell,)
        Above 0.7 the importance weights cannot be trusted: refit without the cell.
    log_weight (cell, sample)
        Smoothed, normalised log weights that take the cell out of the thinned draws.
    """

    log_density: Array
    pareto_k: Array
    log_weight: Array


def leave_one_cell_out(
    posterior: dict[str, Array], inputs: ModelInputs, beliefs: Beliefs, *, n_draws: int = 400, n_points: int = 256,
    seed: int = 1, progress: Callable[[int, int], None] | None = None,
) -> CellScores:
    """Score every cell from one fit that saw them all; no refits. `progress` is called with (cells done, in all)."""
    from arviz_stats.base import array_stats

    posterior = states_of_the_model(posterior, inputs, beliefs)
    flat = thin(posterior, n_draws)
    law = law_given_others(flat, inputs, beliefs)
    everything = thin(posterior, 4 * n_draws)["state"]
    n_cells, n = len(inputs.cells), len(flat["rho"])
    density, k_hat, weights = np.empty(n_cells), np.empty(n_cells), np.empty((n_cells, n))
    for c in range(n_cells):
        log_p = cell_log_density(flat, law, inputs, c, everything[:, :, c], n_points=n_points, seed=seed)
        smooth, k = array_stats.psislw(log_p)  # it takes log likelihoods and weighs by their inverse
        weights[c] = smooth - logsumexp(smooth)
        density[c] = logsumexp(weights[c] + log_p)
        k_hat[c] = float(k)
        if progress is not None:
            progress(c + 1, n_cells)
    return CellScores(density, k_hat, weights)


def held_out_density(
    posterior: dict[str, Array], beliefs: Beliefs, full: ModelInputs, cells: Array, own: Array, *, n_draws: int = 200,
    n_points: int = 256, seed: int = 1,
) -> Array:
    """log p(contrasts of each of `cells` | a fit without them), (len(cells),).

    Parameters
    ----------
    posterior
        Of a fit to which `cells` gave no rows but in which they keep their place; states are the model's.
    full
        Inputs with all rows.
    own (sample, response, cell)
        State draws, the model's, of a fit that saw the cells: where to put the points.
    """
    flat = thin(posterior, n_draws)
    law = law_given_others(flat, full, beliefs)
    return np.array(
        [
            logsumexp(cell_log_density(flat, law, full, int(c), own[:, :, c], n_points=n_points, seed=seed))
            - np.log(len(flat["rho"]))
            for c in cells
        ]
    )
