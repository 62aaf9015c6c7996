"""Repeated data where the fit saw none: what a repeat is worth comes from the stated belief of the law that knows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from scaleband.laws import Cells
from scaleband.laws.loss import Covariates
from scaleband.laws.loss.draws import LossDraws, keyed_normal
from scaleband.laws.loss.repetition import TOKENS_HALF, saturating
from scaleband.laws.loss.table import covariates, group_names

Array = NDArray[np.float64]


def tokens_that_count(draws: LossDraws) -> Callable[[Array, Array], Array]:
    """(log tokens, log distinct tokens at most these), last dim `sample` -> log tokens as the draws' laws take them.

    Draws of the repetition law take the tokens as they are: they know what repeats are worth. For any other, tokens
    count as 1 + R (1 - e^(-r / R)) times the distinct ones after r repeats, R drawn from `laws.loss.repetition`.
    """
    knows = draws.form_of_sample() == "repetition"
    decay = np.exp(TOKENS_HALF.mean + TOKENS_HALF.sd * keyed_normal(draws.n_samples, "repeat_decay"))

    def counted(d: Array, u: Array) -> Array:
        return np.where(knows, d, u + saturating(np, np.exp(d - u), decay))

    return counted


def cost_of_repeats(
    draws: LossDraws, cells: Cells, unique_tokens: Array, batch_tokens: Array | None = None
) -> Array:
    """How much higher the log loss is than if every token were a new one: (sample, target).

    Parameters
    ----------
    cells, batch_tokens
        Targets, as in `LossDraws.log_loss`.
    unique_tokens (target,)
        Distinct tokens there are; NaN where nothing is repeated.
    """
    out, counted = np.zeros((draws.n_samples, len(cells))), tokens_that_count(draws)
    x, groups = covariates(cells, draws.reference, batch_tokens, unique_tokens), group_names(cells)
    for t in np.flatnonzero(x.u < x.d):
        at, law = Covariates(*(v[t] for v in x)), draws.law_log_loss(groups[t])
        out[:, t] = law(at._replace(d=counted(at.d, at.u))) - law(at._replace(u=at.d))
    return out
