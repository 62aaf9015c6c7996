"""The surface far from the optimum: limits and identities."""

from __future__ import annotations

import numpy as np
import pytest

from scaleband.laws.far import BELIEFS, NAMES, FarDraws, Place, far_excess, softened, steps_term

MIDDLE = np.array([b[0] for b in BELIEFS.values()])


def test_a_softened_wall_is_itself_when_small_and_its_logarithm_when_large() -> None:
    k = np.log(8.0)
    small = np.array([1e-6, 1e-3])
    np.testing.assert_allclose(softened(small, k), small, rtol=1e-3)
    e = np.geomspace(0.01, 1e4, 60)
    assert (np.diff(softened(e, k)) > 0).all()
    assert (softened(e, k) < e).all()
    assert softened(np.array(8e6), k) == pytest.approx(8 * np.log(1e6), rel=1e-3)


def test_fewer_steps_and_a_lower_rate_cost_more() -> None:
    steps = np.log(np.geomspace(200, 2e5, 40))
    assert (np.diff(steps_term(MIDDLE, steps, np.zeros(40))) < 0).all()
    rates = np.linspace(-3, 2, 40)
    assert (np.diff(steps_term(MIDDLE, np.full(40, np.log(1500.0)), rates)) < 0).all()
    assert steps_term(MIDDLE, np.log(1e7), 0.0) < 1e-3


def test_the_optimum_keeps_its_loss() -> None:
    """Whatever the draw, the excess at the cell's own optimum is zero."""
    theta = MIDDLE + np.random.default_rng(0).standard_normal((50, len(NAMES)))
    for log_steps in np.log([800.0, 5e3, 1e5]):
        at = Place(np.zeros(50), np.zeros(50), np.full(50, log_steps), np.zeros(50), np.zeros(50))
        np.testing.assert_allclose(far_excess(theta, at, np.full(50, log_steps)), 0.0, atol=1e-12)


def test_draws_are_repeated_to_pair_with_another_fit() -> None:
    far = FarDraws(np.arange(12.0).reshape(2, 6))
    assert far.for_samples(5).shape == (5, 6)
    np.testing.assert_array_equal(far.for_samples(5)[4], far.theta[0])
