"""The basin by identities: what LINEX is at its optimum, near s = 0, and along its derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleband.laws import along_rate, conditional_log_lr, ends, excess, excess_gradient, linex

SHAPE = {"angle": np.array([-0.97, 0.29]), "h": np.array([3.0, 1.4]), "skew": np.array([0.47, 0.87])}

distance = st.floats(-4, 4)
skews = st.floats(-2, 2)


@pytest.mark.parametrize("s", [-1.5, -1e-9, 0.0, 1e-6, 0.4, 2.0])
def test_linex_at_the_optimum_is_flat_with_the_stated_curvature(s: float) -> None:
    h, step = 2.5, 1e-4
    assert linex(0.0, h, s) == 0.0
    low, high = linex(-step, h, s), linex(step, h, s)
    np.testing.assert_allclose((high - low) / (2 * step), 0.0, atol=h * abs(s) * step**2)
    np.testing.assert_allclose((high + low) / step**2, h, rtol=1e-6)


def test_linex_without_skew_is_the_parabola() -> None:
    v = np.linspace(-3, 3, 13)
    np.testing.assert_allclose(linex(v, 1.7, 0.0), 1.7 * v**2 / 2, rtol=1e-15)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_series_meets_the_closed_form_where_it_hands_over(sign: float) -> None:
    v, h = 1.3, 2.0
    for factor in (1 - 1e-9, 1 + 1e-9, 0.5, 0.9, 2.0):
        s = sign * 1e-2 * factor / v
        a = np.longdouble(s) * v
        exact = h * v * v * float((np.expm1(a) - a) / (a * a))
        np.testing.assert_allclose(linex(v, h, s), exact, rtol=1e-10)


@given(v=distance, s=skews)
@settings(max_examples=100, deadline=None)
def test_linex_is_nonnegative_and_mirrors_with_the_skew(v: float, s: float) -> None:
    value = linex(v, 1.0, s)
    assert value >= 0
    np.testing.assert_allclose(value, linex(-v, 1.0, -s), rtol=1e-13)


def test_linex_is_steeper_on_the_side_of_its_skew() -> None:
    parabola = 2.0  # h v^2 / 2
    assert linex(2.0, 1.0, 0.8) > parabola > linex(-2.0, 1.0, 0.8)


def test_a_wall_stays_finite() -> None:
    assert np.isfinite(linex(1e3, 20.0, 3.0))
    assert np.isfinite(linex(-1e3, 20.0, 3.0))


@given(x=st.tuples(distance, distance), y=st.tuples(distance, distance), w=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_the_basin_is_convex(x: tuple[float, float], y: tuple[float, float], w: float) -> None:
    middle = [w * a + (1 - w) * b for a, b in zip(x, y, strict=True)]
    chord = w * excess(*x, **SHAPE) + (1 - w) * excess(*y, **SHAPE)
    assert excess(*middle, **SHAPE) <= chord + 1e-9 * (1 + chord)


@given(x=distance, y=distance, s1=skews, s2=skews)
@settings(max_examples=100, deadline=None)
def test_gradient_and_hessian_are_those_of_finite_differences(x: float, y: float, s1: float, s2: float) -> None:
    shape = SHAPE | {"skew": np.array([s1, s2])}
    gradient, hessian = excess_gradient(x, y, **shape)
    step = 1e-4
    scale = 1 + float(excess(x, y, **shape)) + np.abs(gradient).max() + np.abs(hessian).max()
    for k, (dx, dy) in enumerate(((step, 0.0), (0.0, step))):
        ahead, behind = excess(x + dx, y + dy, **shape), excess(x - dx, y - dy, **shape)
        np.testing.assert_allclose(gradient[k], (ahead - behind) / (2 * step), atol=1e-6 * scale)
        ahead, behind = (excess_gradient(x + f * dx, y + f * dy, **shape)[0] for f in (1, -1))
        np.testing.assert_allclose(hessian[:, k], (ahead - behind) / (2 * step), atol=1e-6 * scale)


@given(level=st.floats(1e-3, 40), h=st.floats(1e-3, 1e3), s=st.floats(-5, 5))
@settings(max_examples=300, deadline=None)
def test_a_wall_ends_where_it_reaches_the_level(level: float, h: float, s: float) -> None:
    below, above = ends(level, h, s)
    assert below < 0 < above
    near = h, np.copysign(max(abs(s), 1e-6), s)
    np.testing.assert_allclose(linex(np.stack([below, above]), *near), level, rtol=1e-8)


@given(x=distance, y=distance, s1=skews, s2=skews)
@settings(max_examples=100, deadline=None)
def test_beyond_its_ends_a_wall_is_its_tangent(x: float, y: float, s1: float, s2: float) -> None:
    shape = SHAPE | {"skew": np.array([s1, s2])}
    stop = ends(1.5, shape["h"], shape["skew"])
    value, (gradient, hessian) = excess(x, y, **shape, straight=stop), excess_gradient(x, y, **shape, straight=stop)
    by_hand, slope, bend = 0.0, np.zeros(2), np.zeros((2, 2))
    for j in (0, 1):
        along = np.array([np.cos(shape["angle"][j]), np.sin(shape["angle"][j])])
        v = along @ (x, y)
        h, s = shape["h"][j], shape["skew"][j]
        end = np.clip(v, stop.below[j], stop.above[j])
        first = h * end if abs(s) < 1e-9 else h * np.expm1(s * end) / s
        by_hand += linex(end, h, s) + first * (v - end)
        slope += first * along
        bend += (h * np.exp(s * end) if end == v else 0.0) * np.outer(along, along)
    np.testing.assert_allclose(value, by_hand, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(hessian, bend, rtol=1e-6, atol=1e-9)
    assert value <= excess(x, y, **shape) * (1 + 1e-12) + 1e-12  # a convex function is above its tangents


def test_hessian_at_the_optimum_is_the_two_curvatures_along_their_directions() -> None:
    d = np.stack([np.cos(SHAPE["angle"]), np.sin(SHAPE["angle"])], axis=1)
    expected = sum(h * np.outer(v, v) for h, v in zip(SHAPE["h"], d, strict=True))
    gradient, hessian = excess_gradient(0.0, 0.0, **SHAPE)
    np.testing.assert_allclose(gradient, 0.0, atol=0)
    np.testing.assert_allclose(hessian, expected, rtol=1e-14)


@given(dx=st.floats(-3, 3), s1=skews, s2=skews)
@settings(max_examples=100, deadline=None)
def test_the_best_rate_at_a_given_batch_has_zero_derivative(dx: float, s1: float, s2: float) -> None:
    shape = SHAPE | {"skew": np.array([s1, s2])}
    x = conditional_log_lr(dx, **shape)
    gradient, hessian = excess_gradient(x, dx, **shape)
    assert abs(gradient[0]) <= 1e-7 * hessian[0, 0]
    for other in (-0.01, 0.01):
        assert excess(x, dx, **shape) < excess(x + other, dx, **shape)


def test_the_best_rate_needs_no_change_at_the_best_batch() -> None:
    np.testing.assert_allclose(conditional_log_lr(0.0, **SHAPE), 0.0, atol=1e-12)


def test_dims_broadcast_direction_first() -> None:
    rng = np.random.default_rng(0)
    angle, h, skew = rng.normal(size=(2, 5, 1)), np.exp(rng.normal(size=(2, 5, 3))), rng.normal(size=(2, 5, 1))
    dx, dy = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    together = excess(dx, dy, angle, h, skew)
    gradient, hessian = excess_gradient(dx, dy, angle, h, skew)
    assert (together.shape, gradient.shape, hessian.shape) == ((5, 3), (2, 5, 3), (2, 2, 5, 3))
    conditional = conditional_log_lr(dy, angle, h, skew)
    for i, j in ((0, 0), (4, 2)):
        one = {"angle": angle[:, i, 0], "h": h[:, i, j], "skew": skew[:, i, 0]}
        np.testing.assert_allclose(together[i, j], excess(dx[i, j], dy[i, j], **one), rtol=1e-13)
        np.testing.assert_allclose(conditional[i, j], conditional_log_lr(dy[i, j], **one), atol=1e-7)


def test_along_the_rate_the_basin_has_the_stated_curvature_skew_and_slopes() -> None:
    step, own = 1e-3, along_rate(**SHAPE)
    at = excess(np.arange(-2, 3) * step, 0.0, **SHAPE)
    second = (at[3] + at[1] - 2 * at[2]) / step**2
    third = (at[4] - 2 * at[3] + 2 * at[1] - at[0]) / (2 * step**3)
    assert np.exp(own.log_h) == pytest.approx(second, rel=1e-5)
    assert own.skew == pytest.approx(third / second, rel=1e-4)
    shape = np.concatenate([np.log(SHAPE["h"]), SHAPE["angle"], SHAPE["skew"]])
    for k in range(6):
        ends = []
        for move in (1e-6, -1e-6):
            log_h, angle, skew = (shape + move * (np.arange(6) == k)).reshape(3, 2)
            there = along_rate(angle, np.exp(log_h), skew)
            ends.append(np.array([there.log_h, there.skew]))
        slope = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(slope, [own.log_h_slope[k], own.skew_slope[k]], atol=1e-8)
