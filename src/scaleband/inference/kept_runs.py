"""The runs that a fit keeps beside its draws: what was made where, and what it showed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaleband.errors import UserError
from scaleband.inference.stored import UNREADABLE, any_numbers, damaged, member, numbers, texts
from scaleband.laws import REFERENCE

if TYPE_CHECKING:
    import pandas as pd


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
    import h5py
    import pandas as pd

    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            if "observed_data" not in file:
                return None
            seen, constant = member(file, "observed_data", path), member(file, "constant_data", path)
            shape = any_numbers(seen, "log_loss", path).shape
            names = ("log_loss", "censored", "log_lr", "log_batch", "run_cell")
            y, censored, log_lr, log_batch, at = (numbers(seen, name, path, shape) for name in names)
            group = {part: texts(constant, f"cell_{part}", path) for part in ("source", "arch", "data")}
            n = (len(group["source"]),)
            counts = {k: numbers(constant, f"cell_{k}", path, n) for k in ("n_params", "n_active", "n_tokens")}
    except UserError:
        raise
    except UNREADABLE as error:
        raise damaged(path, f"its runs cannot be read ({type(error).__name__})") from None
    cell = at.astype(np.int64)
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
