"""From a run table to the arrays that the model is written in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaleband.bayes.beliefs import Beliefs
from scaleband.errors import UserError
from scaleband.laws import ANGLE, CENSOR_ABOVE, CURVATURE, REFERENCE, RESPONSES, SKEW, Cells, Design
from scaleband.runs import cell_index, cell_table, comparable, usable
from scaleband.runs.cells import n_distinct
from scaleband.runs.columns import GRID_TOLERANCE, GROUP

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

MIN_RATES = 3
"""From so many rates on, a cell's runs at one batch tell a curvature along the rate."""

SHAPE = tuple(r for part in (CURVATURE, ANGLE, SKEW) for r in range(len(RESPONSES))[part])
"""Responses that are a basin's shape, in the order of `laws.Slice`."""

_AS_ITS_LAW = 0.1
"""Share of the scatter of shapes that is left to a cell whose runs cannot tell a shape of its own."""


@dataclass(frozen=True)
class ModelInputs:
    """Arrays of one fit. Rows are sorted by cell.

    Attributes
    ----------
    log_lr, log_batch (row,)
        Natural logs of the ratio to `REFERENCE`.
    y (row,)
        100 log loss; for a censored row its threshold.
    censored (row,), y_se (row,)
        True where only 'at least y' is known; standard error of y from `loss_se`.
    cell, source, trunk (row,)
        Indices; trunk is `n_trunks` for a run that shares its trunk with no other.
    alone (row,)
        True for such a run where others of its source share theirs, if it is not censored: its trunk's error is noise
        of its own (`own_se`).
    cells, design, x (cell, coefficient)
        The fitted cells and their design matrix.
    best (cell, 3)
        log_lr, log_batch, y around each cell's best runs: where the mode is looked for.
    sources, run_ids
        Names of the sources; the run of each row.
    """

    log_lr: Array
    log_batch: Array
    y: Array
    censored: NDArray[np.bool_]
    y_se: Array
    cell: NDArray[np.int64]
    source: NDArray[np.int64]
    trunk: NDArray[np.int64]
    alone: NDArray[np.bool_]
    n_trunks: int
    cells: Cells
    design: Design
    x: Array
    best: Array
    sources: tuple[str, ...]
    run_ids: tuple[str, ...]

    @cached_property
    def cell_source(self) -> NDArray[np.int64]:
        """Index of every cell's source: (cell,)."""
        return np.array([self.sources.index(s) for s in self.cells.source], dtype=np.int64)

    @cached_property
    def trunked(self) -> tuple[str, ...]:
        """Sources whose runs share trunks."""
        shared = np.unique(self.source[self.trunk < self.n_trunks])
        return tuple(self.sources[s] for s in shared)

    def own_se(self, trunk_scale: Array | float) -> Array:
        """Standard error of y that is a run's own beside noise and misfit: that of its loss and, alone on its trunk,
        that of the trunk, `trunk_scale` (...). (..., row), or (row,) where no run is alone."""
        if not self.alone.any():
            return self.y_se
        return np.hypot(self.y_se, np.asarray(trunk_scale)[..., None] * self.alone)

    @property
    def several_sources(self) -> bool:
        """Whether the scatter of rate and batch is every source's own: one source's is what all share."""
        return len(self.sources) > 1

    @cached_property
    def one_batch(self) -> Array:
        """log_batch of a cell that ran one batch at three rates or more, NaN for the others: (cell,)."""
        batch = np.full(len(self.cells), np.nan)
        for c in np.unique(self.cell):
            mine = self.cell == c
            if len(np.unique(self.log_batch[mine])) == 1 and self._n_rates(c) >= MIN_RATES:
                batch[c] = self.log_batch[mine][0]
        return batch

    def _n_rates(self, c: int) -> int:
        return n_distinct(np.exp(self.log_lr[self.cell == c]), GRID_TOLERANCE)

    @cached_property
    def thin(self) -> NDArray[np.bool_]:
        """Cells that ran one batch at three rates: (cell,).

        Their runs would tell four numbers (rate, loss, curvature, skew), which any noise lets trade for each other.
        """
        few = [self._n_rates(c) <= MIN_RATES for c in range(len(self.cells))]
        return np.isfinite(self.one_batch) & np.array(few)

    @cached_property
    def scatter_share(self) -> Array:
        """How much of the cells' scatter a cell has: all of it, but the shape of a thin cell is nearly its law's.

        (response, cell).
        """
        share = np.ones((len(RESPONSES), len(self.cells)))
        share[np.ix_(SHAPE, self.thin)] = _AS_ITS_LAW
        return share

    @property
    def some_one_batch(self) -> bool:
        """Whether any cell ran one batch: the model is then another one."""
        return bool(np.isfinite(self.one_batch).any())

    @cached_property
    def tied(self) -> NDArray[np.int64]:
        """Cells whose states are told only together: trunks tie them, or each ran one batch: (k,)."""
        linked = self.cell[(self.trunk < self.n_trunks) & ~self.censored]
        return np.union1d(linked, np.flatnonzero(np.isfinite(self.one_batch)))

    def scaled_design(self, beliefs: Beliefs) -> Array:
        """x @ factor for every response: (response, cell, coefficient)."""
        return np.stack([self.x @ beliefs.law_factor[r] for r in range(len(RESPONSES))])

    def prior_mean(self, beliefs: Beliefs) -> Array:
        """Prior mean of every cell's state: (response, cell)."""
        return beliefs.law_mean @ self.x.T


def cells_of(table: pd.DataFrame) -> Cells:
    """Cells from a frame with source, arch, data, n_params, n_active and n_tokens."""
    return Cells(
        source=tuple(table["source"]),
        arch=tuple(table["arch"]),
        data=tuple(table["data"]),
        n_params=table["n_params"].to_numpy(float),
        n_active=table["n_active"].to_numpy(float),
        n_tokens=table["n_tokens"].to_numpy(float),
    )


def model_inputs(
    frame: pd.DataFrame, design: Design, *, cells: pd.DataFrame | None = None
) -> ModelInputs:
    """Arrays for `frame` (a validated run table).

    Parameters
    ----------
    frame
        Run table; rows that are running or failed are left out, and groups without a completed run.
    design
        Columns of the law.
    cells
        Cell table to index into; by default the frame's own. Cells without rows are allowed: their state is
        then drawn from the law, which is how a cell is left out without building the model anew.

    Raises
    ------
    UserError
        Rows that lie in none of `cells`.
    """
    frame = comparable(usable(frame))
    cells = cell_table(frame) if cells is None else cells
    index = np.asarray(cell_index(frame, cells), dtype=np.int64)
    if (index < 0).any():
        at = frame.iloc[int(np.argmax(index < 0))]
        raise UserError(
            f"run {at['run_id']} ({at['n_params']:g} parameters, {at['n_tokens']:g} tokens, "
            f"{'/'.join(at[name] for name in GROUP)}) and {(index < 0).sum() - 1} more lie in none of the cells given; "
            "leave them out, or give the cells of the whole table"
        )
    order = np.argsort(index, kind="stable")
    frame, index = frame.iloc[order], index[order]

    diverged = (frame["status"] == "diverged").to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        y = 100 * np.log(frame["loss"].to_numpy(float))
    log_lr = np.log(frame["lr_peak"].to_numpy(float) / REFERENCE["lr_peak"])
    log_batch = np.log(frame["batch_tokens"].to_numpy(float) / REFERENCE["batch_tokens"])

    best = np.full((len(cells), 3), np.nan)
    for c in np.unique(index):
        rows = np.flatnonzero(index == c)
        if np.ptp(log_batch[rows]) <= GRID_TOLERANCE:
            log_batch[rows] = log_batch[rows].min()  # one batch, rounded: exactly one, as the model has it
        rows = rows[~diverged[rows]]
        if rows.size:
            top = rows[np.argsort(y[rows])[:3]]
            best[c] = log_lr[top].mean(), log_batch[top].mean(), y[top[0]]
    # A cell where every run diverged is looked for, and its runs are censored, where the nearest of its group is.
    ran = np.flatnonzero(np.isfinite(best[:, 0]))
    for c in np.setdiff1d(index, ran):
        best[c] = best[_nearest(cells, c, ran)]
    if np.isnan(best).any():  # a cell without runs is looked for where the others are
        best = np.where(np.isnan(best), np.nanmean(best, axis=0), best)
    threshold = best[index, 2] + CENSOR_ABOVE
    censored = diverged | (y > threshold)
    y = np.where(censored, threshold, y)

    sources = tuple(sorted(set(cells["source"])))
    # Two teams may both call a trunk "1".
    trunk_names = (frame["source"] + "/" + frame["trunk"]).where(frame["trunk"] != "", "").to_numpy(str)
    named, first, counts = np.unique(trunk_names, return_inverse=True, return_counts=True)
    shared = (counts > 1) & (named != "")
    position = np.where(shared, np.cumsum(shared) - 1, shared.sum())
    trunk, n_trunks = position[first].astype(np.int64), int(shared.sum())
    # A run alone on its trunk has such an error too, as large as the shared ones say. In a source that shares none
    # nothing says so, and beside the threshold of a censored run it is nothing.
    alone = (trunk == n_trunks) & frame["source"].isin(frame["source"][trunk < n_trunks]).to_numpy() & ~censored
    return ModelInputs(
        log_lr=log_lr,
        log_batch=log_batch,
        y=y,
        censored=censored,
        y_se=np.where(censored, 0.0, 100 * frame["loss_se"].to_numpy(float) / frame["loss"].to_numpy(float)),
        cell=index,
        source=np.array([sources.index(s) for s in frame["source"]], dtype=np.int64),
        trunk=trunk,
        alone=alone,
        n_trunks=n_trunks,
        cells=cells_of(cells),
        design=design,
        x=design.matrix(cells_of(cells)),
        best=best,
        sources=sources,
        run_ids=tuple(frame["run_id"]),
    )


def _nearest(cells: pd.DataFrame, c: int, among: NDArray[np.int64]) -> int:
    """Of the cells `among` that are of cell c's group, the one nearest in size and tokens."""
    group = cells[list(GROUP)].to_numpy(str)
    same = among[(group[among] == group[c]).all(axis=1)]
    place = np.log(cells[["n_params", "n_tokens"]].to_numpy(float))
    return int(same[((place[same] - place[c]) ** 2).sum(axis=1).argmin()])
