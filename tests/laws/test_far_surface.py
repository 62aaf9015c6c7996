"""The surface far from the optimum: limits and identities."""

from __future__ import annotations

import numpy as np
import pytest

from scaleband.inference.far_fit import fit_field
from scaleband.laws.far import (
    BELIEFS,
    NAMES,
    FarDraws,
    Place,
    far_excess,
    field_scale,
    kernel,
    softened,
    steps_term,
)

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


def test_the_field_learns_what_all_cells_have_in_common_and_is_zero_at_the_optimum() -> None:
    rng = np.random.default_rng(1)
    cell = np.repeat(np.arange(8), 60)
    place = np.column_stack([rng.uniform(-2, 2, (480, 2)), rng.uniform(-8, -5, 480), rng.uniform(7, 11, 480)])
    middle = (place[:, :2] ** 2).sum(axis=1)

    def missed(at: np.ndarray) -> np.ndarray:
        return np.sin(2 * at[:, 0]) * np.cos(at[:, 1])

    own = rng.standard_normal((8, 2))  # a slope that each cell has for itself
    left = missed(place) + 0.2 * (own[cell] * place[:, :2]).sum(axis=1) + 0.2 * rng.standard_normal(480)
    seen = middle + field_scale(middle) * left
    known = cell < 6
    points, weights = fit_field(place[known], middle[known], seen[known], cell[known])
    assert len(weights) == 200
    told = weights.mean(axis=0) @ kernel(place[~known], points).T
    assert np.corrcoef(told, missed(place[~known]))[0, 1] > 0.9
    far = FarDraws(MIDDLE[None], points, weights)
    at = Place(*np.zeros((2, 200, 1)), np.full((200, 1), np.log(5e3)), *np.zeros((2, 200, 1)))
    np.testing.assert_allclose(far.excess(at, np.full((200, 1), np.log(5e3)), np.array([-6.5])), 0.0, atol=1e-12)


def test_draws_are_repeated_to_pair_with_another_fit() -> None:
    far = FarDraws(np.arange(12.0).reshape(2, 6))
    assert far.for_samples(5).shape == (5, 6)
    np.testing.assert_array_equal(far.for_samples(5)[4], far.theta[0])
