"""A sweep of rates at one batch: what it tells is known well, what it does not tell is left to the prior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scaleband.inference.fitting import Fit, fit, log_likelihood
from scaleband.inference.sampler import Compiled, SamplerSettings, sample
from scaleband.laws import (
    ANGLE,
    CURVATURE,
    LEVEL,
    SKEW,
    SimulatedSweep,
    conditional_log_lr,
    excess,
    simulated_sweep,
)
from scaleband.runs import run_table

BATCH = 196_608


@pytest.fixture(scope="module")
def sweep() -> SimulatedSweep:
    return simulated_sweep(seed=0)


@pytest.fixture(scope="module")
def fitted(sweep: SimulatedSweep) -> Fit:
    frame = pd.DataFrame(sweep.columns)
    small = (frame["n_tokens"] < 1e10) & (frame["n_params"] < 5e8)
    frame = frame[(frame["arch"] == "dense") & (frame["batch_tokens"] == BATCH) & small]
    settings = SamplerSettings(draws=100, tune=200, chains=2, seed=1)
    return fit(run_table(frame).frame, form="linear", settings=settings)


def at_the_batch(state: np.ndarray, log_batch: float) -> tuple[np.ndarray, np.ndarray]:
    """Best log rate at the batch and the level there, (sample, cell), from states (sample, response, cell)."""
    z = state.transpose(1, 0, 2)
    away, shape = log_batch - z[1], (z[ANGLE], np.exp(z[CURVATURE]), z[SKEW])
    best = conditional_log_lr(away, *shape)
    return z[0] + best, z[LEVEL] + excess(best, away, *shape)


def test_the_sampler_copes(fitted: Fit) -> None:
    assert np.isfinite(fitted.inputs.one_batch).all()
    assert len(fitted.inputs.cells) == 3
    assert fitted.gate.rhat[0] < 1.2, "short chains"
    assert fitted.gate.divergences <= 3


def test_best_rate_and_loss_at_the_batch_that_was_run(sweep: SimulatedSweep, fitted: Fit) -> None:
    draws, cells = fitted.draws(), fitted.inputs.cells
    log_batch = fitted.inputs.one_batch[0]
    rate, level = at_the_batch(draws.state, log_batch)
    names = list(zip(sweep.cells.arch, sweep.cells.n_params, sweep.cells.n_tokens, strict=True))
    where = [names.index(c) for c in zip(cells.arch, cells.n_params, cells.n_tokens, strict=True)]
    true_rate, true_level = (v[0, where] for v in at_the_batch(sweep.truth.state, log_batch))
    for told, true, most in ((rate, true_rate, 0.3), (level, true_level, 0.3)):
        sd = told.std(axis=0)
        assert (sd < most).all(), "runs at the batch tell this, whatever the batch of the optimum is"
        assert (np.abs(told.mean(axis=0) - true) < 4 * sd).all()
    assert (draws.state[:, 1].std(axis=0) > 0.3).all(), "and the best batch is left to the prior"


def test_log_likelihood_is_that_of_the_basin_along_the_rate(fitted: Fit) -> None:
    """Close to the basin's own, which differs from it far from the optimum alone; and not worse for the fitted runs."""
    inputs, draws = fitted.inputs, fitted.draws()
    level = at_the_batch(draws.state, inputs.one_batch[0])[1]
    assert log_likelihood(fitted).shape == (2, 100, len(inputs.y))
    best = np.array([inputs.y[inputs.cell == c].min() for c in range(len(inputs.cells))])
    assert (np.abs(level.mean(axis=0) - best) < 1.0).all(), "a percent of the loss"
    finished = ~inputs.censored
    assert log_likelihood(fitted)[..., finished].mean() > -1.0


def test_a_model_without_such_cells_does_not_serve_a_table_with_them(fitted: Fit) -> None:
    keep = fitted.inputs.log_lr < np.sort(np.unique(fitted.inputs.log_lr))[2]  # two rates tell no curvature
    rows = ("log_lr", "log_batch", "y", "censored", "y_se", "cell", "source", "trunk")
    few = replace(fitted.inputs, **{name: getattr(fitted.inputs, name)[keep] for name in rows})
    assert np.isnan(few.one_batch).all()
    for compiled_for, asked in ((few, fitted.inputs), (fitted.inputs, few)):
        compiled = Compiled(None, None, compiled_for, fitted.beliefs, {})
        with pytest.raises(ValueError, match="compile the model for this one anew"):
            sample(compiled, SamplerSettings(), inputs=asked, beliefs=fitted.beliefs)
