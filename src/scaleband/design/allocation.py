"""The second decision: which size to train under a FLOP budget, when the loss follows fitted loss laws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.design.candidates import Candidates, Index
from scaleband.design.decisions import CurveDecision, allocation_decision
from scaleband.design.outcomes import SEED_SHARE
from scaleband.design.verdict import an_efold
from scaleband.laws import Cells
from scaleband.laws.loss.draws import LossDraws

Array = NDArray[np.float64]


def isoflop_cells(source: str, arch: str, data: str, flops: float, n_params: Array, *, sparsity: float = 1.0) -> Cells:
    """Cells of one group that all cost `flops`: sizes (cell,), tokens = flops / (6 n_active)."""
    sizes = np.asarray(n_params, float)
    count, active = len(sizes), sizes / sparsity
    return Cells((source,) * count, (arch,) * count, (data,) * count, sizes, active, flops / (6 * active))


def allocation_from_loss_laws(draws: LossDraws, cells: Cells) -> CurveDecision:
    """Choose n_params along an isoFLOP line (`isoflop_cells`, sizes evenly spaced in log) under stacked loss laws.

    The laws alone: with the luck of every size in it, the best of many sizes would be the luckiest, and what there is
    to gain would grow with the number of sizes.

    Raises
    ------
    UserError
        Fewer than five sizes, or sizes that are not evenly spaced in log.
    """
    return allocation_decision(np.log(cells.n_params), 100 * draws.log_loss(cells, size_effects=False))


@dataclass(frozen=True)
class LossOutcomes:
    """What runs would show under loss laws: the law, and one observation's scatter around it.

    The scatter is mostly what the runs of a cell have in common, be the laws fitted to cells or to runs: a cell's
    level lies beside the law, and repeats in it (each near its optimum) do not average that away. Only `seed_share`
    of the variance is drawn anew for every run.

    Attributes
    ----------
    fit
        Fitted loss laws; the decision must come from the same.
    candidates
        The runs. Their settings do not matter here: each is taken to be near its optimum.
    law (sample, cell)
        100 log loss at `candidates.cells`.
    seed_share
        See `design.SEED_SHARE`.
    """

    fit: LossDraws
    candidates: Candidates
    law: Array
    seed_share: float = SEED_SHARE

    def outcome(self, run: int, repeat: int) -> Array:
        """100 log loss of one run, (sample,)."""
        c, own = int(self.candidates.cell[run]), self.candidates
        setting = f"{c} {own.lr_peak[run]:.6g} {own.batch_tokens[run]:.6g} {repeat}"
        scatter = np.sqrt(1 - self.seed_share) * self._scatter(c, f"cell {c}")
        return self.law[:, c] + scatter + np.sqrt(self.seed_share) * self._scatter(c, setting)

    def _scatter(self, c: int, key: str) -> Array:
        """An observation's distance from the law in cell `c`, 100 log units, (sample,)."""
        scatter = self.fit.scatter(self.candidates.cells.source[c], key)
        # A t with few degrees of freedom: a single wild draw must not outweigh the rest.
        most = 8 * np.median(np.abs(scatter))
        return np.asarray(100 * np.clip(scatter, -most, most))

    def draws(self, runs: Index, repeats: Index) -> Array:
        """(sample, len(runs)), see `design.Outcomes`."""
        return np.stack([self.outcome(int(r), int(k)) for r, k in zip(runs, repeats, strict=True)], axis=1)


def loss_outcomes(draws: LossDraws, candidates: Candidates, *, seed_share: float = SEED_SHARE) -> LossOutcomes:
    """Outcome draws of candidates for `design.choose`, joint with `allocation_from_loss_laws`."""
    return LossOutcomes(draws, candidates, 100 * draws.log_loss(candidates.cells), seed_share)


def loss_law_slope(draws: LossDraws, target: Cells) -> float:
    """Percent of loss that an e-fold of compute buys at a target, half of it in size, half in tokens: median draw.

    For `design.propose(slope=...)`: the stop verdict under fitted loss laws, where there are some.
    """
    loss = 100 * draws.log_loss(an_efold(target), size_effects=False)
    return float(np.median(loss[:, 0] - loss[:, 1]))
