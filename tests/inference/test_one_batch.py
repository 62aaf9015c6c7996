"""A sweep of rates at one batch: what it tells is known well, what it does not tell is left to the prior."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scaleband.bayes.one_batch import asked, best_at, cost_at, heard, sliced
from scaleband.inference.fitting import Fit, fit, log_likelihood
from scaleband.inference.sampler import Compiled, SamplerSettings, sample
from scaleband.laws import (
    ANGLE,
    CURVATURE,
    LEVEL,
    REFERENCE,
    SKEW,
    SimulatedSweep,
    conditional_log_lr,
    excess,
    simulated_sweep,
)
from scaleband.predict import Basins, target_cells
from scaleband.predict.sensitivity import regret_of_draws
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
    rows = ("log_lr", "log_batch", "y", "censored", "y_se", "cell", "source", "trunk", "alone")
    few = replace(fitted.inputs, **{name: getattr(fitted.inputs, name)[keep] for name in rows})
    assert np.isnan(few.one_batch).all()
    for compiled_for, other in ((few, fitted.inputs), (fitted.inputs, few)):
        compiled = Compiled(None, None, compiled_for, fitted.beliefs, {})
        with pytest.raises(ValueError, match="compile the model for this one anew"):
            sample(compiled, SamplerSettings(), inputs=other, beliefs=fitted.beliefs)


def test_states_of_cells_with_one_batch_there_and_back() -> None:
    """What its runs said is the answer to a question about the batch that a cell ran, thin or not."""
    rng = np.random.default_rng(0)
    middle = np.array([0.0, 0.0, 0.5, 0.3, 90.0, -1.0, 0.3, 0.5, 0.5])[:, None]
    state = middle[:, None] + 0.3 * rng.standard_normal((9, 50, 6))
    one_batch = np.array([np.nan, 1.0, np.nan, 2.0, -1.0, 0.5])
    thin = np.array([False, True, False, False, True, False])
    cells, around = SimpleNamespace(one_batch=one_batch, thin=thin), np.repeat(middle, 6, axis=1)
    there: Any = asked(state, cells, around)  # type: ignore[arg-type]
    np.testing.assert_allclose(heard(there, cells, around), state, atol=1e-12)  # type: ignore[arg-type]
    seen, best = sliced(state, one_batch, around, thin), best_at(there, one_batch)
    told = np.isfinite(one_batch)
    np.testing.assert_allclose((there[0] + best)[:, told], seen[0][:, told], atol=1e-12)
    np.testing.assert_allclose(there[LEVEL] + cost_at(best, there, one_batch), seen[LEVEL], atol=1e-12)
    np.testing.assert_array_equal(there[:, :, ~told], state[:, :, ~told])
    in_full = sliced(state, one_batch, around)[0] - seen[0]
    assert (np.abs(in_full[:, thin]).max(axis=0) > 0.01).all(), "or the first order was never left"
    assert not in_full[:, ~thin].any()


def test_an_optimum_far_from_the_one_batch_has_a_level_that_a_file_can_hold() -> None:
    """Walls at the batch that was run are `predict`'s own, straight where a run is lost."""
    rng, n = np.random.default_rng(1), 200
    # as a draw came out of public sweeps, in a cell of three rates at one batch
    middle = np.array([5.2, -5.2, 2.2, -3.1, 180.0, -0.4, -1.65, -2.0, -3.6])[:, None]
    state = (middle + 0.05 * rng.standard_normal((9, n)))[:, :, None]
    one_batch, cells = np.array([2.0]), target_cells(1e8, 2e9)
    table = SimpleNamespace(one_batch=one_batch, thin=np.array([False]))
    there: Any = asked(state, table, state.mean(axis=1))  # type: ignore[arg-type]
    np.testing.assert_allclose(heard(there, table, state.mean(axis=1)), state, atol=1e-9)  # type: ignore[arg-type]
    z = np.moveaxis(there, 0, 1)
    shape = there[ANGLE], np.exp(there[CURVATURE]), there[SKEW]
    assert (excess(best_at(there, one_batch), 2.0 - there[1], *shape) > 1e4).any(), "or walls are low there anyway"
    assert there[LEVEL].min() > -1e4
    b = Basins(cells, z[:, :2], np.exp(z[:, CURVATURE]), z[:, LEVEL], z[:, ANGLE], z[:, SKEW])
    rate = REFERENCE["lr_peak"] * np.exp(there[0] + best_at(there, one_batch))
    cost = regret_of_draws(b, rate, np.full_like(rate, REFERENCE["batch_tokens"] * np.exp(2.0)))
    np.testing.assert_allclose(b.level + cost, state[LEVEL], atol=1e-6)


def test_a_cell_of_three_rates_at_one_batch_is_thin_however_often_they_were_run(fitted: Fit) -> None:
    """Seeds tell of the noise, not of a fourth number."""
    inputs = fitted.inputs
    rates = np.sort(np.unique(inputs.log_lr[inputs.cell == 0]))
    assert len(rates) > 3
    assert not inputs.thin.any()
    three = np.where(inputs.cell == 0, np.minimum(inputs.log_lr, rates[2]), inputs.log_lr)
    thin = replace(inputs, log_lr=three)
    np.testing.assert_array_equal(thin.thin, [True, False, False])
    assert (thin.scatter_share[:, 0] == [1.0, 1.0, 0.1, 0.1, 1.0, 0.1, 0.1, 0.1, 0.1]).all()
    assert (thin.scatter_share[:, 1:] == 1.0).all()
