"""The basin: excess loss over (log rate, log batch) inside one cell.

    excess = linex(v_1; h_1, s_1) + linex(v_2; h_2, s_2),   v_j = cos(t_j) x_lr + sin(t_j) x_batch

with `x` the log distance to the cell's optimum. LINEX is Varian's asymmetric loss (1975): quadratic at the
optimum, exponential on one side, linear on the other. Excess is in units of 100 log loss, which for small
values is percent of the loss.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

MAX_EXPONENT = 40.0
"""exp(40) still squares to a finite number; a wall that high is beyond anything a run can show."""

_FLAT = 1e-5


def linex(v: ArrayLike, h: ArrayLike, s: ArrayLike) -> Array:
    """LINEX loss, h (exp(s v) - 1 - s v) / s^2.

    Parameters
    ----------
    v
        Distance from the optimum along one direction, natural log units. Any dims.
    h
        Curvature at the optimum, percent of loss per squared log unit, > 0. Broadcasts with `v`.
    s
        Skew, per log unit; s = 0 is the parabola h v^2 / 2. Broadcasts with `v`.

    Returns
    -------
    Percent of loss, >= 0, the broadcast dims.
    """
    v, h, s = np.asarray(v, float), np.asarray(h, float), np.asarray(s, float)
    a, small, safe = _bounded(s, v)
    # Near a = 0 the closed form cancels: to 1e-11 of itself at 1e-2, and the series is exact to 1e-11 below. (NumPy has
    # a fast exp and a slow expm1.)
    ratio = np.where(small, 0.5 + a * (1 / 6 + a * (1 / 24 + a / 120)), (np.exp(safe) - 1 - safe) / (safe * safe))
    return h * v * v * ratio


def _bounded(s: Array, v: Array) -> tuple[Array, NDArray[np.bool_], Array]:
    """s v, bounded; where it is small enough for a series; and what stands in the closed form, 1 there."""
    a = np.minimum(s * v, MAX_EXPONENT)
    small = np.abs(a) < 1e-2
    return a, small, np.where(small, 1.0, a)


def away_from_flat(s: Array) -> Array:
    """Skews for `rise_of`: below 1e-5 a LINEX is a parabola to ten digits."""
    return np.where(np.abs(s) < _FLAT, _FLAT, s)


def rise_of(s: Array, v: Array) -> tuple[Array, Array]:
    """exp(a) - 1, and a = s v, bounded: `linex` is h (rise - a) / s^2 and its slope h rise / s, without a branch.

    For millions of numbers; the skews are `away_from_flat`.
    """
    a = np.minimum(s * v, MAX_EXPONENT)
    return np.expm1(a), a


class _Slopes(NamedTuple):
    first: Array
    second: Array


def _linex_slopes(v: Array, h: Array, s: Array) -> _Slopes:
    """First and second derivative of `linex` in v."""
    a, small, safe = _bounded(s, v)
    return _Slopes(
        h * v * np.where(small, 1 + a / 2 + a * a / 6 + a**3 / 24, np.expm1(safe) / safe), h * np.exp(a)
    )


class Ends(NamedTuple):
    """Distances from the optimum, below and above, at which a LINEX reaches a level: `below` < 0 < `above`."""

    below: Array
    above: Array


def ends(level: float, h: ArrayLike, s: ArrayLike) -> Ends:
    """Where `linex(v, h, s) == level`.

    Parameters
    ----------
    level
        Percent of the loss, > 0.
    h, s
        As in `linex`; skews nearer to zero than 1e-6 count as that.

    Returns
    -------
    Natural log units, the broadcast dims of `h` and `s`.
    """
    h, s = np.broadcast_arrays(np.asarray(h, float), np.asarray(s, float))
    s = np.where(np.abs(s) < 1e-6, np.copysign(1e-6, s), s)
    size = np.abs(s)
    height = level * size * size / h
    # With a = |s v|: exp(a) - 1 - a = height on the steep side, exp(-a) - 1 + a on the other. Both are convex and both
    # starts lie beyond the root, so Newton's steps come down to it without passing it.
    steep = np.log1p(height + np.sqrt(2 * height)) / size
    gentle = -(np.sqrt(2 * height) + height) / size
    for _ in range(12):
        up, down = _linex_slopes(steep, h, size), _linex_slopes(gentle, h, size)
        steep = steep - (linex(steep, h, size) - level) / up.first
        gentle = gentle - (linex(gentle, h, size) - level) / down.first
    return Ends(np.where(s > 0, gentle, -steep), np.where(s > 0, steep, -gentle))


def excess(
    dx_lr: ArrayLike, dx_batch: ArrayLike, angle: ArrayLike, h: ArrayLike, skew: ArrayLike,
    straight: Ends | None = None,
) -> Array:
    """Excess loss at a log distance from the optimum.

    Parameters
    ----------
    dx_lr, dx_batch
        log(lr / lr*), log(batch / batch*): natural logs, any dims.
    angle, h, skew
        Basin shape, each with a leading dim of 2 (direction) that is followed by dims which broadcast with
        `dx_lr`: radians; percent per squared log unit; per log unit.
    straight
        `ends(level, h, skew)`: beyond them each direction goes on in a straight line. None: never.

    Returns
    -------
    Percent of loss (100 log units), >= 0.
    """
    dx_lr, dx_batch = np.asarray(dx_lr, float), np.asarray(dx_batch, float)
    angle, h, skew = np.asarray(angle, float), np.asarray(h, float), np.asarray(skew, float)
    total: Array | float = 0.0
    for j in (0, 1):
        v = np.cos(angle[j]) * dx_lr + np.sin(angle[j]) * dx_batch
        inside = _inside(v, straight, j)
        total = total + linex(inside, h[j], skew[j])
        if straight is not None:
            total = total + _linex_slopes(inside, h[j], skew[j]).first * (v - inside)
    return np.asarray(total)


def _inside(v: Array, straight: Ends | None, j: int) -> Array:
    """`v` along direction `j`, cut where the wall goes on straight."""
    return v if straight is None else np.clip(v, straight.below[j], straight.above[j])


def excess_gradient(
    dx_lr: ArrayLike, dx_batch: ArrayLike, angle: ArrayLike, h: ArrayLike, skew: ArrayLike,
    straight: Ends | None = None,
) -> tuple[Array, Array]:
    """Gradient (2, ...) and Hessian (2, 2, ...) of `excess` in (log lr, log batch); same arguments.

    A straight wall does not bend: where both are, the Hessian is zero.
    """
    dx_lr, dx_batch = np.asarray(dx_lr, float), np.asarray(dx_batch, float)
    angle, h, skew = np.asarray(angle, float), np.asarray(h, float), np.asarray(skew, float)
    gradient: Array | float = 0.0
    hessian: Array | float = 0.0
    for j in (0, 1):
        c, s = np.cos(angle[j]), np.sin(angle[j])
        v = c * dx_lr + s * dx_batch
        inside = _inside(v, straight, j)
        first, second = _linex_slopes(inside, h[j], skew[j])
        if straight is not None:
            second = np.where(inside == v, second, 0.0)
        gradient = gradient + np.stack(np.broadcast_arrays(c * first, s * first))
        hessian = hessian + np.stack(
            [
                np.stack(np.broadcast_arrays(c * c * second, c * s * second)),
                np.stack(np.broadcast_arrays(c * s * second, s * s * second)),
            ]
        )
    return np.asarray(gradient), np.asarray(hessian)


def conditional_log_lr(dx_batch: ArrayLike, angle: ArrayLike, h: ArrayLike, skew: ArrayLike) -> Array:
    """log(lr / lr*) that minimises the basin when the batch is held at log distance `dx_batch`.

    The basin is convex, so damped Newton steps from the quadratic solution end at the one minimum.
    Shapes as in `excess`.
    """
    dx_batch = np.asarray(dx_batch, float)
    angle, h, skew = np.asarray(angle, float), np.asarray(h, float), np.asarray(skew, float)
    c, s = np.cos(angle), np.sin(angle)
    x = -(h * c * s).sum(0) / (h * c * c).sum(0) * dx_batch
    for _ in range(60):
        gradient, hessian = excess_gradient(x, dx_batch, angle, h, skew)
        step = np.clip(gradient[0] / hessian[0, 0], -1.0, 1.0)
        x = x - step
        if np.max(np.abs(step), initial=0.0) < 1e-10:
            break
    return x


class Slice(NamedTuple):
    """The LINEX that a basin is along the rate at its optimum's batch, and how it changes with the basin's shape.

    log_h, skew (...)
        Log curvature (percent per squared log unit) and skew (per log unit).
    log_h_slope, skew_slope (6, ...)
        Their derivatives in both log curvatures, both angles and both skews.
    """

    log_h: Array
    skew: Array
    log_h_slope: Array
    skew_slope: Array


def along_rate(angle: ArrayLike, h: ArrayLike, skew: ArrayLike) -> Slice:
    """Curvature and skew of the basin along the rate: its second derivative and the ratio of its third to that.

    All that the runs of one batch can tell of a basin's shape. Arguments as in `excess`, without dims for runs.
    """
    angle, h, skew = np.asarray(angle, float), np.asarray(h, float), np.asarray(skew, float)
    c, s = np.cos(angle), np.sin(angle)
    total = (h * c**2).sum(0)
    share = h * c**2 / total
    along = (share * c * skew).sum(0)
    turning = -2 * share * s / c
    return Slice(
        np.log(total),
        along,
        np.concatenate([share, turning, np.zeros_like(share)]),
        np.concatenate([share * (c * skew - along), turning * (c * skew - along) - share * s * skew, share * c]),
    )
