"""Rate sensitivity, what it takes to reach a loss, the critical batch, and prediction far from the optimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_basins import made_basins

from made_laws import made_laws, true_log_loss
from scaleband.errors import UserError
from scaleband.laws import CENSOR_ABOVE, LawDraws, simulated_sweep
from scaleband.laws.far import BELIEFS, FarDraws
from scaleband.predict import (
    basins,
    far_regret,
    lr_sensitivity,
    optimum_given_batch,
    predict_log_loss,
    reach,
    regret,
    target_cells,
)
from scaleband.predict.loss import with_loss_law
from scaleband.runs import run_table

WHERE = {"source": "simulated", "data": "web"}


@pytest.fixture(scope="module")
def sweep_draws() -> LawDraws:
    """The simulated truth, twice forty draws of it, as a posterior that is a point."""
    truth = simulated_sweep(seed=3).truth
    fields = ("law", "scatter", "offset_scale", "state", "angle", "skew", "sigma", "rho", "nu")
    return replace(truth, **{f: np.repeat(getattr(truth, f), 80, axis=0) for f in fields}, shared=np.zeros((80, 3)))


def test_sensitivity_of_a_point_is_the_average_over_the_range() -> None:
    b = made_basins(spread=0.0, n=2)
    batch = b.batch_tokens()[0]
    ours = lr_sensitivity(b, 1e-4, 1e-2, batch)
    rates = np.exp(np.linspace(np.log(1e-4), np.log(1e-2), 4001))
    cost = np.minimum(regret(b, rates[:, None], batch[None, :]), CENSOR_ABOVE)[0]
    np.testing.assert_allclose(ours[0], np.trapezoid(cost, dx=1 / 4000, axis=0), rtol=0.01)
    assert (lr_sensitivity(b, 1e-4, 1e-1) > lr_sensitivity(b, 1e-3, 2e-3)).all()
    with pytest.raises(UserError, match="goes up"):
        lr_sensitivity(b, 1e-2, 1e-4)


def test_a_narrow_range_around_the_optimum_costs_nothing() -> None:
    b = made_basins(spread=0.0, n=2, targets=1)
    best = float(b.lr_peak()[0, 0])
    assert lr_sensitivity(b, best / 1.001, best * 1.001).max() < 1e-4


def test_the_price_of_a_batch_is_not_sensitivity_to_the_rate() -> None:
    b = made_basins(spread=0.0, n=2, targets=1)
    batch = 8 * float(b.batch_tokens()[0, 0])
    best = float(optimum_given_batch(b, batch)[0, 0])
    assert regret(b, best, batch).min() > 0.05  # so there is a price
    assert lr_sensitivity(b, best / 1.001, best * 1.001, batch).max() < 1e-3


def test_tokens_to_reach_a_loss_are_those_of_the_law_at_the_best_batch(sweep_draws: LawDraws) -> None:
    laws = made_laws(source="simulated", spread=1e-6)
    goal = float(np.exp(true_log_loss(np.array(4e8), np.array(2e10))))
    found = reach(sweep_draws, laws, goal, 4e8, **WHERE)
    assert np.median(found.best) == pytest.approx(2e10, rel=0.02)
    # Every batch needs at least the best one's tokens, and steps only fall as the batch grows up to the critical one.
    assert (found.n_tokens >= found.best[:, None]).all()
    critical = found.critical_batch(0.2)
    assert np.isfinite(critical).all()
    k = int(np.abs(np.log(found.batch_tokens / np.median(critical))).argmin())
    assert np.median(found.n_tokens[:, k] / found.best) == pytest.approx(1.2, rel=0.05)
    steps = np.median(found.steps(), axis=0)[: k + 1]
    assert (np.diff(steps[np.isfinite(steps)]) < 0).all()
    assert (found.critical_batch(1.0) > critical).all()


def test_a_size_that_was_fitted_reaches_a_loss_with_its_own_luck(sweep_draws: LawDraws) -> None:
    laws = made_laws(source="simulated", spread=1e-6)
    goal = float(np.exp(true_log_loss(np.array(6e8), np.array(2e10))))
    alone, own = (reach(sweep_draws, laws, goal, 6e8, **WHERE, size_effects=e).best for e in (False, True))
    assert np.median(own) > 1.05 * np.median(alone)  # 0.8 % above the law


def test_a_loss_below_the_floor_is_never_reached(sweep_draws: LawDraws) -> None:
    laws = made_laws(source="simulated", spread=1e-6)
    found = reach(sweep_draws, laws, 0.5, 4e8, **WHERE)
    assert np.isinf(found.best).all()
    assert np.isnan(found.critical_batch()).all()
    with pytest.raises(UserError, match="positive"):
        reach(sweep_draws, laws, -1.0, 4e8, **WHERE)


def test_the_far_surface_is_the_basin_where_it_is_shallow_and_long() -> None:
    b = made_basins(n=200, targets=2)
    none = FarDraws(np.array([[20.0, 20.0, -29.0, 0.5, -29.0, 0.5]]))
    lr, batch = 2 * np.median(b.lr_peak(), axis=0), np.median(b.batch_tokens(), axis=0)
    np.testing.assert_allclose(far_regret(b, none, lr, batch), regret(b, lr, batch), rtol=1e-5, atol=1e-6)
    far = FarDraws(np.array([[m for m, _, _ in BELIEFS.values()]]))
    few = np.asarray(b.cells.n_tokens) / 600  # 600 steps, at a tenth of the best rate
    with_term, without = (np.median(far_regret(b, f, lr / 20, few), axis=0) for f in (far, none))
    assert (with_term > without).all()


def test_prediction_takes_level_from_the_laws_and_shape_from_the_basins(sweep_draws: LawDraws) -> None:
    laws = made_laws(source="simulated", spread=1e-6)
    cells = target_cells([6e8, 6e8], [2.5e10, 2.5e10], **WHERE)
    b = with_loss_law(sweep_draws, basins(sweep_draws, cells), laws)
    logs = predict_log_loss(sweep_draws, b, [np.nan, 1e-4], [np.nan, 65_536], mean=True, far=laws.far)
    best, other = np.median(logs, axis=0)
    size_luck = 0.008  # the third size of the made table
    assert best == pytest.approx(float(true_log_loss(np.array(6e8), np.array(2.5e10))) + size_luck, abs=0.002)
    assert other > best + 0.01


def test_a_size_that_was_fitted_keeps_its_luck_and_a_new_one_has_a_band() -> None:
    laws = made_laws()
    fitted = laws.log_loss(target_cells(2e9, 5e10, source="a", data="web"))
    new = laws.log_loss(target_cells(4e9, 5e10, source="a", data="web"))
    law = laws.law_log_loss("a/dense/web")
    assert new.std() > 2 * fitted.std()
    from scaleband.laws.loss import Covariates

    d = np.log(5e10 / laws.reference.n_tokens)
    alone = law(Covariates(np.log(2e9 / laws.reference.n_active), d, 0.0, 0.0, d))
    assert np.median(fitted[:, 0] - alone) == pytest.approx(0.012, abs=0.003)


def test_the_far_surface_is_recovered_from_runs_made_with_it(sweep_draws: LawDraws) -> None:
    from scaleband.inference.far_fit import far_places, fit_far
    from scaleband.laws.far import far_excess

    frame = run_table(pd.DataFrame(simulated_sweep(seed=3).columns)).frame
    place, best, _, seen, cell = far_places(sweep_draws, frame)
    assert len(seen) == len(cell) > 100
    truth = np.array([2.3, 1.6, 0.4, 0.6, -0.5, 0.4])
    told = far_excess(truth, place, best)
    far = fit_far(sweep_draws, frame.iloc[:0])
    assert far is None
    far = fit_far(sweep_draws, frame)
    assert far is not None
    again = far_excess(far.theta.mean(0), place, best)
    # These runs were made without walls that slow down or a term in steps: the belief is drawn towards that.
    near = told < 3
    assert np.abs(again - seen)[near].mean() < np.abs(told - seen)[near].mean()
    assert far.theta[:, 2].mean() < BELIEFS["log_steps"][0] + 0.5
