"""Small decision problems whose answers are known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaleband.design.candidates import Candidates
from scaleband.design.decisions import Slopes
from scaleband.laws import REFERENCE, Cells


@dataclass(frozen=True)
class QuadraticDecision:
    """Regret (a - x)' H (a - x) / 2 with one H for all draws."""

    optimum: np.ndarray
    hessian: np.ndarray

    @property
    def start(self) -> np.ndarray:
        return np.zeros(self.optimum.shape[1])

    def regret(self, action: np.ndarray) -> np.ndarray:
        away = action - self.optimum
        return 0.5 * np.einsum("si,ij,sj->s", away, self.hessian, away)

    def slopes(self, action: np.ndarray) -> Slopes:
        away = action - self.optimum
        h = np.broadcast_to(self.hessian, (len(away), *self.hessian.shape))
        return Slopes(self.regret(action), away @ self.hessian, h)


@dataclass(frozen=True)
class ArrayOutcomes:
    """Outcomes given as an array: mean (sample, run) and independent noise."""

    mean: np.ndarray
    noise: np.ndarray
    seed: int = 0

    def draws(self, runs: np.ndarray, repeats: np.ndarray) -> np.ndarray:
        out = self.mean[:, runs].copy()
        for k, (run, repeat) in enumerate(zip(runs, repeats, strict=True)):
            rng = np.random.default_rng([self.seed, int(run), int(repeat)])
            out[:, k] += self.noise[run] * rng.standard_normal(len(out))
        return out


def made_candidates(x: np.ndarray, cell: np.ndarray, bundles: list[list[int]]) -> Candidates:
    """Candidates at log positions x (run, 2), in cells of growing size."""
    n = int(cell.max()) + 1
    params = 1e8 * 2.0 ** np.arange(n)
    cells = Cells(("us",) * n, ("dense",) * n, ("web",) * n, params, params, 20 * params)
    flops = 6 * params[cell] * 20 * params[cell]
    lr, batch = REFERENCE["lr_peak"] * np.exp(x[:, 0]), REFERENCE["batch_tokens"] * np.exp(x[:, 1])
    return Candidates(cells, cell, lr, batch, flops, tuple(np.array(b) for b in bundles))


@dataclass(frozen=True)
class GaussianProblem:
    """Linear outcomes of a Gaussian unknown: y_i = a_i . (u, level of i's cell) + noise."""

    decision: QuadraticDecision
    outcomes: ArrayOutcomes
    candidates: Candidates
    slopes: np.ndarray
    prior: np.ndarray
    level_sd: float

    def exact(self, runs: np.ndarray) -> float:
        """EVSI of runs seen together, by conjugate algebra."""
        cell = self.candidates.cell[runs]
        a = self.slopes[runs]
        cov_y = (
            a @ self.prior @ a.T
            + self.level_sd**2 * (cell[:, None] == cell[None])
            + np.diag(self.outcomes.noise[runs] ** 2)
        )
        cross = self.prior @ a.T
        removed = cross @ np.linalg.solve(cov_y, cross.T)
        return 0.5 * float(np.trace(self.decision.hessian @ removed))


def gaussian_problem(seed: int = 0, n: int = 2000, level_sd: float = 2.0) -> GaussianProblem:
    """12 cells of 5 runs: every single run, and sweeps of three and five in each cell."""
    rng = np.random.default_rng(seed)
    n_cells, each = 12, 5
    cell = np.repeat(np.arange(n_cells), each)
    x = rng.normal(size=(len(cell), 2))
    bundles = [[i] for i in range(len(cell))]
    for c in range(n_cells):
        own = list(np.flatnonzero(cell == c))
        bundles += [own[:3], own]
    prior = np.array([[0.3, 0.1], [0.1, 0.2]])
    u = rng.multivariate_normal([0, 0], prior, size=n)
    level = level_sd * rng.standard_normal((n, n_cells))
    slopes = rng.normal(size=(len(cell), 2)) * np.linspace(0.2, 2.0, n_cells)[cell][:, None]
    noise = np.full(len(cell), 0.4)
    return GaussianProblem(
        QuadraticDecision(u, np.array([[2.0, 0.5], [0.5, 1.0]])),
        ArrayOutcomes(u @ slopes.T + level[:, cell], noise, seed),
        made_candidates(x, cell, bundles),
        slopes,
        prior,
        level_sd,
    )
