"""Stacking: weights of forms from their held-out scores, and one posterior that carries them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

Array = NDArray[np.float64]


def stacking_weights(log_scores: Array, *, prior_count: float = 0.0) -> Array:
    """Weights that maximise the held-out log score of the mixture.

    Parameters
    ----------
    log_scores
        (fold, form): log p_form(fold | rest).
    prior_count
        Strength of a Dirichlet belief in equal weights, in folds: it adds this much log weight, averaged over forms.

    Returns
    -------
    (form,), >= 0, sum 1.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman, "Using stacking to average Bayesian predictive distributions", 2018.
    """
    n_forms = log_scores.shape[1]
    if n_forms == 1:
        return np.ones(1)

    pull = prior_count / len(log_scores)

    def loss(a: Array) -> tuple[float, Array]:
        w = softmax(np.append(a, 0.0))
        joint = log_scores + np.log(np.maximum(w, 1e-300))
        total = logsumexp(joint, axis=1)
        share = np.exp(joint - total[:, None])
        slope = (share - w).mean(0) + pull * (1 / n_forms - w)
        return -float(total.mean() + pull * np.log(np.maximum(w, 1e-300)).mean()), -slope[:-1]

    best = minimize(loss, np.zeros(n_forms - 1), jac=True, method="L-BFGS-B")
    weights = softmax(np.append(best.x, 0.0))
    weights[weights < 0.005] = 0.0  # a form that gets nothing should cost no draws
    return weights / weights.sum()


def mix(posteriors: Mapping[str, Mapping[str, Array]], weights: Mapping[str, float], n_draws: int) -> dict[str, Array]:
    """One posterior of `n_draws` a chain, each form in proportion to its weight.

    All forms share the design, so a coefficient that a form leaves out is simply zero in its draws.
    """
    counts = {name: int(np.floor(w * n_draws)) for name, w in weights.items() if w > 0}
    rest = sorted(counts, key=lambda name: weights[name] * n_draws - counts[name], reverse=True)
    for name in rest[: n_draws - sum(counts.values())]:
        counts[name] += 1
    names = [name for name in counts if counts[name]]
    out = {}
    for variable in posteriors[names[0]]:
        parts = []
        for name in names:
            value = posteriors[name][variable]
            keep = np.linspace(0, value.shape[1] - 1, counts[name]).round().astype(int)
            parts.append(value[:, keep])
        out[variable] = np.concatenate(parts, axis=1)
    return out
