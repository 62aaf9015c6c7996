"""Runs that have another run's loss, to the last digit: a number that was copied to where it does not belong."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

_CELL = ["source", "arch", "data", "n_params", "n_active", "n_tokens"]
_SETTING = ["lr_peak", "batch_tokens"]
_DECIMALS = 6
"""A loss that has no more of them is another run's by chance: of cells of 120 runs within 0.1 of each other every
second one has such a pair at five decimals, one in 140 at seven."""


def repeated_losses(frame: pd.DataFrame) -> tuple[Mask, Mask]:
    """Completed runs of one cell that share their loss, where it has more than six decimals.

    Parameters
    ----------
    frame
        `RunTable.frame`.

    Returns
    -------
    conflicting (row,)
        Runs at different rates or batches with one loss: at most one of them can be right, and which is not known.
    copied (row,)
        Further runs at a setting whose loss is there already, and that do not conflict: the same run twice.
    """
    loss = frame["loss"].to_numpy(float)
    loss = np.where(np.isfinite(loss), loss, 0.0)
    exact = (frame["status"] == "completed").to_numpy(bool) & (np.abs(np.round(loss, _DECIMALS) - loss) > 1e-9)
    conflicting, copied = np.zeros(len(frame), bool), np.zeros(len(frame), bool)
    key = [*_CELL, "loss"]
    # No grouping before it is needed: a table may have a million rows, and nearly all have a loss of their own.
    shared = frame[exact & frame.duplicated(key, keep=False).to_numpy()]
    if shared.empty:
        return conflicting, copied
    settings = shared.drop_duplicates([*key, *_SETTING])
    several = settings.duplicated(key, keep=False)
    bad = pd.MultiIndex.from_frame(shared[key]).isin(pd.MultiIndex.from_frame(settings.loc[several, key]))
    at = frame.index.get_indexer(shared.index)
    conflicting[at] = bad
    copied[at] = shared.duplicated([*key, *_SETTING]).to_numpy() & ~bad
    return conflicting, copied
