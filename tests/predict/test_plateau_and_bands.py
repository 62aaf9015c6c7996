"""The plateau's edge, joint regions, intervals, and the loss of a run that was not made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_basins import made_basins, one_target

from scaleband.laws import RESPONSES, ROLES, LawDraws, design_for, noise_scale
from scaleband.predict import (
    Basins,
    expected_regret,
    interval,
    joint_level,
    plateau,
    predict_log_loss,
    recommend,
    regret,
)


@pytest.mark.parametrize("threshold", [0.25, 1.0])
def test_the_edge_of_the_plateau_costs_the_threshold(threshold: float) -> None:
    b = made_basins(spread=0.1)
    edge = plateau(b, recommend(b), threshold=threshold, n_points=24)
    assert edge.shape == (3, 24, 2)
    for t in range(3):
        cost = expected_regret(one_target(b, t), edge[t, :, :1], edge[t, :, 1:])
        np.testing.assert_allclose(cost, threshold, rtol=1e-5)


def test_there_is_no_plateau_where_even_the_best_setting_costs_more() -> None:
    b = made_basins(spread=1.5)
    best = recommend(b)
    assert (best.expected_regret > 0.25).all()
    assert np.isnan(plateau(b, best)).all()


def test_the_plateau_grows_with_its_threshold() -> None:
    b = made_basins(spread=0.1)
    best = recommend(b)
    small, large = (np.log(plateau(b, best, threshold=v)) for v in (0.2, 0.8))
    centre = np.log(np.stack([best.lr_peak, best.batch_tokens], axis=1))[:, None]
    assert (np.linalg.norm(large - centre, axis=2) > np.linalg.norm(small - centre, axis=2)).all()


def test_interval_is_equal_tailed_over_the_leading_dim() -> None:
    draws = np.arange(1001.0)[:, None] * np.array([1.0, -2.0])
    band = interval(draws, 0.9)
    np.testing.assert_allclose(band.median, [500, -1000])
    np.testing.assert_allclose(band.lower, [50, -1900])
    np.testing.assert_allclose(band.upper, [950, -100])
    for mass in (0.0, 1.0, 1.2):
        with pytest.raises(ValueError, match="between 0 and 1"):
            interval(draws, mass)


def test_joint_level_is_calibrated_on_gaussian_draws() -> None:
    rng = np.random.default_rng(2)
    covariance = np.array([[0.2, -0.12], [-0.12, 0.5]])
    optimum = rng.multivariate_normal([0.3, -0.5], covariance, size=4000)[:, :, None]
    b = replace(one_target(made_basins(n=4000), 0), optimum=optimum)
    truths = rng.multivariate_normal([0.3, -0.5], covariance, size=400)
    levels = np.array([joint_level(b, 1e-3 * np.exp(x), 524_288 * np.exp(y))[0] for x, y in truths])
    assert np.sort(levels)[[40, 200, 360]] == pytest.approx([0.1, 0.5, 0.9], abs=0.06)
    assert joint_level(b, *(v.mean() for v in (1e-3 * np.exp(optimum[:, 0]), 524_288 * np.exp(optimum[:, 1]))))[0] < 0.3
    assert joint_level(b, 1.0, 524_288.0)[0] == 1.0


def law_draws(b: Basins, sources: tuple[str, ...]) -> LawDraws:
    """Draws whose noise is known: sigma 0.1 and 0.4 in two sources, rho 0.2, nearly Gaussian."""
    n, design = len(b.level), design_for(b.cells)
    zero = np.zeros((n, len(RESPONSES), len(ROLES)))
    return LawDraws(
        design=design, cells=b.cells, law=np.zeros((n, len(RESPONSES), len(design.columns))),
        scatter=zero[:, :, 0], offset_scale=zero, state=np.zeros((n, len(RESPONSES), len(b.cells))),
        angle=np.zeros((n, 2)), skew=np.zeros((n, 2)), sigma=np.tile([0.1, 0.4][: len(sources)], (n, 1)),
        rho=np.full(n, 0.2), nu=np.full(n, 200.0), sources=sources, shared=np.zeros((n, 1)),
    )  # fmt: skip


def test_mean_loss_is_level_plus_regret_and_a_new_run_adds_the_noise() -> None:
    b = made_basins(n=20_000, spread=0.1)
    draws = law_draws(b, ("a",))
    lr, batch = np.array([1e-3, 4e-3, np.nan]), np.array([1e6, np.nan, np.nan])
    mean = predict_log_loss(draws, b, lr, batch, mean=True)
    cost = regret(b, 1e-3, 1e6)[:, 0]
    np.testing.assert_allclose(mean[:, 0], (b.level[:, 0] + cost) / 100, rtol=1e-12)
    np.testing.assert_allclose(mean[:, 1:], b.level[:, 1:] / 100, rtol=1e-12)  # not given: the target's own optimum
    new = predict_log_loss(draws, b, lr, batch)
    noise = 100 * (new - mean)
    scale = np.stack([noise_scale(cost, 0.1, 0.2), *[np.full(len(cost), 0.1)] * 2], axis=1)
    np.testing.assert_allclose((noise / scale).std(0), np.sqrt(200 / 198), rtol=0.03)
    np.testing.assert_array_equal(new, predict_log_loss(draws, b, lr, batch))
    assert not np.array_equal(new, predict_log_loss(draws, b, lr, batch, seed=1))


def test_a_new_run_has_the_error_of_its_trunk_where_runs_share_trunks() -> None:
    b = made_basins(n=20_000, spread=0.0)
    two = replace(b, cells=replace(b.cells, source=("a", "b", "x")))
    plain = law_draws(two, ("a", "b"))
    draws = replace(plain, trunk_scale=np.full(20_000, 0.9), trunked=("b",))
    noise = 100 * (predict_log_loss(draws, two) - predict_log_loss(draws, two, mean=True))
    other = 0.4**2 * 200 / 198 + 0.9**2
    np.testing.assert_allclose(noise.std(0)[1:], np.sqrt([other, (0.1**2 + other) / 2]), rtol=0.04)
    np.testing.assert_array_equal(predict_log_loss(draws, two)[:, 0], predict_log_loss(plain, two)[:, 0])
    np.testing.assert_array_equal(predict_log_loss(draws, two, mean=True), predict_log_loss(plain, two, mean=True))


def test_a_source_never_seen_has_the_noise_of_any_that_were() -> None:
    b = made_basins(n=20_000, spread=0.0)
    unseen = replace(b, cells=replace(b.cells, source=("x",) * 3))
    noise = 100 * (predict_log_loss(law_draws(b, ("a", "b")), unseen) - b.level / 100)
    expected = np.sqrt((0.1**2 + 0.4**2) / 2 * 200 / 198)
    np.testing.assert_allclose(noise.std(0), expected, rtol=0.04)
