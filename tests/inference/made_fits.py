"""Fits made up without a sampler: draws of the prior dressed as what the sampler returns, or as a posterior."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scaleband.bayes import Beliefs, ModelInputs, cells_of, default_beliefs, model_inputs
from scaleband.bayes.beliefs import OWN
from scaleband.bayes.simulate import prior_draws, simulate_state, with_simulated_losses
from scaleband.inference.fitting import Fit, facts
from scaleband.inference.gate import diagnose
from scaleband.inference.sampler import RawDraws, SamplerSettings
from scaleband.laws import FORMS, design_for
from scaleband.runs import cell_table, run_table

GRID = (  # source, arch, share of the parameters used per token, n_params, n_tokens
    ("team-a", "dense", 1.0, 1e8, 5e9), ("team-a", "dense", 1.0, 4e8, 4e10), ("team-a", "moe-1in8", 0.25, 4e8, 1e10),
    ("team-b", "dense", 1.0, 4e8, 2e10), ("team-b", "dense", 1.0, 2e9, 4e10),
)  # fmt: skip


def small_sweep(
    seed: int = 0, *, form: str = "linear", n_lr: int = 4, n_batch: int = 3, span: float = 1.2, sane: bool = False
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Five cells, losses simulated from the prior, and their truth; runs of team-b share trunks.

    The beliefs are wide; `sane` draws again until no run ends 1.5 times above its cell's best loss. That choice
    looks at the losses alone, so it leaves posteriors calibrated.
    """
    rows = [
        {
            "source": source, "arch": arch, "data": "web", "n_params": n, "n_active": n * share, "n_tokens": d,
            "lr_peak": lr, "batch_tokens": batch, "seq_len": 2048, "loss": 3.0,
            "trunk": f"trunk-{n:.0e}-{lr:.1e}" if source == "team-b" and lr < 1e-3 else "",
        }
        for source, arch, share, n, d in GRID
        for lr in 1e-3 * np.exp(np.linspace(-span, span, n_lr))
        for batch in 524_288 * np.exp(np.linspace(-span, span, n_batch))
    ]  # fmt: skip
    frame = run_table(pd.DataFrame(rows)).frame
    design = design_for(cells_of(cell_table(frame)))
    inputs, beliefs = model_inputs(frame, design), default_beliefs(design, FORMS[form])
    rng = np.random.default_rng(seed)
    while True:
        truth = simulate_state(inputs.cells, design, beliefs, rng, n_trunks=inputs.n_trunks)
        simulated = with_simulated_losses(frame, inputs, truth, rng)
        if not sane or not model_inputs(simulated, design).censored.any():
            return simulated, truth


def small_frame(seed: int = 0, *, form: str = "linear") -> pd.DataFrame:
    """The table of `small_sweep`: five cells of twelve runs."""
    return small_sweep(seed, form=form)[0]


def small_inputs(seed: int = 0, *, form: str = "linear") -> tuple[ModelInputs, Beliefs]:
    """The arrays of `small_frame`, and the stated beliefs."""
    frame = small_frame(seed, form=form)
    design = design_for(cells_of(cell_table(frame)))
    return model_inputs(frame, design), default_beliefs(design, FORMS[form])


def as_raw(draws: dict[str, np.ndarray], inputs: ModelInputs, beliefs: Beliefs) -> RawDraws:
    """Named draws back in the sampler's coordinates: the inverse of `unpack` where it has one."""

    def standard(name: str, value: np.ndarray) -> np.ndarray:
        mean, sd, _ = OWN[name]
        return (np.log(value) - mean) / sd

    return RawDraws(
        {
            "shared_std": (draws["shared"] - beliefs.shared_mean) @ np.linalg.inv(beliefs.shared_factor).T,
            "log_sigma_std": standard("log_sigma", draws["sigma"]),
            "log_scatter_level_std": standard("log_scatter_level", draws["scatter_level"]),
            "log_scatter_ratio_std": standard("log_scatter_ratio", draws["scatter_ratio"]),
            "state": draws["state"],
            "log_trunk_std": standard("log_trunk", draws["trunk_scale"]),
            "trunk_effect": draws["trunk_effect"],
        },
        {"diverging": np.zeros(draws["rho"].shape, bool)},
    )


def made_fit(n: int = 40, seed: int = 0) -> Fit:
    """A fit whose posterior is `n` prior draws in two chains."""
    frame = small_frame(seed)
    cells = cell_table(frame)
    inputs, beliefs = small_inputs(seed)
    draws = prior_draws(inputs, beliefs, 2 * n, seed)
    posterior = {name: value.reshape(2, n, *value.shape[2:]) for name, value in draws.items()}
    gate = diagnose(posterior, np.zeros((2, n), bool))
    meta = facts(frame, cells, gate, beliefs, SamplerSettings(draws=n), "linear")
    stats = {"diverging": np.zeros((2, n), bool), "energy": np.ones((2, n)), "n_steps": np.full((2, n), 7)}
    return Fit(posterior, stats, inputs, beliefs, gate, meta)
