"""The simulated sweep: labelled, accepted, and true to its stated truth."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scaleband.laws import REFERENCE, SimulatedSweep, simulated_sweep
from scaleband.predict import basins, recommend, regret, target_cells
from scaleband.runs import cell_table, run_table


def test_it_is_labelled_and_passes_the_checks_without_a_warning(sweep: SimulatedSweep) -> None:
    table = run_table(pd.DataFrame(sweep.columns))
    assert table.warnings == ()
    assert set(table.frame["source"]) == {"simulated"}
    cells = cell_table(table.frame)
    assert len(cells) == 14
    assert (cells["n_runs"] == 20).all()
    assert cells["n_diverged"].sum() > 0
    # the truth and the table speak of the same cells, in the same order
    np.testing.assert_array_equal(cells["n_params"], sweep.cells.n_params)
    np.testing.assert_array_equal(cells["n_tokens"], sweep.cells.n_tokens)


def test_seeds_differ_and_repeat() -> None:
    a, b, c = simulated_sweep(1), simulated_sweep(1), simulated_sweep(2)
    np.testing.assert_array_equal(a.columns["loss"], b.columns["loss"])
    assert not np.array_equal(a.truth.state, c.truth.state)


def test_without_noise_losses_lie_on_the_basins() -> None:
    sweep = simulated_sweep(noise=0.0)
    c = 6
    b = basins(sweep.truth, sweep.cells)
    table = pd.DataFrame(sweep.columns)
    rows = table[(table["n_params"] == 4e8) & (table["n_tokens"] == 2e10)]
    above = regret(b, rows["lr_peak"].to_numpy()[:, None], rows["batch_tokens"].to_numpy()[:, None])[0, :, c]
    np.testing.assert_allclose(100 * np.log(rows["loss"]), b.level[0, c] + above, atol=1e-3)


def test_truth_answers_for_itself() -> None:
    truth = simulated_sweep().truth
    b = basins(truth, truth.cells)
    setting = recommend(b)
    np.testing.assert_allclose(setting.lr_peak, b.lr_peak()[0], rtol=1e-6)
    np.testing.assert_allclose(setting.expected_regret, 0, atol=1e-9)
    for step in (0.9, 1.1):  # up on every side
        assert (regret(b, step * setting.lr_peak, setting.batch_tokens) > 0).all()
        assert (regret(b, setting.lr_peak, step * setting.batch_tokens) > 0).all()


def test_a_cell_the_sweep_lacks_has_one_truth_for_every_seed() -> None:
    target = target_cells(3e9, 6e10, source="simulated", data="simulated-text")
    a, b = (basins(simulated_sweep(seed).truth, target).lr_peak()[0, 0] for seed in (0, 1))
    assert a == b
    law = REFERENCE["lr_peak"] * np.exp(0.5 - 0.65 * np.log(6) + 0.27 * np.log(3))
    assert abs(np.log(a / law)) < 0.4
