"""Fit the family of loss laws: sample each, judge each, weigh them by what they foretold of a scale left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from scaleband.bayes.loss_model import layout_for, model_arrays, row_log_density
from scaleband.errors import UserError
from scaleband.inference.gate import Gate, diagnose
from scaleband.inference.loss_mode import importance_sample
from scaleband.inference.loss_sampler import CompiledLoss, compile_loss, quick, sample_loss
from scaleband.inference.loss_table import MIN_OBSERVATIONS
from scaleband.inference.sampler import SamplerSettings
from scaleband.inference.stacking import stacking_weights
from scaleband.laws.loss import GENERAL, LAWS, LOCAL
from scaleband.laws.loss.draws import LawSamples, LossDraws
from scaleband.laws.loss.table import LossTable, Reference, reference_of

Array = NDArray[np.float64]

LOSS_SETTINGS = SamplerSettings(draws=2000, tune=600, chains=2, seed=1, target_accept=0.95)


@dataclass(frozen=True)
class LossFit:
    """The fitted forms of one table.

    Attributes
    ----------
    draws
        Forms mixed by weight.
    theta
        Form -> all its draws (chain, draw, entry).
    gates, weights
        Form -> its diagnostics; its stacking weight.
    scores
        Form -> log predictive density of each observation when its scale was left out; empty for one form.
    scale
        (observation,) the scale (fold) that each observation belongs to.
    seconds
        What it took.
    """

    draws: LossDraws
    theta: dict[str, Array]
    gates: dict[str, Gate]
    weights: dict[str, float]
    scores: dict[str, Array]
    scale: NDArray[np.int64]
    seconds: float


def scales_of(table: LossTable, most: int = 6) -> NDArray[np.int64]:
    """Which scale each observation belongs to: contiguous bins of training compute, cut at the widest gaps.

    isoFLOP budgets separate by themselves; a sweep is cut into bins of about equal numbers where it has no gaps.
    """
    compute = np.log(table.cells.n_active) + np.log(table.cells.n_tokens)
    order = np.argsort(compute, kind="stable")
    count = len(order)
    n_bins = min(most, max(count // 3, 1))
    ideal = np.arange(1, n_bins) * count / n_bins
    gaps = np.diff(compute[order])
    reach = max(int(count / n_bins / 3), 1)
    cuts = []
    for at in ideal:  # the widest gap near each equal share
        near = np.arange(max(int(at) - reach, 1), min(int(at) + reach + 1, count))
        cuts.append(int(near[np.argmax(gaps[near - 1])]))
    scale = np.empty(count, dtype=np.int64)
    scale[order] = np.searchsorted(np.array(sorted(set(cuts))), np.arange(count), side="right")
    return scale


MAX_PARETO_K = 0.7

EFFORTS = ((4, 4000), (8, 8000), (12, 24_000))
"""Rounds and draws of importance sampling, tried in turn before NUTS."""


def refit(
    table: LossTable, law: str, weight: Array, *, settings: SamplerSettings, compiled: CompiledLoss | None = None
) -> tuple[Array, str]:
    """Draws (sample, entry) of a law given the rows with weight 1, and how they were made.

    Importance sampling around the mode takes a second; where its weights have a heavy tail (Pareto k above 0.7) it is
    tried with more draws, and then NUTS does it instead.
    """
    if compiled is None:
        layout = layout_for(table, LAWS[law])
        arrays = model_arrays(table, layout)
    else:
        layout, arrays = compiled.layout, compiled.arrays
    arrays = arrays | {"weight": np.asarray(weight, float)}
    for rounds, count in EFFORTS:
        sampled = importance_sample(layout, arrays, rounds=rounds, count=count, seed=settings.seed)
        if sampled.pareto_k <= MAX_PARETO_K:
            kept = np.linspace(0, len(sampled.theta) - 1, min(len(sampled.theta), 4000)).astype(int)
            return sampled.theta[kept], "importance"
    compiled = compiled or compile_loss(table, LAWS[law])
    theta, _ = sample_loss(compiled, settings, weight=weight)
    return theta.reshape(-1, theta.shape[-1]), "nuts"


def held_out_scores(
    table: LossTable, law: str, scale: NDArray[np.int64], settings: SamplerSettings, *,
    keep: Array | None = None, compiled: CompiledLoss | None = None,
) -> Array:
    """log p(observation | the other scales), (observation,): refits with one scale left out at a time.

    An observation stands for all runs of its cell, so the score is joint over them. Rows with keep 0 never count.
    """
    keep = np.ones(len(scale)) if keep is None else keep
    layout = layout_for(table, LAWS[law])
    arrays = model_arrays(table, layout)
    out = np.full(len(scale), np.nan)
    for fold in np.unique(scale[keep > 0]):
        left = (scale == fold) & (keep > 0)
        weight = np.where(left, 0.0, keep)
        theta, _ = refit(table, law, weight, settings=settings, compiled=compiled)
        density = row_log_density(np, theta, layout, arrays | {"weight": weight})
        out[left] = logsumexp(density[:, left], axis=0) - np.log(len(theta))
    return out


def form_weights(scores: Array) -> Array:
    """Stacking weights of (observation, form) scores, drawn towards equal ones by a single observation's worth.

    A few scales cannot rule a form out, and the best of several on a few scales is partly luck.
    """
    return stacking_weights(scores, prior_count=1.0)


def thin(theta: Array, count: int) -> Array:
    """`count` draws of (chain, draw, entry), evenly spaced, chains stacked: (count, entry)."""
    flat = theta.reshape(-1, theta.shape[-1])
    return flat[np.linspace(0, len(flat) - 1, count).round().astype(int)]


def quick_stack(
    table: LossTable, laws: Sequence[str], *, keep: Array | None = None
) -> tuple[LossDraws, dict[str, float]]:
    """Stacked draws without a compiled model where importance sampling holds: for benchmarks with many refits.

    Rows with keep 0 are left out of everything, weights included. Also gives every law's weight, 0 among them.
    """
    settings = quick(LOSS_SETTINGS)
    keep = np.ones(len(table)) if keep is None else keep
    scale = scales_of(table.take(np.flatnonzero(keep > 0)))
    every = np.full(len(table), -1)
    every[keep > 0] = scale
    scores = np.stack([held_out_scores(table, n, every, settings, keep=keep) for n in laws], axis=1)
    weights = dict(zip(laws, (float(w) for w in form_weights(scores[keep > 0])), strict=True))
    theta = {n: refit(table, n, keep, settings=settings)[0] for n in laws if weights[n] > 0}
    names = {n: layout_for(table, LAWS[n]).names for n in theta}
    used = {n: weights[n] for n in theta}
    seen = table.take(np.flatnonzero(keep > 0))
    return mixed(theta, names, used, seen, reference_of(table), {"weights": weights}), weights


def mixed(
    theta: dict[str, Array], names: dict[str, tuple[str, ...]], weights: dict[str, float], table: LossTable,
    reference: Reference, meta: dict[str, object], n_samples: int = 2000,
) -> LossDraws:
    """Forms in proportion to their weights, `n_samples` in all."""
    parts = []
    for name, weight in weights.items():
        count = round(weight * n_samples)
        if count:
            parts.append(LawSamples(LAWS[name], names[name], thin(theta[name], count)))
    return LossDraws(tuple(parts), table, reference, meta)


def laws_for(table: LossTable, laws: Sequence[str] | None) -> list[str]:
    """The laws to fit: those asked for, or every general one and those of a covariate that the table tells.

    A group's own sparsity is in its offset; the `moe` law is there where sparsity varies within a group. The batch is a
    covariate where a size and token count of a group ran several (`three-term`).

    Raises
    ------
    UserError
        An unknown law, or one whose covariate does not vary here.
    """
    varies = {
        "s": bool(np.ptp(np.log(table.cells.n_params / table.cells.n_active)) > 0.01),
        "b": bool(np.isfinite(table.batch_tokens).all() and np.ptp(np.log(table.batch_tokens)) > 0.01),
        "u": bool((np.asarray(table.unique_tokens) < table.cells.n_tokens * 0.99).any()),
    }
    if laws is None:
        if varies["u"]:  # repeated data: laws without it would see noise
            return ["repetition"]
        own = [*GENERAL, *(LOCAL if table.of_cells else ())]
        groups = table.groups()
        if _varies_within(np.log(table.cells.n_params / table.cells.n_active), groups):
            own.append("moe")
        cells = list(zip(groups, table.cells.n_params, table.cells.n_tokens, strict=True))
        if varies["b"] and _varies_within(np.log(table.batch_tokens), cells):
            own.append("three-term")
        return own
    words = {"s": "n_active varies", "b": "every run has batch_tokens", "u": "unique_tokens is below n_tokens"}
    for name in laws:
        if name not in LAWS:
            raise UserError(f"unknown loss law {name!r}; choose among {', '.join(LAWS)}")
        for need in LAWS[name].needs:
            if not varies[need]:
                raise UserError(f"the {name} law needs a table in which {words[need]}; choose another law")
    return list(laws)


def _varies_within(values: Array, labels: Sequence[object]) -> bool:
    """Whether a number differs by more than a percent, its log being given, between rows of one label."""
    spread: dict[object, tuple[float, float]] = {}
    for value, label in zip(values.tolist(), labels, strict=True):
        low, high = spread.get(label, (value, value))
        spread[label] = min(low, value), max(high, value)
    return any(high - low > 0.01 for low, high in spread.values())


def enough(n_observations: int) -> None:
    """Refuse a table that says too little.

    Raises
    ------
    UserError
        It has fewer observations than a law has numbers.
    """
    if n_observations < MIN_OBSERVATIONS:
        raise UserError(
            f"{n_observations} observations (runs of one size, token count and batch are one) are too few for a loss "
            f"law; give at least {MIN_OBSERVATIONS}"
        )


def fit_loss(
    table: LossTable, *, laws: Sequence[str] | None = None, settings: SamplerSettings | None = None,
    meta: dict[str, object] | None = None, progress: Callable[[str, int, int], None] | None = None,
) -> LossFit:
    """Fit and stack loss laws.

    Parameters
    ----------
    table
        From `table_from_runs` or `table_from_basins`.
    laws
        Names of `laws.loss.LAWS`; by default those of `laws_for`.
    settings
        Sampler; refits for scores use fewer draws.
    meta
        Facts to travel with the draws.
    progress
        Called with (stage, done, total).

    Raises
    ------
    UserError
        A law that this table cannot identify, or too few observations.
    """
    settings = settings or LOSS_SETTINGS
    enough(len(table))
    chosen = laws_for(table, laws)
    say = progress or (lambda stage, done, total: None)
    started = time.perf_counter()
    scale, reference = scales_of(table), reference_of(table)
    theta: dict[str, Array] = {}
    gates, scores, names = {}, {}, {}
    for k, name in enumerate(chosen):
        say(f"loss law {name}", k, len(chosen))
        compiled = compile_loss(table, LAWS[name])
        names[name] = compiled.layout.names
        theta[name], diverging = sample_loss(compiled, settings)
        gates[name] = diagnose({"theta": theta[name]}, diverging, names={"theta": names[name]})
        if len(chosen) > 1:
            scores[name] = held_out_scores(table, name, scale, quick(settings), compiled=compiled)
    if len(chosen) > 1:
        stacked = np.stack([scores[name] for name in chosen], axis=1)
        weights = dict(zip(chosen, (float(w) for w in form_weights(stacked)), strict=True))
    else:
        weights = {chosen[0]: 1.0}
    used = [name for name in chosen if weights[name] > 0]
    facts = dict(meta or {}) | {
        "weights": weights,
        "gate": {
            "passed": all(gates[n].passed for n in used),
            "messages": [f"{n}: {m}" for n in used for m in gates[n].messages],
        },
        "score": {n: float(v.sum()) for n, v in scores.items()},
    }
    draws = mixed(theta, names, weights, table, reference, facts)
    return LossFit(draws, theta, gates, weights, scores, scale, time.perf_counter() - started)
