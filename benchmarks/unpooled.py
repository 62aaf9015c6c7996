"""'Truth' for a cell: a basin fitted to that cell's own runs alone.

Maximum a posteriori of (log rate*, log batch*, level, two log curvatures, two angles, two skews, noise) under
StudentT(4) errors whose scale grows with the excess (rho = 0.15). Angles, skews and curvatures carry the
stated beliefs, which matter only where a grid is small; the optimum and the level carry none.

    python benchmarks/unpooled.py            prints every Step Law cell's optimum
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from common import load
from scaleband.bayes import ModelInputs, cells_of, model_inputs
from scaleband.laws import REFERENCE, design_for, excess, run_log_density
from scaleband.runs import cell_table

RHO, NU = 0.15, 4.0


@dataclass(frozen=True)
class Basin:
    """One cell's own basin: log optimum (2,), level, angle, curvature and skew (2,).

    `optimum_se` is the optimum's standard error, from the curvature of the fit (inverse Hessian by differences);
    infinite where that is not positive definite.
    """

    optimum: np.ndarray
    level: float
    angle: np.ndarray
    curvature: np.ndarray
    skew: np.ndarray
    optimum_se: np.ndarray

    @property
    def lr_peak(self) -> float:
        return float(REFERENCE["lr_peak"] * np.exp(self.optimum[0]))

    @property
    def batch_tokens(self) -> float:
        return float(REFERENCE["batch_tokens"] * np.exp(self.optimum[1]))

    def regret(self, lr_peak: float, batch_tokens: float) -> float:
        """Percent of the loss above the cell's own optimum."""
        x = np.log(lr_peak / REFERENCE["lr_peak"]), np.log(batch_tokens / REFERENCE["batch_tokens"])
        return float(
            excess(x[0] - self.optimum[0], x[1] - self.optimum[1], self.angle, self.curvature, self.skew)
        )


def fit_basin(
    inputs: ModelInputs,
    c: int,
    shape: tuple[np.ndarray, np.ndarray] | None = None,
    noise: tuple[float, float, float] | None = None,
) -> Basin:
    """Fit cell `c` alone, from four starts; the best of them.

    With `shape`, mean and standard deviation of (two log curvatures, two angles, two skews), these take the place of
    the beliefs about the basin's shape: what other cells say of it. With `noise` (sigma, percent; rho; nu) the noise of
    runs is known. Nothing is ever said of the place of the optimum.
    """
    rho, nu = (RHO, NU) if noise is None else noise[1:]
    rows = inputs.cell == c
    x, z, y, censored = (v[rows] for v in (inputs.log_lr, inputs.log_batch, inputs.y, inputs.censored))
    y_se = inputs.y_se[rows]

    def split(p: np.ndarray) -> tuple[np.ndarray, ...]:
        mid, gap = p[5], p[6]
        return p[:2], np.exp(p[3:5]), np.array([mid - gap / 2, mid + gap / 2]), p[7:9]

    def objective(p: np.ndarray) -> float:
        optimum, h, angle, skew = split(p)
        e = excess(x - optimum[0], z - optimum[1], angle, h, skew)
        sigma = np.exp(p[9]) if noise is None else noise[0]
        fit = run_log_density(y, p[2], e, sigma, rho, nu, censored, y_se).sum()
        belief = ((p[9] - np.log(0.1)) / 0.7) ** 2 / 2
        if shape is None:
            belief += (
                ((p[3:5] - 0.5) ** 2).sum() / 2
                + ((p[5] + 0.35) / 0.3) ** 2 / 2
                + ((p[6] - 1.3) / 0.3) ** 2 / 2
                + (((p[7:9] - 0.5) / 0.5) ** 2).sum() / 2
            )
        else:
            belief += (((np.concatenate([p[3:5], angle, skew]) - shape[0]) / shape[1]) ** 2).sum() / 2
        return float(belief - fit)

    top = np.flatnonzero(~censored)[np.argsort(y[~censored])]
    starts = [top[:k] for k in (1, 3, 5, 8)]
    best = None
    for chosen in starts:
        start = np.array(
            [x[chosen].mean(), z[chosen].mean(), y[top[0]], 0.5, 0.3, -0.35, 1.3, 0.5, 0.5, np.log(0.1)]
        )
        found = minimize(objective, start, method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 100_000})
        if best is None or found.fun < best.fun:
            best = found
    optimum, h, angle, skew = split(best.x)
    return Basin(optimum, float(best.x[2]), angle, h, skew, standard_errors(objective, best.x)[:2])


def standard_errors(objective: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """Square roots of the diagonal of the inverse Hessian, by central differences; infinite if that fails."""
    n, step = len(at), 1e-3
    shifts = np.eye(n) * step
    hessian = np.array(
        [
            [
                objective(at + a + b) - objective(at + a - b) - objective(at - a + b) + objective(at - a - b)
                for b in shifts
            ]
            for a in shifts
        ]
    ) / (4 * step**2)
    try:
        np.linalg.cholesky(hessian)
    except np.linalg.LinAlgError:
        return np.full(n, np.inf)
    return np.sqrt(np.diag(np.linalg.inv(hessian)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", default=["steplaw_dense", "steplaw_dense_small", "steplaw_moe"])
    frame = load(parser.parse_args().tables)
    cells = cell_table(frame)
    inputs = model_inputs(frame, design_for(cells_of(cells)))
    for c, label in enumerate(cells["cell"]):
        basin = fit_basin(inputs, c)
        edge = " edge" if cells["best_on_edge"].iloc[c] else ""
        print(
            f"{label:55s} rate {basin.lr_peak:.3e}  batch {basin.batch_tokens:9.0f}  "
            f"loss {np.exp(basin.level / 100):.4f}{edge}"
        )


if __name__ == "__main__":
    main()
