"""What the shipped sweep says of noise: seeds beside the fit's own scatter, and its exponents beside Step Law's.

    python benchmarks/own_noise.py

Definition (fixed before the first figure was looked at):

- seed noise: settings with several seeds, 100 log loss; the pooled standard deviation inside settings (each taken from
  its own mean), with its 90 % interval from chi-squared. Runs of one seed share start and batches, so seeds of one
  cell are also compared as a block: the part of a seed that all its rates share, and what is left;
- local misfit: a cell's own unpooled basin (`benchmarks/unpooled.py`), the standard deviation of the residuals of the
  runs within 2 % of its level, with eight parameters of the cell counted as lost degrees of freedom. What seeds do not
  explain of it is misfit: sqrt(residual^2 - seed^2), 0 if negative;
- exponents: of rate and batch on n_params and n_tokens, median and 90 % interval of the released posteriors (a
  linear form has one exponent everywhere, a quadratic one has it at the reference point).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import chi2

from scaleband.bayes import cells_of, model_inputs
from scaleband.inference.released import model_path
from scaleband.inference.store import read_draws
from scaleband.laws import FEATURES, design_for, excess
from scaleband.runs import cell_table, own_sweep
from unpooled import fit_basin

SETTING = ["arch", "data", "n_params", "n_tokens", "batch_tokens", "lr_peak"]
NEAR, PARAMETERS = 2.0, 8


def seed_noise(frame: pd.DataFrame) -> float:
    """Print the pooled standard deviations; gives the first."""
    runs = frame[frame["status"] == "completed"].assign(y=lambda f: 100 * np.log(f["loss"]))
    several = runs.groupby(SETTING).filter(lambda group: group["seed"].nunique() > 1)
    own = several["y"] - several.groupby(SETTING)["y"].transform("mean")
    n_settings = several.groupby(SETTING).ngroups
    freedom = len(several) - n_settings
    found = pooled(f"seeds, {n_settings} settings", (own**2).sum(), freedom)
    block = several.assign(own=own).groupby([*SETTING[:-1], "seed"])["own"].transform("mean")
    n_blocks = several.groupby([*SETTING[:-1], "seed"]).ngroups
    n_places = several.groupby(SETTING[:-1]).ngroups
    pooled("  of which shared by the rates of a seed", (block**2).sum(), n_blocks - n_places)
    pooled("  of which a rate's own", ((own - block) ** 2).sum(), freedom - (n_blocks - n_places))
    return found


def pooled(what: str, squares: float, freedom: int) -> float:
    """One standard deviation with its interval, percent of the loss."""
    low, high = (np.sqrt(squares / chi2.ppf(p, freedom)) for p in (0.95, 0.05))
    found = float(np.sqrt(squares / freedom))
    print(f"{what}: {found:.3f} % of the loss (90 %: {low:.3f} to {high:.3f}; {freedom} d.f.)")
    return found


def misfit(frame: pd.DataFrame, seeds: float) -> None:
    """Residuals of each cell's own basin, near its optimum."""
    cells = cell_table(frame)
    inputs = model_inputs(frame, design_for(cells_of(cells)), cells=cells)
    squares, freedom = 0.0, 0
    for c in range(len(cells)):
        basin = fit_basin(inputs, c)
        rows = (inputs.cell == c) & ~inputs.censored
        x, z = inputs.log_lr[rows] - basin.optimum[0], inputs.log_batch[rows] - basin.optimum[1]
        above = excess(x, z, basin.angle, basin.curvature, basin.skew)
        near = above < NEAR
        squares += float(((inputs.y[rows] - basin.level - above)[near] ** 2).sum())
        freedom += max(0, int(near.sum()) - PARAMETERS)
    what = f"residuals of {len(cells)} cells' own basins, runs within {NEAR:g} %"
    found = pooled(what, squares, max(1, freedom))
    print(f"  local misfit beside the seeds: {np.sqrt(max(0.0, found**2 - seeds**2)):.3f} %")


def exponents(name: str) -> None:
    """Exponents of a released posterior."""
    draws = read_draws(model_path(name))
    for h, what in enumerate(("rate", "batch")):
        parts = []
        for feature in ("n", "d"):
            each = draws.law[:, h, FEATURES.index(feature)]
            low, middle, high = np.quantile(each, [0.05, 0.5, 0.95])
            parts.append(f"n_{'params' if feature == 'n' else 'tokens'} {middle:+.2f} ({low:+.2f} to {high:+.2f})")
        print(f"{name}: exponents of the {what}: {', '.join(parts)}")
    noise = np.quantile(draws.sigma[:, 0], [0.05, 0.5, 0.95])
    print(f"{name}: sigma {noise[1]:.3f} % ({noise[0]:.3f} to {noise[2]:.3f}), rho {np.median(draws.rho):.3f}")


def main() -> None:
    frame = own_sweep().frame
    print(f"{len(frame)} runs, {len(cell_table(frame))} cells")
    misfit(frame, seed_noise(frame))
    for name in ("step-law", "scaleband-tiny"):
        exponents(name)


if __name__ == "__main__":
    main()
