"""Expected value of sample information, from joint draws of outcomes and decision alone.

Once outcomes y are seen the action may depend on them. The best rule a(y) out of a family that is linear in features
of y (`design.features`), fitted to the draws, has a risk that no Bayes rule can exceed:

    EVSI = min_a E regret(a) - E_y min_a E[regret(a) | y]  >=  min_a E regret(a) - min_B E regret(B' f(y))

The regret is convex in the action, so the rule is found by Newton steps; for a quadratic regret and Gaussian draws this
is the conditional expectation and the bound is exact (regression EVSI: Strong, Oakley and Brennan 2014, Medical
Decision Making 34:311). A rule fitted to the draws on which it is judged looks too good by tr(M^-1 V) / 2S, with M the
mean Hessian and V the covariance of the gradients in B (Takeuchi 1976): that much is taken off. The Monte-Carlo
error is that of the paired difference of regrets.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scaleband.design.candidates import Candidates, Index
from scaleband.design.decisions import Decision, Slopes
from scaleband.design.features import single_features, sweep_features, sweep_summaries
from scaleband.design.outcomes import Outcomes

Array = NDArray[np.float64]

_CHUNK = 256

_MOST_OPTIMISM = 0.25
"""Of the regret without the news. Optimism is worked out to first order; where it is larger than that, a few draws far
up their walls make all of the regret, and an EVSI would be what happened to them."""

_SUMMARIES = (14, 7, 2)
"""So many summaries are tried where the features of all runs of a cell are too many for the draws."""


@dataclass(frozen=True)
class Rule:
    """The best rule that is linear in some features, and what it costs.

    Attributes
    ----------
    features (sample, q)
        Its features, the constant first, orthogonal and of unit variance.
    coefficient (q, k)
        B.
    slopes
        Regret and its slopes at the rule's action, draw by draw.
    risk
        Mean regret, optimism taken off, percent.
    carried
        The part of that optimism that belongs to features which `compressed` has folded into the action.
    """

    features: Array
    coefficient: Array
    slopes: Slopes
    risk: float
    carried: float = 0.0

    @property
    def action(self) -> Array:
        """(sample, k)."""
        return self.features @ self.coefficient


def whitened(features: Array, base: Array | None = None) -> Array:
    """Features made orthogonal to the constant (and to `base`), to each other, of unit variance; copies dropped."""
    n = len(features)
    if base is None:
        base = np.ones((n, 1))
    rest = features - base @ (base.T @ features) / n
    size = np.sqrt((rest**2).mean(0))
    own = np.sqrt((features**2).mean(0))
    rest = rest[:, size > 1e-7 * np.maximum(own, 1e-300)]
    if not rest.shape[1]:
        return rest
    rest = rest / np.sqrt((rest**2).mean(0))
    value, axes = np.linalg.eigh(rest.T @ rest / n)
    keep = value > 1e-8 * value[-1]
    return rest @ (axes[:, keep] / np.sqrt(value[keep]))


def _normal_matrix(features: Array, weight: Array) -> Array:
    """mean of f f' (x) W over the draws, weight (sample, k, k): (q k, q k)."""
    n, q = features.shape
    k = weight.shape[1]
    out = np.empty((q, k, q, k))
    for i in range(k):
        for j in range(i, k):
            block = features.T @ (features * weight[:, i, j, None]) / n
            out[:, i, :, j] = block
            out[:, j, :, i] = block
    return out.reshape(q * k, q * k)


def best_rule(decision: Decision, features: Array, coefficient: Array, *, steps: int = 25) -> Rule:
    """Newton steps in B from `coefficient`, whitened features with the constant first."""
    b = coefficient
    q, k = b.shape
    now = decision.slopes(features @ b)
    value = float(now.value.mean())
    for _ in range(steps):
        gradient = (features.T @ now.gradient / len(features)).ravel()
        matrix = _normal_matrix(features, now.hessian)
        matrix[np.diag_indices(q * k)] += 1e-9 * np.trace(matrix) / (q * k) + 1e-12
        step = np.linalg.solve(matrix, gradient)
        gain = 0.5 * float(gradient @ step)
        size = 1.0
        while size > 1e-4:
            trial = b - size * step.reshape(q, k)
            mean = float(decision.regret(features @ trial).mean())
            if mean < value:
                break
            size /= 2
        else:
            break
        b, value = trial, mean
        now = decision.slopes(features @ b)
        if gain < 1e-7 * max(value, 1e-6):
            break
    return Rule(features, b, now, value + _optimism(features, now))


def _optimism(features: Array, now: Slopes) -> float:
    """tr(M^-1 V) / 2S: how much too good the rule looks on its own draws."""
    n = len(features)
    matrix = _normal_matrix(features, now.hessian)
    matrix[np.diag_indices(len(matrix))] += 1e-9 * np.trace(matrix) / len(matrix) + 1e-12
    outer = _normal_matrix(features, now.gradient[:, :, None] * now.gradient[:, None, :])
    return float(np.trace(np.linalg.solve(matrix, outer))) / (2 * n)


def rule_without_data(decision: Decision, n_samples: int) -> Rule:
    """The best constant action: what is done now. Its risk is the EVPI, since every draw's own regret can be 0."""
    ones = np.ones((n_samples, 1))
    return best_rule(decision, ones, np.asarray(decision.start, float)[None, :])


@dataclass(frozen=True)
class Gain:
    """EVSI of one bundle and its Monte-Carlo standard error, percent of the loss, and the rule behind it."""

    evsi: float
    error: float
    rule: Rule


def evsi_of(decision: Decision, base: Rule, features: Array) -> Gain:
    """EVSI of seeing `features` (sample, p) on top of what `base` already uses.

    0, with an error as large as what would have to be taken off, where the draws cannot tell it (`_MOST_OPTIMISM`).
    """
    new = whitened(features, base.features)
    if not new.shape[1]:
        return Gain(0.0, 0.0, base)
    start = np.concatenate([base.coefficient, np.zeros((new.shape[1], base.coefficient.shape[1]))])
    rule = best_rule(decision, np.concatenate([base.features, new], axis=1), start)
    optimism = rule.risk - float(rule.slopes.value.mean())
    if optimism > _MOST_OPTIMISM * float(base.slopes.value.mean()):
        return Gain(0.0, optimism, base)
    rule = replace(rule, risk=rule.risk + base.carried, carried=base.carried)
    drop = base.slopes.value - rule.slopes.value
    return Gain(base.risk - rule.risk, float(drop.std() / np.sqrt(len(drop))), rule)


def compressed(decision: Decision, rule: Rule) -> Rule:
    """The same rule with its own action as its only features: what all chosen runs say, in k numbers.

    Keeps later rules small. What is lost is what the chosen runs would say only together with a later one; runs of one
    cell are read together anyway (`bundle_features`).
    """
    n = len(rule.action)
    ones = np.ones((n, 1))
    features = np.concatenate([ones, whitened(rule.action)], axis=1)
    start = features.T @ rule.action / n
    small = best_rule(decision, features, start)
    carried = rule.risk - small.risk
    return replace(small, risk=rule.risk, carried=carried)


def bundle_features(outcomes: Outcomes, candidates: Candidates, runs: Index, repeats: Index, beside: Index,
                    beside_repeats: Index, *, most: int | None = None) -> Array:  # fmt: skip
    """Features of a bundle, read together with the runs of its cell that are pending or chosen (`beside`).

    `most`: that many summaries of three runs or more at most, whatever their number.
    """
    every = np.concatenate([beside, runs])
    y = outcomes.draws(every, np.concatenate([beside_repeats, repeats]))
    if len(every) == 1:
        return single_features(y)[:, :, 0].T
    return sweep_features(y, candidates.x[every]) if most is None else sweep_summaries(y, candidates.x[every])[:, :most]


def gain_of(decision: Decision, base: Rule, outcomes: Outcomes, candidates: Candidates, runs: Index, repeats: Index,
            beside: Index, beside_repeats: Index, *, summaries: bool = False) -> Gain:  # fmt: skip
    """`evsi_of` the `bundle_features`; with `summaries`, of ever fewer of them where the draws are too few for all."""
    gain = evsi_of(decision, base, bundle_features(outcomes, candidates, runs, repeats, beside, beside_repeats))
    for most in _SUMMARIES if summaries and len(runs) + len(beside) > 2 else ():
        if gain.rule is not base or not gain.error:
            break
        few = bundle_features(outcomes, candidates, runs, repeats, beside, beside_repeats, most=most)
        gain = evsi_of(decision, base, few)
    return gain


def screen(decision: Decision, base: Rule, outcomes: Outcomes, candidates: Candidates, bundles: Sequence[int]) -> Array:
    """One Newton step for every bundle at once: EVSI to second order around `base`, (len(bundles),).

    Exact where the regret is quadratic; `evsi_of` goes on from here for the bundles that are worth it. Bundles are
    taken as first runs of their settings, in cells that have no pending run.
    """
    slopes = base.slopes
    k = slopes.gradient.shape[1]
    i, j = np.triu_indices(k)
    n = len(slopes.value)
    hessian = slopes.hessian[:, i, j]
    outer = slopes.gradient[:, i] * slopes.gradient[:, j]
    weights = np.concatenate([hessian, outer], axis=1) / n
    out = np.zeros(len(bundles))
    by_cell: dict[int, list[int]] = {}
    for at, b in enumerate(bundles):
        by_cell.setdefault(int(candidates.cell[candidates.bundles[b][0]]), []).append(at)

    def one_cell(places: list[int]) -> None:
        for begin in range(0, len(places), _CHUNK):
            some = places[begin : begin + _CHUNK]
            owns = [candidates.bundles[bundles[at]] for at in some]
            runs = np.unique(np.concatenate(owns))
            y = outcomes.draws(runs, np.zeros(len(runs), int))
            lone = [at for at, own in zip(some, owns, strict=True) if len(own) == 1]
            if lone:
                column = np.searchsorted(runs, [candidates.bundles[bundles[at]][0] for at in lone])
                out[lone] = _second_order(base, slopes.gradient / n, weights, single_features(y[:, column]))
            for at, own in zip(some, owns, strict=True):
                if len(own) > 1:
                    features = sweep_features(y[:, np.searchsorted(runs, own)], candidates.x[own])
                    out[at] = _second_order(base, slopes.gradient / n, weights, features.T[:, :, None])[0]

    # Array work outside the interpreter's lock: threads share it well.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=min(4, cores)) as pool:
        list(pool.map(one_cell, by_cell.values()))
    return out


def _second_order(base: Rule, gradient: Array, weights: Array, features: Array) -> Array:
    """Gain of one Newton step minus its optimism, for features (p, sample, candidate): (candidate,).

    All moments that the step needs are products of two features weighted by Hessian or gradient entries: one matrix
    product for all candidates.
    """
    p, n, count = features.shape
    k = gradient.shape[1]
    b = base.features
    flat = features.transpose(0, 2, 1).reshape(p * count, n)
    flat = flat - (flat @ b / n) @ b.T
    flat /= np.sqrt((flat**2).mean(1, keepdims=True)) + 1e-300
    f = flat.reshape(p, count, n)
    rows, cols = np.triu_indices(p)
    pairs = (f[rows] * f[cols]).reshape(-1, n) @ weights
    pairs = pairs.reshape(len(rows), count, -1)
    n_sym = k * (k + 1) // 2
    pair, sym = np.empty((p, p), int), np.empty((k, k), int)
    pair[rows, cols] = pair[cols, rows] = np.arange(len(rows))
    i, j = np.triu_indices(k)
    sym[i, j] = sym[j, i] = np.arange(n_sym)
    spread = pairs[pair].transpose(2, 0, 1, 3)  # candidate, feature, feature, weight
    h, v = (
        part[..., sym].transpose(0, 1, 3, 2, 4).reshape(count, p * k, p * k)
        for part in (spread[..., :n_sym], spread[..., n_sym:])
    )
    g = (flat @ gradient).reshape(p, count, k).transpose(1, 0, 2).reshape(count, p * k)
    # Schur complement: the base's own coefficients move along.
    q = b.shape[1]
    wide = (b[:, :, None] * weights[:, None, :n_sym]).reshape(n, q * n_sym)
    mixed = (flat @ wide).reshape(p, count, q, n_sym)
    cross = mixed[..., sym].transpose(1, 0, 3, 2, 4).reshape(count, p * k, q * k)
    own = _normal_matrix(b, base.slopes.hessian)
    own[np.diag_indices(q * k)] += 1e-9 * np.trace(own) / (q * k) + 1e-12
    schur = h - cross @ np.linalg.solve(own, cross.transpose(0, 2, 1))
    trace = np.trace(schur, axis1=1, axis2=2)[:, None]
    schur[:, np.arange(p * k), np.arange(p * k)] += 1e-7 * trace / (p * k) + 1e-12
    step = np.linalg.solve(schur, np.concatenate([g[:, :, None], v], axis=2))
    gain = 0.5 * np.einsum("nc,nc->n", g, step[:, :, 0])
    optimism = 0.5 * np.trace(step[:, :, 1:], axis1=1, axis2=2) / n
    return gain - optimism
