"""Draws of what a run would show: one value per posterior draw, joint with the draws of the decision.

    100 log loss = level + min(excess, threshold) + misfit + seed noise

`sigma` of the model is seed noise and local misfit of the basin together: `SEED_SHARE` of its variance is taken to be
the seed's, so that a replicate of a setting shares the rest (and all of `rho * excess`) with the run it repeats. What
a run has from its trunk, in sources whose runs share trunks, is the setting's too: a repeat shares it. The
noise is drawn Gaussian with the Fisher information of the model's Student-t, (nu + 1) / (nu + 3) / scale^2: what a run
with heavy tails teaches once it is read by the model, which discounts its tails.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from scaleband.design.candidates import COUNTS, Candidates, Index, unique_cells
from scaleband.laws import ANGLE, CENSOR_ABOVE, CURVATURE, LEVEL, SKEW, LawDraws, noise_scale
from scaleband.laws.basin import away_from_flat, rise_of

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

SEED_SHARE = 0.1
"""Share of sigma^2 that another seed draws anew. OLMo's ladder reruns differ by 0.0005-0.001 in loss, 0.02-0.04 %,
against a sigma of 0.1 %; a table with `loss_se` says it better."""


class Outcomes(Protocol):
    """Draws of outcomes: all that EVSI needs to know of the candidates."""

    def draws(self, runs: Index, repeats: Index) -> Array:
        """(sample, len(runs)); `repeats` counts how often the same setting was seen before each."""
        ...


@dataclass(frozen=True)
class LawOutcomes:
    """Outcomes of candidates under a fit.

    Attributes
    ----------
    candidates
        Its runs.
    state (sample, response, cell)
        Draws at `candidates.cells`, joint with those of the target.
    sigma (sample, cell), rho (sample,), nu (sample,)
        Noise, as in the model.
    middle (cell,)
        Subtracted from every outcome of a cell: a constant that keeps the numbers small.
    seed
        Of misfit and noise; each run has a stream of its own.
    seed_share
        See `SEED_SHARE`.
    made (run, 2)
        What runs of the same setting have shown already, 100 log loss on average, and how many there were (0: none).
        Their misfit is mostly known, so that a repeat says no more than its seed does; see `made_before`.
    trunk (sample, cell)
        Standard deviation of what a run has from its trunk, 100 log units; None: nothing.
    """

    candidates: Candidates
    state: Array
    sigma: Array
    rho: Array
    nu: Array
    middle: Array
    seed: int
    seed_share: float
    made: Array | None = None
    trunk: Array | None = None

    def draws(self, runs: Index, repeats: Index) -> Array:
        """100 log loss above the cell's expected level, see `Outcomes`."""
        cells = self._cells(runs)
        above = np.minimum(self._excess(runs), CENSOR_ABOVE)
        # noise of a t with nu degrees of freedom, as informative as this Gaussian
        wider = np.sqrt((self.nu + 3) / (self.nu + 1))[:, None]
        sigma = self.sigma[:, cells]
        fixed = noise_scale(above, np.sqrt(1 - self.seed_share) * sigma, self.rho[:, None])
        misfit, own = np.empty_like(above), np.empty_like(above)
        for k, (run, repeat) in enumerate(zip(runs, repeats, strict=True)):
            misfit[:, k], own[:, k] = self._normal(int(run), int(repeat))
        fixed, anew = wider * fixed, wider * np.sqrt(self.seed_share) * sigma
        if self.trunk is not None:
            fixed = np.hypot(fixed, self.trunk[:, cells])
        mean = self.state[:, LEVEL, cells] + above
        known = np.zeros(len(runs), bool) if self.made is None else self.made[runs, 1] > 0
        misfit = fixed * misfit
        if self.made is not None and known.any():
            seen, count = self.made[runs].T
            told = fixed**2 / (fixed**2 + anew**2 / np.maximum(count, 1))
            given = told * (np.where(known, seen, 0.0) - mean) + np.sqrt(1 - told) * misfit
            misfit = np.where(known, given, misfit)
        return mean - self.middle[cells] + misfit + anew * own

    def p_diverged(self, runs: Index) -> Array:
        """Probability that each run ends above the threshold, (len(runs),)."""
        return (self._excess(runs) > CENSOR_ABOVE).mean(0)

    def _cells(self, runs: Index) -> Index:
        """Cell of each run; of one cell, that cell once: arrays then broadcast instead of being copied."""
        cells = self.candidates.cell[runs]
        return cells[:1] if len(cells) and (cells == cells[0]).all() else cells

    def _excess(self, runs: Index) -> Array:
        """As `laws.excess`, without its branches: forty nanoseconds a number are too many for ten million."""
        cells, x = self._cells(runs), self.candidates.x[runs]
        own = self.state[:, :, cells]
        dx, db = x[:, 0] - own[:, 0], x[:, 1] - own[:, 1]
        out = np.zeros_like(dx)
        for j in (0, 1):
            angle, h, s = own[:, ANGLE][:, j], np.exp(own[:, CURVATURE][:, j]), away_from_flat(own[:, SKEW][:, j])
            rise, a = rise_of(s, np.cos(angle) * dx + np.sin(angle) * db)
            out += h / (s * s) * (rise - a)
        return out

    def _normal(self, run: int, repeat: int) -> Array:
        """Two standard normals a draw, (2, sample): the setting's own, and those of this repeat of it."""
        digest = np.frombuffer(hashlib.sha256(self.setting_key(run).encode()).digest()[:16], dtype=np.uint32)
        rng = np.random.Generator(np.random.SFC64([self.seed, *digest]))
        return rng.standard_normal((repeat + 2, len(self.rho)))[[0, -1]]

    def setting_key(self, run: int) -> str:
        """Cell and setting of a run: what a replicate shares."""
        c, own = int(self.candidates.cell[run]), self.candidates
        return f"{c} {own.lr_peak[run]:.6g} {own.batch_tokens[run]:.6g}"


def law_outcomes(
    draws: LawDraws,
    candidates: Candidates,
    *,
    seed: int = 0,
    seed_share: float = SEED_SHARE,
    made: Array | None = None,
) -> LawOutcomes:
    """Outcome draws of candidates under a fit.

    A fitted cell speaks for itself; a new one is a new draw of the law, its level unknown too. `made` says what is
    known of settings that the fit has seen (`made_before`).
    """
    state = draws.at(candidates.cells)
    state[:, CURVATURE] = np.clip(state[:, CURVATURE], -20, 20)
    noise = [draws.run_noise(source, np.random.default_rng([seed, 5])) for source in candidates.cells.source]
    sigma, trunk = (np.stack(part, axis=1) for part in zip(*noise, strict=True))
    middle = state[:, LEVEL].mean(0)
    return LawOutcomes(
        candidates, state, sigma, draws.rho, draws.nu, middle, seed, seed_share, made, trunk if trunk.any() else None
    )


def made_before(candidates: Candidates, frame: pd.DataFrame | None) -> Array:
    """What the completed runs of a run table showed at each candidate's setting, by the run table's tolerances.

    Returns
    -------
    (run, 2): mean of 100 log loss, and the number of runs; 0 and 0 where there were none.
    """
    out = np.zeros((len(candidates.cell), 2))
    if frame is None or not len(out):
        return out
    import pandas as pd

    from scaleband.runs import rows_of_settings

    done = frame[frame["status"] == "completed"]
    y = 100 * np.log(done["loss"].to_numpy(float))
    settings = pd.DataFrame([candidates.inputs(run) for run in range(len(out))])
    for run, rows in enumerate(rows_of_settings(settings, done)):
        if len(rows):
            out[run] = y[rows].mean(), len(rows)
    return out


def joined(candidates: Candidates, more: Candidates) -> tuple[Candidates, Index]:
    """`candidates` with the runs of `more` added to its runs (not to its bundles), and where they are."""
    runs = [own.inputs(k) for own in (candidates, more) for k in range(len(own.cell))]
    counts = np.array([[run[name] for name in COUNTS] for run in runs], float)
    source, arch, data = ([str(run[name]) for run in runs] for name in ("source", "arch", "data"))
    cells, cell = unique_cells(source, arch, data, *counts.T)
    n = len(candidates.cell)
    ids = candidates.run_id or ("",) * n
    out = replace(
        candidates,
        cells=cells,
        cell=cell,
        lr_peak=np.concatenate([candidates.lr_peak, more.lr_peak]),
        batch_tokens=np.concatenate([candidates.batch_tokens, more.batch_tokens]),
        flops=np.concatenate([candidates.flops, more.flops]),
        run_id=ids + (more.run_id or ("",) * len(more.cell)),
        counts=counts,
    )
    return out, np.arange(n, n + len(more.cell))
