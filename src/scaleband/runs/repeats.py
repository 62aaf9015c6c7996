"""Runs that have another run's loss, to the last digit: a number that was copied to where it does not belong."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scaleband.runs.cells import cell_keys
from scaleband.runs.rules import completed

Mask = NDArray[np.bool_]

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
    loss = np.where(np.isfinite(frame["loss"]), frame["loss"], 0.0)
    exact = completed(frame) & (np.abs(np.round(loss, _DECIMALS) - loss) > 1e-9)
    conflicting, copied = np.zeros(len(frame), bool), np.zeros(len(frame), bool)
    # Cells are looked up only for losses that stand there twice: few even in a table of a million rows.
    at = np.flatnonzero(exact)
    at = at[frame["loss"].iloc[at].duplicated(keep=False).to_numpy()]
    if not at.size:
        return conflicting, copied
    shared = frame.iloc[at].reset_index(drop=True)
    same = cell_keys(shared).assign(loss=shared["loss"])
    run = same.join(shared[_SETTING])
    settings = run.drop_duplicates()
    n_settings = settings.groupby(list(same.columns)).size().rename("n").reset_index()
    conflicting[at] = same.merge(n_settings, how="left")["n"].to_numpy() > 1
    copied[at] = run.duplicated().to_numpy() & ~conflicting[at]
    return conflicting, copied


def same_rows(frame: pd.DataFrame) -> Mask:
    """Completed runs that are another row once more, all columns but the id: (row,), the first not among them.

    However few digits the loss has: a file that was given twice, or rows that were pasted twice.
    """
    numbers = ["n_params", "n_tokens", *_SETTING, "loss"]
    at = np.flatnonzero(completed(frame) & frame[numbers].duplicated(keep=False).to_numpy())
    out = np.zeros(len(frame), bool)
    out[at] = frame.iloc[at].drop(columns="run_id").duplicated().to_numpy()
    return out


def without_repeated_losses(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` without what `repeated_losses` doubts: all runs that conflict, and of copies all but the first."""
    conflicting, copied = repeated_losses(frame)
    return frame[~(conflicting | copied)]
