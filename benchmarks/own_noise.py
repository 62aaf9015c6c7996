"""What the shipped sweep says of noise: seeds beside the fit's own scatter, and its exponents beside Step Law's.

    python benchmarks/own_noise.py

Definition (fixed before the first figure was looked at, but for the split of the seeds and the local misfit, which were
rewritten after it):

- seed noise: settings with several seeds, 100 log loss; the pooled standard deviation inside settings (each taken from
  its own mean), with its 90 % interval from chi-squared. Runs of one seed share start and batches, so it is also split
  into what the rates of a seed share and what is a run's own (analysis of variance, at least 0);
- local misfit: what seeds do not explain of the fit's own scatter, sigma sqrt(nu / (nu - 2)) of the released posterior:
  sqrt(scatter^2 - seed^2), 0 if negative. (A first definition took residuals of each cell's own basin within 2 % of its
  optimum; that left four degrees of freedom and said nothing.)
- exponents: of rate and batch on n_params and n_tokens, median and 90 % interval of the released posteriors (a
  linear form has one exponent everywhere, a quadratic one has it at the reference point).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import chi2

from scaleband.inference.released import model_path
from scaleband.inference.store import read_draws
from scaleband.laws import FEATURES, LawDraws
from scaleband.runs import cell_table, own_sweep

SETTING = ["arch", "data", "n_params", "n_tokens", "batch_tokens", "lr_peak"]


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
    between = (block**2).sum() / (n_blocks - n_places)
    within = ((own - block) ** 2).sum() / (freedom - (n_blocks - n_places))
    rates = n_settings / n_places
    print(f"  shared by the rates of a seed {np.sqrt(max(0.0, (between - within) / rates)):.3f} %, "
          f"a run's own {np.sqrt(within):.3f} %")  # fmt: skip
    return found


def pooled(what: str, squares: float, freedom: int) -> float:
    """One standard deviation with its interval, percent of the loss."""
    low, high = (np.sqrt(squares / chi2.ppf(p, freedom)) for p in (0.95, 0.05))
    found = float(np.sqrt(squares / freedom))
    print(f"{what}: {found:.3f} % of the loss (90 %: {low:.3f} to {high:.3f}; {freedom} d.f.)")
    return found


def misfit(draws: LawDraws, seeds: float) -> None:
    """What is left of the fit's scatter."""
    scatter = draws.sigma[:, 0] * np.sqrt(draws.nu / np.maximum(draws.nu - 2, 1e-3))
    low, middle, high = np.quantile(scatter, [0.05, 0.5, 0.95])
    left = np.sqrt(np.maximum(0.0, scatter**2 - seeds**2))
    print(f"scatter of the fit: {middle:.3f} % ({low:.3f} to {high:.3f}); beyond the seeds "
          f"{np.median(left):.3f} % ({np.quantile(left, 0.05):.3f} to {np.quantile(left, 0.95):.3f})")  # fmt: skip


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
    misfit(read_draws(model_path("scaleband-tiny")), seed_noise(frame))
    for name in ("step-law", "scaleband-tiny"):
        exponents(name)


if __name__ == "__main__":
    main()
