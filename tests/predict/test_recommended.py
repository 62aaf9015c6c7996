"""The recommended setting: it minimises the expected regret, and obeys the constraints on the batch."""

from __future__ import annotations

import numpy as np
import pytest
from made_basins import made_basins, one_target

from scaleband.errors import UserError
from scaleband.laws import REFERENCE, excess
from scaleband.predict import (
    Basins,
    expected_regret,
    optimum_given_batch,
    recommend,
    regret,
    round_to_grid,
)
from scaleband.predict.targets import STRAIGHT_ABOVE


@pytest.mark.parametrize("spread", [0.05, 0.4, 1.5])
def test_no_other_setting_has_a_smaller_expected_regret(spread: float) -> None:
    b = made_basins(spread=spread)
    best = recommend(b)
    np.testing.assert_allclose(best.expected_regret, expected_regret(b, best.lr_peak, best.batch_tokens), rtol=1e-12)
    for size in (0.01, 0.2, 1.0):
        for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
            lr = best.lr_peak * np.exp(size * np.cos(angle))
            batch = best.batch_tokens * np.exp(size * np.sin(angle))
            assert (expected_regret(b, lr, batch) > best.expected_regret).all()


def test_a_few_draws_far_up_their_walls_do_not_carry_the_rest_away() -> None:
    b = made_basins(n=400, targets=1, spread=0.2)
    b.optimum[:4, 0] += 6.0  # one draw in a hundred has its best rate 400 times higher
    rest = Basins(b.cells, *(v[4:] for v in (b.optimum, b.curvature, b.level, b.angle, b.skew)))
    best, without = recommend(b), recommend(rest)
    assert abs(np.log(best.lr_peak[0] / without.lr_peak[0])) < 0.3


def test_regret_follows_the_walls_and_goes_on_straight() -> None:
    b = made_basins(n=50, targets=1, spread=0.1)
    rates = b.lr_peak().mean() * np.exp(0.5 * np.arange(18))
    found = regret(b, rates[:, None], b.batch_tokens().mean())[:, :, 0]
    away = np.log(b.batch_tokens().mean() / REFERENCE["batch_tokens"]) - b.optimum[:, 1]
    beside = np.log(rates / REFERENCE["lr_peak"]) - b.optimum[:, 0]
    walls = excess(beside, away, *b.shape[:3])
    low = walls < STRAIGHT_ABOVE
    assert 0.1 < low.mean() < 0.9
    np.testing.assert_allclose(found[low], walls[low], rtol=1e-12)
    assert (found[:, -1] < walls[:, -1]).all()
    np.testing.assert_allclose(np.diff(found[:, -3:], 2, axis=1), 0.0, atol=1e-9)


def test_a_posterior_that_is_a_point_is_recommended_itself() -> None:
    b = made_basins(n=4, spread=0.0)
    best = recommend(b)
    np.testing.assert_allclose(best.lr_peak, b.lr_peak()[0], rtol=1e-6)
    np.testing.assert_allclose(best.batch_tokens, b.batch_tokens()[0], rtol=1e-6)
    np.testing.assert_allclose(best.expected_regret, 0.0, atol=1e-10)
    np.testing.assert_array_equal(best.p_within_plateau, 1.0)
    assert not best.at_batch_bound.any()


def test_regret_is_nonnegative_and_zero_at_each_draws_own_optimum() -> None:
    b = made_basins()
    rng = np.random.default_rng(1)
    assert (regret(b, 1e-3 * np.exp(rng.normal(size=(50, 1))), 1e6 * np.exp(rng.normal(size=(50, 1)))) >= 0).all()
    for s in (0, 7):
        np.testing.assert_allclose(regret(b, b.lr_peak()[s], b.batch_tokens()[s])[s], 0.0, atol=1e-12)


def test_regret_of_many_settings_is_that_of_each() -> None:
    b = made_basins(n=20)
    lr, batch = np.array([3e-4, 1e-3, 4e-3]), np.array([1e5, 5e5, 2e6])
    together = regret(b, lr[:, None], batch[:, None])
    assert together.shape == (20, 3, 3)
    for k in range(3):
        np.testing.assert_allclose(together[:, k], regret(b, lr[k], batch[k]), rtol=1e-13)


def test_share_on_the_plateau_by_counting() -> None:
    b = made_basins(spread=0.2)
    best = recommend(b, threshold=0.1)
    cost = regret(b, best.lr_peak, best.batch_tokens)
    np.testing.assert_allclose(best.p_within_plateau, (cost <= 0.1).mean(0))
    assert (best.p_within_plateau > 0).all()
    assert (best.p_within_plateau < 1).all()


def test_a_cap_binds_only_where_it_must() -> None:
    b = made_basins()
    free = recommend(b)
    cap = float(np.sort(free.batch_tokens)[1]) * 1.01
    capped = recommend(b, batch_max=cap)
    bound = free.batch_tokens > cap
    assert bound.any()
    assert not bound.all()
    np.testing.assert_array_equal(capped.at_batch_bound, bound)
    np.testing.assert_allclose(capped.batch_tokens, np.minimum(free.batch_tokens, cap), rtol=1e-7)
    assert (capped.expected_regret[bound] > free.expected_regret[bound]).all()
    # under the cap the rate is the best for that batch, and no smaller batch is better
    for factor in (0.97, 1.03):
        cost = expected_regret(b, capped.lr_peak * factor, capped.batch_tokens)
        assert (cost > capped.expected_regret).all()
    smaller = recommend(b, batch_tokens=capped.batch_tokens * 0.9)
    assert (smaller.expected_regret[bound] > capped.expected_regret[bound]).all()


def test_a_given_batch_is_kept_and_the_rate_answers_to_it() -> None:
    b = made_basins()
    given = np.array([1e5, 1e6, 8e6])
    best = recommend(b, batch_tokens=given)
    np.testing.assert_allclose(best.batch_tokens, given, rtol=1e-12)
    assert best.at_batch_bound.all()
    for factor in (0.97, 1.03):
        assert (expected_regret(b, best.lr_peak * factor, given) > best.expected_regret).all()
    one, each = (recommend(b, batch_tokens=size) for size in (2e5, np.full(3, 2e5)))
    np.testing.assert_array_equal(one.lr_peak, each.lr_peak)


def test_best_rate_per_draw_at_a_given_batch() -> None:
    b = made_basins(n=50)
    lr = optimum_given_batch(b, 1e6)
    for factor in (0.98, 1.02):
        for s in (0, 49):
            at_best, beside = (regret(b, lr[s] * f, 1e6)[s] for f in (1.0, factor))
            assert (beside > at_best).all()
    np.testing.assert_allclose(optimum_given_batch(b, b.batch_tokens()), b.lr_peak(), rtol=1e-8)


def test_targets_together_are_targets_apart() -> None:
    b = made_basins()
    for options in ({}, {"batch_max": 4e5}, {"batch_tokens": 3e5}):
        together = recommend(b, **options)
        for t in range(3):
            alone = recommend(one_target(b, t), **options)
            np.testing.assert_allclose(alone.lr_peak[0], together.lr_peak[t], rtol=1e-6)
            np.testing.assert_allclose(alone.batch_tokens[0], together.batch_tokens[t], rtol=1e-6)
            np.testing.assert_allclose(alone.expected_regret[0], together.expected_regret[t], rtol=1e-9)


def test_the_grid_point_is_that_of_brute_force() -> None:
    b = made_basins()
    lr_grid, batch_grid = 1e-3 * 2.0 ** np.arange(-4, 4), 2.0 ** np.arange(16, 24)
    chosen = round_to_grid(b, lr_grid, batch_grid)
    for t in range(3):
        alone = one_target(b, t)
        cost = {(lr, batch): expected_regret(alone, lr, batch)[0] for lr in lr_grid for batch in batch_grid}
        assert (chosen.lr_peak[t], chosen.batch_tokens[t]) == min(cost, key=cost.__getitem__)
        np.testing.assert_allclose(chosen.expected_regret[t], min(cost.values()), rtol=1e-12)
    assert (chosen.expected_regret >= recommend(b).expected_regret).all()


@pytest.mark.parametrize("far", [1.0, 1e-3])
def test_an_axis_without_a_grid_stays_free_however_far_the_grid_is(far: float) -> None:
    b = made_basins()
    fine = np.exp(np.linspace(-9.0, 9.0, 1801))
    by_rate = round_to_grid(b, [3e-4 * far, 2e-3 * far], None)
    by_batch = round_to_grid(b, None, [2.0**16 * far, 2.0**20 * far])
    free = recommend(b)
    for t in range(3):
        alone = one_target(b, t)
        best = min(
            expected_regret(alone, lr, free.batch_tokens[t] * fine[:, None]).min() for lr in (3e-4 * far, 2e-3 * far)
        )
        assert by_rate.expected_regret[t] == pytest.approx(best, rel=1e-3)
        best = min(
            expected_regret(alone, free.lr_peak[t] * fine[:, None], v).min() for v in (2.0**16 * far, 2.0**20 * far)
        )
        assert by_batch.expected_regret[t] == pytest.approx(best, rel=1e-3)
    np.testing.assert_allclose(by_rate.expected_regret, expected_regret(b, by_rate.lr_peak, by_rate.batch_tokens))


def test_a_free_batch_beside_a_grid_of_rates_keeps_to_its_cap() -> None:
    b = made_basins()
    cap = 0.3 * recommend(b).batch_tokens.min()
    capped = round_to_grid(b, [1e-3, 2e-3], None, batch_max=cap)
    assert (capped.batch_tokens <= cap * (1 + 1e-12)).all()
    at_cap = np.minimum(expected_regret(b, 1e-3, cap), expected_regret(b, 2e-3, cap))
    assert (capped.expected_regret <= at_cap * (1 + 1e-12)).all()


def test_mistakes_are_refused_in_words() -> None:
    b = made_basins(n=5)
    with pytest.raises(UserError, match="not both"):
        recommend(b, batch_max=1e6, batch_tokens=1e6)
    with pytest.raises(UserError, match="batch_tokens must be positive"):
        recommend(b, batch_tokens=-1.0)
    with pytest.raises(UserError, match="batch_max must be positive"):
        recommend(b, batch_max=-1.0)
    with pytest.raises(UserError, match="batch_max has 2 entries for 3 targets; give one, or one per target"):
        recommend(b, batch_max=[1e5, 2e5])
    with pytest.raises(UserError, match="batch_tokens has 2 entries for 3 targets"):
        recommend(b, batch_tokens=[1e5, 2e5])
    with pytest.raises(UserError, match="batch_max = '256K' is no number"):
        recommend(b, batch_max="256K")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="lr_peak must be positive"):
        regret(b, np.nan, 1e6)
    with pytest.raises(UserError, match="at least one rate"):
        round_to_grid(b, [], [1e6])
