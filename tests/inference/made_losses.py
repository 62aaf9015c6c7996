"""Simulated tables for the loss laws: a known truth, noise, two corpora."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scaleband.laws.loss import LAWS, Covariates

TRUTH = {"reducible": 0.45, "balance": 0.5, "alpha": 0.34, "beta": 0.37}
LEVELS = {"web": 3.0, "code": 1.4}
N_REF, D_REF = 3e8, 6e9


def true_loss(n: np.ndarray, d: np.ndarray, data: str, **other: float) -> np.ndarray:
    """The truth's loss at sizes and tokens."""
    x = Covariates(np.log(n / N_REF), np.log(d / D_REF), 0.0, 0.0, np.log(d / D_REF))
    return LEVELS[data] * np.asarray(LAWS["chinchilla"].relative(np, TRUTH | other, x))


def simulated_losses(seed: int = 0, noise: float = 0.003) -> pd.DataFrame:
    """A loss-only table: two corpora, five isoFLOP budgets, seven sizes each."""
    rng = np.random.default_rng(seed)
    rows = []
    for data in LEVELS:
        for flops in (3e18, 1e19, 3e19, 1e20, 3e20):
            best = np.sqrt(flops / 6 / 20)
            for n in best * np.exp(np.linspace(-1.4, 1.4, 7)):
                d = flops / 6 / n
                loss = float(true_loss(n, d, data)) * np.exp(noise * rng.standard_normal())
                rows.append(
                    {"source": "sim", "arch": "dense", "data": data, "n_params": n, "n_tokens": d, "loss": loss,
                     "loss_kind": "val, simulated"}
                )  # fmt: skip
    return pd.DataFrame(rows)
