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


def repeated_losses(n: np.ndarray, d: np.ndarray, unique: np.ndarray) -> np.ndarray:
    """Muennighoff et al. 2023, equations 5 and 6, written apart from the law's own text."""
    tokens = unique * (1 + 15.4 * (1 - np.exp(-(d / unique - 1) / 15.4)))
    fitting = np.minimum((0.345 * 480 / (0.366 * 2100) * unique**0.366) ** (1 / 0.345), n)
    size = fitting * (1 + 5.3 * (1 - np.exp(-(n / fitting - 1) / 5.3)))
    return np.asarray(1.8 + 480 * size**-0.345 + 2100 * tokens**-0.366)


def three_term_losses(n: np.ndarray, d: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Size, steps and batch."""
    return np.asarray(1.8 + 480 * n**-0.345 + 40 * (d / batch) ** -0.6 + 400 * batch**-0.55)
