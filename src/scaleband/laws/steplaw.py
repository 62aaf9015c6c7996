"""The published Step Law, the point estimate that everyone compares with."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def published_optimum(
    n_params: ArrayLike, n_tokens: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Step Law's optimum: lr = 1.79 N^-0.713 D^0.307, batch = 0.58 D^0.571 tokens.

    Parameters
    ----------
    n_params, n_tokens
        Non-embedding parameters (for MoE the total) and training tokens, > 0. Any dims.

    Returns
    -------
    lr_peak, batch_tokens (tokens per optimizer step), the broadcast dims.

    References
    ----------
    Li et al., "Predictable Scale: Part I, Step Law", arXiv 2503.04715, equation 1.
    """
    n, d = np.broadcast_arrays(np.asarray(n_params, float), np.asarray(n_tokens, float))
    return 1.79 * n**-0.713 * d**0.307, 0.58 * d**0.571
