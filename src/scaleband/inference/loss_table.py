"""Observations for the loss laws: from a run table without a sweep, or from the cells of a basin fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes import cells_of
from scaleband.errors import UserError
from scaleband.laws import LEVEL, REFERENCE, Cells, LawDraws
from scaleband.laws.loss.table import LossTable, group_names
from scaleband.runs import cell_index, cell_table

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

MIN_OBSERVATIONS = 6


def table_from_runs(frame: pd.DataFrame) -> LossTable:
    """One observation per cell and batch of a run table; runs at one setting are averaged.

    Where a cell holds several rates for one batch, the best is taken: the others say where the optimum is, and for
    that a basin must be fitted (`table_from_basins`).

    Raises
    ------
    UserError
        Too few completed runs.
    """
    runs = frame[frame["status"] == "completed"].reset_index(drop=True)
    if len(runs) < MIN_OBSERVATIONS:
        raise UserError(
            f"{len(runs)} completed runs are too few for a loss law; give at least {MIN_OBSERVATIONS}, at several "
            "sizes and token counts"
        )
    cells = cell_table(runs)
    runs = runs.assign(
        cell=cell_index(runs, cells),
        batch=runs["batch_tokens"].fillna(-1.0),
        rate=runs["lr_peak"].fillna(-1.0),
        unique=runs["unique_tokens"].fillna(-1.0),
        log_loss=np.log(runs["loss"]),
        error=runs["loss_se"] / runs["loss"],
    )
    setting = runs.groupby(["cell", "batch", "unique", "rate"], sort=True).agg(
        log_loss=("log_loss", "mean"), square=("error", lambda v: float((v**2).sum()) ** 0.5 / len(v)),
        trunk=("trunk", "first"), kind=("loss_kind", "first"), first=("n_params", "idxmin"),
    ).reset_index()  # fmt: skip
    best = setting.sort_values("log_loss", kind="stable").drop_duplicates(["cell", "batch", "unique"])
    best = best.sort_values(["cell", "batch", "unique"], ignore_index=True)
    at = runs.loc[best["first"].to_numpy()].reset_index(drop=True)
    return LossTable(
        cells=cells_of(at),
        batch_tokens=np.where(best["batch"] > 0, best["batch"], np.nan),
        unique_tokens=np.where(best["unique"] > 0, best["unique"], np.nan),
        log_loss=best["log_loss"].to_numpy(float),
        log_loss_se=best["square"].to_numpy(float),
        kind=best["kind"].astype(str).tolist(),
        trunk=best["trunk"].astype(str).tolist(),
        of_cells=False,
    )


def table_from_basins(draws: LawDraws) -> LossTable:
    """One observation per fitted cell: its level at the optimum, with its posterior standard deviation.

    A cell's own runs pin its level to a few hundredths of a percent, so the two stages lose nothing that matters.
    The batch is the cell's optimum, for laws that ask for one.
    """
    level = draws.state[:, LEVEL] / 100
    stated = draws.meta.get("conventions", {})
    batch = REFERENCE["batch_tokens"] * np.exp(np.median(draws.state[:, 1], axis=0))
    return table_of_cells(draws.cells, level.mean(0), level.std(0), batch, stated if isinstance(stated, dict) else {})


def table_of_cells(
    cells: Cells, log_loss: Array, log_loss_se: Array, batch_tokens: Array, conventions: dict[str, dict[str, str]]
) -> LossTable:
    """One observation per cell of a sweep: level at the optimum, its error, and the optimum's batch; all (cell,)."""
    return LossTable(
        cells=cells,
        batch_tokens=batch_tokens,
        unique_tokens=np.full(len(cells), np.nan),
        log_loss=log_loss,
        log_loss_se=log_loss_se,
        kind=[str(conventions.get(g, {}).get("loss_kind", "not stated")) for g in group_names(cells)],
        trunk=[""] * len(cells),
        of_cells=True,
    )
