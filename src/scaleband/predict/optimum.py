"""The recommended setting, regret, plateau, and the optimum under a constraint on the batch.

Regret is excess loss in units of 100 log loss: percent of the loss to within a hundredth of itself at 1 %. Far up a
basin's walls it grows in a straight line (`targets.STRAIGHT_ABOVE`). The expected regret is convex in
(log lr, log batch), as every draw's basin is: Newton steps find its one minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaleband.errors import UserError
from scaleband.laws import REFERENCE, conditional_log_lr, excess, excess_gradient
from scaleband.predict.targets import Basins, plain_numbers

Array = NDArray[np.float64]

PLATEAU = 0.25
"""Regret below which a setting is on the plateau, percent of the loss."""


@dataclass(frozen=True)
class Setting:
    """A setting per target and what it costs.

    Attributes
    ----------
    lr_peak, batch_tokens (target,)
        The setting; tokens per optimizer step.
    expected_regret (target,)
        Posterior mean of its regret, percent of the loss.
    p_within_plateau (target,)
        Probability that its regret is at most 0.25 %.
    at_batch_bound (target,)
        True where a cap on the batch (or a given batch) decided the batch.
    """

    lr_peak: Array
    batch_tokens: Array
    expected_regret: Array
    p_within_plateau: Array
    at_batch_bound: NDArray[np.bool_]


def _log_setting(lr_peak: ArrayLike, batch_tokens: ArrayLike) -> tuple[Array, Array]:
    lr, batch = np.asarray(lr_peak, float), np.asarray(batch_tokens, float)
    for name, value in (("lr_peak", lr), ("batch_tokens", batch)):
        if not (np.isfinite(value) & (value > 0)).all():
            raise UserError(f"{name} must be positive and finite")
    return np.log(lr / REFERENCE["lr_peak"]), np.log(batch / REFERENCE["batch_tokens"])


def regret(b: Basins, lr_peak: ArrayLike, batch_tokens: ArrayLike) -> Array:
    """Regret of a setting, one value per draw.

    Parameters
    ----------
    b
        Basins at the targets.
    lr_peak, batch_tokens
        The setting, > 0; dims (target,) or broadcastable to (..., target), e.g. (setting, 1).

    Returns
    -------
    Percent of the loss, (sample, ..., target): draws, nothing is averaged.
    """
    x_lr, x_batch = np.broadcast_arrays(*_log_setting(lr_peak, batch_tokens))
    spread = (slice(None), slice(None), *(None,) * max(x_lr.ndim - 1, 0))  # dims of the settings before the target
    optimum = b.optimum[spread]
    return excess(x_lr - optimum[:, 0], x_batch - optimum[:, 1], *b.shape.to(spread))


def expected_regret(b: Basins, lr_peak: ArrayLike, batch_tokens: ArrayLike) -> Array:
    """Posterior mean of `regret`, percent, (..., target)."""
    return regret(b, lr_peak, batch_tokens).mean(0)


def _minimise(b: Basins, x: Array, fixed: NDArray[np.bool_]) -> Array:
    """Newton on the expected regret from x (2, target); where `fixed` (2, target) rate or batch stays."""

    def value(at: Array) -> Array:
        return excess(at[0] - b.optimum[:, 0], at[1] - b.optimum[:, 1], *b.shape).mean(0)

    current = value(x)
    for _ in range(100):
        gradient, hessian = excess_gradient(x[0] - b.optimum[:, 0], x[1] - b.optimum[:, 1], *b.shape)
        g, h = gradient.mean(1), hessian.mean(2)
        # Where a given axis is far from every draw all of them are on straight lines, which have no curvature.
        h[[0, 1], [0, 1]] += 1e-6
        step = np.where(
            fixed.any(axis=0),
            np.stack([g[0] / h[0, 0], g[1] / h[1, 1]]),
            np.stack([h[1, 1] * g[0] - h[0, 1] * g[1], h[0, 0] * g[1] - h[0, 1] * g[0]])
            / (h[0, 0] * h[1, 1] - h[0, 1] ** 2),
        )
        step = np.where(fixed, 0.0, np.clip(step, -1.0, 1.0))
        size = np.ones(x.shape[1])
        for _ in range(30):  # halve where a full step would climb
            trial = x - size * step
            new = value(trial)
            worse = new > current + 1e-12
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        x, current = np.where(worse, x, trial), np.where(worse, current, new)
        if np.abs(size * step).max() < 1e-9:
            break
    return x


def _log_limit(name: str, value: ArrayLike, count: int) -> Array:
    """A limit on the batch or the rate, one per target: log of the ratio to the reference, (target,)."""
    limit, axis = plain_numbers(name, value), "lr_peak" if name == "lr_peak" else "batch_tokens"
    if limit.size not in (1, count) or limit.ndim > 1:
        raise UserError(f"{name} has {limit.size} entries for {count} targets; give one, or one per target")
    if not (np.isfinite(limit) & (limit > 0)).all():
        raise UserError(f"{name} must be positive and finite")
    return np.broadcast_to(np.log(limit / REFERENCE[axis]), (count,))


def recommend(
    b: Basins, *, batch_max: ArrayLike | None = None, batch_tokens: ArrayLike | None = None,
    lr_peak: ArrayLike | None = None, threshold: float = PLATEAU,
) -> Setting:
    """The setting that minimises the expected regret, under a cap on the batch, at a given batch or at a given rate.

    Parameters
    ----------
    b
        Basins at the targets.
    batch_max, batch_tokens
        A cap, or a fixed batch, tokens per step; scalar or (target,). At most one of them.
    lr_peak
        A fixed rate; scalar or (target,).
    threshold
        Regret that bounds the plateau, percent.

    Raises
    ------
    UserError
        Both constraints given, or one that is no number, not positive, or not one per target.
    """
    if batch_max is not None and batch_tokens is not None:
        raise UserError("give a cap on the batch or a fixed batch, not both")
    count = b.optimum.shape[2]
    x = np.median(b.optimum, axis=0)
    bound, given = np.zeros(count, bool), np.full(count, lr_peak is not None)
    if batch_tokens is not None:
        x[1] = _log_limit("batch_tokens", batch_tokens, count)
        bound[:] = True
    if lr_peak is not None:
        x[0] = _log_limit("lr_peak", lr_peak, count)
    x = _minimise(b, x, np.stack([given, bound]))
    if batch_max is not None:
        cap = _log_limit("batch_max", batch_max, count)
        bound = x[1] > cap
        if bound.any():
            x[1] = np.minimum(x[1], cap)
            x = _minimise(b, x, np.stack([given, bound]))
    lr, batch = REFERENCE["lr_peak"] * np.exp(x[0]), REFERENCE["batch_tokens"] * np.exp(x[1])
    cost = regret(b, lr, batch)
    return Setting(lr, batch, cost.mean(0), (cost <= threshold).mean(0), bound)


def optimum_given_batch(b: Basins, batch_tokens: ArrayLike) -> Array:
    """The best rate when the batch is given: lr_peak per draw, (sample, target).

    Under a cap, use min(cap, optimum batch) per draw as `batch_tokens` (sample, target).
    """
    dx = _log_setting(1.0, batch_tokens)[1] - b.optimum[:, 1]
    # Beyond exp(700) no float holds a rate, and none is needed.
    return REFERENCE["lr_peak"] * np.exp(np.clip(b.optimum[:, 0] + conditional_log_lr(dx, *b.shape[:3]), -700, 700))


def plateau(b: Basins, setting: Setting, *, threshold: float = PLATEAU, n_points: int = 72) -> Array:
    """The plateau as a region: settings whose expected regret is at most `threshold`.

    The region is convex in logs, so its edge is found along rays from the recommended setting.

    Returns
    -------
    (target, point, 2): lr_peak and batch_tokens around the edge. Where even the recommended setting's expected
    regret is above the threshold there is no such region and the entries are NaN.
    """
    around = np.linspace(0, 2 * np.pi, n_points, endpoint=False)
    rays = np.stack([np.cos(around), np.sin(around)])
    centre = np.stack(_log_setting(setting.lr_peak, setting.batch_tokens))
    out = np.full((b.optimum.shape[2], n_points, 2), np.nan)
    for t in range(b.optimum.shape[2]):
        if setting.expected_regret[t] > threshold:
            continue

        def value(radius: Array, t: int = t) -> Array:
            x = centre[:, t, None] + radius * rays
            shape = b.shape.to((slice(None), slice(None), t, None))
            return excess(x[0] - b.optimum[:, 0, t, None], x[1] - b.optimum[:, 1, t, None], *shape).mean(0)

        low, high = np.zeros(n_points), np.full(n_points, 0.5)
        for _ in range(12):
            inside = value(high) <= threshold
            if not inside.any():
                break
            high = np.where(inside, 2 * high, high)
        # Illinois steps on the root of the regret, which is almost linear along a ray.
        goal = np.sqrt(threshold)
        f_low = np.full(n_points, np.sqrt(setting.expected_regret[t]) - goal)
        f_high = np.sqrt(value(high)) - goal
        side = np.zeros(n_points)  # the end that moved last: the other end's value is halved when it moves again
        for _ in range(30):
            middle = np.clip(low - f_low * (high - low) / (f_high - f_low), low, high)
            f = np.sqrt(value(middle)) - goal
            inside = f <= 0
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
            f_low = np.where(inside, f, np.where(side > 0, f_low / 2, f_low))
            f_high = np.where(inside, np.where(side < 0, f_high / 2, f_high), f)
            side = np.where(inside, -1.0, 1.0)
            if np.abs(f).max() < 1e-7 * goal:
                break
        edge = centre[:, t, None] + middle * rays
        out[t] = np.exp(edge.T) * (REFERENCE["lr_peak"], REFERENCE["batch_tokens"])
    return out


def round_to_grid(
    b: Basins, lr_grid: ArrayLike | None, batch_grid: ArrayLike | None, *, batch_max: ArrayLike | None = None,
    threshold: float = PLATEAU,
) -> Setting:
    """The grid point with the smallest expected regret.

    Parameters
    ----------
    lr_grid, batch_grid
        Rates and batches (tokens per step) that can be used, 1-D; None leaves the other's best to every entry.
    batch_max
        A cap on a batch that is left free, tokens per step.

    Raises
    ------
    UserError
        An empty grid, or none at all.
    """
    if lr_grid is None or batch_grid is None:
        return _best_of(b, lr_grid, batch_grid, batch_max, threshold)
    lr, batch = np.meshgrid(np.asarray(lr_grid, float), np.asarray(batch_grid, float), indexing="ij")
    if not lr.size:
        raise UserError("the grid has no settings; give at least one rate and one batch")
    cost = regret(b, lr.reshape(-1, 1), batch.reshape(-1, 1))
    best = cost.mean(0).argmin(0)
    chosen = np.take_along_axis(cost, best[None, None, :], axis=1)[:, 0]
    return Setting(
        lr.ravel()[best], batch.ravel()[best], chosen.mean(0), (chosen <= threshold).mean(0),
        np.zeros(len(best), bool),
    )  # fmt: skip


def _best_of(
    b: Basins, lr_grid: ArrayLike | None, batch_grid: ArrayLike | None, batch_max: ArrayLike | None, threshold: float
) -> Setting:
    """The best of the entries of the one grid that there is, each with the best of the other axis."""
    rates, batches = (None if g is None else np.asarray(g, float).ravel() for g in (lr_grid, batch_grid))
    if rates is not None and rates.size:
        each = [recommend(b, lr_peak=v, batch_max=batch_max, threshold=threshold) for v in rates]
    elif batches is not None and batches.size:
        each = [recommend(b, batch_tokens=v, threshold=threshold) for v in batches]
    else:
        raise UserError("the grid has no settings; give at least one rate or one batch")
    best = np.stack([s.expected_regret for s in each]).argmin(axis=0)
    names = ("lr_peak", "batch_tokens", "expected_regret", "p_within_plateau", "at_batch_bound")
    return Setting(*(np.stack([getattr(s, n) for s in each])[best, np.arange(len(best))] for n in names))


def joint_level(b: Basins, lr_peak: ArrayLike, batch_tokens: ArrayLike) -> Array:
    """Smallest mass of the (log rate, log batch) ellipse that contains a point: (target,), 0 to 1.

    Compares the point's Mahalanobis distance with the draws' own distances; `<= 0.9` is inside the joint 90 %
    region.
    """
    out = np.empty(b.optimum.shape[2])
    x = np.stack([np.broadcast_to(v, out.shape) for v in _log_setting(lr_peak, batch_tokens)])
    for t in range(len(out)):
        draws = b.optimum[:, :, t]
        inverse = np.linalg.inv(np.cov(draws.T))
        centred = draws - draws.mean(0)
        point = x[:, t] - draws.mean(0)
        distance = np.einsum("si,ij,sj->s", centred, inverse, centred)
        out[t] = (distance <= point @ inverse @ point).mean()
    return out
