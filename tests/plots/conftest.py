"""A simulated sweep and draws around its truth: what a fit would give, without sampling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scaleband.laws import RESPONSES, LawDraws, SimulatedSweep, simulated_sweep
from scaleband.runs import run_table


@pytest.fixture(scope="session")
def sweep() -> SimulatedSweep:
    return simulated_sweep(seed=3)


@pytest.fixture(scope="session")
def runs(sweep: SimulatedSweep) -> pd.DataFrame:
    return run_table(pd.DataFrame(sweep.columns)).frame


@pytest.fixture(scope="session")
def draws(sweep: SimulatedSweep) -> LawDraws:
    """300 draws: the truth, with optima known to 5 %, curvatures to 10 %, levels to 0.03 %."""
    n, truth, rng = 300, sweep.truth, np.random.default_rng(5)

    def repeated(value: np.ndarray, spread: np.ndarray | float = 0.0) -> np.ndarray:
        value = np.repeat(value, n, axis=0)
        return value + spread * rng.standard_normal(value.shape)

    spreads = {"log_lr": 0.05, "log_batch": 0.05, "log_curvature_1": 0.1, "log_curvature_2": 0.1, "level": 0.03}
    known = np.array([spreads.get(response, 0.01) for response in RESPONSES])[:, None]
    return replace(
        truth,
        law=repeated(truth.law, 0.01),
        scatter=repeated(truth.scatter),
        offset_scale=np.full((n, *truth.offset_scale.shape[1:]), 0.1),
        state=repeated(truth.state, known),
        angle=repeated(truth.angle, 0.01),
        skew=repeated(truth.skew, 0.02),
        sigma=repeated(truth.sigma),
        rho=repeated(truth.rho),
        nu=repeated(truth.nu),
        shared=rng.standard_normal((n, 3)),
    )
