"""Prior and posterior predictive checks: the numbers, then one drawing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaleband.errors import UserError
from scaleband.laws import CURVATURE, LawDraws, SimulatedSweep
from scaleband.plots import contrast_data, draw_contrasts, plot_contrasts, save
from scaleband.predict import contrasts


def test_the_numbers_are_those_of_the_runs(draws: LawDraws, runs: pd.DataFrame) -> None:
    flatter = draws.state.copy()
    flatter[:, CURVATURE] -= 3.0
    data = contrast_data(runs, {"fit": draws, "too flat": replace(draws, state=flatter)}, n_points=30)
    one = contrasts(draws, runs)
    assert data.names == ("fit", "too flat")
    assert data.expected.shape == (2, 5, 30)
    assert data.n_runs.sum() == len(one.recorded) == len(runs)
    for k in (0, 12, 29):
        assert data.recorded[k] == pytest.approx((one.recorded <= data.excess[k]).mean())
        own = np.quantile((one.expected <= data.excess[k]).mean(axis=1), [0.05, 0.5, 0.95])
        np.testing.assert_allclose(data.expected[0, [0, 2, 4], k], own)
    np.testing.assert_allclose(data.covered[0], [one.inside(0.5).mean(), one.inside(0.9).mean()])
    np.testing.assert_allclose((data.inside * data.n_runs).sum(axis=2) / len(runs), data.covered)
    # Draws that know better hold more, and no more than a tenth of the runs lie as low as flat basins say.
    assert data.covered[0, 1] > 0.85 > 0.5 > data.covered[1, 1]
    middle = np.searchsorted(data.excess, 3.0)
    assert data.expected[1, 0, middle] > data.recorded[middle] + 0.1


def test_labels_name_what_differs(sweep: SimulatedSweep, runs: pd.DataFrame) -> None:
    data = contrast_data(runs, {"truth": sweep.truth})
    assert data.cells[0] == "dense 60M, 4B"
    assert data.cells[-1] == "moe-1in8 1.5B, 20B"
    dense = contrast_data(runs[runs["arch"] == "dense"], {"truth": sweep.truth})
    assert dense.cells[0] == "60M, 4B"


def test_it_draws_and_refuses_what_cannot_be_compared(draws: LawDraws, runs: pd.DataFrame, tmp_path: Path) -> None:
    figure = plot_contrasts(runs, {"fit": draws})
    assert save(figure, tmp_path / "contrasts.png").stat().st_size > 10_000
    assert figure.axes[0].get_title() == "280 runs in 14 cells"
    other = replace(draws, cells=replace(draws.cells, n_tokens=np.roll(draws.cells.n_tokens, 1)))
    with pytest.raises(UserError, match="do not have the same cells"):
        contrast_data(runs, {"fit": draws, "another table's": other})
    with pytest.raises(UserError, match="no draws"):
        contrast_data(runs, {})


def test_one_cell_is_not_many(sweep: SimulatedSweep, runs: pd.DataFrame) -> None:
    cell = (runs["n_params"] == runs["n_params"].iloc[0]) & (runs["n_tokens"] == runs["n_tokens"].iloc[0])
    left, _ = draw_contrasts(contrast_data(runs[cell], {"truth": sweep.truth}))
    assert left.get_title() == "20 runs in 1 cell"
