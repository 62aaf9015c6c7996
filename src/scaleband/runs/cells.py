"""Runs fall into cells, the unit at which an optimum exists: one group, one size, one token count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scaleband.labels import group_label, quantity
from scaleband.runs.columns import GRID_TOLERANCE, GROUP

#: Sizes closer than this are one size: counts of one model differ by what was rounded.
PARAMS_TOLERANCE = 1e-3
#: Token counts are often steps * batch, so they differ by a part of one step between batches. Half a percent
#: of tokens moves the loss by about 0.02 %, well below the noise between seeds.
TOKENS_TOLERANCE = 5e-3


def usable(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows a fit may use: completed, and diverged (they say where the edge of stability is).

    Failed and running rows stay in the table but tell nothing. The index of the result starts at 0.
    """
    return frame[frame["status"].isin(("completed", "diverged"))].reset_index(drop=True)


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """Usable rows of groups in which some run completed: that a run diverged says something beside a loss alone.

    Losses of other groups are no measure, since data and tokenizers differ. The index of the result starts at 0.
    """
    return frame[_some_completed(frame)].reset_index(drop=True)


def without_level(frame: pd.DataFrame) -> pd.DataFrame:
    """Diverged rows of groups in which no run completed: all that `comparable` leaves out of usable rows."""
    return frame[(frame["status"] == "diverged") & ~_some_completed(frame)].reset_index(drop=True)


def _some_completed(frame: pd.DataFrame) -> pd.Series:
    """Whether a run of the row's group completed."""
    completed = frame["status"] == "completed"
    return completed.groupby([frame[name] for name in GROUP]).transform("any")


def window_starts(logs: np.ndarray, fresh: np.ndarray, tolerance: float) -> np.ndarray:
    """Cut sorted values into windows no wider than ``tolerance``.

    Windows, not chains of near neighbours: a dense random search must not become one value.

    Parameters
    ----------
    logs
        (level,) logs, sorted within each run of rows that belong together.
    fresh
        (level,) bool, True where another group begins.
    tolerance
        Widest window, in log.

    Returns
    -------
    (level,) bool, True at the smallest value of each window.
    """
    starts = fresh | (np.diff(logs, prepend=-np.inf) > tolerance)
    at = np.flatnonzero(starts)
    ends = np.append(at[1:], len(logs))[: at.size]
    for begin, end in zip(at, ends, strict=True):
        if end - begin > 2 and logs[end - 1] - logs[begin] > tolerance:  # two neighbours are never too wide
            while begin < end:
                starts[begin] = True
                begin += int(np.searchsorted(logs[begin:end], logs[begin] + tolerance, side="right"))
    return starts


def n_distinct(values: np.ndarray, tolerance: float) -> int:
    """How many values differ by more than ``tolerance`` (in log); NaN does not count."""
    logs = np.log(np.unique(values[np.isfinite(values)]))
    return int(window_starts(logs, np.zeros(logs.size, dtype=bool), tolerance).sum())


def merged(frame: pd.DataFrame, by: list[str], column: str, tolerance: float) -> pd.Series:
    """``column`` with values closer than ``tolerance`` (in log) replaced by the smallest of them."""
    levels = frame[[*by, column]].drop_duplicates()
    levels = levels.sort_values([*by, column], kind="stable", ignore_index=True)
    fresh = levels[by].ne(levels[by].shift()).any(axis=1).to_numpy()
    starts = window_starts(np.log(levels[column].to_numpy()), fresh, tolerance)
    levels["kept"] = levels[column].to_numpy()[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
    return frame[[*by, column]].merge(levels, on=[*by, column], how="left")["kept"].set_axis(frame.index)


def cell_keys(frame: pd.DataFrame) -> pd.DataFrame:
    """Group, size and token count of each row's cell, near-equal values made equal."""
    keys = frame[[*GROUP, "n_params", "n_tokens"]].copy()
    keys["n_params"] = merged(keys, list(GROUP), "n_params", PARAMS_TOLERANCE)
    keys["n_tokens"] = merged(keys, [*GROUP, "n_params"], "n_tokens", TOKENS_TOLERANCE)
    return keys


def cell_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell of the usable runs.

    Sizes within 0.1 % and token counts within 0.5 % of each other are one cell, named by the smallest.

    Parameters
    ----------
    frame
        ``RunTable.frame``, or rows of it.

    Returns
    -------
    Sorted by source, arch, data, n_params, n_tokens; index 0, 1, ... Columns:

    - ``cell``: unique label such as ``step-law/dense/steplaw_main 1.07B/56.9B``; then the key columns
    - ``n_active``; ``n_active_varies``: its runs do not agree on it
    - ``n_runs`` (completed and diverged), ``n_diverged``, ``n_lr``, ``n_batch`` (distinct values within 1 %)
    - ``loss_min``, ``lr_peak_best``, ``batch_tokens_best``: of the best completed run, NaN if none completed
    - ``lr_on_edge``, ``batch_on_edge``: the best run lies at an end of the cell's grid: the optimum may lie
      outside. A grid of one value has only ends. Diverged runs extend the grid: they are known to be worse.
    - ``best_on_edge``: either
    """
    rows = usable(frame)
    key = [*GROUP, "n_params", "n_tokens"]
    work = pd.concat([cell_keys(rows), rows[["n_active", "lr_peak", "batch_tokens"]]], axis=1)
    diverged = (rows["status"] == "diverged").to_numpy()
    work["is_diverged"] = diverged
    work["loss"] = np.where(diverged, np.nan, rows["loss"].to_numpy())
    grouped = work.groupby(key, sort=True)
    cells = grouped.agg(
        n_active=("n_active", "min"),
        n_active_max=("n_active", "max"),
        n_runs=("is_diverged", "size"),
        n_diverged=("is_diverged", "sum"),
        loss_min=("loss", "min"),
        lr_low=("lr_peak", "min"),
        lr_high=("lr_peak", "max"),
        batch_low=("batch_tokens", "min"),
        batch_high=("batch_tokens", "max"),
    ).reset_index()
    for name, column in (("n_lr", "lr_peak"), ("n_batch", "batch_tokens")):
        grid = merged(work[[*key, column]].dropna(), key, column, GRID_TOLERANCE)
        distinct = work.loc[grid.index, key].assign(value=grid).drop_duplicates()
        count = distinct.groupby(key).size().rename(name)
        cells = (
            cells.merge(count, how="left", left_on=key, right_index=True)
            .fillna({name: 0})
            .astype({name: int})
        )
    # ties go to the lower rate, then the lower batch, so that the order of the rows does not matter
    ranked = work.dropna(subset=["loss"]).sort_values(["loss", "lr_peak", "batch_tokens"], kind="stable")
    best = ranked.drop_duplicates(key)[[*key, "lr_peak", "batch_tokens"]]
    cells = cells.merge(
        best.rename(columns={"lr_peak": "lr_peak_best", "batch_tokens": "batch_tokens_best"}),
        on=key,
        how="left",
    )
    cells["lr_on_edge"] = on_edge(cells["lr_peak_best"], cells["lr_low"], cells["lr_high"])
    cells["batch_on_edge"] = on_edge(cells["batch_tokens_best"], cells["batch_low"], cells["batch_high"])
    cells["best_on_edge"] = cells["lr_on_edge"] | cells["batch_on_edge"]
    cells["n_active_varies"] = cells["n_active_max"] > cells["n_active"] * (1 + PARAMS_TOLERANCE)
    cells.insert(0, "cell", cell_labels(cells))
    return cells.drop(columns=["n_active_max", "lr_low", "lr_high", "batch_low", "batch_high"])


def on_edge(best: pd.Series, low: pd.Series, high: pd.Series) -> pd.Series:
    """Whether ``best`` is not inside ``low .. high`` by more than the grid tolerance; True if unknown."""
    inside = (best > low * (1 + GRID_TOLERANCE)) & (best < high / (1 + GRID_TOLERANCE))
    return ~inside


def cell_labels(cells: pd.DataFrame) -> list[str]:
    """Unique readable labels, with as few digits as that takes."""
    labels: list[str] = []
    for digits in (3, 6, 15):
        labels = [
            f"{group_label(s, a, d)} {quantity(n, digits)}/{quantity(t, digits)}"
            for s, a, d, n, t in zip(*(cells[k] for k in (*GROUP, "n_params", "n_tokens")), strict=True)
        ]
        if len(set(labels)) == len(labels):
            break
    return labels


def cell_index(frame: pd.DataFrame, cells: pd.DataFrame) -> np.ndarray:
    """Position in ``cells`` of each row's cell.

    Parameters
    ----------
    frame
        Rows with source, arch, data, n_params, n_tokens: runs, points, targets.
    cells
        From `cell_table`.

    Returns
    -------
    (row,) int, -1 where no cell of that group lies within 0.1 % in size and 0.5 % in tokens.
    """
    work = frame[[*GROUP, "n_params", "n_tokens"]].reset_index(drop=True)
    work["order"] = np.arange(len(work))
    sizes = cells[[*GROUP, "n_params"]].drop_duplicates().rename(columns={"n_params": "size"})
    work = nearest(work, sizes, list(GROUP), "n_params", "size", PARAMS_TOLERANCE)
    spots = cells[[*GROUP, "n_params", "n_tokens"]].rename(
        columns={"n_params": "size", "n_tokens": "horizon"}
    )
    spots["position"] = np.arange(len(cells))
    work["size"] = work["size"].fillna(-1.0)
    work = nearest(work, spots, [*GROUP, "size"], "n_tokens", "horizon", TOKENS_TOLERANCE)
    return work.sort_values("order")["position"].fillna(-1).to_numpy().astype(int)


def nearest(
    left: pd.DataFrame, right: pd.DataFrame, by: list[str], on: str, to: str, tol: float
) -> pd.DataFrame:
    """``left`` joined to the row of ``right`` with ``log to`` within ``tol``, the one below if there is one.

    The one below because windows begin at their smallest value: rows of the table that made the cells
    find the very cell they were put in.
    """
    a = left.assign(at=np.log(left[on])).sort_values("at", kind="stable")
    b = right.assign(at=np.log(right[to])).sort_values("at", kind="stable")
    asof: Any = pd.merge_asof  # its stub knows whole-number tolerances only
    below = asof(a, b, on="at", by=by, direction="backward", tolerance=tol)
    above = asof(a, b, on="at", by=by, direction="forward", tolerance=tol)
    return below.fillna({c: above[c] for c in right.columns if c not in by}).drop(columns="at")


def rows_of_settings(frame: pd.DataFrame, table: pd.DataFrame) -> list[np.ndarray]:
    """Positions of the rows of ``table`` that are runs of each row's setting.

    Parameters
    ----------
    frame, table
        Columns source, arch, data, n_params, n_active, n_tokens, lr_peak, batch_tokens.

    Returns
    -------
    One array (found,) int per row of ``frame``: same group, sizes within 0.1 %, tokens within 0.5 %, rate and batch
    within 1 %.
    """
    within = {"n_params": PARAMS_TOLERANCE, "n_active": PARAMS_TOLERANCE, "n_tokens": TOKENS_TOLERANCE,
              "lr_peak": GRID_TOLERANCE, "batch_tokens": GRID_TOLERANCE}  # fmt: skip
    theirs, own = (np.log(f[list(within)].to_numpy(float)) for f in (table, frame))
    groups = table.groupby([table[name].astype(str) for name in GROUP]).indices
    tolerance = np.array(list(within.values())) * (1 + 1e-9)
    out = []
    for group, at in zip(frame[list(GROUP)].astype(str).itertuples(index=False, name=None), own, strict=True):
        rows = groups.get(group, np.zeros(0, int))
        out.append(rows[(np.abs(theirs[rows] - at) <= tolerance).all(axis=1)])
    return out
