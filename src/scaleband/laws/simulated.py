"""A simulated sweep whose truth is known: for the first notebook, for tests, for trying things.

Nothing here was measured. The numbers below are round values near what published sweeps show, so that a fit
of this table looks like a fit of a real one; the rows carry the source "simulated".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaleband.laws.basin import excess
from scaleband.laws.design import (
    ANGLE,
    CURVATURE,
    FEATURES,
    LEVEL,
    REFERENCE,
    RESPONSES,
    ROLES,
    SKEW,
    Cells,
    design_for,
)
from scaleband.laws.draws import LawDraws
from scaleband.laws.likelihood import CENSOR_ABOVE, noise_scale

Array = NDArray[np.float64]

SOURCE = "simulated"
DATA = "simulated-text"
RATES = (2.5e-4, 8e-4, 2.5e-3, 8e-3, 2.5e-2)
BATCHES = (65_536, 196_608, 589_824, 1_769_472)
SEQ_LEN = 2048

# (arch, parameters, share of them used per token, tokens), in the order of `runs.cell_table`
_GRID = sorted(
    [("dense", n, 1.0, d) for n in (6e7, 1.5e8, 4e8, 1e9) for d in (4e9, 2e10)]
    + [("dense", n, 1.0, 6e10) for n in (1.5e8, 4e8)]
    + [("moe-1in8", n, 0.25, d) for n in (5e8, 1.5e9) for d in (4e9, 2e10)]
)
_LAW = {  # response: coefficient of intercept, n, d, n2, d2, nd, sparsity (see `laws.design.FEATURES`)
    "log_lr": (0.40, -0.65, 0.27, 0.0, 0.0, 0.0, 0.0),
    "log_batch": (-0.20, -0.10, 0.53, 0.0, 0.0, 0.0, 0.0),
    "log_curvature_1": (1.0, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0),
    "log_curvature_2": (0.3, 0.0, 0.05, 0.0, 0.0, 0.0, 0.0),
    "level": (96.0, -5.0, -4.0, 0.0, 0.0, 0.0, 2.0),
    "angle_1": (-0.97, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "angle_2": (0.29, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "skew_1": (0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "skew_2": (0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
_FAMILY = {"family:dense": (0.1, 0.0), "family:moe": (-0.1, 0.1)}  # offsets of log rate, log batch
_SCATTER = (0.08, 0.09, 0.10, 0.06, 0.4, 0.03, 0.03, 0.05, 0.05)
_SIGMA, _RHO, _NU = 0.09, 0.10, 4.0


@dataclass(frozen=True)
class SimulatedSweep:
    """A simulated table and the truth behind it.

    Attributes
    ----------
    columns
        Column name -> values, (run,): `runs.run_table(pd.DataFrame(sweep.columns))` accepts them.
    truth
        The true laws as draws with one sample, so that every function of `predict` and `plots` answers from the
        truth too: the optimum of a cell, the regret of a setting, the loss of one more run.
    """

    columns: dict[str, Any]
    truth: LawDraws

    @property
    def cells(self) -> Cells:
        """The cells of the sweep."""
        return self.truth.cells


def simulated_sweep(seed: int = 0, *, noise: float = 1.0) -> SimulatedSweep:
    """Simulate a sweep: 10 dense and 4 MoE cells, 5 rates by 4 batches in each, 280 runs.

    Every cell's optimum, curvatures and level scatter around the laws above; a run's 100 log loss is its level
    plus its excess plus Student-t noise whose scale is sqrt(sigma^2 + (rho excess)^2). Runs more than half
    again above their cell's best loss diverge and report no loss.

    Parameters
    ----------
    seed
        Of the cell effects and the noise.
    noise
        Factor on the noise; 0 gives losses that lie on the basins.

    Returns
    -------
    The table's columns and its truth. The truth of a cell that the sweep does not have is the law plus a cell
    effect that belongs to the cell's name (see `LawDraws.standard_normal`), the same for every seed.
    """
    rng = np.random.default_rng(seed)
    arch, params, share, tokens = (np.array(v) for v in zip(*_GRID, strict=True))
    count = len(arch)
    cells = Cells((SOURCE,) * count, tuple(str(a) for a in arch), (DATA,) * count, params, params * share, tokens)
    truth = _truth(cells, rng)

    # (cell, rate, batch) -> (run,)
    cell, lr, batch = (
        v.ravel() for v in np.meshgrid(np.arange(count), RATES, np.asarray(BATCHES, float), indexing="ij")
    )
    state = truth.state[0]
    above = excess(
        np.log(lr / REFERENCE["lr_peak"]) - state[0, cell],
        np.log(batch / REFERENCE["batch_tokens"]) - state[1, cell],
        state[ANGLE, cell],
        np.exp(state[CURVATURE, cell]),
        state[SKEW, cell],
    )
    y = state[LEVEL, cell] + above
    y = y + noise * noise_scale(above, _SIGMA, _RHO) * rng.standard_t(_NU, size=y.shape)
    diverged = y - state[LEVEL, cell] > CENSOR_ABOVE
    columns = {
        "run_id": np.array([f"sim-{k:03d}" for k in range(len(cell))]),
        "source": np.full(len(cell), SOURCE),
        "arch": arch[cell],
        "data": np.full(len(cell), DATA),
        "n_params": params[cell],
        "n_active": cells.n_active[cell],
        "n_tokens": tokens[cell],
        "seq_len": np.full(len(cell), SEQ_LEN),
        "lr_peak": lr,
        "batch_tokens": batch.astype(int),
        "loss": np.where(diverged, np.nan, np.exp(y / 100).round(5)),
        "status": np.where(diverged, "diverged", "completed"),
        "schedule": np.full(len(cell), "cosine (simulated)"),
        "loss_kind": np.full(len(cell), "simulated, nats per token"),
    }
    return SimulatedSweep(columns, truth)


def _truth(cells: Cells, rng: np.random.Generator) -> LawDraws:
    """The stated laws as draws with one sample, cell effects drawn."""
    design = design_for(cells)
    law = np.zeros((len(RESPONSES), len(design.columns)))
    for r, response in enumerate(RESPONSES):
        law[r, : len(FEATURES)] = _LAW[response]
    for column, offsets in _FAMILY.items():
        law[:2, design.columns.index(column)] = offsets
    scatter = np.array(_SCATTER)
    state = law @ design.matrix(cells).T + scatter[:, None] * rng.standard_normal((len(RESPONSES), len(cells)))
    one = np.newaxis
    return LawDraws(
        design=design,
        cells=cells,
        law=law[one],
        scatter=scatter[one],
        # A group that the simulation does not have is taken to be like those it has.
        offset_scale=np.zeros((1, len(RESPONSES), len(ROLES))),
        state=state[one],
        angle=np.array([[_LAW["angle_1"][0], _LAW["angle_2"][0]]]),
        skew=np.array([[_LAW["skew_1"][0], _LAW["skew_2"][0]]]),
        sigma=np.array([[_SIGMA]]),
        rho=np.array([_RHO]),
        nu=np.array([_NU]),
        sources=(SOURCE,),
        shared=np.zeros((1, 0)),
        meta={"name": "the truth of a simulated sweep"},
    )
