"""The predictive check: its numbers, then one drawing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaleband.errors import UserError
from scaleband.laws import LawDraws, SimulatedSweep, noise_scale, simulated_sweep
from scaleband.plots import plot_predictive, predictive_data, save
from scaleband.runs import run_table


def test_under_the_truth_residuals_are_noise_and_pit_is_uniform(sweep: SimulatedSweep, runs: pd.DataFrame) -> None:
    data = predictive_data(sweep.truth, runs)
    assert len(data.pit) + data.n_censored == len(runs)
    assert data.n_unknown == 0
    assert data.inside() == pytest.approx(0.9, abs=0.05)
    assert data.pit.mean() == pytest.approx(0.5, abs=0.05)
    scaled = data.residual / noise_scale(data.excess, 0.09, 0.10)
    assert np.median(np.abs(scaled)) == pytest.approx(0.741, abs=0.1)  # of Student's t with 4 degrees


def test_without_noise_the_residuals_vanish() -> None:
    sweep = simulated_sweep(noise=0.0)
    data = predictive_data(sweep.truth, run_table(pd.DataFrame(sweep.columns)).frame)
    assert np.abs(data.residual).max() < 5e-4  # losses are rounded
    np.testing.assert_allclose(data.pit, 0.5, atol=5e-3)


def test_band_is_the_models_own(sweep: SimulatedSweep, runs: pd.DataFrame) -> None:
    one = sweep.truth
    many = one.take(np.zeros(400, np.int64))
    data = predictive_data(many, runs, mass=0.9)
    assert data.band.shape == (1, 60)
    half = 2.132 * noise_scale(data.band_excess, 0.09, 0.10)  # the 95 % point of t with 4 degrees
    np.testing.assert_allclose(data.band[0], half, rtol=0.05)


def test_the_error_of_trunks_is_in_the_band(sweep: SimulatedSweep, runs: pd.DataFrame) -> None:
    """Each run here has a trunk of its own: its error is ten times the noise near the optimum."""
    error = 0.9 * np.random.default_rng(3).standard_normal(len(runs))
    off = runs.assign(loss=runs["loss"] * np.exp(error / 100))
    assert predictive_data(sweep.truth, off).inside() < 0.6
    told = replace(sweep.truth, trunk_scale=np.array([0.9]), trunked=("simulated",))
    data = predictive_data(told, off)
    assert data.inside() == pytest.approx(0.9, abs=0.05)
    assert data.pit.mean() == pytest.approx(0.5, abs=0.05)
    assert predictive_data(told.take(np.zeros(400, np.int64)), off).band[0, 0] == pytest.approx(1.645 * 0.91, rel=0.05)


def test_rows_left_out_are_counted(draws: LawDraws, runs: pd.DataFrame) -> None:
    strange = runs.assign(n_tokens=runs["n_tokens"].where(runs["n_tokens"] != 6e10, 7e10))
    data = predictive_data(draws, strange)
    assert data.n_unknown == 40
    known = strange[strange["n_tokens"] != 7e10]
    assert data.n_censored == (known["status"] == "diverged").sum() > 0
    some = predictive_data(draws, runs[runs["arch"] == "dense"])
    assert set(some.cell) == set(range(10))
    with pytest.raises(UserError, match="no completed run of the table belongs to a fitted cell"):
        predictive_data(draws, runs.assign(source="other"))


def test_it_draws(draws: LawDraws, runs: pd.DataFrame, tmp_path: Path) -> None:
    figure = plot_predictive(draws, runs)
    assert save(figure, tmp_path / "predictive.png").stat().st_size > 10_000
    assert "runs inside their 90 % interval" in figure.axes[1].get_title()
    assert "diverged or far up the wall" in figure.axes[0].get_title()


def test_the_legend_of_the_runs_lies_outside_the_data(draws: LawDraws, runs: pd.DataFrame) -> None:
    figure = plot_predictive(draws, runs)
    assert figure.axes[0].get_legend() is None
    assert len(figure.legends[0].get_texts()) == 2
