"""The replays' quick posterior: its slopes, what it learns from runs, and that it keeps to its prior without them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from quick_posterior import _excess, _jacobian, draws_of, named, start_particles, update
from scaleband.bayes import Beliefs, ModelInputs, cells_of, default_beliefs, model_inputs
from scaleband.laws import FORMS, Cells, LawDraws, design_for, simulated_sweep
from scaleband.predict import basins
from scaleband.runs import cell_table, run_table

SWEEP = simulated_sweep(seed=1)
FRAME = run_table(pd.DataFrame(SWEEP.columns)).frame
DENSE = FRAME[FRAME["arch"] == "dense"]


def pieces(rows: pd.DataFrame) -> tuple[ModelInputs, Beliefs]:
    design = design_for(cells_of(cell_table(FRAME)))
    return model_inputs(rows, design), default_beliefs(design, FORMS["linear"])


def posterior(rows: pd.DataFrame, seed: int = 0) -> LawDraws:
    inputs, beliefs = pieces(rows)
    particles, rng = start_particles(16, 1, seed), np.random.default_rng(seed)
    # in two helpings, as a campaign takes its runs in
    first, _ = pieces(rows.iloc[: len(rows) // 2])
    update(particles, first, beliefs, rng)
    return draws_of(particles, update(particles, inputs, beliefs, rng), inputs, beliefs, 400, rng)


def test_slopes_of_the_excess() -> None:
    inputs, _ = pieces(DENSE.iloc[:60])
    rng = np.random.default_rng(0)
    n_cells = len(inputs.cells)
    z = np.array([0.1, -0.1, 0.5, 0.3, 90.0, -0.9, 0.3, 0.5, 0.8])[None, :, None] + 0.05 * rng.standard_normal(
        (2, 9, n_cells)
    )
    value, slopes = _excess(z, inputs), _jacobian(z, inputs)
    step = 1e-5
    for r in range(9):
        moved = z.copy()
        moved[:, r] += step
        numeric = (_excess(moved, inputs) - value) / step
        if r == 4:
            assert (slopes[..., 4] == 1).all()  # the level adds to the loss, not to the excess
        else:
            np.testing.assert_allclose(slopes[..., r], numeric, rtol=2e-3, atol=2e-3)


def test_without_rows_of_use_it_keeps_to_the_prior() -> None:
    _, beliefs = pieces(DENSE.iloc[:20])
    particles = start_particles(4000, 1, 3)
    p = named(particles.std, beliefs)
    spread = np.sqrt((beliefs.shared_factor**2).sum(1))
    np.testing.assert_allclose(p.shared.mean(0), beliefs.shared_mean, atol=0.06)
    np.testing.assert_allclose(p.shared.std(0), spread, rtol=0.06)


def test_it_learns_where_the_optimum_is() -> None:
    held = (DENSE["n_params"] == 1e9) & (DENSE["n_tokens"] == 2e10)
    own = DENSE[~held]
    cheap = own[own["n_params"] * own["n_tokens"] < 2e18]
    target = Cells(("simulated",), ("dense",), ("simulated-text",), np.array([1e9]), np.array([1e9]), np.array([2e10]))
    truth = SWEEP.truth.at(target)[0, :2, 0]
    spreads = []
    for rows in (cheap.iloc[::6], own):
        optimum = basins(posterior(rows), target).optimum[:, :, 0]
        spreads.append(optimum.std(0))
        assert (np.abs(optimum.mean(0) - truth) < 3 * optimum.std(0) + 0.05).all()
    assert (spreads[1] < 0.6 * spreads[0]).all()
    assert (spreads[1] < 0.4).all()


def test_noise_is_found_within_a_factor_of_two() -> None:
    """Few particles and few moves: the replays' policies share it, and no answer comes from it."""
    draws = posterior(DENSE)
    assert 0.045 < np.median(draws.sigma) < 0.18


def test_the_error_of_trunks_is_in_its_draws() -> None:
    rows = DENSE.iloc[:40]
    assert not posterior(rows).trunk_error().any()
    draws = posterior(rows.assign(trunk=[str(k // 2) for k in range(40)]))
    assert draws.trunked == ("simulated",)
    assert (draws.trunk_error() > 0).all()
