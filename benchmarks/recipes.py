"""Two recipes compared beyond their runs: by laws that share exponents over groups, and by one that does not.

    python benchmarks/recipes.py                 ten tables a truth; the default stack on the first three
    python benchmarks/recipes.py --tables 20

Definition: losses are simulated as E + A N^-alpha + B D^-beta of each recipe, 25 runs on five budgets of 3e18 to 3e20
FLOP, noise 0.4 %, seeds from 0. "Differ": the recipe with the higher loss at small budgets gains more from scale.
"Alike": the same exponents, other levels. Asked is 1e22 FLOP, both recipes at their best split: the difference of the
losses, the compute multiplier, the budget where they cross. Told is how many 90 % bands hold the truth, which is found
by brute force over sizes. The truths, and the belief of `own-exponents` on how far groups differ, were settled on other
seeds before.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd

from loss_laws import one_law
from scaleband.inference.loss_fit import quick_stack
from scaleband.inference.loss_table import table_from_runs
from scaleband.laws.loss import GENERAL
from scaleband.laws.loss.draws import LossDraws
from scaleband.laws.loss.table import LossTable
from scaleband.predict.comparison import compare
from scaleband.runs import run_table

Recipe = tuple[float, float, float, float, float]
TRUTHS: dict[str, tuple[Recipe, Recipe]] = {
    "differ": ((1.8, 420.0, 1500.0, 0.34, 0.355), (1.65, 200.0, 1200.0, 0.29, 0.335)),
    "alike": ((1.8, 420.0, 1500.0, 0.34, 0.355), (1.75, 470.0, 1650.0, 0.34, 0.355)),
}
ASKED = 1e22
SIZES = np.geomspace(1e5, 1e15, 20_001)
BUDGETS = np.geomspace(1e16, 1e26, 2_001)


def loss_of(recipe: Recipe, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The truth."""
    e, a, b, alpha, beta = recipe
    return np.asarray(e + a * n**-alpha + b * d**-beta)


def frontier(recipe: Recipe, budgets: np.ndarray) -> np.ndarray:
    """The least loss at each budget."""
    return np.array([loss_of(recipe, SIZES, c / 6 / SIZES).min() for c in budgets])


def simulated(recipes: tuple[Recipe, Recipe], seed: int) -> LossTable:
    """Runs of both recipes."""
    rng = np.random.default_rng(seed)
    rows = []
    for name, recipe in zip("ab", recipes, strict=True):
        for c in (3e18, 1e19, 3e19, 1e20, 3e20):
            n = np.sqrt(c / 120) * np.exp(np.linspace(-1.2, 1.2, 5))
            loss = loss_of(recipe, n, c / 6 / n) * np.exp(0.004 * rng.standard_normal(5))
            rows.append(pd.DataFrame({"data": name, "n_params": n, "n_tokens": c / 6 / n, "loss": loss}))
    frame = pd.concat(rows).assign(source="simulated", arch="dense", loss_kind="val")
    return table_from_runs(run_table(frame, purpose="loss").frame)


def truths(recipes: tuple[Recipe, Recipe]) -> dict[str, float]:
    """Difference in percent of b's loss, multiplier and crossover by brute force; NaN where they do not cross."""
    a, b = (frontier(r, BUDGETS) for r in recipes)
    at = [float(np.interp(np.log(ASKED), np.log(BUDGETS), v)) for v in (a, b)]
    multiplier = float(np.exp(np.interp(-at[0], -b, np.log(BUDGETS)))) / ASKED
    crosses = np.flatnonzero(np.diff(np.sign(a - b)))
    crossing = float(BUDGETS[crosses[np.abs(np.log(BUDGETS[crosses] / ASKED)).argmin()]]) if crosses.size else np.nan
    return {"difference": 100 * (at[0] / at[1] - 1), "multiplier": multiplier, "crossover": crossing}


def answers(draws: LossDraws) -> dict[str, np.ndarray]:
    """The draws of the same three."""
    found = compare(draws, "simulated/dense/a", "simulated/dense/b", ASKED)
    crossing = found.crossover[np.isfinite(found.crossover)]
    return {
        "difference": 100 * (found.loss_a / found.loss_b - 1), "multiplier": found.compute_multiplier,
        "crossover": crossing if crossing.size else np.array([np.nan]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=10)
    parser.add_argument("--stacked", type=int, default=3, help="tables for the default stack, a minute each")
    asked = parser.parse_args()
    for name, recipes in TRUTHS.items():
        truth = truths(recipes)
        print(f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in truth.items()))
        for law, count in (("chinchilla", asked.tables), ("own-exponents", asked.tables), ("stack", asked.stacked)):
            started = time.perf_counter()
            held = dict.fromkeys(truth, 0)
            for seed in range(count):
                table = simulated(recipes, seed)
                stacked = law == "stack"
                draws = quick_stack(table, GENERAL)[0] if stacked else one_law(table, law, np.ones(len(table)))
                for what, value in answers(draws).items():
                    low, high = np.quantile(value, [0.05, 0.95])
                    held[what] += bool(low <= truth[what] <= high)
            shown = ", ".join(f"{what} {n}" for what, n in held.items() if np.isfinite(truth[what]))
            seconds = time.perf_counter() - started
            print(f"  {law}: held in their 90 % bands, of {count}: {shown}; {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
