"""A small simulated table with everything in it: two sources, a variant, trunks, loss_se, diverged runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from scaleband.bayes import Beliefs, ModelInputs, cells_of, default_beliefs, model_inputs
from scaleband.bayes.simulate import simulate_state, with_simulated_losses
from scaleband.laws import FORMS, design_for
from scaleband.runs import cell_table, run_table

GRID = (  # source, arch, share of the parameters used per token, n_params, n_tokens
    ("team-a", "dense", 1.0, 1e8, 5e9), ("team-a", "dense", 1.0, 1e8, 4e10), ("team-a", "dense", 1.0, 4e8, 1e10),
    ("team-a", "moe-1in8", 0.25, 4e8, 1e10), ("team-b", "dense", 1.0, 4e8, 2e10), ("team-b", "dense", 1.0, 2e9, 4e10),
)  # fmt: skip
RATES = 1e-3 * np.exp(np.linspace(-1.8, 1.8, 4))
BATCHES = 524_288 * np.exp(np.linspace(-1.5, 1.5, 4))


@dataclass(frozen=True)
class Simulated:
    """A run table, what a fit makes of it, and the truth behind it."""

    frame: pd.DataFrame
    inputs: ModelInputs
    beliefs: Beliefs
    truth: dict[str, np.ndarray]


def settings(grid: tuple = GRID) -> pd.DataFrame:
    """The table before its losses: a grid of rates and batches in each cell, three runs to a trunk in team-b."""
    rows = [
        {
            "source": source, "arch": arch, "data": "web", "n_params": n, "n_active": n * share, "n_tokens": d,
            "lr_peak": lr, "batch_tokens": batch, "seq_len": 2048, "loss": 3.0,
            "loss_se": 0.003 if source == "team-b" else 0.0,
            "trunk": f"trunk-{n:.0e}-{d:.0e}-{lr:.1e}" if source == "team-b" and lr < 1e-3 else "",
        }
        for source, arch, share, n, d in grid
        for lr in RATES
        for batch in BATCHES
    ]  # fmt: skip
    return run_table(pd.DataFrame(rows)).frame


def simulated(seed: int = 0, *, form: str = "linear", diverged: int = 3) -> Simulated:
    """Simulate the table from the stated beliefs; its `diverged` highest losses become diverged runs."""
    frame = settings()
    design = design_for(cells_of(cell_table(frame)))
    beliefs = default_beliefs(design, FORMS[form])
    plain = model_inputs(frame, design)
    rng = np.random.default_rng(seed)
    truth = simulate_state(plain.cells, design, beliefs, rng, n_trunks=plain.n_trunks)
    frame = with_simulated_losses(frame, plain, truth, rng)
    worst = frame["loss"].nlargest(diverged).index
    frame.loc[worst, "status"] = "diverged"
    frame.loc[worst, "loss"] = np.nan
    return Simulated(frame, model_inputs(frame, design), beliefs, truth)
