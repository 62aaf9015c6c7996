"""Runs against the best of their cell, as recorded and as draws expect them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scaleband.errors import UserError
from scaleband.laws import CENSOR_ABOVE, LawDraws, simulated_sweep
from scaleband.predict import contrasts
from scaleband.predict.dataset import contrast_draws
from scaleband.runs import run_table


def table(noise: float = 1.0) -> tuple[pd.DataFrame, LawDraws]:
    sweep = simulated_sweep(seed=3, noise=noise)
    return run_table(pd.DataFrame(sweep.columns)).frame, sweep.truth


def test_without_noise_the_truth_expects_what_was_recorded() -> None:
    frame, truth = table(noise=0.0)
    still = LawDraws(**{k: getattr(truth, k) for k in truth.__dataclass_fields__} | {"sigma": truth.sigma * 0,
                     "rho": truth.rho * 0})  # fmt: skip
    c = contrasts(still, frame)
    assert c.run_ids == tuple(frame["run_id"])
    # Losses are rounded; a run near the threshold of what counts as lost may lie on either side of it.
    assert np.abs(c.expected[0] - c.recorded)[c.recorded < 0.99 * CENSOR_ABOVE].max() < 2e-3
    diverged = (frame["status"] == "diverged").to_numpy()
    assert diverged.any()
    assert (c.recorded[diverged] == CENSOR_ABOVE).all()
    assert (c.expected[0, diverged] > 0.97 * CENSOR_ABOVE).all()
    best = pd.Series(c.recorded).groupby(c.cell).min()
    assert (best == 0).all()
    assert len(best) == 14


def test_under_the_truth_intervals_hold_what_they_say() -> None:
    frame, truth = table()
    c = contrasts(truth.take(np.zeros(400, np.int64)), frame)
    assert c.expected.min() == 0
    assert c.expected.max() == CENSOR_ABOVE
    assert c.inside(0.5).mean() == pytest.approx(0.5, abs=0.1)
    assert c.inside(0.9).mean() == pytest.approx(0.9, abs=0.04)


def test_runs_with_nothing_to_compare_are_left_out_and_the_rest_is_labelled() -> None:
    frame, truth = table()
    alone = frame.iloc[[0]]  # one run of its cell
    lost = frame[frame["n_params"] == 1e9].assign(status="diverged", loss=np.nan)  # two cells where nothing completed
    rest = frame[(frame["arch"] == "moe-1in8") & (frame["n_params"] == 5e8)]
    other = rest.assign(source="other", run_id=rest["run_id"] + "-b")
    data = contrast_draws(truth, pd.concat([alone, lost, rest, other], ignore_index=True), seed=4)
    assert list(data["run"].to_numpy()) == list(rest["run_id"])
    assert data["contrast"].dims == ("sample", "run")
    assert data["recorded"].attrs["units"] == data["contrast"].attrs["units"] == "percent of the loss"
    np.testing.assert_array_equal(data["lr_peak"], rest["lr_peak"])
    assert set(np.take(truth.cells.n_params, data["cell"].to_numpy())) == {5e8}
    np.testing.assert_array_equal(data["contrast"], contrasts(truth, rest, seed=4).expected)
    with pytest.raises(UserError, match="no cell of the draws has two runs"):
        contrasts(truth, alone)
