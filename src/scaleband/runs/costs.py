"""What a run costs: FLOPs, hours, money. Each function takes what the one before gives."""

from __future__ import annotations

import numpy as np
import pandas as pd

SECONDS_PER_HOUR = 3600.0


def training_flops[Number: (float, np.ndarray, pd.Series)](n_active: Number, n_tokens: Number) -> Number:
    """Training compute, 6 FLOPs per active non-embedding parameter and token.

    Two for the forward pass and four for the backward one; attention over the context and the embedding are
    left out (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).

    Parameters
    ----------
    n_active
        Parameters used per token.
    n_tokens
        Training tokens. Broadcasts with ``n_active``.

    Returns
    -------
    FLOP.
    """
    return 6.0 * n_active * n_tokens


def gpu_hours[Number: (float, np.ndarray, pd.Series)](
    flops: Number, peak_flops_per_s: float, utilisation: float
) -> Number:
    """Hours of one device.

    Parameters
    ----------
    flops
        FLOP, e.g. from `training_flops`.
    peak_flops_per_s
        The device's peak at the precision used, FLOP/s, > 0 (H100 SXM, dense BF16: 989e12, data sheet).
    utilisation
        Share of the peak that training reaches (model FLOP utilisation), in (0, 1].

    Raises
    ------
    ValueError
        Peak or utilisation out of range.
    """
    if not peak_flops_per_s > 0:
        raise ValueError(f"peak_flops_per_s must be positive, not {peak_flops_per_s}")
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation must lie in (0, 1], not {utilisation}")
    return flops / (peak_flops_per_s * utilisation * SECONDS_PER_HOUR)


def dollars[Number: (float, np.ndarray, pd.Series)](hours: Number, price_per_hour: float) -> Number:
    """Money for ``hours`` of one device at ``price_per_hour`` (US dollars per hour, >= 0).

    Raises
    ------
    ValueError
        A negative price.
    """
    if not price_per_hour >= 0:
        raise ValueError(f"price_per_hour must not be negative, not {price_per_hour}")
    return hours * price_per_hour
