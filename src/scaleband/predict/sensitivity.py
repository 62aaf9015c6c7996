"""Learning-rate sensitivity: what not tuning the rate costs on average."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaleband.errors import UserError
from scaleband.laws import CENSOR_ABOVE, REFERENCE, excess
from scaleband.predict.optimum import optimum_given_batch
from scaleband.predict.targets import Basins

Array = NDArray[np.float64]


def lr_sensitivity(
    b: Basins, lr_low: float, lr_high: float, batch_tokens: ArrayLike | None = None, *, cap: float = CENSOR_ABOVE,
    n_rates: int = 65,
) -> Array:
    """Expected excess loss when the rate is drawn log-uniformly from a range, one value per draw.

    Parameters
    ----------
    b
        Basins at the targets.
    lr_low, lr_high
        The range of peak rates, 0 < lr_low < lr_high; Wortsman et al. take three decades, 1e-4 to 1e-1.
    batch_tokens
        Tokens per step, scalar or (target,); each draw's own optimal batch by default. What a batch costs at its own
        best rate is not part of it: the best loss is that of the same batch.
    cap
        Excess beyond which a run counts as lost, percent: upstream caps at the loss before training; here at 1.5 times
        the optimum's loss, above which the model only knows "at least that high".
    n_rates
        Points of the average.

    Returns
    -------
    (sample, target), percent of the loss.

    Raises
    ------
    UserError
        The range is empty or not positive.

    References
    ----------
    Wortsman et al. 2023, arXiv 2309.14322, section 2.2: E over rates of min(loss, loss before training) - best loss.
    """
    if not 0 < lr_low < lr_high < np.inf:
        raise UserError(f"a range of rates goes up from a positive one, not from {lr_low:g} to {lr_high:g}")
    batch = b.batch_tokens() if batch_tokens is None else np.broadcast_to(batch_tokens, b.optimum.shape[::2])
    rates = np.exp(np.linspace(np.log(lr_low), np.log(lr_high), n_rates))
    weight = np.ones(n_rates)
    weight[[0, -1]] = 0.5  # the trapezoidal rule
    out = np.zeros(b.optimum.shape[::2])
    for rate, w in zip(rates, weight / weight.sum(), strict=True):
        out += w * np.minimum(regret_of_draws(b, np.full_like(out, rate), batch), cap)
    # Each draw's own best batch has nothing to take off.
    best = 0.0 if batch_tokens is None else regret_of_draws(b, optimum_given_batch(b, batch), batch)
    return out - np.minimum(best, cap)


def regret_of_draws(b: Basins, lr_peak: Array, batch_tokens: Array) -> Array:
    """Regret where every draw has its own setting: all (sample, target), percent of the loss."""
    return excess(
        np.log(lr_peak / REFERENCE["lr_peak"]) - b.optimum[:, 0],
        np.log(batch_tokens / REFERENCE["batch_tokens"]) - b.optimum[:, 1],
        *b.shape,
    )

