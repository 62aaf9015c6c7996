"""What it takes to reach a loss: tokens and steps at a batch, and the critical batch size, from levels and basins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaleband.laws import REFERENCE, Cells, LawDraws, conditional_log_lr, excess
from scaleband.laws.loss import Covariates
from scaleband.laws.loss.draws import LossDraws
from scaleband.predict.allocation import check_loss, effect_of_fitted_size
from scaleband.predict.repeats import tokens_that_count
from scaleband.predict.targets import basins, target_cells

Array = NDArray[np.float64]

OVERHEAD = 0.2
"""Extra tokens that a batch may cost and still be called efficient (Zhang et al. 2024, arXiv 2410.21676)."""


@dataclass(frozen=True)
class Reach:
    """What reaching one loss takes at one size, per draw.

    Attributes
    ----------
    loss
        The loss to reach, in the fit's unit.
    batch_tokens (batch,)
        Batches looked at, tokens per step.
    n_tokens (sample, batch)
        Training tokens at each batch with the best rate for it; inf where no horizon looked at reaches the loss, and
        where the first one does, that one: there it takes at most as many.
    best (sample,)
        Training tokens at each draw's own best batch.
    """

    loss: float
    batch_tokens: Array
    n_tokens: Array
    best: Array

    def steps(self) -> Array:
        """Optimizer steps, (sample, batch)."""
        return self.n_tokens / self.batch_tokens

    def critical_batch(self, overhead: float = OVERHEAD) -> Array:
        """The largest batch that reaches the loss with at most 1 + overhead times the tokens of the best: (sample,).

        Up to it steps fall almost as the batch grows; beyond it, tokens are wasted. NaN in draws whose crossing lies
        outside the batches looked at, or which do not reach the loss.
        """
        with np.errstate(invalid="ignore"):
            extra = np.log(self.n_tokens / self.best[:, None]) - np.log1p(overhead)
        logs, out = np.log(self.batch_tokens), np.full(len(extra), np.nan)
        for s in range(len(extra)):
            fits = np.flatnonzero(extra[s] <= 0)
            if not len(fits) or fits[-1] == len(logs) - 1:
                continue
            k = int(fits[-1])
            rise = extra[s, k + 1] - extra[s, k]
            share = -extra[s, k] / rise if np.isfinite(rise) else 0.0
            out[s] = np.exp(logs[k] + share * (logs[k + 1] - logs[k]))
        return out


def _first_below(value: Array, goal: float, logs: Array) -> Array:
    """Where values (sample, position) first come down to a goal, exp of interpolated logs; inf where they never do."""
    below = value <= goal
    first = below.argmax(1)
    s = np.arange(len(value))
    before = np.maximum(first - 1, 0)
    high, low = value[s, before], value[s, first]
    share = np.where(first > 0, (high - goal) / np.maximum(high - low, 1e-12), 1.0)
    at = np.exp(logs[before] + share * (logs[first] - logs[before]))
    return np.where(below.any(1), at, np.inf)


def reach(
    draws: LawDraws, laws: LossDraws, loss: float, n_params: float, *, source: str, data: str, arch: str = "dense",
    n_active: float | None = None, batch_tokens: ArrayLike | None = None,
    tokens_range: tuple[float, float] | None = None, n_horizons: int = 31, unique_tokens: float | None = None,
    size_effects: bool = False,
) -> Reach:
    """Tokens to reach a loss at one size, batch by batch, each with the best rate for it.

    log loss = level(size, tokens) + excess of the batch in the basin at that size and horizon. Laws alone: neither the
    scatter of cells nor noise is added, since one model is followed along its horizon. Draws of the two fits are paired
    at random, as in `predict.loss.with_loss_law`.

    Parameters
    ----------
    draws, laws
        Basins and loss laws of the same runs.
    loss
        To be reached, in the unit of the fit.
    n_params, source, data, arch, n_active
        The model and its group.
    batch_tokens
        (batch,) tokens per step; by default 33 from 1/64 to 64 times the best batch.
    tokens_range
        Horizons looked at; by default from 1 to 20,000 tokens per active parameter.
    n_horizons
        How finely.
    unique_tokens
        Distinct tokens there are, as in `allocation.Limits`; more are repeats.
    size_effects
        Add what a size that was fitted has beside the law.

    Raises
    ------
    UserError
        A loss that is not positive and finite.
    """
    check_loss(loss)
    active = float(n_params if n_active is None else n_active)
    low, high = tokens_range or (active, 2e4 * active)
    logs = np.linspace(np.log(low), np.log(high), n_horizons)
    cells: Cells = target_cells(
        np.full(n_horizons, n_params), np.exp(logs), source=source, arch=arch, data=data,
        n_active=np.full(n_horizons, active),
    )  # fmt: skip
    b = basins(draws.without_scatter(), cells, as_new=True)
    pick = np.random.default_rng(0).permutation(laws.n_samples)[np.arange(draws.n_samples) % laws.n_samples]
    law, ref = laws.law_log_loss(f"{source}/{arch}/{data}"), laws.reference
    d = logs[:, None] - np.log(ref.n_tokens)
    size, s = np.log(active / ref.n_active), np.log(n_params / active)
    u = d if unique_tokens is None else np.minimum(d, np.log(unique_tokens / ref.n_tokens))
    counted = tokens_that_count(laws)(d, u)
    level = law(Covariates(size, counted, s, np.nan, u))
    if size_effects:
        level = level + effect_of_fitted_size(laws, f"{source}/{arch}/{data}", n_params)
    level = level[:, pick].T  # (sample, horizon)
    best = _first_below(level, float(np.log(loss)), logs)
    if batch_tokens is None:
        reached = np.clip(np.where(np.isfinite(best), best, high), low, high)
        near = np.abs(logs[:, None] - np.log(reached)).argmin(0)
        centre = float(np.median(b.batch_tokens()[np.arange(len(near)), near]))
        batch = centre * np.exp(np.linspace(-1, 1, 33) * np.log(64))
    else:
        batch = np.atleast_1d(np.asarray(batch_tokens, float))
    tokens = np.empty((draws.n_samples, len(batch)))
    for k, size_of_batch in enumerate(batch):
        away = np.log(size_of_batch / REFERENCE["batch_tokens"]) - b.optimum[:, 1]
        cost = excess(conditional_log_lr(away, *b.shape[:3]), away, *b.shape) / 100
        tokens[:, k] = _first_below(level + cost, float(np.log(loss)), logs)
    return Reach(float(loss), batch, np.maximum(tokens, best[:, None]), best)
