"""The runs that a fit keeps beside its draws: what was made where, and what it showed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaleband.inference.stored import any_numbers, damaged, member, numbers, opened, texts
from scaleband.laws import REFERENCE

if TYPE_CHECKING:
    import pandas as pd


SEEN = ("log_loss", "log_lr", "log_batch", "censored", "run_cell")
"""What a fit's file says of every run."""


def seen_runs(file: Any, path: Path) -> dict[str, NDArray[np.float64]] | None:
    """`SEEN` of an open file, each (run,), as `fitting.tree_of` writes them; None for a released model, which has none.

    Raises
    ------
    UserError
        They are not as the format has them.
    """
    if "observed_data" not in file:
        return None
    group = member(file, "observed_data", path)
    shape = any_numbers(group, SEEN[0], path).shape
    return {name: numbers(group, name, path, shape) for name in SEEN}


def kept_runs(path: str | Path) -> pd.DataFrame | None:
    """The completed runs of a fit that `inference.store` can read.

    Returns
    -------
    Columns of the run table: source, arch, data, n_params, n_active and n_tokens (those of the run's cell),
    lr_peak, batch_tokens, status and loss. None for released models, which keep no run.

    Raises
    ------
    UserError
        Its runs are not as the format has them.
    """
    import pandas as pd

    path = Path(path)
    with opened(path, "its runs") as file:
        seen = seen_runs(file, path)
        if seen is None:
            return None
        constant = member(file, "constant_data", path)
        group = {part: texts(constant, f"cell_{part}", path) for part in ("source", "arch", "data")}
        n = (len(group["source"]),)
        counts = {k: numbers(constant, f"cell_{k}", path, n) for k in ("n_params", "n_active", "n_tokens")}
    y, log_lr, log_batch, censored = (seen[name] for name in ("log_loss", "log_lr", "log_batch", "censored"))
    cell = seen["run_cell"].astype(np.int64)
    if cell.size and (cell.min() < 0 or cell.max() >= n[0]):
        raise damaged(path, "its runs lie in cells that it does not have")
    if not (np.abs(np.stack([y / 100, log_lr, log_batch])) < 50).all():
        raise damaged(path, "its runs hold values that cannot be")
    kept = censored == 0  # of a censored run the loss is not known
    columns = {k: np.array(v, object)[cell] for k, v in group.items()} | {k: v[cell] for k, v in counts.items()}
    settings = {
        "lr_peak": REFERENCE["lr_peak"] * np.exp(log_lr),
        "batch_tokens": REFERENCE["batch_tokens"] * np.exp(log_batch),
    }
    frame = pd.DataFrame({**columns, **settings, "status": "completed", "loss": np.exp(y / 100)})
    return frame[kept].reset_index(drop=True)
