"""What can be run: single runs and mini-sweeps, from a table or from a grid inside stated limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaleband.design.costs import flops_cost
from scaleband.errors import UserError
from scaleband.laws import REFERENCE, Cells
from scaleband.predict import Basins

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Index = NDArray[np.int64]

SWEEP_SIZES = (3, 5, 7, 9)
# Ideal places of a mini-sweep's runs around the expected optimum, in units of its width: along one axis, a
# cross, a cross with two corners, a full square.
_PATTERNS: Mapping[int, tuple[tuple[float, float], ...]] = {
    3: ((-1, 0), (0, 0), (1, 0)),
    5: ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)),
    7: ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, 1), (1, -1)),
    9: ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, 1), (1, -1), (1, 1), (-1, -1)),
}
_WIDTHS = (0.5, 1.0, 2.0)
COUNTS = ("n_params", "n_active", "n_tokens")


@dataclass(frozen=True)
class Candidates:
    """Runs that could be made, and the bundles in which they can be bought.

    Attributes
    ----------
    cells
        The cells that the runs lie in, each once.
    cell (run,)
        Index into `cells`.
    lr_peak, batch_tokens (run,)
        Settings; tokens per optimizer step.
    flops (run,)
        Price of one run.
    bundles
        Indices of runs that are bought together; all runs of a bundle lie in one cell.
    run_id
        Ids of the runs, where a table names them; else ''.
    counts (run, 3)
        n_params, n_active and n_tokens of each run, where these are not its cell's to the last digit.
    """

    cells: Cells
    cell: Index
    lr_peak: Array
    batch_tokens: Array
    flops: Array
    bundles: tuple[Index, ...]
    run_id: tuple[str, ...] = ()
    counts: Array | None = None

    def __len__(self) -> int:
        return len(self.bundles)

    @property
    def x(self) -> Array:
        """(run, 2): log rate and log batch, natural logs of the ratio to `laws.REFERENCE`."""
        return np.log(
            np.stack([self.lr_peak / REFERENCE["lr_peak"], self.batch_tokens / REFERENCE["batch_tokens"]], axis=1)
        )

    def bundle_cost(self, price: Array | None = None) -> Array:
        """Sum of `flops` (or of another price per run, (run,)) over each bundle: (bundle,)."""
        each = self.flops if price is None else price
        return np.array([each[b].sum() for b in self.bundles])

    def inputs(self, run: int) -> dict[str, str | float]:
        """One run as columns of the run table."""
        c = int(self.cell[run])
        own = self.cells
        counts = (own.n_params[c], own.n_active[c], own.n_tokens[c]) if self.counts is None else self.counts[run]
        return {
            "source": own.source[c], "arch": own.arch[c], "data": own.data[c],
            **dict(zip(COUNTS, map(float, counts), strict=True)),
            "lr_peak": float(self.lr_peak[run]), "batch_tokens": float(self.batch_tokens[run]),
        }  # fmt: skip


def unique_cells(
    source: Sequence[str], arch: Sequence[str], data: Sequence[str], n_params: Array, n_active: Array, n_tokens: Array
) -> tuple[Cells, Index]:
    """Rows of one cell made one: the cells, and the cell of each row.

    Sizes and token counts that a run table calls one cell (`runs.cell_table`) are one here, named by the smallest;
    models that differ in what is active are not.
    """
    import pandas as pd

    from scaleband.runs.cells import PARAMS_TOLERANCE, cell_keys, merged

    keys = cell_keys(pd.DataFrame({
        "source": [str(name) for name in source], "arch": [str(name) for name in arch],
        "data": [str(name) for name in data], "n_params": n_params, "n_tokens": n_tokens,
    }))  # fmt: skip
    keys["n_active"] = merged(keys.assign(n_active=n_active), list(keys.columns), "n_active", PARAMS_TOLERANCE)
    index = keys.groupby(list(keys.columns), sort=False).ngroup().to_numpy().astype(np.int64)
    first = np.flatnonzero(~pd.Series(index).duplicated().to_numpy())
    kept = keys.iloc[first]
    cells = Cells(
        tuple(kept["source"]), tuple(kept["arch"]), tuple(kept["data"]), kept["n_params"].to_numpy(float),
        kept["n_active"].to_numpy(float), kept["n_tokens"].to_numpy(float),
    )  # fmt: skip
    return cells, index


def candidates_from_table(frame: pd.DataFrame) -> Candidates:
    """Rows of a table as single-run candidates; `with_mini_sweeps` adds bundles.

    Parameters
    ----------
    frame
        Columns source, arch, data, n_params, n_tokens, lr_peak, batch_tokens; optionally n_active, flops, run_id
        and bundle. Rows that share a `bundle` (not empty) are bought together only.

    Raises
    ------
    UserError
        No rows, two rows with one run_id, or a bundle that spans several cells.
    """
    if not len(frame):
        raise UserError("there are no candidates; give at least one run that could be made")
    params = frame["n_params"].to_numpy(float)
    active = frame["n_active"].to_numpy(float) if "n_active" in frame else params
    active = np.where(np.isnan(active), params, active)
    tokens = frame["n_tokens"].to_numpy(float)
    names = [frame[k].astype(str).tolist() for k in ("source", "arch", "data")]
    cells, cell = unique_cells(names[0], names[1], names[2], params, active, tokens)
    flops = flops_cost(active, tokens)
    if "flops" in frame:
        given = frame["flops"].to_numpy(float)
        flops = np.where(np.isnan(given), flops, given)
    ids = tuple(frame["run_id"].fillna("").astype(str)) if "run_id" in frame else ("",) * len(frame)
    named = [i for i in ids if i]
    if len(set(named)) < len(named):
        twice = next(i for i in named if named.count(i) > 1)
        raise UserError(f"two candidates have the run_id {twice!r}; a result is matched by it, so make ids unique")
    bundles: list[Index] = []
    labels = frame["bundle"].fillna("").astype(str).to_numpy() if "bundle" in frame else np.array([""] * len(frame))
    for label in dict.fromkeys(labels.tolist()):
        rows = np.flatnonzero(labels == label)
        if not label:
            bundles += [np.array([i]) for i in rows]
            continue
        if len(set(cell[rows].tolist())) > 1:
            raise UserError(f"the bundle {label!r} has runs of several cells; runs that teach together share one cell")
        bundles.append(rows)
    lr, batch = (frame[name].to_numpy(float) for name in ("lr_peak", "batch_tokens"))
    return Candidates(cells, cell, lr, batch, flops, tuple(bundles), ids, np.stack([params, active, tokens], axis=1))


def with_mini_sweeps(
    candidates: Candidates, basins: Basins, *, sizes: Sequence[int] = SWEEP_SIZES, most_per_cell: int = 12
) -> Candidates:
    """Mini-sweeps of the runs that are there, beside the single runs.

    A sweep's runs lie near a pattern (line, cross, square) around the cell's expected optimum, at half, one and two
    times the width of what is not known: the standard deviation of the optimum over the draws plus the width at which
    the basin has risen by 0.25 %. Each place of the pattern takes the nearest run that is not yet taken.

    Parameters
    ----------
    candidates
        Its single runs are what the sweeps are made of; its own bundles stay.
    basins
        Draws at `candidates.cells`.
    sizes
        Runs per sweep, out of 3, 5, 7, 9.
    most_per_cell
        Sweeps per cell at most.
    """
    known = {tuple(sorted(b.tolist())) for b in candidates.bundles}
    added: list[Index] = []
    x = candidates.x
    for c in range(len(candidates.cells)):
        runs = np.unique([b[0] for b in candidates.bundles if len(b) == 1 and candidates.cell[b[0]] == c])
        if len(runs) < min(sizes):
            continue
        runs = runs.astype(np.int64)
        middle = np.median(basins.optimum[:, :, c], axis=0)
        found = 0
        for frame_, width in _frames(basins, c):
            for size in sizes:
                if size > len(runs) or found >= most_per_cell:
                    continue
                sweep = _nearest(x[runs], middle + (np.array(_PATTERNS[size]) * width) @ frame_)
                key = tuple(sorted(runs[sweep].tolist()))
                if key not in known:
                    known.add(key)
                    added.append(runs[sweep])
                    found += 1
    return replace(candidates, bundles=candidates.bundles + tuple(added))


def _frames(basins: Basins, c: int) -> list[tuple[Array, Array]]:
    """Axes (2, 2) of the patterns and their widths (2,), in log units: rate and batch, three sizes and two turns."""
    spread = basins.optimum[:, :, c].std(axis=0)
    curvature = np.median(basins.curvature[:, :, c], axis=0)
    width = np.sqrt(spread**2 + 0.5 / curvature)
    out = []
    for factor in _WIDTHS:
        out += [(np.eye(2), np.minimum(factor * width, 2.5)), (np.eye(2)[::-1], np.minimum(factor * width[::-1], 2.5))]
    return out


def _nearest(points: Array, ideal: Array) -> Index:
    """For each ideal place the nearest point that is not taken yet: (m,)."""
    distance = ((points[:, None] - ideal[None]) ** 2).sum(2)
    taken: list[int] = []
    for k in range(len(ideal)):
        order = np.argsort(distance[:, k], kind="stable")
        taken.append(int(next(i for i in order if i not in taken)))
    return np.array(sorted(taken), dtype=np.int64)
