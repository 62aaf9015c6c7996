"""What draws expect of the runs of a table before (prior) or after (posterior) these were seen.

Levels of loss are as good as free in a prior, so what a table tells, and what is compared, is how much worse than the
best run of its cell each run is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaleband.errors import UserError
from scaleband.laws import CENSOR_ABOVE, REFERENCE, Cells, LawDraws, excess, noise_scale
from scaleband.predict.targets import basins

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Contrasts:
    """The runs of a table against the best run of their cell: 100 log of the loss over the best one's, percent.

    Attributes
    ----------
    recorded (run,)
        What was found; `laws.CENSOR_ABOVE` for a run that diverged or lies higher: the model says no more of it.
    expected (sample, run)
        The same of every draw's own runs at these settings, noise included, its own best run the measure.
    cell (run,)
        Index into the draws' cells.
    lr_peak, batch_tokens (run,)
        The settings; tokens per step.
    run_ids
        Names.
    """

    recorded: Array
    expected: Array
    cell: NDArray[np.int64]
    lr_peak: Array
    batch_tokens: Array
    run_ids: tuple[str, ...]

    def inside(self, mass: float) -> NDArray[np.bool_]:
        """Whether a run's recorded contrast lies in the central interval of `mass` of its expected one: (run,)."""
        low, high = np.quantile(self.expected, [(1 - mass) / 2, (1 + mass) / 2], axis=0)
        return np.asarray((low <= self.recorded) & (self.recorded <= high))


def contrasts(draws: LawDraws, runs: pd.DataFrame, *, seed: int = 0) -> Contrasts:
    """Runs as recorded and as draws expect them.

    Errors that runs of one trunk share are left out; that of a run alone on its trunk is noise of its own. Runs that a
    posterior has seen sit a little too close to its middle.

    Parameters
    ----------
    draws
        A fit, or a prior (`inference.prior.prior_of`).
    runs
        Run table (`RunTable.frame`). Runs that failed or are under way are left out, and runs of cells that the draws
        do not have or in which no run or one run alone completed or diverged.
    seed
        Of the noise.

    Raises
    ------
    UserError
        No cell has two runs that can be compared.
    """
    from scaleband.runs import usable

    rows = usable(runs)
    alone = _alone(rows)
    at = positions(rows, draws.cells)
    done = (rows["status"] == "completed").to_numpy()
    count, best = np.zeros(len(draws.cells), np.int64), np.full(len(draws.cells), np.inf)
    y = 100 * np.log(rows["loss"].where(done).to_numpy(float))
    np.add.at(count, at[at >= 0], 1)
    np.fmin.at(best, at[done & (at >= 0)], y[done & (at >= 0)])
    kept = (at >= 0) & (count[at] > 1) & np.isfinite(best[at])
    if not kept.any():
        raise UserError(
            "no cell of the draws has two runs in the table, one of them completed; give the table that was fitted"
        )
    rows, alone, cell, y = rows[kept], alone[kept], at[kept], y[kept]
    found = np.fmin(y - best[cell], CENSOR_ABOVE)  # of a number and NaN (diverged) the number

    lr, batch = rows["lr_peak"].to_numpy(float), rows["batch_tokens"].to_numpy(float)
    b = basins(draws, draws.cells)
    # Walls as in the likelihood: where every run of a cell lies far up, straight ones would stand too close together.
    angle, curvature, skew = (v[..., cell] for v in b.shape[:3])
    above = excess(
        np.log(lr / REFERENCE["lr_peak"]) - b.optimum[:, 0, cell],
        np.log(batch / REFERENCE["batch_tokens"]) - b.optimum[:, 1, cell],
        angle, curvature, skew,
    )  # fmt: skip
    source = [draws.sources.index(s) for s in rows["source"]]
    se = 100 * (rows["loss_se"] / rows["loss"]).fillna(0.0).to_numpy(float) if "loss_se" in rows else 0.0
    se = np.hypot(se, draws.trunk_error()[:, source] * alone)
    noise = np.random.default_rng(seed).standard_t(draws.nu[:, None], size=above.shape)
    above = above + noise_scale(above, draws.sigma[:, source], draws.rho[:, None], se) * noise
    lowest = np.full((len(draws.cells), draws.n_samples), np.inf)
    np.minimum.at(lowest, cell, above.T)
    return Contrasts(
        recorded=found,
        expected=np.minimum(above - lowest[cell].T, CENSOR_ABOVE),
        cell=cell,
        lr_peak=lr,
        batch_tokens=batch,
        run_ids=tuple(str(v) for v in rows["run_id"]),
    )


def _alone(runs: pd.DataFrame) -> NDArray[np.bool_]:
    """Runs that share their trunk with no other, (run,)."""
    if "trunk" not in runs:
        return np.ones(len(runs), bool)
    return np.asarray((runs["trunk"] == "") | ~runs.duplicated(["source", "trunk"], keep=False))


def positions(runs: pd.DataFrame, cells: Cells) -> NDArray[np.int64]:
    """Index into `cells` of each run's cell, (run,); -1 where it is none of them."""
    import pandas as pd

    from scaleband.runs import cell_index

    table = pd.DataFrame(
        {
            "source": list(cells.source),
            "arch": list(cells.arch),
            "data": list(cells.data),
            "n_params": cells.n_params,
            "n_tokens": cells.n_tokens,
        }
    )
    return np.asarray(cell_index(runs, table), dtype=np.int64)
